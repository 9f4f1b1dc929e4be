/* SPDX-License-Identifier: Apache-2.0 */
/* meted/guest.c - the channel to the agent of one guest. Everything that comes in here is hostile.
 *
 * The VM is known by the channel. A request is decided by the hypervisor; the answer leaves when the
 * decision is durable and, for a grant, when what was granted is usable. The port is there as long as the
 * VMM is; whether an agent is behind it shows only in its greeting. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/str.h"
#include "meted/activate.h"
#include "meted/hhi.h"
#include "meted/machine.h"
#include "meted/handover.h"
#include "meted/moves.h"
#include "vm/socket.h"

enum { AGENT_RETRY_MS = 500, IDLE_OFF_MS = 10000 };

/* ---- verdicts ---- */

size_t needs_to_api(const struct need *needs, size_t n, struct api_need *ret)
{
        for (size_t i = 0; i < n; i++) {
                struct api_need *to = &ret[i];
                memset(to, 0, sizeof(*to));
                (void)snprintf(to->kind, sizeof(to->kind), "%s", component_kinds[needs[i].kind].name);
                to->amount = needs[i].amount;
                to->has_amount_max = needs[i].amount_max > needs[i].amount;
                to->amount_max = needs[i].amount_max;
                for (size_t p = 0; p < needs[i].n_parameters; p++) {
                        struct need_part part = need_part_of(&needs[i].parameters[p]);
                        struct api_parameter *q = &to->parameters[to->n_parameters++];
                        (void)snprintf(q->name, sizeof(q->name), "%s", part.name);
                        q->relation = (enum api_relation)part.relation;
                        q->has_value = part.has_value;
                        q->value = part.value;
                }
        }
        return n;
}

int needs_from_api(const struct api_need *from, size_t n, struct need *ret, struct err *err)
{
        for (size_t i = 0; i < n; i++) {
                struct need_part parts[ARRAY_N(from->parameters)];
                for (size_t p = 0; p < from[i].n_parameters; p++) {
                        const struct api_parameter *q = &from[i].parameters[p];
                        parts[p] = (struct need_part){q->name, (enum relation)q->relation, q->has_value,
                                                      q->value, q->has_word ? q->word : NULL};
                }
                int bad = need_from_parts(from[i].kind, from[i].amount,
                                          from[i].has_amount_max ? from[i].amount_max : 0,
                                          from[i].n_parameters, parts, &ret[i], err);
                if (bad)
                        return err_note(err, "needs[%zu]", i);
        }
        return 0;
}

static const enum api_outcome outcome_out[OUTCOME_N] = {
        [OUTCOME_GRANTED] = API_OUTCOME_GRANTED,
        [OUTCOME_COUNTER_OFFERED] = API_OUTCOME_COUNTER_OFFERED,
        [OUTCOME_NOT_NOW] = API_OUTCOME_NOT_NOW,
        [OUTCOME_NEVER] = API_OUTCOME_NEVER,
};

