/* SPDX-License-Identifier: Apache-2.0 */
/* bench-guest - measures inside a guest, with the guest's monotonic clock.
 *
 *   bench-guest echo PORT N          a line to a virtio-serial port and back from whoever echoes there
 *   bench-guest relay PORT N         the same through a process between, over a Unix socket
 *   bench-guest ask SOCKET N NEED    a request to the agent and its verdict, which must not be a grant
 *   bench-guest grant SOCKET NEED    a request until it is granted; a process that has it stays behind
 *   bench-guest told SOCKET          a line "told GENERATION" for each change of the host, until it is ended
 *   bench-guest cpu PORT CPU         "go" to the port, then until that CPU is on line (put there by this)
 *   bench-guest memory PORT BYTES    "go" to the port, then until so much more memory is on line
 *   bench-guest work SECONDS         works without a rest; prints how many rounds it made, and their sum
 *
 * Prints one line: median and 99th percentile in microseconds; `grant` also the id of the process that stays,
 * which releases what it has when it is ended. `cpu` and `memory` wait for the kernel's own word (uevents)
 * and look again every 10 ms in case it is missed. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/netlink.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { SAMPLES_MAX = 100000, LINE = 65536 };

static uint64_t samples_us[SAMPLES_MAX];
static size_t n_samples;

static uint64_t now_us(void)
{
        struct timespec t;

        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000U + (uint64_t)t.tv_nsec / 1000;
}

static void die(const char *what)
{
        (void)fprintf(stderr, "bench-guest: %s: %s\n", what, strerror(errno));
        exit(1);
}

static void took(uint64_t since_us)
{
        if (n_samples < SAMPLES_MAX)
                samples_us[n_samples++] = now_us() - since_us;
}

static int ascending(const void *a, const void *b)
{
        uint64_t x = *(const uint64_t *)a;
        uint64_t y = *(const uint64_t *)b;
        return (x > y) - (x < y);
}

static void print(void)
{
        qsort(samples_us, n_samples, sizeof(samples_us[0]), ascending);
        (void)printf("%" PRIu64 " %" PRIu64 "\n", samples_us[n_samples / 2],
                     samples_us[(n_samples - 1) * 99 / 100]);
}

static void send_line(int fd, const char *line)
{
        size_t n = strlen(line);

        while (n > 0) {
                ssize_t done = write(fd, line, n);
                if (done < 0)
                        die("write");
                line += done;
                n -= (size_t)done;
        }
}

static void read_line(int fd, char *line)
{
        size_t n = 0;

        do {
                ssize_t got = read(fd, line + n, LINE - 1 - n);
                if (got <= 0)
                        die("read");
                n += (size_t)got;
        } while (line[n - 1] != '\n' && n < LINE - 1);
        line[n] = '\0';
}

static int port_open(const char *path)
{
        int fd = open(path, O_RDWR | O_CLOEXEC);

        if (fd < 0)
                die(path);
        return fd;
}

static int agent_connect(const char *path)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
        if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
                die(path);
        return fd;
}

static void ping(int fd, int n)
{
        static char line[LINE];

        for (int i = 0; i < n; i++) {
                char out[256];
                uint64_t began = now_us();
                /* as long as a request, so that the bytes are not the difference */
                (void)snprintf(out, sizeof(out),
                               "{\"jsonrpc\":\"2.0\",\"id\":%d,\"method\":\"reserve\",\"params\":{"
                               "\"request\":\"r-%d\","
                               "\"application\":\"bench-guest-123-456789\",\"needs\":[{\"kind\":\"memory\","
                               "\"amount\":"
                               "1099511627776}]}}\n",
                               i, i);
                send_line(fd, out);
                read_line(fd, line);
                took(began);
        }
}

static void echo(const char *port, int n)
{
        int fd = port_open(port);

        ping(fd, n);
        (void)close(fd);
}

/* The least that a process between application and port can do: a line to a child over a Unix socket, which
 * passes it on, and back. */
static void relay(const char *port, int n)
{
        static char line[LINE];
        int pair[2];

        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
                die("socketpair");
        pid_t child = fork();
        if (child < 0)
                die("fork");
        if (child == 0) {
                int fd = port_open(port);
                (void)close(pair[0]);
                for (;;) {
                        ssize_t got = read(pair[1], line, LINE);
                        if (got <= 0)
                                _exit(got < 0);
                        line[got] = '\0';
                        send_line(fd, line);
                        read_line(fd, line);
                        send_line(pair[1], line);
                }
        }
        (void)close(pair[1]);
        ping(pair[0], n);
        (void)close(pair[0]);
}

static void request(int fd, int number, const char *need, char *line)
{
        char out[512];

        (void)snprintf(
                out, sizeof(out),
                "{\"jsonrpc\":\"2.0\",\"id\":%d,\"method\":\"request\",\"params\":{\"name\":\"bench-guest\","
                "\"needs\":[\"%s\"]}}\n",
                number, need);
        send_line(fd, out);
        read_line(fd, line);
}

static void ask(const char *socket_path, int n, const char *need)
{
        static char line[LINE];
        int fd = agent_connect(socket_path);

        for (int i = 1; i <= n; i++) {
                uint64_t began = now_us();
                request(fd, i, need, line);
                took(began);
                if (strstr(line, "\"outcome\"") == NULL || strstr(line, "\"granted\"") != NULL) {
                        (void)fprintf(stderr, "bench-guest: no refusal: %s\n", line);
                        exit(1);
                }
        }
        (void)close(fd);
}

