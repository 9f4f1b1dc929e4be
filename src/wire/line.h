/* SPDX-License-Identifier: Apache-2.0 */
/* wire/line.h - splits a byte stream into lines, with a bound. Pure: libc only, no descriptor, no clock.
 *
 *     char *room = line_room(&l, &n);  read up to n bytes there;  line_filled(&l, got);
 *     while ((what = line_next(&l, &text, &n)) != LINE_MORE) ...
 *
 * A line of up to max bytes, its '\n' not counted, is handed out. A longer one is reported once, as soon as
 * it is known to be too long, and skipped up to and with its '\n'. Memory: at most twice (max + 1), whatever
 * the peer sends, and it goes back to a small block when it was drained. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

enum line_outcome { LINE_MORE = 1, LINE_READY, LINE_TOO_LONG };

struct line {
        char *data;
        size_t room, start, scanned, end; /* start <= scanned <= end <= room */
        size_t max;
        bool is_skipping;
};

void line_init(struct line *l, size_t max);
void line_done(struct line *l);  /* idempotent */
void line_reset(struct line *l); /* forgets what is buffered, as after a reconnect */

/* Where to put the next bytes, at least one. NULL: no memory. Ends the validity of earlier texts. */
char *line_room(struct line *l, size_t *ret_n);
void line_filled(struct line *l, size_t n);

/* LINE_READY: *ret_text (NUL-terminated, *ret_n bytes, which may themselves contain NUL) is borrowed until
 * the next line_room(). LINE_TOO_LONG: *ret_text is untouched. LINE_MORE: nothing complete is buffered. */
enum line_outcome line_next(struct line *l, char **ret_text, size_t *ret_n);

/* Bytes received but not yet handed out. */
size_t line_buffered(const struct line *l);
