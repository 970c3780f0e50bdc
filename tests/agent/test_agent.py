#!/usr/bin/env python3
"""The agent with keepers that have no guest: what it starts, keeps, finds again, refuses and removes."""
import grp
import json
import os
import pwd
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import BUILD, REPLICAD, WAIT_S, Base, Talk, preamble, wait_until  # noqa: E402

UUID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
OTHER = "6ba7b811-9dad-11d1-80b4-00c04fd430c8"
PEER = "[peer beta]\naddress = 192.0.2.7:1234\n"
CRAMPED_UUID, MUTE_UUID = "6ba7b812-9dad-11d1-80b4-00c04fd430c8", "6ba7b813-9dad-11d1-80b4-00c04fd430c8"
STANDBY = f"[vm okstandby]\nuuid = {UUID}\nstandby = /nowhere/argv\n"
QMP = ("--qmp", "/nowhere/qmp", "--backup", "beta")
CRAMPED = "a takeover of it needs 33 MiB, Xen has 32 MiB free on this host: free some, or give dom0 less"
DONE, FAILED, USAGE, REFUSED, UNREACHABLE = 0, 1, 2, 3, 4
NO_BACKOFF_S = 10  # far below the backoff of a keeper that keeps failing, far above what a busy machine takes


def qmp_of(vm):
    """No two VMs may have the same."""
    return "--qmp", f"/nowhere/{vm}.qmp", "--backup", "beta"


def real_program():
    """The program itself where libtool has put a script in its place."""
    hidden = os.path.join(os.path.dirname(REPLICAD), ".libs", "replicad")
    return hidden if os.path.exists(hidden) else REPLICAD


def open_and_read(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


def open_and_write(path, text):
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)


class AgentTest(unittest.TestCase):
    def setUp(self):
        self.base = Base()
        self.alpha = self.base.agent("alpha", PEER)

    def tearDown(self):
        self.assertEqual([s for s in self.base.end() if s], [])

    def protect(self, vm="ok1"):
        done = self.alpha.command("protect", vm, *qmp_of(vm))
        self.assertEqual(done.returncode, DONE, done.stderr)

    def keeper_pid(self, vm="ok1"):
        return self.alpha.keeper_pid(vm)

    def assert_nothing_left(self, agent):
        wait_until("end of the keepers", lambda: agent.vm_dirs() == [])
        self.assertEqual(agent.wanted(), [])
        self.assertEqual(agent.conf_d(), [])
        self.assertEqual(self.base.left(), [agent.process.pid])


