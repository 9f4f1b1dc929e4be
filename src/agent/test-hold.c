/* SPDX-License-Identifier: Apache-2.0 */
/* On plain directories that look like hierarchies; tests/system/test_inguest.py holds them against a kernel.
 */
#include <errno.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "agent/agent.h"
#include "agent/test-hold-tree.h"
#include "base/str.h"

static char *get(const struct tree *t, const char *path)
{
        g_autofree char *p = path_in(t, path);
        char *text = NULL;
        if (!g_file_get_contents(p, &text, NULL, NULL))
                return g_strdup("(none)");
        return g_strstrip(text);
}

/* The order of processes in a group means nothing. */
static char *sorted(const char *text)
{
        g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
        qsort(lines, g_strv_length(lines), sizeof(*lines), by_text);
        g_autofree char *one = g_strjoinv(" ", lines);
        return g_strdup(g_strstrip(one));
}

static void is(const struct tree *t, const char *path, const char *expected)
{
        g_autofree char *text = get(t, path), *lines = sorted(text);
        g_test_message("%s", path);
        g_assert_cmpstr(g_str_has_suffix(path, "procs") ? lines : text, ==, expected);
}

static void walk(const struct tree *t, const char *path, GPtrArray *ret)
{
        g_autofree char *p = path_in(t, path);
        if (!g_file_test(p, G_FILE_TEST_IS_DIR)) {
                g_autofree char *text = get(t, path), *lines = sorted(text);
                g_ptr_array_add(ret, g_strdup_printf("%s=%s", path, lines));
                return;
        }
        g_ptr_array_add(ret, g_strdup(path));
        GDir *d = g_dir_open(p, 0, NULL);
        for (const char *name; (name = g_dir_read_name(d)) != NULL;) {
                g_autofree char *below = g_build_filename(path, name, NULL);
                walk(t, below, ret);
        }
        g_dir_close(d);
}

/* Every group, file and value; the records too. */
static char *all_of(const struct tree *t)
{
        GPtrArray *lines = g_ptr_array_new_with_free_func(g_free);
        walk(t, "cg", lines);
        walk(t, "records", lines);
        g_ptr_array_sort(lines, by_text);
        g_ptr_array_add(lines, NULL);
        char *text = g_strjoinv("\n", (char **)lines->pdata);
        g_ptr_array_free(lines, TRUE);
        return text;
}

static void same(const struct tree *t, const char *before)
{
        g_autofree char *now = all_of(t);
        g_assert_cmpstr(now, ==, before);
}

static void process(const struct tree *t, int pid, int parent, const char *group, const char *more)
{
        g_autofree char *stat = g_strdup_printf("proc/%d/stat", pid),
                        *text = g_strdup_printf(
                                "%d (a b) c) %s %d 0 0 0 -1 %s 0 0 0 0 0 0 0 0 20 0 1 0 %d 0 0\n", pid,
                                strcmp(more, "Z") == 0 ? "Z" : "S", parent,
                                strcmp(more, "kernel") == 0 ? "2129984" : "4194560", pid * 10);
        put(t, stat, text);
        g_autofree char *file = g_build_filename("cg", group, "cgroup.procs", NULL), *have = get(t, file),
                        *procs = g_strdup_printf("%s%s%d\n", strcmp(have, "(none)") == 0 ? "" : have,
                                                 strcmp(have, "(none)") == 0 || !*have ? "" : "\n", pid);
        put(t, file, procs);
}

static void ends(const struct tree *t, int pid)
{
        g_autofree char *command = g_strdup_printf("rm -r '%s/proc/%d'", t->dir, pid);
        g_assert_true(g_spawn_command_line_sync(command, NULL, NULL, NULL, NULL));
        g_autofree char *p = path_in(t, "cg"),
                        *forget = g_strdup_printf("find '%s' -name cgroup.procs -exec sed -i /^%d$/d {} +", p,
                                                  pid);
        g_assert_true(g_spawn_command_line_sync(forget, NULL, NULL, NULL, NULL));
}

