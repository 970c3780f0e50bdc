/* xen_emulated.c - see xen_emulated.h; the defaults are libxl's of Xen 4.17 */
#include "xen_emulated.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define HOST_USB "host:"

struct text {
	char *buf;
	size_t len;
	bool bad;
};

static void put(struct text *t, const char *fmt, ...) RPL_PRINTF(2, 3);
static void put(struct text *t, const char *fmt, ...)
{
	size_t left = XEN_EMULATED_MAX - t->len;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(t->buf + t->len, left, fmt, ap);
	va_end(ap);
	if (n < 0 || (size_t)n >= left) {
		t->bad = true;
		return;
	}
	/* lines of a definition are printable, and end at the first newline */
	for (char *c = t->buf + t->len; *c; c++)
		if (*c < ' ' || *c > '~')
			*c = '?';
	t->len += (size_t)n;
}

static const char *word(const json_t *o, const char *key, const char *otherwise)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : otherwise;
}

/* libxl writes its three-valued ones as "True", "False" or "<default>". */
static bool is_true(const json_t *o, const char *key, bool otherwise)
{
	const json_t *v = json_object_get(o, key);
	const char *s = json_string_value(v);

	if (json_is_boolean(v))
		return json_is_true(v);
	return s && *s != '<' ? strcmp(s, "True") == 0 : otherwise;
}

static long long video_kib(const json_t *b_info, const char *vga)
{
	const json_t *v = json_object_get(b_info, "video_memkb");

	if (json_is_integer(v) && json_integer_value(v) >= 0)
		return json_integer_value(v);
	return strcmp(vga, "none") == 0 ? 0 : strcmp(vga, "qxl") == 0 ? 128 << 10 : strcmp(vga, "std") == 0 ? 16 << 10 : 8 << 10;
}

/* A list of words, or one word under another key. */
static void put_words(struct text *t, const char *name, const json_t *list, const char *one)
{
	const json_t *v;
	size_t i;

	if (one)
		put(t, " %s=%s", name, one);
	json_array_foreach (list, i, v)
		put(t, " %s=%s", name, json_is_string(v) ? json_string_value(v) : "?");
}

static void put_devices(struct text *t, const json_t *config)
{
	const json_t *v;
	size_t i;

	json_array_foreach (json_object_get(config, "nics"), i, v)
		put(t, " nic=%s", strcmp(word(v, "nictype", "vif_ioemu"), "vif") == 0 ? "none" : word(v, "model", "rtl8139"));
	json_array_foreach (json_object_get(config, "disks"), i, v)
		put(t, " %s=%s", json_is_true(json_object_get(v, "is_cdrom")) || json_integer_value(json_object_get(v, "is_cdrom")) ?
		    "cdrom" : "disk", word(v, "vdev", "?"));
}

static bool host_usb(const json_t *hvm)
{
	const json_t *list = json_object_get(hvm, "usbdevice_list"), *v;
	size_t i;

	if (strncmp(word(hvm, "usbdevice", ""), HOST_USB, strlen(HOST_USB)) == 0)
		return true;
	json_array_foreach (list, i, v)
		if (json_is_string(v) && strncmp(json_string_value(v), HOST_USB, strlen(HOST_USB)) == 0)
			return true;
	return false;
}

int xen_emulated_text(const json_t *config, char ret[XEN_EMULATED_MAX], struct rpl_err *err)
{
	const json_t *b_info = json_object_get(config, "b_info"), *hvm = json_object_get(b_info, "type.hvm");
	const char *vga = word(json_object_get(hvm, "vga"), "kind", "cirrus"), *serial = word(hvm, "serial", NULL);
	struct text t = { .buf = ret };

	ret[0] = '\0';
	if (is_true(b_info, "nested_hvm", false) || is_true(hvm, "nested_hvm", false))
		return rpl_fail(err, -ENOTSUP, "it may run virtual machines itself, whose state no migration stream carries: remove "
				"nestedhvm= from its configuration");
	if (host_usb(hvm))
		return rpl_fail(err, -ENOTSUP, "it has a USB device of this host, which cannot be carried over: remove it from usbdevice=");
	put(&t, "vga=%s video=%lldk hd=%s", vga, video_kib(b_info, vga), word(hvm, "hdtype", "ide"));
	put(&t, " platform=%d usb=%d", is_true(hvm, "xen_platform_pci", true), is_true(hvm, "usb", false));
	put_words(&t, "usbdevice", json_object_get(hvm, "usbdevice_list"), word(hvm, "usbdevice", NULL));
	put(&t, " serials=%zu", json_array_size(json_object_get(hvm, "serial_list")) + (serial && strcmp(serial, "none") != 0));
	put_words(&t, "sound", NULL, word(hvm, "soundhw", NULL));
	put_words(&t, "arg", json_object_get(b_info, "extra"), NULL);
	put_words(&t, "arg", json_object_get(b_info, "extra_hvm"), NULL);
	put_devices(&t, config);
	return t.bad ? rpl_fail(err, -E2BIG, "the text of its emulated devices is longer than %d bytes", XEN_EMULATED_MAX - 1) : 0;
}
