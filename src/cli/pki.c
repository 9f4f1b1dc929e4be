/* SPDX-License-Identifier: Apache-2.0 */
/* Certificates: X.509 version 3, keys on P-256, signed with SHA-256. What a certificate may be used for is in
 * its extended key usage, so that an operator's cannot serve as a hypervisor's. */
#include "cli/pki.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <gnutls/crypto.h>
#include <gnutls/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/str.h"
#include "wire/tcp.h"

enum { DAY_S = 86400, HOUR_S = 3600, SERIAL_BYTES = 16, IP_MAX = 16, PATH_SIZE = 4096 };

static const char authority[] = "ca";

/* A key and its certificate. */
struct pair {
        gnutls_x509_privkey_t key;
        gnutls_x509_crt_t crt;
};

static int pair_init(struct pair *p, struct err *err)
{
        if (gnutls_x509_privkey_init(&p->key) < 0 || gnutls_x509_crt_init(&p->crt) < 0)
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory for a certificate");
        return 0;
}

static void pair_done(struct pair *p)
{
        gnutls_x509_privkey_deinit(p->key);
        gnutls_x509_crt_deinit(p->crt);
        *p = (struct pair){0};
}

int pki_member_parse(enum cert_role role, const char *text, struct pki_member *ret, struct err *err)
{
        struct pki_member m = {.role = role};
        struct tcp_address address;
        size_t n = strcspn(text, "=");
        if (n < sizeof(m.name))
                memcpy(m.name, text, n);
        if (!str_is_name(m.name))
                return err_set(
                        err, REASON_INVALID, EINVAL,
                        "\"%.60s\": a name is 1 to 63 of A-Z a-z 0-9 . _ - and begins with none of . -",
                        text);
        if (strcmp(m.name, authority) == 0)
                return err_set(err, REASON_INVALID, EINVAL, "\"%s\" is the authority itself", authority);
        if (text[n] && role != CERT_HYPERVISOR)
                return err_set(err, REASON_INVALID, EINVAL, "%s: only a hypervisor has an address", m.name);
        if (text[n] && (tcp_address_parse(text + n + 1, &address, err) ||
                        !STR_COPY(m.address, tcp_address_text(&address, (char[TCP_TEXT]){0}))))
                return err_note(err, "%s", m.name);
        *ret = m;
        return 0;
}

/* ---- files ---- */

static int path_of(const char *dir, const char *name, const char *end, char ret[PATH_SIZE], struct err *err)
{
        int n = snprintf(ret, PATH_SIZE, "%s/%s%s", dir, name, end);
        if (n < 0 || n >= PATH_SIZE)
                return err_set(err, REASON_INVALID, ENAMETOOLONG, "the path of %s%s is too long", name, end);
        return 0;
}

static int is_free(const char *dir, const char *name, struct err *err)
{
        static const char *const ends[] = {".key", ".crt"};
        char path[PATH_SIZE];
        for (size_t i = 0; i < ARRAY_N(ends); i++) {
                int bad = path_of(dir, name, ends[i], path, err);
                if (bad)
                        return bad;
                if (faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
                        return err_set(err, REASON_INVALID, EEXIST,
                                       "%.200s is there already; nothing was made", path);
        }
        return 0;
}

static int write_all(int fd, const void *data, size_t n)
{
        const char *at = data;
        while (n > 0) {
                ssize_t put = write(fd, at, n);
                if (put < 0 && errno == EINTR)
                        continue;
                if (put < 0)
                        return -errno;
                at += put;
                n -= (size_t)put;
        }
        return 0;
}

static int put_file(const char *path, int flags, const void *data, size_t n, struct err *err)
{
        int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | flags, 0600);
        int bad = fd < 0 ? -errno : write_all(fd, data, n);
        if (!bad && fsync(fd) < 0)
                bad = -errno;
        if (fd >= 0 && close(fd) < 0 && !bad)
                bad = -errno;
        return bad ? err_set(err, REASON_INTERNAL, -bad, "%.200s: %s", path, strerror(-bad)) : 0;
}

