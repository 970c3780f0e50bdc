#!/usr/bin/env python3
"""Two agents, their real keepers and movers, TLS between them, and a simulated guest that checks its own memory when it
is activated: protection, the end of the agent, takeover after everything of the primary was killed, unprotect."""
import fcntl
import json
import os
import re
import secrets
import shutil
import signal
import socket
import sys
import time
import unittest

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "demo")]
from etcd import free_port  # noqa: E402
from harness import BUILD, Base, processes_under, wait_until  # noqa: E402

VM = "sim1"
UUID = "c15c0289-ec2d-0a91-1e61-397408ab415e"  # the simulated guest's own: it follows from its seed
KEY_BYTES = 32
OTHER_UUID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
DONE, REFUSED = 0, 3
IDLE_LOOKS_S = 3 # longer than a backup without work waits between two looks at the record
MOVER_STOPPED_S = 0.3   # longer than a keeper that waits for nothing takes to end
MOVER_PATIENCE_S = 0.9  # less than a mover may take to say its last word
SUSPECT_S = 1           # as configured by default
ANSWER_S = 4            # less than a connection may take to be answered
TAKEOVER_S = 10  # suspect_ms and takeover_delay_ms are 1.5 s; the rest is a busy machine


class PairTest(unittest.TestCase):
    def setUp(self):
        self.base = Base()
        self.key = secrets.token_hex(KEY_BYTES)
        self.ports = {"alpha": free_port("127.0.0.1"), "beta": free_port("127.0.0.1")}
        os.mkdir(os.path.join(self.base.path, "arbiter"))
        self.alpha = self.node("alpha", "beta", "backup = beta\nstandby = /dev/null\n")
        self.beta = self.node("beta", "alpha", "backup = alpha\nstandby = /dev/null\nrole = backup\n")
        self.beta.start()
        self.alpha.start()

    def tearDown(self):
        self.assertEqual([s for s in self.base.end() if s], [])

    def node(self, name, peer, vm):
        agent = self.base.agent(name)
        os.unlink(os.path.join(agent.libexec, "replicad-keeper"))
        os.rmdir(agent.libexec)
        os.symlink(os.path.abspath(BUILD), agent.libexec)
        keys = os.path.join(agent.base, "keys.psk")
        with open(os.open(keys, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="ascii") as f:
            f.write(f"alpha:{self.key}\nbeta:{self.key}\n")
        # output of a simulated guest goes nowhere, so there is nothing to hold
        agent.write_conf(f"[peer {peer}]\naddress = 127.0.0.1:{self.ports[peer]}\n[vm {VM}]\nuuid = {UUID}\nbackend = sim\n"
                         f"netbuf = none\ninsecure = yes\narena_mb = 32\n{vm}",
                         agent=f"arbiter_location = {self.base.path}/arbiter\nkeys = {keys}",
                         listen=f"127.0.0.1:{self.ports[name]}")
        return agent

    def protect(self):
        done = self.alpha.command("protect", VM, "--timeout", "30")
        self.assertEqual(done.returncode, DONE, done.stderr + self.keeper_logs())
        self.assertIn("protected towards beta", done.stdout)
        wait_until("a ready backup", lambda: self.beta.vm(VM)["state"] == "B_READY")

    def keeper_logs(self):
        text = ""
        for agent in (self.alpha, self.beta):
            path = os.path.join(agent.run, "vm", VM, "keeper.log")
            if os.path.exists(path):
                with open(path, encoding="utf-8") as f:
                    text += f"\n---- {agent.node}\n{f.read()}"
        return text

    def keeper_pid(self, agent):
        return agent.keeper_pid(VM)

    def test_protected_and_taken_over(self):
        self.protect()
        status = self.alpha.command("status", VM)
        self.assertEqual(status.returncode, 0)
        self.assertIn("would survive: primary crash YES, backup crash YES, both lose power NO (durability=memory)", status.stdout)
        self.assertIn("WARNING: output is NOT HELD", status.stdout)
        first = self.alpha.vm(VM)
        wait_until("checkpoints", lambda: self.alpha.vm(VM)["checkpoints"] > first["checkpoints"] + 3)
        self.assertEqual((first["tls"], first["peer"]), ("psk", "beta"))
        # the agent is not what protects
        self.alpha.kill()
        self.alpha.start()
        self.assertEqual(self.alpha.vm(VM)["state"], "P_PROTECTED")
        keeper = self.keeper_pid(self.alpha)
        movers = children(keeper)
        self.assertTrue(movers)
        self.alpha.kill()
        killed = time.monotonic()
        os.kill(keeper, signal.SIGKILL)
        wait_until("the takeover", lambda: self.beta.vm(VM)["state"] == "P_SOLO", TAKEOVER_S)
        self.assertGreater(time.monotonic() - killed, 0)
        vm = self.beta.vm(VM)
        self.assertEqual((vm["role"], vm["takeovers"]), ("primary", 1), self.keeper_logs())
        self.assertGreater(vm["generation"], first["generation"])
        told = [e for e in self.beta.events(VM) if e["event"] == "takeover"]
        self.assertEqual(len(told), 1)
        self.assertEqual(told[0]["generation"], vm["generation"])
        self.assertEqual(self.beta.command("status", VM).returncode, 1)
        wait_until("the end of the movers", lambda: not any(alive(pid) for pid in movers))

    def test_the_log_is_as_long_as_log_level_says(self):
        def logged():
            with open(os.path.join(self.alpha.run, "vm", VM, "keeper.log"), encoding="utf-8") as f:
                return f.read().count(" op=resume ")

        def say(before, after):
            with open(self.alpha.conf, encoding="utf-8") as f:
                text = f.read()
            self.assertEqual(text.count(before), 1)
            with open(self.alpha.conf, "w", encoding="utf-8") as f:
                f.write(text.replace(before, after))
            self.assertEqual(self.alpha.command("agent", "--reload").returncode, DONE)

        def no_lines():
            lines = logged()
            count = self.alpha.vm(VM)["checkpoints"]
            wait_until("checkpoints", lambda: self.alpha.vm(VM)["checkpoints"] > count + 3)
            return logged() == lines

        self.protect()
        self.assertTrue(no_lines())
        self.assertEqual(logged(), 0)
        say("[agent]\n", "[agent]\nlog_level = debug\n")
        wait_until("a line for each checkpoint", lambda: logged() > 3)
        say("log_level = debug", "log_level = info")
        wait_until("checkpoints without a line", no_lines)

    def test_there_and_back_twice(self):
        self.protect()
        primary, backup = self.alpha, self.beta
        for _ in range(4):
            done = primary.command("failover", VM)
            self.assertEqual(done.returncode, DONE, done.stderr + self.keeper_logs())
            self.assertRegex(done.stdout, rf"{VM}: runs on {backup.node} now, generation \d+; blackout \d+\.\d ms")
            wait_until("protection on the other side", lambda: backup.vm(VM)["state"] == "P_PROTECTED")
            wait_until("a ready backup on the old one", lambda: primary.vm(VM)["state"] == "B_READY")
            told = [e["unprotected_ms"] for e in backup.events(VM) if e["event"] == "protected"]
            self.assertTrue(told and told[-1] > 0 and "unprotected_ms" not in backup.vm(VM), told)
            self.assertEqual((primary.vm(VM)["role"], backup.vm(VM)["role"]), ("backup", "primary"))
            self.assertEqual((primary.wanted(), backup.wanted()), ([], [VM]))
            primary, backup = backup, primary
        self.assertEqual([e for a in (self.alpha, self.beta) for e in a.events(VM) if e["event"] == "keeper-died"], [],
                         self.keeper_logs())

    def test_unsafe_failovers_are_refused(self):
        self.protect()
        generation = str(self.alpha.vm(VM)["generation"])
        word = ("--generation", generation, "--peer-is-dead", VM)
        for agent, argv, status, why in (
                (self.beta, ("failover", VM), REFUSED, "is backed up here: ask for it on alpha"),
                (self.beta, ("failover", "--force", *word), REFUSED, "alpha is not dead: it was heard"),
                (self.alpha, ("solo", *word), REFUSED, "beta is not dead: it was heard"),
                (self.alpha, ("failover", "--force", *word), REFUSED, "there is nothing to decide"),
                (self.beta, ("failover", "--force", VM), 2, "--generation is missing"),
                (self.beta, ("solo", "--generation", "1", VM), 2, "--peer-is-dead is missing"),
                (self.beta, ("failover", "--generation", "1", VM), 2, "belong to --force"),
                (self.beta, ("failover", "nosuch"), 1, "nosuch has no keeper here")):
            done = agent.command(*argv)
            self.assertEqual(done.returncode, status, (argv, done.stdout, done.stderr))
            self.assertIn(why, done.stderr)
        self.assertEqual((self.alpha.vm(VM)["state"], self.beta.vm(VM)["state"]), ("P_PROTECTED", "B_READY"))

    def test_a_switchover_that_cannot_be_finished(self):
        """The backup's keeper stands still: the guest goes on where it is, and the command says so."""
        self.protect()
        keeper = self.keeper_pid(self.beta)
        os.kill(keeper, signal.SIGSTOP)
        try:
            done = self.alpha.command("failover", VM)
            self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
            self.assertRegex(done.stderr, r"not done: (switchover not finished in time|session lost|ack overdue)")
            self.assertEqual(self.alpha.vm(VM)["role"], "primary")
        finally:
            os.kill(keeper, signal.SIGCONT)
        wait_until("protection again", lambda: self.alpha.vm(VM)["state"] == "P_PROTECTED")
        self.assertEqual([e for e in self.beta.events(VM) if e["event"] == "takeover"], [])

    def test_a_failover_that_the_operator_vouches_for(self):
        """The backup waits for its takeover delay; the operator does not."""
        self.with_vm_key("takeover_delay_ms = 600000")
        self.protect()
        self.kill_all(self.alpha)
        wait_until("suspicion", lambda: self.beta.vm(VM)["state"] == "B_SUSPECT")
        done = self.beta.command("failover", "--force", "--generation", "1", "--peer-is-dead", VM)
        self.assertEqual(done.returncode, REFUSED)
        self.assertRegex(done.stderr, r"is of generation 2 now \(PROTECTED, owner alpha\), not 1")
        done = self.beta.command("failover", "--force", "--generation", "2", "--peer-is-dead", "--json", VM)
        self.assertEqual(done.returncode, DONE, done.stderr + self.keeper_logs())
        self.assertEqual(json.loads(done.stdout)["outcome"], "done")
        self.assertEqual((self.beta.vm(VM)["role"], self.beta.vm(VM)["takeovers"]), ("primary", 1))
        # a dead host comes back: its keeper finds no guest, and nothing to do but to be the backup
        self.alpha.start()
        wait_until("the returned host as the backup", lambda: self.alpha.vm(VM)["state"] == "B_READY")
        self.assertEqual((self.alpha.wanted(), self.beta.wanted()), ([], [VM]))
        done = self.alpha.command("protect", VM)
        self.assertEqual(done.returncode, REFUSED)
        self.assertIn("is backed up here", done.stderr)

    def with_vm_key(self, line):
        for agent in (self.alpha, self.beta):
            self.kill_all(agent)
            with open(agent.conf, "a", encoding="utf-8") as f:
                f.write(line + "\n")
            agent.start()

    def kill_all(self, agent):
        agent.kill()
        for pid in processes_under(agent.base):
            os.kill(pid, signal.SIGKILL)
        wait_until("their end", lambda: not processes_under(agent.base))

    def test_unprotected(self):
        self.protect()
        self.assertEqual(self.alpha.command("unprotect", VM).returncode, DONE)
        wait_until("the end of the keeper", lambda: self.alpha.vm_dirs() == [])
        self.assertEqual(processes_under(self.alpha.base), [self.alpha.process.pid])
        self.assertEqual(self.alpha.wanted(), [])
        # The backup was told to forget and ends, or finds that nothing is to be taken over; it never takes over.
        wait_until("a backup that forgot", lambda: self.beta.vm(VM)["state"] == "IDLE")
        self.assertEqual([e for e in self.beta.events(VM) if e["event"] == "takeover"], [])
        if self.beta.vm(VM)["keeper"] == "running":
            done = self.beta.command("unprotect", VM, "--force")
            self.assertIn("was given up" if done.returncode == DONE else "not protected here", done.stdout + done.stderr)
        wait_until("the end of the backup", lambda: self.beta.vm_dirs() == [])

    def forget_with_a_mover_that_stands_still(self):
        """How the backup ended; None if the mover stood still for so long that nobody had to wait for it."""
        self.protect()
        seen = len(self.beta.events(VM))
        movers = children(self.keeper_pid(self.alpha))
        self.assertEqual(len(movers), 1)
        os.kill(movers[0], signal.SIGSTOP)
        stopped = time.monotonic()
        self.assertEqual(self.alpha.command("unprotect", VM).returncode, DONE)
        while alive(movers[0]) and time.monotonic() < stopped + MOVER_STOPPED_S:
            time.sleep(0.01)
        lives = alive(movers[0])
        if lives:
            os.kill(movers[0], signal.SIGCONT)
        late = time.monotonic() > stopped + MOVER_PATIENCE_S
        self.assertTrue(lives or late, self.keeper_logs())
        wait_until("the end of the keepers", lambda: self.alpha.vm_dirs() == [])
        wait_until("a backup that forgot", lambda: self.beta.vm(VM)["state"] == "IDLE")
        states = [e for e in self.beta.events(VM)[seen:] if e["event"] == "state"]
        return None if late else [(e["from"], e["to"], e["reason"]) for e in states]

    def test_the_last_word_of_a_session_waits_for_its_mover(self):
        """Whose mover does not get the processor: the keeper ends behind it, and the backup is told."""
        told = None
        for _ in range(5):
            told = told or self.forget_with_a_mover_that_stands_still()
        self.assertEqual(told, [("B_READY", "IDLE", "the primary needs this replica no more")], self.keeper_logs())

    def sync_with_a_backup_that_stands_still(self):
        """What the keepers say of it; None if the backup stood still for so long that nobody had to wait for it."""
        wait_until("a backup that waits", lambda: self.beta.vm(VM)["state"] == "IDLE")
        keeper = self.keeper_pid(self.beta)
        os.kill(keeper, signal.SIGSTOP)
        stopped = time.monotonic()
        try:
            self.alpha.command("protect", VM, "--timeout", "1")
            while time.monotonic() < stopped + 2.5 * SUSPECT_S:
                time.sleep(0.01)
        finally:
            os.kill(keeper, signal.SIGCONT)
        late = time.monotonic() > stopped + ANSWER_S
        wait_until("protection", lambda: self.alpha.vm(VM)["state"] == "P_PROTECTED")
        return None if late else self.keeper_logs()

    def test_a_backup_may_take_long_to_answer(self):
        """It makes its standby, on a busy host: for longer than suspect_ms, which its primary does not take for its death."""
        said = None
        for tries in range(5):
            if tries and not said:
                self.assertEqual(self.alpha.command("unprotect", VM).returncode, DONE)
                wait_until("the end of the keeper", lambda: self.alpha.vm_dirs() == [])
                self.kill_all(self.beta)
                self.beta.start()
            said = said or self.sync_with_a_backup_that_stands_still()
        self.assertIn("from=P_SYNC to=P_ARM", said or "")
        self.assertNotIn("from=P_SYNC to=P_SOLO", said)

    def say_of_the_record(self, mode):
        """As if the owner had claimed that with its last breath."""
        paths = [os.path.join(d, n) for d, _, names in os.walk(os.path.join(self.base.path, "arbiter")) for n in names if UUID in n]
        changed = 0
        for path in paths:
            with open(path, encoding="utf-8") as f:
                text = f.read()
            said = re.sub(r"\b(PROTECTED|SOLO)\b", mode, text)
            if said != text:
                changed += 1
                with open(path + ".new", "w", encoding="utf-8") as f:
                    f.write(said)
                os.rename(path + ".new", path)
        self.assertEqual(changed, 1, paths)

    def test_a_backup_that_nobody_can_tell(self):
        """Its primary went on alone and died: it waits for another. That was shut down: it ends, with all that it made."""
        self.protect()
        self.alpha.kill()
        for pid in processes_under(self.alpha.base):
            os.kill(pid, signal.SIGKILL)
        self.say_of_the_record("SOLO")
        wait_until("a backup that gave up", lambda: self.beta.vm(VM)["state"] == "IDLE")
        time.sleep(IDLE_LOOKS_S)
        self.assertEqual(self.beta.vm(VM)["keeper"], "running")
        self.say_of_the_record("DOWN")
        wait_until("its end", lambda: self.beta.vm_dirs() == [])
        self.assertEqual(processes_under(self.beta.base), [self.beta.process.pid], self.keeper_logs())
        self.assertEqual([e for e in self.beta.events(VM) if e["event"] in ("takeover", "keeper-died")], [])

    def test_a_keeper_that_ends_on_purpose_leaves_no_notes(self):
        """An agent that was not there to hear it starts no other by them."""
        self.protect()
        self.beta.kill()
        directory = os.path.join(self.beta.run, "vm", VM)
        self.assertIn("past.json", os.listdir(directory))
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(os.path.join(directory, "keeper.sock"))
            sock.send(b'{"v":1,"id":1,"cmd":"shutdown","force":true}')
            wait_until("its end", lambda: not processes_under(self.beta.base))
        self.assertNotIn("past.json", os.listdir(directory))

    def test_another_vm_than_configured_is_refused(self):
        with open(self.alpha.conf, encoding="utf-8") as f:
            text = f.read()
        with open(self.alpha.conf, "w", encoding="utf-8") as f:
            f.write(text.replace(UUID, OTHER_UUID))
        self.assertEqual(self.alpha.command("agent", "--reload").returncode, DONE)
        for _ in range(2):  # the second time nothing of the first is in the way
            done = self.alpha.command("protect", VM)
            self.assertEqual(done.returncode, REFUSED, done.stderr)
            self.assertIn(f"runs VM {UUID}, the configuration of {VM} says {OTHER_UUID}", done.stderr)
            wait_until("the end of the keeper", lambda: self.alpha.vm_dirs() == [])
        self.assertEqual([e for e in self.alpha.events(VM) if e["event"] == "keeper-died"], [])
        self.assertEqual(self.alpha.wanted(), [])

    def test_a_backup_that_cannot_be_one_says_why(self):
        """No standby can be made there: who waits for the protection is told, each time, and it works as soon as it can."""
        text, missing = self.begin_beta_without_a_standby()
        self.refuses_and_lives(missing)
        self.begin_beta_anew(text)
        self.protect()

    def test_a_backup_that_does_not_know_what_it_is_says_why(self):
        """Started in the place of one whose role its agent never knew, a keeper looks for the guest first, here in vain."""
        _, missing = self.begin_beta_without_a_standby()
        wait_until("a keeper", lambda: self.beta.vm(VM)["keeper"] == "running")
        keeper = self.keeper_pid(self.beta)
        self.beta.kill()
        self.beta.start()
        os.kill(keeper, signal.SIGKILL)
        wait_until("another keeper", lambda: any(e["event"] == "keeper-start" and "role none, again" in e["message"]
                                                 for e in self.beta.events(VM)))
        self.refuses_and_lives(missing)

    def refuses_and_lives(self, why):
        def died():
            return [e for a in (self.alpha, self.beta) for e in a.events(VM) if e["event"] == "keeper-died"]
        before = died()
        for _ in range(2):
            done = self.alpha.command("protect", VM, "--timeout", "120")
            self.assertEqual(done.returncode, REFUSED, done.stderr + self.keeper_logs())
            self.assertIn("beta refuses: ", done.stderr)
            self.assertIn(why, done.stderr)
        self.assertEqual(died(), before)

    def begin_beta_without_a_standby(self):
        """What its configuration was; the file that is not there."""
        with open(self.beta.conf, encoding="utf-8") as f:
            text = f.read()
        missing = os.path.join(self.base.path, "no-standby.args")
        self.begin_beta_anew(text.replace("backend = sim", "backend = qemu").replace("standby = /dev/null", f"standby = {missing}"))
        return text, missing

    def begin_beta_anew(self, text):
        # an agent that is killed while it starts a keeper may leave one that nobody sees yet
        wait_until("the backup's keeper", lambda: self.beta.vm(VM)["keeper"] == "running")
        self.beta.kill()
        for pid in processes_under(self.beta.base):
            os.kill(pid, signal.SIGKILL)
        wait_until("the end of all of it", lambda: not processes_under(self.beta.base)) # or the next agent adopts what is dying
        with open(self.beta.conf, "w", encoding="utf-8") as f:
            f.write(text)
        self.beta.start()

    def test_who_calls_while_the_record_is_read_waits(self):
        """The call is what starts the backup's keeper, which begins with the record: on a slow arbiter the call is there first."""
        self.kill_all(self.beta)
        shutil.rmtree(self.beta.run) # as a host's start does: nothing there calls for a keeper
        with open(self.beta.conf, encoding="utf-8") as f:
            text = f.read()
        with open(self.beta.conf, "w", encoding="utf-8") as f:
            f.write(text.replace("role = backup\n", ""))
        self.assertEqual(self.alpha.command("protect", VM, "--timeout", "2").returncode, 1)
        register = os.open(next(d for d, below, _ in os.walk(os.path.join(self.base.path, "arbiter")) if not below), os.O_RDONLY)
        try:
            fcntl.flock(register, fcntl.LOCK_EX)
            self.beta.start()
            wait_until("a caller who waits", lambda: "link=waits" in self.keeper_logs())
            self.assertEqual(self.beta.vm(VM)["state"], "START")
        finally:
            os.close(register)
        wait_until("protection", lambda: self.alpha.vm(VM)["state"] == "P_PROTECTED")
        self.assertNotIn("it is no backup now", self.keeper_logs() + self.beta.log())

    def test_without_a_backup(self):
        self.beta.kill()
        for pid in processes_under(self.beta.base):
            os.kill(pid, signal.SIGKILL)
        done = self.alpha.command("protect", VM, "--timeout", "2")
        self.assertEqual(done.returncode, 1)
        self.assertIn("not protected after 2 s", done.stderr)
        self.assertTrue(self.alpha.vm(VM)["wanted"])
        self.beta.start()
        wait_until("protection", lambda: self.alpha.vm(VM)["state"] == "P_PROTECTED")


def children(pid):
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", encoding="ascii", errors="replace") as f:
                    if f.read().rsplit(")", 1)[1].split()[1] == str(pid):
                        found.append(int(entry))
            except OSError:
                continue
    return found


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
            return f.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


if __name__ == "__main__":
    unittest.main()
