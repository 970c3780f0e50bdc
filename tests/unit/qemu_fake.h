/* qemu_fake.h - stands in for an HVM guest's device model: a thread that answers as its second monitor does
 *
 * What it is to do is told before somebody connects; the program is linked with --wrap=rpl_unix_connect. One connection at a time.
 */
#ifndef QEMU_FAKE_H
#define QEMU_FAKE_H

#include <stdbool.h>
#include <stddef.h>

#define QEMU_FAKE_STATE_MAX 4096
#define QEMU_FAKE_SEEN_MAX 32
#define QEMU_FAKE_MONITOR "/var/run/xen/qmp-libxenstat-5"

struct qemu_fake {
	char state[QEMU_FAKE_STATE_MAX]; /* what it saves */
	size_t state_len;
	const char *refuses;   /* answers this command with an error */
	const char *hangs_up;  /* closes when this one comes */
	const char *silent;    /* never answers this one */
	bool waits;            /* says nothing at all until qemu_fake_greet() */
	bool gone;             /* nobody listens any more */
	/* what it was told, to be looked at when the connection has ended */
	char seen[QEMU_FAKE_SEEN_MAX][64];
	unsigned n_seen;
};
extern struct qemu_fake qemu;

void qemu_fake_start(void);
void qemu_fake_greet(void);
/* The connection has been closed, or will be by the other side: wait for it. */
void qemu_fake_ended(void);
void qemu_fake_end(void);

#endif
