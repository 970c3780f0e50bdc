/* libcurl's multi interface on libev: curl says which sockets and which time-out it waits for, the loop tells it when.
 *
 * curl is never entered from within its own callbacks, and a caller's callback is called after curl has returned, so that
 * it may free everything. A resolver's thread that hangs is left behind, not waited for (QUICK_EXIT). That any of the body
 * was sent is known from curl having asked us for it.
 */
#include "curl_late.h"
#include "http.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <ev.h>

#include <replicad/auto.h>

struct watch {
	struct ev_io io;
	struct rpl_http *h;
};

struct rpl_http {
	struct ev_loop *loop;
	rpl_http_done_fn *done;
	void *arg;
	CURLM *multi;
	CURL *easy;
	struct curl_slist *headers;
	struct ev_timer timer;
	size_t answer_max;
	bool global, busy;
	/* the request under way */
	const char *body;
	size_t body_len, body_at;
	bool tls, asked, too_long;
	char why[CURL_ERROR_SIZE];
	char *answer;
	size_t answer_len, header_len;
};

/* ---- what curl asks of us */

static size_t give_body(char *to, size_t size, size_t n, void *arg)
{
	struct rpl_http *h = arg;
	size_t left = h->body_len - h->body_at, room = size * n;

	h->asked = true;
	if (left > room)
		left = room;
	memcpy(to, h->body + h->body_at, left);
	h->body_at += left;
	return left;
}

static size_t take_body(char *from, size_t size, size_t n, void *arg)
{
	struct rpl_http *h = arg;
	size_t len = size * n;

	if (len > h->answer_max - h->answer_len) {
		h->too_long = true;
		return 0;
	}
	memcpy(h->answer + h->answer_len, from, len);
	h->answer_len += len;
	return len;
}

static size_t take_header(char *from, size_t size, size_t n, void *arg)
{
	struct rpl_http *h = arg;
	size_t len = size * n;

	(void)from;
	if (len > h->answer_max - h->header_len) {
		h->too_long = true;
		return 0;
	}
	h->header_len += len;
	return len;
}

static void io_cb(struct ev_loop *loop, struct ev_io *w, int revents);
static void timer_cb(struct ev_loop *loop, struct ev_timer *w, int revents);

static int set_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *of_fd)
{
	struct rpl_http *h = arg;
	struct watch *w = of_fd;
	int events = (what & CURL_POLL_IN ? EV_READ : 0) | (what & CURL_POLL_OUT ? EV_WRITE : 0);

	(void)easy;
	if (w)
		ev_io_stop(h->loop, &w->io);
	if (what == CURL_POLL_REMOVE) {
		free(w);
		return 0;
	}
	if (!w) {
		w = calloc(1, sizeof(*w));
		if (!w)
			return -1;
		w->h = h;
		w->io.data = w;
		ev_init(&w->io, io_cb);
		(void)rpl_curl.multi_assign(h->multi, fd, w);
	}
	ev_io_set(&w->io, fd, events);
	if (events)
		ev_io_start(h->loop, &w->io);
	return 0;
}

static int set_timer(CURLM *multi, long timeout_ms, void *arg)
{
	struct rpl_http *h = arg;

	(void)multi;
	ev_timer_stop(h->loop, &h->timer);
	if (timeout_ms < 0)
		return 0;
	ev_now_update(h->loop);
	ev_timer_set(&h->timer, (double)timeout_ms / 1000, 0);
	ev_timer_start(h->loop, &h->timer);
	return 0;
}

/* ---- the end of a request */

/* A server that refuses our certificate says so by hanging up. Whether that is seen as the handshake's failure or as the
 * request's depends on TLS's version and on which of our writes meets the closed connection. */
static bool hung_up(CURLcode code)
{
	return code == CURLE_SSL_CONNECT_ERROR || code == CURLE_SEND_ERROR || code == CURLE_RECV_ERROR || code == CURLE_GOT_NOTHING;
}

static void fill_in(struct rpl_http *h, CURLcode code, struct rpl_http_answer *a)
{
	const char *why = h->why[0] ? h->why : rpl_curl.easy_strerror(code);

	*a = (struct rpl_http_answer){ .maybe_sent = h->asked, .body = h->answer, .len = h->answer_len };
	h->answer[h->answer_len] = '\0';
	if (code == CURLE_OK)
		(void)rpl_curl.easy_getinfo(h->easy, CURLINFO_RESPONSE_CODE, &a->status);
	else if (h->too_long)
		a->r = rpl_fail(&a->err, -EMSGSIZE, "an answer of more than %zu bytes", h->answer_max);
	else if (code == CURLE_OPERATION_TIMEDOUT)
		a->r = rpl_fail(&a->err, -ETIMEDOUT, "%s", why);
	else if (h->tls && hung_up(code))
		a->r = rpl_fail(&a->err, -EIO, "%s: does it speak TLS, and accept our certificate?", why);
	else
		a->r = rpl_fail(&a->err, -EIO, "%s", why);
}

