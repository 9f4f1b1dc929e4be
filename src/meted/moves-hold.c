/* SPDX-License-Identifier: Apache-2.0 */
/* What a move reserved, held by the kernel for as long as it copies (4.4, 4.6): by the keeper, as everything.
 *
 * The ledger says what a move may have; here it gets it. What cannot be held is said, in the log and in the
 * move's answer (S.10): it is no reason to end a move that nothing else is wrong with. */
#include <stdarg.h>
#include <string.h>

#include "base/log.h"
#include "base/str.h"
#include "core/component.h"
#include "host/cpu.h"
#include "meted/moves-internal.h"
#include "meted/moves.h"

enum { KEEPER_MS = 20000, CPUS_MAX = 64 };

#define ITEM "move" /* of the VMM's thread that sends, or takes in */

void move_fallback(struct moving *mv, const char *fmt, ...)
{
        char text[MOVE_FALLBACK];
        va_list ap;
        va_start(ap, fmt);
        (void)vsnprintf(text, sizeof(text), fmt, ap);
        va_end(ap);
        for (size_t i = 0; i < mv->n_fallbacks; i++)
                if (strcmp(mv->fallbacks[i], text) == 0)
                        return;
        if (mv->n_fallbacks < ARRAY_N(mv->fallbacks))
                (void)STR_COPY(mv->fallbacks[mv->n_fallbacks++], text);
        move_say(mv, "fallback", "%s", text);
}

/* ---- calls ---- */

/* All of a move's are carried out in order, and with the repairs of its VM (machine.h). */
static int64_t activation_of(const struct moving *mv)
{
        const struct machine *v = machine_find(mv->m, mv->vm);
        return v ? machine_lane(v) : MACHINE_LANES - 1; /* of a VM that is gone there is nothing to hold */
}

/* Who looks at what the vCPUs have, and asked before this, knows nothing. */
static void vcpus_change(const struct moving *mv)
{
        struct machine *v = machine_find(mv->m, mv->vm);
        if (v)
                v->vcpu_changes++;
}

static void settled(struct moving *mv, const struct err *err);

static void call(struct moving *mv, enum api_keeper_method method, json_t *params, keeper_done *done)
{
        mv->hold_pending++;
        vcpus_change(mv);
        keeper_call(mv->m->keeper, method, params, NULL, 0, KEEPER_MS, done, mv);
}

static void on_done(void *arg, const json_t *result, const struct err *err)
{
        struct moving *mv = arg;
        (void)result;
        if (err)
                log_warn("move %s: %s", mv->core.row.id, err->sentence);
        settled(mv, err);
}

void hold_forget(struct moving *mv)
{
        keeper_forget(mv->m->keeper, mv);
        mv->hold_pending = 0;
        mv->is_hold_lost = mv->is_lifting = mv->is_restoring = false;
        vcpus_change(mv);
}

/* Of what puts a vCPU back to what it was granted. */
static void on_restored(void *arg, const json_t *result, const struct err *err)
{
        struct moving *mv = arg;
        mv->has_restore_failed = mv->has_restore_failed || err;
        if (err && err->reason == REASON_BUSY) /* the VM's lane is full of what was asked before: once more */
                mv->is_hold_lost = true;
        on_done(mv, result, err);
}

/* For what a lift does not wait for. */
static void on_done_beside(void *arg, const json_t *result, const struct err *err)
{
        struct moving *mv = arg;
        (void)result;
        if (err)
                log_warn("move %s: %s", mv->core.row.id, err->sentence);
        settled(mv, NULL);
}

static void item_activate(struct moving *mv, keeper_done *done, const char *item, const int64_t *cpus,
                          size_t n, int64_t share_milli, int64_t ceiling_milli, bool is_exclusive)
{
        struct api_keeper_hold *p = g_new0(struct api_keeper_hold, 1);
        p->activation = activation_of(mv);
        p->kind = API_HOST_KIND_CPU;
        (void)STR_COPY(p->vm, mv->vm);
        (void)STR_COPY(p->item, item);
        for (size_t i = 0; i < n && p->n_cpus < ARRAY_N(p->cpus); i++)
                p->cpus[p->n_cpus++] = cpus[i];
        p->has_share_milli = p->has_ceiling_milli = true;
        p->share_milli = share_milli;
        p->ceiling_milli = ceiling_milli;
        p->has_exclusive = p->exclusive = is_exclusive;
        call(mv, API_KEEPER_HOST_ACTIVATE, api_keeper_hold_emit(p), done);
        g_free(p);
}

