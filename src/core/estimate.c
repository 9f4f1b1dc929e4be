/* SPDX-License-Identifier: Apache-2.0 */
/* Between two samples, remaining falls by the pages that were sent and rises by what syncs added. The first
 * is counted, so the second is known exactly, whenever in between the sync was. */
#include "core/estimate.h"

#include <assert.h>
#include <math.h>
#include <string.h>

/* New findings against old ones. A profile may be wrong by this much, not by more. */
static const double most_rounds = 1e6; /* what QEMU says is not trusted */
static const double weight = 0.5, least_dirt = 0.02, most_dirt = 50;
/* Less than this says nothing of the curve. */
static const double enough_bytes = 1 << 20;
enum { SOME_PAGES = 256 };
/* So much has to be seen of a move to tell what the next one will cost. */
static const double enough_s = 0.5, enough_cpu_bytes = 32 << 20, enough_zero_pages = 8192;

void estimate_init(struct estimate *e, const struct profile *p, const struct means *m, int64_t bandwidth_bps)
{
        assert(bandwidth_bps > 0);
        *e = (struct estimate){.profile = *p,
                               .means = *m,
                               .bytes_per_s = (double)bandwidth_bps / 8 * m->goodput,
                               .dirt = 1,
                               .overlap = 1,
                               .reserved_bytes_per_s = (double)bandwidth_bps / 8 * m->goodput,
                               .queued_bytes = (double)m->queued_bytes};
        estimate_restart(e);
}

void estimate_restart(struct estimate *e)
{
        e->has_sample = false;
        e->syncs_before = 0;
        precopy_init(&e->loop, e->profile.setup.mean_s, (double)e->profile.populated_bytes,
                     (double)e->profile.zero_pages);
}

static bool makes_sense(const struct estimate *e, int64_t now_ms, const struct sample *s)
{
        const int64_t most = INT64_C(1) << 53;
        const struct sample *b = &e->sample;
        if (s->remaining_bytes < 0 || s->remaining_bytes > most || s->transferred_bytes < 0 ||
            s->normal_pages < 0 || s->normal_pages > most / PRECOPY_PAGE || s->zero_pages < 0 ||
            s->zero_pages > most / PRECOPY_PAGE || s->syncs < 0 || s->queued_bytes < 0 || s->cpu_ns < 0)
                return false;
        return !e->has_sample || (now_ms > e->sample_ms && s->transferred_bytes >= b->transferred_bytes &&
                                  s->normal_pages >= b->normal_pages && s->zero_pages >= b->zero_pages &&
                                  s->syncs >= b->syncs && (s->cpu_ns == 0 || s->cpu_ns >= b->cpu_ns));
}

static void begin_window(struct estimate *e, int64_t now_ms, const struct sample *s)
{
        e->window = *s;
        e->window_ms = now_ms;
        e->is_window_full = true;
}

/* Where the bitmap is nearly empty the stream waits for the guest, not for the link. */
static void see_bandwidth(struct estimate *e, int64_t now_ms, const struct sample *s)
{
        if ((double)s->remaining_bytes < e->bytes_per_s * PRECOPY_SLICE_S || s->syncs != e->sample.syncs)
                e->is_window_full = false;
        if (now_ms - e->window_ms < ESTIMATE_WINDOW_MS)
                return;
        bool is_telling = false;
        double passed_s = (double)(now_ms - e->window_ms) / 1000;
        double zero_s = (double)(s->zero_pages - e->window.zero_pages) *
                        (e->profile.zero_page.mean_s + PRECOPY_ZERO_PAGE / e->bytes_per_s);
        double bytes = (double)(s->normal_pages - e->window.normal_pages) * (PRECOPY_PAGE + PRECOPY_HEADER);
        if (e->is_window_full && zero_s < passed_s / 4) {
                e->bytes_per_s += weight * (fmax(bytes / (passed_s - zero_s), 1) - e->bytes_per_s);
                is_telling = zero_s < passed_s / 20 && bytes > passed_s * e->bytes_per_s / 4; /* not silent */
        }
        if (is_telling) {
                bool is_cpu_known = s->cpu_ns > 0 && e->window.cpu_ns > 0;
                e->seen.stream_s += passed_s;
                e->seen.stream_bytes += bytes;
                e->seen.cpu_s += is_cpu_known ? (double)(s->cpu_ns - e->window.cpu_ns) / 1e9 : 0;
                e->seen.cpu_bytes += is_cpu_known ? bytes : 0;
        }
        begin_window(e, now_ms, s);
}