static struct holds *make(const struct tree *t)
{
        g_autofree char *mountinfo = path_in(t, "mountinfo"), *proc = path_in(t, "proc"),
                        *systemd = path_in(t, "systemd"), *records = path_in(t, "records");
        struct hold_options o = {.mountinfo = mountinfo,
                                 .proc = proc,
                                 .systemd = systemd,
                                 .busctl = "/nonexistent/busctl",
                                 .cpus = "/nonexistent",
                                 .records = records,
                                 .is_fake = true};
        return holds_new(&o);
}

enum { V1 = 1, V2 = 2 };

/* 100 holds leases; 101 is its child, elsewhere; 102 is that one's. 200 is somebody else, with 201. */
static void set_up(struct tree *t, int version)
{
        /* records are synced: hundreds of them take seconds on a disk */
        t->dir = g_strdup_printf("%s/mete-hold-XXXXXX",
                                 access("/dev/shm", W_OK) == 0 ? "/dev/shm" : g_get_tmp_dir());
        g_assert_nonnull(g_mkdtemp(t->dir));
        put(t, "records/other", "");
        g_autofree char *mount = g_strdup_printf("30 23 0:27 / %s/cg rw,relatime - %s rw%s\n", t->dir,
                                                 version == V2 ? "cgroup2 cgroup" : "cgroup cgroup",
                                                 version == V2 ? "" : ",cpuset");
        put(t, "mountinfo", mount);
        if (version == V2) {
                put(t, "cg/cgroup.controllers", "cpuset cpu io memory\n");
                put(t, "cg/cgroup.subtree_control", "cpuset memory\n");
        } else {
                put(t, "cg/cpuset.cpus", "0-3\n");
                put(t, "cg/cpuset.mems", "0\n");
                put(t, "cg/app/cpuset.cpus", "0\n");
        }
        process(t, 1, 0, "", "");
        process(t, 2, 0, "", "kernel");
        process(t, 100, 1, "", "");
        process(t, 101, 100, "app", "");
        process(t, 102, 101, "", "");
        process(t, 103, 102, "", "Z");
        process(t, 200, 1, "", "");
        process(t, 201, 200, "", "");
        t->holds = make(t);
        const char *lack;
        g_assert_cmpstr(holds_provider(t->holds, &lack), ==, version == V2 ? "cgroup-v2" : "cgroup-v1");
}

#define G "cg/mete.100-1000/"

static void test_v2(void)
{
        struct tree t;
        set_up(&t, V2);
        g_autofree char *before = all_of(&t);
        for (int again = 0; again < 2; again++)
                silent(set(&t, 100, "1-2", 1 << 20));
        is(&t, G "cpuset.cpus", "1-2");
        is(&t, G "cpuset.cpus.partition", "root");
        is(&t, G "memory.min", "1048576");
        is(&t, G "cgroup.procs", "100 101 102");
        is(&t, "cg/cgroup.procs", "1 103 2 200 201");
        is(&t, "cg/app/cgroup.procs", "");
        process(&t, 104, 102, "mete.100-1000", ""); /* forked since */
        silent(set(&t, 100, "", 0));
        is(&t, "cg/cgroup.procs", "1 100 102 103 104 2 200 201");
        is(&t, "cg/app/cgroup.procs", "101");
        ends(&t, 104);
        same(&t, before);
        silent(set(&t, 100, "", 0));
        same(&t, before);
        tear_down(&t);
}

/* While the host is still at it; then it is granted, or refused. */
static void test_joined(void)
{
        struct hold_who who = {100, 1000};
        for (int version = V1; version <= V2; version++) {
                struct tree t;
                set_up(&t, version);
                g_autofree char *before = all_of(&t);
                for (int is_granted = 0; is_granted < 2; is_granted++) {
                        holds_join(t.holds, &who);
                        if (version == V1) { /* a group without CPUs takes nobody */
                                same(&t, before);
                        } else {
                                is(&t, G "cgroup.procs", "100 101 102");
                                is(&t, G "cpuset.cpus.partition", "(none)");
                                is(&t, G "memory.min", "(none)");
                        }
                        if (is_granted) {
                                silent(set(&t, 100, "2", 0));
                                is(&t, G "cgroup.procs", "100 101 102");
                                is(&t, G "cpuset.cpus", "2");
                                holds_join(t.holds, &who); /* for a second lease: it is there */
                                is(&t, G "cpuset.cpus", "2");
                        }
                        silent(set(&t, 100, "", 0));
                        same(&t, before);
                }
                struct hold_who gone = {100, 999};
                holds_join(t.holds, &gone);
                same(&t, before);
                tear_down(&t);
        }
}