static json_t *item_params(struct moving *mv, const char *item, int64_t tid, bool is_back)
{
        struct api_keeper_item p = {.activation = activation_of(mv),
                                    .kind = API_HOST_KIND_CPU,
                                    .has_tid = tid > 0,
                                    .tid = tid,
                                    .has_back = is_back,
                                    .back = is_back};
        (void)STR_COPY(p.vm, mv->vm);
        (void)STR_COPY(p.item, item);
        return api_keeper_item_emit(&p);
}

/* ---- the link ---- */

static void on_stream_changed(void *arg, const json_t *result, const struct err *err)
{
        struct moving *mv = arg;
        (void)result;
        if (err)
                move_fallback(mv, "the rate that is guaranteed is not what is reserved: %.70s",
                              err->sentence);
        settled(mv, NULL);
}

static json_t *stream_params(const struct moving *mv, int64_t rate_bps, int n_fds)
{
        struct api_keeper_move_hold p = {.rate_bps = rate_bps, .fds = n_fds};
        (void)STR_COPY(p.vm, mv->vm);
        return api_keeper_move_hold_emit(&p);
}

/* What is not reserved may be guaranteed to others. Its class stays: it may have what they do not use. */
static int64_t stream_rate_bps(const struct moving *mv)
{
        return mv->has_lapsed ? NET_LEAST_BPS : move_rate_bps(move_reserved_bps(mv));
}

static void follow_rate(struct moving *mv)
{
        int64_t rate_bps = stream_rate_bps(mv);
        if (!mv->is_stream_held || rate_bps == mv->stream_bps)
                return;
        mv->stream_bps = rate_bps;
        call(mv, API_KEEPER_MOVE_HOLD, stream_params(mv, rate_bps, 0), on_stream_changed);
}

static void on_stream_held(void *arg, const json_t *result, const struct err *err)
{
        struct moving *mv = arg;
        struct api_keeper_move_held held;
        struct err bad = {0};
        if (!err && api_keeper_move_held_parse(result, &held, &bad))
                err = &bad;
        if (err)
                move_fallback(mv, "the rate of the move is not guaranteed: %.90s", err->sentence);
        else if (held.has_fallback)
                move_fallback(mv, "%s", held.fallback);
        mv->is_stream_held = !err && !held.has_fallback;
        follow_rate(mv); /* what is reserved may have lapsed meanwhile */
        settled(mv, NULL);
        source_stream_is_held(mv);
}

void hold_stream(struct moving *mv, int fd)
{
        /* A second attempt has what the first was raised to: the controller does not ask for it again. */
        mv->stream_bps = stream_rate_bps(mv);
        if (mv->core.row.vector.bandwidth_bps <= 0) /* a best effort: nothing is reserved */
                source_stream_is_held(mv);
        else {
                mv->hold_pending++;
                keeper_call(mv->m->keeper, API_KEEPER_MOVE_HOLD, stream_params(mv, mv->stream_bps, 1), &fd, 1,
                            KEEPER_MS, on_stream_held, mv);
        }
}

void hold_more_of_link(struct moving *mv, int64_t bandwidth_bps)
{
        int64_t rate_bps = move_rate_bps(bandwidth_bps);
        if (mv->is_stream_held && !mv->has_lapsed && rate_bps > mv->stream_bps &&
            move_raise(mv, bandwidth_bps))
                move_say(mv, "raised", "%lld bit/s of the link are reserved from now on",
                         (long long)rate_bps);
}

/* ---- CPU ---- */

static void on_thread_held(void *arg, const json_t *result, const struct err *err)
{
        struct moving *mv = arg;
        struct api_keeper_held held;
        struct err bad = {0};
        if (!err && api_keeper_held_parse(result, &held, &bad))
                err = &bad;
        if (err)
                move_fallback(mv, "the CPU of the move is not held: %.90s", err->sentence);
        else
                move_say(mv, "held", "the thread %lld of the VMM is held by %s", (long long)mv->thread,
                         held.held_by);
        settled(mv, NULL);
}

