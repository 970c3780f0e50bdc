"""Two hosts, a client and one guest: what a round is played on. A pair serves any number of rounds; its client keeps one
connection through all of them, and whichever host owns the guest is called the primary."""
import json
import os
import shutil
import signal
import sys
import time

import arbiters
import control
import machine
import patience
from hosts import VM, Host, credentials
from topology import GUEST_ADDR, NODES, Topology, machine_name

HERE = os.path.dirname(os.path.abspath(__file__))
RAM_FS = "/dev/shm"           # tmpfs: the guests' RAM, sockets
PROTECT_TIMEOUT_S = 60
TRAFFIC_TIMEOUT_S = 90
CLIENT_STOP_S = 5
CONNECT_TIMEOUT_S = 1          # of each of the client's tries
THINK_MS = 2                  # of the client, so that an unprotected guest is not asked thousands of times a second
POLL_S = 0.02
LEFTOVER_WAIT_S = 5
# What runs on either host while the guest is protected: the owner's guest, or the standby; nothing of it twice.
PROCESSES = ("qemu-system-x86", "replicad", "replicad-keeper", "replicad-mover", "replicad-relay")


class RoundError(Exception):
    """The round could not be played to its end."""


def wait_until(what, check, timeout, alive=lambda: None):
    """The first true value of check(); alive() raises when waiting is pointless."""
    timeout = patience.seconds(timeout)
    end = time.monotonic() + timeout
    while True:
        value = check()
        if value:
            return value
        alive()
        if time.monotonic() > end:
            raise RoundError(f"{what}: not within {timeout} s")
        time.sleep(POLL_S)


class Client:
    """The process that holds the connection, and its log."""

    def __init__(self, net, path, stderr_path, host=GUEST_ADDR, think_ms=THINK_MS):
        self.path = path
        with open(stderr_path, "wb") as err:
            argv = [sys.executable, os.path.join(HERE, "client.py"), "--host", host, "--log", path,
                    "--think-ms", str(think_ms), "--connect-timeout", str(patience.seconds(CONNECT_TIMEOUT_S))]
            self.process = net.spawn("client", argv, stdout=err, stderr=err)
        self.offset, self.records = 0, []

    def poll(self):
        """Read what the log has more."""
        try:
            with open(self.path, encoding="utf-8") as f:
                f.seek(self.offset)
                lines = f.readlines()
        except FileNotFoundError:
            return self.records
        for text in lines:
            if text.endswith("\n"):
                self.offset += len(text.encode())
                self.records.append(json.loads(text))
        return self.records

    def replies_since(self, when):
        return sum(1 for r in reversed(self.poll()) if r["e"] == "recv" and r["t"] >= when)

    def check(self):
        if self.process.poll() is not None:
            last = self.poll()[-1] if self.poll() else {}
            raise RoundError(f"the client ended: {last.get('what', self.process.returncode)}")

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(patience.seconds(CLIENT_STOP_S))
            except Exception:
                self.process.kill()
                self.process.wait()
                raise
        return self.poll()


