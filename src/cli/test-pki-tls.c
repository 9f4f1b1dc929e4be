/* SPDX-License-Identifier: Apache-2.0 */
/* What `mete pki` makes is what server and client take, and all else is refused. Both sides are in the one
 * loop thread. */
#include <arpa/inet.h>
#include <errno.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/str.h"
#include "cli/pki.h"
#include "loop/loop.h"
#include "wire/gate.h"
#include "wire/http-call.h"
#include "wire/http.h"
#include "wire/tcp.h"

enum { CALL_MS = 60000, SECRET_N = 2 << 20 };

static char *dir, *other; /* two authorities */

struct site {
        struct http_server *server;
        struct tcp_address address;
        struct http_caller seen; /* who asked last */
        unsigned n_asked;
};

/* As a daemon does it: who is nobody learns why, and no more. */
static void on_request(void *arg, struct http_request *req)
{
        struct site *site = arg;
        g_assert_nonnull(req->caller);
        site->seen = *req->caller;
        site->n_asked++;
        if (!req->caller->id.role)
                http_reply_text(req, 403, "text/plain", req->caller->why);
        else if (strcmp(req->path, "/large") == 0)
                http_reply(req, 200, "text/plain", g_malloc0(SECRET_N), SECRET_N);
        else
                http_reply_text(req, 200, "text/plain", req->body_n ? req->body : "hello");
}

static struct cert_files files_of(const char *where, const char *name, const char *ca)
{
        struct cert_files f;
        (void)g_snprintf(f.cert, sizeof(f.cert), "%s/%s.crt", where, name);
        (void)g_snprintf(f.key, sizeof(f.key), "%s/%s.key", where, name);
        (void)g_snprintf(f.ca, sizeof(f.ca), "%s/ca.crt", ca);
        return f;
}

static void pin_of(const char *where, const char *name, char ret[CERT_PIN])
{
        struct cert_id id;
        g_autofree char *path = g_strdup_printf("%s/%s.crt", where, name);
        size_t n;
        char *text = cert_file_read(path, &n, NULL);
        g_assert_nonnull(text);
        g_assert_cmpint(cert_read_pem(text, n, &id, NULL), ==, 0);
        free(text);
        (void)g_strlcpy(ret, id.pin, CERT_PIN);
}

static int listen_somewhere(struct tcp_address *ret)
{
        struct sockaddr_in name;
        socklen_t n = sizeof(name);
        struct err err = {0};
        *ret = (struct tcp_address){.host = "127.0.0.1"};
        int fd = tcp_listen(ret, &err);
        g_assert_cmpint(fd, >=, 0);
        g_assert_cmpint(getsockname(fd, (struct sockaddr *)&name, &n), ==, 0);
        ret->port = ntohs(name.sin_port);
        return fd;
}

static void open_site_as(struct site *site, const struct cert_files *files, struct http_limits limits)
{
        struct err err = {0};
        *site = (struct site){0};
        int fd = listen_somewhere(&site->address);
        site->server = http_server_new_tls(fd, files, &limits, on_request, site, &err);
        g_assert_cmpstr(err.sentence, ==, "");
        g_assert_nonnull(site->server);
}

static void open_site(struct site *site, struct http_limits limits)
{
        struct cert_files files = files_of(dir, "a", dir);
        open_site_as(site, &files, limits);
}

static gnutls_datum_t text_of(const char *where, const char *file)
{
        g_autofree char *path = g_build_filename(where, file, NULL);
        gnutls_datum_t d = {0};
        gsize n;
        g_assert_true(g_file_get_contents(path, (char **)&d.data, &n, NULL));
        d.size = (unsigned)n;
        return d;
}

