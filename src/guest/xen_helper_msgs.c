#include "xen_helper_msgs.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* ---- the command line */

static bool number(const char *text, long min, long max, long *ret)
{
	char *end;

	errno = 0;
	*ret = strtol(text, &end, 10);
	return end != text && !*end && !errno && *ret >= min && *ret <= max;
}

int xen_helper_args(int argc, char *const argv[], struct xen_helper_args *ret, struct rpl_err *err)
{
	long v[XEN_HELPER_ARGS - 2];

	if (argc < 2 || strcmp(argv[1], "--restore-domain") != 0)
		return rpl_fail(err, -EINVAL, "asked for '%.40s', and only --restore-domain is done here", argc < 2 ? "" : argv[1]);
	if (argc != XEN_HELPER_ARGS)
		return rpl_fail(err, -EINVAL, "%d arguments, libxl 4.17 gives %d: this is another libxl's protocol", argc - 1,
				XEN_HELPER_ARGS - 1);
	for (int i = 2; i < argc; i++)
		if (!number(argv[i], i == 3 ? -1 : 0, i < 4 ? INT_MAX : UINT32_MAX, &v[i - 2]))
			return rpl_fail(err, -EINVAL, "argument %d is '%.40s', a number was expected", i, argv[i]);
	*ret = (struct xen_helper_args){
		.io_fd = (int)v[0], .back_fd = (int)v[1], .domid = (uint32_t)v[2], .store_port = (uint32_t)v[3],
		.store_domid = (uint32_t)v[4], .console_port = (uint32_t)v[5], .console_domid = (uint32_t)v[6],
		.callbacks = (uint32_t)v[7], .stream_type = (uint32_t)v[8],
	};
	if (ret->callbacks != XEN_HELPER_CALLBACKS)
		return rpl_fail(err, -EINVAL, "libxl offers the callbacks 0x%x, libxl 4.17 offers 0x%x for a restore", ret->callbacks,
				XEN_HELPER_CALLBACKS);
	return ret->stream_type == 0 ? 0 : rpl_fail(err, -EINVAL, "stream type %u, only plain restores are done here", ret->stream_type);
}

/* ---- messages */

static void begin(struct rpl_out *o, enum xen_helper_msg msg, size_t arguments)
{
	rpl_assert(arguments + sizeof(uint16_t) <= UINT16_MAX);
	rpl_out_le16(o, (uint16_t)(arguments + sizeof(uint16_t)));
	rpl_out_le16(o, (uint16_t)msg);
}

static size_t text_len(const char *text)
{
	return strnlen(text, XEN_HELPER_TEXT_MAX - 1);
}

static void put_text(struct rpl_out *o, const char *text)
{
	rpl_out_le32(o, (uint32_t)text_len(text) + 1);
	rpl_out_bytes(o, text, text_len(text));
	rpl_out_u8(o, 0);
}

void xen_helper_put_log(struct rpl_out *o, enum xen_helper_level level, int errnoval, const char *context, const char *text)
{
	begin(o, XEN_MSG_LOG, 4 * sizeof(uint32_t) + text_len(context) + 1 + text_len(text) + 1);
	rpl_out_le32(o, level);
	rpl_out_le32(o, (uint32_t)errnoval);
	put_text(o, context);
	put_text(o, text);
}

void xen_helper_put_static_data_done(struct rpl_out *o, uint32_t missing)
{
	begin(o, XEN_MSG_STATIC_DATA_DONE, sizeof(uint32_t));
	rpl_out_le32(o, missing);
}

void xen_helper_put_restore_results(struct rpl_out *o, uint64_t store_gfn, uint64_t console_gfn)
{
	begin(o, XEN_MSG_RESTORE_RESULTS, 2 * sizeof(uint64_t));
	rpl_out_le64(o, store_gfn);
	rpl_out_le64(o, console_gfn);
}

void xen_helper_put_complete(struct rpl_out *o, int retval, int errnoval)
{
	begin(o, XEN_MSG_COMPLETE, 2 * sizeof(uint32_t));
	rpl_out_le32(o, (uint32_t)retval);
	rpl_out_le32(o, (uint32_t)errnoval);
}

/* ---- the gate */

bool xen_helper_gate(const char *maps, struct rpl_err *err)
{
	static const char any[] = "libxenlight.so.";
	const char *at = strstr(maps, any), *end;

	if (!at) {
		(void)rpl_fail(err, -ENOTSUP, "the program that runs us has no libxenlight: it is no toolstack");
		return false;
	}
	end = at + strcspn(at, " \n");
	if (strncmp(at, RPL_XEN_LIBXL, strlen(RPL_XEN_LIBXL)) == 0 && !(at[strlen(RPL_XEN_LIBXL)] >= '0' && at[strlen(RPL_XEN_LIBXL)] <= '9'))
		return true;
	(void)rpl_fail(err, -ENOTSUP, "the toolstack has %.*s, whose private protocol may be another than that of " RPL_XEN_LIBXL,
		       (int)(end - at < 60 ? end - at : 60), at);
	return false;
}
