/* SPDX-License-Identifier: Apache-2.0 */
/* The side that gives a VM away: measures it, plans, reserves, copies, writes the outcome. */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "base/str.h"
#include "fleet/outcome.h"
#include "meted/hhi.h"
#include "meted/moves-internal.h"
#include "meted/moves.h"
#include "vm/socket.h"

enum { KEEPER_MS = 20000, COPY_MS = 10000, LOOK_MS = 50, LOOK_TIMEOUT_MS = 60000, CONT_MS = 15000 };
enum { GUARD_MS = 5000 };
enum { SETTLE_MS = 80, HOLD_MS = 60000, GOODPUT_MILLI = 955, RESUME_US = 25000, BOUND_MAX_US = 60000000 };

#define NO_PROFILE "who had measured what is to move was started again"

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
                struct api_peer_item *item = &l->items[l->n_items++];
                item->kind = d->kind == VIRTUAL_VCPU ? API_PEER_ITEM_KIND_VCPU : API_PEER_ITEM_KIND_DIMM;
                item->slot = d->slot;
                item->bytes = d->kind == VIRTUAL_DIMM ? d->amount : 0;
        }
}

/* NULL: it is changing just now. */
static struct api_peer_vm *guest_of(const struct machine *v)
{
        struct api_peer_vm *to = g_new0(struct api_peer_vm, 1);
        struct collect c = {.v = v, .to = to};
        to->definition = v->definition;
        (void)STR_COPY(to->boot_id, v->boot_id);
        to->hhi_generation = (int64_t)hhi_known(v);
        hypervisor_each(v->m->hv, collect_lease, &c);
        for (int slot = 0; v->vm && slot < v->definition.cpus_max; slot++)
                if (vm_cpu(v->vm, slot)->plugged)
                        to->plugged[to->n_plugged++] = slot;
        if (c.is_busy)
                g_clear_pointer(&to, g_free);
        return to;
}