static int put_pair(const char *dir, const char *name, const struct pair *p, struct err *err)
{
        char path[PATH_SIZE];
        gnutls_datum_t key = {0}, crt = {0};
        int bad = 0;
        if (gnutls_x509_privkey_export2_pkcs8(p->key, GNUTLS_X509_FMT_PEM, NULL, GNUTLS_PKCS_PLAIN, &key) <
                    0 ||
            gnutls_x509_crt_export2(p->crt, GNUTLS_X509_FMT_PEM, &crt) < 0)
                bad = err_set(err, REASON_INTERNAL, ENOMEM, "cannot write the certificate of %s", name);
        if (!bad && !(bad = path_of(dir, name, ".key", path, err)))
                bad = put_file(path, O_EXCL, key.data, key.size, err);
        if (!bad && !(bad = path_of(dir, name, ".crt", path, err)) &&
            (bad = put_file(path, O_EXCL, crt.data, crt.size, err)) &&
            !path_of(dir, name, ".key", path, NULL))
                (void)unlink(path); /* half a pair is in the way of another try */
        if (key.data)
                explicit_bzero(key.data, key.size);
        gnutls_free(key.data);
        gnutls_free(crt.data);
        return bad;
}

/* What put_pair() wrote: without a line in peers.conf nobody would know it. */
static void take_pair_back(const char *dir, const char *name)
{
        char path[PATH_SIZE];
        if (!path_of(dir, name, ".key", path, NULL))
                (void)unlink(path);
        if (!path_of(dir, name, ".crt", path, NULL))
                (void)unlink(path);
}

/* The other side of a connection is known by its group here. */
static int put_peer(const char *dir, const struct pki_member *m, const struct pair *p, struct err *err)
{
        struct cert_id id;
        gnutls_datum_t der = {0};
        char path[PATH_SIZE], text[512];
        int bad = path_of(dir, "peers", ".conf", path, err);
        if (bad)
                return bad;
        if (gnutls_x509_crt_export2(p->crt, GNUTLS_X509_FMT_DER, &der) < 0)
                return err_set(err, REASON_INTERNAL, ENOMEM, "cannot write the certificate of %s", m->name);
        bad = cert_read_der(der.data, der.size, &id, err);
        gnutls_free(der.data);
        if (bad)
                return bad;
        int n = snprintf(text, sizeof(text), "[%s]\n%saddress=%s\npin=%s\n\n", m->name,
                         *m->address ? "" : "# where its meted listens, [listen] tls in its mete.conf\n#",
                         *m->address ? m->address : "HOST:PORT", id.pin);
        return put_file(path, O_APPEND, text, (size_t)n, err);
}

static int load(const char *dir, const char *name, struct pair *ca, struct err *err)
{
        char path[PATH_SIZE];
        for (int i = 0; i < 2; i++) {
                size_t n;
                int bad = path_of(dir, name, i ? ".crt" : ".key", path, err);
                char *text = bad ? NULL : cert_file_read(path, &n, err);
                if (!text)
                        return name == authority ? err_note(err, "the authority") : -err->code;
                gnutls_datum_t datum = {(unsigned char *)text, (unsigned)n};
                int r = i ? gnutls_x509_crt_import(ca->crt, &datum, GNUTLS_X509_FMT_PEM)
                          : gnutls_x509_privkey_import(ca->key, &datum, GNUTLS_X509_FMT_PEM);
                explicit_bzero(text, n);
                free(text);
                if (r < 0)
                        return err_set(err, REASON_INVALID, EINVAL, "%.200s: %s", path, gnutls_strerror(r));
        }
        return 0;
}

/* ---- making ---- */

static int new_key(struct pair *p)
{
        return gnutls_x509_privkey_generate(p->key, GNUTLS_PK_ECDSA,
                                            GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0);
}

/* What is in every certificate for a key. An hour back, as clocks differ; never beyond the end of its
 * authority, for nobody would believe it then. */
