/* SPDX-License-Identifier: Apache-2.0 */
/* The kinds of host resources: a row each. */
#include "keeper/hold.h"

#include <errno.h>
#include <glib.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/str.h"
#include "host/cpu.h"
#include "keeper/ramdir.h"

/* What a node keeps free for the kernel's own sake is more than it says that it is. */
enum { PLACE_MARGIN_BYTES = 64 << 20 };

/* ---- cpu ---- */

static const char *cpu_held_by(const struct hold *h)
{
        return cpu_provider_id_name(h->cpu->id);
}

/* What belongs to one kind alone. */
enum { SAYS_CPU = 1, SAYS_MEMORY = 2, SAYS_NET = 4, SAYS_CACHE = 8, SAYS_MEMBW = 16, SAYS_DOMAIN = 32 };

static int check_only(const struct api_keeper_hold *p, int allowed, struct err *err)
{
        int said = (p->n_cpus > 0 || p->has_share_milli || p->has_ceiling_milli || p->has_exclusive ? SAYS_CPU
                                                                                                    : 0) |
                   (p->has_bytes || p->has_node || p->has_page_bytes ? SAYS_MEMORY : 0) |
                   (p->has_rate_bps || p->has_ceiling_bps ? SAYS_NET : 0) | (p->has_ways ? SAYS_CACHE : 0) |
                   (p->has_percent ? SAYS_MEMBW : 0) | (p->has_domain ? SAYS_DOMAIN : 0);
        static const struct {
                int what;
                const char *names;
        } rows[] = {
                {SAYS_CPU,                 "cpus nor share_milli nor ceiling_milli nor exclusive"},
                {SAYS_MEMORY,              "bytes nor node nor page_bytes"                       },
                {SAYS_NET,                 "rate_bps nor ceiling_bps"                            },
                {SAYS_CACHE | SAYS_DOMAIN, "ways nor domain"                                     },
                {SAYS_MEMBW | SAYS_DOMAIN, "percent nor domain"                                  },
        };
        for (size_t i = 0; i < ARRAY_N(rows); i++)
                if (said & ~allowed & rows[i].what)
                        return err_set(err, REASON_INVALID, EINVAL, "kind %s takes neither %s",
                                       api_host_kind_name(p->kind), rows[i].names);
        return 0;
}

static int cpu_check(const struct api_keeper_hold *p, struct err *err)
{
        return check_only(p, SAYS_CPU, err); /* of CPUs and share the provider has a sentence */
}

static int cpu_activate(const struct hold *h, struct err *err)
{
        const struct cpu_provider *cpu = h->cpu->provider;
        struct cpu_live live;
        int r = cpu->hold(h->cpu, h->vmm.vm, h->item, &h->what, err);
        bool is_plain =
                cpu->is_holding_shares && !h->what.is_exclusive && h->what.ceiling_milli == CPU_SHARE_MAX;
        /* Best effort is told by what is held in the end. */
        if (r < 0 || is_plain || cpu->read(h->cpu, h->vmm.vm, h->item, 0, &live, NULL) < 0)
                return r;
        if (live.fallback)
                *h->ret_fallback = live.fallback;
        else if (live.ceiling_milli < 0 && h->what.ceiling_milli < CPU_SHARE_MAX)
                *h->ret_fallback = CPU_NO_QUOTAS;
        return 0;
}

/* Looked at before and after: its number may be used again in between. */
static int cpu_bind(const struct hold *h, struct err *err)
{
        struct err gone;
        int r = vmm_ref_find_thread(&h->vmm, h->tid, err);
        if (r < 0)
                return r;
        r = h->cpu->provider->bind(h->cpu, h->vmm.vm, h->item, (pid_t)h->tid, err);
        if (vmm_ref_check_moved(h->cpu, &h->vmm, h->tid, &gone) == 0) {
                if (r == 0) /* where the VM has a class of service, threads enter it by being made; or now */
                        r = classes_enter(h->classes, h->vmm.vm, h->vmm.pid, false, err);
                return r;
        }
        *err = gone;
        return -gone.code;
}

static int cpu_prepare(const struct hold *h, struct err *err)
{
        if (vmm_ref_find_thread(&h->vmm, h->tid, NULL) < 0)
                return 0;
        int r = h->cpu->provider->park(h->cpu, h->vmm.vm, (pid_t)h->tid, err);
        return vmm_ref_check_moved(h->cpu, &h->vmm, h->tid, NULL) < 0 ? 0 : r;
}

