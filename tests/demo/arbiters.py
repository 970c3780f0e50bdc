"""Who settles which of the demo's two hosts may run the guest: a directory that both reach, an etcd on a third machine, or
(in tests) an operator, with a record on each host.

An arbiter can be taken away and brought back. The etcd's machine, "witness", has a network of its own to both hosts, so that
the link between them can be cut alone; its etcd is spoken to over TLS with certificates both ways. Away, it is in turn
stopped (it accepts and says nothing) and killed (started again with the same data).
"""
import os
import signal

import etcd
import pki

KINDS = ("file", "etcd")
CLIENT_PORT, PEER_PORT = 2379, 2380
LISTENS = "ready to serve client requests"


class FileArbiter:
    """A directory on tmpfs, of neither host: it syncs, and disks of busy machines take long."""

    def __init__(self, _base, fast_dir, _net):
        self.path = os.path.join(fast_dir, "arbiter")

    def open(self):
        os.makedirs(self.path)

    def close(self):
        pass

    def equip(self, _host):
        return {"arbiter": "file", "arbiter_location": self.path}

    def away(self):
        os.rename(self.path, self.path + ".away")

    def back(self):
        if os.path.exists(self.path + ".away"):
            os.rename(self.path + ".away", self.path)


class ManualArbiter:
    """Each host's own directory; there is nobody to be taken away."""

    def __init__(self, _base, _fast_dir, _net):
        pass

    def open(self):
        pass

    def close(self):
        pass

    def equip(self, host):
        path = os.path.join(host.base, "state", "arbiter")
        os.makedirs(path)
        return {"arbiter": "manual", "arbiter_location": path}


class WitnessEtcd(etcd.Etcd):
    """In its namespace nobody else can ask it: its own log says when it listens."""

    def healthy(self):
        return self.log_text().count(LISTENS) > self.before

    def log_text(self):
        try:
            with open(os.path.join(self.base, "log"), encoding="utf-8", errors="replace") as f:
                return f.read()
        except FileNotFoundError:
            return ""

    def start(self):
        self.before = self.log_text().count(LISTENS)
        return super().start()


class EtcdArbiter:
    def __init__(self, base, fast_dir, net):
        self.base, self.fast_dir, self.net = base, fast_dir, net
        self.server, self.times_away, self.is_away = None, 0, False

    def open(self):
        self.authority = pki.Authority(os.path.join(self.base, "arbiter-authority"))
        address = self.net.witness_address
        directory = os.path.join(self.base, "witness")
        # etcd's gateway is a client of its own server: one certificate for both uses
        self.authority.issue(directory, "witness", kinds=("peer",), address=address)
        self.server = WitnessEtcd(
            os.path.join(self.fast_dir, "etcd"), address=address, port=CLIENT_PORT,
            tls={"ca": os.path.join(directory, "ca-cert.pem"), "cert": os.path.join(directory, "peer-cert.pem"),
                 "key": os.path.join(directory, "peer-key.pem")},
            spawn=lambda argv, stdin, **popen: self.net.spawn("witness", argv, **popen))
        self.server.peer_port = PEER_PORT
        self.server.start()

    def close(self):
        if self.server:
            self.server.kill()

    def equip(self, host):
        directory = host.etc("arbiter")
        self.authority.issue(directory, host.node, kinds=("client",))
        return {"arbiter": "etcd", "arbiter_location": self.server.url, "arbiter_ca": os.path.join(directory, "ca-cert.pem"),
                "arbiter_cert": os.path.join(directory, "client-cert.pem"),
                "arbiter_key": os.path.join(directory, "client-key.pem")}

    def away(self):
        self.is_away = True
        self.times_away += 1
        if self.times_away % 2:
            self.server.signal(signal.SIGSTOP)
        else:
            self.server.kill()

    def back(self):
        if not self.is_away:
            return
        self.is_away = False
        if self.server.stopped:
            self.server.signal(signal.SIGCONT)
        else:
            self.server.start()


def make(kind, base, fast_dir, net):
    return {"file": FileArbiter, "etcd": EtcdArbiter, "manual": ManualArbiter}[kind](base, fast_dir, net)