/* That of a, whose time is over: `mete pki` makes none. */
static void make_expired(const char *path)
{
        gnutls_datum_t a = text_of(dir, "a.crt"), ca = text_of(dir, "ca.crt"), key = text_of(dir, "ca.key"),
                       out;
        gnutls_x509_crt_t crt, authority;
        gnutls_x509_privkey_t with;
        g_assert_cmpint(gnutls_x509_crt_init(&crt), ==, 0);
        g_assert_cmpint(gnutls_x509_crt_init(&authority), ==, 0);
        g_assert_cmpint(gnutls_x509_privkey_init(&with), ==, 0);
        g_assert_cmpint(gnutls_x509_crt_import(crt, &a, GNUTLS_X509_FMT_PEM), ==, 0);
        g_assert_cmpint(gnutls_x509_crt_import(authority, &ca, GNUTLS_X509_FMT_PEM), ==, 0);
        g_assert_cmpint(gnutls_x509_privkey_import(with, &key, GNUTLS_X509_FMT_PEM), ==, 0);
        g_assert_cmpint(gnutls_x509_crt_set_activation_time(crt, time(NULL) - 7200), ==, 0);
        g_assert_cmpint(gnutls_x509_crt_set_expiration_time(crt, time(NULL) - 3600), ==, 0);
        g_assert_cmpint(gnutls_x509_crt_sign2(crt, authority, with, GNUTLS_DIG_SHA256, 0), ==, 0);
        g_assert_cmpint(gnutls_x509_crt_export2(crt, GNUTLS_X509_FMT_PEM, &out), ==, 0);
        g_assert_true(g_file_set_contents(path, (char *)out.data, (gssize)out.size, NULL));
        gnutls_x509_crt_deinit(crt);
        gnutls_x509_crt_deinit(authority);
        gnutls_x509_privkey_deinit(with);
        gnutls_free(out.data);
        g_free(a.data);
        g_free(ca.data);
        g_free(key.data);
}

struct outcome {
        bool is_over, is_new;
        int status;
        char text[256];
        struct cert_id peer;
        struct err err;
};

static void on_done(void *arg, const struct http_answer *answer, const struct cert_id *peer,
                    const struct err *err)
{
        struct outcome *o = arg;
        o->is_over = true;
        o->is_new = peer != NULL;
        if (peer)
                o->peer = *peer;
        if (err) {
                o->err = *err;
                return;
        }
        o->status = answer->status;
        (void)g_strlcpy(o->text, answer->body, sizeof(o->text));
}

static struct outcome ask(struct http_calls *calls, const struct site *site, const struct cert_files *files,
                          const char *pinned, const char *path)
{
        struct outcome o = {0};
        struct err err = {0};
        struct http_target to = {.address = site->address, .files = files};
        pin_of(dir, pinned, to.pin);
        g_assert_nonnull(http_call(calls, &to, "GET", path, NULL, 0, CALL_MS, on_done, &o, &err));
        g_assert_false(o.is_over);
        while (!o.is_over)
                loop_once(true);
        return o;
}

static void turn_all(void)
{
        while (loop_once(false))
                ;
}

static void close_site(struct site *site, struct http_calls *calls)
{
        http_calls_free(calls);
        http_server_free(site->server);
        turn_all();
}

static void test_hello(void)
{
        struct site site;
        struct err err = {0};
        struct http_calls *calls = http_calls_new(&err);
        struct cert_files b = files_of(dir, "b", dir), carol = files_of(dir, "carol", dir);
        open_site(&site, (struct http_limits){0});
        struct outcome o = ask(calls, &site, &b, "a", "/");
        g_assert_cmpint(o.status, ==, 200);
        g_assert_cmpstr(o.text, ==, "hello");
        g_assert_true(o.is_new);
        g_assert_cmpint(o.peer.role, ==, CERT_HYPERVISOR);
        g_assert_cmpstr(o.peer.name, ==, "a");
        g_assert_cmpint(o.peer.end_ms, >, loop_now_ms());
        g_assert_cmpint(site.seen.id.role, ==, CERT_HYPERVISOR);
        g_assert_cmpstr(site.seen.id.name, ==, "b");
        char pin[CERT_PIN];
        pin_of(dir, "b", pin);
        g_assert_cmpstr(site.seen.id.pin, ==, pin);
        /* The connection is kept, and used by nobody else. */
        o = ask(calls, &site, &b, "a", "/");
        g_assert_false(o.is_new);
        g_assert_cmpuint(http_server_counters(site.server)->connections, ==, 1);
        o = ask(calls, &site, &carol, "a", "/");
        g_assert_true(o.is_new);
        g_assert_cmpint(site.seen.id.role, ==, CERT_OPERATOR);
        g_assert_cmpstr(site.seen.id.name, ==, "carol");
        o = ask(calls, &site, &b, "a", "/large");
        g_assert_cmpint(o.err.reason, ==, REASON_INVALID);
        g_assert_cmpint(o.err.code, ==, EMSGSIZE);
        close_site(&site, calls);
}

