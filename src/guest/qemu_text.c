/* qemu_text.c - QEMU's human-readable tables: RAM blocks, memory tree, network, device tree; pure
 *
 * QMP has no command for the memory tree, the network peers or the device tree, so the monitor's text is read. What
 * is looked for has been stable since QEMU 2.x; a line that is not understood never makes a guest acceptable.
 */
#include "qemu_facts.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <replicad/auto.h>

#define LINE_MAX_BYTES 1024

/* Copy the next line of *text (cut at LINE_MAX_BYTES) to `line`; false at the end. */
static bool take_line(const char **text, char line[LINE_MAX_BYTES])
{
	const char *end;
	size_t len;

	if (!**text)
		return false;
	end = strchrnul(*text, '\n');
	len = (size_t)(end - *text);
	if (len >= LINE_MAX_BYTES)
		len = LINE_MAX_BYTES - 1;
	memcpy(line, *text, len);
	line[len] = '\0';
	while (len && (line[len - 1] == '\r' || line[len - 1] == ' '))
		line[--len] = '\0';
	*text = *end ? end + 1 : end;
	return true;
}

static bool ends_with(const char *s, const char *end)
{
	size_t a = strlen(s), b = strlen(end);

	return a >= b && strcmp(s + a - b, end) == 0;
}

/* ---- RAM blocks */

static bool is_rom(const char *name)
{
	static const char *const fixed[] = { "pc.bios", "pc.rom", "isa-bios" };

	for (size_t i = 0; i < RPL_ARRAY_LEN(fixed); i++)
		if (strcmp(name, fixed[i]) == 0)
			return true;
	/* fw_cfg blobs and PCI option ROMs: written by QEMU only */
	return strncmp(name, "/rom@", 5) == 0 || (strchr(name, '/') && ends_with(name, ".rom"));
}

static bool is_backend(const char *name, const char *ram_id)
{
	return strcmp(name, ram_id) == 0 || (strncmp(name, "/objects/", 9) == 0 && strcmp(name + 9, ram_id) == 0);
}

static const char *ramblock_advice(const char *name)
{
	if (strstr(name, "vram") || strstr(name, "vga") || strstr(name, "qxl"))
		return "start the guest with -vga none (or -nodefaults) and use a serial console";
	if (strncmp(name, "system.flash", 12) == 0)
		return "use SeaBIOS, or firmware with read-only flash";
	return "remove the device that owns it";
}

int qemu_check_ramblocks(const char *text, const char *ram_id, bool flash_read_only, struct rpl_err *err)
{
	char line[LINE_MAX_BYTES], name[256];
	bool found = false;

	while (take_line(&text, line)) {
		if (sscanf(line, "%255s", name) != 1 || strstr(line, "Block Name"))
			continue;
		if (is_backend(name, ram_id))
			found = true;
		else if (!is_rom(name) && !(flash_read_only && strncmp(name, "system.flash", 12) == 0))
			return rpl_fail(err, -ENOTSUP, "RAM block %.60s is guest-writable memory outside the shared backend '%.40s': %s",
					name, ram_id, ramblock_advice(name));
	}
	if (!found)
		return rpl_fail(err, -ENOTSUP, "no RAM block belongs to backend '%.60s': give it to the machine: -machine ...,memory-backend=%.60s",
				ram_id, ram_id);
	return 0;
}

/* ---- memory tree */

struct piece {
	uint64_t from, to, offset; /* to: last byte */
};

/* "  0000000000000000-00000000000bffff (prio 0, ram): ram0 @0000000000100000 KVM" */
static bool ram_piece(const char *line, const char *name, struct piece *ret)
{
	char kind[32], what[256], offset[64] = "";
	struct piece p = { 0 };
	int prio;

	if (sscanf(line, " %" SCNx64 "-%" SCNx64 " (prio %d, %31[^)]): %255s %63s", &p.from, &p.to, &prio, kind, what,
		   offset) < 5)
		return false;
	if (strcmp(kind, "ram") != 0 || !is_backend(what, name))
		return false;
	if (offset[0] == '@' && sscanf(offset + 1, "%" SCNx64, &p.offset) != 1)
		return false;
	*ret = p;
	return true;
}

struct split {
	uint64_t low_end; /* RAM offset where the part above 4 GiB begins; all of RAM if there is none */
	uint64_t delta;   /* address - offset of that part; 0: there is none */
};

/* RAM shows up in pieces, because ROMs and SMRAM hide parts of it, differently from one moment to the next. The
 * pieces below 4 GiB have address == offset; those above share one difference. */
