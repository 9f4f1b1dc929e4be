/* SPDX-License-Identifier: Apache-2.0 */
/* Levels are hundredths of `full`; a sample counts at the first level that covers it. */
#include "core/projection.h"

#include <string.h>

enum { HOUR_MS = 3600000, DAY_MS = PROJECTION_HOURS * HOUR_MS, PRIOR_N = 24 };

/* 0.5 to the power of 1 / PROJECTION_HALF_LIFE */
#define FADE      0.9942405
/* How fast `recent` follows. */
#define FOLLOW    0.3
/* A ratio of demands, one of which may be 0, is one of demands that are this many levels higher. */
#define OFFSET    2.0
/* No amount of ours is larger. */
#define VALUE_MAX 1e18
/* Lowered by this part at least. */
#define LOWER     0.05
/* How much of what varies the line must explain. */
#define STEADY    0.8

/* Of 526 VMs (planetlab, 3 March 2011, those with even numbers) in how many samples demand 3 samples later
 * was more than 2^((i - 6) / 3) times what it had been of late. */
static const double prior_above[PRIOR_N] = {0.96952, 0.95230, 0.92205, 0.86523, 0.76769, 0.63885,
                                            0.44785, 0.23362, 0.11602, 0.05686, 0.03024, 0.01756,
                                            0.01085, 0.00686, 0.00456, 0.00304, 0.00212, 0.00142,
                                            0.00084, 0.00044, 0.00014, 0.00002, 0.00000, 0.00000};
static const double prior_ratio[PRIOR_N] = {0.2500,  0.3150,  0.3969,  0.5000,  0.6300,  0.7937,
                                            1.0000,  1.2599,  1.5874,  2.0000,  2.5198,  3.1748,
                                            4.0000,  5.0397,  6.3496,  8.0000,  10.0794, 12.6992,
                                            16.0000, 20.1587, 25.3984, 32.0000, 40.3175, 50.7968};

const char *projection_why_text(enum projection_why why)
{
        static const char *const texts[PROJECTION_WHY_N] = {
                [PROJECTION_NOTHING] = "nothing was measured yet",
                [PROJECTION_SEEN] = "by what was seen before and how demand moves",
                [PROJECTION_STEADY] = "as it is used all the time of late",
                [PROJECTION_TREND] = "demand rises steadily",
                [PROJECTION_SEASON] = "the coming hour of the day usually needs more",
                [PROJECTION_KEPT] = "kept for a moment, though less would do",
        };
        return why > 0 && why < PROJECTION_WHY_N ? texts[why] : "?";
}

void projection_init(struct projection *p, double full, int64_t step_ms)
{
        *p = (struct projection){
                .full = full > 0 ? full : 1, .lead_ms = step_ms * PROJECTION_LEAD, .hour = -1};
        for (int h = 0; h < PROJECTION_HOURS; h++)
                p->hour_mean[h] = -1;
        p->said.why = PROJECTION_NOTHING;
}

/* ---- what was seen ---- */

static int level_of(const struct projection *p, double value)
{
        double levels = value * PROJECTION_LEVELS / p->full;
        int level = (int)levels;
        return level + (levels > level + 1e-9);
}

static void widen(struct projection *p)
{
        double wider[PROJECTION_LEVELS + 1] = {0};
        for (int i = 0; i <= PROJECTION_LEVELS; i++)
                wider[(i + 1) / 2] += p->weights[i];
        memcpy(p->weights, wider, sizeof(wider));
        p->full *= 2;
}

static void count(struct projection *p, double value)
{
        while (value > p->full)
                widen(p);
        p->total = p->total * FADE + 1;
        for (int i = 0; i <= PROJECTION_LEVELS; i++)
                p->weights[i] *= FADE;
        p->weights[level_of(p, value)] += 1;
        p->recent = p->n_last == 0 ? value : p->recent + FOLLOW * (value - p->recent);
        p->most = value > p->most ? value : p->most;
        if (p->n_last == PROJECTION_LAST)
                memmove(p->last, p->last + 1, sizeof(p->last) - sizeof(p->last[0]));
        else
                p->n_last++;
        p->last[p->n_last - 1] = value;
}

/* Among machines at large: how often demand is above that level when it was `recent` of late. */
static double usually_above(const struct projection *p, int level)
{
        if (level >= PROJECTION_LEVELS)
                return 0;
        double ratio = (level + OFFSET) / (p->recent * PROJECTION_LEVELS / p->full + OFFSET);
        int i = 0;
        while (i < PRIOR_N && prior_ratio[i] < ratio)
                i++;
        if (i == 0)
                return 1;
        if (i == PRIOR_N)
                return 0;
        double part = (ratio - prior_ratio[i - 1]) / (prior_ratio[i] - prior_ratio[i - 1]);
        return prior_above[i - 1] + part * (prior_above[i] - prior_above[i - 1]);
}

