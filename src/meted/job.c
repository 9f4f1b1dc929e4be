/* SPDX-License-Identifier: Apache-2.0 */
/* meted/job.c - the steps by which things become usable and are taken back, in the order in which they run.
 *
 *   up, VM:          launch, attach, place base vCPUs, run
 *   up, application: measure the guest's memory, plug vCPUs and place them, plug memory, guest puts on line
 *   down, application: guest takes vCPUs off line, vCPUs back (unplugged or parked), memory back
 *   down, VM:        end the VMM, drop what it left
 *
 * A step that finds its state reached already does nothing. Going up, the first failure ends the job and is
 * reported; the hypervisor then asks for the way down, which undoes whatever was done. Going down, a step
 * that fails does not keep the others from trying; what is not back is tried again. */
#include "meted/job.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/str.h"
#include "meted/crash.h"
#include "meted/machine.h"
#include "vm/argv.h"
#include "vm/socket.h"

enum {
        KEEPER_MS = 20000,
        ATTACH_MS = 15000,
        PLUG_MS = 15000,
        UNPLUG_MS = 10000,
        OFFLINE_MS = 5000,
        AGENT_WAIT_MS = 500,
        HURRY_MS = 200,
        RETRY_FIRST_MS = 2000,
        RETRY_MAX_MS = 60000,
};

enum step_kind {
        STEP_LAUNCH = 1,
        STEP_ATTACH,
        STEP_MEASURE,
        STEP_CPU,
        STEP_PLACE,
        STEP_MEMORY,
        STEP_ONLINE,
        STEP_RUN,
        STEP_OFFLINE,
        STEP_CPU_BACK,
        STEP_PARK,
        STEP_MEMORY_BACK,
        STEP_KILL,
        STEP_DROP,
        STEP_N
};

struct step {
        enum step_kind kind;
        int slot;
        uint32_t component;
        int64_t amount;
};

struct job {
        struct machine *v;
        uint64_t serial;
        char trace[REQUEST_TRACE];
        bool is_up;
        bool is_vm;
        struct agent_call *call; /* unanswered */
        bool is_dropped;         /* nobody is interested in its end any more */
        bool is_adoption;
        size_t n_steps, at;
        struct step *steps;
        struct err held; /* down: why something is not back */
        int64_t started_mono_ms, deadline_mono_ms;
        struct loop_timer timer; /* waits for the agent */
        int64_t memory_before, memory_new;
        int retry_ms;
};

struct agent_call;

struct retry {
        struct machine *v;
        uint64_t serial;
        int in_ms;
        bool is_hurried;
        struct loop_timer timer;
};

static void job_step(struct job *j);
static void step_done(struct job *j, const struct err *err);

/* ---- queue ---- */

static void job_free(struct job *j)
{
        loop_timer_cancel(&j->timer);
        g_free(j->steps);
        g_free(j);
}

static void job_start_next(struct machine *v)
{
        struct job *j = g_queue_peek_head(&v->jobs);
        if (!j)
                return;
        j->started_mono_ms = loop_mono_ms();
        j->deadline_mono_ms = j->started_mono_ms + v->m->config.activation_ms;
        job_step(j);
}

static void job_push(struct job *j)
{
        struct machine *v = j->v;
        g_queue_push_tail(&v->jobs, j);
        if (g_queue_get_length(&v->jobs) == 1)
                job_start_next(v);
}

static void on_agent_wait(void *arg)
{
        job_step(arg);
}

static struct job *job_new(struct machine *v, const struct request *r, bool up)
{
        struct job *j = g_new0(struct job, 1);
        j->v = v;
        j->serial = r->serial;
        j->is_up = up;
        j->is_vm = r->kind == REQUEST_VM;
        j->retry_ms = RETRY_FIRST_MS;
        j->steps = g_new0(struct step, 2 * r->n_claims + 4);
        request_trace(r, j->trace);
        loop_timer_init(&j->timer, on_agent_wait, j);
        return j;
}

static void add(struct job *j, enum step_kind kind, const struct request_claim *c)
{
        struct step *s = &j->steps[j->n_steps++];
        s->kind = kind;
        if (c) {
                s->slot = c->slot;
                s->component = c->component;
                s->amount = c->amount;
        }
}

static bool is_cpu(const struct job *j, const struct request_claim *c)
{
        return j->v->m->inventory.components[c->component].kind == COMPONENT_CPU;
}

