/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/cert.h"

#include <errno.h>
#include <fcntl.h>
#include <gnutls/abstract.h>
#include <gnutls/crypto.h>
#include <gnutls/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/str.h"

static const char prefix[] = "mete:", pin_prefix[] = "sha256//";
enum { SHA256_BYTES = 32, SHA256_BASE64 = 44 };

static const char *const role_names[CERT_ROLE_N] = {"authority", "hypervisor", "manager", "operator"};

const char *cert_role_name(enum cert_role role)
{
        return role_names[role < CERT_ROLE_N ? role : 0];
}

bool cert_uri(enum cert_role role, const char *name, char ret[CERT_URI])
{
        if (!str_is_name(name))
                return false;
        (void)snprintf(ret, CERT_URI, "%s%s:%s", prefix, cert_role_name(role), name);
        return true;
}

bool cert_is_pin(const char *text)
{
        static const char base64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        if (strncmp(text, pin_prefix, sizeof(pin_prefix) - 1) != 0)
                return false;
        text += sizeof(pin_prefix) - 1;
        return strlen(text) == SHA256_BASE64 && strspn(text, base64) == SHA256_BASE64 - 1 &&
               text[SHA256_BASE64 - 1] == '=';
}

static int read_uri(const char *uri, struct cert_id *id, struct err *err)
{
        const char *colon = strchr(uri + sizeof(prefix) - 1, ':');
        size_t n = colon ? (size_t)(colon - uri) - (sizeof(prefix) - 1) : 0;
        for (int role = CERT_HYPERVISOR; colon && role < CERT_ROLE_N; role++)
                if (n == strlen(role_names[role]) &&
                    strncmp(uri + sizeof(prefix) - 1, role_names[role], n) == 0)
                        id->role = (enum cert_role)role;
        if (!id->role || !str_is_name(colon + 1) || !STR_COPY(id->name, colon + 1))
                return err_set(err, REASON_INVALID, EINVAL, "the certificate has no role and name of mete's");
        return 0;
}

/* Exactly one of ours: with two, two readers could take it for two. */
static int read_names(gnutls_x509_crt_t crt, struct cert_id *id, struct err *err)
{
        unsigned found = 0;
        for (unsigned i = 0;; i++) {
                char text[CERT_URI];
                size_t n = sizeof(text) - 1;
                int r = gnutls_x509_crt_get_subject_alt_name(crt, i, text, &n, NULL);
                if (r == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE)
                        break;
                if (r != GNUTLS_SAN_URI || n >= sizeof(text))
                        continue; /* too long is not ours, either */
                text[n] = '\0';
                if (strlen(text) != n || strncmp(text, prefix, sizeof(prefix) - 1) != 0)
                        continue;
                int bad = read_uri(text, id, err);
                if (bad)
                        return bad;
                found++;
        }
        if (found != 1)
                return err_set(err, REASON_INVALID, EINVAL,
                               "the certificate has %s role and name of mete's (a URI %sROLE:NAME)",
                               found ? "more than one" : "no", prefix);
        return 0;
}

static int read_pin(gnutls_x509_crt_t crt, struct cert_id *id, struct err *err)
{
        gnutls_pubkey_t key = NULL;
        gnutls_datum_t der = {0}, text = {0};
        unsigned char digest[SHA256_BYTES];
        gnutls_datum_t hash = {digest, sizeof(digest)};
        int r = gnutls_pubkey_init(&key);
        if (r >= 0)
                r = gnutls_pubkey_import_x509(key, crt, 0);
        if (r >= 0)
                r = gnutls_pubkey_export2(key, GNUTLS_X509_FMT_DER, &der);
        if (r >= 0)
                r = gnutls_hash_fast(GNUTLS_DIG_SHA256, der.data, der.size, digest);
        if (r >= 0)
                r = gnutls_base64_encode2(&hash, &text);
        if (r >= 0)
                (void)snprintf(id->pin, sizeof(id->pin), "%s%.*s", pin_prefix, (int)text.size,
                               (const char *)text.data);
        gnutls_pubkey_deinit(key);
        gnutls_free(der.data);
        gnutls_free(text.data);
        if (r < 0)
                return err_set(err, REASON_INVALID, EINVAL, "the public key of the certificate: %s",
                               gnutls_strerror(r));
        return 0;
}

static int read_crt(gnutls_x509_crt_t crt, struct cert_id *ret, struct err *err)
{
        struct cert_id id = {.start_ms = (int64_t)gnutls_x509_crt_get_activation_time(crt) * 1000,
                             .end_ms = (int64_t)gnutls_x509_crt_get_expiration_time(crt) * 1000};
        unsigned critical;
        bool is_authority = gnutls_x509_crt_get_ca_status(crt, &critical) > 0;
        int bad = is_authority ? 0 : read_names(crt, &id, err);
        if (!bad)
                bad = read_pin(crt, &id, err);
        if (!bad)
                *ret = id;
        return bad;
}

static int read_any(const void *data, size_t n, gnutls_x509_crt_fmt_t format, struct cert_id *ret,
                    struct err *err)
{
        gnutls_x509_crt_t crt = NULL;
        gnutls_datum_t datum = {(unsigned char *)(uintptr_t)data, (unsigned)n};
        int r = gnutls_x509_crt_init(&crt);
        if (r >= 0)
                r = gnutls_x509_crt_import(crt, &datum, format);
        if (r < 0)
                r = err_set(err, REASON_INVALID, EINVAL, "no certificate: %s", gnutls_strerror(r));
        else
                r = read_crt(crt, ret, err);
        gnutls_x509_crt_deinit(crt);
        return r;
}

