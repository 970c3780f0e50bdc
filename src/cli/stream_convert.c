/* `replicad stream convert`: the input's events through rpl_stream_convert(), or its bytes through the legacy converter,
 * into a file that appears under its name only when it is whole. */
#include "cli.h"
#include "stream_cli.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>
#include <replicad/auto.h>
#include <replicad/io.h>
#include <replicad/stream_convert.h>

#define OUT_BYTES (256u << 10)

struct output {
	const char *name;    /* for people */
	const char *path;
	char part[PATH_MAX]; /* empty: standard output, or a pipe or device that is written as it is */
	int fd;
	int failed;          /* errno of a write */
	uint8_t *buf;
	size_t len;
	struct stream_digest *digest;
	bool in_image, digest_written;
};

struct conversion {
	struct stream_run run;
	struct output out;
	struct rpl_stream_sink sink;
	struct rpl_stream_convert conv;
	/* wishes */
	enum rpl_stream_format from, to;
	enum rpl_legacy_guest guest;
	unsigned width;
	uint32_t version;
	uint64_t checkpoint;
	bool last, digest;
	char *config;
	size_t config_len; /* with its NUL */
	bool legacy_follows;
	struct rpl_err err;
};

static void usage(void)
{
	(void)printf("usage: replicad stream convert [--format xl|libxl|libxc|legacy] [--to xl|libxl|libxc] [--image-version 2|3]\n"
		     "                               [--checkpoint N|last] [--config FILE.json] [--digest]\n"
		     "                               [--guest pv|hvm] [--width 32|64] IN|- OUT|-\n"
		     "OUT appears, or is replaced, when it is whole. Legacy streams become libxl streams unless --to says otherwise; their guest type\n"
		     "and toolstack width are guessed unless given. --checkpoint makes a plain, restorable stream out of a Remus\n"
		     "stream. Exit status: 0 done, 1 the stream cannot be converted, 2 usage or I/O.\n");
}

/* ---- output */
static int out_flush(struct output *o)
{
	int r = rpl_write_full(o->fd, o->buf, o->len);

	o->len = 0;
	if (r < 0)
		o->failed = -r;
	return r;
}

static int out_write(void *ctx, const void *bytes, size_t len)
{
	struct output *o = ctx;
	int r;

	if (o->digest && o->in_image)
		stream_digest_bytes(o->digest, bytes, len);
	if (len > OUT_BYTES - o->len) {
		r = out_flush(o);
		if (r < 0)
			return r;
	}
	if (len > OUT_BYTES) {
		r = rpl_write_full(o->fd, bytes, len);
		if (r < 0)
			o->failed = -r;
		return r;
	}
	memcpy(o->buf + o->len, bytes, len);
	o->len += len;
	return 0;
}

static void out_image(void *ctx)
{
	struct output *o = ctx;

	o->in_image = true;
}

static void out_digest(void *ctx, uint64_t *ret_bytes, uint64_t *ret_low, uint64_t *ret_high)
{
	struct output *o = ctx;

	stream_digest_get(o->digest, true, ret_bytes, ret_low, ret_high);
	o->digest_written = true;
}

/* A conversion that is interrupted takes its unfinished file with it. */
static const char *volatile unfinished;

static void on_signal(int nr)
{
	if (unfinished)
		(void)unlink(unfinished);
	(void)raise(nr); /* SA_RESETHAND: now with its own effect */
}

static void catch_signals(const char *part)
{
	static const int signals[] = { SIGINT, SIGTERM, SIGHUP };

	unfinished = part;
	for (size_t i = 0; i < RPL_ARRAY_LEN(signals); i++) {
		struct sigaction was, sa = { .sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND };

		if (sigaction(signals[i], NULL, &was) == 0 && was.sa_handler != SIG_IGN) /* as under nohup */
			(void)sigaction(signals[i], &sa, NULL);
	}
}