/* One step, or two, for each claim of a kind. */
static void add_each(struct job *j, const struct request *r, bool cpu, enum step_kind first,
                     enum step_kind second)
{
        for (size_t i = 0; i < r->n_claims; i++) {
                if (is_cpu(j, &r->claims[i]) != cpu || r->claims[i].slot < 0)
                        continue;
                add(j, first, &r->claims[i]);
                if (second)
                        add(j, second, &r->claims[i]);
        }
}

/* Asked for again, as after a transaction that failed, while it is under way or waits for its next try. */
static bool is_under_way(const struct machine *v, uint64_t serial, bool up)
{
        for (const GList *l = v->jobs.head; l; l = l->next) {
                const struct job *j = l->data;
                if (j->serial == serial && j->is_up == up)
                        return true;
        }
        for (const GList *l = v->retries; l && !up; l = l->next)
                if (((const struct retry *)l->data)->serial == serial)
                        return true;
        return false;
}

void job_activate(struct meted *m, const struct request *r)
{
        struct machine *v = machine_find(m, r->vm);
        assert(v); /* requests of VMs that are not defined are not restored */
        if (is_under_way(v, r->serial, true))
                return;
        struct job *j = job_new(v, r, true);
        if (j->is_vm) {
                add(j, STEP_LAUNCH, NULL);
                add(j, STEP_ATTACH, NULL);
                add_each(j, r, true, STEP_PLACE, 0);
                add(j, STEP_RUN, NULL);
        } else {
                add(j, STEP_MEASURE, NULL);
                add_each(j, r, true, STEP_CPU, STEP_PLACE);
                add_each(j, r, false, STEP_MEMORY, 0);
                add(j, STEP_ONLINE, NULL);
        }
        job_push(j);
}

void job_adopt(struct machine *v)
{
        const struct request *base = machine_base(v);
        if (!v->pid) {
                machine_died(v, "its VMM ended while meted was away");
                return;
        }
        struct job *j = job_new(v, base, true);
        j->is_adoption = true;
        add(j, STEP_ATTACH, NULL);
        add_each(j, base, true, STEP_PLACE, 0);
        add(j, STEP_RUN, NULL);
        job_push(j);
}

/* The VM goes: whatever step waits for its VMM or its agent is answered now, so that nothing stands in the
 * queue before the end. */
static void hang_up(struct machine *v)
{
        struct vm *vm = v->vm;
        guest_disconnect(v);
        v->vm = NULL;
        vm_free(vm);
        struct job *j = g_queue_peek_head(&v->jobs);
        if (j && loop_timer_is_set(&j->timer))
                loop_timer_in(&j->timer, 0);
}

void job_deactivate(struct meted *m, const struct request *r)
{
        struct machine *v = machine_find(m, r->vm);
        assert(v);
        if (is_under_way(v, r->serial, false))
                return;
        struct job *j = job_new(v, r, false);
        if (j->is_vm) {
                add(j, STEP_KILL, NULL);
                add(j, STEP_DROP, NULL);
                hang_up(v);
        } else {
                add(j, STEP_OFFLINE, NULL);
                add_each(j, r, true, STEP_CPU_BACK, STEP_PARK);
                add_each(j, r, false, STEP_MEMORY_BACK, 0);
        }
        job_push(j);
}

/* ---- the end of a job ---- */

static void retry_free(struct retry *t)
{
        t->v->retries = g_list_remove(t->v->retries, t);
        loop_timer_cancel(&t->timer);
        g_free(t);
}

static void on_retry(void *arg)
{
        struct retry *t = arg;
        struct machine *v = t->v;
        int in_ms = t->in_ms;
        const struct request *r = hypervisor_request(v->m->hv, t->serial);
        retry_free(t);
        if (!r || r->state != REQUEST_RELEASING)
                return;
        job_deactivate(v->m, r);
        struct job *j = g_queue_peek_tail(&v->jobs);
        if (j && j->serial == r->serial)
                j->retry_ms = in_ms * 2 < RETRY_MAX_MS ? in_ms * 2 : RETRY_MAX_MS;
}

static void retry_later(struct job *j)
{
        struct retry *t = g_new0(struct retry, 1);
        t->v = j->v;
        t->serial = j->serial;
        t->in_ms = j->retry_ms;
        loop_timer_init(&t->timer, on_retry, t);
        loop_timer_in(&t->timer, t->in_ms);
        j->v->retries = g_list_append(j->v->retries, t);
}

