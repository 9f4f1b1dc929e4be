/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <gnutls/x509.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/pki.h"

enum { DAY_MS = 86400 * 1000 };

static char *new_dir(void)
{
        char *dir = g_dir_make_tmp("mete-test-pki-XXXXXX", NULL);
        g_assert_nonnull(dir);
        return dir;
}

static void remove_dir(char *dir)
{
        GDir *d = g_dir_open(dir, 0, NULL);
        for (const char *name; d && (name = g_dir_read_name(d));) {
                g_autofree char *path = g_build_filename(dir, name, NULL);
                (void)g_unlink(path);
        }
        if (d)
                g_dir_close(d);
        g_assert_cmpint(g_rmdir(dir), ==, 0);
        g_free(dir);
}

static int n_files(const char *dir)
{
        int n = 0;
        GDir *d = g_dir_open(dir, 0, NULL);
        while (d && g_dir_read_name(d))
                n++;
        if (d)
                g_dir_close(d);
        return n;
}

static struct cert_files files_of(const char *dir, const char *name, const char *ca)
{
        struct cert_files f;
        (void)g_snprintf(f.cert, sizeof(f.cert), "%s/%s.crt", dir, name);
        (void)g_snprintf(f.key, sizeof(f.key), "%s/%s.key", dir, name);
        (void)g_snprintf(f.ca, sizeof(f.ca), "%s/%s.crt", dir, ca);
        return f;
}

static struct cert_id id_of(const char *dir, const char *name)
{
        struct cert_id id = {0};
        struct err err = {0};
        g_autofree char *path = g_strdup_printf("%s/%s.crt", dir, name);
        size_t n;
        char *text = cert_file_read(path, &n, &err);
        g_assert_nonnull(text);
        g_assert_cmpint(cert_read_pem(text, n, &id, &err), ==, 0);
        free(text);
        return id;
}

static struct pki_member member(enum cert_role role, const char *text)
{
        struct pki_member m;
        g_assert_cmpint(pki_member_parse(role, text, &m, NULL), ==, 0);
        return m;
}

static void test_members(void)
{
        static const struct {
                enum cert_role role;
                const char *text, *name, *address; /* name NULL: refused */
        } rows[] = {
                {CERT_HYPERVISOR, "a",                  "a",     ""              },
                {CERT_HYPERVISOR, "a=10.0.0.1",         "a",     "10.0.0.1:8421" },
                {CERT_HYPERVISOR, "a=10.0.0.1:99",      "a",     "10.0.0.1:99"   },
                {CERT_HYPERVISOR, "a=fd00::1",          "a",     "[fd00::1]:8421"},
                {CERT_HYPERVISOR, "a=[fd00::1]:7",      "a",     "[fd00::1]:7"   },
                {CERT_HYPERVISOR, "a=a.example",        "a",     "a.example:8421"},
                {CERT_OPERATOR,   "carol",              "carol", ""              },
                {CERT_OPERATOR,   "carol=10.0.0.1",     NULL,    NULL            },
                {CERT_HYPERVISOR, "",                   NULL,    NULL            },
                {CERT_HYPERVISOR, "=10.0.0.1",          NULL,    NULL            },
                {CERT_HYPERVISOR, "a=",                 NULL,    NULL            },
                {CERT_HYPERVISOR, "../a",               NULL,    NULL            },
                {CERT_HYPERVISOR, "a:b",                NULL,    NULL            },
                {CERT_HYPERVISOR, "ca",                 NULL,    NULL            },
                {CERT_HYPERVISOR, "a=10.0.0.1:0",       NULL,    NULL            },
                {CERT_HYPERVISOR, "a=http://10.0.0.1/", NULL,    NULL            },
                {CERT_HYPERVISOR, "a=b\npin=x",         NULL,    NULL            },
        };
        for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
                struct pki_member m;
                struct err err = {0};
                int r = pki_member_parse(rows[i].role, rows[i].text, &m, &err);
                g_test_message("%s", rows[i].text);
                g_assert_cmpint(r == 0, ==, rows[i].name != NULL);
                if (r) {
                        g_assert_cmpint(err.reason, ==, REASON_INVALID);
                        continue;
                }
                g_assert_cmpstr(m.name, ==, rows[i].name);
                g_assert_cmpstr(m.address, ==, rows[i].address);
        }
}

