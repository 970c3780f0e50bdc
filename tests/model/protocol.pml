/* protocol.pml - the protection protocol for spin: two hosts, an arbiter (w_*), safety only
 *
 * Guarded-action style; node x, peer 1-x. An epoch is a number; images, stores, redo and journals are "complete up to
 * epoch e", so what is lost or runs ahead shows by comparison. Covered: sessions and arming, claims whose answer is lost
 * and which land late, stall and SOLO, takeover, host crashes, keeper restarts, death of the guest, also while a claim of
 * its is won, which is given back then (R2b), loss of the replica, unprotect, planned switchover, power-off and an operator's
 * start, a store link that fails by itself, a journal on the backup and cold start. Not covered: liveness (tests/sim, I10), session resumption (a hiccup: no state changes),
 * durability=both, store=plain.
 *
 * -DM_R1 .. -DM_R10 take a rule away; M_LATE_ARM reads the record once and believes it; M_OFF lets the session end
 * before DOWN is won; M_BACK gives a SOLO back that was made use of. Each must be caught. tests/model/run does it all, in
 * three small worlds: with two epochs, four generations, two sessions and one crash 870 329 states, with three, four, one and
 * two 519 366, and with two, five, one and one, in which a takeover follows what was given back, 115 206.
 */
#ifndef MAXE
#define MAXE 3     /* epochs */
#endif
#ifndef MAXG
#define MAXG 5     /* generations */
#endif
#ifndef MAXS
#define MAXS 2     /* sessions */
#endif
#ifndef CRASHES
#define CRASHES 2  /* hosts that lose power */
#endif
#ifndef MISHAPS
#define MISHAPS 1  /* of each: keeper restart, guest death, replica loss, store link cut, power-off */
#endif

#define NONE 0
#define PRIM 1
#define BACK 2
#define LOST 3     /* owner by the record, the guest's memory gone */
#define SOLO 0
#define PROT 1
#define DOWN 2
#define CLAIM 3    /* a node only: SOLO is being claimed, output held */
#define DRAIN 4    /* a node only: handed over, paused, waiting for the peer's claim */

/* the arbiter's record; after SOLO was claimed w_sess still names the last protection */
byte w_gen = 1, w_owner = 0, w_mode = SOLO, w_sess = 0;
/* an ARM on its way to the arbiter: the generation it expects, 0 none */
byte f_exp[2], f_sess[2];
/* nodes */
byte role[2], mode[2], gen[2], sess[2], lin[2];
byte ep[2];        /* primary: epoch being executed */
byte rel[2], ack[2];
byte img[2];       /* backup: last complete image */
bool haveimg[2], frz[2], buf[2], pend[2], insync[2];
bool unused[2];    /* SOLO was won from {PROT, our session} and nothing came of it yet: it may be given back (R2b) */
/* the session's messages: cumulative, may be read late */
byte s_id, s_ck, s_ack, s_fl;
/* disks: all writes of epochs <= lo are there, some of <= hi may be; redo held for (rlo, img] */
byte lo[2], hi[2], rlo[2];
byte dsess[2];     /* durable mark: an overlay of this session was in use over the store; 0: clean */
byte jsess[2], jlo[2], jhi[2]; /* journal: redo (jlo, jhi] of a session */
bool fl[2], flw[2]; /* a flush of lo+1 is under way; the store link did not break since it began */
bool slink = 1;
/* ghosts */
byte curlin = 1, base[10], maxrel;
bool off;          /* the guest was shut down on purpose */
byte crashes, restarts, deaths, losses, cuts, downs, hands;

#define mine(x) (w_owner == x)
#define mirrored(x, p) (slink && role[p] == BACK && sess[p] == sess[x] && sess[x] != 0 && !frz[p])
#define canout(x) (role[x] == PRIM && mode[x] == SOLO && !buf[x])

