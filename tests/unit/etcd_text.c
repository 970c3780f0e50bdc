/* What is said to etcd's gateway and what its answers mean: base64, endpoints, requests, and answers of which each small
 * damage must be an error. No socket; tests/flow/arbiter-etcd speaks to real ones.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include <replicad/auto.h>

#include "failover/arbiter/base64.h"
#include "failover/arbiter/endpoints.h"
#include "failover/arbiter/etcd_text.h"

#define TEXT_MAX 4096

static struct rpl_record sample(uint64_t generation)
{
	struct rpl_record r = { .format = RPL_RECORD_FORMAT, .mode = RPL_MODE_PROTECTED, .generation = generation,
				.owner = "alpha" };

	memset(r.vm.b, 0x11, sizeof(r.vm.b));
	memset(r.session.b, 0x22, sizeof(r.session.b));
	memset(r.nonce.b, 0x33, sizeof(r.nonce.b));
	return r;
}

static void key_of(char key[RPL_ETCD_KEY_MAX])
{
	struct rpl_uuid vm = sample(1).vm;

	rpl_etcd_key("test", &vm, key);
}

/* ---- base64 */

static void base64_is_rfc_4648(void **state)
{
	static const char *const row[][2] = {
		{ "", "" }, { "f", "Zg==" }, { "fo", "Zm8=" }, { "foo", "Zm9v" }, { "foob", "Zm9vYg==" },
		{ "fooba", "Zm9vYmE=" }, { "foobar", "Zm9vYmFy" }, { "\xff\xef\xbe", "/+++" },
	};
	static const char *const bad[] = { "Z", "Zg", "Zg=", "Zh==", "Zm9=", "Z===", "====", "Zg==Zg==", "Zm 9", "Zm9\n", "Zm9-" };
	char text[32], back[32];

	(void)state;
	for (size_t i = 0; i < RPL_ARRAY_LEN(row); i++) {
		size_t len = strlen(row[i][0]);

		rpl_base64_encode(row[i][0], len, text);
		assert_string_equal(text, row[i][1]);
		assert_true(strlen(text) < RPL_BASE64_TEXT(len));
		assert_int_equal(rpl_base64_decode(text, strlen(text), back, len), len);
		assert_memory_equal(back, row[i][0], len);
		if (len)
			assert_int_equal(rpl_base64_decode(text, strlen(text), back, len - 1), -EMSGSIZE);
	}
	for (size_t i = 0; i < RPL_ARRAY_LEN(bad); i++)
		if (rpl_base64_decode(bad[i], strlen(bad[i]), back, sizeof(back)) != -EBADMSG)
			fail_msg("'%s' was taken", bad[i]);
}

static void every_byte_survives_base64(void **state)
{
	uint8_t data[256], back[256];
	char text[RPL_BASE64_TEXT(sizeof(data))];

	(void)state;
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 37 + 11);
	for (size_t len = 0; len <= sizeof(data); len++) {
		rpl_base64_encode(data, len, text);
		assert_int_equal(rpl_base64_decode(text, strlen(text), back, sizeof(back)), len);
		assert_memory_equal(data, back, len);
	}
}

/* ---- endpoints */

static void endpoints_are_a_list(void **state)
{
	struct rpl_endpoints e;
	struct rpl_err err = { 0 };

	(void)state;
	assert_int_equal(rpl_endpoints_parse("https://etcd1:2379/, https://[fd00::1]:2379,http://127.0.0.1:1", false, &e, &err), 0);
	assert_int_equal(e.n, 3);
	assert_string_equal(e.url[0], "https://etcd1:2379");
	assert_string_equal(e.url[1], "https://[fd00::1]:2379");
	assert_string_equal(e.url[2], "http://127.0.0.1:1");
	assert_int_equal(rpl_endpoints_parse("http://10.0.0.1:2379", true, &e, &err), 0);
	assert_int_equal(rpl_endpoints_parse("http://localhost:2379 http://[::1]:2379", false, &e, &err), 0);
}