/* The level that costs least, and the band. In levels. */
static int choose(const struct projection *p, int *ret_low, int *ret_high)
{
        double above = 0, least = 0;
        int chosen = -1;

        *ret_low = *ret_high = PROJECTION_LEVELS;
        for (int i = PROJECTION_LEVELS; i >= 0; i--) {
                double is_above =
                        (above + PROJECTION_PRIOR * usually_above(p, i)) / (p->total + PROJECTION_PRIOR);
                double costs = i + PROJECTION_COST * is_above;
                if (chosen < 0 || costs <= least) {
                        chosen = i;
                        least = costs;
                }
                if (is_above <= 0.05)
                        *ret_high = i;
                if (is_above <= 0.9)
                        *ret_low = i;
                above += p->weights[i];
        }
        return chosen;
}

/* ---- trend and season ---- */

/* Where the line through the last samples will be a lead ahead; 0 where they lie on none that rises. */
static double trend(const struct projection *p)
{
        double n = (double)p->n_last, mean_x = (n - 1) / 2, mean_y = 0, xx = 0, xy = 0, yy = 0;

        if (p->n_last < PROJECTION_LAST)
                return 0;
        for (size_t i = 0; i < p->n_last; i++)
                mean_y += p->last[i] / n;
        for (size_t i = 0; i < p->n_last; i++) {
                double x = (double)i - mean_x, y = p->last[i] - mean_y;
                xx += x * x;
                xy += x * y;
                yy += y * y;
        }
        if (xy <= 0 || xy * xy < STEADY * xx * yy)
                return 0;
        return mean_y + xy / xx * (mean_x + PROJECTION_LEAD);
}

/* What was used all the time of late is needed, however seldom it was before. */
static double steady(const struct projection *p)
{
        if (p->n_last < PROJECTION_LEAD)
                return 0;
        double least = p->last[p->n_last - 1];
        for (size_t i = p->n_last - PROJECTION_LEAD; i < p->n_last; i++)
                least = p->last[i] < least ? p->last[i] : least;
        return least;
}

static int hour_of(int64_t now_ms)
{
        int64_t hour = now_ms / HOUR_MS % PROJECTION_HOURS;
        return (int)(hour < 0 ? 0 : hour);
}

static void count_hour(struct projection *p, double value, int64_t now_ms)
{
        int hour = hour_of(now_ms);
        if (hour != p->hour && p->hour >= 0 && p->hour_n > 0) {
                double mean = p->hour_sum / p->hour_n, *before = &p->hour_mean[p->hour];
                *before = *before < 0 ? mean : *before + FOLLOW * (mean - *before);
        }
        if (hour != p->hour) {
                p->hour = hour;
                p->hour_sum = 0;
                p->hour_n = 0;
        }
        p->hour_sum += value;
        p->hour_n++;
}

/* By how much the hour that will be was above the one that is. */
static double season(const struct projection *p, int64_t now_ms)
{
        double now = p->hour_mean[hour_of(now_ms)],
               then = p->hour_mean[hour_of(now_ms % DAY_MS + p->lead_ms)];
        return now >= 0 && then > now ? then - now : 0;
}

/* ---- need ---- */

const struct projection_said *projection_take(struct projection *p, double value, int64_t now_ms)
{
        int low, high;

        value = value > 0 ? value < VALUE_MAX ? value : VALUE_MAX : 0; /* not a number: 0 */
        count(p, value);
        count_hour(p, value, now_ms);
        double unit = p->full / PROJECTION_LEVELS, held = p->said.need;
        double want = choose(p, &low, &high) * unit, line = trend(p), more = season(p, now_ms);
        struct projection_said said = {.need = held,
                                       .low = low * unit,
                                       .high = high * unit,
                                       .recent = p->recent,
                                       .why = PROJECTION_SEEN};
        if (more > 0 && p->recent + more > want) {
                want = p->recent + more;
                said.why = PROJECTION_SEASON;
        }
        if (steady(p) > want) {
                want = steady(p);
                said.why = PROJECTION_STEADY;
        }
        if (line > want) {
                want = line;
                said.why = PROJECTION_TREND;
        }
        if (p->most > 0 && want > 2 * p->most)
                want = 2 * p->most;
        bool is_less = want <= held * (1 - LOWER);
        p->below = is_less ? p->below + 1 : 0;
        if (want > held || p->below >= PROJECTION_PATIENCE) {
                said.need = want;
                p->below = 0;
        } else if (want < held) {
                said.why = PROJECTION_KEPT;
        }
        said.low = said.low < said.need ? said.low : said.need;
        said.high = said.high > said.need ? said.high : said.need;
        said.is_changed = said.need != held; /* it was copied */
        p->said = said;
        return &p->said;
}
