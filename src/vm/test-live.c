/* SPDX-License-Identifier: Apache-2.0 */
/* A real VMM, started from the command line that vm/argv makes, attached to, grown, shrunk, let go, killed.
 *
 * METE_QEMU: the program; /usr/bin/qemu-system-x86_64 where not set.
 *
 * METE_GUEST: directory with vmlinuz and bare.cpio.gz (tests/guest/build-image --bare --name bare). Without
 * it the tests that need a guest are skipped.
 *
 * METE_QMP_RECORD: file to which every line of the monitors is appended, "> " what we said, "< " what the VMM
 * said; tests/platform checks it against the VMM's own schema. */
#include "vm/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/str.h"
#include "vm/probe.h"
#include "vm/socket.h"
#include "vm/test-real.h"

enum { SECOND = 1000, MIB = 1 << 20, UNIT = 128 * MIB };

static struct api_qemu_probe probe;
static FILE *record;
static const char *guest_dir;

struct rig {
        char *dir, *ram; /* sockets; RAM files, in shared memory as the keeper has them */
        struct api_vm_definition d;
        pid_t pid;
        struct vm *vm;
        struct vm_result result;
        int results, deaths;
        unsigned events[VM_EVENT_N];
        int last_index[VM_EVENT_N];
        char last_words[64];
        GString *console;
        int console_fd;
};

static char *path_in(const struct rig *r, const char *name)
{
        static char buf[4][256];
        static int next;
        char *p = buf[next++ % 4];
        snprintf(p, sizeof(buf[0]), "%s/%s", r->dir, name);
        return p;
}

/* ---- the VMM */

static void rig_open(struct rig *r, bool with_guest, int64_t cpus_max)
{
        struct api_vm_create wish = {.name = "live",
                                     .cpus = 1,
                                     .has_cpus_max = true,
                                     .cpus_max = cpus_max,
                                     .memory_bytes = INT64_C(256) * MIB,
                                     .has_memory_max_bytes = true,
                                     .memory_max_bytes = INT64_C(1024) * MIB};
        struct err err = {0};
        *r = (struct rig){.console_fd = -1, .console = g_string_new(NULL)};
        r->dir = g_dir_make_tmp("mete-live-XXXXXX", NULL);
        r->ram = g_strdup("/dev/shm/mete-live-XXXXXX");
        g_assert_nonnull(g_mkdtemp(r->ram));
        if (with_guest) {
                wish.has_kernel = wish.has_initrd = wish.has_append = true;
                STR_COPY(wish.kernel, "vmlinuz");
                STR_COPY(wish.initrd, "bare.cpio.gz");
                STR_COPY(wish.append, "console=ttyS0 quiet");
        }
        if (vm_definition_make(&wish, 1000, &probe, &r->d, &err) < 0)
                g_error("%s", err.sentence);
}

static void rig_start(struct rig *r)
{
        const struct vm_argv_options o = {.image_dir = guest_dir != NULL ? guest_dir : "/",
                                          .ram_dir = r->ram};
        r->pid = real_start(r->dir, &r->d, &o, false);
}

static void on_event(void *arg, struct vm *vm, enum vm_event event, int index, const char *words)
{
        struct rig *r = arg;
        r->events[event]++;
        r->last_index[event] = index;
        snprintf(r->last_words, sizeof(r->last_words), "%s", words);
}

static void on_death(void *arg, struct vm *vm, const struct err *why)
{
        struct rig *r = arg;
        r->deaths++;
}

static void on_line(void *arg, bool sent, const char *line, size_t n)
{
        if (record != NULL)
                fprintf(record, "%c %.*s\n", sent ? '>' : '<', (int)n, line);
}

static void on_result(void *arg, const struct vm_result *result)
{
        struct rig *r = arg;
        r->result = *result;
        r->results++;
}

static struct vm_options rig_options(struct rig *r)
{
        return (struct vm_options){.definition = &r->d,
                                   .qmp_path = path_in(r, "qmp"),
                                   .oob_path = path_in(r, "oob"),
                                   .ram_dir = r->ram,
                                   .on_event = on_event,
                                   .on_death = on_death,
                                   .on_line = on_line};
}

