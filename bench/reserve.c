/* SPDX-License-Identifier: Apache-2.0 */
/* bench-reserve SOCKET CONNECTIONS SECONDS NEED PREFIX
 *
 * Reserves through meted's API as fast as CONNECTIONS keep-alive connections can, each with one request under
 * way, then releases everything again. Every answer is checked: status 200 and the outcome "granted". Prints
 * one JSON object: reservations per second, latencies, releases per second. Exit 1 if any answer was another.
 *
 * One thread with epoll, no allocation while it measures: on the machines of PLATFORM it drives more than
 * 100,000 requests a second against a server that does nothing, so that it is the server that is measured. */
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { CONNECTIONS_MAX = 1024, BUFFER = 16384, SAMPLES_MAX = 4000000 };

struct connection {
        int fd;
        uint64_t sent_ns;
        size_t have; /* bytes of the answer so far */
        char in[BUFFER];
};

struct bench {
        const char *need, *prefix;
        struct connection *connections;
        size_t n_connections;
        int epoll_fd;
        bool is_releasing;
        uint64_t next;     /* number of the next request */
        uint64_t last;     /* stop before this one */
        uint64_t until_ns; /* send nothing after this time */
        uint64_t answered, failed;
        uint32_t *latency_us;
        char failure[512];
};

static uint64_t now_ns(void)
{
        struct timespec t;

        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000U + (uint64_t)t.tv_nsec;
}

static void die(const char *what)
{
        (void)fprintf(stderr, "bench-reserve: %s: %s\n", what, strerror(errno));
        exit(1);
}

static int connect_to(const char *path)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        if (strlen(path) >= sizeof(address.sun_path)) {
                errno = ENAMETOOLONG;
                die(path);
        }
        (void)strcpy(address.sun_path, path);
        if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
                die(path);
        return fd;
}

/* false: there is nothing left to send. */
static bool send_next(struct bench *b, struct connection *c)
{
        char body[256];
        char out[512];
        int n;

        c->sent_ns = now_ns();
        if (b->next >= b->last || c->sent_ns >= b->until_ns)
                return false;
        uint64_t number = b->next++;
        if (b->is_releasing) {
                n = snprintf(out, sizeof(out),
                             "DELETE /v1/reservations/%s-%" PRIu64 " HTTP/1.1\r\nHost: l\r\n\r\n", b->prefix,
                             number);
        } else {
                int body_n = snprintf(body, sizeof(body), "{\"id\":\"%s-%" PRIu64 "\",\"needs\":[\"%s\"]}",
                                      b->prefix, number, b->need);
                n = snprintf(out, sizeof(out),
                             "POST /v1/reservations HTTP/1.1\r\nHost: l\r\nContent-Type: application/json\r\n"
                             "Content-Length: %d\r\n\r\n%s",
                             body_n, body);
        }
        c->have = 0;
        /* A request of 250 bytes always fits into the socket's empty buffer. */
        if (write(c->fd, out, (size_t)n) != n)
                die("write");
        return true;
}

/* Length of the complete answer at the begin of the buffer, or 0 where it is not complete. */
static size_t answer_length(const struct connection *c)
{
        const char *end = memmem(c->in, c->have, "\r\n\r\n", 4);
        size_t body = 0;

        if (end == NULL)
                return 0;
        for (const char *line = c->in; line < end; line = strstr(line, "\r\n") + 2)
                if (strncasecmp(line, "Content-Length:", 15) == 0)
                        body = strtoul(line + 15, NULL, 10);
        size_t length = (size_t)(end + 4 - c->in) + body;
        return length <= c->have ? length : 0;
}

static void take_answer(struct bench *b, struct connection *c)
{
        uint64_t took_us = (now_ns() - c->sent_ns) / 1000;

        c->in[c->have] = '\0';
        if (b->latency_us != NULL && b->answered < SAMPLES_MAX)
                b->latency_us[b->answered] = (uint32_t)(took_us > UINT32_MAX ? UINT32_MAX : took_us);
        b->answered++;
        if (strncmp(c->in, "HTTP/1.1 200", 12) == 0 &&
            (b->is_releasing || strstr(c->in, "\"outcome\":\"granted\"") != NULL))
                return;
        if (b->failed++ == 0)
                (void)snprintf(b->failure, sizeof(b->failure), "%s", c->in);
}

