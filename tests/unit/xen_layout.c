/* The layout of a Xen guest's replica: the type table behind the guest's regions, and the definition's line. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <replicad/xen.h>

#define LOW 24576u
#define SPECIAL 0xfeff8u

static struct rpl_ram_layout pvh(void)
{
	struct rpl_ram_layout l = { 0 };

	assert_true(rpl_layout_add(&l, 0, LOW, 0));
	assert_true(rpl_layout_add(&l, SPECIAL, 8, LOW));
	assert_true(rpl_xen_layout_add_types(&l));
	return l;
}

static void test_table(void **state)
{
	struct rpl_ram_layout l = pvh();
	struct rpl_err err;
	uint64_t page;

	(void)state;
	assert_true(rpl_xen_layout_check(&l, &err));
	assert_int_equal(rpl_xen_guest_pages(&l), LOW + 8);
	assert_int_equal(rpl_xen_types_pfn(&l), 0xff000);
	assert_int_equal(l.pages, LOW + 8 + 7); /* a byte a page: 24584 bytes take 7 pages */
	assert_int_equal(rpl_xen_type_pfn(&l, LOW), 0xff006);
	assert_true(rpl_layout_file_page(&l, 0xff006, &page));
	assert_int_equal(page, LOW + 8 + 6);
}

static void test_check_refuses(void **state)
{
	struct rpl_ram_layout l = { 0 };
	struct rpl_err err;

	(void)state;
	assert_true(rpl_layout_add(&l, 0, LOW, 0));
	assert_false(rpl_xen_layout_check(&l, &err)); /* no table */
	assert_non_null(strstr(err.msg, "type table"));
	assert_true(rpl_layout_add(&l, LOW, 5, LOW)); /* one page short */
	assert_false(rpl_xen_layout_check(&l, &err));
	assert_non_null(strstr(err.msg, "5 pages, expected 6"));
	l = (struct rpl_ram_layout){ 0 };
	assert_true(rpl_layout_add(&l, 0, 16, 1)); /* the table first in the file */
	assert_true(rpl_layout_add(&l, 16, 1, 0));
	assert_false(rpl_xen_layout_check(&l, &err));
}

static void test_definition(void **state)
{
	struct rpl_ram_layout l = pvh(), back;
	struct rpl_err err;
	char text[128], line[256];

	(void)state;
	assert_true(rpl_xen_layout_text(&l, text, sizeof(text)));
	assert_string_equal(text, "0x0+0x6000,0xfeff8+0x8");
	assert_false(rpl_xen_layout_text(&l, text, 10));
	(void)snprintf(line, sizeof(line), "domain=pvh\nlayout=0x0+0x6000,0xfeff8+0x8\nvcpus=1");
	assert_int_equal(rpl_xen_definition_layout(line, &back, &err), 0);
	assert_true(rpl_layout_equal(&l, &back));
	assert_true(rpl_xen_definition_get(line, "vcpus", text, sizeof(text)));
	assert_string_equal(text, "1");
	assert_false(rpl_xen_definition_get(line, "vcpu", text, sizeof(text)));
}

static void test_definition_refuses(void **state)
{
	static const char *const bad[] = {
		"domain=pvh\n", "layout=\n", "layout=0x0\n", "layout=0x0+\n", "layout=0x0+0x0\n", "layout=0x0+0x10,\n",
		"layout=0x10+0x10,0x0+0x4\n", "layout=0x0+0x10 0x20+0x1\n", "layout=0x0+0xffffffffffffffff\n",
		"layout=0x0+0x11111111111111111\n", "layout=0+1,2+1,4+1,6+1,8+1,a+1,c+1,e+1\n",
		"layout=0+1,2+1,4+1,6+1,8+1,a+1,c+1,e+1,10+1\n",
	};
	struct rpl_ram_layout l;
	struct rpl_err err;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (rpl_xen_definition_layout(bad[i], &l, &err) != -EBADMSG)
			fail_msg("accepted: %s", bad[i]);
}

static void test_rings(void **state)
{
	static const char *const bad[] = {
		"", "rings=\n", "rings=0xfeffc\n", "rings=0xfeffc,\n", "rings=0xfeffc,0xfefff,\n", "rings=0xfeffc 0xfefff\n",
		"rings=0x0,0xfefff\n", "rings=0xfeffc,0x6000\n", "rings=0xfeffc,0xff000\n", /* the last begins the type table */
		"rings=0xfeffc,0xffffffffffffffffffffffffffffffffffffffffffffffff\n",
	};
	struct rpl_ram_layout l = pvh();
	uint64_t ring[2] = { 0 };
	struct rpl_err err;

	(void)state;
	assert_int_equal(rpl_xen_definition_rings("layout=0x0+0x6000\nrings=0xfeffc,0xfefff\nvcpus=1\n", &l, ring, &err), 0);
	assert_int_equal(ring[0], 0xfeffc);
	assert_int_equal(ring[1], 0xfefff);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (rpl_xen_definition_rings(bad[i], &l, ring, &err) != -EINVAL)
			fail_msg("accepted: %s", bad[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_table),
		cmocka_unit_test(test_check_refuses),
		cmocka_unit_test(test_definition),
		cmocka_unit_test(test_definition_refuses),
		cmocka_unit_test(test_rings),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
