/* SPDX-License-Identifier: Apache-2.0 */
/* systemd, with control groups v2: it is the only writer of the groups, so it is asked (agent/busctl.h), and
 * no file of a group is written here, only read.
 *
 * What is held lies in mete.slice. A process whose service or scope lies there already stays in it; any other
 * one is moved, with its family, into a scope mete-PID-START.scope, and stays there when nothing is held for
 * it any more, without limits: its unit is then one in mete.slice. The unit has just the vCPUs of its leases
 * (AllowedCPUs=) and their memory (MemoryMin=, for which mete.slice has the sum); everybody else, units that
 * stand beside mete.slice and those in it without a lease, has the vCPUs that nobody holds.
 *
 * Invariants. What all units shall have follows from the leases alone, is computed anew each time, and only
 * what differs is asked for: so a failure, a restart of the agent, and somebody who changed it are all the
 * same. Each unit that was changed is in the table, with what it had before, and in the record before it is
 * changed. It leaves both when it has that again. Changes are systemd's runtime drop-ins, so they outlive its
 * own restart; one that was not there before is removed. */
#include "agent/hold-unit.h"
#include <dirent.h>
#include <errno.h>
#include <glib.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/log.h"
#include "base/str.h"
#include "loop/loop.h"

#define RECORD "hold.systemd"

enum {
        ONE_MS = 10000, /* for one answer of systemd's */
        ALL_MS = 30000, /* for all that one call of ours asks it; where programs start slowly, that adds up */
        AGAIN_MS = 3000, /* and where nobody waits for it */
        AGAIN_SHARE = 10
};

/* ---- leases ---- */

static struct lease *lease_find(const struct hold_systemd *s, const struct hold_who *who)
{
        for (size_t i = 0; i < s->n_leases; i++)
                if (s->leases[i]->who.pid == who->pid && s->leases[i]->who.start_ticks == who->start_ticks)
                        return s->leases[i];
        return NULL;
}

static struct lease *lease_add(struct hold_systemd *s, const struct lease *like)
{
        s->leases = g_renew(struct lease *, s->leases, s->n_leases + 1);
        return s->leases[s->n_leases++] = g_memdup2(like, sizeof(*like));
}

static void lease_remove(struct hold_systemd *s, struct lease *l)
{
        size_t at = 0;

        while (s->leases[at] != l)
                at++;
        s->leases[at] = s->leases[--s->n_leases];
        g_free(l);
}

static bool is_lease_in(const struct hold_systemd *s, const char *path)
{
        for (size_t i = 0; i < s->n_leases; i++)
                if (strcmp(s->leases[i]->path, path) == 0)
                        return true;
        return false;
}

/* ---- the record ---- */

static const char *cpus_text(const struct cpulist *cpus, char buf[CPULIST_TEXT])
{
        return *cpulist_print(cpus, buf) != '\0' ? buf : "-";
}

/* "held PID START GROUP CPUS BYTES" and "unit GROUP CPUS BYTES HAD-CPUS HAD-MEMORY", what it had before. */
int hold_systemd_record(const struct holds *h, struct err *err)
{
        const struct hold_systemd *s = h->systemd;
        char cpus[CPULIST_TEXT];

        if (s->n_units == 0 && s->n_leases == 0)
                return cgroupfs_forget(h->records, RECORD, err);
        g_autoptr(GString) text = g_string_new(NULL);
        for (size_t i = 0; i < s->n_leases; i++)
                g_string_append_printf(text, "held %ld %" PRIu64 " %s %s %" PRId64 "\n",
                                       (long)s->leases[i]->who.pid, s->leases[i]->who.start_ticks,
                                       s->leases[i]->path, cpus_text(&s->leases[i]->has.cpus, cpus),
                                       s->leases[i]->has.memory_bytes);
        for (size_t i = 0; i < s->n_units; i++)
                g_string_append_printf(text, "unit %s %s %" PRIu64 " %d %d\n", s->units[i]->path,
                                       cpus_text(&s->units[i]->prior.cpus, cpus), s->units[i]->prior.bytes,
                                       s->units[i]->had_cpus, s->units[i]->had_memory);
        return cgroupfs_keep(h->records, RECORD, text->str, err);
}

static bool read_cpus(const char *text, struct cpulist *ret)
{
        return strcmp(text, "-") == 0 || cpulist_parse(text, ret, NULL) == 0;
}

