/* Input for the stream commands: a file or a pipe in spans, and the loop that turns them into events. */
#include "stream_cli.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>
#include <replicad/auto.h>

static const char *const format_names[] = { "unknown", "xl", "libxl", "libxc", "legacy" };

enum rpl_stream_format stream_format_by_name(const char *name)
{
	for (size_t i = 1; i < RPL_ARRAY_LEN(format_names); i++)
		if (strcmp(name, format_names[i]) == 0)
			return (enum rpl_stream_format)i;
	return RPL_FORMAT_UNKNOWN;
}

const char *stream_format_name(enum rpl_stream_format format)
{
	return (size_t)format < RPL_ARRAY_LEN(format_names) ? format_names[format] : format_names[0];
}

int stream_input_open(struct stream_input *in, const char *path, struct rpl_err *err)
{
	struct stat st;
	off_t here;

	*in = (struct stream_input){ .name = strcmp(path, "-") ? path : "standard input" };
	in->fd = strcmp(path, "-") ? open(path, O_RDONLY | O_CLOEXEC) : dup(STDIN_FILENO);
	if (in->fd < 0)
		return rpl_fail_errno(err, errno, "open %s", in->name);
	here = lseek(in->fd, 0, SEEK_CUR); /* standard input may be open further on */
	if (fstat(in->fd, &st) == 0 && S_ISREG(st.st_mode) && here >= 0 && st.st_size > here)
		in->size = (uint64_t)(st.st_size - here);
	(void)posix_fadvise(in->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
	in->progress = isatty(STDERR_FILENO);
	in->buf = malloc(STREAM_INPUT_BYTES);
	if (!in->buf) {
		rpl_close(&in->fd);
		return rpl_fail(err, -ENOMEM, "%s: no memory for a buffer of %u bytes", in->name, STREAM_INPUT_BYTES);
	}
	return 0;
}

void stream_input_fini(struct stream_input *in)
{
	if (!in->buf)
		return;
	if (in->said)
		(void)fprintf(stderr, "\r%40s\r", "");
	free(in->buf);
	in->buf = NULL;
	rpl_close(&in->fd);
}

static void progress(struct stream_input *in)
{
	uint64_t seen = in->offset + (in->len - in->at);

	if (!in->progress || seen - in->said < STREAM_PROGRESS_STEP)
		return;
	in->said = seen;
	if (in->size)
		(void)fprintf(stderr, "\r%s: %" PRIu64 " MiB, %" PRIu64 " %%", in->name, seen >> 20,
			      seen * 100 / in->size);
	else
		(void)fprintf(stderr, "\r%s: %" PRIu64 " MiB", in->name, seen >> 20);
}

/* Something can be read, if only the end. */
static int await_bytes(struct stream_input *in, struct rpl_err *err)
{
	struct pollfd p = { .fd = in->fd, .events = POLLIN };
	int r;

	if (!in->silence_ms)
		return 0;
	do
		r = poll(&p, 1, (int)in->silence_ms);
	while (r < 0 && errno == EINTR);
	return r ? 0 : rpl_fail(err, -ETIMEDOUT, "read %s at byte %" PRIu64 ": nothing came for %u s: is the connection cut, or the other "
				"end hung?", in->name, in->offset + in->len, in->silence_ms / 1000);
}

ssize_t stream_input_peek(struct stream_input *in, size_t want, struct rpl_err *err)
{
	if (in->len - in->at >= want)
		return (ssize_t)(in->len - in->at);
	memmove(in->buf, in->buf + in->at, in->len - in->at);
	in->len -= in->at;
	in->at = 0;
	while (in->len < want) {
		size_t room = (in->skipped ? STREAM_INPUT_HEADS : STREAM_INPUT_BYTES) - in->len;
		ssize_t n = await_bytes(in, err);

		if (n < 0)
			return n;
		n = read(in->fd, in->buf + in->len, room);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return rpl_fail_errno(err, errno, "read %s at byte %" PRIu64, in->name, in->offset + in->len);
		if (n == 0)
			break;
		in->len += (size_t)n;
	}
	in->skipped = false;
	progress(in);
	return (ssize_t)in->len;
}

int stream_input_read(struct stream_input *in, void *buf, size_t len, struct rpl_err *err)
{
	uint8_t *to = buf;

	while (len) {
		ssize_t n = stream_input_peek(in, 1, err);

		if (n <= 0)
			return (int)n;
		if ((size_t)n > len)
			n = (ssize_t)len;
		memcpy(to, in->buf + in->at, (size_t)n);
		in->at += (size_t)n;
		in->offset += (uint64_t)n;
		to += n;
		len -= (size_t)n;
	}
	return 1;
}

int stream_run_open(struct stream_run *run, const char *path, enum rpl_stream_format format, struct rpl_err *err)
{
	ssize_t n;
	int r;

	memset(run, 0, offsetof(struct stream_run, reader));
	run->descs = NULL;
	run->digest = NULL;
	run->want_pages = NULL;
	r = stream_input_open(&run->in, path, err);
	if (r < 0)
		return r;
	n = stream_input_peek(&run->in, RPL_STREAM_DETECT, err);
	if (n < 0)
		return (int)n;
	run->format = format;
	if (format == RPL_FORMAT_UNKNOWN && n > 0)
		run->format = rpl_stream_detect(run->in.buf, (size_t)n);
	run->descs = calloc(STREAM_DESCS_MAX, sizeof(*run->descs));
	if (!run->descs)
		return rpl_fail(err, -ENOMEM, "%s: no memory for %u descriptors", run->in.name, STREAM_DESCS_MAX);
	if (run->format != RPL_FORMAT_UNKNOWN)
		format = run->format;
	else /* too short to tell: whatever it is read as, it ends too early */
		format = RPL_FORMAT_LIBXL;
	rpl_stream_reader_init(&run->reader, format, run->descs, STREAM_DESCS_MAX);
	return 0;
}

void stream_run_fini(struct stream_run *run)
{
	stream_input_fini(&run->in);
	free(run->descs);
	run->descs = NULL;
}

/* Go past the pages that nobody wants to see. A file that ends before is read on, so that its end is met as any other. */
static int skip_pages(struct stream_run *run, struct rpl_stream_in *in, uint32_t pages, struct rpl_err *err)
{
	uint64_t bytes = (uint64_t)pages * RPL_STREAM_PAGE;
	int r;

	if (!run->in.size || bytes <= in->len || run->in.offset + bytes > run->in.size)
		return 0;
	if (lseek(run->in.fd, (off_t)(bytes - in->len), SEEK_CUR) < 0)
		return 0; /* then they are read */
	r = rpl_stream_pages_elsewhere(&run->reader, pages, err);
	if (r < 0)
		return r;
	run->in.offset += bytes;
	run->in.at = run->in.len = 0;
	run->in.skipped = true;
	in->len = 0;
	return 0;
}

/* One span: 0 used up, else as stream_run_events(). */
static int run_span(struct stream_run *run, stream_event_fn *fn, stream_refused_fn *refused, void *ctx,
		    struct rpl_err *err)
{
	struct rpl_stream_in in = { run->in.buf + run->in.at, run->in.len - run->in.at };

	for (;;) {
		const uint8_t *before = in.p;
		struct rpl_stream_event ev;
		int r = rpl_stream_next(&run->reader, &in, &ev, err);

		if (run->digest)
			stream_digest_bytes(run->digest, before, (size_t)(in.p - before));
		run->in.offset += (uint64_t)(in.p - before);
		run->in.at += (size_t)(in.p - before);
		if (r == 0)
			return 0;
		if (r < 0) {
			if (refused && refused(ctx, &run->reader, err) && rpl_stream_skip_record(&run->reader) == 0)
				continue;
			return -EBADMSG;
		}
		if (ev.kind == RPL_EV_IMAGE_HEADER && run->digest)
			stream_digest_image(run->digest);
		r = fn(ctx, &ev);
		if (r == 0 && ev.kind == RPL_EV_PFNS && run->want_pages && !run->want_pages(ctx, &ev))
			r = skip_pages(run, &in, ev.pfns.pages, err);
		if (r)
			return r;
	}
}

int stream_run_events(struct stream_run *run, stream_event_fn *fn, stream_refused_fn *refused, void *ctx,
		      struct rpl_err *err)
{
	for (;;) {
		ssize_t n = stream_input_peek(&run->in, 1, err);
		int r;

		if (n <= 0)
			return (int)n;
		r = run_span(run, fn, refused, ctx, err);
		if (r)
			return r;
	}
}

void stream_config_add(struct stream_config *c, const struct rpl_stream_event *ev)
{
	char *more;

	if (c->too_long || c->len + ev->len > STREAM_CONFIG_MAX) {
		stream_config_fini(c);
		c->too_long = true;
		return;
	}
	more = realloc(c->text, c->len + ev->len + 1);
	if (!more)
		return;
	memcpy(more + c->len, ev->bytes, ev->len);
	c->text = more;
	c->len += ev->len;
	more[c->len] = '\0';
}

void stream_config_fini(struct stream_config *c)
{
	free(c->text);
	*c = (struct stream_config){ 0 };
}

void stream_json_string(const char *text)
{
	json_t *s = json_string(text);

	if (!s)
		s = json_string("(not valid UTF-8)");
	(void)json_dumpf(s, stdout, JSON_ENCODE_ANY | JSON_COMPACT);
	json_decref(s);
}
