/* SPDX-License-Identifier: Apache-2.0 */
/* One unit of systemd's: what it has is read from the files of its group, where it has one; it is changed by
 * asking. */
#include "agent/hold-unit.h"
#include <errno.h>
#include <glib.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "base/log.h"
#include "base/str.h"
#include "loop/loop.h"

enum { OBJECT_PATH = 3 * HOLD_UNIT_NAME + 64, LIFT_MS = 300, LOOK_MS = 2 };

/* ---- names ---- */

const char *hold_unit_name(const char *path)
{
        const char *name = strrchr(path, '/') + 1;

        return name + (*name == '_'); /* as systemd escapes a group's name that the kernel might want */
}

static bool has_suffix(const char *name, const char *suffix)
{
        size_t n = strlen(name), tail = strlen(suffix);

        return n > tail && strcmp(name + n - tail, suffix) == 0;
}

static bool is_slice(const char *name)
{
        return has_suffix(name, ".slice");
}

/* Of a kind that has processes, and spelled as systemd spells units: what is passed on is a unit's name. */
bool hold_unit_is(const char *name)
{
        size_t n = strlen(name);

        name += *name == '_';
        return n < HOLD_UNIT_NAME && *name != '-' && *name != '.' &&
               name[strspn(name, G_CSET_A_2_Z G_CSET_a_2_z G_CSET_DIGITS ":-_.\\@")] == '\0' &&
               (has_suffix(name, ".service") || has_suffix(name, ".scope") || is_slice(name));
}

static void object_path(const char *name, char ret[OBJECT_PATH])
{
        size_t n = (size_t)snprintf(ret, OBJECT_PATH, SYSTEMD_OBJECT "/unit/");

        for (; *name != '\0' && n + 4 < OBJECT_PATH; name++)
                n += (size_t)snprintf(ret + n, OBJECT_PATH - n, g_ascii_isalnum(*name) ? "%c" : "_%02x",
                                      (unsigned char)*name);
}

static const char *interface_of(const char *name)
{
        return is_slice(name)                 ? SYSTEMD_NAME ".Slice"
               : has_suffix(name, ".service") ? SYSTEMD_NAME ".Service"
                                              : SYSTEMD_NAME ".Scope";
}

/* "/mete.slice/NAME" of a process's group there or below; false: it is elsewhere, also in a slice of
 * mete.slice. */
bool hold_unit_of(const char *path, char ret[HOLD_PATH])
{
        static const char slice[] = "/" SLICE "/";
        size_t n = sizeof(slice) - 1;

        if (strncmp(path, slice, n) != 0)
                return false;
        n += strcspn(path + n, "/");
        (void)snprintf(ret, HOLD_PATH, "%.*s", (int)n, path);
        return hold_unit_is(strrchr(ret, '/') + 1) && !is_slice(ret);
}

void hold_scope_name(const struct hold_who *who, char ret[HOLD_NAME])
{
        (void)snprintf(ret, HOLD_NAME, SCOPE_PREFIX "%ld-%" PRIu64 ".scope", (long)who->pid,
                       who->start_ticks);
}

/* ---- asking ---- */

void hold_words_add(GPtrArray *words, const char *fmt, ...)
{
        va_list ap;

        va_start(ap, fmt);
        g_ptr_array_add(words, g_strdup_vprintf(fmt, ap));
        va_end(ap);
}

GPtrArray *hold_words_new(const char *command, const char *object, const char *interface)
{
        GPtrArray *words = g_ptr_array_new_with_free_func(g_free);

        hold_words_add(words, "%s", command);
        hold_words_add(words, "%s", SYSTEMD_NAME);
        hold_words_add(words, "%s", object);
        hold_words_add(words, "%s", interface);
        return words;
}

