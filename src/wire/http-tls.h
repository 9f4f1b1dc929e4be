/* SPDX-License-Identifier: Apache-2.0 */
/* wire/http-tls.h - TLS as all of mete speaks it: version 1.3, both sides with a certificate of one
 * authority. */
#pragma once
#include <gnutls/gnutls.h>
#include "base/err.h"
#include "wire/cert.h"

#define HTTP_TLS_PRIORITIES "NORMAL:-VERS-ALL:+VERS-TLS1.3"

/* Who is at the other end of a connection. */
struct http_caller {
        struct cert_id id; /* role 0: nobody that is known here, and why says so */
        char why[160];
};

/* Of a session whose handshake is over. The certificate is looked at as that of a client. */
void http_caller_read(gnutls_session_t session, struct http_caller *ret);
/* false: its time is over by now, and *c says so. */
bool http_caller_is_known(struct http_caller *c, int64_t now_ms);