/* OUT.part, ours alone: neither through a link that somebody laid there, nor under another conversion's hands. */
static int out_part(struct output *o, struct rpl_err *err)
{
	char part[PATH_MAX];
	struct stat st, there;
	int r = rpl_path(part, sizeof(part), err, "%s.part", o->path);

	if (r < 0)
		return r;
	o->fd = open(part, O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
	if (o->fd < 0)
		return rpl_fail_errno(err, errno, "create %s", part);
	if (fstat(o->fd, &st) < 0 || !S_ISREG(st.st_mode))
		return rpl_fail(err, -EEXIST, "%s is in the way and no regular file: move it", part);
	if (flock(o->fd, LOCK_EX | LOCK_NB) < 0 || stat(part, &there) < 0 || there.st_ino != st.st_ino)
		return rpl_fail(err, -EBUSY, "%s is being written by another conversion: wait for it", part);
	if (ftruncate(o->fd, 0) < 0)
		return rpl_fail_errno(err, errno, "empty %s", part);
	memcpy(o->part, part, sizeof(part));
	catch_signals(o->part);
	return 0;
}

static int out_open(struct output *o, const char *path, struct rpl_err *err)
{
	struct stat st;

	o->name = strcmp(path, "-") ? path : "standard output";
	o->path = path;
	o->fd = STDOUT_FILENO;
	o->buf = malloc(OUT_BYTES);
	if (!o->buf)
		return rpl_fail(err, -ENOMEM, "%s: no memory for a buffer of %u bytes", path, OUT_BYTES);
	if (strcmp(path, "-") == 0)
		return 0;
	if (stat(path, &st) < 0 || S_ISREG(st.st_mode))
		return out_part(o, err);
	/* A device or a pipe is not to be replaced by a file of its name. */
	o->fd = open(path, O_WRONLY | O_NOCTTY | O_CLOEXEC);
	return o->fd < 0 ? rpl_fail_errno(err, errno, "open %s", path) : 0;
}

static int out_done(struct output *o, struct rpl_err *err)
{
	int r = out_flush(o);

	if (r == 0 && o->part[0] && fsync(o->fd) < 0)
		r = -errno;
	if (r == 0 && o->part[0] && rename(o->part, o->path) < 0)
		r = -errno;
	if (r < 0)
		return rpl_fail_errno(err, -r, "write %s", o->name);
	unfinished = NULL;
	o->part[0] = '\0';
	return 0;
}

static void out_fini(struct output *o)
{
	unfinished = NULL;
	if (o->part[0])
		(void)unlink(o->part);
	if (o->fd > STDERR_FILENO)
		rpl_close(&o->fd);
	free(o->buf);
	stream_digest_free(o->digest);
}

/* ---- wishes */
static int read_config(struct conversion *c, const char *path)
{
	struct rpl_err err;
	json_error_t jerr;
	json_t *root;

	if (rpl_read_file(path, RPL_XL_OPTIONAL_MAX - 5, &c->config, &c->config_len, &err) < 0)
		return rpl_cli_fail("stream convert", STREAM_EXIT_TROUBLE, "%s", err.msg);
	root = json_loads(c->config, 0, &jerr);
	if (!json_is_object(root)) {
		json_decref(root);
		return rpl_cli_fail("stream convert", STREAM_EXIT_TROUBLE, "%s: expected a JSON object as `xl list -l` or "
				    "libxl_domain_config_to_json() print it: line %d: %s", path, jerr.line, jerr.text);
	}
	json_decref(root);
	c->config_len = strlen(c->config) + 1;
	return 0;
}

static int wish(struct conversion *c, int option, const char *arg)
{
	char *end;

	switch (option) {
	case 'f':
		c->from = stream_format_by_name(arg);
		return c->from != RPL_FORMAT_UNKNOWN;
	case 't':
		c->to = stream_format_by_name(arg);
		return c->to != RPL_FORMAT_UNKNOWN && c->to != RPL_FORMAT_LEGACY;
	case 'v':
		c->version = strcmp(arg, "2") == 0 ? RPL_IMAGE_V2 : RPL_IMAGE_V3;
		return strcmp(arg, "2") == 0 || strcmp(arg, "3") == 0;
	case 'c':
		c->last = strcmp(arg, "last") == 0;
		errno = 0;
		c->checkpoint = c->last ? 0 : strtoull(arg, &end, 10);
		return c->last || (!errno && end != arg && !*end && c->checkpoint);
	case 'g':
		c->guest = strcmp(arg, "pv") == 0 ? RPL_LEGACY_PV : RPL_LEGACY_HVM;
		return strcmp(arg, "pv") == 0 || strcmp(arg, "hvm") == 0;
	case 'w':
		c->width = strcmp(arg, "32") == 0 ? 4 : 8;
		return strcmp(arg, "32") == 0 || strcmp(arg, "64") == 0;
	}
	return 0;
}

static int options(struct conversion *c, int argc, char **argv)
{
	static const struct option longs[] = {
		{ "format", required_argument, NULL, 'f' },        { "to", required_argument, NULL, 't' },
		{ "image-version", required_argument, NULL, 'v' }, { "checkpoint", required_argument, NULL, 'c' },
		{ "config", required_argument, NULL, 'C' },        { "digest", no_argument, NULL, 'd' },
		{ "guest", required_argument, NULL, 'g' },         { "width", required_argument, NULL, 'w' },
		{ "help", no_argument, NULL, 'h' },                { NULL, 0, NULL, 0 },
	};
	int o, r, at = 0;

	while ((o = getopt_long(argc, argv, "h", longs, &at)) != -1) {
		if (o == 'h') {
			usage();
			return -1;
		}
		if (o == '?')
			return rpl_cli_usage("stream convert", "the call is wrong");
		if (o == 'd') {
			c->digest = true;
		} else if (o == 'C') {
			r = read_config(c, optarg);
			if (r)
				return r;
		} else if (!wish(c, o, optarg)) {
			return rpl_cli_usage("stream convert", "--%s %s is not understood", longs[at].name, optarg);
		}
	}
	if (optind + 2 != argc)
		return rpl_cli_usage("stream convert", "%d names given, expected IN and OUT", argc - optind);
	return 0;
}

/* ---- the work */
static int on_event(void *ctx, const struct rpl_stream_event *ev)
{
	struct conversion *c = ctx;

	if (ev->kind == RPL_EV_LEGACY) {
		c->legacy_follows = true;
		return 1;
	}
	return rpl_stream_convert(&c->conv, ev, &c->err);
}

static int legacy_read(void *ctx, void *buf, size_t len, size_t *ret_got)
{
	struct conversion *c = ctx;
	uint64_t before = c->run.in.offset;
	int r = stream_input_read(&c->run.in, buf, len, NULL);

	*ret_got = (size_t)(c->run.in.offset - before);
	return r;
}

static int legacy(struct conversion *c)
{
	/* behind an xl header whose own configuration was passed on, the rest of the file is to come */
	enum rpl_stream_format to = c->conv.xl_written ? RPL_FORMAT_LIBXL : c->to;
	struct rpl_legacy l = { .to = to ? to : c->legacy_follows ? RPL_FORMAT_XL : RPL_FORMAT_LIBXL, .guest = c->guest,
				.width = c->width,
				.version = c->version ? c->version : RPL_IMAGE_V3, .config = c->config,
				.config_len = c->config_len, .sink = &c->sink, .read = legacy_read, .read_ctx = c };

	if (c->checkpoint)
		return rpl_fail(&c->err, -EINVAL, "--checkpoint: a legacy stream has none that could be taken out");
	return rpl_legacy_convert(&l, &c->conv.dropped_emulator, &c->err);
}

static int v2(struct conversion *c)
{
	struct rpl_err err;
	int r;

	c->conv = (struct rpl_stream_convert){ .to = c->to ? c->to : c->run.format, .version = c->version,
					       .checkpoint = c->checkpoint, .config = c->config,
					       .config_len = c->config_len, .sink = &c->sink };
	r = stream_run_events(&c->run, on_event, NULL, c, &c->err);
	if (r < 0)
		return r;
	if (c->legacy_follows)
		return legacy(c);
	if (c->guest || c->width)
		return rpl_fail(&c->err, -EINVAL, "--guest and --width: a v2 stream says both itself");
	r = rpl_stream_convert_end(&c->conv, rpl_stream_ending(&c->run.reader), &err);
	return r < 0 ? rpl_fail(&c->err, r, "offset %" PRIu64 ": %s", c->run.in.offset, err.msg) : 0;
}

static int ignore_event(void *ctx, const struct rpl_stream_event *ev)
{
	(void)ctx;
	(void)ev;
	return 0;
}

/* A pass over the file to learn which checkpoint is the last complete one. A cut behind it is what Remus streams end in. */
static int find_last(struct conversion *c, const char *path)
{
	off_t here = lseek(STDIN_FILENO, 0, SEEK_CUR);
	int r = stream_run_open(&c->run, path, c->from, &c->err);

	if (r == 0 && !c->run.in.size)
		r = rpl_fail(&c->err, -EINVAL, "--checkpoint last reads the input twice, %s is no regular file: give a number",
			     c->run.in.name);
	if (r == 0)
		r = stream_run_events(&c->run, ignore_event, NULL, c, &c->err);
	c->checkpoint = c->run.reader.checkpoints;
	if (r == 0 && c->checkpoint == 0)
		r = rpl_fail(&c->err, -EINVAL, "%s holds no complete checkpoint", c->run.in.name);
	stream_run_fini(&c->run);
	if (strcmp(path, "-") == 0)
		(void)lseek(STDIN_FILENO, here, SEEK_SET);
	return r;
}

/* What the wishes ask of this input, before anything is written. */
static int possible(struct conversion *c)
{
	enum rpl_stream_format to = c->run.format == RPL_FORMAT_LEGACY ? RPL_FORMAT_LIBXL : c->run.format;

	if (c->to)
		to = c->to;
	if (c->config && to != RPL_FORMAT_XL)
		return rpl_fail(&c->err, -EINVAL, "--config: a %s stream has no place for a configuration, add --to xl",
				stream_format_name(to));
	return 0;
}

static int convert(struct conversion *c, const char *in, const char *out)
{
	int r = c->last ? find_last(c, in) : 0;

	if (r == 0)
		r = stream_run_open(&c->run, in, c->from, &c->err);
	if (r == 0)
		r = possible(c);
	if (r == 0)
		r = out_open(&c->out, out, &c->err);
	if (r < 0)
		return r;
	c->sink = (struct rpl_stream_sink){ .ctx = &c->out, .write = out_write };
	if (c->digest) {
		c->out.digest = stream_digest_new();
		c->sink.image = out_image;
		c->sink.digest = out_digest;
	}
	r = c->run.format == RPL_FORMAT_LEGACY ? legacy(c) : v2(c);
	if (c->out.failed)
		return rpl_fail_errno(&c->err, c->out.failed, "write %s", c->out.name);
	if (r == 0 && c->digest && !c->out.digest_written)
		r = rpl_fail(&c->err, -EINVAL, "--digest: a checkpointed stream has no END for a digest to stand before; "
			     "--checkpoint makes a plain stream of it");
	return r < 0 ? r : out_done(&c->out, &c->err);
}

static void say_dropped(const struct conversion *c)
{
	if (c->conv.dropped_policies)
		(void)fprintf(stderr, "replicad stream convert: left out %" PRIu64 " CPU policy records: version 2 has none, the "
			      "receiver computes a policy of its own\n", c->conv.dropped_policies);
	if (c->conv.dropped_emulator)
		(void)fprintf(stderr, "replicad stream convert: left out %" PRIu64 " emulator records: a bare libxc image has "
			      "no place for them\n", c->conv.dropped_emulator);
	if (c->conv.dropped_digests && !c->digest)
		(void)fprintf(stderr, "replicad stream convert: left out the digest: --digest makes a new one\n");
}

static bool streams_fault(int code)
{
	return code == -EBADMSG || code == -EMSGSIZE || code == -EINVAL || code == -EOPNOTSUPP;
}

int stream_convert(int argc, char **argv)
{
	static struct conversion c;
	int r;

	memset(&c, 0, sizeof(c));
	r = options(&c, argc, argv);
	if (r) {
		free(c.config);
		return r < 0 ? STREAM_EXIT_CLEAN : STREAM_EXIT_TROUBLE;
	}
	r = convert(&c, argv[optind], argv[optind + 1]);
	if (r < 0)
		r = rpl_cli_fail("stream convert", streams_fault(r) && !c.out.failed ? STREAM_EXIT_FINDINGS : STREAM_EXIT_TROUBLE, "%s", c.err.msg);
	else
		say_dropped(&c);
	out_fini(&c.out);
	stream_run_fini(&c.run);
	free(c.config);
	return r;
}
