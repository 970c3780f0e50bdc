#include "curl_late.h"

#include <dlfcn.h>
#include <errno.h>
#include <string.h>

struct rpl_late_curl rpl_curl;

static int find(void *library, const char *name, void *ret, struct rpl_err *err)
{
	void *f = dlsym(library, name);

	if (!f)
		return rpl_fail(err, -ENOENT, "%s has no function %s: install the version replicad was built with",
				RPL_CURL_SONAME, name);
	memcpy(ret, &f, sizeof(f)); /* as POSIX has it: a function's address in a void * */
	return 0;
}

int rpl_curl_load(struct rpl_err *err)
{
	static void *library;
	int r = 0;

	if (library)
		return 0;
	library = dlopen(RPL_CURL_SONAME, RTLD_NOW | RTLD_LOCAL);
	if (!library)
		return rpl_fail(err, -ENOENT, "the arbiter etcd needs libcurl: %s: install it (on Debian, libcurl3-gnutls)",
				dlerror());
#define RPL_X(name) r = r ? r : find(library, "curl_" #name, &rpl_curl.name, err);
	RPL_CURL_FUNCTIONS(RPL_X)
#undef RPL_X
	if (r < 0) {
		(void)dlclose(library);
		library = NULL;
	}
	return r;
}
