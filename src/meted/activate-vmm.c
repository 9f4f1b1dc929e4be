/* SPDX-License-Identifier: Apache-2.0 */
/* Base memory is the VMM itself: launched with its vCPUs stopped, attached to, let run once all else is in
 * place, ended. A VM with base memory on several nodes has several such items; the first does the work. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/str.h"
#include "meted/activate-internal.h"
#include "meted/activate.h"
#include "meted/handover.h"
#include "meted/moves.h"
#include "vm/argv.h"
#include "vm/socket.h"

enum { ATTACH_MS = 15000, PREALLOC_BYTES_PER_MS = 1 << 17 /* 4 KiB pages of a slow machine */ };

static json_t *vm_params(const struct machine *v)
{
        struct api_keeper_vm p;
        memcpy(p.vm, v->definition.name, sizeof(p.vm));
        return api_keeper_vm_emit(&p);
}

/* ---- prepare: where its sockets will be ---- */

static int make_dir(const char *path, struct err *err)
{
        if (mkdir(path, 0700) < 0 && errno != EEXIST)
                return err_set(err, REASON_INTERNAL, errno, "cannot make %s: %s", path, strerror(errno));
        return 0;
}

/* QEMU would say it too, but only to its log. */
int find_images(const struct meted *m, const struct api_vm_definition *d, struct err *err)
{
        const struct {
                bool is_wanted;
                const char *what, *name;
        } files[] = {
                {d->has_kernel, "kernel",           d->kernel},
                {d->has_initrd, "initial RAM disk", d->initrd},
                {d->has_disk,   "disk",             d->disk  }
        };
        for (size_t i = 0; i < ARRAY_N(files); i++) {
                char path[PATH_MAX];
                struct stat st;
                (void)snprintf(path, sizeof(path), "%s/%s", m->config.image_dir, files[i].name);
                if (files[i].is_wanted && stat(path, &st) < 0)
                        return err_set(err, REASON_NOT_FOUND, errno, "the %s %s of VM %s: %s", files[i].what,
                                       path, d->name, strerror(errno));
        }
        return 0;
}

void vmm_prepare(struct step *s)
{
        struct machine *v = s->v;
        struct err err = {0};
        char path[512];
        (void)snprintf(path, sizeof(path), "%s/vm", v->m->config.run_dir);
        int bad = make_dir(path, &err);
        machine_path(v, "", path, sizeof(path));
        if (!bad)
                bad = make_dir(path, &err);
        if (!bad)
                bad = find_images(v->m, &v->definition, &err);
        step_done(s, bad ? &err : NULL);
}

/* The console's log stays until the next start, or until the VM is deleted: it may say why it ended. */
void vmm_unprepare(struct step *s)
{
        static const char *const sockets[] = {"qmp.sock", "oob.sock", "guard.sock", "agent.sock",
                                              "console.sock"};
        struct err err = {0};
        char path[512];
        int bad = 0;
        for (size_t i = 0; i < ARRAY_N(sockets) && !bad; i++) {
                machine_path(s->v, sockets[i], path, sizeof(path));
                if (unlink(path) < 0 && errno != ENOENT)
                        bad = err_set(&err, REASON_INTERNAL, errno, "cannot remove %s: %s", path,
                                      strerror(errno));
        }
        step_done(s, bad ? &err : NULL);
}

/* ---- launch ---- */

static void take_vmm(struct machine *v, const struct api_keeper_vmm *vmm)
{
        v->pid = (pid_t)vmm->pid;
        (void)snprintf(v->ram_dir, sizeof(v->ram_dir), "%s", vmm->ram_dir);
}

