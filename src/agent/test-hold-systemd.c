/* SPDX-License-Identifier: Apache-2.0 */
/* Against a busctl of ours (fake-busctl), and groups that are plain folders.
 * tests/system/test_guest_systemd.py has the real ones. */
#include <errno.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "agent/test-hold-tree.h"
#include "base/str.h"

#define ALL "0,1,2,3,4,5"

/* "(none)": it is not there. The order of processes in a group means nothing. */
static char *get(const struct tree *t, const char *path)
{
        g_autofree char *p = path_in(t, path), *text = NULL;
        if (!g_file_get_contents(p, &text, NULL, NULL))
                return g_strdup("(none)");
        g_auto(GStrv) lines = g_strsplit(g_strstrip(text), "\n", -1);
        if (g_str_has_suffix(path, "procs"))
                qsort(lines, g_strv_length(lines), sizeof(*lines), by_text);
        return g_strjoinv(" ", lines);
}

static void is(const struct tree *t, const char *path, const char *expected)
{
        g_autofree char *text = get(t, path);
        g_test_message("%s", path);
        g_assert_cmpstr(text, ==, expected);
}

static void walk(const struct tree *t, const char *path, GPtrArray *ret)
{
        g_autofree char *p = path_in(t, path);
        if (!g_file_test(p, G_FILE_TEST_IS_DIR)) {
                g_autofree char *text = get(t, path);
                if (strcmp(text, ALL) != 0) /* is no limit */
                        g_ptr_array_add(ret, g_strdup_printf("%s=%s", path, text));
                return;
        }
        GDir *d = g_dir_open(p, 0, NULL);
        for (const char *name; (name = g_dir_read_name(d)) != NULL;) {
                g_autofree char *below = g_build_filename(path, name, NULL);
                walk(t, below, ret);
        }
        g_dir_close(d);
}

