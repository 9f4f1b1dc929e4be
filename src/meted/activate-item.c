/* SPDX-License-Identifier: Apache-2.0 */
/* vCPUs, DIMMs, network cards and disks, and the host side of whatever is activated. */
#include <errno.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "base/units.h"
#include "host/cpu.h"
#include "meted/activate-internal.h"
#include "meted/moves.h"

static const struct component *host_of(const struct step *s)
{
        return &s->v->m->inventory.components[step_item(s)->component];
}

static enum api_host_kind host_kind(const struct step *s)
{
        static const enum api_host_kind rows[COMPONENT_KIND_N] = {
                [COMPONENT_CPU] = API_HOST_KIND_CPU,     [COMPONENT_MEMORY] = API_HOST_KIND_MEMORY,
                [COMPONENT_NET] = API_HOST_KIND_NET,     [COMPONENT_CACHE] = API_HOST_KIND_CACHE,
                [COMPONENT_MEMBW] = API_HOST_KIND_MEMBW,
        };
        return rows[host_of(s)->kind];
}

/* What has no virtual side is called as its host side is. */
static void item_name(const struct step *s, char *ret, size_t size)
{
        enum virtual_kind kind = step_item(s)->kind;
        (void)snprintf(ret, size, "%s%d",
                       kind == VIRTUAL_NONE ? component_kinds[host_of(s)->kind].name
                                            : virtual_kind_name(kind),
                       (int)step_item(s)->slot);
}

static const struct vm_cpu *vcpu_of(const struct step *s)
{
        return s->v->vm ? vm_cpu(s->v->vm, step_item(s)->slot) : NULL;
}

/* ---- the host side ---- */

/* Of a base vCPU, what its VM's definition says. One that an application leased has what was granted and no
 * ceiling: the lease says at least, and who else wants that CPU is held off by their shares. While it moves
 * it may have another. */
static int64_t ceiling_of(const struct step *s)
{
        const struct api_vm_definition *d = &s->v->definition;
        int64_t own = s->is_vm && d->has_cpu_ceiling_milli ? d->cpu_ceiling_milli : CPU_SHARE_MAX;
        return moves_ceiling_milli(s->v, step_item(s)->amount, own);
}

static void on_held(void *arg, const json_t *result, const struct err *err)
{
        struct step *s = arg;
        struct api_keeper_held held;
        struct err bad = {0};
        if (!err && api_keeper_held_parse(result, &held, &bad))
                err = &bad;
        if (!err)
                (void)snprintf(s->detail, sizeof(s->detail), "by %s, thread %lld%s%s", held.held_by,
                               (long long)held.thread, held.has_fallback ? "; " : "", held.fallback);
        step_done(s, err);
}

static void item_call(struct step *s, enum api_keeper_method method, pid_t tid, keeper_done *done)
{
        struct api_keeper_item p = {
                .activation = step_lane(s), .kind = host_kind(s), .has_tid = tid > 0, .tid = tid};
        bool is_look = method == API_KEEPER_HOST_READ;
        memcpy(p.vm, s->v->definition.name, sizeof(p.vm));
        if (is_look && step_item(s)->kind == VIRTUAL_RAM && !step_item(s)->page_bytes)
                (void)STR_COPY(p.item, "ram0"); /* all of it is in the file of its first cell */
        else
                item_name(s, p.item, sizeof(p.item));
        keeper_call(s->v->m->keeper, method, api_keeper_item_emit(&p), NULL, 0, KEEPER_MS, done, s);
}

/* How long it may take longer, as its pages must be made and zeroed. */
static int huge_ms(const struct step *s)
{
        int64_t ms = step_item(s)->page_bytes ? step_item(s)->amount / HUGE_BYTES_PER_MS : 0;
        return ms < INT32_MAX / 2 ? (int)ms : INT32_MAX / 2;
}

