/* SPDX-License-Identifier: Apache-2.0 */
/* The bytes of the unfinished line are data[start..end); [start..scanned) holds no '\n'. While skipping,
 * nothing of the line is kept. */
#include "wire/line.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { SMALL = 4096 };

void line_init(struct line *l, size_t max)
{
        assert(max > 0);
        *l = (struct line){.max = max};
}

void line_done(struct line *l)
{
        free(l->data);
        line_init(l, l->max ? l->max : 1);
}

void line_reset(struct line *l)
{
        line_done(l);
}

static size_t room_max(const struct line *l)
{
        return 2 * (l->max + 1);
}

static bool resize(struct line *l, size_t room)
{
        if (room > room_max(l))
                room = room_max(l);
        char *data = realloc(l->data, room);
        if (!data)
                return false;
        l->data = data;
        l->room = room;
        return true;
}

char *line_room(struct line *l, size_t *ret_n)
{
        size_t held = l->end - l->start;
        if (l->start > 0) {
                memmove(l->data, l->data + l->start, held);
                l->scanned -= l->start;
                l->end = held;
                l->start = 0;
        }
        /* A burst must not leave hundreds of idle peers with big buffers. */
        if (held == 0 && l->room > SMALL) {
                free(l->data);
                l->data = NULL;
                l->room = 0;
        }
        if (l->room - l->end < SMALL / 4 && l->room < room_max(l) &&
            !resize(l, l->room ? 2 * l->room : SMALL) && l->room == l->end)
                return NULL;
        /* line_next() was not called until LINE_MORE: then there may be no room, which is the caller's bug.
         */
        assert(l->room > l->end);
        *ret_n = l->room - l->end;
        return l->data + l->end;
}

void line_filled(struct line *l, size_t n)
{
        assert(n <= l->room - l->end);
        l->end += n;
}

static void drop_to(struct line *l, size_t at)
{
        l->start = l->scanned = at;
}

enum line_outcome line_next(struct line *l, char **ret_text, size_t *ret_n)
{
        for (;;) {
                char *nl =
                        l->end > l->scanned ? memchr(l->data + l->scanned, '\n', l->end - l->scanned) : NULL;
                size_t at = nl ? (size_t)(nl - l->data) : l->end;
                size_t n = at - l->start;
                if (l->is_skipping) {
                        l->is_skipping = !nl;
                        drop_to(l, nl ? at + 1 : l->end);
                        if (!nl)
                                return LINE_MORE;
                        continue;
                }
                if (n > l->max) {
                        l->is_skipping = !nl;
                        drop_to(l, nl ? at + 1 : l->end);
                        return LINE_TOO_LONG;
                }
                if (!nl) {
                        l->scanned = l->end;
                        return LINE_MORE;
                }
                *nl = '\0';
                *ret_text = l->data + l->start;
                *ret_n = n;
                drop_to(l, at + 1);
                return LINE_READY;
        }
}

size_t line_buffered(const struct line *l)
{
        return l->end - l->start;
}