static void grant(const char *socket_path, const char *need)
{
        static char line[LINE];
        int result[2];
        char text[64] = "";

        if (pipe(result) < 0)
                die("pipe");
        pid_t child = fork();
        if (child < 0)
                die("fork");
        if (child == 0) {
                int fd = agent_connect(socket_path);
                uint64_t began = now_us();
                request(fd, 1, need, line);
                uint64_t passed = now_us() - began;
                if (strstr(line, "\"outcome\":\"granted\"") == NULL) {
                        (void)fprintf(stderr, "bench-guest: no grant: %s\n", line);
                        _exit(1);
                }
                (void)dprintf(result[1], "%" PRIu64 "\n", passed);
                for (int i = 0; i < 3; i++) /* whoever reads our output waits for its end */
                        (void)close(i);
                (void)close(result[1]);
                for (;;)
                        (void)pause();
        }
        (void)close(result[1]);
        if (read(result[0], text, sizeof(text) - 1) <= 0)
                exit(1);
        (void)printf("%" PRIu64 " 0 %ld\n", (uint64_t)strtoull(text, NULL, 10), (long)child);
        exit(0);
}

static void told(const char *socket_path)
{
        static char line[LINE];
        int fd = agent_connect(socket_path);

        send_line(fd, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"host\",\"params\":{\"watch\":true}}\n");
        for (;;) {
                read_line(fd, line);
                const char *generation = strstr(line, "\"generation\":");
                if (generation == NULL)
                        continue;
                (void)printf("told %lld\n", strtoll(generation + strlen("\"generation\":"), NULL, 10));
                (void)fflush(stdout);
        }
}

/* The number in a small file of sysfs or procfs behind `key`; -1 where it is not there. */
static int64_t read_number(const char *path, const char *key)
{
        char text[4096];
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

        if (fd >= 0)
                (void)close(fd);
        if (n < 0)
                return -1;
        text[n] = '\0';
        const char *at = strstr(text, key);
        return at == NULL ? -1 : strtoll(at + strlen(key), NULL, 10);
}

static int uevents_open(void)
{
        struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = 1};
        int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT);

        if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
                die("uevents");
        return fd;
}

static void uevents_wait(int fd)
{
        static char event[8192];
        struct pollfd p = {.fd = fd, .events = POLLIN};

        (void)poll(&p, 1, 10);
        while (recv(fd, event, sizeof(event), 0) > 0)
                ;
}

static void cpu(const char *port, int number)
{
        char path[128];
        int fd = port_open(port);
        int uevents = uevents_open();
        uint64_t began = now_us();

        (void)snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/online", number);
        send_line(fd, "go\n");
        for (;;) {
                int online = open(path, O_WRONLY | O_CLOEXEC);
                if (online >= 0) {
                        (void)!write(online, "1", 1);
                        (void)close(online);
                        if (read_number(path, "") == 1)
                                break;
                }
                uevents_wait(uevents);
        }
        took(began);
        (void)close(uevents);
        (void)close(fd);
}

static void memory(const char *port, int64_t bytes)
{
        int fd = port_open(port);
        int uevents = uevents_open();
        int64_t before = read_number("/proc/meminfo", "MemTotal:");
        uint64_t began = now_us();

        send_line(fd, "go\n");
        while (read_number("/proc/meminfo", "MemTotal:") < before + bytes / 1024)
                uevents_wait(uevents);
        took(began);
        (void)close(uevents);
        (void)close(fd);
}

/* A round goes over some memory in no order, as programs do, and takes a few milliseconds on TCG. */
static void work(double seconds)
{
        enum { WORDS_LOG2 = 15 };
        static uint64_t words[1 << WORDS_LOG2];
        uint64_t until_us = now_us() + (uint64_t)(seconds * 1e6), rounds = 0, x = 1;

        do {
                for (size_t i = 0; i < 1 << WORDS_LOG2; i++) {
                        x = x * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
                        words[x >> (64 - WORDS_LOG2)] ^= x;
                }
                rounds++;
        } while (now_us() < until_us);
        /* the second word is what was worked out, so that no compiler leaves it out */
        (void)printf("%" PRIu64 " %" PRIu64 "\n", rounds, words[x >> (64 - WORDS_LOG2)]);
        exit(0);
}

int main(int argc, char **argv)
{
        const char *what = argc > 2 ? argv[1] : "";

        if (strcmp(what, "echo") == 0 && argc == 4)
                echo(argv[2], (int)strtol(argv[3], NULL, 10));
        else if (strcmp(what, "relay") == 0 && argc == 4)
                relay(argv[2], (int)strtol(argv[3], NULL, 10));
        else if (strcmp(what, "ask") == 0 && argc == 5)
                ask(argv[2], (int)strtol(argv[3], NULL, 10), argv[4]);
        else if (strcmp(what, "grant") == 0 && argc == 4)
                grant(argv[2], argv[3]);
        else if (strcmp(what, "told") == 0 && argc == 3)
                told(argv[2]);
        else if (strcmp(what, "cpu") == 0 && argc == 4)
                cpu(argv[2], (int)strtol(argv[3], NULL, 10));
        else if (strcmp(what, "memory") == 0 && argc == 4)
                memory(argv[2], strtoll(argv[3], NULL, 10));
        else if (strcmp(what, "work") == 0 && argc == 3)
                work(strtod(argv[2], NULL));
        else
                return 64;
        print();
        return 0;
}
