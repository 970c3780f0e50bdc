#include <replicad/thread.h>

#include <pthread.h>
#include <signal.h>

int rpl_thread_detached(void *(*fn)(void *arg), void *arg)
{
	pthread_attr_t attr;
	sigset_t all, kept;
	pthread_t t;
	int r = pthread_attr_init(&attr);

	if (r)
		return -r;
	(void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	(void)sigfillset(&all); /* signals belong to the loop's thread */
	(void)pthread_sigmask(SIG_SETMASK, &all, &kept);
	r = pthread_create(&t, &attr, fn, arg);
	(void)pthread_sigmask(SIG_SETMASK, &kept, NULL);
	(void)pthread_attr_destroy(&attr);
	return -r;
}