void host_activate(struct step *s)
{
        const struct component *c = host_of(s);
        if (s->is_check && step_item(s)->moving && c->kind == COMPONENT_MEMORY) {
                memory_relocate(s);
                return;
        }
        struct api_keeper_hold *p = g_new0(struct api_keeper_hold, 1);
        p->activation = step_lane(s);
        p->kind = host_kind(s);
        memcpy(p->vm, s->v->definition.name, sizeof(p->vm));
        item_name(s, p->item, sizeof(p->item));
        if (p->kind == API_HOST_KIND_CPU) {
                p->cpus[p->n_cpus++] = c->os_index;
                p->has_share_milli = true;
                p->share_milli = step_item(s)->amount;
                p->has_ceiling_milli = true;
                p->ceiling_milli = ceiling_of(s);
                p->has_exclusive = p->exclusive = step_item(s)->exclusive;
        } else if (step_item(s)->kind == VIRTUAL_NONE) {
                p->has_domain = true;
                p->domain = c->os_index;
                p->has_ways = p->kind == API_HOST_KIND_CACHE;
                p->has_percent = p->kind == API_HOST_KIND_MEMBW;
                p->ways = p->percent = step_item(s)->amount;
        } else if (p->kind == API_HOST_KIND_NET) {
                const struct api_vm_definition *d = &s->v->definition;
                p->has_rate_bps = true;
                p->rate_bps = step_item(s)->amount;
                p->has_ceiling_bps = d->has_net_ceiling_bps;
                p->ceiling_bps = d->net_ceiling_bps;
        } else {
                p->has_bytes = p->has_node = true;
                p->bytes = step_item(s)->amount;
                p->node = c->os_index;
                p->has_page_bytes = step_item(s)->page_bytes > 0;
                p->page_bytes = step_item(s)->page_bytes;
        }
        keeper_call(s->v->m->keeper, API_KEEPER_HOST_ACTIVATE, api_keeper_hold_emit(p), NULL, 0,
                    KEEPER_MS + huge_ms(s), on_held, s);
        g_free(p);
}

/* What a VM left behind: its RAM files, groups and log. */
static void drop(void *arg, const json_t *result, const struct err *err)
{
        struct step *s = arg;
        struct api_keeper_vm_drop p = {.n_keep = 0};
        if (err || s->is_dropped) {
                on_held(arg, result, err);
                return;
        }
        memcpy(p.vm, s->v->definition.name, sizeof(p.vm));
        keeper_call(s->v->m->keeper, API_KEEPER_VM_DROP, api_keeper_vm_drop_emit(&p), NULL, 0, KEEPER_MS,
                    step_keeper_done, s);
}

void host_deactivate(struct step *s)
{
        item_call(s, API_KEEPER_HOST_DEACTIVATE, 0, step_item(s)->kind == VIRTUAL_RAM ? drop : on_held);
}

/* ---- vCPUs ---- */

void vcpu_activate(struct step *s)
{
        if (!s->v->vm)
                step_no_vmm(s);
        else if (s->is_vm)
                step_done(s, NULL); /* it came with the VMM */
        else
                vm_cpu_ensure(s->v->vm, step_item(s)->slot, PLUG_MS, step_vm_done, s);
}

/* A vCPU that cannot be taken out, or that the guest does not let go of, keeps an idle slot, not the host's
 * CPU: it is put aside, also where its thread was never bound. */
static void on_vcpu_back(void *arg, const struct vm_result *result)
{
        struct step *s = arg;
        const struct vm_cpu *cpu = s->is_dropped ? NULL : vcpu_of(s);
        if (result->outcome == VM_FAILED || !cpu || !cpu->plugged || cpu->tid <= 0)
                step_done(s, result->outcome == VM_FAILED ? &result->err : NULL);
        else
                item_call(s, API_KEEPER_HOST_PREPARE, cpu->tid, on_held);
}

void vcpu_deactivate(struct step *s)
{
        const struct vm_cpu *cpu = vcpu_of(s);
        if (s->is_vm)
                step_done(s, NULL); /* it goes with the VMM */
        else if (!cpu)
                step_no_vmm(s);
        else if (!cpu->plugged)
                step_done(s, NULL);
        else
                vm_cpu_remove(s->v->vm, step_item(s)->slot, UNPLUG_MS, on_vcpu_back, s);
}

