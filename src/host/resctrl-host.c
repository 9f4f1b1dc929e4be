/* SPDX-License-Identifier: Apache-2.0 */
/* What there is of resctrl, what is read from it, and who is in a group. */
#include "host/resctrl.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/str.h"
#include "host/resctrl-tree.h"

static bool read_info(const struct resctrl_host *h, const char *resource, const char *file, int base,
                      uint32_t *ret)
{
        char dir[CGROUPFS_PATH], text[32], *end;
        (void)snprintf(dir, sizeof(dir), "%s/info/%s", h->root, resource);
        if (cgroupfs_read(dir, file, text, sizeof(text), NULL) < 0)
                return false;
        errno = 0;
        unsigned long value = strtoul(text, &end, base);
        if (errno != 0 || end == text || *end || value > UINT32_MAX)
                return false;
        *ret = (uint32_t)value;
        return true;
}

static void fewer_groups(struct resctrl_host *h, const char *resource)
{
        uint32_t n;
        if (read_info(h, resource, "num_closids", 10, &n) && (h->n_groups == 0 || n < h->n_groups))
                h->n_groups = n;
}

static bool try_level(struct resctrl_host *h, int level, const char *resource, bool is_cdp)
{
        uint32_t full, least, shared = 0;
        if (!read_info(h, resource, "cbm_mask", 16, &full) || full == 0 ||
            !read_info(h, resource, "min_cbm_bits", 10, &least))
                return false;
        (void)read_info(h, resource, "shareable_bits", 16, &shared);
        h->level = level;
        h->full_mask = full;
        h->shared_mask = shared;
        h->least_ways = least ? least : 1;
        h->is_cdp = is_cdp;
        fewer_groups(h, resource);
        return true;
}

static void find_cache(struct resctrl_host *h)
{
        if (!try_level(h, 3, "L3", false) && !try_level(h, 3, "L3CODE", true) &&
            !try_level(h, 2, "L2", false) && !try_level(h, 2, "L2CODE", true))
                (void)STR_COPY(h->cache_fallback,
                               "this CPU has no cache allocation (CAT): ways of a cache are not held");
        if (h->level == 3)
                fewer_groups(h, "L2");
}

static int find_membw(struct resctrl_host *h, struct err *err)
{
        uint32_t step, least;
        fewer_groups(h, "MB");
        if (!read_info(h, "MB", "bandwidth_gran", 10, &step) ||
            !read_info(h, "MB", "min_bandwidth", 10, &least)) {
                (void)STR_COPY(
                        h->membw_fallback,
                        "this CPU has no memory bandwidth allocation (MBA): memory bandwidth is not held");
                return 0;
        }
        char *text = malloc(RESCTRL_TEXT);
        struct resctrl_schemata *s = malloc(sizeof(*s));
        int r = text && s ? cgroupfs_read(h->root, "schemata", text, RESCTRL_TEXT, err)
                          : err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
        if (r == 0)
                r = resctrl_schemata_parse(text, h->level, s, err);
        const struct resctrl_line *line = r == 0 ? resctrl_line_of(s, RESCTRL_MEMBW) : NULL;
        bool is_percent = line != NULL && step > 0 && step <= 100;
        for (size_t i = 0; line && i < line->n; i++)
                is_percent = is_percent && line->at[i].value <= 100;
        if (is_percent) {
                h->membw_step = step;
                h->membw_least = least > step ? least : step;
        } else {
                (void)STR_COPY(h->membw_fallback,
                               "memory bandwidth is not in percent here (option mba_MBps, or another "
                               "kind of CPU): it is not held");
        }
        free(text);
        free(s);
        return r;
}

static bool is_known_to_kernel(void)
{
        char text[4096];
        return cgroupfs_read("/proc", "filesystems", text, sizeof(text), NULL) == 0 &&
               strstr(text, "\tresctrl");
}

int resctrl_host_init(struct resctrl_host *h, const struct resctrl_options *o, struct err *err)
{
        *h = (struct resctrl_host){.is_fake = o->is_fake};
        if (!str_is_name(o->prefix) || !STR_COPY(h->prefix, o->prefix))
                return err_set(err, REASON_INVALID, EINVAL, "\"%.60s\" is no prefix for resctrl groups",
                               o->prefix);
        if (!STR_COPY(h->state_dir, o->state_dir))
                return err_set(err, REASON_INVALID, ENAMETOOLONG, "%.60s...: the path is too long",
                               o->state_dir);
        struct cgroupfs_mounts m = {0};
        int r = o->root ? 0 : cgroupfs_find(o->mountinfo, &m, err);
        if (r < 0)
                return r;
        if (!STR_COPY(h->root, o->root ? o->root : m.resctrl))
                return err_set(err, REASON_INVALID, ENAMETOOLONG, "%.60s...: the path is too long", o->root);
        if (!*h->root) {
                (void)STR_COPY(h->cache_fallback, is_known_to_kernel()
                                                          ? "resctrl is not mounted (mount -t resctrl "
                                                            "resctrl /sys/fs/resctrl): cache and "
                                                            "memory bandwidth are not held"
                                                          : "this kernel or CPU has no resctrl: cache and "
                                                            "memory bandwidth are not held");
                (void)STR_COPY(h->membw_fallback, h->cache_fallback);
                return 0;
        }
        uint32_t n;
        find_cache(h);
        h->is_monitoring = read_info(h, "L3_MON", "num_rmids", 10, &n);
        return find_membw(h, err);
}