static int add_piece(const struct piece *p, uint64_t bytes, struct split *s, struct rpl_err *err)
{
	uint64_t delta = p->from - p->offset;

	if (p->to < p->from || p->from < p->offset || p->to - p->from >= bytes || p->offset > bytes - (p->to - p->from) - 1)
		return rpl_fail(err, -EPROTO, "memory tree: RAM piece 0x%" PRIx64 "-0x%" PRIx64 " @0x%" PRIx64 " does not fit %" PRIu64 " bytes",
				p->from, p->to, p->offset, bytes);
	if (delta == 0)
		return 0;
	if (s->delta && s->delta != delta)
		return rpl_fail(err, -ENOTSUP, "memory tree: RAM is split in more than two parts (at 0x%" PRIx64 " too)", p->from);
	s->delta = delta;
	if (p->offset < s->low_end)
		s->low_end = p->offset;
	return 0;
}

static int read_pieces(const char *mtree, const char *name, uint64_t bytes, struct split *s, uint64_t *low_top,
		       struct rpl_err *err)
{
	char line[LINE_MAX_BYTES];
	bool inside = false;
	struct piece p;
	int r;

	while (take_line(&mtree, line)) {
		if (strncmp(line, "FlatView", 8) == 0) {
			if (inside)
				break;
			continue;
		}
		if (strncmp(line, " AS \"memory\"", 12) == 0)
			inside = true;
		if (!inside || !ram_piece(line, name, &p))
			continue;
		r = add_piece(&p, bytes, s, err);
		if (r < 0)
			return r;
		if (p.from == p.offset && p.to + 1 > *low_top)
			*low_top = p.to + 1;
	}
	return 0;
}

int qemu_layout(const char *mtree, const char *name, uint64_t bytes, struct rpl_ram_layout *ret, struct rpl_err *err)
{
	struct split s = { .low_end = bytes };
	struct rpl_ram_layout l = { 0 };
	uint64_t low_top = 0;
	int r;

	if (bytes == 0 || bytes % RPL_PAGE_SIZE)
		return rpl_fail(err, -EINVAL, "RAM of %" PRIu64 " bytes is not whole pages", bytes);
	r = read_pieces(mtree, name, bytes, &s, &low_top, err);
	if (r < 0)
		return r;
	if (low_top == 0 || low_top > s.low_end || s.low_end % RPL_PAGE_SIZE || s.delta % RPL_PAGE_SIZE)
		return rpl_fail(err, -ENOTSUP, "memory tree: RAM '%.60s' below 4 GiB ends at 0x%" PRIx64 ", the part above begins at offset 0x%" PRIx64,
				name, low_top, s.low_end);
	if (!rpl_layout_add(&l, 0, s.low_end >> RPL_PAGE_SHIFT, 0) ||
	    (s.delta && !rpl_layout_add(&l, (s.delta + s.low_end) >> RPL_PAGE_SHIFT,
					(bytes - s.low_end) >> RPL_PAGE_SHIFT, s.low_end >> RPL_PAGE_SHIFT)))
		return rpl_fail(err, -ENOTSUP, "memory tree: RAM of %" PRIu64 " bytes exceeds what replicad can address", bytes);
	if (!rpl_layout_check(&l, err))
		return -EINVAL;
	*ret = l;
	return 0;
}

/* ---- network */

/* "virtio-net-pci.0: index=0,type=nic,..." and, below it, " \ n0: index=0,type=dgram,...". */
static bool net_line(const char *line, char name[64], char type[32], bool *peer)
{
	const char *t = strstr(line, ",type=");

	*peer = strncmp(line, " \\ ", 3) == 0;
	return t && sscanf(line + (*peer ? 3 : 0), "%63[^:]", name) == 1 && sscanf(t + 6, "%31[^,]", type) == 1;
}

static int admit_netdev(const char *name, const char *type, unsigned qemu_major, bool any_netdev, struct rpl_err *err)
{
	if (strncmp(type, "vhost-", 6) == 0)
		return rpl_fail(err, -ENOTSUP, "netdev %.40s is %s: it writes guest memory from another process, unseen by the tracker; use -netdev dgram to replicad's relay",
				name, type);
	if (strcmp(type, "stream") == 0 && qemu_major < QEMU_STREAM_RECONNECTS_MAJOR)
		return rpl_fail(err, -ENOTSUP, "netdev %.40s is stream: QEMU before %d.0 does not reconnect it after the other side restarts; use -netdev dgram to replicad's relay",
				name, QEMU_STREAM_RECONNECTS_MAJOR);
	if (strcmp(type, "dgram") == 0 || any_netdev)
		return 0;
	return rpl_fail(err, -ENOTSUP, "netdev %.40s is %s: its output cannot be held until it is safe; use -netdev dgram to replicad's relay (or netbuf=none, which does not protect clients)",
			name, type);
}