static int cpu_deactivate(const struct hold *h, struct err *err)
{
        if (h->is_back)
                h->cpu->provider->vacate(h->cpu, h->vmm.vm, h->item, h->vmm.pid);
        return h->cpu->provider->let_go(h->cpu, h->vmm.vm, h->item, err);
}

static int cpu_read(const struct hold *h, struct err *err)
{
        struct cpu_live live;
        /* Only of its own threads, whatever number was said. */
        bool is_own = h->has_tid && vmm_ref_find_thread(&h->vmm, h->tid, NULL) == 0;
        int r = h->cpu->provider->read(h->cpu, h->vmm.vm, h->item, is_own ? (pid_t)h->tid : 0, &live, err);
        if (r < 0)
                return r;
        for (int cpu = cpulist_next(&live.cpus, 0); cpu >= 0 && h->live->n_cpus < ARRAY_N(h->live->cpus);
             cpu = cpulist_next(&live.cpus, (uint32_t)cpu + 1))
                h->live->cpus[h->live->n_cpus++] = cpu;
        h->live->has_share_milli = live.share_milli >= 0;
        h->live->share_milli = live.share_milli;
        h->live->has_ceiling_milli = live.ceiling_milli >= 0;
        h->live->ceiling_milli = live.ceiling_milli;
        h->live->has_period_us = live.period_us > 0;
        h->live->period_us = live.period_us;
        if (live.fallback)
                *h->ret_fallback = live.fallback;
        h->live->has_exclusive = live.exclusive >= 0;
        h->live->exclusive = live.exclusive == 1;
        h->live->has_others = h->live->others = live.has_others;
        for (size_t i = 0; i < live.n_threads; i++)
                h->live->threads[h->live->n_threads++] = live.threads[i];
        return 0;
}

/* ---- memory ---- */

static const char *memory_held_by(const struct hold *h)
{
        return h->page_bytes || (h->live && h->live->has_page_bytes) ? "hugetlbfs" : "file-system";
}

static int memory_check(const struct api_keeper_hold *p, struct err *err)
{
        if (!p->has_bytes)
                return err_set(err, REASON_INVALID, EINVAL, "kind memory needs bytes");
        if (p->has_page_bytes && (!p->has_node || p->bytes % p->page_bytes))
                return err_set(err, REASON_INVALID, EINVAL,
                               "page_bytes needs a node, and bytes that are whole pages");
        return check_only(p, SAYS_MEMORY, err);
}

/* The RAM file itself is the VMM's to make; here is only asked whether there is room for it, or made room. */
static int memory_activate(const struct hold *h, struct err *err)
{
        int64_t taken = 0;
        if (*h->lender)
                return 0;
        if (h->page_bytes)
                return huge_activate(h->huge, h->vmm.vm, h->vmm.uid, h->item, h->node, h->bytes,
                                     h->page_bytes, err);
        int r = ramdir_taken(h->ram_fd, h->vmm.vm, h->item, &taken, err);
        int64_t more = r == 1 && taken < h->bytes ? h->bytes - taken : r == 1 ? 0 : h->bytes;
        if (r >= 0)
                r = ramdir_check_free(h->ram_fd, h->vmm.vm, more, err);
        if (r >= 0 && h->node >= 0)
                r = ramdir_check_node(h->ram_fd, NULL, h->node, more, err);
        return r;
}

static int memory_deactivate(const struct hold *h, struct err *err)
{
        if (*h->lender)
                return 0;
        return huge_deactivate(h->huge, h->vmm.vm, h->item, h->vmm.pid_fd >= 0, err);
}

static size_t nodes_out(const struct cpulist *nodes, int64_t *ret, size_t max)
{
        size_t n = 0;
        for (int i = cpulist_next(nodes, 0); i >= 0 && n < max; i = cpulist_next(nodes, (uint32_t)i + 1))
                ret[n++] = i;
        return n;
}

/* Where the kernel has put it. Nothing is said where it cannot be known. */
static void read_nodes(const struct hold *h, int dir_fd, const char *dir, const char *item)
{
        char name[RAMDIR_NAME], path[HUGE_DIR + 64 + RAMDIR_NAME];
        struct cpulist nodes = {0};
        if (h->vmm.pid_fd < 0 || ramdir_name(dir_fd, h->vmm.vm, item, name, NULL) != 1)
                return;
        struct memory_map *m = g_new0(struct memory_map, 1);
        (void)snprintf(path, sizeof(path), "%s/%s/%s", dir, h->vmm.vm, name);
        if (h->huge->memory && memory_map_read(h->huge->memory, h->vmm.pid, path, m, NULL) == 0 &&
            pidfd_send_signal(h->vmm.pid_fd, 0, NULL, 0) == 0 && m->n_areas > 0) {
                for (uint32_t i = 0; i < MEMORY_NODES; i++)
                        if (m->bytes[i] > 0)
                                (void)cpulist_add(&nodes, i);
                h->live->n_nodes = nodes_out(&nodes, h->live->nodes, ARRAY_N(h->live->nodes));
                if (m->n_bound == m->n_areas)
                        h->live->n_bound_nodes = nodes_out(&m->bound_nodes, h->live->bound_nodes,
                                                           ARRAY_N(h->live->bound_nodes));
                h->live->has_mapped = h->live->mapped = true;
        }
        g_free(m);
}

