/* run_for.h - the default loop for a while, unless something breaks out of it before */
#ifndef RUN_FOR_H
#define RUN_FOR_H

#include <ev.h>

#define TURN_MS 10         /* between two looks whether something has happened */
#define PATIENT_TURNS 6000 /* only reached by a failure */

static void run_for_is_over(struct ev_loop *loop, ev_timer *w, int revents)
{
	(void)w;
	(void)revents;
	ev_break(loop, EVBREAK_ALL);
}

static inline void run_for(unsigned ms)
{
	ev_timer t;

	ev_now_update(EV_DEFAULT);
	ev_timer_init(&t, run_for_is_over, ms / 1000., 0.);
	ev_timer_start(EV_DEFAULT, &t);
	ev_run(EV_DEFAULT, 0);
	ev_timer_stop(EV_DEFAULT, &t);
}

#endif
