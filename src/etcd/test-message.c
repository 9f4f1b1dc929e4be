/* SPDX-License-Identifier: Apache-2.0 */
/* What etcd is asked, word by word, and what it may answer: as real ones do, and as none should. And whom. */
#include <arpa/inet.h>
#include <glib.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "etcd/etcd.h"
#include "etcd/message.h"
#include "json/read.h"
#include "loop/loop.h"

static void is_text(json_t *v, const char *want)
{
        char *text = json_write(v, NULL);
        g_assert_cmpstr(text, ==, want);
        free(text);
        json_decref(v);
}

static void test_asked(void)
{
        is_text(etcd_range_body("a", NULL, 1), "{\"key\":\"YQ==\",\"limit\":\"1\"}");
        is_text(etcd_range_body("a", "b", 64), "{\"key\":\"YQ==\",\"range_end\":\"Yg==\",\"limit\":\"64\"}");
        is_text(etcd_grant_body(10), "{\"TTL\":\"10\"}");
        is_text(etcd_lease_body(INT64_MAX), "{\"ID\":\"9223372036854775807\"}");
        json_t *txn = etcd_txn_new();
        etcd_txn_if_created(txn, "a", 0);
        etcd_txn_if_changed(txn, "b", 7);
        etcd_txn_put(txn, "b", "v", 0);
        etcd_txn_put(txn, "a", "", 9);
        etcd_txn_delete(txn, "c", NULL);
        etcd_txn_else_get(txn, "a");
        is_text(txn, "{\"compare\":[{\"key\":\"YQ==\",\"target\":\"CREATE\",\"result\":\"EQUAL\",\"create_"
                     "revision\":\"0\"},"
                     "{\"key\":\"Yg==\",\"target\":\"MOD\",\"result\":\"EQUAL\",\"mod_revision\":\"7\"}],"
                     "\"success\":[{\"request_put\":{\"key\":\"Yg==\",\"value\":\"dg==\"}},"
                     "{\"request_put\":{\"key\":\"YQ==\",\"value\":\"\",\"lease\":\"9\"}},"
                     "{\"request_delete_range\":{\"key\":\"Yw==\"}}],"
                     "\"failure\":[{\"request_range\":{\"key\":\"YQ==\"}}]}");
}

static json_t *json(const char *text)
{
        struct err err = {0};
        json_t *v = json_read(text, strlen(text), &err);
        g_assert_nonnull(v);
        return v;
}

static int range(const char *text, struct etcd_range *ret)
{
        struct err err = {0};
        json_t *v = json(text);
        int bad = etcd_range_read(v, ret, &err);
        g_assert_true(!bad || (err.reason == REASON_INVALID && strstr(err.sentence, "as etcd would not")));
        json_decref(v);
        return bad;
}

static void test_range(void)
{
        static const char *const bad[] = {
                "[]",
                "{\"kvs\":1}",
                "{\"kvs\":[1]}",
                "{\"kvs\":[{\"key\":1}]}",
                "{\"kvs\":[],\"more\":true}",
                "{\"more\":\"yes\"}",
                "{\"kvs\":[{\"key\":\"AGE=\"}]}" /* a NUL */,
                "{\"kvs\":[{\"key\":\"/w==\"}]}" /* no UTF-8 */,
                "{\"kvs\":[{\"key\":\"YQ==\",\"mod_revision\":\"x\"}]}",
                "{\"kvs\":[{\"key\":\"YQ==\",\"mod_revision\":\"\"}]}",
                "{\"kvs\":[{\"key\":\"YQ==\",\"mod_revision\":\"99999999999999999999\"}]}",
                "{\"kvs\":[{\"key\":\"YQ==\"},{\"key\":\"YQ==\",\"lease\":{}}]}",
        };
        struct etcd_range r = {0};
        for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
                g_assert_cmpint(range(bad[i], &r), <, 0);
                g_assert_null(r.kvs); /* untouched */
        }
        g_assert_cmpint(range("{\"header\":{\"revision\":\"5\"}}", &r), ==, 0); /* nothing there */
        g_assert_true(r.n == 0 && !r.is_more);
        etcd_range_done(&r);
        g_assert_cmpint(range("{\"kvs\":[{\"key\":\"YQ==\",\"value\":\"dg==\",\"create_revision\":\"2\","
                              "\"mod_revision\":\"3\",\"version\":\"2\",\"lease\":\"7587848390321429124\"},"
                              "{\"key\":\"Yg==\"}],\"more\":true,\"count\":\"9\"}",
                              &r),
                        ==, 0);
        g_assert_true(r.n == 2 && r.is_more);
        g_assert_cmpstr(r.kvs[0].key, ==, "a");
        g_assert_cmpstr(r.kvs[0].value, ==, "v");
        g_assert_true(r.kvs[0].created == 2 && r.kvs[0].changed == 3 &&
                      r.kvs[0].lease == INT64_C(7587848390321429124));
        g_assert_cmpstr(r.kvs[1].value, ==, "");
        etcd_range_done(&r);
        etcd_range_done(&r);
}