void hold_thread(struct moving *mv, int64_t tid)
{
        int64_t cpus[CPUS_MAX], share_milli = 0;
        size_t n = move_cpus(mv, cpus, ARRAY_N(cpus), &share_milli);
        const struct api_keeper_info *keeper = keeper_info(mv->m->keeper);
        bool is_bare = n == 0 || mv->has_lapsed; /* a best effort; or what it had is over, or nearly so */
        mv->bare_thread = is_bare ? tid : 0;
        if (is_bare)
                return;
        if (keeper && keeper->cpu_provider == API_CPU_PROVIDER_AFFINITY)
                move_fallback(mv,
                              "the share of the CPU that is reserved is not held: only affinity holds CPUs");
        bool is_new = mv->thread != tid;
        mv->thread = tid;
        item_activate(mv, on_done_beside, ITEM, cpus, n, share_milli, CPU_SHARE_MAX, false);
        if (is_new)
                call(mv, API_KEEPER_HOST_BIND, item_params(mv, ITEM, tid, false), on_thread_held);
}

static void drop_thread(struct moving *mv)
{
        mv->bare_thread = mv->thread;
        mv->thread = 0;
        call(mv, API_KEEPER_HOST_DEACTIVATE, item_params(mv, ITEM, 0, true), on_done_beside);
}

void hold_again(struct moving *mv)
{
        follow_rate(mv);
        if (mv->has_lapsed && mv->thread)
                drop_thread(mv);
        else if (!mv->has_lapsed && (mv->thread || mv->bare_thread))
                hold_thread(mv, mv->thread ? mv->thread : mv->bare_thread);
}

/* ---- vCPUs ---- */

struct vcpu {
        int64_t cpu, share_milli, ceiling_milli;
        bool is_exclusive;
};

struct vcpus {
        const struct machine *v;
        struct vcpu of[SHAPE_SLOTS_MAX]; /* by slot; share_milli 0: none was granted */
};

/* What each was granted, and its ceiling by the VM's definition: as meted/activate-item.c has it. */
static void take_vcpus(const struct request *r, void *arg)
{
        struct vcpus *all = arg;
        const struct api_vm_definition *d = &all->v->definition;
        if (strcmp(r->vm, d->name) != 0 || !request_is_live(r) || r->state != REQUEST_GRANTED)
                return;
        for (size_t i = 0; i < r->n_definitions; i++) {
                const struct definition *of = &r->definitions[i];
                if (of->kind != VIRTUAL_VCPU || of->slot < 0 || of->slot >= SHAPE_SLOTS_MAX)
                        continue;
                all->of[of->slot] =
                        (struct vcpu){.cpu = all->v->m->inventory.components[of->component].os_index,
                                      .share_milli = of->amount,
                                      .ceiling_milli = r->kind == REQUEST_VM && d->has_cpu_ceiling_milli
                                                               ? d->cpu_ceiling_milli
                                                               : CPU_SHARE_MAX,
                                      .is_exclusive = of->exclusive};
        }
}

static bool vcpus_of(const struct moving *mv, struct vcpus *ret)
{
        *ret = (struct vcpus){.v = machine_find(mv->m, mv->vm)};
        if (!ret->v || !ret->v->vm)
                return false;
        hypervisor_each(mv->m->hv, take_vcpus, ret);
        return true;
}

/* The thread of a slot that nobody was granted: put aside, with a guest that may use it all the same. */
static pid_t parked(const struct vcpus *all, int slot)
{
        const struct vm_cpu *cpu = vm_cpu(all->v->vm, slot);
        return all->of[slot].share_milli == 0 && cpu->plugged && cpu->tid > 0 ? cpu->tid : 0;
}

int64_t moves_ceiling_milli(const struct machine *v, int64_t share_milli, int64_t own_milli)
{
        if (v->vcpu_milli == 0)
                return own_milli;
        if (v->vcpu_milli > CPU_SHARE_MAX)
                return CPU_SHARE_MAX;
        int64_t milli = v->vcpu_milli > share_milli ? v->vcpu_milli : share_milli; /* what was granted is */
        milli = milli < CPU_CEILING_MIN ? CPU_CEILING_MIN : milli;
        return milli < own_milli ? milli : own_milli;
}

bool moves_is_changing(const struct machine *v)
{
        const struct moving *mv = move_of_vm(v->m, v->definition.name);
        return mv && (mv->hold_pending > 0 || mv->is_inherited);
}

static void put_vcpu(struct moving *mv, keeper_done *done, const struct vcpus *all, int slot)
{
        const struct vcpu *c = &all->of[slot];
        char item[CPU_ITEM_SIZE];
        (void)snprintf(item, sizeof(item), "vcpu%d", slot);
        item_activate(mv, done, item, &c->cpu, 1, c->share_milli,
                      moves_ceiling_milli(all->v, c->share_milli, c->ceiling_milli), c->is_exclusive);
}