void vcpu_bind(struct step *s)
{
        const struct vm_cpu *cpu = vcpu_of(s);
        if (!cpu || !cpu->plugged || cpu->tid <= 0)
                step_no_vmm(s);
        else
                item_call(s, API_KEEPER_HOST_BIND, cpu->tid, on_held);
}

void vcpu_unbind(struct step *s)
{
        const struct vm_cpu *cpu = vcpu_of(s);
        if (s->is_vm || (cpu && (!cpu->plugged || cpu->tid <= 0)))
                step_done(s, NULL);
        else if (!cpu)
                step_no_vmm(s);
        else
                item_call(s, API_KEEPER_HOST_PREPARE, cpu->tid, on_held);
}

/* What the kernel says must be what was granted: else somebody changed it behind our back. */
static int is_what_was_granted(const struct step *s, const struct api_keeper_live *live, struct err *err)
{
        const struct vm_cpu *cpu = vcpu_of(s);
        uint32_t want = host_of(s)->os_index;
        if (live->n_cpus != 1 || live->cpus[0] != want)
                return err_set(err, REASON_STALE, EPROTO, "it is held on other CPUs than CPU %u", want);
        if (live->has_share_milli && live->share_milli != step_item(s)->amount)
                return err_set(err, REASON_STALE, EPROTO,
                               "its share is %lld thousandths where %" PRId64 " were granted",
                               (long long)live->share_milli, step_item(s)->amount);
        if (live->has_ceiling_milli && live->ceiling_milli != ceiling_of(s))
                return err_set(err, REASON_STALE, EPROTO,
                               "its ceiling is %lld thousandths where %lld are meant",
                               (long long)live->ceiling_milli, (long long)ceiling_of(s));
        if (live->has_period_us && live->period_us != CPU_PERIOD_US)
                return err_set(err, REASON_STALE, EPROTO,
                               "its ceiling is one over %lld microseconds where %d is meant",
                               (long long)live->period_us, CPU_PERIOD_US);
        if (step_item(s)->exclusive && live->has_exclusive && !live->exclusive)
                return err_set(err, REASON_STALE, EPROTO,
                               "others may run on CPU %u, which was granted exclusively", want);
        bool is_in = false;
        for (size_t i = 0; cpu && i < live->n_threads; i++)
                is_in = is_in || live->threads[i] == cpu->tid;
        if (!is_in)
                return err_set(err, REASON_STALE, ESRCH, "its thread is not where it was put");
        if (live->n_threads > 1 || (live->has_others && live->others))
                return err_set(err, REASON_STALE, EPROTO, "other threads are held by what was granted to it");
        return 0;
}

/* What it was asked about may be what it was before a move changed it, or while it did. */
static bool is_of_now(const struct step *s)
{
        return !s->is_check || (s->vcpu_changes == s->v->vcpu_changes && !moves_is_changing(s->v));
}

static void on_read(void *arg, const json_t *result, const struct err *err)
{
        struct step *s = arg;
        struct api_keeper_live *live = g_new0(struct api_keeper_live, 1);
        struct err bad = {0};
        if (!err && api_keeper_live_parse(result, live, &bad))
                err = &bad;
        if (!err && !s->is_dropped && !is_of_now(s))
                err = (err_set(&bad, REASON_BUSY, EAGAIN, "a move of %s is changing what it has",
                               s->v->definition.name),
                       &bad);
        if (!err && !s->is_dropped && is_what_was_granted(s, live, &bad))
                err = &bad;
        if (!err && !s->is_dropped)
                (void)snprintf(s->detail, sizeof(s->detail),
                               "on CPU %u with %" PRId64 " thousandths, read back from %s%s%s",
                               host_of(s)->os_index, step_item(s)->amount, live->held_by,
                               live->has_fallback ? "; " : "", live->fallback);
        g_free(live);
        step_done(s, err);
}

