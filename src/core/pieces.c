/* SPDX-License-Identifier: Apache-2.0 */
#include "core/pieces.h"

#include <assert.h>
#include <errno.h>

static int64_t begin_of(const struct pieces *p, size_t part)
{
        return part == 0 ? 0 : p->parts[part - 1].end;
}

void pieces_begin(struct pieces *p, const struct pieces_part *parts, size_t n_parts, bool is_look)
{
        assert(n_parts > 0 && n_parts <= PIECES_PARTS_MAX);
        *p = (struct pieces){.n_parts = n_parts,
                             .is_look = is_look,
                             .look_bytes = PIECE_LOOK_FIRST,
                             .move_bytes = PIECE_MOVE_FIRST};
        for (size_t i = 0; i < n_parts; i++) {
                p->parts[i] = parts[i];
                p->parts[i].there_bytes = 0;
                assert(parts[i].end > begin_of(p, i));
        }
}

bool pieces_next(const struct pieces *p, struct piece *ret)
{
        if (p->part == p->n_parts)
                return false;
        const struct pieces_part *part = &p->parts[p->part];
        *ret = (struct piece){.begin = begin_of(p, p->part),
                              .end = part->end,
                              .node = part->node,
                              .offset = p->offset,
                              .bytes = p->look_bytes,
                              .move_bytes = p->move_bytes,
                              .is_look = p->pass == 0};
        /* From this piece on whatever the guest touches of the part comes there, too. */
        int64_t length = ret->end - ret->begin;
        if (p->pass > 0 && ret->offset == ret->begin && !(part->how & PART_WAS_THERE) &&
            part->there_bytes < length)
                ret->room_bytes = length - part->there_bytes;
        return true;
}

static int64_t adapted(int64_t bytes, int64_t took_us, int64_t least, int64_t most)
{
        if (took_us < PIECE_SHORT_US)
                return bytes < most ? 2 * bytes : bytes;
        for (; took_us > PIECE_LONG_US && bytes > least; took_us /= 2)
                bytes /= 2;
        return bytes;
}

/* One that had little to move says little of one with more. */
static void adapt(struct pieces *p, const struct piece_done *done)
{
        int64_t worked = p->pass > 0 ? done->moved_bytes + done->left_bytes : 0;
        bool is_full = 2 * worked >= p->move_bytes;
        if (done->took_us <= 0)
                return;
        if (is_full || (worked > 0 && done->took_us > PIECE_LONG_US))
                p->move_bytes = adapted(p->move_bytes, done->took_us, PIECE_MOVE_LEAST, PIECE_MOVE_MOST);
        if (!is_full)
                p->look_bytes = adapted(p->look_bytes, done->took_us, PIECE_LOOK_LEAST, PIECE_LOOK_MOST);
}

/* Behind the last part: over, or once more from the first. */
static void end_pass(struct pieces *p)
{
        bool is_good = p->left_bytes == 0 && p->optional_bytes == 0;
        bool is_over = p->pass > 0 ? is_good || p->pass == PIECES_PASSES : p->is_look;
        if (is_over)
                return;
        p->pass++;
        p->part = 0;
        p->offset = p->left_bytes = p->optional_bytes = 0;
}

static void go_to(struct pieces *p, int64_t offset)
{
        p->offset = offset;
        if (offset == p->parts[p->part].end && ++p->part == p->n_parts)
                end_pass(p);
}

bool pieces_skip(struct pieces *p)
{
        assert(p->part < p->n_parts);
        if (!(p->parts[p->part].how & PART_OPTIONAL))
                return false;
        go_to(p, p->parts[p->part].end);
        return true;
}

int pieces_take(struct pieces *p, const struct piece_done *done, struct err *err)
{
        struct piece asked;
        bool is_asked = pieces_next(p, &asked);
        assert(is_asked);
        bool is_end = done->next_offset == asked.end;
        if (done->next_offset > asked.end || (!is_end && done->next_offset <= asked.offset) ||
            done->moved_bytes < 0 || done->left_bytes < 0 || done->there_bytes < 0 ||
            (asked.is_look && done->moved_bytes > 0))
                return err_set(err, REASON_INTERNAL, EPROTO,
                               "mete-keeper says of a piece of memory what cannot be");
        adapt(p, done);
        p->moved_bytes += done->moved_bytes;
        *(p->parts[p->part].how & PART_OPTIONAL ? &p->optional_bytes : &p->left_bytes) += done->left_bytes;
        p->parts[p->part].there_bytes += asked.is_look ? done->there_bytes : done->moved_bytes;
        go_to(p, done->next_offset);
        return 0;
}

int64_t pieces_bound_ms(int64_t bytes, int64_t bytes_per_s)
{
        assert(bytes >= 0 && bytes_per_s > 0);
        int64_t s = bytes / bytes_per_s + (bytes % bytes_per_s != 0);
        if (s >= (PIECES_BOUND_MOST_MS - PIECES_BOUND_LEAST_MS) / 1000)
                return PIECES_BOUND_MOST_MS;
        return PIECES_BOUND_LEAST_MS + 1000 * s;
}
