"""An agent's control socket, as replicad-control(7) describes it: one JSON object a line."""
import json
import socket
import time

VERSION = 1
REPLY_MAX = 4 << 20
PACKET_MAX = 64 << 10
TIMEOUT_S = 30


class ControlError(Exception):
    """The agent said no, or nothing."""


class Control:
    def __init__(self, path, timeout=TIMEOUT_S):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(timeout)
        try:
            self.sock.connect(path)
        except OSError as error:
            self.sock.close()
            raise ControlError(f"{path}: {error.strerror}") from error
        self.path = path
        self.data = b""

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        self.sock.close()

    def _message(self):
        while b"\n" not in self.data:
            try:
                got = self.sock.recv(65536)
            except OSError as error:
                raise ControlError(f"{self.path}: no answer: {error}") from error
            if not got:
                raise ControlError(f"{self.path}: the agent closed the connection")
            self.data += got
            if len(self.data) > REPLY_MAX:
                raise ControlError(f"{self.path}: an answer of more than {REPLY_MAX} bytes")
        line, self.data = self.data.split(b"\n", 1)
        return json.loads(line)

    def ask(self, cmd, **fields):
        try:
            self.sock.sendall(json.dumps({"v": VERSION, "cmd": cmd, **fields}).encode() + b"\n")
        except OSError as error:
            raise ControlError(f"{self.path}: {error}") from error
        reply = self._message()
        if not reply.get("ok"):
            error = reply.get("error", {})
            raise ControlError(f"{cmd}: {error.get('code')}: {error.get('message')}")
        return reply


def ask(path, cmd, **fields):
    with Control(path) as control:
        return control.ask(cmd, **fields)


def ask_keeper(path, cmd, timeout=TIMEOUT_S, **fields):
    """One request on a keeper's own socket, as its agent would make it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(timeout)
        try:
            sock.connect(path)
            sock.send(json.dumps({"v": VERSION, "id": 1, "cmd": cmd, **fields}).encode())
            data = sock.recv(PACKET_MAX)
        except OSError as error:
            raise ControlError(f"{path}: {cmd}: {error}") from error
    reply = json.loads(data) if data else {}
    if not reply.get("ok"):
        raise ControlError(f"{path}: {cmd}: {reply.get('error', {}).get('message', 'no answer')}")
    return reply


def wait_for_socket(path, alive, timeout):
    """Until an agent answers there; alive() tells whether it is still worth waiting."""
    end = time.monotonic() + timeout
    while True:
        try:
            with Control(path):
                return
        except ControlError as error:
            if not alive() or time.monotonic() > end:
                raise ControlError(f"the agent does not answer: {error}") from error
        time.sleep(0.02)
