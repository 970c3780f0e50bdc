/* fuzz_conf.c - configuration text; what is accepted can be printed and read again, and means the same */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <replicad/conf.h>

#include "fuzz.h"

static char *printed(const struct rpl_conf *c)
{
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	rpl_assert(f);
	rpl_conf_print(c, f);
	rpl_assert(fclose(f) == 0);
	return text;
}

/* Comments tell the origin, which differs; the rest must not. */
static void assert_same_lines(const char *a, const char *b)
{
	while (*a && *b) {
		size_t la = strcspn(a, "\n") + 1, lb = strcspn(b, "\n") + 1;

		if (*a == '#') {
			rpl_assert(*b == '#');
		} else {
			rpl_assert(la == lb);
			rpl_assert(memcmp(a, b, la) == 0);
		}
		a += la;
		b += lb;
	}
	rpl_assert(*a == *b);
}

static void read_again(const struct rpl_conf *c)
{
	struct rpl_conf *again = rpl_conf_new();
	char *text = printed(c), *second;
	struct rpl_err err = { 0 };

	rpl_assert(rpl_conf_parse(again, "printed", text, strlen(text), &err) == 0);
	rpl_assert(rpl_conf_finish(again, &err) == 0);
	second = printed(again);
	assert_same_lines(text, second);
	free(text);
	free(second);
	rpl_conf_free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct rpl_conf *c = rpl_conf_new();
	struct rpl_err err = { 0 };
	int r = rpl_conf_parse(c, "fuzz", (const char *)data, len, &err);

	if (r == 0)
		r = rpl_conf_finish(c, &err);
	if (r < 0)
		rpl_assert(err.code == r && err.msg[0]);
	else if (len < 4096) /* the printed form of many sections may be larger than a file may be */
		read_again(c);
	rpl_conf_free(c);
	return 0;
}