/* Runs until every connection has had its last answer. Returns the seconds that it took. */
static double run(struct bench *b)
{
        struct epoll_event events[64];
        size_t busy = 0;
        uint64_t began = now_ns();

        b->answered = b->failed = 0;
        for (size_t i = 0; i < b->n_connections; i++)
                busy += send_next(b, &b->connections[i]);
        while (busy > 0) {
                int n = epoll_wait(b->epoll_fd, events, 64, 10000);
                if (n == 0) {
                        errno = ETIMEDOUT;
                        die("no answer");
                }
                for (int i = 0; i < n; i++) {
                        struct connection *c = events[i].data.ptr;
                        ssize_t got = read(c->fd, c->in + c->have, sizeof(c->in) - 1 - c->have);
                        if (got <= 0) {
                                errno = got == 0 ? ECONNRESET : errno;
                                die("read");
                        }
                        c->have += (size_t)got;
                        c->in[c->have] = '\0';
                        if (answer_length(c) == 0)
                                continue;
                        take_answer(b, c);
                        busy -= !send_next(b, c);
                }
        }
        return (double)(now_ns() - began) / 1e9;
}

static int ascending(const void *a, const void *b)
{
        uint32_t x = *(const uint32_t *)a;
        uint32_t y = *(const uint32_t *)b;
        return (x > y) - (x < y);
}

static double quantile_ms(const uint32_t *sorted, uint64_t n, double q)
{
        return n == 0 ? 0 : sorted[(uint64_t)((double)(n - 1) * q)] / 1000.0;
}

int main(int argc, char **argv)
{
        struct bench b = {0};

        if (argc != 6) {
                (void)fputs("usage: bench-reserve SOCKET CONNECTIONS SECONDS NEED PREFIX\n", stderr);
                return 64;
        }
        b.n_connections = strtoul(argv[2], NULL, 10);
        double seconds = strtod(argv[3], NULL);
        if (b.n_connections < 1 || b.n_connections > CONNECTIONS_MAX || seconds <= 0) {
                (void)fputs("bench-reserve: 1 to 1024 connections, more than 0 seconds\n", stderr);
                return 64;
        }
        b.need = argv[4];
        b.prefix = argv[5];
        b.connections = calloc(b.n_connections, sizeof(*b.connections));
        b.latency_us = calloc(SAMPLES_MAX, sizeof(*b.latency_us));
        b.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        if (b.connections == NULL || b.latency_us == NULL || b.epoll_fd < 0)
                die("start");
        for (size_t i = 0; i < b.n_connections; i++) {
                struct epoll_event event = {.events = EPOLLIN, .data.ptr = &b.connections[i]};
                b.connections[i].fd = connect_to(argv[1]);
                if (epoll_ctl(b.epoll_fd, EPOLL_CTL_ADD, b.connections[i].fd, &event) < 0)
                        die("epoll_ctl");
        }

        b.last = UINT64_MAX;
        b.until_ns = now_ns() + (uint64_t)(seconds * 1e9);
        double took = run(&b);
        uint64_t count = b.answered;
        uint64_t failed = b.failed;
        uint64_t samples = count < SAMPLES_MAX ? count : SAMPLES_MAX;
        qsort(b.latency_us, samples, sizeof(*b.latency_us), ascending);
        double p50 = quantile_ms(b.latency_us, samples, 0.5);
        double p99 = quantile_ms(b.latency_us, samples, 0.99);
        double worst = quantile_ms(b.latency_us, samples, 1.0);

        b.is_releasing = true;
        b.last = b.next;
        b.next = 0;
        b.until_ns = UINT64_MAX;
        free(b.latency_us);
        b.latency_us = NULL;
        double release_took = run(&b);

        (void)printf("{\"connections\":%zu,\"count\":%" PRIu64
                     ",\"per_second\":%.1f,\"p50_ms\":%.3f,\"p99_ms\":%.3f,"
                     "\"worst_ms\":%.3f,\"releases_per_second\":%.1f,\"failed\":%" PRIu64 "}\n",
                     b.n_connections, count, (double)count / took, p50, p99, worst,
                     (double)b.answered / release_took, failed + b.failed);
        if (failed + b.failed > 0)
                (void)fprintf(stderr, "bench-reserve: the first answer that was wrong: %s\n", b.failure);
        for (size_t i = 0; i < b.n_connections; i++)
                (void)close(b.connections[i].fd);
        (void)close(b.epoll_fd);
        free(b.connections);
        return failed + b.failed > 0;
}