/* The client's side: whom it does not speak to. The request does not leave. */
static void test_server_is_not_believed(void)
{
        struct site site;
        struct http_calls *calls = http_calls_new(NULL);
        struct cert_files b = files_of(dir, "b", dir), stranger = files_of(other, "b", other);
        open_site(&site, (struct http_limits){0});
        struct outcome o = ask(calls, &site, &b, "b", "/");
        g_assert_cmpint(o.err.reason, ==, REASON_DENIED);
        g_assert_nonnull(strstr(o.err.sentence, "not the pinned one"));
        o = ask(calls, &site, &stranger, "a", "/");
        g_assert_cmpint(o.err.reason, ==, REASON_DENIED);
        g_assert_nonnull(strstr(o.err.sentence, "not believed: it was not signed by the authority"));
        g_assert_cmpuint(site.n_asked, ==, 0);
        close_site(&site, calls);

        /* Its own, but too late. */
        struct cert_files old = files_of(dir, "a", dir);
        (void)g_snprintf(old.cert, sizeof(old.cert), "%s/old.crt", dir);
        make_expired(old.cert);
        calls = http_calls_new(NULL);
        open_site_as(&site, &old, (struct http_limits){0});
        o = ask(calls, &site, &b, "a", "/");
        g_assert_cmpint(o.err.reason, ==, REASON_DENIED);
        g_assert_nonnull(strstr(o.err.sentence, "not believed: it has expired"));
        g_assert_cmpuint(site.n_asked, ==, 0);
        close_site(&site, calls);
        (void)g_unlink(old.cert);

        /* Nobody there, or somebody who speaks no TLS. */
        calls = http_calls_new(NULL);
        o = ask(calls, &site, &b, "a", "/");
        g_assert_cmpint(o.err.reason, ==, REASON_PEER_LOST);
        g_assert_cmpint(o.err.code, ==, ECONNREFUSED);
        http_calls_free(calls);
        turn_all();
}

static time_t later(time_t *t)
{
        time_t now = (time_t)(g_get_real_time() / G_USEC_PER_SEC) + 2 * 86400;
        if (t)
                *t = now;
        return now;
}

/* The server's side: who gets an answer, but none that tells anything. */
static void test_client_is_not_believed(void)
{
        struct site site;
        struct http_calls *calls = http_calls_new(NULL);
        struct cert_files stranger = files_of(other, "b", dir), brief = files_of(dir, "brief", dir);
        open_site(&site, (struct http_limits){0});
        struct outcome o = ask(calls, &site, &stranger, "a", "/");
        g_assert_cmpint(o.status, ==, 403);
        g_assert_nonnull(strstr(o.text, "not of the authority"));
        o = ask(calls, &site, &brief, "a", "/");
        g_assert_cmpint(o.status, ==, 200);
        /* Its time ends while it is connected, and then for a new connection. */
        int64_t mono_ms = loop_mono_ms();
        loop_clock_fake((int64_t)later(NULL) * 1000, mono_ms);
        gnutls_global_set_time_function(later);
        o = ask(calls, &site, &brief, "a", "/");
        g_assert_false(o.is_new);
        g_assert_cmpint(o.status, ==, 403);
        g_assert_nonnull(strstr(o.text, "expired"));
        http_calls_free(calls);
        calls = http_calls_new(NULL);
        loop_clock_real();
        o = ask(calls, &site, &brief, "a", "/");
        g_assert_true(o.is_new);
        g_assert_cmpint(o.status, ==, 403);
        g_assert_nonnull(strstr(o.text, "expired"));
        gnutls_global_set_time_function(time);
        close_site(&site, calls);
}

static int connect_to(const struct site *site, const char *from)
{
        struct sockaddr_in at = {.sin_family = AF_INET}, to = {.sin_family = AF_INET};
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        to.sin_port = htons(site->address.port);
        g_assert_cmpint(inet_pton(AF_INET, site->address.host, &to.sin_addr), ==, 1);
        g_assert_cmpint(inet_pton(AF_INET, from, &at.sin_addr), ==, 1);
        g_assert_cmpint(bind(fd, (struct sockaddr *)&at, sizeof(at)), ==, 0);
        g_assert_cmpint(connect(fd, (struct sockaddr *)&to, sizeof(to)), ==, 0);
        turn_all();
        return fd;
}

static bool is_closed(int fd)
{
        char c;
        return recv(fd, &c, 1, MSG_DONTWAIT) == 0;
}

