/* fuzz_qemu_text.c - what a QEMU's monitor prints, a peer's definition, a standby file; first byte: which */
#include <stdlib.h>
#include <string.h>

#include "../../src/guest/procmem.h"
#include "../../src/guest/qemu_facts.h"
#include "../../src/guest/qemu_impl.h"
#include "fuzz.h"

static void layout(const char *text)
{
	struct rpl_err err = { 0 };
	struct rpl_ram_layout l;

	if (qemu_layout(text, "ram0", UINT64_C(4) << 30, &l, &err) < 0) {
		rpl_assert(err.code < 0 && err.msg[0]);
		return;
	}
	rpl_assert(rpl_layout_check(&l, &err));
	rpl_assert(l.pages == UINT64_C(1) << 20);
}

static void devices(const char *text)
{
	struct qemu_text t = { .lines = 0 };
	struct rpl_err err = { 0 };
	char *made;
	int r = qemu_devices(text, &t, &err);

	if (r == 0)
		r = qemu_network_lines(text, &t, &err);
	rpl_assert(r == 0 || err.msg[0]);
	made = qemu_text_join(&t, &err);
	if (made) {
		rpl_assert(strlen(made) < RPL_GUEST_DEFINITION_MAX);
		rpl_assert(rpl_definition_compare(made, made, &err) == 0);
	}
	free(made);
}

static void definition(const char *text)
{
	struct rpl_err err = { 0 };
	int r = rpl_definition_compare("a=1\nmachine=pc-q35-7.2\nz=2\n", text, &err);

	rpl_assert(r == 0 || (err.code == r && err.msg[0]));
}

static void standby_file(char *text)
{
	char *argv[QEMU_ARGS_MAX + 1], qmp[256], ram[256];
	struct rpl_err err = { 0 };

	if (qemu_parse_argv(text, argv, &err) == 0 && qemu_check_argv(argv, NULL, qmp, ram, &err) == 0)
		rpl_assert(qmp[0]);
	else
		rpl_assert(err.msg[0]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct procmem_map map;
	struct rpl_err err;
	char *text;

	if (len == 0)
		return 0;
	text = malloc(len);
	if (!text)
		return 0;
	memcpy(text, data + 1, len - 1);
	text[len - 1] = '\0';
	switch (data[0] % 6) {
	case 0: layout(text); break;
	case 1: devices(text); break;
	case 2: definition(text); break;
	case 3: standby_file(text); break;
	case 4: (void)qemu_check_ramblocks(text, "ram0", true, &err); break;
	case 5: (void)procmem_parse_map(text, &map); break;
	}
	free(text);
	return 0;
}
