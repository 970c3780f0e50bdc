/* The keeper's shell around the real core, and the real list of what each action does: in which order the world sees it. Only what
 * would leave the process is noted down instead.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <arpa/inet.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>
#include <ev.h>

#include <replicad/clock.h>

#include "../../src/keeper/keeper.h"

#define S_NS (1000 * RPL_MS) /* no deadline comes in a test */

static char seen[512]; /* what happened since forget(), in its order */
static struct rpl_record claimed;
static uint64_t later_ns;

static void note(const char *what, const char *name, uint64_t epoch)
{
	size_t n = strlen(seen);

	(void)snprintf(seen + n, sizeof(seen) - n, "%s%s %s", n ? ", " : "", what, name);
	n = strlen(seen);
	if (epoch)
		(void)snprintf(seen + n, sizeof(seen) - n, "%llu", (unsigned long long)epoch);
}

static void forget(void)
{
	seen[0] = '\0';
}

/* ---- the world */
void __wrap_keeper_tell_state(struct keeper *k, const struct rpl_action *a);
void __wrap_rpl_netbuf_release(struct rpl_netbuf *n, uint64_t epoch);
void __wrap_movers_send(struct movers *m, enum rpl_mover_type type, uint64_t epoch, uint64_t value, uint64_t generation,
			const struct rpl_uuid *uuid);
void __wrap_keeper_arbiter_read(struct keeper *k);
void __wrap_keeper_arbiter_claim(struct keeper *k, const struct rpl_action *a);
void __wrap_keeper_pursue(struct keeper *k);
void __wrap_session_start(struct keeper *k, const struct rpl_uuid *id, uint64_t generation);
void __real_session_start(struct keeper *k, const struct rpl_uuid *id, uint64_t generation);
int __wrap_movers_link(struct movers *m, int fd, struct rpl_err *err);
void __wrap_movers_kill(struct movers *m);
void __wrap_standby_on_state(struct keeper *k);
int __wrap_rpl_guest_room(struct rpl_guest *g, struct rpl_err *err);
void __wrap_control_event(struct control *c, json_t *event);
uint64_t __wrap_rpl_recent_ns(void);
int __wrap_getaddrinfo(const char *host, const char *port, const struct addrinfo *hints, struct addrinfo **ret);
int __real_getaddrinfo(const char *host, const char *port, const struct addrinfo *hints, struct addrinfo **ret);

void __wrap_keeper_tell_state(struct keeper *k, const struct rpl_action *a)
{
	(void)k;
	note("told", rpl_state_name(a->u.state.to), 0);
}

void __wrap_rpl_netbuf_release(struct rpl_netbuf *n, uint64_t epoch)
{
	(void)n;
	note("release", "", epoch);
}

void __wrap_movers_send(struct movers *m, enum rpl_mover_type type, uint64_t epoch, uint64_t value, uint64_t generation,
			const struct rpl_uuid *uuid)
{
	(void)m;
	(void)value;
	(void)generation;
	(void)uuid;
	note("mover", rpl_mover_type_name(type), epoch);
}

void __wrap_keeper_arbiter_read(struct keeper *k)
{
	(void)k;
}

void __wrap_keeper_arbiter_claim(struct keeper *k, const struct rpl_action *a)
{
	(void)k;
	claimed = a->u.claim.want;
}

void __wrap_keeper_pursue(struct keeper *k)
{
	(void)k;
}

void __wrap_session_start(struct keeper *k, const struct rpl_uuid *id, uint64_t generation)
{
	if (*k->conf.peer_address)
		__real_session_start(k, id, generation);
}

int __wrap_movers_link(struct movers *m, int fd, struct rpl_err *err)
{
	(void)m;
	(void)err;
	(void)close(fd);
	note("mover", "LINK", 0);
	return 0;
}

static int room; /* what the guest's backend says */

int __wrap_rpl_guest_room(struct rpl_guest *g, struct rpl_err *err)
{
	(void)g;
	note("asked", "room", 0);
	return room < 0 ? rpl_fail(err, room, "40 MiB, 39 MiB") : 0;
}