static void test_init(void)
{
        char *dir = new_dir();
        struct err err = {0};
        struct pki_member members[] = {member(CERT_HYPERVISOR, "a=127.0.0.1:4000"),
                                       member(CERT_HYPERVISOR, "b"), member(CERT_MANAGER, "m"),
                                       member(CERT_OPERATOR, "carol")};
        g_assert_cmpint(pki_init(dir, members, G_N_ELEMENTS(members), 30, &err), ==, 0);
        g_assert_cmpint(n_files(dir), ==, 2 * 5 + 1);
        int64_t now_ms = g_get_real_time() / 1000;
        for (size_t i = 0; i < G_N_ELEMENTS(members); i++) {
                struct cert_files f = files_of(dir, members[i].name, "ca");
                struct cert_id id;
                struct stat st;
                g_assert_cmpint(cert_files_check(&f, now_ms, &id, &err), ==, 0);
                g_assert_cmpint(id.role, ==, members[i].role);
                g_assert_cmpstr(id.name, ==, members[i].name);
                g_assert_true(cert_is_pin(id.pin));
                g_assert_cmpint(id.end_ms, >, now_ms + INT64_C(29) * DAY_MS);
                g_assert_cmpint(id.end_ms, <=, g_get_real_time() / 1000 + INT64_C(30) * DAY_MS);
                g_assert_cmpint(stat(f.key, &st), ==, 0);
                g_assert_cmpint(st.st_mode & 07777, ==, 0600);
                g_assert_cmpint(st.st_uid, ==, geteuid());
        }
        struct cert_id ca = id_of(dir, "ca"), a = id_of(dir, "a");
        g_assert_cmpint(ca.role, ==, 0);
        g_assert_cmpint(ca.end_ms, >, now_ms + INT64_C(3600) * DAY_MS);

        GKeyFile *peers = g_key_file_new();
        g_autofree char *path = g_build_filename(dir, "peers.conf", NULL);
        g_assert_true(g_key_file_load_from_file(peers, path, G_KEY_FILE_NONE, NULL));
        g_autofree char *pin = g_key_file_get_string(peers, "a", "pin", NULL);
        g_autofree char *address = g_key_file_get_string(peers, "a", "address", NULL);
        g_assert_cmpstr(pin, ==, a.pin);
        g_assert_cmpstr(address, ==, "127.0.0.1:4000");
        g_assert_true(g_key_file_has_group(peers, "b"));
        g_assert_false(g_key_file_has_group(peers, "carol"));
        g_key_file_free(peers);
        remove_dir(dir);
}

/* A failure leaves what was there, and nothing of its own. */
static void test_no_overwriting(void)
{
        char *dir = new_dir();
        struct err err = {0};
        struct pki_member a = member(CERT_HYPERVISOR, "a"),
                          twice[] = {member(CERT_HYPERVISOR, "x"), member(CERT_OPERATOR, "x")},
                          both[] = {member(CERT_HYPERVISOR, "b"), member(CERT_OPERATOR, "a")};
        g_assert_cmpint(pki_add(dir, &a, 1, 1, &err), ==, -ENOENT);
        g_assert_cmpint(pki_init(dir, twice, 2, 1, &err), ==, -EEXIST);
        g_assert_cmpint(pki_init(dir, &a, 1, 0, &err), ==, -ERANGE);
        g_assert_cmpint(n_files(dir), ==, 0);

        g_assert_cmpint(pki_init(dir, &a, 1, 1, &err), ==, 0);
        struct cert_id ca = id_of(dir, "ca"), was = id_of(dir, "a");
        int n = n_files(dir);
        g_assert_cmpint(pki_init(dir, both, 1, 1, &err), ==, -EEXIST);
        g_assert_cmpint(pki_add(dir, both, 2, 1, &err), ==, -EEXIST);
        g_assert_cmpint(n_files(dir), ==, n);
        g_assert_cmpstr(id_of(dir, "ca").pin, ==, ca.pin);
        g_assert_cmpstr(id_of(dir, "a").pin, ==, was.pin);

        /* What could not be finished is not in the way of another try. */
        g_autofree char *peers = g_build_filename(dir, "peers.conf", NULL),
                        *aside = g_build_filename(dir, "aside", NULL);
        g_assert_cmpint(g_rename(peers, aside), ==, 0);
        g_assert_cmpint(symlink("aside", peers), ==, 0);
        g_assert_cmpint(pki_add(dir, both, 1, 1, &err), <, 0);
        g_assert_cmpint(n_files(dir), ==, n + 1);
        g_assert_cmpint(g_rename(aside, peers), ==, 0);
        g_assert_cmpint(pki_add(dir, both, 1, 1, &err), ==, 0);
        g_assert_cmpstr(id_of(dir, "b").name, ==, "b");
        remove_dir(dir);
}