#define WAIT_FOR(condition, ms)                                                                              \
        for (gint64 end = g_get_monotonic_time() + (gint64)(ms)*1000;                                        \
             !(condition) && g_get_monotonic_time() < end;)                                                  \
                if (!g_main_context_iteration(NULL, FALSE))                                                  \
                        g_usleep(200);

/* Waits for the one answer, which must be this. */
static void expect(struct rig *r, enum vm_outcome outcome)
{
        WAIT_FOR(r->results > 0, 40 * SECOND);
        g_assert_cmpint(r->results, ==, 1);
        r->results = 0;
        if (r->result.outcome != outcome)
                g_error("%s instead of %s: %s", vm_outcome_name(r->result.outcome), vm_outcome_name(outcome),
                        r->result.err.sentence);
}

static void rig_attach(struct rig *r)
{
        struct err err = {0};
        struct vm_options o = rig_options(r);
        r->vm = vm_attach(&o, 20 * SECOND, on_result, r, &err);
        if (r->vm == NULL)
                g_error("%s", err.sentence);
        expect(r, VM_DONE);
}

static void rig_close(struct rig *r)
{
        vm_free(r->vm);
        real_end(&r->pid);
        if (r->console_fd >= 0)
                close(r->console_fd);
        real_remove_dir(r->dir);
        real_remove_dir(r->ram);
        g_string_free(r->console, TRUE);
}

/* Bytes that the host really spends on a RAM file; -1: there is none. */
static int64_t host_bytes(const struct rig *r, const char *name)
{
        char *path = g_build_filename(r->ram, name, NULL);
        struct stat st;
        int64_t n = stat(path, &st) < 0 ? -1 : (int64_t)st.st_blocks * 512;
        g_free(path);
        return n;
}

/* ---- the guest's console */

static void guest_write(struct rig *r, const char *text)
{
        if (r->console_fd < 0)
                r->console_fd = vm_connect(path_in(r, "console"), NULL);
        g_assert_cmpint(send(r->console_fd, text, strlen(text), MSG_NOSIGNAL), ==, strlen(text));
}

static void console_read(struct rig *r)
{
        char buf[4096];
        ssize_t n;
        while (r->console_fd >= 0 && (n = recv(r->console_fd, buf, sizeof(buf), MSG_DONTWAIT)) > 0)
                g_string_append_len(r->console, buf, n);
}

/* Runs a command in the guest's shell; its output up to the mark. The mark is put together in the guest, so
 * that the echo of the command is not taken for it. */
static char *guest_run(struct rig *r, const char *command)
{
        char *text = g_strdup_printf("%s; echo MA''RK-$?\n", command);
        g_string_truncate(r->console, 0);
        guest_write(r, text);
        g_free(text);
        WAIT_FOR((console_read(r), strstr(r->console->str, "MARK-") != NULL), 30 * SECOND);
        if (strstr(r->console->str, "MARK-") == NULL)
                g_error("the guest does not answer \"%s\": %s", command, r->console->str);
        return r->console->str;
}

static void guest_boot(struct rig *r)
{
        vm_cont(r->vm, 5 * SECOND, on_result, r);
        expect(r, VM_DONE);
        gint64 limit = g_get_monotonic_time() + 60 * G_USEC_PER_SEC;
        if (r->console_fd < 0)
                r->console_fd = vm_connect(path_in(r, "console"), NULL);
        while (g_get_monotonic_time() < limit && strstr(r->console->str, "UP-42") == NULL) {
                guest_write(r, "echo UP-$((6*7))\n");
                WAIT_FOR((console_read(r), strstr(r->console->str, "UP-42") != NULL), SECOND);
        }
        if (strstr(r->console->str, "UP-42") == NULL)
                g_error("the guest does not boot: %s", r->console->str);
}

/* ---- without a guest */

static void test_probe(void)
{
        g_assert_nonnull(strstr(probe.machine, "pc-q35-"));
        g_assert_nonnull(strstr(probe.cpu_model, "-v"));
        g_assert_cmpint(probe.virtio_mem_safe, ==, probe.major > 8 || (probe.major == 8 && probe.minor >= 1));
        /* After a vCPU was unplugged on TCG, QEMU 7.2 dies of any migration, and of the next plug. */
        g_assert_cmpint(probe.cpu_mechanism, ==,
                        probe.accelerator == API_ACCELERATOR_KVM ? API_CPU_MECHANISM_UNPLUG
                                                                 : API_CPU_MECHANISM_PARK);
        g_assert_cmpint(probe.memory_mechanism, ==, API_MEMORY_MECHANISM_DIMM);
}