static int begin(struct pair *p, const char *name, int days, const struct pair *ca)
{
        unsigned char serial[SERIAL_BYTES];
        time_t now = time(NULL), end = now + (time_t)days * DAY_S;
        time_t last = ca ? gnutls_x509_crt_get_expiration_time(ca->crt) : end;
        int r = gnutls_rnd(GNUTLS_RND_NONCE, serial, sizeof(serial));
        serial[0] &= 0x7f; /* positive */
        if (r >= 0)
                r = gnutls_x509_crt_set_serial(p->crt, serial, sizeof(serial));
        if (r >= 0)
                r = gnutls_x509_crt_set_version(p->crt, 3);
        if (r >= 0)
                r = gnutls_x509_crt_set_activation_time(p->crt, now - HOUR_S);
        if (r >= 0)
                r = gnutls_x509_crt_set_expiration_time(p->crt, end < last ? end : last);
        if (r >= 0)
                r = gnutls_x509_crt_set_key(p->crt, p->key);
        if (r >= 0)
                r = gnutls_x509_crt_set_dn_by_oid(p->crt, GNUTLS_OID_X520_ORGANIZATION_NAME, 0, "mete", 4);
        if (r >= 0)
                r = gnutls_x509_crt_set_dn_by_oid(p->crt, GNUTLS_OID_X520_COMMON_NAME, 0, name,
                                                  (unsigned)strlen(name));
        return r;
}

static int end(struct pair *p, const struct pair *ca)
{
        unsigned char id[64];
        size_t n = sizeof(id);
        int r = gnutls_x509_crt_get_key_id(p->crt, GNUTLS_KEYID_USE_SHA1, id, &n);
        if (r >= 0)
                r = gnutls_x509_crt_set_subject_key_id(p->crt, id, n);
        n = sizeof(id);
        if (r >= 0)
                r = gnutls_x509_crt_get_key_id(ca->crt, GNUTLS_KEYID_USE_SHA1, id, &n);
        if (r >= 0)
                r = gnutls_x509_crt_set_authority_key_id(p->crt, id, n);
        if (r >= 0)
                r = gnutls_x509_crt_sign2(p->crt, ca->crt, ca->key, GNUTLS_DIG_SHA256, 0);
        return r;
}

static int make_authority(struct pair *ca, int days, struct err *err)
{
        int r = new_key(ca);
        if (r >= 0)
                r = begin(ca, "mete authority", days > PKI_AUTHORITY_DAYS ? days : PKI_AUTHORITY_DAYS, NULL);
        if (r >= 0)
                r = gnutls_x509_crt_set_basic_constraints(ca->crt, 1, 0);
        if (r >= 0)
                r = gnutls_x509_crt_set_key_usage(ca->crt, GNUTLS_KEY_KEY_CERT_SIGN | GNUTLS_KEY_CRL_SIGN);
        if (r >= 0)
                r = end(ca, ca);
        return r < 0 ? err_set(err, REASON_INTERNAL, EIO, "cannot make an authority: %s", gnutls_strerror(r))
                     : 0;
}

static int add_name(gnutls_x509_crt_t crt, gnutls_x509_subject_alt_name_t type, const void *data, size_t n)
{
        return gnutls_x509_crt_set_subject_alt_name(crt, type, data, (unsigned)n, GNUTLS_FSAN_APPEND);
}

/* So that curl and browsers find what they look for; mete itself goes by the pin. */
static int add_address(gnutls_x509_crt_t crt, const struct pki_member *m)
{
        struct tcp_address a;
        unsigned char bytes[IP_MAX];
        int n = 0;
        if (!*m->address || tcp_address_parse(m->address, &a, NULL))
                return 0;
        if (inet_pton(AF_INET, a.host, bytes) == 1)
                n = 4;
        else if (inet_pton(AF_INET6, a.host, bytes) == 1)
                n = 16;
        if (n)
                return add_name(crt, GNUTLS_SAN_IPADDRESS, bytes, (size_t)n);
        return strcmp(a.host, m->name) == 0 ? 0 : add_name(crt, GNUTLS_SAN_DNSNAME, a.host, strlen(a.host));
}