static void test_two_leases_of_one(void)
{
        struct tree t;
        set_up(&t, V2);
        g_autofree char *before = all_of(&t);
        silent(set(&t, 100, "1", 1 << 20));
        silent(set(&t, 100, "1,3", 3 << 20));
        is(&t, G "cpuset.cpus", "1,3");
        is(&t, G "memory.min", "3145728");
        silent(set(&t, 100, "3", 2 << 20));
        is(&t, G "cpuset.cpus", "3");
        silent(set(&t, 100, "", 2 << 20)); /* memory alone: the vCPUs are everybody's */
        is(&t, G "cpuset.cpus", "");
        is(&t, G "cpuset.cpus.partition", "member");
        is(&t, G "memory.min", "2097152");
        silent(set(&t, 100, "2", 0));
        is(&t, G "cpuset.cpus.partition", "root");
        is(&t, G "memory.min", "0");
        silent(set(&t, 100, "", 0));
        same(&t, before);
        tear_down(&t);
}

static void row_of(struct row *row, struct table *t, enum row_state state, int64_t cpu, int64_t bytes)
{
        *row = (struct row){
                .state = state,
                .pid = 7,
                .start_ticks = 70,
                .has_verdict = true,
                .verdict = {.n_cpus = 1, .cpus = {cpu}, .has_memory_bytes = true, .memory_bytes = bytes}
        };
        t->rows[t->n++] = row;
}

static void test_rows(void)
{
        static struct table t;
        struct row rows[5];
        struct hold_want want;
        char text[CPULIST_TEXT];

        row_of(&rows[0], &t, ROW_GRANTED, 1, 100);
        row_of(&rows[1], &t, ROW_RELEASING, 2, 10);
        row_of(&rows[2], &t, ROW_GRANTED, 3, 20);
        row_of(&rows[3], &t, ROW_GRANTED, 4, 1000);
        rows[3].start_ticks++;                      /* another process, that had this pid before */
        row_of(&rows[4], &t, ROW_GRANTED, 5000, 0); /* no such vCPU is possible */
        rows_want(&t, &rows[0], &want);
        g_assert_cmpstr(cpulist_print(&want.cpus, text), ==, "1,3");
        g_assert_cmpint(want.memory_bytes, ==, 120);
        rows[0].state = rows[2].state = rows[4].state = ROW_ENDED;
        rows_want(&t, &rows[0], &want);
        g_assert_cmpint(cpulist_next(&want.cpus, 0), ==, -1);
        g_assert_cmpint(want.memory_bytes, ==, 0);
}

/* A child of one that holds asks for itself; whichever ends first. */
static void test_nested(void)
{
        for (int first = 0; first < 2; first++) {
                struct tree t;
                set_up(&t, V2);
                g_autofree char *before = all_of(&t);
                silent(set(&t, 101, "3", 0));
                is(&t, "cg/mete.101-1010/cgroup.procs", "101 102");
                silent(set(&t, 100, "1", 0));
                is(&t, G "cgroup.procs", "100"); /* the others are held for themselves */
                process(&t, 105, 100, "mete.100-1000", "");
                silent(set(&t, 105, "2", 0));
                is(&t, "cg/mete.105-1050/cgroup.procs", "105");
                silent(set(&t, first ? 100 : 105, "", 0));
                is(&t, first ? "cg/mete.105-1050/cgroup.procs" : G "cgroup.procs", first ? "105" : "100 105");
                silent(set(&t, first ? 105 : 100, "", 0));
                is(&t, "cg/cgroup.procs", "1 100 103 105 2 200 201");
                silent(set(&t, 101, "", 0));
                ends(&t, 105);
                same(&t, before);
                tear_down(&t);
        }
}

