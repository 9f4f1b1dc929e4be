/* SPDX-License-Identifier: Apache-2.0 */
/* A job is in the list of its holds from its submission to its answer; only the loop touches the list. */
#include "keeper/hold.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>
#include "base/log.h"
#include "base/str.h"
#include "keeper/lend.h"
#include "keeper/space.h"

struct hold_job {
        struct work work;
        struct holds *owner;
        struct hold_job *next, **link;
        struct rpc_call *call;
        enum api_keeper_method method;
        struct hold hold;
        struct api_keeper_live live;
        struct memory_placed placed;
        int64_t took_us;
        const char *fallback;
        pid_t thread;
        int r;
        struct err err;
};

/* Who waits for the end of an activation. */
struct note {
        struct work work;
        struct rpc_call *call;
};

/* A vm-drop: it waits, or it runs, on a thread of its own. */
struct drop_job {
        struct work work;
        struct holds *owner;
        struct rpc_call *call;
        struct vmm_drop drop;
        uint64_t id; /* of the activation that the thread counts as; 0: it waits */
        int r;
        struct err err;
};

/* meted's activations have lower ones: what is an integer in JSON. */
enum { OWN_ID_BIT = 63 };

static struct hold_job *job_of(struct work *w)
{
        return (struct hold_job *)w; /* its first member */
}

/* On the activation's thread. */
static void run(struct work *w, pid_t thread)
{
        struct hold_job *j = job_of(w);
        const struct hold_kind *kind = &hold_kinds[j->hold.kind];
        int (*fn)(const struct hold *, struct err *) = j->method == API_KEEPER_HOST_ACTIVATE  ? kind->activate
                                                       : j->method == API_KEEPER_HOST_BIND    ? kind->bind
                                                       : j->method == API_KEEPER_HOST_PREPARE ? kind->prepare
                                                       : j->method == API_KEEPER_HOST_DEACTIVATE
                                                               ? kind->deactivate
                                                               : kind->read;
        j->thread = thread;
        if (j->method == API_KEEPER_RAM_PLACE)
                j->r = hold_place(&j->hold, &j->err);
        else
                j->r = fn ? fn(&j->hold, &j->err) : 0;
}

static bool is_busy(const struct holds *h, const char *vm)
{
        for (const struct hold_job *j = h->jobs; j; j = j->next)
                if (strcmp(j->hold.vmm.vm, vm) == 0)
                        return true;
        return false;
}

bool hold_is_dropping(const struct holds *h, const char *vm)
{
        for (const GSList *each = h->drops; each; each = each->next) {
                const struct drop_job *d = each->data;
                if (d->id && strcmp(d->drop.what.vm, vm) == 0)
                        return true;
        }
        return false;
}

static void run_drop(struct work *w, pid_t thread)
{
        struct drop_job *d = (struct drop_job *)w; /* its first member */
        d->r = vmm_drop_run(&d->drop, &d->err);
}

static void answer_drop(struct drop_job *d)
{
        if (d->r < 0)
                rpc_refuse(d->call, RPC_REFUSED, &d->err);
        else
                rpc_reply(d->call, NULL);
        d->owner->drops = g_slist_remove(d->owner->drops, d);
        g_free(d);
}

static void drop_what_waited(struct holds *h);

static void on_thread_ended(struct work *w)
{
        struct drop_job *d = (struct drop_job *)w;
        struct holds *h = d->owner;
        answer_drop(d);
        drop_what_waited(h);
}

static void on_dropped(struct work *w)
{
        struct drop_job *d = (struct drop_job *)w;
        struct holds *h = d->owner;
        if (w->is_cancelled)
                d->r = err_set(&d->err, REASON_CANCELLED, ECANCELED,
                               "not done: the caller or the keeper is going");
        if (d->r == 0) {
                vmms_drop_end(&d->drop);
                const struct api_keeper_vm_drop *p = &d->drop.what;
                share_drop(&h->shares, p->vm, p->keep, p->n_keep);
        }
        d->work.done = on_thread_ended;
        activation_end(&h->activations, d->id, &d->work);
}

static void begin_drop(struct drop_job *d)
{
        struct holds *h = d->owner;
        if ((d->r = vmms_drop_begin(h->vmms, &d->drop, &d->err)) < 0) {
                answer_drop(d);
                return;
        }
        d->id = (uint64_t)1 << OWN_ID_BIT |
                (++h->n_drops * ACTIVATION_USERS + space_of_vm(h->vmms->config, d->drop.what.vm)->number);
        d->r = activation_submit(&h->activations, d->id, &d->work, &d->err);
        if (d->r < 0)
                answer_drop(d);
}

