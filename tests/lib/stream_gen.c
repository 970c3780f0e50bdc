/* stream_gen - write a made-up stream: for scripts, fuzz seeds and benchmarks
 *
 *   stream_gen GUEST FORMAT VERSION CHECKPOINTS SEED [producer] [colo] [tiny]   a small one
 *   stream_gen bulk MIB                                                    an HVM libxl stream of MIB MiB of pages
 *   stream_gen legacy hvm|pv|pv32|pv64 32|64 SEED                          a stream from before Xen 4.6; pv: as wide as the
 *                                                                          toolstack
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <replicad/auto.h>
#include <replicad/stream.h>

#include "legacy_make.h"
#include "stream_make.h"

static uint8_t stream[32 << 20];

static int emit(const void *bytes, size_t len)
{
	return fwrite(bytes, 1, len, stdout) == len ? 0 : 1;
}

static int bulk(uint64_t mib)
{
	static uint8_t pages[64][RPL_STREAM_PAGE];
	struct make_plan plan = { .guest = MAKE_HVM, .format = RPL_FORMAT_LIBXL, .version = RPL_IMAGE_V3, .records = 1,
				  .pages = 1, .vcpus = 2, .seed = 1 };
	struct make_result made = make_stream(&plan, stream, sizeof(stream));
	static uint64_t descs[RPL_STREAM_PAGES_PER_RECORD];
	const void *where[RPL_STREAM_PAGES_PER_RECORD];
	size_t head = RPL_LIBXL_HEADER + 8 + RPL_IMAGE_HEADER + RPL_DOMAIN_HEADER + 8 + 48 + 8 + 16 + 8;
	uint64_t rnd = 1, pfn = 1000;
	uint8_t *rec = malloc(8 << 20);

	if (!rec)
		return 1;
	for (size_t i = 0; i < sizeof(pages) / 8; i++) {
		uint64_t v = i / 512 % 4 ? make_random(&rnd) : 0; /* every fourth page is zero */

		memcpy((uint8_t *)pages + i * 8, &v, 8);
	}
	if (emit(stream, head))
		return 1;
	for (uint64_t done = 0; done < mib * 256; done += RPL_STREAM_PAGES_PER_RECORD) {
		struct rpl_out o = rpl_out(rec, 8 << 20);

		for (uint32_t i = 0; i < RPL_STREAM_PAGES_PER_RECORD; i++) {
			descs[i] = pfn++;
			where[i] = pages[make_random(&rnd) % 64];
		}
		rpl_stream_put_page_data(&o, descs, RPL_STREAM_PAGES_PER_RECORD, where);
		if (emit(rec, o.len))
			return 1;
	}
	free(rec);
	return emit(stream + head, made.len - head);
}

static int small(int argc, char **argv)
{
	static const char *const guests[] = { "pv64", "pv32", "hvm", "pvh" }, *const formats[] = { "xl", "libxl", "libxc" };
	struct make_plan plan = { .records = 2, .pages = 6, .vcpus = 2, .guest = MAKE_GUESTS };
	struct make_result made;

	if (argc < 6)
		return 2;
	for (unsigned i = 0; i < RPL_ARRAY_LEN(guests); i++)
		if (strcmp(argv[1], guests[i]) == 0)
			plan.guest = (enum make_guest)i;
	for (unsigned i = 0; i < RPL_ARRAY_LEN(formats); i++)
		if (strcmp(argv[2], formats[i]) == 0)
			plan.format = RPL_FORMAT_XL + i;
	plan.version = (uint32_t)atoi(argv[3]);
	plan.checkpoints = (unsigned)atoi(argv[4]);
	plan.seed = strtoull(argv[5], NULL, 0);
	for (int i = 6; i < argc; i++) {
		plan.producer |= strcmp(argv[i], "producer") == 0;
		plan.colo |= strcmp(argv[i], "colo") == 0;
		if (strcmp(argv[i], "tiny") == 0) {
			plan.records = plan.pages = plan.vcpus = 1;
			plan.bare = true;
		}
	}
	if (plan.guest == MAKE_GUESTS || plan.format == RPL_FORMAT_UNKNOWN)
		return 2;
	made = make_stream(&plan, stream, sizeof(stream));
	return emit(stream, made.len);
}

static int legacy(char **argv)
{
	unsigned width = strcmp(argv[3], "64") == 0 ? 8 : 4, guest = strcmp(argv[2], "pv") == 0 ? width : 0;

	if (strcmp(argv[2], "pv32") == 0)
		guest = 4;
	if (strcmp(argv[2], "pv64") == 0)
		guest = 8;
	return emit(stream, make_legacy(guest, width, strtoull(argv[4], NULL, 0), stream, sizeof(stream)));
}

int main(int argc, char **argv)
{
	int r = 2;

	if (argc == 3 && strcmp(argv[1], "bulk") == 0)
		r = bulk(strtoull(argv[2], NULL, 0));
	else if (argc == 5 && strcmp(argv[1], "legacy") == 0)
		r = legacy(argv);
	else if (argc >= 6)
		r = small(argc, argv);
	if (r == 2)
		(void)fprintf(stderr, "stream_gen: wrong call, see the top of tests/lib/stream_gen.c\n");
	return fflush(stdout) ? 1 : r;
}