/* After curl has returned. */
static void see_whether_done(struct rpl_http *h)
{
	struct rpl_http_answer answer;
	const CURLMsg *m;
	int left;

	while ((m = rpl_curl.multi_info_read(h->multi, &left))) {
		if (m->msg != CURLMSG_DONE)
			continue;
		fill_in(h, m->data.result, &answer);
		(void)rpl_curl.multi_remove_handle(h->multi, h->easy);
		h->busy = false;
		h->done(h->arg, &answer); /* may have freed us */
		return;
	}
}

static void enter_curl(struct rpl_http *h, curl_socket_t fd, int events)
{
	int running;

	(void)rpl_curl.multi_socket_action(h->multi, fd, events, &running);
	see_whether_done(h);
}

static void io_cb(struct ev_loop *loop, struct ev_io *w, int revents)
{
	struct rpl_http *h = ((struct watch *)w->data)->h;

	(void)loop;
	enter_curl(h, w->fd, (revents & EV_READ ? CURL_CSELECT_IN : 0) | (revents & EV_WRITE ? CURL_CSELECT_OUT : 0));
}

static void timer_cb(struct ev_loop *loop, struct ev_timer *w, int revents)
{
	(void)loop;
	(void)revents;
	enter_curl(w->data, CURL_SOCKET_TIMEOUT, 0);
}

/* ---- what it offers */

int rpl_http_post(struct rpl_http *h, const char *url, const char *body, size_t len, long connect_ms, long total_ms,
		  struct rpl_err *err)
{
	CURLMcode m;

	rpl_assert(!h->busy);
	h->tls = strncmp(url, "https:", 6) == 0;
	h->body = body;
	h->body_len = len;
	h->body_at = h->answer_len = h->header_len = 0;
	h->asked = h->too_long = false;
	h->why[0] = '\0';
	if (rpl_curl.easy_setopt(h->easy, CURLOPT_URL, url) != CURLE_OK)
		return rpl_fail(err, -ENOMEM, "%s: no memory", url);
	(void)rpl_curl.easy_setopt(h->easy, CURLOPT_POSTFIELDSIZE, (long)len);
	(void)rpl_curl.easy_setopt(h->easy, CURLOPT_CONNECTTIMEOUT_MS, connect_ms);
	(void)rpl_curl.easy_setopt(h->easy, CURLOPT_TIMEOUT_MS, total_ms);
	m = rpl_curl.multi_add_handle(h->multi, h->easy);
	if (m != CURLM_OK)
		return rpl_fail(err, -EIO, "%s: %s", url, rpl_curl.multi_strerror(m));
	h->busy = true;
	return 0;
}

bool rpl_http_cancel(struct rpl_http *h)
{
	if (!h->busy)
		return false;
	h->busy = false;
	(void)rpl_curl.multi_remove_handle(h->multi, h->easy);
	return h->asked;
}

static int check_file(const char *what, const char *path, struct rpl_err *err)
{
	if (!path || !*path || access(path, R_OK) == 0)
		return 0;
	return rpl_fail_errno(err, errno, "%s %s", what, path);
}

static void set_files(struct rpl_http *h, const struct rpl_http_conf *conf)
{
	if (conf->ca && *conf->ca) {
		(void)rpl_curl.easy_setopt(h->easy, CURLOPT_CAINFO, conf->ca);
		(void)rpl_curl.easy_setopt(h->easy, CURLOPT_CAPATH, NULL); /* it alone */
	}
	if (conf->cert && *conf->cert)
		(void)rpl_curl.easy_setopt(h->easy, CURLOPT_SSLCERT, conf->cert);
	if (conf->key && *conf->key)
		(void)rpl_curl.easy_setopt(h->easy, CURLOPT_SSLKEY, conf->key);
}

