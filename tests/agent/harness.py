"""An agent with a configuration, directories and keepers of its own, for tests: no root, no guest, nothing left behind."""
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import uuid

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = os.environ.get("top_builddir", os.path.join(HERE, "..", "..", "build"))
REPLICAD = os.path.join(BUILD, "replicad")
FAKE_KEEPER = os.path.join(HERE, "fake_keeper.py")
LINK_MAJOR = 1
WAIT_S = 60  # only reached by a failure; a busy machine may be slow


def wait_until(what, probe, timeout=WAIT_S):
    end = time.monotonic() + timeout
    while True:
        result = probe()
        if result:
            return result
        if time.monotonic() > end:
            raise AssertionError(f"no {what} within {timeout} s; last: {result!r}")
        time.sleep(0.02)


def preamble(vm_uuid, major=LINK_MAJOR, magic=b"REPLICAD"):
    return magic + struct.pack(">HHI", major, 0, 0) + uuid.UUID(vm_uuid).bytes


class Talk:
    """One connection to a control socket, line by line."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.connect(path)  # waits for room in the queue, which a time-out would turn into an error
        except OSError:
            self.sock.close()
            raise
        self.sock.settimeout(WAIT_S)
        self.data = b""

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        self.sock.close()

    def send(self, raw):
        self.sock.sendall(raw)

    def read(self):
        """The next message; None at the end of the connection."""
        while b"\n" not in self.data:
            try:
                got = self.sock.recv(65536)
            except ConnectionResetError:
                got = b""
            if not got:
                return None
            self.data += got
        line, self.data = self.data.split(b"\n", 1)
        return json.loads(line)

    def ask(self, cmd, **fields):
        self.send(json.dumps({"v": 1, "cmd": cmd, **fields}).encode() + b"\n")
        return self.read()


class Agent:
    def __init__(self, base, node, conf=""):
        self.base, self.node = os.path.join(base, node), node
        self.run, self.state = os.path.join(self.base, "run"), os.path.join(self.base, "state")
        self.libexec, self.conf = os.path.join(self.base, "lib"), os.path.join(self.base, "replicad.conf")
        self.sock = os.path.join(self.run, "agent.sock")
        os.makedirs(self.libexec)
        os.symlink(FAKE_KEEPER, os.path.join(self.libexec, "replicad-keeper"))
        self.process = None
        self.write_conf(conf)

    def write_conf(self, more, agent="", listen="127.0.0.1:0"):
        with open(self.conf, "w", encoding="utf-8") as f:
            f.write(f"[agent]\nnode = {self.node}\nrun_dir = {self.run}\nstate_dir = {self.state}\nlisten = {listen}\n"
                    f"{agent}\n{more}")

    def argv(self):
        return [REPLICAD, "agent", "--config", self.conf, "--libexec-dir", self.libexec]

    def start(self):
        with open(os.path.join(self.base, "agent.log"), "ab") as log:
            self.process = subprocess.Popen(self.argv(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until("control socket", self._answers)

    def _answers(self):
        if self.process.poll() is not None:
            raise AssertionError(f"the agent ended with {self.process.returncode}:\n{self.log()}")
        try:
            with Talk(self.sock) as talk:
                return talk.ask("ping")["ok"]
        except OSError:
            return False

    def log(self):
        with open(os.path.join(self.base, "agent.log"), encoding="utf-8", errors="replace") as f:
            return f.read()

    def stop(self):
        """SIGTERM; returns the exit status."""
        self.process.terminate()
        status = self.process.wait(WAIT_S)
        self.process = None
        return status

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process = None

    def command(self, *argv):
        return subprocess.run([REPLICAD, *argv, "--config", self.conf], capture_output=True, text=True, check=False,
                              stdin=subprocess.DEVNULL)

    def ask(self, cmd, **fields):
        with Talk(self.sock) as talk:
            return talk.ask(cmd, **fields)

    def vm_now(self, name):
        """The status of one VM, {} if there is none."""
        return next((vm for vm in self.ask("status")["vms"] if vm["vm"] == name), {})

    def vm(self, name):
        """The same of a keeper that answers, if not within the second that the agent waits, then later."""
        return wait_until("an answer", lambda: [vm for vm in (self.vm_now(name),) if vm.get("keeper") != "unresponsive"])[0]

    def events(self, vm=""):
        return self.ask("events", vm=vm, limit=1024)["events"]

    def keeper_pid(self, vm):
        """Of the one that runs now; from the agent's own notes."""
        notes = [e for e in self.events(vm) if e["event"] in ("keeper-start", "adopted")]
        return int(notes[-1]["message"].split()[1].rstrip(","))

    def port(self):
        return int(self.ask("ping")["agent"]["listen"][0].rsplit(":", 1)[1])

    def vm_dirs(self):
        path = os.path.join(self.run, "vm")
        return sorted(os.listdir(path)) if os.path.exists(path) else []

    def wanted(self):
        return sorted(os.listdir(os.path.join(self.state, "wanted")))

    def conf_d(self):
        path = os.path.join(self.base, "conf.d")
        return sorted(os.listdir(path)) if os.path.exists(path) else []


def processes_under(base):
    """Pids of programs that were told a directory below `base`, zombies left out."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/cmdline", "rb") as f:
                words = f.read()
        except OSError:
            continue
        if base.encode() + b"/" in words:
            found.append(int(entry))
    return found


class Base:
    """A directory for agents; at its end nothing may run that knows it."""

    def __init__(self):
        # on tmpfs where there is one: these tests are not about disks, and short: sockets' paths are bounded
        self.path = tempfile.mkdtemp(prefix="rpl-ag-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp")
        os.chmod(self.path, 0o755)
        self.agents = []

    def agent(self, node="alpha", conf=""):
        agent = Agent(self.path, node, conf)
        self.agents.append(agent)
        return agent

    def left(self):
        return processes_under(self.path)

    def end(self):
        """Ends all; returns the exit statuses of agents that still ran (0 unless a sanitizer complained)."""
        statuses = [agent.stop() for agent in self.agents if agent.process]
        for pid in self.left():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        logs = "".join(agent.log() for agent in self.agents if os.path.exists(os.path.join(agent.base, "agent.log")))
        shutil.rmtree(self.path)
        if any(statuses):
            sys.stderr.write(logs)
        return statuses
