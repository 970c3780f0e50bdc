#!/usr/bin/python3 -SE
"""Stands in for xl, for tests without Xen: domains are files in $FAKE_XL, named by number and holding name and state.

With REPLICAD_STANDBY_FD restore is libxl and its save helper in one, as far as a keeper can see (src/guest/xen_helper.h);
$FAKE_XL_HELPER says what it does wrong: "refuse" at once, "leave" when it has been told something, "fail" before that, "die" when
it waits alone and is told something, "fail-alone" before xl has ended, "fail-later" when there is a file $FAKE_XL/fail. When the
domain's file is gone, one that failed has hung up.

restore makes the domain, paused, and reads all of its stream into $FAKE_XL/stream.DOMID; without an end of it there is no
domain. The name comes out of the configuration in front of the stream.
$FAKE_XL_FAIL names one sub-command that fails.

A test runs it more than a hundred times, mostly for what needs neither json nor socket, whose import is most of what a run
costs: who needs them imports them.
"""
import os
import struct
import sys
import time

DIR = os.environ["FAKE_XL"]
CREATE = os.path.join(DIR, "create.json") # what `create --dryrun` prints


def path(domid):
    return os.path.join(DIR, "domain.%d" % int(domid))


def load(domid):
    import json
    try:
        with open(path(domid), encoding="utf-8") as f:
            return json.load(f)
    except FileNotFoundError:
        sys.exit("%s is an invalid domain identifier (rc=-6)" % domid)


def store(domid, dom):
    import json
    new = os.path.join(DIR, "new.%d" % os.getpid())
    with open(new, "w", encoding="utf-8") as f:
        json.dump(dom, f)
    os.rename(new, path(domid))


def domains():
    return {int(n[7:]): load(n[7:]) for n in os.listdir(DIR) if n.startswith("domain.")}


READY, LAYOUT, LAID_OUT, ACTIVATE, COMPLETED, FAILED = range(1, 7)
SAY = struct.Struct("<IIIIQQQ216s256s")


def say(sock, kind, fds=(), reason=b"", value=0, pid=0, pv=False):
    import socket
    socket.send_fds(sock, [SAY.pack(kind, 9, pv, pid, value, 0, 0, b"", reason)], fds)


def is_pv():
    with open(CREATE, encoding="utf-8") as f:
        return '"type": "pv"' in f.read()


def memory(sock, pid=0):
    say(sock, LAID_OUT, [os.memfd_create("privcmd"), os.memfd_create("shared")], pid=pid)


def fail(sock):
    say(sock, FAILED, reason=b"told to fail")
    sock.close()


def stay(sock, domid):
    """What waits on when xl has ended: it makes a guest of the domain, or takes it away."""
    import socket
    how = os.environ.get("FAKE_XL_HELPER", "")
    memory(sock, os.getpid())
    while how == "fail-later" and not os.path.exists(os.path.join(DIR, "fail")):
        time.sleep(0.01)
    if how.startswith("fail-"):
        fail(sock)
        os.unlink(path(domid))
        os._exit(0)
    message, fds, _, _ = socket.recv_fds(sock, SAY.size, 4)
    if not message or how == "die":
        os.unlink(path(domid))
    else:
        keep_state(fds[0], SAY.unpack(message)[4])
        store(domid, {**load(domid), "paused": False})
        say(sock, COMPLETED, value=1000)
    os._exit(0)


def leave_alone(sock, domid):
    child = os.fork()
    if not child:
        stay(sock, domid)
    sock.close()
    if os.environ.get("FAKE_XL_HELPER") == "fail-alone":
        os.waitpid(child, 0)


def keep_state(fd, length):
    with open(os.path.join(DIR, "state"), "wb") as f:
        f.write(os.pread(fd, length, 0))