inline release(x, e) {
	if
	:: lin[x] == curlin -> if :: e > maxrel -> maxrel = e :: else fi
	:: else -> assert(e <= base[lin[x] + 1]) /* I1: a deposed primary emits only what its heir owns already */
	fi
}
inline newline(x, e) {
	assert(!off);                    /* I11 */
	curlin++; base[curlin] = e;
	lin[x] = curlin
}
inline solo(x) { /* the claim is won: drain the overlay, then open */
	mode[x] = SOLO; gen[x] = w_gen; buf[x] = 0; sess[x] = 0; ack[x] = 0; fl[x] = 0; pend[x] = 0; insync[x] = 0; unused[x] = 0;
	lo[x] = ep[x] - 1; hi[x] = ep[x] - 1; dsess[x] = 0;
	rel[x] = ep[x] - 1; release(x, rel[x])
}
inline begin(x, e) { /* run from epoch e on, alone */
	role[x] = PRIM; mode[x] = SOLO; gen[x] = w_gen; sess[x] = 0; ep[x] = e + 1; rel[x] = e; lo[x] = e; hi[x] = e;
	dsess[x] = 0; frz[x] = 0; ack[x] = 0; buf[x] = 0; fl[x] = 0; haveimg[x] = 0; img[x] = 0; rlo[x] = 0; insync[x] = 0
}
inline drop(x) { /* memory is gone or thrown away; the disk stays */
	role[x] = NONE; mode[x] = SOLO; pend[x] = 0; frz[x] = 0; buf[x] = 0; haveimg[x] = 0; img[x] = 0; ack[x] = 0; rel[x] = 0;
	ep[x] = 0; rlo[x] = 0; gen[x] = 0; sess[x] = 0; lin[x] = 0; fl[x] = 0; insync[x] = 0; unused[x] = 0
}

