/* SPDX-License-Identifier: Apache-2.0 */
/* wire/http-curl.h - what both HTTP clients ask of libcurl: the one that blocks (http-client.h) and the one
 * in the loop (http-call.h). For these two alone. */
#pragma once
#include <curl/curl.h>
#include <stdbool.h>
#include <stddef.h>
#include "base/err.h"
#include "wire/cert.h"
#include "wire/http-client.h"

/* A text that grows up to max. */
struct http_text {
        char *data;
        size_t n, room, max;
};
bool http_text_add(struct http_text *t, const char *data,
                   size_t n); /* false: no more than max, or no memory */
void http_text_done(struct http_text *t);

void http_curl_once(void);
/* What every request has. */
void http_curl_prepare(CURL *h, const char *url);
/* TLS with our certificate; the other side must have the pinned key. */
void http_curl_tls(CURL *h, const struct http_target *to);
/* Sets *err; `where` says whom we asked, `detail` is curl's own text or "". */
int http_curl_failed(CURL *h, CURLcode code, const char *where, const char *detail, struct err *err);
/* Whom we spoke to; false: the connection was there already, and it is as before. */
bool http_curl_peer(CURL *h, struct cert_id *ret);
