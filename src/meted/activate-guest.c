/* SPDX-License-Identifier: Apache-2.0 */
/* What the guest says: how much memory it has before more is plugged, that it has everything on line (the
 * positive signal for which finalisation waits), that it lets go. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "meted/activate-internal.h"
#include "meted/handover.h"
#include "meted/moves.h"

enum { AGENT_WAIT_MS = 500 };

/* ---- calls to the agent ---- */

/* Its answer may never come: an agent that starts again has lost it. */
struct agent_call {
        struct step *s; /* NULL: abandoned */
        rpc_done_fn *done;
};

static void on_agent_answer(void *arg, const json_t *result, const struct err *err)
{
        struct agent_call *c = arg;
        struct step *s = c->s;
        rpc_done_fn *done = c->done;
        g_free(c);
        if (!s)
                return;
        s->call = NULL;
        done(s, result, err);
}

static void ask_agent(struct step *s, enum api_guest_method method, json_t *params, int64_t timeout_ms,
                      rpc_done_fn *done)
{
        struct err err = {0};
        s->call = g_new0(struct agent_call, 1);
        s->call->s = s;
        s->call->done = done;
        if (rpc_call(s->v->agent, api_guest_methods[method].name, params, timeout_ms, on_agent_answer,
                     s->call, &err))
                on_agent_answer(s->call, NULL, &err); /* it could not even be sent */
}

void step_agent_drop(struct step *s)
{
        if (!s->call)
                return;
        s->call->s = NULL;
        s->call = NULL;
        step_again(s, 0); /* so that it is known to wait for nothing but its timer */
}

void step_agent_back(struct step *s)
{
        if (!s->call && !loop_timer_is_set(&s->timer))
                return;
        step_agent_drop(s);
        step_again(s, 0);
}

/* However often the guest greets, and has its step begun again: the time that it has is the same. */
static int64_t left_ms(const struct step *s)
{
        return s->deadline_mono_ms - loop_mono_ms();
}

static void no_answer(struct step *s)
{
        struct err err = {0};
        (void)err_set(&err, REASON_TIMEOUT, ETIMEDOUT, "the agent in the guest did not answer in time");
        step_done(s, &err);
}

/* The agent may be restarting: wait for it, up to the deadline of activations. */
static void wait_for_agent(struct step *s)
{
        int64_t left = left_ms(s);
        if (left > 0 && s->v->vm)
                step_again(s, left < AGENT_WAIT_MS ? left : AGENT_WAIT_MS);
        else
                no_answer(s);
}

static bool agent_lost(const struct step *s, const struct err *err)
{
        return !s->is_dropped && err && (err->reason == REASON_PEER_LOST || err->reason == REASON_CANCELLED);
}

static bool take_guest_state(struct step *s, const json_t *result, struct err *bad)
{
        struct api_guest_state state;
        if (api_guest_state_parse(result, &state, bad))
                return false;
        s->v->guest = state;
        return true;
}

/* ---- before memory is plugged ---- */

static void plug_backend(struct step *s)
{
        if (!s->v->vm) {
                step_no_vmm(s);
                return;
        }
        if (step_item(s)->page_bytes) { /* its pages are not there yet */
                step_done(s, NULL);
                return;
        }
        struct err err = {0};
        if (dimm_bind(s, &err) < 0) {
                step_done(s, &err);
                return;
        }
        vm_memory_prepare(s->v->vm, step_item(s)->slot, step_item(s)->amount, PLUG_MS, step_vm_done, s);
}

static void measured(struct step *s)
{
        s->v->memory_is_known = true;
        s->v->measured_for = s->serial;
        s->v->measured_bytes = s->v->guest.memory_bytes;
        plug_backend(s);
}

static void on_measured(void *arg, const json_t *result, const struct err *err)
{
        struct step *s = arg;
        struct err bad = {0};
        if (agent_lost(s, err)) {
                wait_for_agent(s);
                return;
        }
        if (!s->is_dropped && !err && !take_guest_state(s, result, &bad))
                err = &bad;
        if (err || s->is_dropped)
                step_done(s, err);
        else
                measured(s);
}

/* How much the guest has on line is asked once for each activation, before its first DIMM. */
void dimm_prepare(struct step *s)
{
        struct api_guest_online ask = {0};
        int64_t left = left_ms(s);
        if (s->v->measured_for == s->serial || machine_is_arriving(s->v))
                plug_backend(s);
        else if (left <= 0)
                no_answer(s);
        else if (!s->v->greeted)
                wait_for_agent(s);
        else if (s->v->memory_is_known)
                /* Its last word, with nothing plugged or taken back since. What its users put off line in
                 * between, it will put on line again. */
                measured(s);
        else
                ask_agent(s, API_GUEST_ONLINE, api_guest_online_emit(&ask),
                          left < OFFLINE_MS ? left : OFFLINE_MS, on_measured);
}

/* ---- it is initialised ---- */

struct sum {
        const struct step *s;
        int64_t bytes;
};