void __wrap_control_event(struct control *c, json_t *event)
{
	const char *name = json_string_value(json_object_get(event, "event"));

	(void)c;
	if (strcmp(name, "guest") == 0 || strcmp(name, "alarm") == 0)
		note(name, json_string_value(json_object_get(event, "reason")), 0);
	json_decref(event);
}

uint64_t __wrap_rpl_recent_ns(void)
{
	return rpl_now_ns() + later_ns;
}

/* A resolver that answers when it is told to: with this address, or, if it is "", that there is none. */
static struct {
	pthread_t loop;
	sem_t may_answer, answered;
	const char *address;
} resolver;

int __wrap_getaddrinfo(const char *host, const char *port, const struct addrinfo *hints, struct addrinfo **ret)
{
	struct addrinfo numeric = *hints;
	int r = EAI_NONAME;

	if (hints->ai_flags & AI_NUMERICHOST)
		return __real_getaddrinfo(host, port, hints, ret);
	if (pthread_equal(pthread_self(), resolver.loop))
		fail_msg("the loop waits for the name %s", host);
	(void)sem_wait(&resolver.may_answer);
	numeric.ai_flags |= AI_NUMERICHOST;
	if (*resolver.address)
		r = __real_getaddrinfo(resolver.address, port, &numeric, ret);
	(void)sem_post(&resolver.answered);
	return r;
}

void __wrap_movers_kill(struct movers *m)
{
	(void)m;
}

void __wrap_standby_on_state(struct keeper *k)
{
	(void)k;
}

/* ---- a keeper, and what happens to it */
static void setup(struct keeper *k, bool backup)
{
	memset(k, 0, sizeof(*k));
	k->loop = ev_loop_new(0);
	k->conf.vm = "web1";
	k->conf.dir = "/nonexistent";
	k->conf.peer_address = "";
	k->session.connecting_fd = k->session.waiting_fd = -1;
	k->conf.standby_role = backup;
	k->conf.core = (struct rpl_core_conf){
		.self = "a", .peer = "b", .vm = { { 7 } }, .durability = RPL_DURABLE_MEMORY, .auto_claim = true,
		.max_uncommitted = 2, .max_held = UINT32_MAX, .interval_ns = 60 * S_NS, .stall_ns = 60 * S_NS,
		.suspect_ns = 120 * S_NS, .takeover_delay_ns = S_NS, .arm_timeout_ns = 60 * S_NS,
		.drain_timeout_ns = 60 * S_NS, .retry_ns = 60 * S_NS, .cold_delay_ns = 60 * S_NS,
	};
	(void)rpl_now_ns();
	forget();
}

static void teardown(struct keeper *k)
{
	json_decref(k->reply);
	ev_timer_stop(k->loop, &k->deadline);
	ev_loop_destroy(k->loop);
}

static void say_record(struct keeper *k, enum rpl_event_kind kind, const struct rpl_record *r)
{
	keeper_event(k, &(struct rpl_event){ .kind = kind, .u.record.record = *r });
}

static const struct rpl_uuid offered = { { 9 } };

static void to_seed(struct keeper *k)
{
	struct rpl_record r = { .format = RPL_RECORD_FORMAT, .mode = RPL_MODE_SOLO, .generation = 3, .vm = { { 7 } }, .owner = "b" };

	keeper_start_core(k, RPL_FOUND_NONE, false);
	say_record(k, RPL_EV_RECORD, &r);
	keeper_event(k, &(struct rpl_event){ .kind = RPL_EV_SESSION_OPEN, .u.open = { .session = offered, .generation = 3 } });
	say_record(k, RPL_EV_RECORD, &r);
	assert_int_equal(k->core.state, RPL_ST_B_SEED);
	forget();
}

static void stage_first(struct keeper *k)
{
	keeper_event(k, &(struct rpl_event){ .kind = RPL_EV_STAGED, .u.staged = { .session = offered, .epoch = 1,
				.checks = RPL_STAGED_WHOLE | RPL_STAGED_DIGEST | RPL_STAGED_SEALED } });
}

static void to_sync(struct keeper *k)
{
	k->netbuf_here = k->wish.open = true;
	keeper_start_core(k, RPL_FOUND_RUNNING, true);
	keeper_say(k, RPL_EV_RECORD_ABSENT);
	keeper_say(k, RPL_EV_CMD_PROTECT);
	say_record(k, RPL_EV_CLAIM_GRANTED, &claimed);
	assert_int_equal(k->core.state, RPL_ST_P_SYNC);
	forget();
}

