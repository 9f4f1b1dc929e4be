/* SPDX-License-Identifier: Apache-2.0 */
/* The first byte is the limit, the second the size of the pieces; the rest is fed to the splitter in such
 * pieces, and to one that is plainly right. Both must say the same, and the memory stay bounded. */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "wire/line.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The next line of the plain text from *at on; false: none is complete. */
static bool plain_next(const char *text, size_t n, size_t *at, const char **ret_line, size_t *ret_n)
{
        const char *nl = n > *at ? memchr(text + *at, '\n', n - *at) : NULL;
        if (!nl)
                return false;
        *ret_line = text + *at;
        *ret_n = (size_t)(nl - *ret_line);
        *at += *ret_n + 1;
        return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        if (size < 2)
                return 0;
        size_t max = (size_t)data[0] * 37 + 1, piece = (size_t)data[1] * data[1] + 1, n = size - 2,
               plain_at = 0;
        const char *text = (const char *)data + 2;
        bool was_told = false; /* of the line that plain_at stands at: that it is too long */
        struct line l;
        line_init(&l, max);
        for (size_t at = 0; at < n;) {
                size_t room = 0, length = 0, plain_n = 0;
                const char *plain = NULL;
                char *to = line_room(&l, &room), *line = NULL;
                assert(to && room > 0);
                room = room < piece ? room : piece;
                room = room < n - at ? room : n - at;
                memcpy(to, text + at, room);
                line_filled(&l, room);
                at += room;
                for (;;) {
                        enum line_outcome what = line_next(&l, &line, &length);
                        if (what == LINE_MORE)
                                break;
                        /* A line that was told to be too long before its end came is not told again. */
                        if (was_told) {
                                assert(plain_next(text, at, &plain_at, &plain, &plain_n) && plain_n > max);
                                was_told = false;
                        }
                        bool is_whole = plain_next(text, at, &plain_at, &plain, &plain_n);
                        if (what == LINE_TOO_LONG) {
                                was_told = !is_whole;
                                assert(is_whole ? plain_n > max : at - plain_at > max);
                        } else {
                                assert(is_whole && plain_n == length && length <= max);
                                assert(memcmp(plain, line, length) == 0 && line[length] == '\0');
                        }
                }
                assert(line_buffered(&l) <= max && l.room <= 2 * (max + 1));
        }
        line_done(&l);
        return 0;
}