/* Zero pages come by in long stretches: where hardly anything else did, the time was theirs. */
static void see_zero_pages(struct estimate *e, double passed_s, const struct sample *s)
{
        double other_s = (double)(s->normal_pages - e->sample.normal_pages) *
                         (PRECOPY_PAGE + PRECOPY_HEADER) / e->bytes_per_s;
        int64_t pages = s->zero_pages - e->sample.zero_pages;
        if (e->loop.rounds > 0 || s->syncs != e->sample.syncs || pages < SOME_PAGES ||
            other_s > passed_s / 4 || passed_s > 8 * (double)pages * e->profile.zero_page.mean_s)
                return; /* the last: the link was silent */
        double wire_s = (double)pages * PRECOPY_ZERO_PAGE / e->bytes_per_s;
        e->seen.zero_s += fmax(passed_s - other_s - wire_s, 0);
        e->seen.zero_pages += (double)pages;
}

void estimate_forget(struct estimate *e)
{
        memset(&e->seen, 0, sizeof(e->seen));
}

double estimate_stream_s(const struct estimate *e)
{
        return e->seen.stream_s >= enough_s ? e->seen.stream_s / e->seen.stream_bytes : -1;
}

double estimate_cpu_s(const struct estimate *e)
{
        return e->seen.cpu_bytes >= enough_cpu_bytes ? e->seen.cpu_s / e->seen.cpu_bytes : -1;
}

double estimate_zero_page_s(const struct estimate *e)
{
        return e->seen.zero_pages >= enough_zero_pages ? e->seen.zero_s / e->seen.zero_pages : -1;
}

/* What a sync adds, by the curve alone. What the guest does past the curve's last point is not the curve's
 * error: all that it may be is allowed for in the most. */
static double expected_at_sync(const struct estimate *e, double overlap, double saturation)
{
        struct precopy_means m = estimate_means(e, 0, 1000, PLAN_EXPECTED);
        m.dirt = 1;
        m.overlap = overlap;
        m.saturation = saturation;
        return precopy_remaining_synced(&e->loop, &m) - precopy_remaining(&e->loop);
}

/* In between it is as the curve says, and how much it overlaps is seen. `least` may be as good as nothing,
 * where nearly all that is written to again is still to be sent. */
static double found_dirt(const struct estimate *e, double added, double least, double most)
{
        if (added > most)
                return added / most;
        if (added >= least)
                return 1;
        return least >= enough_bytes ? added / least : e->dirt;
}

/* What came into the bitmap, against what the curve says. */
static void see_dirt(struct estimate *e, const struct sample *s)
{
        double sent_pages = (double)(s->normal_pages - e->sample.normal_pages) +
                            (double)(s->zero_pages - e->sample.zero_pages);
        double added =
                (double)s->remaining_bytes - ((double)e->sample.remaining_bytes - sent_pages * PRECOPY_PAGE);
        double least = expected_at_sync(e, 1, 1), most = expected_at_sync(e, 0, 0);
        if (most >= enough_bytes) {
                double found = found_dirt(e, added, least, most);
                e->dirt += weight * (fmin(fmax(found, least_dirt), most_dirt) - e->dirt);
                if (most > least)
                        e->overlap +=
                                weight * (fmin(fmax((most - added) / (most - least), 0), 1) - e->overlap);
                e->observed_syncs++;
        } else if (added >= 4 * enough_bytes && e->loop.since_s > 0) {
                /* The curve knows nothing of this: what was seen is all there is. */
                e->profile.dirty = (struct curve){.source = FIGURE_MEASURED,
                                                  .error = e->profile.dirty.error,
                                                  .n_points = 1,
                                                  .points = {{e->loop.since_s, added}}};
                e->dirt = 1;
                e->observed_syncs++;
        }
}

