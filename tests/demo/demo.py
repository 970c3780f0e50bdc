#!/usr/bin/env python3
"""replicad demo: a real virtual machine survives the death of its host, and a client proves that nothing was lost."""
import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import arbiters  # noqa: E402
import campaign  # noqa: E402
import faults  # noqa: E402
import image  # noqa: E402
import machine  # noqa: E402
import oracle  # noqa: E402
import patience  # noqa: E402
import report  # noqa: E402
import rounds  # noqa: E402

EXIT_DONE, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
ROUNDS_MAX = 10000
INTERVAL_MIN_MS, INTERVAL_MAX_MS = 5, 10000
PICTURE = "replicad-demo.svg"
EXPECTED = (image.ImageError, *campaign.EXPECTED)


def number_between(low, high):
    def parse(text):
        value = int(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{value} is not between {low} and {high}")
        return value
    return parse


def kinds(text):
    """Kinds from their names, in the order given; twice is twice."""
    found = []
    for name in text.split(","):
        try:
            found += faults.KINDS if name == faults.MATRIX else [faults.find(name)]
        except StopIteration:
            raise argparse.ArgumentTypeError(f"'{name}' is no kind; see --list-kinds") from None
    return found


def order(options):
    """The kind of each round: all that were asked for, shuffled by the seed, again and again."""
    drawn = random.Random(f"{options.seed}/kinds")
    found = []
    while len(found) < options.rounds:
        found += drawn.sample(options.kill, len(options.kill))
    return found[:options.rounds]


def list_kinds():
    for kind in faults.KINDS:
        outcome = " or ".join((kind.must, *kind.also))
        print(f"{kind.name:30} {outcome:24} {kind.text}")


def parser():
    p = argparse.ArgumentParser(prog="replicad demo", description=__doc__)
    p.add_argument("--rounds", type=number_between(1, ROUNDS_MAX), default=1, metavar="N",
                   help="so many faults, one after the other (1)")
    p.add_argument("--seed", default=None, help="of the instants and of the order of kinds; printed, so that a run can be repeated")
    p.add_argument("--interval", type=number_between(INTERVAL_MIN_MS, INTERVAL_MAX_MS), default=50, dest="interval_ms",
                   metavar="MS", help="time from checkpoint to checkpoint (50)")
    p.add_argument("--kill", type=kinds, default=kinds("all"), metavar="KIND[,KIND...]",
                   help="what is done: a kind of --list-kinds, several, or 'matrix' for each of them (all: everything of the "
                        "primary is killed)")
    p.add_argument("--list-kinds", action="store_true", help="say which kinds there are, and what must come of each")
    p.add_argument("--fresh", action="store_true", help="a fresh guest and fresh hosts for each round")
    p.add_argument("--tracker", choices=["auto", "uffd", "compare"], default="auto", help="how written pages are found (auto)")
    p.add_argument("--tls", choices=["psk", "x509"], default="psk", help="what the two hosts know each other by (psk)")
    p.add_argument("--arbiter", choices=arbiters.KINDS, default="file",
                   help="who settles which host may run the guest: a directory, or an etcd on a third machine (file)")
    p.add_argument("--accel", choices=["auto", "tcg", "kvm"], default="auto", help="of the guests (auto: KVM if it really works)")
    p.add_argument("--negative-control", action="store_true",
                   help="one checkpoint is sent without its pages, on purpose: success is that the oracle notices")
    p.add_argument("--patience", type=number_between(1, patience.FACTOR_MAX), default=1, metavar="FACTOR",
                   help="wait so many times longer for everything, for a slow machine (1)")
    p.add_argument("--keep", action="store_true", help="keep logs and configuration, and say where")
    p.add_argument("--picture", default=PICTURE, metavar="FILE", help=f"where the picture goes ({PICTURE})")
    p.add_argument("--json", action="store_true", help="the result as JSON on standard output; progress on standard error")
    return p


def arguments():
    options = parser().parse_args()
    options.seed = options.seed if options.seed is not None else str(random.SystemRandom().randrange(10 ** 9))
    patience.factor = options.patience
    options.vm_keys = {"tracker": options.tracker, **patience.vm_keys(options.interval_ms)}
    return options


def cache_dir():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "replicad-demo")


def all_caught(results):
    return all(r["verdict"] and oracle.caught(r["verdict"]) for r in results)


