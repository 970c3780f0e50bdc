"""replicad and stock xl exchange a running guest between two real Xen hosts, in every direction.

One guest, which goes from part to part; its client keeps one connection open and counts:
files       xl save -> replicad restore; replicad save -> both verifiers, xl restore; again -> replicad restore; a damaged
            file creates nothing
from-xl     xl migrate -> replicad receive
to-xl       replicad migrate -> xl migrate-receive
to-replicad replicad migrate -> replicad receive
failures    replicad migrate fails in the middle: the receiver is killed, the link is cut
no-memory   replicad migrate to a host without, by either receiver
remus-killed  xl remus -s -> replicad receive, xl remus alone is killed: the guest begins there, whatever became of it here
remus       the same, power loss of the sender's host
The boot id stays, no answer is missing or given twice, the guest finds no bad page.
"""
import json
import os
import re
import shutil
import subprocess
import time

import labhost
import protected
from labhost import LabError

ADDR = "10.77.0.20"
PARTS = ("files", "from-xl", "to-xl", "to-replicad", "failures", "no-memory", "remus-killed", "remus")
MIGRATE_S = 900
RUNS_S = 400
RESTS_S = 3     # between two looks at a domain's processor time
OTHER = {"a": "b", "b": "a"}
SSH_PORT = 2222 # of an sshd that notices a dead peer
SSHD_PID = "/run/sshd-remus.pid"
TCP_PORT = 7000
SILENCE_S = 20
DOM0_WEIGHT = 4096     # a guest has 256
FILL = "fill"
LOUD = "TWO guests may run"
ENDED = "xl remus has ended"
VERIFY_STOCK = "PYTHONPATH=/usr/lib/xen-4.17/lib/python /usr/lib/xen-4.17/bin/verify-stream-v2"
ASK = """
import socket, sys
s = socket.create_connection((sys.argv[1], 6379), 20)
s.settimeout(60)
s.sendall(b"INCR kept\\r\\nGET guest:boot\\r\\nGET memcheck:bad\\r\\nQUIT\\r\\n")
print(s.makefile().read().replace("$-1", "$1 0")) # it has not looked yet
"""
# One connection, a request each tenth of a second until its input ends. Says: answers, first, last, longest silence in ms.
CLIENT = """
import select, socket, sys, time
s = socket.create_connection((sys.argv[1], 6379), 20)
s.settimeout(300)
f = s.makefile()
first = last = None
n, worst = 0, 0
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0.1)[0]:
    begin = time.monotonic()
    s.sendall(b"INCR kept\\r\\n")
    got = int(f.readline().strip().lstrip(":"))
    worst = max(worst, time.monotonic() - begin)
    if last is not None and got != last + 1:
        sys.exit("got %d after %d" % (got, last))
    first, last, n = first or got, got, n + 1
print(n, first, last, round(worst * 1000))
"""


