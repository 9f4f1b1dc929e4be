/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/http-curl.h"

#include <errno.h>
#include <gnutls/gnutls.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"

enum { CONNECT_MS = 5000 };

bool http_text_add(struct http_text *t, const char *data, size_t n)
{
        if (n > t->max - t->n)
                return false;
        if (!t->data || t->n + n + 1 > t->room) { /* doubled: 16 MiB come in pieces of 16 KiB */
                size_t room = 2 * (t->n + n + 1);
                char *more = realloc(t->data, room);
                if (!more)
                        return false;
                t->data = more;
                t->room = room;
        }
        memcpy(t->data + t->n, data, n);
        t->n += n;
        t->data[t->n] = '\0';
        return true;
}

void http_text_done(struct http_text *t)
{
        free(t->data);
        *t = (struct http_text){.max = t->max};
}

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void init_curl(void)
{
        (void)curl_global_init(CURL_GLOBAL_SSL);
}

void http_curl_once(void)
{
        (void)pthread_once(&once, init_curl);
}

void http_curl_prepare(CURL *h, const char *url)
{
        curl_easy_setopt(h, CURLOPT_URL, url);
        curl_easy_setopt(h, CURLOPT_PROTOCOLS_STR, "http");
        curl_easy_setopt(h, CURLOPT_HTTP09_ALLOWED, 0L);
        curl_easy_setopt(h, CURLOPT_PATH_AS_IS, 1L);
        curl_easy_setopt(h, CURLOPT_PROXY, ""); /* http_proxy in the environment is not meant for us */
        curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);
        curl_easy_setopt(h, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
}

/* Names in a certificate of ours say nothing about the address at which its owner is to be found, so the host
 * is not looked at; nobody else has the key. No other authority counts, whatever this machine trusts
 * otherwise.
 */
void http_curl_tls(CURL *h, const struct http_target *to)
{
        curl_easy_setopt(h, CURLOPT_PROTOCOLS_STR, "https");
        curl_easy_setopt(h, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_3);
        curl_easy_setopt(h, CURLOPT_SSLCERT, to->files->cert);
        curl_easy_setopt(h, CURLOPT_SSLKEY, to->files->key);
        curl_easy_setopt(h, CURLOPT_CAINFO, to->files->ca);
        curl_easy_setopt(h, CURLOPT_CAPATH, NULL);
        curl_easy_setopt(h, CURLOPT_SSL_VERIFYPEER, 1L);
        curl_easy_setopt(h, CURLOPT_SSL_VERIFYHOST, to->is_named ? 2L : 0L);
        curl_easy_setopt(h, CURLOPT_PINNEDPUBLICKEY, *to->pin ? to->pin : NULL);
        curl_easy_setopt(h, CURLOPT_SSL_SESSIONID_CACHE, 0L);
        curl_easy_setopt(h, CURLOPT_CERTINFO, 1L);
}

/* Why its certificate is not believed; curl's own words are the same for all reasons, and have paths in them.
 */
static const char *disbelief(CURL *h, const char *detail)
{
        const curl_version_info_data *v = curl_version_info(CURLVERSION_NOW);
        long status = 0;
        if (!v->ssl_version || strncmp(v->ssl_version, "GnuTLS", 6) != 0 ||
            curl_easy_getinfo(h, CURLINFO_SSL_VERIFYRESULT, &status) != CURLE_OK)
                return detail;
        if (status & GNUTLS_CERT_SIGNER_NOT_FOUND)
                return "it was not signed by the authority that we have ([listen] ca)";
        if (status & GNUTLS_CERT_EXPIRED)
                return "it has expired there ('mete pki renew')";
        if (status & GNUTLS_CERT_NOT_ACTIVATED)
                return "it is not valid yet; see the clocks of both hosts";
        return detail;
}

int http_curl_failed(CURL *h, CURLcode code, const char *where, const char *detail, struct err *err)
{
        long os = 0;
        (void)curl_easy_getinfo(h, CURLINFO_OS_ERRNO, &os);
        if (!*detail)
                detail = curl_easy_strerror(code);
        if (code == CURLE_OPERATION_TIMEDOUT)
                return err_set(err, REASON_TIMEOUT, ETIMEDOUT, "%s: no answer in time", where);
        if (code == CURLE_COULDNT_CONNECT)
                return err_set(err, os == EACCES ? REASON_DENIED : REASON_PEER_LOST,
                               os ? (int)os : ECONNREFUSED, "cannot connect to %s: %s", where,
                               os == ENOENT || os == ECONNREFUSED ? "nobody listens there"
                               : os                               ? strerror((int)os)
                                                                  : detail);
        if (code == CURLE_COULDNT_RESOLVE_HOST)
                return err_set(err, REASON_PEER_LOST, EHOSTUNREACH, "%s: no such host", where);
        if (code == CURLE_SSL_PINNEDPUBKEYNOTMATCH)
                return err_set(
                        err, REASON_DENIED, EKEYREJECTED,
                        "%s: its certificate is not the pinned one; see 'mete pki show' there and pin= "
                        "in peers.conf",
                        where);
        if (code == CURLE_PEER_FAILED_VERIFICATION)
                return err_set(err, REASON_DENIED, EKEYREJECTED, "%s: its certificate is not believed: %s",
                               where, disbelief(h, detail));
        if (code == CURLE_SSL_CERTPROBLEM || code == CURLE_SSL_CACERT_BADFILE)
                return err_set(err, REASON_INVALID, EINVAL, "%s: our own certificate, key or authority: %s",
                               where, detail);
        if (code == CURLE_SSL_CONNECT_ERROR)
                return err_set(err, REASON_PEER_LOST, EPROTO, "%s: no TLS: %s", where, detail);
        if (code == CURLE_UNSUPPORTED_PROTOCOL || code == CURLE_WEIRD_SERVER_REPLY ||
            code == CURLE_URL_MALFORMAT || code == CURLE_BAD_CONTENT_ENCODING || code == CURLE_HTTP2)
                return err_set(err, REASON_INVALID, EPROTO, "%s: %s", where, curl_easy_strerror(code));
        if (code == CURLE_OUT_OF_MEMORY)
                return err_set(err, REASON_INTERNAL, ENOMEM, "%s: no memory", where);
        if (code == CURLE_PARTIAL_FILE || code == CURLE_GOT_NOTHING || code == CURLE_RECV_ERROR ||
            code == CURLE_SEND_ERROR)
                return err_set(err, REASON_PEER_LOST, os ? (int)os : ECONNRESET,
                               "%s: who listened there has gone", where);
        return err_set(err, REASON_PEER_LOST, os ? (int)os : ECONNRESET, "%s: %s", where, detail);
}

bool http_curl_peer(CURL *h, struct cert_id *ret)
{
        static const char field[] = "Cert:";
        struct curl_certinfo *info = NULL;
        if (curl_easy_getinfo(h, CURLINFO_CERTINFO, &info) != CURLE_OK || !info || info->num_of_certs < 1)
                return false;
        for (const struct curl_slist *l = info->certinfo[0]; l; l = l->next)
                if (strncmp(l->data, field, sizeof(field) - 1) == 0)
                        return cert_read_pem(l->data + sizeof(field) - 1, strlen(l->data) - sizeof(field) + 1,
                                             ret, NULL) == 0;
        return false;
}