/* Soon, but not at once: the guest decides how often it speaks. */
void jobs_retry(struct machine *v)
{
        for (GList *l = v->retries; l; l = l->next) {
                struct retry *t = l->data;
                if (t->is_hurried)
                        continue;
                t->is_hurried = true;
                t->in_ms = RETRY_FIRST_MS;
                loop_timer_in(&t->timer, HURRY_MS);
        }
}

void jobs_drop(struct machine *v)
{
        while (v->retries)
                retry_free(v->retries->data);
        struct job *j = g_queue_pop_head(&v->jobs);
        if (j) {
                j->is_dropped = true; /* its step is under way; step_done() frees it */
                if (loop_timer_is_set(&j->timer))
                        job_free(j);
        }
        while ((j = g_queue_pop_head(&v->jobs)))
                job_free(j);
}

/* Only that nobody listens any more, or that it is not the VMM that it should be, is the end of it. What else
 * fails (a VMM or a keeper that is slow to answer) is no reason to take a running VM from its user. */
static void adoption_failed(struct machine *v, const struct err *err)
{
        if (v->is_dead || err->reason == REASON_PEER_LOST || err->reason == REASON_INCOMPATIBLE) {
                machine_died(v, err->sentence);
                return;
        }
        guest_disconnect(v);
        vm_free(v->vm); /* a connection that was not ready in time is of no more use */
        v->vm = NULL;
        log_warn("VM %s is not adopted yet: %s", v->definition.name, err->sentence);
        machine_note(v, v->definition.name, "adopt-failed", "%.150s; will try again", err->sentence);
        loop_timer_in(&v->adopt_retry, RETRY_FIRST_MS);
}

static void job_end(struct job *j, const struct err *err)
{
        struct machine *v = j->v;
        struct meted *m = v->m;
        int64_t now = loop_now_ms();
        (void)g_queue_pop_head(&v->jobs);
        if (j->is_up && !err) {
                if (j->is_adoption)
                        machine_note(v, v->definition.name, "adopted", "VMM %d runs on, meted is back",
                                     (int)v->pid);
                else
                        hypervisor_activated(m->hv, j->serial, now);
        } else if (j->is_up && j->is_adoption) {
                adoption_failed(v, err);
        } else if (j->is_up) {
                hypervisor_failed(m->hv, j->serial, err, now);
        } else if (j->held.code) {
                machine_note(v, j->trace, "still-held", "%.150s", j->held.sentence);
                retry_later(j);
        } else if (j->is_vm) {
                hypervisor_vm_gone(m->hv, v->definition.name, *v->ended ? v->ended : "its VMM has ended",
                                   now);
        } else {
                hypervisor_taken_back(m->hv, j->serial, now);
        }
        job_free(j);
        meted_changed(m);
        job_start_next(v);
}

/* ---- steps ---- */

static void vm_step_done(void *arg, const struct vm_result *result)
{
        struct job *j = arg;
        bool good = result->outcome == VM_DONE || result->outcome == VM_PARKED;
        step_done(j, good ? NULL : &result->err);
}

static void keeper_step_done(void *arg, const json_t *result, const struct err *err)
{
        (void)result;
        step_done(arg, err);
}

static json_t *vm_params(const struct machine *v)
{
        struct api_keeper_vm p;
        memcpy(p.vm, v->definition.name, sizeof(p.vm));
        return api_keeper_vm_emit(&p);
}

static void no_vmm(struct job *j)
{
        struct err err = {0};
        (void)err_set(&err, REASON_STALE, ECHILD, "the VMM of %s is not there", j->v->definition.name);
        step_done(j, &err);
}

/* launch */

static void take_vmm(struct machine *v, const struct api_keeper_vmm *vmm)
{
        v->pid = (pid_t)vmm->pid;
        (void)snprintf(v->ram_dir, sizeof(v->ram_dir), "%s", vmm->ram_dir);
}

static void on_vmm_list(void *arg, const json_t *result, const struct err *err)
{
        struct job *j = arg;
        struct api_keeper_vmm_list *list = g_new0(struct api_keeper_vmm_list, 1);
        struct err bad = {0};
        if (!err && api_keeper_vmm_list_parse(result, list, &bad))
                err = &bad;
        if (!err && !j->is_dropped) {
                for (size_t i = 0; i < list->n_vmms; i++)
                        if (strcmp(list->vmms[i].vm, j->v->definition.name) == 0)
                                take_vmm(j->v, &list->vmms[i]);
                if (!j->v->pid)
                        err = &bad,
                        (void)err_set(&bad, REASON_INTERNAL, ECHILD, "the keeper has lost its VMM");
        }
        g_free(list);
        step_done(j, err);
}

