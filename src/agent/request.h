/* request.h - a line on the control socket to a request, and how answers are made. Pure. */
#ifndef RPL_REQUEST_H
#define RPL_REQUEST_H

#include <stddef.h>

#include <jansson.h>

#include <replicad/control.h>
#include <replicad/err.h>

/* names of X(control errors), as they stand in replies */
enum rpl_control_error {
#define X(name, status) RPL_CE_##name,
	RPL_CONTROL_ERRORS(X)
#undef X
	RPL_CE_COUNT
};
const char *rpl_control_error_name(enum rpl_control_error e);

/* Read one line (without its newline): an object with "v" and "cmd". Returns it (the caller's reference) and
 * *ret_cmd (in it), or NULL with *ret_code and *err. */
json_t *rpl_request_parse(const char *line, size_t len, const char **ret_cmd, enum rpl_control_error *ret_code,
			  struct rpl_err *err);

/* The string, or `otherwise` if the field is absent; NULL and *err if it is something else. */
const char *rpl_request_string(const json_t *request, const char *field, const char *otherwise, struct rpl_err *err);
/* true or false (absent); -EINVAL if it is something else. */
int rpl_request_bool(const json_t *request, const char *field, struct rpl_err *err);
/* The name of a VM in "vm"; NULL and *err if it is absent or no name. */
const char *rpl_request_vm(const json_t *request, struct rpl_err *err);

/* {"v":1,"ok":true} and {"v":1,"ok":false,"error":{...}}; the caller's reference. */
json_t *rpl_reply_ok(void);
json_t *rpl_reply_error(enum rpl_control_error code, const char *message);

#endif