/* n children and a child of each, that wait for the end of a pipe. */
static pid_t fork_family(int n, int *ret_end)
{
        int ready[2], end[2];
        char c;

        g_assert_cmpint(pipe(ready), ==, 0);
        g_assert_cmpint(pipe(end), ==, 0);
        pid_t pid = fork();
        if (pid == 0) {
                (void)close(end[1]);
                for (int i = 0; i < n; i++)
                        if (fork() == 0) {
                                pid_t child = fork();
                                _exit(write(ready[1], "x", 1) != 1 || read(end[0], &c, 1) != 0 || child < 0);
                        }
                _exit(read(end[0], &c, 1) != 0);
        }
        for (int i = 0; i < 2 * n; i++)
                g_assert_cmpint((int)read(ready[0], &c, 1), ==, 1);
        (void)close(ready[0]);
        (void)close(ready[1]);
        (void)close(end[0]);
        *ret_end = end[1];
        return pid;
}

/* Real processes, few and more than are looked at one by one. */
static void test_family(void)
{
        static const int counts[] = {0, 3, 40};
        struct holds h = {.proc = "/proc"};
        for (size_t i = 0; i < ARRAY_N(counts); i++) {
                struct hold_task task, child;
                pid_t *pids = NULL;
                size_t n = 0;
                int end;
                pid_t pid = fork_family(counts[i], &end);
                g_assert_cmpint(hold_task_get(&h, pid, &task), ==, 0);
                g_assert_cmpint(task.parent, ==, getpid());
                struct hold_who who = {pid, task.start_ticks};
                g_assert_cmpint(hold_family(&h, &who, &pids, &n), ==, 0);
                g_assert_cmpint((int)n, ==, 1 + 2 * counts[i]);
                g_assert_cmpint(pids[0], ==, pid);
                for (size_t k = 1; k < n; k++) {
                        g_assert_cmpint(hold_task_get(&h, pids[k], &child), ==, 0);
                        bool is_known = false;
                        for (size_t of = 0; of < k; of++)
                                is_known = is_known || pids[of] == child.parent;
                        g_assert_true(is_known);
                }
                free(pids);
                who.start_ticks++;
                g_assert_cmpint(hold_family(&h, &who, &pids, &n), ==, -ESRCH);
                (void)close(end);
                g_assert_cmpint(waitpid(pid, NULL, 0), ==, pid);
                who.start_ticks--;
                g_assert_cmpint(hold_family(&h, &who, &pids, &n), ==, -ESRCH);
        }
}

static void test_others_apart(void)
{
        struct tree t;
        set_up(&t, V2);
        g_autofree char *before = all_of(&t);
        silent(set(&t, 100, "1", 0));
        silent(set(&t, 200, "2", 1 << 20));
        is(&t, "cg/mete.200-2000/cgroup.procs", "200 201");
        is(&t, G "cpuset.cpus", "1");
        silent(set(&t, 100, "", 0));
        is(&t, "cg/mete.200-2000/cpuset.cpus", "2");
        silent(set(&t, 200, "", 0));
        same(&t, before);
        tear_down(&t);
}

/* vCPUs that are not on line, and those that go. */
static void test_off_line(void)
{
        struct tree t;
        set_up(&t, V2);
        put(&t, "cg/cpuset.cpus.effective", "0-2\n");
        g_autofree char *before = all_of(&t);
        says(set(&t, 100, "2-3", 0),
             "vCPUs are not held for the application alone: only vCPUs 0-2 are there");
        same(&t, before);
        silent(set(&t, 100, "1", 4096));
        put(&t, "cg/cpuset.cpus.effective", "0,2\n");
        put(&t, G "cpuset.cpus.effective", "1\n");
        silent(set(&t, 100, "1-2", 4096)); /* its own and one that is free */
        put(&t, G "cpuset.cpus.effective", "1-2\n");
        struct cpulist gone;
        g_assert_cmpint(cpulist_parse("2-3", &gone, NULL), ==, 0);
        holds_yield(t.holds, &gone);
        is(&t, G "cpuset.cpus", "1");
        g_assert_cmpint(cpulist_parse("1", &gone, NULL), ==, 0);
        holds_yield(t.holds, &gone);
        is(&t, G "cpuset.cpus", "");
        is(&t, G "cpuset.cpus.partition", "member");
        is(&t, G "memory.min", "4096");
        put(&t, "cg/cpuset.cpus.effective", "0-2\n");
        silent(set(&t, 100, "", 0));
        same(&t, before);
        tear_down(&t);
}