static bool read_line(struct hold_systemd *s, char *line)
{
        g_auto(GStrv) words = g_strsplit(line, " ", -1);
        guint n = g_strv_length(words);

        if (n == 6 && strcmp(words[0], "held") == 0) {
                struct lease l = {.is_left = true};
                l.who.pid = (pid_t)strtol(words[1], NULL, 10);
                l.who.start_ticks = strtoull(words[2], NULL, 10);
                l.has.memory_bytes = strtoll(words[5], NULL, 10);
                if (!hold_unit_of(words[3], l.path) || !read_cpus(words[4], &l.has.cpus))
                        return false;
                (void)lease_add(s, &l);
                return true;
        }
        if (n == 6 && strcmp(words[0], "unit") == 0 && words[1][0] == '/') {
                struct unit u = {.had_cpus = *words[4] == '1', .had_memory = *words[5] == '1'};
                u.prior.bytes = strtoull(words[3], NULL, 10);
                if (!STR_COPY(u.path, words[1]) || !hold_unit_is(strrchr(u.path, '/') + 1) ||
                    !read_cpus(words[2], &u.prior.cpus))
                        return false;
                (void)hold_unit_add(s, &u);
                return true;
        }
        return false;
}

static void record_read(struct holds *h)
{
        g_autofree char *path = g_build_filename(h->records, RECORD, NULL), *text = NULL;

        if (!g_file_get_contents(path, &text, NULL, NULL))
                return;
        g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
        for (char **line = lines; *line != NULL; line++)
                if (**line != '\0' && !read_line(h->systemd, *line))
                        log_warn("a line of %s is not understood: %.60s", path, *line);
}

/* ---- what shall be ---- */

/* Everybody keeps what the administrator gave him, without what is held; or, where nothing would be left of
 * that, what is free. */
static int want_of_others(struct holds *h, const char *path, struct err *err)
{
        const struct hold_systemd *s = h->systemd;
        struct unit *u;

        int r = hold_unit_get(h, path, &u, err);
        if (r < 0)
                return r == -ENOENT ? 0 : r; /* it went meanwhile */
        struct cpulist held = u->prior.cpus;
        cpulist_remove(&held, &s->free);
        u->wanted = u->prior;
        cpulist_remove(&u->wanted.cpus, &held);
        if (cpulist_next(&u->wanted.cpus, 0) < 0)
                u->wanted.cpus = s->free;
        u->is_wanted = true;
        return 0;
}

/* One that systemd does not know cannot be told, so it must not have what is held. */
static int check_stranger(const struct holds *h, const char *path, struct err *err)
{
        char dir[CGROUPFS_PATH];
        struct cpulist theirs = {0};

        (void)hold_dir(h, path, dir);
        if (!h->systemd->is_taking || hold_is_populated(dir) <= 0 ||
            (hold_read_set(dir, "cpuset.cpus.effective", &theirs, NULL) == 0 &&
             cpulist_is_within(&theirs, &h->systemd->free)))
                return 0;
        return err_set(err, REASON_BUSY, EBUSY, "control group %.30s is not systemd's", path + 1);
}

static int want_of_folder(struct holds *h, const char *folder, struct err *err)
{
        char dir[CGROUPFS_PATH], path[HOLD_PATH];
        DIR *d = opendir(hold_dir(h, folder, dir));
        const struct dirent *e;
        int r = 0;

        while (d != NULL && r == 0 && (e = readdir(d)) != NULL) {
                if (e->d_type != DT_DIR || e->d_name[0] == '.' ||
                    (size_t)snprintf(path, sizeof(path), "%s/%s", folder, e->d_name) >= sizeof(path) ||
                    strcmp(path, "/" SLICE) == 0 || is_lease_in(h->systemd, path))
                        continue;
                r = hold_unit_is(e->d_name) ? want_of_others(h, path, err) : check_stranger(h, path, err);
        }
        if (d != NULL)
                (void)closedir(d);
        return r;
}

/* Also those of which there is nobody yet. */
static int want_of_all_others(struct holds *h, struct err *err)
{
        static const char *const always[] = {"/system.slice", "/user.slice", "/init.scope"};
        int r = 0;

        for (size_t i = 0; i < ARRAY_N(always) && r == 0; i++)
                r = want_of_others(h, always[i], err);
        if (r == 0)
                r = want_of_folder(h, "", err);
        return r == 0 ? want_of_folder(h, "/" SLICE, err) : r;
}

static uint64_t sum_of(uint64_t bytes, int64_t more)
{
        return bytes > UINT64_MAX - (uint64_t)more ? UINT64_MAX : bytes + (uint64_t)more;
}

/* Of all leases of a unit, together; what the administrator protects is protected still. */
static int want_of_holder(struct holds *h, const struct lease *l, struct err *err)
{
        struct unit *u;

        int r = hold_unit_get(h, l->path, &u, err);
        if (r == 0 && !u->is_holder) {
                u->is_holder = u->is_wanted = true;
                u->holds_cpus = false;
                u->wanted = (struct limits){0};
        }
        if (r == 0) {
                cpulist_join(&u->wanted.cpus, &l->has.cpus);
                u->wanted.bytes = sum_of(u->wanted.bytes, l->has.memory_bytes);
                u->holds_cpus = cpulist_next(&u->wanted.cpus, 0) >= 0;
        }
        return r;
}

