"""One guest protected on the lab's two hosts: the agents with their configuration, an etcd beside the client as the third
party, the client's one connection, and what the stories ask of all that.

What happens on a host is learned from `replicad events --follow` over ssh: nothing is polled there, every program that
starts costs an emulated host a good part of a second.
"""
import json
import os
import secrets
import shutil
import subprocess
import sys
import threading
import time

import labhost
from labhost import LAN, REPL, LabError

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "demo"))
import oracle  # noqa: E402
from etcd import Etcd  # noqa: E402
from client import KEY  # noqa: E402
from pair import Client  # noqa: E402

OTHER = {"a": "b", "b": "a"}
ETC = "/root/replicad"
CONF = f"{ETC}/replicad.conf"
PORT = 7887
ETCD_PORT = 2379
KEY_BYTES = 32
ROUNDS = "memcheck:rounds"  # in the guest's service: full passes of its memory checker
AGENT_WAIT_S = 60
EVENT_WAIT_S = 300
PROTECT_S = 300
TAKEOVER_S = 180
CLIENT_WAIT_S = 180
ASK_S, TELL_S = 60, 5
PROTECTED_REPLIES = 8   # before the kill: each waited for a checkpoint
LOOK_S = 0.25
CLOCK_OFF_MAX_S = 15    # a look is a few seconds old, more on a busy host, and an emulated CMOS clock has whole seconds
THINK_MS = 40           # an unprotected guest that is asked without a pause keeps its one CPU from the copy
# The pace of an emulated host: a checkpoint takes it a few hundred milliseconds, a claim up to a second.
VM_KEYS = {"interval_ms": 500, "heartbeat_ms": 200, "suspect_ms": 6000, "takeover_delay_ms": 500, "arm_timeout_ms": 20000,
           "op_timeout_ms": 30000}  # backend and netbuf: as they are found out


def section(name, keys):
    return f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items()) + "\n"


class LabEtcd(Etcd):
    """In the client's namespace, reached over the LAN: a cut replication link leaves it to both hosts."""

    def __init__(self, lab, base):
        super().__init__(base, address=LAN["client"], port=ETCD_PORT,
                         spawn=lambda argv, **kw: subprocess.Popen(lab.inside(argv), **kw))
        self.lab = lab

    def _probe(self):
        ask = (f"import http.client; c = http.client.HTTPConnection('{self.address}', {self.port}, timeout=2); "
               "c.request('POST', '/v3/kv/range', '{\"key\": \"aGVhbHRo\"}'); assert c.getresponse().status == 200")
        return subprocess.run(self.lab.inside([sys.executable, "-c", ask]), capture_output=True, check=False).returncode == 0


class Events:
    """The events of one host, as they happen: [(CLOCK_MONOTONIC ns of this machine when it came, event)]."""

    def __init__(self, lab, host, vm):
        self.list, self.news = [], threading.Condition()
        argv = lab.ssh_argv(host, ["--", f"exec replicad events --follow --json --config {CONF} {vm}"])
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                        text=True)
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        for line in self.process.stdout:
            with self.news:
                self.list.append((time.monotonic_ns(), json.loads(line)))
                self.news.notify_all()

    def wait(self, what, match, timeout=EVENT_WAIT_S, since=0, stop=lambda event: None):
        """The first event from number `since` on that matches; stop() may return why waiting is pointless."""
        end, at = time.monotonic() + timeout, since
        with self.news:
            while True:
                for when, event in self.list[at:]:
                    if match(event):
                        return when, event
                    why = stop(event)
                    if why:
                        raise LabError(f"{what}: {why}")
                at = max(at, len(self.list))
                left = end - time.monotonic()
                if left <= 0 or not self.news.wait(left):
                    raise LabError(f"{what}: not within {timeout} s; the last events: {[e for _, e in self.list[-4:]]}")

    def close(self):
        self.process.kill()
        self.process.wait()
        self.thread.join()


def state_is(state):
    return lambda event: event["event"] == "state" and event["to"] == state