void hold_words_add_cpus(GPtrArray *words, const struct cpulist *cpus)
{
        unsigned n = 0;

        for (int cpu = cpulist_next(cpus, 0); cpu >= 0; cpu = cpulist_next(cpus, (uint32_t)cpu + 1))
                n = (unsigned)cpu / 8 + 1;
        hold_words_add(words, "AllowedCPUs");
        hold_words_add(words, "ay");
        hold_words_add(words, "%u", n);
        for (unsigned i = 0; i < n; i++)
                hold_words_add(words, "%u", (unsigned)(cpus->bits[i / 8] >> (i % 8 * 8) & 0xff));
}

void hold_words_add_bytes(GPtrArray *words, uint64_t bytes)
{
        hold_words_add(words, "MemoryMin");
        hold_words_add(words, "t");
        hold_words_add(words, "%" PRIu64, bytes);
}

/* Takes the words. The answer is in h->systemd->answer. */
int hold_ask(struct holds *h, GPtrArray *words, struct err *err)
{
        struct hold_systemd *s = h->systemd;

        int64_t began_ms = loop_mono_ms();

        g_ptr_array_add(words, NULL);
        int r = busctl_run(s->program, (const char *const *)words->pdata,
                           MIN(s->deadline_ms, began_ms + s->one_ms), s->answer, err);
        log_debug("busctl %s: %s after %" PRId64 " ms", (const char *)words->pdata[words->len > 6 ? 4 : 2],
                  r < 0 ? "failed" : "done", loop_mono_ms() - began_ms);
        g_ptr_array_free(words, TRUE);
        return r;
}

/* {"type":"ay","data":[3,1]} */
static int parse_cpus(const char *line, struct cpulist *ret)
{
        static const char head[] = "{\"type\":\"ay\",\"data\":[";
        struct cpulist cpus = {0};
        char *end;

        if (line == NULL || strncmp(line, head, sizeof(head) - 1) != 0)
                return -EPROTO;
        line += sizeof(head) - 1;
        for (uint32_t byte = 0; *line != ']'; byte++) {
                unsigned long bits = strtoul(line, &end, 10);
                if (end == line || bits > 0xff || byte >= CPULIST_MAX / 8)
                        return -EPROTO;
                for (uint32_t bit = 0; bit < 8; bit++)
                        if (bits >> bit & 1)
                                (void)cpulist_add(&cpus, byte * 8 + bit);
                line = end + (*end == ',');
        }
        *ret = cpus;
        return 0;
}

/* {"type":"t","data":4096}; infinity is the greatest number there is */
static int parse_bytes(const char *line, uint64_t *ret)
{
        static const char head[] = "{\"type\":\"t\",\"data\":";
        char *end;

        if (line == NULL || strncmp(line, head, sizeof(head) - 1) != 0)
                return -EPROTO;
        uint64_t bytes = strtoull(line + sizeof(head) - 1, &end, 10);
        if (*end != '}')
                return -EPROTO;
        *ret = bytes;
        return 0;
}

/* ---- what there is ---- */

int hold_read_set(const char *dir, const char *file, struct cpulist *ret, struct err *err)
{
        char text[CPULIST_TEXT];

        int r = cgroupfs_read(dir, file, text, sizeof(text), err);
        return r < 0 ? r : cpulist_parse(text, ret, err);
}

static uint64_t bytes_of(const char *dir)
{
        int64_t have;

        if (cgroupfs_read_number(dir, "memory.min", &have, NULL) < 0)
                return 0; /* nobody there has any */
        return have < 0 ? UINT64_MAX : (uint64_t)have;
}

/* Has it processes, itself or below? -1: a tree that does not say. */
int hold_is_populated(const char *dir)
{
        char text[256];

        if (cgroupfs_read(dir, "cgroup.events", text, sizeof(text), NULL) < 0)
                return -1;
        return strstr(text, "populated 1") != NULL;
}

/* Where systemd keeps what is told to it until the next boot; the second for units that are in no file. */
static const char *const drop_in_folders[] = {"system.control", "transient"};

