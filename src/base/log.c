/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char *program = "mete";
static enum log_level threshold = LOG_INFO;

void log_init(const char *name, enum log_level level)
{
        program = name;
        threshold = level;
}

void log_at(enum log_level level, const char *fmt, ...)
{
        if (level > threshold)
                return;
        char line[1024];
        va_list ap;
        va_start(ap, fmt);
        (void)vsnprintf(line, sizeof(line), fmt, ap);
        va_end(ap);
        /* A peer's text may be in it: one entry must stay one line. */
        for (char *c = line; *c; c++)
                if ((unsigned char)*c < 0x20 || *c == 0x7f)
                        *c = '?';
        if (getenv("JOURNAL_STREAM")) {
                (void)fprintf(stderr, "<%d>%s: %s\n", (int)level, program, line);
                return;
        }
        struct timespec now;
        struct tm tm;
        char clock[16];
        clock_gettime(CLOCK_REALTIME, &now);
        (void)localtime_r(&now.tv_sec, &tm);
        (void)strftime(clock, sizeof(clock), "%H:%M:%S", &tm);
        (void)fprintf(stderr, "%s.%03ld %s: %s%s\n", clock, now.tv_nsec / 1000000, program,
                      level <= LOG_ERROR  ? "error: "
                      : level == LOG_WARN ? "warning: "
                                          : "",
                      line);
}