class Life(AgentTest):
    def test_starts_and_ends_without_a_trace(self):
        self.alpha.start()
        self.assertEqual(os.stat(self.alpha.sock).st_mode & 0o777, 0o600)
        self.assertEqual(self.alpha.command("status").returncode, 0)
        self.assertEqual(self.alpha.stop(), 0)
        self.assertFalse(os.path.exists(self.alpha.sock))
        self.assertEqual(self.alpha.command("status").returncode, UNREACHABLE)

    def test_one_agent_per_run_dir(self):
        self.alpha.start()
        second = subprocess.run(self.alpha.argv(), capture_output=True, text=True, check=False)
        self.assertEqual(second.returncode, FAILED)
        self.assertIn("another agent uses run_dir", second.stderr)
        self.assertTrue(self.alpha.ask("ping")["ok"])

    def test_two_agents_on_one_machine(self):
        self.alpha.start()
        beta = self.base.agent("beta", PEER)
        beta.start()
        self.protect()
        self.assertEqual(beta.ask("status")["vms"], [])
        self.assertNotEqual(self.alpha.port(), beta.port())
        self.assertEqual(beta.ask("ping")["agent"]["node"], "beta")

    def test_a_faulty_configuration_is_named(self):
        self.alpha.write_conf("[vm x]\ninterval = 5\n")
        done = subprocess.run(self.alpha.argv(), capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, FAILED)
        self.assertIn(f"{self.alpha.conf}:8: unknown key 'interval' in section [vm x]", done.stderr)

    def test_a_taken_address_is_named(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            with open(self.alpha.conf, encoding="utf-8") as f:
                text = f.read().replace("127.0.0.1:0", f"127.0.0.1:{port}")
            with open(self.alpha.conf, "w", encoding="utf-8") as f:
                f.write(text)
            done = subprocess.run(self.alpha.argv(), capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, FAILED)
        self.assertIn(f"127.0.0.1:{port}: Address already in use", done.stderr)


class Protect(AgentTest):
    def test_protect_and_unprotect(self):
        self.alpha.start()
        argv = [REPLICAD, "protect", "okgate1", *QMP, "--interval", "25", "-o", "tracker=compare", "--config", self.alpha.conf]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL) as command:
            self.assertEqual(command.stdout.readline(), "okgate1: P_SYNC\n")
            open_and_write(os.path.join(self.alpha.run, "vm", "okgate1", "go"), "")
            said, complaint = command.communicate()
        self.assertEqual(command.returncode, DONE, complaint)
        self.assertIn("okgate1: P_PROTECTED\nokgate1: protected towards beta after", said)
        vm = self.alpha.vm("okgate1")
        self.assertEqual((vm["state"], vm["role"], vm["wanted"], vm["keeper"]), ("P_PROTECTED", "primary", True, "running"))
        self.assertEqual((vm["interval_ms"], vm["peer_address"]), (25, "192.0.2.7:1234"))
        self.assertEqual((self.alpha.wanted(), self.alpha.conf_d()), (["okgate1"], ["okgate1.conf"]))
        shown = self.alpha.command("status", "okgate1")
        self.assertEqual(shown.returncode, 0)
        self.assertEqual(shown.stdout.splitlines()[-1], "would survive: primary crash YES, backup crash YES, both lose power NO "
                         "(durability=memory)")
        self.assertEqual(self.alpha.command("unprotect", "okgate1").returncode, DONE)
        self.assert_nothing_left(self.alpha)
        self.assertEqual(self.alpha.command("unprotect", "okgate1").returncode, FAILED)
        self.assertEqual(self.alpha.command("status", "okgate1").returncode, 3)

    def test_people_see_what_the_keeper_says(self):
        self.alpha.start()
        self.protect("okcramped1")
        lines = self.alpha.command("status", "okcramped1").stdout.splitlines()
        for line in ("replica            memfd", "ahead              no", "scan us            1.500 ms", "copy us            2.500 ms",
                     "encode us          3.500 ms", "WARNING: a takeover now would find NO ROOM: " + CRAMPED):
            self.assertIn(line, lines)
        self.assertIn("  no room for a takeover: " + CRAMPED, self.alpha.command("status").stdout.splitlines())
        self.protect("ok1")
        self.assertNotIn("ROOM", self.alpha.command("status", "ok1").stdout)

    def test_waiting_for_protection_looks_seldom(self):
        # each look is work for the host that copies, and for the guest's neighbours there
        self.alpha.start()
        argv = [REPLICAD, "protect", "okgate1", *QMP, "--config", self.alpha.conf]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL) as command:
            self.assertEqual(command.stdout.readline(), "okgate1: P_SYNC\n")
            time.sleep(3)
            self.assertIn(self.alpha.vm("okgate1")["looks"], range(2, 8))
            open_and_write(os.path.join(self.alpha.run, "vm", "okgate1", "go"), "")
            _, complaint = command.communicate()
        self.assertEqual(command.returncode, DONE, complaint)

    def test_debug_holds_for_keepers(self):
        plain = self.alpha.argv
        self.alpha.argv = lambda: [*plain(), "--debug"]
        self.alpha.start()
        self.protect()
        with open(os.path.join(self.alpha.run, "vm", "ok1", "keeper.json"), encoding="utf-8") as f:
            self.assertEqual(json.load(f)["agent"]["log_level"], "debug")

    def test_a_second_protect_changes_nothing(self):
        self.alpha.start()
        self.protect()
        pid = self.keeper_pid()
        self.assertEqual(self.alpha.command("protect", "ok1").returncode, DONE)
        other = self.alpha.command("protect", "ok1", "--qmp", "/else", "--backup", "gamma")
        self.assertEqual(other.returncode, REFUSED)
        self.assertIn("unprotect it first", other.stderr)
        self.assertEqual(self.keeper_pid(), pid)
        self.assertEqual(self.alpha.vm("ok1")["state"], "P_PROTECTED")

    def test_refusals_leave_nothing(self):
        self.alpha.start()
        for vm, why in (("refuse1", "the guest has a vhost-user device"), ("late1", "the backup has no standby for it")):
            done = self.alpha.command("protect", vm, *qmp_of(vm))
            self.assertEqual(done.returncode, REFUSED)
            self.assertIn(why, done.stderr)
        self.assert_nothing_left(self.alpha)
        self.assertEqual(self.alpha.vm("late1")["refused"], "the backup has no standby for it")

    def test_a_keeper_that_cannot_start(self):
        self.alpha.start()
        done = self.alpha.command("protect", "die1", *QMP)
        self.assertEqual(done.returncode, FAILED)
        self.assertIn("ended with status 3: cannot live like this", done.stderr)
        self.assert_nothing_left(self.alpha)
        os.unlink(os.path.join(self.alpha.libexec, "replicad-keeper"))
        done = self.alpha.command("protect", "ok1", *QMP)
        self.assertEqual(done.returncode, FAILED)
        self.assertIn("replicad-keeper: No such file", done.stderr)
        self.assert_nothing_left(self.alpha)

    def test_what_is_missing_or_wrong_is_named(self):
        self.alpha.start()
        for argv, status, said in (
                (("protect", "ok1"), FAILED, "no section [vm ok1]"),
                (("protect", "ok1", "--qmp", "/q"), FAILED, "backup is not set"),
                (("protect", "ok1", "--backup", "beta"), FAILED, "qmp is not set"),
                (("protect", "ok1", *QMP, "--interval", "1"), FAILED, "interval_ms = 1: allowed is a whole number from 5 to 10000"),
                (("protect", "ok1", *QMP, "-o", "nonsense=1"), FAILED, "unknown key 'nonsense'"),
                (("protect", "ok1", *QMP, "-o", "node=x\n[agent]"), FAILED, "holds a line break"),
                (("protect", "../x", *QMP), FAILED, "is no VM's name"),
                (("protect",), USAGE, "which VM?"),
                (("protect", "a", "b"), USAGE, "one argument too many"),
                (("protect", "ok1", "--timeout", "0"), USAGE, "--timeout 0"),
                (("unprotect", "ok1"), FAILED, "not protected here")):
            done = self.alpha.command(*argv)
            self.assertEqual(done.returncode, status, (argv, done.stderr))
            self.assertIn(said, done.stderr)
        self.assert_nothing_left(self.alpha)

    def test_a_file_of_the_operator_is_left_alone(self):
        os.mkdir(os.path.join(self.alpha.base, "conf.d"))
        path = os.path.join(self.alpha.base, "conf.d", "ok1.conf")
        text = "[vm ok1]\nqmp = /q\nbackup = beta\n"
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        self.alpha.start()
        self.assertEqual(self.alpha.command("protect", "ok1", *QMP).returncode, FAILED)
        self.assertEqual(self.alpha.command("protect", "ok1").returncode, DONE)
        self.assertEqual(self.alpha.command("unprotect", "ok1").returncode, DONE)
        with open(path, encoding="utf-8") as f:
            self.assertEqual(f.read(), text)


