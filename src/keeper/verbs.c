/* SPDX-License-Identifier: Apache-2.0 */
#include "keeper/verbs.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/log.h"
#include "base/str.h"
#include "json/api.h"
#include "keeper/space.h"
#include "keeper/flow.h"
#include "keeper/lend.h"
#include "wire/rpc.h"
#include "wire/unix.h"

/* A command line of 128 arguments of 511 bytes in JSON escapes, or a list of 1024 VMMs. */
enum { LINE_MAX_BYTES = 1024 * 1024 };

/* One for each activation that may be under way. */
enum { CALLS_MAX = ACTIVATIONS_MAX };

static const enum api_cpu_provider held_by[CPU_PROVIDER_ID_N] = {
        [CPU_CGROUP_V2] = API_CPU_PROVIDER_CGROUP_V2,
        [CPU_CGROUP_V1] = API_CPU_PROVIDER_CGROUP_V1,
        [CPU_AFFINITY] = API_CPU_PROVIDER_AFFINITY,
};

struct client {
        struct verbs *verbs;
        struct rpc *rpc;
        struct unix_peer peer;
        const struct keeper_user *user; /* whose space it is in */
        int fd;                         /* the rpc's, open while requests are handed out */
};

static void client_free(struct client *c)
{
        c->verbs->clients = g_slist_remove(c->verbs->clients, c);
        rpc_free(c->rpc);
        g_free(c);
}

static void answer(struct rpc_call *call, int r, json_t *result, const struct err *err)
{
        if (r < 0)
                rpc_refuse(call, RPC_REFUSED, err);
        else
                rpc_reply(call, result);
}

static void wrong_params(struct rpc_call *call, const struct err *err)
{
        rpc_refuse(call, RPC_WRONG_PARAMS, err);
}

static void say_classes(struct classes *classes, struct api_keeper_info *info)
{
        struct class_said said;
        classes_say(classes, &said);
        info->has_manages_resctrl = true;
        info->manages_resctrl = classes->config->manages_resctrl;
        for (size_t i = 0; i < ARRAY_N(said.fallbacks) && info->n_fallbacks < ARRAY_N(info->fallbacks); i++)
                if (*said.fallbacks[i])
                        (void)snprintf(info->fallbacks[info->n_fallbacks++], sizeof(info->fallbacks[0]),
                                       "%.126s", said.fallbacks[i]);
        if (!said.is_ready)
                return;
        info->has_resctrl = info->has_classes = info->has_classes_left = true;
        (void)STR_COPY(info->resctrl, said.root);
        info->has_resctrl_is_made_up = info->resctrl_is_made_up = said.is_made_up;
        info->has_cache_ways = said.ways > 0;
        info->cache_ways = said.ways;
        info->has_membw_step_percent = said.membw_step > 0;
        info->membw_step_percent = said.membw_step;
        info->classes = said.classes;
        info->classes_left = said.left;
}

static void hello(const struct client *c, struct rpc_call *call, const json_t *params)
{
        struct verbs *v = c->verbs;
        struct api_keeper_hello h;
        struct err err = {0};
        if (api_keeper_hello_parse(params, &h, &err) < 0) {
                wrong_params(call, &err);
                return;
        }
        if (h.version != API_KEEPER_VERSION) {
                int r = err_set(&err, REASON_INCOMPATIBLE, EPROTO,
                                "the keeper speaks version %d of this contract, not %lld", API_KEEPER_VERSION,
                                (long long)h.version);
                answer(call, r, NULL, &err);
                return;
        }
        struct api_keeper_info info = {.version = API_KEEPER_VERSION,
                                       .cpu_provider = held_by[v->cpu->id],
                                       .vm_slots = space_slots(v->config)};
        (void)STR_COPY(info.keeper, METE_VERSION);
        char cpus[CPULIST_TEXT];
        info.has_cpus = STR_COPY(info.cpus, cpulist_print(&v->cpu->usable, cpus));
        if (*v->cpu->fallback)
                info.n_fallbacks += STR_COPY(info.fallbacks[0], v->cpu->fallback);
        if (*v->home_fallback)
                (void)snprintf(info.fallbacks[info.n_fallbacks++], sizeof(info.fallbacks[0]), "%s",
                               v->home_fallback);
        if (v->cpu->provider->is_holding_shares)
                info.n_fallbacks += STR_COPY(info.fallbacks[info.n_fallbacks], CPU_OUTSIDE);
        if (!v->vmms->memory)
                info.n_fallbacks += STR_COPY(info.fallbacks[info.n_fallbacks], VMM_NO_BOUND);
        const struct huge *huge = v->vmms->huge;
        for (size_t i = 0; i < huge->n; i++) {
                struct api_keeper_huge *to = &info.huge[info.n_huge++];
                to->page_bytes = huge->sizes[i].page_bytes;
                (void)STR_COPY(to->dir, huge->sizes[i].dir);
        }
        info.has_ram_dir = STR_COPY(info.ram_dir, v->config->ram_dir);
        struct nic_said net;
        nics_say(v->vmms->nics, &net);
        if (*net.fallback)
                (void)snprintf(info.fallbacks[info.n_fallbacks++], sizeof(info.fallbacks[0]), "%s",
                               net.fallback);
        if (net.is_ready) {
                info.has_net_uplink = info.has_net_rate_bps = true;
                (void)STR_COPY(info.net_uplink, net.uplink);
                info.net_rate_bps = (int64_t)net.rate_bps;
        }
        say_classes(v->vmms->classes, &info);
        rpc_reply(call, api_keeper_info_emit(&info));
}

