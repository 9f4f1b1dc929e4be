/* SPDX-License-Identifier: Apache-2.0 */
/* bench-projection [first|second] <SERIES
 *
 * Series of demand, one a line: a name, then percents with commas, one every 5 minutes. What each way of
 * deciding holds, where what is decided at one sample holds from PROJECTION_LEAD samples (15 minutes) later
 * on. Until then nothing counts. Prints one line a way: its name, the share of samples in which demand was
 * more than what was held (percent), what was held on average (percent), and changes a day and VM. first,
 * second: of each two VMs that one only; the constants of core/projection.c were fitted on the first ones. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/projection.h"

enum { SAMPLES_MAX = 4096, STEP_MS = 300000 };

static double demand[SAMPLES_MAX], held[SAMPLES_MAX];
static size_t n;

static void react(void)
{
        memcpy(held, demand, sizeof(held));
}

static void last_plus_20(void)
{
        for (size_t t = 0; t < n; t++)
                held[t] = demand[t] + 20;
}

static void maximum_so_far(void)
{
        double most = 0;
        for (size_t t = 0; t < n; t++)
                held[t] = most = demand[t] > most ? demand[t] : most;
}

static void maximum_of_day(void)
{
        maximum_so_far();
        for (size_t t = 0; t < n; t++)
                held[t] = held[n - 1];
}

static void projected(void)
{
        struct projection p;
        projection_init(&p, 100, STEP_MS);
        for (size_t t = 0; t < n; t++)
                held[t] = projection_take(&p, demand[t], (int64_t)t * STEP_MS)->need;
}

static struct way {
        const char *name;
        void (*decide)(void);
        double samples, shorts, held, changes;
} ways[] = {
        {.name = "react",          .decide = react         },
        {.name = "last_plus_20",   .decide = last_plus_20  },
        {.name = "maximum_so_far", .decide = maximum_so_far},
        {.name = "maximum_of_day", .decide = maximum_of_day},
        {.name = "projection",     .decide = projected     },
};

static void add(struct way *way)
{
        way->decide();
        for (size_t t = PROJECTION_LEAD; t < n; t++) {
                double has = held[t - PROJECTION_LEAD];
                way->samples++;
                way->shorts += demand[t] > has;
                way->held += has;
                way->changes += t > PROJECTION_LEAD && held[t - PROJECTION_LEAD - 1] != has;
        }
}

static bool read_series(char *line)
{
        char *save = NULL;
        const char *word;
        (void)strtok_r(line, ",\n", &save); /* the name */
        for (n = 0; n < SAMPLES_MAX && (word = strtok_r(NULL, ",\n", &save)) != NULL; n++)
                demand[n] = strtod(word, NULL);
        return n > PROJECTION_LEAD + 1;
}

int main(int argc, char **argv)
{
        static char line[SAMPLES_MAX * 8];
        int part = argc < 2                         ? -1
                   : strcmp(argv[1], "first") == 0  ? 0
                   : strcmp(argv[1], "second") == 0 ? 1
                                                    : -2;
        size_t series = 0, used = 0;

        if (part == -2) {
                (void)fputs("usage: bench-projection [first|second] <SERIES\n", stderr);
                return 64;
        }
        while (fgets(line, sizeof(line), stdin)) {
                if (part >= 0 && series++ % 2 != (size_t)part)
                        continue;
                if (!read_series(line)) {
                        (void)fprintf(stderr, "bench-projection: series %zu is none\n", series);
                        return 1;
                }
                used++;
                for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++)
                        add(&ways[i]);
        }
        if (used == 0) {
                (void)fputs("bench-projection: no series\n", stderr);
                return 1;
        }
        for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++)
                (void)printf("%s %.3f %.3f %.3f\n", ways[i].name, ways[i].shorts * 100 / ways[i].samples,
                             ways[i].held / ways[i].samples, ways[i].changes / (double)used);
        return 0;
}
