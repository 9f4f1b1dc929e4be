/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <string.h>

#include "wire/peers.h"

#define PIN(c) "pin=sha256//" c "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"

static char *path;

static int read_back(const char *text, struct peers *ret, struct err *err)
{
        *err = (struct err){0};
        g_assert_true(g_file_set_contents(path, text, -1, NULL));
        return peers_read(path, ret, err);
}

static void test_good(void)
{
        struct peers p = {0};
        struct err err;
        g_assert_cmpint(read_back("# hosts\n[b]\naddress=10.0.0.2\n" PIN("B") "server=s1\n\n[a]\n" PIN("A"),
                                  &p, &err),
                        ==, 0);
        g_assert_cmpuint(p.n, ==, 2);
        g_assert_cmpstr(p.list[0].name, ==, "a");
        const struct peer_entry *b = peers_find(&p, "b");
        g_assert_nonnull(b);
        g_assert_true(b->has_address);
        g_assert_cmpstr(b->address.host, ==, "10.0.0.2");
        g_assert_cmpint(b->address.port, ==, TCP_PORT);
        g_assert_cmpstr(b->server, ==, "s1");
        g_assert_true(g_str_has_prefix(b->pin, "sha256//B"));
        g_assert_false(peers_find(&p, "a")->has_address);
        g_assert_null(peers_find(&p, "c"));
        g_assert_null(peers_find(&p, ""));
        peers_done(&p);
        g_assert_null(peers_find(&p, "a"));
        g_assert_cmpint(read_back("", &p, &err), ==, 0);
        g_assert_cmpuint(p.n, ==, 0);
        peers_done(&p);
}

static void test_refused(void)
{
        static const struct {
                const char *text, *says;
        } rows[] = {
                {"pin=x\n",                                          "group"            },
                {"[a b]\n" PIN("A"),                                 "no name"          },
                {"[a/b]\n" PIN("A"),                                 "no name"          },
                {"[a]\naddress=10.0.0.1\n",                          "pin: is needed"   },
                {"[a]\npin=sha256//x\n",                             "[a]: pin: must be"},
                {"[a]\n" PIN("A") "pinn=x\n",                        "no key pinn"      },
                {"[a]\n" PIN("A") "address=\n",                      "no address"       },
                {"[a]\n" PIN("A") "address=http://x/\n",             "port must be"     },
                {"[a]\n" PIN("A") "server=a b\n",                    "server: must be"  },
                {"[a]\n" PIN("A") "[b]\n" PIN("B") "[a]\n" PIN("A"), "twice"            },
                {"[a]\n" PIN("A") PIN("B"),                          "twice"            },
                {"[a]\n" PIN("A") "[b]\n" PIN("A"),                  "same pin"         },
                {"[a]\nnonsense\n",                                  "nonsense"         },
        };
        for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
                struct peers p = {0};
                struct err err;
                g_test_message("%s", rows[i].text);
                g_assert_cmpint(read_back(rows[i].text, &p, &err), <, 0);
                g_assert_cmpint(err.reason, ==, REASON_INVALID);
                g_test_message("%s", err.sentence);
                g_assert_nonnull(strstr(err.sentence, rows[i].says));
                g_assert_nonnull(strstr(err.sentence, path));
                g_assert_null(p.list);
        }
}

static void test_bounds(void)
{
        struct peers p = {0};
        struct err err;
        GString *text = g_string_new(NULL);
        for (int i = 0; i < PEERS_MAX; i++)
                g_string_append_printf(text, "[h%d]\npin=sha256//%043d=\n", i, i);
        g_assert_cmpint(read_back(text->str, &p, &err), ==, 0);
        g_assert_cmpuint(p.n, ==, PEERS_MAX);
        g_assert_nonnull(peers_find(&p, "h255"));
        peers_done(&p);
        g_string_append(text, "[more]\n" PIN("M"));
        g_assert_cmpint(read_back(text->str, &p, &err), ==, -E2BIG);
        g_string_assign(text, "#");
        while (text->len <= PEERS_FILE_MAX)
                g_string_append(text, "a long comment of sixteen or so");
        g_assert_cmpint(read_back(text->str, &p, &err), ==, -EINVAL);
        g_assert_true(g_file_set_contents(path, "[a]\n\0b", 6, NULL));
        g_assert_cmpint(peers_read(path, &p, &err), ==, -EINVAL);
        g_assert_cmpint(peers_read("/nonexistent/peers.conf", &p, &err), ==, -ENOENT);
        g_assert_cmpint(err.reason, ==, REASON_NOT_FOUND);
        g_assert_cmpint(peers_read("/dev/zero", &p, &err), ==, -EINVAL);
        g_string_free(text, TRUE);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_autofree char *dir = g_dir_make_tmp("mete-test-peers-XXXXXX", NULL);
        path = g_build_filename(dir, "peers.conf", NULL);
        g_test_add_func("/peers/good", test_good);
        g_test_add_func("/peers/refused", test_refused);
        g_test_add_func("/peers/bounds", test_bounds);
        int status = g_test_run();
        (void)g_unlink(path);
        (void)g_rmdir(dir);
        g_free(path);
        return status;
}
