/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests need in the nested host and a shell cannot do. Static: it brings its libc along.
 *
 *     nested-tool spin [CPU]         uses a CPU up, that one if it is given
 *     nested-tool shares MS WINDOWS TID...   "TID NS" of CPU time each got meanwhile, after a line "wall NS"
 *     nested-tool migrate PID FROM TO    what that process has on a node goes to another one
 *     nested-tool nodes FILE BEGIN END   "NODE BYTES" of what is there of that part of a file of tmpfs
 *     nested-tool hog NODE LEFT      has of a node all but so many MiB, says "there", and stays
 *     nested-tool join TTY SOCKET    bytes between a serial line and a Unix socket, until either ends */
#include <errno.h>
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

enum { THREADS_MAX = 128, PAGE = 4096, NODES_MAX = 64, CHUNK = 1 << 20 };

__attribute__((noreturn)) static void die(const char *what)
{
        (void)fprintf(stderr, "nested-tool: %s: %s\n", what, strerror(errno));
        exit(1);
}

static int spin(const char *cpu)
{
        cpu_set_t set;
        CPU_ZERO(&set);
        if (cpu != NULL) {
                CPU_SET(strtoul(cpu, NULL, 10), &set);
                if (sched_setaffinity(0, sizeof(set), &set) < 0)
                        die("affinity");
        }
        for (volatile unsigned n = 0;; n++)
                ;
}

static long long now_ns(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return t.tv_sec * 1000000000LL + t.tv_nsec;
}

struct count {
        long long ran_ns, waited_ns;
};

/* The scheduler's own count, to the nanosecond: time on a CPU, and time in which it could have run and had
 * none. */
static struct count count_of(const char *tid)
{
        char path[64], text[128], *rest;
        (void)snprintf(path, sizeof(path), "/proc/%.20s/schedstat", tid);
        FILE *f = fopen(path, "re");
        if (f == NULL || fgets(text, sizeof(text), f) == NULL)
                die(path);
        (void)fclose(f);
        long long ran_ns = strtoll(text, &rest, 10);
        return (struct count){ran_ns, strtoll(rest, NULL, 10)};
}

/* Windows one behind the other, each a line: its length, then what each thread ran and waited. */
static int shares(const char *ms, const char *windows, char **tids, int n)
{
        struct count before[THREADS_MAX], after[THREADS_MAX];
        long wait_ms = strtol(ms, NULL, 10);
        if (n > THREADS_MAX) {
                errno = E2BIG;
                die("threads");
        }
        for (long left = strtol(windows, NULL, 10); left > 0; left--) {
                struct timespec pause = {wait_ms / 1000, wait_ms % 1000 * 1000000};
                long long began_ns = now_ns();
                for (int i = 0; i < n; i++)
                        before[i] = count_of(tids[i]);
                while (nanosleep(&pause, &pause) < 0 && errno == EINTR)
                        ;
                long long wall_ns = now_ns() - began_ns;
                for (int i = 0; i < n; i++)
                        after[i] = count_of(tids[i]);
                (void)printf("%lld", wall_ns);
                for (int i = 0; i < n; i++)
                        (void)printf(" %lld %lld", after[i].ran_ns - before[i].ran_ns,
                                     after[i].waited_ns - before[i].waited_ns);
                (void)printf("\n");
        }
        return 0;
}

static void move_bytes(int from, int to)
{
        char text[4096];
        ssize_t n = read(from, text, sizeof(text));
        if (n <= 0)
                exit(0);
        for (ssize_t done = 0, w; done < n; done += w)
                if ((w = write(to, text + done, (size_t)(n - done))) < 0)
                        die("write");
}

static int join(const char *tty_path, const char *socket_path)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        struct termios raw;
        int tty = open(tty_path, O_RDWR | O_NOCTTY | O_CLOEXEC);
        int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (tty < 0 || tcgetattr(tty, &raw) < 0)
                die(tty_path);
        cfmakeraw(&raw);
        (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", socket_path);
        if (tcsetattr(tty, TCSANOW, &raw) < 0 || tcflush(tty, TCIOFLUSH) < 0)
                die(tty_path);
        if (sock < 0 || connect(sock, (struct sockaddr *)&address, sizeof(address)) < 0)
                die(socket_path);
        if (write(tty, "\n", 1) != 1) /* what was sent before is lost: now it may begin */
                die(tty_path);
        struct pollfd ends[] = {
                {.fd = tty,  .events = POLLIN},
                {.fd = sock, .events = POLLIN}
        };
        while (poll(ends, 2, -1) > 0) {
                if (ends[0].revents)
                        move_bytes(tty, sock);
                if (ends[1].revents)
                        move_bytes(sock, tty);
        }
        return 0;
}