static void test_attach(void)
{
        struct rig r;
        struct err err = {0};
        rig_open(&r, false, 4);
        rig_start(&r);
        rig_attach(&r);
        g_assert_cmpstr(vm_run_name(vm_run(r.vm)), ==, "prelaunch");
        g_assert_cmpstr(vm_qemu_version(r.vm), ==, probe.version);
        g_assert_true(vm_cpu(r.vm, 0)->plugged);
        g_assert_false(vm_cpu(r.vm, 1)->plugged);
        pid_t tid = vm_cpu(r.vm, 0)->tid;
        char *task = g_strdup_printf("/proc/%d/task/%d", r.pid, tid);
        g_assert_true(g_file_test(task, G_FILE_TEST_IS_DIR));
        g_free(task);
        vm_cont(r.vm, 5 * SECOND, on_result, &r);
        expect(&r, VM_DONE);
        g_assert_cmpint(vm_run(r.vm), ==, VM_RUN_RUNNING);
        vm_cont(r.vm, 5 * SECOND, on_result, &r);
        expect(&r, VM_DONE);
        vm_ping(r.vm, 5 * SECOND, on_result, &r);
        expect(&r, VM_DONE);
        /* As after a restart of meted: nothing but the path is known. Again and again. */
        for (int i = 0; i < 5; i++) {
                vm_refresh(r.vm, 5 * SECOND, NULL, NULL); /* an answer that nobody will read */
                vm_free(r.vm);
                rig_attach(&r);
                g_assert_cmpint(vm_cpu(r.vm, 0)->tid, ==, tid);
                g_assert_cmpint(vm_run(r.vm), ==, VM_RUN_RUNNING);
        }
        /* Another VM behind the path: found out, and nothing is done to it. */
        vm_free(r.vm);
        struct vm_options o = rig_options(&r);
        struct api_vm_definition other = r.d;
        STR_COPY(other.uuid, "4f0a3c1e-1111-4222-8333-444455556666");
        o.definition = &other;
        r.vm = vm_attach(&o, 5 * SECOND, on_result, &r, &err);
        expect(&r, VM_FAILED);
        g_assert_cmpint(r.result.err.reason, ==, REASON_INCOMPATIBLE);
        vm_quit(r.vm, 5 * SECOND, on_result, &r);
        expect(&r, VM_FAILED);
        g_assert_cmpint(r.result.err.reason, ==, REASON_INCOMPATIBLE);
        vm_free(r.vm);
        rig_attach(&r);
        vm_quit(r.vm, 5 * SECOND, on_result, &r);
        expect(&r, VM_DONE);
        WAIT_FOR(r.deaths > 0, 5 * SECOND);
        g_assert_cmpint(r.deaths, ==, 1);
        g_assert_cmpint(r.events[VM_EVENT_SHUTDOWN], ==, 1);
        /* The dead are not attached to, and say so at once. */
        vm_free(r.vm);
        waitpid(r.pid, NULL, 0);
        r.pid = 0;
        r.vm = vm_attach(&o, 5 * SECOND, on_result, &r, &err);
        g_assert_null(r.vm);
        g_assert_cmpint(err.reason, ==, REASON_PEER_LOST);
        g_assert_cmpint(r.results, ==, 0);
        rig_close(&r);
}

static void test_death(void)
{
        struct rig r;
        rig_open(&r, false, 2);
        rig_start(&r);
        rig_attach(&r);
        /* Stopped, the VMM answers nothing, not even out of band; killed, it is noticed at once. */
        kill(r.pid, SIGSTOP);
        waitpid(r.pid, NULL, WUNTRACED);
        vm_ping(r.vm, 50, on_result, &r);
        expect(&r, VM_FAILED);
        g_assert_cmpint(r.result.err.reason, ==, REASON_TIMEOUT);
        vm_refresh(r.vm, 50, on_result, &r);
        expect(&r, VM_FAILED);
        g_assert_cmpint(r.result.err.reason, ==, REASON_TIMEOUT);
        vm_refresh(r.vm, 20 * SECOND, on_result, &r);
        vm_refresh(r.vm, 20 * SECOND, on_result, &r);
        gint64 began = g_get_monotonic_time();
        kill(r.pid, SIGKILL);
        WAIT_FOR(r.deaths > 0, 5 * SECOND);
        g_test_message("death noticed after %.1f ms", (double)(g_get_monotonic_time() - began) / 1000);
        g_assert_cmpint(g_get_monotonic_time() - began, <, 500 * 1000);
        g_assert_cmpint(r.deaths, ==, 1);
        g_assert_cmpint(r.results, ==, 2);
        g_assert_cmpint(r.result.err.reason, ==, REASON_PEER_LOST);
        r.results = 0;
        vm_cont(r.vm, 5 * SECOND, on_result, &r);
        expect(&r, VM_FAILED);
        g_assert_cmpint(r.result.err.reason, ==, REASON_PEER_LOST);
        rig_close(&r);
}