void verdict_of(const struct meted *m, const struct request *r, struct api_verdict *ret)
{
        memset(ret, 0, sizeof(*ret));
        (void)snprintf(ret->request, sizeof(ret->request), "%s", r->id);
        if ((r->state == REQUEST_ENDED || r->state == REQUEST_RELEASING) && r->outcome == OUTCOME_GRANTED) {
                ret->outcome = API_OUTCOME_NEVER;
                ret->has_reason = true;
                ret->reason = REASON_STALE;
                (void)snprintf(ret->sentence, sizeof(ret->sentence),
                               "it was granted and has ended; ask with a new id");
                return;
        }
        ret->outcome = outcome_out[r->outcome];
        (void)snprintf(ret->sentence, sizeof(ret->sentence), "%s", r->sentence);
        if (r->outcome != OUTCOME_GRANTED) {
                ret->has_reason = true;
                ret->reason = r->reason;
        }
        if (r->outcome == OUTCOME_NOT_NOW || r->outcome == OUTCOME_NEVER)
                return;
        struct need needs[NEEDS_MAX];
        request_granted_needs(r, needs);
        ret->n_needs = needs_to_api(needs, r->n_needs, ret->needs);
        if (r->outcome == OUTCOME_COUNTER_OFFERED) {
                int64_t left = r->offer_end_ms - loop_now_ms();
                ret->has_valid_ms = true;
                ret->valid_ms = left > 0 ? (left < 86400000 ? left : 86400000) : 0;
        } else {
                int64_t bytes = 0;
                for (size_t i = 0; i < r->n_definitions; i++) {
                        const struct definition *c = &r->definitions[i];
                        if (m->inventory.components[c->component].kind == COMPONENT_MEMORY)
                                bytes += c->amount;
                        else if (c->kind == VIRTUAL_VCPU && ret->n_cpus < ARRAY_N(ret->cpus))
                                ret->cpus[ret->n_cpus++] = c->slot;
                }
                ret->has_memory_bytes = bytes > 0;
                ret->memory_bytes = bytes;
        }
        char lesser[ARRAY_N(ret->fallbacks)][128]; /* agents of before take no more */
        const struct machine *v = *r->vm ? machine_find((struct meted *)m, r->vm) : NULL;
        size_t n = meted_fallbacks(m, v, lesser, ARRAY_N(lesser));
        for (size_t i = 0; i < n; i++)
                (void)snprintf(ret->fallbacks[ret->n_fallbacks++], sizeof(ret->fallbacks[0]), "%s",
                               lesser[i]);
}

/* ---- requests of the agent ---- */

static void refuse(struct rpc_call *call, const struct err *err)
{
        rpc_refuse(call, err->reason == REASON_INVALID ? RPC_WRONG_PARAMS : RPC_REFUSED, err);
}

static void answer_verdict(struct meted *m, void *call, const struct request *r, const struct err *err)
{
        if (err) {
                refuse(call, err);
                return;
        }
        struct api_verdict v;
        verdict_of(m, r, &v);
        rpc_reply(call, api_verdict_emit(&v));
}

static void answer_empty(struct meted *m, void *call, const struct request *r, const struct err *err)
{
        (void)m;
        (void)r;
        if (err)
                refuse(call, err);
        else
                rpc_reply(call, json_object());
}

static void key_of(const struct machine *v, const char *request, char key[REQUEST_KEY])
{
        (void)snprintf(key, REQUEST_KEY, "vm:%s/%s", v->definition.name, request);
}

/* ---- vCPUs that are nobody's ---- */

struct slots {
        const struct machine *v;
        uint64_t used;
};

static void add_slots(const struct request *r, void *arg)
{
        struct slots *s = arg;
        if (strcmp(r->vm, s->v->definition.name) != 0)
                return;
        for (size_t i = 0; i < r->n_definitions; i++)
                if (s->v->m->inventory.components[r->definitions[i].component].kind == COMPONENT_CPU &&
                    r->definitions[i].slot >= 0)
                        s->used |= UINT64_C(1) << r->definitions[i].slot;
}

static void ignore_state(void *arg, const json_t *result, const struct err *err)
{
        (void)arg;
        (void)result;
        (void)err; /* it is asked again when it greets next; the host's CPU is safe in any case */
}

/* What was parked without the guest's consent stays on line there, and slow: now that it speaks, it is asked.
 */
static void idle_cpus_off(struct machine *v)
{
        struct slots s = {.v = v};
        struct api_guest_offline ask = {0};
        struct err err = {0};
        hypervisor_each(v->m->hv, add_slots, &s);
        for (size_t i = 0; i < v->guest.n_cpus_online; i++) {
                int64_t slot = v->guest.cpus_online[i];
                if (slot > 0 && slot < v->definition.cpus_max && !(s.used & (UINT64_C(1) << slot)))
                        ask.cpus[ask.n_cpus++] = slot;
        }
        if (ask.n_cpus)
                (void)rpc_call(v->agent, api_guest_methods[API_GUEST_OFFLINE].name,
                               api_guest_offline_emit(&ask), IDLE_OFF_MS, ignore_state, NULL, &err);
}

