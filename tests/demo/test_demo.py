#!/usr/bin/env python3
"""What counts as a run that holds: problems of single rounds, leftovers, the negative control, the last line."""
import contextlib
import fcntl
import io
import json
import os
import sys
import tempfile
import types
import unittest

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import demo  # noqa: E402
import hosts  # noqa: E402
import image  # noqa: E402
import oracle  # noqa: E402
import patience  # noqa: E402
from test_oracle import KILL, good_round, receives, shift_values  # noqa: E402
from test_report import a_round, a_run  # noqa: E402


def judged(change=lambda records, facts: None, **fields):
    records, facts = good_round()
    change(records, facts)
    verdict = oracle.judge(records, facts)
    marks = {"kill": KILL, "kill_end": KILL + 1, "takeover": facts.after, "protected": 0}
    return a_round(verdict=verdict, state=verdict.state, lost=verdict.lost, violations=verdict.violations, invalid=verdict.invalid,
                   leftovers=[], marks=marks, latencies=[(t, v) for t, v, _ in verdict.latencies], pauses=[(KILL - 1, 5)], **fields)


def bad_page(records, _facts):
    for r in receives(records, "PROBE", KILL):
        r["val"]["bad"] = 1


def not_played():
    return a_round(verdict=None, state="failed", violations=[("played", "QEMU ended with 1")], invalid=[], leftovers=[], marks={},
                   latencies=[], pauses=[])


class Run(unittest.TestCase):
    def options(self, **changes):
        values = {"negative_control": False, "json": False, "keep": False, "interval_ms": 50, "rounds": 1, "seed": "1",
                  "picture": "/nonexistent/picture.svg"}
        values.update(changes)
        return types.SimpleNamespace(**values)

    def conclude(self, results, **changes):
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            status = demo.conclude(a_run(results), self.options(**changes), "/work")
        return status, out.getvalue().splitlines()

    def test_good(self):
        status, lines = self.conclude([judged()])
        self.assertEqual((status, lines[-1]), (0, "acknowledged writes lost: 0"))

    def test_lost(self):
        status, lines = self.conclude([judged(), judged(lambda r, f: shift_values(r, KILL, -3))])
        self.assertEqual((status, lines[-1]), (1, "acknowledged writes lost: 3"))

    def test_failed_but_not_lost_never_prints_the_good_line(self):
        for results in ([judged(bad_page)], [not_played()], [judged(), not_played()]):
            status, lines = self.conclude(results)
            self.assertEqual(status, 1)
            self.assertNotIn("acknowledged writes lost: 0", lines)

    def test_leftover(self):
        r = judged()
        r["leftovers"] = ["process 1 (qemu) on beta"]
        status, lines = self.conclude([r])
        self.assertEqual(status, 1)
        self.assertIn("round 1: left behind: process 1 (qemu) on beta", lines)

    def test_invalid_is_not_passed(self):
        def early(_records, facts):
            facts.kill_begin = 41 * 10_000_000
        self.assertEqual(self.conclude([judged(early)])[0], 1)

    def test_negative_control(self):
        self.assertEqual(self.conclude([judged(bad_page)], negative_control=True)[0], 0)
        for result in (judged(), not_played()):
            status, lines = self.conclude([result], negative_control=True)
            self.assertEqual((status, lines[-1]), (1, "the negative control was NOT caught"))

    def test_negative_control_caught_but_something_left(self):
        r = judged(bad_page)
        r["leftovers"] = ["file /dev/shm/x"]
        status, lines = self.conclude([r], negative_control=True)
        self.assertEqual((status, lines[-1]), (1, "the run does not hold: see above"))

    def test_json(self):
        status, lines = self.conclude([judged()], json=True)
        doc = json.loads("\n".join(lines))
        self.assertEqual((status, doc["holds"], doc["acknowledged_writes_lost"]), (0, True, 0))
        self.assertEqual(doc["rounds"][0]["pause_p50_ns"], 5_000_000)


