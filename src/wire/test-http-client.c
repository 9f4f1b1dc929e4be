/* SPDX-License-Identifier: Apache-2.0 */
/* The client blocks, so it runs in a thread of its own, against our server in the loop thread; and against a
 * plain listener that says what no server of ours would. */
#include "wire/http-client.h"

#include <errno.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/socket.h>
#include <unistd.h>

#include "loop/loop.h"
#include "wire/http.h"
#include "wire/unix.h"

static char *dir, *path;
static struct http_stream *stream;
static struct http_request *never;

static void on_closed(void *arg, struct http_stream *s)
{
        stream = NULL;
}

static void on_request(void *arg, struct http_request *req)
{
        if (strcmp(req->path, "/stream") == 0) {
                stream = http_stream(req, on_closed, NULL);
                char text[32];
                for (int i = 1; i <= 3; i++)
                        http_stream_send(stream, i, "tick", text,
                                         (size_t)snprintf(text, sizeof(text), "{\"n\":%d}", i));
                if (strcmp(req->query, "end") == 0) {
                        http_stream_end(stream);
                        stream = NULL;
                }
        } else if (strcmp(req->path, "/refused") == 0) {
                http_reply_text(req, 409, "application/json", "{\"reason\":\"busy\"}");
        } else if (strcmp(req->path, "/never") == 0) {
                never = req;
        } else {
                char *text = g_strdup_printf("%s %s?%s %s", req->method, req->path, req->query, req->body);
                http_reply_text(req, 200, "application/json", text);
                g_free(text);
        }
}

/* ---- against our server ---- */

static bool take(void *arg, const struct http_event *e)
{
        GString *log = arg;
        g_string_append_printf(log, "%s/%s/%s;", e->id, e->event, e->data);
        return !strstr(e->data, "stop");
}

static bool take_two(void *arg, const struct http_event *e)
{
        take(arg, e);
        return strcmp(e->id, "2") != 0;
}

static gpointer client_thread(gpointer arg)
{
        struct err err = {0};
        struct http_answer a;
        struct http_client *c = http_client_new(path, &err);
        g_assert_nonnull(c);
        for (int i = 0; i < 3; i++) {
                g_assert_cmpint(http_client_do(c, "GET", "/a?b=%20", NULL, 0, 5000, &a, &err), ==, 0);
                g_assert_cmpint(a.status, ==, 200);
                g_assert_cmpstr(a.body, ==, "GET /a?b=%20 ");
                g_assert_cmpstr(a.content_type, ==, "application/json");
                http_answer_done(&a);
                g_assert_cmpint(http_client_do(c, "POST", "/a", "{\"x\":1}", 7, 5000, &a, &err), ==, 0);
                g_assert_cmpstr(a.body, ==, "POST /a? {\"x\":1}");
                http_answer_done(&a);
                http_answer_done(&a);
                g_assert_cmpint(http_client_do(c, "DELETE", "/a", NULL, 0, 5000, &a, &err), ==, 0);
                g_assert_cmpstr(a.body, ==, "DELETE /a? ");
                http_answer_done(&a);
        }
        char *big = g_strnfill(65536, 'b');
        g_assert_cmpint(http_client_do(c, "POST", "/a", big, 65536, 5000, &a, &err), ==, 0);
        g_assert_cmpuint(a.body_n, ==, 65536 + strlen("POST /a? "));
        http_answer_done(&a);
        g_assert_cmpint(http_client_do(c, "POST", "/a", "", 0, 5000, &a, &err), ==, 0);
        g_assert_cmpstr(a.body, ==, "POST /a? ");
        http_answer_done(&a);
        g_free(big);
        g_assert_cmpint(http_client_do(c, "GET", "/refused", NULL, 0, 5000, &a, &err), ==, 0);
        g_assert_cmpint(a.status, ==, 409);
        http_answer_done(&a);
        g_assert_cmpint(err.reason, ==, 0);
        g_assert_cmpint(http_client_do(c, "GET", "/never", NULL, 0, 100, &a, &err), ==, -ETIMEDOUT);
        g_assert_cmpint(err.reason, ==, REASON_TIMEOUT);

        GString *log = g_string_new(NULL);
        g_assert_cmpint(http_client_stream(c, "/stream?end", 5000, 0, take, log, &a, &err), ==, 0);
        g_assert_cmpint(a.status, ==, 200);
        g_assert_cmpstr(log->str, ==, "1/tick/{\"n\":1};2/tick/{\"n\":2};3/tick/{\"n\":3};");
        http_answer_done(&a);
        g_string_truncate(log, 0);
        g_assert_cmpint(http_client_stream(c, "/stream", 5000, 0, take_two, log, &a, &err), ==, 0);
        g_assert_cmpstr(log->str, ==, "1/tick/{\"n\":1};2/tick/{\"n\":2};");
        http_answer_done(&a);
        g_string_truncate(log, 0);
        g_assert_cmpint(http_client_stream(c, "/refused", 5000, 0, take, log, &a, &err), ==, 0);
        g_assert_cmpint(a.status, ==, 409);
        g_assert_cmpstr(a.body, ==, "{\"reason\":\"busy\"}");
        g_assert_cmpstr(log->str, ==, "");
        http_answer_done(&a);
        g_assert_cmpint(http_client_stream(c, "/stream", 5000, 300, take, log, &a, &err), ==, -ETIMEDOUT);
        g_assert_cmpint(err.reason, ==, REASON_TIMEOUT); /* a server that fell silent */
        g_string_free(log, TRUE);
        http_client_free(c);
        http_client_free(NULL);
        loop_quit();
        return NULL;
}

