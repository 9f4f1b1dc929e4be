/* SPDX-License-Identifier: Apache-2.0 */
/* Two real VMMs, and a move by copy from one to the other over loopback, with TLS, a disk, and a relay
 * between them that can be slow: kept, rolled back, cut off by the guard, cancelled, refused, broken.
 *
 * METE_QEMU: the program. METE_PAYLOAD: folder with payload.elf (tests/payload); without it all is skipped.
 * METE_GUARD: mete-guard; without it, what needs it is skipped. METE_QMP_RECORD: as in test-live.c.
 *
 * As root, the VMMs are another user's, as the keeper has them: so the key reaches them by its descriptor.
 * QEMU 7.2 on TCG loses memory of a guest that runs during a copy; with it the guest stands when memory is
 * compared. */
#include "vm/copy.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/str.h"
#include "vm/probe.h"
#include "vm/socket.h"
#include "vm/test-real.h"
#include "vm/vm-internal.h"

enum { SECOND = 1000, WAIT_MS = 60 * SECOND, MIB = 1 << 20, PAGE = 4096, DIRTIED = 4096 };
enum {
        BOARD = 0x200000,
        BOARD_MAGIC = 0x4554454d,
        BOARD_MS = 4,
        BOARD_DIRTIED = 8
}; /* tests/payload/board.h */

static struct api_qemu_probe probe;
static FILE *record;
static char *images;

struct end {
        char *dir, *ram;
        pid_t pid;
        struct vm *vm;
        struct copy *copy;
        struct vm_result result;
        struct copy_seen seen;
        int results, deaths, stops, resumes, passes;
        int64_t stop_us, resume_us;
        char status[64]; /* the last word of its migration */
};

struct relay {
        int fd[2];
        gint is_slow, is_over;
        GThread *thread;
};

struct world {
        struct api_vm_definition d;
        struct end source, dest;
        struct relay relay;
        int64_t queued_bytes;
};

#define WAIT_FOR(condition) WAIT_AT_MOST(WAIT_MS, condition)
#define WAIT_AT_MOST(ms, condition)                                                                          \
        for (gint64 end_us = g_get_monotonic_time() + (gint64)(ms)*1000;                                     \
             !(condition) && g_get_monotonic_time() < end_us;)                                               \
                if (!g_main_context_iteration(NULL, FALSE))                                                  \
                        g_usleep(200);

static char *path_in(const struct end *e, const char *name)
{
        static char buf[4][256];
        static int next;
        char *p = buf[next++ % 4];
        (void)snprintf(p, sizeof(buf[0]), "%s/%s", e->dir, name);
        return p;
}

/* ---- the stream */

static int listening(struct sockaddr_in *at)
{
        socklen_t n = sizeof(*at);
        *at = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        g_assert_cmpint(bind(fd, (struct sockaddr *)at, sizeof(*at)), ==, 0);
        g_assert_cmpint(listen(fd, 1), ==, 0);
        g_assert_cmpint(getsockname(fd, (struct sockaddr *)at, &n), ==, 0);
        return fd;
}

static void tcp_pair(int fds[2])
{
        struct sockaddr_in at;
        int l = listening(&at);
        fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        g_assert_cmpint(connect(fds[0], (struct sockaddr *)&at, sizeof(at)), ==, 0);
        fds[1] = accept4(l, NULL, NULL, SOCK_CLOEXEC);
        g_assert_cmpint(fds[1], >=, 0);
        close(l);
}

static bool pass_on(int from, int to, size_t most)
{
        char buf[16384];
        ssize_t n = recv(from, buf, MIN(most, sizeof(buf)), 0), sent = 0;
        while (n > 0 && sent < n) {
                ssize_t k = send(to, buf + sent, (size_t)(n - sent), MSG_NOSIGNAL);
                if (k <= 0)
                        return false;
                sent += k;
        }
        return n > 0;
}

