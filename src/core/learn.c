/* SPDX-License-Identifier: Apache-2.0 */
/* Mean and variance with exponential forgetting (Finch 2009): weights are 0.8^age, so that never more than
 * five moves count. The 99th percentile of the next one is that of a Student's distribution of so few: 3.75
 * deviations at 4 degrees of freedom, times the root of 1 + 1/5. */
#include "core/learn.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const double forgetting = 0.8, to_p99 = 4.1;

/* One move counts for at most so many times what was believed, and of a link's goodput for no less than
 * was_odd of it. A stream that needed less than this part of the time it was believed to need was no odd one,
 * but held up before. */
static const double one_moves_part = 8, was_held_up = 0.8, was_odd = 0.8;
/* A thread that sends, or takes in, is what limits its stream where it has nothing but that to do. On a CPU
 * that it shares it waits for a part of the time: 0.74 was seen where it did, 0.3 where its link did. */
static const double least_busy = 0.5;
/* However alike the last moves were, and whatever they were. */
static const double least_goodput_error = 0.02, most_goodput_error = 0.2, least_cpu_error = 0.2;
/* Of the time to resume, whatever was learnt: four times the longest that was seen of a hundred faults on a
 * machine with little else to do. How busy this one is tells what is above it. */
static const double least_resume_s = 0.008;
/* Faster than its link by more than this, whoever says so is wrong. */
static const double most_part = 1.05;

/* Assumed: on the bad side of what was measured with QEMU 7.2 and 10.0, q35 with four virtio devices, on a
 * busy machine of two CPUs (MIGRATION.md 6.2, 8.3, 8.5). least, most: beyond them it is an error of who
 * measured. weight: for how many moves it counts; for little where one move is as good as the next, or an
 * assumption as good as none. */
static const struct assumed {
        const char *name;
        double mean, p99, least, most, weight;
} assumed[LEARN_COST_N] = {
        [LEARN_SETUP] = {"setup",           0.05,   0.2,    0,     30,   1   },
        [LEARN_STOP] = {"stop",            0.002,  0.012,  0,     10,   1   },
        [LEARN_DEVICE] = {"device",          0.006,  0.012,  0,     10,   1   },
        [LEARN_COMMIT] = {"commit",          0.001,  0.005,  0,     10,   1   },
        [LEARN_RUN] = {"run",             0.001,  0.004,  0,     10,   1   },
        [LEARN_ZERO_PAGE] = {"zero-page",       9e-6,   14e-6,  1e-7,  1e-3, 1   },
        [LEARN_SOURCE_CPU] = {"source-cpu",      1.9e-9, 2.6e-9, 2e-10, 1e-6, 1   },
        [LEARN_DESTINATION_CPU] = {"destination-cpu", 3.5e-9, 5.5e-9, 2e-10, 1e-6, 1   },
        [LEARN_DEVICE_BYTES] = {"device-bytes",    480e3,  1e6,    0,     1e9,  0.05},
        [LEARN_STREAM] = {"stream",          3.5e-9, 7e-9,   5e-11, 1e-6, 0.05},
        [LEARN_RESUME] = {"resume",          0.005,  0.025,  0,     10,   0.1 },
        [LEARN_GOODPUT] = {"goodput",         0.955,  1.003,  0.5,   0.99, 0.05},
};

const char *learn_cost_name(enum learn_cost c)
{
        return c > 0 && c < LEARN_COST_N ? assumed[c].name : "?";
}

void learn_init(struct learn *l)
{
        *l = (struct learn){0};
}

static struct learnt_figure first(enum learn_cost c)
{
        return (struct learnt_figure){assumed[c].mean, (assumed[c].p99 - assumed[c].mean) / to_p99, 0, false};
}

static bool is_usable(double x)
{
        return isfinite(x) && x >= 0;
}

/* One move is one move, however odd it was: it counts for so many times what was believed, at the most. */
static double believable(const struct learnt_figure *f, enum learn_cost c, double x)
{
        double most = fmax(one_moves_part * f->mean, 4 * assumed[c].p99);
        /* What an attempt lacks of a link while that is cut is no part of what the link gives. */
        double least =
                c == LEARN_GOODPUT ? f->mean * was_odd : fmin(f->mean / one_moves_part, assumed[c].mean);
        return fmin(fmax(x, fmax(least, assumed[c].least)), fmin(most, assumed[c].most));
}

