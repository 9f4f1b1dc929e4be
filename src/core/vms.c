/* SPDX-License-Identifier: Apache-2.0 */
/* Which VMs there are, of what shape, and whether this host could hold them. */
#include "core/hypervisor-internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "base/units.h"

void hypervisor_set_pages(struct hypervisor *h, const int64_t sizes[COMPONENT_PAGES])
{
        for (size_t i = 0; i < h->n_components; i++)
                if (h->components[i].kind == COMPONENT_MEMORY)
                        memcpy(h->components[i].page_bytes, sizes, sizeof(h->components[i].page_bytes));
}

void hypervisor_set_classes(struct hypervisor *h, bool has_classes)
{
        for (size_t i = 0; i < h->n_components; i++)
                if (component_is_of_class(h->components[i].kind))
                        h->components[i].healthy = has_classes;
}

static bool is_net_valid(const struct vm_shape *s)
{
        if (s->net_bps == 0)
                return s->net_max_bps == 0;
        return s->net_bps >= NET_LEAST_BPS && s->net_bps < UNITS_MAX && s->net_bps % NET_UNIT_BPS == 0 &&
               (s->net_max_bps == 0 || s->net_max_bps >= s->net_bps) && s->net_max_bps < UNITS_MAX;
}

static bool is_page_valid(const struct vm_shape *s)
{
        return s->page_bytes == 0 ||
               (s->page_bytes >= parameter_rows[PARAMETER_PAGE].minimum &&
                s->page_bytes <= parameter_rows[PARAMETER_PAGE].maximum &&
                (s->page_bytes & (s->page_bytes - 1)) == 0 && s->memory_bytes % s->page_bytes == 0);
}

static bool is_disk_valid(const struct vm_shape *s)
{
        if (s->disk_rate == 0)
                return s->disk_max == 0;
        return s->disk_rate >= BLOCK_UNIT && s->disk_rate < UNITS_MAX && s->disk_rate % BLOCK_UNIT == 0 &&
               (s->disk_max == 0 || s->disk_max >= s->disk_rate) && s->disk_max < UNITS_MAX;
}

int hypervisor_vm_define(struct hypervisor *h, const struct vm_shape *s, struct err *err)
{
        if (find_vm(h, s->name))
                return err_set(err, REASON_BUSY, EEXIST, "a VM is called %s already", s->name);
        if (!str_is_name(s->name) || s->cpus < 1 || s->cpus_max < s->cpus || s->cpus_max > SHAPE_CPUS_MAX ||
            s->share_milli < 0 || s->share_milli > CPU_WHOLE_MILLI || s->unit_bytes < 1 ||
            s->memory_bytes < s->unit_bytes || s->memory_max_bytes < s->memory_bytes ||
            s->memory_max_bytes >= UNITS_MAX || s->memory_slots < 0 || s->memory_slots > SHAPE_SLOTS_MAX ||
            s->memory_bytes % s->unit_bytes || s->memory_max_bytes % s->unit_bytes || !is_page_valid(s) ||
            !is_net_valid(s) || !is_disk_valid(s))
                return err_set(err, REASON_INVALID, EINVAL, "the shape of VM %s is not a valid one", s->name);
        struct vm_entry *v = calloc(1, sizeof(*v));
        if (!v)
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory for a VM");
        v->shape = *s;
        v->next = h->vms;
        h->vms = v;
        return 0;
}

int hypervisor_vm_fits(const struct hypervisor *h, const struct vm_shape *s, struct err *err)
{
        int64_t memory = 0, net = 0, disk = 0;
        const struct vm_entry *v = find_vm(h, s->name);
        for (size_t i = 0; i < h->n_components; i++)
                if (h->components[i].kind == COMPONENT_MEMORY)
                        memory += v && v->brings ? v->brings[i] : h->components[i].owned;
                else if (h->components[i].kind == COMPONENT_NET && h->components[i].owned > net)
                        net = h->components[i].owned;
                else if (h->components[i].kind == COMPONENT_BLOCK && h->components[i].owned > disk)
                        disk = h->components[i].owned;
        if (s->memory_bytes > memory)
                return err_set(err, REASON_NO_CAPACITY, ENOSPC,
                               "VM %s starts with more memory than this host gives away", s->name);
        if (check_pages(h, s->page_bytes, err) < 0)
                return err_note(err, "VM %s", s->name);
        if (s->net_bps > net)
                return err_set(err, REASON_NO_CAPACITY, ENOSPC,
                               "VM %s starts with %lld bit/s for its network card, and this host gives away "
                               "%lld",
                               s->name, (long long)s->net_bps, (long long)net);
        char asked[UNITS_TEXT], have[UNITS_TEXT];
        if (s->disk_rate > disk)
                return err_set(err, REASON_NO_CAPACITY, ENOSPC,
                               "VM %s starts with %s bytes/s for its disk, and this host gives away %s",
                               s->name, units_print_bytes(s->disk_rate, asked),
                               units_print_bytes(disk, have));
        return 0;
}

int hypervisor_vm_forget(struct hypervisor *h, const char *name, struct err *err)
{
        struct vm_entry **p = &h->vms;
        while (*p && strcmp((*p)->shape.name, name) != 0)
                p = &(*p)->next;
        struct vm_entry *v = *p;
        if (!v)
                return err_set(err, REASON_NOT_FOUND, ENOENT, "no VM is called %s", name);
        const struct entry *base = base_of(h, name);
        const struct entry *kept = kept_of(h, name);
        if (v->live || (base && request_is_live(&base->r)))
                return err_set(err, REASON_BUSY, EBUSY, "VM %s still holds resources; stop it first", name);
        if (kept && !request_is_final(&kept->r))
                return err_set(err, REASON_BUSY, EBUSY, "what VM %s keeps is not reclaimed yet", name);
        /* What it asked for once is forgotten with it: a new VM of that name starts afresh. */
        while (v->history.first)
                entry_forget(h, v->history.first, v->history.first->r.asked_ms);
        *p = v->next;
        bring_free(v);
        free(v->avoids);
        free(v);
        return 0;
}

const struct vm_shape *hypervisor_vm(const struct hypervisor *h, const char *name)
{
        const struct vm_entry *v = find_vm(h, name);
        return v ? &v->shape : NULL;
}
