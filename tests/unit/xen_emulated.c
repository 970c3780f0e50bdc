/* What an HVM guest's device model emulates: the same line from what libxl keeps and from what an operator wrote. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "../../src/guest/xen_emulated.h"

static int text_of(const char *json, char ret[XEN_EMULATED_MAX], struct rpl_err *err)
{
	json_error_t jerr;
	json_t *config = json_loads(json, 0, &jerr);
	int r;

	assert_non_null(config);
	r = xen_emulated_text(config, ret, err);
	json_decref(config);
	return r;
}

static void assert_text(const char *json, const char *expected)
{
	char text[XEN_EMULATED_MAX];
	struct rpl_err err = { 0 };

	assert_int_equal(text_of(json, text, &err), 0);
	assert_string_equal(text, expected);
}

static void assert_refused(const char *json, int code, const char *word)
{
	char text[XEN_EMULATED_MAX];
	struct rpl_err err = { 0 };

	assert_int_equal(text_of(json, text, &err), code);
	assert_non_null(strstr(err.msg, word));
}

static void test_defaults_are_filled_in(void **state)
{
	(void)state;
	assert_text("{\"b_info\": {\"type.hvm\": {}}}", "vga=cirrus video=8192k hd=ide platform=1 usb=0 serials=0");
	assert_text("{\"b_info\": {\"video_memkb\": 0, \"type.hvm\": {\"vga\": {\"kind\": \"none\"}, \"serial\": \"pty\", \"usb\": \"False\"}},"
		    " \"nics\": [{\"devid\": 0, \"nictype\": \"vif_ioemu\"}]}",
		    "vga=none video=0k hd=ide platform=1 usb=0 serials=1 nic=rtl8139");
	assert_text("{\"b_info\": {\"type.hvm\": {\"vga\": {\"kind\": \"none\"}, \"serial\": \"pty\", \"usb\": \"<default>\"}}, \"nics\": [{}]}",
		    "vga=none video=0k hd=ide platform=1 usb=0 serials=1 nic=rtl8139");
}

static void test_devices_are_named(void **state)
{
	(void)state;
	assert_text("{\"b_info\": {\"video_memkb\": -1, \"extra_hvm\": [\"-boot\", \"reboot-timeout=-1\"], \"type.hvm\": {\"vga\": {\"kind\":"
		    " \"std\"}, \"hdtype\": \"ahci\", \"usb\": \"True\", \"usbdevice_list\": [\"tablet\"], \"xen_platform_pci\": \"False\","
		    " \"serial_list\": [\"pty\", \"none\"]}}, \"nics\": [{\"model\": \"e1000\"}, {\"nictype\": \"vif\"}],"
		    " \"disks\": [{\"vdev\": \"hda\", \"readwrite\": 1}, {\"vdev\": \"hdc\", \"is_cdrom\": 1}]}",
		    "vga=std video=16384k hd=ahci platform=0 usb=1 usbdevice=tablet serials=2 arg=-boot arg=reboot-timeout=-1 nic=e1000 "
		    "nic=none disk=hda cdrom=hdc");
}

static void test_a_newline_cannot_begin_another_line(void **state)
{
	(void)state;
	assert_text("{\"b_info\": {\"extra_hvm\": [\"a\\nvcpus=2\"], \"type.hvm\": {}}}",
		    "vga=cirrus video=8192k hd=ide platform=1 usb=0 serials=0 arg=a?vcpus=2");
}

static void test_refusals(void **state)
{
	char json[XEN_EMULATED_MAX + 128];
	int n = snprintf(json, sizeof(json), "{\"b_info\": {\"extra_hvm\": [\"");

	(void)state;
	assert_refused("{\"b_info\": {\"nested_hvm\": \"True\", \"type.hvm\": {}}}", -ENOTSUP, "nestedhvm");
	assert_refused("{\"b_info\": {\"type.hvm\": {\"nested_hvm\": \"True\"}}}", -ENOTSUP, "nestedhvm");
	assert_refused("{\"b_info\": {\"type.hvm\": {\"usbdevice\": \"host:1.2\"}}}", -ENOTSUP, "usbdevice");
	assert_refused("{\"b_info\": {\"type.hvm\": {\"usbdevice_list\": [\"tablet\", \"host:4b4:6570\"]}}}", -ENOTSUP, "usbdevice");
	memset(json + n, 'x', XEN_EMULATED_MAX);
	(void)strcpy(json + n + XEN_EMULATED_MAX, "\"], \"type.hvm\": {}}}");
	assert_refused(json, -E2BIG, "longer");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_defaults_are_filled_in),
		cmocka_unit_test(test_devices_are_named),
		cmocka_unit_test(test_a_newline_cannot_begin_another_line),
		cmocka_unit_test(test_refusals),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
