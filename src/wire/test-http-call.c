/* SPDX-License-Identifier: Apache-2.0 */
/* Calls to daemons on this machine. The servers are in the same loop; one of them never answers. */
#include "wire/http-call.h"

#include <glib.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#include "loop/loop.h"
#include "wire/http.h"
#include "wire/unix.h"

enum { CALL_MS = 60000, CALLS = 6, SIDE_BY_SIDE = 4 /* to one host; the others wait */ };

struct site {
        char *path;
        struct http_server *server;
        bool is_silent;
        unsigned n, n_kept;
        struct http_request *kept[CALLS];
};

struct outcome {
        unsigned n_over;
        int status;
        enum reason reason;
};

static char *dir;

static void on_request(void *arg, struct http_request *req)
{
        struct site *site = arg;
        const char *host = http_request_header(req, "Host");
        g_assert_cmpstr(host, ==, "localhost");
        site->n++;
        if (site->is_silent)
                site->kept[site->n_kept++] = req;
        else
                http_reply_text(req, 200, "text/plain", "so it is");
}

static void open_site(struct site *site, const char *name)
{
        struct http_limits limits = {0};
        struct err err = {0};
        site->path = g_build_filename(dir, name, NULL);
        int fd = unix_listen(site->path, 0600, &err);
        g_assert_cmpint(fd, >=, 0);
        site->server = http_server_new(fd, &limits, on_request, site, &err);
        g_assert_nonnull(site->server);
}

static void close_site(struct site *site)
{
        for (unsigned i = 0; i < site->n_kept; i++)
                http_reply_text(site->kept[i], 200, "text/plain", "at last");
        http_server_free(site->server);
        (void)g_unlink(site->path);
        g_free(site->path);
}

static void on_done(void *arg, const struct http_answer *answer, const struct cert_id *peer,
                    const struct err *err)
{
        struct outcome *o = arg;
        g_assert_null(peer);
        o->n_over++;
        o->status = answer ? answer->status : 0;
        o->reason = err ? err->reason : 0;
}

/* However many calls wait for one that never answers, another is called. */
static void test_one_is_silent(void)
{
        struct site silent = {.is_silent = true}, other = {0};
        struct outcome waiting = {0}, done = {0};
        struct http_calls *calls = http_calls_new(NULL);
        open_site(&silent, "silent");
        open_site(&other, "other");
        const struct http_target a = {.socket = silent.path}, b = {.socket = other.path};
        for (int i = 0; i < CALLS; i++)
                g_assert_nonnull(http_call(calls, &a, "GET", "/", NULL, 0, CALL_MS, on_done, &waiting, NULL));
        while (silent.n == 0)
                loop_once(true);
        g_assert_nonnull(http_call(calls, &b, "POST", "/", "{}", 2, CALL_MS, on_done, &done, NULL));
        while (done.n_over == 0)
                loop_once(true);
        g_assert_cmpint(done.status, ==, 200);
        g_assert_cmpuint(waiting.n_over, ==, 0);
        http_calls_free(calls);
        close_site(&silent);
        close_site(&other);
}

static struct outcome call_as(struct http_calls *calls, const char *path, uid_t owner)
{
        const struct http_target to = {.socket = path, .has_owner = true, .owner = owner};
        struct outcome o = {0};
        g_assert_nonnull(http_call(calls, &to, "POST", "/", "{}", 2, CALL_MS, on_done, &o, NULL));
        while (o.n_over == 0)
                loop_once(true);
        return o;
}

/* Who listens is somebody else, also behind a link: he is told nothing. */
static void test_owner(void)
{
        struct site site = {0};
        struct http_calls *calls = http_calls_new(NULL);
        g_autofree char *link = g_build_filename(dir, "link", NULL);
        open_site(&site, "site");
        g_assert_cmpint(symlink(site.path, link), ==, 0);
        for (int i = 0; i < 2; i++) {
                g_assert_cmpint(call_as(calls, site.path, getuid() + 1).reason, ==, REASON_DENIED);
                g_assert_cmpint(call_as(calls, link, getuid() + 1).reason, ==, REASON_DENIED);
        }
        g_assert_cmpuint(site.n, ==, 0);
        for (int i = 0; i < 2; i++) /* the other time over the same connection */
                g_assert_cmpint(call_as(calls, site.path, getuid()).status, ==, 200);
        g_assert_cmpuint(site.n, ==, 2);
        http_calls_free(calls);
        (void)g_unlink(link);
        close_site(&site);
}

static bool may_send(void *arg)
{
        return *(bool *)arg;
}

/* What waits for a connection until it is over is not sent, also over one that was there already. */
static void test_over(void)
{
        struct site silent = {.is_silent = true}, other = {0};
        struct outcome sent = {0}, waiting = {0}, late = {0};
        bool may = true;
        struct http_calls *calls = http_calls_new(NULL);
        http_calls_check(calls, may_send, &may);
        open_site(&silent, "silent");
        open_site(&other, "other");
        const struct http_target a = {.socket = silent.path}, b = {.socket = other.path};
        for (int i = 0; i < CALLS; i++)
                g_assert_nonnull(http_call(calls, &a, "POST", "/", "{}", 2, CALL_MS, on_done,
                                           i < SIDE_BY_SIDE ? &sent : &waiting, NULL));
        g_assert_nonnull(http_call(calls, &b, "GET", "/", NULL, 0, CALL_MS, on_done, &late, NULL));
        while (silent.n < SIDE_BY_SIDE || late.n_over < 1)
                loop_once(true);
        g_assert_cmpint(late.status, ==, 200);
        may = false;
        g_assert_nonnull(http_call(calls, &b, "GET", "/", NULL, 0, CALL_MS, on_done, &late, NULL));
        for (unsigned i = 0; i < SIDE_BY_SIDE; i++)
                http_reply_text(silent.kept[i], 200, "text/plain", "at last");
        silent.n_kept = 0;
        while (sent.n_over < SIDE_BY_SIDE || waiting.n_over < CALLS - SIDE_BY_SIDE || late.n_over < 2)
                loop_once(true);
        g_assert_cmpint(sent.status, ==, 200);
        g_assert_cmpint(waiting.reason, ==, REASON_STALE);
        g_assert_cmpint(late.reason, ==, REASON_STALE);
        g_assert_cmpuint(silent.n, ==, SIDE_BY_SIDE);
        g_assert_cmpuint(other.n, ==, 1);
        http_calls_free(calls);
        close_site(&silent);
        close_site(&other);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        dir = g_dir_make_tmp("mete-test-call-XXXXXX", NULL);
        g_test_add_func("/http-call/one-is-silent", test_one_is_silent);
        g_test_add_func("/http-call/owner", test_owner);
        g_test_add_func("/http-call/over", test_over);
        int status = g_test_run();
        loop_done();
        (void)g_rmdir(dir);
        g_free(dir);
        return status;
}