static void on_vmm_started(void *arg, const json_t *result, const struct err *err)
{
        struct job *j = arg;
        struct api_keeper_vmm vmm;
        struct err bad = {0};
        if (err && err->reason == REASON_BUSY && !j->is_dropped) {
                /* Started before, and the answer was lost: who is it? */
                keeper_call(j->v->m->keeper, API_KEEPER_VMM_LIST, NULL, NULL, 0, KEEPER_MS, on_vmm_list, j);
                return;
        }
        if (!err && api_keeper_vmm_parse(result, &vmm, &bad))
                err = &bad;
        if (!err && !j->is_dropped)
                take_vmm(j->v, &vmm);
        step_done(j, err);
}

static int make_dir(const char *path, struct err *err)
{
        if (mkdir(path, 0700) < 0 && errno != EEXIST)
                return err_set(err, REASON_INTERNAL, errno, "cannot make %s: %s", path, strerror(errno));
        return 0;
}

static int launch(struct job *j, struct err *err)
{
        struct machine *v = j->v;
        static const char *const names[VM_FD_N] = {[VM_FD_QMP] = "qmp.sock",
                                                   [VM_FD_OOB] = "oob.sock",
                                                   [VM_FD_AGENT] = "agent.sock",
                                                   [VM_FD_CONSOLE] = "console.sock",
                                                   [VM_FD_CONSOLE_LOG] = "console.log"};
        struct vm_argv_options o = {.image_dir = v->m->config.image_dir, .ram_dir = "@RAM@", .first_fd = 3};
        struct vm_argv argv = {0};
        int fds[VM_FD_N] = {-1, -1, -1, -1, -1};
        char path[512];
        (void)snprintf(path, sizeof(path), "%s/vm", v->m->config.run_dir);
        int bad = make_dir(path, err);
        machine_path(v, "", path, sizeof(path));
        if (!bad)
                bad = make_dir(path, err);
        for (int i = 0; i < VM_FD_N && !bad; i++) {
                machine_path(v, names[i], path, sizeof(path));
                fds[i] = i == VM_FD_CONSOLE_LOG ? vm_console_open(path, err) : vm_listen(path, err);
                bad = fds[i] < 0 ? fds[i] : 0;
        }
        if (!bad)
                bad = vm_argv_make(&v->definition, &o, &argv, err);
        struct api_keeper_vmm_start *start = g_new0(struct api_keeper_vmm_start, 1);
        if (!bad && argv.n > ARRAY_N(start->argv))
                bad = err_set(err, REASON_INTERNAL, E2BIG, "too many arguments");
        if (!bad) {
                (void)snprintf(start->vm, sizeof(start->vm), "%s", v->definition.name);
                start->slot = v->uid_slot;
                start->fds = VM_FD_N;
                start->memory_bytes = argv.memory_bytes;
                for (size_t i = 0; i < argv.n && !bad; i++)
                        if (!STR_COPY(start->argv[start->n_argv++], argv.args[i]))
                                bad = err_set(err, REASON_INVALID, E2BIG,
                                              "an argument of the VMM is too long");
        }
        if (!bad)
                keeper_call(v->m->keeper, API_KEEPER_VMM_START, api_keeper_vmm_start_emit(start), fds,
                            VM_FD_N, KEEPER_MS, on_vmm_started, j);
        g_free(start);
        vm_argv_done(&argv);
        for (int i = 0; i < VM_FD_N; i++)
                if (fds[i] >= 0)
                        close(fds[i]); /* ours must not keep the port open when the VMM dies */
        return bad;
}

static void step_launch(struct job *j, const struct step *s)
{
        struct err err = {0};
        (void)s;
        *j->v->ended = '\0';
        j->v->is_dead = false;
        if (j->v->pid || j->v->vm)
                step_done(j, NULL);
        else if (launch(j, &err))
                step_done(j, &err);
}

/* attach */

static void ignore_answer(void *arg, const json_t *result, const struct err *err)
{
        (void)arg;
        (void)result;
        if (err)
                log_warn("mete-keeper: %s", err->sentence);
}

static void park_unasked(struct machine *v, int slot)
{
        struct api_keeper_thread p;
        const struct vm_cpu *cpu = vm_cpu(v->vm, slot);
        if (!cpu->plugged || cpu->tid <= 0)
                return;
        memcpy(p.vm, v->definition.name, sizeof(p.vm));
        p.tid = cpu->tid;
        keeper_call(v->m->keeper, API_KEEPER_CPU_PARK, api_keeper_thread_emit(&p), NULL, 0, KEEPER_MS,
                    ignore_answer, NULL);
}