class Supervision(AgentTest):
    def test_keepers_outlive_the_agent_and_are_found_again(self):
        self.alpha.start()
        self.protect()
        pid = self.keeper_pid()
        for end in (self.alpha.stop, self.alpha.kill):
            end()
            self.assertEqual(self.base.left(), [pid])
            self.assertEqual(os.getsid(pid), pid)
            self.alpha.start()
            self.assertEqual(self.keeper_pid(), pid)
            self.assertEqual(self.alpha.vm("ok1")["state"], "P_PROTECTED")
        self.assertEqual(self.alpha.command("unprotect", "ok1").returncode, DONE)
        self.assert_nothing_left(self.alpha)

    def test_a_killed_keeper_is_replaced_at_once(self):
        self.alpha.start()
        self.protect()
        for again in (1, 2):  # the second one not quite at once
            pid = self.keeper_pid()
            killed = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            wait_until("protection", lambda: self.alpha.vm("ok1").get("restarts") == again and
                       self.alpha.vm("ok1")["state"] == "P_PROTECTED")
            self.assertLess(time.monotonic() - killed, NO_BACKOFF_S)
            self.assertNotEqual(self.keeper_pid(), pid)
        self.assertEqual(sum(e["event"] == "keeper-died" for e in self.alpha.events("ok1")), 2)

    def test_an_adopted_keeper_is_supervised_too(self):
        self.alpha.start()
        self.protect()
        self.alpha.kill()
        self.alpha.start()
        pid = self.keeper_pid()
        os.kill(pid, signal.SIGKILL)
        wait_until("protection", lambda: self.alpha.vm("ok1")["state"] == "P_PROTECTED" and self.keeper_pid() != pid)

    def test_wanted_protection_comes_back_after_everything_died(self):
        self.alpha.start()
        self.protect()
        pid = self.keeper_pid()
        self.alpha.kill()
        os.kill(pid, signal.SIGKILL)
        wait_until("its end", lambda: self.base.left() == [])
        self.alpha.start()
        wait_until("protection", lambda: self.alpha.vm("ok1")["state"] == "P_PROTECTED")
        self.assertEqual(self.alpha.command("unprotect", "ok1").returncode, DONE)
        self.assert_nothing_left(self.alpha)

    def test_what_a_dead_keeper_left_is_removed(self):
        self.alpha.start()
        self.alpha.kill()
        directory = os.path.join(self.alpha.run, "vm", "ok9")
        os.makedirs(directory)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
            dead.bind(os.path.join(directory, "keeper.sock"))
        self.alpha.start()
        self.assertEqual(self.alpha.vm_dirs(), [])

    def test_one_that_ended_on_purpose_while_no_agent_was_there_is_not_replaced(self):
        self.alpha.start()
        self.protect()
        pid = self.keeper_pid()
        self.alpha.kill()
        os.unlink(os.path.join(self.alpha.state, "wanted", "ok1"))
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(os.path.join(self.alpha.run, "vm", "ok1", "keeper.sock"))
            sock.send(b'{"v":1,"id":1,"cmd":"shutdown"}')
            wait_until("its end", lambda: self.base.left() == [])
        self.assertEqual(self.alpha.vm_dirs(), ["ok1"])
        self.alpha.start()
        self.assertEqual(self.alpha.vm_dirs(), [])
        self.assertEqual(self.alpha.events("ok1")[-1]["event"], "state")
        self.assertEqual(self.keeper_pid(), pid)

    def test_a_primary_by_configuration_is_followed_too(self):
        self.alpha.write_conf(PEER + "[vm ok2]\nrole = primary\nqmp = /q\nbackup = beta\n")
        self.alpha.start()
        wait_until("protection", lambda: self.alpha.vm("ok2")["state"] == "P_PROTECTED")
        self.assertEqual(self.alpha.wanted(), [])
        pid = self.keeper_pid("ok2")
        self.alpha.kill()
        os.kill(pid, signal.SIGKILL)
        wait_until("its end", lambda: self.base.left() == [])
        self.alpha.start()
        wait_until("protection", lambda: self.alpha.vm("ok2")["state"] == "P_PROTECTED")
        self.assertTrue(self.alpha.vm("ok2")["followed"])

    def test_a_mute_keeper_is_shown_as_such(self):
        self.alpha.start()
        with Talk(self.alpha.sock) as talk:
            talk.send(json.dumps({"v": 1, "cmd": "protect", "vm": "mute1", "set": {"qmp": "/q", "backup": "beta"}}).encode() + b"\n")
            wait_until("unresponsive", lambda: self.alpha.vm_now("mute1").get("keeper") == "unresponsive")
            self.assertEqual(self.alpha.vm_now("mute1")["state"], "unknown")
            self.assertEqual(self.alpha.command("status").returncode, 3)

    def test_an_old_wish_that_is_refused_is_tried_again(self):
        self.alpha.write_conf(PEER + "[vm once1]\nrole = primary\nqmp = /q\nbackup = beta\n")
        self.alpha.start()
        wait_until("a refusal", lambda: "vhost-user" in self.alpha.vm("once1").get("refused", ""))
        wait_until("protection", lambda: self.alpha.vm("once1")["state"] == "P_PROTECTED")
        self.assertNotIn("refused", self.alpha.vm("once1"))

    def test_roles_at_start(self):
        self.alpha.write_conf(PEER + STANDBY + "role = backup\n[vm ok2]\nrole = primary\nqmp = /q\nbackup = beta\n")
        self.alpha.start()
        wait_until("protection", lambda: self.alpha.vm("ok2")["state"] == "P_PROTECTED")
        wait_until("a waiting backup", lambda: self.alpha.vm("okstandby")["keeper"] == "running")
        self.assertEqual(self.alpha.vm("okstandby")["role"], "backup")


