/* pki.h - a certificate authority for tests, made in memory on first use */
#ifndef TESTS_LIB_PKI_H
#define TESTS_LIB_PKI_H

/* PEM texts; they live until pki_free(). `name` becomes common name and DNS name. The certificate of "expired" ended
 * yesterday, that of "stranger" is signed by another authority, that of "server-only" may not be used by a client. "cn-only" has
 * no DNS name and may not be used by a server, as QEMU's documentation makes them; "two-names" has the DNS names "first"
 * and "second"; the name of "no name" is no identity. */
const char *pki_ca(void);
const char *pki_cert(const char *name);
const char *pki_key(const char *name);
void pki_free(void);

#endif
