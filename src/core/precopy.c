/* SPDX-License-Identifier: Apache-2.0 */
/* The bitmap is three amounts in the order in which the cursor comes to them: left_bytes (the first pass over
 * what has something in it), zero_pages, again_bytes. Only the amount at the cursor shrinks in a slice, at
 * one speed, so a run of slices that are not decided upon is one multiplication.
 *
 * A page that is dirtied anew and is in the bitmap already counts once. In the first pass that is as probable
 * as that it was not sent yet; later, what is left is taken for an even part of all that is written to.
 *
 * QEMU measures its bandwidth, and finds next to none while it looks at zero pages: then its threshold is
 * next to nothing. It measures every 100 ms, here it is every slice. */
#include "core/precopy.h"

#include <assert.h>
#include <math.h>

/* After so many syncs without one that left less than any before, none will: all that a guest writes to again
 * and again has been seen by then, and what comes is the same round anew. */
enum { SYNCS_WITHOUT_PROGRESS = 12, SYNCS_MAX = 512 };
static const double progress = 0.999;

/* To look for dirty pages takes time even where there are none. */
static const double least_slice_s = 0.001;

static const double wire_factor = (double)(PRECOPY_PAGE + PRECOPY_HEADER) / PRECOPY_PAGE;

const char *figure_source_name(enum figure_source source)
{
        static const char *const names[FIGURE_SOURCE_N] = {
                [FIGURE_ASSUMED] = "assumed", [FIGURE_CONFIGURED] = "configured",
                [FIGURE_SAMPLED] = "sampled", [FIGURE_MEASURED] = "measured",
                [FIGURE_LEARNT] = "learnt",   [FIGURE_TOLD] = "told",
                [FIGURE_FREE] = "free",
        };
        return source > 0 && source < FIGURE_SOURCE_N ? names[source] : "?";
}

/* ---- the curve ---- */

static double between_points(const struct curve *c, double s)
{
        struct curve_point a = {0, 0}, b = c->points[0];
        for (size_t i = 1; i < c->n_points && s > b.s; i++) {
                a = b;
                b = c->points[i];
        }
        assert(b.s > a.s && b.bytes >= a.bytes);
        return a.bytes + (b.bytes - a.bytes) * (s - a.s) / (b.s - a.s);
}

double curve_bytes(const struct curve *c, double s, double most_bytes)
{
        double bytes;
        if (!(s > 0))
                return 0;
        if (c->n_points > 0)
                bytes = between_points(c, s);
        else
                bytes = c->cold_bytes_per_s * s +
                        (c->hot_bytes > 0 ? -c->hot_bytes * expm1(-c->hot_bytes_per_s * s / c->hot_bytes)
                                          : 0);
        return fmin(bytes, most_bytes);
}

static double dirtied(const struct precopy_means *m, double s, double most_bytes)
{
        const struct curve *c = m->dirty;
        double bytes = m->dirt * curve_bytes(c, s, most_bytes);
        if (c->n_points > 0 && s > c->points[c->n_points - 1].s) {
                double last = m->dirt * c->points[c->n_points - 1].bytes;
                bytes -= m->saturation * fmax(bytes - last, 0);
        }
        return fmin(bytes, most_bytes);
}

/* What is written to at all within so long, were it seen to the end: of it, every page is as likely the next.
 */
static double set_bytes(const struct precopy_means *m, double s, double most_bytes)
{
        const struct curve *c = m->dirty;
        if (c->n_points > 0)
                return dirtied(m, fmax(s, c->points[c->n_points - 1].s), most_bytes);
        return fmin(m->dirt * fmin(c->hot_bytes + c->cold_bytes_per_s * s, most_bytes), most_bytes);
}

/* ---- the loop ---- */

