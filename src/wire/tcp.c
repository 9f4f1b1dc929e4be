/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/tcp.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/str.h"
#include "base/units.h"

enum { BACKLOG = 128 };

static bool is_v6(const char *host)
{
        struct in6_addr a;
        return inet_pton(AF_INET6, host, &a) == 1;
}

/* What DNS knows, and IPv4 addresses: nothing that means something in a URL. */
static bool is_host(const char *host)
{
        static const char good[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";
        size_t n = strlen(host);
        return n > 0 && host[0] != '-' && host[0] != '.' && strspn(host, good) == n;
}

static int bad_address(const char *text, struct err *err)
{
        return err_set(err, REASON_INVALID, EINVAL,
                       "\"%.60s\" is no address: HOST, HOST:PORT or [IPV6]:PORT, such as 10.0.0.1:%d", text,
                       TCP_PORT);
}

int tcp_address_parse(const char *text, struct tcp_address *ret, struct err *err)
{
        struct tcp_address a = {.port = TCP_PORT};
        const char *port = NULL, *end;
        if (text[0] == '[') {
                end = strchr(++text, ']');
                if (!end || (end[1] && end[1] != ':'))
                        return bad_address(text, err);
                port = end[1] ? end + 2 : NULL;
        } else {
                const char *colon = strchr(text, ':');
                bool is_port = colon && !strchr(colon + 1, ':'); /* two of them: IPv6 without brackets */
                end = is_port ? colon : text + strlen(text);
                port = is_port ? colon + 1 : NULL;
        }
        size_t n = (size_t)(end - text);
        if (n >= sizeof(a.host))
                return bad_address(text, err);
        memcpy(a.host, text, n);
        if (!is_v6(a.host) && (text[n] == ']' || !is_host(a.host)))
                return bad_address(text, err);
        if (port) {
                int64_t number = 0;
                if (units_parse_count(port, &number, NULL) || number < 1 || number > UINT16_MAX)
                        return err_set(err, REASON_INVALID, EINVAL,
                                       "\"%.60s\": the port must be from 1 to 65535", port);
                a.port = (uint16_t)number;
        }
        *ret = a;
        return 0;
}

const char *tcp_address_text(const struct tcp_address *a, char ret[TCP_TEXT])
{
        bool v6 = strchr(a->host, ':') != NULL;
        (void)snprintf(ret, TCP_TEXT, "%s%s%s:%u", v6 ? "[" : "", a->host, v6 ? "]" : "", a->port);
        return ret;
}

int tcp_listen(const struct tcp_address *a, struct err *err)
{
        union {
                struct sockaddr any;
                struct sockaddr_in v4;
                struct sockaddr_in6 v6;
        } at = {0};
        socklen_t n;
        char text[TCP_TEXT];
        int on = 1;
        if (inet_pton(AF_INET, a->host, &at.v4.sin_addr) == 1) {
                at.v4.sin_family = AF_INET;
                at.v4.sin_port = htons(a->port);
                n = sizeof(at.v4);
        } else if (inet_pton(AF_INET6, a->host, &at.v6.sin6_addr) == 1) {
                at.v6.sin6_family = AF_INET6;
                at.v6.sin6_port = htons(a->port);
                n = sizeof(at.v6);
        } else {
                return err_set(err, REASON_INVALID, EINVAL, "%.100s is no address of this machine", a->host);
        }
        int fd = socket(at.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
            bind(fd, &at.any, n) < 0 || listen(fd, BACKLOG) < 0) {
                int code = errno;
                if (fd >= 0)
                        (void)close(fd);
                return err_set(err, code == EADDRINUSE ? REASON_BUSY : REASON_INTERNAL, code,
                               "cannot listen at %s: %s", tcp_address_text(a, text), strerror(code));
        }
        return fd;
}

int tcp_accept(int listen_fd, struct in6_addr *ret_from, struct err *err)
{
        struct sockaddr_storage from = {0};
        socklen_t n = sizeof(from);
        int fd, on = 1;
        do
                fd = accept4(listen_fd, (struct sockaddr *)&from, &n, SOCK_CLOEXEC | SOCK_NONBLOCK);
        while (fd < 0 && (errno == EINTR || errno == ECONNABORTED));
        if (fd < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
                return -EAGAIN;
        if (fd < 0)
                return err_set(err, REASON_INTERNAL, errno, "cannot accept a connection: %s",
                               strerror(errno));
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        *ret_from = (struct in6_addr)IN6ADDR_ANY_INIT;
        if (from.ss_family == AF_INET6) {
                *ret_from = ((const struct sockaddr_in6 *)&from)->sin6_addr;
        } else {
                ret_from->s6_addr[10] = ret_from->s6_addr[11] = 0xff;
                memcpy(&ret_from->s6_addr[12], &((const struct sockaddr_in *)&from)->sin_addr, 4);
        }
        return fd;
}
