/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/test-rpc.h"

/* ---- descriptors ---- */

static void on_done_fd(void *arg, const json_t *result, const struct err *err)
{
        struct done *d = arg;
        d->n++;
        d->reason = err ? err->reason : 0;
        g_assert_cmpint(rpc_take_result_fds(*d->to_free, &d->fd, 1, NULL), ==, err ? -EINVAL : 0);
}

static size_t open_fds(void)
{
        size_t n = 0;
        GDir *dir = g_dir_open("/proc/self/fd", 0, NULL);
        while (g_dir_read_name(dir))
                n++;
        g_dir_close(dir);
        return n;
}

static void test_fds(void)
{
        int pair[2], a[2], b[2], none[2];
        turn_all();
        size_t before = open_fds();
        struct err err = {0};
        g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), ==, 0);
        g_assert_cmpint(pipe2(a, O_CLOEXEC), ==, 0);
        g_assert_cmpint(pipe2(b, O_CLOEXEC), ==, 0);
        struct side s = {.log = g_string_new(NULL), .peer = -1};
        struct rpc_options o = {.fds_max = 4, .on_request = on_request};
        struct rpc *server = rpc_new(pair[0], &o, &s, &err), *client = rpc_new(pair[1], &o, &s, &err);
        struct done d[4] = {
                {.to_free = &client, .fd = -1},
                {.fd = -1                 },
                {.fd = -1},
                {.fd = -1                 }
        };
        d[1].to_free = d[2].to_free = d[3].to_free = &client;
        /* Together in one turn, with plain calls around it: each must get its own. */
        g_assert_cmpint(rpc_call(client, "count-fds", NULL, 0, on_done_fd, &d[1], &err), ==, 0);
        g_assert_cmpint(
                rpc_call_fds(client, "count-fds", NULL, (int[]){a[1], b[1]}, 2, 0, on_done_fd, &d[0], &err),
                ==, 0);
        g_assert_cmpint(rpc_call(client, "count-fds", NULL, 0, on_done_fd, &d[2], &err), ==, 0);
        g_assert_cmpint(rpc_call_fds(client, "count-fds", NULL, (int[]){a[1]}, 1, 0, on_done_fd, &d[3], &err),
                        ==, 0);
        turn_all();
        g_assert_cmpuint(d[0].n, ==, 1);
        g_assert_cmpint(d[0].reason, ==, 0);
        for (int i = 1; i < 4; i++)
                g_assert_cmpint(d[i].reason, ==, REASON_INVALID);
        g_assert_cmpint(write(d[0].fd, "back", 4), ==, 4);
        char text[32] = "";
        g_assert_cmpint(read(a[0], text, sizeof(text) - 1), ==, 9);
        g_assert_cmpstr(text, ==, "firstback");
        memset(text, 0, sizeof(text));
        g_assert_cmpint(read(b[0], text, sizeof(text) - 1), ==, 6);
        g_assert_cmpstr(text, ==, "second");
        none[0] = none[1] = -1;
        g_assert_cmpint(rpc_call_fds(client, "x", NULL, none, 2, 0, on_done, &d[0], &err), ==, -EBADF);
        close(d[0].fd);
        rpc_free(server);
        rpc_free(client);
        for (int i = 0; i < 2; i++) {
                close(a[i]);
                close(b[i]);
        }
        g_string_free(s.log, TRUE);
        g_assert_cmpuint(open_fds(), ==, before); /* each one was closed, on both sides */
}

static void send_raw_fds(int fd, const char *text, int what, size_t n)
{
        union {
                struct cmsghdr head;
                char room[CMSG_SPACE(sizeof(int) * 64)];
        } control;
        struct iovec iov = {.iov_base = (void *)(uintptr_t)text, .iov_len = strlen(text)};
        struct msghdr msg = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = CMSG_SPACE(sizeof(int) * n)};
        memset(&control, 0, sizeof(control));
        control.head = (struct cmsghdr){
                .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int) * n)};
        for (size_t i = 0; i < n; i++)
                memcpy(CMSG_DATA(&control.head) + i * sizeof(int), &what, sizeof(int));
        g_assert_cmpint(sendmsg(fd, &msg, MSG_NOSIGNAL), ==, (ssize_t)strlen(text));
}

