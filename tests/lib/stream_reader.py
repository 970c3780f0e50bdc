#!/usr/bin/env python3
"""A second reader of Xen migration v2 streams, written from replicad-stream(7) alone, to check what the C writes.

usage: stream_reader.py [--cut] FILE...    a line for each: what it holds, or how it breaks a rule (exit status 1)

It knows nothing of the C: not its tables, not its order of checks. It holds the whole file in memory.
"""
import struct
import sys

PAGE = 4096
XL_MAGIC = b"Xen saved domain, xl format\n \0 \r"
LIBXC = {0: "END", 1: "PAGE_DATA", 2: "X86_PV_INFO", 3: "X86_PV_P2M_FRAMES", 4: "X86_PV_VCPU_BASIC",
         5: "X86_PV_VCPU_EXTENDED", 6: "X86_PV_VCPU_XSAVE", 7: "SHARED_INFO", 8: "X86_TSC_INFO", 9: "HVM_CONTEXT",
         10: "HVM_PARAMS", 12: "X86_PV_VCPU_MSRS", 13: "VERIFY", 14: "CHECKPOINT", 16: "STATIC_DATA_END",
         17: "X86_CPUID_POLICY", 18: "X86_MSR_POLICY", 0x80525001: "RPL_PRODUCER", 0x80525002: "RPL_DIGEST"}
LIBXL = {0: "END", 1: "LIBXC_CONTEXT", 2: "EMULATOR_XENSTORE_DATA", 3: "EMULATOR_CONTEXT", 4: "CHECKPOINT_END",
         5: "CHECKPOINT_STATE"}
STATIC = {"X86_PV_INFO", "X86_CPUID_POLICY", "X86_MSR_POLICY", "RPL_PRODUCER"}
PV_ONLY = {"X86_PV_INFO", "X86_PV_P2M_FRAMES", "X86_PV_VCPU_BASIC", "X86_PV_VCPU_EXTENDED", "X86_PV_VCPU_XSAVE",
           "X86_PV_VCPU_MSRS", "SHARED_INFO"}


class Broken(Exception):
    pass


def need(ok, what):
    if not ok:
        raise Broken(what)


