/* SPDX-License-Identifier: Apache-2.0 */
/* Activations side by side; worth a run under ThreadSanitizer (-Db_sanitize=thread). */
#include <errno.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "host/cpu.h"
#include "keeper/activation.h"

enum { SIDE_BY_SIDE = 32, EACH = 3 };

static struct activations pool;

struct probe {
        struct work work;
        pid_t thread; /* 0: was not run */
        unsigned n_done, serial;
        bool waits;
        int (*fn)(struct probe *p);
        int number, r;
};

/* Whoever waits does so until this is opened. */
static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static atomic_uint n_run, n_inside;
static unsigned n_done;

static void run(struct work *w, pid_t thread)
{
        struct probe *p = (struct probe *)w;
        p->thread = thread;
        p->serial = atomic_fetch_add(&n_run, 1) + 1;
        atomic_fetch_add(&n_inside, 1);
        if (p->waits) {
                pthread_mutex_lock(&gate);
                pthread_mutex_unlock(&gate);
        }
        if (p->fn)
                p->r = p->fn(p);
        atomic_fetch_sub(&n_inside, 1);
}

static void done(struct work *w)
{
        struct probe *p = (struct probe *)w;
        p->n_done++;
        n_done++;
}

static void begin(void)
{
        struct err err = {0};
        n_run = n_inside = 0;
        n_done = 0;
        if (activations_init(&pool, &err) < 0)
                g_error("%s", err.sentence);
}

static void end(void)
{
        for (int again = 0; again < 2; again++)
                activations_done(&pool);
        loop_done();
}

static void wait_done(unsigned n)
{
        while (n_done < n)
                (void)loop_once(true);
        g_assert_cmpuint(n_done, ==, n);
}

static void wait_inside(unsigned n)
{
        while (atomic_load(&n_inside) < n)
                g_usleep(200);
}

static int submit(uint64_t id, struct probe *p, struct err *err)
{
        p->work.run = run;
        p->work.done = done;
        return activation_submit(&pool, id, &p->work, err);
}

static void submit_ok(uint64_t id, struct probe *p)
{
        struct err err = {0};
        if (submit(id, p, &err) < 0)
                g_error("%s", err.sentence);
}

static void test_side_by_side(void)
{
        static struct probe p[SIDE_BY_SIDE][EACH];
        memset(p, 0, sizeof(p));
        begin();
        pthread_mutex_lock(&gate);
        for (unsigned k = 0; k < EACH; k++)
                for (unsigned i = 0; i < SIDE_BY_SIDE; i++) {
                        p[i][k].waits = true;
                        submit_ok(i + 1, &p[i][k]);
                }
        wait_inside(SIDE_BY_SIDE); /* all at once, one call of each */
        g_assert_cmpuint(n_run, ==, SIDE_BY_SIDE);
        pthread_mutex_unlock(&gate);
        wait_done(SIDE_BY_SIDE * EACH);
        for (unsigned i = 0; i < SIDE_BY_SIDE; i++) {
                g_assert_cmpint(p[i][0].thread, !=, getpid());
                for (unsigned k = 0; k < EACH; k++) {
                        g_assert_cmpuint(p[i][k].n_done, ==, 1);
                        g_assert_cmpint(p[i][k].thread, ==, p[i][0].thread);
                        g_assert_true(k == 0 || p[i][k].serial > p[i][k - 1].serial);
                }
                for (unsigned j = 0; j < i; j++)
                        g_assert_cmpint(p[i][0].thread, !=, p[j][0].thread);
        }
        end();
}