static int make_member(const struct pki_member *m, int days, const struct pair *ca, struct pair *p,
                       struct err *err)
{
        char uri[CERT_URI];
        int r = cert_uri(m->role, m->name, uri) ? begin(p, m->name, days, ca) : GNUTLS_E_INVALID_REQUEST;
        if (r >= 0)
                r = gnutls_x509_crt_set_basic_constraints(p->crt, 0, -1);
        if (r >= 0)
                r = gnutls_x509_crt_set_key_usage(p->crt, GNUTLS_KEY_DIGITAL_SIGNATURE);
        if (r >= 0)
                r = gnutls_x509_crt_set_key_purpose_oid(p->crt, GNUTLS_KP_TLS_WWW_CLIENT, 0);
        if (r >= 0 && m->role != CERT_OPERATOR)
                r = gnutls_x509_crt_set_key_purpose_oid(p->crt, GNUTLS_KP_TLS_WWW_SERVER, 0);
        if (r >= 0)
                r = add_name(p->crt, GNUTLS_SAN_URI, uri, strlen(uri));
        if (r >= 0 && m->role == CERT_HYPERVISOR)
                r = add_name(p->crt, GNUTLS_SAN_DNSNAME, m->name, strlen(m->name));
        if (r >= 0 && m->role == CERT_HYPERVISOR)
                r = add_address(p->crt, m);
        if (r >= 0)
                r = end(p, ca);
        if (r < 0)
                return err_set(err, REASON_INTERNAL, EIO, "cannot make the certificate of %s: %s", m->name,
                               gnutls_strerror(r));
        return 0;
}

static int check(const char *dir, const struct pki_member *members, size_t n, int days, struct err *err)
{
        if (days < 1 || days > PKI_DAYS_MAX)
                return err_set(err, REASON_INVALID, ERANGE, "days must be from 1 to %d", PKI_DAYS_MAX);
        for (size_t i = 0; i < n; i++) {
                for (size_t k = 0; k < i; k++)
                        if (strcmp(members[i].name, members[k].name) == 0)
                                return err_set(err, REASON_INVALID, EEXIST,
                                               "%s is named twice; each needs a name of its own",
                                               members[i].name);
                int bad = is_free(dir, members[i].name, err);
                if (bad)
                        return bad;
        }
        return 0;
}

static int make_members(const char *dir, const struct pki_member *members, size_t n, int days,
                        const struct pair *ca, struct err *err)
{
        int bad = 0;
        for (size_t i = 0; i < n && !bad; i++) {
                struct pair p = {0};
                bad = pair_init(&p, err);
                if (!bad && new_key(&p) < 0)
                        bad = err_set(err, REASON_INTERNAL, EIO, "cannot make a key for %s", members[i].name);
                if (!bad)
                        bad = make_member(&members[i], days, ca, &p, err);
                if (!bad)
                        bad = put_pair(dir, members[i].name, &p, err);
                if (!bad && members[i].role == CERT_HYPERVISOR && (bad = put_peer(dir, &members[i], &p, err)))
                        take_pair_back(dir, members[i].name);
                pair_done(&p);
        }
        return bad;
}

int pki_init(const char *dir, const struct pki_member *members, size_t n, int days, struct err *err)
{
        struct pair ca = {0};
        int bad = check(dir, members, n, days, err);
        if (!bad)
                bad = is_free(dir, authority, err);
        if (!bad && mkdir(dir, 0700) < 0 && errno != EEXIST)
                bad = err_set(err, REASON_INVALID, errno, "%.200s: %s", dir, strerror(errno));
        if (!bad)
                bad = pair_init(&ca, err);
        if (!bad)
                bad = make_authority(&ca, days, err);
        if (!bad)
                bad = put_pair(dir, authority, &ca, err);
        if (!bad)
                bad = make_members(dir, members, n, days, &ca, err);
        pair_done(&ca);
        return bad;
}

int pki_add(const char *dir, const struct pki_member *members, size_t n, int days, struct err *err)
{
        struct pair ca = {0};
        int bad = check(dir, members, n, days, err);
        if (!bad)
                bad = pair_init(&ca, err);
        if (!bad)
                bad = load(dir, authority, &ca, err);
        if (!bad)
                bad = make_members(dir, members, n, days, &ca, err);
        pair_done(&ca);
        return bad;
}

/* ---- renewing ---- */

