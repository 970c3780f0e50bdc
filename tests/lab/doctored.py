"""`replicad doctor` on two real hosts: what it says of them as they are, and of differences that are made up."""
import copy
import json

from labhost import REPL, LabError, cache_dir
from twohosts import CONF, TwoHosts

SOUND = ("arbiter", "xen", "logdirty", "toolstack", "domain", "peer-xen", "cpu", "peer-memory", "netbuf")
LEVELS = ("ok", "warn", "fail")


def judged(what, outcome, name, level, part):
    """Of this check it says this; the status is what the worst check makes it."""
    status, checks = outcome
    worst = max((LEVELS.index(c["level"]) for c in checks), default=0)
    if status != (3 if worst == 2 else 0):
        raise LabError(f"{what}: exit {status} with {checks}")
    found = [c for c in checks if c["name"] == name]
    if not found or found[0]["level"] != level or part not in found[0]["sentence"]:
        raise LabError(f"{what}: expected {name}: {level}: '{part}', not {found or checks}")
    return found[0]["sentence"]


class Doctor:
    def __init__(self, pair):
        self.pair, self.lab = pair, pair.lab

    def run(self, host, *words, facts=None, pipe=""):
        """(exit status, checks)"""
        data = None if facts is None else json.dumps(facts)
        line = f"{pipe}replicad doctor --xen --json --config {CONF} {' '.join(words)} 2>/dev/null; s=$?; echo; echo $s"
        text, status = self.lab.sh(host, line, data=data).rstrip().rsplit("\n", 1)
        return int(status), json.loads(text)["checks"] if text.strip() else []

    def facts(self, host):
        return json.loads(self.lab.sh(host, "replicad doctor --facts"))

    def over_ssh(self, host, far):
        """As the manual has it: the other host's facts through ssh into ours."""
        with open(f"{cache_dir()}/key", encoding="utf-8") as f:
            self.lab.sh(host, "umask 077; mkdir -p /root/.ssh; cat >/root/.ssh/id_lab", data=f.read())
        return (f"ssh -i /root/.ssh/id_lab -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR "
                f"root@{REPL[far]} replicad doctor --facts </dev/null | ")


def cases(facts):
    """What is made up of the other host: (name, its facts, check, level, a part of the sentence)."""
    def forged(change):
        other = copy.deepcopy(facts)
        change(other)
        return other

    def without(bit):
        def change(other):
            for cpu in other["cpu"].values():
                cpu["1.edx"] &= ~(1 << bit)
        return change
    return (("a feature less", forged(without(26)), "cpu", "fail", "lacks 1 of the features of this domain's CPU: sse2"),
            ("an older Xen", forged(lambda o: o.update(minor=o["minor"] - 1)), "peer-xen", "fail", "older than"),
            ("a newer Xen", forged(lambda o: o.update(minor=o["minor"] + 1)), "peer-xen", "warn", "there is no way back"),
            ("no room", forged(lambda o: o.update(free_mib=7)), "peer-memory", "fail", "has 7 MiB free"),
            ("no paging to log with", forged(lambda o: o.update(hap=False, shadow=False)), "peer-logdirty", "warn", "cannot come back"),
            ("no such guests", forged(lambda o: o["cpu"].pop("hvm")), "cpu", "fail", "cannot run pvh guests"))


def refused_domain(doctor, figures):
    """What in the domain stands against a copy."""
    pair, lab = doctor.pair, doctor.lab
    domid = lab.sh("a", f"xl domid {pair.name}").strip()
    lab.sh("a", f"xenstore-write /libxl/{domid}/device/pci/0/frontend x")
    outcome = doctor.run("a", pair.name)
    lab.sh("a", f"xenstore-rm /libxl/{domid}/device/pci")
    figures["passthrough"] = judged("passthrough", outcome, "domain", "fail", "PCI device passed through")
    judged("not compared", doctor.run("a", pair.name), "peer", "warn", "was not compared")
    judged("no domain", doctor.run("a", "nobody"), "domain", "fail", "there is no domain 'nobody'")


def story(lab, figures):
    pair = TwoHosts(lab, "doc", "pvh")
    doctor = Doctor(pair)
    try:
        pair.start()
        for host, far in (("a", "b"), ("b", "a")):
            outcome = doctor.run(host, *([pair.name] if host == "a" else []), "--peer", "-", pipe=doctor.over_ssh(host, far))
            for name in SOUND if host == "a" else set(SOUND) - {"domain", "peer-memory"}:
                judged(f"host {host}, nothing wrong", outcome, name, "ok", "")
            figures[f"on {host}"] = [c["sentence"] for c in outcome[1]]
        facts = doctor.facts("b")
        for what, other, name, level, part in cases(facts):
            figures[what] = judged(what, doctor.run("a", pair.name, "--peer", "-", facts=other), name, level, part)
        status, _ = doctor.run("a", pair.name, "--peer", "-", facts={**facts, "v": 2})
        if status != 2:
            raise LabError(f"facts of another version: exit {status}, not 2")
        refused_domain(doctor, figures)
        pair.etcd.kill()
        figures["no arbiter"] = judged("no arbiter", doctor.run("a", pair.name), "arbiter", "fail", "")
        lab.wait_guest(pair.addr)
    finally:
        pair.close()
