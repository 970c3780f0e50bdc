#include "raw_peer.h"

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include <replicad/auto.h>
#include <replicad/io.h>
#include <replicad/pages.h>
#include <replicad/stream.h>

/* The mover's end. */
static int open_pair(struct raw *p)
{
	struct timeval patience = { .tv_sec = RIG_WAIT_MS / 1000 };
	int sv[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	*p = (struct raw){ .fd = sv[0], .digest = rpl_digest_new() };
	assert_non_null(p->digest);
	assert_int_equal(setsockopt(p->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)), 0);
	assert_int_equal(setsockopt(p->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)), 0);
	assert_int_equal(rpl_nonblock(sv[1], true), 0);
	return sv[1];
}

void raw_client(struct raw *p, struct rig *r)
{
	uint8_t preamble[RPL_PREAMBLE_SIZE];
	int theirs = open_pair(p);

	rpl_preamble_encode(&r->conf.vm, preamble);
	assert_int_equal(rpl_write_full(p->fd, preamble, sizeof(preamble)), 0);
	side_send(&r->b, RPL_MOVER_LINK, 0, 0, 0, NULL, theirs); /* with the preamble: this test may not get the processor for long */
}

void raw_server(struct raw *p, struct rig *r)
{
	uint8_t preamble[RPL_PREAMBLE_SIZE];
	struct rpl_uuid vm;
	struct rpl_err err;

	side_send(&r->p, RPL_MOVER_LINK, 0, 0, 0, NULL, open_pair(p));
	assert_int_equal(rpl_read_full(p->fd, preamble, sizeof(preamble)), 0);
	assert_int_equal(rpl_preamble_decode(preamble, &vm, &err), 0);
	assert_true(rpl_uuid_equal(&vm, &r->conf.vm));
}

void raw_close(struct raw *p)
{
	rpl_close(&p->fd);
	rpl_digest_free(p->digest);
	p->digest = NULL;
}

/* The other side may have hung up already, which is what most tests wait for: send() without a signal, no check. */
static void put(int fd, const void *data, size_t len)
{
	const uint8_t *at = data;

	while (len) {
		ssize_t n = send(fd, at, len, MSG_NOSIGNAL);

		if (n <= 0)
			return;
		at += n;
		len -= (size_t)n;
	}
}

void raw_send(struct raw *p, enum rpl_frame type, const void *body, size_t len)
{
	uint8_t head[RPL_FRAME_HEADER];
	struct rpl_out o = rpl_out(head, sizeof(head));

	rpl_out_le32(&o, (uint32_t)len);
	rpl_out_le16(&o, (uint16_t)type);
	rpl_out_le16(&o, 0);
	rpl_out_le64(&o, p->sequence++);
	put(p->fd, head, sizeof(head));
	put(p->fd, body, len);
}

size_t raw_expect(struct raw *p, enum rpl_frame type, void *body, size_t cap)
{
	for (;;) {
		uint8_t head[RPL_FRAME_HEADER], *bytes;
		struct rpl_cur c = rpl_cur(head, sizeof(head));
		uint32_t len;
		uint16_t got;

		if (rpl_read_full(p->fd, head, sizeof(head)) < 0)
			fail_msg("waited for %s: the connection ended", rpl_frame_name((uint16_t)type));
		len = rpl_cur_le32(&c);
		got = rpl_cur_le16(&c);
		assert_true(len <= RPL_FRAME_BODY_MAX);
		bytes = malloc(len + 1);
		assert_non_null(bytes);
		assert_int_equal(rpl_read_full(p->fd, bytes, len), 0);
		if (got == type)
			memcpy(body, bytes, len < cap ? len : cap);
		free(bytes);
		if (got == type)
			return len;
	}
}

struct rpl_hello raw_hello_of(const struct rig *r, enum rpl_role role)
{
	struct rpl_hello h = { .major = RPL_LINK_MAJOR, .minor = RPL_LINK_MINOR, .features = RPL_FEATURE_PAGES,
			       .vm = r->conf.vm, .generation = 3, .epoch_bytes_max = 32 << 20, .ram_pages = r->pages,
			       .max_uncommitted = 4, .role = role };

	if (role == RPL_ROLE_PRIMARY)
		h.session = r->session;
	(void)snprintf(h.node, sizeof(h.node), "raw");
	return h;
}

void raw_hello(struct raw *p, const struct rpl_hello *h)
{
	uint8_t body[RPL_HELLO_SIZE];

	rpl_hello_encode(h, body);
	raw_send(p, RPL_FRAME_HELLO, body, sizeof(body));
}

void raw_session(struct raw *p, struct rig *r)
{
	struct rpl_hello h;
	uint8_t ready[16];

	rpl_uuid_random(&r->session);
	raw_client(p, r);
	h = raw_hello_of(r, RPL_ROLE_PRIMARY);
	raw_hello(p, &h);
	raw_send(p, RPL_FRAME_DEFINITION, "x=y\n", 4);
	(void)side_expect_past(&r->b, RPL_MOVER_LINK_UP, RPL_MOVER_LINK_DOWN);
	side_send(&r->b, RPL_MOVER_ACCEPT, 0, 0, 0, &r->session, -1);
	assert_int_equal(raw_expect(p, RPL_FRAME_READY, ready, sizeof(ready)), sizeof(ready));
}

