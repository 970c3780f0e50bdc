"""Two hosts, a client and the network between them, as network namespaces of this machine.

  client ── lan ──┬── alpha: br0 ── tap0 ── relay ── guest        10.77.0.0/24, the guest's own network
                  └── beta:  br0 ── tap0 ── relay ── standby
            alpha ──── repl0 ──── beta                            10.78.0.0/24, replication only
          witness ──┬── arb0 of alpha                             10.79.0.0/24, only if it is asked for: a third machine
                    └── arb0 of beta

The names carry the demo's process id, so that several demos run side by side, and everything with a name of ours is
looked for when a round is over: what is left is a failure of the round.
"""
import json
import os
import signal
import subprocess
import time

NODES = ("alpha", "beta")
GUEST_ADDR = "10.77.0.10"
CLIENT_ADDR = "10.77.0.1"
PREFIX_LEN = 24
REPL_ADDR = {"alpha": "10.78.0.1", "beta": "10.78.0.2"}
ARBITER_ADDR = {"witness": "10.79.0.3", "alpha": "10.79.0.1", "beta": "10.79.0.2"}
TAP = "tap0"
DGRAM_QUEUE = 512
KILL_SWEEPS_MAX = 200


class TopologyError(Exception):
    pass


def run(*argv, check=True):
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise TopologyError(f"{' '.join(argv)}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def netns_path(name):
    return f"/run/netns/{name}"


def inside(name, argv):
    """The argument list that runs argv in a namespace. Not `ip netns exec` or `ip -n`: they also remount, and a chroot
    has no mount point to do that on."""
    return ["nsenter", f"--net={netns_path(name)}", "--", *argv]


class Topology:
    witness_address = ARBITER_ADDR["witness"]

    def __init__(self, tag=None, witness=False):
        self.tag = tag or f"rpl{os.getpid()}"
        self.names = {role: f"{self.tag}-{role}" for role in ("lan", "client", *NODES, *(["witness"] if witness else []))}

    def __enter__(self):
        try:
            self.up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(self, *_exc):
        self.down()

    def up(self):
        for name in self.names.values():
            run("ip", "netns", "add", name)
            # The guest's network is IPv4; without the first every bridge and veth talks on its own. The second is what
            # replicad-relay(8) recommends.
            run(*inside(name, ["sh", "-c", "for f in all default; do echo 1 >/proc/sys/net/ipv6/conf/$f/disable_ipv6; done; "
                               f"echo {DGRAM_QUEUE} >/proc/sys/net/unix/max_dgram_qlen"]))
            run(*inside(name, ["ip", "link", "set", "lo", "up"]))
        self._bridge("lan")
        for node in NODES:
            self._bridge(node)
            self._ip(node, "tuntap", "add", TAP, "mode", "tap")
            self._join(node, TAP)
            self._veth("lan", f"to-{node}", node, "up0")
            self._join("lan", f"to-{node}")
            self._join(node, "up0")
        self._veth("lan", "to-client", "client", "eth0")
        self._join("lan", "to-client")
        self._address("client", "eth0", CLIENT_ADDR)
        self._veth("alpha", "repl0", "beta", "repl0")
        for node in NODES:
            self._address(node, "repl0", REPL_ADDR[node])
        if "witness" in self.names:
            self._connect_witness()

    def _connect_witness(self):
        self._bridge("witness")
        self._address("witness", "br0", ARBITER_ADDR["witness"])
        for node in NODES:
            self._veth("witness", f"to-{node}", node, "arb0")
            self._join("witness", f"to-{node}")
            self._address(node, "arb0", ARBITER_ADDR[node])

    def _ip(self, role, *argv):
        run(*inside(self.names[role], ["ip", *argv]))

    def _bridge(self, role):
        self._ip(role, "link", "add", "br0", "type", "bridge", "stp_state", "0", "forward_delay", "0",
            "mcast_snooping", "0")
        self._ip(role, "link", "set", "br0", "up")

    def _join(self, role, link):
        self._ip(role, "link", "set", link, "master", "br0", "up")

    def _veth(self, role_a, link_a, role_b, link_b):
        self._ip(role_a, "link", "add", link_a, "type", "veth", "peer", "name", link_b, "netns",
            self.names[role_b])

    def _address(self, role, link, addr):
        self._ip(role, "addr", "add", f"{addr}/{PREFIX_LEN}", "dev", link)
        self._ip(role, "link", "set", link, "up")

    def link(self, role, name, *change):
        """Change a link inside a host: link("alpha", "repl0", "down")."""
        self._ip(role, "link", "set", name, *change)

    def frames_out(self, role):
        """How many frames the guest's relay has put into the host's tap."""
        text = run(*inside(self.names[role], ["ip", "-s", "-j", "link", "show", "dev", TAP]), check=False)
        return json.loads(text)[0]["stats64"]["rx"]["packets"] if text else None

    def reset(self, role, port):
        """Break every TCP connection of a host from or to a port, as a firewall that forgot it would."""
        for side in ("sport", "dport"):
            run(*inside(self.names[role], ["ss", "-K", "-t", "state", "established", side, "=", f":{port}"]))

    def spawn(self, role, argv, **popen):
        """Start a program inside a host. The process started *is* the program: nsenter only changes the namespace."""
        return subprocess.Popen(inside(self.names[role], argv), stdin=subprocess.DEVNULL, **popen)

    def pids(self, role):
        """Everything that runs on that host, the most recent first."""
        try:
            wanted = os.stat(netns_path(self.names[role])).st_ino
        except FileNotFoundError:
            return []
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    if os.stat(f"/proc/{entry}/ns/net").st_ino == wanted and not is_zombie(int(entry)):
                        found.append(int(entry))
                except OSError:
                    continue  # ended meanwhile
        return sorted(found, reverse=True)

    def send(self, pids, number, when=0):
        """A signal to processes at `when` (now, if that is past). Returns the times (CLOCK_MONOTONIC) of the first and the last.

        They are held by pidfd before, so that no other process that gets a number again is hit.
        """
        held = []
        for pid in pids:
            try:
                held.append(os.pidfd_open(pid))
            except ProcessLookupError:
                continue
        while (left := when - time.monotonic_ns()) > 0:
            time.sleep(left / 1e9)
        begin = time.monotonic_ns()
        for fd in held:
            try:
                signal.pidfd_send_signal(fd, number)
            except ProcessLookupError:
                pass
        end = time.monotonic_ns()
        for fd in held:
            os.close(fd)
        return begin, end

    def kill_host(self, role, when=0):
        """SIGKILL everything on a host: first from a list made before, then whatever was forked meanwhile.

        Returns (first kill, last kill, [(pid, command)]), times of CLOCK_MONOTONIC.
        """
        victims = self.pids(role)
        killed = [(pid, command_of(pid)) for pid in victims]
        begin, end = self.send(victims, signal.SIGKILL, when)
        for _ in range(KILL_SWEEPS_MAX):
            left = self.pids(role)
            if not left:
                return begin, end, killed
            late = [pid for pid in left if pid not in [p for p, _ in killed]]
            killed += [(pid, command_of(pid)) for pid in late]
            if late:
                _, end = self.send(late, signal.SIGKILL)
            time.sleep(0.005)
        raise TopologyError(f"{role}: processes {self.pids(role)} survive SIGKILL")

    def down(self):
        """Remove all of it; processes that are still inside are killed (a round has reported them by then)."""
        for role, name in self.names.items():
            if os.path.exists(netns_path(name)):
                self.kill_host(role)
                run("ip", "netns", "del", name, check=False)

    def leftovers(self):
        """What still exists although the demo is over: [sentence]."""
        left = [f"namespace {name}" for name in self.names.values() if os.path.exists(netns_path(name))]
        left += [f"process {pid} ({command_of(pid)}) on {role}" for role in self.names for pid in self.pids(role)]
        left += [f"network link {word}" for word in run("ip", "-o", "link").split() if self.tag in word]
        return left


def machine_name(pid):
    """The program's name as the kernel has it: at most 15 characters; "?" for a process that is gone."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as f:
            return f.read().strip()
    except OSError:
        return "?"


def command_of(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            words = f.read().split(b"\0")
        name = os.path.basename(words[0].decode(errors="replace"))
        return " ".join([name] + [w.decode(errors="replace") for w in words[1:3]]).strip()
    except (OSError, IndexError):
        return "?"


def is_zombie(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
            return f.read().rsplit(")", 1)[1].split()[0] == "Z"
    except (OSError, IndexError):
        return True