static void drop_what_waited(struct holds *h)
{
        for (GSList *each = h->drops, *next; each; each = next) {
                struct drop_job *d = each->data;
                next = each->next;
                if (!d->id && !is_busy(h, d->drop.what.vm) && !hold_is_dropping(h, d->drop.what.vm))
                        begin_drop(d);
        }
}

static json_t *placed_of(const struct hold_job *j)
{
        return api_keeper_placed_emit(&(struct api_keeper_placed){.thread = j->thread,
                                                                  .next_offset = j->placed.next_offset,
                                                                  .file_bytes = j->placed.file_bytes,
                                                                  .moved_bytes = j->placed.moved_bytes,
                                                                  .left_bytes = j->placed.left_bytes,
                                                                  .there_bytes = j->placed.there_bytes,
                                                                  .took_us = j->took_us});
}

static json_t *result_of(struct hold_job *j)
{
        if (j->method == API_KEEPER_RAM_PLACE)
                return placed_of(j);
        const char *by = hold_kinds[j->hold.kind].held_by(&j->hold);
        struct api_keeper_held held = {.thread = j->thread};
        if (j->method == API_KEEPER_HOST_READ) {
                j->live.thread = j->thread;
                (void)STR_COPY(j->live.held_by, by);
                if ((j->live.has_fallback = j->fallback != NULL))
                        (void)STR_COPY(j->live.fallback, j->fallback);
                return api_keeper_live_emit(&j->live);
        }
        (void)STR_COPY(held.held_by, by);
        if ((held.has_fallback = j->fallback != NULL))
                (void)STR_COPY(held.fallback, j->fallback);
        return api_keeper_held_emit(&held);
}

static void on_done(struct work *w)
{
        struct hold_job *j = job_of(w);
        struct holds *h = j->owner;
        *j->link = j->next;
        if (j->next)
                j->next->link = j->link;
        if (w->is_cancelled)
                j->r = err_set(&j->err, REASON_CANCELLED, ECANCELED,
                               "not done: the caller or the keeper is going");
        if (j->r == 0 && j->method == API_KEEPER_HOST_DEACTIVATE)
                share_let_go(&h->shares, j->hold.vmm.vm, j->hold.kind, j->hold.item);
        if (j->r < 0) {
                (void)err_note(&j->err, "%s of %s", j->hold.item, j->hold.vmm.vm);
                rpc_refuse(j->call, RPC_REFUSED, &j->err);
        } else {
                rpc_reply(j->call, result_of(j));
        }
        if (j->hold.vmm.pid_fd >= 0)
                (void)close(j->hold.vmm.pid_fd);
        g_free(j);
        drop_what_waited(h);
}

/* ---- reading a call ---- */

static int take_hold(struct hold_job *j, const json_t *params, uint64_t *ret_activation, struct err *err)
{
        static struct api_keeper_hold p; /* 8 KiB, and the loop's alone */
        struct hold *hold = &j->hold;
        int r = api_keeper_hold_parse(params, &p, err);
        if (r == 0)
                r = hold_kinds[p.kind].check(&p, err);
        for (size_t i = 0; r == 0 && i < p.n_cpus; i++)
                if (!cpulist_add(&hold->what.cpus, (uint32_t)p.cpus[i]))
                        r = err_set(err, REASON_INVALID, EINVAL, "there is no CPU %lld",
                                    (long long)p.cpus[i]);
        if (r < 0)
                return r;
        *ret_activation = (uint64_t)p.activation;
        (void)STR_COPY(hold->vmm.vm, p.vm);
        (void)STR_COPY(hold->item, p.item);
        hold->kind = p.kind;
        hold->what.share_milli = p.has_share_milli ? (int)p.share_milli : CPU_SHARE_MAX;
        hold->what.ceiling_milli = p.has_ceiling_milli ? (int)p.ceiling_milli : CPU_SHARE_MAX;
        hold->what.is_exclusive = p.has_exclusive && p.exclusive;
        hold->bytes = p.bytes;
        hold->node = p.has_node ? p.node : -1;
        hold->page_bytes = p.has_page_bytes ? p.page_bytes : 0;
        hold->rate.rate_bps = p.has_rate_bps ? (uint64_t)p.rate_bps : 0;
        hold->part = (struct class_part){.domain = p.has_domain ? (uint32_t)p.domain : 0,
                                         .ways = p.has_ways ? (uint32_t)p.ways : 0,
                                         .percent = p.has_percent ? (uint32_t)p.percent : 0};
        hold->rate.ceiling_bps = p.has_ceiling_bps ? (uint64_t)p.ceiling_bps : 0;
        return 0;
}