static void on_vm_event(void *arg, struct vm *vm, enum vm_event event, int index, const char *words)
{
        struct machine *v = arg;
        (void)vm;
        switch (event) {
        case VM_EVENT_SHUTDOWN:
                (void)snprintf(v->ended, sizeof(v->ended), "%s",
                               words && *words ? words : "the guest shut down");
                break;
        case VM_EVENT_RESET:
                machine_note(v, v->definition.name, "reset", "the guest boots again");
                hypervisor_vm_processes_gone(v->m->hv, v->definition.name, "the guest booted again",
                                             loop_now_ms());
                meted_changed(v->m);
                break;
        case VM_EVENT_PANIC:
                machine_note(v, v->definition.name, "panic", "the guest's kernel stopped");
                break;
        case VM_EVENT_DIMM_GONE:
        case VM_EVENT_CPU_GONE:
                v->memory_is_known = false;
                jobs_retry(v);
                break;
        case VM_EVENT_CPU_NEW:
                park_unasked(v, index);
                break;
        case VM_EVENT_STOP:
        case VM_EVENT_RESUME:
        case VM_EVENT_N:
                break;
        }
}

static void on_vm_death(void *arg, struct vm *vm, const struct err *why)
{
        struct machine *v = arg;
        (void)vm;
        machine_died(v, *v->ended ? v->ended : why->sentence);
}

static void on_attached(void *arg, const struct vm_result *result)
{
        struct machine *v = arg;
        struct job *j = v->attaching;
        v->attaching = NULL;
        if (result->outcome == VM_DONE && !j->is_dropped)
                guest_connect(j->v);
        vm_step_done(j, result);
}

static void step_attach(struct job *j, const struct step *s)
{
        struct machine *v = j->v;
        (void)s;
        if (v->vm) {
                step_done(j, NULL);
                return;
        }
        char qmp[512], oob[512];
        machine_path(v, "qmp.sock", qmp, sizeof(qmp));
        machine_path(v, "oob.sock", oob, sizeof(oob));
        struct vm_options o = {
                .sum = &v->m->counters.monitors,
                .definition = &v->definition,
                .qmp_path = qmp,
                .oob_path = oob,
                .ram_dir = v->ram_dir,
                .on_event = on_vm_event,
                .on_death = on_vm_death,
        };
        struct err err = {0};
        v->attaching = j;
        v->vm = vm_attach(&o, ATTACH_MS, on_attached, v, &err);
        if (!v->vm) {
                v->attaching = NULL;
                step_done(j, &err);
        }
}

/* vCPUs */

static void step_cpu(struct job *j, const struct step *s)
{
        if (!j->v->vm)
                no_vmm(j);
        else
                vm_cpu_ensure(j->v->vm, s->slot, PLUG_MS, vm_step_done, j);
}

static void step_place(struct job *j, const struct step *s)
{
        struct machine *v = j->v;
        const struct vm_cpu *cpu = v->vm ? vm_cpu(v->vm, s->slot) : NULL;
        if (!cpu || !cpu->plugged || cpu->tid <= 0) {
                no_vmm(j);
                return;
        }
        if (j->is_adoption && !v->m->inventory.components[s->component].healthy) {
                step_done(j, NULL); /* the CPU is gone, its VM is not: it runs where the kernel has put it */
                return;
        }
        struct api_keeper_cpu_place *p = g_new0(struct api_keeper_cpu_place, 1);
        (void)snprintf(p->vm, sizeof(p->vm), "%s", v->definition.name);
        p->tid = cpu->tid;
        p->cpus[p->n_cpus++] = v->m->inventory.components[s->component].os_index;
        p->share_milli = s->amount;
        keeper_call(v->m->keeper, API_KEEPER_CPU_PLACE, api_keeper_cpu_place_emit(p), NULL, 0, KEEPER_MS,
                    keeper_step_done, j);
        g_free(p);
}

static void step_run(struct job *j, const struct step *s)
{
        (void)s;
        if (!j->v->vm)
                no_vmm(j);
        else if (vm_run(j->v->vm) == VM_RUN_RUNNING)
                step_done(j, NULL);
        else
                vm_cont(j->v->vm, PLUG_MS, vm_step_done, j);
}

/* memory */

