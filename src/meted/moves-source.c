/* SPDX-License-Identifier: Apache-2.0 */
/* The side that gives a VM away: measures it, plans, reserves, copies, writes the outcome. */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "base/str.h"
#include "fleet/outcome.h"
#include "meted/crash.h"
#include "meted/moves-internal.h"
#include "meted/moves.h"
#include "vm/socket.h"

enum { COPY_MS = 10000, LOOK_TIMEOUT_MS = 60000, CONT_MS = 15000 };
enum { SETTLE_MS = 80 };
enum { STALL_MS = 30000 }; /* as long as a destination waits for something to come */

#define NO_PROFILE "who had measured what is to move was started again"

/* ---- the plan ---- */

/* For so long it may be copied; who wants it finished all the same waives the total time. */
static int64_t copy_most_ms(const struct moving *mv, const struct level *l)
{
        return l->total_ms && !l->is_best_effort && mv->on_miss != ON_MISS_FINISH ? l->total_ms
                                                                                  : LEVEL_MAX_MS;
}

void source_plan(struct moving *mv, uint64_t token)
{
        struct meted *m = mv->m;
        struct move_event ev = {.token = token, .hold_ms = MOVE_HOLD_MS};
        struct level level = mv->core.row.level;
        char limit[MOVE_SENTENCE];
        if (!mv->has_profile) {
                struct err err = {0};
                (void)err_set(&err, REASON_CANCELLED, ECANCELED, NO_PROFILE);
                move_report(mv, token, MOVE_EV_FAILED, &err);
                return;
        }
        level.is_best_effort = mv->is_best_effort;
        /* What it had of a plan before, with which the other side was short, is its to plan with. */
        if (!mv->is_dry)
                move_unreserve(mv);
        mv->means = (struct means){.share_min_milli = hold_share_min(mv),
                                   .queued_bytes = 2 * COPY_SOCKET_BYTES, /* sent from, received in */
                                   .settle_s = SETTLE_MS / 1000.0};
        const struct machine *v = machine_find(m, mv->vm);
        learn_fill(moves_learn(m), mv->peer, v ? v->definition.machine : "", &mv->profile, &mv->means);
        move_plan(mv, &level);
        const struct plan *p = &mv->plan;
        mv->earliest_ms = 0;
        if (p->limit != 0)
                move_find_earliest(mv, &level);
        switch (p->outcome) {
        case PLAN_KEPT:
        case PLAN_BEST_EFFORT:
                ev.kind = MOVE_EV_PLANNED;
                ev.vector = p->vector;
                /* After the peer was short of what an offer took, it is offered with what the peer has. */
                ev.reserve_ms = p->reserve_ms + (mv->core.row.is_offer ? MOVE_HOLD_MS : 0);
                ev.copy_ms = copy_most_ms(mv, &level);
                break;
        case PLAN_COUNTERED:
                ev.kind = MOVE_EV_COUNTER;
                mv->offer_kind = p->offers[0].kind;
                ev.level = p->offers[0].level;
                ev.vector = p->offers[0].vector;
                ev.reserve_ms = MOVE_HOLD_MS +
                                plan_of_offer(p, 0).reserve_ms; /* it may be taken at the last moment */
                ev.copy_ms = copy_most_ms(mv, &ev.level);
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

struct plan source_plan_in_force(const struct moving *mv)
{
        bool is_accepted = mv->plan.outcome == PLAN_COUNTERED && mv->core.row.tries > 0;
        return is_accepted ? plan_of_offer(&mv->plan, 0) : mv->plan;
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

/* ---- the copy ---- */

void source_broken(struct moving *mv, enum move_event_kind kind, const struct err *err)
{
        struct err cut;
        source_learn_broken(mv);
        if (source_is_cut(mv, &cut))
                err = &cut;
        mv->is_copying = false;
        loop_timer_cancel(&mv->look);
        move_report(mv, mv->copy_token, kind, err);
}

static void ignore(void *arg, const struct vm_result *result)
{
        (void)arg;
        if (result->outcome == VM_FAILED && result->err.reason != REASON_CANCELLED)
                log_warn("a copy: %s", result->err.sentence);
}

static void happened(struct moving *mv, struct control_event *ev);

/* Of what could be kept only another total time is offered: the guard keeps the downtime that was asked for,
 * and a best effort asks nobody. Until the old time is over it can be taken; nothing to offer is a no. */
static void offer(struct moving *mv, const struct control_effect *f)
{
        struct control_event ev = {.kind = CONTROL_EV_DECLINED};
        mv->has_offer = false;
        for (size_t i = 0; i < f->n_levels && !mv->has_offer && mv->offers < MOVE_ROUNDS; i++) {
                mv->has_offer = f->levels[i].downtime_ms == mv->core.row.level.downtime_ms &&
                                f->levels[i].total_ms > mv->core.row.level.total_ms;
                mv->offer = f->levels[i];
        }
        if (!mv->has_offer) {
                happened(mv, &ev);
                return;
        }
        mv->offers++;
        move_say(mv, "move-offered", "instead of %lld ms, %lld ms could be kept: until the former are over",
                 (long long)mv->core.row.level.total_ms, (long long)mv->offer.total_ms);
}

int source_accept(struct moving *mv, struct level *level, struct err *err)
{
        /* Later the answer would change nothing, and who asks was told that it did. */
        if (!mv->has_offer || !mv->is_copying || !mv->control.is_asking ||
            !control_is_under_way(&mv->control))
                return err_set(err, REASON_STALE, EPROTO, "move %s: no level is offered", mv->core.row.id);
        if (level->total_ms > 0 && level->total_ms < mv->offer.total_ms)
                return err_set(err, REASON_INVALID, EPROTO, "move %s: a stricter level than was offered",
                               mv->core.row.id);
        if (level->downtime_ms > 0 && level->downtime_ms != mv->offer.downtime_ms)
                return err_set(err, REASON_INVALID, EPROTO,
                               "move %s: its downtime stays what was asked for while it is copied",
                               mv->core.row.id);
        level->downtime_ms = mv->offer.downtime_ms; /* what is not said is as it was offered */
        level->total_ms = MAX(level->total_ms, mv->offer.total_ms);
        return 1;
}

void source_accepted(struct moving *mv)
{
        struct control_event ev = {.kind = CONTROL_EV_ACCEPTED, .level = mv->core.row.level};
        mv->has_offer = false;
        happened(mv, &ev);
}

static void throttle_now(struct moving *mv)
{
        int64_t share_milli = mv->throttle_milli;
        mv->throttle_milli = 0;
        hold_throttle(mv, share_milli);
}

static void on_limit(void *arg, const struct vm_result *result)
{
        struct moving *mv = arg;
        if (result->outcome != VM_DONE && result->err.reason == REASON_CANCELLED)
                return; /* the copy is freed, and nothing of it is counted any more */
        mv->limits_out--;
        if (result->outcome != VM_DONE) {
                log_warn("a copy: %s", result->err.sentence);
                mv->throttle_milli = 0; /* which limit it has is not known: nobody is slowed down under it */
                /* Nor is it sent again while the controller wants no other: it may never be let go of, or be
                 * let stop for too long. */
                if (mv->is_copying && control_is_under_way(&mv->control))
                        source_broken(mv, MOVE_EV_BROKEN, &result->err);
        } else if (mv->limits_out == 0 && mv->throttle_milli > 0 && mv->is_copying) {
                throttle_now(mv);
        }
}

static void set_limit(struct moving *mv, int64_t limit_ms)
{
        mv->limits_out++;
        copy_limit(mv->copy, limit_ms, COPY_MS, on_limit, mv);
}

/* A guest that is to stop waits for the slowest of its vCPUs. Where QEMU may stop it, none becomes slow. */
static void throttle(struct moving *mv, int64_t share_milli)
{
        mv->throttle_milli = share_milli;
        if (mv->limits_out == 0)
                throttle_now(mv);
}

/* Also what its own definition makes slow. */
static void lift(struct moving *mv, int64_t which)
{
        mv->throttle_milli = 0;
        mv->lift = which;
        mv->is_lift_answered = !hold_lift(mv);
}

static void tell_lifted(struct moving *mv)
{
        struct control_event ev = {.kind = CONTROL_EV_LIFTED, .lift = mv->lift};
        mv->is_lift_answered = false;
        happened(mv, &ev);
}

void source_is_lifted(struct moving *mv, const struct err *err)
{
        if (!mv->is_copying || !mv->copy)
                return;
        if (err) {
                source_broken(mv, MOVE_EV_BROKEN, err);
                return;
        }
        if (fault_point("move lifted") == FAULT_DIE)
                fault_die();
        move_say(mv, "lifted", "no vCPU is under a quota or put aside: it may be stopped");
        tell_lifted(mv);
}

static void missed_words(const struct moving *mv, char *ret, size_t max)
{
        if (mv->missed_total_ms > 0)
                (void)snprintf(ret, max, "%lld ms and a downtime of %lld ms are expected",
                               (long long)mv->missed_total_ms, (long long)mv->missed_downtime_ms);
        else
                (void)snprintf(ret, max, "it is not expected to end");
}

static void carry_out(struct moving *mv, const struct control_effects *effects)
{
        char words[MOVE_SENTENCE];
        for (size_t i = 0; i < effects->n && mv->copy; i++) {
                const struct control_effect *f = &effects->list[i];
                switch (f->kind) {
                case CONTROL_LIMIT:
                        set_limit(mv, f->value);
                        break;
                case CONTROL_BANDWIDTH:
                        hold_more_of_link(mv, f->value); /* QEMU sends all that it can anyway */
                        break;
                case CONTROL_SHARE:
                        throttle(mv, f->value);
                        break;
                case CONTROL_LIFT:
                        lift(mv, f->value);
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
                        missed_words(mv, words, sizeof(words));
                        move_say(mv, "move-will-miss", "%s by now", words);
                        break;
                case CONTROL_RENEGOTIATE:
                        offer(mv, f);
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
        if (mv->is_lift_answered && mv->is_copying && mv->copy)
                tell_lifted(mv); /* behind all effects of the step that asked for it */
}

static void on_look(void *arg, const struct copy_seen *seen, const struct err *err)
{
        struct moving *mv = arg;
        mv->is_looking = false;
        if (!mv->is_copying)
                return;
        if (!err) {
                struct control_event ev = {.kind = CONTROL_EV_SAMPLE, .sample = seen->sample};
                ev.sample.cpu_ns = moving_thread_cpu_ns(mv, seen->thread);
                mv->seen = *seen;
                mv->was_held = mv->is_stream_held && !mv->has_lapsed;
                mv->was_crowded = mv->was_crowded || moves_copying(mv->m) > 1;
                if (seen->thread && mv->thread != seen->thread)
                        hold_thread(mv, seen->thread);
                if (seen->status == COPY_ACTIVE)
                        happened(mv, &ev);
        }
        loop_timer_in(&mv->look, SOURCE_LOOK_MS);
}

/* A peer may take a connection and then nothing more of it, and who had the memory sent would wait as long as
 * that one likes: with a level until its time is over, without for ever. What was acknowledged is the
 * kernel's word: a VMM whose guest stands may answer nothing meanwhile. */
static bool is_stalled(struct moving *mv, struct err *err)
{
        int64_t now_ms = loop_mono_ms(), acked = vm_socket_acked_bytes(copy_socket(mv->copy));
        if (acked != mv->acked_bytes || mv->acked_mono_ms == 0) {
                mv->acked_bytes = acked;
                mv->acked_mono_ms = now_ms;
        }
        if (acked < 0 || now_ms - mv->acked_mono_ms < STALL_MS)
                return false;
        (void)err_set(err, REASON_PEER_LOST, ETIME, "%s has taken nothing of the memory of %s for %d s",
                      mv->peer, mv->vm, STALL_MS / 1000);
        return true;
}

void source_look(void *arg)
{
        struct moving *mv = arg;
        struct control_event ev = {.kind = CONTROL_EV_TICK};
        struct err err = {0};
        if (!move_is_source(&mv->core))
                arrive_look(mv);
        if (!mv->is_copying || !mv->copy)
                return;
        if (mv->is_guard_lost) {
                (void)err_set(&err, REASON_INTERNAL, ECHILD, "the guard of the move is gone");
                source_broken(mv, MOVE_EV_BROKEN, &err);
                return;
        }
        if (mv->is_guard_awaited) {
                (void)err_set(&err, REASON_TIMEOUT, ETIME, "the guard of the move does not watch");
                source_broken(mv, MOVE_EV_BROKEN, &err);
                return;
        }
        if (is_stalled(mv, &err)) {
                source_broken(mv, MOVE_EV_BROKEN, &err);
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
                source_broken(mv, MOVE_EV_BROKEN, &result->err);
                return;
        }
        mv->begun_mono_us = g_get_monotonic_time();
        ev.begun_ms = mv->began_mono_us / 1000; /* the guard, the stream and its key came before */
        if (mv->control.state == CONTROL_PREPARED || mv->control.state == CONTROL_BROKEN)
                happened(mv, &ev);
        else
                log_warn("move %s: begun while %s", mv->core.row.id, control_state_name(mv->control.state));
        loop_timer_in(&mv->look, SOURCE_LOOK_MS);
}

static void on_prepared(void *arg, const struct vm_result *result)
{
        struct moving *mv = arg;
        int fd = mv->stream_fd;
        if (!mv->is_copying || fd < 0)
                return; /* broken off meanwhile */
        if (result->outcome != VM_DONE) {
                source_broken(mv, MOVE_EV_BROKEN, &result->err);
                return;
        }
        mv->stream_fd = -1;
        copy_begin(mv->copy, fd, COPY_MS, on_begun, mv);
}

/* At once: the destination makes those give way who say nothing. */
static int say_word(const struct moving *mv, struct err *err)
{
        struct copy_key key = {.hex = ""};
        char word[MOVE_WORD + 1];
        (void)STR_COPY(key.hex, mv->stream.key);
        move_stream_word(&key, word);
        return send(mv->stream_fd, word, MOVE_WORD, MSG_NOSIGNAL | MSG_DONTWAIT) == MOVE_WORD
                       ? 0
                       : err_set(err, REASON_PEER_LOST, EPIPE, "%s hung up on the memory of %s", mv->peer,
                                 mv->vm);
}

static void on_connected(void *arg, uint32_t events)
{
        struct moving *mv = arg;
        struct err err = {0};
        int code = 0;
        socklen_t size = sizeof(code);
        (void)events;
        loop_fd_remove(&mv->connecting);
        if (getsockopt(mv->stream_fd, SOL_SOCKET, SO_ERROR, &code, &size) < 0)
                code = errno;
        if (code) {
                (void)err_set(&err, REASON_PEER_LOST, code, "the memory of %s cannot be sent to %s: %s",
                              mv->vm, mv->peer, strerror(code));
                source_broken(mv, MOVE_EV_BROKEN, &err);
        } else if (say_word(mv, &err)) {
                source_broken(mv, MOVE_EV_BROKEN, &err);
        } else {
                hold_stream(mv, mv->stream_fd);
        }
}

void source_stream_is_held(struct moving *mv)
{
        struct copy_key key = {.hex = ""};
        if (!mv->is_copying || mv->stream_fd < 0 || !mv->copy)
                return; /* broken off meanwhile */
        (void)STR_COPY(key.hex, mv->stream.key);
        copy_prepare(mv->copy, &key, COPY_MS, on_prepared, mv);
}

/* Where it answered last, which is an address, whatever peers.conf has. */
static int address_of(const struct tcp_address *a, int64_t port, struct sockaddr_storage *ret,
                      socklen_t *ret_n, struct err *err)
{
        struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM},
                        *found = NULL;
        char service[8];
        (void)snprintf(service, sizeof(service), "%d", (int)port);
        if (getaddrinfo(a->host, service, &hints, &found) != 0)
                return err_set(err, REASON_UNSUPPORTED, EADDRNOTAVAIL,
                               "%s has no address yet: it never answered", a->host);
        memcpy(ret, found->ai_addr, found->ai_addrlen);
        *ret_n = found->ai_addrlen;
        freeaddrinfo(found);
        return 0;
}

void source_connect(struct moving *mv)
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
                source_broken(mv, MOVE_EV_BROKEN, &err);
}

/* Nothing of an attempt begins any more that is on its way to begin. */
static void copy_stop(struct moving *mv)
{
        /* A guard of an attempt that is over would be nobody's. */
        keeper_withdraw(mv->m->keeper, API_KEEPER_GUARD_START, mv);
        hold_forget(mv);
        mv->has_offer = false;
        loop_timer_cancel(&mv->look);
        loop_fd_remove(&mv->connecting);
        if (mv->stream_fd >= 0)
                (void)close(mv->stream_fd);
        mv->stream_fd = -1;
        mv->is_copying = mv->is_looking = mv->is_guard_awaited = mv->is_guard_lost = false;
        mv->is_lift_answered = false;
        mv->throttle_milli = 0;
}

void source_copy(struct moving *mv, const struct move_effect *f)
{
        struct machine *v = machine_find(mv->m, mv->vm);
        struct err err = {0};
        char dir[512];
        mv->copy_token = f->token;
        if (!mv->has_profile) {
                (void)err_set(&err, REASON_CANCELLED, ECANCELED, NO_PROFILE);
                source_broken(mv, MOVE_EV_FAILED, &err);
                return;
        }
        if (mv->is_copying && mv->copy_attempt == f->attempt)
                return; /* under way already */
        if (!v || !v->vm || !mv->has_stream) {
                /* After a restart: where it is to go is known no more. It is broken off, and begun anew. */
                (void)err_set(&err, REASON_CANCELLED, ECANCELED, "this attempt was interrupted");
                source_broken(mv, MOVE_EV_BROKEN, &err);
                return;
        }
        copy_stop(mv);
        copy_free(mv->copy);
        machine_path(v, "", dir, sizeof(dir));
        mv->copy = copy_new(&(struct copy_options){.vm = v->vm, .side = COPY_SOURCE, .dir = dir});
        mv->limits_out = 0;
        mv->is_copying = true;
        mv->copy_attempt = f->attempt;
        mv->stop_mono_us = mv->stop_us = mv->begun_mono_us = mv->complete_mono_us = 0;
        mv->device_bytes = mv->stopped_bytes = 0;
        mv->was_held = mv->was_crowded = false;
        mv->seen = (struct copy_seen){0};
        mv->acked_mono_ms = 0;
        mv->attempt_mono_us = g_get_monotonic_time();
        if (!mv->began_mono_us)
                mv->began_mono_us = mv->attempt_mono_us;
        source_guard_hang_up(mv); /* of an attempt before */
        const struct plan plan = source_plan_in_force(mv);
        if (!mv->is_control_there ||
            (mv->control.state != CONTROL_PREPARED && mv->control.state != CONTROL_BROKEN))
                control_init(&mv->control, &mv->profile, &mv->core.row.level, &mv->means, &plan,
                             mv->means.source.bandwidth_bps, mv->on_miss);
        mv->is_control_there = true;
        if (mv->core.row.level.downtime_ms > 0 && !mv->is_best_effort) {
                if (!source_guard(mv, v, &err))
                        source_broken(mv, MOVE_EV_FAILED, &err);
        } else {
                source_connect(mv);
        }
}

/* It stood in vain. QEMU lets it run on before or after it says that the copy failed. */
static void ran_on(struct moving *mv, const struct vm *vm)
{
        int64_t stood_us = vm_event_us(vm) - mv->stop_mono_us;
        if (!mv->is_standing_here || mv->core.row.owner != OWNER_SOURCE)
                return;
        mv->is_standing_here = false;
        mv->stood_ms = MAX(mv->stood_ms, (stood_us + 999) / 1000);
}

void source_vm_event(struct moving *mv, enum vm_event event, const char *words)
{
        struct control_event ev = {.kind = CONTROL_EV_STOP};
        struct err err = {0};
        const struct machine *v = machine_find(mv->m, mv->vm);
        char why[MOVE_SENTENCE];
        if (event == VM_EVENT_RESUME && v && v->vm)
                ran_on(mv, v->vm);
        if (!mv->is_copying || !mv->copy || !v || !v->vm)
                return;
        if (event == VM_EVENT_STOP) {
                mv->stop_mono_us = vm_event_us(v->vm);
                mv->is_standing_here = true;
                happened(mv, &ev);
        } else if (event == VM_EVENT_MIGRATION && strcmp(words, "completed") == 0) {
                ev.kind = CONTROL_EV_COMPLETED;
                happened(mv, &ev);
                mv->is_copying = false;
                loop_timer_cancel(&mv->look);
                mv->complete_mono_us = vm_event_us(v->vm);
                copy_look(mv->copy, LOOK_TIMEOUT_MS, source_last_look, mv);
                hold_end(mv);
                move_report(mv, mv->copy_token, MOVE_EV_COPIED, NULL);
        } else if (event == VM_EVENT_MIGRATION &&
                   (strcmp(words, "failed") == 0 || strcmp(words, "cancelled") == 0)) {
                ev.kind = CONTROL_EV_FAILED;
                happened(mv, &ev);
                if (mv->control.is_miss_said) {
                        missed_words(mv, why, sizeof(why));
                        (void)err_set(&err, REASON_TIMEOUT, ETIME,
                                      "it was broken off, as it would have missed its level: %.100s", why);
                } else
                        (void)err_set(&err, mv->control.is_cancelled ? REASON_CANCELLED : REASON_PEER_LOST,
                                      EIO, "the copy was broken off: %.120s",
                                      *mv->seen.why ? mv->seen.why : "QEMU says that it failed");
                source_broken(mv, mv->control.state == CONTROL_FAILED ? MOVE_EV_FAILED : MOVE_EV_BROKEN,
                              &err);
        }
}

void source_hear_broken(struct moving *mv)
{
        struct control_event ev = {.kind = CONTROL_EV_FAILED};
        struct err cut;
        if (!mv->is_copying || !source_is_cut(mv, &cut))
                return;
        happened(mv, &ev);
        source_broken(mv, mv->control.state == CONTROL_FAILED ? MOVE_EV_FAILED : MOVE_EV_BROKEN, &cut);
}

/* ---- the outcome ---- */

void source_write(struct moving *mv, const struct move_effect *f)
{
        struct err err = {0};
        char name[80];
        enum outcome_is is = 0;
        (void)snprintf(name, sizeof(name), "%s.%u", mv->core.row.id, f->attempt);
        int fd = source_outcome_dir(mv->m, &err);
        int bad = fd < 0 ? fd
                         : outcome_write(fd, name,
                                         f->outcome == MOVE_OUTCOME_COMMITTED ? OUTCOME_IS_COMMITTED
                                                                              : OUTCOME_IS_ABORTED,
                                         "source", &is, &err);
        if (fd >= 0)
                (void)close(fd);
        struct err cut = {0};
        bool is_cut = !bad && is == OUTCOME_IS_ABORTED && f->outcome == MOVE_OUTCOME_COMMITTED &&
                      source_is_cut(mv, &cut);
        move_report(mv, f->token,
                    bad                        ? MOVE_EV_UNKNOWN
                    : is == OUTCOME_IS_ABORTED ? MOVE_EV_ABORTED
                                               : MOVE_EV_COMMITTED,
                    bad      ? &err
                    : is_cut ? &cut
                             : NULL);
}

void source_forget(const struct moving *mv)
{
        struct err err = {0};
        char name[80];
        int fd = source_outcome_dir(mv->m, &err);
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
        hold_end(mv);
        if (mv->is_control_there && mv->control.state != CONTROL_PREPARED)
                happened(mv, &ev); /* the other side may have broken it off */
        if (v && machine_is_awaited(v))
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
        mv->release_token = f->token;
        source_drop(mv);
        move_unreserve(mv);
        mv->is_release_awaited = true;
        hold_end(mv); /* also of a meted before this one */
}

void source_nothing_is_held(struct moving *mv)
{
        struct meted *m = mv->m;
        struct machine *v = machine_find(m, mv->vm);
        struct err err = {0};
        char key[REQUEST_KEY];
        uint64_t serial;
        mv->is_release_awaited = false;
        if (mv->core.row.owner != OWNER_DESTINATION || !v) {
                move_report(mv, mv->release_token, MOVE_EV_RELEASED, NULL);
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
        source_profile_close(mv);
        copy_free(g_steal_pointer(&mv->copy));
        source_guard_hang_up(mv);
}

void source_drop(struct moving *mv)
{
        source_guard_end(mv);
        source_close(mv);
}