static void drop_in(const struct hold_systemd *s, size_t folder, const struct unit *u, const char *property,
                    char ret[CGROUPFS_PATH])
{
        (void)snprintf(ret, CGROUPFS_PATH, "%.*s/%s/%.*s.d/50-%s.conf", CGROUPFS_ROOT, s->run,
                       drop_in_folders[folder], HOLD_UNIT_NAME - 1, hold_unit_name(u->path), property);
}

static bool has_drop_in(const struct hold_systemd *s, const struct unit *u, const char *property)
{
        char path[CGROUPFS_PATH];

        for (size_t i = 0; i < ARRAY_N(drop_in_folders); i++) {
                drop_in(s, i, u, property, path);
                if (access(path, F_OK) == 0)
                        return true;
        }
        return false;
}

static void forget_drop_in(const struct hold_systemd *s, const struct unit *u, const char *property)
{
        char path[CGROUPFS_PATH];

        for (size_t i = 0; i < ARRAY_N(drop_in_folders); i++) {
                drop_in(s, i, u, property, path);
                if (unlink(path) < 0)
                        continue;
                *strrchr(path, '/') = '\0';
                (void)rmdir(path); /* not where there are others */
        }
}

static int ask_limits(struct holds *h, const char *name, struct limits *ret, struct err *err)
{
        struct hold_systemd *s = h->systemd;
        struct limits limits;
        char object[OBJECT_PATH], *save = NULL;

        object_path(name, object);
        GPtrArray *words = hold_words_new("get-property", object, interface_of(name));
        hold_words_add(words, "AllowedCPUs");
        hold_words_add(words, "MemoryMin");
        int r = hold_ask(h, words, err);
        if (r < 0)
                return r;
        if (parse_cpus(strtok_r(s->answer, "\n", &save), &limits.cpus) < 0 ||
            parse_bytes(strtok_r(NULL, "\n", &save), &limits.bytes) < 0)
                return err_set(err, REASON_INTERNAL, EPROTO, "what systemd says of %.60s is not understood",
                               name);
        *ret = limits;
        return 0;
}

/* Mostly there is nothing, and its group says so: a question costs as much as starting a program. */
static int learn(struct holds *h, struct unit *u, struct err *err)
{
        char dir[CGROUPFS_PATH];
        struct cpulist cpus = {0};

        u->had_cpus = has_drop_in(h->systemd, u, "AllowedCPUs");
        u->had_memory = has_drop_in(h->systemd, u, "MemoryMin");
        if (!u->had_cpus && !u->had_memory && access(hold_dir(h, u->path, dir), F_OK) == 0) {
                (void)hold_read_set(dir, "cpuset.cpus", &cpus, NULL);
                if (cpulist_next(&cpus, 0) < 0 && bytes_of(dir) == 0)
                        return 0;
        }
        return ask_limits(h, hold_unit_name(u->path), &u->prior, err);
}

struct unit *hold_unit_find(const struct hold_systemd *s, const char *path)
{
        for (size_t i = 0; i < s->n_units; i++)
                if (strcmp(s->units[i]->path, path) == 0)
                        return s->units[i];
        return NULL;
}

struct unit *hold_unit_add(struct hold_systemd *s, const struct unit *like)
{
        s->units = g_renew(struct unit *, s->units, s->n_units + 1);
        return s->units[s->n_units++] = g_memdup2(like, sizeof(*like));
}

int hold_unit_get(struct holds *h, const char *path, struct unit **ret, struct err *err)
{
        struct unit new = {0};

        *ret = hold_unit_find(h->systemd, path);
        if (*ret != NULL)
                return 0;
        (void)STR_COPY(new.path, path);
        int r = learn(h, &new, err);
        if (r == 0)
                *ret = hold_unit_add(h->systemd, &new);
        return r;
}

/* ---- making it so ---- */

static uint64_t whole_pages(uint64_t bytes)
{
        return bytes == UINT64_MAX ? bytes : bytes - bytes % (uint64_t)sysconf(_SC_PAGESIZE);
}