int64_t hold_share_min(const struct moving *mv)
{
        struct vcpus *all = g_new0(struct vcpus, 1);
        const struct api_keeper_info *keeper = keeper_info(mv->m->keeper);
        int64_t least = mv->m->config.vcpu_milli;
        bool is_known = vcpus_of(mv, all) && keeper && keeper->cpu_provider != API_CPU_PROVIDER_AFFINITY;
        for (int slot = 0; slot < SHAPE_SLOTS_MAX; slot++)
                if (all->of[slot].share_milli > least)
                        least = all->of[slot].share_milli;
        g_free(all);
        return is_known ? least : CPU_SHARE_MAX;
}

static bool has_to_lift(const struct moving *mv)
{
        struct vcpus *all = g_new0(struct vcpus, 1);
        bool has = false, is_known = vcpus_of(mv, all);
        for (int slot = 0; is_known && slot < all->v->definition.cpus_max; slot++) {
                const struct vcpu *c = &all->of[slot];
                has = has || parked(all, slot) ||
                      (c->share_milli > 0 &&
                       moves_ceiling_milli(all->v, c->share_milli, c->ceiling_milli) < CPU_SHARE_MAX);
        }
        g_free(all);
        /* A throttle that is on its way; or one of an attempt before, that was not seen to be taken back. */
        return has || mv->hold_pending > 0 || mv->is_touched;
}

/* Throttled to a share, lifted (more than all of it), or as they were granted (0). */
static void put_vcpus(struct moving *mv, int64_t share_milli)
{
        struct vcpus *all = g_new0(struct vcpus, 1);
        struct machine *v = machine_find(mv->m, mv->vm);
        if (v)
                v->vcpu_milli = share_milli;
        vcpus_change(mv);
        bool is_known = vcpus_of(mv, all);
        for (int slot = 0; is_known && slot < all->v->definition.cpus_max; slot++)
                if (all->of[slot].share_milli > 0)
                        put_vcpu(mv, share_milli ? on_done : on_restored, all, slot);
        g_free(all);
}

void hold_throttle(struct moving *mv, int64_t share_milli)
{
        mv->is_touched = true;
        mv->is_lifting = mv->is_restoring = false;
        put_vcpus(mv, share_milli);
        move_say(mv, "throttled", "its vCPUs to %lld thousandths of their time", (long long)share_milli);
}

static void lift_item(char ret[CPU_ITEM_SIZE], int slot)
{
        (void)snprintf(ret, CPU_ITEM_SIZE, "lift%d", slot);
}

/* Where others of the VM may run: an exclusive CPU has room for one. NULL: nowhere. */
static const struct vcpu *shared_vcpu(const struct vcpus *all)
{
        for (int slot = 0; slot < all->v->definition.cpus_max; slot++)
                if (all->of[slot].share_milli > 0 && !all->of[slot].is_exclusive)
                        return &all->of[slot];
        return NULL;
}

/* One that was put aside runs where another of the VM runs, with its share, until it is put aside again. */
static void lift_parked(struct moving *mv)
{
        struct vcpus *all = g_new0(struct vcpus, 1);
        bool is_known = vcpus_of(mv, all);
        const struct vcpu *beside = is_known ? shared_vcpu(all) : NULL;
        for (int slot = 0; is_known && slot < all->v->definition.cpus_max; slot++) {
                char item[CPU_ITEM_SIZE];
                pid_t tid = parked(all, slot);
                lift_item(item, slot);
                if (!tid)
                        continue;
                if (!beside) {
                        move_fallback(
                                mv, "a vCPU stays put aside, as the VM's CPUs are exclusive: it may be slow "
                                    "to stop");
                        break;
                }
                item_activate(mv, on_done, item, &beside->cpu, 1, beside->share_milli, CPU_SHARE_MAX, false);
                call(mv, API_KEEPER_HOST_BIND, item_params(mv, item, tid, false), on_done);
        }
        g_free(all);
}

bool hold_lift(struct moving *mv)
{
        if (!has_to_lift(mv))
                return false;
        mv->is_touched = mv->is_lifting = true;
        mv->is_restoring = false;
        put_vcpus(mv, CPU_SHARE_MAX + 1);
        lift_parked(mv);
        if (mv->hold_pending > 0)
                return true;
        mv->is_lifting = false;
        return false;
}