/* As its meted calls it; false: it is gone, or another's. */
static bool describe(const struct client *c, const struct vmm *vmm, struct api_keeper_vmm *ret)
{
        const char *name = space_name(c->verbs->config, c->user, vmm->record.vm);
        if (!name || !vmm_describe(vmm, ret))
                return false;
        (void)STR_COPY(ret->vm, name);
        ret->has_move_held = ret->move_held = flow_is_held(c->verbs->vmms->nics, vmm->record.vm);
        return true;
}

static void vmm_start(const struct client *c, struct rpc_call *call, const json_t *params)
{
        struct verbs *v = c->verbs;
        static struct api_keeper_vmm_start s; /* 64 KiB: not on the stack */
        struct err err = {0};
        int fds[RPC_FDS_MAX];
        if (api_keeper_vmm_start_parse(params, &s, &err) < 0) {
                wrong_params(call, &err);
                return;
        }
        if (hold_is_dropping(&v->holds, s.vm)) {
                answer(call, err_set(&err, REASON_BUSY, EBUSY, "%s is being dropped", s.vm), NULL, &err);
                return;
        }
        size_t n = (size_t)s.fds;
        int r = rpc_take_fds(call, fds, n, &err);
        if (r < 0) {
                answer(call, r, NULL, &err);
                return;
        }
        struct vmm *vmm;
        struct api_keeper_vmm described;
        r = vmms_start(v->vmms, &s, fds, n, &vmm, &err);
        for (size_t i = 0; i < n; i++)
                (void)close(fds[i]);
        answer(call, r, r == 0 && describe(c, vmm, &described) ? api_keeper_vmm_emit(&described) : NULL,
               &err);
}

static void guard_start(struct verbs *v, struct rpc_call *call, const json_t *params)
{
        struct api_keeper_guard_start s;
        struct api_keeper_guard guard;
        struct err err = {0};
        int fds[GUARD_FDS];
        if (api_keeper_guard_start_parse(params, &s, &err) < 0) {
                wrong_params(call, &err);
                return;
        }
        int r = rpc_take_fds(call, fds, GUARD_FDS, &err);
        if (r == 0) {
                r = guards_start(&v->guards, &s, fds, &guard, &err);
                for (size_t i = 0; i < GUARD_FDS; i++)
                        (void)close(fds[i]);
        }
        answer(call, r, r == 0 ? api_keeper_guard_emit(&guard) : NULL, &err);
}

static void move_hold(struct verbs *v, struct rpc_call *call, const json_t *params)
{
        struct api_keeper_move_hold p;
        struct api_keeper_move_held held = {.has_fallback = false};
        struct err err = {0};
        char lacking[NET_SENTENCE] = "";
        int fd = -1;
        if (api_keeper_move_hold_parse(params, &p, &err) < 0) {
                wrong_params(call, &err);
                return;
        }
        const struct net_rate rate = {(uint64_t)p.rate_bps, p.has_ceiling_bps ? (uint64_t)p.ceiling_bps : 0};
        const struct vmm *vmm = g_hash_table_lookup(v->vmms->by_name, p.vm);
        int r = p.fds ? rpc_take_fds(call, &fd, 1, &err) : 0;
        if (r == 0 && (!vmm || vmm->pid_fd < 0)) /* nobody would tell when it is to go */
                r = err_set(&err, REASON_NOT_FOUND, ESRCH, "%s does not run", p.vm);
        if (r == 0)
                r = flow_hold(v->vmms->nics, p.vm, &rate, fd, lacking, &err);
        if (fd >= 0)
                (void)close(fd);
        (void)snprintf(held.held_by, sizeof(held.held_by), "%s", r == 1 ? "htb" : "nothing");
        held.has_fallback = r == 0;
        (void)snprintf(held.fallback, sizeof(held.fallback), "%.126s", lacking);
        answer(call, r, r >= 0 ? api_keeper_move_held_emit(&held) : NULL, &err);
}