static void test_fds_rude(void)
{
        struct side s;
        turn_all();
        size_t before = open_fds();
        open_side(&s, (struct rpc_options){.fds_max = 2});
        say(&s, REQ("1", "echo", ",\"fds\":1")); /* announced, but none came */
        expect_has(&s, "\"id\":1,\"error\":{\"code\":-32600");
        send_raw_fds(s.peer, REQ("2", "echo", ""), 0, 3); /* not announced */
        expect_has(&s, "\"id\":2,\"result\"");
        g_assert_cmpuint(rpc_counters(s.rpc)->fds_refused, ==, 3);
        send_raw_fds(s.peer, REQ("3", "echo", ",\"fds\":3"), 0, 3); /* more than are accepted */
        expect_has(&s, "\"id\":3,\"error\"");
        send_raw_fds(s.peer, REQ("4", "count-fds", ",\"fds\":1"), 0, 1); /* fewer than are needed */
        expect_has(&s, "\"id\":4,\"error\":{\"code\":-32602");
        send_raw_fds(s.peer, "{", 0, 30); /* hoarding behind a half line */
        send_raw_fds(s.peer, " ", 0, 30);
        turn_all();
        g_assert_cmpuint(open_fds(), <=, before + 2 + 32);
        say(&s, "}\n");
        turn_all();
        g_assert_cmpuint(open_fds(), ==, before + 2);
        send_raw_fds(s.peer, " ", 0, 60); /* the kernel cuts what exceeds our room */
        turn_all();
        close_side(&s);
        open_side(&s, (struct rpc_options){0}); /* a peer that may not send any */
        send_raw_fds(s.peer, REQ("1", "echo", ""), 0, 5);
        turn_all();
        g_assert_cmpuint(open_fds(), ==, before + 2);
        close_side(&s);
        g_assert_cmpuint(open_fds(), ==, before);
}

/* A terminal-like device instead of a socket, as a virtio-serial port is. */
static void test_not_a_socket(void)
{
        struct err err = {0};
        int plain = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
        struct rpc_options o = {.on_request = on_request};
        g_assert_null(rpc_new(plain, &o, NULL, &err));
        g_assert_cmpint(err.code, ==, EPERM);
        g_assert_cmpint(fcntl(plain, F_GETFD), >=, 0); /* stays ours */
        close(plain);
        g_assert_null(rpc_new(-1, &o, NULL, &err));

        struct side s = {.log = g_string_new(NULL)};
        int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
        if (master < 0 || grantpt(master) < 0 || unlockpt(master) < 0) {
                g_test_skip("no pseudo terminals here");
                g_string_free(s.log, TRUE);
                return;
        }
        int slave = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
        struct termios raw;
        g_assert_cmpint(tcgetattr(slave, &raw), ==, 0);
        cfmakeraw(&raw);
        g_assert_cmpint(tcsetattr(slave, TCSANOW, &raw), ==, 0);
        struct rpc *rpc = rpc_new(master, &o, &s, &err);
        g_assert_nonnull(rpc);
        g_assert_cmpint(write(slave, REQ("1", "echo", ""), strlen(REQ("1", "echo", ""))), >, 0);
        char got[100] = "";
        for (int i = 0; i < 500 && read(slave, got, sizeof(got) - 1) <= 0; i++) {
                loop_once(false); /* the kernel carries a terminal's bytes in its own time */
                g_usleep(2000);
        }
        g_assert_nonnull(strstr(got, "\"result\":{}"));
        rpc_free(rpc);
        close(slave);
        g_string_free(s.log, TRUE);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/rpc/fds", test_fds);
        g_test_add_func("/rpc/fds-rude", test_fds_rude);
        g_test_add_func("/rpc/not-a-socket", test_not_a_socket);
        int r = g_test_run();
        loop_done();
        return r;
}