/* Where its meted is, as the old certificate has it: it goes into the new one. */
static void read_address(gnutls_x509_crt_t crt, struct pki_member *m)
{
        unsigned char san[256];
        int type = 0;
        for (unsigned i = 0; !*m->address && type != GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE; i++) {
                char host[INET6_ADDRSTRLEN] = "";
                struct tcp_address address;
                size_t n = sizeof(san) - 1;
                type = gnutls_x509_crt_get_subject_alt_name(crt, i, san, &n, NULL);
                if (type == GNUTLS_SAN_IPADDRESS && (n == 4 || n == IP_MAX))
                        (void)inet_ntop(n == 4 ? AF_INET : AF_INET6, san, host, sizeof(host));
                else if (type != GNUTLS_SAN_DNSNAME)
                        continue;
                san[n] = '\0';
                const char *text = *host ? host : (const char *)san;
                if (strcmp(text, m->name) != 0 && tcp_address_parse(text, &address, NULL) == 0)
                        (void)STR_COPY(m->address, tcp_address_text(&address, (char[TCP_TEXT]){0}));
        }
}

/* Beside the old one first: there is always one. */
static int put_certificate(const char *dir, const char *name, const struct pair *p, struct err *err)
{
        char path[PATH_SIZE], beside[PATH_SIZE];
        gnutls_datum_t crt = {0};
        int bad = path_of(dir, name, ".crt", path, err);
        if (!bad)
                bad = path_of(dir, name, ".crt.new", beside, err);
        if (!bad && gnutls_x509_crt_export2(p->crt, GNUTLS_X509_FMT_PEM, &crt) < 0)
                bad = err_set(err, REASON_INTERNAL, ENOMEM, "cannot write the certificate of %s", name);
        if (!bad)
                bad = put_file(beside, O_TRUNC, crt.data, crt.size, err);
        if (!bad && rename(beside, path) < 0)
                bad = err_set(err, REASON_INTERNAL, errno, "%.200s: %s", path, strerror(errno));
        gnutls_free(crt.data);
        return bad;
}

static int check_old(const char *dir, const char *name, struct pki_member *ret, struct err *err)
{
        struct cert_files files;
        struct cert_id id;
        struct pki_member m = {0};
        char path[PATH_SIZE];
        const char *const names[] = {name, name, authority};
        const char *const ends[] = {".crt", ".key", ".crt"};
        char *const to[] = {files.cert, files.key, files.ca};
        for (size_t i = 0; i < ARRAY_N(to); i++) {
                int bad = path_of(dir, names[i], ends[i], path, err);
                if (!bad && strlen(path) >= sizeof(files.cert))
                        bad = err_set(err, REASON_INVALID, ENAMETOOLONG, "%.100s: the path is too long",
                                      path);
                if (bad)
                        return bad;
                memcpy(to[i], path, strlen(path) + 1);
        }
        int bad = cert_files_check(&files, 0, &id, err);
        if (!bad && (id.role == 0 || strcmp(id.name, name) != 0))
                bad = err_set(err, REASON_INVALID, EINVAL, "%.150s is the certificate of %s %s", files.cert,
                              cert_role_name(id.role), id.name);
        m.role = id.role;
        if (bad || !STR_COPY(m.name, name))
                return bad ? bad : -EINVAL;
        *ret = m;
        return 0;
}

int pki_renew(const char *dir, const char *name, int days, struct err *err)
{
        struct pair ca = {0}, old = {0}, p = {0};
        struct pki_member m = {0};
        int bad = 0;
        if (days < 1 || days > PKI_DAYS_MAX)
                return err_set(err, REASON_INVALID, ERANGE, "days must be from 1 to %d", PKI_DAYS_MAX);
        if (!str_is_name(name) || strcmp(name, authority) == 0)
                return err_set(err, REASON_INVALID, EINVAL, "\"%.60s\": must be the name of a member", name);
        if (pair_init(&ca, err) || pair_init(&old, err) || pair_init(&p, err))
                bad = -ENOMEM;
        if (!bad)
                bad = load(dir, authority, &ca, err);
        if (!bad)
                bad = check_old(dir, name, &m, err);
        if (!bad)
                bad = load(dir, name, &old, err);
        if (!bad && gnutls_x509_privkey_cpy(p.key, old.key) < 0)
                bad = err_set(err, REASON_INTERNAL, ENOMEM, "no memory for a key");
        if (!bad && m.role == CERT_HYPERVISOR)
                read_address(old.crt, &m);
        if (!bad)
                bad = make_member(&m, days, &ca, &p, err);
        if (!bad)
                bad = put_certificate(dir, name, &p, err);
        pair_done(&ca);
        pair_done(&old);
        pair_done(&p);
        return bad;
}