class Files(unittest.TestCase):
    def test_cpio_has_what_was_put_in(self):
        archive = image.Cpio()
        archive.character_device("dev/console", 5, 1)
        archive.file("/bin/a", b"xyz")
        data = archive.bytes()
        self.assertEqual(len(data) % image.CPIO_ALIGN, 0)
        names, at = [], 0
        while at < len(data):
            fields = [int(data[at + 6 + 8 * i:at + 14 + 8 * i], 16) for i in range(13)]
            name = data[at + 110:at + 110 + fields[11] - 1].decode()
            names.append((name, oct(fields[1]), fields[6], (fields[9], fields[10])))
            at += 110 + fields[11]
            at += -at % 4
            at += fields[6]
            at += -at % 4
        self.assertEqual(names, [("dev", "0o40755", 0, (0, 0)), ("dev/console", "0o20600", 0, (5, 1)), ("bin", "0o40755", 0, (0, 0)),
                                 ("bin/a", "0o100755", 3, (0, 0)), ("TRAILER!!!", "0o0", 0, (0, 0))])

    def test_an_image_in_use_is_not_pruned(self):
        with tempfile.TemporaryDirectory() as cache:
            paths = [os.path.join(cache, f"{i:016x}") for i in range(image.CACHED_IMAGES_MAX + 3)]
            for i, path in enumerate(paths):
                os.mkdir(path)
                with open(os.path.join(path, "initrd"), "w", encoding="ascii"):
                    pass
                os.utime(path, (i, i))
            used = image.Lock(paths[0], fcntl.LOCK_SH)  # as another process has it
            image.forget_old(cache, paths[-1])
            self.assertEqual(sorted(os.listdir(cache)), [os.path.basename(p) for p in [paths[0], *paths[3:]]])
            used.release()
            self.assertTrue(image.hold(paths[4]))       # used last, now
            image.IN_USE.pop(paths[4]).release()
            os.mkdir(paths[1])
            image.forget_old(cache, paths[-1])
            self.assertFalse(image.hold(paths[0]))
            self.assertTrue(os.path.exists(os.path.join(paths[4], "initrd")))

    def test_a_kernel_in_another_compression_is_left_alone(self):
        self.assertIsNone(image.vmlinux_of(b"\0" * 4096))
        self.assertIsNone(image.vmlinux_of(b""))

    def test_keys_name_both_hosts(self):
        names = [line.split(":")[0] for line in hosts.make_keys().splitlines()]
        self.assertEqual(names, ["alpha", "beta"])


class Patience(unittest.TestCase):
    def setUp(self):
        self.addCleanup(setattr, patience, "factor", 1)

    def test_the_usual_pace_says_nothing(self):
        self.assertEqual(patience.vm_keys(50), {})
        self.assertEqual(patience.seconds(60), 60)

    def test_suspicion_comes_after_a_late_ack(self):
        for interval in (66, 67, 100, demo.INTERVAL_MAX_MS):
            suspect = patience.vm_keys(interval).get("suspect_ms", patience.VM_MS["suspect_ms"][0])
            self.assertGreater(suspect, 10 * interval)

    def test_a_factor_stays_within_what_the_configuration_takes(self):
        patience.factor = patience.FACTOR_MAX
        keys = patience.vm_keys(50)
        self.assertEqual((keys["suspect_ms"], keys["op_timeout_ms"], keys["heartbeat_ms"]), (60000, 60000, 1000))
        self.assertEqual(patience.seconds(90), 90 * patience.FACTOR_MAX)


class Manual(unittest.TestCase):
    def test_every_option_is_in_the_page(self):
        with open(os.path.join(HERE, "..", "..", "man", "replicad-demo.8"), encoding="utf-8") as f:
            page = f.read()
        for action in demo.parser()._actions:
            for option in action.option_strings:
                if option.startswith("--") and option != "--help":
                    self.assertIn(".It Fl -" + option[2:], page)


if __name__ == "__main__":
    unittest.main()
