#!/usr/bin/python3 -SE
"""tcp.py HOST PORT, tcp.py listen PORT COMMAND..., tcp.py slow PORT COMMAND...: a migration's transport without ssh, whose ciphers take
most of the time of an emulated host. One connection is COMMAND's standard input and output; its messages go to /tmp/tcp.log. slow:
after some MB the input trickles, so that a migration is in its middle for long enough to do something to it; it ends with COMMAND."""
import os
import socket
import subprocess
import sys
import threading
import time

BYTES = 1 << 18
LINGER_S = 10
TRIES = 120 # half a second apart: the listener may still be starting
QUICK_BYTES = 20 << 20
PACE_S = 0.5    # between pieces of BYTES


def carry(take, give):
    while True:
        data = take(BYTES)
        if not data:
            return
        while data:
            data = data[give(data):]


def trickle(connection, to):
    seen = 0

    def take(n):
        nonlocal seen
        time.sleep(PACE_S if seen > QUICK_BYTES else 0)
        data = connection.recv(n)
        seen += len(data)
        return data
    try:
        carry(take, lambda data: os.write(to, data))
        os.close(to)
    except OSError:
        pass    # COMMAND has ended, or the sender


def listen(port, command, slowly):
    with socket.create_server(("", port)) as server:
        connection, _ = server.accept()
    log = os.open("/tmp/tcp.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    if slowly:
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=connection.fileno(), stderr=log)
        threading.Thread(target=trickle, args=(connection, child.stdin.fileno()), daemon=True).start()
        os._exit(child.wait() & 0x7f)
    for fd, to in ((connection.fileno(), 0), (connection.fileno(), 1), (log, 2)):
        os.dup2(fd, to)
    os.execvp(command[0], command)


def connect(host, port):
    for left in range(TRIES, 0, -1):
        try:
            s = socket.create_connection((host, port))
            break
        except ConnectionRefusedError:
            if left == 1:
                raise
            time.sleep(0.5)

    def away():
        try:
            carry(lambda n: os.read(0, n), s.send)
            s.shutdown(socket.SHUT_WR)
            time.sleep(LINGER_S)    # who gave us bytes has ended; the other end may be out of reach
        except OSError:
            pass
        os._exit(1)

    threading.Thread(target=away, daemon=True).start()
    carry(s.recv, lambda data: os.write(1, data))


if sys.argv[1] in ("listen", "slow"):
    listen(int(sys.argv[2]), sys.argv[3:], sys.argv[1] == "slow")
else:
    connect(sys.argv[1], int(sys.argv[2]))
