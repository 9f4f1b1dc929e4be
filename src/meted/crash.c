/* SPDX-License-Identifier: Apache-2.0 */
#include "meted/crash.h"

#ifdef METE_CRASH_POINTS
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void crash_point(const char *name)
{
        static long passed, at = -1;
        static const char *at_name;
        static int log_fd = -1;
        if (at < 0) {
                const char *n = getenv("METE_CRASH_AT"), *path = getenv("METE_CRASH_LOG");
                at = n ? strtol(n, NULL, 10) : 0;
                at_name = n && at == 0 ? n : "";
                if (path)
                        log_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        }
        passed++;
        if (log_fd >= 0)
                (void)!dprintf(log_fd, "%ld %s\n", passed, name);
        if (passed != at && strcmp(name, at_name) != 0)
                return;
        at_name = ""; /* where it only stops: once */
        (void)raise(getenv("METE_CRASH_STOPS") ? SIGSTOP : SIGKILL);
}

void crash_point_of(const char *what, const char *state, const char *when)
{
        char name[96];
        (void)snprintf(name, sizeof(name), "%s %s %s", what, state, when);
        crash_point(name);
}

static const char *faults_path(void)
{
        return getenv("METE_FAULTS");
}

enum fault fault_point(const char *name)
{
        static const char *const words[] = {[FAULT_NONE] = "",
                                            [FAULT_ERROR] = "error",
                                            [FAULT_LATE] = "late",
                                            [FAULT_DIE] = "die",
                                            [FAULT_HOLD] = "hold"};
        char line[128] = "", held[512];
        int fd = faults_path() ? open(faults_path(), O_RDONLY | O_CLOEXEC) : -1;
        if (fd < 0)
                return FAULT_NONE;
        ssize_t n = read(fd, line, sizeof(line) - 1);
        (void)close(fd);
        size_t name_n = strlen(name);
        if (n <= 0 || strncmp(line, name, name_n) != 0 || line[name_n] != ' ')
                return FAULT_NONE;
        line[strcspn(line, "\n")] = '\0';
        for (int f = FAULT_ERROR; f <= FAULT_HOLD; f++) {
                if (strcmp(line + name_n + 1, words[f]) != 0)
                        continue;
                (void)snprintf(held, sizeof(held), "%s.held", faults_path());
                if ((f == FAULT_HOLD ? rename(faults_path(), held) : unlink(faults_path())) == 0)
                        return (enum fault)f;
        }
        return FAULT_NONE;
}

void fault_die(void)
{
        (void)raise(SIGKILL);
}

bool fault_is_held(void)
{
        char held[512];
        (void)snprintf(held, sizeof(held), "%s.held", faults_path());
        return access(held, F_OK) == 0;
}
#else
typedef int crash_points_are_off;
#endif