static int txn(const char *text, bool *succeeded, int64_t *revision, struct etcd_range *else_)
{
        struct err err = {0};
        json_t *v = json(text);
        int bad = etcd_txn_read(v, succeeded, revision, else_, 2, &err);
        json_decref(v);
        return bad;
}

static void test_txn(void)
{
        struct etcd_range got[2] = {{0}};
        bool succeeded = false;
        int64_t revision = 0;
        g_assert_cmpint(txn("{\"header\":{\"revision\":\"8\"},\"succeeded\":true,\"responses\":[{}]}",
                            &succeeded, &revision, got),
                        ==, 0);
        g_assert_true(succeeded && revision == 8);
        g_assert_cmpint(txn("{\"header\":{\"revision\":\"9\"},\"responses\":[{\"response_range\":{\"kvs\":[{"
                            "\"key\":\"YQ==\"}]}},"
                            "{\"response_range\":{}}]}",
                            &succeeded, &revision, got),
                        ==, 0);
        g_assert_true(!succeeded && got[0].n == 1 && got[1].n == 0);
        for (int i = 0; i < 2; i++)
                etcd_range_done(&got[i]);
        static const char *const bad[] = {
                "[]",
                "{}",
                "{\"header\":{\"revision\":\"0\"},\"succeeded\":true}",
                "{\"succeeded\":true}",
                "{\"header\":{\"revision\":\"9\"},\"succeeded\":1}",
                "{\"header\":{\"revision\":\"9\"}}",
                "{\"header\":{\"revision\":\"9\"},\"responses\":[{\"response_range\":{\"kvs\":[{}]}},{}]}",
        };
        for (size_t i = 0; i < G_N_ELEMENTS(bad); i++)
                g_assert_cmpint(txn(bad[i], &succeeded, &revision, got), <, 0);
}

static void test_lease(void)
{
        static const char *const bad[] = {"{}", "{\"ID\":\"5\"}", "{\"ID\":\"5\",\"TTL\":\"-1\"}",
                                          "{\"TTL\":\"5\"}", "{\"ID\":5.5,\"TTL\":\"5\"}"};
        struct err err = {0};
        int64_t lease = 0, ttl = 0;
        json_t *v = json("{\"header\":{},\"ID\":\"-77\",\"TTL\":\"10\"}");
        g_assert_cmpint(etcd_grant_read(v, &lease, &ttl, &err), ==, 0);
        g_assert_true(lease == -77 && ttl == 10);
        json_decref(v);
        for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
                v = json(bad[i]);
                g_assert_cmpint(etcd_grant_read(v, &lease, &ttl, &err), <, 0);
                json_decref(v);
        }
        v = json("{\"result\":{\"ID\":\"5\"}}");
        g_assert_cmpint(etcd_keep_read(v, &ttl, &err), ==, 0);
        g_assert_cmpint(ttl, ==, 0);
        json_decref(v);
        v = json("{\"error\":{\"grpc_code\":14,\"message\":\"no leader\"}}");
        g_assert_cmpint(etcd_keep_read(v, &ttl, &err), <, 0);
        char said[16];
        etcd_refusal_read(v, said, sizeof(said));
        g_assert_cmpstr(said, ==, "no leader");
        json_decref(v);
        v = json("{\"error\":\"a\\tlong one that is cut\",\"message\":\"not this\"}");
        etcd_refusal_read(v, said, sizeof(said));
        g_assert_cmpstr(said, ==, "a?long one that");
        json_decref(v);
        etcd_refusal_read(NULL, said, sizeof(said));
        g_assert_cmpstr(said, ==, "");
}