static gpointer relay_run(gpointer arg)
{
        struct relay *r = arg;
        struct pollfd p[2] = {
                {.fd = r->fd[0], .events = POLLIN},
                {.fd = r->fd[1], .events = POLLIN}
        };
        bool goes_on = true;
        while (goes_on && !g_atomic_int_get(&r->is_over)) {
                if (poll(p, 2, 20) <= 0)
                        continue;
                if (p[0].revents)
                        goes_on = pass_on(r->fd[0], r->fd[1], 16384);
                if (goes_on && p[1].revents)
                        goes_on = pass_on(r->fd[1], r->fd[0], 16384);
                if (g_atomic_int_get(&r->is_slow))
                        g_usleep(5000); /* 3 MiB/s or less */
        }
        /* As a process that ends does it: what was not read is reset, else who waits to write waits on. */
        for (int i = 0; i < 2; i++)
                close(r->fd[i]);
        return NULL;
}

static void relay_end(struct relay *r)
{
        g_atomic_int_set(&r->is_over, 1);
        if (r->thread)
                (void)g_thread_join(r->thread);
        r->thread = NULL;
}

/* ---- a VMM */

static void on_event(void *arg, struct vm *vm, enum vm_event event, int index, const char *words)
{
        struct end *e = arg;
        if (event == VM_EVENT_MIGRATION)
                (void)g_strlcpy(e->status, words, sizeof(e->status));
        e->passes += event == VM_EVENT_PASS;
        e->stops += event == VM_EVENT_STOP;
        e->resumes += event == VM_EVENT_RESUME;
        *(event == VM_EVENT_STOP ? &e->stop_us : &e->resume_us) = g_get_monotonic_time();
}

static void on_death(void *arg, struct vm *vm, const struct err *why)
{
        struct end *e = arg;
        e->deaths++;
        copy_free(e->copy);
        e->copy = NULL;
}

static void on_line(void *arg, bool sent, const char *line, size_t n)
{
        if (record)
                (void)fprintf(record, "%c %.*s\n", sent ? '>' : '<', (int)n, line);
}

static void on_result(void *arg, const struct vm_result *result)
{
        struct end *e = arg;
        e->result = *result;
        e->results++;
}

static void on_seen(void *arg, const struct copy_seen *seen, const struct err *err)
{
        struct end *e = arg;
        if (err)
                g_error("%s", err->sentence);
        e->seen = *seen;
        e->results++;
}

static void expect(struct end *e, enum vm_outcome outcome)
{
        WAIT_FOR(e->results > 0);
        g_assert_cmpint(e->results, ==, 1);
        e->results = 0;
        if (e->result.outcome != outcome)
                g_error("%s instead of %s: %s", vm_outcome_name(e->result.outcome), vm_outcome_name(outcome),
                        e->result.err.sentence);
}

static enum copy_status look(struct end *e)
{
        copy_look(e->copy, WAIT_MS, on_seen, e);
        WAIT_FOR(e->results > 0);
        g_assert_cmpint(e->results, ==, 1);
        e->results = 0;
        return e->seen.status;
}

static void end_start(struct end *e, const struct api_vm_definition *d, bool is_incoming)
{
        struct err err = {0};
        *e = (struct end){.dir = g_dir_make_tmp("mete-copy-XXXXXX", NULL),
                          .ram = g_strdup("/dev/shm/mete-copy-XXXXXX")};
        g_assert_nonnull(g_mkdtemp(e->ram));
        if (geteuid() == 0)
                g_assert_cmpint(chown(e->ram, STRANGER, STRANGER), ==, 0);
        const struct vm_argv_options o = {.image_dir = images, .ram_dir = e->ram, .is_incoming = is_incoming};
        e->pid = real_start(e->dir, d, &o, true);
        const struct vm_options vo = {.definition = d,
                                      .qmp_path = path_in(e, "qmp"),
                                      .oob_path = path_in(e, "oob"),
                                      .ram_dir = e->ram,
                                      .on_event = on_event,
                                      .on_death = on_death,
                                      .on_line = on_line};
        e->vm = vm_attach(&vo, WAIT_MS, on_result, e, &err);
        if (!e->vm)
                g_error("%s", err.sentence);
        expect(e, VM_DONE);
        e->copy = copy_new(&(struct copy_options){
                .vm = e->vm, .side = is_incoming ? COPY_DESTINATION : COPY_SOURCE, .dir = e->dir});
}

