/* Arbiter `file`: the blocking register (file_register.c) in a thread per operation.
 *
 * The loop never waits for the file system. One operation is one detached thread and one job with two references, the
 * thread's and ours; the result crosses under the job's mutex, and an eventfd wakes the loop. That one is ours: only the
 * loop's thread closes it, and the other writes to it under the mutex and only while we still want the answer, so a thread
 * that comes back late touches nothing of ours. On time-out we abandon the job: a thread that does not
 * hold the lock yet gives up, one that does goes on *holding the lock*, so that the read that follows (R6) waits for its
 * effect. Threads that hang (a dead file system) are counted and bounded.
 */
#include "arbiter_ops.h"

#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <ev.h>

#include <replicad/auto.h>
#include <replicad/thread.h>

#include "file_register.h"

#define HANGING_MAX 4

struct job {
	pthread_mutex_t lock;
	unsigned refs;
	bool abandoned, finished;
	int wake; /* eventfd; -1 once nobody waits for the answer */
	char *dir, *cluster;
	struct rpl_arbiter_ask ask;
	struct rpl_register_answer answer;
};

struct file {
	struct rpl_arbiter *a;
	struct ev_loop *loop;
	char *dir, *cluster;
	unsigned timeout_ms;
	struct job *job;                  /* the operation under way */
	struct job *hanging[HANGING_MAX]; /* abandoned ones whose threads have not come back */
	struct rpl_err could_not_start;
	struct ev_io woken;
	struct ev_timer timeout;
};

static void job_unref(struct job *j)
{
	unsigned refs;

	if (!j)
		return;
	(void)pthread_mutex_lock(&j->lock);
	refs = --j->refs;
	(void)pthread_mutex_unlock(&j->lock);
	if (refs)
		return;
	(void)pthread_mutex_destroy(&j->lock);
	free(j->dir);
	free(j->cluster);
	free(j);
}

static bool job_is_abandoned(void *arg)
{
	struct job *j = arg;
	bool abandoned;

	(void)pthread_mutex_lock(&j->lock);
	abandoned = j->abandoned;
	(void)pthread_mutex_unlock(&j->lock);
	return abandoned;
}

static void *job_thread(void *arg)
{
	struct rpl_register_answer answer;
	struct job *j = arg;
	uint64_t one = 1;

	rpl_register_run(j->dir, j->cluster, &j->ask, job_is_abandoned, j, &answer);
	(void)pthread_mutex_lock(&j->lock);
	j->answer = answer;
	j->finished = true;
	if (j->wake >= 0 && write(j->wake, &one, sizeof(one)) < 0)
		rpl_assert(errno == EAGAIN); /* nothing else can happen to an eventfd; the time-out covers even that */
	(void)pthread_mutex_unlock(&j->lock);
	job_unref(j);
	return NULL;
}

static struct job *job_new(const struct file *f, const struct rpl_arbiter_ask *ask)
{
	struct job *j = calloc(1, sizeof(*j));

	if (!j)
		return NULL;
	j->refs = 1;
	j->ask = *ask;
	(void)pthread_mutex_init(&j->lock, NULL);
	j->dir = strdup(f->dir);
	j->cluster = strdup(f->cluster);
	j->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (j->dir && j->cluster && j->wake >= 0)
		return j;
	rpl_close(&j->wake);
	job_unref(j);
	return NULL;
}

/* Forget abandoned jobs whose threads are back; a free place, or NULL when too many hang. */
static struct job **hanging_place(struct file *f)
{
	struct job **place = NULL;

	for (unsigned i = 0; i < HANGING_MAX; i++) {
		struct job *j = f->hanging[i];
		bool finished = false;

		if (j) {
			(void)pthread_mutex_lock(&j->lock);
			finished = j->finished;
			(void)pthread_mutex_unlock(&j->lock);
		}
		if (finished) {
			job_unref(j);
			f->hanging[i] = NULL;
		}
		if (!f->hanging[i])
			place = &f->hanging[i];
	}
	return place;
}

static void stop_watching(struct file *f)
{
	ev_io_stop(f->loop, &f->woken);
	ev_timer_stop(f->loop, &f->timeout);
}

static void abandon(struct job *j)
{
	(void)pthread_mutex_lock(&j->lock);
	j->abandoned = true;
	rpl_close(&j->wake);
	(void)pthread_mutex_unlock(&j->lock);
}