/* Those who connect and say nothing are many, from the same address and from others. */
static void test_silent(void)
{
        struct site site;
        struct http_calls *calls = http_calls_new(NULL);
        struct cert_files b = files_of(dir, "b", dir);
        int fds[12];
        open_site(&site, (struct http_limits){.connections_max = 6, .connections_per_uid = 4});
        for (size_t i = 0; i < G_N_ELEMENTS(fds); i++)
                fds[i] = connect_to(&site, i < 6 ? "127.0.0.1" : "127.0.0.2");
        g_assert_true(is_closed(fds[0]));
        g_assert_false(is_closed(fds[11]));
        g_assert_cmpuint(http_server_counters(site.server)->connections_now, ==, 6);
        struct outcome o = ask(calls, &site, &b, "a", "/");
        g_assert_cmpint(o.status, ==, 200);
        g_assert_cmpuint(http_server_counters(site.server)->displaced, ==, 7);
        g_assert_cmpuint(http_server_counters(site.server)->refused_connections, ==, 0);
        for (size_t i = 0; i < G_N_ELEMENTS(fds); i++)
                close(fds[i]);
        turn_all();
        o = ask(calls, &site, &b, "a", "/");
        g_assert_false(o.is_new);
        close_site(&site, calls);
}

/* Who is known gives way to nobody. */
static void test_known_stay(void)
{
        struct site site;
        struct http_calls *calls[3];
        struct outcome o;
        struct cert_files b = files_of(dir, "b", dir);
        open_site(&site, (struct http_limits){.connections_max = 2});
        for (size_t i = 0; i < G_N_ELEMENTS(calls); i++) {
                calls[i] = http_calls_new(NULL);
                o = ask(calls[i], &site, &b, "a", "/");
                g_assert_cmpint(o.status, ==, i < 2 ? 200 : 0);
        }
        g_assert_cmpint(o.err.reason, ==, REASON_PEER_LOST);
        g_assert_cmpuint(http_server_counters(site.server)->refused_connections, ==, 1);
        o = ask(calls[0], &site, &b, "a", "/");
        g_assert_false(o.is_new);
        g_assert_cmpint(o.status, ==, 200);
        http_calls_free(calls[1]);
        http_calls_free(calls[2]);
        close_site(&site, calls[0]);
}

static void test_idle(void)
{
        struct site site;
        open_site(&site, (struct http_limits){0});
        int64_t mono_ms = loop_mono_ms(), now_ms = loop_now_ms();
        loop_clock_fake(now_ms, mono_ms);
        int fd = connect_to(&site, "127.0.0.1");
        loop_clock_fake(now_ms, mono_ms + 9999);
        g_assert_cmpint(send(fd, "\x16\x03", 2, MSG_NOSIGNAL), ==, 2); /* what trickles in does not help */
        turn_all();
        g_assert_false(is_closed(fd));
        loop_clock_fake(now_ms, mono_ms + 10001);
        turn_all();
        g_assert_cmpuint(http_server_counters(site.server)->timeouts, ==, 1);
        g_assert_cmpuint(http_server_counters(site.server)->connections_now, ==, 0);
        close(fd);
        loop_clock_real();
        close_site(&site, NULL);
}

/* One address has its share of handshakes and no more; others are let in meanwhile. */
static void test_rate(void)
{
        struct site site;
        int fds[6];
        open_site(&site, (struct http_limits){.handshakes_per_s = 2});
        loop_clock_fake(loop_now_ms(), loop_mono_ms());
        for (size_t i = 0; i < G_N_ELEMENTS(fds); i++)
                fds[i] = connect_to(&site, i < 5 ? "127.0.0.1" : "127.0.0.2");
        g_assert_false(is_closed(fds[3]));
        g_assert_true(is_closed(fds[4]));
        g_assert_false(is_closed(fds[5]));
        g_assert_cmpuint(http_server_counters(site.server)->refused_connections, ==, 1);
        for (size_t i = 0; i < G_N_ELEMENTS(fds); i++)
                close(fds[i]);
        loop_clock_real();
        close_site(&site, NULL);
}