class Client:
    """Somebody who is connected to the guest meanwhile."""

    def __init__(self, lab):
        self.process = subprocess.Popen(lab.inside(["python3", "-c", CLIENT, ADDR]), stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if self.process.stdout.readline().strip() != "ready":
            raise LabError("the client cannot connect: " + self.process.stderr.read()[-300:])

    def end(self):
        out, err = self.process.communicate()
        if self.process.returncode != 0:
            raise LabError(f"the client's connection: {err.strip()[-300:]}")
        return dict(zip(("answers", "first", "last", "silence_ms"), map(int, out.split())))

    def kill(self):
        self.process.kill()
        self.process.communicate()


class Interop:
    def __init__(self, lab, kind):
        self.lab = lab
        self.name = f"{kind}io"
        self.kind = kind
        self.counted = 0
        self.home = "a"
        self.boot = None

    def ask(self):
        done = subprocess.run(self.lab.inside(["python3", "-c", ASK, ADDR]), capture_output=True, text=True, check=False)
        said = done.stdout.split()
        if done.returncode != 0 or len(said) < 5:
            raise LabError(f"the guest does not answer: {said} {done.stderr.strip()[-300:]}")
        return int(said[0].lstrip(":")), said[2], said[4]

    def check_guest(self, lost=False):
        """It is the same guest and has forgotten nothing; `lost`: it may have."""
        self.lab.wait_guest(ADDR)
        got, boot, bad = self.ask()
        if bad != "0" or (self.boot and boot != self.boot):
            raise LabError(f"boot id {boot}, was {self.boot}; {bad} bad pages")
        if not lost and got != self.counted + 1:
            raise LabError(f"the guest counts {got}, expected {self.counted + 1}")
        self.counted, self.boot = got, boot

    def start(self):
        shutil.copy(os.path.join(labhost.HERE, "tcp.py"), self.lab.share)
        for host in OTHER:      # the guest's memory checker never rests, and a host has one CPU
            self.lab.sh(host, f"xl sched-{self.lab.scheduler()} -d Domain-0 -w {DOM0_WEIGHT}")
        self.lab.create_guest("a", self.kind, self.name, addr=ADDR)
        self.check_guest()

    def domains(self, host):
        """The guests there, but for the one that fills the memory."""
        names = [line.split()[0] for line in self.lab.sh(host, "xl list").splitlines()[1:]]
        return [n for n in names if n not in ("Domain-0", FILL)]

    def expect_domain(self, host, here=True):
        names = self.domains(host)
        if names != ([self.name] if here else []):
            raise LabError(f"domains on host {host}: {names}")

    def nothing_left(self, host):
        """No log-dirty, no note, no file of ours."""
        left = self.lab.sh(host, "ls -A /run/replicad/xen 2>/dev/null || true").split()
        if left:
            raise LabError(f"left in /run/replicad/xen of host {host}: {left}")

    # -- files

    def restore(self, command, path):
        begin = time.monotonic()
        self.lab.sh("a", f"{command} {path}", timeout=MIGRATE_S)
        took = round(time.monotonic() - begin, 1)
        self.check_guest()
        self.lab.sh("a", f"rm {path}")
        return took

    def files(self):
        save, figures = f"/root/{self.name}.save", {}
        self.lab.sh("a", f"xl save {self.name} {save}", timeout=MIGRATE_S)
        self.lab.sh("a", f"head -c -4096 {save} >/root/cut.save")
        status, said = self.lab.sh("a", "replicad restore /root/cut.save; s=$?; rm /root/cut.save; exit $s", check=False)
        if status != 3:
            raise LabError(f"restore of a damaged file: exit {status}: {said}")
        self.expect_domain("a", False)
        figures["xl save, replicad restore, s"] = self.restore("replicad restore", save)
        for command in ("xl restore", "replicad restore"):
            said = self.lab.sh("a", f"replicad save {self.name} {save}", timeout=MIGRATE_S)
            figures[f"replicad save before {command}"] = said.split(": ", 2)[-1].strip()
            self.expect_domain("a", False)
            self.nothing_left("a")
            self.lab.sh("a", f"replicad stream verify {save} && {VERIFY_STOCK} --format xl <{save}", timeout=MIGRATE_S)
            figures[f"replicad save, {command}, s"] = self.restore(command, save)
        return figures

    # -- migrations

    def listen(self, host, receiver, how="listen"):
        self.lab.sh(host, f"(/lab/tcp.py {how} {TCP_PORT} {receiver} >/dev/null 2>&1 &) </dev/null")
        return f"/lab/tcp.py {labhost.REPL[host]} {TCP_PORT}"

    def migrate(self, sender, receiver):
        """From where the guest is to the other host; the client's connection survives. What the sender said."""
        here, there = self.home, OTHER[self.home]
        rune = self.listen(there, receiver)
        client = Client(self.lab)
        try:
            begin = time.monotonic()
            status, said = self.lab.sh(here, f"{sender} -s '' {self.name} '{rune}' 2>/tmp/migrate.log", timeout=MIGRATE_S, check=False)
            took = time.monotonic() - begin
            if status != 0:
                raise LabError(f"{sender}: exit {status}: {said} {self.lab.sh(here, 'tail -5 /tmp/migrate.log')} far end: "
                               + self.lab.sh(there, "tail -5 /tmp/tcp.log"))
            self.home = there
            seen = client.end()
        except LabError:
            client.kill()
            raise
        self.counted = seen["last"]
        self.expect_domain(here, False)
        self.expect_domain(there)
        self.nothing_left(here)
        self.check_guest()
        return said, {"seconds": round(took, 1), "client": seen}

    def from_xl(self):
        return self.migrate("xl migrate", "replicad receive")[1]

    def ours(self, receiver):
        said, figures = self.migrate("replicad migrate --quiet --json", receiver)
        return {**json.loads(said), **figures}

    def to_xl(self):
        return self.ours("xl migrate-receive")

    def to_replicad(self):
        return self.ours("replicad receive")

    # -- a migration that fails

    def wait_domains(self, host, there):
        """Until a guest is there, or none."""
        end = time.monotonic() + MIGRATE_S
        while bool(self.domains(host)) != there:
            if time.monotonic() > end:
                raise LabError(f"domains on host {host} after {MIGRATE_S} s: {self.domains(host)}")
            time.sleep(1)

    def failing(self, before, receiver, meanwhile=None):
        """What happens in its middle lets it fail: the guest has not noticed, and nothing of it is on the other host."""
        here, far = self.home, OTHER[self.home]
        rune = self.listen(far, receiver, "slow" if meanwhile else "listen")
        client = Client(self.lab)
        sender = subprocess.Popen(self.lab.ssh_argv(here, ["--", f"replicad migrate --quiet --json -s '' {self.name} '{rune}'"]),
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            if meanwhile:
                self.wait_domains(far, True)
                meanwhile(far)
            out, said = sender.communicate(timeout=MIGRATE_S)
            report = json.loads(out) if out else {}
            if sender.returncode != 1 or report.get("outcome") != "here":
                raise LabError(f"a migration that had to fail: exit {sender.returncode}: {out} {said}")
            seen = client.end()
        except (LabError, ValueError, subprocess.TimeoutExpired):
            sender.kill()
            client.kill()
            raise
        self.counted = seen["last"]
        self.wait_domains(far, False)
        self.expect_domain(here)
        after = protected.footprint(self, here)
        if {**after, "channels": 0} != {**before, "channels": 0} or after["channels"] > before["channels"] + 1:
            raise LabError(f"left of a failed migration: {after}; before it: {before}")
        self.check_guest()
        return {"said": report["error"], "pages": report["pages"], "client": seen}

    def failures(self):
        """The receiver is killed; the link is cut and stays so."""
        far, figures, before = OTHER[self.home], {}, protected.footprint(self, self.home)
        figures["killed"] = self.failing(before, "replicad receive", lambda host: self.lab.sh(host, "kill -9 $(pidof replicad)"))
        try:
            figures["cut"] = self.failing(before, f"replicad receive --silence {SILENCE_S}", lambda host: self.lab.cut("repl", host, False))
        finally:
            self.lab.cut("repl", far, True)
        return figures

    def no_memory(self):
        """The other host has none left."""
        far, figures, before = OTHER[self.home], {}, protected.footprint(self, self.home)
        free = int(re.search(r"free_memory\s*:\s*(\d+)", self.lab.sh(far, "xl info")).group(1))
        self.lab.sh(far, f"sed s/memory=4/memory={free - protected.LEFT_MB}/ >/root/{FILL}.cfg && xl create -p /root/{FILL}.cfg",
                    data=self.lab.guest_config("tinypv", FILL))
        try:
            for receiver in ("replicad receive", "xl migrate-receive"):
                figures[receiver] = self.failing(before, receiver)
        finally:
            self.lab.sh(far, f"xl destroy {FILL}")
        return figures

    # -- remus

    def connect(self, sender):
        """The sender's root may log in at the receiver, whose sshd finds out within seconds that a sender is dead."""
        with open(os.path.join(labhost.cache_dir(), "key"), encoding="utf-8") as f:
            self.lab.sh(sender, "umask 077; cat >/root/.ssh/id_lab", data=f.read())
        self.lab.sh(OTHER[sender], f"kill -0 $(cat {SSHD_PID}) 2>/dev/null || /usr/sbin/sshd -p {SSH_PORT} -o PidFile={SSHD_PID} "
                    "-o ClientAliveInterval=1 -o ClientAliveCountMax=3")
        return (f"ssh -i /root/.ssh/id_lab -p {SSH_PORT} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null "
                f"-o LogLevel=ERROR root@{labhost.REPL[OTHER[sender]]} replicad receive --")

    def start_remus(self, interval_ms):
        """A stock sender to `replicad receive` on the other host, which has said what to expect; some checkpoints are made."""
        sender, far = self.home, OTHER[self.home]
        rune = self.connect(sender)
        self.lab.sh(sender, f"(xl remus -i {interval_ms} -F -n -d -s '{rune}' {self.name} x; echo {ENDED}) >/tmp/remus.log 2>&1 </dev/null &")
        end = time.monotonic() + MIGRATE_S
        while "first checkpoint is complete" not in (said := self.lab.sh(sender, "cat /tmp/remus.log")):
            if time.monotonic() > end or ENDED in said:
                raise LabError("no first checkpoint: " + said[-600:])
            time.sleep(3)
        if LOUD not in self.lab.sh(sender, "cat /tmp/remus.log"):
            raise LabError(f"no word to a Remus sender's operator: '{LOUD}'")
        self.expect_domain(far, False)
        self.check_guest()
        time.sleep(5) # some more checkpoints

    def built(self, far):
        """Until the far end has a domain of the guest's name; when that began."""
        begin = time.monotonic()
        self.wait_domains(far, True)
        return begin

    def taken_over(self, far, begin):
        before, self.home = self.counted, far
        self.check_guest(lost=True) # stock releases output before the copy is there: it may be behind
        return {"answers again after, s": round(time.monotonic() - begin, 1), "acknowledged": before, "first answer": self.counted}

    def looked_at(self, host):
        """What xl says of the guest there, and if it has processor time: its memory checker never rests."""
        rows = []
        for _ in range(2):
            rows += [line.split() for line in self.lab.sh(host, "xl list").splitlines() if line.split()[0] == self.name]
            time.sleep(RESTS_S)
        if len(rows) != 2:
            raise LabError(f"{self.name} on host {host}: {rows}")
        return {"state": rows[1][4], "runs": float(rows[1][5]) > float(rows[0][5])}

    def remus_killed(self):
        """Its host lives, and the guest there runs on, or stands for good if it was suspended just then; its operator has to end one."""
        self.start_remus(2000)  # it runs most of the time
        sender, far = self.home, OTHER[self.home]
        self.lab.sh(sender, "kill -9 $(pgrep -f '/xl [r]emus')")
        begin = self.built(far)
        while "is here and runs" not in (said := self.lab.sh(sender, "cat /tmp/remus.log")):
            if time.monotonic() - begin > RUNS_S:
                raise LabError("the end of a stream is a takeover, but: " + said[-600:])
            time.sleep(1)
        figures = {"the sender's": self.looked_at(sender), "the receiver's": self.looked_at(far)}
        if not figures["the receiver's"]["runs"]:
            raise LabError(f"it should run on {far}: {figures}")
        self.lab.sh(sender, f"xl destroy {self.name}")
        return {**figures, **self.taken_over(far, begin)}

    def remus(self):
        self.start_remus(200)
        far = OTHER[self.home]
        self.lab.kill(self.home)
        return self.taken_over(far, self.built(far))

    def end(self):
        """Nothing is left, whatever went wrong. Receivers first: the end of a Remus stream is a takeover."""
        for host in OTHER:
            if self.lab.alive(host):
                self.lab.sh(host, "pkill -9 -f 'replicad [r]eceive'; exit 0")
        for host in OTHER:
            if self.lab.alive(host):
                self.lab.sh(host, f"kill $(pidof -x tcp.py) 2>/dev/null; pkill -9 -f '/xl [r]emus'; "
                            f"for n in {self.name} {self.name}--incoming; do xl destroy $n 2>/dev/null; done; exit 0")


def play(lab, kind, parts, tell):
    """The parts, in this order, on one guest; tell(part, figures) after each. Both hosts run before and after."""
    for host in OTHER:      # a part of the one before may have been its host's power loss
        if not lab.alive(host):
            lab.power_on(host)
            lab.wait_ready(host)
    guest = Interop(lab, kind)
    try:
        guest.start()
        for part in PARTS:
            if part in parts:
                tell(part, getattr(guest, part.replace("-", "_"))())
    finally:
        guest.end()