static int take_item(struct hold_job *j, const json_t *params, uint64_t *ret_activation, struct err *err)
{
        struct api_keeper_item p;
        int r = api_keeper_item_parse(params, &p, err);
        if (r < 0)
                return r;
        bool is_bind = j->method == API_KEEPER_HOST_BIND;
        if (is_bind && !hold_kinds[p.kind].bind)
                return err_set(err, REASON_INVALID, EINVAL, "no thread can be bound to kind %s",
                               api_host_kind_name(p.kind));
        if (!p.has_tid && hold_kinds[p.kind].bind && !hold_kinds[p.kind].binds_process &&
            (is_bind || j->method == API_KEEPER_HOST_PREPARE))
                return err_set(err, REASON_INVALID, EINVAL, "tid is missing");
        *ret_activation = (uint64_t)p.activation;
        (void)STR_COPY(j->hold.vmm.vm, p.vm);
        (void)STR_COPY(j->hold.item, p.item);
        j->hold.kind = p.kind;
        j->hold.has_tid = p.has_tid;
        j->hold.tid = p.tid;
        j->hold.is_back = p.has_back && p.back;
        return 0;
}

static int take_place(struct hold_job *j, const json_t *params, uint64_t *ret_activation, struct err *err)
{
        struct api_keeper_place p;
        int r = api_keeper_place_parse(params, &p, err);
        if (r < 0)
                return r;
        *ret_activation = (uint64_t)p.activation;
        (void)STR_COPY(j->hold.vmm.vm, p.vm);
        (void)STR_COPY(j->hold.item, p.item);
        j->hold.kind = API_HOST_KIND_MEMORY;
        for (size_t i = 0; i < p.n_nodes; i++)
                (void)cpulist_add(&j->hold.nodes, (uint32_t)p.nodes[i]);
        j->hold.place = (struct memory_place){.nodes = &j->hold.nodes,
                                              .begin = p.has_begin ? p.begin : 0,
                                              .end = p.has_end ? p.end : 0,
                                              .offset = p.offset,
                                              .bytes = p.bytes,
                                              .move_bytes = p.has_move_bytes ? p.move_bytes : 0,
                                              .is_look = p.has_look && p.look};
        j->hold.file_bytes = p.has_file_bytes ? p.file_bytes : 0;
        j->hold.room_bytes = p.has_room_bytes ? p.room_bytes : p.has_move_bytes ? p.move_bytes : p.bytes;
        return 0;
}

static int take(struct hold_job *j, const json_t *params, uint64_t *ret_activation, struct err *err)
{
        return j->method == API_KEEPER_HOST_ACTIVATE ? take_hold(j, params, ret_activation, err)
               : j->method == API_KEEPER_RAM_PLACE   ? take_place(j, params, ret_activation, err)
                                                     : take_item(j, params, ret_activation, err);
}

/* What is lent is not taken away, nor moved, and what is borrowed is held already. */
static int look_at_loans(struct hold_job *j, struct err *err)
{
        struct lends *lends = j->owner->vmms->lends;
        const char *vm = j->hold.vmm.vm;
        bool is_change = j->method == API_KEEPER_HOST_DEACTIVATE || j->method == API_KEEPER_RAM_PLACE;
        int r = is_change ? lends_before_end(lends, vm, j->hold.item, err) : 0;
        const char *lender = lends_lender_of(lends, vm, j->hold.item);
        if (lender)
                (void)STR_COPY(j->hold.lender, lender);
        return r;
}

/* Asked for where it counts alone. */
static unsigned n_classes(struct classes *classes, enum api_host_kind kind)
{
        struct class_said said;
        if (kind != API_HOST_KIND_CACHE && kind != API_HOST_KIND_MEMBW)
                return 0;
        classes_say(classes, &said);
        return said.is_ready ? (unsigned)said.classes : 0;
}