static void to_claim(struct keeper *k)
{
	to_sync(k);
	keeper_say_link(k, RPL_EV_LINK_UP, &k->core.session, 0);
	keeper_say_session(k, RPL_EV_SYNC_READY, &k->core.session);
	keeper_event(k, &(struct rpl_event){ .kind = RPL_EV_HELD, .u.held = { .epoch = 1, .in_sync = true } });
	keeper_event(k, &(struct rpl_event){ .kind = RPL_EV_CAPTURED, .u.captured = { .epoch = 1 } });
	keeper_say_link(k, RPL_EV_ACK, &k->core.session, 1);
	assert_int_equal(claimed.mode, RPL_MODE_PROTECTED);
	forget();
}

/* The primary's clients wait for the ack; people, their log and their files do not. */
static void an_ack_comes_before_it_is_told_of(void **state)
{
	struct keeper k;

	(void)state;
	setup(&k, true);
	to_seed(&k);
	stage_first(&k);
	assert_string_equal(seen, "mover ACK1, told B_READY");
	teardown(&k);
}

/* So they do for what was held while it was armed. */
static void a_release_comes_before_it_is_told_of(void **state)
{
	struct keeper k;

	(void)state;
	setup(&k, false);
	to_claim(&k);
	say_record(&k, RPL_EV_CLAIM_GRANTED, &claimed);
	assert_string_equal(seen, "release 1, told P_PROTECTED");
	teardown(&k);
}

/* A state that lasted no longer than its step is told before the one that came of it. */
static void two_states_are_told_in_their_turn(void **state)
{
	struct keeper k;

	(void)state;
	setup(&k, false);
	to_claim(&k);
	keeper_say(&k, RPL_EV_CMD_UNPROTECT);
	say_record(&k, RPL_EV_CLAIM_GRANTED, &claimed);
	assert_string_equal(seen, "told P_PROTECTED, told P_CLAIM, release 1");
	teardown(&k);
}

/* A last checkpoint, behind which the guest would not run, waits for a guest that somebody else has paused; then the switchover is given
 * up. What is taken in the end is one like any other. */
static void a_last_checkpoint_that_waits_can_be_taken_back(void **state)
{
	struct keeper k;

	(void)state;
	setup(&k, false);
	to_claim(&k);
	say_record(&k, RPL_EV_CLAIM_GRANTED, &claimed);
	keeper_event(&k, &(struct rpl_event){ .kind = RPL_EV_CAPTURED, .u.captured = { .epoch = 2 } });
	keeper_say_link(&k, RPL_EV_ACK, &k.core.session, 2);
	keeper_say(&k, RPL_EV_CMD_SWITCHOVER);
	assert_int_equal(k.core.state, RPL_ST_P_DRAIN);
	assert_true(k.wish.capture && k.wish.capture_kind == CHECKPOINT_TAKE_LAST);
	later_ns += 61 * S_NS;
	keeper_say(&k, RPL_EV_TIMER);
	assert_int_not_equal(k.core.state, RPL_ST_P_DRAIN);
	assert_true(k.wish.capture && k.wish.capture_kind == CHECKPOINT_TAKE && !k.wish.paused);
	later_ns = 0;
	teardown(&k);
}

/* A socket that listens on the loopback interface, at *port; 0: at any, which is told. */
static int listening_at(const char *address, uint16_t *port)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(*port), .sin_addr.s_addr = inet_addr(address) };
	socklen_t len = sizeof(at);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&at, len), 0);
	assert_int_equal(listen(fd, 2), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
	*port = ntohs(at.sin_port);
	return fd;
}

/* ... and its address. */
static int listening(char *ret, size_t size)
{
	uint16_t port = 0;
	int fd = listening_at("127.0.0.1", &port);

	(void)snprintf(ret, size, "127.0.0.1:%u", port);
	return fd;
}