static void test_calls_max(void)
{
        static struct probe p[ACTIVATION_CALLS_MAX + 1];
        struct err err = {0};
        memset(p, 0, sizeof(p));
        begin();
        pthread_mutex_lock(&gate);
        for (unsigned i = 0; i < ACTIVATION_CALLS_MAX; i++) {
                p[i].waits = true;
                submit_ok(5, &p[i]);
        }
        g_assert_cmpint(submit(5, &p[ACTIVATION_CALLS_MAX], &err), <, 0);
        g_assert_cmpint(err.reason, ==, REASON_BUSY);
        submit_ok(6, &p[ACTIVATION_CALLS_MAX]); /* another is not concerned */
        wait_done(1);
        pthread_mutex_unlock(&gate);
        wait_done(ACTIVATION_CALLS_MAX + 1);
        end();
}

static void test_activations_max(void)
{
        static struct probe p[ACTIVATIONS_MAX + 1];
        struct probe note = {.work.done = done};
        struct err err = {0};
        memset(p, 0, sizeof(p));
        begin();
        for (unsigned i = 0; i < ACTIVATIONS_MAX; i++)
                submit_ok(i + 1, &p[i]);
        g_assert_cmpint(submit(ACTIVATIONS_MAX + 1, &p[ACTIVATIONS_MAX], &err), <, 0);
        g_assert_cmpint(err.reason, ==, REASON_BUSY);
        wait_done(ACTIVATIONS_MAX);
        activation_end(&pool, 3, &note.work);
        g_assert_cmpuint(note.n_done, ==, 1);
        submit_ok(ACTIVATIONS_MAX + 1, &p[ACTIVATIONS_MAX]);
        wait_done(ACTIVATIONS_MAX + 2);
        end();
}

/* Behind what it has to do, and nothing new meanwhile. */
static void test_end(void)
{
        struct probe p[3] = {{.waits = true}, {.waits = true}, {.waits = false}};
        struct probe notes[3] = {{.work.done = done}, {.work.done = done}, {.work.done = done}};
        struct err err = {0};
        begin();
        activation_end(&pool, 1, &notes[0].work); /* unknown */
        g_assert_cmpuint(notes[0].n_done, ==, 1);
        pthread_mutex_lock(&gate);
        submit_ok(1, &p[0]);
        submit_ok(1, &p[1]);
        activation_end(&pool, 1, &notes[1].work);
        activation_end(&pool, 1, &notes[2].work);
        g_assert_cmpint(submit(1, &p[2], &err), <, 0);
        g_assert_cmpint(err.reason, ==, REASON_BUSY);
        g_assert_cmpuint(notes[1].n_done + notes[2].n_done, ==, 0);
        pthread_mutex_unlock(&gate);
        wait_done(5);
        g_assert_cmpuint(p[0].n_done & p[1].n_done & notes[1].n_done & notes[2].n_done, ==, 1);
        g_assert_cmpuint(g_hash_table_size(pool.by_id), ==, 0);
        submit_ok(1, &p[2]); /* begins anew */
        wait_done(6);
        end();
}

static void test_idle(void)
{
        struct probe p[2] = {0};
        loop_clock_fake(1000, 1000);
        begin();
        submit_ok(1, &p[0]);
        wait_done(1);
        loop_clock_fake(1000, 1000 + ACTIVATION_IDLE_MS - 1);
        (void)loop_once(false);
        g_assert_cmpuint(g_hash_table_size(pool.by_id), ==, 1);
        submit_ok(1, &p[1]); /* counts from here again */
        wait_done(2);
        g_assert_cmpint(p[0].thread, ==, p[1].thread);
        loop_clock_fake(1000, 1000 + ACTIVATION_IDLE_MS);
        (void)loop_once(false);
        g_assert_cmpuint(g_hash_table_size(pool.by_id), ==, 1);
        loop_clock_fake(1000, 1000 + 2 * ACTIVATION_IDLE_MS);
        (void)loop_once(false);
        g_assert_cmpuint(g_hash_table_size(pool.by_id), ==, 0);
        end();
        loop_clock_real();
}

