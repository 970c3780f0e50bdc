"""The guest's kernel and initramfs, made from installed Debian packages.

Nothing is downloaded and no root trick is needed: the newc archive is written here. The result is cached in a
directory whose name is a digest of everything that went in, so a package update makes a new image. Whoever uses an image
holds a shared lock on its directory for as long as the process lives: other checkouts have other images, and prune the cache.
"""
import fcntl
import hashlib
import lzma
import os
import re
import stat
import struct
import subprocess
import tempfile

MODULES = ("virtio_pci", "virtio_net")
GUEST_PROGRAMS = ("memcheck",)
CACHE_FORMAT = "1"
CACHED_IMAGES_MAX = 4
CPIO_ALIGN = 4


class ImageError(Exception):
    """What is missing and how to get it."""


def first_existing(candidates, what, package):
    for path in candidates:
        if os.path.exists(path):
            return os.path.realpath(path)
    raise ImageError(f"{what}: none of {', '.join(candidates)} exists; install the package {package}")


def kernel_release():
    """The newest installed kernel that has its modules."""
    def key(name):
        return [int(part) if part.isdigit() else 0 for part in re.split(r"[.-]", name)]
    try:
        names = os.listdir("/lib/modules")
    except FileNotFoundError:
        names = []
    usable = [n for n in names if os.path.exists(f"/boot/vmlinuz-{n}") and os.path.exists(f"/lib/modules/{n}/modules.dep")]
    # the cloud flavour has no modules for some of what a bare QEMU machine has: take it last
    usable.sort(key=lambda n: ("cloud" not in n, key(n)))
    if not usable:
        raise ImageError("no kernel with its modules in /boot and /lib/modules; install the package linux-image-amd64")
    return usable[-1]


def module_order(release, wanted=MODULES, root=""):
    """Paths of the wanted modules and all they need, in an order that insmod can follow; root: below another directory."""
    root = f"{root}/lib/modules/{release}"
    deps = {}
    with open(f"{root}/modules.dep", encoding="ascii") as f:
        for line in f:
            path, _, needs = line.partition(":")
            deps[path] = needs.split()
    by_name = {re.sub(r"\.ko(\.\w+)?$", "", os.path.basename(p)).replace("-", "_"): p for p in deps}
    order = []

    def visit(path):
        if path in order:
            return
        for need in deps.get(path, []):
            visit(need)
        order.append(path)
    for name in (name.replace("-", "_") for name in wanted):
        if name in by_name:  # else it is built in
            visit(by_name[name])
    return [f"{root}/{path}" for path in order]


def shared_libraries(binary):
    """{path in the guest: path here} of the libraries that the loader of this machine would take."""
    out = subprocess.run(["ldd", binary], check=True, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}).stdout
    found = {}
    for line in out.splitlines():
        line = line.strip()
        match = re.match(r"(\S+) => (/\S+) \(", line) or re.match(r"()(/\S+) \(", line)
        if match:
            found[match.group(2)] = os.path.realpath(match.group(2))
        elif "not found" in line:
            raise ImageError(f"{binary}: {line}")
    return found


def unpack_module(path):
    with open(path, "rb") as f:
        data = f.read()
    if path.endswith(".xz"):
        return lzma.decompress(data)
    if not path.endswith(".ko"):
        raise ImageError(f"{path}: kernel module in an unknown compression; only .ko and .ko.xz can be packed")
    return data


class Cpio:
    """A newc archive in memory; directories are made on the way."""

    def __init__(self):
        self.parts = []
        self.seen = set()
        self.inode = 1

    def _entry(self, name, mode, data, rdev=(0, 0)):
        raw = name.encode()
        head = "070701" + "".join(f"{value:08x}" for value in (
            self.inode, mode, 0, 0, 1, 0, len(data), 0, 0, *rdev, len(raw) + 1, 0))
        self.inode += 1
        block = head.encode() + raw + b"\0"
        block += b"\0" * (-len(block) % CPIO_ALIGN)
        self.parts += [block, data, b"\0" * (-len(data) % CPIO_ALIGN)]
        self.seen.add(name)

    def _parents(self, name):
        parts = name.split("/")[:-1]
        for i in range(1, len(parts) + 1):
            parent = "/".join(parts[:i])
            if parent not in self.seen:
                self._entry(parent, stat.S_IFDIR | 0o755, b"")

    def file(self, name, data, mode=0o755):
        name = name.lstrip("/")
        if name in self.seen:
            return
        self._parents(name)
        self._entry(name, stat.S_IFREG | mode, data)

    def directory(self, name):
        name = name.strip("/")
        self._parents(name)
        if name not in self.seen:
            self._entry(name, stat.S_IFDIR | 0o755, b"")

    def character_device(self, name, major, minor):
        self._parents(name)
        self._entry(name, stat.S_IFCHR | 0o600, b"", (major, minor))

    def bytes(self):
        self._entry("TRAILER!!!", 0, b"")
        return b"".join(self.parts)