static void end_close(struct end *e)
{
        copy_free(e->copy);
        vm_free(e->vm);
        real_end(&e->pid);
        g_assert_false(g_file_test(path_in(e, COPY_KEY_DIR), G_FILE_TEST_EXISTS)); /* no key stays */
        real_remove_dir(e->dir);
        real_remove_dir(e->ram);
}

/* ---- the guest */

static uint32_t board(const struct end *e, int word)
{
        g_autofree char *path = g_build_filename(e->ram, "ram0", NULL);
        uint32_t words[16] = {0};
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        g_assert_cmpint(fd, >=, 0);
        ssize_t n = pread(fd, words, sizeof(words), BOARD);
        close(fd);
        return n == sizeof(words) && words[0] == BOARD_MAGIC ? words[word] : 0;
}

static void expect_progress(const struct end *e)
{
        uint32_t before = board(e, BOARD_MS);
        WAIT_FOR(board(e, BOARD_MS) != before);
        g_assert_cmpuint(board(e, BOARD_MS), !=, before);
}

static void on_stopped(void *arg, const json_t *ret, const struct err *err)
{
        g_assert_null(err);
        ((struct end *)arg)->results++;
}

static void stop_guest(struct end *e)
{
        qmp_execute(vm_monitor(e->vm), "stop", NULL, WAIT_MS, on_stopped, e);
        WAIT_FOR(e->results == 1);
        e->results = 0;
}

static bool is_lossy(void)
{
        return probe.major < 8 && probe.accelerator == API_ACCELERATOR_TCG;
}

static unsigned differing_pages(const struct world *w)
{
        const struct end *ends[2] = {&w->source, &w->dest};
        const char *at[2];
        size_t size = (size_t)w->d.memory_bytes;
        for (int i = 0; i < 2; i++) {
                g_autofree char *path = g_build_filename(ends[i]->ram, "ram0", NULL);
                int fd = open(path, O_RDONLY | O_CLOEXEC);
                at[i] = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
                g_assert_true(at[i] != MAP_FAILED);
                close(fd);
        }
        unsigned n = 0;
        for (size_t p = 0; p < size; p += PAGE)
                n += memcmp(at[0] + p, at[1] + p, PAGE) != 0;
        for (int i = 0; i < 2; i++)
                munmap((void *)(uintptr_t)at[i], size);
        return n;
}

/* ---- a move */

static struct world *begin(void)
{
        struct world *w = g_new0(struct world, 1);
        struct api_vm_create wish = {.name = "moved",
                                     .cpus = 1,
                                     .memory_bytes = 128 * MIB,
                                     .has_kernel = true,
                                     .has_append = true,
                                     .has_disk = true};
        struct err err = {0};
        (void)STR_COPY(wish.kernel, "payload.elf");
        (void)STR_COPY(wish.disk, "disk.raw");
        (void)STR_COPY(wish.append, "dirty=60 area=32 work=1 say=0");
        if (vm_definition_make(&wish, 1000, &probe, &w->d, &err) < 0)
                g_error("%s", err.sentence);
        end_start(&w->source, &w->d, false);
        end_start(&w->dest, &w->d, true);
        vm_cont(w->source.vm, WAIT_MS, on_result, &w->source);
        expect(&w->source, VM_DONE);
        /* So much that it takes seconds where the relay is slow. */
        WAIT_FOR(board(&w->source, BOARD_DIRTIED) > DIRTIED);
        g_assert_cmpuint(board(&w->source, BOARD_DIRTIED), >, DIRTIED);
        return w;
}

static void prepare(struct world *w, bool is_key_wrong)
{
        struct copy_key keys[2];
        g_assert_cmpint(copy_key_make(&keys[0], NULL), ==, 0);
        g_assert_cmpint(copy_key_make(&keys[1], NULL), ==, 0);
        g_assert_cmpstr(keys[0].hex, !=, keys[1].hex);
        copy_prepare(w->source.copy, &keys[0], WAIT_MS, on_result, &w->source);
        expect(&w->source, VM_DONE);
        copy_prepare(w->dest.copy, &keys[is_key_wrong], WAIT_MS, on_result, &w->dest);
        expect(&w->dest, VM_DONE);
}