void precopy_init(struct precopy *p, double setup_s, double populated_bytes, double zero_pages)
{
        *p = (struct precopy){.now_s = setup_s,
                              .memory_bytes = populated_bytes + zero_pages * PRECOPY_PAGE,
                              .first_bytes = populated_bytes,
                              .left_bytes = populated_bytes,
                              .zero_pages = zero_pages};
}

double precopy_remaining(const struct precopy *p)
{
        return p->left_bytes + p->zero_pages * PRECOPY_PAGE + p->again_bytes;
}

/* What a sync adds that is not in the bitmap already, if the guest has run for since_s since the last one. */
static double unseen(const struct precopy *p, const struct precopy_means *m, double since_s)
{
        double bytes = dirtied(m, since_s, p->memory_bytes);
        double set = set_bytes(m, p->guest_s, p->memory_bytes);
        if (p->first_bytes > 0)
                bytes *= 1 - p->left_bytes / p->first_bytes;
        if (set <= p->again_bytes)
                return 0;
        double drawn = bytes * (1 - p->again_bytes / set), in_turn = fmin(bytes, set - p->again_bytes);
        return m->overlap * drawn + (1 - m->overlap) * in_turn;
}

double precopy_remaining_synced(const struct precopy *p, const struct precopy_means *m)
{
        return precopy_remaining(p) + unseen(p, m, p->since_s);
}

static void sync_bitmap(struct precopy *p, const struct precopy_means *m)
{
        p->again_bytes += unseen(p, m, p->since_s);
        p->since_s = 0;
        p->rounds++;
}

/* What is at the cursor: how much of it, and how fast it goes; in bytes of pages, zero ones included. */
struct stretch {
        double bytes, bytes_per_s, wire_bytes_per_s;
};

static struct stretch at_cursor(const struct precopy *p, const struct precopy_means *m)
{
        if (p->left_bytes <= 0 && p->zero_pages > 0) {
                double page_s = m->zero_page_s + PRECOPY_ZERO_PAGE / m->bytes_per_s;
                return (struct stretch){p->zero_pages * PRECOPY_PAGE, PRECOPY_PAGE / page_s,
                                        PRECOPY_ZERO_PAGE / page_s};
        }
        return (struct stretch){p->left_bytes > 0 ? p->left_bytes : p->again_bytes,
                                m->bytes_per_s / wire_factor, m->bytes_per_s};
}

static void pass(struct precopy *p, const struct precopy_means *m, double s)
{
        p->now_s += s;
        p->guest_s += s * m->share;
        p->since_s += s * m->share;
}

static void send(struct precopy *p, const struct precopy_means *m, const struct stretch *at, double bytes,
                 double s)
{
        if (p->left_bytes > 0)
                p->left_bytes -= bytes;
        else if (p->zero_pages > 0)
                p->zero_pages -= bytes / PRECOPY_PAGE;
        else
                p->again_bytes -= bytes;
        p->sent_bytes += s * at->wire_bytes_per_s;
        pass(p, m, s);
}

/* A slice ends early where nothing is left. */
static void one_slice(struct precopy *p, const struct precopy_means *m)
{
        double left_s = PRECOPY_SLICE_S, before_bytes = p->sent_bytes;
        while (left_s > 0 && precopy_remaining(p) > 0) {
                struct stretch at = at_cursor(p, m);
                double s = at.bytes / at.bytes_per_s;
                if (s <= left_s) { /* all of it: no rest by rounding */
                        send(p, m, &at, at.bytes, s);
                        left_s -= s;
                } else {
                        send(p, m, &at, left_s * at.bytes_per_s, left_s);
                        left_s = 0;
                }
        }
        if (left_s < PRECOPY_SLICE_S)
                p->measured_bytes_per_s = (p->sent_bytes - before_bytes) / (PRECOPY_SLICE_S - left_s);
        double idle_s = left_s - (PRECOPY_SLICE_S - least_slice_s);
        if (idle_s > 0)
                pass(p, m, idle_s);
}