static void test_cpus(void)
{
        struct rig r;
        rig_open(&r, false, 4);
        rig_start(&r);
        rig_attach(&r);
        vm_cont(r.vm, 5 * SECOND, on_result, &r);
        expect(&r, VM_DONE);
        vm_cpu_ensure(r.vm, 2, 5 * SECOND, on_result, &r);
        expect(&r, VM_DONE);
        pid_t tid = r.result.tid;
        g_assert_cmpint(tid, ==, vm_cpu(r.vm, 2)->tid);
        bool tcg = probe.accelerator == API_ACCELERATOR_TCG;
        g_assert_cmpint(vm_cpu(r.vm, 1)->plugged, ==, tcg); /* in ascending order only */
        g_assert_cmpint(r.events[VM_EVENT_CPU_NEW], ==, tcg);
        g_assert_cmpint(r.last_index[VM_EVENT_CPU_NEW], ==, tcg);
        g_assert_false(vm_cpu(r.vm, 3)->plugged);
        vm_cpu_ensure(r.vm, 2, 5 * SECOND, on_result, &r);
        expect(&r, VM_DONE);
        g_assert_cmpint(r.result.tid, ==, tid);
        if (tcg) {
                vm_cpu_remove(r.vm, 2, 5 * SECOND, on_result, &r);
                expect(&r, VM_PARKED);
                g_assert_true(vm_cpu(r.vm, 2)->plugged);
        }
        vm_cpu_remove(r.vm, 3, 5 * SECOND, on_result, &r);
        expect(&r, VM_DONE); /* not there */
        /* The next meted sees the same. */
        vm_free(r.vm);
        rig_attach(&r);
        g_assert_cmpint(vm_cpu(r.vm, 2)->tid, ==, tid);
        rig_close(&r);
}

static void test_memory(void)
{
        struct rig r;
        rig_open(&r, false, 1);
        rig_start(&r);
        rig_attach(&r);
        vm_cont(r.vm, 5 * SECOND, on_result, &r);
        expect(&r, VM_DONE);
        vm_memory_ensure(r.vm, 0, UNIT, 5 * SECOND, on_result, &r);
        expect(&r, VM_DONE);
        g_assert_true(vm_dimm(r.vm, 0)->plugged);
        g_assert_cmpint(vm_dimm(r.vm, 0)->bytes, ==, UNIT);
        g_assert_cmpuint(vm_dimm(r.vm, 0)->address, >=, INT64_C(1) << 30);
        g_assert_cmpint(host_bytes(&r, "dimm0-128M"), >=, 0);
        vm_memory_ensure(r.vm, 0, UNIT, 5 * SECOND, on_result, &r);
        expect(&r, VM_DONE);
        vm_memory_ensure(r.vm, 0, 2 * UNIT, 5 * SECOND, on_result, &r);
        expect(&r, VM_FAILED);
        g_assert_cmpint(r.result.err.reason, ==, REASON_STALE);
        vm_memory_ensure(r.vm, 5, 3 * UNIT, 5 * SECOND, on_result, &r);
        expect(&r, VM_DONE);
        /* More than the VM may have: the VMM refuses, and no memory is left behind without its device. */
        vm_memory_ensure(r.vm, 1, 4 * UNIT, 5 * SECOND, on_result, &r);
        expect(&r, VM_FAILED);
        vm_refresh(r.vm, 5 * SECOND, on_result, &r);
        expect(&r, VM_DONE);
        g_assert_false(vm_dimm(r.vm, 1)->backed);
        /* No guest answers: late, and it stays. Asking again is allowed. */
        for (int i = 0; i < 2; i++) {
                vm_memory_remove(r.vm, 0, 200, on_result, &r);
                expect(&r, VM_LATE);
                g_assert_cmpint(r.result.err.reason, ==, REASON_TIMEOUT);
                g_assert_true(vm_dimm(r.vm, 0)->plugged);
        }
        vm_memory_remove(r.vm, 3, 5 * SECOND, on_result, &r);
        expect(&r, VM_DONE); /* not there */
        vm_free(r.vm);
        rig_attach(&r);
        g_assert_true(vm_dimm(r.vm, 0)->plugged);
        g_assert_cmpint(vm_dimm(r.vm, 5)->bytes, ==, 3 * UNIT);
        /* Operations in a row, called at once, answered in order; some wait too long. */
        vm_memory_ensure(r.vm, 1, UNIT, 5 * SECOND, on_result, &r);
        vm_memory_remove(r.vm, 0, 300, on_result, &r);
        vm_refresh(r.vm, 100, on_result, &r);
        vm_refresh(r.vm, 5 * SECOND, on_result, &r);
        WAIT_FOR(r.results == 4, 10 * SECOND);
        g_assert_cmpint(r.results, ==, 4);
        g_assert_cmpint(r.result.outcome, ==, VM_DONE);
        rig_close(&r);
}