class Relays(AgentTest):
    """Real relays, with sockets in the place of taps."""

    def setUp(self):
        super().setUp()
        os.symlink(os.path.join(os.path.abspath(BUILD), "replicad-relay"), os.path.join(self.alpha.libexec, "replicad-relay"))
        b = self.alpha.base
        self.control = f"{b}/r"
        self.relay = f"[vm web]\nrelay = {b}/r\nrelay_ports = {b}/l,{b}/p,wire={b}/w,wire-peer={b}/x\n"

    def pids(self):
        """Relays that run, by what the agent says of them."""
        return [int(e["message"].split()[1].rstrip(",")) for e in self.alpha.events("web")
                if e["event"] in ("relay-start", "adopted")]

    def status(self):
        """[state, how often] of starts so far."""
        return [e["message"].split()[2].rstrip(",") for e in self.alpha.events("web") if e["event"] == "relay-start"]

    def test_one_that_dies_is_replaced(self):
        self.alpha.write_conf(self.relay)
        self.alpha.start()
        wait_until("the relay", lambda: os.path.exists(self.control))
        for count in (2, 3):
            os.kill(self.pids()[-1], signal.SIGKILL)
            wait_until("another relay", lambda count=count: len(self.pids()) == count)
        self.assertEqual(self.status(), ["open"] * 3)
        died = [e["message"] for e in self.alpha.events("web") if e["event"] == "relay-died"]
        self.assertTrue(all("was killed by signal 9" in m for m in died) and len(died) == 2, died)

    def test_one_that_hangs_is_killed_and_replaced(self):
        self.alpha.write_conf(self.relay)
        self.alpha.start()
        wait_until("the relay", lambda: os.path.exists(self.control))
        hung = self.pids()[-1]
        os.kill(hung, signal.SIGSTOP)
        wait_until("another relay", lambda: self.pids()[-1] != hung)
        said = [e["message"] for e in self.alpha.events("web") if e["event"] in ("alarm", "relay-died")]
        self.assertEqual(len(said), 2, said)
        self.assertIn(f"relay {hung} has not answered for 10 s", said[0])
        self.assertIn(f"relay {hung} was killed by signal 9", said[1])

    def test_one_that_lives_is_adopted_and_looked_after(self):
        self.alpha.write_conf(self.relay)
        self.alpha.start()
        wait_until("the relay", lambda: os.path.exists(self.control))
        first = self.pids()[-1]
        self.alpha.kill()
        self.alpha.start()
        self.assertEqual(self.pids()[-2:], [first, first])
        os.kill(first, signal.SIGKILL)
        wait_until("another relay", lambda: self.pids()[-1] != first)
        self.assertEqual(self.alpha.stop(), 0)
        self.assertEqual(len(self.base.left()), 1)  # it outlives the agent

    def test_where_a_keeper_is_or_will_be_it_begins_closed(self):
        self.alpha.write_conf(self.relay + "role = primary\n")
        self.alpha.start()
        wait_until("the relay", lambda: self.status() == ["closed"])

    def test_one_that_cannot_start_is_tried_again_and_said(self):
        self.alpha.write_conf(self.relay.replace("wire-peer", "nonsense"))
        self.alpha.start()
        wait_until("attempts", lambda: len(self.status()) >= 3)
        self.assertIn("ended with status 2", str(self.alpha.events("web")))