class Pair:
    host_kind = Host

    def __init__(self, name, options, made, accel, programs, work, vm_uuid):
        self.options, self.image, self.accel, self.programs, self.vm_uuid = options, made, accel, programs, vm_uuid
        self.base = os.path.join(work, name)
        self.tag = f"rpl{os.getpid()}"
        self.ram_dir = os.path.join(RAM_FS, self.tag)
        kind = getattr(options, "arbiter", None) or os.environ.get("RPL_TEST_ARBITER", "file")
        self.net = Topology(self.tag, witness=kind == "etcd")
        self.arbiter = arbiters.make(kind, self.base, self.ram_dir, self.net)
        self.hosts = {}
        self.primary = self.backup = self.client = None
        self.guest = None         # the guest's process on the primary
        self.facts = {}           # of the start: boot_ns, boots_failed
        self.up = self.protected_before = False

    # ---- life

    def open(self):
        for path in (self.base, self.ram_dir):
            os.makedirs(path)
        self.net.__enter__()
        self.up = True
        try:
            self.arbiter.open()
            self._prepare()
        except BaseException:
            self.close()
            raise

    def close(self):
        """Take everything down. Returns what is left all the same."""
        if not self.up:
            return []
        self.up = False
        try:
            for host in self.hosts.values():
                host.save_logs()
        finally:  # logs that cannot be kept must not keep the guests' memory
            self.arbiter.close()
            self.net.__exit__(None, None, None)
            shutil.rmtree(self.ram_dir, ignore_errors=True)
        return self.net.leftovers()

    def _prepare(self):
        self.who = credentials(getattr(self.options, "tls", "psk"), self.base)
        for node in NODES:
            host = self.host_kind(node, self.net, self.base, self.ram_dir, self.ram_dir, self.programs, self.options.interval_ms,
                        self.vm_uuid, dict(self.options.vm_keys))
            self._equip(host)
            host.write_config(self.who, self.arbiter, node == "alpha", self.image, self.accel)
            host.start_relay("open" if node == "alpha" else "closed")
            self.hosts[node] = host
        self.primary, self.backup = (self.hosts[node] for node in NODES)
        paths = self.primary.vm_paths()
        started = time.monotonic_ns()
        process, seconds, failed = machine.boot(
            lambda argv: self.primary.spawn("qemu", argv), self.primary.arguments(self.image, self.accel), paths["serial_path"],
            remove=[paths["ram_path"]])
        self.guest, self.primary.booted = process.pid, True
        self.facts = {"boot_ns": time.monotonic_ns() - started, "boots_failed": failed}
        self.options.progress(f"guest runs on {self.primary.node} (booted in {seconds:.1f} s); a client holds one connection")
        self.client = Client(self.net, os.path.join(self.base, "client.log"), os.path.join(self.base, "client.err"))
        wait_until("first replies", lambda: self.client.replies_since(0) >= 10, TRAFFIC_TIMEOUT_S, self.client.check)

    def _equip(self, host):
        """What a kind of pair wants of a host before its configuration is written."""

    def start_agents(self, env=None):
        for host in (self.backup, self.primary):
            if "agent" not in host.processes:
                host.start_agent(env if host is self.primary else None)

    def protect(self):
        """Until the guest is protected from where it runs; how long that took."""
        asked = time.monotonic_ns()
        self.primary.command("protect", VM, "--no-wait")
        wait_until("protection", self.protected, PROTECT_TIMEOUT_S, self.check)
        return time.monotonic_ns() - asked

    def protected(self):
        status = self.primary.look()
        if status.get("refused") and status.get("keeper") == "running":
            raise RoundError(f"protection refused: {status['refused']}")
        return status.get("state") == "P_PROTECTED"

    def check(self):
        """Raises if something that we started, and nobody was to end, has ended."""
        self.client.check()
        for host in self.hosts.values():
            host.check()

    def swap(self):
        """The backup took over: it is the primary now."""
        self.primary, self.backup = self.backup, self.primary
        self.guest = next(iter(self.guests(self.primary.node)), None)

    # ---- looking

    def pids(self, node, name):
        return [pid for pid in self.net.pids(node) if machine_name(pid) == name]

    def guests(self, node):
        return self.pids(node, PROCESSES[0])

    def strays(self):
        """While the guest is protected: what runs or is missing on either host, [sentence]."""
        found = []
        for node in NODES:
            names = sorted(machine_name(pid) for pid in self.net.pids(node))
            if names != sorted(PROCESSES):
                found.append(f"on {node} run {', '.join(names)}")
        return found

    # ---- the end

    def shut_down(self, ended=False):
        """Shut the guest down on purpose, unless it has ended, and stop what was started. Returns what is still there:
        [sentence]."""
        self.client.stop()
        for pid in [] if ended else self.guests(self.primary.node)[:1]:  # its monitor has one client, and that is the keeper
            os.kill(pid, signal.SIGTERM)
        down = self._record_says_down()  # then nothing is held any more
        if ended:
            self._let_go()
        wait_until("the guest's end", lambda: not self.guests(self.primary.node), LEFTOVER_WAIT_S)
        for host in self.hosts.values():
            if not host.dead:
                self._wait_for_keeper(host)
        for host in self.hosts.values():
            for name in ("agent", "relay"):
                host.stop(name)
            for path in host.owners_files() + ([host.sock("relay.ctl.held")] if ended and not down else []):  # as replicad-relay(8) says
                if os.path.exists(path):
                    os.unlink(path)
        end = time.monotonic() + patience.seconds(LEFTOVER_WAIT_S)
        while (left := self._left()) and time.monotonic() < end:
            time.sleep(POLL_S)
        return left

    def _record_says_down(self):
        """Where it can be read, which is the arbiter `file`."""
        files = [os.path.join(d, n) for d, _, names in os.walk(getattr(self.arbiter, "path", "")) for n in names]
        return any('"DOWN"' in open(path, encoding="utf-8").read() for path in files)

    def _let_go(self):
        """There is nothing left to protect, says the operator, on either host."""
        for host in self.hosts.values():
            try:
                control.ask(host.agent_sock, "unprotect", vm=VM, force=True)
            except control.ControlError:
                pass  # no keeper any more: what is left, if anything, is found

    def _wait_for_keeper(self, host):
        """A guest that was shut down needs no keeper: it ends and its directory goes, while the agent is there to see it."""
        end = time.monotonic() + patience.seconds(LEFTOVER_WAIT_S)
        while "agent" in host.processes and os.path.exists(host.vm_dir) and time.monotonic() < end:
            time.sleep(POLL_S)

    def _left(self):
        left = []
        for node, host in self.hosts.items():
            left += [f"process {pid} ({machine_name(pid)}) on {node}" for pid in self.net.pids(node)]
            for directory, _, names in [] if host.dead else os.walk(host.run):
                left += [f"file {os.path.join(directory, name)}" for name in names]
        return left
