/* The text of key files: what is understood, and that every refusal names the line and never the key. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <replicad/auto.h>
#include <replicad/keys.h>
#include <replicad/link.h>

#define K16 "000102030405060708090a0b0c0d0e0f"
#define K32 K16 "F0E1d2c3b4a5968778695a4b3c2d1e0f"

static struct rpl_keys *parsed(const char *text)
{
	struct rpl_keys *k = NULL;
	struct rpl_err err = { 0 };

	if (rpl_keys_parse(text, strlen(text), &k, &err) < 0)
		fail_msg("%s: %s", text, err.msg);
	return k;
}

static void lines_become_keys(void **state)
{
	static const uint8_t want[4] = { 0xf0, 0xe1, 0xd2, 0xc3 };
	struct rpl_keys *k = parsed("\nalpha:" K16 "\n\nbeta.example-1_x:" K32);
	const uint8_t *key;
	size_t len;

	(void)state;
	assert_int_equal(rpl_keys_count(k), 2);
	assert_true(rpl_keys_find(k, "alpha", &key, &len));
	assert_int_equal(len, 16);
	for (size_t i = 0; i < 16; i++)
		assert_int_equal(key[i], i);
	assert_true(rpl_keys_find(k, "beta.example-1_x", &key, &len));
	assert_int_equal(len, 32);
	assert_memory_equal(key + 16, want, 4);
	assert_false(rpl_keys_find(k, "alph", &key, &len));
	assert_false(rpl_keys_find(k, "alphaa", &key, &len));
	assert_false(rpl_keys_find(k, "", &key, &len));
	rpl_keys_free(k);
	rpl_keys_free(NULL);
}

static void bad_lines_are_refused_by_number(void **state)
{
	static const struct {
		const char *text;
		int code;
		const char *says;
	} bad[] = {
		{ "", -EINVAL, "no key" },
		{ "\n\n", -EINVAL, "no key" },
		{ "alpha:" K16 "\nbeta\n", -EINVAL, "line 2" },
		{ "alpha " K16 "\n", -EINVAL, "line 1: no colon" },
		{ ":" K16, -EINVAL, "line 1: the name" },
		{ "#616c:" K16, -EINVAL, "line 1: the name" },
		{ "a,b:" K16, -EINVAL, "line 1: the name" },
		{ "a b:" K16, -EINVAL, "line 1: the name" },
		{ "\x7f:" K16, -EINVAL, "line 1: the name" },
		{ "a:" K16 "0", -EINVAL, "33 characters" },
		{ "a:0011", -EINVAL, "4 characters" },
		{ "a:" K32 K32 "00", -EINVAL, "130 characters" },
		{ "a:" K16 "\r\n", -EINVAL, "33 characters" },
		{ "\na:g00102030405060708090a0b0c0d0e0f", -EINVAL, "line 2: character 1 of" },
		{ "a:000102030405060708090a0b0c0d0e0g", -EINVAL, "character 32 of" },
		{ "a:" K16 "\nb:" K16 "\na:" K32, -EEXIST, "line 3: a has a key already" },
	};
	(void)state;
	for (size_t i = 0; i < RPL_ARRAY_LEN(bad); i++) {
		struct rpl_keys *k = NULL;
		struct rpl_err err = { 0 };

		assert_int_equal(rpl_keys_parse(bad[i].text, strlen(bad[i].text), &k, &err), bad[i].code);
		assert_null(k);
		if (!strstr(err.msg, bad[i].says))
			fail_msg("\"%s\" lacks \"%s\"", err.msg, bad[i].says);
		assert_null(strstr(err.msg, "0001020304"));
	}
}

static void a_final_zero_byte_is_no_hexadecimal_digit(void **state)
{
	struct rpl_keys *k = NULL;
	struct rpl_err err = { 0 };
	char text[] = "a:" K16;

	(void)state;
	text[10] = 0;
	assert_int_equal(rpl_keys_parse(text, sizeof(text) - 1, &k, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "character 9"));
}

static void limits_hold(void **state)
{
	RPL_AUTO_FREE char *text = malloc(RPL_KEYS_TEXT_MAX + 2);
	struct rpl_keys *k = NULL;
	struct rpl_err err = { 0 };
	size_t len = 0;

	(void)state;
	for (int i = 0; i < RPL_KEYS_MAX; i++)
		len += (size_t)sprintf(text + len, "n%d:" K16 "\n", i);
	assert_int_equal(rpl_keys_parse(text, len, &k, &err), 0);
	assert_int_equal(rpl_keys_count(k), RPL_KEYS_MAX);
	rpl_keys_free(k);
	len += (size_t)sprintf(text + len, "one-more:" K16 "\n");
	assert_int_equal(rpl_keys_parse(text, len, &k, &err), -E2BIG);
	assert_non_null(strstr(err.msg, "line 257"));

	memset(text, '\n', RPL_KEYS_TEXT_MAX + 1);
	assert_int_equal(rpl_keys_parse(text, RPL_KEYS_TEXT_MAX + 1, &k, &err), -E2BIG);
	assert_int_equal(rpl_keys_parse(text, RPL_KEYS_TEXT_MAX, &k, &err), -EINVAL);

	memset(text, 'n', RPL_IDENTITY_MAX);
	strcpy(text + RPL_IDENTITY_MAX, ":" K16);
	assert_int_equal(rpl_keys_parse(text, strlen(text), &k, &err), -EINVAL);
	assert_int_equal(rpl_keys_parse(text + 1, strlen(text) - 1, &k, &err), 0);
	rpl_keys_free(k);
}

static void lists_of_identities(void **state)
{
	(void)state;
	assert_true(rpl_identity_listed("alpha", "alpha"));
	assert_true(rpl_identity_listed(" beta , alpha ", "alpha"));
	assert_true(rpl_identity_listed("beta,alpha", "beta"));
	assert_false(rpl_identity_listed("beta,alpha", "alph"));
	assert_false(rpl_identity_listed("beta,alpha", "alphaa"));
	assert_false(rpl_identity_listed("beta,alpha", ""));
	assert_false(rpl_identity_listed("beta,alpha", "beta,alpha"));
	assert_false(rpl_identity_listed("", "beta"));
	assert_false(rpl_identity_listed(",,", ""));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lines_become_keys),
		cmocka_unit_test(bad_lines_are_refused_by_number),
		cmocka_unit_test(a_final_zero_byte_is_no_hexadecimal_digit),
		cmocka_unit_test(limits_hold),
		cmocka_unit_test(lists_of_identities),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
