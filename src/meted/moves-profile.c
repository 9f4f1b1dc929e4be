/* SPDX-License-Identifier: Apache-2.0 */
/* What is to move: what the VM has, and what its guest does to its memory. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/str.h"
#include "meted/hhi.h"
#include "meted/moves-internal.h"
#include "meted/moves.h"
#include "vm/boot-file.h"
#include "vm/disk-file.h"
#include "vm/profiler.h"

enum { KEEPER_MS = 20000 };

/* ---- what is to move ---- */

struct collect {
        const struct machine *v;
        struct api_peer_vm *to;
        bool is_busy;
};

static void collect_lease(const struct request *r, void *arg)
{
        struct collect *c = arg;
        if (strcmp(r->vm, c->v->definition.name) != 0 || r->kind != REQUEST_APP || !request_is_live(r) ||
            r->state == REQUEST_OFFERED)
                return;
        if (r->state != REQUEST_GRANTED || c->to->n_leases == ARRAY_N(c->to->leases)) {
                c->is_busy = true;
                return;
        }
        struct api_peer_lease *l = &c->to->leases[c->to->n_leases++];
        (void)STR_COPY(l->request, r->id);
        (void)STR_COPY(l->application, r->application);
        l->n_needs = needs_to_api(r->needs, r->n_needs, l->needs);
        l->has_accepts_less = l->accepts_less = r->accepts_less;
        l->has_end_ms = r->end_ms != LEDGER_OPEN;
        l->end_ms = r->end_ms;
        for (size_t i = 0; i < r->n_definitions; i++) {
                const struct definition *d = &r->definitions[i];
                if (d->kind != VIRTUAL_VCPU && d->kind != VIRTUAL_DIMM)
                        continue;
                if (l->n_items == ARRAY_N(l->items)) { /* more than the other side can be told of */
                        c->is_busy = true;
                        return;
                }
                struct api_peer_item *item = &l->items[l->n_items++];
                item->kind = d->kind == VIRTUAL_VCPU ? API_PEER_ITEM_KIND_VCPU : API_PEER_ITEM_KIND_DIMM;
                item->slot = d->slot;
                item->bytes = d->kind == VIRTUAL_DIMM ? d->amount : 0;
        }
}

struct api_peer_vm *moves_guest(const struct machine *v)
{
        struct api_peer_vm *to = g_new0(struct api_peer_vm, 1);
        struct collect c = {.v = v, .to = to};
        to->definition = v->definition;
        (void)STR_COPY(to->boot_id, v->boot_id);
        to->hhi_generation = hhi_latest(v);
        hypervisor_each(v->m->hv, collect_lease, &c);
        for (int slot = 0; v->vm && slot < v->definition.cpus_max; slot++)
                if (vm_cpu(v->vm, slot)->plugged)
                        to->plugged[to->n_plugged++] = slot;
        if (c.is_busy)
                g_clear_pointer(&to, g_free);
        return to;
}

static bool is_seen(const struct moving *mv, int bad, const struct err *err)
{
        if (bad)
                log_warn("move %s: %s", mv->core.row.id, err->sentence);
        return bad == 0;
}

/* Its kernel may be gone here since it booted: that is no reason to keep it. */
struct api_peer_vm *source_guest(const struct moving *mv)
{
        const struct machine *v = machine_find(mv->m, mv->vm);
        struct api_peer_vm *g = v ? moves_guest(v) : NULL;
        const struct api_vm_definition *d = v ? &v->definition : NULL;
        const char *dir = mv->m->config.image_dir;
        struct err err = {0};
        if (g && d->has_disk)
                g->has_disk = is_seen(mv, disk_file_see(dir, d->disk, &g->disk, &err), &err);
        if (g && d->has_kernel)
                g->has_kernel = is_seen(mv, boot_file_see(dir, "kernel", d->kernel, &g->kernel, &err), &err);
        if (g && d->has_initrd)
                g->has_initrd = is_seen(
                        mv, boot_file_see(dir, "initial RAM disk", d->initrd, &g->initrd, &err), &err);
        return g;
}

/* ---- the profile ---- */

