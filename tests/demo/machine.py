"""The demo's virtual machine: QEMU's argument list on either host, and a small QMP client to look at it."""
import json
import os
import re
import shutil
import socket
import subprocess
import time

import patience
from topology import GUEST_ADDR, PREFIX_LEN

RAM_MB = 256
MAC = "52:54:00:72:70:6c"
READY_LINE = "demo guest: ready"
BOOT_TIMEOUT_S = 90         # an emulated boot on a machine that does much else
BOOT_TRIES = 3
KVM_PROBE_TIMEOUT_S = 6
QMP_TIMEOUT_S = 10
QMP_LINE_MAX = 1 << 20


class MachineError(Exception):
    pass


def qemu_binary():
    path = shutil.which("qemu-system-x86_64")
    if not path:
        raise MachineError("qemu-system-x86_64 not found; install the package qemu-system-x86")
    return path


def qemu_version():
    out = subprocess.run([qemu_binary(), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"version (\S+)", out)
    return f"QEMU {found.group(1) if found else out.splitlines()[0]}"


def arguments(image, *, name, uuid, ram_path, qmp_path, serial_path, netdev, accel):
    """One list for both hosts: the devices must be the same, only the paths differ."""
    return [
        qemu_binary(), "-name", name, "-uuid", uuid, "-nodefaults", "-no-user-config", "-display", "none",
        "-M", f"q35,memory-backend=ram0,accel={accel}", "-m", str(RAM_MB), "-smp", "1",
        "-object", f"memory-backend-file,id=ram0,size={RAM_MB}M,mem-path={ram_path},share=on",
        "-netdev", netdev, "-device", f"virtio-net-pci,id=nic0,netdev=n0,mac={MAC},romfile=",
        "-chardev", f"file,id=ser0,path={serial_path}", "-device", "isa-serial,chardev=ser0",
        "-kernel", image["kernel"], "-initrd", image["initrd"],
        "-append", f"console=ttyS0 quiet rdinit=/init panic=-1 rpl.addr={GUEST_ADDR}/{PREFIX_LEN}",
        "-qmp", f"unix:{qmp_path},server=on,wait=off",
    ]


def tap_netdev(tap):
    return f"tap,id=n0,ifname={tap},script=no,downscript=no,vhost=off"


def dgram_netdev(local, remote):
    return f"dgram,id=n0,local.type=unix,local.path={local},remote.type=unix,remote.path={remote}"


def ready(serial_path):
    try:
        with open(serial_path, encoding="utf-8", errors="replace") as f:
            return READY_LINE in f.read()
    except FileNotFoundError:
        return False


def wait_ready(process, serial_path, timeout):
    """Seconds that the boot took; MachineError if the guest or QEMU does not get there."""
    timeout = patience.seconds(timeout)
    start = time.monotonic()
    while not ready(serial_path):
        if process.poll() is not None:
            raise MachineError(f"QEMU ended with {process.returncode} while the guest booted")
        if time.monotonic() - start > timeout:
            raise MachineError(f"no '{READY_LINE}' in {serial_path} within {timeout} s: a hung boot")
        time.sleep(0.02)
    return time.monotonic() - start


def boot(spawn, argv, serial_path, remove=(), timeout=BOOT_TIMEOUT_S, tries=BOOT_TRIES):
    """Start QEMU by spawn(argv) and wait for the guest; a hung boot is tried again, with fresh files.

    Returns (process, seconds, failed tries).
    """
    for attempt in range(tries):
        for path in (serial_path, *remove):
            if os.path.exists(path):
                os.unlink(path)
        process = spawn(argv)
        try:
            return process, wait_ready(process, serial_path, timeout), attempt
        except MachineError:
            process.kill()
            process.wait()
            if attempt + 1 == tries:
                raise
    raise MachineError("no try was made")


def pick_accel(image, work):
    """'kvm' only if this very guest boots with it in a few seconds; a /dev/kvm alone proves nothing."""
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return "tcg", f"no KVM: {error.strerror}"
    paths = {key: os.path.join(work, f"probe.{key}") for key in ("ram", "qmp", "serial")}
    argv = arguments(image, name="probe", uuid="00000000-0000-4000-8000-000000000001", ram_path=paths["ram"],
                     qmp_path=paths["qmp"], serial_path=paths["serial"], netdev="user,id=n0,restrict=on", accel="kvm")
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        seconds = wait_ready(process, paths["serial"], KVM_PROBE_TIMEOUT_S)
        return "kvm", f"a stock kernel boots with it in {seconds:.1f} s"
    except MachineError as error:
        return "tcg", f"KVM is there, but {error}"
    finally:
        process.kill()
        process.wait()
        for path in paths.values():
            if os.path.exists(path):
                os.unlink(path)


class Qmp:
    """One monitor connection; commands one after the other, events dropped."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(patience.seconds(QMP_TIMEOUT_S))
        self.sock.connect(path)
        self.data = b""
        self._message()
        self.command("qmp_capabilities")

    def _message(self):
        while b"\n" not in self.data:
            got = self.sock.recv(65536)
            if not got:
                raise MachineError("QEMU closed its monitor")
            self.data += got
            if len(self.data) > QMP_LINE_MAX:
                raise MachineError(f"a monitor message of more than {QMP_LINE_MAX} bytes")
        line, self.data = self.data.split(b"\n", 1)
        return json.loads(line)

    def command(self, name, **arguments_):
        self.sock.sendall(json.dumps({"execute": name, "arguments": arguments_}).encode() + b"\n")
        while True:
            message = self._message()
            if "error" in message:
                raise MachineError(f"QMP {name}: {message['error'].get('desc')}")
            if "return" in message:
                return message["return"]

    def close(self):
        self.sock.close()