static void test_places(void)
{
        static const char *const bad[] = {
                "",
                "10.0.0.5:2379",
                "http://10.0.0.5:2379",
                "http://example.org",
                "https://",
                "https://a:0",
                "https://a:b",
                "ftp://a",
                "https://a,",
                "http://127.0.0.1:1/path",
                "https://a,https://a,https://a,https://a,https://a,https://a,https://a,https://a,https://a",
        };
        struct err err = {0};
        struct etcd_places p = {0};
        for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
                g_assert_cmpint(etcd_places_parse(bad[i], &p, &err), <, 0);
                g_assert_cmpint(err.reason, ==, REASON_INVALID);
                g_assert_cmpuint(p.n, ==, 0);
        }
        g_assert_cmpint(etcd_places_parse("https://etcd-b.example, http://127.1.2.3:5 "
                                          ",https://[fd00::1]:7,https://[fd00::2],http://[::1]:9",
                                          &p, &err),
                        ==, 0);
        g_assert_cmpuint(p.n, ==, 5);
        g_assert_true(!p.at[0].is_plain && p.at[1].is_plain && !p.at[2].is_plain);
        g_assert_cmpstr(p.at[0].address.host, ==, "etcd-b.example");
        g_assert_cmpint(p.at[0].address.port, ==, 2379);
        g_assert_cmpint(p.at[1].address.port, ==, 5);
        g_assert_cmpint(p.at[2].address.port, ==, 7);
        g_assert_cmpstr(p.at[3].address.host, ==, "fd00::2");
        g_assert_cmpint(p.at[3].address.port, ==, 2379);
        g_assert_cmpint(p.at[4].address.port, ==, 9);
}

/* ---- calls, to two members of which the first is not there ---- */

static int bound(struct sockaddr_in *ret)
{
        socklen_t n = sizeof(*ret);
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        *ret = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        g_assert_cmpint(bind(fd, (struct sockaddr *)ret, n), ==, 0);
        g_assert_cmpint(getsockname(fd, (struct sockaddr *)ret, &n), ==, 0);
        return fd;
}

/* Answers whoever comes, until it is killed. */
static pid_t serve(int fd)
{
        static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
        char asked[4096];
        g_assert_cmpint(listen(fd, 16), ==, 0);
        pid_t pid = fork();
        if (pid != 0)
                return pid;
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;) {
                int one = accept(fd, NULL, NULL);
                if (one < 0 || read(one, asked, sizeof(asked)) < 0 ||
                    write(one, answer, strlen(answer)) < 0 || shutdown(one, SHUT_WR) < 0)
                        _exit(1);
                while (read(one, asked, sizeof(asked)) > 0)
                        ;
                (void)close(one);
        }
}

struct outcome {
        unsigned n_answered, n_failed;
};

static void on_done(void *arg, const json_t *answer, const struct err *err)
{
        struct outcome *o = arg;
        o->n_answered += answer != NULL;
        o->n_failed += err != NULL;
}

static struct outcome call_both(struct etcd *e, unsigned n)
{
        struct outcome o = {0};
        struct err err = {0};
        for (unsigned i = 0; i < n; i++)
                g_assert_nonnull(etcd_call(e, "/v3/kv/range", json_object(), on_done, &o, &err));
        while (o.n_answered + o.n_failed < n)
                (void)loop_once(true);
        return o;
}

/* Two calls that fail side by side at one member do not pass over the one that is well. */
static void test_side_by_side(void)
{
        struct sockaddr_in away, there;
        struct etcd_places p = {0};
        struct cert_files files = {0};
        struct err err = {0};
        int silent = bound(&away), fd = bound(&there);
        pid_t pid = serve(fd);
        g_autofree char *text = g_strdup_printf("http://127.0.0.1:%u,http://127.0.0.1:%u",
                                                ntohs(away.sin_port), ntohs(there.sin_port));
        g_assert_cmpint(etcd_places_parse(text, &p, &err), ==, 0);
        struct etcd *e = etcd_new(&p, &files, 60000, &err);
        g_assert_nonnull(e);
        struct outcome o = call_both(e, 2);
        g_assert_cmpuint(o.n_failed, ==, 2);
        for (int i = 0; i < 3; i++) {
                o = call_both(e, 2);
                g_assert_cmpuint(o.n_answered, ==, 2);
        }
        etcd_free(e);
        loop_done();
        (void)kill(pid, SIGKILL);
        g_assert_cmpint(waitpid(pid, NULL, 0), ==, pid);
        (void)close(silent);
        (void)close(fd);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/etcd/message/asked", test_asked);
        g_test_add_func("/etcd/message/range", test_range);
        g_test_add_func("/etcd/message/txn", test_txn);
        g_test_add_func("/etcd/message/lease", test_lease);
        g_test_add_func("/etcd/places", test_places);
        g_test_add_func("/etcd/side-by-side", test_side_by_side);
        return g_test_run();
}