/* What was far better than expected says nothing of how bad it may get. */
static double towards_worse(enum learn_cost c, double off, double deviation)
{
        bool is_worse = c == LEARN_GOODPUT ? off < 0 : off > 0;
        return is_worse ? off : fmin(fabs(off), deviation);
}

/* The assumption's weight is what is left of it before the first move, and fades like one. */
static void add(struct learnt_figure *f, enum learn_cost c, double measured)
{
        double before = f->weight > 0 ? f->weight : assumed[c].weight, after = forgetting * before + 1;
        double x = believable(f, c, measured), part = 1 / after, off = x - f->mean;
        double worse = towards_worse(c, off, f->deviation);
        f->mean += part * off;
        f->deviation = sqrt((1 - part) * (f->deviation * f->deviation + part * worse * worse));
        /* It is a limit that is learnt: a stream that was that fast was held up by something else before. */
        if (c == LEARN_STREAM && x < f->mean * was_held_up)
                f->mean = x;
        f->weight = after;
}

static struct learnt *find(struct learn *l, const char *peer, const char *machine)
{
        for (size_t i = 0; i < l->n; i++)
                if (strcmp(l->rows[i].peer, peer) == 0 && strcmp(l->rows[i].machine, machine) == 0)
                        return &l->rows[i];
        return NULL;
}

const struct learnt *learn_row(const struct learn *l, const char *peer, size_t n)
{
        for (size_t i = 0; i < l->n; i++)
                if (strcmp(l->rows[i].peer, peer) == 0 && n-- == 0)
                        return &l->rows[i];
        return NULL;
}

/* Room for a row: one of its own peer's goes where that has too many, else the oldest of all where all are
 * taken. */
static struct learnt *make(struct learn *l, const char *peer, char evicted[LEARN_NAME])
{
        bool is_full = l->n == LEARN_ROWS, is_peer_full = learn_row(l, peer, LEARN_MACHINES - 1) != NULL;
        struct learnt *oldest = NULL;
        for (size_t i = 0; i < l->n; i++)
                if ((!is_peer_full || strcmp(l->rows[i].peer, peer) == 0) &&
                    (!oldest || l->rows[i].used < oldest->used))
                        oldest = &l->rows[i];
        if (!is_full && !is_peer_full)
                return &l->rows[l->n++];
        (void)snprintf(evicted, LEARN_NAME, "%s", oldest->peer);
        return oldest;
}

static struct learnt *find_or_make(struct learn *l, const char *peer, const char *machine,
                                   char evicted[LEARN_NAME])
{
        struct learnt *row = find(l, peer, machine);
        evicted[0] = '\0';
        if (!row) {
                row = make(l, peer, evicted);
                *row = (struct learnt){0};
                (void)snprintf(row->peer, sizeof(row->peer), "%s", peer);
                (void)snprintf(row->machine, sizeof(row->machine), "%s", machine);
                for (int c = 1; c < LEARN_COST_N; c++)
                        row->figure[c] = first((enum learn_cost)c);
        }
        row->used = ++l->uses;
        return row;
}

double learn_resume_s(double heard_late_s)
{
        return heard_late_s >= 0 ? assumed[LEARN_RESUME].mean + 2 * heard_late_s : -1;
}

const struct learnt *learn_add(struct learn *l, const char *peer, const char *machine,
                               const struct learn_move *m, char evicted[LEARN_NAME])
{
        char by_peer[LEARN_NAME], by_machine[LEARN_NAME];
        bool is_any = false;
        assert(*peer && *machine);
        evicted[0] = '\0';
        for (int c = 1; c < LEARN_COST_N; c++)
                is_any = is_any || is_usable(m->cost[c]);
        if (!is_any)
                return NULL;
        (void)snprintf(by_peer, sizeof(by_peer), "%s", peer);
        (void)snprintf(by_machine, sizeof(by_machine), "%s", machine);
        struct learnt *row = find_or_make(l, by_peer, by_machine, evicted);
        for (int c = 1; c < LEARN_COST_N; c++)
                if (is_usable(m->cost[c])) {
                        add(&row->figure[c], (enum learn_cost)c, m->cost[c]);
                        row->figure[c].is_told = m->is_told[c];
                }
        return row;
}