static void step_memory(struct job *j, const struct step *s)
{
        if (!j->v->vm) {
                no_vmm(j);
                return;
        }
        if (!vm_dimm(j->v->vm, s->slot)->plugged)
                j->memory_new += s->amount;
        j->v->memory_is_known = false;
        vm_memory_ensure(j->v->vm, s->slot, s->amount, PLUG_MS, vm_step_done, j);
}

/* the guest's word */

/* The agent may be restarting: wait for it, up to the job's deadline. */
static void wait_for_agent(struct job *j)
{
        int64_t left = j->deadline_mono_ms - loop_mono_ms();
        if (left > 0) {
                loop_timer_in(&j->timer, left < AGENT_WAIT_MS ? left : AGENT_WAIT_MS);
                return;
        }
        struct err err = {0};
        (void)err_set(&err, REASON_TIMEOUT, ETIMEDOUT, "the agent in the guest did not answer in time");
        step_done(j, &err);
}

/* A call to the agent. Its answer may never come: an agent that starts again has lost it. */
struct agent_call {
        struct job *j; /* NULL: abandoned */
        rpc_done_fn *done;
};

static void on_agent_answer(void *arg, const json_t *result, const struct err *err)
{
        struct agent_call *c = arg;
        struct job *j = c->j;
        rpc_done_fn *done = c->done;
        g_free(c);
        if (!j)
                return;
        j->call = NULL;
        done(j, result, err);
}

static void ask_agent(struct job *j, enum api_guest_method method, json_t *params, int64_t timeout_ms,
                      rpc_done_fn *done)
{
        struct err err = {0};
        j->call = g_new0(struct agent_call, 1);
        j->call->j = j;
        j->call->done = done;
        if (rpc_call(j->v->agent, api_guest_methods[method].name, params, timeout_ms, on_agent_answer,
                     j->call, &err))
                on_agent_answer(j->call, NULL, &err); /* it could not even be sent */
}

void jobs_agent_back(struct machine *v)
{
        struct job *j = g_queue_peek_head(&v->jobs);
        if (!j || (!j->call && !loop_timer_is_set(&j->timer)))
                return;
        if (j->call)
                j->call->j = NULL;
        j->call = NULL;
        loop_timer_in(&j->timer, 0); /* the step again, with the agent that is there now */
}

static bool agent_lost(const struct err *err)
{
        return err && (err->reason == REASON_PEER_LOST || err->reason == REASON_CANCELLED);
}

static bool take_guest_state(struct job *j, const json_t *result, struct err *bad)
{
        struct api_guest_state state;
        if (api_guest_state_parse(result, &state, bad))
                return false;
        j->v->guest = state;
        return true;
}

static void measured(struct job *j)
{
        j->v->memory_is_known = true;
        j->memory_before = j->v->guest.memory_bytes;
}

static void on_measured(void *arg, const json_t *result, const struct err *err)
{
        struct job *j = arg;
        struct err bad = {0};
        if (!j->is_dropped && agent_lost(err)) {
                wait_for_agent(j);
                return;
        }
        if (!j->is_dropped && !err) {
                if (!take_guest_state(j, result, &bad))
                        err = &bad;
                else
                        measured(j);
        }
        step_done(j, err);
}

static bool has_memory(const struct job *j)
{
        for (size_t i = 0; i < j->n_steps; i++)
                if (j->steps[i].kind == STEP_MEMORY)
                        return true;
        return false;
}

static void step_measure(struct job *j, const struct step *s)
{
        struct api_guest_online ask = {0};
        (void)s;
        if (!has_memory(j)) {
                step_done(j, NULL);
        } else if (!j->v->greeted) {
                wait_for_agent(j);
        } else if (j->v->memory_is_known) {
                /* Its last word, with nothing plugged or taken back since. What its users put off line in
                 * between, it will put on line again. */
                measured(j);
                step_done(j, NULL);
        } else {
                ask_agent(j, API_GUEST_ONLINE, api_guest_online_emit(&ask), OFFLINE_MS, on_measured);
        }
}

/* How much the guest must have on line: what it had and what is new; or, where the memory was plugged before
 * a restart of meted, what its definition and its leases add up to. */
struct sum {
        const struct job *j;
        int64_t bytes;
};

static void add_leased(const struct request *r, void *arg)
{
        struct sum *sum = arg;
        if (r->kind != REQUEST_APP || strcmp(r->vm, sum->j->v->definition.name) != 0)
                return;
        if (r->state != REQUEST_GRANTED && r->serial != sum->j->serial)
                return;
        for (size_t i = 0; i < r->n_claims; i++)
                if (!is_cpu(sum->j, &r->claims[i]))
                        sum->bytes += r->claims[i].amount;
}