static void do_hello(struct machine *v, struct rpc_call *call, const json_t *params)
{
        struct api_guest_hello hello;
        struct err err = {0};
        if (api_guest_hello_parse(params, &hello, &err)) {
                refuse(call, &err);
                return;
        }
        bool rebooted = *v->boot_id && strcmp(v->boot_id, hello.boot_id) != 0;
        v->greeted = true;
        v->guest = hello.state;
        v->memory_is_known = false; /* it may be in the middle of something */
        memcpy(v->boot_id, hello.boot_id, sizeof(v->boot_id));
        memcpy(v->agent_version, hello.agent, sizeof(v->agent_version));
        machine_note(v, v->definition.name, "agent", "agent %s greets, %zu vCPUs on line", hello.agent,
                     hello.state.n_cpus_online);
        if (rebooted) {
                hypervisor_vm_processes_gone(v->m->hv, v->definition.name, "the guest booted again",
                                             loop_now_ms());
                meted_changed(v->m);
        }
        struct api_guest_welcome welcome = {.version = API_GUEST_VERSION};
        memcpy(welcome.vm, v->definition.name, sizeof(welcome.vm));
        memcpy(welcome.features[welcome.n_features++], "hhi", sizeof("hhi"));
        for (size_t i = 0; i < hello.n_features; i++)
                if (strcmp(hello.features[i], "limits") == 0)
                        welcome.has_cpus_max = welcome.has_memory_max_bytes = true;
        welcome.cpus_max = v->definition.cpus_max;
        welcome.memory_max_bytes = v->definition.memory_max_bytes;
        rpc_reply(call, api_guest_welcome_emit(&welcome));
        idle_cpus_off(v);
        activate_agent_back(v);
        activate_hurry_back(v);
}

struct sync {
        struct machine *v;
        const struct api_guest_sync *theirs;
        struct api_guest_synced ours;
        GPtrArray *unknown; /* of keys */
};

static void sync_one(const struct request *r, void *arg)
{
        struct sync *s = arg;
        if (r->kind != REQUEST_APP || request_is_final(r) || strcmp(r->vm, s->v->definition.name) != 0)
                return;
        for (size_t i = 0; i < s->theirs->n_requests; i++) {
                if (strcmp(s->theirs->requests[i], r->id) != 0)
                        continue;
                if (r->state != REQUEST_RELEASING && s->ours.n_live < ARRAY_N(s->ours.live))
                        memcpy(s->ours.live[s->ours.n_live++], r->id, sizeof(s->ours.live[0]));
                return;
        }
        if (r->state != REQUEST_RELEASING)
                g_ptr_array_add(s->unknown, g_strdup(r->key));
}

static void do_sync(struct machine *v, struct rpc_call *call, const json_t *params)
{
        struct api_guest_sync *theirs = g_new(struct api_guest_sync, 1);
        struct sync *s = g_new0(struct sync, 1);
        struct err err = {0};
        if (api_guest_sync_parse(params, theirs, &err)) {
                refuse(call, &err);
        } else {
                uint64_t serial;
                s->v = v;
                s->theirs = theirs;
                s->unknown = g_ptr_array_new_with_free_func(g_free);
                hypervisor_each(v->m->hv, sync_one, s);
                for (guint i = 0; i < s->unknown->len; i++)
                        (void)hypervisor_release(v->m->hv, g_ptr_array_index(s->unknown, i),
                                                 "unknown to the guest", loop_now_ms(), &serial, &err);
                g_ptr_array_free(s->unknown, TRUE);
                meted_changed(v->m);
                rpc_reply(call, api_guest_synced_emit(&s->ours));
        }
        g_free(theirs);
        g_free(s);
}

/* Asked again when the move is over; of the agent that is there then. */
static bool is_moving(const struct machine *v, struct rpc_call *call)
{
        struct err err = {0};
        bool is_fixed = moves_is_fixed(v, &err) || handovers_is_fixed(v, &err);
        if (is_fixed)
                refuse(call, &err);
        return is_fixed;
}