bool learn_put(struct learn *l, const struct learnt *stored)
{
        struct learnt_figure figure[LEARN_COST_N] = {0};
        bool is_any = false;
        for (int c = 1; c < LEARN_COST_N; c++) {
                const struct learnt_figure *f = &stored->figure[c];
                bool is_good = is_usable(f->mean) && is_usable(f->deviation) && is_usable(f->weight) &&
                               f->weight > 0 && f->mean >= assumed[c].least && f->mean <= assumed[c].most &&
                               f->deviation <= assumed[c].most;
                figure[c] = is_good ? *f : first((enum learn_cost)c);
                figure[c].weight = fmin(figure[c].weight, 1 / (1 - forgetting));
                is_any = is_any || is_good;
        }
        if (!is_any || !*stored->peer || !*stored->machine)
                return false;
        char evicted[LEARN_NAME];
        struct learnt *row = find_or_make(l, stored->peer, stored->machine, evicted);
        memcpy(row->figure, figure, sizeof(figure));
        return true;
}

static struct cost cost_of(const struct learnt *row, enum learn_cost c)
{
        struct learnt_figure f = row ? row->figure[c] : first(c);
        return (struct cost){f.mean, f.mean + to_p99 * f.deviation,
                             f.weight <= 0 ? FIGURE_ASSUMED
                             : f.is_told   ? FIGURE_TOLD
                                           : FIGURE_LEARNT};
}

void learn_rate(struct learn_move *ret, const struct profile *p, const struct means *m,
                const struct learn_rate *r)
{
        double part = r->bytes_per_s / r->link_bytes_per_s;
        if (!(r->bytes_per_s > 0) || !(r->link_bytes_per_s > 0) || part > most_part)
                return;
        double off_link = (m->goodput - part) / (m->goodput * least_goodput_error);
        double off_stream =
                fabs(1 / r->bytes_per_s - p->stream.mean_s) / fmax(p->stream.p99_s - p->stream.mean_s, 1e-15);
        bool is_busy = r->cpu_s * r->bytes_per_s >= least_busy;
        bool is_link = !is_busy || off_link < off_stream; /* what explains it better */
        /* Beside others it gets what they leave it, and what it is guaranteed at least. */
        bool is_short = r->bytes_per_s < r->reserved_bytes_per_s * m->goodput * (1 - m->goodput_error);
        bool is_its_own = r->is_alone || is_short;
        if (is_link && (is_its_own || part > m->goodput))
                ret->cost[LEARN_GOODPUT] = part;
        if ((!is_link && is_its_own) || p->stream.mean_s > 1 / r->bytes_per_s)
                ret->cost[LEARN_STREAM] = 1 / r->bytes_per_s; /* at least as fast as it was */
}

/* It was measured with all that the thread could get, and is to hold with what is reserved. */
static struct cost cpu_cost_of(const struct learnt *row, enum learn_cost c)
{
        struct cost cost = cost_of(row, c);
        cost.p99_s = fmax(cost.p99_s, cost.mean_s * (1 + least_cpu_error));
        return cost;
}

void learn_fill(struct learn *l, const char *peer, const char *machine, struct profile *p, struct means *m)
{
        char by_peer[LEARN_NAME], by_machine[LEARN_NAME];
        (void)snprintf(by_peer, sizeof(by_peer), "%s", peer);
        (void)snprintf(by_machine, sizeof(by_machine), "%s", machine);
        struct learnt *row = find(l, by_peer, by_machine);
        if (row)
                row->used = ++l->uses;
        p->setup = cost_of(row, LEARN_SETUP);
        p->stop = cost_of(row, LEARN_STOP);
        p->device = cost_of(row, LEARN_DEVICE);
        p->commit = cost_of(row, LEARN_COMMIT);
        p->run = cost_of(row, LEARN_RUN);
        p->zero_page = cost_of(row, LEARN_ZERO_PAGE);
        p->source_cpu = cpu_cost_of(row, LEARN_SOURCE_CPU);
        p->destination_cpu = cpu_cost_of(row, LEARN_DESTINATION_CPU);
        struct cost bytes = cost_of(row, LEARN_DEVICE_BYTES);
        p->device_bytes = (int64_t)ceil(bytes.p99_s);
        p->device_mean_bytes = (int64_t)ceil(bytes.mean_s);
        p->device_bytes_source = bytes.source;
        p->stream = cost_of(row, LEARN_STREAM);
        struct cost goodput = cost_of(row, LEARN_GOODPUT);
        m->goodput = goodput.mean_s;
        m->goodput_error = fmin(fmax((goodput.p99_s - goodput.mean_s) / m->goodput, least_goodput_error),
                                most_goodput_error);
        m->goodput_source = goodput.source;
        m->resume = cost_of(row, LEARN_RESUME);
        m->resume.p99_s = fmax(m->resume.p99_s, least_resume_s);
}