active proctype sys() {
	byte x, p;
	d_step { role[0] = PRIM; gen[0] = 1; lin[0] = 1; ep[0] = 1 }
	do
	:: atomic { if :: x = 0 :: x = 1 fi; p = 1 - x;
	if
	/* ---- the guest runs to the end of an epoch */
	:: role[x] == PRIM && ep[x] <= MAXE && mode[x] == SOLO && !buf[x] ->
		d_step { lo[x] = ep[x]; hi[x] = ep[x]; rel[x] = ep[x]; release(x, rel[x]);
			if :: mirrored(x, p) && insync[x] -> lo[p] = ep[x]; hi[p] = ep[x] :: else -> insync[x] = 0 fi;
			ep[x]++ }
	:: role[x] == PRIM && ep[x] <= MAXE && (buf[x] || mode[x] == PROT) && mode[x] != CLAIM && mode[x] != DRAIN && sess[x] != 0 &&
	   sess[x] == s_id -> d_step { s_ck = ep[x]; ep[x]++ }
	/* ---- session, arming */
	:: role[x] == PRIM && mode[x] == SOLO && !buf[x] && sess[x] == 0 && role[p] == NONE && s_id < MAXS && ep[x] > 1 && mine(x) ->
		d_step { s_id++; sess[x] = s_id; s_ck = 0; s_ack = 0; s_fl = 0; ack[x] = 0;
			assert(w_owner == x); /* I9: the peer's store is overwritten */
			role[p] = BACK; sess[p] = s_id; lin[p] = lin[x]; haveimg[p] = 0; frz[p] = 0; img[p] = 0; rlo[p] = 0;
			jsess[p] = 0; dsess[p] = s_id }
	:: role[x] == PRIM && mode[x] == SOLO && !buf[x] && sess[x] != 0 && !insync[x] && mirrored(x, p) ->
		d_step { lo[p] = lo[x]; hi[p] = hi[x]; insync[x] = 1 }
	:: role[x] == PRIM && mode[x] == SOLO && !buf[x] && sess[x] != 0 &&
#ifndef M_R4
	   insync[x] &&
#endif
	   1 -> d_step { buf[x] = 1; dsess[x] = sess[x]; s_ck = ep[x] - 1;
			if :: role[p] == BACK && sess[p] == sess[x] -> rlo[p] = ep[x] - 1 :: else fi }
	:: role[x] == PRIM && mode[x] == SOLO && sess[x] != 0 && !pend[x] -> d_step { solo(x) } /* give the attempt up */
	:: role[x] == PRIM && mode[x] == SOLO && sess[x] != 0 && buf[x] && !pend[x] && f_exp[x] == 0 &&
#ifndef M_R4
	   ack[x] >= rel[x] && ack[x] >= hi[x] && ack[x] > 0 &&
#endif
	   1 -> d_step { pend[x] = 1; f_exp[x] = gen[x]; f_sess[x] = sess[x] }
	/* the ARM lands, late perhaps; or is lost */
	:: f_exp[x] != 0 ->
		d_step { if :: w_gen == f_exp[x] && w_gen < MAXG -> w_gen++; w_mode = PROT; w_owner = x; w_sess = f_sess[x]
#ifndef M_R4
				; assert(s_ack >= maxrel || s_id != w_sess) /* I8 */
#else
				; assert(s_ack >= maxrel && s_id == w_sess)
#endif
			    :: else fi; f_exp[x] = 0; f_sess[x] = 0 }
	:: f_exp[x] != 0 -> d_step { f_exp[x] = 0; f_sess[x] = 0 }
	/* its answer, or the record read again */
	:: role[x] == PRIM && pend[x] && mine(x) && w_mode == PROT && w_sess == sess[x] ->
		d_step { pend[x] = 0; gen[x] = w_gen; mode[x] = PROT }
	/* read, and not there: it may still land, so SOLO must be won before anything is opened (R6) */
	:: role[x] == PRIM && pend[x] && w_gen == gen[x] ->
#if defined(M_LATE_ARM)
		d_step { solo(x) }
#else
		d_step { pend[x] = 0; mode[x] = CLAIM }
#endif
#ifdef M_R6
	:: role[x] == PRIM && pend[x] -> d_step { solo(x) }
#endif
	/* ---- acks, release, flush */
	:: role[x] == PRIM && sess[x] != 0 && s_id == sess[x] && s_ack > ack[x] -> ack[x] = s_ack
#ifdef M_R1
	:: role[x] == PRIM && mode[x] == PROT && rel[x] + 1 < ep[x] -> d_step { rel[x]++; release(x, rel[x]) }
#endif
	:: role[x] == PRIM && (mode[x] == PROT || mode[x] == CLAIM && w_mode == PROT) && rel[x] < ack[x] ->
		d_step { rel[x]++; release(x, rel[x]) }
	:: role[x] == PRIM && mode[x] == PROT && !fl[x] &&
#ifdef M_R5
	   lo[x] + 1 < ep[x] ->
#else
	   lo[x] < ack[x] ->
#endif
		d_step { fl[x] = 1; flw[x] = slink; hi[x] = lo[x] + 1;
			if :: mirrored(x, p) && hi[p] < hi[x] -> hi[p] = hi[x] :: else fi }
	:: role[x] == PRIM && fl[x] && (mode[x] == PROT || mode[x] == CLAIM || mode[x] == DRAIN) ->
		d_step { fl[x] = 0; lo[x] = hi[x];
			if
			:: mirrored(x, p) && flw[x] -> s_fl = lo[x];
				if :: lo[p] < lo[x] -> lo[p] = lo[x] :: else fi
#ifdef M_R5B
			:: !(mirrored(x, p) && flw[x]) && s_id == sess[x] -> s_fl = lo[x]
#endif
			:: else
			fi }
	/* ---- the store link */
	:: slink && cuts < MISHAPS -> d_step { cuts++; slink = 0; flw[0] = 0; flw[1] = 0; insync[0] = 0;
			insync[1] = 0 }
	:: !slink -> d_step { slink = 1;
			if :: mirrored(x, p) && role[x] == PRIM && buf[x] && lin[p] == lin[x] ->
				if :: lo[p] < lo[x] -> lo[p] = lo[x] :: else fi;
				if :: hi[p] < hi[x] -> hi[p] = hi[x] :: else fi
			:: else fi }
	/* ---- leaving protection: suspicion, unprotect, a restarted keeper; always through the arbiter (R2) */
	:: role[x] == PRIM && mode[x] == PROT -> mode[x] = CLAIM
#ifdef M_R2
	:: role[x] == PRIM && mode[x] == CLAIM -> d_step { solo(x) }
#endif
	:: role[x] == PRIM && mode[x] == CLAIM && w_gen < MAXG &&
#ifndef M_R8
	   mine(x) &&
#endif
	   1 -> d_step { w_gen++; w_mode = SOLO; w_owner = x; solo(x) }
	:: role[x] == PRIM && mode[x] == CLAIM && mine(x) && w_gen < MAXG -> /* answer lost, or the guest dies before it comes */
		d_step { unused[x] = w_mode == PROT && w_sess == sess[x]; w_gen++; w_mode = SOLO }
	/* ... and it is of no use: PROT again, for the same session; then the backup is told to take over */
	:: role[x] == LOST && unused[x] && mine(x) && w_mode == SOLO && w_gen < MAXG ->
		d_step { unused[x] = 0; w_gen++; w_mode = PROT; assert(s_ack >= maxrel || s_id != w_sess) /* I8 */ }
#ifdef M_BACK
	:: role[x] == PRIM && mode[x] == SOLO && !buf[x] && mine(x) && deaths < MISHAPS ->
		d_step { deaths++; role[x] = LOST; sess[x] = 0; fl[x] = 0; unused[x] = 1 } /* output was open meanwhile */
#endif
#ifdef M_R2B
	:: role[x] == LOST && mine(x) && w_mode == PROT -> assert(0) /* I5: owner again, with nothing to run */
#endif
	/* ---- planned switchover */
	:: role[x] == PRIM && mode[x] == PROT && hands < MISHAPS && ack[x] == ep[x] - 1 && rel[x] == ack[x] && lo[x] == ack[x] && !fl[x] ->
		d_step { hands++; mode[x] = DRAIN }
	:: role[x] == PRIM && mode[x] == DRAIN -> mode[x] = CLAIM
	/* ---- deposed: kill, drop, discard (R8) */
#ifndef M_R8
	:: (role[x] == PRIM || role[x] == LOST) && w_owner == p -> d_step { drop(x) }
#endif
	/* ---- power-off, and an operator's start */
	:: role[x] == PRIM && !pend[x] && mode[x] != DRAIN && mine(x) && downs < MISHAPS && w_gen < MAXG ->
#ifdef M_OFF
		d_step { downs++; off = 1; drop(x) }
#else
		d_step { downs++; off = 1; w_gen++; w_mode = DOWN; solo(x); drop(x) }
#endif
	:: role[x] == NONE && mine(x) && w_mode == DOWN && dsess[x] != w_sess && w_gen < MAXG ->
		d_step { off = 0; w_gen++; w_mode = SOLO; newline(x, lo[x]); begin(x, lo[x]) }
	/* ---- the backup */
	:: role[x] == BACK && s_id == sess[x] && s_ck > img[x] && !frz[x] && insync[p] + buf[p] > 0 ->
#ifdef M_R9
		s_ack = s_ck
#else
		d_step { img[x] = s_ck; haveimg[x] = 1; jsess[x] = sess[x]; jlo[x] = rlo[x]; jhi[x] = img[x]; s_ack = s_ck }
#endif
#ifdef M_R9
	:: role[x] == BACK && s_id == sess[x] && s_ck > img[x] && !frz[x] -> d_step { img[x] = s_ck; haveimg[x] = 1 }
#endif
	:: role[x] == BACK && s_id == sess[x] && s_fl > rlo[x] && !frz[x] -> d_step { rlo[x] = s_fl; jlo[x] = s_fl }
	:: role[x] == BACK && !frz[x] -> frz[x] = 1 /* silence, handover, a restarted keeper */
	:: role[x] == BACK && losses < MISHAPS -> d_step { losses++; haveimg[x] = 0; img[x] = 0; frz[x] = 1 }
#ifdef M_R3
	:: role[x] == BACK && haveimg[x] && w_gen < MAXG ->
#else
	:: role[x] == BACK && frz[x] && w_mode == PROT && w_sess == sess[x] && w_owner == p && w_gen < MAXG &&
#ifndef M_R7
	   haveimg[x] &&
#endif
	   1 ->
#endif
		d_step {
			assert(lin[x] == curlin); /* I5 */
			assert(img[x] >= maxrel); /* I1 */
			assert(hi[x] <= img[x]);  /* I3: the store is not ahead */
			assert(lo[x] >= rlo[x]);  /* I3: redo covers what it lacks */
#ifndef M_R3
			w_gen++; w_owner = x; w_mode = SOLO;
#endif
			newline(x, img[x]); begin(x, img[x]) }
	:: role[x] == BACK && frz[x] && !(w_mode == PROT && w_sess == sess[x]) -> d_step { drop(x) } /* refused: forget */
	/* ---- mishaps */
	:: role[x] != NONE && crashes < CRASHES -> d_step { crashes++; drop(x) }
	:: role[x] == PRIM && restarts < MISHAPS && mode[x] != DRAIN ->
		d_step { restarts++; fl[x] = 0; pend[x] = 0; ack[x] = 0;
			if :: mode[x] == SOLO && !buf[x] -> sess[x] = 0 :: else -> sess[x] = 0; mode[x] = CLAIM; buf[x] = 1 fi }
	:: role[x] == PRIM && deaths < MISHAPS && mode[x] != SOLO -> d_step { deaths++; role[x] = LOST; sess[x] = 0; pend[x] = 0; fl[x] = 0 }
	/* ---- cold start, from the exact record (R10) */
	:: role[x] != PRIM && role[x] != BACK && mine(x) && w_mode == SOLO && w_gen < MAXG &&
#ifdef M_R10
	   1 ->
#else
	   dsess[x] != w_sess ->
#endif
		d_step { assert(lo[x] >= maxrel); w_gen++; newline(x, lo[x]); begin(x, lo[x]) } /* I3 */
	:: role[x] != PRIM && role[x] != BACK && w_gen < MAXG && jsess[x] != 0 && jsess[x] == w_sess && lo[x] >= jlo[x] && hi[x] <= jhi[x] &&
	   (w_mode == PROT || w_mode == SOLO && mine(x) && dsess[x] == w_sess) ->
		d_step { assert(jhi[x] >= maxrel); w_gen++; w_owner = x; w_mode = SOLO; newline(x, jhi[x]); begin(x, jhi[x]) }
	:: else -> skip
	fi;
	assert(!(canout(0) && canout(1))); /* I2, judged from the nodes' own states */
	x = 0; p = 0 }
	od
}
