/* Orders that no keeper of ours gives: the mover says what is wrong with them and ends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <replicad/auto.h>

#include "tests/lib/mover_rig.h"

#define PAGES 256

static void no_heartbeat(struct rpl_mover_conf *c)
{
	c->heartbeat_ms = 0;
}

static void no_epochs(struct rpl_mover_conf *c)
{
	c->max_uncommitted = 0;
}

static void too_many_epochs(struct rpl_mover_conf *c)
{
	c->max_uncommitted = RPL_MOVER_UNCOMMITTED_MAX + 1;
}

static void long_definition(struct rpl_mover_conf *c)
{
	c->definition_len = RPL_MOVER_DEFINITION_MAX + 1;
}

static void small_arena(struct rpl_mover_conf *c)
{
	c->arena_bytes = RPL_MOVER_ARENA_MIN - 1;
}

static void unknown_tls(struct rpl_mover_conf *c)
{
	c->tls = 77;
}

static void configurations(void **state)
{
	static const struct {
		void (*bend)(struct rpl_mover_conf *c);
		const char *why;
	} cases[] = {
		{ no_heartbeat, "heartbeat_ms 0" }, { no_epochs, "max_uncommitted 0" }, { too_many_epochs, "max_uncommitted 65" },
		{ long_definition, "a definition of 16385 bytes" }, { small_arena, "arena" }, { unknown_tls, "tls mode 77" },
	};

	(void)state;
	for (size_t i = 0; i < RPL_ARRAY_LEN(cases); i++) {
		struct rig r;

		rig_init(&r, PAGES);
		cases[i].bend(&r.conf);
		r.conf_refused = true;
		rig_start_primary(&r);
		rig_expect_text(&r.p.last, cases[i].why);
		assert_true(side_gone(&r.p));
		rig_fini(&r);
	}
}

static void session_of_nobody(struct rig *r)
{
	side_send(&r->p, RPL_MOVER_SESSION, 1, 0, 1, &(struct rpl_uuid){ { 0 } }, -1);
}

static void second_session(struct rig *r)
{
	side_send(&r->p, RPL_MOVER_SESSION, r->epoch + 1, 0, 7, &r->session, -1);
}

static void unknown_message(struct rig *r)
{
	side_send(&r->p, RPL_MOVER_SEND, 1, 99, 0, NULL, -1);
}

static void ack_by_a_primary(struct rig *r)
{
	side_send(&r->p, RPL_MOVER_ACK, 1, 0, 0, &r->session, -1);
}

static void epoch_out_of_order(struct rig *r)
{
	side_send(&r->p, RPL_MOVER_STAGE, r->epoch + 2, 100, 0, NULL, -1);
}

static void stage_on_a_backup(struct rig *r)
{
	side_send(&r->b, RPL_MOVER_STAGE, 1, 1, 0, NULL, -1);
}

static void commands(void **state)
{
	static const struct {
		void (*give)(struct rig *r);
		bool backup;
		const char *why;
	} cases[] = {
		{ session_of_nobody, false, "SESSION: zero uuid" }, { second_session, false, "SESSION: one per connection" },
		{ unknown_message, false, "SEND of frame type 99" }, { ack_by_a_primary, false, "ACK is no command for a primary" },
		{ epoch_out_of_order, false, "STAGE 103: the last one was 101" },
		{ stage_on_a_backup, true, "STAGE is no command for a backup" },
	};

	(void)state;
	for (size_t i = 0; i < RPL_ARRAY_LEN(cases); i++) {
		struct side *s;
		struct rig r;

		rig_init(&r, PAGES);
		rig_start(&r);
		rig_protect(&r);
		cases[i].give(&r);
		s = cases[i].backup ? &r.b : &r.p;
		rig_expect_text(side_expect(s, RPL_MOVER_FAILED), cases[i].why);
		assert_true(side_gone(s));
		rig_fini(&r);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(configurations),
		cmocka_unit_test(commands),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
