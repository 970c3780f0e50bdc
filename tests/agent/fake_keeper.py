#!/usr/bin/env python3
"""A keeper without a guest: speaks keeper.sock as include/replicad/control.h says, and does what its VM's name asks for.

  ok*       protects in two steps; unprotects; ends when told
  okgate*   the same, and takes the second step when there is a file "go" in its directory
  okcramped*  the same as ok, as a backup whose host has no room for a takeover
  refuse*   says no to "protect" at once
  late*     accepts, then sends the event "refused"
  once*     says no to the first "protect"
  mute*     never answers anything
  die*      exits at once with a last word
"""
import argparse
import json
import os
import selectors
import signal
import socket
import sys
import time

MESSAGE_MAX = 64 * 1024
WORK_S = 0.05
NO_ROOM = "a takeover of it needs 33 MiB, Xen has 32 MiB free on this host: free some, or give dom0 less"


class Keeper:
    def __init__(self, vm, directory):
        self.vm, self.directory = vm, directory
        with open(os.path.join(directory, "keeper.json"), encoding="utf-8") as f:
            self.conf = json.load(f)
        self.role = self.conf["role"]
        self.state = "IDLE"
        self.links = 0
        self.asked = 0
        self.looks = 0
        self.preamble = ""
        self.reloads = 0
        self.conns, self.subscribers = {}, set()
        self.selector = selectors.DefaultSelector()
        path = os.path.join(directory, "keeper.sock")
        if os.path.exists(path):
            os.unlink(path)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(path)
        self.listener.listen(8)
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.path = path
        self.past = os.path.join(directory, "past.json")
        self.followed = os.path.exists(self.past)
        with open(self.past, "w", encoding="utf-8") as f:
            f.write("{}")
        self.later = []  # (when, function)

    def status(self):
        self.looks += 1
        cramped = {"replica": "memfd", "no_room": NO_ROOM, "ahead": "no"} if self.vm.startswith("okcramped") else {}
        return {**cramped, "vm": self.vm, "uuid": self.conf["config"]["uuid"], "role": self.role, "state": self.state, "links": self.links,
                "preamble": self.preamble, "reloads": self.reloads, "looks": self.looks, "restarts": self.conf["restarts"], "followed": self.followed,
                "interval_ms": self.conf["config"]["interval_ms"], "peer": self.conf["peer"]["name"],
                "peer_address": self.conf["peer"]["address"], "durability": "memory", "tls": self.conf["agent"]["tls"],
                "survives": {"primary_crash": self.state == "P_PROTECTED", "backup_crash": True, "both_lose_power": False},
                "pause_p50_us": 4200, "scan_us": 1500, "copy_us": 2500, "encode_us": 3500}

    def send(self, conn, message):
        try:
            conn.send(json.dumps({"v": 1, **message}).encode())
        except OSError:
            pass

    def tell(self, event, **fields):
        for conn in self.subscribers:
            self.send(conn, {"event": event, **fields})

    def become(self, state, reason):
        before, self.state = self.state, state
        self.tell("state", **{"from": before, "to": state, "reason": reason})

    def end(self):
        self.tell("end", reason="asked to")
        os.unlink(self.path)
        os.unlink(self.past)
        sys.exit(0)

    def soon(self, what):
        self.later.append((time.monotonic() + WORK_S, what))

    def protect(self, conn, ident):
        self.asked += 1
        if self.vm.startswith("refuse") or (self.vm.startswith("once") and self.asked == 1):
            self.send(conn, {"id": ident, "ok": False, "error": {"code": "refused", "message": "the guest has a vhost-user device"}})
            return
        self.send(conn, {"id": ident, "ok": True})
        if self.vm.startswith("late"):
            self.soon(lambda: self.tell("refused", reason="the backup has no standby for it"))
        elif self.state == "IDLE":
            self.become("P_SYNC", "asked to")
            self.soon(self.arm)

    def arm(self):
        if self.vm.startswith("okgate") and not os.path.exists(os.path.join(self.directory, "go")):
            self.soon(self.arm)
        else:
            self.become("P_PROTECTED", "armed")

    def link(self, fds):
        self.links += 1
        for fd in fds:
            with socket.socket(fileno=fd) as sock:
                sock.setblocking(False)
                self.preamble = sock.recv(64).hex()
        self.become("B_SEED", "a peer connected")

    def request(self, conn, message, fds):
        cmd, ident = message["cmd"], message["id"]
        if self.vm.startswith("mute"):
            return
        if cmd == "protect":
            self.protect(conn, ident)
            return
        reply = {"id": ident, "ok": True}
        if cmd == "status":
            reply["status"] = self.status()
        elif cmd == "subscribe":
            self.subscribers.add(conn)
        elif cmd == "unprotect":
            self.become("IDLE", "unprotected")
            self.tell("unprotected")
        elif cmd == "link":
            self.link(fds)
        elif cmd == "reload":
            with open(os.path.join(self.directory, "keeper.json"), encoding="utf-8") as f:
                self.conf = json.load(f)
            self.reloads += 1
        elif cmd != "shutdown":
            reply = {"id": ident, "ok": False, "error": {"code": "unknown_command", "message": f"{cmd} {message.get('generation')}"}}
        self.send(conn, reply)
        if cmd == "shutdown":
            self.end()

    def on_readable(self, conn):
        data, fds, _, _ = socket.recv_fds(conn, MESSAGE_MAX, 4)
        if data:
            self.request(conn, json.loads(data), fds)
        else:
            self.selector.unregister(conn)
            self.subscribers.discard(conn)
            conn.close()

    def run(self):
        while True:
            ready = self.selector.select(max(0, self.later[0][0] - time.monotonic()) if self.later else None)
            for key, _ in ready:
                if key.fileobj is self.listener:
                    conn, _ = self.listener.accept()
                    self.selector.register(conn, selectors.EVENT_READ)
                else:
                    self.on_readable(key.fileobj)
            if self.later and time.monotonic() >= self.later[0][0]:
                self.later.pop(0)[1]()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--vm", required=True)
    parser.add_argument("--dir", required=True)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if args.vm.startswith("die"):
        print("cannot live like this", file=sys.stderr)
        sys.exit(3)
    Keeper(args.vm, args.dir).run()


if __name__ == "__main__":
    main()
