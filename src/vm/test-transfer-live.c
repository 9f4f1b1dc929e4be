/* SPDX-License-Identifier: Apache-2.0 */
/* A VM that is handed from one real VMM to another and back, with its memory where it is: a counter that
 * never goes back, a pattern that stays, a vCPU and memory that were plugged, a disk; and each of the ways
 * back.
 *
 * METE_QEMU: the program; METE_QEMU_OTHER: of every second VMM, a later one (live upgrade). METE_PAYLOAD:
 * folder with payload.elf (tests/payload); without it all is skipped. METE_HANDOVERS: how many there are, 6
 * where it is not set. METE_QMP_RECORD: as in test-live.c. */
#include "vm/transfer.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/str.h"
#include "vm/probe.h"
#include "vm/test-real.h"
#include "vm/vm-internal.h"

enum { SECOND = 1000, WAIT_MS = 60 * SECOND, MIB = 1 << 20, MEMORY_MIB = 128, SLOT = 0, CPU = 1 };
enum {
        BOARD = 0x200000,
        BOARD_MAGIC = 0x4554454d,
        BOARD_MS = 4,
        BOARD_DIRTIED = 8,
        BOARD_CPU_1 = 16 + 16, /* words of its vCPUs: on, rounds, starts */
        PATTERN_FIRST = 96 * MIB,
        PATTERN_BYTES = 16 * MIB
}; /* tests/payload/board.h; its area is below the pattern */

static struct api_qemu_probe probe, other;
static FILE *record;
static char *images;

/* A VMM. */
struct end {
        char *dir;
        const char *ram;
        pid_t pid;
        struct vm *vm;
        struct transfer *transfer;
        struct vm_result result;
        struct transfer_seen seen;
        int results, deaths, stops, resumes;
        int64_t stop_us, resume_us;
        pid_t freezes;   /* when it stops */
        char status[64]; /* the last word of its migration */
};

struct world {
        struct api_vm_definition d;
        char *ram;
        const uint32_t *base; /* what is seen of the guest from outside */
        struct end ends[2], *source, *target;
        uint32_t last_ms, last_dirtied;
        uint64_t inode;
};

#define WAIT_FOR(condition)                                                                                  \
        for (gint64 end_us = g_get_monotonic_time() + (gint64)WAIT_MS * 1000;                                \
             !(condition) && g_get_monotonic_time() < end_us;)                                               \
                if (!g_main_context_iteration(NULL, FALSE))                                                  \
                        g_usleep(100);
#define WAIT_FOR_STATUS(e, what)                                                                             \
        do {                                                                                                 \
                WAIT_FOR(strcmp((e)->status, (what)) == 0);                                                  \
                g_assert_cmpstr((e)->status, ==, (what));                                                    \
        } while (0)

static char *path_in(const struct end *e, const char *name)
{
        static char buf[4][256];
        static int next;
        char *p = buf[next++ % 4];
        (void)snprintf(p, sizeof(buf[0]), "%s/%s", e->dir, name);
        return p;
}

/* ---- a VMM */

static void on_event(void *arg, struct vm *vm, enum vm_event event, int index, const char *words)
{
        struct end *e = arg;
        if (event == VM_EVENT_MIGRATION) {
                (void)g_strlcpy(e->status, words, sizeof(e->status));
                transfer_note(e->transfer, words);
        }
        e->stops += event == VM_EVENT_STOP;
        e->resumes += event == VM_EVENT_RESUME;
        if (event == VM_EVENT_STOP && e->freezes > 0)
                kill(e->freezes, SIGSTOP);
        if (event == VM_EVENT_STOP)
                e->stop_us = g_get_monotonic_time();
        else if (event == VM_EVENT_RESUME)
                e->resume_us = g_get_monotonic_time();
}

static void on_death(void *arg, struct vm *vm, const struct err *why)
{
        struct end *e = arg;
        e->deaths++;
        transfer_free(e->transfer);
        e->transfer = NULL;
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

static void on_seen(void *arg, const struct transfer_seen *seen, const struct err *err)
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
        transfer_look(e->transfer, WAIT_MS, on_seen, e);
        WAIT_FOR(e->results > 0);
        g_assert_cmpint(e->results, ==, 1);
        e->results = 0;
        return e->seen.status;
}

