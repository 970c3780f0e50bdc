/* pki.c - see pki.h */
#include "pki.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <gnutls/gnutls.h>
#include <gnutls/x509.h>

#include <replicad/err.h>

#define ENTITIES_MAX 16
#define DAY 86400

struct entity {
	char name[32];
	gnutls_x509_privkey_t key;
	gnutls_x509_crt_t crt;
	char *cert_pem, *key_pem;
};

static struct entity entities[ENTITIES_MAX];
static unsigned n_entities;

static void must(int g)
{
	rpl_assert(g >= 0);
}

static char *text_of(gnutls_datum_t d)
{
	char *text = strndup((const char *)d.data, d.size);

	rpl_assert(text);
	gnutls_free(d.data);
	return text;
}

static void add_dns_name(struct entity *e, const char *name)
{
	must(gnutls_x509_crt_set_subject_alt_name(e->crt, GNUTLS_SAN_DNSNAME, name, (unsigned)strlen(name), GNUTLS_FSAN_APPEND));
}

static void set_names_and_uses(struct entity *e)
{
	if (strcmp(e->name, "two-names") == 0) {
		add_dns_name(e, "first");
		add_dns_name(e, "second");
	} else if (strcmp(e->name, "cn-only") != 0) {
		add_dns_name(e, e->name);
	}
	if (strcmp(e->name, "cn-only") != 0)
		must(gnutls_x509_crt_set_key_purpose_oid(e->crt, GNUTLS_KP_TLS_WWW_SERVER, 0));
	if (strcmp(e->name, "server-only") != 0)
		must(gnutls_x509_crt_set_key_purpose_oid(e->crt, GNUTLS_KP_TLS_WWW_CLIENT, 0));
}

static struct entity *make(const char *name, struct entity *issuer)
{
	struct entity *e = &entities[n_entities++];
	time_t now = time(NULL);
	unsigned char serial = (unsigned char)n_entities;
	gnutls_datum_t d;
	int old = strcmp(name, "expired") == 0;

	rpl_assert(n_entities <= ENTITIES_MAX && strlen(name) < sizeof(e->name));
	strcpy(e->name, name);
	must(gnutls_x509_privkey_init(&e->key));
	must(gnutls_x509_privkey_generate(e->key, GNUTLS_PK_ECDSA, GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0));
	must(gnutls_x509_crt_init(&e->crt));
	must(gnutls_x509_crt_set_version(e->crt, 3));
	must(gnutls_x509_crt_set_serial(e->crt, &serial, 1));
	must(gnutls_x509_crt_set_activation_time(e->crt, now - 3 * DAY));
	must(gnutls_x509_crt_set_expiration_time(e->crt, old ? now - DAY : now + DAY));
	must(gnutls_x509_crt_set_dn_by_oid(e->crt, GNUTLS_OID_X520_COMMON_NAME, 0, name, (unsigned)strlen(name)));
	must(gnutls_x509_crt_set_key(e->crt, e->key));
	must(gnutls_x509_crt_set_basic_constraints(e->crt, issuer == NULL, -1));
	if (issuer)
		set_names_and_uses(e);
	else
		must(gnutls_x509_crt_set_key_usage(e->crt, GNUTLS_KEY_KEY_CERT_SIGN));
	must(gnutls_x509_crt_sign2(e->crt, issuer ? issuer->crt : e->crt, issuer ? issuer->key : e->key, GNUTLS_DIG_SHA256,
				   0));
	must(gnutls_x509_crt_export2(e->crt, GNUTLS_X509_FMT_PEM, &d));
	e->cert_pem = text_of(d);
	must(gnutls_x509_privkey_export2(e->key, GNUTLS_X509_FMT_PEM, &d));
	e->key_pem = text_of(d);
	return e;
}

static struct entity *find(const char *name)
{
	for (unsigned i = 0; i < n_entities; i++)
		if (strcmp(entities[i].name, name) == 0)
			return &entities[i];
	return NULL;
}

static struct entity *get(const char *name)
{
	const char *issuer = strcmp(name, "stranger") == 0 ? "other-ca" : "ca";
	struct entity *e = find(name), *ca;

	if (e)
		return e;
	if (strcmp(name, "ca") == 0 || strcmp(name, "other-ca") == 0)
		return make(name, NULL);
	ca = get(issuer);
	return make(name, ca);
}

const char *pki_ca(void)
{
	return get("ca")->cert_pem;
}

const char *pki_cert(const char *name)
{
	return get(name)->cert_pem;
}

const char *pki_key(const char *name)
{
	return get(name)->key_pem;
}

void pki_free(void)
{
	for (unsigned i = 0; i < n_entities; i++) {
		gnutls_x509_crt_deinit(entities[i].crt);
		gnutls_x509_privkey_deinit(entities[i].key);
		free(entities[i].cert_pem);
		free(entities[i].key_pem);
	}
	n_entities = 0;
}