static void restore_vcpus(struct moving *mv)
{
        struct vcpus *all = g_new0(struct vcpus, 1);
        struct machine *v = machine_find(mv->m, mv->vm);
        bool is_known = mv->is_touched && vcpus_of(mv, all);
        mv->is_lifting = false;
        if (v)
                v->vcpu_milli = 0;
        mv->is_restoring = is_known; /* touched until all of it was answered, and well */
        mv->has_restore_failed = false;
        if (is_known)
                put_vcpus(mv, 0);
        for (int slot = 0; is_known && slot < all->v->definition.cpus_max; slot++) {
                char item[CPU_ITEM_SIZE];
                pid_t tid = parked(all, slot);
                lift_item(item, slot);
                if (!tid)
                        continue;
                call(mv, API_KEEPER_HOST_PREPARE, item_params(mv, item, tid, false), on_restored);
                call(mv, API_KEEPER_HOST_DEACTIVATE, item_params(mv, item, 0, true), on_restored);
        }
        g_free(all);
}

/* ---- the end ---- */

static void on_stream_dropped(void *arg, const json_t *result, const struct err *err)
{
        struct moving *mv = arg;
        struct api_keeper_move_dropped dropped;
        struct err bad = {0};
        int64_t sent_bytes = mv->seen.sample.transferred_bytes;
        if (!err && api_keeper_move_dropped_parse(result, &dropped, &bad))
                err = &bad;
        if (err) {
                log_warn("move %s: what the kernel holds for it: %s", mv->core.row.id, err->sentence);
        } else if (dropped.has_sent_bytes) {
                mv->is_stream_held = false;
                mv->held_bytes = dropped.sent_bytes;
                if (dropped.sent_bytes < sent_bytes / 2) /* its way is another link than the ledger's */
                        move_fallback(mv, "%lld of %lld bytes left by the uplink that mete manages",
                                      (long long)dropped.sent_bytes, (long long)sent_bytes);
                else
                        move_say(mv, "sent", "%lld bytes, as the kernel counts them, at a guaranteed rate",
                                 (long long)dropped.sent_bytes);
        }
        settled(mv, err);
}

/* A keeper that is away does it when it is back, or is asked again; whatever else it says, it would say
 * again, and what is left goes with the VMM. */
static void settled(struct moving *mv, const struct err *err)
{
        mv->is_hold_lost = mv->is_hold_lost ||
                           (err && (err->reason == REASON_TIMEOUT || err->reason == REASON_PEER_LOST));
        if (mv->hold_pending > 0)
                mv->hold_pending--;
        vcpus_change(mv);
        if (mv->is_lifting && (err || mv->hold_pending == 0)) {
                mv->is_lifting = false;
                source_is_lifted(mv, err);
        }
        if (mv->hold_pending > 0)
                return;
        if (mv->is_restoring) /* of a meted before: who is attached may not know all of its threads yet */
                mv->is_touched = mv->is_inherited || mv->has_restore_failed;
        mv->is_restoring = false;
        bool is_over = mv->is_release_awaited && !mv->is_hold_lost;
        mv->is_hold_lost = false;
        if (is_over)
                source_nothing_is_held(mv);
}

void hold_end(struct moving *mv)
{
        struct api_keeper_vm p;
        (void)STR_COPY(p.vm, mv->vm);
        restore_vcpus(mv);
        call(mv, API_KEEPER_HOST_DEACTIVATE, item_params(mv, ITEM, 0, true), on_done);
        if (move_is_source(&mv->core))
                call(mv, API_KEEPER_MOVE_DROP, api_keeper_vm_emit(&p), on_stream_dropped);
        mv->thread = mv->bare_thread = 0;
}

static void on_swept(void *arg, const json_t *result, const struct err *err)
{
        g_autofree char *vm = arg;
        (void)result;
        if (err && err->reason != REASON_CANCELLED)
                log_warn("%s: the class of a move that is over stays: %s", vm, err->sentence);
        else if (!err)
                log_note("%s: the class of a move that is over was dropped", vm);
}

/* One that is under way drops its own, and hears what went through. */
void moves_sweep(struct meted *m, const char *vm)
{
        const struct moving *mv = move_of_vm(m, vm);
        struct api_keeper_vm p = {0};
        if (mv && move_is_source(&mv->core))
                return;
        (void)STR_COPY(p.vm, vm);
        keeper_call(m->keeper, API_KEEPER_MOVE_DROP, api_keeper_vm_emit(&p), NULL, 0, KEEPER_MS, on_swept,
                    g_strdup(vm));
}