class Stream:
    def __init__(self, data):
        self.data, self.at = data, 0
        self.counts, self.checkpoints, self.pages, self.pfns = {}, 0, 0, 0
        self.version = self.guest = self.width = self.last_pfn = None
        self.static_over = self.complete = False
        self.seen = set()

    def take(self, n):
        if len(self.data) - self.at < n:
            raise EOFError(f"{n} bytes at offset {self.at}, {len(self.data) - self.at} are left")
        piece = self.data[self.at:self.at + n]
        self.at += n
        return piece

    def unpack(self, fmt):
        return struct.unpack(fmt, self.take(struct.calcsize(fmt)))

    def record(self, names, layer):
        start = self.at
        kind, length = self.unpack("<II")
        need(length <= 0x08000000, f"offset {start}: body of {length} bytes")
        body = self.take(length)
        pad = self.take(-length % 8)
        need(not any(pad), f"offset {start}: padding is not zero")
        need(kind in names, f"offset {start}: {layer} type {kind:#x} is not defined")
        self.counts[names[kind]] = self.counts.get(names[kind], 0) + 1
        return names[kind], body

    # ---- layers
    def read(self):
        if self.data[:32] == XL_MAGIC:
            self.xl_header()
        if self.data[self.at:self.at + 8] == b"LibxlFmt":
            self.libxl()
        else:
            self.libxc_headers()
            while self.libxc_part() == "CHECKPOINT":
                self.checkpoint_over()
        self.complete = True
        need(self.at == len(self.data), f"offset {self.at}: {len(self.data) - self.at} bytes behind the end")

    def xl_header(self):
        self.take(32)
        order, mandatory, _, optional = self.unpack("<IIII")
        need(order == 0x01020304, "xl: byte order")
        need(mandatory == 3, f"xl: flags {mandatory:#x}")
        data = self.take(optional)
        if optional:
            length, = struct.unpack("<I", data[:4])
            config = data[4:4 + length]
            need(len(config) == length, "xl: configuration longer than its room")
            need(config.endswith(b"\0") and config.count(0) == 1, "xl: configuration and NUL")

    def libxl(self):
        ident, version, options = self.unpack(">8sII")
        need(ident == b"LibxlFmt" and version == 2 and options in (0, 2), "libxl header")
        name, body = self.record(LIBXL, "libxl")
        need(name == "LIBXC_CONTEXT" and not body, f"first libxl record is {name}")
        self.libxc_headers()
        while True:
            how = self.libxc_part()
            if self.libxl_part("CHECKPOINT_END" if how == "CHECKPOINT" else "END"):
                return
            self.checkpoint_over()
            if self.data[self.at:self.at + 8] == struct.pack("<II", 5, 4):
                self.record(LIBXL, "libxl")

    def libxl_part(self, last):
        names = []
        while True:
            name, body = self.record(LIBXL, "libxl")
            if name == last:
                need(not body, f"{name} with a body")
                return last == "END"
            need(name in ("EMULATOR_XENSTORE_DATA", "EMULATOR_CONTEXT"), f"{name} where {last} was due")
            need(self.guest == 2, f"{name} of a PV guest")
            need(name not in names and names[-1:] != ["EMULATOR_CONTEXT"], f"order of {names + [name]}")
            names.append(name)
            emulator, index = struct.unpack("<II", body[:8])
            need(emulator <= 2 and index == 0, f"emulator {emulator} index {index}")
            if name == "EMULATOR_XENSTORE_DATA":
                strings = body[8:].split(b"\0")
                need(strings.pop() == b"" and len(strings) % 2 == 0, "xenstore data")
                need(all(k and k[:1] != b"/" for k in strings[::2]), "xenstore keys")

    def libxc_headers(self):
        marker, xenf, self.version, options, r1, r2 = self.unpack(">Q4sIHHI")
        need(marker == 2 ** 64 - 1 and xenf == b"XENF", "image header")
        need(self.version in (2, 3) and options == r1 == r2 == 0, f"image version {self.version}, options {options}")
        self.guest, shift, reserved, _, _ = self.unpack("<IHHII")
        need(self.guest in (1, 2) and shift == 12 and reserved == 0, f"domain header {self.guest} {shift}")

    def libxc_part(self):
        """Records up to END or CHECKPOINT; which of the two."""
        while True:
            name, body = self.record(LIBXC, "libxc")
            need(name not in PV_ONLY or self.guest == 1, f"{name} in an HVM stream")
            need(not name.startswith("HVM") or self.guest == 2, f"{name} in a PV stream")
            if name in STATIC:
                need(not self.static_over, f"{name} behind the static part")
            elif name != "STATIC_DATA_END":
                need(self.static_over or self.version == 2, f"{name} before STATIC_DATA_END")
                self.static_over = True
            getattr(self, name.lower())(body)
            if name in ("END", "CHECKPOINT"):
                self.tail_complete(name)
                return name
            if name not in STATIC and name != "PAGE_DATA":
                key = (name, body[:4]) if "VCPU" in name else name
                need(key not in self.seen, f"{name} twice")
                self.seen.add(key)

    def tail_complete(self, name):
        if self.guest == 1:
            need("SHARED_INFO" in self.seen, f"{name} without SHARED_INFO")
            need(("X86_PV_VCPU_BASIC", b"\0\0\0\0") in self.seen, f"{name} without vCPU 0")
        elif "RPL_PRODUCER" not in self.counts:
            need("HVM_CONTEXT" in self.seen, f"{name} without HVM_CONTEXT")

    def checkpoint_over(self):
        self.checkpoints += 1
        self.good = self.at
        self.seen -= {s for s in self.seen if s not in ("X86_PV_P2M_FRAMES", "STATIC_DATA_END")}
        if self.at == len(self.data):
            raise EOFError("the end of the stream, right behind a checkpoint")

    # ---- bodies
    def end(self, body):
        need(not body, "a signal record with a body")
    checkpoint = verify = end

    def static_data_end(self, body):
        need(not body and self.version == 3 and not self.static_over, "STATIC_DATA_END")
        self.static_over = True

    def page_data(self, body):
        count, reserved = struct.unpack("<II", body[:8])
        need(count and not reserved, f"PAGE_DATA count {count}")
        descs = struct.unpack(f"<{count}Q", body[8:8 + 8 * count])
        pages = 0
        for d in descs:
            kind, pfn = d >> 60, d & (1 << 52) - 1
            need(kind not in (5, 6, 7, 8) and not d >> 52 & 0xff, f"descriptor {d:#x}")
            need(self.guest == 2 or pfn <= self.last_pfn, f"pfn {pfn:#x}")
            pages += kind < 0xd
        need(len(body) == 8 + 8 * count + PAGE * pages, f"PAGE_DATA of {len(body)} bytes, {pages} pages")
        self.pfns += count
        self.pages += pages

    def x86_pv_info(self, body):
        need(body in (bytes([8, 4] + 6 * [0]), bytes([4, 3] + 6 * [0])), "X86_PV_INFO")
        self.width = body[0]

    def x86_pv_p2m_frames(self, body):
        first, self.last_pfn = struct.unpack("<II", body[:8])
        per_frame = PAGE // self.width
        need(first <= self.last_pfn, "P2M_FRAMES range")
        need(len(body) == 8 + 8 * (self.last_pfn // per_frame + 1 - first // per_frame), "P2M_FRAMES length")

    def vcpu(self, body):
        _, reserved = struct.unpack("<II", body[:8])
        need(not reserved, "vCPU record: reserved field")
        return body[8:]

    def x86_pv_vcpu_basic(self, body):
        need(len(self.vcpu(body)) == (5168 if self.width == 8 else 2800), "BASIC length")

    def x86_pv_vcpu_extended(self, body):
        need(len(self.vcpu(body)) <= 128, "EXTENDED length")

    def x86_pv_vcpu_xsave(self, body):
        need(len(self.vcpu(body)) >= 16, "XSAVE length")

    def x86_pv_vcpu_msrs(self, body):
        blob = self.vcpu(body)
        need(len(blob) % 16 == 0, "MSRS length")
        need(not any(struct.unpack("<IIQ", blob[i:i + 16])[1] for i in range(0, len(blob), 16)), "MSRS reserved")

    def shared_info(self, body):
        need(len(body) == PAGE, "SHARED_INFO length")

    def x86_tsc_info(self, body):
        mode, _, _, _, reserved = struct.unpack("<IIQII", body)
        need(mode <= 2 and not reserved, "TSC_INFO")

    def hvm_context(self, body):
        at, codes = 0, []
        while at < len(body):
            code, _, length = struct.unpack("<HHI", body[at:at + 8])
            codes.append(code)
            at += 8 + length
        need(at == len(body) and codes[0] == 1 and codes[-1] == 0, "HVM_CONTEXT chain")
        need(struct.unpack("<II", body[8:16]) == (0x54381286, 1), "HVM_CONTEXT header")

    def hvm_params(self, body):
        count, reserved = struct.unpack("<II", body[:8])
        need(not reserved and len(body) == 8 + 16 * count, "HVM_PARAMS length")
        indices = [struct.unpack("<Q", body[8 + 16 * i:16 + 16 * i])[0] for i in range(count)]
        need(len(set(indices)) == count and all(i <= 38 for i in indices), f"HVM_PARAMS indices {indices}")

    def x86_cpuid_policy(self, body):
        need(body and len(body) % 24 == 0 and self.version == 3, "CPUID policy")

    def x86_msr_policy(self, body):
        need(body and len(body) % 16 == 0 and self.version == 3, "MSR policy")
        need(not any(struct.unpack("<IIQ", body[i:i + 16])[1] for i in range(0, len(body), 16)), "MSR policy: flags")

    def rpl_producer(self, body):
        version, _, ranges, name, machine, zero = struct.unpack("<IIHHHH", body[:16])
        need(version == 1 and zero == 0 and len(body) == 16 + 24 * ranges + name + machine, "RPL_PRODUCER")

    def rpl_digest(self, body):
        need(struct.unpack("<II", body[:8]) == (1, 0) and len(body) == 32, "RPL_DIGEST")


def read(path, cut_ok):
    with open(path, "rb") as f:
        s = Stream(f.read())
    try:
        s.read()
    except EOFError as e:
        if not s.checkpoints or not (cut_ok or s.good == len(s.data)):
            return f"BROKEN the stream ends early: {e}"
    except (Broken, struct.error, IndexError) as e:
        return f"BROKEN {e}"
    return (f"version={s.version} guest={s.guest} records={sum(s.counts.values())} checkpoints={s.checkpoints} "
            f"pfns={s.pfns} pages={s.pages} complete={int(s.complete)}")


def main():
    verdicts = [(path, read(path, "--cut" in sys.argv)) for path in sys.argv[1:] if path != "--cut"]
    for path, verdict in verdicts:
        print(f"{path.rsplit('/', 1)[-1]}: {verdict}")
    sys.exit(any("BROKEN" in verdict for _, verdict in verdicts))


if __name__ == "__main__":
    main()