static int add_ids(const char *sysfs, int cpu, int level, struct cpulist *ret, struct err *err)
{
        for (int index = 0; index < 16; index++) {
                char dir[CGROUPFS_PATH], type[32];
                int64_t its_level, id;
                (void)snprintf(dir, sizeof(dir), "%s/devices/system/cpu/cpu%d/cache/index%d", sysfs, cpu,
                               index);
                int r = cgroupfs_read_number(dir, "level", &its_level, NULL);
                if (r == -ENOENT)
                        break;
                if (r < 0 || its_level != level || cgroupfs_read(dir, "type", type, sizeof(type), NULL) < 0 ||
                    strcmp(type, "Instruction") == 0)
                        continue;
                if ((r = cgroupfs_read_number(dir, "id", &id, err)) < 0)
                        return r;
                if (id >= 0 && id < CPULIST_MAX && cpulist_add(ret, (uint32_t)id))
                        return 0;
        }
        return err_set(err, REASON_NOT_FOUND, ENOENT, "CPU %d has no L%d cache with an id", cpu, level);
}

int resctrl_ids_of(const char *sysfs, const struct cpulist *cpus, int level, struct cpulist *ret,
                   struct err *err)
{
        struct cpulist ids = {0};
        for (int cpu = cpulist_next(cpus, 0); cpu >= 0; cpu = cpulist_next(cpus, (uint32_t)cpu + 1)) {
                int r = add_ids(sysfs ? sysfs : "/sys", cpu, level, &ids, err);
                if (r < 0)
                        return r;
        }
        *ret = ids;
        return 0;
}

/* Threads that were moved, to be put back where one cannot be. */
struct moved {
        long *tids;
        size_t n;
};

static int move_one(const struct resctrl_host *h, const char *dir, long tid, struct err *err)
{
        char text[8192] = "";
        /* A plain directory keeps what was written last. */
        if (h->is_fake && cgroupfs_read(dir, "tasks", text, sizeof(text) - 32, NULL) == 0 && *text)
                (void)strcat(text, "\n"); /* NOLINT: room for it was left above */
        size_t n = strlen(text);
        (void)snprintf(text + n, sizeof(text) - n, "%ld\n", tid);
        int r = cgroupfs_write(dir, "tasks", text, h->is_fake, err);
        return r == -ESRCH ? 0 : r; /* it ended */
}

/* One pass over the threads of a process: how many were not in the group yet. */
static int enter_all(const struct resctrl_host *h, const char *dir, pid_t pid, struct moved *moved,
                     struct err *err)
{
        char path[64];
        int n = 0, r = 0;
        (void)snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
        DIR *d = opendir(path);
        if (!d)
                return err_set(err, REASON_NOT_FOUND, errno, "%s: %s", path, strerror(errno));
        for (struct dirent *e; r >= 0 && (e = readdir(d));) {
                long tid = strtol(e->d_name, NULL, 10);
                if (tid <= 0 || (r = cgroupfs_lists(dir, "tasks", tid, err)) != 0)
                        continue;
                long *more = realloc(moved->tids, (moved->n + 1) * sizeof(*more));
                if (!more) {
                        r = err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
                        break;
                }
                moved->tids = more;
                moved->tids[moved->n++] = tid;
                r = move_one(h, dir, tid, err);
                n++;
        }
        (void)closedir(d);
        return r < 0 ? r : n;
}

static int enter(const struct resctrl_tree *t, const char *name, pid_t pid, struct err *err)
{
        enum { PASSES = 16 };
        char dir[CGROUPFS_PATH], before[8192] = "";
        struct moved moved = {0};
        int r = 0;
        (void)resctrl_tree_path(t->h, name, dir);
        if (t->h->is_fake)
                (void)cgroupfs_read(dir, "tasks", before, sizeof(before), NULL);
        /* A thread that is not in yet may make another one behind the reader's back. */
        for (int pass = 0; pass < PASSES && (r = enter_all(t->h, dir, pid, &moved, err)) > 0; pass++)
                ;
        if (r < 0)
                (void)resctrl_tree_explain(t, err);
        else if (r > 0)
                r = err_set(err, REASON_BUSY, EAGAIN,
                            "process %d makes threads faster than they can be moved", (int)pid);
        if (r < 0 && t->h->is_fake)
                (void)cgroupfs_write(dir, "tasks", before, true, NULL);
        for (size_t i = 0; r < 0 && !t->h->is_fake && i < moved.n; i++)
                (void)move_one(t->h, t->h->root, moved.tids[i], NULL);
        free(moved.tids);
        return r;
}

