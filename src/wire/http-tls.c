/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/http-tls.h"

#include <gnutls/x509.h>
#include <stdbool.h>
#include <stdio.h>

static const char *problem(unsigned status)
{
        if (status & GNUTLS_CERT_SIGNER_NOT_FOUND)
                return "the certificate is not of the authority of this host";
        if (status & GNUTLS_CERT_EXPIRED)
                return "the certificate has expired";
        if (status & GNUTLS_CERT_NOT_ACTIVATED)
                return "the certificate is not valid yet: look at the clocks";
        if (status & GNUTLS_CERT_PURPOSE_MISMATCH)
                return "the certificate is not one for clients";
        return "the certificate is not good";
}

static void nobody(struct http_caller *c, const char *why)
{
        *c = (struct http_caller){0};
        (void)snprintf(c->why, sizeof(c->why), "%s", why);
}

void http_caller_read(gnutls_session_t session, struct http_caller *ret)
{
        gnutls_typed_vdata_st purpose = {GNUTLS_DT_KEY_PURPOSE_OID,
                                         (unsigned char *)(uintptr_t)GNUTLS_KP_TLS_WWW_CLIENT, 0};
        unsigned n = 0, status = 0;
        struct err err = {0};
        const gnutls_datum_t *chain = gnutls_certificate_get_peers(session, &n);
        if (!chain || n == 0)
                nobody(ret, "a certificate is needed, and none was shown");
        else if (gnutls_certificate_verify_peers(session, &purpose, 1, &status) < 0 || status != 0)
                nobody(ret, problem(status));
        else if (cert_read_der(chain[0].data, chain[0].size, &ret->id, &err))
                nobody(ret, err.sentence);
        else if (!ret->id.role)
                nobody(ret, "the certificate is that of an authority");
        else
                ret->why[0] = '\0';
}

bool http_caller_is_known(struct http_caller *c, int64_t now_ms)
{
        if (c->id.role && now_ms >= c->id.end_ms)
                nobody(c, problem(GNUTLS_CERT_EXPIRED));
        return c->id.role != 0;
}
