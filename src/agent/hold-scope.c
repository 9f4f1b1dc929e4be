/* SPDX-License-Identifier: Apache-2.0 */
/* A scope in mete.slice for processes that are elsewhere. Processes come and go while systemd is asked. */
#include "agent/hold-unit.h"
#include <errno.h>
#include <glib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/str.h"
#include "loop/loop.h"

enum { FAMILY_MAX = 4096, START_TRIES = 4 };

/* The holder and its family, but those that lie in units of mete.slice: they are held for themselves. */
static int gather(const struct holds *h, const struct lease *l, pid_t **ret, size_t *ret_n, struct err *err)
{
        char path[HOLD_PATH], unit[HOLD_PATH];
        struct hold_task task;
        pid_t *pids = NULL;
        size_t n = 0, to_move = 0;

        int r = hold_family(h, &l->who, &pids, &n);
        if (r < 0)
                return err_set(err, REASON_NOT_FOUND, -r, "process %ld: %s", (long)l->who.pid,
                               r == -ESRCH ? "it is gone" : strerror(-r));
        for (size_t i = 0; i < n; i++)
                if (pids[i] != getpid() && hold_where(h, pids[i], path) == 0 && !hold_unit_of(path, unit) &&
                    hold_task_get(h, pids[i], &task) == 0 && !task.is_dead)
                        pids[to_move++] = pids[i];
        if (to_move > FAMILY_MAX) {
                free(pids);
                return err_set(err, REASON_BUSY, E2BIG, "it has more than %d processes", FAMILY_MAX);
        }
        *ret = pids;
        *ret_n = to_move;
        return 0;
}

static void words_add_pids(GPtrArray *words, const pid_t *pids, size_t n)
{
        hold_words_add(words, "%zu", n);
        for (size_t i = 0; i < n; i++)
                hold_words_add(words, "%ld", (long)pids[i]);
}

static int start_scope(struct holds *h, const struct lease *l, const pid_t *pids, size_t n, struct err *err)
{
        GPtrArray *words = hold_words_new("call", SYSTEMD_OBJECT, SYSTEMD_CALLS);
        bool has_cpus = cpulist_next(&l->has.cpus, 0) >= 0, has_bytes = l->has.memory_bytes > 0;

        hold_words_add(words, "StartTransientUnit");
        hold_words_add(words, "ssa(sv)a(sa(sv))");
        hold_words_add(words, "%s", hold_unit_name(l->path));
        hold_words_add(words, "fail");
        hold_words_add(words, "%d", 4 + has_cpus + has_bytes);
        hold_words_add(words, "Description");
        hold_words_add(words, "s");
        hold_words_add(words, "What mete-agent holds for process %ld", (long)l->who.pid);
        hold_words_add(words, "Slice");
        hold_words_add(words, "s");
        hold_words_add(words, SLICE);
        hold_words_add(words, "CollectMode"); /* it goes also where its processes were killed */
        hold_words_add(words, "s");
        hold_words_add(words, "inactive-or-failed");
        hold_words_add(words, "PIDs");
        hold_words_add(words, "au");
        words_add_pids(words, pids, n);
        if (has_cpus)
                hold_words_add_cpus(words, &l->has.cpus);
        if (has_bytes)
                hold_words_add_bytes(words, (uint64_t)l->has.memory_bytes);
        hold_words_add(words, "0");
        return hold_ask(h, words, err);
}

static int attach(struct holds *h, const struct lease *l, const pid_t *pids, size_t n, struct err *err)
{
        GPtrArray *words = hold_words_new("call", SYSTEMD_OBJECT, SYSTEMD_CALLS);

        hold_words_add(words, "AttachProcessesToUnit");
        hold_words_add(words, "ssau");
        hold_words_add(words, "%s", hold_unit_name(l->path));
        hold_words_add(words, "%s", "");
        words_add_pids(words, pids, n);
        return hold_ask(h, words, err);
}

/* Starting is a job of systemd's, which it does after it has answered. */
static int wait_in(const struct holds *h, const struct lease *l, struct err *err)
{
        char path[HOLD_PATH], unit[HOLD_PATH];
        struct hold_task task;
        int64_t until = MIN(h->systemd->deadline_ms, loop_mono_ms() + h->systemd->done_ms);

        for (;;) {
                if (hold_where(h, l->who.pid, path) < 0 || hold_task_get(h, l->who.pid, &task) < 0 ||
                    task.is_dead || task.start_ticks != l->who.start_ticks)
                        return err_set(err, REASON_NOT_FOUND, ESRCH, "process %ld: it is gone",
                                       (long)l->who.pid);
                if (hold_unit_of(path, unit) && strcmp(unit, l->path) == 0)
                        return 0;
                if (loop_mono_ms() >= until)
                        return err_set(err, REASON_TIMEOUT, ETIMEDOUT, "systemd did not start %.40s",
                                       hold_unit_name(l->path));
                hold_pause();
        }
}

static bool is_one_gone(const struct holds *h, const pid_t *pids, size_t n)
{
        struct hold_task task;

        for (size_t i = 0; i < n; i++)
                if (hold_task_get(h, pids[i], &task) < 0 || task.is_dead)
                        return true;
        return false;
}

/* As many passes as there is somebody outside: children that were forked meanwhile. One that ends while
 * systemd is asked makes it refuse all of them. */
static int enter_scope(struct holds *h, const struct lease *l, struct err *err)
{
        char dir[CGROUPFS_PATH];
        int tries = 0;

        for (int pass = 0; pass < HOLD_PASSES; pass++) {
                pid_t *pids = NULL;
                size_t n = 0;
                int r = gather(h, l, &pids, &n, err);
                if (r < 0)
                        return r;
                if (n == 0) {
                        free(pids);
                        return 0;
                }
                bool is_there = access(hold_dir(h, l->path, dir), F_OK) == 0;
                r = is_there ? attach(h, l, pids, n, err) : start_scope(h, l, pids, n, err);
                bool is_again = r < 0 && ++tries < START_TRIES && is_one_gone(h, pids, n);
                free(pids);
                if (is_again)
                        continue;
                if (r < 0 || (r = wait_in(h, l, err)) < 0)
                        return r;
        }
        return err_set(err, REASON_BUSY, EBUSY, "its processes multiply faster than they can be moved");
}

/* l->path is its unit then, which is in the record. */
int hold_scope_enter(struct holds *h, struct lease *l, struct err *err)
{
        struct unit scope = {0};
        char path[HOLD_PATH], name[HOLD_NAME];

        if (hold_where(h, l->who.pid, path) < 0)
                return err_set(err, REASON_NOT_FOUND, ESRCH, "process %ld: it is gone", (long)l->who.pid);
        if (hold_unit_of(path, l->path)) {
                struct hold_task task;
                return hold_task_get(h, l->who.pid, &task) == 0 && task.start_ticks == l->who.start_ticks
                               ? 0
                               : err_set(err, REASON_NOT_FOUND, ESRCH, "process %ld: it is gone",
                                         (long)l->who.pid);
        }
        hold_scope_name(&l->who, name);
        (void)snprintf(l->path, sizeof(l->path), "/" SLICE "/%s", name);
        (void)STR_COPY(scope.path, l->path);
        if (hold_unit_find(h->systemd, l->path) == NULL)
                (void)hold_unit_add(h->systemd, &scope); /* it had nothing before, as it was not */
        int r = hold_systemd_record(h, err);
        return r < 0 ? r : enter_scope(h, l, err);
}