static void on_vmm_list(void *arg, const json_t *result, const struct err *err)
{
        struct step *s = arg;
        struct api_keeper_vmm_list *list = g_new0(struct api_keeper_vmm_list, 1);
        struct err bad = {0};
        if (!err && api_keeper_vmm_list_parse(result, list, &bad))
                err = &bad;
        if (!err && !s->is_dropped) {
                for (size_t i = 0; i < list->n_vmms; i++)
                        if (strcmp(list->vmms[i].vm, s->v->definition.name) == 0)
                                take_vmm(s->v, &list->vmms[i]);
                if (!s->v->pid) {
                        err = &bad;
                        (void)err_set(&bad, REASON_INTERNAL, ECHILD, "the keeper has lost its VMM");
                }
        }
        g_free(list);
        if (err || s->is_dropped)
                step_done(s, err);
        else
                vmm_attach(s);
}

static void on_vmm_started(void *arg, const json_t *result, const struct err *err)
{
        struct step *s = arg;
        struct api_keeper_vmm vmm;
        struct err bad = {0};
        if (err && err->reason == REASON_BUSY && !s->is_dropped) {
                /* Started before, and the answer was lost: who is it? */
                keeper_call(s->v->m->keeper, API_KEEPER_VMM_LIST, NULL, NULL, 0, KEEPER_MS, on_vmm_list, s);
                return;
        }
        if (!err && api_keeper_vmm_parse(result, &vmm, &bad))
                err = &bad;
        if (!err && !s->is_dropped)
                take_vmm(s->v, &vmm);
        if (err || s->is_dropped)
                step_done(s, err);
        else
                vmm_attach(s);
}

static int open_sockets(const struct machine *v, int fds[VM_FD_N], struct err *err)
{
        static const char *const names[VM_FD_N] = {
                [VM_FD_QMP] = "qmp.sock",         [VM_FD_OOB] = "oob.sock",
                [VM_FD_GUARD] = "guard.sock",     [VM_FD_AGENT] = "agent.sock",
                [VM_FD_CONSOLE] = "console.sock", [VM_FD_CONSOLE_LOG] = "console.log"};
        for (int i = 0; i < VM_FD_N; i++) {
                char path[512];
                machine_path(v, names[i], path, sizeof(path));
                fds[i] = i == VM_FD_CONSOLE_LOG ? vm_console_open(path, err) : vm_listen(path, err);
                if (fds[i] < 0)
                        return fds[i];
        }
        return 0;
}

static int launch(struct step *s, struct err *err)
{
        struct machine *v = s->v;
        struct vm_argv_options o = {.image_dir = v->m->config.image_dir,
                                    .ram_dir = "@RAM@",
                                    .tap = "@TAP@",
                                    .first_fd = 3,
                                    .is_incoming = machine_is_arriving(v),
                                    .is_sharing = handovers_is_arriving(v)};
        struct vm_argv argv = {0};
        int fds[VM_FD_N] = {-1, -1, -1, -1, -1, -1};
        uint32_t nodes[SHAPE_CPUS_MAX];
        bool is_kept = false;
        for (size_t i = 0; i < s->n; i++)
                is_kept = is_kept || (s->definitions[i].kind == VIRTUAL_RAM && s->definitions[i].kept);
        char huge_dir[512];
        int64_t page_bytes = v->definition.has_page_bytes ? v->definition.page_bytes : 0;
        for (size_t i = 0; i < s->n && host_has_nodes(v->m) && o.n_host_nodes < ARRAY_N(nodes); i++)
                if (s->definitions[i].kind == VIRTUAL_RAM)
                        nodes[o.n_host_nodes++] =
                                v->m->inventory.components[s->definitions[i].component].os_index;
        o.host_nodes = nodes;
        o.huge_dir = huge_dir;
        int bad = page_bytes ? step_huge_dir(s, page_bytes, huge_dir, sizeof(huge_dir), err) : 0;
        if (!bad)
                bad = open_sockets(v, fds, err);
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
                start->has_huge_bytes = argv.huge_bytes > 0;
                start->huge_bytes = argv.huge_bytes;
                if (is_kept)
                        (void)snprintf(start->keep[start->n_keep++], sizeof(start->keep[0]), "ram0");
                for (size_t i = 0; i < argv.n && !bad; i++)
                        if (!STR_COPY(start->argv[start->n_argv++], argv.args[i]))
                                bad = err_set(err, REASON_INVALID, E2BIG,
                                              "an argument of the VMM is too long");
        }
        if (!bad)
                keeper_call(v->m->keeper, API_KEEPER_VMM_START, api_keeper_vmm_start_emit(start), fds,
                            VM_FD_N, KEEPER_MS, on_vmm_started, s);
        g_free(start);
        vm_argv_done(&argv);
        for (int i = 0; i < VM_FD_N; i++)
                if (fds[i] >= 0)
                        close(fds[i]); /* ours must not keep the port open when the VMM dies */
        return bad;
}