struct api_peer_vm *source_guest(const struct moving *mv)
{
        const struct machine *v = machine_find(mv->m, mv->vm);
        return v ? guest_of(v) : NULL;
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

static void on_ram(void *arg, const json_t *result, const struct err *err)
{
        struct moving *mv = arg;
        struct api_keeper_ram_files *files = g_new0(struct api_keeper_ram_files, 1);
        int fds[PROFILER_FILES_MAX];
        struct err bad = {0};
        if (!err && (api_keeper_ram_files_parse(result, files, &bad) ||
                     keeper_take_fds(mv->m->keeper, fds, files->n_files, &bad)))
                err = &bad;
        if (!err) {
                profiler_free(mv->profiler);
                mv->profiler = profiler_new(fds, files->n_files, NULL, on_profile, mv, &bad);
                for (size_t i = 0; !mv->profiler && i < files->n_files; i++)
                        (void)close(fds[i]);
                err = mv->profiler ? NULL : &bad;
        }
        g_free(files);
        if (err)
                move_report(mv, mv->profile_token, MOVE_EV_FAILED, err);
}

void source_profile(struct moving *mv, uint64_t token)
{
        const struct machine *v = machine_find(mv->m, mv->vm);
        struct api_keeper_ram *p = g_new0(struct api_keeper_ram, 1);
        struct err err = {0};
        struct api_peer_vm *guest = v && v->vm ? guest_of(v) : NULL;
        mv->profile_token = token;
        if (!guest) {
                (void)err_set(&err, REASON_BUSY, EBUSY, "what %s has is being changed just now", mv->vm);
                move_report(mv, token, MOVE_EV_FAILED, &err);
                g_free(p);
                return;
        }
        (void)STR_COPY(p->vm, mv->vm);
        (void)snprintf(p->items[p->n_items++], sizeof(p->items[0]), "ram0");
        bool is_too_much = false;
        for (int slot = 0; slot < v->definition.dimm_slots; slot++) {
                if (!vm_dimm(v->vm, slot)->plugged)
                        continue;
                is_too_much = is_too_much || p->n_items == ARRAY_N(p->items);
                if (!is_too_much)
                        (void)snprintf(p->items[p->n_items++], sizeof(p->items[0]), "dimm%d", slot);
        }
        if (is_too_much) {
                (void)err_set(&err, REASON_UNSUPPORTED, E2BIG,
                              "%s has more pieces of memory than are measured at once (%zu)", mv->vm,
                              ARRAY_N(p->items));
                move_report(mv, token, MOVE_EV_FAILED, &err);
                g_free(guest);
                g_free(p);
                return;
        }
        keeper_call(mv->m->keeper, API_KEEPER_RAM_OPEN, api_keeper_ram_emit(p), NULL, 0, KEEPER_MS, on_ram,
                    mv);
        g_free(p);
        g_free(guest);
}

/* ---- the plan ---- */

void source_plan(struct moving *mv, uint64_t token)
{
        struct meted *m = mv->m;
        struct move_event ev = {.token = token, .hold_ms = HOLD_MS};
        struct level level = mv->core.row.level;
        char limit[MOVE_SENTENCE];
        if (!mv->has_profile) {
                struct err err = {0};
                (void)err_set(&err, REASON_CANCELLED, ECANCELED, NO_PROFILE);
                move_report(mv, token, MOVE_EV_FAILED, &err);
                return;
        }
        level.is_best_effort = mv->is_best_effort;
        mv->means = (struct means){.source = move_free_here(m),
                                   .share_min_milli = 1000,
                                   .goodput = GOODPUT_MILLI / 1000.0,
                                   .goodput_error = 0.05,
                                   .queued_bytes = 4 * COPY_SOCKET_BYTES,
                                   .settle_s = SETTLE_MS / 1000.0};
        const struct machine *v = machine_find(m, mv->vm);
        learn_fill(moves_learn(m), mv->peer, v ? v->definition.machine : "", &mv->profile);
        mv->means.destination =
                mv->core.row.is_short ? mv->core.row.has : peers_means(m, mv->peer, &mv->means.source);
        plan_make(&mv->profile, &level, &mv->means, &mv->plan);
        mv->has_plan = true;
        const struct plan *p = &mv->plan;
        switch (p->outcome) {
        case PLAN_KEPT:
        case PLAN_BEST_EFFORT:
                ev.kind = MOVE_EV_PLANNED;
                ev.vector = p->vector;
                ev.reserve_ms = p->reserve_ms;
                ev.copy_ms = level.total_ms && !level.is_best_effort && mv->on_miss != ON_MISS_FINISH
                                     ? level.total_ms
                                     : LEVEL_MAX_MS;
                break;
        case PLAN_COUNTERED:
                ev.kind = MOVE_EV_COUNTER;
                ev.level = p->offers[0].level;
                ev.vector = p->offers[0].vector;
                ev.reserve_ms = p->offers[0].predicted.total_ms.p90 + p->offers[0].predicted.total_ms.p90 / 4;
                ev.copy_ms = ev.level.total_ms ? ev.level.total_ms : LEVEL_MAX_MS;
                break;
        case PLAN_NEVER:
        case PLAN_OUTCOME_N:
                (void)snprintf(limit, sizeof(limit), "no level can be promised: there is too little of %s",
                               plan_limit_name(p->limit));
                ev.kind = MOVE_EV_FAILED;
                ev.reason = REASON_NO_CAPACITY;
                ev.sentence = limit;
                break;
        }
        move_happened(mv, &ev);
}

void source_reserve(struct moving *mv, const struct move_effect *f)
{
        struct need needs[NEEDS_MAX];
        struct err err = {0};
        const struct vector *v = &mv->core.row.vector;
        size_t n = move_needs(mv, v->bandwidth_bps, v->source_cpu_milli, needs);
        int done = move_reserve(mv, needs, n, &err);
        move_report(mv, f->token,
                    done > 0    ? MOVE_EV_RESERVED
                    : done == 0 ? MOVE_EV_SHORT
                                : MOVE_EV_FAILED,
                    done > 0 ? NULL : &err);
}

/* ---- the guard ---- */

static void copy_connect(struct moving *mv);

static void broken(struct moving *mv, enum move_event_kind kind, const struct err *err);

static void guard_hang_up(struct moving *mv)
{
        if (mv->guard_fd < 0)
                return;
        loop_fd_remove(&mv->guard_says);
        (void)close(mv->guard_fd);
        mv->guard_fd = -1;
        mv->is_guard_awaited = mv->has_guard_spoken = false;
}

/* It hears nobody whom it has not spoken to before: it says what it is at to whoever connects. */
static void guard_dismiss(struct moving *mv)
{
        static const char done[] = "done\n";
        if (mv->has_guard_spoken)
                (void)!send(mv->guard_fd, done, sizeof(done) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void on_guard_says(void *arg, uint32_t events)
{
        struct moving *mv = arg;
        char text[512];
        struct err err = {0};
        (void)events;
        ssize_t n = recv(mv->guard_fd, text, sizeof(text) - 1, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return;
        if (n <= 0) {
                bool is_needed = !mv->is_guard_over && mv->is_copying;
                guard_hang_up(mv);
                (void)err_set(&err, REASON_INTERNAL, ECHILD, "the guard of the move is gone");
                if (is_needed)
                        broken(mv, MOVE_EV_BROKEN, &err);
                return;
        }
        text[n] = '\0';
        mv->has_guard_spoken = true;
        if (mv->is_guard_over) {
                guard_dismiss(mv);
        } else if (mv->is_guard_awaited && strstr(text, "watching")) {
                mv->is_guard_awaited = false;
                loop_timer_cancel(&mv->look);
                copy_connect(mv);
        }
}

static int guard_connect(struct moving *mv, struct err *err)
{
        const struct machine *v = machine_find(mv->m, mv->vm);
        char path[512];
        if (!v)
                return err_set(err, REASON_STALE, ESTALE, "it is gone");
        machine_path(v, "guard-says.sock", path, sizeof(path));
        int fd = vm_connect(path, err);
        int bad = fd < 0 ? fd : loop_fd_add(&mv->guard_says, fd, EPOLLIN, on_guard_says, mv, err);
        if (!bad)
                mv->guard_fd = fd;
        else if (fd >= 0)
                (void)close(fd);
        return bad;
}

/* Also one that another meted had started. It ends, and hangs up. */
void source_guard_end(struct moving *mv)
{
        struct err none = {0};
        mv->is_guard_over = true;
        if (mv->guard_fd < 0)
                (void)guard_connect(mv, &none);
        else
                guard_dismiss(mv);
}

static void on_guard(void *arg, const json_t *result, const struct err *err)
{
        struct moving *mv = arg;
        struct api_keeper_guard guard;
        struct err bad = {0};
        if (!err && api_keeper_guard_parse(result, &guard, &bad))
                err = &bad;
        if (!err && guard.has_fallback)
                move_say(mv, "fallback", "%s", guard.fallback);
        if (!err && guard_connect(mv, &bad))
                err = &bad;
        if (err) {
                broken(mv, MOVE_EV_FAILED, err);
                return;
        }
        mv->is_guard_over = false;
        mv->is_guard_awaited = true; /* the copy begins when it watches */
        loop_timer_in(&mv->look, GUARD_MS);
}

static int outcome_dir(const struct meted *m, struct err *err)
{
        char path[512];
        (void)snprintf(path, sizeof(path), "%s/moves", m->config.state_dir);
        if (mkdir(path, 0700) < 0 && errno != EEXIST)
                return err_set(err, REASON_INTERNAL, errno, "%s: %s", path, strerror(errno));
        int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return fd < 0 ? err_set(err, REASON_INTERNAL, errno, "%s: %s", path, strerror(errno)) : fd;
}

static bool guard(struct moving *mv, const struct machine *v, struct err *err)
{
        struct api_keeper_guard_start p = {0};
        char monitor[512], says[512], name[80];
        int fds[3] = {-1, -1, -1};
        /* What comes before the word that it stopped; and behind the bound, where it is cut, or committed
         * just before it. */
        const struct profile *of = &mv->profile;
        int64_t stop_us = (int64_t)(of->stop.p99_s * 1e6);
        int64_t end_us = (int64_t)((of->commit.p99_s + of->run.p99_s) * 1e6);
        int64_t bound_us =
                mv->core.row.level.downtime_ms * 1000 - stop_us - (end_us > RESUME_US ? end_us : RESUME_US);
        machine_path(v, "guard.sock", monitor, sizeof(monitor));
        machine_path(v, "guard-says.sock", says, sizeof(says));
        move_outcome_name_of(mv, name);
        (void)STR_COPY(p.vm, mv->vm);
        (void)STR_COPY(p.move, name);
        p.bound_us = bound_us < 1000 ? 1000 : bound_us > BOUND_MAX_US ? BOUND_MAX_US : bound_us;
        bool is_good = (fds[0] = vm_connect_guard(monitor, err)) >= 0 &&
                       (fds[1] = vm_listen(says, err)) >= 0 && (fds[2] = outcome_dir(mv->m, err)) >= 0;
        if (is_good)
                keeper_call(mv->m->keeper, API_KEEPER_GUARD_START, api_keeper_guard_start_emit(&p), fds, 3,
                            KEEPER_MS, on_guard, mv);
        for (size_t i = 0; i < ARRAY_N(fds); i++)
                if (fds[i] >= 0)
                        (void)close(fds[i]);
        return is_good;
}

/* ---- the copy ---- */

static void broken(struct moving *mv, enum move_event_kind kind, const struct err *err)
{
        mv->is_copying = false;
        loop_timer_cancel(&mv->look);
        move_report(mv, mv->copy_token, kind, err);
}

static void happened(struct moving *mv, struct control_event *ev);

static void ignore(void *arg, const struct vm_result *result)
{
        (void)arg;
        if (result->outcome == VM_FAILED && result->err.reason != REASON_CANCELLED)
                log_warn("a copy: %s", result->err.sentence);
}

static void carry_out(struct moving *mv, const struct control_effects *effects)
{
        for (size_t i = 0; i < effects->n && mv->copy; i++) {
                const struct control_effect *f = &effects->list[i];
                switch (f->kind) {
                case CONTROL_LIMIT:
                        copy_limit(mv->copy, f->value, COPY_MS, ignore, mv);
                        break;
                case CONTROL_BANDWIDTH:
                        copy_bandwidth(mv->copy, f->value / 8, COPY_MS, ignore, mv);
                        break;
                case CONTROL_SHARE: /* the vector never has one: nothing may be throttled yet */
                case CONTROL_LIFT:
                        break;
                case CONTROL_SWITCH:
                        move_say(mv, "move-switching", "at most %lld ms", (long long)f->value);
                        break;
                case CONTROL_PREDICT:
                        mv->predicted_total_ms = f->value;
                        mv->predicted_downtime_ms = f->other;
                        break;
                case CONTROL_MISS:
                        mv->missed_total_ms = f->value;
                        mv->missed_downtime_ms = f->other;
                        move_say(mv, "move-will-miss",
                                 "%lld ms and a downtime of %lld ms are expected by now", (long long)f->value,
                                 (long long)f->other);
                        break;
                case CONTROL_RENEGOTIATE:
                        break;
                case CONTROL_CANCEL:
                        copy_cancel(mv->copy, COPY_MS, ignore, mv);
                        break;
                case CONTROL_START: /* another attempt is core/move.h's */
                        break;
                }
        }
}

static void happened(struct moving *mv, struct control_event *ev)
{
        struct control_effects effects = {0};
        ev->now_ms = loop_mono_ms();
        if (!mv->is_control_there)
                return;
        (void)control_step(&mv->control, ev, &effects);
        carry_out(mv, &effects);
}

static void on_look(void *arg, const struct copy_seen *seen, const struct err *err)
{
        struct moving *mv = arg;
        mv->is_looking = false;
        if (!mv->is_copying)
                return;
        if (!err) {
                struct control_event ev = {.kind = CONTROL_EV_SAMPLE, .sample = seen->sample};
                mv->seen = *seen;
                if (seen->status == COPY_ACTIVE)
                        happened(mv, &ev);
        }
        loop_timer_in(&mv->look, LOOK_MS);
}

void source_look(void *arg)
{
        struct moving *mv = arg;
        struct control_event ev = {.kind = CONTROL_EV_TICK};
        struct err err = {0};
        if (!mv->is_copying || !mv->copy)
                return;
        if (mv->is_guard_awaited) {
                (void)err_set(&err, REASON_TIMEOUT, ETIME, "the guard of the move does not watch");
                broken(mv, MOVE_EV_BROKEN, &err);
                return;
        }
        happened(mv, &ev);
        if (!mv->is_looking && mv->is_copying && mv->copy) {
                mv->is_looking = true;
                copy_look(mv->copy, LOOK_TIMEOUT_MS, on_look, mv);
        }
}

static void on_begun(void *arg, const struct vm_result *result)
{
        struct moving *mv = arg;
        struct control_event ev = {.kind = CONTROL_EV_STARTED};
        if (!mv->is_copying)
                return;
        if (result->outcome != VM_DONE) {
                broken(mv, MOVE_EV_BROKEN, &result->err);
                return;
        }
        if (mv->control.state == CONTROL_PREPARED || mv->control.state == CONTROL_BROKEN)
                happened(mv, &ev);
        else
                log_warn("move %s: begun while %s", mv->core.row.id, control_state_name(mv->control.state));
        loop_timer_in(&mv->look, LOOK_MS);
}

static void on_prepared(void *arg, const struct vm_result *result)
{
        struct moving *mv = arg;
        int fd = mv->stream_fd;
        if (!mv->is_copying || fd < 0)
                return; /* broken off meanwhile */
        if (result->outcome != VM_DONE) {
                broken(mv, MOVE_EV_BROKEN, &result->err);
                return;
        }
        mv->stream_fd = -1;
        copy_begin(mv->copy, fd, COPY_MS, on_begun, mv);
}

static void on_connected(void *arg, uint32_t events)
{
        struct moving *mv = arg;
        struct err err = {0};
        struct copy_key key;
        int code = 0;
        socklen_t size = sizeof(code);
        (void)events;
        loop_fd_remove(&mv->connecting);
        if (getsockopt(mv->stream_fd, SOL_SOCKET, SO_ERROR, &code, &size) < 0)
                code = errno;
        if (code) {
                (void)err_set(&err, REASON_PEER_LOST, code, "the memory of %s cannot be sent to %s: %s",
                              mv->vm, mv->peer, strerror(code));
                broken(mv, MOVE_EV_BROKEN, &err);
                return;
        }
        (void)STR_COPY(key.hex, mv->stream.key);
        copy_prepare(mv->copy, &key, COPY_MS, on_prepared, mv);
}

/* peers.conf has an address, or a name, which is looked up at once: it blocks, but not on a name server. */
static int address_of(const struct tcp_address *a, int64_t port, struct sockaddr_storage *ret,
                      socklen_t *ret_n, struct err *err)
{
        struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM},
                        *found = NULL;
        char service[8];
        (void)snprintf(service, sizeof(service), "%d", (int)port);
        if (getaddrinfo(a->host, service, &hints, &found) != 0)
                return err_set(err, REASON_UNSUPPORTED, EADDRNOTAVAIL,
                               "peers.conf names %s by a name: for moves it takes an address", a->host);
        memcpy(ret, found->ai_addr, found->ai_addrlen);
        *ret_n = found->ai_addrlen;
        freeaddrinfo(found);
        return 0;
}

static void copy_connect(struct moving *mv)
{
        struct sockaddr_storage to;
        socklen_t n = 0;
        struct err err = {0};
        int64_t holds;
        int one = 1;
        const struct tcp_address *a = peers_address(mv->m, mv->peer, &err);
        int bad = !a ? -ENOENT : address_of(a, mv->stream.port, &to, &n, &err);
        if (!bad) {
                mv->stream_fd = socket(to.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
                bad = mv->stream_fd < 0
                              ? err_set(&err, REASON_INTERNAL, errno, "no socket: %s", strerror(errno))
                              : copy_socket_bound(mv->stream_fd, &holds, &err);
        }
        if (!bad) {
                (void)setsockopt(mv->stream_fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
                if (connect(mv->stream_fd, (struct sockaddr *)&to, n) < 0 && errno != EINPROGRESS)
                        bad = err_set(&err, REASON_PEER_LOST, errno, "%s cannot be reached: %s", mv->peer,
                                      strerror(errno));
        }
        if (!bad)
                bad = loop_fd_add(&mv->connecting, mv->stream_fd, EPOLLOUT, on_connected, mv, &err);
        if (bad)
                broken(mv, MOVE_EV_BROKEN, &err);
}

/* Nothing of an attempt begins any more that is on its way to begin. */
static void copy_stop(struct moving *mv)
{
        keeper_forget(mv->m->keeper, mv);
        loop_timer_cancel(&mv->look);
        loop_fd_remove(&mv->connecting);
        if (mv->stream_fd >= 0)
                (void)close(mv->stream_fd);
        mv->stream_fd = -1;
        mv->is_copying = mv->is_looking = mv->is_guard_awaited = false;
}

void source_copy(struct moving *mv, const struct move_effect *f)
{
        struct machine *v = machine_find(mv->m, mv->vm);
        struct err err = {0};
        char dir[512];
        mv->copy_token = f->token;
        if (!mv->has_profile) {
                (void)err_set(&err, REASON_CANCELLED, ECANCELED, NO_PROFILE);
                broken(mv, MOVE_EV_FAILED, &err);
                return;
        }
        if (mv->is_copying && mv->copy_attempt == f->attempt)
                return; /* under way already */
        if (!v || !v->vm || !mv->has_stream) {
                /* After a restart: where it is to go is known no more. It is broken off, and begun anew. */
                (void)err_set(&err, REASON_CANCELLED, ECANCELED, "this attempt was interrupted");
                broken(mv, MOVE_EV_BROKEN, &err);
                return;
        }
        copy_stop(mv);
        copy_free(mv->copy);
        machine_path(v, "", dir, sizeof(dir));
        mv->copy = copy_new(&(struct copy_options){.vm = v->vm, .side = COPY_SOURCE, .dir = dir});
        mv->is_copying = true;
        mv->copy_attempt = f->attempt;
        mv->stop_mono_us = 0;
        if (!mv->began_mono_us)
                mv->began_mono_us = g_get_monotonic_time();
        guard_hang_up(mv); /* of an attempt before */
        if (!mv->is_control_there ||
            (mv->control.state != CONTROL_PREPARED && mv->control.state != CONTROL_BROKEN))
                control_init(&mv->control, &mv->profile, &mv->core.row.level, &mv->means, &mv->plan,
                             mv->means.source.bandwidth_bps, mv->on_miss);
        mv->is_control_there = true;
        if (mv->core.row.level.downtime_ms > 0 && !mv->is_best_effort) {
                if (!guard(mv, v, &err))
                        broken(mv, MOVE_EV_FAILED, &err);
        } else {
                copy_connect(mv);
        }
}

/* From the stop of the guest here until it was heard that it runs there, which is a little more than it was.
 */
void source_measured(struct moving *mv)
{
        const struct machine *v = machine_find(mv->m, mv->vm);
        int64_t now_us = g_get_monotonic_time();
        struct learn_move learnt;
        char evicted[LEARN_NAME];
        if (!mv->stop_mono_us)
                return; /* another meted began it */
        mv->gap_ms = (now_us - mv->stop_mono_us + 999) / 1000;
        mv->took_ms = (now_us - mv->began_mono_us + 999) / 1000;
        for (enum learn_cost c = LEARN_SETUP; c < LEARN_COST_N; c++)
                learnt.cost[c] = -1;
        learnt.cost[0] = -1;
        learnt.cost[LEARN_COMMIT] = (double)(now_us - mv->complete_mono_us) / 1e6;
        (void)learn_add(moves_learn(mv->m), mv->peer, v ? v->definition.machine : "?", &learnt, evicted);
        moves_learnt(mv->m, mv->peer);
        if (*evicted && strcmp(evicted, mv->peer) != 0)
                moves_learnt(mv->m, evicted);
        move_say(mv, "measured", "%lld ms, downtime %lld ms", (long long)mv->took_ms, (long long)mv->gap_ms);
}

void source_vm_event(struct moving *mv, enum vm_event event, const char *words)
{
        struct control_event ev = {.kind = CONTROL_EV_STOP};
        struct err err = {0};
        if (!mv->is_copying || !mv->copy)
                return;
        if (event == VM_EVENT_STOP) {
                mv->stop_mono_us = g_get_monotonic_time();
                happened(mv, &ev);
        } else if (event == VM_EVENT_MIGRATION && strcmp(words, "completed") == 0) {
                ev.kind = CONTROL_EV_COMPLETED;
                happened(mv, &ev);
                mv->is_copying = false;
                loop_timer_cancel(&mv->look);
                mv->complete_mono_us = g_get_monotonic_time();
                move_report(mv, mv->copy_token, MOVE_EV_COPIED, NULL);
        } else if (event == VM_EVENT_MIGRATION &&
                   (strcmp(words, "failed") == 0 || strcmp(words, "cancelled") == 0)) {
                ev.kind = CONTROL_EV_FAILED;
                happened(mv, &ev);
                if (mv->control.is_miss_said)
                        (void)err_set(&err, REASON_TIMEOUT, ETIME,
                                      "it was broken off, as it would have missed its level: %lld ms and a "
                                      "downtime of %lld ms were expected",
                                      (long long)mv->missed_total_ms, (long long)mv->missed_downtime_ms);
                else
                        (void)err_set(&err, mv->control.is_cancelled ? REASON_CANCELLED : REASON_PEER_LOST,
                                      EIO, "the copy was broken off: %.120s",
                                      *mv->seen.why ? mv->seen.why : "QEMU says that it failed");
                broken(mv, mv->control.state == CONTROL_FAILED ? MOVE_EV_FAILED : MOVE_EV_BROKEN, &err);
        }
}

/* ---- the outcome ---- */

void source_write(struct moving *mv, const struct move_effect *f)
{
        struct err err = {0};
        char name[80];
        enum outcome_is is = 0;
        (void)snprintf(name, sizeof(name), "%s.%u", mv->core.row.id, f->attempt);
        int fd = outcome_dir(mv->m, &err);
        int bad = fd < 0 ? fd
                         : outcome_write(fd, name,
                                         f->outcome == MOVE_OUTCOME_COMMITTED ? OUTCOME_IS_COMMITTED
                                                                              : OUTCOME_IS_ABORTED,
                                         "source", &is, &err);
        if (fd >= 0)
                (void)close(fd);
        if (!bad && is == OUTCOME_IS_ABORTED && f->outcome == MOVE_OUTCOME_COMMITTED)
                mv->was_cut = true;
        move_report(mv, f->token,
                    bad                        ? MOVE_EV_UNKNOWN
                    : is == OUTCOME_IS_ABORTED ? MOVE_EV_ABORTED
                                               : MOVE_EV_COMMITTED,
                    bad ? &err : NULL);
}

void source_forget(const struct moving *mv)
{
        struct err err = {0};
        char name[80];
        int fd = outcome_dir(mv->m, &err);
        for (uint32_t attempt = 1; fd >= 0 && attempt <= mv->core.row.attempt; attempt++) {
                (void)snprintf(name, sizeof(name), "%s.%u", mv->core.row.id, attempt);
                (void)outcome_forget(fd, name, &err);
        }
        if (err.reason)
                log_warn("move %s: %s", mv->core.row.id, err.sentence);
        if (fd >= 0)
                (void)close(fd);
}

/* ---- here again ---- */

static void on_runs(void *arg, const struct vm_result *result)
{
        struct moving *mv = arg;
        if (result->outcome == VM_DONE)
                move_report(mv, mv->run_token, MOVE_EV_RUNS, NULL);
        else
                log_warn("move %s: %s is to run again: %s", mv->core.row.id, mv->vm, result->err.sentence);
}

static void on_cancelled(void *arg, const struct vm_result *result)
{
        struct moving *mv = arg;
        if (result->err.reason == REASON_CANCELLED)
                return; /* the copy is freed */
        struct machine *v = machine_find(mv->m, mv->vm);
        /* Otherwise it may have completed, or never begun: cont says what is so. */
        if (v && v->vm)
                vm_cont(v->vm, CONT_MS, on_runs, mv);
}

void source_run(struct moving *mv, const struct move_effect *f)
{
        struct machine *v = machine_find(mv->m, mv->vm);
        struct err err = {0};
        struct control_event ev = {.kind = CONTROL_EV_FAILED};
        mv->run_token = f->token;
        copy_stop(mv);
        if (mv->is_control_there && mv->control.state != CONTROL_PREPARED)
                happened(mv, &ev); /* the other side may have broken it off */
        if (v && v->pid && !v->vm)
                return; /* nobody is attached to it yet: asked again */
        if (!v || !v->vm) {
                (void)err_set(&err, REASON_STALE, ECHILD, "its VMM is gone");
                move_report(mv, f->token, MOVE_EV_DIED, &err);
        } else {
                if (!mv->copy) { /* after a restart: there may be one that is under way all the same */
                        char dir[512];
                        machine_path(v, "", dir, sizeof(dir));
                        mv->copy = copy_new(
                                &(struct copy_options){.vm = v->vm, .side = COPY_SOURCE, .dir = dir});
                }
                copy_cancel(mv->copy, COPY_MS, on_cancelled, mv);
        }
}

/* ---- the end ---- */

static void on_ended(struct meted *m, void *call, const struct request *r, const struct err *err)
{
        struct moving *mv = call;
        (void)r;
        if (err)
                return; /* asked again */
        if (machine_find(m, mv->vm) && mv->core.row.owner == OWNER_DESTINATION)
                move_forget_vm(mv);
        else
                move_report(mv, mv->release_token, MOVE_EV_RELEASED, NULL);
}

void source_release(struct moving *mv, const struct move_effect *f)
{
        struct meted *m = mv->m;
        struct machine *v = machine_find(m, mv->vm);
        struct err err = {0};
        char key[REQUEST_KEY];
        uint64_t serial;
        mv->release_token = f->token;
        source_drop(mv);
        move_unreserve(mv);
        if (mv->core.row.owner != OWNER_DESTINATION || !v) {
                move_report(mv, f->token, MOVE_EV_RELEASED, NULL);
                return;
        }
        (void)snprintf(key, sizeof(key), "vm:%s", mv->vm);
        const struct request *base = hypervisor_find(m->hv, key);
        if (!base || request_is_final(base)) {
                on_ended(m, mv, NULL, NULL);
                return;
        }
        meted_unwait(m, mv);
        if (hypervisor_release(m->hv, key, "it was moved", loop_now_ms(), &serial, &err) == 0)
                meted_wait(m, serial, WAIT_END, on_ended, mv);
        meted_changed(m);
}

/* Whoever goes on with it later finds QEMU and the guard as they are. */
void source_close(struct moving *mv)
{
        meted_unwait(mv->m, mv);
        copy_stop(mv);
        profiler_free(g_steal_pointer(&mv->profiler));
        copy_free(g_steal_pointer(&mv->copy));
        guard_hang_up(mv);
}

void source_drop(struct moving *mv)
{
        source_guard_end(mv);
        source_close(mv);
}