def vmlinux_of(bzimage):
    """The ELF kernel inside a bzImage, or None when its compression is not xz.

    Unpacking it here saves the emulated machine several seconds of it at each boot; QEMU enters it by its PVH note.
    """
    if len(bzimage) < 0x250 or bzimage[0x202:0x206] != b"HdrS":
        return None
    setup_sectors = bzimage[0x1f1] or 4
    offset, length = struct.unpack_from("<II", bzimage, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    payload = bzimage[start:start + length]
    if payload[:6] != b"\xfd7zXZ\0":
        return None
    try:
        elf = lzma.LZMADecompressor(format=lzma.FORMAT_XZ).decompress(payload)
    except lzma.LZMAError:
        return None
    return elf if elf[:4] == b"\x7fELF" else None


def read(path):
    with open(path, "rb") as f:
        return f.read()


def inputs(guest_dir, source_dir):
    """Everything that the image is made of: {name in the archive: source path}, modules apart."""
    busybox = first_existing(["/bin/busybox", "/usr/bin/busybox"], "busybox", "busybox-static")
    if subprocess.run(["ldd", busybox], capture_output=True, check=False).returncode == 0:
        raise ImageError(f"{busybox} is not static; install the package busybox-static")
    # one binary with two names: called redis-server it is the server; the package of that name would also start one here
    redis = first_existing(["/usr/bin/redis-server", "/usr/bin/redis-check-rdb"], "redis-server", "redis-tools")
    files = {"/bin/busybox": busybox, "/bin/redis-server": redis, "/init": os.path.join(source_dir, "guest", "init")}
    files.update(shared_libraries(redis))
    for program in GUEST_PROGRAMS:
        path = os.path.join(guest_dir, program)
        if not os.path.exists(path):
            raise ImageError(f"{path}: not built; run make in the build directory")
        files[f"/bin/{program}"] = path
    return files


def fingerprint(paths):
    h = hashlib.sha256(CACHE_FORMAT.encode())
    for path in sorted(paths):
        h.update(path.encode() + b"\0")
        h.update(hashlib.sha256(read(path)).digest())
    return h.hexdigest()[:16]


class Lock:
    """A lock on a directory, held until the process ends or release()."""

    def __init__(self, path, kind):
        """OSError if it is not there, or is not to be had."""
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(self.fd, kind)
            if not os.path.samestat(os.fstat(self.fd), os.stat(path)):
                raise FileNotFoundError(f"{path} was removed by whoever had the lock before")
        except OSError:
            self.release()
            raise

    def release(self):
        os.close(self.fd)


IN_USE = {}  # directory: Lock


def hold(target):
    """Have the image stay, if it is there: whether it is. Counts as its last use."""
    if target not in IN_USE:
        try:
            IN_USE[target] = Lock(target, fcntl.LOCK_SH)
        except OSError:
            return False
    os.utime(target)
    return True


def build(cache_dir, guest_dir, source_dir):
    """Return {"kernel", "bzimage", "initrd", "release"}, from the cache when nothing that goes in has changed."""
    release = kernel_release()
    bzimage = f"/boot/vmlinuz-{release}"
    modules = module_order(release)
    files = inputs(guest_dir, source_dir)
    target = os.path.join(cache_dir, fingerprint([bzimage, *modules, *files.values()]))
    result = {"kernel": f"{target}/vmlinux", "bzimage": f"{target}/bzImage", "initrd": f"{target}/initrd", "release": release}
    while not hold(target):
        os.makedirs(cache_dir, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_dir, prefix="new-") as work:
            write_image(work, bzimage, modules, files)
            os.chmod(work, 0o755)
            try:
                os.rename(work, target)
            except OSError:
                if not os.path.exists(target):  # else somebody else made the same one meanwhile
                    raise
            os.makedirs(work, exist_ok=True)
        forget_old(cache_dir, target)
    if not os.path.exists(result["kernel"]):
        result["kernel"] = result["bzimage"]
    return result


def write_image(work, bzimage, modules, files):
    archive = Cpio()
    for name in ("proc", "sys", "dev", "tmp", "data"):
        archive.directory(name)
    archive.character_device("dev/console", 5, 1)  # the kernel opens it before init mounts /dev
    for name, source in files.items():
        archive.file(name, read(source))
    names = []
    for path in modules:
        name = re.sub(r"\.xz$", "", os.path.basename(path))
        archive.file(f"/lib/modules/{name}", unpack_module(path), 0o644)
        names.append(name)
    archive.file("/lib/modules/order", "".join(n + "\n" for n in names).encode(), 0o644)
    kernel = read(bzimage)
    elf = vmlinux_of(kernel)
    for name, data in (("initrd", archive.bytes()), ("bzImage", kernel), ("vmlinux", elf)):
        if data is not None:
            with open(os.path.join(work, name), "wb") as f:
                f.write(data)


def forget_old(cache_dir, keep):
    old = [os.path.join(cache_dir, n) for n in os.listdir(cache_dir) if re.fullmatch(r"[0-9a-f]{16}", n)]
    old = sorted((p for p in old if p != keep), key=os.path.getmtime)
    for path in old[:max(0, len(old) - CACHED_IMAGES_MAX + 1)]:
        try:
            lock = Lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue  # in use, or gone
        with tempfile.TemporaryDirectory(dir=cache_dir, prefix="old-") as work:  # whole or not at all, for who comes meanwhile
            os.rename(path, os.path.join(work, "image"))
        lock.release()