static void test_many(void)
{
        struct tree t;
        set_up(&t, V2);
        g_autofree char *before = all_of(&t);
        silent(set(&t, 100, "1-64", INT64_C(1) << 40));
        is(&t, G "cpuset.cpus", "1-64");
        silent(set(&t, 100,
                   "1,3,5,7,9,11,13,15,17,19,21,23,25,27,29,31,33,35,37,39,41,43,45,47,49,51,53,55,57,59",
                   0));
        is(&t, G "cpuset.cpus",
           "1,3,5,7,9,11,13,15,17,19,21,23,25,27,29,31,33,35,37,39,41,43,45,47,49,51,53,55,57,59");
        silent(set(&t, 100, "", 0));
        same(&t, before);
        tear_down(&t);
}

static void test_gone(void)
{
        struct tree t;
        set_up(&t, V2);
        g_autofree char *before = all_of(&t);
        struct hold_who other = {100, 999}; /* its pid is another's now */
        struct hold_want want = {.memory_bytes = 4096};
        struct hold_said said;
        holds_set(t.holds, &other, &want, &said);
        says(said, "memory is not held for the application alone: process 100: it is gone");
        same(&t, before);
        says(set(&t, 300, "1", 4096), "vCPUs and memory are not held for the application alone: process 300");
        same(&t, before);
        /* the holder dies, its children live on in the group until the lease ends */
        silent(set(&t, 100, "1", 0));
        ends(&t, 100);
        silent(set(&t, 100, "1", 4096));
        silent(set(&t, 100, "", 0));
        is(&t, "cg/cgroup.procs", "1 102 103 2 200 201");
        is(&t, "cg/app/cgroup.procs", "101");
        tear_down(&t);
}

/* What left the group by somebody's hand is left alone, and where a group was there may be none. */
static void test_moved_by_somebody(void)
{
        struct tree t;
        set_up(&t, V2);
        silent(set(&t, 100, "1", 0));
        g_assert_cmpint(hold_move(t.holds, 102, "/app", NULL), ==, 0);
        silent(set(&t, 100, "1-2", 0));
        is(&t, G "cgroup.procs", "100 101");
        is(&t, "cg/app/cgroup.procs", "102");
        silent(set(&t, 100, "", 0));
        is(&t, "cg/app/cgroup.procs", "101 102");

        put(&t, "cg/a/b/cgroup.procs", "");
        process(&t, 400, 1, "a/b", "");
        silent(set(&t, 400, "1", 0));
        g_autofree char *gone = path_in(&t, "cg/a/b"), *file = path_in(&t, "cg/a/b/cgroup.procs");
        g_assert_cmpint(g_unlink(file), ==, 0);
        g_assert_cmpint(g_rmdir(gone), ==, 0);
        silent(set(&t, 400, "", 0));
        is(&t, "cg/a/cgroup.procs", "400");
        tear_down(&t);
}

static void test_v1(void)
{
        struct tree t;
        set_up(&t, V1);
        g_autofree char *before = all_of(&t);
        for (int again = 0; again < 2; again++)
                silent(set(&t, 100, "1", 0));
        is(&t, G "cpuset.cpus", "1");
        is(&t, G "cpuset.mems", "0");
        is(&t, G "cgroup.procs", "100 101 102");
        is(&t, "cg/mete-others/cpuset.cpus", "0,2-3");
        is(&t, "cg/mete-others/cpuset.mems", "0");
        is(&t, "cg/mete-others/cgroup.procs", "1 200 201");
        is(&t, "cg/cgroup.procs", "103 2"); /* a kernel thread, and who is dead */
        silent(set(&t, 200, "2", 0));
        is(&t, "cg/mete-others/cpuset.cpus", "0,3");
        silent(set(&t, 100, "", 0)); /* it belongs to the others now */
        is(&t, "cg/mete-others/cgroup.procs", "1 100 102");
        is(&t, "cg/mete-others/cpuset.cpus", "0-1,3");
        put(&t, "cg/app/cpuset.cpus", "\n");
        says(set(&t, 100, "0-1,3", 0), "no vCPU would be left to the others");
        is(&t, "cg/mete-others/cpuset.cpus", "0-1,3");
        put(&t, "cg/app/cpuset.cpus", "0\n");
        says(set(&t, 100, "0", 0), "control group app has vCPU 0 too");
        says(set(&t, 100, "1", 4096),
             "memory is not held for the application alone: control groups v1 have no memory.min");
        is(&t, G "cpuset.cpus", "1");
        says(set(&t, 100, "", 4096), "no memory.min");
        silent(set(&t, 200, "", 0));
        same(&t, before);
        tear_down(&t);
}

