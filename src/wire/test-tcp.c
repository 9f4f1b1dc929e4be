/* SPDX-License-Identifier: Apache-2.0 */
#include <arpa/inet.h>
#include <errno.h>
#include <glib.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "wire/tcp.h"

static void test_parse(void)
{
        static const struct {
                const char *text, *again; /* again NULL: refused */
        } rows[] = {
                {"10.0.0.1",        "10.0.0.1:8421"  },
                {"10.0.0.1:1",      "10.0.0.1:1"     },
                {"a.example:65535", "a.example:65535"},
                {"::1",             "[::1]:8421"     },
                {"[::1]",           "[::1]:8421"     },
                {"[::1]:5",         "[::1]:5"        },
                {"",                NULL             },
                {":5",              NULL             },
                {"a:",              NULL             },
                {"a:0",             NULL             },
                {"a:65536",         NULL             },
                {"a:5x",            NULL             },
                {"[a]:5",           NULL             },
                {"[::1]5",          NULL             },
                {"[::1",            NULL             },
                {"::g",             NULL             },
                {"a b",             NULL             },
                {"user@a",          NULL             },
                {"a/b",             NULL             },
                {"-a",              NULL             },
        };
        for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
                struct tcp_address a;
                char text[TCP_TEXT];
                struct err err = {0};
                int r = tcp_address_parse(rows[i].text, &a, &err);
                g_test_message("%s", rows[i].text);
                g_assert_cmpint(r, ==, rows[i].again ? 0 : -EINVAL);
                if (!r)
                        g_assert_cmpstr(tcp_address_text(&a, text), ==, rows[i].again);
        }
        char longer[300];
        memset(longer, 'a', sizeof(longer) - 1);
        longer[sizeof(longer) - 1] = '\0';
        g_assert_cmpint(tcp_address_parse(longer, &(struct tcp_address){0}, NULL), ==, -EINVAL);
}

static void test_listen(void)
{
        struct tcp_address at = {"127.0.0.1", 0}; /* the kernel finds a port */
        struct err err = {0};
        int fd = tcp_listen(&at, &err);
        g_assert_cmpint(fd, >=, 0);
        struct sockaddr_in name;
        socklen_t n = sizeof(name);
        struct in6_addr from;
        g_assert_cmpint(tcp_accept(fd, &from, &err), ==, -EAGAIN);
        g_assert_cmpint(getsockname(fd, (struct sockaddr *)&name, &n), ==, 0);
        at.port = ntohs(name.sin_port);
        g_assert_cmpint(tcp_listen(&at, &err), ==, -EADDRINUSE);
        g_assert_cmpint(err.reason, ==, REASON_BUSY);
        int client = socket(AF_INET, SOCK_STREAM, 0);
        g_assert_cmpint(connect(client, (struct sockaddr *)&name, n), ==, 0);
        g_assert_cmpint(poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, -1), ==, 1);
        int got = tcp_accept(fd, &from, &err);
        char text[INET6_ADDRSTRLEN];
        g_assert_cmpint(got, >=, 0);
        g_assert_cmpstr(inet_ntop(AF_INET6, &from, text, sizeof(text)), ==, "::ffff:127.0.0.1");
        g_assert_cmpint(tcp_listen(&(struct tcp_address){"a.example", 1}, &err), ==, -EINVAL);
        close(client);
        close(got);
        close(fd);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/tcp/parse", test_parse);
        g_test_add_func("/tcp/listen", test_listen);
        return g_test_run();
}