static int compute_free(struct holds *h, const struct cpulist *held, struct err *err)
{
        struct hold_systemd *s = h->systemd;
        struct cpulist online = {0};

        int r = hold_read_set(h->root, "cpuset.cpus.effective", &online, err);
        if (r < 0)
                return r;
        s->free = s->possible;
        cpulist_remove(&s->free, held);
        return !s->is_taking || cpulist_has_common(&s->free, &online)
                       ? 0
                       : err_set(err, REASON_INVALID, EINVAL, "no vCPU would be left to the others");
}

static unsigned plan(struct holds *h, struct err *err)
{
        struct hold_systemd *s = h->systemd;
        struct cpulist held = {0};
        int64_t bytes = 0;
        struct unit *slice;

        for (size_t i = 0; i < s->n_units; i++)
                s->units[i]->is_wanted = s->units[i]->is_holder = s->units[i]->holds_cpus = false;
        for (size_t i = 0; i < s->n_leases; i++) {
                if (want_of_holder(h, s->leases[i], err) < 0)
                        return FAILED_ALL;
                cpulist_join(&held, &s->leases[i]->has.cpus);
                bytes += s->leases[i]->has.memory_bytes;
        }
        bool is_cpu_held = cpulist_next(&held, 0) >= 0;
        if (is_cpu_held && (compute_free(h, &held, err) < 0 || want_of_all_others(h, err) < 0))
                return FAILED_CPUS;
        for (size_t i = 0; i < s->n_units; i++) {
                struct unit *u = s->units[i];
                if (!u->is_holder)
                        continue;
                u->wanted.bytes = MAX(u->wanted.bytes, u->prior.bytes);
                if (!u->holds_cpus)
                        u->wanted.cpus = is_cpu_held ? s->free : u->prior.cpus;
        }
        if (bytes == 0)
                return 0;
        if (hold_unit_get(h, "/" SLICE, &slice, err) < 0)
                return FAILED_MEMORY;
        slice->is_wanted = true;
        slice->wanted = slice->prior;
        slice->wanted.bytes = sum_of(slice->prior.bytes, bytes);
        return 0;
}

/* false: hold_systemd_retry() tries again what failed. */
static bool restore_all(struct holds *h, struct err *err)
{
        struct hold_systemd *s = h->systemd;
        bool is_done = true;

        for (size_t i = s->n_units; i-- > 0;)
                s->units[i]->is_restored =
                        !s->units[i]->is_wanted && hold_unit_restore(h, s->units[i], err) == 0;
        for (size_t i = s->n_units; i-- > 0;) {
                struct unit *u = s->units[i];
                if (u->is_wanted)
                        continue;
                if (!u->is_restored || hold_unit_lift(h, u, err) < 0) {
                        is_done = false;
                        continue;
                }
                g_free(u);
                s->units[i] = s->units[--s->n_units];
        }
        return is_done;
}

/* What others must not have is taken from them first. Units that nobody wants to be otherwise are as before.
 * *err: why what is returned could not be had. */
static unsigned apply(struct holds *h, struct err *err)
{
        struct hold_systemd *s = h->systemd;
        struct err why = {0};
        bool is_dirty = false;

        unsigned failed = plan(h, err);
        if (failed == 0 && hold_systemd_record(h, err) < 0)
                failed = FAILED_ALL;
        for (size_t i = 0; i < s->n_units && failed == 0; i++)
                if (s->units[i]->is_wanted)
                        failed |= hold_unit_put(h, s->units[i], err);
        if (failed == 0 && s->is_swept)
                is_dirty = !restore_all(h, &why);
        if (failed == 0 && hold_systemd_record(h, &why) < 0)
                is_dirty = true;
        s->is_dirty = failed != 0 || is_dirty;
        if (is_dirty && !s->is_said)
                log_warn("units are not as before yet: %s", why.sentence);
        s->is_said = is_dirty;
        return failed;
}

/* ---- for hold.c ---- */

static void begin(struct hold_systemd *s, int64_t ms)
{
        s->deadline_ms = loop_mono_ms() + ms;
}

static bool is_nothing(const struct hold_want *want)
{
        return cpulist_next(&want->cpus, 0) < 0 && want->memory_bytes <= 0;
}

void hold_systemd_set(struct holds *h, const struct hold_who *who, const struct hold_want *want,
                      struct hold_said *said)
{
        struct hold_systemd *s = h->systemd;
        struct lease *l = lease_find(s, who), new = {.who = *who};
        char dir[CGROUPFS_PATH];
        struct err why = {0};
        unsigned failed = 0;