void vcpu_finalise(struct step *s)
{
        const struct vm_cpu *cpu = vcpu_of(s);
        if (!cpu || !cpu->plugged)
                step_no_vmm(s);
        else
                item_call(s, API_KEEPER_HOST_READ, cpu->tid, on_read);
}

/* ---- where memory lies ---- */

bool host_has_nodes(const struct meted *m)
{
        size_t n = 0;
        for (size_t i = 0; i < m->inventory.n; i++)
                n += m->inventory.components[i].kind == COMPONENT_MEMORY;
        return n > 1;
}

/* All base memory is in one file: what of it is on its way may lie where it comes from, too. But what is
 * looked at because it was moved has left that. */
static bool may_lie_on(const struct step *s, int64_t node)
{
        const struct component *all = s->v->m->inventory.components;
        for (size_t i = 0; i < s->n; i++) {
                const struct definition *d = &s->definitions[i];
                bool is_it = d == step_item(s);
                if (!is_it && (d->kind != VIRTUAL_RAM || step_item(s)->kind != VIRTUAL_RAM))
                        continue;
                if (node == (int64_t)all[d->component].os_index)
                        return true;
                if (!is_it && d->moving && d->from && node == (int64_t)all[d->from - 1].os_index)
                        return true;
        }
        return false;
}

/* What the kernel says of it must be what was granted. Of nodes it may say nothing. */
static int is_where_it_was_granted(const struct step *s, const struct api_keeper_live *live, struct err *err)
{
        const struct definition *d = step_item(s);
        if (!live->has_bytes)
                return err_set(err, REASON_STALE, ENOENT, "its RAM file is gone");
        if (d->page_bytes &&
            (!live->has_page_bytes || live->page_bytes != d->page_bytes || live->reserved_bytes != d->amount))
                return err_set(err, REASON_STALE, ENOENT,
                               "%" PRId64 " bytes on huge pages are held for it where %" PRId64
                               " were granted",
                               live->has_reserved_bytes ? live->reserved_bytes : 0, d->amount);
        if (d->page_bytes && live->node != host_of(s)->os_index)
                return err_set(err, REASON_STALE, EPROTO, "its pages are held on node %" PRId64, live->node);
        if (!live->has_mapped || !host_has_nodes(s->v->m))
                return 0;
        if (live->n_bound_nodes == 0)
                return err_set(err, REASON_STALE, EPROTO,
                               "it is not bound to the node that it was granted on");
        for (size_t i = 0; i < live->n_bound_nodes; i++)
                if (!may_lie_on(s, live->bound_nodes[i]))
                        return err_set(err, REASON_STALE, EPROTO, "it is bound to node %" PRId64 ", too",
                                       live->bound_nodes[i]);
        for (size_t i = 0; i < live->n_nodes; i++)
                if (!may_lie_on(s, live->nodes[i]))
                        return err_set(err, REASON_STALE, EPROTO, "some of it lies on node %" PRId64,
                                       live->nodes[i]);
        return 0;
}

static void on_memory_read(void *arg, const json_t *result, const struct err *err)
{
        struct step *s = arg;
        struct api_keeper_live *live = g_new0(struct api_keeper_live, 1);
        struct err bad = {0};
        char size[UNITS_TEXT], page[UNITS_TEXT];
        if (!err && api_keeper_live_parse(result, live, &bad))
                err = &bad;
        if (!err && !s->is_dropped && is_where_it_was_granted(s, live, &bad))
                err = &bad;
        if (!err && !s->is_dropped && live->has_page_bytes)
                (void)snprintf(s->detail, sizeof(s->detail),
                               "%s on pages of %s of node %" PRId64 ", read back from %s",
                               units_print_bytes(live->reserved_bytes, size),
                               units_print_bytes(live->page_bytes, page), live->node, live->held_by);
        g_free(live);
        step_done(s, err);
}