static int find(void *arg, struct transfer_ram *ram, struct err *err)
{
        const struct end *e = arg;
        g_autofree char *path = g_strdup_printf("/proc/%d/maps", (int)e->pid);
        FILE *maps = fopen(path, "re");
        g_assert_nonnull(maps);
        int r = transfer_ram_find(maps, ram, err);
        (void)fclose(maps);
        return r;
}

static void start(struct world *w, struct end *e, const struct api_qemu_probe *of, bool is_target)
{
        struct err err = {0};
        *e = (struct end){.dir = g_dir_make_tmp("mete-transfer-XXXXXX", NULL), .ram = w->ram};
        g_assert_nonnull(e->dir);
        if (geteuid() == 0)
                g_assert_cmpint(chown(e->dir, STRANGER, STRANGER), ==, 0);
        (void)STR_COPY(w->d.qemu_path, of->path);
        const struct vm_argv_options o = {.image_dir = images, .ram_dir = e->ram, .is_sharing = is_target};
        e->pid = real_start(e->dir, &w->d, &o, true);
        const struct vm_options vo = {.definition = &w->d,
                                      .qmp_path = path_in(e, "qmp"),
                                      .oob_path = path_in(e, "oob"),
                                      .ram_dir = e->ram,
                                      .is_sharing = is_target,
                                      .on_event = on_event,
                                      .on_death = on_death,
                                      .on_line = on_line};
        e->vm = vm_attach(&vo, WAIT_MS, on_result, e, &err);
        if (!e->vm)
                g_error("%s", err.sentence);
        expect(e, VM_DONE);
        e->transfer = transfer_new(
                &(struct transfer_options){.vm = e->vm, .is_target = is_target, .find = find, .find_arg = e});
}

static void plug(struct end *e)
{
        vm_cpu_ensure(e->vm, CPU, WAIT_MS, on_result, e);
        expect(e, VM_DONE);
        vm_memory_ensure(e->vm, SLOT, VM_UNIT_BYTES, WAIT_MS, on_result, e);
        expect(e, VM_DONE);
}

static void end_close(struct end *e)
{
        if (!e->dir)
                return;
        transfer_free(e->transfer);
        vm_free(e->vm);
        real_end(&e->pid);
        real_remove_dir(e->dir);
        *e = (struct end){.pid = 0};
}

/* ---- the guest */

static uint32_t board(const struct world *w, int word)
{
        return __atomic_load_n(&w->base[BOARD / 4 + word], __ATOMIC_RELAXED);
}

/* What its only writer counts goes on, and never back. */
static void expect_progress(struct world *w)
{
        uint32_t ms = board(w, BOARD_MS), dirtied = board(w, BOARD_DIRTIED),
                 rounds = board(w, BOARD_CPU_1 + 1);
        g_assert_cmpuint(ms, >=, w->last_ms);
        g_assert_cmpuint(dirtied, >=, w->last_dirtied);
        WAIT_FOR(board(w, BOARD_MS) > ms && board(w, BOARD_DIRTIED) > dirtied &&
                 board(w, BOARD_CPU_1 + 1) > rounds);
        g_assert_cmpuint(board(w, BOARD_MS), >, ms);
        g_assert_cmpuint(board(w, BOARD_DIRTIED), >, dirtied);
        g_assert_cmpuint(board(w, BOARD_CPU_1 + 1), >, rounds); /* the vCPU that was plugged works too */
        g_assert_cmpuint(board(w, BOARD_CPU_1 + 2), ==, 1);     /* and never began anew */
        w->last_ms = board(w, BOARD_MS);
        w->last_dirtied = board(w, BOARD_DIRTIED);
}

static uint32_t pattern(size_t i)
{
        return (uint32_t)i * 2654435761U + 12345;
}

/* In the base memory and in the module that was plugged: what no VMM has any business with. */
static uint32_t *file_map(const struct world *w, const char *name, size_t at, uint64_t *ret_inode)
{
        g_autofree char *path = g_build_filename(w->ram, name, NULL);
        struct stat st;
        int fd = open(path, O_RDWR | O_CLOEXEC);
        g_assert_cmpint(fd, >=, 0);
        g_assert_cmpint(fstat(fd, &st), ==, 0);
        *ret_inode = st.st_ino;
        uint32_t *words = mmap(NULL, PATTERN_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)at);
        g_assert_true(words != MAP_FAILED);
        close(fd);
        return words;
}

