/* SPDX-License-Identifier: Apache-2.0 */
/* The clients are plain descriptors in the same loop thread, so that they can be slow, rude or gone. */
#include "wire/http.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "loop/loop.h"

static char *dir, *path;

struct site {
        struct http_server *server;
        GString *log;
        struct http_request *kept[300];
        unsigned n_kept;
        struct http_stream *stream[8];
        unsigned n_streams;
        bool free_in_callback;
        struct turn commit; /* answers all that is kept, as a daemon does after its commit */
        unsigned turns;
};

static void on_closed(void *arg, struct http_stream *stream)
{
        struct site *site = arg;
        g_string_append(site->log, "closed;");
        if (site->free_in_callback) {
                http_server_free(site->server);
                site->server = NULL;
        }
        for (unsigned i = 0; i < site->n_streams; i++)
                if (site->stream[i] == stream)
                        site->stream[i] = NULL;
}

static void on_request(void *arg, struct http_request *req)
{
        struct site *site = arg;
        if (site->free_in_callback) {
                http_server_free(site->server);
                site->server = NULL;
        }
        if (strcmp(req->path, "/echo") == 0) {
                const char *type = http_request_header(req, "Content-Type");
                char *text = g_strdup_printf("%s %s?%s [%s] %u", req->method, req->path, req->query,
                                             req->body, (unsigned)req->peer.uid);
                g_assert_cmpuint(req->body_n, ==, strlen(req->body));
                g_assert_cmpint(req->peer.pid, ==, getpid());
                http_reply_text(req, 200, type ? type : "text/plain", text);
                g_free(text);
        } else if (strcmp(req->path, "/later") == 0) {
                site->kept[site->n_kept++] = req;
        } else if (strcmp(req->path, "/commit") == 0) {
                site->kept[site->n_kept++] = req;
                loop_turn_request(&site->commit);
        } else if (strcmp(req->path, "/stream") == 0) {
                site->stream[site->n_streams] = http_stream(req, on_closed, site);
                if (site->stream[site->n_streams])
                        site->n_streams++;
        } else if (strcmp(req->path, "/headers") == 0) {
                g_assert_true(http_reply_header(req, "Retry-After", "3"));
                g_assert_false(http_reply_header(req, "Bad", "a\r\nInjected: b"));
                g_assert_false(http_reply_header(req, "Bad: x", "a"));
                for (int i = 0; i < 3; i++)
                        g_assert_true(http_reply_header(req, "X", "y"));
                g_assert_false(http_reply_header(req, "X", "y"));
                http_reply(req, 204, NULL, NULL, 0);
        } else {
                http_reply_text(req, 404, "text/plain", "nothing here");
        }
}

static void on_commit(void *arg)
{
        struct site *site = arg;
        site->turns++;
        for (unsigned i = 0; i < site->n_kept; i++)
                http_reply_text(site->kept[i], 200, "text/plain", "done");
        site->n_kept = 0;
}

static void open_site(struct site *site, struct http_limits limits)
{
        struct err err = {0};
        *site = (struct site){.log = g_string_new(NULL)};
        int fd = unix_listen(path, 0600, &err);
        g_assert_cmpint(fd, >=, 0);
        site->server = http_server_new(fd, &limits, on_request, site, &err);
        g_assert_nonnull(site->server);
        loop_turn_init(&site->commit, LOOP_COMMIT, on_commit, site);
}

static void turn_all(void)
{
        while (loop_once(false))
                ;
}

static void close_site(struct site *site)
{
        http_server_free(site->server);
        g_string_free(site->log, TRUE);
        turn_all();
        g_unlink(path);
}

static int client(void)
{
        int fd = unix_connect(path, NULL);
        g_assert_cmpint(fd, >=, 0);
        turn_all();
        return fd;
}

static void say(int fd, const char *text)
{
        for (size_t left = strlen(text); left > 0;) {
                ssize_t n = send(fd, text, left, MSG_NOSIGNAL);
                if (n < 0) {
                        if (errno != EAGAIN) /* the server has closed: what it said is still to be read */
                                return;
                        loop_once(false);
                        continue;
                }
                text += n;
                left -= (size_t)n;
        }
}