/* What runs is finished, what waits is cancelled, of that owner alone. */
static void test_forget(void)
{
        struct probe p[4] = {
                {.waits = true, .work.owner = "a"},
                {.work.owner = "a"            },
                {.work.owner = "b"},
                {.work.owner = "a"            }
        };
        p[1].work.owner = p[3].work.owner = p[0].work.owner;
        begin();
        pthread_mutex_lock(&gate);
        for (unsigned i = 0; i < 4; i++)
                submit_ok(1, &p[i]);
        wait_inside(1);
        activations_forget(&pool, p[0].work.owner);
        g_assert_cmpuint(n_done, ==, 2);
        pthread_mutex_unlock(&gate);
        wait_done(4);
        static const bool is_cancelled[] = {false, true, false, true};
        for (unsigned i = 0; i < 4; i++) {
                g_assert_cmpint(p[i].work.is_cancelled, ==, is_cancelled[i]);
                g_assert_cmpint(p[i].thread != 0, ==, !is_cancelled[i]);
                g_assert_cmpuint(p[i].n_done, ==, 1);
        }
        end();
}

/* Released by the thread that took it. */
static void *hold_gate(void *arg)
{
        pthread_mutex_lock(&gate);
        atomic_store((atomic_bool *)arg, true);
        g_usleep(50000);
        pthread_mutex_unlock(&gate);
        return NULL;
}

/* The keeper stops: everything is answered once, what runs is finished, what waits for an end hears of it. */
static void test_stop(void)
{
        static struct probe p[8][3];
        struct probe note = {.work.done = done};
        atomic_bool is_held = false;
        pthread_t holder;
        memset(p, 0, sizeof(p));
        begin();
        g_assert_cmpint(pthread_create(&holder, NULL, hold_gate, &is_held), ==, 0);
        while (!atomic_load(&is_held))
                g_usleep(100);
        for (unsigned i = 0; i < 8; i++)
                for (unsigned k = 0; k < 3; k++) {
                        p[i][k].waits = true;
                        submit_ok(i, &p[i][k]);
                }
        activation_end(&pool, 2, &note.work);
        end();
        g_assert_cmpint(pthread_join(holder, NULL), ==, 0);
        g_assert_cmpuint(n_done, ==, 25);
        g_assert_cmpuint(note.n_done, ==, 1);
        for (unsigned i = 0; i < 8; i++)
                for (unsigned k = 0; k < 3; k++) {
                        g_assert_cmpuint(p[i][k].n_done, ==, 1);
                        g_assert_cmpint(p[i][k].work.is_cancelled, ==, p[i][k].thread == 0);
                }
}

/* ---- the CPU provider, on plain directories ---- */

static struct cpu_host host;

static const char *vm_of(const struct probe *p)
{
        static const char *const vms[] = {"a", "b", "c", "d"};
        return vms[p->number % 4];
}

static const char *item_of(const struct probe *p, char buf[CPU_ITEM_SIZE])
{
        (void)snprintf(buf, CPU_ITEM_SIZE, "vcpu%d", p->number);
        return buf;
}

static int act(struct probe *p)
{
        char item[CPU_ITEM_SIZE];
        struct cpulist one = {0};
        (void)cpulist_add(&one, (uint32_t)p->number % 6);
        struct cpu_hold what = {.cpus = one, .share_milli = p->number + 1, .ceiling_milli = CPU_SHARE_MAX};
        return host.provider->hold(&host, vm_of(p), item_of(p, item), &what, NULL);
}

static int look(struct probe *p)
{
        char item[CPU_ITEM_SIZE];
        struct cpu_live live;
        int r = host.provider->read(&host, vm_of(p), item_of(p, item), 0, &live, NULL);
        if (r == 0 && (live.share_milli != p->number + 1 || cpulist_next(&live.cpus, 0) != p->number % 6))
                r = -EPROTO;
        /* Beside it, what all of a VM share: its folder of what is put aside is made and swept. */
        return r < 0 ? r : host.provider->park(&host, vm_of(p), 100000 + p->number, NULL);
}

