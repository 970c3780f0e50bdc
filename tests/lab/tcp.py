#!/usr/bin/python3 -SE
"""tcp.py HOST PORT, tcp.py listen PORT COMMAND...: a migration's transport without ssh, whose ciphers take most of the time of an
emulated host. listen: one connection is COMMAND's standard input and output; its messages go to /tmp/tcp.log."""
import os
import socket
import sys
import threading
import time

BYTES = 1 << 18
TRIES = 120 # half a second apart: the listener may still be starting


def listen(port, command):
    with socket.create_server(("", port)) as server:
        connection, _ = server.accept()
    log = os.open("/tmp/tcp.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for fd, to in ((connection.fileno(), 0), (connection.fileno(), 1), (log, 2)):
        os.dup2(fd, to)
    os.execvp(command[0], command)


def carry(take, give):
    while True:
        data = take(BYTES)
        if not data:
            return
        while data:
            data = data[give(data):]


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
        except OSError:
            os._exit(1)

    threading.Thread(target=away, daemon=True).start()
    carry(s.recv, lambda data: os.write(1, data))


if sys.argv[1] == "listen":
    listen(int(sys.argv[2]), sys.argv[3:])
else:
    connect(sys.argv[1], int(sys.argv[2]))
