/* control.h - what is said on the two control sockets: to the agent, and from the agent to a VM's keeper
 *
 * Agent socket (RUN_DIR/agent.sock, SOCK_STREAM): one JSON object a line, `{"v":1,"cmd":"status",...}`, answered in
 * order by `{"v":1,"ok":true,...}` or `{"v":1,"ok":false,"error":{"code":"...","message":"..."}}`; after "events"
 * with "follow" also `{"v":1,"event":{...}}` lines. The caller is root, the agent's own user or in the
 * configured group (SO_PEERCRED). See replicad-control(7).
 *
 * Keeper socket (RUN_DIR/vm/NAME/keeper.sock, SOCK_SEQPACKET, the keeper listens, mode 0600): one JSON object a
 * packet. Every request carries an "id" and its reply repeats it; replies may come in any order. On a connection that
 * said "subscribe", `{"v":1,"event":"...",...}` packets come in between (no id). When "link" is said, the accepted TCP
 * connection of a peer rides along as a descriptor; its preamble (link.h) is still unread.
 *
 * keeper.json: {"v":1, "vm":NAME, "dir":DIR, "role":"primary"|"backup" (a hint: what it was asked to be), "restarts":N
 * (0 at the first start since the agent wanted it; more: the one before died without a goodbye), "agent":{every
 * [agent] key}, "peer":{"name","address","identity"} (strings, "" unknown), "config":{every [vm] key}} with the keys,
 * types and resolved defaults of conf.h: numbers as integers, yes/no as booleans, the rest as strings, "" for unset.
 *
 * In both: fields are only ever added, unknown fields are ignored, a message beyond its maximum ends the connection.
 */
#ifndef REPLICAD_CONTROL_H
#define REPLICAD_CONTROL_H

#define RPL_CONTROL_VERSION 1
#define RPL_CONTROL_LINE_MAX (64 * 1024)      /* bytes of a request to the agent, with the newline */
#define RPL_CONTROL_REPLY_MAX (4 * 1024 * 1024) /* bytes of a reply of the agent */
#define RPL_KEEPER_MSG_MAX (64 * 1024)        /* bytes of a packet on a keeper's socket */
#define RPL_VM_NAME_MAX 41                    /* with the final NUL */

#define RPL_AGENT_SOCK "agent.sock"
#define RPL_KEEPER_SOCK "keeper.sock"
#define RPL_KEEPER_CONF "keeper.json" /* what the agent resolved for this VM; written before the keeper starts */
#define RPL_KEEPER_PAST "past.json"   /* what the next keeper must know; one that ends on purpose leaves none */
#define RPL_KEEPER_LOG "keeper.log"   /* the keeper's stderr, unless the journal has it */

/* ---- commands to the agent */
#define RPL_AGENT_COMMANDS(X)                                                                              \
	X(ping)       /* reply: "agent": {node, version, pid, listen, tls, insecure} */                     \
	X(status)     /* [vm]; reply: "agent", "vms": [{RPL_STATUS_FIELDS}] */                              \
	X(protect)    /* vm, [set: {key: text}, keys of replicad.conf(5)'s [vm]]; reply when accepted */    \
	X(unprotect)  /* vm, [force: give up a backup's copy]; reply when done */                           \
	X(switchover) /* vm; reply when it has begun, or is refused */                                      \
	X(solo)       /* vm, generation: the peer is dead, on the operator's word; go on here alone */      \
	X(takeover)   /* vm, generation: the same; the backup starts its copy */                            \
	X(accept_loss) /* vm, generation: start from disk although epochs may be missing */                 \
	X(events)     /* [vm], [limit], [follow]; reply: "events": [...] */                                 \
	X(reload)     /* read the configuration anew; a faulty one changes nothing */

/* ---- commands to a keeper: name, what it does, when the reply comes */
#define RPL_KEEPER_COMMANDS(X)                                                                                    \
	X(status)    /* reply: "status": {RPL_STATUS_FIELDS} */                                                   \
	X(subscribe) /* events from now on */                                                                     \
	X(protect)   /* keep the guest protected from now on. Reply when it is accepted; a later refusal is the   \
		      * event "refused" and the status field of that name. Again: no change */                    \
	X(unprotect) /* SOLO by claim, let go of everything, tell the peer to forget. Reply when done or refused */ \
	X(link)      /* backup; one descriptor: a peer's connection. Reply at once */                             \
	X(reload)    /* keeper.json was written anew: take over the keys that apply live */                       \
	X(switchover) /* planned hand-over to the backup. Reply when it has begun, or is refused */               \
	X(solo)      /* generation: the operator says that the peer is dead; as takeover and accept_loss it holds \
		      * for that generation and no other */                                                       \
	X(takeover)                                                                                               \
	X(accept_loss)                                                                                            \
	X(fault)     /* for tests: point, "NAME[:nth]" of replicad-fault(7), strikes this keeper or its mover from now on */ \
	X(shutdown)  /* end this process: a backup forgets its replica; refused ("refused") while it would leave   \
		      * a guest of ours unattended with output held, unless "force": true */

/* ---- error codes in replies: name, exit status of the command line */
#define RPL_CONTROL_ERRORS(X)                                                                                \
	X(bad_request, RPL_EXIT_FAILED)    /* not JSON, not an object, a field missing or of the wrong type */ \
	X(bad_version, RPL_EXIT_FAILED)    /* "v" is not one that this program speaks */                      \
	X(unknown_command, RPL_EXIT_FAILED)                                                                   \
	X(denied, RPL_EXIT_FAILED)         /* this caller may not */                                          \
	X(not_found, RPL_EXIT_FAILED)      /* no such VM or peer */                                           \
	X(config, RPL_EXIT_FAILED)         /* the configuration has a fault */                                \
	X(refused, RPL_EXIT_REFUSED)       /* it would be unsafe; the message says what to change */          \
	X(busy, RPL_EXIT_FAILED)           /* something else is under way; try again */                       \
	X(timeout, RPL_EXIT_FAILED)        /* no answer in time; what was asked may still happen */           \
	X(failed, RPL_EXIT_FAILED)