static void move_drop(struct verbs *v, struct rpc_call *call, const json_t *params)
{
        struct api_keeper_vm p;
        struct api_keeper_move_dropped dropped = {.has_sent_bytes = false};
        struct err err = {0};
        uint64_t sent_bytes = 0;
        if (api_keeper_vm_parse(params, &p, &err) < 0) {
                wrong_params(call, &err);
                return;
        }
        int r = flow_drop(v->vmms->nics, p.vm, &sent_bytes, &err);
        dropped.has_sent_bytes = r == 1;
        dropped.sent_bytes = (int64_t)sent_bytes;
        answer(call, r, r >= 0 ? api_keeper_move_dropped_emit(&dropped) : NULL, &err);
}

static void vmm_kill(struct verbs *v, struct rpc_call *call, const struct api_keeper_vm *p)
{
        struct err err = {0};
        struct vmm *vmm;
        int r = vmms_kill(v->vmms, p->vm, &vmm, &err);
        if (r == 1)
                vmm->waiting = g_slist_prepend(vmm->waiting, call);
        else
                answer(call, r, NULL, &err);
}

static void on_gone(void *arg, struct vmm *vmm)
{
        uint64_t sent_bytes;
        struct err err = {0};
        if (vmm->pid_fd < 0 && flow_drop(vmm->owner->nics, vmm->record.vm, &sent_bytes, &err) < 0)
                log_error("%s: the class of its move stays: %s", vmm->record.vm, err.sentence);
        for (GSList *each = vmm->waiting; each; each = each->next)
                rpc_reply(each->data, NULL);
        g_slist_free(vmm->waiting);
        vmm->waiting = NULL;
}

static void vmm_list(const struct client *c, struct rpc_call *call)
{
        struct api_keeper_vmm_list *list = g_new0(struct api_keeper_vmm_list, 1);
        GHashTableIter i;
        void *value;
        g_hash_table_iter_init(&i, c->verbs->vmms->by_name);
        while (g_hash_table_iter_next(&i, NULL, &value) && list->n_vmms < ARRAY_N(list->vmms))
                list->n_vmms += describe(c, value, &list->vmms[list->n_vmms]);
        rpc_reply(call, api_keeper_vmm_list_emit(list));
        g_free(list);
}

static void ram_open(struct verbs *v, struct rpc_call *call, const json_t *params)
{
        struct api_keeper_ram p;
        struct err err = {0};
        if (api_keeper_ram_parse(params, &p, &err) < 0) {
                wrong_params(call, &err);
                return;
        }
        struct ramdir_file files[ARRAY_N(p.items)];
        int64_t page_bytes[ARRAY_N(p.items)];
        int r = vmms_open_ram(v->vmms, &p, files, page_bytes, &err);
        if (r < 0) {
                answer(call, r, NULL, &err);
                return;
        }
        struct api_keeper_ram_files said = {.n_files = p.n_items};
        int fds[ARRAY_N(p.items)];
        for (size_t i = 0; i < p.n_items; i++) {
                (void)STR_COPY(said.files[i].item, p.items[i]);
                said.files[i].bytes = files[i].bytes;
                said.files[i].has_page_bytes = page_bytes[i] > 0;
                said.files[i].page_bytes = page_bytes[i];
                fds[i] = files[i].fd;
        }
        rpc_reply_fds(call, api_keeper_ram_files_emit(&said), fds, p.n_items);
        for (size_t i = 0; i < p.n_items; i++)
                (void)close(fds[i]);
}

static void kill_verb(struct verbs *v, struct rpc_call *call, const json_t *params)
{
        struct api_keeper_vm p;
        struct err err = {0};
        if (api_keeper_vm_parse(params, &p, &err) < 0)
                wrong_params(call, &err);
        else
                vmm_kill(v, call, &p);
}

