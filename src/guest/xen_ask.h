/* xen_ask.h - the request to suspend, written to xenstore in one message that nobody waits for */
#ifndef RPL_GUEST_XEN_ASK_H
#define RPL_GUEST_XEN_ASK_H

#include <stdbool.h>
#include <stdint.h>

#include <replicad/err.h>

struct xen_ask {
	int sock;          /* -1: there is none, and libxenstore must do */
	uint32_t unanswered;
	uint32_t have;     /* bytes of an answer that has not come whole */
	uint8_t answer[64];
};

/* Connect to xenstored's socket. Where there is none (xenstored is in a domain of its own) sock is -1. */
void xen_ask_open(struct xen_ask *a, const char *path);
void xen_ask_close(struct xen_ask *a);
/* Write a node. Returns 0 when it is sent; negative: not, and this connection is closed. */
int xen_ask_write(struct xen_ask *a, const char *path, const char *value);
/* Wait until all is answered, for a moment at most. An answer that says no, here or before a later request, is logged. */
void xen_ask_settle(struct xen_ask *a);

#endif