/* The same key, role and address, for longer; what is no pair of this authority stays as it is. */
static void test_renew(void)
{
        char *dir = new_dir(), *other = new_dir();
        struct err err = {0};
        struct pki_member members[] = {member(CERT_HYPERVISOR, "a=127.0.0.1:4000"),
                                       member(CERT_OPERATOR, "carol")};
        int64_t now_ms = g_get_real_time() / 1000;
        g_assert_cmpint(pki_init(dir, members, 2, 1, &err), ==, 0);
        g_assert_cmpint(pki_init(other, members, 1, 1, &err), ==, 0);
        g_autofree char *peers = g_build_filename(dir, "peers.conf", NULL),
                        *crt = g_build_filename(dir, "a.crt", NULL),
                        *key = g_build_filename(dir, "a.key", NULL),
                        *foreign = g_build_filename(other, "a.crt", NULL);
        g_autofree char *peers_was = NULL, *key_was = NULL, *peers_is = NULL, *key_is = NULL;
        g_assert_true(g_file_get_contents(peers, &peers_was, NULL, NULL));
        g_assert_true(g_file_get_contents(key, &key_was, NULL, NULL));
        int n = n_files(dir);
        for (size_t i = 0; i < G_N_ELEMENTS(members); i++) {
                struct cert_id was = id_of(dir, members[i].name), is;
                struct cert_files f = files_of(dir, members[i].name, "ca");
                g_assert_cmpint(pki_renew(dir, members[i].name, 100, &err), ==, 0);
                g_assert_cmpint(cert_files_check(&f, now_ms, &is, &err), ==, 0);
                g_assert_cmpint(is.role, ==, was.role);
                g_assert_cmpstr(is.name, ==, was.name);
                g_assert_cmpstr(is.pin, ==, was.pin);
                g_assert_cmpint(is.end_ms, >, now_ms + INT64_C(99) * DAY_MS);
        }
        g_assert_cmpint(n_files(dir), ==, n);
        g_assert_true(g_file_get_contents(peers, &peers_is, NULL, NULL));
        g_assert_true(g_file_get_contents(key, &key_is, NULL, NULL));
        g_assert_cmpstr(peers_is, ==, peers_was);
        g_assert_cmpstr(key_is, ==, key_was);

        /* The address is in it still. */
        gnutls_x509_crt_t x;
        gnutls_datum_t pem = {0};
        gsize pem_n;
        g_assert_true(g_file_get_contents(crt, (char **)&pem.data, &pem_n, NULL));
        pem.size = (unsigned)pem_n;
        g_assert_cmpint(gnutls_x509_crt_init(&x), ==, 0);
        g_assert_cmpint(gnutls_x509_crt_import(x, &pem, GNUTLS_X509_FMT_PEM), ==, 0);
        g_assert_cmpuint(gnutls_x509_crt_check_hostname(x, "127.0.0.1"), !=, 0);
        g_assert_cmpuint(gnutls_x509_crt_check_hostname(x, "a"), !=, 0);
        gnutls_x509_crt_deinit(x);

        g_assert_cmpint(pki_renew(dir, "nobody", 1, &err), ==, -ENOENT);
        g_assert_cmpint(pki_renew(dir, "ca", 1, &err), ==, -EINVAL);
        g_assert_cmpint(pki_renew(dir, "../a", 1, &err), ==, -EINVAL);
        g_assert_cmpint(pki_renew(dir, "a", 0, &err), ==, -ERANGE);
        g_autofree char *foreign_text = NULL, *left = NULL;
        g_assert_true(g_file_get_contents(foreign, &foreign_text, NULL, NULL));
        g_assert_true(g_file_set_contents(crt, foreign_text, -1, NULL));
        g_assert_cmpint(pki_renew(dir, "a", 1, &err), ==, -EINVAL);
        g_assert_true(g_file_get_contents(crt, &left, NULL, NULL));
        g_assert_cmpstr(left, ==, foreign_text);
        g_free(pem.data);
        remove_dir(dir);
        remove_dir(other);
}

