/* stream.h - Xen's migration formats: bytes in, values out, and back
 *
 *   stream_format.h  numbers, names, limits        stream_write.h  values → bytes
 *   stream_rules.h   every rule, by name           stream_read.h   bytes → events, incrementally
 *
 * Pure C without I/O, globals or allocation. libreplicad-stream(3), replicad-stream(7).
 */
#ifndef REPLICAD_STREAM_H
#define REPLICAD_STREAM_H

#include <replicad/stream_format.h>
#include <replicad/stream_read.h>
#include <replicad/stream_rules.h>
#include <replicad/stream_write.h>

#endif