def problems(results, options):
    """Why the run does not hold; empty if it does."""
    found = []
    for r in results:
        found += [f"round {r['round']}: left behind: {what}" for what in r["leftovers"]]
    if options.negative_control:
        found += [f"round {r['round']}: the dropped pages of checkpoint {rounds.FAULT_CHECKPOINT} were not noticed"
                  for r in results if not all_caught([r])]
        return found
    found += [f"round {r['round']} failed: {r['violations'][0][1]}" for r in results if not r["verdict"]]
    judged = [r for r in results if r["verdict"]]
    if judged:
        found += oracle.judge_all([r["verdict"] for r in judged])
    return found


def draw(results, options, run):
    """The first round that did not pass, else the first."""
    drawable = [r for r in results if r["latencies"] and "kill" in r["marks"]]
    if not drawable:
        return None
    r = next((r for r in drawable if r["state"] != "passed"), drawable[0])
    facts = {"kill": r["marks"]["kill"], "takeover": r["marks"].get("takeover"), "protected": r["marks"].get("protected"),
             "latencies": r["latencies"], "pauses": r["pauses"],
             "title": f"One connection, two hosts: round {r['round']} of {options.rounds}, {r['state']}",
             "note": f"INCR and GET on a redis server in a virtual machine; a checkpoint each {options.interval_ms} ms; "
                     f"{run['qemu']}, {run['accel']}; seed {options.seed}"}
    try:
        with open(options.picture, "w", encoding="utf-8") as f:
            f.write(report.picture(facts))
    except OSError as error:
        print(f"replicad demo: {options.picture}: {error.strerror}", file=sys.stderr)
        return None
    return os.path.abspath(options.picture)


def as_json(run, found, picture):
    bulky = ("latencies", "pauses", "verdict", "pauses_ns")
    return json.dumps({
        "v": 1, **{k: v for k, v in run.items() if k != "rounds"}, "holds": not found, "problems": found, "picture": picture,
        "acknowledged_writes_lost": report.total(run["rounds"], "lost"),
        "rounds": [{k: v for k, v in r.items() if k not in bulky} |
                   {"pause_p50_ns": report.quantile(r["pauses_ns"], 0.5), "pause_p99_ns": report.quantile(r["pauses_ns"], 0.99)}
                   for r in run["rounds"]]}, indent=1)


def conclude(run, options, work):
    results = run["rounds"]
    found = problems(results, options)
    picture = draw(results, options, run)
    lost = report.total(results, "lost")
    if options.json:
        print(as_json(run, found, picture))
        return EXIT_FAILED if found else EXIT_DONE
    print()
    print(report.table_text(run))
    for what, where in (("picture", picture), ("logs", work if options.keep or found else None)):
        if where:
            print(f"{what:>16}  {where}")
    print()
    for problem in found:
        print(problem)
    if options.negative_control and not all_caught(results):
        print("the negative control was NOT caught")
    elif options.negative_control and not found:
        print("negative control: caught")
    elif found and not lost:
        print("the run does not hold: see above")
    else:
        print(report.last_line(lost))
    return EXIT_FAILED if found else EXIT_DONE


def run_rounds(options, work):
    programs = campaign.programs(HERE)
    made = image.build(cache_dir(), programs["guest"], HERE)
    accel, why = machine.pick_accel(made, work) if options.accel == "auto" else (options.accel, "asked for")
    run = {"accel": accel, "accel_why": why, "qemu": machine.qemu_version(), "kernel": made["release"], "seed": options.seed,
           "interval_ms": options.interval_ms, "tracker": options.tracker, "patience": options.patience, "rounds": []}
    options.progress(f"seed {options.seed}; guests by {accel} ({why}); logs in {work}")
    with campaign.Campaign(options, made, accel, programs, work) as played:
        for number, kind in enumerate(order(options), 1):
            result = played.play(number, kind)
            run["rounds"].append(result)
            options.progress(report.round_line(result, options.rounds))
            for name, detail in result["violations"] + [("left behind", what) for what in result["leftovers"]]:
                options.progress(f"  {name}: {detail}")
    return run


def main():
    options = arguments()
    if options.list_kinds:
        list_kinds()
        return EXIT_DONE
    if os.geteuid() != 0:
        print("replicad demo: needs root, for network namespaces and the dirty-page tracker: run it with sudo", file=sys.stderr)
        return EXIT_FAILED
    out = sys.stderr if options.json else sys.stdout
    options.progress = lambda text: print(text, file=out, flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_FAILED))  # as an exception: everything is taken down
    work = tempfile.mkdtemp(prefix="replicad-demo-")
    status = EXIT_FAILED
    try:
        status = conclude(run_rounds(options, work), options, work)
    except EXPECTED as error:
        print(f"replicad demo: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("replicad demo: interrupted; everything was taken down", file=sys.stderr)
    finally:
        if status == EXIT_DONE and not options.keep:
            shutil.rmtree(work, ignore_errors=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