static void set_options(struct rpl_http *h)
{
	(void)rpl_curl.easy_setopt(h->easy, CURLOPT_PROTOCOLS_STR, "http,https");
	(void)rpl_curl.easy_setopt(h->easy, CURLOPT_PROXY, ""); /* also not the environment's */
	(void)rpl_curl.easy_setopt(h->easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	(void)rpl_curl.easy_setopt(h->easy, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
	(void)rpl_curl.easy_setopt(h->easy, CURLOPT_FRESH_CONNECT, 1L);
	(void)rpl_curl.easy_setopt(h->easy, CURLOPT_FORBID_REUSE, 1L);
	(void)rpl_curl.easy_setopt(h->easy, CURLOPT_NOSIGNAL, 1L);
	(void)rpl_curl.easy_setopt(h->easy, CURLOPT_QUICK_EXIT, 1L);
	(void)rpl_curl.easy_setopt(h->easy, CURLOPT_TCP_NODELAY, 1L);
	(void)rpl_curl.easy_setopt(h->easy, CURLOPT_HTTPHEADER, h->headers);
	(void)rpl_curl.easy_setopt(h->easy, CURLOPT_ERRORBUFFER, h->why);
	(void)rpl_curl.easy_setopt(h->easy, CURLOPT_POST, 1L);
	(void)rpl_curl.easy_setopt(h->easy, CURLOPT_READFUNCTION, give_body);
	(void)rpl_curl.easy_setopt(h->easy, CURLOPT_READDATA, h);
	(void)rpl_curl.easy_setopt(h->easy, CURLOPT_WRITEFUNCTION, take_body);
	(void)rpl_curl.easy_setopt(h->easy, CURLOPT_WRITEDATA, h);
	(void)rpl_curl.easy_setopt(h->easy, CURLOPT_HEADERFUNCTION, take_header);
	(void)rpl_curl.easy_setopt(h->easy, CURLOPT_HEADERDATA, h);
	(void)rpl_curl.multi_setopt(h->multi, CURLMOPT_SOCKETFUNCTION, set_socket);
	(void)rpl_curl.multi_setopt(h->multi, CURLMOPT_SOCKETDATA, h);
	(void)rpl_curl.multi_setopt(h->multi, CURLMOPT_TIMERFUNCTION, set_timer);
	(void)rpl_curl.multi_setopt(h->multi, CURLMOPT_TIMERDATA, h);
}

static int open_curl(struct rpl_http *h)
{
	struct curl_slist *more;

	h->global = rpl_curl.global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
	h->multi = h->global ? rpl_curl.multi_init() : NULL;
	h->easy = h->global ? rpl_curl.easy_init() : NULL;
	h->headers = rpl_curl.slist_append(NULL, "Content-Type: application/json");
	more = h->headers ? rpl_curl.slist_append(h->headers, "Expect:") : NULL; /* no waiting for "100 Continue" */
	h->answer = malloc(h->answer_max + 1);
	return h->multi && h->easy && more && h->answer ? 0 : -ENOMEM;
}

struct rpl_http *rpl_http_new(const struct rpl_http_conf *conf, struct ev_loop *loop, rpl_http_done_fn *done, void *arg,
			      struct rpl_err *err)
{
	struct rpl_http *h;

	if (check_file("the authority's certificate", conf->ca, err) < 0 ||
	    check_file("our certificate", conf->cert, err) < 0 || check_file("our key", conf->key, err) < 0)
		return NULL;
	h = calloc(1, sizeof(*h));
	if (!h) {
		(void)rpl_fail(err, -ENOMEM, "http: no memory");
		return NULL;
	}
	h->loop = loop;
	h->done = done;
	h->arg = arg;
	h->answer_max = conf->answer_max;
	ev_init(&h->timer, timer_cb);
	h->timer.data = h;
	if (rpl_curl_load(err) < 0) {
		free(h);
		return NULL;
	}
	if (open_curl(h) < 0) {
		(void)rpl_fail(err, -ENOMEM, "http: libcurl could not be initialised");
		rpl_http_free(h);
		return NULL;
	}
	set_options(h);
	set_files(h, conf);
	return h;
}

void rpl_http_free(struct rpl_http *h)
{
	if (!h)
		return;
	(void)rpl_http_cancel(h);
	if (h->easy)
		rpl_curl.easy_cleanup(h->easy);
	if (h->multi)
		(void)rpl_curl.multi_cleanup(h->multi); /* takes its sockets back: set_socket() frees the watchers */
	ev_timer_stop(h->loop, &h->timer);
	rpl_curl.slist_free_all(h->headers);
	if (h->global)
		rpl_curl.global_cleanup();
	free(h->answer);
	free(h);
}