class TwoHosts:
    """keys: of the [vm] section, beside or instead of VM_KEYS. memory_b: MB in the guest's file on b, if others than on a."""

    def __init__(self, lab, name, kind, keys=None, addr=labhost.GUEST_ADDR, memory=96, tls="psk", load="memcheck", vcpus=1,
                 tsc="default", memory_b=None):
        self.lab, self.name, self.kind, self.addr, self.memory, self.load = lab, name, kind, addr, memory, load
        self.vcpus, self.tsc, self.memory_b = vcpus, tsc, memory_b or memory
        self.tls, self.keys = tls, {**VM_KEYS, **(keys or {})}
        self.secrets = "".join(f"{host}:{secrets.token_hex(KEY_BYTES)}\n" for host in "ab")
        self.work = os.path.join(lab.dir, "work", name)
        shutil.rmtree(self.work, ignore_errors=True)
        os.makedirs(self.work)
        for host in "ab":
            shutil.rmtree(self.state_dir(host), ignore_errors=True)
        self.etcd = LabEtcd(lab, os.path.join(self.work, "etcd"))
        self.events, self.client, self.clients, self.counted = {}, None, 0, 0
        self.home = None        # where the guest runs

    # -- the hosts

    def state_dir(self, host):
        """On this machine: what must survive a power loss, as a host's disk does."""
        return os.path.join(self.lab.share, f"state-{host}", self.name)

    def configuration(self, host):
        vm = {"uuid": self.lab.guest_uuid(self.name), "standby": f"/root/{self.name}.cfg", "backup": OTHER[host],
              **self.keys}
        agent = {"node": host, "listen": f"{REPL[host]}:{PORT}", "state_dir": f"/lab/state-{host}/{self.name}",
                 "arbiter": "etcd", "arbiter_location": self.etcd.url, "arbiter_timeout_ms": 5000, "tls": self.tls,
                 "keys": f"{ETC}/keys.psk", "insecure": "yes"}
        return (section("agent", agent)
                + section(f"peer {OTHER[host]}", {"address": f"{REPL[OTHER[host]]}:{PORT}"}) + section(f"vm {self.name}", vm))

    def start_agent(self, host):
        """As a boot would: configuration, the guest's file for either role, the agent."""
        self.lab.create_guest(host, self.kind, self.name, start=False, addr=self.addr, load=self.load,
                              memory=self.memory if host == "a" else self.memory_b,
                              vcpus=self.vcpus, tsc=self.tsc)
        self.lab.sh(host, f"mkdir -p {ETC} /lab/state-{host}/{self.name} && umask 077 && cat >{ETC}/keys.psk", data=self.secrets)
        self.lab.sh(host, f"cat >{CONF} && (setsid replicad agent --config {CONF} >>/lab/agent-{host}.log 2>&1 &) </dev/null",
                    data=self.configuration(host))
        self.lab.sh(host, f"n=0; until replicad status --config {CONF} >/dev/null 2>&1 || [ $? != 4 ]; do "
                    f"n=$((n+1)); [ $n -lt {AGENT_WAIT_S} ] || exit 1; sleep 0.5; done")
        self.events[host] = Events(self.lab, host, self.name)

    def stop_agent(self, host):
        events = self.events.pop(host, None)
        if events:
            events.close()
        if self.lab.alive(host):
            self.lab.sh(host, "for p in $(pidof replicad replicad-keeper replicad-mover); do kill -9 $p; done; exit 0")

    def replicad(self, host, *argv, check=True, timeout=labhost.COMMAND_TIMEOUT_S):
        return self.lab.sh(host, f"replicad {' '.join(argv)} --config {CONF}", check=check, timeout=timeout)

    def status(self, host):
        vms = json.loads(self.replicad(host, "status", "--json", check=False)[1]).get("vms", [])
        return next((vm for vm in vms if vm["vm"] == self.name), {})

    def running(self, host):
        """The guests there, but for a domain that is a replica, which is paused."""
        rows = [line.split() for line in self.lab.sh(host, "xl list").splitlines()[1:]]
        return [row[0] for row in rows if row[0] != "Domain-0" and "p" not in row[4]]

    # -- the guest and its protection

    def start(self):
        """Both hosts, the agents, the guest on host a."""
        self.etcd.start()
        down = [host for host in "ab" if not self.lab.alive(host)]
        for host in down:
            self.lab.power_on(host)
        for host in down:
            self.lab.wait_ready(host)
        for host in "ab":
            self.start_agent(host)
        self.lab.sh("a", f"xl create /root/{self.name}.cfg")
        self.home = "a"
        self.lab.wait_guest(self.addr)

    def protect(self):
        """Seconds until it was protected."""
        begin = time.monotonic()
        self.replicad(self.home, "protect", "--timeout", str(PROTECT_S), self.name, timeout=PROTECT_S + 30)
        return time.monotonic() - begin

    def wait_protected(self, since=0):
        return self.events[self.home].wait("protected", state_is("P_PROTECTED"), PROTECT_S, since)[0]

    def replica(self):
        """What the backup should have: no guest here has a disk."""
        wanted = self.keys.get("replica", "auto")
        return wanted if wanted != "auto" else "memfd" if self.kind == "hvm" else "domain"

    def events_now(self, host):
        return len(self.events[host].list)

    # -- the client

    def spawn(self, _name, argv, **kwargs):
        return subprocess.Popen(self.lab.inside(argv), **kwargs)

    def converse(self, command, patience_s):
        """One command, over a connection of its own."""
        script = (f"import socket; s = socket.create_connection(('{self.addr}', 6379), 20); s.settimeout({patience_s}); "
                  f"s.sendall(b'{command}\\r\\nQUIT\\r\\n'); print(s.makefile().read())")
        return subprocess.run(self.lab.inside([sys.executable, "-c", script]), capture_output=True, text=True, check=False)

    def tell(self, command):
        """What ends the guest, perhaps before a checkpoint lets its reply go; and with its interface what was held is gone."""
        self.converse(command, TELL_S)

    def ask(self, command):
        """The reply's last line."""
        done = self.converse(command, ASK_S)
        words = done.stdout.split()
        if done.returncode != 0 or len(words) < 2:
            raise LabError(f"the guest does not answer '{command}': {done.stdout} {done.stderr.strip()[-200:]}")
        return words[-2]

    def wait_checker(self):
        """The guest's service answers before its memory checker has reported, on a slow host by seconds, and the client's first
        request is a probe."""
        end = time.monotonic() + CLIENT_WAIT_S
        while not self.ask(f"GET {ROUNDS}").isdigit():
            if time.monotonic() > end:
                raise LabError(f"the guest's memory checker has not reported within {CLIENT_WAIT_S} s")
            time.sleep(LOOK_S)

    def start_client(self):
        """The counter begins at what an earlier client left."""
        self.wait_checker()
        self.clients += 1
        said = self.ask(f"GET {KEY}")
        self.counted = int(said) if said.isdigit() else 0
        base = os.path.join(self.work, f"client-{self.clients}")
        self.client = Client(self, base + ".jsonl", base + ".err", host=self.addr, think_ms=THINK_MS)

    def replies(self, count, since, timeout=CLIENT_WAIT_S):
        """Wait until so many replies came from `since` (ns) on."""
        end = time.monotonic() + timeout
        while self.client.replies_since(since) < count:
            self.client.check()
            if time.monotonic() > end:
                raise LabError(f"{self.client.replies_since(since)} replies of {count} within {timeout} s")
            time.sleep(LOOK_S)

    def judged(self, facts, timeout=CLIENT_WAIT_S):
        """The client goes on until the oracle has seen enough, or something is broken for good; then it ends."""
        end = time.monotonic() + timeout
        soon = {"get-after", "no-checker", "silent"}
        while True:
            verdict = oracle.judge(list(self.client.poll()), facts)
            final = verdict.state == "passed" or {name for name, _ in verdict.violations} - soon
            if final or time.monotonic() > end:
                break
            time.sleep(LOOK_S)
        self.client.stop()
        return oracle.judge(self.client.records, facts)

    def gap_ms(self, around):
        """The longest time without a reply that contains, or begins after, this moment."""
        times = [r["t"] for r in self.client.poll() if r["e"] == "recv"]
        gaps = [(b - a) / 1e6 for a, b in zip(times, times[1:]) if b >= around]
        return round(max(gaps, default=0))

    def clock_off_s(self, around):
        """How much further than ours the guest's clock went, from the client's last look at it before this moment to its last one of all:
        it looks at reports that are a few seconds old. A processor's own clock is another one on each host."""
        looks = [(r["t"] / 1e9, r["val"]["uptime"]) for r in self.client.records
                 if r["e"] == "recv" and isinstance(r["val"], dict) and r["val"]["uptime"]]
        before, after = [look for look in looks if look[0] < around / 1e9][-1], looks[-1]
        return round(after[1] - before[1] - (after[0] - before[0]), 1)

    # -- power loss

    def kill_home(self):
        """Power loss of the host where the guest runs; (ns of it, the takeover event's arrival in ns, the event)."""
        heir = OTHER[self.home]
        since = self.events_now(heir)
        when = self.lab.kill(self.home)
        self.events.pop(self.home).close()
        self.home = heir
        at, event = self.events[heir].wait("takeover", lambda e: e["event"] == "takeover", TAKEOVER_S, since)
        return when, at, event

    def kill_round(self, rng):
        """One client's life: the guest gets protected, its host loses power at a random instant, the client goes on. Its figures;
        raises if anything was lost."""
        self.start_client()
        self.replies(oracle.REPLIES_MIN, 0)
        begin = time.monotonic()
        if self.lab.alive(OTHER[self.home]):
            self.protect()
        else:
            since = self.events_now(self.home)
            self.power_on(OTHER[self.home])
            self.wait_protected(since)
        protected_s = time.monotonic() - begin
        self.replies(PROTECTED_REPLIES, time.monotonic_ns())
        status = self.status(self.home)
        replica = self.status(OTHER[self.home]).get("replica")
        if replica != self.replica():
            raise LabError(f"the replica is {replica}, it should be {self.replica()}")
        time.sleep(rng.uniform(0, 2 * self.keys["interval_ms"] / 1000))
        when, at, event = self.kill_home()
        verdict = self.judged(oracle.Facts(when, when, at, self.counted))
        figures = {"kind": self.kind, "replica": replica, "heir": self.home,
                   "detection_ms": self.keys["suspect_ms"] + self.keys["takeover_delay_ms"],
                   "interval_ms": self.keys["interval_ms"], "netbuf": self.keys.get("netbuf", "plug"),
                   "kill_to_running_ms": round((at - when) / 1e6),
                   "detect_ms": event["detect_ms"], "claim_ms": event["claim_ms"], "run_ms": event["run_ms"],
                   "client_gap_ms": self.gap_ms(when), "pause_p50_us": status.get("pause_p50_us"),
                   "dirty_pages": status.get("dirty_pages_avg"), "protect_s": round(protected_s, 1),
                   "replies": [verdict.replies_before, verdict.replies_after], "in_flight": verdict.in_flight, "lost": verdict.lost,
                   "passes_after": verdict.rounds_after, "verdict": verdict.state}
        if verdict.state != "passed":
            raise LabError(f"{verdict.state}: {verdict.violations} {verdict.invalid}; {json.dumps(figures)}")
        figures["guest_clock_off_s"] = self.clock_off_s(when)
        if abs(figures["guest_clock_off_s"]) > CLOCK_OFF_MAX_S:
            raise LabError(f"the guest's clock jumps: {json.dumps(figures)}")
        return figures

    def power_on(self, host):
        self.lab.power_on(host)
        self.lab.wait_ready(host)
        self.start_agent(host)

    # -- the end

    def close(self):
        if self.client:
            self.client.process.kill()
            self.client.process.wait()
        alive = [host for host in "ab" if self.lab.alive(host)]
        for host in sorted(alive, key=lambda host: host == self.home):  # the backup first: nobody takes over
            self._clean(host, self.stop_agent)
        for host in alive:
            self._clean(host, self._remove_all)
        self.etcd.kill()

    def _clean(self, host, clean):
        """What went wrong before is the story's outcome, not that a host which does not answer cannot be cleaned."""
        try:
            clean(host)
        except LabError as error:
            print(f"host {host} was not cleaned: {error}", file=sys.stderr)

    def _remove_all(self, host):
        self.lab.sh(host, f"cat /run/replicad/vm/{self.name}/*.log >/lab/keeper-{host}.log; "
                    f"xl destroy {self.name} 2>/dev/null; "
                    "for l in /sys/class/net/rp-*; do ip link del $(basename $l) 2>/dev/null; done; "
                    f"rm -rf /run/replicad {ETC} /lab/state-{host}/{self.name}; exit 0")