static void on_profile(void *arg, const struct profiler_result *r, const struct err *err)
{
        struct moving *mv = arg;
        uint64_t token = mv->profile_token;
        if (!err) {
                profiler_fill(r, &mv->profile);
                mv->has_profile = true;
        }
        /* Freed by the next one, or with the move: not within its own call. */
        move_report(mv, token, err ? MOVE_EV_FAILED : MOVE_EV_PROFILED, err);
}

void source_profile_close(struct moving *mv)
{
        while (mv->ram_n > 0)
                (void)close(mv->ram_fds[--mv->ram_n]);
}

static void ask_ram(struct moving *mv);

static void on_ram(void *arg, const json_t *result, const struct err *err)
{
        struct moving *mv = arg;
        struct api_keeper_ram_files *files = g_new0(struct api_keeper_ram_files, 1);
        struct err bad = {0};
        if (!err && api_keeper_ram_files_parse(result, files, &bad))
                err = &bad;
        if (!err && files->n_files > ARRAY_N(mv->ram_fds) - mv->ram_n)
                err = (err_set(&bad, REASON_INTERNAL, E2BIG, "the keeper opened more than it was asked for"),
                       &bad);
        if (!err && keeper_take_fds(mv->m->keeper, mv->ram_fds + mv->ram_n, files->n_files, &bad))
                err = &bad;
        if (!err)
                mv->ram_n += files->n_files;
        g_free(files);
        if (err) {
                source_profile_close(mv);
                move_report(mv, mv->profile_token, MOVE_EV_FAILED, err);
        } else {
                ask_ram(mv);
        }
}

static void profile(struct moving *mv)
{
        struct err err = {0};
        profiler_free(mv->profiler);
        mv->profiler = profiler_new(mv->ram_fds, mv->ram_n, NULL, on_profile, mv, &err);
        if (mv->profiler)
                mv->ram_n = 0; /* they are its own */
        source_profile_close(mv);
        if (!mv->profiler)
                move_report(mv, mv->profile_token, MOVE_EV_FAILED, &err);
}

/* As many as one message brings; then the next ones, and when there are no more, it begins. */
static void ask_ram(struct moving *mv)
{
        const struct machine *v = machine_find(mv->m, mv->vm);
        struct err err = {0};
        if (!v || !v->vm) {
                source_profile_close(mv);
                (void)err_set(&err, REASON_STALE, ESTALE, "it is gone");
                move_report(mv, mv->profile_token, MOVE_EV_FAILED, &err);
                return;
        }
        struct api_keeper_ram *p = g_new0(struct api_keeper_ram, 1);
        (void)STR_COPY(p->vm, mv->vm);
        if (mv->ram_slot < 0)
                (void)snprintf(p->items[p->n_items++], sizeof(p->items[0]), "ram0");
        mv->ram_slot = mv->ram_slot < 0 ? 0 : mv->ram_slot;
        for (; mv->ram_slot < v->definition.dimm_slots && p->n_items < ARRAY_N(p->items); mv->ram_slot++)
                if (vm_dimm(v->vm, mv->ram_slot)->plugged)
                        (void)snprintf(p->items[p->n_items++], sizeof(p->items[0]), "dimm%d", mv->ram_slot);
        if (p->n_items > 0)
                keeper_call(mv->m->keeper, API_KEEPER_RAM_OPEN, api_keeper_ram_emit(p), NULL, 0, KEEPER_MS,
                            on_ram, mv);
        else
                profile(mv);
        g_free(p);
}

void source_profile(struct moving *mv, uint64_t token)
{
        const struct machine *v = machine_find(mv->m, mv->vm);
        struct err err = {0};
        struct api_peer_vm *guest = v && v->vm ? moves_guest(v) : NULL;
        mv->profile_token = token;
        if (!guest) {
                (void)err_set(&err, REASON_BUSY, EBUSY, "what %s has is being changed just now", mv->vm);
                move_report(mv, token, MOVE_EV_FAILED, &err);
                return;
        }
        g_free(guest);
        source_profile_close(mv);
        mv->ram_slot = -1;
        ask_ram(mv);
}