/* The core is patient with a peer that was reached: it has to hear of that, and that it is over. */
static void the_core_hears_of_connections(void **state)
{
	struct rpl_mover_msg down = { .type = RPL_MOVER_LINK_DOWN, .text = "no hello from the peer" };
	char address[64];
	struct keeper k;
	int fd;

	(void)state;
	setup(&k, false);
	fd = listening(address, sizeof(address));
	k.conf.peer_address = address;
	to_sync(&k);
	k.session.ready = true; /* the mover is there */
	while (!*seen)
		ev_run(k.loop, EVRUN_ONCE);
	assert_string_equal(seen, "mover LINK");
	assert_true(k.core.connected);
	session_on_report(&k, &down);
	assert_false(k.core.connected);
	session_fini(&k);
	(void)close(fd);
	teardown(&k);

	setup(&k, true);
	to_seed(&k);
	assert_true(k.core.link_up);
	standby_on_report(&k, &down);
	assert_false(k.core.link_up);
	teardown(&k);
}

static void resolver_says(const char *address)
{
	resolver.address = address;
	(void)sem_post(&resolver.may_answer);
	(void)sem_wait(&resolver.answered);
}

static void reach(struct keeper *k, int fd)
{
	struct pollfd caller = { .fd = fd, .events = POLLIN };

	while (!*seen)
		ev_run(k->loop, EVRUN_ONCE);
	assert_string_equal(seen, "mover LINK");
	forget();
	assert_int_equal(poll(&caller, 1, 0), 1);
	(void)close(accept(fd, NULL, NULL));
}

/* A primary whose peer is a name, which led to `fd` so far. */
static void setup_named(struct keeper *k, int fd, uint16_t port)
{
	static char address[64];

	setup(k, false);
	(void)snprintf(address, sizeof(address), "beta.example.net:%u", port);
	k->conf.peer_address = address;
	to_sync(k);
	k->session.ready = true;
	ev_run(k->loop, EVRUN_NOWAIT);
	assert_string_equal(seen, ""); /* there is nothing to try yet */
	resolver_says("127.0.0.1");
	reach(k, fd);
}

static void teardown_named(struct keeper *k, int fd, int fd2)
{
	session_fini(k);
	(void)close(fd);
	(void)close(fd2);
	teardown(k);
}

static const struct rpl_mover_msg broke = { .type = RPL_MOVER_LINK_DOWN, .text = "it broke" };

/* The connection is lost in the middle of a checkpoint, and the resolver with it: all else goes on meanwhile. */
static void nobody_waits_for_a_name(void **state)
{
	uint16_t port = 0;
	int fd = listening_at("127.0.0.1", &port), fd2 = listening_at("127.0.0.2", &port);
	struct keeper k;

	(void)state;
	setup_named(&k, fd, port);
	session_on_report(&k, &broke);
	reach(&k, fd); /* no answer: where it was last */
	resolver_says("127.0.0.2");
	while (ev_is_active(&k.session.resolve.answered))
		ev_run(k.loop, EVRUN_ONCE);
	assert_string_equal(seen, ""); /* a connection that stands is left alone */
	session_on_report(&k, &broke);
	reach(&k, fd2);
	teardown_named(&k, fd, fd2);
	resolver_says(""); /* to nobody */
}

/* Nobody accepts there any more, so that connect() would take minutes to fail. */
static void a_peer_that_moved_is_found_at_once(void **state)
{
	uint16_t port = 0;
	int fd = listening_at("127.0.0.1", &port), fd2 = listening_at("127.0.0.2", &port);
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int filler = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct keeper k;

	(void)state;
	setup_named(&k, fd, port);
	assert_int_equal(listen(fd, 0), 0); /* one place in its queue ... */
	assert_int_equal(connect(filler, (struct sockaddr *)&at, sizeof(at)), 0); /* ... is taken */
	session_on_report(&k, &broke);
	while (k.session.connecting_fd < 0)
		ev_run(k.loop, EVRUN_ONCE);
	resolver_says("127.0.0.2");
	reach(&k, fd2);
	(void)close(filler);
	teardown_named(&k, fd, fd2);
}