static int back(struct probe *p)
{
        char item[CPU_ITEM_SIZE];
        return host.provider->let_go(&host, vm_of(p), item_of(p, item), NULL);
}

static void put(const char *dir, const char *path, const char *text)
{
        g_autofree char *p = g_build_filename(dir, path, NULL), *parent = g_path_get_dirname(p);
        g_assert_cmpint(g_mkdir_with_parents(parent, 0755), ==, 0);
        g_assert_true(g_file_set_contents(p, text, -1, NULL));
}

static void test_provider(void)
{
        static int (*const fns[EACH])(struct probe *) = {act, look, back};
        static struct probe p[SIDE_BY_SIDE][EACH];
        g_autofree char *dir = g_dir_make_tmp("mete-activation-XXXXXX", NULL);
        g_autofree char *mountinfo = g_build_filename(dir, "mountinfo", NULL);
        g_autofree char *mounts =
                g_strdup_printf("1 2 0:3 / %s/cpu rw - cgroup cgroup rw,cpu\n1 2 0:4 / %s/cpuset rw - cgroup "
                                "cgroup rw,cpuset\n",
                                dir, dir);
        struct cpu_host_options o = {.prefix = "mete",
                                     .cpus = "0-5",
                                     .housekeeping = "0",
                                     .mountinfo = mountinfo,
                                     .is_fake = true};
        struct err err = {0};
        put(dir, "mountinfo", mounts);
        put(dir, "cpu/tasks", "");
        put(dir, "cpuset/cpuset.cpus", "0-7");
        put(dir, "cpuset/cpuset.mems", "0");
        if (cpu_host_init(&host, &o, &err) < 0 || host.provider->start(&host, &err) < 0)
                g_error("%s", err.sentence);
        memset(p, 0, sizeof(p));
        begin();
        for (unsigned k = 0; k < EACH; k++)
                for (unsigned i = 0; i < SIDE_BY_SIDE; i++) {
                        p[i][k].number = (int)i;
                        p[i][k].fn = fns[k];
                        submit_ok(i + 1, &p[i][k]);
                }
        wait_done(SIDE_BY_SIDE * EACH);
        for (unsigned i = 0; i < SIDE_BY_SIDE; i++)
                for (unsigned k = 0; k < EACH; k++)
                        g_assert_cmpint(p[i][k].r, ==, 0);
        end();
        for (unsigned i = 0; i < 4; i++) {
                static const char *const trees[] = {"cpu", "cpuset"};
                for (unsigned t = 0; t < 2; t++) {
                        g_autofree char *tasks =
                                g_strdup_printf("%s/mete/parked@%c/tasks", trees[t], "abcd"[i]);
                        put(dir, tasks, "");
                }
                g_assert_cmpint(host.provider->vm_remove(&host, vm_of(&p[i][0]), CPU_REMOVE_ALL, &err), ==,
                                0);
        }
        /* Nothing is left but the prefix. */
        for (unsigned t = 0; t < 2; t++) {
                g_autofree char *top = g_build_filename(dir, t ? "cpuset/mete" : "cpu/mete", NULL);
                g_autoptr(GDir) d = g_dir_open(top, 0, NULL);
                for (const char *name; (name = g_dir_read_name(d));)
                        g_assert_null(strchr(name, '@'));
        }
        g_autofree char *command = g_strdup_printf("rm -r '%s'", dir);
        g_assert_true(g_spawn_command_line_sync(command, NULL, NULL, NULL, NULL));
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/activation/side-by-side", test_side_by_side);
        g_test_add_func("/activation/calls-max", test_calls_max);
        g_test_add_func("/activation/activations-max", test_activations_max);
        g_test_add_func("/activation/end", test_end);
        g_test_add_func("/activation/idle", test_idle);
        g_test_add_func("/activation/forget", test_forget);
        g_test_add_func("/activation/stop", test_stop);
        g_test_add_func("/activation/provider", test_provider);
        return g_test_run();
}