int resctrl_enter(const struct resctrl_host *h, const char *vm, pid_t pid, struct err *err)
{
        struct resctrl_tree t;
        struct err none = {0};
        char name[128];
        err = err ? err : &none;
        if (!str_is_name(vm) || pid <= 0)
                return err_set(err, REASON_INVALID, EINVAL, "process %d of VM \"%.60s\"", (int)pid, vm);
        int r = resctrl_tree_open(&t, h, true, err);
        if (r < 0)
                return r;
        (void)snprintf(name, sizeof(name), "%s@%s", h->prefix, vm);
        r = resctrl_tree_find(&t, name) ? enter(&t, name, pid, err)
                                        : err_set(err, REASON_NOT_FOUND, ENOENT,
                                                  "VM %s has no resctrl group: activate it first", vm);
        resctrl_tree_close(&t);
        return r;
}

int resctrl_groups(const struct resctrl_host *h, unsigned *ret, struct err *err)
{
        struct resctrl_tree t;
        int r = resctrl_tree_open(&t, h, false, err);
        if (r < 0)
                return r;
        *ret = (unsigned)t.n;
        resctrl_tree_close(&t);
        return 0;
}

static int64_t monitored(const char *group, uint32_t id, const char *file)
{
        char dir[CGROUPFS_PATH + 32];
        int64_t value;
        /* "Unavailable", "Error", "Unassigned" are no numbers. */
        (void)snprintf(dir, sizeof(dir), "%s/mon_data/mon_L3_%02u", group, id);
        return cgroupfs_read_number(dir, file, &value, NULL) == 0 ? value : -1;
}

static void add_line_ids(const struct resctrl_line *line, struct cpulist *ids)
{
        for (size_t i = 0; line && i < line->n; i++)
                (void)cpulist_add(ids, line->at[i].id);
}

static void add_monitored_ids(const char *group, struct cpulist *ids)
{
        char dir[CGROUPFS_PATH + 32];
        (void)snprintf(dir, sizeof(dir), "%s/mon_data", group);
        DIR *d = opendir(dir);
        for (struct dirent *e; d && (e = readdir(d));)
                if (strncmp(e->d_name, "mon_L3_", 7) == 0)
                        (void)cpulist_add(ids, (uint32_t)strtoul(e->d_name + 7, NULL, 10));
        if (d)
                (void)closedir(d);
}

int resctrl_read(const struct resctrl_host *h, const char *vm, struct resctrl_reading *ret, struct err *err)
{
        struct resctrl_tree t;
        char name[128] = "", dir[CGROUPFS_PATH];
        if (vm && !str_is_name(vm))
                return err_set(err, REASON_INVALID, EINVAL, "\"%.60s\" is no name of a VM", vm);
        int r = resctrl_tree_open(&t, h, false, err);
        if (r < 0)
                return r;
        if (vm)
                (void)snprintf(name, sizeof(name), "%s@%s", h->prefix, vm);
        const struct resctrl_group *g = resctrl_tree_find(&t, name);
        if (!g) {
                resctrl_tree_close(&t);
                return err_set(err, REASON_NOT_FOUND, ENOENT, "VM %s has no resctrl group", vm);
        }
        const struct resctrl_line *mb = resctrl_line_of(&g->s, RESCTRL_MEMBW);
        struct cpulist ids = {0};
        (void)resctrl_tree_path(h, name, dir);
        add_line_ids(mb, &ids);
        if (h->level == 3)
                add_line_ids(resctrl_line_of(&g->s, RESCTRL_WAYS), &ids);
        add_monitored_ids(dir, &ids);
        *ret = (struct resctrl_reading){0};
        for (int id = cpulist_next(&ids, 0); id >= 0 && ret->n < RESCTRL_IDS;
             id = cpulist_next(&ids, (uint32_t)id + 1)) {
                uint32_t percent = 0;
                for (size_t i = 0; mb && i < mb->n; i++)
                        if (mb->at[i].id == (uint32_t)id)
                                percent = mb->at[i].value;
                ret->at[ret->n].id = (uint32_t)id;
                ret->at[ret->n].ways = h->level == 3 ? resctrl_ways_of(&g->s, (uint32_t)id) : 0;
                ret->at[ret->n].membw_percent = percent;
                ret->at[ret->n].occupancy_bytes = monitored(dir, (uint32_t)id, "llc_occupancy");
                ret->at[ret->n].membw_total_bytes = monitored(dir, (uint32_t)id, "mbm_total_bytes");
                ret->at[ret->n].membw_local_bytes = monitored(dir, (uint32_t)id, "mbm_local_bytes");
                ret->n++;
        }
        resctrl_tree_close(&t);
        return 0;
}