struct half {
        struct qmp *q;
        int answers;
        bool ok;
};

static void on_half(void *arg, const json_t *ret, const struct err *err)
{
        struct half *h = arg;
        h->answers++;
        h->ok = err == NULL;
        if (err != NULL)
                g_test_message("%s", err->sentence);
}

static void on_half_ready(void *arg, const struct qmp_version *version)
{
        struct half *h = arg;
        h->answers++;
}

/* What a meted that died between two commands leaves behind: memory without its device. */
static void test_half_done(void)
{
        struct rig r;
        rig_open(&r, false, 1);
        rig_start(&r);
        for (int round = 0; round < 3; round++) {
                struct half h = {0};
                h.q = qmp_new(vm_connect(path_in(&r, "qmp"), NULL),
                              &(struct qmp_options){.on_ready = on_half_ready, .on_line = on_line}, &h);
                WAIT_FOR(h.answers == 1, 10 * SECOND);
                char *path = g_strdup_printf("%s/dimm0-128M", r.ram);
                qmp_execute(h.q, "object-add",
                            json_pack("{s:s, s:s, s:I, s:s, s:b, s:b, s:b}", "qom-type",
                                      "memory-backend-file", "id", "dimmmem0", "size", (json_int_t)UNIT,
                                      "mem-path", path, "share", 1, "prealloc", 1, "discard-data", 1),
                            5 * SECOND, on_half, &h);
                WAIT_FOR(h.answers == 2, 10 * SECOND);
                g_assert_true(h.ok);
                g_free(path);
                qmp_free(h.q);
                g_assert_cmpint(host_bytes(&r, "dimm0-128M"), ==, UNIT);
                rig_attach(&r);
                g_assert_true(vm_dimm(r.vm, 0)->backed);
                g_assert_false(vm_dimm(r.vm, 0)->plugged);
                if (round == 0) {
                        /* Taken back: the memory is the host's again, and the file empty. */
                        vm_memory_remove(r.vm, 0, 5 * SECOND, on_result, &r);
                        expect(&r, VM_DONE);
                        g_assert_false(vm_dimm(r.vm, 0)->backed);
                        g_assert_cmpint(host_bytes(&r, "dimm0-128M"), ==, 0);
                } else if (round == 1) {
                        /* Another amount than the one that was begun. */
                        vm_memory_ensure(r.vm, 0, 2 * UNIT, 5 * SECOND, on_result, &r);
                        expect(&r, VM_DONE);
                        g_assert_cmpint(vm_dimm(r.vm, 0)->bytes, ==, 2 * UNIT);
                        g_assert_cmpint(host_bytes(&r, "dimm0-128M"), ==, 0);
                        vm_free(r.vm);
                        r.vm = NULL;
                        kill(r.pid, SIGKILL);
                        waitpid(r.pid, NULL, 0);
                        rig_start(&r);
                        continue;
                } else {
                        vm_memory_ensure(r.vm, 0, UNIT, 5 * SECOND, on_result, &r);
                        expect(&r, VM_DONE);
                        g_assert_true(vm_dimm(r.vm, 0)->plugged);
                }
                vm_free(r.vm);
                r.vm = NULL;
        }
        rig_close(&r);
}