void memory_finalise_host(struct step *s)
{
        if (step_item(s)->page_bytes)
                item_call(s, API_KEEPER_HOST_READ, 0, on_memory_read);
        else
                step_done(s, NULL);
}

/* ---- DIMMs ---- */

int step_huge_dir(const struct step *s, int64_t page_bytes, char *ret, size_t size, struct err *err)
{
        const struct meted *m = s->v->m;
        char text[UNITS_TEXT];
        for (size_t i = 0; i < m->n_huge; i++)
                if (m->huge[i].page_bytes == page_bytes) {
                        (void)snprintf(ret, size, "%s/%s", m->huge[i].dir, s->v->definition.name);
                        return 0;
                }
        return err_set(err, REASON_UNSUPPORTED, EOPNOTSUPP, "mete-keeper has no hugetlbfs with pages of %s",
                       units_print_bytes(page_bytes, text));
}

int dimm_bind(struct step *s, struct err *err)
{
        int64_t page_bytes = step_item(s)->page_bytes;
        char dir[512];
        int r = page_bytes ? step_huge_dir(s, page_bytes, dir, sizeof(dir), err) : 0;
        if (r == 0)
                vm_memory_bind(s->v->vm, step_item(s)->slot,
                               host_has_nodes(s->v->m) ? (int)host_of(s)->os_index : -1,
                               page_bytes ? dir : NULL);
        return r;
}

void dimm_activate(struct step *s)
{
        struct err err = {0};
        s->v->memory_is_known = false;
        if (!s->v->vm)
                step_no_vmm(s);
        else if (dimm_bind(s, &err) < 0)
                step_done(s, &err);
        else
                vm_memory_ensure(s->v->vm, step_item(s)->slot, step_item(s)->amount, PLUG_MS + huge_ms(s),
                                 step_vm_done, s);
}

void dimm_deactivate(struct step *s)
{
        s->v->memory_is_known = false;
        if (!s->v->vm)
                step_no_vmm(s);
        else
                vm_memory_remove(s->v->vm, step_item(s)->slot, UNPLUG_MS, step_vm_done, s);
}

static void on_dimm_seen(void *arg, const struct vm_result *result)
{
        struct step *s = arg;
        const struct vm_dimm *dimm =
                s->is_dropped || !s->v->vm ? NULL : vm_dimm(s->v->vm, step_item(s)->slot);
        struct err err = {0};
        if (result->outcome != VM_DONE || !dimm) {
                step_vm_done(s, result);
                return;
        }
        bool good = dimm->plugged && dimm->bytes == step_item(s)->amount;
        if (good)
                (void)snprintf(s->detail, sizeof(s->detail), "%" PRId64 " bytes at 0x%" PRIx64, dimm->bytes,
                               dimm->address);
        else
                (void)err_set(&err, REASON_STALE, EPROTO, "the VMM has other memory in this slot");
        if (good)
                memory_finalise_host(s);
        else
                step_done(s, &err);
}

void dimm_finalise(struct step *s)
{
        if (!s->v->vm)
                step_no_vmm(s);
        else
                vm_refresh(s->v->vm, PLUG_MS, on_dimm_seen, s);
}

/* ---- network cards ---- */

/* The card comes with the VMM and goes with it. What a lease adds is a rate on the host alone. */
void nic_activate(struct step *s)
{
        step_done(s, NULL);
}

void nic_deactivate(struct step *s)
{
        step_done(s, NULL);
}

static void on_nic_read(void *arg, const json_t *result, const struct err *err)
{
        struct step *s = arg;
        struct api_keeper_live *live = g_new0(struct api_keeper_live, 1);
        struct err bad = {0};
        char rate[UNITS_TEXT], all[UNITS_TEXT], most[UNITS_TEXT];
        if (!err && api_keeper_live_parse(result, live, &bad))
                err = &bad;
        if (!err && !s->is_dropped && live->rate_bps != step_item(s)->amount) {
                (void)err_set(&bad, REASON_STALE, EPROTO,
                              "%" PRId64 " bit/s are held for it where %" PRId64 " were granted",
                              live->rate_bps, step_item(s)->amount);
                err = &bad;
        }
        if (!err && !s->is_dropped)
                (void)snprintf(s->detail, sizeof(s->detail),
                               "%s of %s of the VM, which has %s and %s at most, read back from %s",
                               units_print_rate(live->rate_bps, rate), host_of(s)->id,
                               units_print_rate(live->vm_rate_bps, all),
                               units_print_rate(live->ceiling_bps, most), live->held_by);
        g_free(live);
        step_done(s, err);
}