static bool is_in_slice(const char *path)
{
        static const char slice[] = "/" SLICE;

        return strncmp(path, slice, sizeof(slice) - 1) == 0;
}

static bool is_none(const struct cpulist *cpus)
{
        return cpulist_next(cpus, 0) < 0;
}

/* All that there can be are no limit, either. */
static bool is_as(const struct holds *h, const struct cpulist *have, const struct cpulist *to)
{
        if (is_none(to))
                return is_none(have) || cpulist_is_within(&h->systemd->possible, have);
        return cpulist_is_equal(have, to);
}

/* In which of the two the group differs; without one, what systemd was told. */
static unsigned differs(const struct holds *h, const struct unit *u, const struct limits *to)
{
        char dir[CGROUPFS_PATH];
        struct cpulist have = {0};
        uint64_t bytes;

        if (access(hold_dir(h, u->path, dir), F_OK) == 0) {
                (void)hold_read_set(dir, "cpuset.cpus", &have, NULL);
                bytes = bytes_of(dir);
        } else if (u->is_put) {
                have = u->put.cpus;
                bytes = whole_pages(u->put.bytes);
        } else { /* what it was told is not known; but others never lose memory */
                return FAILED_CPUS | (is_in_slice(u->path) ? FAILED_MEMORY : 0U);
        }
        return (is_as(h, &have, &to->cpus) ? 0U : FAILED_CPUS) |
               (bytes == whole_pages(to->bytes) ? 0U : FAILED_MEMORY);
}

/* A vCPU that has just come on line gets there a moment later. */
static bool has_all(const struct holds *h, const struct unit *u, const struct limits *to, struct cpulist *ret)
{
        char dir[CGROUPFS_PATH];

        *ret = (struct cpulist){0};
        if (!u->holds_cpus ||
            hold_read_set(hold_dir(h, u->path, dir), "cpuset.cpus.effective", ret, NULL) < 0)
                return true;
        return cpulist_is_within(&to->cpus, ret);
}

/* Nothing tells of a group's file that was written, nor of a process that was moved. */
void hold_pause(void)
{
        static const struct timespec moment = {.tv_nsec = LOOK_MS * 1000000L};

        (void)nanosleep(&moment, NULL);
}

/* It answers first, and writes the files then. */
static unsigned wait_done(const struct holds *h, const struct unit *u, const struct limits *to,
                          struct err *err)
{
        char text[CPULIST_TEXT];
        struct cpulist have;
        int64_t until = MIN(h->systemd->deadline_ms, loop_mono_ms() + h->systemd->done_ms);

        for (;;) {
                unsigned lacks = differs(h, u, to);
                bool is_whole = has_all(h, u, to, &have);
                if (lacks == 0 && is_whole)
                        return 0;
                if (loop_mono_ms() >= until) {
                        if (lacks != 0)
                                (void)err_set(err, REASON_TIMEOUT, ETIMEDOUT,
                                              "systemd did not do it for %.40s", hold_unit_name(u->path));
                        else
                                (void)err_set(err, REASON_BUSY, EBUSY, "only vCPUs %.40s are there",
                                              cpulist_print(&have, text));
                        return lacks != 0 ? lacks : FAILED_CPUS;
                }
                hold_pause();
        }
}

static int tell(struct holds *h, struct unit *u, const struct limits *to, unsigned what, struct err *err)
{
        GPtrArray *words = hold_words_new("call", SYSTEMD_OBJECT, SYSTEMD_CALLS);

        hold_words_add(words, "SetUnitProperties");
        hold_words_add(words, "sba(sv)");
        hold_words_add(words, "%s", hold_unit_name(u->path));
        hold_words_add(words, "true"); /* until the next boot */
        hold_words_add(words, "%d", what == FAILED_ALL ? 2 : 1);
        if (what & FAILED_CPUS)
                hold_words_add_cpus(words, &to->cpus);
        if (what & FAILED_MEMORY)
                hold_words_add_bytes(words, to->bytes);
        u->is_put = false;
        int r = hold_ask(h, words, err);
        if (r == 0) {
                u->put = *to;
                u->is_put = true;
        }
        return r;
}