static void test_lacks(void)
{
        static const struct {
                const char *controllers, *mount, *systemd, *words;
        } cases[] = {
                {"cpuset memory", NULL, NULL,
                 "vCPUs and memory are not held for the application alone: no control groups"   },
                {"cpuset memory", "",   NULL, "no control groups that can be written"           },
                {"",              "cg", NULL, "no controllers cpuset and memory"                },
                {"cpuset memory", "cg", "",   "systemd owns the control groups, and there is no"},
                {"cpuset",        "cg", NULL,
                 "memory is not held for the application alone: the control groups have no controller "
                 "memory"                                                                       },
                {"memory",        "cg", NULL,
                 "vCPUs are not held for the application alone: the control groups have no controller "
                 "cpuset"                                                                       },
        };
        for (size_t i = 0; i < ARRAY_N(cases); i++) {
                struct tree t;
                set_up(&t, V2);
                holds_free(t.holds);
                put(&t, "cg/cgroup.controllers", cases[i].controllers);
                g_autofree char *mountinfo = path_in(&t, "mountinfo");
                if (cases[i].mount == NULL)
                        g_assert_cmpint(g_unlink(mountinfo), ==, 0);
                else if (*cases[i].mount == '\0')
                        put(&t, "mountinfo", "30 23 0:27 / /nonexistent rw - cgroup2 cgroup rw\n");
                if (cases[i].systemd != NULL)
                        put(&t, "systemd", "");
                t.holds = make(&t);
                g_autofree char *before = all_of(&t);
                says(set(&t, 100, "1", 4096), cases[i].words);
                silent(set(&t, 100, "", 0));
                holds_sweep(t.holds);
                same(&t, before);
                tear_down(&t);
        }
}

/* ---- faults ---- */

static int fault_at, fault_n;
static const char *fault_link;

static int on_change(const char *path)
{
        if (fault_link != NULL && g_str_has_suffix(path, fault_link) && symlink("/dev/null", path) < 0)
                g_assert_cmpint(errno, ==, EEXIST);
        return fault_n++ == fault_at ? EIO : 0;
}

/* The kernel takes what is written and does something else. */
static void test_not_taken(void)
{
        static const struct {
                const char *file, *words;
        } cases[] = {
                {"/cpuset.cpus.partition",
                 "vCPUs are not held for the application alone: the kernel makes no partition"},
                {"/memory.min",            "memory is not held for the application alone"     },
        };
        for (size_t i = 0; i < ARRAY_N(cases); i++) {
                struct tree t;
                set_up(&t, V2);
                g_autofree char *before = all_of(&t);
                fault_link = cases[i].file;
                fault_at = -1;
                cgroupfs_fault = on_change;
                says(set(&t, 100, "1", 4096), cases[i].words);
                is(&t, G "cgroup.procs", "100 101 102");
                cgroupfs_fault = NULL;
                fault_link = NULL;
                g_autofree char *link = g_strdup_printf("%s/%s%s", t.dir, "cg/mete.100-1000", cases[i].file);
                g_assert_cmpint(g_unlink(link), ==, 0);
                silent(set(&t, 100, "", 0));
                same(&t, before);
                tear_down(&t);
        }
}

static const struct tree *forking;

static int on_change_fork(const char *path)
{
        if (g_str_has_suffix(path, "cgroup.procs") && fault_n < 100)
                process(forking, 500 + fault_n++, 100, "", "");
        return 0;
}