static void wrong_endpoints_are_named(void **state)
{
	static const char *const row[][2] = {
		{ "", "no endpoint" }, { " , ", "no endpoint" }, { "etcd1:2379", "etcd1" }, { "ftp://a", "ftp" },
		{ "https://", "https://" }, { "https://a/b", "a/b" }, { "https://user@a", "user@a" }, { "https://a?x", "a?x" },
		{ "http://10.0.0.1:2379", "in clear" }, { "http://127.0.0.1.example.org", "in clear" },
		{ "http://localhost.example.org", "in clear" },
		{ "https://a,https://b,https://c,https://d,https://e,https://f,https://g,https://h,https://i", "more than 8" },
		{ "https://aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
		  "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "at most 127" },
	};

	(void)state;
	for (size_t i = 0; i < RPL_ARRAY_LEN(row); i++) {
		struct rpl_endpoints e;
		struct rpl_err err = { 0 };

		assert_int_equal(rpl_endpoints_parse(row[i][0], false, &e, &err), -EINVAL);
		if (!strstr(err.msg, row[i][1]))
			fail_msg("'%s': %s", row[i][0], err.msg);
	}
}

/* ---- requests */

static const char *base64_of(const char *text, char *ret)
{
	rpl_base64_encode(text, strlen(text), ret);
	return ret;
}

static void a_read_names_the_key_and_nothing_else(void **state)
{
	char key[RPL_ETCD_KEY_MAX], request[RPL_ETCD_REQUEST_MAX];

	(void)state;
	key_of(key);
	assert_string_equal(key, "replicad/test/11111111-1111-1111-1111-111111111111");
	assert_true(rpl_etcd_write_range(key, request, NULL) > 0);
	assert_string_equal(request, "{\"key\":\"cmVwbGljYWQvdGVzdC8xMTExMTExMS0xMTExLTExMTEtMTExMS0xMTExMTExMTExMTE=\"}");
	assert_null(strstr(request, "serializable"));
}

static const char *compared(const json_t *o, size_t i, const char *field)
{
	return json_string_value(json_object_get(json_array_get(json_object_get(o, "compare"), i), field));
}

/* The revision that was read and the very text, or revision 0 alone. */
static void a_claim_compares_revision_and_value(void **state)
{
	struct rpl_etcd_value was = { .present = true, .mod_revision = INT64_MAX, .text = "what was there\n" }, none = { 0 };
	char key[RPL_ETCD_KEY_MAX], request[RPL_ETCD_REQUEST_MAX], b64[RPL_BASE64_TEXT(RPL_RECORD_TEXT_MAX)];
	struct rpl_record want = sample(7);
	json_t *o;
	int n;

	(void)state;
	key_of(key);
	n = rpl_etcd_write_txn(key, &was, &want, request, NULL);
	assert_int_equal(n, strlen(request));
	o = json_loads(request, JSON_REJECT_DUPLICATES, NULL);
	assert_int_equal(json_array_size(json_object_get(o, "compare")), 2);
	assert_string_equal(compared(o, 0, "target"), "MOD");
	assert_string_equal(compared(o, 0, "mod_revision"), "9223372036854775807");
	assert_string_equal(compared(o, 1, "target"), "VALUE");
	assert_string_equal(compared(o, 1, "value"), base64_of(was.text, b64));
	json_decref(o);
	assert_true(rpl_etcd_write_txn(key, &none, &want, request, NULL) > 0);
	o = json_loads(request, JSON_REJECT_DUPLICATES, NULL);
	assert_int_equal(json_array_size(json_object_get(o, "compare")), 1);
	assert_string_equal(compared(o, 0, "mod_revision"), "0");
	json_decref(o);
	memset(was.text, '\\', sizeof(was.text) - 1); /* the longest there can be */
	assert_true(rpl_etcd_write_txn(key, &was, &want, request, NULL) > 0);
	want.generation = 0;
	assert_int_equal(rpl_etcd_write_txn(key, &was, &want, request, NULL), -EINVAL);
}

/* ---- answers */

#define HEADER "\"header\":{\"cluster_id\":\"15875391935852295136\",\"member_id\":\"1\",\"revision\":\"9\",\"raft_term\":\"2\"}"

/* One key-value pair with these fields; `more` may add others. */
static const char *kv(const struct rpl_record *r, const char *revision, const char *more, char *ret)
{
	char key[RPL_ETCD_KEY_MAX], k[RPL_BASE64_TEXT(RPL_ETCD_KEY_MAX)], v[RPL_BASE64_TEXT(RPL_RECORD_TEXT_MAX)];
	char text[RPL_RECORD_TEXT_MAX];

	key_of(key);
	assert_true(rpl_record_encode(r, text, NULL) > 0);
	(void)snprintf(ret, TEXT_MAX, "{\"key\":\"%s\",\"create_revision\":\"2\",\"mod_revision\":\"%s\",\"version\":\"1\",\"value\":\"%s\"%s}",
		       base64_of(key, k), revision, base64_of(text, v), more);
	return ret;
}

static int read_range(const char *text, struct rpl_etcd_answer *a, struct rpl_err *err)
{
	struct rpl_uuid vm = sample(1).vm;
	char key[RPL_ETCD_KEY_MAX];

	key_of(key);
	return rpl_etcd_read_range(text, strlen(text), key, &vm, a, err);
}

static int read_txn(const char *text, struct rpl_etcd_answer *a, struct rpl_err *err)
{
	struct rpl_record want = sample(8);
	char key[RPL_ETCD_KEY_MAX];

	key_of(key);
	return rpl_etcd_read_txn(text, strlen(text), key, &want, a, err);
}

static void whole_answers_are_understood(void **state)
{
	struct rpl_record r = sample(7), want = sample(8);
	char pair[TEXT_MAX], text[2 * TEXT_MAX];
	struct rpl_etcd_answer a;
	struct rpl_err err = { 0 };

	(void)state;
	assert_int_equal(read_range("{" HEADER "}", &a, &err), 0);
	assert_false(a.now.present);
	assert_true(a.cluster_id == 15875391935852295136u);
	(void)snprintf(text, sizeof(text), "{" HEADER ",\"kvs\":[%s],\"count\":\"1\"}", kv(&r, "9", "", pair));
	assert_int_equal(read_range(text, &a, &err), 0);
	assert_true(a.now.present);
	assert_int_equal(a.now.mod_revision, 9);
	assert_true(rpl_record_equal(&a.now.record, &r));
	assert_int_equal(read_txn("{" HEADER ",\"succeeded\":true,\"responses\":[{\"response_put\":{\"header\":{\"revision\":\"9\"}}}]}", &a, &err), 0);
	assert_true(a.swapped);
	assert_int_equal(a.now.mod_revision, 9);
	assert_true(rpl_record_equal(&a.now.record, &want));
	(void)snprintf(text, sizeof(text), "{" HEADER ",\"responses\":[{\"response_range\":{\"header\":{\"revision\":\"9\"},\"kvs\":[%s],\"count\":\"1\"}}]}",
		       kv(&r, "3", "", pair));
	assert_int_equal(read_txn(text, &a, &err), 0);
	assert_false(a.swapped);
	assert_int_equal(a.now.mod_revision, 3);
	assert_true(rpl_record_equal(&a.now.record, &r));
	assert_int_equal(read_txn("{" HEADER ",\"responses\":[{\"response_range\":{\"header\":{\"revision\":\"9\"}}}]}", &a, &err), 0);
	assert_false(a.swapped);
	assert_false(a.now.present);
}

static void half_answers_are_errors(void **state)
{
	static const char *const range[] = {
		"", "{", "[]", "null", "{}", "{\"header\":{}}", "{\"header\":7}", "<html>404</html>",
		"{\"header\":{\"cluster_id\":15,\"revision\":\"9\"}}", "{\"header\":{\"cluster_id\":\"0\",\"revision\":\"9\"}}",
		"{\"header\":{\"cluster_id\":\"-1\",\"revision\":\"9\"}}", "{\"header\":{\"cluster_id\":\"1x\",\"revision\":\"9\"}}",
		"{\"header\":{\"cluster_id\":\"99999999999999999999\",\"revision\":\"9\"}}",
		"{\"header\":{\"cluster_id\":\"1\",\"revision\":\"9223372036854775808\"}}",
		"{" HEADER ",\"kvs\":{}}", "{" HEADER ",\"kvs\":[{}]}", "{" HEADER ",\"kvs\":[7]}", "{" HEADER ",\"count\":\"1\"}",
		"{" HEADER ",\"more\":true}", "{" HEADER "," HEADER "}",
	};
	static const char *const txn[] = {
		"{" HEADER "}", "{" HEADER ",\"succeeded\":true}", "{" HEADER ",\"succeeded\":true,\"responses\":[]}",
		"{" HEADER ",\"succeeded\":true,\"responses\":[{}]}", "{" HEADER ",\"responses\":[{}]}",
		"{" HEADER ",\"succeeded\":\"true\",\"responses\":[{\"response_put\":{}}]}",
		"{" HEADER ",\"succeeded\":true,\"responses\":[{\"response_put\":{}},{}]}",
		"{" HEADER ",\"responses\":[{\"response_put\":{}}]}",
		"{\"succeeded\":true,\"responses\":[{\"response_put\":{}}]}",
	};
	struct rpl_etcd_answer a;

	(void)state;
	for (size_t i = 0; i < RPL_ARRAY_LEN(range); i++) {
		struct rpl_err err = { 0 };

		if (read_range(range[i], &a, &err) != -EBADMSG || !err.msg[0])
			fail_msg("'%s' was taken: %s", range[i], err.msg);
		assert_int_equal(read_txn(range[i], &a, &err), -EBADMSG);
	}
	for (size_t i = 0; i < RPL_ARRAY_LEN(txn); i++) {
		struct rpl_err err = { 0 };

		if (read_txn(txn[i], &a, &err) != -EBADMSG || !err.msg[0])
			fail_msg("'%s' was taken: %s", txn[i], err.msg);
	}
}

/* Cut anywhere, a whole answer is none. */
static void a_truncated_answer_is_an_error(void **state)
{
	struct rpl_record r = sample(7), want = sample(8);
	char pair[TEXT_MAX], text[2 * TEXT_MAX], key[RPL_ETCD_KEY_MAX];
	struct rpl_etcd_answer a;
	int len;

	(void)state;
	key_of(key);
	len = snprintf(text, sizeof(text), "{" HEADER ",\"responses\":[{\"response_range\":{\"kvs\":[%s],\"count\":\"1\"}}]}",
		       kv(&r, "3", "", pair));
	assert_int_equal(rpl_etcd_read_txn(text, (size_t)len, key, &want, &a, NULL), 0);
	while (--len >= 0)
		assert_int_equal(rpl_etcd_read_txn(text, (size_t)len, key, &want, &a, NULL), -EBADMSG);
}

#define RANGE_OF(pair) (snprintf(text, sizeof(text), "{" HEADER ",\"kvs\":[%s],\"count\":\"1\"}", pair), text)

static void what_is_stored_must_be_a_record_of_ours(void **state)
{
	struct rpl_record r = sample(7), other = sample(7);
	char pair[TEXT_MAX], text[2 * TEXT_MAX], *p;
	struct rpl_etcd_answer a;
	struct rpl_err err = { 0 };

	(void)state;
	assert_int_equal(read_range(RANGE_OF(kv(&r, "10", "", pair)), &a, &err), -EBADMSG); /* later than the answer */
	assert_int_equal(read_range(RANGE_OF(kv(&r, "9", ",\"lease\":\"77\"", pair)), &a, &err), -EBADMSG);
	assert_non_null(strstr(err.msg, "lease"));
	other.vm.b[0] ^= 1;
	assert_int_equal(read_range(RANGE_OF(kv(&other, "9", "", pair)), &a, &err), -EBADMSG);
	assert_non_null(strstr(err.msg, "10111111"));
	(void)kv(&r, "9", "", pair);
	p = strstr(pair, "\"key\":\"cmVw") + 7;
	p[0] = 'd';
	assert_int_equal(read_range(RANGE_OF(pair), &a, &err), -EBADMSG);
	assert_non_null(strstr(err.msg, "another key"));
	(void)kv(&r, "9", "", pair);
	p = strstr(pair, "\"value\":\"") + 9;
	memcpy(p, "eyJmb3JtYXQiOjJ9\"}", 19); /* {"format":2} */
	assert_int_equal(read_range(RANGE_OF(pair), &a, &err), -EPROTONOSUPPORT);
	assert_non_null(strstr(err.msg, "upgrade this host"));
	memset(p, 'A', 2048);
	memcpy(p + 2048, "\"}", 3);
	assert_int_equal(read_range(RANGE_OF(pair), &a, &err), -EBADMSG);
	assert_non_null(strstr(err.msg, "at most 1023"));
	memcpy(p, "\"}", 3); /* an empty value */
	assert_int_equal(read_range(RANGE_OF(pair), &a, &err), -EBADMSG);
}

static void a_refusal_says_what_etcd_said(void **state)
{
	static const char space[] = "{\"error\":\"etcdserver: mvcc: database space exceeded\",\"code\":8,\"message\":\"etcdserver: mvcc: database space exceeded\"}";
	struct rpl_err err = { 0 };
	char noise[300];

	(void)state;
	assert_int_equal(rpl_etcd_read_refusal(429, space, strlen(space), &err), -EREMOTEIO);
	assert_non_null(strstr(err.msg, "429"));
	assert_non_null(strstr(err.msg, "database space exceeded"));
	assert_non_null(strstr(err.msg, "alarm disarm"));
	assert_true(rpl_etcd_read_refusal(404, "Not Found\n", 10, &err) < 0);
	assert_non_null(strstr(err.msg, "Not Found."));
	memset(noise, 0x1b, sizeof(noise));
	assert_true(rpl_etcd_read_refusal(200, noise, sizeof(noise), &err) < 0);
	assert_null(strchr(err.msg, 0x1b));
	assert_true(rpl_etcd_read_refusal(500, "", 0, &err) < 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(base64_is_rfc_4648),
		cmocka_unit_test(every_byte_survives_base64),
		cmocka_unit_test(endpoints_are_a_list),
		cmocka_unit_test(wrong_endpoints_are_named),
		cmocka_unit_test(a_read_names_the_key_and_nothing_else),
		cmocka_unit_test(a_claim_compares_revision_and_value),
		cmocka_unit_test(whole_answers_are_understood),
		cmocka_unit_test(half_answers_are_errors),
		cmocka_unit_test(a_truncated_answer_is_an_error),
		cmocka_unit_test(what_is_stored_must_be_a_record_of_ours),
		cmocka_unit_test(a_refusal_says_what_etcd_said),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