int qemu_check_network(const char *text, unsigned qemu_major, bool any_netdev, struct rpl_err *err)
{
	char line[LINE_MAX_BYTES], name[64], type[32];
	bool peer;
	int r;

	while (take_line(&text, line)) {
		if (!net_line(line, name, type, &peer) || strcmp(type, "nic") == 0)
			continue;
		r = admit_netdev(name, type, qemu_major, any_netdev, err);
		if (r < 0)
			return r;
	}
	return 0;
}

int qemu_network_lines(const char *text, struct qemu_text *out, struct rpl_err *err)
{
	char line[LINE_MAX_BYTES], name[64], type[32], nic[64] = "none", key[160];
	bool peer;

	while (take_line(&text, line)) {
		if (!net_line(line, name, type, &peer))
			continue;
		if (!peer) {
			(void)snprintf(nic, sizeof(nic), "%s", name);
			continue;
		}
		(void)snprintf(key, sizeof(key), "netdev.%s", nic);
		qemu_text_add(out, key, "%s", type);
	}
	return out->failed ? rpl_fail(err, -E2BIG, "the definition has too many lines") : 0;
}

/* ---- device tree */

struct device {
	char driver[64], id[64], bus[64], addr[16], mac[20];
	uint64_t props; /* a hash of all properties that the device state depends on */
	bool open;
};

/* What may differ: host-side names (what a device is connected to, not what it is), and properties that the guest's
 * firmware changes (where q35 put its configuration window, and pc its SMBus; both are in the device state). */
static bool host_side(const char *prop)
{
	static const char *const names[] = { "netdev", "drive", "chardev", "audiodev", "romfile", "path", "MCFG", "smb_io_base" };

	for (size_t i = 0; i < RPL_ARRAY_LEN(names); i++)
		if (strcmp(prop, names[i]) == 0)
			return true;
	return false;
}

static uint64_t hash_text(uint64_t h, const char *s)
{
	return qemu_hash(h, s, strlen(s) + 1);
}

static void add_property(struct device *d, const char *line)
{
	char name[64], value[LINE_MAX_BYTES];

	if (sscanf(line, " %63[^ =] = %1023[^\n]", name, value) != 2 || host_side(name))
		return;
	if (strcmp(name, "addr") == 0)
		(void)snprintf(d->addr, sizeof(d->addr), "%.15s", value);
	else if (strcmp(name, "mac") == 0)
		(void)sscanf(value, "\"%19[^\"]", d->mac);
	d->props = hash_text(hash_text(d->props, name), value);
}

static int admit_device(const char *driver, const char *id, struct rpl_err *err)
{
	static const struct {
		const char *prefix, *why;
	} refused[] = {
		{ "vfio-", "the hardware writes guest memory unseen by the tracker; give the guest an emulated device" },
		{ "vhost-user-", "another process writes guest memory unseen by the tracker; use the in-QEMU device" },
		{ "vhost-vdpa", "the hardware writes guest memory unseen by the tracker; use -netdev dgram" },
		{ "vhost-scsi", "the kernel serves its disks past any overlay; use virtio-blk" },
		{ "virtio-balloon", "it discards pages behind the tracker's back; start the guest without it" },
		{ "virtio-mem", "it discards pages behind the tracker's back; give the guest its RAM with -m" },
		{ "virtio-pmem", "its memory lies outside the shared backend; remove it" },
		{ "pc-dimm", "its memory lies in a second backend; give the guest its RAM with -m" },
		{ "nvdimm", "its memory lies in a second backend; remove it" },
		{ "ivshmem", "its memory is shared with other programs; remove it" },
		{ "cxl-", "its memory lies outside the shared backend; remove it" },
	};

	for (size_t i = 0; i < RPL_ARRAY_LEN(refused); i++)
		if (strncmp(driver, refused[i].prefix, strlen(refused[i].prefix)) == 0)
			return rpl_fail(err, -ENOTSUP, "device %.40s%s%.40s: %s", driver, id[0] ? " " : "", id, refused[i].why);
	return 0;
}

