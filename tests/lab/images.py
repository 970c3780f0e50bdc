#!/usr/bin/env python3
"""The lab's kernel and its initramfs archives, made from files of Debian packages (called by ./build).

  images.py vmlinux ROOT OUT                       unpack ROOT's kernel
  images.py dom0 FILES OURS OUT MODULE...    a host's: mounts the root disk, lays OURS over it, starts init
  images.py guest FILES INIT BINARIES OUT MODULE...    a guest's: INIT, busybox and all files of the directory BINARIES

FILES holds lib/modules and bin/busybox of the hosts' Debian.
"""
import glob
import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "demo"))
import image  # noqa: E402


def only(pattern):
    found = glob.glob(pattern)
    if len(found) != 1:
        sys.exit(f"images.py: {pattern}: {len(found)} files match, 1 expected")
    return found[0]


def modules_into(archive, files, wanted):
    tree = only(f"{files}/lib/modules/*")
    names = []
    for path in image.module_order(os.path.basename(tree), wanted, root=files):
        name = re.sub(r"\.xz$", "", os.path.basename(path))
        archive.file(f"/lib/modules/{name}", image.unpack_module(path), 0o644)
        names.append(name)
    archive.file("/lib/modules/order", "".join(n + "\n" for n in names).encode(), 0o644)


def new_archive(files, init):
    archive = image.Cpio()
    for name in ("proc", "sys", "dev", "tmp", "new", "data"):
        archive.directory(name)
    archive.character_device("dev/console", 5, 1)
    archive.file("/bin/busybox", image.read(f"{files}/bin/busybox"))
    archive.file("/init", image.read(init))
    return archive


def write(path, data):
    with open(path, "wb") as f:
        f.write(data)


def vmlinux(root, out):
    kernel = image.read(only(f"{root}/boot/vmlinuz-*"))
    elf = image.vmlinux_of(kernel)
    if elf is None:
        sys.exit(f"images.py: the kernel in {root}/boot is not an xz-compressed bzImage")
    write(out, elf)


DOM0_FILES = {"init": "usr/sbin/dom0-init", "vif-lab": "etc/xen/scripts/vif-lab", "xl.conf": "etc/xen/xl.conf"}


def dom0(files, ours, out, *modules):
    archive = new_archive(files, f"{ours}/initramfs")
    for name, target in DOM0_FILES.items():
        archive.file(f"/ours/{target}", image.read(f"{ours}/{name}"))
    modules_into(archive, files, modules)
    write(out, archive.bytes())


def guest(files, init, binaries, out, *modules):
    archive = new_archive(files, init)
    for name in sorted(os.listdir(binaries)):
        archive.file(f"/bin/{name}", image.read(os.path.join(binaries, name)))
    modules_into(archive, files, modules)
    write(out, archive.bytes())


if __name__ == "__main__":
    {"vmlinux": vmlinux, "dom0": dom0, "guest": guest}[sys.argv[1]](*sys.argv[2:])