static void do_reserve(struct machine *v, struct rpc_call *call, const json_t *params)
{
        struct api_guest_reserve in;
        struct need needs[NEEDS_MAX];
        struct err err = {0};
        uint64_t serial;
        if (api_guest_reserve_parse(params, &in, &err)) {
                refuse(call, &err);
                return;
        }
        struct ask ask = {
                .kind = REQUEST_APP,
                .vm = v->definition.name,
                .id = in.request,
                .application = in.application,
                .needs = needs,
                .n_needs = in.n_needs,
                .accepts_less = in.has_counter && in.counter == API_COUNTER_POLICY_LESS,
                .why = in.has_why ? in.why : NULL, /* in the log as its word */
                .end_ms = LEDGER_OPEN,
        };
        struct err stale;
        int bad = needs_from_api(in.needs, in.n_needs, needs, &err);
        if (!bad && in.has_host_generation &&
            hhi_is_stale(v, (uint64_t)in.host_generation, needs, in.n_needs, &stale))
                ask.stale = stale.sentence;
        if (bad && err.reason == REASON_UNSUPPORTED) {
                struct err why = err;
                bad = hypervisor_refuse(v->m->hv, &ask, REASON_UNSUPPORTED, why.sentence, loop_now_ms(),
                                        &serial, &err);
        } else if (!bad) {
                bad = hypervisor_ask(v->m->hv, &ask, loop_now_ms(), &serial, &err);
        }
        if (bad) {
                refuse(call, &err);
                return;
        }
        v->m->counters.decisions++;
        meted_wait(v->m, serial, WAIT_VERDICT, answer_verdict, call);
        meted_changed(v->m);
}

static void do_accept(struct machine *v, struct rpc_call *call, const json_t *params)
{
        struct api_guest_request_id in;
        struct err err = {0};
        uint64_t serial;
        char key[REQUEST_KEY];
        if (api_guest_request_id_parse(params, &in, &err)) {
                refuse(call, &err);
                return;
        }
        key_of(v, in.request, key);
        if (hypervisor_accept(v->m->hv, key, loop_now_ms(), &serial, &err))
                refuse(call, &err);
        else
                meted_wait(v->m, serial, WAIT_VERDICT, answer_verdict, call);
        meted_changed(v->m);
}

static void do_release(struct machine *v, struct rpc_call *call, const json_t *params)
{
        struct api_guest_release in;
        struct err err = {0};
        uint64_t serial;
        char key[REQUEST_KEY];
        if (api_guest_release_parse(params, &in, &err)) {
                refuse(call, &err);
                return;
        }
        key_of(v, in.request, key);
        const struct request *r = hypervisor_find(v->m->hv, key);
        if (in.has_why && r && request_is_live(r)) { /* said once, however often it is sent */
                char trace[REQUEST_TRACE];
                request_trace(r, trace);
                hypervisor_note(v->m->hv, loop_now_ms(), trace, key, "guest-says", "%s", in.why);
        }
        if (hypervisor_release(v->m->hv, key, api_release_cause_name(in.cause), loop_now_ms(), &serial, &err))
                refuse(call, &err);
        else
                meted_wait(v->m, serial, WAIT_RELEASE, answer_empty, call);
        meted_changed(v->m);
}

static void do_hhi_watch(struct machine *v, struct rpc_call *call, const json_t *params)
{
        struct api_guest_hhi_known in;
        struct err err = {0};
        if (api_guest_hhi_known_parse(params, &in, &err)) {
                refuse(call, &err);
                return;
        }
        rpc_reply(call, json_object());
        hhi_watch(v, (uint64_t)in.generation);
}