/* One line a device: what it is, where it sits, and a fingerprint of its properties. */
static void close_device(struct device *d, struct qemu_text *out)
{
	char key[256];

	if (!d->open)
		return;
	if (d->id[0])
		(void)snprintf(key, sizeof(key), "device.%s/%s", d->bus, d->id);
	else
		(void)snprintf(key, sizeof(key), "device.%s/%s%s%s", d->bus, d->driver, d->addr[0] ? "@" : "", d->addr);
	qemu_text_add(out, key, "%s%s%s%s%s props=%016" PRIx64, d->driver, d->addr[0] ? " addr=" : "", d->addr,
		      d->mac[0] ? " mac=" : "", d->mac, d->props);
	d->open = false;
}

#define TREE_DEPTH 64

int qemu_devices(const char *qtree, struct qemu_text *out, struct rpl_err *err)
{
	char line[LINE_MAX_BYTES], bus[TREE_DEPTH][64] = { { 0 } };
	struct device d = { .open = false };
	int r;

	while (take_line(&qtree, line)) {
		size_t depth = strspn(line, " ") / 2;
		const char *p = line + strspn(line, " ");

		if (depth >= TREE_DEPTH)
			return rpl_fail(err, -ENOTSUP, "device tree: more than %d levels", TREE_DEPTH);
		if (strncmp(p, "bus: ", 5) == 0) {
			(void)snprintf(bus[depth], sizeof(bus[depth]), "%.63s", p + 5);
		} else if (strncmp(p, "dev: ", 5) == 0) {
			close_device(&d, out);
			d = (struct device){ .open = true, .props = QEMU_HASH_BEGIN };
			(void)sscanf(p, "dev: %63[^,], id \"%63[^\"]\"", d.driver, d.id);
			if (depth)
				memcpy(d.bus, bus[depth - 1], sizeof(d.bus));
			r = admit_device(d.driver, d.id, err);
			if (r < 0)
				return r;
		} else if (d.open) {
			add_property(&d, p);
		}
	}
	close_device(&d, out);
	return out->failed ? rpl_fail(err, -E2BIG, "the definition has too many lines") : 0;
}

/* ---- the definition's text */

static bool has_key(const struct qemu_text *t, const char *key)
{
	size_t n = strlen(key);

	for (size_t i = 0; i < t->lines; i++)
		if (strncmp(t->line[i], key, n) == 0 && t->line[i][n] == '=')
			return true;
	return false;
}

void qemu_text_add(struct qemu_text *t, const char *key, const char *fmt, ...)
{
	char value[768], unique[320], *line;
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(value, sizeof(value), fmt, ap);
	va_end(ap);
	(void)snprintf(unique, sizeof(unique), "%.255s", key);
	for (unsigned i = 2; has_key(t, unique); i++)
		(void)snprintf(unique, sizeof(unique), "%.255s#%u", key, i);
	if (t->lines == RPL_ARRAY_LEN(t->line) || asprintf(&line, "%s=%s", unique, value) < 0) {
		t->failed = true;
		return;
	}
	for (char *c = line; *c; c++)
		if (!isprint((unsigned char)*c))
			*c = '?';
	t->line[t->lines++] = line;
}

/* By key, as rpl_definition_compare() walks it. */
static int by_key(const void *a, const void *b)
{
	const char *x = *(const char *const *)a, *y = *(const char *const *)b;
	size_t nx = strcspn(x, "="), ny = strcspn(y, "=");
	int r = memcmp(x, y, nx < ny ? nx : ny);

	return r ? r : (nx > ny) - (nx < ny);
}

char *qemu_text_join(struct qemu_text *t, struct rpl_err *err)
{
	size_t len = 1, used = 0;
	char *text;

	qsort(t->line, t->lines, sizeof(t->line[0]), by_key);
	for (size_t i = 0; i < t->lines; i++)
		len += strlen(t->line[i]) + 1;
	text = t->failed || len > RPL_GUEST_DEFINITION_MAX ? NULL : malloc(len);
	if (!text)
		(void)rpl_fail(err, -E2BIG, "the guest's definition has %zu lines and %zu bytes, more than %d bytes", t->lines,
			       len, RPL_GUEST_DEFINITION_MAX);
	if (text)
		*text = '\0';
	for (size_t i = 0; i < t->lines; i++) {
		if (text)
			used += (size_t)sprintf(text + used, "%s\n", t->line[i]);
		free(t->line[i]);
	}
	t->lines = 0;
	return text;
}