/* ---- attach ---- */

static void ignore_answer(void *arg, const json_t *result, const struct err *err)
{
        (void)arg;
        (void)result;
        if (err)
                log_warn("mete-keeper: %s", err->sentence);
}

/* No request is behind it: in the VM's own lane, behind whatever else comes to what runs already. */
void activate_park(struct machine *v, int slot)
{
        struct api_keeper_item p = {
                .activation = machine_lane(v), .kind = API_HOST_KIND_CPU, .has_tid = true};
        const struct vm_cpu *cpu = vm_cpu(v->vm, slot);
        if (!cpu->plugged || cpu->tid <= 0)
                return;
        memcpy(p.vm, v->definition.name, sizeof(p.vm));
        (void)snprintf(p.item, sizeof(p.item), "vcpu%d", slot);
        p.tid = cpu->tid;
        keeper_call(v->m->keeper, API_KEEPER_HOST_PREPARE, api_keeper_item_emit(&p), NULL, 0, KEEPER_MS,
                    ignore_answer, NULL);
}

static void on_vm_event(void *arg, struct vm *vm, enum vm_event event, int index, const char *words)
{
        struct machine *v = arg;
        (void)vm;
        moves_vm_event(v, event, words);
        handovers_vm_event(v, event, words);
        switch (event) {
        case VM_EVENT_SHUTDOWN:
                (void)snprintf(v->ended, sizeof(v->ended), "%s",
                               words && *words ? words : "the guest shut down");
                v->has_powered_down = words && strcmp(words, "guest-shutdown") == 0;
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
                activate_hurry_back(v);
                break;
        case VM_EVENT_CPU_NEW:
                activate_park(v, index);
                break;
        case VM_EVENT_STOP:
        case VM_EVENT_RESUME:
        case VM_EVENT_MIGRATION:
        case VM_EVENT_PASS:
        case VM_EVENT_N:
                break;
        }
}

static void on_vm_death(void *arg, struct vm *vm, const struct err *why)
{
        struct machine *v = arg;
        (void)vm;
        moves_vm_died(v, why->sentence);
        handovers_vm_died(v, why->sentence);
        machine_died(v, *v->ended ? v->ended : why->sentence);
}

static void on_attached(void *arg, const struct vm_result *result)
{
        struct machine *v = arg;
        struct step *s = v->attaching;
        v->attaching = NULL;
        if (result->outcome == VM_DONE && !s->is_dropped && !machine_is_arriving(s->v))
                guest_connect(s->v);
        if (result->outcome == VM_DONE && s->is_attaching) {
                s->is_attaching = false;
                step_again(s, 0);
        } else {
                step_vm_done(s, result);
        }
}

void vmm_attach(struct step *s)
{
        struct machine *v = s->v;
        char qmp[512], oob[512];
        struct err err = {0};
        machine_path(v, "qmp.sock", qmp, sizeof(qmp));
        machine_path(v, "oob.sock", oob, sizeof(oob));
        struct vm_options o = {
                .sum = &v->m->counters.monitors,
                .definition = &v->definition,
                .qmp_path = qmp,
                .oob_path = oob,
                .ram_dir = v->ram_dir,
                .is_sharing = handovers_is_arriving(v),
                .on_event = on_vm_event,
                .on_death = on_vm_death,
        };
        (void)snprintf(s->detail, sizeof(s->detail), "VMM %d", (int)v->pid);
        v->attaching = s;
        /* Before it has its RAM it answers nobody. */
        int64_t ram_ms = v->definition.prealloc || v->definition.has_page_bytes
                                 ? v->definition.memory_bytes / PREALLOC_BYTES_PER_MS
                                 : 0;
        v->vm = vm_attach(&o, ATTACH_MS + (int)ram_ms, on_attached, v, &err);
        if (!v->vm) {
                v->attaching = NULL;
                step_done(s, &err);
        }
}