/* Each time that one is moved, another is born outside: it is given up, and said. */
static void test_fork_bomb(void)
{
        struct tree t;
        set_up(&t, V2);
        forking = &t;
        fault_n = 0;
        cgroupfs_fault = on_change_fork;
        says(set(&t, 100, "1", 0),
             "vCPUs are not held for the application alone: its processes multiply faster");
        cgroupfs_fault = NULL;
        g_assert_cmpint(fault_n, >=, HOLD_PASSES);
        g_assert_cmpint((int)holds_retry(t.holds), ==, 0);
        is(&t, "cg/mete.100-1000/cgroup.procs", "(none)");
        for (int i = 0; i < fault_n; i++) {
                char path[HOLD_PATH];
                g_assert_cmpint(hold_where(t.holds, 500 + i, path), ==, 0);
                g_assert_cmpstr(path, ==, "/");
        }
        tear_down(&t);
}

static const struct step {
        int pid;
        const char *cpus;
        int64_t bytes;
} steps[] = {
        {100, "1",   1 << 20},
        {200, "2",   2 << 20},
        {100, "1,3", 3 << 20},
        {100, "3",   0      },
        {100, "",    0      },
        {200, "",    0      },
};

static struct hold_said walk_to(const struct tree *t, size_t at)
{
        struct hold_said said = {0};
        for (size_t i = 0; i <= at; i++)
                said = set(t, steps[i].pid, steps[i].cpus, steps[i].bytes);
        return said;
}

static bool said_has(const struct hold_said *said, const char *word)
{
        for (size_t i = 0; i < said->n; i++)
                if (strstr(said->text[i], word) != NULL &&
                    strstr(said->text[i], word) < strstr(said->text[i], ":"))
                        return true;
        return false;
}

/* Nothing is half done in silence: what is not said is there as it would be without the fault. */
static void check_step(const struct tree *t, const struct step *s, const struct hold_said *said,
                       const char *sound)
{
        g_autofree char *cpus = g_strdup_printf("cg/mete.%d-%d0/cpuset.cpus", s->pid, s->pid),
                        *have = get(t, cpus),
                        *min = g_strdup_printf("cg/mete.%d-%d0/memory.min", s->pid, s->pid),
                        *bytes = get(t, min);
        g_autofree char *number = g_strdup_printf("%jd", (intmax_t)s->bytes);
        if (said->n == 0 && *s->cpus != '\0')
                same(t, sound);
        else if (!said_has(said, "vCPUs") && *s->cpus != '\0')
                g_assert_cmpstr(have, ==, s->cpus);
        else if (said_has(said, "vCPUs"))
                g_assert_cmpstr(have, !=, s->cpus);
        if (said->n > 0 && !said_has(said, "memory") && s->bytes > 0 && t->holds->has_memory)
                g_assert_cmpstr(bytes, ==, number);
}

static void test_faults(void)
{
        int cases = 0;
        for (int version = V1; version <= V2; version++)
                for (size_t at = 0; at < ARRAY_N(steps); at++)
                        for (int fault = -1, n = 1; fault < n; fault++) {
                                struct tree t;
                                set_up(&t, version);
                                g_autofree char *before = all_of(&t);
                                static char *sound;
                                if (at > 0)
                                        (void)walk_to(&t, at - 1);
                                fault_n = 0;
                                fault_at = fault;
                                cgroupfs_fault = on_change;
                                struct hold_said said =
                                        set(&t, steps[at].pid, steps[at].cpus, steps[at].bytes);
                                cgroupfs_fault = NULL;
                                g_test_message("v%d step %zu fault %d: %s", version, at, fault,
                                               said.n ? said.text[0] : "nothing said");
                                if (fault < 0) {
                                        n = fault_n;
                                        g_free(sound);
                                        sound = all_of(&t);
                                } else {
                                        cases++;
                                        g_assert_cmpint(fault_n, >, fault);
                                        check_step(&t, &steps[at], &said, sound);
                                }
                                (void)holds_retry(t.holds);
                                if (at < 4)
                                        silent(set(&t, 100, "", 0));
                                if (at < 5)
                                        silent(set(&t, 200, "", 0));
                                g_assert_cmpint((int)holds_retry(t.holds), ==, 0);
                                same(&t, before);
                                tear_down(&t);
                        }
        g_test_message("%d faults", cases);
        g_print("# %d changes made to fail, in turn\n", cases);
        g_assert_cmpint(cases, >=, 60);
}