void nic_finalise(struct step *s)
{
        item_call(s, API_KEEPER_HOST_READ, 0, on_nic_read);
}

/* ---- disks ---- */

/* What the VM's disk is to have: its base rate and what its leases add. `most` counts what is being given
 * back too, of which nobody knows yet whether it was taken from the VMM. */
struct disk_sum {
        const struct step *s;
        int64_t rate, most;
};

static void disk_add(const struct request *r, void *arg)
{
        struct disk_sum *sum = arg;
        if (strcmp(r->vm, sum->s->v->definition.name) != 0)
                return;
        for (size_t i = 0; i < r->n_definitions; i++) {
                const struct definition *d = &r->definitions[i];
                if (d->kind != VIRTUAL_DISK)
                        continue;
                bool has = r->serial == sum->s->serial ? !sum->s->at.is_back : r->state == REQUEST_GRANTED;
                sum->rate += has ? d->amount : 0;
                sum->most += has || (r->state == REQUEST_RELEASING && d->way != WAY_NONE) ? d->amount : 0;
        }
}

static struct disk_sum disk_sum_of(const struct step *s)
{
        struct disk_sum sum = {.s = s};
        hypervisor_each(s->v->m->hv, disk_add, &sum);
        return sum;
}

/* As many operations as bytes: the same part of what there is. */
static int64_t disk_iops(const struct step *s, int64_t bytes_per_s)
{
        const struct config *c = &s->v->m->config;
        if (!c->disk_iops || bytes_per_s == 0)
                return 0;
        int64_t iops = bytes_per_s / BLOCK_UNIT * c->disk_iops / (c->disk_rate / BLOCK_UNIT);
        return iops > 0 ? iops : 1;
}

static void disk_limit(struct step *s)
{
        int64_t rate = disk_sum_of(s).rate;
        vm_disk_limit(s->v->vm, rate, disk_iops(s, rate), PLUG_MS, step_vm_done, s);
}

void disk_bind(struct step *s)
{
        if (!s->v->vm)
                step_no_vmm(s);
        else
                disk_limit(s);
}

void disk_unbind(struct step *s)
{
        if (s->is_vm)
                step_done(s, NULL); /* it goes with the VMM */
        else
                disk_bind(s);
}

static void on_disk_seen(void *arg, const struct vm_result *result)
{
        struct step *s = arg;
        struct err err = {0};
        if (result->outcome != VM_DONE || s->is_dropped || !s->v->vm) {
                step_vm_done(s, result);
                return;
        }
        const struct vm_disk *disk = vm_disk(s->v->vm);
        struct disk_sum sum = disk_sum_of(s);
        char part[UNITS_TEXT], all[UNITS_TEXT];
        bool good = !disk->has_others && disk->bytes_per_s >= sum.rate && disk->bytes_per_s <= sum.most &&
                    disk->iops >= disk_iops(s, sum.rate) && disk->iops <= disk_iops(s, sum.most);
        (void)units_print_bytes(disk->bytes_per_s, all);
        if (good)
                (void)snprintf(s->detail, sizeof(s->detail),
                               "%s of %s; the VM's disk is held to %s bytes/s, read back from its VMM",
                               units_print_bytes(step_item(s)->amount, part), host_of(s)->id, all);
        else
                (void)err_set(&err, REASON_STALE, EPROTO,
                              "the VM's disk is held to %s bytes/s and %" PRId64
                              " operations/s%s where %s and "
                              "%" PRId64 " were granted",
                              all, disk->iops, disk->has_others ? " and to limits of others" : "",
                              units_print_bytes(sum.rate, part), disk_iops(s, sum.rate));
        step_done(s, good ? NULL : &err);
}