static void go(struct world *w, bool is_slow)
{
        int near[2], far[2];
        int64_t bytes = 0;
        tcp_pair(near);
        tcp_pair(far);
        g_assert_cmpint(copy_socket_bound(near[0], &bytes, NULL), ==, 0);
        g_assert_cmpint(copy_socket_bound(far[1], &w->queued_bytes, NULL), ==, 0);
        w->queued_bytes += bytes;
        w->relay = (struct relay){
                .fd = {near[1], far[0]},
                  .is_slow = is_slow
        };
        w->relay.thread = g_thread_new("relay", relay_run, &w->relay);
        copy_begin(w->dest.copy, far[1], WAIT_MS, on_result, &w->dest);
        expect(&w->dest, VM_DONE);
        copy_begin(w->source.copy, near[0], WAIT_MS, on_result, &w->source);
        expect(&w->source, VM_DONE);
}

static void limit(struct world *w, int64_t ms)
{
        copy_limit(w->source.copy, ms, WAIT_MS, on_result, &w->source);
        WAIT_FOR(w->source.results > 0); /* late where it stops at once */
        w->source.results = 0;
}

static void finish(struct world *w)
{
        end_close(&w->source);
        end_close(&w->dest);
        relay_end(&w->relay);
        g_free(w);
}

#define WAIT_FOR_STATUS(e, what)                                                                             \
        do {                                                                                                 \
                WAIT_FOR(strcmp((e)->status, (what)) == 0);                                                  \
                g_assert_cmpstr((e)->status, ==, (what));                                                    \
        } while (0)

/* All is over there, and both stand. */
static void copy_all(struct world *w)
{
        prepare(w, false);
        go(w, false);
        g_assert_cmpint(w->queued_bytes, >=, 2 * COPY_SOCKET_BYTES);
        limit(w, 500);
        WAIT_AT_MOST(5 * SECOND, strcmp(w->source.status, "completed") == 0);
        if (strcmp(w->source.status, "completed") != 0)
                limit(w, COPY_LIMIT_MAX_MS); /* a machine that is too slow for it */
        copy_bandwidth(w->source.copy, 0, WAIT_MS, on_result, &w->source);
        expect(&w->source, VM_DONE);
        WAIT_FOR_STATUS(&w->source, "completed");
        WAIT_FOR_STATUS(&w->dest, "completed");
        WAIT_FOR(look(&w->source) == COPY_COMPLETED && w->source.seen.total_ms > 0);
        g_assert_cmpint(w->source.seen.total_ms, >, 0);
        g_assert_cmpint(w->source.seen.sample.transferred_bytes, >, 0);
        g_assert_cmpint(w->source.seen.sample.normal_pages, >, 0);
        g_assert_cmpint(w->source.passes, >, 0);
        g_assert_cmpint(look(&w->dest), ==, COPY_COMPLETED);
        for (int tries = 0; tries < 100 && vm_run(w->source.vm) != VM_RUN_MIGRATED; tries++) {
                g_usleep(tries ? 100000 : 0);
                vm_refresh(w->source.vm, WAIT_MS, on_result, &w->source);
                expect(&w->source, VM_DONE);
        }
        g_assert_cmpint(vm_run(w->source.vm), ==, VM_RUN_MIGRATED);
        g_test_message("%d ms, of them %d without the guest, %u bytes", (int)w->source.seen.total_ms,
                       (int)w->source.seen.downtime_ms, (unsigned)w->source.seen.sample.transferred_bytes);
        g_assert_cmpuint(differing_pages(w), ==, 0);
}

static void test_kept(void)
{
        struct world *w = begin();
        if (is_lossy())
                stop_guest(&w->source);
        /* Not before all is there: it would run by itself then. */
        vm_cont(w->dest.vm, WAIT_MS, on_result, &w->dest);
        expect(&w->dest, VM_FAILED);
        g_assert_cmpint(w->dest.result.err.reason, ==, REASON_STALE);
        g_assert_cmpint(look(&w->source), ==, COPY_IDLE);
        copy_all(w);
        vm_cont(w->dest.vm, WAIT_MS, on_result, &w->dest);
        expect(&w->dest, VM_DONE);
        expect_progress(&w->dest);
        copy_announce(w->dest.copy, WAIT_MS, on_result, &w->dest);
        expect(&w->dest, VM_DONE);
        vm_quit(w->source.vm, WAIT_MS, on_result, &w->source);
        expect(&w->source, VM_DONE);
        expect_progress(&w->dest);
        finish(w);
}