static void woken_cb(struct ev_loop *loop, struct ev_io *w, int revents)
{
	struct file *f = w->data;
	struct rpl_register_answer answer;

	(void)loop;
	(void)revents;
	(void)pthread_mutex_lock(&f->job->lock);
	rpl_assert(f->job->finished);
	answer = f->job->answer;
	stop_watching(f);
	rpl_close(&f->job->wake);
	(void)pthread_mutex_unlock(&f->job->lock);
	job_unref(f->job);
	f->job = NULL;
	rpl_arbiter_finish(f->a, answer.outcome, answer.has_record ? &answer.record : NULL, &answer.err);
}

/* Either the time is over, or (could_not_start) there is no thread at all. */
static void timeout_cb(struct ev_loop *loop, struct ev_timer *w, int revents)
{
	struct file *f = w->data;
	struct rpl_err err = f->could_not_start;

	(void)loop;
	(void)revents;
	stop_watching(f);
	f->could_not_start.code = 0;
	if (f->job) {
		struct job **place = hanging_place(f);

		rpl_assert(place); /* file_start() saw one */
		abandon(f->job);
		*place = f->job;
		f->job = NULL;
		(void)rpl_fail(&err, -ETIMEDOUT, "arbiter file: %s under %s did not end within %u ms",
			       (*place)->ask.cas ? "a swap" : "a read", f->dir, f->timeout_ms);
	}
	rpl_arbiter_finish(f->a, RPL_ARBITER_UNKNOWN, NULL, &err);
}

static int start_job(struct file *f, const struct rpl_arbiter_ask *ask, struct rpl_err *err)
{
	struct job *j;
	int r;

	if (!hanging_place(f))
		return rpl_fail(err, -EBUSY, "arbiter file: %d earlier operations under %s still hang", HANGING_MAX,
				f->dir);
	j = job_new(f, ask);
	if (!j)
		return rpl_fail(err, -ENOMEM, "arbiter file: no memory or descriptor for an operation");
	j->refs++; /* the thread's */
	r = rpl_thread_detached(job_thread, j);
	if (r < 0) {
		j->refs--;
		rpl_close(&j->wake);
		job_unref(j);
		return rpl_fail_errno(err, -r, "arbiter file: start a thread");
	}
	f->job = j;
	return 0;
}

static void file_start(void *self, const struct rpl_arbiter_ask *ask)
{
	struct file *f = self;
	bool started = start_job(f, ask, &f->could_not_start) == 0;

	ev_now_update(f->loop);
	ev_timer_set(&f->timeout, started ? f->timeout_ms / 1000.0 : 0, 0);
	ev_timer_start(f->loop, &f->timeout);
	if (!started)
		return;
	ev_io_set(&f->woken, f->job->wake, EV_READ);
	ev_io_start(f->loop, &f->woken);
}

static void file_fini(void *self)
{
	struct file *f = self;

	stop_watching(f);
	if (f->job) {
		abandon(f->job);
		job_unref(f->job);
	}
	for (unsigned i = 0; i < HANGING_MAX; i++)
		job_unref(f->hanging[i]);
	free(f->dir);
	free(f->cluster);
	free(f);
}

static int file_init(struct rpl_arbiter *a, const struct rpl_arbiter_conf *conf, struct ev_loop *loop, void **ret_self,
		     struct rpl_err *err)
{
	struct file *f;

	if (!conf->location || conf->location[0] != '/')
		return rpl_fail(err, -EINVAL, "arbiter file: directory '%.100s': want an absolute path that both agents "
				"reach", conf->location ? conf->location : "");
	f = calloc(1, sizeof(*f));
	if (f) {
		f->dir = strdup(conf->location);
		f->cluster = strdup(conf->cluster);
	}
	if (!f || !f->dir || !f->cluster) {
		if (f) {
			free(f->dir);
			free(f->cluster);
		}
		free(f);
		return rpl_fail(err, -ENOMEM, "arbiter file: no memory");
	}
	f->a = a;
	f->loop = loop;
	f->timeout_ms = conf->timeout_ms;
	ev_init(&f->woken, woken_cb);
	ev_init(&f->timeout, timeout_cb);
	ev_set_priority(&f->timeout, EV_MINPRI); /* when we are late ourselves, an answer that has come counts */
	f->woken.data = f->timeout.data = f;
	*ret_self = f;
	return 0;
}

const struct rpl_arbiter_ops rpl_arbiter_file = {
	.name = "file",
	.init = file_init,
	.start = file_start,
	.fini = file_fini,
};