/* A drop takes files away on a thread of its own. */
static void lending(const struct client *c, struct rpc_call *call, enum api_keeper_method method,
                    const json_t *params)
{
        struct verbs *v = c->verbs;
        const char *vm = json_string_value(json_object_get(params, "vm"));
        struct err err = {0};
        if (vm && hold_is_dropping(&v->holds, vm))
                answer(call, err_set(&err, REASON_BUSY, EBUSY, "%.63s is being dropped", vm), NULL, &err);
        else
                lend_verb(v->vmms->lends, method, c->user, call, params);
}

/* What was asked by somebody who is gone must not be done behind the back of his successor, who asks what
 * there is, and then relies on it. He who sees the peer's end before it is read here is earlier than any
 * successor. */
static bool has_hung_up(const struct client *c)
{
        struct pollfd p = {.fd = c->fd, .events = POLLRDHUP};
        return poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

static void do_request(struct client *c, struct rpc_call *call, const char *method, const json_t *params)
{
        struct verbs *v = c->verbs;
        struct api_empty nothing;
        struct err err = {0};
        switch (api_keeper_method_find(method)) {
        case API_KEEPER_HELLO:
                hello(c, call, params);
                return;
        case API_KEEPER_VMM_START:
                vmm_start(c, call, params);
                return;
        case API_KEEPER_VMM_KILL:
                kill_verb(v, call, params);
                return;
        case API_KEEPER_VMM_LIST:
                if (api_empty_parse(params, &nothing, &err) < 0)
                        wrong_params(call, &err);
                else
                        vmm_list(c, call);
                return;
        case API_KEEPER_RAM_OPEN:
                ram_open(v, call, params);
                return;
        case API_KEEPER_GUARD_START:
                guard_start(v, call, params);
                return;
        case API_KEEPER_MOVE_HOLD:
                move_hold(v, call, params);
                return;
        case API_KEEPER_MOVE_DROP:
                move_drop(v, call, params);
                return;
        case API_KEEPER_VM_DROP:
                hold_drop(&v->holds, c, call, params);
                return;
        case API_KEEPER_HOST_ACTIVATE:
        case API_KEEPER_HOST_BIND:
        case API_KEEPER_HOST_PREPARE:
        case API_KEEPER_HOST_DEACTIVATE:
        case API_KEEPER_HOST_READ:
        case API_KEEPER_RAM_PLACE:
                hold_verb(&v->holds, api_keeper_method_find(method), c, call, params);
                return;
        case API_KEEPER_ACTIVATION_END:
                hold_activation_end(&v->holds, call, params);
                return;
        case API_KEEPER_RAM_LEND:
        case API_KEEPER_RAM_BORROW:
        case API_KEEPER_RAM_LOOK:
        case API_KEEPER_RAM_RETURN:
                lending(c, call, api_keeper_method_find(method), params);
                return;
        case API_KEEPER_METHOD_N:
                break;
        }
        rpc_refuse_unknown(call, method);
}

static void on_request(void *arg, struct rpc *rpc, struct rpc_call *call, const char *method,
                       const json_t *params)
{
        struct client *c = arg;
        struct err err = {0};
        if (has_hung_up(c)) {
                log_warn("%s of process %d is not done: it has hung up", method, (int)c->peer.pid);
                (void)err_set(&err, REASON_CANCELLED, ECANCELED, "the caller has hung up");
                rpc_refuse(call, RPC_REFUSED, &err);
                return;
        }
        json_t *ours = space_enter(c->verbs->config, c->user, params, &err);
        if (ours || !params)
                do_request(c, call, method, ours);
        else
                rpc_refuse(call, RPC_REFUSED, &err);
        json_decref(ours);
}

static void on_lost(void *arg, struct rpc *rpc, const struct err *err)
{
        struct client *c = arg;
        log_info("connection of process %d (uid %u) ended: %s", (int)c->peer.pid, (unsigned)c->peer.uid,
                 err->sentence);
        holds_forget(&c->verbs->holds, c);
        client_free(c);
}

static int admit(const struct verbs *v, int fd, struct client *c, struct err *err)
{
        int r = unix_peer_get(fd, &c->peer, err), n = 0;
        if (r < 0)
                return r;
        c->user = space_of_uid(v->config, c->peer.uid);
        if (!c->user)
                return err_set(err, REASON_DENIED, EPERM, "uid %u may not speak to the keeper",
                               (unsigned)c->peer.uid);
        for (GSList *each = v->clients; each; each = each->next)
                n += ((const struct client *)each->data)->user == c->user;
        if (n >= VERBS_CLIENTS_MAX)
                return err_set(err, REASON_BUSY, EBUSY, "%d connections are open already", VERBS_CLIENTS_MAX);
        return 0;
}

static void on_client(void *arg, uint32_t events);
static void pause_accepting(struct verbs *v, const struct err *why);

static void on_pause_over(void *arg)
{
        struct verbs *v = arg;
        struct err err = {0};
        if (loop_fd_add(&v->watch, v->listen_fd, EPOLLIN, on_client, v, &err) < 0)
                pause_accepting(v, &err);
}

/* Who waits stays in the queue, which would be ready all the time. */
static void pause_accepting(struct verbs *v, const struct err *why)
{
        if (!v->is_short)
                log_error("no connection can be taken, it is tried again: %s", why->sentence);
        v->is_short = true;
        loop_fd_remove(&v->watch);
        loop_timer_in(&v->pause, VERBS_PAUSE_MS);
}

static void on_client(void *arg, uint32_t events)
{
        static const struct rpc_options options = {.line_max = LINE_MAX_BYTES,
                                                   .calls_max = CALLS_MAX,
                                                   .fds_max = RPC_FDS_MAX,
                                                   .drop_on_garbage = true,
                                                   .on_request = on_request,
                                                   .on_lost = on_lost};
        struct verbs *v = arg;
        struct err err = {0};
        int fd = unix_accept(v->listen_fd, &err);
        if (fd == -EAGAIN)
                return;
        if (fd == -EMFILE || fd == -ENFILE || fd == -ENOMEM || fd == -ENOBUFS) {
                pause_accepting(v, &err);
                return;
        }
        v->is_short = false;
        /* Before the successor's first word, wherever in this turn the end of the other is dispatched. */
        for (GSList *each = v->clients; each; each = each->next)
                if (has_hung_up(each->data))
                        holds_forget(&v->holds, each->data);
        struct client *c = g_new0(struct client, 1);
        c->verbs = v;
        c->fd = fd;
        int r = fd < 0 ? fd : admit(v, fd, c, &err);
        if (r == 0 && !(c->rpc = rpc_new(fd, &options, c, &err)))
                r = -err.code;
        if (r < 0) {
                log_warn("connection refused: %s", err.sentence);
                if (fd >= 0)
                        (void)close(fd);
                g_free(c);
                return;
        }
        v->clients = g_slist_prepend(v->clients, c);
}

int verbs_init(struct verbs *v, struct vmms *vmms, const char *home_fallback, struct err *err)
{
        *v = (struct verbs){
                .vmms = vmms, .config = vmms->config, .cpu = vmms->cpu, .home_fallback = home_fallback};
        loop_timer_init(&v->pause, on_pause_over, v);
        v->listen_fd = -1;
        guards_init(&v->guards, vmms);
        int r = holds_init(&v->holds, vmms, err);
        if (r < 0)
                return r;
        /* Closed until the group is set: the mode comes last. */
        v->listen_fd = unix_listen(v->config->socket, 0600, err);
        if (v->listen_fd < 0) {
                holds_done(&v->holds);
                return v->listen_fd;
        }
        /* Several have no group in common; whoever is none of them is refused before anything is read. */
        if (chown(v->config->socket, (uid_t)-1, v->config->users[0].gid) < 0 ||
            chmod(v->config->socket, v->config->n_users > 1 ? 0666 : 0660) < 0)
                r = err_set(err, REASON_INTERNAL, errno, "%s: %s", v->config->socket, strerror(errno));
        else
                r = loop_fd_add(&v->watch, v->listen_fd, EPOLLIN, on_client, v, err);
        if (r < 0) {
                verbs_done(v);
                return r;
        }
        vmms->on_gone = on_gone;
        vmms->arg = v;
        return 0;
}

void verbs_done(struct verbs *v)
{
        if (v->listen_fd < 0)
                return;
        loop_fd_remove(&v->watch);
        loop_timer_cancel(&v->pause);
        (void)close(v->listen_fd);
        v->listen_fd = -1;
        (void)unlink(v->config->socket);
        holds_done(&v->holds);
        guards_done(&v->guards);
        for (GSList *each = v->clients, *next; each; each = next) {
                next = each->next;
                client_free(each->data);
        }
        /* Whoever still waits for an end has been told that we are gone. */
        GHashTableIter i;
        void *value;
        g_hash_table_iter_init(&i, v->vmms->by_name);
        while (g_hash_table_iter_next(&i, NULL, &value))
                on_gone(v, value);
}