static void test_gate(void)
{
        struct gate g;
        struct in6_addr a =
                                {
                                        .s6_addr = {[10] = 0xff, [11] = 0xff, [12] = 10, [15] = 1}
        },
                        b = a, v6 = {.s6_addr = {0xfd, [15] = 1}}, v6b = v6;
        b.s6_addr[15] = 2;
        v6b.s6_addr[15] = 2; /* of the same network */
        gate_init(&g, 1, 2, 10, 5, 1000);
        g_assert_true(gate_enter(&g, &a, 1000) && gate_enter(&g, &a, 1000));
        g_assert_false(gate_enter(&g, &a, 1000));
        g_assert_true(gate_enter(&g, &b, 1000)); /* which cost the others nothing */
        g_assert_true(gate_enter(&g, &v6, 1000) && gate_enter(&g, &v6b, 1000));
        g_assert_false(gate_enter(&g, &v6, 1000));
        g_assert_cmpint(gate_wait_ms(&g, 1000), ==, 100); /* all five are gone */
        g_assert_true(gate_enter(&g, &a, 2000));
        /* More addresses than it remembers: all that is left is what holds for all. */
        gate_init(&g, 1, 1, 1000, 1000, 0);
        for (int i = 0; i < 2 * GATE_ADDRESSES; i++) {
                a.s6_addr[15] = (uint8_t)i;
                g_assert_true(gate_enter(&g, &a, i));
        }
        g_assert_false(gate_enter(&g, &a, 2 * GATE_ADDRESSES));
        a.s6_addr[15] = 0;
        g_assert_true(gate_enter(&g, &a, 2 * GATE_ADDRESSES));
}

static void on_done_free(void *arg, const struct http_answer *answer, const struct cert_id *peer,
                         const struct err *err)
{
        struct http_calls **calls = arg;
        http_calls_free(*calls);
        *calls = NULL;
}

/* Calls that are cancelled at any time, or freed with all, say nothing more. */
static void test_cancel(void)
{
        struct site site;
        struct http_calls *calls = http_calls_new(NULL);
        struct cert_files b = files_of(dir, "b", dir);
        open_site(&site, (struct http_limits){0});
        struct http_target to = {.address = site.address, .files = &b};
        pin_of(dir, "a", to.pin);
        for (int turns = 0; turns < 12; turns++) {
                struct outcome o = {0};
                struct http_call *call =
                        http_call(calls, &to, "GET", "/", NULL, 0, CALL_MS, on_done, &o, NULL);
                for (int i = 0; i < turns && !o.is_over; i++)
                        loop_once(false);
                if (o.is_over)
                        break; /* so fast was it: there is nothing left to cancel */
                http_call_cancel(call);
                turn_all();
                g_assert_false(o.is_over);
        }
        (void)http_call(calls, &to, "GET", "/", NULL, 0, CALL_MS, on_done_free, &calls, NULL);
        (void)http_call(calls, &to, "GET", "/", "{}", 2, CALL_MS, on_done_free, &calls, NULL);
        while (calls)
                loop_once(true);
        close_site(&site, NULL);
}

static void make(const char *where, const char *name, enum cert_role role, int days)
{
        struct pki_member m = {.role = role};
        struct err err = {0};
        g_assert_true(STR_COPY(m.name, name));
        bool is_first = strcmp(name, "a") == 0;
        g_assert_cmpint((is_first ? pki_init : pki_add)(where, &m, 1, days, &err), ==, 0);
}

static void remove_dir(char *where)
{
        GDir *d = g_dir_open(where, 0, NULL);
        for (const char *name; d && (name = g_dir_read_name(d));) {
                g_autofree char *path = g_build_filename(where, name, NULL);
                (void)g_unlink(path);
        }
        if (d)
                g_dir_close(d);
        (void)g_rmdir(where);
        g_free(where);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        dir = g_dir_make_tmp("mete-test-tls-XXXXXX", NULL);
        other = g_dir_make_tmp("mete-test-tls-XXXXXX", NULL);
        make(dir, "a", CERT_HYPERVISOR, 30);
        make(dir, "b", CERT_HYPERVISOR, 30);
        make(dir, "brief", CERT_HYPERVISOR, 1);
        make(dir, "carol", CERT_OPERATOR, 30);
        make(other, "a", CERT_HYPERVISOR, 30);
        make(other, "b", CERT_HYPERVISOR, 30);
        g_test_add_func("/tls/hello", test_hello);
        g_test_add_func("/tls/server-is-not-believed", test_server_is_not_believed);
        g_test_add_func("/tls/client-is-not-believed", test_client_is_not_believed);
        g_test_add_func("/tls/silent", test_silent);
        g_test_add_func("/tls/known-stay", test_known_stay);
        g_test_add_func("/tls/idle", test_idle);
        g_test_add_func("/tls/rate", test_rate);
        g_test_add_func("/tls/gate", test_gate);
        g_test_add_func("/tls/cancel", test_cancel);
        int status = g_test_run();
        loop_done();
        remove_dir(dir);
        remove_dir(other);
        return status;
}
