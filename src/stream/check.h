/* check.h - between check.c (order) and check_body.c (contents) */
#ifndef STREAM_CHECK_H
#define STREAM_CHECK_H

#include <replicad/stream_check.h>

void rpl_check_pv_info(struct rpl_stream_check *c, const struct rpl_stream_event *ev);
void rpl_check_p2m(struct rpl_stream_check *c, const struct rpl_stream_event *ev);
void rpl_check_vcpu(struct rpl_stream_check *c, const struct rpl_stream_event *ev);
/* check_vcpu.c: remember the types of a record's pfns; judge c->basic, which is complete. */
void rpl_check_note_types(struct rpl_stream_check *c, const struct rpl_stream_event *ev);
void rpl_check_note_p2m_frame(struct rpl_stream_check *c, uint64_t pfn);
/* All noted p2m frames, when a checkpoint or the image is complete. */
void rpl_check_p2m_pages(struct rpl_stream_check *c, const struct rpl_stream_event *ev);
void rpl_check_basic(struct rpl_stream_check *c, const struct rpl_stream_event *ev);
void rpl_check_pfns(struct rpl_stream_check *c, const struct rpl_stream_event *ev);
void rpl_check_pages(struct rpl_stream_check *c, const struct rpl_stream_event *ev);
void rpl_check_body_begin(struct rpl_stream_check *c, const struct rpl_stream_event *ev);
void rpl_check_body(struct rpl_stream_check *c, const struct rpl_stream_event *ev);
void rpl_check_body_end(struct rpl_stream_check *c, const struct rpl_stream_event *ev);

#endif