class Links(AgentTest):
    LATE = "no preamble in "

    def setUp(self):
        super().setUp()
        more = "".join(f"[vm {vm}]\nuuid = {uuid}\nstandby = /nowhere/argv\n"
                       for vm, uuid in (("okcramped", CRAMPED_UUID), ("mutestandby", MUTE_UUID)))
        self.alpha.write_conf(PEER + STANDBY + f"[vm oknone]\nuuid = {OTHER}\n{more}")
        self.alpha.start()

    def connect(self, data):
        sock = socket.create_connection(("127.0.0.1", self.alpha.port()))
        sock.settimeout(WAIT_S)
        sock.sendall(data)
        return sock

    def assert_closed(self, sock):
        with sock:
            try:
                self.assertEqual(sock.recv(1), b"")
            except ConnectionResetError:
                pass

    def test_a_peer_reaches_the_keeper_with_its_preamble_unread(self):
        hello = preamble(UUID)
        with self.connect(hello[:10]) as sock:
            time.sleep(0.1)
            sock.sendall(hello[10:] + b"more")
            wait_until("a link", lambda: self.alpha.vm("okstandby").get("links") == 1)
            vm = self.alpha.vm("okstandby")
            self.assertEqual(bytes.fromhex(vm["preamble"]), hello + b"more")
            self.assertEqual((vm["role"], vm["state"], vm["wanted"]), ("backup", "B_SEED", False))
        with self.connect(hello):
            wait_until("another", lambda: self.alpha.vm("okstandby").get("links") == 2)
        for cmd, said in (("unprotect", "unprotect it there"), ("protect", "protect it where it runs")):
            done = self.alpha.command(cmd, "okstandby")
            self.assertEqual(done.returncode, REFUSED)
            self.assertIn(said, done.stderr)
        self.assertEqual(self.alpha.command("unprotect", "okstandby", "--force").returncode, DONE)
        wait_until("its end", lambda: self.alpha.vm_dirs() == [])

    def backed_up(self):
        """The pid of a backup's keeper."""
        with self.connect(preamble(UUID)):
            wait_until("a link", lambda: self.alpha.vm("okstandby").get("links") == 1)
        return self.keeper_pid("okstandby")

    def test_a_backups_keeper_that_died_while_no_agent_was_there_is_followed(self):
        """What it noted may be the way to the only complete replica."""
        pid = self.backed_up()
        self.alpha.kill()
        os.kill(pid, signal.SIGKILL)
        wait_until("its end", lambda: self.base.left() == [])
        self.alpha.start()
        vm = wait_until("another keeper", lambda: self.alpha.vm("okstandby") if self.alpha.vm("okstandby").get("followed") else None)
        self.assertEqual((vm["keeper"], vm["role"], vm["restarts"], vm["wanted"]), ("running", "backup", 1, False))
        self.assertIn("role was backup", [e for e in self.alpha.events("okstandby") if e["event"] == "keeper-died"][-1]["message"])

    def test_a_copy_is_given_up_by_a_keeper_also_when_the_last_one_died(self):
        """Who else would end the standby?"""
        pid = self.backed_up()
        program = os.path.join(self.alpha.libexec, "replicad-keeper")
        os.rename(program, program + ".away")
        os.kill(pid, signal.SIGKILL)
        wait_until("a keeper that does not come", lambda: self.alpha.log().count("replicad-keeper: No such file") > 4)
        os.rename(program + ".away", program)
        done = self.alpha.command("unprotect", "okstandby", "--force")
        self.assertEqual(done.returncode, DONE, done.stderr)
        self.assert_nothing_left(self.alpha)

    def doctor(self, vm):
        """The checks of the doctor, by name."""
        done = self.alpha.command("doctor", vm, "--json")
        return done.returncode, {check["name"]: check for check in json.loads(done.stdout)["checks"]}

    def test_the_doctor_asks_a_backups_keeper(self):
        _, checks = self.doctor("okstandby")
        self.assertNotIn("takeover", checks)  # there is no copy
        for vm, uuid, level, sentence in (("okstandby", UUID, "ok", "knows of nothing that a takeover would lack"),
                                          ("okcramped", CRAMPED_UUID, "fail", CRAMPED)):
            with self.connect(preamble(uuid)):
                wait_until("a copy", lambda name=vm: self.alpha.vm(name).get("state") == "B_SEED")
                status, checks = self.doctor(vm)
            self.assertEqual(checks["takeover"]["level"], level)
            self.assertIn(sentence, checks["takeover"]["sentence"])
        self.assertEqual(status, REFUSED)
        self.assertIn("xl mem-set Domain-0", checks["takeover"]["mend"])
        self.alpha.stop()
        _, checks = self.doctor("okcramped")
        self.assertNotIn("takeover", checks)
        self.alpha.start()

    def test_others_are_turned_away(self):
        for data in (preamble("00000000-0000-0000-0000-000000000001"), preamble(OTHER), preamble(UUID, major=99),
                     preamble(UUID, magic=b"GET / HT"), b"\0" * 32):
            self.assert_closed(self.connect(data))
        sock = self.connect(b"REPLI")
        sock.shutdown(socket.SHUT_WR)
        self.assert_closed(sock)
        self.assertEqual(self.alpha.vm_dirs(), [])
        self.assertEqual(self.alpha.log().count("event=link-refused"), 6)

    def test_the_silent_give_way_and_are_closed(self):
        waiting = [self.connect(b"REP") for _ in range(33)]
        self.assert_closed(waiting.pop(0))
        with self.connect(preamble(UUID)):  # they keep nobody out
            wait_until("a link", lambda: self.alpha.vm("okstandby").get("links") == 1)
        for sock in waiting:
            self.assert_closed(sock)
        late, gave_way = self.alpha.log().count(self.LATE), self.alpha.log().count("it gave way to a later connection")
        self.assertEqual(late + gave_way, 33)
        self.assertGreaterEqual(gave_way, 2)

    def test_links_that_no_keeper_takes_give_way(self):
        links = [self.connect(preamble(MUTE_UUID)) for _ in range(70)]  # more than a keeper's requests under way
        wait_until("66 that gave way", lambda: self.alpha.log().count("has not answered to 4 times 'link': the oldest gave way") == 66)
        self.assertNotIn("requests under way", self.alpha.log())
        for sock in links:
            sock.close()