static void pattern_do(const struct world *w, bool is_check)
{
        static const struct {
                const char *name;
                size_t at;
        } places[] = {
                {"ram0",       PATTERN_FIRST},
                {"dimm0-128M", 0            }
        };
        for (size_t k = 0; k < ARRAY_N(places); k++) {
                uint64_t inode;
                uint32_t *words = file_map(w, places[k].name, places[k].at, &inode);
                size_t wrong = 0;
                for (size_t i = 0; i < PATTERN_BYTES / 4; i++) {
                        wrong += is_check && words[i] != pattern(i + k);
                        if (!is_check)
                                words[i] = pattern(i + k);
                }
                munmap(words, PATTERN_BYTES);
                g_assert_cmpuint(wrong, ==, 0);
        }
}

/* ---- a handover */

static struct world *begin(void)
{
        struct world *w = g_new0(struct world, 1);
        struct api_vm_create wish = {.name = "handed",
                                     .cpus = 1,
                                     .has_cpus_max = true,
                                     .cpus_max = 2,
                                     .memory_bytes = MEMORY_MIB * MIB,
                                     .has_memory_max_bytes = true,
                                     .memory_max_bytes = 4 * VM_UNIT_BYTES,
                                     .has_kernel = true,
                                     .has_append = true,
                                     .has_disk = true};
        struct err err = {0};
        uint64_t inode;
        (void)STR_COPY(wish.kernel, "payload.elf");
        (void)STR_COPY(wish.disk, "disk.raw");
        (void)STR_COPY(wish.append, "dirty=20 area=32 say=0");
        if (vm_definition_make(&wish, 1000, &probe, &w->d, &err) < 0)
                g_error("%s", err.sentence);
        w->ram = g_strdup("/dev/shm/mete-transfer-XXXXXX");
        g_assert_nonnull(g_mkdtemp(w->ram));
        if (geteuid() == 0)
                g_assert_cmpint(chown(w->ram, STRANGER, STRANGER), ==, 0);
        w->source = &w->ends[0];
        w->target = &w->ends[1];
        start(w, w->source, &probe, false);
        plug(w->source);
        w->base = file_map(w, "ram0", 0, &inode);
        w->inode = inode;
        vm_cont(w->source->vm, WAIT_MS, on_result, w->source);
        expect(w->source, VM_DONE);
        WAIT_FOR(board(w, 0) == BOARD_MAGIC && board(w, BOARD_CPU_1));
        pattern_do(w, false);
        expect_progress(w);
        return w;
}

static void end(struct world *w)
{
        end_close(&w->ends[0]);
        end_close(&w->ends[1]);
        munmap((void *)(uintptr_t)w->base, PATTERN_BYTES);
        real_remove_dir(w->ram);
        g_free(w);
}

/* All that is slow: the guest runs meanwhile. */
static void make_ready(struct world *w, const struct api_qemu_probe *of)
{
        struct err err = {0};
        start(w, w->target, of, true);
        plug(w->target);
        transfer_free(w->source->transfer);
        w->source->transfer = transfer_new(&(struct transfer_options){
                .vm = w->source->vm, .is_target = false, .find = find, .find_arg = w->source});
        *w->source->status = '\0';
        transfer_prepare(w->source->transfer, WAIT_MS, on_result, w->source);
        expect(w->source, VM_DONE);
        transfer_prepare(w->target->transfer, WAIT_MS, on_result, w->target);
        expect(w->target, VM_DONE);
        if (transfer_ram_check(w->source->transfer, w->target->transfer, &err) < 0)
                g_error("%s", err.sentence);
        size_t n;
        const struct transfer_ram *ram = transfer_ram(w->target->transfer, &n);
        g_assert_cmpuint(n, ==, 2);
        g_assert_true(ram[0].inode == w->inode || ram[1].inode == w->inode);
        transfer_listen(w->target->transfer, path_in(w->target, "main"), WAIT_MS, on_result, w->target);
        expect(w->target, VM_DONE);
}

static void go(struct world *w)
{
        transfer_begin(w->source->transfer, path_in(w->target, "main"), WAIT_MS, on_result, w->source);
}

static void hand_all(struct world *w)
{
        go(w);
        WAIT_FOR(strcmp(w->source->status, "completed") == 0 && strcmp(w->target->status, "completed") == 0);
        g_assert_cmpstr(w->source->status, ==, "completed");
        g_assert_cmpstr(w->target->status, ==, "completed");
}