/* Every file and value: of groups, what systemd has of units and where it keeps that, and our records. */
static char *all_of(const struct tree *t)
{
        static const char *const folders[] = {"cg", "units", "system.control", "transient", "records"};
        GPtrArray *lines = g_ptr_array_new_with_free_func(g_free);
        for (size_t i = 0; i < ARRAY_N(folders); i++) {
                g_autofree char *p = path_in(t, folders[i]);
                if (g_file_test(p, G_FILE_TEST_EXISTS))
                        walk(t, folders[i], lines);
        }
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

static void process(const struct tree *t, int pid, int parent, const char *group)
{
        g_autofree char *stat = g_strdup_printf("proc/%d/stat", pid),
                        *text = g_strdup_printf(
                                "%d (a) S %d 0 0 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 %d 0 0\n", pid, parent,
                                pid * 10);
        put(t, stat, text);
        g_autofree char *file = g_build_filename("cg", group, "cgroup.procs", NULL), *p = path_in(t, file),
                        *have = NULL;
        if (!g_file_get_contents(p, &have, NULL, NULL))
                have = g_strdup("");
        g_autofree char *procs = g_strdup_printf("%s%d\n", have, pid);
        put(t, file, procs);
}

static void remove_in(const struct tree *t, const char *path)
{
        g_autofree char *p = path_in(t, path);
        if (g_file_test(p, G_FILE_TEST_EXISTS))
                remove_all(p);
}

static struct holds *make(const struct tree *t)
{
        g_autofree char *mountinfo = path_in(t, "mountinfo"), *proc = path_in(t, "proc"),
                        *systemd = path_in(t, "system"), *records = path_in(t, "records"),
                        *busctl = path_in(t, "busctl"), *cpus = path_in(t, "cpus");
        struct hold_options o = {.mountinfo = mountinfo,
                                 .proc = proc,
                                 .systemd = systemd,
                                 .busctl = busctl,
                                 .busctl_ms = t->busctl_ms,
                                 .cpus = cpus,
                                 .records = records,
                                 .is_fake = true};
        return holds_new(&o);
}

/* 100 is of app.service, its child 101 of a session, and 102 that one's. 200 and its child 201 are of a
 * service that the administrator has put into mete.slice, and protects, and so is 300, which never asks. What
 * he has set for system.slice and own.service is to stay. */
static void set_up(struct tree *t)
{
        *t = (struct tree){.dir = g_strdup_printf("%s/mete-systemd-XXXXXX", access("/dev/shm", W_OK) == 0
                                                                                    ? "/dev/shm"
                                                                                    : g_get_tmp_dir())};
        g_assert_nonnull(g_mkdtemp(t->dir));
        g_autofree char *busctl = path_in(t, "busctl");
        g_assert_cmpint(symlink(FAKE_BUSCTL, busctl), ==, 0);
        g_autofree char *mount =
                g_strdup_printf("30 23 0:27 / %s/cg rw,relatime - cgroup2 cgroup rw\n", t->dir);
        put(t, "mountinfo", mount);
        put(t, "system", "");
        put(t, "cpus/possible", "0-5\n");
        put(t, "records/other", "");
        put(t, "cg/cgroup.controllers", "cpuset cpu io memory\n");
        put(t, "cg/cpuset.cpus.effective", "0-3\n");
        put(t, "cg/init.scope/cgroup.procs", "1\n");
        put(t, "cg/system.slice/cpuset.cpus", "0,1,2,3\n");
        put(t, "units/system.slice/AllowedCPUs", "15\n");
        put(t, "cg/sys-kernel-debug.mount/cgroup.events", "populated 0\nfrozen 0\n");
        process(t, 100, 1, "system.slice/app.service");
        process(t, 101, 100, "user.slice/session.scope");
        process(t, 102, 101, "system.slice/app.service");
        process(t, 200, 1, "mete.slice/own.service");
        process(t, 201, 200, "mete.slice/own.service/below");
        process(t, 300, 1, "mete.slice/_cpu.service");
        put(t, "cg/mete.slice/own.service/cpuset.cpus", "0,1,2\n");
        put(t, "cg/mete.slice/own.service/memory.min", "65536\n");
        put(t, "units/own.service/AllowedCPUs", "7\n");
        put(t, "units/own.service/MemoryMin", "65536\n");
        put(t, "system.control/own.service.d/50-MemoryMin.conf", "MemoryMin=65536\n");
        put(t, "system.control/own.service.d/50-CPUWeight.conf", "CPUWeight=7\n");
        t->holds = make(t);
        holds_sweep(t->holds);
        const char *lack;
        g_assert_cmpstr(holds_provider(t->holds, &lack), ==, "systemd");
        g_assert_cmpstr(lack, ==, "");
}

static int calls(const struct tree *t)
{
        g_autofree char *text = get(t, "calls");
        return atoi(text);
}

/* The call that fails, from the next on. */
static void fail(const struct tree *t, int at, const char *how)
{
        g_autofree char *text = g_strdup_printf("%d %s\n", calls(t) + at, how);
        put(t, "fail", text);
}

static void works(const struct tree *t)
{
        remove_in(t, "fail");
}

/* The processes of 100 end, and their scope with them; then they are where they were, so that all is
 * comparable. */
static void scope_goes(const struct tree *t)
{
        static const char *const folders[] = {"cg/mete.slice/mete-100-1000.scope",
                                              "units/mete-100-1000.scope", "transient/mete-100-1000.scope.d",
                                              "cg/user.slice/session.scope", "cg/system.slice/app.service"};
        for (size_t i = 0; i < ARRAY_N(folders); i++)
                remove_in(t, folders[i]);
        process(t, 100, 1, "system.slice/app.service");
        process(t, 101, 100, "user.slice/session.scope");
        process(t, 102, 101, "system.slice/app.service");
}

/* Until nothing is left to be tried again. */
static void settle(const struct tree *t)
{
        for (int i = 0; holds_retry(t->holds) > 0; i++) {
                g_assert_cmpint(i, <, 60000);
                g_usleep(1000);
        }
}

#define SCOPE "cg/mete.slice/mete-100-1000.scope/"
#define OWN   "cg/mete.slice/own.service/"

static void test_scope(void)
{
        struct tree t;
        set_up(&t);
        g_autofree char *before = all_of(&t);
        for (int again = 0; again < 2; again++)
                silent(set(&t, 100, "1-2", 1 << 20));
        is(&t, SCOPE "cgroup.procs", "100 101 102");
        is(&t, "cg/system.slice/app.service/cgroup.procs", "");
        is(&t, SCOPE "cpuset.cpus", "1,2");
        is(&t, SCOPE "memory.min", "1048576");
        is(&t, "cg/mete.slice/memory.min", "1048576");
        is(&t, "cg/mete.slice/cpuset.cpus", "(none)");
        is(&t, "cg/system.slice/cpuset.cpus", "0,3"); /* of the four that he gave it */
        is(&t, "cg/user.slice/cpuset.cpus", "0,3,4,5");
        is(&t, "cg/init.scope/cpuset.cpus", "0,3,4,5");
        is(&t, OWN "cpuset.cpus", "0");
        is(&t, OWN "memory.min", "65536");
        is(&t, "units/cpu.service/AllowedCPUs", "57");
        /* one for the scope; system.slice and own.service are read; six are told */
        g_assert_cmpint(calls(&t), ==, 9);
        g_autofree char *env = get(&t, "env");
        g_assert_nonnull(strstr(env, "LC_ALL='C'"));
        g_assert_null(strstr(env, "METE_SECRET"));
        silent(set(&t, 100, "", 0));
        is(&t, SCOPE "cgroup.procs", "100 101 102"); /* without limits */
        is(&t, SCOPE "cpuset.cpus", ALL);
        is(&t, "units/mete-100-1000.scope/AllowedCPUs", "(none)");
        is(&t, SCOPE "memory.min", "(none)");
        silent(set(&t, 100, "3", 0)); /* it is in a unit of mete.slice now */
        is(&t, SCOPE "cpuset.cpus", "3");
        is(&t, "cg/mete.slice/memory.min", "(none)");
        silent(set(&t, 100, "", 0));
        scope_goes(&t);
        same(&t, before);
        int n = calls(&t);
        silent(set(&t, 100, "", 0));
        g_assert_cmpint(calls(&t), ==, n);
        tear_down(&t);
}

static void test_own_unit(void)
{
        struct tree t;
        set_up(&t);
        g_autofree char *before = all_of(&t);
        silent(set(&t, 200, "1", 1 << 20));
        silent(set(&t, 201, "3", 2 << 20)); /* of the same unit: together */
        is(&t, OWN "cgroup.procs", "200");
        is(&t, OWN "cpuset.cpus", "1,3");
        is(&t, OWN "memory.min", "3145728");
        is(&t, "cg/mete.slice/memory.min", "3145728");
        is(&t, "cg/system.slice/cpuset.cpus", "0,2");
        silent(set(&t, 200, "", 4096));
        is(&t, OWN "cpuset.cpus", "3");
        silent(set(&t, 201, "", 0));
        is(&t, OWN "cpuset.cpus", "0,1,2"); /* as he set it */
        is(&t, OWN "memory.min", "65536");  /* he protects more */
        is(&t, "cg/system.slice/cpuset.cpus", "0,1,2,3");
        silent(set(&t, 200, "", 0));
        same(&t, before);
        tear_down(&t);
}

static void test_two_applications(void)
{
        struct tree t;
        set_up(&t);
        g_autofree char *before = all_of(&t);
        silent(set(&t, 200, "1", 0));
        silent(set(&t, 100, "", 1 << 20)); /* memory alone: it has no vCPU that another holds */
        is(&t, SCOPE "cpuset.cpus", "0,2,3,4,5");
        silent(set(&t, 100, "2", 0));
        is(&t, SCOPE "cpuset.cpus", "2");
        is(&t, OWN "cpuset.cpus", "1");
        is(&t, "cg/init.scope/cpuset.cpus", "0,3,4,5");
        silent(set(&t, 200, "", 0));
        is(&t, OWN "cpuset.cpus", "0,1");
        silent(set(&t, 100, "", 0));
        scope_goes(&t);
        same(&t, before);
        tear_down(&t);
}

/* vCPUs that go, and a lease that would leave nobody any. */
static void test_vcpus_go(void)
{
        struct tree t;
        struct cpulist gone;
        set_up(&t);
        g_autofree char *before = all_of(&t);
        says(set(&t, 100, "0-3", 0), "no vCPU would be left to the others");
        settle(&t);
        scope_goes(&t);
        same(&t, before);
        silent(set(&t, 100, "1-2", 4096));
        g_assert_cmpint(cpulist_parse("2-3", &gone, NULL), ==, 0);
        holds_yield(t.holds, &gone);
        is(&t, SCOPE "cpuset.cpus", "1");
        is(&t, "cg/init.scope/cpuset.cpus", "0,2,3,4,5");
        g_assert_cmpint(cpulist_parse("1", &gone, NULL), ==, 0);
        holds_yield(t.holds, &gone);
        is(&t, SCOPE "cpuset.cpus", ALL);
        is(&t, SCOPE "memory.min", "4096");
        is(&t, "cg/init.scope/cpuset.cpus", ALL);
        put(&t, "cg/mete.slice/mete-100-1000.scope/cpuset.cpus.effective", "0\n");
        says(set(&t, 100, "1", 4096), "vCPUs are not held for the application alone: only vCPUs 0 are there");
        is(&t, SCOPE "memory.min", "4096");
        is(&t, "cg/init.scope/cpuset.cpus", ALL);
        silent(set(&t, 100, "", 0));
        scope_goes(&t);
        same(&t, before);
        tear_down(&t);
}

static void test_gone(void)
{
        struct tree t;
        set_up(&t);
        g_autofree char *before = all_of(&t);
        struct hold_who other = {100, 999}; /* its pid is another's now */
        struct hold_want want = {.memory_bytes = 4096};
        struct hold_said said;
        holds_set(t.holds, &other, &want, &said);
        says(said, "memory is not held for the application alone: process 100: it is gone");
        says(set(&t, 400, "1", 4096), "vCPUs and memory are not held for the application alone: process 400");
        same(&t, before);
        /* all of it ends, and only then the lease */
        silent(set(&t, 100, "1", 4096));
        scope_goes(&t);
        remove_in(&t, "proc/100");
        silent(set(&t, 100, "", 0));
        same(&t, before);
        /* so does a service; systemd forgets what it was told of it when it is asked to */
        silent(set(&t, 200, "1", 1 << 20));
        remove_in(&t, "cg/mete.slice/own.service");
        silent(set(&t, 200, "", 0));
        is(&t, "units/own.service/AllowedCPUs", "7");
        is(&t, "units/own.service/MemoryMin", "65536");
        is(&t, "system.control/own.service.d/50-AllowedCPUs.conf", "(none)");
        is(&t, "records/hold.systemd", "(none)");
        tear_down(&t);
}

/* Somebody whom systemd does not know, and cannot keep off. */
static void test_stranger(void)
{
        struct tree t;
        set_up(&t);
        put(&t, "cg/docker/cgroup.events", "populated 1\nfrozen 0\n");
        g_autofree char *before = all_of(&t);
        says(set(&t, 100, "1", 0), "control group docker is not systemd's");
        silent(set(&t, 100, "", 4096)); /* memory is another thing */
        put(&t, "cg/docker/cpuset.cpus.effective", "0\n");
        silent(set(&t, 100, "1", 0));
        silent(set(&t, 200, "2", 0));
        put(&t, "cg/docker/cpuset.cpus.effective", "0-3\n"); /* he comes later: what is given back is */
        silent(set(&t, 100, "", 0));
        is(&t, SCOPE "cpuset.cpus", "0,1,3,4,5");
        is(&t, "cg/init.scope/cpuset.cpus", "0,1,3,4,5");
        silent(set(&t, 200, "", 0));
        scope_goes(&t);
        remove_in(&t, "cg/docker/cpuset.cpus.effective");
        same(&t, before);
        tear_down(&t);
}

static void test_lacks(void)
{
        static const struct {
                const char *controllers, *mount, *words;
                bool has_busctl;
        } cases[] = {
                {"cpuset memory", "cgroup2 cgroup rw",       "systemd owns the control groups, and there is no /",
                 false                                                                                                 },
                {"cpuset memory", "cgroup cgroup rw,cpuset",
                 "systemd owns the control groups, and they are v1",                                               true},
                {"cpu",           "cgroup2 cgroup rw",       "no controllers cpuset and memory",                   true},
        };
        for (size_t i = 0; i < ARRAY_N(cases); i++) {
                struct tree t;
                set_up(&t);
                holds_free(t.holds);
                put(&t, "cg/cgroup.controllers", cases[i].controllers);
                g_autofree char *mount =
                        g_strdup_printf("30 23 0:27 / %s/cg rw,relatime - %s\n", t.dir, cases[i].mount);
                put(&t, "mountinfo", mount);
                if (!cases[i].has_busctl)
                        remove_in(&t, "busctl");
                t.holds = make(&t);
                g_autofree char *before = all_of(&t);
                says(set(&t, 100, "1", 4096), cases[i].words);
                holds_sweep(t.holds);
                same(&t, before);
                tear_down(&t);
        }
}

/* What busctl may say or not say. */
static void test_refusals(void)
{
        static const struct {
                const char *how, *words;
                int ms;
        } cases[] = {
                {"refuse", "systemd: Access denied",       0  },
                {"silent", "systemd: it refuses",          0  },
                {"flood",  "systemd's answer is too long", 0  },
                {"hang",   "systemd does not answer",      100},
        };
        for (size_t i = 0; i < ARRAY_N(cases); i++) {
                struct tree t;
                set_up(&t);
                g_autofree char *before = all_of(&t);
                holds_free(t.holds);
                t.busctl_ms = cases[i].ms;
                t.holds = make(&t);
                holds_sweep(t.holds);
                fail(&t, 1, cases[i].how);
                says(set(&t, 100, "1", 4096), cases[i].words);
                works(&t);
                holds_free(t.holds); /* the next one has all the time */
                t.busctl_ms = 0;
                t.holds = make(&t);
                holds_sweep(t.holds);
                settle(&t);
                scope_goes(&t);
                same(&t, before);
                tear_down(&t);
        }
}

/* A child that is born while the others are moved, and one that ends. */
static void test_births_and_deaths(void)
{
        struct tree t;
        set_up(&t);
        silent(set(&t, 100, "1", 0));
        silent(set(&t, 100, "", 0));
        process(&t, 104, 102,
                "system.slice/app.service"); /* not moved: it is not in mete.slice, its parent is */
        silent(set(&t, 104, "2", 0));
        is(&t, "cg/mete.slice/mete-104-1040.scope/cgroup.procs", "104");
        is(&t, SCOPE "cgroup.procs", "100 101 102");
        is(&t, SCOPE "cpuset.cpus", "0,1,3,4,5"); /* it holds nothing now */
        silent(set(&t, 104, "", 0));
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

static void walk_to(const struct tree *t, size_t at)
{
        for (size_t i = 0; i < at; i++)
                silent(set(t, steps[i].pid, steps[i].cpus, steps[i].bytes));
}

static bool said_has(const struct hold_said *said, const char *word)
{
        for (size_t i = 0; i < said->n; i++)
                if (strstr(said->text[i], word) != NULL &&
                    strstr(said->text[i], word) < strstr(said->text[i], ":"))
                        return true;
        return false;
}

static void check_step(const struct tree *t, const struct step *s, const struct hold_said *said,
                       const char *sound)
{
        const char *unit = s->pid == 100 ? SCOPE : OWN;
        g_autofree char *cpus = g_strconcat(unit, "cpuset.cpus", NULL),
                        *min = g_strconcat(unit, "memory.min", NULL),
                        *number = g_strdup_printf("%jd", (intmax_t)s->bytes);
        if (*s->cpus != '\0' && said->n == 0)
                same(t, sound);
        else if (*s->cpus != '\0' && !said_has(said, "vCPUs"))
                is(t, cpus, s->cpus);
        if (said->n > 0 && s->bytes > 0 && !said_has(said, "memory"))
                is(t, min, number);
}

/* Every other call fails in turn, and each in one of two steps that are alike: before it was done or after;
 * nothing is half done in silence, and all can be undone. */
static void test_faults(void)
{
        static const char *const hows[] = {"refuse", "lost", "garbage"};
        int cases = 0;
        for (size_t at = 0; at < ARRAY_N(steps); at++) {
                g_autofree char *sound = NULL;
                for (int call = 0, n = 0; call <= n; call += call == 0 ? 1 + (int)at % 2 : 2) {
                        const char *how = hows[(at + (size_t)call) % ARRAY_N(hows)];
                        struct tree t;
                        set_up(&t);
                        g_autofree char *before = all_of(&t);
                        walk_to(&t, at);
                        if (call > 0)
                                fail(&t, call, how);
                        int was = calls(&t);
                        struct hold_said said = set(&t, steps[at].pid, steps[at].cpus, steps[at].bytes);
                        g_test_message("step %zu call %d %s: %s", at, call, how,
                                       said.n ? said.text[0] : "nothing said");
                        settle(&t);
                        if (call == 0) {
                                n = calls(&t) - was;
                                sound = all_of(&t);
                        } else {
                                cases++;
                                check_step(&t, &steps[at], &said, sound);
                        }
                        works(&t);
                        if (at < 4)
                                silent(set(&t, 100, "", 0));
                        if (at < 5)
                                silent(set(&t, 200, "", 0));
                        settle(&t);
                        scope_goes(&t);
                        same(&t, before);
                        tear_down(&t);
                }
        }
        g_print("# %d calls made to fail, in turn\n", cases);
        g_assert_cmpint(cases, >=, 15);
}

/* The agent dies at each call; the next one finds what it left. */
static void test_killed(void)
{
        int cases = 0;
        for (size_t at = 0; at < ARRAY_N(steps); at += 2)
                for (int call = 1 + (int)at / 2 % 2, last = 0; !last; call += 2) {
                        bool live = (at + (size_t)call) / 2 % 2 != 0;
                        struct tree t;
                        set_up(&t);
                        g_autofree char *before = all_of(&t);
                        walk_to(&t, at);
                        int was = calls(&t);
                        fail(&t, call, "dead");
                        (void)set(&t, steps[at].pid, steps[at].cpus, steps[at].bytes);
                        last = calls(&t) - was < call;
                        works(&t);
                        holds_free(t.holds);
                        t.holds = make(&t);
                        if (live)
                                silent(set(&t, 200, "2", 1 << 20));
                        holds_sweep(t.holds);
                        settle(&t);
                        if (live) {
                                is(&t, OWN "cpuset.cpus", "2");
                                is(&t, OWN "memory.min", "1048576");
                                is(&t, "cg/system.slice/cpuset.cpus", "0,1,3");
                                silent(set(&t, 200, "", 0));
                        }
                        scope_goes(&t);
                        same(&t, before);
                        cases++;
                        tear_down(&t);
                }
        g_print("# killed at %d calls\n", cases);
        g_assert_cmpint(cases, >=, 10);
}

/* A new agent, and nothing else: it goes on without a question. */
static void test_restart(void)
{
        struct tree t;
        set_up(&t);
        g_autofree char *before = all_of(&t);
        silent(set(&t, 100, "1", 1 << 20));
        silent(set(&t, 200, "2", 2 << 20));
        g_autofree char *held = all_of(&t);
        int n = calls(&t);
        holds_free(t.holds);
        t.holds = make(&t);
        silent(set(&t, 100, "1", 1 << 20));
        silent(set(&t, 200, "2", 2 << 20));
        holds_sweep(t.holds);
        same(&t, held);
        g_assert_cmpint(calls(&t), ==, n);
        /* what somebody changed meanwhile is put right the next time */
        put(&t, "cg/user.slice/cpuset.cpus", "0-5\n");
        silent(set(&t, 200, "2", 2 << 20));
        same(&t, held);
        put(&t, "records/hold.systemd", "what is this\nunit ../x - 0 0 0\nunit /-x.scope - 0 0 0\n");
        holds_free(t.holds);
        t.holds = make(&t);
        holds_sweep(t.holds);
        is(&t, "records/hold.systemd", "(none)");
        put(&t, "records/hold.systemd", "");
        remove_in(&t, "records/hold.systemd");
        g_assert_cmpstr(before, !=, held);
        tear_down(&t);
}

static int on_change(const char *path)
{
        return g_str_has_suffix(path, "hold.systemd") ? ENOSPC : 0;
}

/* Nothing is changed that is not in the record. */
static void test_no_record(void)
{
        struct tree t;
        set_up(&t);
        g_autofree char *before = all_of(&t);
        cgroupfs_fault = on_change;
        says(set(&t, 100, "1", 4096), "vCPUs and memory are not held for the application alone");
        says(set(&t, 200, "1", 4096), "vCPUs and memory are not held for the application alone");
        cgroupfs_fault = NULL;
        settle(&t);
        same(&t, before);
        tear_down(&t);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_assert_true(g_setenv("METE_SECRET", "of ours", TRUE));
        g_test_add_func("/agent/hold-systemd/scope", test_scope);
        g_test_add_func("/agent/hold-systemd/own-unit", test_own_unit);
        g_test_add_func("/agent/hold-systemd/two-applications", test_two_applications);
        g_test_add_func("/agent/hold-systemd/vcpus-go", test_vcpus_go);
        g_test_add_func("/agent/hold-systemd/gone", test_gone);
        g_test_add_func("/agent/hold-systemd/stranger", test_stranger);
        g_test_add_func("/agent/hold-systemd/lacks", test_lacks);
        g_test_add_func("/agent/hold-systemd/refusals", test_refusals);
        g_test_add_func("/agent/hold-systemd/births-and-deaths", test_births_and_deaths);
        g_test_add_func("/agent/hold-systemd/faults", test_faults);
        g_test_add_func("/agent/hold-systemd/killed", test_killed);
        g_test_add_func("/agent/hold-systemd/restart", test_restart);
        g_test_add_func("/agent/hold-systemd/no-record", test_no_record);
        return g_test_run();
}