static void test_server(void)
{
        struct err err = {0};
        struct http_limits limits = {0};
        int fd = unix_listen(path, 0600, &err);
        struct http_server *s = http_server_new(fd, &limits, on_request, NULL, &err);
        GThread *t = g_thread_new("client", client_thread, NULL);
        loop_run();
        g_thread_join(t);
        http_server_free(s);
        http_reply_text(never, 200, NULL, "much too late");
        g_unlink(path);
}

/* ---- against one that is not ours ---- */

struct script {
        int listen_fd;
        const char *answer;
        size_t repeat; /* of the last byte */
};

static gpointer script_thread(gpointer arg)
{
        struct script *s = arg;
        char got[1000];
        int fd;
        while ((fd = accept(s->listen_fd, NULL, NULL)) < 0)
                g_usleep(1000);
        (void)!read(fd, got, sizeof(got));
        (void)!send(fd, s->answer, strlen(s->answer), MSG_NOSIGNAL);
        char *more = g_strnfill(65536, s->answer[0] ? s->answer[strlen(s->answer) - 1] : ' ');
        for (size_t left = s->repeat; left > 0;) {
                ssize_t n = send(fd, more, MIN(left, 65536), MSG_NOSIGNAL);
                if (n < 0)
                        break;
                left -= (size_t)n;
        }
        g_free(more);
        close(fd);
        return NULL;
}

static int play(const char *answer, size_t repeat, bool is_stream, struct err *err, char **ret_body)
{
        struct http_answer a = {0};
        struct script s = {.listen_fd = unix_listen(path, 0600, NULL), .answer = answer, .repeat = repeat};
        GThread *t = g_thread_new("script", script_thread, &s);
        struct http_client *c = http_client_new(path, NULL);
        GString *log = g_string_new(NULL);
        int r = is_stream ? http_client_stream(c, "/", 5000, 0, take, log, &a, err)
                          : http_client_do(c, "GET", "/", NULL, 0, 5000, &a, err);
        *ret_body = g_strdup(is_stream ? log->str : a.body ? a.body : "");
        http_answer_done(&a);
        http_client_free(c);
        g_thread_join(t);
        close(s.listen_fd);
        g_unlink(path);
        g_string_free(log, TRUE);
        return r;
}