/* The agent dies at each change: from `dead_from` on nothing is done. The next one finds what it left. */
static int dead_from;

static int on_change_dead(const char *path)
{
        (void)path;
        return fault_n++ >= dead_from ? EIO : 0;
}

static void test_killed(void)
{
        int cases = 0;
        for (int version = V1; version <= V2; version++)
                for (size_t at = 0; at < ARRAY_N(steps); at++)
                        for (int live = 0; live < 2; live++)
                                for (int last = 0, i = 0; !last; i++) {
                                        struct tree t;
                                        set_up(&t, version);
                                        g_autofree char *before = all_of(&t);
                                        if (at > 0)
                                                (void)walk_to(&t, at - 1);
                                        fault_n = 0;
                                        dead_from = i;
                                        cgroupfs_fault = on_change_dead;
                                        (void)set(&t, steps[at].pid, steps[at].cpus, steps[at].bytes);
                                        last = fault_n <= i;
                                        cgroupfs_fault = NULL;
                                        holds_free(t.holds);
                                        t.holds = make(&t);
                                        if (live)
                                                (void)set(&t, 100, "1", 1 << 20);
                                        holds_sweep(t.holds);
                                        g_assert_cmpint((int)t.holds->n, ==, live);
                                        if (live) {
                                                is(&t, G "cpuset.cpus", "1");
                                                is(&t, G "cgroup.procs", "100 101 102");
                                                (void)set(&t, 100, "", 0);
                                        }
                                        same(&t, before);
                                        cases++;
                                        tear_down(&t);
                                }
        g_print("# killed at %d changes\n", cases);
        g_assert_cmpint(cases, >=, 100);
}

/* Left by a crash, with somebody in it and without a record; and things that only look like ours. */
static void test_left_behind(void)
{
        struct tree t;
        set_up(&t, V2);
        g_autofree char *before = all_of(&t);
        put(&t, "cg/mete.999-1/cpuset.cpus", "1\n");
        put(&t, "cg/mete.999-1/cpuset.cpus.partition", "root\n");
        g_assert_cmpint(hold_move(t.holds, 201, "mete.999-1", NULL), ==, 0);
        put(&t, "records/hold.mete.998-1", "held /app\n");
        holds_sweep(t.holds);
        same(&t, before);

        put(&t, "records/hold.mete.997-1", "what is this\n");
        put(&t, "cg/mete.997-1/cgroup.procs", "");
        holds_sweep(t.holds);
        same(&t, before);

        put(&t, "cg/mete.foo/cgroup.procs", "");
        put(&t, "cg/mete.01-1/cgroup.procs", "");
        g_autofree char *foreign = all_of(&t);
        holds_sweep(t.holds);
        same(&t, foreign);
        tear_down(&t);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/agent/hold/v2", test_v2);
        g_test_add_func("/agent/hold/v1", test_v1);
        g_test_add_func("/agent/hold/joined", test_joined);
        g_test_add_func("/agent/hold/family", test_family);
        g_test_add_func("/agent/hold/rows", test_rows);
        g_test_add_func("/agent/hold/two-leases-of-one", test_two_leases_of_one);
        g_test_add_func("/agent/hold/two-applications", test_others_apart);
        g_test_add_func("/agent/hold/nested", test_nested);
        g_test_add_func("/agent/hold/off-line", test_off_line);
        g_test_add_func("/agent/hold/many-vcpus", test_many);
        g_test_add_func("/agent/hold/gone", test_gone);
        g_test_add_func("/agent/hold/moved-by-somebody", test_moved_by_somebody);
        g_test_add_func("/agent/hold/lacks", test_lacks);
        g_test_add_func("/agent/hold/not-taken", test_not_taken);
        g_test_add_func("/agent/hold/fork-bomb", test_fork_bomb);
        g_test_add_func("/agent/hold/faults", test_faults);
        g_test_add_func("/agent/hold/killed", test_killed);
        g_test_add_func("/agent/hold/left-behind", test_left_behind);
        return g_test_run();
}
