#!/usr/bin/env python3
"""One TCP connection to the guest's redis, INCR and GET, every request and reply in a log with its time.

Runs in the client's network namespace as a process that nobody kills. It never reconnects: an error is logged and
is the end. The log has a JSON object a line, times are CLOCK_MONOTONIC nanoseconds (one clock for all namespaces):

  {"t":…, "e":"connect", "local":"10.77.0.1:40000", "inode":…}
  {"t":…, "e":"send", "n":7, "cmd":"INCR"}      {"t":…, "e":"recv", "n":7, "val":5}
  {"t":…, "e":"error", "what":"…"}              {"t":…, "e":"end"}

cmd INCR and GET concern the counter; PROBE asks for the guest's identity and its memory checker's findings; val is then
{"bad", "rounds", "first", "boot", "uptime", "run_id", "inode"}.
"""
import argparse
import json
import os
import select
import signal
import socket
import sys
import time

KEY = "replicad:demo"
PROBE_KEYS = ("memcheck:bad", "memcheck:rounds", "memcheck:first", "guest:boot", "guest:uptime")
GET_EVERY = 16      # every so many requests one GET
PROBE_EVERY = 50    # and one probe
CONNECT_TRIES = 100
REPLY_MAX = 64 * 1024


class Log:
    def __init__(self, path):
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def put(self, event, **fields):
        line = json.dumps({"t": time.monotonic_ns(), "e": event, **fields}, separators=(",", ":")) + "\n"
        os.write(self.fd, line.encode())


class Replies:
    """RESP replies from a socket. Raises ConnectionError on the peer's end and on anything that is not RESP."""

    def __init__(self, sock):
        self.sock = sock
        self.data = b""
        self.stop = False

    def _more(self):
        while not select.select([self.sock], [], [], 0.2)[0]:
            if self.stop:
                raise InterruptedError
        got = self.sock.recv(16384)
        if not got:
            raise ConnectionError("the server closed the connection")
        self.data += got
        if len(self.data) > REPLY_MAX:
            raise ConnectionError(f"a reply of more than {REPLY_MAX} bytes")

    def _line(self):
        while b"\r\n" not in self.data:
            self._more()
        line, self.data = self.data.split(b"\r\n", 1)
        return line

    def read(self):
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b":":
            return int(rest)
        if kind == b"+":
            return rest.decode()
        if kind == b"$":
            size = int(rest)
            if size < 0:
                return None
            while len(self.data) < size + 2:
                self._more()
            value, self.data = self.data[:size], self.data[size + 2:]
            return value.decode()
        if kind == b"*":
            return [self.read() for _ in range(int(rest))]
        raise ConnectionError(f"reply {line[:80]!r}")


def number(text, kind):
    try:
        return kind(text)
    except (TypeError, ValueError):
        return None


def probe_value(values, info, sock):
    bad, rounds, first, boot, uptime = values
    run_id = next((line.split(":", 1)[1] for line in info.splitlines() if line.startswith("run_id:")), None)
    return {"bad": number(bad, int), "rounds": number(rounds, int), "first": first, "boot": boot,
            "uptime": number(uptime, float), "run_id": run_id, "inode": os.fstat(sock.fileno()).st_ino}


def command_of(n):
    if n % PROBE_EVERY == 1:
        return "PROBE"
    return "GET" if n % GET_EVERY == 0 else "INCR"


def ask(sock, replies, cmd):
    if cmd == "PROBE":
        sock.sendall(("MGET " + " ".join(PROBE_KEYS) + "\r\nINFO server\r\n").encode())
        values = replies.read()
        return probe_value(values, replies.read(), sock)
    sock.sendall(f"{cmd} {KEY}\r\n".encode())
    value = replies.read()
    return value if cmd == "INCR" else number(value, int) or 0


def connect(host, port, timeout):
    """The only connection: until it stands, trying again is no reconnect."""
    for attempt in range(CONNECT_TRIES):
        try:
            return socket.create_connection((host, port), timeout)
        except OSError as error:
            last = error
            time.sleep(0.1 if attempt else 0)
    raise ConnectionError(f"{host}:{port} not reached in {CONNECT_TRIES} tries: {last}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, default=6379)
    parser.add_argument("--log", required=True)
    parser.add_argument("--connect-timeout", type=float, default=1.0, help="seconds for one try")
    parser.add_argument("--think-ms", type=float, default=0.0)
    args = parser.parse_args()
    log = Log(args.log)
    try:
        sock = connect(args.host, args.port, args.connect_timeout)
    except OSError as error:
        log.put("error", what=str(error))
        return 1
    sock.settimeout(None)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    replies = Replies(sock)

    def stop(_signum, _frame):
        replies.stop = True
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the demo's Ctrl-C is not the client's
    log.put("connect", local=":".join(str(p) for p in sock.getsockname()), inode=os.fstat(sock.fileno()).st_ino)
    n = 0
    try:
        while not replies.stop:
            n += 1
            cmd = command_of(n)
            log.put("send", n=n, cmd=cmd)
            log.put("recv", n=n, val=ask(sock, replies, cmd))
            if args.think_ms:
                time.sleep(args.think_ms / 1000)
    except InterruptedError:
        pass  # told to stop while waiting
    except (OSError, ValueError, TypeError) as error:
        log.put("error", what=f"{type(error).__name__}: {error}")
        return 1
    log.put("end")
    return 0


if __name__ == "__main__":
    sys.exit(main())
