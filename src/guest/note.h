/* note.h - "this guest was paused by us", readable after our crash
 *
 * A mapped page in a file of the run directory: setting it costs nothing, and it survives the process, which is all
 * that is asked (the guest would not survive the host either). It names the hypervisor's process by pid and start
 * time, so that an old note never speaks about a new process.
 */
#ifndef RPL_GUEST_NOTE_H
#define RPL_GUEST_NOTE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <replicad/err.h>

struct note_page;
struct note {
	struct note_page *page;
	char path[512];
};

/* Open or make RUN_DIR/NAME.paused. */
int note_open(struct note *n, const char *run_dir, const char *name, struct rpl_err *err);
/* Does the note say that this process was paused by us? Then, or if not, the note is about `pid` from now on. */
bool note_claim(struct note *n, pid_t pid);
/* The same for a domain, known by its number and half its uuid. */
bool note_claim_id(struct note *n, uint64_t id, uint64_t which);
void note_set(struct note *n, bool paused);
uint64_t note_since(const struct note *n); /* rpl_now_ns() when that was set; 0 if it is not */
/* Close; `remove`: the note has no more to say. Accepts one that was never opened. */
void note_close(struct note *n, bool remove);

#endif
