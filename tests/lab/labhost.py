"""The Xen lab: emulated hosts, the network between them, and what a test does to them.

One lab is a directory (state, logs, the hosts' share) and a network namespace, both with the lab's name in theirs, so
that several run side by side:

  namespace (the outside client, 10.77.0.1)
     lan0  ──┬── lan-a ── host a: eth0 ── xenbr0 (10.77.0.11) ── the guests' interfaces (10.77.0.20 ...)
             └── lan-b ── host b: eth0 ── xenbr0 (10.77.0.12)
     repl0 ──┬── repl-a ─ host a: eth1 (10.78.0.11)          replication only
             └── repl-b ─ host b: eth1 (10.78.0.12)

A host is a QEMU that runs Xen, whose dom0 boots from the image that ./build made (snapshot: nothing that it writes stays) and
has the lab's share mounted at /lab. Power loss is SIGKILL of that QEMU.
"""
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import time
import uuid

HERE = os.path.dirname(os.path.abspath(__file__))
HOSTS = ("a", "b")
LAN = {"client": "10.77.0.1", "a": "10.77.0.11", "b": "10.77.0.12"}
REPL = {"client": "10.78.0.1", "a": "10.78.0.11", "b": "10.78.0.12"}
GUEST_ADDR = "10.77.0.20"
HOST_MB = 2048
DOM0_MB = 768
MEMORY_SLACK_MB = 1024       # beside the hosts: translation buffers and this machine's own needs
# Of a host's translated code: one protection of a guest makes some 160 MB of it, and when the buffer is full QEMU drops all, which
# keeps a guest from answering for 50 to 170 ms. 2 GiB is QEMU's limit; where memory is short, the least that a host does with.
TRANSLATED_MB, TRANSLATED_LEAST_MB = 2048, 512
BOOT_TIMEOUT_S = 300         # 20 to 30 s on a quiet machine
COMMAND_TIMEOUT_S = 300
CPU = "EPYC,+svm,+npt,-smap,-smep,-monitor,-rdtscp,-avx,-avx2,-fma,-f16c"
XEN_ARGS = (f"console=com1 com1=115200,8n1 dom0_mem={DOM0_MB}M,max:{DOM0_MB}M dom0_max_vcpus=1 cpuidle=0 "
            "mwait-idle=0 bootscrub=no")     # what QEMU gives is zero: to scrub it costs all of it, and time
# The emulator's TSC runs on while the machine has no time for the emulator. Linux, which checks that, no longer believes it then, and from
# there on each look at the clock is a system call: 40 us and more under emulation, and none on a real host.
DOM0_CLOCK = "tsc=reliable"
SCHEDULERS = ("credit2", "credit")  # Xen's; the first is what it runs by itself
PINNED = "dom0_vcpus_pin"    # two processors: dom0 on the first, guests on the second
EAGER_FPU = "spec-ctrl=eager-fpu"   # without it guests' and dom0's floating-point state is corrupted under emulation
TINY_TYPES = {"tiny": "pvh", "tinypv": "pv", "tinyhvm": "hvm"}
SHARED = ("guest-initrd", "tiny", "tinypv", "boot_hvm", "fpucheck")   # of the cache, shown to the hosts at /lab
HVM_MB = 128                 # a Linux HVM guest needs more than others: where its kernel comes from lies in its memory too
TINY_SUSPEND_PORT = 3        # what guest/tiny.c and guest/tiny_pv.c offer
HEAVY_MB, HEAVY_S = 6, 0.2   # load "heavy": so much memory is written anew, and then a rest of so long
EXEC_LOOKS = 20
READY = "lab host: ready"
CRASHED = "Dom0 crashed"
NAME_RULE = r"[a-z0-9]{1,8}"        # of a lab: it is part of interface and namespace names


class LabError(Exception):
    """Something that should have worked did not."""


class CannotRun(Exception):
    """Why a lab is not possible on this machine."""


def cache_dir():
    return os.environ.get("RPL_LAB_CACHE") or os.path.expanduser("~/.cache/replicad-lab")


def labs_dir():
    return os.path.join(os.environ.get("TMPDIR") or "/tmp", "replicad-labs")


def running_labs():
    try:
        return sorted(n for n in os.listdir(labs_dir()) if os.path.exists(os.path.join(labs_dir(), n, "state.json")))
    except FileNotFoundError:
        return []


def available_mb():
    with open("/proc/meminfo", encoding="ascii") as f:
        return int(re.search(r"MemAvailable:\s+(\d+)", f.read()).group(1)) // 1024