static int64_t memory_wanted(const struct job *j)
{
        if (!has_memory(j))
                return 0;
        if (j->memory_new)
                return j->memory_before + j->memory_new;
        struct sum sum = {.j = j, .bytes = j->v->definition.memory_bytes};
        hypervisor_each(j->v->m->hv, add_leased, &sum);
        return sum.bytes;
}

static bool has_cpu(const struct api_guest_state *state, int slot)
{
        for (size_t i = 0; i < state->n_cpus_online; i++)
                if (state->cpus_online[i] == slot)
                        return true;
        return false;
}

static void on_online(void *arg, const json_t *result, const struct err *err)
{
        struct job *j = arg;
        struct err bad = {0};
        if (!j->is_dropped && agent_lost(err)) {
                wait_for_agent(j);
                return;
        }
        if (!j->is_dropped && !err && !take_guest_state(j, result, &bad))
                err = &bad;
        if (!j->is_dropped && !err) {
                const struct api_guest_state *g = &j->v->guest;
                for (size_t i = 0; i < j->n_steps && !err; i++)
                        if (j->steps[i].kind == STEP_CPU && !has_cpu(g, j->steps[i].slot))
                                err = &bad,
                                (void)err_set(&bad, REASON_TIMEOUT, ETIMEDOUT,
                                              "the guest did not put vCPU %d on line%s%s", j->steps[i].slot,
                                              g->has_problem ? ": " : "", g->has_problem ? g->problem : "");
                if (!err && g->memory_bytes < memory_wanted(j))
                        err = &bad,
                        (void)err_set(&bad, REASON_TIMEOUT, ETIMEDOUT,
                                      "the guest has %" PRId64 " bytes of memory on line, %" PRId64
                                      " were to be%s%s",
                                      g->memory_bytes, memory_wanted(j), g->has_problem ? ": " : "",
                                      g->has_problem ? g->problem : "");
                j->v->memory_is_known = !err;
        }
        step_done(j, err);
}

static void step_online(struct job *j, const struct step *s)
{
        (void)s;
        if (!j->v->greeted) {
                wait_for_agent(j);
                return;
        }
        int64_t left = j->deadline_mono_ms - loop_mono_ms();
        struct api_guest_online ask = {.has_timeout_ms = true,
                                       .timeout_ms = left > 2000 ? left - 1000 : 1000};
        ask.memory_bytes = memory_wanted(j);
        for (size_t i = 0; i < j->n_steps; i++)
                if (j->steps[i].kind == STEP_CPU)
                        ask.cpus[ask.n_cpus++] = j->steps[i].slot;
        ask_agent(j, API_GUEST_ONLINE, api_guest_online_emit(&ask), ask.timeout_ms + 1000, on_online);
}

/* the way back */

static void on_offline(void *arg, const json_t *result, const struct err *err)
{
        struct job *j = arg;
        struct err bad = {0};
        if (!j->is_dropped && !err)
                (void)take_guest_state(j, result, &bad);
        /* Without its consent the vCPU is parked all the same: the guest never keeps the host's CPU. */
        step_done(j, NULL);
}

static void step_offline(struct job *j, const struct step *s)
{
        struct api_guest_offline ask = {0};
        (void)s;
        for (size_t i = 0; i < j->n_steps; i++)
                if (j->steps[i].kind == STEP_CPU_BACK)
                        ask.cpus[ask.n_cpus++] = j->steps[i].slot;
        int64_t waited = loop_mono_ms() - j->started_mono_ms;
        if (ask.n_cpus && !j->v->greeted && waited < OFFLINE_MS)
                loop_timer_in(&j->timer, OFFLINE_MS - waited); /* or until it greets: jobs_agent_back() */
        else if (!ask.n_cpus || !j->v->greeted)
                step_done(j, NULL);
        else
                ask_agent(j, API_GUEST_OFFLINE, api_guest_offline_emit(&ask), OFFLINE_MS, on_offline);
}

/* A guest that does not let go of its vCPU keeps an idle slot, not the host's CPU: it is parked next. */
static void on_cpu_back(void *arg, const struct vm_result *result)
{
        step_done(arg, result->outcome == VM_FAILED ? &result->err : NULL);
}