static int memory_read(const struct hold *h, struct err *err)
{
        const struct huge_size *size = NULL;
        int r = huge_read(h->huge, *h->lender ? h->lender : h->vmm.vm, h->item, h->live, &size, err);
        if (r < 0)
                return r;
        int dir_fd = size ? size->fd : h->ram_fd;
        const char *item = r == 1 ? huge_file_of(h->item) : h->item;
        if (r == 1 && !size) /* the configuration is another one by now */
                return 0;
        r = ramdir_taken(dir_fd, h->vmm.vm, item, &h->live->bytes, err);
        h->live->has_bytes = r == 1;
        if (r == 1)
                read_nodes(h, dir_fd, size ? size->dir : h->ram_dir, item);
        return r < 0 ? r : 0;
}

/* Any of the nodes. Where the kernel finds no page on those that a file is bound to, it ends who has it
 * mapped, and by the books alone nobody knows what else of the host is there. */
static int check_room(const struct hold *h, struct err *err)
{
        int r = 0;
        for (int i = cpulist_next(&h->nodes, 0); i >= 0; i = cpulist_next(&h->nodes, (uint32_t)i + 1)) {
                r = ramdir_check_node(h->ram_fd, NULL, i, h->room_bytes + PLACE_MARGIN_BYTES, err);
                if (r == 0)
                        return 0;
        }
        return r;
}

/* The file is the VMM's: how long it is may change at any time, so that is only to be noticed early. */
static int check_length(const struct hold *h, int fd, struct err *err)
{
        struct stat st;
        if (fstat(fd, &st) < 0)
                return err_set(err, REASON_INTERNAL, errno, "a memory file: %s", strerror(errno));
        if (h->file_bytes == 0 || st.st_size == h->file_bytes)
                return 0;
        return err_set(err, REASON_STALE, EPROTO, "it has %lld bytes, and was granted with %lld",
                       (long long)st.st_size, (long long)h->file_bytes);
}

int hold_place(const struct hold *h, struct err *err)
{
        struct ramdir_file file = {.fd = -1};
        if (h->vmm.pid_fd < 0)
                return err_set(err, REASON_NOT_FOUND, ESRCH, "the VMM of %s does not run", h->vmm.vm);
        if (*h->lender)
                return err_set(err, REASON_BUSY, EBUSY, "%s of %s is borrowed", h->item, h->vmm.vm);
        (void)STR_COPY(file.item, h->item);
        int r = ramdir_open(h->ram_fd, h->vmm.vm, h->vmm.uid, &file, 1, err);
        for (size_t s = 0; r == 0 && s < h->huge->n; s++) /* which has a sentence of its own */
                r = ramdir_open(h->huge->sizes[s].fd, h->vmm.vm, h->vmm.uid, &file, 1, err);
        if (r == 0)
                r = err_set(err, REASON_NOT_FOUND, ENOENT, "%s has no RAM file %s", h->vmm.vm, h->item);
        if (r > 0)
                r = check_length(h, file.fd, err);
        if (r == 0 && !h->place.is_look)
                r = check_room(h, err);
        int64_t began_us = clock_mono_us();
        if (r == 0)
                r = memory_place(file.fd, &h->place, h->placed, err);
        *h->took_us = clock_mono_us() - began_us;
        if (file.fd >= 0)
                (void)close(file.fd);
        return r;
}

/* ---- net ---- */

static const char *net_held_by(const struct hold *h)
{
        return "htb";
}

static int net_check(const struct api_keeper_hold *p, struct err *err)
{
        if (!p->has_rate_bps)
                return err_set(err, REASON_INVALID, EINVAL, "kind net needs rate_bps");
        return check_only(p, SAYS_NET, err);
}

static int net_activate(const struct hold *h, struct err *err)
{
        return nics_hold(h->nics, h->vmm.vm, h->item, &h->rate, h->vmm.pid_fd >= 0, err);
}

