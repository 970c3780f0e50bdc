/* thread.h - what can only be waited for, waited for outside the loop */
#ifndef REPLICAD_THREAD_H
#define REPLICAD_THREAD_H

/* Run fn(arg) in a thread that nobody joins, and that gets no signal. 0 or a negative errno. */
int rpl_thread_detached(void *(*fn)(void *arg), void *arg);

#endif