void disk_finalise(struct step *s)
{
        if (!s->v->vm)
                step_no_vmm(s);
        else
                vm_disk_look(s->v->vm, PLUG_MS, on_disk_seen, s);
}

/* ---- parts of the VM's class of service ---- */

void class_bind(struct step *s)
{
        item_call(s, API_KEEPER_HOST_BIND, 0, on_held);
}

/* The class goes, and with it the threads back to everybody's. */
void class_unbind(struct step *s)
{
        step_done(s, NULL);
}

static void on_class_read(void *arg, const json_t *result, const struct err *err)
{
        struct step *s = arg;
        struct api_keeper_live *live = g_new0(struct api_keeper_live, 1);
        struct err bad = {0};
        if (!err && api_keeper_live_parse(result, live, &bad))
                err = &bad;
        bool is_cache = !s->is_dropped && host_of(s)->kind == COMPONENT_CACHE;
        int64_t part = is_cache ? live->ways : live->percent,
                all = is_cache ? live->vm_ways : live->vm_percent;
        if (!err && !s->is_dropped && (part != step_item(s)->amount || all < part)) {
                (void)err_set(&bad, REASON_STALE, EPROTO,
                              "%" PRId64 " of %" PRId64 " are held where %" PRId64 " were granted", part, all,
                              step_item(s)->amount);
                err = &bad;
        }
        if (!err && !s->is_dropped)
                (void)snprintf(s->detail, sizeof(s->detail),
                               "%" PRId64 "%s of %s of the VM's class, which has %" PRId64
                               ", read back from %s",
                               part, is_cache ? " ways" : "%", host_of(s)->id, all, live->held_by);
        g_free(live);
        step_done(s, err);
}

void class_finalise(struct step *s)
{
        item_call(s, API_KEEPER_HOST_READ, 0, on_class_read);
}

/* ---- looked at again ---- */

/* Not while nobody is attached: which thread a vCPU is, the VMM alone says. A component that is gone has been
 * said already, and what runs there is where the kernel has put it. */
static bool is_to_look(struct step *s)
{
        struct err err = {0};
        if (!s->v->vm)
                (void)err_set(&err, REASON_BUSY, EAGAIN, "the VMM of %s is not attached to",
                              s->v->definition.name);
        /* Classes of service that are given away no more are held still. */
        const struct component *c = host_of(s);
        if (s->v->vm && (c->healthy || (component_is_of_class(c->kind) && c->capacity > 0)))
                return true;
        step_done(s, s->v->vm ? NULL : &err);
        return false;
}

void vcpu_look(struct step *s)
{
        const struct vm_cpu *cpu = vcpu_of(s);
        struct err err = {0};
        if (!is_to_look(s))
                return;
        if (cpu && cpu->plugged && cpu->tid > 0) {
                s->vcpu_changes = s->v->vcpu_changes;
                item_call(s, API_KEEPER_HOST_READ, cpu->tid, on_read);
                return;
        }
        (void)err_set(&err, REASON_STALE, ECHILD, "the VMM has no such vCPU");
        step_done(s, &err);
}

/* With the first cell of the base memory all of it is looked at; and with what was moved. */
void memory_look(struct step *s)
{
        const struct definition *d = step_item(s);
        if (!is_to_look(s))
                return;
        if (d->kind == VIRTUAL_RAM && d->slot > 0 && !d->page_bytes && !d->moving)
                step_done(s, NULL);
        else
                item_call(s, API_KEEPER_HOST_READ, 0, on_memory_read);
}

void nic_look(struct step *s)
{
        if (is_to_look(s))
                nic_finalise(s);
}

void disk_look(struct step *s)
{
        if (is_to_look(s))
                disk_finalise(s);
}

void class_look(struct step *s)
{
        if (is_to_look(s))
                class_finalise(s);
}
