/* endpoints.h - the list of addresses in arbiter_location: "https://etcd1:2379,https://10.0.0.3:2379" */
#ifndef RPL_ARBITER_ENDPOINTS_H
#define RPL_ARBITER_ENDPOINTS_H

#include <stdbool.h>

#include <replicad/err.h>

#define RPL_ENDPOINTS_MAX 8
#define RPL_ENDPOINT_MAX 128 /* bytes of one, with the NUL */

struct rpl_endpoints {
	unsigned n;
	char url[RPL_ENDPOINTS_MAX][RPL_ENDPOINT_MAX]; /* without a slash at the end */
};

/* In clear (http) an endpoint must be on the loopback interface, unless `insecure`. 0, or -EINVAL and what is wrong. */
int rpl_endpoints_parse(const char *list, bool insecure, struct rpl_endpoints *ret, struct rpl_err *err);

#endif