void raw_begin(struct raw *p, uint64_t epoch, uint32_t flags, uint64_t pages)
{
	uint8_t body[24];

	rpl_epoch_begin_encode(&(struct rpl_epoch_begin){ .epoch = epoch, .flags = flags, .pages = pages }, body);
	raw_send(p, RPL_FRAME_EPOCH_BEGIN, body, sizeof(body));
	rpl_digest_reset(p->digest);
	p->bytes = p->pages = 0;
}

void raw_stream(struct raw *p, const void *data, size_t len)
{
	const uint8_t *at = data;

	rpl_digest_add(p->digest, data, len);
	p->bytes += len;
	while (len) {
		size_t n = len < RPL_FRAME_BODY_MAX ? len : RPL_FRAME_BODY_MAX;

		raw_send(p, RPL_FRAME_STREAM, at, n);
		at += n;
		len -= n;
	}
}

void raw_pages(struct raw *p, uint64_t pfn, size_t n)
{
	static uint8_t content[RPL_PAGES_PER_FRAME * RPL_PAGE_SIZE], body[RPL_PAGES_BODY_MAX];
	uint8_t head[RPL_STREAM_RECORD_HEAD + 8 + RPL_PAGES_PER_FRAME * 8];

	while (n) {
		uint64_t pfns[RPL_PAGES_PER_FRAME];
		size_t now = n < RPL_PAGES_PER_FRAME ? n : RPL_PAGES_PER_FRAME;
		struct rpl_out o = rpl_out(head, sizeof(head));
		uint32_t zero;
		size_t len;

		for (size_t i = 0; i < now; i++) {
			pfns[i] = pfn + i;
			memset(content + i * RPL_PAGE_SIZE, (int)(pfns[i] & 0xff), RPL_PAGE_SIZE);
		}
		len = rpl_pages_encode(pfns, content, now, body, &zero);
		raw_send(p, RPL_FRAME_PAGES, body, len);
		rpl_stream_put_page_data_head(&o, pfns, (uint32_t)now, NULL);
		rpl_digest_add(p->digest, body, len);
		p->bytes += o.len + now * RPL_PAGE_SIZE;
		p->pages += now;
		pfn += now;
		n -= now;
	}
}

void raw_headers(struct raw *p, const struct rig *r)
{
	struct rpl_stream_domain_header d = { .type = RPL_DOMAIN_HVM, .page_shift = RPL_STREAM_PAGE_SHIFT,
					      .xen_major = RPL_XEN_MAJOR_NONE };
	const struct rpl_ram_layout *l = &r->conf.memory.layout;
	struct rpl_stream_producer v = { .kind = RPL_PRODUCER_SIM, .n_ranges = l->count, .name = "raw", .machine = "raw" };
	uint8_t bytes[4096];
	struct rpl_out o = rpl_out(bytes, sizeof(bytes));

	for (uint32_t i = 0; i < l->count; i++)
		v.ranges[i] = (struct rpl_stream_range){ l->region[i].pfn, l->region[i].pages,
							 l->region[i].file_page * RPL_PAGE_SIZE };
	rpl_stream_put_libxl_header(&o, 0);
	rpl_stream_put_record(&o, RPL_LIBXL_LIBXC_CONTEXT, NULL, 0);
	rpl_stream_put_image_header(&o, RPL_IMAGE_V3);
	rpl_stream_put_domain_header(&o, &d);
	rpl_stream_put_producer(&o, &v);
	rpl_stream_put_record(&o, RPL_LIBXC_STATIC_DATA_END, NULL, 0);
	assert_false(o.bad);
	raw_stream(p, bytes, o.len);
}

void raw_tail(struct raw *p, size_t state_len)
{
	uint8_t *bytes = calloc(1, state_len + 128);
	struct rpl_out o = rpl_out(bytes, state_len + 128);

	assert_non_null(bytes);
	rpl_stream_put_record(&o, RPL_LIBXC_CHECKPOINT, NULL, 0);
	rpl_stream_put_emulator_head(&o, RPL_LIBXL_EMULATOR_CONTEXT, RPL_EMULATOR_QEMU, (uint32_t)state_len);
	o.len += state_len;
	rpl_stream_put_padding(&o, (uint32_t)state_len);
	rpl_stream_put_record(&o, RPL_LIBXL_CHECKPOINT_END, NULL, 0);
	assert_false(o.bad);
	raw_stream(p, bytes, o.len);
	free(bytes);
}

void raw_end(struct raw *p, uint64_t epoch)
{
	struct rpl_epoch_end v = { .epoch = epoch, .stream_bytes = p->bytes, .pages = p->pages };
	uint8_t body[40];

	rpl_digest_end(p->digest, v.digest);
	rpl_epoch_end_encode(&v, body);
	raw_send(p, RPL_FRAME_EPOCH_END, body, sizeof(body));
}

void raw_bulk(struct raw *p, struct rig *r)
{
	const struct rpl_ram_layout *l = &r->conf.memory.layout;

	raw_begin(p, 1, RPL_EPOCH_BULK, r->pages);
	raw_headers(p, r);
	for (uint32_t i = 0; i < l->count; i++)
		raw_pages(p, l->region[i].pfn, l->region[i].pages);
	raw_end(p, 1);
}

void raw_epoch(struct raw *p, uint64_t epoch)
{
	raw_begin(p, epoch, 0, 3);
	raw_pages(p, 2, 3);
	raw_tail(p, 100);
	raw_end(p, epoch);
}