void vmm_activate(struct step *s)
{
        struct machine *v = s->v;
        struct err err = {0};
        if (v->vm) {
                step_done(s, NULL);
                return;
        }
        if (v->pid) {
                vmm_attach(s);
                return;
        }
        *v->ended = '\0';
        v->is_dead = v->has_powered_down = false;
        if (launch(s, &err))
                step_done(s, &err);
}

/* ---- run ---- */

void vmm_confirm(struct step *s)
{
        if (!s->v->vm)
                step_no_vmm(s);
        else if (vm_run(s->v->vm) == VM_RUN_RUNNING || machine_is_standing(s->v))
                step_done(s, NULL); /* it runs, or is to stand until it is said to be ours */
        else
                vm_cont(s->v->vm, PLUG_MS, step_vm_done, s);
}

static void on_seen(void *arg, const struct vm_result *result)
{
        struct step *s = arg;
        struct err err = {0};
        if (result->outcome != VM_DONE || s->is_dropped || !s->v->vm) {
                step_vm_done(s, result);
                return;
        }
        bool runs = vm_run(s->v->vm) == VM_RUN_RUNNING || machine_is_standing(s->v);
        if (!runs)
                (void)err_set(&err, REASON_STALE, EPROTO, "the VMM says that it does not run but is %s",
                              vm_run_name(vm_run(s->v->vm)));
        if (runs)
                memory_finalise_host(s);
        else
                step_done(s, &err);
}

void vmm_finalise(struct step *s)
{
        if (!s->v->vm)
                step_no_vmm(s);
        else
                vm_refresh(s->v->vm, PLUG_MS, on_seen, s);
}

/* ---- the way back ---- */

void vmm_hang_up(struct machine *v)
{
        struct vm *vm = v->vm;
        handovers_vm_gone(v);
        v->vm = NULL; /* first: what is cancelled below must not take it for one that is there */
        guest_disconnect(v);
        vm_free(vm);
        if (v->step && loop_timer_is_set(&v->step->timer))
                loop_timer_in(&v->step->timer, 0);
}

void vmm_let_go(struct step *s)
{
        vmm_hang_up(s->v);
        step_done(s, NULL);
}

/* A lazy way back: all goes but what is kept, also what applications had. */
static void drop_others(struct step *s)
{
        struct api_keeper_vm_drop *p = g_new0(struct api_keeper_vm_drop, 1);
        memcpy(p->vm, s->v->definition.name, sizeof(p->vm));
        for (size_t i = 0; i < s->n && p->n_keep < ARRAY_N(p->keep); i++)
                (void)snprintf(p->keep[p->n_keep++], sizeof(p->keep[0]), "%s%d",
                               virtual_kind_name(s->definitions[i].kind), (int)s->definitions[i].slot);
        keeper_call(s->v->m->keeper, API_KEEPER_VM_DROP, api_keeper_vm_drop_emit(p), NULL, 0, KEEPER_MS,
                    step_keeper_done, s);
        g_free(p);
}

static void on_killed(void *arg, const json_t *result, const struct err *err)
{
        struct step *s = arg;
        (void)result;
        if (!err && !s->is_dropped) {
                s->v->pid = 0;
                s->v->is_dead = false;
        }
        bool is_last = s->at.item == 0 || s->definitions[s->at.item - 1].kind != VIRTUAL_RAM;
        if (!err && !s->is_dropped && s->at.is_lazy && is_last)
                drop_others(s);
        else
                step_done(s, err);
}

void vmm_deactivate(struct step *s)
{
        vmm_hang_up(s->v);
        keeper_call(s->v->m->keeper, API_KEEPER_VMM_KILL, vm_params(s->v), NULL, 0, KEEPER_MS, on_killed, s);
}