static void run_there(struct world *w)
{
        transfer_run(w->target->transfer, WAIT_MS, on_result, w->target);
        WAIT_FOR(w->target->resumes == 1);
        expect(w->target, VM_DONE);
        expect(w->source, VM_DONE); /* that it began */
}

static int compare(const void *a, const void *b)
{
        int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
        return x < y ? -1 : x > y;
}

/* Back and forth. */
static void test_repeated(void)
{
        const char *text = g_getenv("METE_HANDOVERS");
        int n = text ? atoi(text) : 6;
        struct world *w = begin();
        int64_t *gaps = g_new0(int64_t, (gsize)n), bytes = 0;
        for (int i = 0; i < n; i++) {
                make_ready(w, i % 2 == 0 ? &other : &probe);
                expect_progress(w);
                hand_all(w);
                run_there(w);
                gaps[i] = w->target->resume_us - w->source->stop_us;
                g_assert_cmpint(look(w->source), ==, COPY_COMPLETED);
                g_assert_cmpint(w->source->seen.firmware_bytes, <, MIB); /* and nothing else (5.12) */
                bytes = MAX(bytes, w->source->seen.transferred_bytes);
                transfer_announce(w->target->transfer, WAIT_MS, on_result, w->target);
                expect(w->target, VM_DONE);
                transfer_settle(w->target->transfer, WAIT_MS, on_result, w->target);
                expect(w->target, VM_DONE);
                expect_progress(w);
                pattern_do(w, true);
                g_assert_cmpint(w->target->deaths + w->source->deaths, ==, 0);
                vm_quit(w->source->vm, WAIT_MS, on_result, w->source);
                expect(w->source, VM_DONE);
                WAIT_FOR(w->source->deaths == 1);
                end_close(w->source);
                struct end *was = w->source;
                w->source = w->target;
                w->target = was;
                expect_progress(w);
                pattern_do(w, true); /* nor was it given back when that ended */
                /* A target that is upgraded does not go back: the older VMM would be refused. */
                if (other.major != probe.major)
                        n = i + 1;
        }
        qsort(gaps, (size_t)n, sizeof(*gaps), compare);
        g_test_message("%d handovers, most %d bytes; the guest stood %d us at the median, %d at most", n,
                       (int)bytes, (int)gaps[n / 2], (int)gaps[n - 1]);
        g_free(gaps);
        end(w);
}

static void expect_back(struct world *w)
{
        transfer_settle(w->source->transfer, WAIT_MS, on_result, w->source);
        expect(w->source, VM_DONE);
        vm_refresh(w->source->vm, WAIT_MS, on_result, w->source);
        expect(w->source, VM_DONE);
        g_assert_cmpint(vm_run(w->source->vm), ==, VM_RUN_RUNNING);
        expect_progress(w);
        pattern_do(w, true);
}

/* And once more, which must go. */
static void expect_retry(struct world *w)
{
        end_close(w->target);
        make_ready(w, &other);
        hand_all(w);
        run_there(w);
        expect_progress(w);
        pattern_do(w, true);
        end(w);
}

static bool is_under_way(const struct end *e)
{
        return strcmp(e->status, "active") == 0 || strcmp(e->status, "device") == 0;
}

/* The target's VMM dies before it has anything. */
static void test_killed(void)
{
        struct world *w = begin();
        make_ready(w, &other);
        kill(w->target->pid, SIGSTOP);
        go(w);
        WAIT_FOR(is_under_way(w->source));
        expect(w->source, VM_DONE);
        real_end(&w->target->pid);
        WAIT_FOR_STATUS(w->source, "failed");
        WAIT_FOR(w->source->resumes == w->source->stops + 1); /* the first was its beginning */
        expect_back(w);
        expect_retry(w);
}

/* It says nothing any more, from the first or when the guest stands: nobody but us ends the wait for it. */
static void frozen(bool is_late)
{
        struct world *w = begin();
        make_ready(w, &other);
        if (is_late)
                w->source->freezes = w->target->pid;
        else
                kill(w->target->pid, SIGSTOP);
        go(w);
        WAIT_FOR(is_late ? w->source->stops == 1 : is_under_way(w->source));
        expect(w->source, VM_DONE);
        transfer_cancel(w->source->transfer, WAIT_MS, on_result, w->source);
        WAIT_FOR(w->source->results == 1);
        w->source->results = 0;
        real_end(&w->target->pid);
        if (w->source->result.outcome == VM_FAILED) { /* it was faster: all had gone over */
                g_assert_true(is_late);
                g_assert_cmpint(w->source->result.err.reason, ==, REASON_STALE);
                g_assert_cmpint(look(w->source), ==, COPY_COMPLETED);
                vm_cont(w->source->vm, WAIT_MS, on_result, w->source);
                expect(w->source, VM_DONE);
        }
        WAIT_FOR(w->source->resumes == w->source->stops + 1);
        w->source->freezes = 0;
        expect_back(w);
        expect_retry(w);
}