int cert_read_pem(const void *pem, size_t n, struct cert_id *ret, struct err *err)
{
        return read_any(pem, n, GNUTLS_X509_FMT_PEM, ret, err);
}

int cert_read_der(const void *der, size_t n, struct cert_id *ret, struct err *err)
{
        return read_any(der, n, GNUTLS_X509_FMT_DER, ret, err);
}

static int read_open(int fd, char *text, size_t *ret_n)
{
        size_t n = 0;
        while (n <= CERT_FILE_MAX) {
                ssize_t got = read(fd, text + n, CERT_FILE_MAX + 1 - n);
                if (got < 0 && errno == EINTR)
                        continue;
                if (got < 0)
                        return -errno;
                if (got == 0) {
                        text[n] = '\0';
                        *ret_n = n;
                        return 0;
                }
                n += (size_t)got;
        }
        return -EFBIG;
}

char *cert_file_read(const char *path, size_t *ret_n, struct err *err)
{
        int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        char *text = fd < 0 ? NULL : malloc(CERT_FILE_MAX + 2);
        int bad = fd < 0 ? -errno : text ? read_open(fd, text, ret_n) : -ENOMEM;
        if (fd >= 0)
                (void)close(fd);
        if (!bad)
                return text;
        free(text);
        (void)err_set(err,
                      bad == -ENOENT   ? REASON_NOT_FOUND
                      : bad == -EACCES ? REASON_DENIED
                                       : REASON_INVALID,
                      -bad, "%.150s: %s", path, strerror(-bad));
        return NULL;
}

/* ---- the three files of one side ---- */

struct trio {
        gnutls_x509_crt_t crt, ca;
        gnutls_x509_privkey_t key;
};

static int belong_together(const struct trio *t, const struct cert_files *files, struct err *err)
{
        unsigned char a[64] = {0}, b[64] = {0};
        size_t a_n = sizeof(a), b_n = sizeof(b);
        unsigned status = 0;
        int r = gnutls_x509_crt_get_key_id(t->crt, GNUTLS_KEYID_USE_SHA256, a, &a_n);
        if (r >= 0)
                r = gnutls_x509_privkey_get_key_id(t->key, GNUTLS_KEYID_USE_SHA256, b, &b_n);
        if (r < 0 || a_n != b_n || memcmp(a, b, a_n) != 0)
                return err_set(err, REASON_INVALID, EINVAL, "%.100s is not the key of %.100s", files->key,
                               files->cert);
        r = gnutls_x509_crt_verify(t->crt, &t->ca, 1, GNUTLS_VERIFY_DISABLE_TIME_CHECKS, &status);
        if (r < 0 || status != 0)
                return err_set(err, REASON_INVALID, EINVAL,
                               "%.100s was not signed by the authority of %.100s", files->cert, files->ca);
        return 0;
}

static int key_is_private(const char *path, struct err *err)
{
        struct stat st;
        if (stat(path, &st) == 0 && (st.st_mode & (S_IRWXO | S_IWGRP)) != 0)
                return err_set(err, REASON_INVALID, EPERM,
                               "%.150s: others may read this key or change it; its mode should be 0600",
                               path);
        return 0;
}

static int load(const struct cert_files *files, struct trio *t, struct err *err)
{
        const char *const paths[] = {files->cert, files->key, files->ca};
        int r = 0;
        for (size_t i = 0; i < ARRAY_N(paths) && r >= 0; i++) {
                size_t n;
                char *text = cert_file_read(paths[i], &n, err);
                if (!text)
                        return -(err ? err->code : EIO);
                gnutls_datum_t datum = {(unsigned char *)text, (unsigned)n};
                r = i == 1   ? gnutls_x509_privkey_import(t->key, &datum, GNUTLS_X509_FMT_PEM)
                    : i == 0 ? gnutls_x509_crt_import(t->crt, &datum, GNUTLS_X509_FMT_PEM)
                             : gnutls_x509_crt_import(t->ca, &datum, GNUTLS_X509_FMT_PEM);
                explicit_bzero(text, n);
                free(text);
                if (r < 0)
                        return err_set(err, REASON_INVALID, EINVAL, "%.150s: %s", paths[i],
                                       gnutls_strerror(r));
        }
        return 0;
}

int cert_files_check(const struct cert_files *files, int64_t now_ms, struct cert_id *ret, struct err *err)
{
        struct trio t = {0};
        struct cert_id id = {0};
        int bad = key_is_private(files->key, err);
        if (!bad && (gnutls_x509_crt_init(&t.crt) < 0 || gnutls_x509_crt_init(&t.ca) < 0 ||
                     gnutls_x509_privkey_init(&t.key) < 0))
                bad = err_set(err, REASON_INTERNAL, ENOMEM, "no memory for certificates");
        if (!bad)
                bad = load(files, &t, err);
        if (!bad)
                bad = belong_together(&t, files, err);
        if (!bad && (bad = read_crt(t.crt, &id, err)))
                err_note(err, "%.100s", files->cert);
        if (!bad && now_ms > 0 && (now_ms < id.start_ms || now_ms >= id.end_ms))
                bad = err_set(err, REASON_INVALID, EINVAL, "%.150s: the certificate %s", files->cert,
                              now_ms < id.start_ms ? "is not valid yet" : "has expired");
        if (!bad)
                *ret = id;
        gnutls_x509_crt_deinit(t.crt);
        gnutls_x509_crt_deinit(t.ca);
        gnutls_x509_privkey_deinit(t.key);
        return bad;
}