def play_helper(domid):
    """Until the domain is complete. What is to be done as soon as it is stored, or None."""
    import socket
    sock = socket.socket(fileno=int(os.environ["REPLICAD_STANDBY_FD"]))
    if not os.access(os.environ["LIBXL_SAVE_HELPER"], os.X_OK):
        sys.exit("libxl: error: no helper")
    how = os.environ.get("FAKE_XL_HELPER")
    if how == "refuse":
        say(sock, FAILED, reason=b"told to refuse")
        sys.exit("libxl: error: the helper failed")
    say(sock, READY, pv=is_pv())
    if how == "fail":
        fail(sock)
        sys.exit("libxl: error: the helper failed")
    while True:
        message, fds, _, _ = socket.recv_fds(sock, SAY.size, 4)
        if not message:
            sys.exit("libxl: error: the keeper is gone")
        kind, _, _, _, length, store_gfn, _, layout, _ = SAY.unpack(message)
        if how == "leave":
            sys.exit("libxl: error: told to leave")
        if kind == LAYOUT:
            with open(os.path.join(DIR, "layout"), "wb") as f:
                f.write(layout)
            if store_gfn:
                return lambda: leave_alone(sock, domid)
            memory(sock)
        elif kind == ACTIVATE:
            keep_state(fds[0], length)
            say(sock, COMPLETED, value=1000)
            return None


def receive(f, domid):
    end = b""
    with open(os.path.join(DIR, "stream.%d" % domid), "wb") as out:
        while True:
            part = f.read(1 << 20)
            if not part:
                break
            out.write(part)
            end = (end + part)[-8:]
    then = play_helper(domid) if "REPLICAD_STANDBY_FD" in os.environ else None
    if os.environ.get("FAKE_XL_FAIL") == "restore-late":
        sys.exit("libxl: error: libxl_create.c:1: Domain 1: out of patience\nlibxl: consequence")
    if end != bytes(8):
        sys.exit("libxl: error: the stream ended before its end")
    return then


def restore(args):
    import json
    flags = [a for a in args if a.startswith("-")]
    files = [a for a in args if not a.startswith("-")]
    with open(files[-1], "rb") as f:
        head = f.read(48)
        if head[:32] != b"Xen saved domain, xl format\n \0 \r":
            sys.exit("File has wrong magic number - corrupt or for a different tool?")
        _, flags_m, _, optional = struct.unpack("<IIII", head[32:])
        config = json.loads(f.read(optional)[4:-1]) if optional else None
        if not config and len(files) < 2:
            sys.exit("Config file not specified and none in save file")
        domid = max([0, *domains()]) + 1
        name = config["c_info"]["name"] if len(files) < 2 else os.path.basename(files[0])
        if name in [d["name"] for d in domains().values()]:
            sys.exit("libxl: error: domain with name \"%s\" already exists." % name)
        store(domid, {"name": name, "paused": True})
        try:
            then = receive(f, domid)
        except SystemExit:
            os.unlink(path(domid))
            raise
    store(domid, {"name": name, "paused": "-p" in flags, "monitor": "-e" not in flags,
                  "config": files[0] if len(files) > 1 else None})
    if then:
        then()


def main():
    command, args = sys.argv[1], sys.argv[2:]
    if os.environ.get("FAKE_XL_FAIL") == command:
        sys.exit("libxl: error: told to fail: %s" % command)
    if command == "restore":
        restore(args)
    elif command == "list" and args[0] == "-l":
        found = [i for i, d in domains().items() if d["name"] == args[1]]
        if not found:
            sys.exit("%s is an invalid domain identifier (rc=-6)" % args[1])
        import json
        print(json.dumps([{"domid": found[0], "config": {
            "c_info": {"type": "pvh", "name": args[1], "domid": found[0], "uuid": "5a5a5a5a-5a5a-5a5a-5a5a-5a5a5a5a5a5a"},
            "b_info": {"max_memkb": 4128, "max_vcpus": 1}}}]))
    elif command == "domid":
        found = [i for i, d in domains().items() if d["name"] == args[0]]
        if not found:
            sys.exit("Can't get domid of domain name '%s', maybe this domain does not exist." % args[0])
        print(found[0])
    elif command == "rename":
        store(args[0], {**load(args[0]), "name": args[1]})
    elif command == "unpause":
        store(args[0], {**load(args[0]), "paused": False})
    elif command == "destroy":
        load(args[0])
        os.unlink(path(args[0]))
    elif command == "info":
        print("host                   : fake\nfree_memory            : %s\nxen_major              : 4\nxen_minor              : 17"
              % os.environ.get("FAKE_XL_FREE", "4096"))
    elif command == "create" and "-n" in args:
        with open(CREATE, encoding="utf-8") as f:
            sys.stdout.write(f.read())
    else:
        sys.exit("command not implemented: %s" % command)


main()
