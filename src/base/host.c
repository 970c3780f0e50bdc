#include <replicad/host.h>

#include <stddef.h>
#include <string.h>

#include <replicad/auto.h>
#include <replicad/io.h>

#define CAPABILITIES "/proc/xen/capabilities"
#define CAPABILITIES_MAX 256

bool rpl_host_controls_xen(void)
{
	RPL_AUTO_FREE char *said = NULL;
	size_t len;

	return rpl_read_file(CAPABILITIES, CAPABILITIES_MAX, &said, &len, NULL) == 0 && strstr(said, "control_d");
}