static int64_t dimm_bytes(const struct definition *d, size_t n)
{
        int64_t bytes = 0;
        for (size_t i = 0; i < n; i++)
                if (d[i].kind == VIRTUAL_DIMM)
                        bytes += d[i].amount;
        return bytes;
}

static void add_leased(const struct request *r, void *arg)
{
        struct sum *sum = arg;
        if (r->kind == REQUEST_APP && strcmp(r->vm, sum->s->v->definition.name) == 0 &&
            r->state == REQUEST_GRANTED)
                sum->bytes += dimm_bytes(r->definitions, r->n_definitions);
}

/* How much the guest must have on line: what it had and what is new; or, where it was measured before a
 * restart of meted, what its definition and its leases add up to. */
static int64_t memory_wanted(const struct step *s)
{
        int64_t more = dimm_bytes(s->definitions, s->n);
        if (!more)
                return 0;
        if (s->v->measured_for == s->serial)
                return s->v->measured_bytes + more;
        struct sum sum = {.s = s, .bytes = s->v->definition.memory_bytes};
        hypervisor_each(s->v->m->hv, add_leased, &sum);
        return sum.bytes + more;
}

static bool has_cpu(const struct api_guest_state *state, int slot)
{
        for (size_t i = 0; i < state->n_cpus_online; i++)
                if (state->cpus_online[i] == slot)
                        return true;
        return false;
}

/* The guest's figures, not its good will, are the signal. */
static int is_initialised(const struct step *s, struct err *err)
{
        const struct api_guest_state *g = &s->v->guest;
        const char *problem = g->has_problem ? g->problem : "", *colon = g->has_problem ? ": " : "";
        for (size_t i = 0; i < s->n; i++)
                if (s->definitions[i].kind == VIRTUAL_VCPU && !has_cpu(g, s->definitions[i].slot))
                        return err_set(err, REASON_TIMEOUT, ETIMEDOUT,
                                       "the guest did not put vCPU %d on line%s%s", s->definitions[i].slot,
                                       colon, problem);
        if (g->memory_bytes < memory_wanted(s))
                return err_set(err, REASON_TIMEOUT, ETIMEDOUT,
                               "the guest has %" PRId64 " bytes of memory on line, %" PRId64
                               " were to be%s%s",
                               g->memory_bytes, memory_wanted(s), colon, problem);
        return 0;
}

static void on_online(void *arg, const json_t *result, const struct err *err)
{
        struct step *s = arg;
        struct err bad = {0};
        if (agent_lost(s, err)) {
                wait_for_agent(s);
                return;
        }
        if (!s->is_dropped && !err && !take_guest_state(s, result, &bad))
                err = &bad;
        if (!s->is_dropped && !err) {
                if (is_initialised(s, &bad))
                        err = &bad;
                s->v->memory_is_known = !err;
                (void)snprintf(s->detail, sizeof(s->detail),
                               "the guest has %zu vCPUs and %" PRId64 " bytes on line",
                               s->v->guest.n_cpus_online, s->v->guest.memory_bytes);
        }
        step_done(s, err);
}

void guest_confirm(struct step *s)
{
        if (machine_is_arriving(s->v)) { /* it had it on line where it comes from */
                step_done(s, NULL);
                return;
        }
        int64_t left = left_ms(s);
        if (!s->v->greeted || left <= 0) {
                wait_for_agent(s);
                return;
        }
        struct api_guest_online ask = {.has_timeout_ms = true,
                                       .timeout_ms = left > 2000 ? left - 1000 : 1000};
        ask.memory_bytes = memory_wanted(s);
        for (size_t i = 0; i < s->n && ask.n_cpus < ARRAY_N(ask.cpus); i++)
                if (s->definitions[i].kind == VIRTUAL_VCPU)
                        ask.cpus[ask.n_cpus++] = s->definitions[i].slot;
        ask_agent(s, API_GUEST_ONLINE, api_guest_online_emit(&ask), ask.timeout_ms + 1000, on_online);
}

/* ---- it lets go ---- */

static void on_offline(void *arg, const json_t *result, const struct err *err)
{
        struct step *s = arg;
        struct err bad = {0};
        if (!s->is_dropped && !err)
                (void)take_guest_state(s, result, &bad);
        step_done(s, err);
}

/* Without its consent a vCPU is parked all the same: the guest never keeps the host's CPU. */
void guest_let_go(struct step *s)
{
        struct api_guest_offline ask = {0};
        for (size_t i = 0; i < s->n && ask.n_cpus < ARRAY_N(ask.cpus); i++)
                if (s->definitions[i].kind == VIRTUAL_VCPU && s->definitions[i].way == WAY_GOING)
                        ask.cpus[ask.n_cpus++] = s->definitions[i].slot;
        int64_t left = left_ms(s);
        if (!ask.n_cpus)
                step_done(s, NULL); /* a DIMM is asked for by its removal */
        else if (left <= 0 || !s->v->vm)
                no_answer(s);
        else if (s->v->greeted)
                ask_agent(s, API_GUEST_OFFLINE, api_guest_offline_emit(&ask), left, on_offline);
        else
                step_again(s, left); /* or until it greets: step_agent_back() */
}