/* What arrived by the time that nothing more happens; "EOF" at its end where the server closed. */
static char *hear(int fd)
{
        GString *got = g_string_new(NULL);
        char part[65536];
        for (;;) {
                turn_all();
                ssize_t n = read(fd, part, sizeof(part));
                if (n > 0) {
                        g_string_append_len(got, part, n);
                        continue;
                }
                if (n == 0 || errno != EAGAIN)
                        g_string_append(got, "EOF");
                return g_string_free(got, FALSE);
        }
}

static void expect(int fd, const char *begin, const char *part)
{
        char *got = hear(fd);
        if (!g_str_has_prefix(got, begin) || !strstr(got, part))
                g_error("expected %s ... %s, not: %s", begin, part, got);
        g_free(got);
}

static void expect_silence(int fd)
{
        char *got = hear(fd);
        g_assert_cmpstr(got, ==, "");
        g_free(got);
}

static unsigned count(const char *text, const char *part)
{
        unsigned n = 0;
        for (const char *at = strstr(text, part); at; at = strstr(at + 1, part))
                n++;
        return n;
}

#define GET(target) "GET " target " HTTP/1.1\r\nHost: x\r\n\r\n"

/* ---- requests ---- */

static void test_requests(void)
{
        struct site site;
        char want[100];
        open_site(&site, (struct http_limits){0});
        int fd = client();
        say(fd, GET("/echo?a=%41&b"));
        (void)g_snprintf(want, sizeof(want), "\r\n\r\nGET /echo?a=%%41&b [] %u", (unsigned)getuid());
        expect(fd, "HTTP/1.1 200 OK\r\n", want); /* not unescaped: whoever routes does it */
        say(fd, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "
                "7\r\n\r\n{\"a\"");
        expect_silence(fd);
        say(fd, ":1}");
        expect(fd, "HTTP/1.1 200 OK\r\n", "POST /echo? [{\"a\":1}]");
        say(fd, "PUT /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: "
                "chunked\r\n\r\n2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n");
        expect(fd, "HTTP/1.1 200 OK\r\n", "PUT /echo? [abcde]");
        say(fd, GET("/nowhere%2e"));
        expect(fd, "HTTP/1.1 404", "nothing here");
        say(fd, GET("/headers"));
        expect(fd, "HTTP/1.1 204", "Retry-After: 3\r\n");
        say(fd, GET("/echo?1") GET("/echo?2") GET("/echo?3")); /* pipelined: answered in order */
        char *got = hear(fd);
        g_assert_cmpuint(count(got, "HTTP/1.1 200 OK"), ==, 3);
        g_assert_true(strstr(got, "?1 []") < strstr(got, "?2 []") &&
                      strstr(got, "?2 []") < strstr(got, "?3 []"));
        g_free(got);
        say(fd, "GET /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        expect(fd, "HTTP/1.1 200", "EOF");
        close(fd);
        turn_all();
        const struct http_counters *c = http_server_counters(site.server);
        g_assert_cmpuint(c->requests, ==, 9);
        g_assert_cmpuint(c->replies, ==, 9);
        g_assert_cmpuint(c->connections, ==, 1);
        g_assert_cmpuint(c->connections_now, ==, 0);
        close_site(&site);
}

static void test_later(void)
{
        struct site site;
        open_site(&site, (struct http_limits){0});
        int a = client(), b = client();
        say(a, GET("/later"));
        say(b, GET("/echo"));
        expect(b, "HTTP/1.1 200", "GET /echo");
        expect_silence(a);
        g_assert_cmpuint(site.n_kept, ==, 1);
        http_reply_text(site.kept[0], 202, "text/plain", "at last");
        expect(a, "HTTP/1.1 202", "at last");
        say(a, GET("/echo"));
        expect(a, "HTTP/1.1 200", "GET /echo"); /* the connection is as good as before */
        close(a);
        close(b);
        close_site(&site);
}

/* The answers of one commit leave together, in the turn of that commit. */
static void test_one_turn(void)
{
        enum { N = 50 };
        struct site site;
        int fd[N];
        open_site(&site, (struct http_limits){0});
        for (int i = 0; i < N; i++)
                fd[i] = client();
        for (int round = 0; round < 20; round++) {
                unsigned before = site.turns;
                for (int i = 0; i < N; i++)
                        say(fd[i], GET("/commit"));
                while (site.turns == before)
                        loop_once(true);
                for (int i = 0; i < N; i++) { /* no further turn was needed */
                        char got[1000];
                        ssize_t n = read(fd[i], got, sizeof(got));
                        g_assert_cmpint(n, >, 0);
                        g_assert_true(g_str_has_prefix(got, "HTTP/1.1 200"));
                }
                g_assert_cmpuint(site.turns, ==, before + 1);
        }
        for (int i = 0; i < N; i++)
                close(fd[i]);
        close_site(&site);
}

static void test_gone(void)
{
        struct site site;
        open_site(&site, (struct http_limits){0});
        int fd = client();
        say(fd, GET("/later"));
        turn_all();
        close(fd); /* its client does not wait for the answer */
        turn_all();
        http_reply_text(site.kept[0], 200, "text/plain", "anyone?");
        turn_all();
        g_assert_cmpuint(http_server_counters(site.server)->connections_now, ==, 0);
        fd = client();
        say(fd, GET("/later"));
        turn_all();
        http_server_free(site.server);
        site.server = NULL;
        expect(fd, "", "EOF");
        http_reply_text(site.kept[1], 200, "text/plain", "anyone?"); /* its server is gone, too */
        close(fd);
        close_site(&site);
}

static void test_free_inside(void)
{
        struct site site;
        for (int late = 0; late < 2; late++) {
                open_site(&site, (struct http_limits){0});
                int a = client(), b = client();
                say(a, GET("/later"));
                turn_all();
                site.free_in_callback = true;
                say(b, late ? GET("/later") : GET("/echo"));
                turn_all();
                g_assert_null(site.server);
                expect(a, "", "EOF");
                for (unsigned i = 0; i < site.n_kept; i++)
                        http_reply_text(site.kept[i], 200, "text/plain", "void");
                close(a);
                close(b);
                close_site(&site);
        }
        open_site(&site, (struct http_limits){0});
        int a = client(), b = client();
        say(a, GET("/stream"));
        say(b, GET("/stream"));
        turn_all();
        site.free_in_callback = true;
        close(a);
        turn_all();
        g_assert_null(site.server);
        g_assert_cmpstr(site.log->str, ==, "closed;closed;");
        close(b);
        close_site(&site);
}

/* ---- limits ---- */

static void test_body_too_large(void)
{
        struct site site;
        open_site(&site, (struct http_limits){.body_max_bytes = 1000});
        int fd = client();
        say(fd, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n");
        expect(fd, "HTTP/1.1 413", "at most 1000 bytes"); /* before the body was sent */
        close(fd);
        char *body = g_strnfill(1000, 'b');
        fd = client();
        say(fd, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n");
        say(fd, body);
        expect(fd, "HTTP/1.1 200", "bbb]");
        say(fd, "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n");
        say(fd, body);
        say(fd, "\r\n1\r\nb\r\n0\r\n\r\n");
        expect(fd, "HTTP/1.1 413", "at most 1000 bytes");
        close(fd);
        fd = client(); /* chunks without end are not read for ever */
        say(fd, "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
        for (int i = 0; i < 40; i++) {
                say(fd, "3e8\r\n");
                say(fd, body);
                say(fd, "\r\n");
        }
        expect(fd, "", "EOF");
        close(fd);
        g_assert_cmpuint(http_server_counters(site.server)->too_large, ==, 2);
        g_assert_cmpuint(http_server_counters(site.server)->requests, ==, 1);
        g_free(body);
        close_site(&site);
}

static void test_headers_too_large(void)
{
        struct site site;
        open_site(&site, (struct http_limits){.header_max_bytes = 4096});
        char *big = g_strnfill(20000, 'h');
        int fd = client();
        say(fd, "GET /echo HTTP/1.1\r\nHost: x\r\nX-Big: ");
        say(fd, big);
        say(fd, "\r\n\r\n");
        expect(fd, "HTTP/1.1 431", "EOF");
        close(fd);
        fd = client();
        say(fd, "GET /");
        say(fd, big);
        say(fd, " HTTP/1.1\r\nHost: x\r\n\r\n");
        expect(fd, "HTTP/1.1 4", "EOF");
        close(fd);
        g_assert_cmpuint(http_server_counters(site.server)->requests, ==, 0);
        g_free(big);
        close_site(&site);
}

static void test_not_http(void)
{
        static const char *const rude[] = {
                "\x16\x03\x01\x02\r\n\r\n",
                "{\"jsonrpc\":\"2.0\"}\n\n",
                "GET\r\n\r\n",
                "GET /echo HTTP/1.1\r\n\r\n", /* no host */
                "GET echo HTTP/1.1\r\nHost: x\r\n\r\n",
                "GET http://elsewhere/echo HTTP/1.1\r\nHost: x\r\n\r\n",
                "GET /echo#part HTTP/1.1\r\nHost: x\r\n\r\n",
                "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
                "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
                "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                "AVERYLONGMETHODINDEED /echo HTTP/1.1\r\nHost: x\r\n\r\n",
        };
        struct site site;
        open_site(&site, (struct http_limits){0});
        for (size_t i = 0; i < G_N_ELEMENTS(rude); i++) {
                int fd = client();
                say(fd, rude[i]);
                shutdown(fd, SHUT_WR);
                char *got = hear(fd);
                if (!g_str_has_prefix(got, "HTTP/1.1 4") && !g_str_has_prefix(got, "HTTP/1.1 5") &&
                    !g_str_has_prefix(got, "HTTP/1.0 4") && strcmp(got, "EOF") != 0)
                        g_error("%s got %s", rude[i], got);
                g_free(got);
                close(fd);
        }
        g_assert_cmpuint(http_server_counters(site.server)->requests, ==, 0);
        int fd = client();
        say(fd, GET("/echo"));
        expect(fd, "HTTP/1.1 200", "GET /echo");
        close(fd);
        close_site(&site);
}

static void test_connections(void)
{
        struct site site;
        int fd[5];
        open_site(&site, (struct http_limits){.connections_max = 3});
        for (int i = 0; i < 5; i++)
                fd[i] = client();
        for (int i = 3; i < 5; i++) {
                char *got = hear(fd[i]);
                g_assert_true(g_str_has_prefix(got, "HTTP/1.1 503"));
                g_assert_true(g_str_has_suffix(got, "try again soon\"}\nEOF"));
                char *body = strstr(got, "\r\n\r\n") + 4; /* its length is what it says */
                g_assert_cmpuint(strlen(body) - 3, ==,
                                 strtoul(strstr(got, "Content-Length:") + 15, NULL, 10));
                g_free(got);
                close(fd[i]);
        }
        g_assert_cmpuint(http_server_counters(site.server)->refused_connections, ==, 2);
        close(fd[0]);
        turn_all();
        fd[0] = client();
        say(fd[0], GET("/echo"));
        expect(fd[0], "HTTP/1.1 200", "GET");
        for (int i = 0; i < 3; i++)
                close(fd[i]);
        close_site(&site);

        open_site(&site, (struct http_limits){.connections_per_uid = 2});
        for (int i = 0; i < 3; i++)
                fd[i] = client();
        expect(fd[2], "HTTP/1.1 503", "EOF");
        for (int i = 0; i < 3; i++)
                close(fd[i]);
        close_site(&site);
}

static void test_slow(void)
{
        struct site site;
        loop_clock_fake(0, 0);
        open_site(&site, (struct http_limits){.idle_ms = 1000});
        int header = client(), body = client(), idle = client(), waiting = client();
        say(header, "GET /echo HT");
        say(body, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n");
        say(idle, GET("/echo"));
        say(waiting, GET("/later"));
        turn_all();
        for (int now = 100; now < 1000; now += 100) { /* a byte now and then does not help */
                loop_clock_fake(0, now);
                say(header, "x");
                say(body, "x");
                turn_all();
        }
        expect(idle, "HTTP/1.1 200", "GET /echo");
        expect_silence(body);
        loop_clock_fake(0, 1000);
        expect(header, "", "EOF");
        expect(body, "", "EOF");
        expect(idle, "", "EOF");
        expect_silence(waiting); /* we are the slow ones here */
        g_assert_cmpuint(http_server_counters(site.server)->timeouts, ==, 3);
        http_reply_text(site.kept[0], 200, "text/plain", "ok");
        expect(waiting, "HTTP/1.1 200", "ok");
        loop_clock_fake(0, 1999);
        say(waiting, GET("/echo"));
        expect(waiting, "HTTP/1.1 200", "GET /echo");
        loop_clock_fake(0, 2998);
        expect_silence(waiting);
        loop_clock_fake(0, 2999);
        expect(waiting, "", "EOF");
        close(header);
        close(body);
        close(idle);
        close(waiting);
        close_site(&site);
        loop_clock_real();
}

/* ---- streams ---- */

static void test_stream(void)
{
        struct site site;
        loop_clock_fake(0, 0);
        open_site(&site, (struct http_limits){.heartbeat_ms = 15000, .idle_ms = 1000});
        int fd = client();
        say(fd, GET("/stream"));
        expect(fd, "HTTP/1.1 200", "Content-Type: text/event-stream");
        g_assert_cmpint(http_stream_send(site.stream[0], 7, "granted", "{\"a\":1}", 7), ==, 0);
        g_assert_cmpint(http_stream_send(site.stream[0], 0, NULL, "{}", 2), ==, 0);
        expect(fd, "", "id: 7\nevent: granted\ndata: {\"a\":1}\n\ndata: {}\n\n");
        g_assert_cmpint(http_stream_send(site.stream[0], 0, NULL, "a\nb", 3), ==, -EINVAL);
        g_assert_cmpint(http_stream_send(site.stream[0], 0, "a\nb", "{}", 2), ==, -EINVAL);
        loop_clock_fake(0, 14999); /* far above idle_ms: that is not for streams */
        expect_silence(fd);
        loop_clock_fake(0, 15000);
        expect(fd, "", ":\n\n");
        http_stream_send(site.stream[0], 8, NULL, "\"last\"", 6);
        http_stream_end(site.stream[0]);
        expect(fd, "", "data: \"last\"\n\n\r\n0\r\n\r\n");
        g_assert_cmpstr(site.log->str, ==, "");
        g_assert_cmpuint(http_server_counters(site.server)->streams_now, ==, 0);
        say(fd, GET("/echo"));
        expect(fd, "HTTP/1.1 200", "GET /echo");
        close(fd);
        close_site(&site);
        loop_clock_real();
}

static void test_stream_gone(void)
{
        struct site site;
        open_site(&site, (struct http_limits){0});
        int fd = client();
        say(fd, GET("/stream"));
        turn_all();
        close(fd);
        turn_all(); /* noticed at once, not at the next event or beat */
        g_assert_cmpstr(site.log->str, ==, "closed;");
        g_assert_cmpuint(http_server_counters(site.server)->connections_now, ==, 0);
        fd = client();
        say(fd, GET("/stream"));
        turn_all();
        http_server_free(site.server);
        site.server = NULL;
        g_assert_cmpstr(site.log->str, ==, "closed;closed;");
        expect(fd, "HTTP/1.1 200", "EOF");
        close(fd);
        close_site(&site);
}

static void test_stream_slow(void)
{
        struct site site;
        open_site(&site, (struct http_limits){.stream_queue_max_bytes = 20000});
        int fd = client(), other = client();
        say(fd, GET("/stream"));
        say(other, GET("/stream"));
        turn_all();
        char json[1002];
        memset(json, 'x', sizeof(json));
        json[0] = json[1001] = '"';
        int r = 0, n = 0;
        while (r == 0 && n++ < 5000) {
                r = http_stream_send(site.stream[0], 0, NULL, json, sizeof(json));
                loop_once(false);
        }
        g_assert_cmpint(r, ==, -ENOBUFS);
        g_assert_cmpint(n, >, 20);
        turn_all();
        g_assert_cmpstr(site.log->str, ==, "closed;");
        g_assert_cmpuint(http_server_counters(site.server)->slow_streams, ==, 1);
        char *got = hear(fd);
        g_assert_true(g_str_has_suffix(got, "EOF"));
        g_free(got);
        g_assert_cmpint(http_stream_send(site.stream[1], 0, NULL, "1", 1), ==, 0); /* nobody else suffers */
        expect(other, "HTTP/1.1 200", "data: 1\n\n");
        close(fd);
        close(other);
        close_site(&site);
}

/* Less than the queue's bound is stuck, but for two beats. */
static void test_stream_stalled(void)
{
        struct site site;
        loop_clock_fake(0, 0);
        open_site(&site, (struct http_limits){.heartbeat_ms = 1000, .stream_queue_max_bytes = 1 << 20});
        int fd = client();
        say(fd, GET("/stream"));
        turn_all();
        char *json = g_strnfill(700000, '1');
        g_assert_cmpint(http_stream_send(site.stream[0], 0, NULL, json, 700000), ==, 0);
        for (int now = 0; now <= 2000; now += 500) {
                loop_clock_fake(0, now);
                turn_all();
                g_assert_cmpstr(site.log->str, ==, "");
        }
        loop_clock_fake(0, 3000);
        turn_all();
        g_assert_cmpstr(site.log->str, ==, "closed;");
        g_free(json);
        close(fd);
        close_site(&site);
        loop_clock_real();
}

static void test_streams_max(void)
{
        struct site site;
        open_site(&site, (struct http_limits){.streams_max = 1});
        int a = client(), b = client();
        say(a, GET("/stream"));
        say(b, GET("/stream"));
        expect(b, "HTTP/1.1 503", "too many event streams");
        close(a);
        turn_all();
        say(b, GET("/stream"));
        expect(b, "HTTP/1.1 200", "event-stream");
        close(b);
        close_site(&site);
}

/* Out of descriptors: nothing spins, and it goes on as soon as there are some again. */
static void test_no_descriptors(void)
{
        struct site site;
        int hog[20000], n = 0;
        loop_clock_fake(0, 0);
        open_site(&site, (struct http_limits){0});
        int fd = unix_connect(path, NULL);
        say(fd, GET("/echo"));
        while (n < 20000 && (hog[n] = dup(fd)) >= 0)
                n++;
        if (n == 20000) {
                g_test_skip("more than 20000 descriptors are allowed here");
        } else {
                int turns = 0;
                while (loop_once(false))
                        g_assert_cmpint(++turns, <, 100);
        }
        while (n > 0)
                close(hog[--n]);
        loop_clock_fake(0, 100);
        expect(fd, "HTTP/1.1 200", "GET /echo");
        close(fd);
        close_site(&site);
        loop_clock_real();
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        dir = g_dir_make_tmp("mete-http-XXXXXX", NULL);
        path = g_build_filename(dir, "s", NULL);
        g_test_add_func("/http/requests", test_requests);
        g_test_add_func("/http/later", test_later);
        g_test_add_func("/http/one-turn", test_one_turn);
        g_test_add_func("/http/gone", test_gone);
        g_test_add_func("/http/free-inside", test_free_inside);
        g_test_add_func("/http/body-too-large", test_body_too_large);
        g_test_add_func("/http/headers-too-large", test_headers_too_large);
        g_test_add_func("/http/not-http", test_not_http);
        g_test_add_func("/http/connections", test_connections);
        g_test_add_func("/http/slow", test_slow);
        g_test_add_func("/http/stream", test_stream);
        g_test_add_func("/http/stream-gone", test_stream_gone);
        g_test_add_func("/http/stream-slow", test_stream_slow);
        g_test_add_func("/http/stream-stalled", test_stream_stalled);
        g_test_add_func("/http/streams-max", test_streams_max);
        g_test_add_func("/http/no-descriptors", test_no_descriptors);
        int r = g_test_run();
        loop_done();
        g_rmdir(dir);
        g_free(path);
        g_free(dir);
        return r;
}