/* ---- with a guest */

static bool no_guest(void)
{
        if (guest_dir != NULL)
                return false;
        g_test_skip("METE_GUEST names no directory with a guest");
        return true;
}

static void test_guest(void)
{
        struct rig r;
        if (no_guest())
                return;
        rig_open(&r, true, 3);
        rig_start(&r);
        rig_attach(&r);
        guest_boot(&r);
        /* The console's file can be cut while the VMM writes to it. */
        struct stat st;
        guest_run(&r, "dmesg");
        g_assert_cmpint(vm_console_trim(path_in(&r, "console.log"), 1000, NULL), ==, 1);
        guest_run(&r, "echo cut");
        g_assert_cmpint(stat(path_in(&r, "console.log"), &st), ==, 0);
        g_assert_cmpint(st.st_size, >, 0);
        g_assert_cmpint(st.st_size, <, 1000);
        guest_run(&r, "echo online_movable > /sys/devices/system/memory/auto_online_blocks");
        /* A vCPU, seen by the guest. */
        gint64 began = g_get_monotonic_time();
        vm_cpu_ensure(r.vm, 1, 20 * SECOND, on_result, &r);
        expect(&r, VM_DONE);
        g_test_message("vCPU: VMM %.1f ms", (double)(g_get_monotonic_time() - began) / 1000);
        guest_run(&r, "c=/sys/devices/system/cpu/cpu1; while [ ! -e $c/online ]; do usleep 10000; done; echo "
                      "1 > $c/online; "
                      "grep -c ^processor /proc/cpuinfo");
        g_assert_nonnull(strstr(r.console->str, "\n2\r"));
        /* Memory in, used and out again, twice in the same slot. */
        for (int i = 1; i <= 2; i++) {
                char *name = g_strdup_printf("dimm0-%dM", i * 128);
                began = g_get_monotonic_time();
                vm_memory_ensure(r.vm, 0, (int64_t)i * UNIT, 20 * SECOND, on_result, &r);
                expect(&r, VM_DONE);
                g_test_message("memory: VMM %.1f ms", (double)(g_get_monotonic_time() - began) / 1000);
                guest_run(&r, "n=0; while [ $n -lt 300 ] && ! grep -q Movable /proc/zoneinfo; do usleep "
                              "10000; n=$((n+1)); done; "
                              "m=/tmp/m; mkdir -p $m; mount -t tmpfs -o size=400M t $m; "
                              "dd if=/dev/zero of=$m/f bs=1M count=240 2>/dev/null; rm $m/f; umount $m");
                g_assert_cmpint(host_bytes(&r, name), >, 0);
                began = g_get_monotonic_time();
                vm_memory_remove(r.vm, 0, 20 * SECOND, on_result, &r);
                expect(&r, VM_DONE);
                g_test_message("memory back: %.1f ms", (double)(g_get_monotonic_time() - began) / 1000);
                g_assert_false(vm_dimm(r.vm, 0)->backed);
                g_assert_cmpint(host_bytes(&r, name), ==, 0);
                g_free(name);
        }
        /* Memory that the guest's kernel itself uses: refused, said so at once, and the guest goes on. */
        guest_run(&r, "echo online_kernel > /sys/devices/system/memory/auto_online_blocks");
        vm_memory_ensure(r.vm, 1, UNIT, 20 * SECOND, on_result, &r);
        expect(&r, VM_DONE);
        guest_run(&r, "m=/tmp/m; mount -t ramfs t $m; i=0; while [ $i -lt 90 ]; do mkdir $m/$i; cd $m/$i; "
                      "for a in 0 1 2 3 4 5 6 7 8 9; do for b in 0 1 2 3 4 5 6 7 8 9; do : > $a$b; : > "
                      "x$a$b; : > y$a$b; "
                      ": > z$a$b; done; done; i=$((i+1)); done; cd /");
        began = g_get_monotonic_time();
        vm_memory_remove(r.vm, 1, 20 * SECOND, on_result, &r);
        WAIT_FOR(r.results == 1, 30 * SECOND);
        g_test_message("memory in use by the kernel: %s after %.1f ms: %s", vm_outcome_name(r.result.outcome),
                       (double)(g_get_monotonic_time() - began) / 1000, r.result.err.sentence);
        g_assert_cmpint(r.result.outcome, ==, VM_REFUSED);
        g_assert_cmpint(r.result.err.reason, ==, REASON_BUSY);
        r.results = 0;
        g_assert_true(vm_dimm(r.vm, 1)->plugged);
        guest_run(&r, "umount /tmp/m");
        /* A restart of the guest is seen; what is plugged stays. */
        guest_write(&r, "reboot -f\n");
        WAIT_FOR(r.events[VM_EVENT_RESET] > 0, 20 * SECOND);
        g_assert_cmpint(r.events[VM_EVENT_RESET], ==, 1);
        g_string_truncate(r.console, 0);
        guest_boot(&r);
        guest_run(&r, "grep -c ^processor /proc/cpuinfo");
        g_assert_nonnull(strstr(r.console->str, "\n2\r"));
        vm_refresh(r.vm, 5 * SECOND, on_result, &r);
        expect(&r, VM_DONE);
        g_assert_true(vm_cpu(r.vm, 1)->plugged);
        g_assert_true(vm_dimm(r.vm, 1)->plugged);
        /* And the power button. */
        vm_powerdown(r.vm, 5 * SECOND, on_result, &r);
        expect(&r, VM_DONE);
        WAIT_FOR(r.deaths > 0, 30 * SECOND);
        g_assert_cmpint(r.deaths, ==, 1);
        g_assert_cmpint(r.events[VM_EVENT_SHUTDOWN], ==, 1);
        g_assert_cmpstr(r.last_words, ==, "guest-shutdown");
        rig_close(&r);
}

