"""One host of the demo: its directories, its agent, its relay; and the VM as it is started on it.

Layout: BASE/etc (configuration, keys, standby definition), BASE/state, BASE/log; RUN/ (on tmpfs: sockets, RAM, trace).
"""
import os
import secrets
import shutil
import subprocess

import control
import machine
import patience
import pki
import ring
from topology import NODES, REPL_ADDR, TAP, inside

VM = "demo"
CLUSTER = "demo"
PORT = 7887
KEY_BYTES = 32
AGENT_TIMEOUT_S = 10
STOP_TIMEOUT_S = 10


def other(node):
    return NODES[1 - NODES.index(node)]


def make_keys():
    """A QEMU keys.psk: name:hexkey lines. Both hosts have both names, so either may connect to the other."""
    return "".join(f"{node}:{secrets.token_hex(KEY_BYTES)}\n" for node in NODES)


class Psk:
    """A keys.psk, the same on both hosts."""

    def __init__(self):
        self.text = make_keys()

    def equip(self, host):
        """Place what the host needs; the [agent] keys that say so."""
        with open(os.open(host.etc("keys.psk"), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as f:
            f.write(self.text)
        return {"tls": "psk", "keys": host.etc("keys.psk")}


class X509:
    """An authority of ours, and a directory of certificates on each host."""

    def __init__(self, base):
        self.authority = pki.Authority(os.path.join(base, "authority"))

    def equip(self, host):
        self.authority.issue(host.etc("pki"), host.node)
        return {"tls": "x509", "x509_dir": host.etc("pki")}


def credentials(tls, base):
    return X509(base) if tls == "x509" else Psk()


def section(name, keys):
    return f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items()) + "\n"


class Host:
    def __init__(self, node, net, base, run, shared, programs, interval_ms, uuid, extra_vm_keys):
        self.node, self.net, self.base, self.run = node, net, os.path.join(base, node), os.path.join(run, node)
        self.shared, self.programs, self.interval_ms, self.uuid = shared, programs, interval_ms, uuid
        self.extra_vm_keys, self.extra_agent_keys = extra_vm_keys, {}
        self.qemu_user = None  # the standby's, if not the agent's
        self.relay_options = []
        self.processes = {}  # name: Popen, of this host, started by us
        self.relay_state = None
        self.dead = False    # everything was killed, as by a power cut: what is on its tmpfs is gone for everybody
        self.booted = False  # the guest was started here by us
        for sub in ("etc/conf.d", "state", "log"):
            os.makedirs(os.path.join(self.base, sub))
        os.makedirs(self.run)

    def etc(self, name):
        return os.path.join(self.base, "etc", name)

    def log(self, name):
        return os.path.join(self.base, "log", name)

    def sock(self, name):
        return os.path.join(self.run, name)

    @property
    def agent_sock(self):
        return self.sock("agent.sock")

    def vm_paths(self):
        return {"ram_path": self.sock("guest.ram"), "qmp_path": self.sock("guest.qmp"), "serial_path": self.log("serial")}

    @property
    def vm_dir(self):
        return os.path.join(self.run, "vm", VM)

    def owners_files(self):
        """What stays when a guest's QEMU ends and is for whoever owns the VM to remove: the socket that QEMU binds and never
        unlinks, and, where we booted it ourselves, its memory and its monitor's socket: a QEMU that is told to shut down is
        killed as soon as DOWN is claimed, and may not come to unlink that."""
        return [self.sock("qemu.net")] + ([self.sock("guest.ram"), self.sock("guest.qmp")] if self.booted else [])

    def netdev(self):
        return machine.dgram_netdev(self.sock("qemu.net"), self.sock("relay.net"))

    def arguments(self, image, accel):
        return machine.arguments(image, name=VM, uuid=self.uuid, netdev=self.netdev(), accel=accel, **self.vm_paths())

    def write_config(self, who, arbiter, primary, image, accel):
        proof, settled_by = who.equip(self), arbiter.equip(self)
        with open(self.etc("standby.args"), "w", encoding="utf-8") as f:
            f.write("".join(a + "\n" for a in [*self.arguments(image, accel), "-incoming", "defer", "-S"]))
        vm = {"uuid": self.uuid, "qmp": self.sock("guest.qmp"), "relay": self.sock("relay.ctl"), "interval_ms": self.interval_ms,
              "standby": self.etc("standby.args"), "role": "auto" if primary else "backup", "backup": other(self.node),
              **self.extra_vm_keys}
        with open(self.etc("replicad.conf"), "w", encoding="utf-8") as f:
            f.write(section("agent", {
                "node": self.node, "cluster": CLUSTER, "listen": f"{REPL_ADDR[self.node]}:{PORT}", "run_dir": self.run,
                "state_dir": os.path.join(self.base, "state"), **settled_by, **proof, **self.extra_agent_keys}))
            f.write(section(f"peer {other(self.node)}", {"address": f"{REPL_ADDR[other(self.node)]}:{PORT}",
                                                               "identity": other(self.node)}))
            f.write(section(f"vm {VM}", vm))

    def spawn(self, name, argv, env=None):
        with open(self.log(name), "ab") as log:
            process = self.net.spawn(self.node, argv, stdout=log, stderr=log, env={**os.environ, **(env or {})})
        self.processes[name] = process
        return process

    def start_relay(self, state):
        """The relay belongs to the VM, not to the protection: it is started before QEMU and ends after it."""
        self.relay_state = state
        port = f"{self.sock('relay.net')},{self.sock('qemu.net')},tap={TAP}"
        if self.qemu_user:
            port += f",owner={self.qemu_user}"
        return self.spawn("relay", [self.programs["relay"], "--vm", VM, "--control", self.sock("relay.ctl"), "--state", state,
                                    "--port", port, *self.relay_options])

    def start_agent(self, env=None):
        process = self.spawn("agent", [self.programs["replicad"], "agent", "--config", self.etc("replicad.conf")], env)
        control.wait_for_socket(self.agent_sock, lambda: process.poll() is None, patience.seconds(AGENT_TIMEOUT_S))

    def command(self, *argv):
        """A command of replicad on this host, as a person would type it. Its output, or ControlError."""
        done = subprocess.run(inside(self.net.names[self.node], [self.programs["replicad"], *argv, "--socket", self.agent_sock]),
                              capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            raise control.ControlError(f"replicad {' '.join(argv)}: exit {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def status(self):
        """The VM's status fields, {} before the agent knows it."""
        vms = control.ask(self.agent_sock, "status").get("vms", [])
        return next((vm for vm in vms if vm.get("vm") == VM), {})

    def arm(self, point):
        """Have the keeper here, or its mover, fail at a named point from now on."""
        control.ask_keeper(os.path.join(self.vm_dir, "keeper.sock"), "fault", point=point)

    def look(self):
        """The status, or {} while nobody answers."""
        try:
            return self.status()
        except (control.ControlError, ValueError):
            return {}

    def check(self):
        """Raises if something that we started here, and nobody was to end, has ended."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise control.ControlError(f"{name} on {self.node} ended with {process.returncode}; see {self.log(name)}")

    def trace(self):
        """The checkpoints that this host's keeper noted; also after its death."""
        try:
            return ring.read(os.path.join(self.vm_dir, "trace"))
        except FileNotFoundError:
            return []

    def save_logs(self):
        """What the keeper wrote stands in its run directory, which goes with the round."""
        for directory, _, names in os.walk(self.run):
            for name in names:
                if name.endswith((".log", ".json")) or name == "trace":
                    shutil.copyfile(os.path.join(directory, name), self.log(name))

    def reap(self, names):
        """After they were killed: collect those of them that are our own children."""
        for name in list(names):
            process = self.processes.pop(name, None)
            if process is not None:
                process.wait(patience.seconds(STOP_TIMEOUT_S))

    def power_on(self):
        """The host was dead and starts again: what stood on tmpfs is gone, the VM's relay and the agent start at boot."""
        self.save_logs()
        self.dead = self.booted = False
        shutil.rmtree(self.run)
        os.makedirs(self.run)
        self.start_relay("closed")
        self.start_agent()

    def stop(self, name):
        process = self.processes.pop(name, None)
        if process is None:
            return
        process.terminate()
        limit = patience.seconds(STOP_TIMEOUT_S)
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise control.ControlError(f"{name} on {self.node} did not end within {limit} s of SIGTERM") from None