/* The bitmap's amount is what QEMU says; how much of it the first pass still is, is counted. */
static void take_bitmap(struct estimate *e, const struct sample *s)
{
        double zeros = fmax((double)e->profile.zero_pages - (double)s->zero_pages, 0);
        zeros = fmin(zeros, (double)s->remaining_bytes / PRECOPY_PAGE);
        double rest = (double)s->remaining_bytes - zeros * PRECOPY_PAGE;
        bool is_first = e->loop.rounds == 0;
        e->loop.zero_pages = zeros < SOME_PAGES && !is_first ? 0 : zeros; /* pages that are no longer zero */
        e->loop.left_bytes = is_first ? fmin(rest, e->loop.first_bytes) : 0;
        e->loop.again_bytes = rest - e->loop.left_bytes;
        e->loop.sent_bytes = (double)s->transferred_bytes;
}

static void pass_time(struct estimate *e, double passed_s, double guest_s)
{
        e->loop.now_s += passed_s;
        e->loop.guest_s += guest_s;
        e->loop.since_s += guest_s;
}

bool estimate_sample(struct estimate *e, int64_t now_ms, int64_t share_milli, const struct sample *s)
{
        if (e->has_sample && now_ms == e->sample_ms)
                return false;
        if (!makes_sense(e, now_ms, s)) {
                e->has_sample = false;
                return false;
        }
        if (!e->has_sample) {
                e->syncs_before = s->syncs - e->loop.rounds; /* QEMU counts the sync with which it begins */
                begin_window(e, now_ms, s);
        } else {
                double passed_s = (double)(now_ms - e->sample_ms) / 1000;
                double guest_s = passed_s * (double)share_milli / 1000;
                pass_time(e, passed_s, guest_s);
                see_zero_pages(e, passed_s, s);
                see_bandwidth(e, now_ms, s);
                if (s->syncs > e->sample.syncs) { /* somewhen in between */
                        e->loop.since_s -= guest_s / 2;
                        see_dirt(e, s);
                        e->loop.since_s = guest_s / 2;
                        e->loop.rounds = (int)fmin((double)(s->syncs - e->syncs_before), most_rounds);
                }
        }
        take_bitmap(e, s);
        e->queued_bytes = fmax((double)e->means.queued_bytes, (double)s->queued_bytes);
        e->sample = *s;
        e->sample_ms = now_ms;
        e->has_sample = true;
        return true;
}

/* What is measured within the error that the plan allowed for is no reason to expect worse than the plan did.
 */
static double bytes_per_s(const struct estimate *e, enum plan_view view)
{
        double error = fmax(e->means.goodput_error, PLAN_MEASURE_ERROR);
        double guaranteed = e->reserved_bytes_per_s * (1 - error);
        if (view == PLAN_PESSIMISTIC && e->bytes_per_s < guaranteed * (1 - error / 2))
                return e->bytes_per_s;
        if (view == PLAN_PESSIMISTIC)
                return fmax(guaranteed, e->bytes_per_s * (1 - 3 * error));
        return view == PLAN_OPTIMISTIC ? e->bytes_per_s * (1 + error) : e->bytes_per_s;
}

static double dirt(const struct estimate *e, enum plan_view view)
{
        double error = e->profile.dirty.error;
        if (view == PLAN_PESSIMISTIC)
                return fmax(e->dirt, fmin(e->dirt, 1) * (1 + error));
        return view == PLAN_OPTIMISTIC ? e->dirt * fmax(1 - error, 0) : e->dirt;
}

struct precopy_means estimate_means(const struct estimate *e, double limit_s, int64_t share_milli,
                                    enum plan_view view)
{
        struct vector v = {.bandwidth_bps = 1, .share_milli = share_milli};
        struct precopy_means m = plan_loop_means(&e->profile, &e->means, &v, limit_s, view);
        m.bytes_per_s = bytes_per_s(e, view);
        m.switch_bytes_per_s = m.bytes_per_s;
        if (view == PLAN_PESSIMISTIC)
                m.tail_bytes = (double)e->profile.device_bytes + e->queued_bytes;
        m.dirt = dirt(e, view);
        if (view == PLAN_EXPECTED)
                m.overlap = e->overlap;
        return m;
}

double estimate_left_bytes(const struct estimate *e)
{
        struct precopy_means m = estimate_means(e, 0, 1000, PLAN_EXPECTED);
        return precopy_remaining_synced(&e->loop, &m);
}