/* The way that KVM hosts go. On TCG too the unplugging itself works; what comes after it does not, so this VM
 * is thrown away. */
static void test_guest_cpu_unplug(void)
{
        struct rig r;
        if (no_guest())
                return;
        rig_open(&r, true, 2);
        r.d.cpu_mechanism = API_CPU_MECHANISM_UNPLUG;
        rig_start(&r);
        rig_attach(&r);
        guest_boot(&r);
        vm_cpu_ensure(r.vm, 1, 20 * SECOND, on_result, &r);
        expect(&r, VM_DONE);
        guest_run(&r, "c=/sys/devices/system/cpu/cpu1; while [ ! -e $c/online ]; do usleep 10000; done; echo "
                      "1 > $c/online");
        gint64 began = g_get_monotonic_time();
        vm_cpu_remove(r.vm, 1, 20 * SECOND, on_result, &r);
        expect(&r, VM_DONE);
        g_test_message("vCPU unplugged after %.1f ms", (double)(g_get_monotonic_time() - began) / 1000);
        g_assert_false(vm_cpu(r.vm, 1)->plugged);
        rig_close(&r);
}

int main(int argc, char **argv)
{
        const char *qemu = g_getenv("METE_QEMU"), *file = g_getenv("METE_QMP_RECORD");
        struct err err = {0};
        g_test_init(&argc, &argv, NULL);
        if (qemu == NULL || qemu[0] == '\0')
                qemu = "/usr/bin/qemu-system-x86_64";
        guest_dir = g_getenv("METE_GUEST");
        if (guest_dir != NULL && guest_dir[0] == '\0')
                guest_dir = NULL;
        if (file != NULL)
                setlinebuf(record = fopen(file, "ae"));
        if (probe_qemu(qemu, NULL, 20 * SECOND, &probe, &err) < 0)
                g_error("%s", err.sentence);
        g_test_message("QEMU %s, %s, %s, on %s (%s)", probe.version, probe.machine, probe.cpu_model,
                       api_accelerator_name(probe.accelerator), probe.accelerator_why);
        g_test_add_func("/live/probe", test_probe);
        g_test_add_func("/live/attach", test_attach);
        g_test_add_func("/live/death", test_death);
        g_test_add_func("/live/cpus", test_cpus);
        g_test_add_func("/live/memory", test_memory);
        g_test_add_func("/live/half-done", test_half_done);
        g_test_add_func("/live/guest", test_guest);
        g_test_add_func("/live/guest-cpu-unplug", test_guest_cpu_unplug);
        int r = g_test_run();
        if (record != NULL)
                fclose(record);
        return r;
}