class Control(AgentTest):
    def setUp(self):
        super().setUp()
        self.alpha.start()

    def test_what_is_no_request_is_answered_and_survived(self):
        with Talk(self.alpha.sock) as talk:
            for raw, code in ((b"nonsense", "bad_request"), (b"", "bad_request"), (b"[]", "bad_request"), (b"{}", "bad_version"),
                              (b'{"v":2,"cmd":"ping"}', "bad_version"), (b'{"v":"1","cmd":"ping"}', "bad_version"),
                              (b'{"v":1}', "bad_request"), (b'{"v":1,"cmd":5}', "bad_request"),
                              (b'{"v":1,"v":1,"cmd":"ping"}', "bad_request"), (b'\xff\xfe', "bad_request"),
                              (b'{"v":1,"cmd":"reboot-the-moon"}', "unknown_command"), (b'{"v":1,"cmd":"protect"}', "bad_request"),
                              (b'{"v":1,"cmd":"protect","vm":7}', "bad_request"), (b'{"v":1,"cmd":"protect","vm":"a/b"}', "bad_request"),
                              (b'{"v":1,"cmd":"protect","vm":"a","set":[]}', "bad_request"),
                              (b'{"v":1,"cmd":"protect","vm":"a","set":{"qmp":1}}', "config"),
                              (b'{"v":1,"cmd":"unprotect","vm":"a","force":1}', "bad_request"),
                              (b'{"v":1,"cmd":"events","limit":-1}', "bad_request"), (b'{"v":1,"cmd":"events","limit":"x"}', "bad_request"),
                              (b'{"v":1,"cmd":"solo"}', "bad_request"), (b'{"v":1,"cmd":"solo","vm":"nobody"}', "not_found"),
                              (b'{"v":1,"cmd":"takeover","vm":"a","generation":"1"}', "bad_request"),
                              (b'{"v":1,"cmd":"status","vm":"nobody"}', "not_found"), (b"[" * 5000, "bad_request")):
                talk.send(raw + b"\n")
                reply = talk.read()
                self.assertEqual((reply["v"], reply["ok"], reply["error"]["code"]), (1, False, code), raw[:60])
                self.assertTrue(reply["error"]["message"])
            self.assertTrue(talk.ask("ping", field_of_the_future=1)["ok"])

    def test_what_the_keeper_decides_reaches_it(self):
        self.protect("ok1")
        for cmd in ("switchover", "solo", "takeover", "accept_loss"):
            reply = self.alpha.ask(cmd, vm="ok1", generation=7)
            self.assertEqual(reply["error"], {"code": "unknown_command", "message": f"{cmd} 7"})  # this keeper's way to say so
            self.assertNotIn("id", reply)

    def test_an_endless_request_ends_the_connection(self):
        with Talk(self.alpha.sock) as talk:
            talk.send(b'{"v":1,"cmd":"' + b"x" * 65536)
            self.assertEqual(talk.read()["error"]["code"], "bad_request")
            self.assertIsNone(talk.read())
        self.assertTrue(self.alpha.ask("ping")["ok"])

    def test_requests_are_answered_in_order(self):
        with Talk(self.alpha.sock) as talk:
            talk.send(b'{"v":1,"cmd":"protect","vm":"ok1","set":{"qmp":"/q","backup":"beta"}}\n{"v":1,"cmd":"status"}\n'
                      b'{"v":1,"cmd":"events","limit":0}\n{"v":1,"cmd":"ping"}\n')
            replies = [talk.read() for _ in range(4)]
        self.assertEqual([sorted(set(r) - {"v", "ok"}) for r in replies], [[], ["agent", "vms"], ["events"], ["agent"]])
        self.assertEqual(replies[1]["vms"][0]["keeper"], "running")

    def test_a_caller_who_leaves_or_does_not_read(self):
        for _ in range(70):  # more than may be connected at once
            with Talk(self.alpha.sock) as talk:
                talk.send(b'{"v":1,"cmd":"protect","vm":"ok1","set":{"qmp":"/q","backup":"beta"}}\n{"v":1,"c')
        wait_until("protection", lambda: self.alpha.vm("ok1").get("state") == "P_PROTECTED")
        many = [Talk(self.alpha.sock) for _ in range(64)]
        self.assertEqual(self.alpha_turned_away(), "busy")
        for talk in many:
            talk.sock.close()
        wait_until("room", lambda: self.alpha.ask("ping").get("ok"))

    def alpha_turned_away(self):
        with Talk(self.alpha.sock) as talk:
            return talk.read()["error"]["code"]

    def test_events_are_kept_followed_and_journaled(self):
        with Talk(self.alpha.sock) as talk:
            self.assertEqual(talk.ask("events", vm="ok1", follow=True, limit=0)["events"], [])
            self.protect("ok1")
            self.protect("ok2")
            seen = []
            while not seen or seen[-1].get("to") != "P_PROTECTED":
                seen.append(talk.read()["event"])
        self.assertEqual({e["vm"] for e in seen}, {"ok1"})
        self.assertTrue(all(e["node"] == "alpha" and e["time"].endswith("Z") for e in seen))
        before = self.alpha.events()
        self.alpha.kill()
        with open(os.path.join(self.alpha.state, "events.jsonl"), "a", encoding="utf-8") as f:
            f.write('{"seq": 99999, "cut by a cra')
        self.alpha.start()
        after = self.alpha.events()
        self.assertEqual(after[:len(before)], before)
        numbers = [e["seq"] for e in after]
        self.assertEqual(numbers, sorted(set(numbers)))
        shown = self.alpha.command("events", "ok1", "--json")
        self.assertEqual([json.loads(line)["vm"] for line in shown.stdout.splitlines()][0], "ok1")
        self.assertIn("state P_SYNC -> P_PROTECTED: armed", self.alpha.command("events", "ok1").stdout)

    def test_reload(self):
        self.protect("ok1")
        self.alpha.write_conf(PEER + "[vm ok1]\ninterval_ms = 99999\n")
        done = self.alpha.command("agent", "--check")
        self.assertEqual(done.returncode, FAILED)
        self.assertIn("allowed is a whole number from 5 to 10000", done.stderr)
        with Talk(self.alpha.sock) as talk:
            self.assertEqual(talk.ask("reload")["error"]["code"], "config")
        self.alpha.process.send_signal(signal.SIGHUP)
        wait_until("a complaint", lambda: "the configuration in effect stays" in self.alpha.log())
        self.assertEqual(self.alpha.vm("ok1")["interval_ms"], 50)
        self.alpha.write_conf(PEER + "[vm ok1]\ninterval_ms = 20\n[vm ok3]\n")
        self.assertEqual(self.alpha.command("agent", "--reload").returncode, DONE)
        wait_until("the new interval", lambda: self.alpha.vm("ok1")["interval_ms"] == 20)
        self.assertEqual(self.alpha.vm("ok1")["state"], "P_PROTECTED")
        self.assertEqual(self.alpha.vm("ok3")["keeper"], "none")

    @unittest.skipUnless(os.geteuid() == 0, "needs root to be somebody else")
    def test_only_those_who_may(self):
        nobody = pwd.getpwnam("nobody")
        self.alpha.stop()
        for users, status, said in ((nobody.pw_name, 0, ""), ("daemon, bin", 3, "may use this socket")):
            self.alpha.write_conf("", agent=f"control_users = {users}")
            self.alpha.start()
            replicad = os.path.join(self.base.path, "replicad")  # the tree may be out of this user's reach
            shutil.copy(real_program(), replicad)
            done = subprocess.run([replicad, "status", "--json", "--socket", self.alpha.sock], capture_output=True, text=True,
                                  check=False, user=nobody.pw_uid, group=nobody.pw_gid, extra_groups=[])
            self.assertEqual((done.returncode, said in done.stderr), (status, True), done.stderr)
            self.assertEqual(self.alpha.stop(), 0)
        self.alpha.write_conf("", agent=f"control_group = {grp.getgrgid(nobody.pw_gid).gr_name}")
        self.alpha.start()
        found = os.stat(self.alpha.sock)
        self.assertEqual((found.st_gid, oct(found.st_mode & 0o777)), (nobody.pw_gid, oct(0o660)))