static void step_cpu_back(struct job *j, const struct step *s)
{
        if (!j->v->vm)
                no_vmm(j);
        else if (!vm_cpu(j->v->vm, s->slot)->plugged)
                step_done(j, NULL);
        else
                vm_cpu_remove(j->v->vm, s->slot, UNPLUG_MS, on_cpu_back, j);
}

/* Only what could not be unplugged. */
static void step_park(struct job *j, const struct step *s)
{
        const struct vm_cpu *cpu = j->v->vm ? vm_cpu(j->v->vm, s->slot) : NULL;
        if (!cpu || !cpu->plugged || cpu->tid <= 0) {
                step_done(j, NULL);
                return;
        }
        struct api_keeper_thread p;
        memcpy(p.vm, j->v->definition.name, sizeof(p.vm));
        p.tid = cpu->tid;
        keeper_call(j->v->m->keeper, API_KEEPER_CPU_PARK, api_keeper_thread_emit(&p), NULL, 0, KEEPER_MS,
                    keeper_step_done, j);
}

static void step_memory_back(struct job *j, const struct step *s)
{
        j->v->memory_is_known = false;
        if (!j->v->vm)
                no_vmm(j);
        else
                vm_memory_remove(j->v->vm, s->slot, UNPLUG_MS, vm_step_done, j);
}

static void step_kill(struct job *j, const struct step *s)
{
        (void)s;
        guest_disconnect(j->v);
        keeper_call(j->v->m->keeper, API_KEEPER_VMM_KILL, vm_params(j->v), NULL, 0, KEEPER_MS,
                    keeper_step_done, j);
}

static void step_drop(struct job *j, const struct step *s)
{
        struct machine *v = j->v;
        (void)s;
        vm_free(v->vm); /* its death has been seen; nothing of it is left to ask */
        v->vm = NULL;
        v->pid = 0;
        v->is_dead = false;
        keeper_call(v->m->keeper, API_KEEPER_VM_DROP, vm_params(v), NULL, 0, KEEPER_MS, keeper_step_done, j);
}

static const struct {
        const char *name;
        void (*run)(struct job *j, const struct step *s);
} step_rows[STEP_N] = {
        [STEP_LAUNCH] = {"launch",        step_launch     },
        [STEP_ATTACH] = {"attach",        step_attach     },
        [STEP_MEASURE] = {"measure",       step_measure    },
        [STEP_CPU] = {"plug-cpu",      step_cpu        },
        [STEP_PLACE] = {"place-cpu",     step_place      },
        [STEP_MEMORY] = {"plug-memory",   step_memory     },
        [STEP_ONLINE] = {"guest-online",  step_online     },
        [STEP_RUN] = {"run",           step_run        },
        [STEP_OFFLINE] = {"guest-offline", step_offline    },
        [STEP_CPU_BACK] = {"cpu-back",      step_cpu_back   },
        [STEP_PARK] = {"park-cpu",      step_park       },
        [STEP_MEMORY_BACK] = {"memory-back",   step_memory_back},
        [STEP_KILL] = {"kill",          step_kill       },
        [STEP_DROP] = {"drop",          step_drop       },
};

/* Going up makes sense only while the request is still to be activated. */
static bool is_still_wanted(const struct job *j)
{
        const struct request *r = hypervisor_request(j->v->m->hv, j->serial);
        const struct request *base = machine_base(j->v);
        if (j->is_adoption)
                return r && r->state == REQUEST_GRANTED;
        if (!j->is_vm && (!base || base->state != REQUEST_GRANTED))
                return false; /* the VM goes, and takes everything with it */
        return r && r->state == (j->is_up ? REQUEST_ACTIVATING : REQUEST_RELEASING);
}

static void job_step(struct job *j)
{
        struct machine *v = j->v;
        if (!is_still_wanted(j)) {
                (void)g_queue_pop_head(&v->jobs);
                job_free(j);
                job_start_next(v);
                return;
        }
        if (j->at == j->n_steps) {
                job_end(j, NULL);
                return;
        }
        const struct step *s = &j->steps[j->at];
        crash_point(step_rows[s->kind].name);
        step_rows[s->kind].run(j, s);
}

static void step_done(struct job *j, const struct err *err)
{
        if (j->is_dropped) {
                job_free(j);
                return;
        }
        const struct step *s = &j->steps[j->at];
        if (err && j->is_up) {
                struct err why = *err;
                err_note(&why, "%s", step_rows[s->kind].name);
                job_end(j, &why);
                return;
        }
        if (err)
                j->held = *err;
        j->at++;
        job_step(j);
}