static void test_frozen(void)
{
        frozen(false);
}

static void test_frozen_late(void)
{
        frozen(true);
}

/* All of it was there, and nobody said that it may run. With the disk, which both have open. */
static void test_completed(void)
{
        struct world *w = begin();
        make_ready(w, &other);
        transfer_run(w->target->transfer, WAIT_MS, on_result, w->target);
        expect(w->target, VM_FAILED); /* it would run as soon as all is there */
        g_assert_cmpint(w->target->result.err.reason, ==, REASON_STALE);
        hand_all(w);
        expect(w->source, VM_DONE);
        g_assert_cmpint(look(w->source), ==, COPY_COMPLETED);
        transfer_cancel(w->source->transfer, WAIT_MS, on_result, w->source);
        expect(w->source, VM_FAILED);
        g_assert_cmpint(w->source->result.err.reason, ==, REASON_STALE);
        real_end(&w->target->pid);
        WAIT_FOR(w->target->deaths == 1);
        vm_cont(w->source->vm, WAIT_MS, on_result, w->source);
        expect(w->source, VM_DONE);
        g_assert_cmpint(w->target->resumes, ==, 0);
        expect_back(w);
        expect_retry(w);
}

/* A target with memory of its own is found out before anything is begun. */
static void test_other_memory(void)
{
        struct world *w = begin();
        struct err err = {0};
        char *shared = w->ram;
        w->ram = g_strdup("/dev/shm/mete-transfer-XXXXXX");
        g_assert_nonnull(g_mkdtemp(w->ram));
        if (geteuid() == 0)
                g_assert_cmpint(chown(w->ram, STRANGER, STRANGER), ==, 0);
        start(w, w->target, &other, true);
        plug(w->target);
        transfer_prepare(w->source->transfer, WAIT_MS, on_result, w->source);
        expect(w->source, VM_DONE);
        transfer_prepare(w->target->transfer, WAIT_MS, on_result, w->target);
        expect(w->target, VM_DONE);
        g_assert_cmpint(transfer_ram_check(w->source->transfer, w->target->transfer, &err), <, 0);
        g_assert_cmpint(err.reason, ==, REASON_INCOMPATIBLE);
        g_test_message("%s", err.sentence);
        end_close(w->target);
        real_remove_dir(w->ram);
        w->ram = shared;
        expect_back(w);
        end(w);
}

int main(int argc, char **argv)
{
        const char *qemu = g_getenv("METE_QEMU"), *payload = g_getenv("METE_PAYLOAD"),
                   *second = g_getenv("METE_QEMU_OTHER");
        struct err err = {0};
        g_test_init(&argc, &argv, NULL);
        if (!payload || !*payload) {
                g_print("1..0 # SKIP METE_PAYLOAD is not set\n");
                return 0;
        }
        if (!qemu || !*qemu)
                qemu = "/usr/bin/qemu-system-x86_64";
        (void)signal(SIGPIPE, SIG_IGN);
        if (probe_qemu(qemu, NULL, 20 * SECOND, &probe, &err) < 0 ||
            probe_qemu(second && *second ? second : qemu, NULL, 20 * SECOND, &other, &err) < 0)
                g_error("%s", err.sentence);
        const char *file = g_getenv("METE_QMP_RECORD");
        if (file)
                record = fopen(file, "ae");
        images = real_images(payload);
        g_test_add_func("/transfer-live/repeated", test_repeated);
        g_test_add_func("/transfer-live/killed", test_killed);
        g_test_add_func("/transfer-live/frozen", test_frozen);
        g_test_add_func("/transfer-live/frozen-late", test_frozen_late);
        g_test_add_func("/transfer-live/completed", test_completed);
        g_test_add_func("/transfer-live/other-memory", test_other_memory);
        int r = g_test_run();
        real_remove_dir(images);
        if (record)
                (void)fclose(record);
        return r;
}