class Examples(AgentTest):
    """conf/: what stands there is fine as it is, and with every commented key switched on."""

    CONF = os.path.join(os.environ.get("top_srcdir", os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")), "conf")

    def check(self, *names, change=lambda text: text):
        text = "".join(open_and_read(os.path.join(self.CONF, name)) for name in names)
        with open(self.alpha.conf, "w", encoding="utf-8") as f:
            f.write(change(text))
        return self.alpha.command("agent", "--check")

    def test_they_are_valid(self):
        def all_on(text):
            return re.sub(r"^#(\w+ = )", r"\1", text, flags=re.M)

        for change in (str, all_on):
            done = self.check("replicad.conf", "example-vm.conf", change=change)
            self.assertEqual((done.returncode, done.stderr), (DONE, ""))
        shown = self.alpha.command("agent", "--show-config").stdout
        for line in ("node = alpha", "address = beta.example.net", "standby = /etc/replicad/web1.standby"):
            self.assertIn(f"\n{line}\n", shown)

    def test_the_service_and_the_users(self):
        unit = open_and_read(os.path.join(self.CONF, "replicad.service.in"))
        self.assertIn("\nKillMode=process\n", unit)  # or keepers would die with the agent
        users = re.findall(r"^[ug] +(\S+)", open_and_read(os.path.join(self.CONF, "replicad.sysusers")), re.M)
        for name in re.findall(r"^#(?:mover_user|standby_user|control_group) = (\S+)",
                               open_and_read(os.path.join(self.CONF, "replicad.conf")) +
                               open_and_read(os.path.join(self.CONF, "example-vm.conf")), re.M):
            self.assertIn(name, users)


class CommandLine(unittest.TestCase):
    def run_it(self, *argv, **env):
        return subprocess.run([REPLICAD, *argv], capture_output=True, text=True, check=False, env={**os.environ, **env})

    def test_help_and_wrong_calls(self):
        listed = [line.split()[0] for line in self.run_it("--help").stdout.split("commands:\n")[1].split("\n\n")[0].splitlines()]
        self.assertLessEqual({"protect", "unprotect", "status", "events", "agent", "demo"}, set(listed))
        for command in set(listed) & {"protect", "unprotect", "status", "events", "agent"}:
            done = self.run_it(command, "--help")
            self.assertEqual(done.returncode, DONE)
            self.assertIn("examples:", done.stdout)
            self.assertEqual(self.run_it("help", command).stdout, done.stdout)
            self.assertEqual(self.run_it(command, "--nonsense").returncode, USAGE)
        self.assertEqual(self.run_it().returncode, USAGE)
        self.assertEqual(self.run_it("frobnicate").returncode, USAGE)
        self.assertRegex(self.run_it("--version").stdout, r"^replicad \d")

    def test_without_an_agent(self):
        for argv in (("status",), ("events",), ("protect", "x"), ("unprotect", "x")):
            done = self.run_it(*argv, REPLICAD_SOCKET="/nowhere/agent.sock")
            self.assertEqual(done.returncode, UNREACHABLE, argv)
            self.assertIn("no agent answers; is `replicad agent` running?", done.stderr)

    def test_output_that_cannot_be_written_is_a_failure(self):
        with open("/dev/full", "w", encoding="ascii") as full:
            done = subprocess.run([REPLICAD, "--help"], stdout=full, stderr=subprocess.PIPE, check=False)
        self.assertEqual(done.returncode, FAILED)


if __name__ == "__main__":
    unittest.main()
