/* curl_late.h - libcurl, loaded when an arbiter asks for it
 *
 * Linked in, it would cost every call of replicad, also those that never open a connection, three quarters of the time it
 * takes to start: libcurl brings Kerberos, LDAP and SSH along.
 */
#ifndef RPL_ARBITER_CURL_LATE_H
#define RPL_ARBITER_CURL_LATE_H

#include <curl/curl.h>

#include <replicad/err.h>

#undef curl_easy_setopt
#undef curl_easy_getinfo
#undef curl_multi_setopt

#define RPL_CURL_FUNCTIONS(X)                                                                                       \
	X(easy_cleanup) X(easy_getinfo) X(easy_init) X(easy_setopt) X(easy_strerror) X(global_cleanup) X(global_init) \
	X(multi_add_handle) X(multi_assign) X(multi_cleanup) X(multi_info_read) X(multi_init) X(multi_remove_handle)  \
	X(multi_setopt) X(multi_socket_action) X(multi_strerror) X(slist_append) X(slist_free_all)

struct rpl_late_curl {
#define RPL_X(name) __typeof__(curl_##name) *name;
	RPL_CURL_FUNCTIONS(RPL_X)
#undef RPL_X
};

/* Complete after rpl_curl_load() returned 0: once loaded it stays. Else -ENOENT. */
extern struct rpl_late_curl rpl_curl;
int rpl_curl_load(struct rpl_err *err);

#endif
