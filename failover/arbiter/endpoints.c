#include "endpoints.h"

#include <errno.h>
#include <string.h>

#define SEPARATORS ", \t"

static bool is_loopback(const char *host)
{
	static const char *const local[] = { "127.", "localhost", "[::1]" };

	for (unsigned i = 0; i < sizeof(local) / sizeof(local[0]); i++) {
		size_t len = strlen(local[i]);

		if (strncmp(host, local[i], len) != 0)
			continue;
		/* "127.example.org" and "localhost.example.org" are not here */
		if (i == 0)
			return strspn(host, "0123456789.:") == strlen(host);
		return host[len] == '\0' || host[len] == ':';
	}
	return false;
}

static int check_endpoint(const char *url, bool insecure, struct rpl_err *err)
{
	bool clear = strncmp(url, "http://", 7) == 0;
	const char *host = url + (clear ? 7 : 8);

	if (!clear && strncmp(url, "https://", 8) != 0)
		return rpl_fail(err, -EINVAL, "'%s': want https://HOST:PORT", url);
	if (!*host || strspn(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:[]") != strlen(host))
		return rpl_fail(err, -EINVAL, "'%s': want https://HOST:PORT and nothing more", url);
	if (clear && !insecure && !is_loopback(host))
		return rpl_fail(err, -EINVAL, "'%s' would be asked in clear, and anybody on the way could decide who runs a "
				"VM: use https, or set insecure = yes", url);
	return 0;
}

int rpl_endpoints_parse(const char *list, bool insecure, struct rpl_endpoints *ret, struct rpl_err *err)
{
	struct rpl_endpoints got = { 0 };

	for (const char *p = list + strspn(list, SEPARATORS); *p; p += strspn(p, SEPARATORS)) {
		size_t len = strcspn(p, SEPARATORS), keep = p[len - 1] == '/' ? len - 1 : len;
		int r;

		if (got.n == RPL_ENDPOINTS_MAX)
			return rpl_fail(err, -EINVAL, "'%.100s': more than %d endpoints", list, RPL_ENDPOINTS_MAX);
		if (keep >= RPL_ENDPOINT_MAX)
			return rpl_fail(err, -EINVAL, "'%.40s...': an endpoint of %zu bytes, at most %d", p, keep,
					RPL_ENDPOINT_MAX - 1);
		memcpy(got.url[got.n], p, keep);
		r = check_endpoint(got.url[got.n], insecure, err);
		if (r < 0)
			return r;
		got.n++;
		p += len;
	}
	if (got.n == 0)
		return rpl_fail(err, -EINVAL, "no endpoint: set arbiter_location, such as https://etcd1:2379");
	*ret = got;
	return 0;
}