/* What a host would start with, or refuse. */
static void test_files(void)
{
        char *dir = new_dir(), *other = new_dir();
        struct err err = {0};
        struct cert_id id;
        struct pki_member two[] = {member(CERT_HYPERVISOR, "a"), member(CERT_HYPERVISOR, "b")};
        int64_t now_ms = g_get_real_time() / 1000;
        g_assert_cmpint(pki_init(dir, two, 2, 1, &err), ==, 0);
        g_assert_cmpint(pki_init(other, two, 2, 1, &err), ==, 0);

        struct cert_files f = files_of(dir, "a", "ca"), bad = f;
        (void)g_strlcpy(bad.key, files_of(dir, "b", "ca").key, sizeof(bad.key));
        g_assert_cmpint(cert_files_check(&bad, now_ms, &id, &err), ==, -EINVAL);
        g_assert_nonnull(strstr(err.sentence, "is not the key of"));
        bad = f;
        (void)g_strlcpy(bad.ca, files_of(other, "a", "ca").ca, sizeof(bad.ca));
        g_assert_cmpint(cert_files_check(&bad, now_ms, &id, &err), ==, -EINVAL);
        g_assert_nonnull(strstr(err.sentence, "authority"));
        g_assert_cmpint(cert_files_check(&f, now_ms + 2 * (int64_t)DAY_MS, &id, &err), ==, -EINVAL);
        g_assert_nonnull(strstr(err.sentence, "expired"));
        g_assert_cmpint(cert_files_check(&f, now_ms - DAY_MS, &id, &err), ==, -EINVAL);
        g_assert_nonnull(strstr(err.sentence, "not valid yet"));
        g_assert_cmpint(chmod(f.key, 0644), ==, 0);
        g_assert_cmpint(cert_files_check(&f, now_ms, &id, &err), ==, -EPERM);
        g_assert_cmpint(chmod(f.key, 0640), ==, 0);
        g_assert_cmpint(cert_files_check(&f, now_ms, &id, &err), ==, 0);
        bad = f;
        (void)g_strlcpy(bad.cert, "/nonexistent/x.crt", sizeof(bad.cert));
        g_assert_cmpint(cert_files_check(&bad, now_ms, &id, &err), ==, -ENOENT);
        bad = f;
        (void)g_strlcpy(bad.cert, f.key, sizeof(bad.cert));
        g_assert_cmpint(cert_files_check(&bad, now_ms, &id, &err), ==, -EINVAL);
        char *large = g_malloc0(CERT_FILE_MAX + 1);
        g_autofree char *large_path = g_build_filename(dir, "large.crt", NULL);
        g_assert_true(g_file_set_contents(large_path, large, CERT_FILE_MAX + 1, NULL));
        g_free(large);
        (void)g_strlcpy(bad.cert, large_path, sizeof(bad.cert));
        g_assert_cmpint(cert_files_check(&bad, now_ms, &id, &err), ==, -EFBIG);
        /* The authority is nobody in particular. */
        f = files_of(dir, "ca", "ca");
        g_assert_cmpint(cert_files_check(&f, now_ms, &id, &err), ==, 0);
        g_assert_cmpint(id.role, ==, 0);
        remove_dir(dir);
        remove_dir(other);
}