/* All was there, and it was not committed: with the disk, which both have open. */
static void test_rolled_back(void)
{
        struct world *w = begin();
        if (is_lossy())
                stop_guest(&w->source);
        copy_all(w);
        real_end(&w->dest.pid);
        WAIT_FOR(w->dest.deaths == 1);
        vm_cont(w->source.vm, WAIT_MS, on_result, &w->source);
        expect(&w->source, VM_DONE);
        expect_progress(&w->source);
        finish(w);
}

static void expect_source_runs(struct world *w)
{
        vm_refresh(w->source.vm, WAIT_MS, on_result, &w->source);
        expect(&w->source, VM_DONE);
        g_assert_cmpint(vm_run(w->source.vm), ==, VM_RUN_RUNNING);
        expect_progress(&w->source);
}

static void test_cancelled(void)
{
        struct world *w = begin();
        prepare(w, false);
        go(w, true);
        WAIT_FOR(look(&w->source) == COPY_ACTIVE);
        g_assert_cmpint(w->source.seen.sample.remaining_bytes, >, 0);
        copy_cancel(w->source.copy, WAIT_MS, on_result, &w->source);
        expect(&w->source, VM_DONE);
        g_assert_cmpint(look(&w->source), >=, COPY_CANCELLED);
        expect_source_runs(w);
        finish(w);
}

/* The same VM once more, to another: with a new key. */
static void test_again(void)
{
        struct world *w = begin();
        prepare(w, true);
        go(w, false);
        WAIT_FOR_STATUS(&w->source, "failed");
        g_assert_cmpint(look(&w->source), ==, COPY_FAILED);
        g_test_message("a wrong key: %s", w->source.seen.why);
        expect_source_runs(w);
        relay_end(&w->relay);
        end_close(&w->dest);
        end_start(&w->dest, &w->d, true);
        *w->source.status = '\0';
        if (is_lossy())
                stop_guest(&w->source);
        copy_all(w);
        finish(w);
}

static void test_destination_dies(void)
{
        struct world *w = begin();
        prepare(w, false);
        go(w, true);
        WAIT_FOR(look(&w->source) == COPY_ACTIVE);
        real_end(&w->dest.pid);
        WAIT_FOR(w->dest.deaths == 1);
        WAIT_FOR_STATUS(&w->source, "failed");
        expect_source_runs(w);
        finish(w);
}

/* It was begun, and nobody shakes hands. */
static void test_destination_hangs(void)
{
        struct world *w = begin();
        prepare(w, false);
        kill(w->dest.pid, SIGSTOP);
        int pair[2];
        tcp_pair(pair);
        copy_begin(w->source.copy, pair[0], WAIT_MS, on_result, &w->source);
        expect(&w->source, VM_DONE);
        g_assert_cmpint(look(&w->source), ==, COPY_SETUP);
        copy_cancel(w->source.copy, WAIT_MS, on_result, &w->source);
        expect(&w->source, VM_DONE);
        expect_source_runs(w);
        close(pair[1]);
        finish(w);
}

/* ---- the guard */

