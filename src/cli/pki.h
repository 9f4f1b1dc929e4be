/* SPDX-License-Identifier: Apache-2.0 */
/* cli/pki.h - an authority in a directory, and what it signs: ca.key, ca.crt, NAME.key and NAME.crt for each
 * member, and peers.conf with the pins of its hypervisors. Keys and certificates are made for the files
 * alone; no daemon ever sees the authority's key. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include "base/err.h"
#include "wire/cert.h"

enum { PKI_MEMBERS_MAX = 64, PKI_DAYS = 365, PKI_DAYS_MAX = 36500, PKI_AUTHORITY_DAYS = 3650 };

struct pki_member {
        enum cert_role role;
        char name[CERT_NAME];
        char address[160]; /* of a hypervisor, as peers.conf has it; "" where it is not known yet */
};

/* "NAME" or, of a hypervisor, "NAME=ADDRESS[:PORT]". */
int pki_member_parse(enum cert_role role, const char *text, struct pki_member *ret, struct err *err);

/* Makes dir where it is not there, an authority in it, and the members. Nothing is overwritten: where one of
 * the files is there, or a name comes twice, -EEXIST, and nothing was made. */
int pki_init(const char *dir, const struct pki_member *members, size_t n, int days, struct err *err);
/* A new certificate for the key of `name` in dir, in the place of the old one: the same role, address and
 * pin, so that peers.conf stays as it is. */
int pki_renew(const char *dir, const char *name, int days, struct err *err);
/* More members for the authority in dir. */
int pki_add(const char *dir, const struct pki_member *members, size_t n, int days, struct err *err);
