/* SPDX-License-Identifier: Apache-2.0 */
/* What a move was seen to cost, for the plans of those that come after it (core/learn.h). */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "meted/moves-internal.h"
#include "meted/moves.h"

enum { COMMIT_MAX_US = 1000000, STOP_MAX_US = 1000000, WIRE_MAX_US = 20000, CPU_LEAST_BYTES = 32 << 20 };

static void learn(struct moving *mv, const struct learn_move *learnt)
{
        const struct machine *v = machine_find(mv->m, mv->vm);
        char evicted[LEARN_NAME];
        if (!learn_add(moves_learn(mv->m), mv->peer, v ? v->definition.machine : "?", learnt, evicted))
                return;
        moves_learnt(mv->m, mv->peer);
        if (*evicted && strcmp(evicted, mv->peer) != 0)
                moves_learnt(mv->m, evicted);
}

static struct learn_move nothing_learnt(void)
{
        struct learn_move learnt = {.is_told = {false}};
        for (int c = 0; c < LEARN_COST_N; c++)
                learnt.cost[c] = -1;
        return learnt;
}

/* What every attempt that QEMU began tells, however it ends; once. */
static struct learn_move attempt_cost(struct moving *mv)
{
        struct learn_move learnt = nothing_learnt();
        if (mv->begun_mono_us > 0 && mv->seen.setup_ms > 0)
                learnt.cost[LEARN_SETUP] = (double)(mv->begun_mono_us - mv->attempt_mono_us) / 1e6 +
                                           (double)mv->seen.setup_ms / 1e3;
        mv->begun_mono_us = 0;
        return learnt;
}

int64_t moving_thread_cpu_ns(const struct moving *mv, int64_t tid)
{
        const struct machine *v = machine_find(mv->m, mv->vm);
        char path[64], text[64];
        if (tid <= 0 || !v || v->pid <= 0)
                return 0;
        /* By way of its process: a VMM that names a thread of somebody else's is not believed. */
        (void)snprintf(path, sizeof(path), "/proc/%d/task/%" PRId64 "/schedstat", (int)v->pid, tid);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return 0;
        ssize_t n = read(fd, text, sizeof(text) - 1);
        (void)close(fd);
        text[n > 0 ? n : 0] = '\0';
        return g_ascii_strtoll(text, NULL, 10); /* 0 where it is no number */
}

/* The part of the stop that no byte on the wire accounts for. Where there were many, what is left is the
 * error of the rate. */
static double device_s(const struct moving *mv)
{
        if (!mv->is_control_there || mv->device_bytes <= 0 || mv->stop_mono_us <= 0)
                return -1;
        double stood_s = (double)(mv->complete_mono_us - mv->stop_mono_us) / 1e6;
        double wire_s = (double)(mv->stopped_bytes + mv->device_bytes) / mv->control.estimate.bytes_per_s;
        bool is_telling = stood_s > 0 && stood_s < COMMIT_MAX_US / 1e6 && wire_s < WIRE_MAX_US / 1e6;
        return is_telling ? MAX(stood_s - wire_s, 0) : -1;
}

/* Also of an attempt that was broken off: else the next is promised the same. */
static void learn_stream(struct moving *mv, struct learn_move *learnt)
{
        if (!mv->is_control_there)
                return;
        struct estimate *e = &mv->control.estimate;
        double byte_s = estimate_stream_s(e);
        int64_t here_bps = mv->means.source.bandwidth_bps, there_bps = mv->means.destination.bandwidth_bps;
        learnt->cost[LEARN_ZERO_PAGE] = estimate_zero_page_s(e);
        learnt->cost[LEARN_SOURCE_CPU] = estimate_cpu_s(e);
        int64_t sent_bytes = mv->seen.sample.transferred_bytes;
        int64_t took_us = g_get_monotonic_time() - mv->attempt_mono_us; /* a thread has no more than that */
        if (mv->ran.cpu_us > 0 && mv->ran.cpu_us <= took_us && sent_bytes >= CPU_LEAST_BYTES) {
                learnt->cost[LEARN_DESTINATION_CPU] = (double)mv->ran.cpu_us / 1e6 / (double)sent_bytes;
                learnt->is_told[LEARN_DESTINATION_CPU] = true;
        }
        struct learn_rate r = {
                .bytes_per_s = byte_s > 0 ? 1 / byte_s : 0,
                .link_bytes_per_s = (double)MIN(here_bps, there_bps) / 8,
                .cpu_s = MAX(MAX(learnt->cost[LEARN_SOURCE_CPU], learnt->cost[LEARN_DESTINATION_CPU]), 0),
                .reserved_bytes_per_s = mv->was_held ? e->reserved_bytes_per_s / mv->means.goodput : 0,
                .is_alone =
                        !mv->was_crowded && there_bps >= here_bps && here_bps >= mv->m->config.move_rate_bps};
        learn_rate(learnt, &mv->profile, &mv->means, &r);
        estimate_forget(e);
}