/* What another process has on a node goes to another one, as an administrator can let it. */
static int migrate(const char *pid, const char *from, const char *to)
{
        unsigned long old = 1UL << atoi(from), new = 1UL << atoi(to);
        if (syscall(SYS_migrate_pages, atoi(pid), 8 * sizeof(old), &old, &new) < 0)
                die("migrate_pages");
        return 0;
}

/* A page at a time, and only where there is data: to read a hole would fill it. */
static int nodes(const char *path, const char *from, const char *to)
{
        long long bytes[NODES_MAX] = {0}, end = atoll(to);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                die(path);
        for (off_t at = atoll(from); (at = lseek(fd, at, SEEK_DATA)) >= 0 && at < end; at += PAGE) {
                at -= at % PAGE;
                void *page = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, at);
                int node = -1;
                if (page == MAP_FAILED || madvise(page, PAGE, MADV_POPULATE_READ) < 0 ||
                    syscall(SYS_move_pages, 0, 1UL, &page, NULL, &node, 0) < 0)
                        die("a page");
                if (node >= 0 && node < NODES_MAX)
                        bytes[node] += PAGE;
                (void)munmap(page, PAGE);
        }
        for (int i = 0; i < NODES_MAX; i++)
                if (bytes[i] > 0)
                        (void)printf("%d %lld\n", i, bytes[i]);
        return 0;
}

/* What mete-keeper goes by, too. */
static long long to_spare_mib(const char *node)
{
        static const char *const counted[] = {" MemFree:", " Inactive(file):", " SReclaimable:"};
        char path[64], text[8192];
        long long kib = 0;
        (void)snprintf(path, sizeof(path), "/sys/devices/system/node/node%.4s/meminfo", node);
        FILE *f = fopen(path, "re");
        size_t n = f ? fread(text, 1, sizeof(text) - 1, f) : 0;
        if (!f || n == 0)
                die(path);
        (void)fclose(f);
        text[n] = '\0';
        for (size_t i = 0; i < sizeof(counted) / sizeof(counted[0]); i++) {
                const char *at = strstr(text, counted[i]);
                kib += at ? atoll(at + strlen(counted[i])) : 0;
        }
        return kib / 1024;
}

__attribute__((noreturn)) static void hog(const char *node, const char *left_mib)
{
        unsigned long mask = 1UL << atoi(node);
        while (to_spare_mib(node) > atoll(left_mib)) {
                char *chunk = mmap(NULL, CHUNK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
                if (chunk == MAP_FAILED || syscall(SYS_mbind, chunk, (unsigned long)CHUNK, MPOL_BIND, &mask,
                                                   8 * sizeof(mask), 0) < 0)
                        die("memory of the node");
                memset(chunk, 1, CHUNK);
        }
        (void)printf("there\n");
        (void)fflush(stdout);
        for (;;)
                (void)pause();
}

int main(int argc, char **argv)
{
        if (argc >= 2 && strcmp(argv[1], "spin") == 0)
                return spin(argv[2]);
        if (argc >= 5 && strcmp(argv[1], "shares") == 0)
                return shares(argv[2], argv[3], argv + 4, argc - 4);
        if (argc == 4 && strcmp(argv[1], "join") == 0)
                return join(argv[2], argv[3]);
        if (argc == 5 && strcmp(argv[1], "migrate") == 0)
                return migrate(argv[2], argv[3], argv[4]);
        if (argc == 5 && strcmp(argv[1], "nodes") == 0)
                return nodes(argv[2], argv[3], argv[4]);
        if (argc == 4 && strcmp(argv[1], "hog") == 0)
                hog(argv[2], argv[3]);
        errno = EINVAL;
        die("migrate PID FROM TO | nodes FILE BEGIN END | hog NODE LEFT | spin [CPU] | shares MS WINDOWS "
            "TID... | join TTY SOCKET");
}