/* Who holds the limit has to see a sync first, and to have it changed then. */
static bool is_held(const struct precopy *p, const struct precopy_means *m)
{
        bool is_seen = p->rounds > 1 || (p->rounds == 1 && p->since_s >= m->react_s * m->share);
        return m->hold_s > 0 && !is_seen;
}

/* That is in force. */
static double limit_s(const struct precopy *p, const struct precopy_means *m)
{
        return is_held(p, m) ? fmin(m->hold_s, m->limit_s) : m->limit_s;
}

static bool is_below(const struct precopy *p, double limit)
{
        double bytes = precopy_remaining(p);
        return bytes <= 0 || bytes < p->measured_bytes_per_s * limit;
}

/* A sync, if it is time for one. */
static enum precopy_end decide(struct precopy *p, const struct precopy_means *m)
{
        double limit = limit_s(p, m); /* before the sync and behind it: none has seen it yet */
        if (!is_below(p, limit))
                return PRECOPY_GOES_ON;
        if (limit <= 0)
                return PRECOPY_STOPS; /* nothing is less than nothing: it looks no more */
        sync_bitmap(p, m);
        return is_below(p, limit) ? PRECOPY_STOPS : PRECOPY_GOES_ON;
}

enum precopy_end precopy_slice(struct precopy *p, const struct precopy_means *m)
{
        enum precopy_end end = decide(p, m);
        if (end == PRECOPY_GOES_ON)
                one_slice(p, m);
        return end;
}

struct precopy_outcome precopy_stop(const struct precopy *p, const struct precopy_means *m)
{
        double bytes = p->left_bytes + p->again_bytes + unseen(p, m, p->since_s + m->stop_s);
        double wire_bytes = bytes * wire_factor + p->zero_pages * PRECOPY_ZERO_PAGE + m->tail_bytes;
        double downtime_s = m->fixed_s + p->zero_pages * m->zero_page_s + wire_bytes / m->switch_bytes_per_s;
        return (struct precopy_outcome){PRECOPY_STOPS, p->now_s + downtime_s, downtime_s,
                                        p->sent_bytes + wire_bytes, p->rounds};
}

/* Slices before the next that is decided upon, all in the same stretch. */
static double undecided_slices(const struct precopy *p, const struct precopy_means *m)
{
        if (p->rounds == 1 && is_held(p, m))
                return 0;
        struct stretch at = at_cursor(p, m);
        double until = precopy_remaining(p) - at.wire_bytes_per_s * limit_s(p, m);
        return floor(fmin(at.bytes, until) / at.bytes_per_s / PRECOPY_SLICE_S) - 1;
}

struct precopy_outcome precopy_run(const struct precopy *from, const struct precopy_means *m)
{
        struct precopy p = *from;
        double best_bytes = INFINITY;
        int in_vain = 0, rounds = p.rounds;
        while (in_vain < SYNCS_WITHOUT_PROGRESS && p.rounds - rounds < SYNCS_MAX) {
                int before = p.rounds;
                if (decide(&p, m) == PRECOPY_STOPS)
                        return precopy_stop(&p, m);
                if (p.rounds > before) {
                        double bytes = precopy_remaining(&p);
                        in_vain = bytes < best_bytes * progress ? 0 : in_vain + 1;
                        best_bytes = fmin(best_bytes, bytes);
                }
                one_slice(&p, m);
                double n = is_below(&p, limit_s(&p, m)) ? 0 : undecided_slices(&p, m);
                if (n >= 1) {
                        struct stretch at = at_cursor(&p, m);
                        send(&p, m, &at, n * PRECOPY_SLICE_S * at.bytes_per_s, n * PRECOPY_SLICE_S);
                        p.measured_bytes_per_s = at.wire_bytes_per_s;
                }
        }
        return (struct precopy_outcome){PRECOPY_HOPELESS, INFINITY, INFINITY, p.sent_bytes, p.rounds};
}