static int net_deactivate(const struct hold *h, struct err *err)
{
        return nics_let_go(h->nics, h->vmm.vm, h->item, err);
}

static int net_read(const struct hold *h, struct err *err)
{
        struct nic_live live;
        int r = nics_read(h->nics, h->vmm.vm, h->item, &live, err);
        if (r < 0)
                return r;
        h->live->has_rate_bps = h->live->has_vm_rate_bps = h->live->has_ceiling_bps = true;
        h->live->rate_bps = (int64_t)live.rate_bps;
        h->live->vm_rate_bps = (int64_t)live.set.rate_bps;
        h->live->ceiling_bps = (int64_t)live.set.ceiling_bps;
        return 0;
}

/* ---- cache, membw ---- */

static const char *class_held_by(const struct hold *h)
{
        return classes_is_made_up(h->classes) ? "made-up-resctrl" : "resctrl";
}

static int cache_check(const struct api_keeper_hold *p, struct err *err)
{
        if (!p->has_ways || !p->has_domain)
                return err_set(err, REASON_INVALID, EINVAL, "kind cache needs ways and domain");
        return check_only(p, SAYS_CACHE | SAYS_DOMAIN, err);
}

static int membw_check(const struct api_keeper_hold *p, struct err *err)
{
        if (!p->has_percent || !p->has_domain)
                return err_set(err, REASON_INVALID, EINVAL, "kind membw needs percent and domain");
        return check_only(p, SAYS_MEMBW | SAYS_DOMAIN, err);
}

static int class_activate(const struct hold *h, struct err *err)
{
        return classes_hold(h->classes, h->vmm.vm, h->item, &h->part, err);
}

/* All its threads: it is one class for all items, so whichever of them is bound. The process is looked at
 * before and after, as its number may be used again; what of a stranger's entered goes with the class. */
static int class_bind(const struct hold *h, struct err *err)
{
        int r = vmm_ref_find_thread(&h->vmm, h->vmm.pid, err);
        if (r == 0)
                r = classes_enter(h->classes, h->vmm.vm, h->vmm.pid, true, err);
        return r < 0 ? r : vmm_ref_find_thread(&h->vmm, h->vmm.pid, err);
}

static int class_deactivate(const struct hold *h, struct err *err)
{
        return classes_let_go(h->classes, h->vmm.vm, h->item, err);
}

static int class_read(const struct hold *h, struct err *err)
{
        struct class_live live;
        bool is_running = h->vmm.pid_fd >= 0 && vmm_ref_find_thread(&h->vmm, h->vmm.pid, NULL) == 0;
        int r = classes_read(h->classes, h->vmm.vm, h->item, is_running ? h->vmm.pid : 0, &live, err);
        if (r < 0)
                return r;
        h->live->has_ways = h->live->has_vm_ways = h->kind == API_HOST_KIND_CACHE;
        h->live->has_percent = h->live->has_vm_percent = h->kind == API_HOST_KIND_MEMBW;
        h->live->ways = live.part.ways;
        h->live->vm_ways = live.vm.ways;
        h->live->percent = live.part.percent;
        h->live->vm_percent = live.vm.percent;
        return 0;
}

/* clang-format off */ /* clang-format 14 dies on nested designated rows */
const struct hold_kind hold_kinds[API_HOST_KIND_N] = {
        [API_HOST_KIND_CPU] = {
                .held_by = cpu_held_by,
                .check = cpu_check,
                .activate = cpu_activate,
                .bind = cpu_bind,
                .prepare = cpu_prepare,
                .deactivate = cpu_deactivate,
                .read = cpu_read,
        },
        [API_HOST_KIND_MEMORY] = {
                .held_by = memory_held_by,
                .check = memory_check,
                .activate = memory_activate,
                .deactivate = memory_deactivate,
                .read = memory_read,
        },
        [API_HOST_KIND_NET] = {
                .held_by = net_held_by,
                .check = net_check,
                .activate = net_activate,
                .deactivate = net_deactivate,
                .read = net_read,
        },
        [API_HOST_KIND_CACHE] = {
                .held_by = class_held_by,
                .check = cache_check,
                .activate = class_activate,
                .binds_process = true,
                .bind = class_bind,
                .deactivate = class_deactivate,
                .read = class_read,
        },
        [API_HOST_KIND_MEMBW] = {
                .held_by = class_held_by,
                .check = membw_check,
                .activate = class_activate,
                .binds_process = true,
                .bind = class_bind,
                .deactivate = class_deactivate,
                .read = class_read,
        },
};
/* clang-format on */
