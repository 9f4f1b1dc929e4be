/* SPDX-License-Identifier: Apache-2.0 */
/* bench-http [SECONDS]
 *
 * Requests per second that wire/http sustains at 1 and at 64 keep-alive connections, one request under way on
 * each, with a handler that answers all of a turn at its commit. The client is a process of its own, on the
 * other CPU where there are two; the server has one. Prints BENCH http_c1 and http_c64, and the server's CPU
 * time a request, which is what stays meaningful on a busy machine. */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "loop/loop.h"
#include "wire/http.h"
#include "wire/unix.h"

enum { CONNECTIONS_MAX = 64 };

static struct http_request *waiting[CONNECTIONS_MAX];
static unsigned n_waiting;
static struct turn commit;
static uint64_t turns;

static void die(const char *what)
{
        (void)fprintf(stderr, "bench-http: %s: %s\n", what, strerror(errno));
        exit(1);
}

static void on_request(void *arg, struct http_request *req)
{
        waiting[n_waiting++] = req;
        loop_turn_request(&commit);
}

static void on_commit(void *arg)
{
        turns++;
        for (unsigned i = 0; i < n_waiting; i++)
                http_reply_text(waiting[i], 200, "application/json",
                                "{\"outcome\":\"granted\",\"request\":\"r-1\"}");
        n_waiting = 0;
}

static void on_deadline(void *arg)
{
        loop_quit();
}

static void pin(int cpu)
{
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(cpu, &set);
        (void)sched_setaffinity(0, sizeof(set), &set); /* with one CPU only: as it is */
}

static void ask(int fd)
{
        static const char text[] =
                "POST /v1/requests HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                "Content-Length: 48\r\n\r\n{\"id\":\"r-1\",\"needs\":[{\"kind\":\"cpu\",\"amount\":1}]}";
        if (send(fd, text, sizeof(text) - 1, MSG_NOSIGNAL) != (ssize_t)sizeof(text) - 1)
                _exit(0); /* the server has ended */
}

static void client(const char *path, int connections)
{
        struct epoll_event ready[CONNECTIONS_MAX];
        char answer[4096];
        int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        pin(1);
        for (int i = 0; i < connections; i++) {
                int fd = unix_connect(path, NULL);
                struct epoll_event ev = {.events = EPOLLIN, .data.fd = fd};
                if (fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0)
                        die("connect");
                ask(fd);
        }
        for (;;) {
                int n = epoll_wait(epoll_fd, ready, CONNECTIONS_MAX, 5000);
                if (n <= 0)
                        _exit(1);
                for (int i = 0; i < n; i++) {
                        /* A small answer comes in one piece; anything else is a failure that must be seen. */
                        ssize_t got = recv(ready[i].data.fd, answer, sizeof(answer) - 1, 0);
                        if (got <= 0)
                                _exit(0);
                        answer[got] = '\0';
                        if (strncmp(answer, "HTTP/1.1 200", 12) != 0 || !strstr(answer, "granted")) {
                                (void)fprintf(stderr, "bench-http: unexpected answer: %s\n", answer);
                                _exit(1);
                        }
                        ask(ready[i].data.fd);
                }
        }
}

static double cpu_s(void)
{
        struct rusage u;
        (void)getrusage(RUSAGE_SELF, &u);
        return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
               (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void measure(const char *path, int connections, int seconds)
{
        struct http_limits limits = {0};
        struct loop_timer deadline;
        struct err err;
        int fd = unix_listen(path, 0600, &err);
        struct http_server *s = fd < 0 ? NULL : http_server_new(fd, &limits, on_request, NULL, &err);
        if (!s)
                die(err.sentence);
        pid_t child = fork();
        if (child < 0)
                die("fork");
        if (child == 0)
                client(path, connections);
        loop_turn_init(&commit, LOOP_COMMIT, on_commit, NULL);
        loop_timer_init(&deadline, on_deadline, NULL);
        loop_timer_in(&deadline, seconds * 1000);
        turns = 0;
        int64_t start_ms = loop_mono_ms();
        double start_cpu_s = cpu_s();
        loop_run();
        double took_s = (double)(loop_mono_ms() - start_ms) / 1000, took_cpu_s = cpu_s() - start_cpu_s;
        double n = (double)http_server_counters(s)->replies;
        (void)printf("BENCH http_c%d %.0f requests/s\n", connections, n / took_s);
        (void)printf("BENCH http_c%d_cpu %.2f us/request\n", connections, took_cpu_s * 1e6 / n);
        (void)printf("BENCH http_c%d_per_turn %.1f requests/turn\n", connections,
                     n / (double)(turns ? turns : 1));
        http_server_free(s);
        on_commit(NULL); /* what was still waiting goes nowhere */
        (void)unlink(path);
        int status = 0;
        (void)waitpid(child, &status, 0);
        if (status != 0)
                exit(1);
}

int main(int argc, char **argv)
{
        char dir[] = "/tmp/bench-http-XXXXXX", path[sizeof(dir) + 8];
        int seconds = argc > 1 ? atoi(argv[1]) : 3;
        if (seconds < 1 || !mkdtemp(dir))
                die(dir);
        (void)snprintf(path, sizeof(path), "%s/s", dir);
        pin(0);
        measure(path, 1, seconds);
        measure(path, 64, seconds);
        loop_done();
        (void)rmdir(dir);
        return 0;
}