void source_learn_broken(struct moving *mv)
{
        struct learn_move learnt = attempt_cost(mv);
        learn_stream(mv, &learnt);
        learn(mv, &learnt);
}

void source_learn_resumed(struct moving *mv, int64_t us)
{
        struct learn_move learnt = nothing_learnt();
        learnt.cost[LEARN_RESUME] = (double)us / 1e6;
        learn(mv, &learnt);
}

/* From the stop of the guest here, by the VMM's own stamp, until it was heard that it runs there, less what
 * it had run when that was said; and what its vCPUs took to stop before. */
void source_measured(struct moving *mv, bool is_repeated)
{
        int64_t heard_us = g_get_monotonic_time();
        if (!mv->stop_mono_us || mv->gap_ms > 0)
                return; /* another meted began it; or it was measured in a turn that could not be written */
        struct learn_move learnt = attempt_cost(mv);
        /* Its VMM may have died before it said that all of it went over. */
        bool is_complete_known = mv->complete_mono_us > mv->stop_mono_us;
        int64_t after_us = heard_us - (is_complete_known ? mv->complete_mono_us : mv->stop_mono_us);
        /* A peer that says that it ran before all was there is not believed. */
        int64_t now_us = mv->ran.run_us + mv->ran.ran_us <= after_us ? heard_us - mv->ran.ran_us : heard_us;
        int64_t behind_us = is_complete_known ? now_us - mv->complete_mono_us : -1;
        int64_t stop_us = mv->stop_us > 0 ? mv->stop_us : (int64_t)(mv->profile.stop.p99_s * 1e6);
        mv->gap_ms = (now_us - mv->stop_mono_us + stop_us + 999) / 1000;
        mv->took_ms = (now_us - mv->began_mono_us + 999) / 1000;
        learnt.cost[LEARN_STOP] = mv->stop_us > 0 ? (double)mv->stop_us / 1e6 : -1;
        if (mv->heard_late_us > 0)
                learnt.cost[LEARN_RESUME] = learn_resume_s((double)mv->heard_late_us / 1e6);
        learnt.cost[LEARN_DEVICE_BYTES] = mv->device_bytes > 0 ? (double)mv->device_bytes : -1;
        if (mv->ran.run_us > 0 && mv->ran.run_us <= behind_us) {
                learnt.cost[LEARN_RUN] = (double)mv->ran.run_us / 1e6;
                learnt.is_told[LEARN_RUN] = true;
                behind_us -= mv->ran.run_us;
        }
        /* So long, or asked more than once, or longer than what the guard allows, it was because the two
         * sides did not reach each other: that is not what a move costs, and would spoil every plan with
         * this peer for long. */
        bool is_ordinary =
                behind_us >= 0 && behind_us <= COMMIT_MAX_US && !is_repeated &&
                (mv->core.row.level.downtime_ms == 0 || mv->gap_ms <= mv->core.row.level.downtime_ms);
        if (is_ordinary) {
                learnt.cost[LEARN_COMMIT] = (double)behind_us / 1e6;
                learnt.cost[LEARN_DEVICE] = device_s(mv);
        }
        learn_stream(mv, &learnt);
        learn(mv, &learnt);
        move_say(mv, "measured", "%lld ms, downtime %lld ms", (long long)mv->took_ms, (long long)mv->gap_ms);
}

/* QEMU counts its downtime from when it begins to stop the vCPUs, and says STOP when the last one stands. It
 * may say anything: what it was stopped for, and a while more, is the most that is believed. */
void source_last_look(void *arg, const struct copy_seen *seen, const struct err *err)
{
        struct moving *mv = arg;
        int64_t stood_us = mv->complete_mono_us - mv->stop_mono_us;
        mv->device_bytes = err ? 0 : seen->device_bytes;
        mv->stopped_bytes = err ? 0 : seen->stopped_bytes;
        if (!err && seen->downtime_ms > 0 && mv->stop_mono_us > 0 && stood_us > 0 &&
            seen->downtime_ms <= (stood_us + STOP_MAX_US) / 1000)
                mv->stop_us = MAX(seen->downtime_ms * 1000 - stood_us, 1);
}
