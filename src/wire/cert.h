/* SPDX-License-Identifier: Apache-2.0 */
/* wire/cert.h - who a certificate says that somebody is.
 *
 * The one place that says it is a URI among the subject alternative names, "mete:ROLE:NAME"; there is exactly
 * one such URI in a certificate of ours. Common name and the other alternative names mean nothing to mete:
 * they are there for tools that look at them.
 *
 * The pin is the SHA-256 of the public key (SubjectPublicKeyInfo), in the form that curl has for it, so that
 * a certificate that is renewed with the same key stays the same peer. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

enum cert_role { CERT_HYPERVISOR = 1, CERT_MANAGER, CERT_OPERATOR, CERT_ROLE_N };

enum { CERT_NAME = 64, CERT_PIN = 56, CERT_URI = 96, CERT_FILE_MAX = 65536 };

struct cert_id {
        enum cert_role role; /* 0: it is an authority */
        char name[CERT_NAME];
        char pin[CERT_PIN]; /* "sha256//" and base64 */
        int64_t start_ms, end_ms;
};

const char *cert_role_name(enum cert_role role); /* "hypervisor"; "authority" for 0 */

/* The URI of a role and a name; false: that is no name. */
bool cert_uri(enum cert_role role, const char *name, char ret[CERT_URI]);
/* Is this the text of a pin? */
bool cert_is_pin(const char *text);

/* Of the first certificate in n bytes of PEM, or of one in DER. Looks at what it says, not at who signed it,
 * nor at the time. REASON_INVALID: unreadable, or it does not say who it is. */
int cert_read_pem(const void *pem, size_t n, struct cert_id *ret, struct err *err);
int cert_read_der(const void *der, size_t n, struct cert_id *ret, struct err *err);

/* What one side of a connection shows: paths of PEM files. */
struct cert_files {
        char cert[256], key[256], ca[256];
};

/* Looks whether they can be used together: the key is that of the certificate and nobody else's to read, the
 * authority signed the certificate, and it is valid at now_ms (0: whenever that may be). *ret is who we are.
 */
int cert_files_check(const struct cert_files *files, int64_t now_ms, struct cert_id *ret, struct err *err);
/* A file as text, NUL-terminated, *ret_n bytes long; free() it, a key after explicit_bzero(). */
char *cert_file_read(const char *path, size_t *ret_n, struct err *err);
