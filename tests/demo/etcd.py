"""A small etcd of our own: one member on one address, with its own data directory, for the demo and for tests."""
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time

import patience

PROGRAM = "etcd"
START_TIMEOUT_S = 30
START_TRIES = 5
STOP_TIMEOUT_S = 10
PROBE_TIMEOUT_S = 1


class EtcdError(Exception):
    """etcd cannot do what is needed; the text says why."""


def program():
    return shutil.which(PROGRAM)


def free_port(address):
    """One of those that the kernel does not give out by itself: between this look and the start, or while a server is down,
    nobody's connection takes it (one to this very port least of all)."""
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as f:
        first = int(f.read().split()[0])
    while True:
        port = random.randrange(first // 2, first)
        with socket.socket() as s:
            try:
                s.bind((address, port))
            except OSError:
                continue
            return port


class Etcd:
    """`tls`: {"ca", "cert", "key"}: clients then must show a certificate of that authority. `spawn` starts a process, as
    subprocess.Popen does; in a network namespace for example. `probe_in` runs a function where the address can be reached."""

    def __init__(self, base, address="127.0.0.1", host=None, tls=None, port=None, spawn=subprocess.Popen, probe_in=None, extra=()):
        self.base, self.address, self.tls, self.port = base, address, tls, port
        self.host, self.spawn, self.probe_in, self.extra = host or address, spawn, probe_in, list(extra)
        self.process = None
        self.stopped = False
        os.makedirs(base, exist_ok=True)

    @property
    def url(self):
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}"

    def arguments(self, peer_port):
        peer = f"http://127.0.0.1:{peer_port}"
        argv = [PROGRAM, "--name", "arbiter", "--data-dir", os.path.join(self.base, "data"), "--listen-client-urls",
                f"{'https' if self.tls else 'http'}://{self.address}:{self.port}", "--advertise-client-urls", self.url,
                "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"arbiter={peer}"]
        if self.tls:
            argv += ["--client-cert-auth", "--trusted-ca-file", self.tls["ca"], "--cert-file", self.tls["cert"], "--key-file",
                     self.tls["key"]]
        return argv + self.extra

    def start(self):
        """Start it, again with the same data if there are any, and wait until it answers."""
        if not program():
            raise EtcdError(f"{PROGRAM} is not installed: apt-get install etcd-server")
        for _ in range(START_TRIES):  # another program may take the port between the look and the start
            peer_port = getattr(self, "peer_port", None) or free_port("127.0.0.1")
            self.port = self.port or free_port(self.address)
            with open(os.path.join(self.base, "log"), "ab") as log:
                self.process = self.spawn(self.arguments(peer_port), stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            if self._wait():
                self.peer_port = peer_port
                return self
            self.kill()
            if hasattr(self, "peer_port"):
                break
            self.port = None
        raise EtcdError(f"etcd did not start: {self.last_words()}")

    def _wait(self):
        end = time.monotonic() + patience.seconds(START_TIMEOUT_S)
        while time.monotonic() < end and self.process.poll() is None:
            if self.healthy():
                return True
            time.sleep(0.05)
        return False

    def last_words(self):
        try:
            with open(os.path.join(self.base, "log"), encoding="utf-8", errors="replace") as f:
                return f.read().strip().splitlines()[-1]
        except (OSError, IndexError):
            return "it said nothing"

    def healthy(self):
        """Does it answer? With TLS only that it listens."""
        return self.probe_in(self._probe) if self.probe_in else self._probe()

    def _probe(self):
        try:
            if self.tls:
                socket.create_connection((self.address, self.port), PROBE_TIMEOUT_S).close()
                return True
            return bool(self.post("/v3/kv/range", {"key": "aGVhbHRo"}).get("header"))
        except (OSError, ValueError, http.client.HTTPException):
            return False

    def post(self, path, body):
        connection = http.client.HTTPConnection(self.address, self.port, timeout=PROBE_TIMEOUT_S)
        try:
            connection.request("POST", path, json.dumps(body))
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def signal(self, number):
        self.process.send_signal(number)
        self.stopped = number == signal.SIGSTOP

    def kill(self):
        """By SIGKILL; it can be started again."""
        if self.process and self.process.poll() is None:
            self.process.kill()
        if self.process:
            self.process.wait(STOP_TIMEOUT_S)
        self.process = None
        self.stopped = False

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.kill()
