/* SPDX-License-Identifier: Apache-2.0 */
/* A record: "moving /path" or "held /path", the group of the holder; then "PID START /path" for each process
 * of it that was elsewhere. It is of this boot only, as the pids are. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "agent/hold-internal.h"
#include "base/str.h"

enum { RECORD_MAX = 65536 };

static void file_of(const char *name, char ret[HOLD_NAME + 8])
{
        (void)snprintf(ret, HOLD_NAME + 8, "hold.%s", name);
}

int hold_record_keep(const struct holds *h, const struct held *of, struct err *err)
{
        char file[HOLD_NAME + 8], *text = NULL;
        size_t size = 0;

        FILE *f = open_memstream(&text, &size);
        if (f == NULL)
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory for a record");
        (void)fprintf(f, "%s %s\n", of->is_moved ? "held" : "moving", of->origin);
        for (size_t i = 0; i < of->n_strays; i++)
                (void)fprintf(f, "%ld %" PRIu64 " %s\n", (long)of->strays[i].who.pid,
                              of->strays[i].who.start_ticks, of->strays[i].path);
        (void)fclose(f);
        file_of(of->name, file);
        int r = size < RECORD_MAX
                        ? cgroupfs_keep(h->records, file, text, err)
                        : err_set(err, REASON_INTERNAL, EFBIG, "its processes are in too many groups");
        free(text);
        return r;
}

static int read_line(struct held *of, char *line)
{
        char *end;
        struct hold_stray one = {.who.pid = (pid_t)strtol(line, &end, 10)};

        if (*end != ' ' || one.who.pid <= 0)
                return -EPROTO;
        one.who.start_ticks = strtoull(end + 1, &end, 10);
        if (*end != ' ' || end[1] != '/' || !STR_COPY(one.path, end + 1))
                return -EPROTO;
        struct hold_stray *more = realloc(of->strays, (of->n_strays + 1) * sizeof(*more));
        if (more == NULL)
                return -ENOMEM;
        of->strays = more;
        of->strays[of->n_strays++] = one;
        return 0;
}

int hold_record_read(const struct holds *h, struct held *of)
{
        char file[HOLD_NAME + 8], *save = NULL;
        char *text = malloc(RECORD_MAX);

        if (text == NULL)
                return -ENOMEM;
        file_of(of->name, file);
        int r = cgroupfs_read(h->records, file, text, RECORD_MAX, NULL);
        char *line = r == 0 ? strtok_r(text, "\n", &save) : NULL, *path = line ? strchr(line, ' ') : NULL;
        if (r == 0 && (path == NULL || path[1] != '/' || !STR_COPY(of->origin, path + 1)))
                r = -EPROTO;
        if (r == 0)
                of->is_moved = strncmp(line, "held ", 5) == 0;
        while (r == 0 && (line = strtok_r(NULL, "\n", &save)) != NULL)
                r = read_line(of, line);
        free(text);
        return r;
}

int hold_record_forget(const struct holds *h, const char *name, struct err *err)
{
        char file[HOLD_NAME + 8];

        file_of(name, file);
        return cgroupfs_forget(h->records, file, err);
}