static void test_rude_server(void)
{
        static const struct {
                const char *answer;
                size_t repeat;
                bool is_stream;
                int r;
                enum reason reason;
                const char *body;
        } rows[] = {
                {"HTTP/1.1 200 OK\r\n\r\nuntil the end",                0,        false, 0,           0,                "until the end"  },
                {"",                                                    0,        false, -ECONNRESET, REASON_PEER_LOST, ""               },
                {"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort", 0,        false, -ECONNRESET,
                 REASON_PEER_LOST,                                                                                      ""               },
                {"SSH-2.0-OpenSSH_9.2\r\n",                             0,        false, -EPROTO,     REASON_INVALID,   ""               },
                {"HTTP/1.1 200 OK\r\n\r\nx",                            17 << 20, false, -EMSGSIZE,   REASON_INVALID,   ""               },
                {"HTTP/1.1 200 OK\r\n\r\ndata: 1\n\n: c\ndata: 2\ndata: 3\n\ndata:4\r\n\r\nevent: x\nid: "
                 "9\n\ndata: half",                    0,        true,  0,           0,                "//1;//2\n3;//4;"},
                {"HTTP/1.1 200 OK\r\n\r\ndata: stop\n\ndata: more\n\n", 0,        true,  0,           0,                "//stop;"        },
                {"HTTP/1.1 200 OK\r\n\r\ndata: x",                      2 << 20,  true,  -EMSGSIZE,   REASON_INVALID,   ""               },
        };
        for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
                struct err err = {0};
                char *body;
                int r = play(rows[i].answer, rows[i].repeat, rows[i].is_stream, &err, &body);
                if (r != rows[i].r || err.reason != rows[i].reason || strcmp(body, rows[i].body) != 0)
                        g_error("row %zu: %d %s %s: %.200s", i, r, reason_name(err.reason), err.sentence,
                                body);
                g_free(body);
        }
}

/* Many small data lines of one event: bounded as well. */
static void test_large_event(void)
{
        GString *text = g_string_new("HTTP/1.1 200 OK\r\n\r\n");
        for (int i = 0; i < 1100; i++) {
                g_string_append(text, "data: ");
                for (int k = 0; k < 1000; k++)
                        g_string_append_c(text, 'x');
                g_string_append_c(text, '\n');
        }
        g_string_append(text, "\n");
        struct err err = {0};
        char *body;
        g_assert_cmpint(play(text->str, 0, true, &err, &body), ==, -EMSGSIZE);
        g_free(body);
        g_string_free(text, TRUE);
}

static void test_nobody(void)
{
        struct err err = {0};
        struct http_answer a;
        struct http_client *c = http_client_new(path, &err);
        g_assert_cmpint(http_client_do(c, "GET", "/", NULL, 0, 1000, &a, &err), <, 0);
        g_assert_cmpint(err.reason, ==, REASON_PEER_LOST);
        g_assert_nonnull(strstr(err.sentence, "nobody listens there"));
        close(unix_listen(path, 0600, NULL)); /* a dead socket */
        g_assert_cmpint(http_client_do(c, "GET", "/", NULL, 0, 1000, &a, &err), ==, -ECONNREFUSED);
        g_assert_cmpint(err.reason, ==, REASON_PEER_LOST);
        http_client_free(c);
        g_unlink(path);
        char *longer = g_strnfill(200, 'x');
        g_assert_null(http_client_new(longer, &err));
        g_assert_cmpint(err.code, ==, ENAMETOOLONG);
        g_free(longer);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        dir = g_dir_make_tmp("mete-client-XXXXXX", NULL);
        path = g_build_filename(dir, "s", NULL);
        g_test_add_func("/http-client/server", test_server);
        g_test_add_func("/http-client/rude-server", test_rude_server);
        g_test_add_func("/http-client/large-event", test_large_event);
        g_test_add_func("/http-client/nobody", test_nobody);
        int r = g_test_run();
        loop_done();
        g_rmdir(dir);
        g_free(path);
        g_free(dir);
        return r;
}