void hold_verb(struct holds *h, enum api_keeper_method method, const void *owner, struct rpc_call *call,
               const json_t *params)
{
        struct err err = {0};
        uint64_t activation = 0;
        struct hold_job *j = g_new0(struct hold_job, 1);
        *j = (struct hold_job){
                .work = {.run = run,                          .done = on_done, .owner = owner},
                .owner = h,
                .call = call,
                .method = method,
                .hold = { .cpu = h->vmms->cpu,
                         .nics = h->vmms->nics,
                         .classes = h->vmms->classes,
                         .ram_fd = h->vmms->ram_fd,
                         .ram_dir = h->vmms->config->ram_dir,
                         .huge = h->vmms->huge,
                         .vmm.pid_fd = -1}
        };
        j->hold.live = &j->live;
        j->hold.placed = &j->placed;
        j->hold.took_us = &j->took_us;
        j->hold.ret_fallback = &j->fallback;
        int r = take(j, params, &activation, &err);
        if (r == 0)
                r = cpu_host_check_item(j->hold.item, &err);
        if (r < 0) {
                g_free(j);
                rpc_refuse(call, RPC_WRONG_PARAMS, &err);
                return;
        }
        if (hold_is_dropping(h, j->hold.vmm.vm))
                r = err_set(&err, REASON_BUSY, EBUSY, "%s is being dropped", j->hold.vmm.vm);
        if (r == 0 && j->hold.kind == API_HOST_KIND_MEMORY)
                r = look_at_loans(j, &err);
        if (r == 0 && method == API_KEEPER_HOST_ACTIVATE)
                r = share_take(&h->shares, j->hold.vmm.vm, j->hold.kind, j->hold.item,
                               n_classes(h->vmms->classes, j->hold.kind), &err);
        if (r == 0)
                r = vmms_refer(h->vmms, &j->hold.vmm, &err);
        if (r == 0)
                r = activation_submit(&h->activations, activation, &j->work, &err);
        if (r < 0) {
                if (j->hold.vmm.pid_fd >= 0)
                        (void)close(j->hold.vmm.pid_fd);
                g_free(j);
                rpc_refuse(call, RPC_REFUSED, &err);
                return;
        }
        if ((j->next = h->jobs))
                j->next->link = &j->next;
        j->link = &h->jobs;
        h->jobs = j;
}

static void on_ended(struct work *w)
{
        struct note *n = (struct note *)w; /* its first member */
        rpc_reply(n->call, NULL);
        g_free(n);
}

void hold_activation_end(struct holds *h, struct rpc_call *call, const json_t *params)
{
        struct api_keeper_activation p;
        struct err err = {0};
        if (api_keeper_activation_parse(params, &p, &err) < 0) {
                rpc_refuse(call, RPC_WRONG_PARAMS, &err);
                return;
        }
        struct note *n = g_new0(struct note, 1);
        n->work.done = on_ended;
        n->call = call;
        activation_end(&h->activations, (uint64_t)p.activation, &n->work);
}

void hold_drop(struct holds *h, const void *owner, struct rpc_call *call, const json_t *params)
{
        struct err err = {0};
        struct drop_job *d = g_new0(struct drop_job, 1);
        if (api_keeper_vm_drop_parse(params, &d->drop.what, &err) < 0) {
                rpc_refuse(call, RPC_WRONG_PARAMS, &err);
                g_free(d);
                return;
        }
        d->work = (struct work){.run = run_drop, .done = on_dropped, .owner = owner};
        d->owner = h;
        d->call = call;
        h->drops = g_slist_append(h->drops, d);
        drop_what_waited(h);
}

static void cancel_drops(struct holds *h, const void *owner, bool is_all)
{
        for (GSList *each = h->drops, *next; each; each = next) {
                struct drop_job *d = each->data;
                next = each->next;
                if (d->id || (!is_all && d->work.owner != owner))
                        continue;
                d->r = err_set(&d->err, REASON_CANCELLED, ECANCELED,
                               "not done: the caller or the keeper is going");
                answer_drop(d);
        }
}

void holds_forget(struct holds *h, const void *owner)
{
        cancel_drops(h, owner, false); /* first: the end of the others would set them off */
        activations_forget(&h->activations, owner);
}

int holds_init(struct holds *h, struct vmms *vmms, struct err *err)
{
        *h = (struct holds){.vmms = vmms};
        shares_init(&h->shares, vmms->config);
        int r = activations_init(&h->activations, err);
        h->activations.n_users = (unsigned)vmms->config->n_spaces;
        return r;
}

void holds_done(struct holds *h)
{
        cancel_drops(h, NULL, true);
        activations_done(&h->activations);
        shares_done(&h->shares);
}