static void a_name_that_nobody_knows_is_told(void **state)
{
	struct keeper k;

	(void)state;
	setup(&k, false);
	k.conf.peer_name = "beta";
	k.conf.peer_address = "beta.example.net:7887";
	to_sync(&k);
	assert_string_equal(k.refused, "");
	resolver_says("");
	while (!*k.refused)
		ev_run(k.loop, EVRUN_ONCE);
	assert_non_null(strstr(k.refused, "the address of beta, 'beta.example.net:7887', leads nowhere"));
	assert_true(ev_is_active(&k.session.retry));
	session_fini(&k);
	teardown(&k);
}

static bool would_survive(const struct keeper *k, const char **ret_why)
{
	static char why[64];
	json_t *doc = keeper_status(k);
	bool yes = json_is_true(json_object_get(json_object_get(doc, "survives"), "primary_crash"));
	const char *no_room = json_string_value(json_object_get(doc, "no_room"));

	(void)snprintf(why, sizeof(why), "%s", no_room ? no_room : "");
	json_decref(doc);
	*ret_why = why;
	return yes;
}

static void look(struct keeper *k, unsigned seconds, const char *expected)
{
	later_ns += seconds * S_NS;
	forget();
	standby_look(k);
	assert_string_equal(seen, expected);
}

static void on_guest(void *arg, enum rpl_guest_op op, int r, const struct rpl_err *err)
{
	struct keeper *k = arg;

	(void)op;
	if (r < 0)
		fail_msg("%s", err->msg);
	k->standby.ready = true;
}

/* Nothing keeps it free, so a backup looks now and then whether a takeover would have room, and says so while it would not. */
static void a_backup_without_room_says_so(void **state)
{
	const char *why;
	struct keeper k;

	(void)state;
	setup(&k, true);
	k.conf.core.suspect_ns = 3600 * S_NS;
	k.guest = rpl_guest_new(&(struct rpl_guest_conf){ .backend = "sim", .name = "web1" }, k.loop, on_guest, NULL, &k,
				&(struct rpl_err){ 0 });
	rpl_guest_standby(k.guest);
	while (!k.standby.ready)
		ev_run(k.loop, EVRUN_ONCE);
	k.movers = movers_new("/nonexistent", k.loop, NULL, NULL, NULL, &(struct rpl_err){ 0 });
	k.netbuf = rpl_netbuf_new(&(struct rpl_netbuf_conf){ .backend = "none", .vm = "web1" }, k.loop, NULL, NULL, NULL, &(struct rpl_err){ 0 });
	k.control = (struct control *)(uintptr_t)&k; /* only handed on */
	room = 0;
	look(&k, 0, ""); /* no backup yet */
	to_seed(&k);
	stage_first(&k);
	look(&k, 0, "asked room");
	assert_true(would_survive(&k, &why));
	room = -ENOMEM;
	look(&k, 9, "");
	look(&k, 1, "asked room, alarm 40 MiB, 39 MiB");
	assert_false(would_survive(&k, &why));
	assert_string_equal(why, "40 MiB, 39 MiB");
	look(&k, 10, "asked room"); /* said once */
	room = -EBUSY;
	look(&k, 10, "asked room"); /* not known: as it was */
	assert_false(would_survive(&k, &why));
	room = 0;
	look(&k, 10, "asked room, guest room");
	assert_true(would_survive(&k, &why));
	assert_string_equal(why, "");
	look(&k, 10, "asked room");
	rpl_netbuf_free(k.netbuf);
	movers_free(k.movers);
	rpl_guest_free(k.guest);
	later_ns = 0;
	teardown(&k);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_ack_comes_before_it_is_told_of),
		cmocka_unit_test(a_release_comes_before_it_is_told_of),
		cmocka_unit_test(two_states_are_told_in_their_turn),
		cmocka_unit_test(a_last_checkpoint_that_waits_can_be_taken_back),
		cmocka_unit_test(the_core_hears_of_connections),
		cmocka_unit_test(nobody_waits_for_a_name),
		cmocka_unit_test(a_peer_that_moved_is_found_at_once),
		cmocka_unit_test(a_name_that_nobody_knows_is_told),
		cmocka_unit_test(a_backup_without_room_says_so),
	};

	resolver.loop = pthread_self();
	(void)sem_init(&resolver.may_answer, 0, 0);
	(void)sem_init(&resolver.answered, 0, 0);
	return cmocka_run_group_tests_name("shell", tests, NULL, NULL);
}