        begin(s, ALL_MS);
        if (is_nothing(want)) {
                if (l == NULL)
                        return;
                lease_remove(s, l);
                if (apply(h, &why) != 0)
                        log_warn("units are not as they should be: %s", why.sentence);
                return;
        }
        bool is_new = l == NULL;
        if (is_new)
                l = lease_add(s, &new);
        struct hold_want had = l->has;
        l->has = *want;
        l->is_left = false;
        if ((is_new || access(hold_dir(h, l->path, dir), F_OK) < 0) && hold_scope_enter(h, l, &why) < 0) {
                failed = FAILED_ALL;
                had = (struct hold_want){0};
        } else {
                s->is_taking = true;
                failed = apply(h, &why);
                s->is_taking = false;
        }
        if (failed == 0)
                return;
        bool lacks_cpus = (failed & FAILED_CPUS) != 0 && cpulist_next(&want->cpus, 0) >= 0,
             lacks_memory = (failed & FAILED_MEMORY) != 0 && want->memory_bytes > 0;
        if (!lacks_cpus && !lacks_memory) { /* what fails is of another lease */
                log_warn("units are not as they should be: %s", why.sentence);
                return;
        }
        hold_say(said, lacks_cpus, lacks_memory, why.sentence);
        if (lacks_cpus)
                l->has.cpus = had.cpus;
        if (lacks_memory)
                l->has.memory_bytes = had.memory_bytes;
        bool is_left = is_nothing(&l->has);
        if (is_left)
                lease_remove(s, l);
        begin(s, AGAIN_MS);
        failed = apply(h, &why); /* what fails is put right by hold_systemd_retry() */
        lacks_cpus =
                !is_left && !lacks_cpus && (failed & FAILED_CPUS) != 0 && cpulist_next(&want->cpus, 0) >= 0;
        lacks_memory = !is_left && !lacks_memory && (failed & FAILED_MEMORY) != 0 && want->memory_bytes > 0;
        if (lacks_cpus || lacks_memory)
                hold_say(said, lacks_cpus, lacks_memory, why.sentence);
}

void hold_systemd_yield(struct holds *h, const struct cpulist *cpus)
{
        struct hold_systemd *s = h->systemd;
        struct err why = {0};
        bool is_changed = false;

        for (size_t i = 0; i < s->n_leases; i++)
                if (cpulist_has_common(&s->leases[i]->has.cpus, cpus)) {
                        cpulist_remove(&s->leases[i]->has.cpus, cpus);
                        is_changed = true;
                }
        begin(s, ALL_MS);
        if (is_changed && apply(h, &why) != 0)
                log_warn("units are not as they should be: %s", why.sentence);
}

/* Nobody waits for this, so it may take a tenth of the time, however slow systemd is. */
size_t hold_systemd_retry(struct holds *h)
{
        struct hold_systemd *s = h->systemd;
        int64_t now = loop_mono_ms();

        if (s->is_dirty && now >= s->again_ms) {
                begin(s, AGAIN_MS);
                (void)apply(h, NULL);
                s->again_ms = loop_mono_ms() + (h->is_fake ? 0 : AGAIN_SHARE * (loop_mono_ms() - now));
        }
        return s->is_dirty;
}

void hold_systemd_sweep(struct holds *h)
{
        struct hold_systemd *s = h->systemd;
        size_t n = s->n_leases;

        s->is_swept = true;
        for (size_t i = s->n_leases; i-- > 0;)
                if (s->leases[i]->is_left)
                        lease_remove(s, s->leases[i]);
        if (n > s->n_leases)
                log_note("%zu leases that are over are not held any more", n - s->n_leases);
        s->is_dirty = true;
        (void)hold_systemd_retry(h);
}

void hold_systemd_new(struct holds *h, const struct hold_options *o)
{
        struct hold_systemd *s = h->systemd = g_new0(struct hold_systemd, 1);

        (void)STR_COPY(s->program, o->busctl ? o->busctl : BUSCTL_PATH);
        (void)STR_COPY(s->cpus_dir, o->cpus);
        (void)STR_COPY(s->run, o->systemd);
        *strrchr(s->run, '/') = '\0'; /* "/run/systemd" */
        s->one_ms = o->busctl_ms > 0 ? o->busctl_ms : ONE_MS;
        (void)hold_read_set(s->cpus_dir, "possible", &s->possible,
                            NULL); /* else none is free, and that is said */
        s->done_ms = h->is_fake ? 0 : HOLD_DONE_MS;
        record_read(h);
}

void hold_systemd_free(struct holds *h)
{
        struct hold_systemd *s = h->systemd;

        if (s == NULL)
                return;
        for (size_t i = 0; i < s->n_units; i++)
                g_free(s->units[i]);
        for (size_t i = 0; i < s->n_leases; i++)
                g_free(s->leases[i]);
        g_free(s->units);
        g_free(s->leases);
        g_free(s);
}

const struct hold_provider hold_systemd = {.name = "systemd"};