/* ---- events of a keeper: {"v":1,"event":NAME,"vm":...,"message":...} plus what is said here. The agent adds
 * "time" (RFC 3339, UTC), "seq" and "node", keeps and journals them. */
#define RPL_KEEPER_EVENTS(X)                                                                  \
	X(state)    /* from, to, role, wanted, gen, sess, epoch, reason: the state machine changed state */ \
	X(progress) /* bulk_percent: at most one a second */                                   \
	X(refused)  /* reason: protection was asked for and cannot be; nothing is half done */ \
	X(takeover) /* generation, detect_ms, claim_ms, run_ms, run_us, blackout_us: the guest runs here now; the last \
		     * one after a switchover: it stood still so long, from its pause on the other node on */          \
	X(protected)  /* unprotected_ms: protected (again), after the guest ran here so long without */             \
	X(switchover) /* to, blackout_us: the node that the guest was handed to says what that cost */            \
	X(alarm)    /* reason: somebody should look (awaiting arbiter, stall, overflow) */     \
	X(guest)    /* reason: shut down, reboot, crash, device change, room for a takeover again */ \
	X(unprotected) /* let go; nothing of ours is left on the guest */                      \
	X(end)      /* the keeper ends on purpose: do not start it again */

/* ---- the status of one VM. Fields that do not apply are left out. name, JSON type, unit, meaning */
#define RPL_STATUS_FIELDS(X)                                                                                   \
	X(vm, string, "", "name")                                                                              \
	X(uuid, string, "", "the VM's uuid")                                                                   \
	X(node, string, "", "this node")                                                                       \
	X(peer, string, "", "the other node")                                                                  \
	X(role, string, "", "none, primary or backup")                                                         \
	X(state, string, "", "state of replicad-protocol(7)")                                                  \
	X(since, string, "", "when this state began, RFC 3339")                                                \
	X(reason, string, "", "why this state")                                                                \
	X(refused, string, "", "why protection is refused, and what to change")                                \
	X(wanted, boolean, "", "protection is wanted")                                                         \
	X(keeper, string, "", "none, starting, running, unresponsive or dead")                                 \
	X(generation, integer, "", "ownership changes so far")                                                 \
	X(session, string, "", "current session")                                                              \
	X(epoch, integer, "", "current epoch")                                                                 \
	X(acked, integer, "", "last epoch that the backup acknowledged")                                       \
	X(lag_ms, integer, "ms", "age of the last acknowledged epoch")                                         \
	X(unprotected_ms, integer, "ms", "the guest has run here so long without the protection that is wanted")      \
	X(awaiting_arbiter, boolean, "", "the guest is paused until the arbiter answers")                      \
	X(bulk_percent, integer, "%", "first copy of the memory")                                              \
	X(interval_ms, integer, "ms", "configured checkpoint interval")                                        \
	X(checkpoints, integer, "", "checkpoints made (primary) or received (backup)")                         \
	X(pause_p50_us, integer, "us", "pause of the guest per checkpoint, median")                            \
	X(pause_p99_us, integer, "us", "the same, 99th percentile")                                            \
	X(pause_max_us, integer, "us", "the same, longest")                                                    \
	X(dirty_pages_last, integer, "pages", "pages that were reported as written for the last checkpoint")       \
	X(dirty_pages_avg, integer, "pages", "the same, per checkpoint")                                         \
	X(scan_us, integer, "us", "to learn which pages the last checkpoint has, in its pause")                \
	X(copy_us, integer, "us", "to copy those that the backup has not, and the state, in its pause")        \
	X(encode_us, integer, "us", "to encode and queue the last checkpoint, while the guest runs")           \
	X(raw_bytes, integer, "bytes", "stream bytes so far")                                                  \
	X(wire_bytes, integer, "bytes", "bytes sent so far")                                                   \
	X(delta_pages, integer, "pages", "pages of checkpoints that were sent as what changed in them")          \
	X(same_pages, integer, "pages", "pages of checkpoints that the backup had already")                    \
	X(held_frames, integer, "frames", "output held now")                                                   \
	X(dropped_frames, integer, "frames", "output dropped at the buffer's limit")                           \
	X(guest, string, "", "running, paused (by replicad) or stopped (by another program: checkpoints wait)") \
	X(replica, string, "", "a Xen guest's backup: memfd or domain, which the copy is kept in")              \
	X(ahead, string, "", "a backup whose primary was silent: yes, its takeover is begun; or no, and why")    \
	X(no_room, string, "", "a backup: a takeover now would not find the memory that it needs, and why")      \
	X(tracker, string, "", "how written pages are found")                                                  \
	X(netbuf, string, "", "what holds the output; none is unsafe")                                         \
	X(tls, string, "", "psk, x509 or none")                                                                \
	X(durability, string, "", "memory, journal or both")                                                   \
	X(takeovers, integer, "", "takeovers made here")                                                       \
	X(takeover, object, "", "last takeover here: detect_ms, claim_ms, run_ms, run_us, blackout_us")                \
	X(survives, object, "", "primary_crash, backup_crash, both_lose_power: true or false")

#endif