static pid_t guard_start(struct world *w, const char *program, int *ret_client)
{
        struct sockaddr_un a = {.sun_family = AF_UNIX};
        struct err err = {0};
        int fds[3] = {vm_connect_guard(path_in(&w->source, "guard"), &err),
                      vm_listen(path_in(&w->source, "control"), &err),
                      open(w->source.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
        for (int i = 0; i < 3; i++) {
                g_assert_cmpint(fds[i], >=, 0);
                int high = fcntl(fds[i], F_DUPFD_CLOEXEC, 16);
                close(fds[i]);
                fds[i] = high;
        }
        pid_t pid = fork();
        if (pid == 0) {
                for (int i = 0; i < 3; i++)
                        dup2(fds[i], 3 + i);
                execl(program, program, "--bound-us", "100000", "--move", "outcome", NULL);
                _exit(127);
        }
        for (int i = 0; i < 3; i++)
                close(fds[i]);
        (void)g_strlcpy(a.sun_path, path_in(&w->source, "control"), sizeof(a.sun_path));
        *ret_client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        g_assert_cmpint(connect(*ret_client, (struct sockaddr *)&a, sizeof(a)), ==, 0);
        return pid;
}

/* The next line of the guard's that begins so. */
static char *hear(int fd, const char *word)
{
        const struct timeval most = {.tv_sec = 60};
        g_assert_cmpint(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &most, sizeof(most)), ==, 0);
        for (;;) {
                GString *line = g_string_new(NULL);
                char c = 0;
                while (recv(fd, &c, 1, 0) == 1 && c != '\n')
                        g_string_append_c(line, c);
                if (g_str_has_prefix(line->str, word))
                        return g_string_free(line, FALSE);
                if (c != '\n')
                        g_error("the guard ended before it said \"%s\"", word);
                g_string_free(line, TRUE);
        }
}

static void test_cut(void)
{
        const char *program = g_getenv("METE_GUARD");
        if (!program || !*program) {
                g_test_skip("METE_GUARD is not set");
                return;
        }
        struct world *w = begin();
        int client, status;
        pid_t pid = guard_start(w, program, &client);
        g_free(hear(client, "watching"));
        prepare(w, false);
        /* The zero pages are through; what is left would take seconds. */
        go(w, false);
        WAIT_FOR(look(&w->source) == COPY_ACTIVE && w->source.seen.sample.remaining_bytes < 40 * MIB);
        g_atomic_int_set(&w->relay.is_slow, 1);
        limit(w, COPY_LIMIT_MAX_MS);
        g_autofree char *line = hear(client, "resumed");
        WAIT_FOR(w->source.resumes > 1); /* the first was its beginning */
        g_test_message("guard: %s (us after the word that it stopped); here: %d us", line,
                       (int)(w->source.resume_us - w->source.stop_us));
        WAIT_FOR_STATUS(&w->source, "failed");
        g_assert_cmpint(look(&w->source), ==, COPY_FAILED);
        expect_source_runs(w);
        g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
        g_assert_cmpint(status, ==, 0);
        g_autofree char *outcome = NULL;
        g_assert_true(g_file_get_contents(path_in(&w->source, "outcome"), &outcome, NULL, NULL));
        g_assert_cmpstr(outcome, ==, "aborted guard\n");
        /* The destination never had all, and never ran. */
        g_assert_cmpint(w->dest.resumes, ==, 0);
        g_assert_cmpstr(w->dest.status, !=, "completed");
        close(client);
        finish(w);
}

int main(int argc, char **argv)
{
        const char *qemu = g_getenv("METE_QEMU"), *payload = g_getenv("METE_PAYLOAD");
        struct err err = {0};
        g_test_init(&argc, &argv, NULL);
        if (!payload || !*payload) {
                g_print("1..0 # SKIP METE_PAYLOAD is not set\n");
                return 0;
        }
        if (!qemu || !*qemu)
                qemu = "/usr/bin/qemu-system-x86_64";
        (void)signal(SIGPIPE, SIG_IGN);
        if (probe_qemu(qemu, NULL, 20 * SECOND, &probe, &err) < 0)
                g_error("%s", err.sentence);
        const char *file = g_getenv("METE_QMP_RECORD");
        if (file)
                record = fopen(file, "ae");
        images = real_images(payload);
        g_test_add_func("/copy-live/kept", test_kept);
        g_test_add_func("/copy-live/rolled-back", test_rolled_back);
        g_test_add_func("/copy-live/cancelled", test_cancelled);
        g_test_add_func("/copy-live/again", test_again);
        g_test_add_func("/copy-live/destination-dies", test_destination_dies);
        g_test_add_func("/copy-live/destination-hangs", test_destination_hangs);
        g_test_add_func("/copy-live/cut", test_cut);
        int r = g_test_run();
        real_remove_dir(images);
        if (record)
                (void)fclose(record);
        return r;
}