/* Which of the two it has not. Where somebody is in a group the kernel does not take its limit away, but it
 * takes all vCPUs for one. */
unsigned hold_unit_put(struct holds *h, struct unit *u, struct err *err)
{
        char dir[CGROUPFS_PATH];
        struct limits to = u->wanted;
        unsigned what = differs(h, u, &to);

        if (is_none(&to.cpus))
                to.cpus = h->systemd->possible;
        int r = what != 0 ? tell(h, u, &to, what, err) : 0;
        if (r == -ENOENT)
                return 0; /* it went meanwhile, and with it whoever was in it */
        if (r < 0)
                return what;
        if (access(hold_dir(h, u->path, dir), F_OK) == 0)
                u->is_seen = true;
        return wait_done(h, u, &u->wanted, err);
}

static bool is_scope_of_ours(const char *path)
{
        struct hold_who who = {0};
        char name[HOLD_NAME], *end;
        const char *number = hold_unit_name(path) + strlen(SCOPE_PREFIX);

        if (!g_str_has_prefix(path, "/" SLICE "/" SCOPE_PREFIX))
                return false;
        who.pid = (pid_t)strtol(number, &end, 10);
        if (*end == '-')
                who.start_ticks = strtoull(end + 1, NULL, 10);
        hold_scope_name(&who, name);
        return strcmp(name, hold_unit_name(path)) == 0;
}

static bool is_over(const struct holds *h, const struct unit *u)
{
        char dir[CGROUPFS_PATH];

        return u->is_seen && is_scope_of_ours(u->path) &&
               (access(hold_dir(h, u->path, dir), F_OK) < 0 || hold_is_populated(dir) == 0);
}

/* As it was before, for systemd; see hold_unit_lift(). One that has gone took its limits along. */
int hold_unit_restore(struct holds *h, struct unit *u, struct err *err)
{
        char dir[CGROUPFS_PATH];
        struct cpulist have = {0};

        if (is_over(h, u))
                return 0;
        unsigned what = differs(h, u, &u->prior);
        if (is_none(&u->prior.cpus)) { /* the group may be as it was, and systemd know of a limit to all vCPUs
                                        */
                (void)hold_read_set(hold_dir(h, u->path, dir), "cpuset.cpus", &have, NULL);
                if (u->is_put ? !is_none(&u->put.cpus) : !is_none(&have))
                        what |= FAILED_CPUS;
        }
        int r = what != 0 ? tell(h, u, &u->prior, what, err) : 0;
        return r == -ENOENT ? 0 : r;
}

/* And for the kernel: as long as any unit has a limit, all groups have the controller, and those with
 * somebody in them keep the limit that systemd takes away. So they get all vCPUs first. The drop-in, for
 * which systemd has no way to say "none any more", goes last: what it says is what systemd has by then. */
int hold_unit_lift(struct holds *h, struct unit *u, struct err *err)
{
        struct hold_systemd *s = h->systemd;
        struct limits all = {.cpus = s->possible, .bytes = u->prior.bytes};
        int64_t until = loop_mono_ms() + MIN(s->done_ms, LIFT_MS);

        while (is_none(&u->prior.cpus) && !is_over(h, u) && (differs(h, u, &u->prior) & FAILED_CPUS) != 0) {
                if (loop_mono_ms() < until) {
                        hold_pause();
                        continue;
                }
                int r = tell(h, u, &all, FAILED_CPUS, err);
                if (r == 0)
                        r = tell(h, u, &u->prior, FAILED_CPUS, err);
                if (r < 0 && r != -ENOENT)
                        return r;
                break;
        }
        if (!u->had_cpus)
                forget_drop_in(s, u, "AllowedCPUs");
        if (!u->had_memory)
                forget_drop_in(s, u, "MemoryMin");
        return 0;
}