/* A certificate with these URIs, as PEM. */
static gnutls_datum_t with_uris(const char *const *uris, size_t n)
{
        gnutls_x509_privkey_t key;
        gnutls_x509_crt_t crt;
        gnutls_datum_t pem;
        g_assert_cmpint(gnutls_x509_privkey_init(&key), ==, 0);
        g_assert_cmpint(gnutls_x509_crt_init(&crt), ==, 0);
        g_assert_cmpint(gnutls_x509_privkey_generate(key, GNUTLS_PK_ECDSA,
                                                     GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0),
                        ==, 0);
        gnutls_x509_crt_set_version(crt, 3);
        gnutls_x509_crt_set_serial(crt, "\1", 1);
        gnutls_x509_crt_set_key(crt, key);
        gnutls_x509_crt_set_activation_time(crt, 0);
        gnutls_x509_crt_set_expiration_time(crt, 1);
        for (size_t i = 0; i < n; i++)
                g_assert_cmpint(gnutls_x509_crt_set_subject_alt_name(crt, GNUTLS_SAN_URI, uris[i],
                                                                     (unsigned)strlen(uris[i]),
                                                                     GNUTLS_FSAN_APPEND),
                                ==, 0);
        g_assert_cmpint(gnutls_x509_crt_sign2(crt, crt, key, GNUTLS_DIG_SHA256, 0), ==, 0);
        g_assert_cmpint(gnutls_x509_crt_export2(crt, GNUTLS_X509_FMT_PEM, &pem), ==, 0);
        gnutls_x509_crt_deinit(crt);
        gnutls_x509_privkey_deinit(key);
        return pem;
}

static void test_identity(void)
{
        static const struct {
                const char *uris[2];
                size_t n;
                enum cert_role role; /* 0: refused */
        } rows[] = {
                {{"mete:operator:carol"},                   1, CERT_OPERATOR  },
                {{"https://example/", "mete:hypervisor:a"}, 2, CERT_HYPERVISOR},
                {{"mete:manager:m", "mete:operator:m"},     2, 0              },
                {{"mete:manager:m", "mete:manager:m"},      2, 0              },
                {{"mete:king:a"},                           1, 0              },
                {{"mete:authority:a"},                      1, 0              },
                {{"mete:operator"},                         1, 0              },
                {{"mete:operator:"},                        1, 0              },
                {{"mete:operator:a/b"},                     1, 0              },
                {{"mete:oper:a"},                           1, 0              },
                {{"Mete:operator:a"},                       1, 0              },
                {{"https://example/"},                      1, 0              },
                {{NULL},                                    0, 0              },
        };
        for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
                gnutls_datum_t pem = with_uris(rows[i].uris, rows[i].n);
                struct cert_id id = {0};
                struct err err = {0};
                int r = cert_read_pem(pem.data, pem.size, &id, &err);
                g_test_message("%s", rows[i].uris[0] ? rows[i].uris[0] : "none");
                g_assert_cmpint(r, ==, rows[i].role ? 0 : -EINVAL);
                g_assert_cmpint(id.role, ==, rows[i].role);
                gnutls_free(pem.data);
        }
        struct err err = {0};
        struct cert_id id = {0};
        g_assert_cmpint(cert_read_pem("nonsense", 8, &id, &err), ==, -EINVAL);
        g_assert_cmpint(cert_read_der("", 0, &id, &err), ==, -EINVAL);
        g_assert_false(cert_is_pin("sha256//short="));
        g_assert_false(cert_is_pin("sha256//====AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"));
        g_assert_true(cert_is_pin("sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="));
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/pki/members", test_members);
        g_test_add_func("/pki/init", test_init);
        g_test_add_func("/pki/no-overwriting", test_no_overwriting);
        g_test_add_func("/pki/renew", test_renew);
        g_test_add_func("/pki/files", test_files);
        g_test_add_func("/pki/identity", test_identity);
        return g_test_run();
}
