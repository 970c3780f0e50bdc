/* stream_records.h - a table in a test has every record of the format. Needs cmocka.h. */
#ifndef STREAM_RECORDS_H
#define STREAM_RECORDS_H

#include <stdbool.h>
#include <stdint.h>

#include <replicad/stream.h>

static inline void assert_has_every_record(bool (*has)(enum rpl_stream_layer layer, uint32_t type))
{
#define RPL_X(name, nr, ...) assert_true(has(RPL_LAYER_LIBXC, (uint32_t)(nr)));
	RPL_LIBXC_RECORDS(RPL_X)
#undef RPL_X
#define RPL_X(name, nr, ...) assert_true(has(RPL_LAYER_LIBXL, (uint32_t)(nr)));
	RPL_LIBXL_RECORDS(RPL_X)
#undef RPL_X
}

#endif