static void on_request(void *arg, struct rpc *rpc, struct rpc_call *call, const char *method,
                       const json_t *params)
{
        struct machine *v = arg;
        (void)rpc;
        enum api_guest_method which = api_guest_method_find(method);
        struct err err = {0};
        v->m->counters.guest_messages++;
        if (!v->greeted && which && which != API_GUEST_HELLO && which != API_GUEST_PING) {
                (void)err_set(&err, REASON_STALE, EPROTO, "say hello first");
                refuse(call, &err);
                return;
        }
        switch (which) {
        case API_GUEST_HELLO:
                do_hello(v, call, params);
                return;
        case API_GUEST_SYNC:
                do_sync(v, call, params);
                return;
        case API_GUEST_RESERVE:
                if (!is_moving(v, call))
                        do_reserve(v, call, params);
                return;
        case API_GUEST_ACCEPT:
                if (!is_moving(v, call))
                        do_accept(v, call, params);
                return;
        case API_GUEST_RELEASE:
                if (!is_moving(v, call))
                        do_release(v, call, params);
                return;
        case API_GUEST_HHI_WATCH:
                do_hhi_watch(v, call, params);
                return;
        case API_GUEST_PING:
                if (api_empty_parse(params, &(struct api_empty){0}, &err))
                        refuse(call, &err);
                else
                        rpc_reply(call, json_object());
                return;
        case API_GUEST_ONLINE:
        case API_GUEST_OFFLINE:
        case API_GUEST_GREET:
        case API_GUEST_ENDED:
        case API_GUEST_HHI:
        case API_GUEST_METHOD_N:
                break;
        }
        rpc_refuse_unknown(call, method);
}

/* ---- connection ---- */

static void on_lost(void *arg, struct rpc *rpc, const struct err *err)
{
        struct machine *v = arg;
        (void)rpc;
        log_info("VM %s: the channel to its agent closed: %s", v->definition.name, err->sentence);
        guest_disconnect(v);
        loop_timer_in(&v->agent_retry, AGENT_RETRY_MS);
}

void guest_connect(struct machine *v)
{
        struct err err = {0};
        char path[512];
        if (v->agent || !v->vm)
                return;
        machine_path(v, "agent.sock", path, sizeof(path));
        int fd = vm_connect(path, &err);
        struct rpc_options o = {
                .line_max = 65536,
                .send_max =
                        1 << 17, /* a part of host hardware information, escaped twice; agents take a MiB */
                .queue_max_bytes = 1 << 20,
                .calls_max = 128,
                .rate_per_s = (unsigned)v->m->config.rate_per_s,
                .burst = (unsigned)v->m->config.burst,
                .keep_on_overflow = true,
                .on_request = on_request,
                .on_lost = on_lost,
        };
        if (fd >= 0) {
                v->agent = rpc_new(fd, &o, v, &err);
                if (!v->agent)
                        close(fd);
        }
        if (!v->agent)
                loop_timer_in(&v->agent_retry, AGENT_RETRY_MS);
        else if (rpc_resync(v->agent, &err) == 0)
                /* The guest may not have seen that another connection went before this one. */
                (void)rpc_notify(v->agent, api_guest_methods[API_GUEST_GREET].name, NULL, &err);
}

void guest_disconnect(struct machine *v)
{
        struct rpc *rpc = v->agent;
        v->agent = NULL;
        v->greeted = false;
        hhi_unwatch(v);
        *v->agent_version = '\0';
        loop_timer_cancel(&v->agent_retry);
        rpc_counters_add(rpc, &v->m->counters.agents);
        rpc_free(rpc);
}

void guest_reconnect(struct machine *v)
{
        if (!v->agent)
                return;
        guest_disconnect(v);
        loop_timer_in(&v->agent_retry, 0);
}

void machine_lease_ended(struct meted *m, const struct request *r, enum reason reason, const char *sentence)
{
        struct machine *v = machine_find(m, r->vm);
        struct api_guest_ended p = {.reason = reason};
        struct err err = {0};
        if (!v || !v->greeted)
                return; /* it learns of it when it next synchronises */
        memcpy(p.request, r->id, sizeof(p.request));
        (void)snprintf(p.sentence, sizeof(p.sentence), "%s", sentence);
        (void)rpc_notify(v->agent, api_guest_methods[API_GUEST_ENDED].name, api_guest_ended_emit(&p), &err);
}
