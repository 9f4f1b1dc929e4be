/* SPDX-License-Identifier: Apache-2.0 */
/* answers PORT LEAVE - an application that has all of the guest's free memory but LEAVE MiB of it, each page
 * with content of its own, and answers whoever connects to the TCP port. One connection; in it, line by line
 * and in order:
 *
 *   N tick   N tick COUNT MS     how often it has looked at the clock, and that
 *   N look   N look WRONG PAGES  of so many pages so many are not as they were made
 *
 * In the guests of tests: what is asked before and behind a handover is answered by the same process. */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / sizeof(uint64_t), LINE = 64, TICK_MS = 5 };

static uint64_t *memory;
static size_t n_pages;
static uint64_t count, last_ms;

static void die(const char *what)
{
        (void)fprintf(stderr, "answers: %s: %s\n", what, strerror(errno));
        exit(1);
}

static uint64_t now_ms(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static uint64_t word_of(size_t page, size_t at)
{
        return (page * WORDS + at + 1) * UINT64_C(0x9e3779b97f4a7c15);
}

static size_t free_bytes(void)
{
        char line[LINE * 2];
        unsigned long kib = 0;
        FILE *f = fopen("/proc/meminfo", "re");
        while (f && fgets(line, sizeof(line), f))
                if (strncmp(line, "MemAvailable:", 13) == 0)
                        kib = strtoul(line + 13, NULL, 10);
        if (!f || fclose(f) != 0)
                die("/proc/meminfo");
        return (size_t)kib * 1024;
}

static void fill(size_t leave)
{
        size_t bytes = free_bytes();
        n_pages = bytes > leave ? (bytes - leave) / PAGE : 0;
        memory = mmap(NULL, n_pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED)
                die("memory");
        for (size_t i = 0; i < n_pages; i++)
                for (size_t k = 0; k < WORDS; k++)
                        memory[i * WORDS + k] = word_of(i, k);
}

static size_t wrong_pages(void)
{
        size_t wrong = 0;
        for (size_t i = 0; i < n_pages; i++) {
                uint64_t differs = 0;
                for (size_t k = 0; k < WORDS; k++)
                        differs |= ((volatile uint64_t *)memory)[i * WORDS + k] ^ word_of(i, k);
                wrong += differs != 0;
        }
        return wrong;
}

/* A clock that goes back ends it, and so the connection. */
static void tick(void)
{
        uint64_t ms = now_ms();
        if (ms < last_ms)
                die("the clock went back");
        last_ms = ms;
        count++;
}

static void answer(int fd, const char *line)
{
        char text[LINE * 2], *rest;
        unsigned long n = strtoul(line, &rest, 10);
        int length = strcmp(rest, " look") == 0
                             ? snprintf(text, sizeof(text), "%lu look %zu %zu\n", n, wrong_pages(), n_pages)
                             : snprintf(text, sizeof(text), "%lu tick %" PRIu64 " %" PRIu64 "\n", n, count,
                                        last_ms);
        for (int done = 0; done < length;) {
                ssize_t one = write(fd, text + done, (size_t)(length - done));
                if (one < 0)
                        die("answer");
                done += (int)one;
        }
}

static int listen_at(const char *port)
{
        struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)strtoul(port, NULL, 10))};
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0 || listen(fd, 1) < 0)
                die("listen");
        return fd;
}

/* Whole lines of what came; how much of the last one is left. */
static size_t split(int fd, char *text, size_t n)
{
        size_t start = 0;
        for (size_t i = 0; i < n; i++) {
                if (text[i] != '\n')
                        continue;
                text[i] = '\0';
                answer(fd, text + start);
                start = i + 1;
        }
        memmove(text, text + start, n - start);
        return n - start;
}

int main(int argc, char **argv)
{
        char text[LINE];
        size_t n = 0;
        if (argc != 3)
                return 64;
        int listener = listen_at(argv[1]), fd;
        fill((size_t)strtoul(argv[2], NULL, 10) << 20);
        (void)printf("ready %zu\n", n_pages);
        (void)fflush(stdout);
        if ((fd = accept(listener, NULL, NULL)) < 0)
                die("accept");
        for (;;) {
                struct pollfd p = {.fd = fd, .events = POLLIN};
                int ready = poll(&p, 1, TICK_MS);
                tick();
                if (ready <= 0)
                        continue;
                ssize_t got = read(fd, text + n, sizeof(text) - n);
                if (got <= 0)
                        die("the other side is gone, or asks too much at once");
                n = split(fd, text, n + (size_t)got);
        }
}