def translated_mb():
    wanted = len(HOSTS) * (HOST_MB + TRANSLATED_MB) + MEMORY_SLACK_MB
    return TRANSLATED_MB if available_mb() >= wanted else TRANSLATED_LEAST_MB


def check_possible(hosts):
    if os.geteuid() != 0:
        raise CannotRun("network namespaces and taps need root; run it as root")
    for program, package in (("qemu-system-x86_64", "qemu-system-x86"), ("ip", "iproute2"), ("nsenter", "util-linux"),
                             ("ssh", "openssh-client")):
        if not shutil.which(program):
            raise CannotRun(f"{program} not found; install the package {package}")
    if not os.path.exists("/dev/net/tun"):
        raise CannotRun("/dev/net/tun does not exist; load the module tun")
    needed = HOST_MB * len(hosts) + MEMORY_SLACK_MB
    if available_mb() < needed:
        raise CannotRun(f"{available_mb()} MB of memory available, {needed} MB needed for {len(hosts)} hosts")
    done = subprocess.run(["ip", "netns", "add", f"rlab-probe{os.getpid()}"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CannotRun(f"no network namespace can be made: {done.stderr.strip()}")
    run("ip", "netns", "del", f"rlab-probe{os.getpid()}")


def run(*argv):
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"{' '.join(argv)}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def build_image():
    done = subprocess.run([os.path.join(HERE, "build")], capture_output=True, text=True, check=False)
    last = (done.stdout + done.stderr).strip().splitlines()[-1:] or ["no output"]
    if done.returncode == 77:
        raise CannotRun(last[0])
    if done.returncode != 0:
        raise LabError(f"tests/lab/build: exit {done.returncode}: {last[0]}")


def record(path, figures):
    """To the end of a file that may be none: an object a line."""
    if path:
        with open(path, "a", encoding="utf-8") as f:
            f.write(json.dumps(figures) + "\n")


class Lab:
    def __init__(self, name):
        if not re.fullmatch(NAME_RULE, name):
            raise LabError(f"lab name '{name}': must match {NAME_RULE}")
        self.name = name
        self.dir = os.path.join(labs_dir(), name)
        self.share = os.path.join(self.dir, "share")
        self.netns = f"rlab-{name}"
        self.state = {"hosts": [], "pids": {}}

    @classmethod
    def open(cls, name):
        lab = cls(name)
        try:
            with open(os.path.join(lab.dir, "state.json"), encoding="ascii") as f:
                lab.state = json.load(f)
        except FileNotFoundError:
            raise LabError(f"no lab '{name}'; there are: {' '.join(running_labs()) or 'none'}") from None
        return lab

    def _save(self):
        path = os.path.join(self.dir, "state.json")
        with open(path + ".new", "w", encoding="ascii") as f:
            json.dump(self.state, f)
        os.rename(path + ".new", path)

    # -- making and removing

    def up(self, hosts=HOSTS, build=None, eager_fpu=True, cpus=1, scheduler=SCHEDULERS[0]):
        """Boot the hosts and wait until their dom0s answer. build: a build directory, installed into every dom0. cpus: 1, or 2 of
        each host: dom0 has one, its guests the other."""
        check_possible(hosts)
        build_image()
        os.makedirs(self.share)
        self.state = {"hosts": list(hosts), "pids": {}, "eager_fpu": eager_fpu, "cpus": cpus, "scheduler": scheduler}
        self._save()
        self.install_share(build)
        for name in SHARED:
            shutil.copy(os.path.join(cache_dir(), name), self.share)
        self._network_up()
        for host in hosts:
            self.power_on(host)
        for host in hosts:
            self.wait_ready(host)

    def install_share(self, build):
        """Put `make install` of a build directory where the hosts take it from."""
        if build is None:
            return
        target = os.path.join(self.share, "build")
        shutil.rmtree(target, ignore_errors=True)
        run("make", "-s", "-C", build, "install-strip", f"DESTDIR={target}")

    def install_program(self, build, name):
        """A program of the lab's own, which `make` alone does not build, where the hosts find it: /lab."""
        run("make", "-s", "-C", build, name)
        shutil.copy(os.path.join(build, name), self.share)

    def _network_up(self):
        run("ip", "netns", "add", self.netns)
        self._inside("sh", "-c", "for f in all default; do echo 1 >/proc/sys/net/ipv6/conf/$f/disable_ipv6; done")
        self._inside("ip", "link", "set", "lo", "up")
        for bridge, addresses in (("lan", LAN), ("repl", REPL)):
            self._inside("ip", "link", "add", f"{bridge}0", "type", "bridge", "stp_state", "0", "forward_delay", "0",
                         "mcast_snooping", "0")
            self._inside("ip", "addr", "add", f"{addresses['client']}/24", "dev", f"{bridge}0")
            self._inside("ip", "link", "set", f"{bridge}0", "up")
            for host in self.state["hosts"]:
                tap = f"{bridge}-{host}"
                self._inside("ip", "tuntap", "add", tap, "mode", "tap")
                self._inside("ip", "link", "set", tap, "master", f"{bridge}0", "up")

    def inside(self, argv):
        """The argument list that runs argv as the outside client."""
        return ["nsenter", f"--net=/run/netns/{self.netns}", "--", *argv]

    def _inside(self, *argv):
        return run(*self.inside(argv))

    def down(self):
        for host in list(self.state["pids"]):
            self.power_off(host)
        if os.path.exists(f"/run/netns/{self.netns}"):
            run("ip", "netns", "del", self.netns)
        shutil.rmtree(self.dir, ignore_errors=True)

    # -- hosts

    def cpus(self):
        return self.state.get("cpus", 1)

    def scheduler(self):
        return self.state.get("scheduler", SCHEDULERS[0])

    def _qemu(self, host):
        cache, work, n = cache_dir(), os.path.join(self.dir, host), HOSTS.index(host) + 1
        cpus = self.cpus()
        args = " ".join([XEN_ARGS, f"sched={self.scheduler()}"] + ([EAGER_FPU] if self.state["eager_fpu"] else []) + ([PINNED] if cpus > 1 else []))
        kernel = (f"{cache}/vmlinux console=hvc0 net.ifnames=0 quiet {DOM0_CLOCK} rpl.host={host} rpl.lan={LAN[host]}/24 "
                  f"rpl.repl={REPL[host]}/24")
        argv = ["qemu-system-x86_64", "-name", f"{self.netns}-{host}", "-accel", f"tcg,thread=multi,tb-size={translated_mb()}",
                "-cpu", CPU, "-smp", str(cpus), "-m", str(HOST_MB), "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
                "-serial", f"file:{work}/console.log", "-qmp", f"unix:{work}/qmp,server=on,wait=off",
                "-kernel", f"{cache}/xen", "-append", args, "-initrd", f"{kernel},{cache}/dom0-initrd",
                "-drive", f"file={cache}/host.img,format=raw,if=none,id=root,snapshot=on,cache=unsafe",
                "-device", "virtio-blk-pci,drive=root",
                "-virtfs", f"local,path={self.share},mount_tag=lab,security_model=none,multidevs=remap"]
        for i, net in enumerate(("lan", "repl")):
            argv += ["-netdev", f"tap,id=n{i},ifname={net}-{host},script=no,downscript=no,vhost=off",
                     "-device", f"virtio-net-pci,netdev=n{i},romfile=,mac=52:54:00:78:{i:02x}:{n:02x}"]
        return argv

    def power_on(self, host):
        if self.alive(host):
            raise LabError(f"host {host} runs already (pid {self.state['pids'][host]})")
        work = os.path.join(self.dir, host)
        os.makedirs(work, exist_ok=True)
        for name in ("console.log", "qmp"):
            if os.path.exists(os.path.join(work, name)):
                os.unlink(os.path.join(work, name))
        with open(os.path.join(work, "qemu.log"), "ab") as log:
            process = subprocess.Popen(self.inside(self._qemu(host)), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                       start_new_session=True, env={**os.environ, "TMPDIR": work})
        self.state["pids"][host] = process.pid
        self._save()

    def alive(self, host):
        """Does this host's QEMU run? A process number alone proves nothing: the command line names the lab."""
        pid = self.state["pids"].get(host)
        for _ in range(EXEC_LOOKS):
            try:
                with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
                    if f.read().rsplit(")", 1)[1].split()[0] == "Z":
                        return False
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    line = f.read()
            except OSError:
                return False
            if line:
                return f"{self.netns}-{host}".encode() in line.split(b"\0")
            time.sleep(0.05)    # a process that is just executing another program has no command line
        return False

    def wait_ready(self, host, timeout=BOOT_TIMEOUT_S):
        log = os.path.join(self.dir, host, "console.log")
        end = time.monotonic() + timeout
        text = ""
        while time.monotonic() < end:
            if os.path.exists(log):
                with open(log, encoding="utf-8", errors="replace") as f:
                    text = f.read()
                if READY in text and self._ssh_listens(host):
                    return
            if not self.alive(host) or CRASHED in text:
                break
            time.sleep(0.5)
        tail = "\n".join(text.splitlines()[-15:])
        how = "did not get ready" if self.alive(host) and CRASHED not in text else "ended"
        raise LabError(f"host {host} {how} ({log}); its last words:\n{tail}")

    def _ssh_listens(self, host):
        """sshd goes into the background before it listens."""
        probe = f"import socket; socket.create_connection(('{LAN[host]}', 22), 2)"
        return subprocess.run(self.inside(["python3", "-c", probe]), capture_output=True, check=False).returncode == 0

    def kill(self, host):
        """Power loss: SIGKILL. Returns the time of it (CLOCK_MONOTONIC, ns)."""
        if not self.alive(host):
            raise LabError(f"host {host} does not run")
        pid = self.state["pids"][host]
        when = time.monotonic_ns()
        os.kill(pid, signal.SIGKILL)
        self._reap(host, pid)
        return when

    def _reap(self, host, pid):
        end = time.monotonic() + 30
        while self.alive(host) and time.monotonic() < end:
            time.sleep(0.02)
        try:
            os.waitpid(pid, os.WNOHANG)     # it is our child only in the process that started it
        except ChildProcessError:
            pass
        del self.state["pids"][host]
        self._save()
        subprocess.run([*self._ssh(host), "-O", "exit"], capture_output=True, check=False)

    def power_off(self, host):
        if self.alive(host):
            self.kill(host)
        else:
            self.state["pids"].pop(host, None)
            subprocess.run([*self._ssh(host), "-O", "exit"], capture_output=True, check=False)

    def qmp(self, host, command, arguments=None):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
            s.settimeout(30)
            s.connect(os.path.join(self.dir, host, "qmp"))
            f = s.makefile("rwb")
            f.readline()
            for name, options in (("qmp_capabilities", None), (command, arguments)):
                f.write(json.dumps({"execute": name, **({"arguments": options} if options else {})}).encode() + b"\n")
                f.flush()
                while True:
                    reply = json.loads(f.readline())
                    if "error" in reply:
                        raise LabError(f"host {host}: QMP {name}: {reply['error'].get('desc')}")
                    if "return" in reply:
                        break
        return reply["return"]

    def translation_drops(self, host):
        """How often the emulator has dropped all that it had translated of this host, which stands still then. To count takes it a moment, too."""
        told = self.qmp(host, "human-monitor-command", {"command-line": "info jit"})
        return int(re.search(r"TB flush count\s+(\d+)", told).group(1))

    def freeze(self, host):
        """The host stops for a while, as a hung one does; thaw() lets it go on."""
        self.qmp(host, "stop")

    def thaw(self, host):
        self.qmp(host, "cont")

    def cut(self, net, host, connected):
        """Take a host's cable out of (or put it back into) the network "lan" or "repl"."""
        self._inside("ip", "link", "set", f"{net}-{host}", "up" if connected else "down")

    # -- commands in a dom0

    def _ssh(self, host):
        return self.inside(["ssh", "-i", os.path.join(cache_dir(), "key"), "-o", "StrictHostKeyChecking=no",
                            "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "BatchMode=yes",
                            "-o", "ServerAliveInterval=20", "-o", "ControlMaster=auto", "-o", "ControlPersist=yes",
                            "-o", f"ControlPath={self.dir}/ssh-{host}", f"root@{LAN[host]}"])

    def ssh_argv(self, host, command, tty=False):
        return [*self._ssh(host)[:-1], *(["-t"] if tty else []), f"root@{LAN[host]}", *command]

    def sh(self, host, command, timeout=COMMAND_TIMEOUT_S, check=True, data=None):
        """Run a shell command line in a dom0 and return its output."""
        try:
            done = subprocess.run(self.ssh_argv(host, ["--", command]), capture_output=True, text=True, timeout=timeout,
                                  check=False, input=data, stdin=None if data is not None else subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            raise LabError(f"host {host}: '{command}' took more than {timeout} s") from None
        if check and done.returncode != 0:
            raise LabError(f"host {host}: '{command}': exit {done.returncode}: {(done.stderr or done.stdout).strip()[-800:]}")
        return done.stdout if check else (done.returncode, done.stdout + done.stderr)

    def install(self, host):
        """Take the share's build into a running dom0."""
        self.sh(host, "cp -a /lab/build/. / && ldconfig")

    # -- guests

    @staticmethod
    def guest_uuid(guest):
        return uuid.uuid5(uuid.NAMESPACE_DNS, f"{guest}.replicad-lab")

    def guest_config(self, kind, guest, memory=96, addr=GUEST_ADDR, load="memcheck", network=True, vcpus=1, tsc="default"):
        """The text of an xl configuration: kind pv, pvh or hvm boots the guest image; the tiny ones have no system in them."""
        ident = self.guest_uuid(guest)
        mac = "00:16:3e:" + ":".join(f"{b:02x}" for b in ident.bytes[:3])
        lines = [f'name="{guest}"', f'uuid="{ident}"', f'type="{TINY_TYPES.get(kind, kind)}"', f"vcpus={vcpus}",
                 'on_poweroff="destroy"', 'on_reboot="restart"', 'on_crash="destroy"']
        if kind == "tinyhvm":       # no disk: the firmware looks for one, and reboots after a minute
            return "\n".join(lines + ["memory=16", 'vga="none"', "nographic=1", "usb=0", ""])
        if kind in TINY_TYPES:
            return "\n".join(lines + ["memory=4", f'kernel="/lab/{kind}"', ""])
        lines.append(f"memory={max(memory, HVM_MB) if kind == 'hvm' else memory}")
        if kind == "hvm":       # see guest/boot_hvm.c
            lines += ['bios="seabios"', 'firmware_override="/lab/boot_hvm"', 'bios_path_override="/guests/vmlinux"',
                      f'acpi_firmware="/lab/{guest}.words"', 'smbios_firmware="/lab/guest-initrd"',
                      'serial="pty"', 'vga="none"', "usb=0"]
        else:
            lines += ['kernel="/guests/vmlinux"', 'ramdisk="/lab/guest-initrd"', f"cmdline='{self.cmdline(kind, addr, load)}'"]
        if self.cpus() > 1:
            lines.append('cpus="1"')
        lines.append(f'tsc_mode="{tsc}"')
        if network:
            lines.append(f'vif=["mac={mac},bridge=xenbr0"]')
        return "\n".join(lines + [""])

    def cmdline(self, kind, addr, load):
        text = f"console=hvc0 quiet log_buf_len=1M rpl.addr={addr}/24 rpl.load={'memcheck' if load == 'heavy' else load}"
        if load == "heavy":
            # a shell gives what it starts in the background /dev/null
            text += (' rdinit=/bin/busybox -- sh -c "/bin/busybox mount -t devtmpfs none /dev; /init & /bin/busybox sleep 5; '
                     f'cd /tmp; dd if=/dev/urandom of=a bs=1M count={HEAVY_MB}; '
                     f'while dd if=a of=b bs=1M conv=notrunc; do sleep {HEAVY_S}; done"')
        return "pci=off acpi=off 8250.nr_uarts=1 " + text if kind == "hvm" else text

    def write_words(self, guest, addr, load):
        """What guest/boot_hvm.c takes for its struct words."""
        text = self.cmdline("hvm", addr, load).encode() + b"\0"
        size = os.path.getsize(os.path.join(self.share, "guest-initrd"))
        with open(os.path.join(self.share, f"{guest}.words"), "wb") as f:
            f.write(struct.pack("<4sII", b"WRPL", size, len(text)) + text)

    def create_guest(self, host, kind, guest, start=True, **options):
        """Write /root/GUEST.cfg in the dom0 and start the guest; returns the seconds that `xl create` took."""
        if kind == "hvm":
            self.write_words(guest, options.get("addr", GUEST_ADDR), options.get("load", "memcheck"))
        self.sh(host, f"cat >/root/{guest}.cfg", data=self.guest_config(kind, guest, **options))
        begin = time.monotonic()
        if start:
            self.sh(host, f"xl create /root/{guest}.cfg")
            if kind in ("tiny", "tinypv"):
                self.offer_suspend(host, guest)
        return time.monotonic() - begin

    def offer_suspend(self, host, guest):
        """A tiny guest cannot write to xenstore which event channel suspends it: after each creation and restore."""
        self.sh(host, f"xenstore-write /local/domain/$(xl domid {guest})/device/suspend/event-channel {TINY_SUSPEND_PORT}")

    def wait_guest(self, addr=GUEST_ADDR, port=6379, timeout=BOOT_TIMEOUT_S):
        """Wait until the guest's service answers the outside client."""
        probe = ["python3", "-c", f"import socket; s = socket.create_connection(('{addr}', {port}), 2); s.settimeout(5); "
                 "s.sendall(b'PING\\r\\n'); assert s.recv(64).startswith(b'+PONG')"]
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if subprocess.run(self.inside(probe), capture_output=True, check=False).returncode == 0:
                return
            time.sleep(1)
        raise LabError(f"no answer from the guest at {addr}:{port} within {timeout} s")
