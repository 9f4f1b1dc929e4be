/* SPDX-License-Identifier: Apache-2.0 */
/* The model: a B+ tree over time. An entry of a leaf is one instant; an entry of an inner node is a child.
 * Both have the same fields, so that one loop summarises either:
 *   at    the (first) instant,
 *   sum   the change over all of it,
 *   peak  the highest sum over any prefix that is not empty,
 *   ref   leaf: how many changes share the instant; inner: the child.
 * Wide nodes, because a decision is bound by cache misses: 100,000 instants are four levels of 512 bytes,
 * where a binary tree has seventeen or more.
 *
 * Invariants: the entries of a node ascend and node->n >= 1; an inner entry equals the summary of its child;
 * a root that is not a leaf has at least two children; free nodes are linked through ref[0].
 *
 * Nodes that run thin are not merged, only dropped when they are empty: time empties them from the left.
 * Height stays bounded all the same: a node splits only when it is full and into halves, so that a new
 * level needs STEPS_FAN / 2 splits of the level below it, and level h needs (STEPS_FAN / 2)^h additions. */
#include "core/steps.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS_FAN = 18, STEPS_HEIGHT_MAX = 20 };

struct steps_node {
        int64_t at[STEPS_FAN];
        int64_t sum[STEPS_FAN];
        int64_t peak[STEPS_FAN];
        uint32_t ref[STEPS_FAN];
        uint32_t n; /* 0: free */
        uint32_t pad;
};
static_assert(sizeof(struct steps_node) == 512, "a node fills whole cache lines");

struct entry {
        int64_t at, sum, peak;
        uint32_t ref;
};

/* The way from the root to an entry of a leaf: path[height] is the leaf. */
struct path {
        uint32_t node[STEPS_HEIGHT_MAX + 1];
        uint32_t index[STEPS_HEIGHT_MAX + 1];
};

void steps_pool_init(struct steps_pool *pool)
{
        *pool = (struct steps_pool){.free = STEPS_NONE};
}

void steps_pool_done(struct steps_pool *pool)
{
        free(pool->nodes);
        steps_pool_init(pool);
}

static void node_give(struct steps_pool *pool, uint32_t id)
{
        pool->nodes[id].n = 0;
        pool->nodes[id].ref[0] = pool->free;
        pool->free = id;
        pool->n_free++;
}

int steps_pool_reserve(struct steps_pool *pool, unsigned n)
{
        /* An addition may split a node on each level and put a new root on top. */
        uint32_t need = n * (STEPS_HEIGHT_MAX + 2);
        if (pool->n_free >= need)
                return 0;
        uint32_t before = pool->n_nodes, after = before ? 2 * before : 2 * need;
        if (after < before + need)
                after = before + need;
        if (after > STEPS_NONE / 2)
                return -ENOMEM;
        struct steps_node *nodes = realloc(pool->nodes, (size_t)after * sizeof(*nodes));
        if (!nodes)
                return -ENOMEM;
        pool->nodes = nodes;
        pool->n_nodes = after;
        for (uint32_t id = after; id-- > before;)
                node_give(pool, id);
        return 0;
}

static uint32_t node_take(struct steps_pool *pool)
{
        uint32_t id = pool->free;
        assert(id != STEPS_NONE);
        pool->free = pool->nodes[id].ref[0];
        pool->n_free--;
        return id;
}

void steps_init(struct steps *s)
{
        *s = (struct steps){.root = STEPS_NONE};
}

int64_t steps_first(const struct steps_pool *pool, const struct steps *s)
{
        return s->root == STEPS_NONE ? INT64_MAX : pool->nodes[s->root].at[0];
}

static struct entry summary(const struct steps_pool *pool, uint32_t id)
{
        const struct steps_node *node = &pool->nodes[id];
        struct entry e = {.at = node->at[0], .peak = INT64_MIN, .ref = id};
        for (uint32_t i = 0; i < node->n; i++) {
                int64_t peak = e.sum + node->peak[i];
                e.peak = peak > e.peak ? peak : e.peak;
                e.sum += node->sum[i];
        }
        return e;
}

static void entry_put(struct steps_node *node, uint32_t i, struct entry e)
{
        node->at[i] = e.at;
        node->sum[i] = e.sum;
        node->peak[i] = e.peak;
        node->ref[i] = e.ref;
}

static void entries_move(struct steps_node *to, uint32_t at, const struct steps_node *from, uint32_t first,
                         uint32_t n)
{
        memmove(&to->at[at], &from->at[first], n * sizeof(to->at[0]));
        memmove(&to->sum[at], &from->sum[first], n * sizeof(to->sum[0]));
        memmove(&to->peak[at], &from->peak[first], n * sizeof(to->peak[0]));
        memmove(&to->ref[at], &from->ref[first], n * sizeof(to->ref[0]));
}

/* Returns the new right half where the node was full, else STEPS_NONE. */
static uint32_t entry_insert(struct steps_pool *pool, uint32_t id, uint32_t i, struct entry e)
{
        struct steps_node *node = &pool->nodes[id];
        uint32_t half = STEPS_NONE;
        if (node->n == STEPS_FAN) {
                half = node_take(pool);
                struct steps_node *right = &pool->nodes[half];
                node->n = STEPS_FAN / 2;
                right->n = STEPS_FAN - STEPS_FAN / 2;
                entries_move(right, 0, node, node->n, right->n);
                if (i > node->n) {
                        i -= node->n;
                        node = right;
                }
        }
        entries_move(node, i + 1, node, i, node->n - i);
        entry_put(node, i, e);
        node->n++;
        return half;
}

static void entries_erase(struct steps_node *node, uint32_t i, uint32_t n)
{
        entries_move(node, i, node, i + n, node->n - i - n);
        node->n -= n;
}

/* How many entries start before at_ms. Branchless, because which one it is cannot be foretold. */
static uint32_t count_before(const struct steps_node *node, int64_t at_ms)
{
        uint32_t n = 0;
        for (uint32_t i = 0; i < node->n; i++)
                n += node->at[i] < at_ms;
        return n;
}

/* To the entry of that instant, or to where it belongs. true: it is there. */
static bool descend(const struct steps_pool *pool, const struct steps *s, int64_t at_ms, struct path *path)
{
        uint32_t id = s->root;
        for (uint32_t level = 0;; level++) {
                const struct steps_node *node = &pool->nodes[id];
                uint32_t i = count_before(node, at_ms);
                bool here = i < node->n && node->at[i] == at_ms;
                path->node[level] = id;
                if (level == s->height) {
                        path->index[level] = i;
                        return here;
                }
                path->index[level] = here || i == 0 ? i : i - 1;
                id = node->ref[path->index[level]];
        }
}

/* The leaf of the path has changed: mends all above it. `half` is what split off from it. */
static void ascend(struct steps_pool *pool, struct steps *s, const struct path *path, uint32_t half)
{
        for (uint32_t level = s->height; level-- > 0;) {
                uint32_t child = path->node[level + 1], i = path->index[level];
                struct steps_node *node = &pool->nodes[path->node[level]];
                if (pool->nodes[child].n == 0) {
                        node_give(pool, child);
                        entries_erase(node, i, 1);
                        continue;
                }
                entry_put(node, i, summary(pool, child));
                if (half != STEPS_NONE)
                        half = entry_insert(pool, path->node[level], i + 1, summary(pool, half));
        }
        if (half != STEPS_NONE) {
                uint32_t root = node_take(pool);
                pool->nodes[root].n = 2;
                entry_put(&pool->nodes[root], 0, summary(pool, s->root));
                entry_put(&pool->nodes[root], 1, summary(pool, half));
                s->root = root;
                s->height++;
                assert(s->height <= STEPS_HEIGHT_MAX);
        }
}

/* After something was erased: a root without children goes, and one with a single child hands over to it. */
static void root_shrink(struct steps_pool *pool, struct steps *s)
{
        while (s->height > 0 && pool->nodes[s->root].n == 1) {
                uint32_t child = pool->nodes[s->root].ref[0];
                node_give(pool, s->root);
                s->root = child;
                s->height--;
        }
        if (pool->nodes[s->root].n == 0) {
                node_give(pool, s->root);
                steps_init(s);
        }
}

void steps_add(struct steps_pool *pool, struct steps *s, int64_t at_ms, int64_t delta)
{
        if (s->root == STEPS_NONE) {
                s->root = node_take(pool);
                pool->nodes[s->root].n = 0;
        }
        struct path path;
        bool found = descend(pool, s, at_ms, &path);
        uint32_t leaf = path.node[s->height], i = path.index[s->height], half = STEPS_NONE;
        if (found) {
                struct steps_node *node = &pool->nodes[leaf];
                node->sum[i] += delta;
                node->peak[i] = node->sum[i];
                node->ref[i]++;
        } else {
                half = entry_insert(pool, leaf, i, (struct entry){at_ms, delta, delta, 1});
        }
        ascend(pool, s, &path, half);
}

void steps_remove(struct steps_pool *pool, struct steps *s, int64_t at_ms, int64_t delta)
{
        struct path path;
        assert(s->root != STEPS_NONE);
        bool found = descend(pool, s, at_ms, &path);
        assert(found);
        struct steps_node *node = &pool->nodes[path.node[s->height]];
        uint32_t i = path.index[s->height];
        node->sum[i] -= delta;
        node->peak[i] = node->sum[i];
        if (--node->ref[i] == 0) {
                assert(node->sum[i] == 0);
                entries_erase(node, i, 1);
        }
        ascend(pool, s, &path, STEPS_NONE);
        root_shrink(pool, s);
}

int64_t steps_fold(struct steps_pool *pool, struct steps *s, int64_t now_ms)
{
        int64_t folded = 0;
        while (steps_first(pool, s) <= now_ms) {
                struct path path;
                (void)descend(pool, s, INT64_MIN, &path); /* to the first leaf; no instant is that early */
                struct steps_node *leaf = &pool->nodes[path.node[s->height]];
                uint32_t n = 0;
                for (; n < leaf->n && leaf->at[n] <= now_ms; n++)
                        folded += leaf->sum[n];
                entries_erase(leaf, 0, n);
                ascend(pool, s, &path, STEPS_NONE);
                root_shrink(pool, s);
        }
        return folded;
}

struct sweep {
        int64_t start, end;
        int64_t level; /* after all entries so far */
        int64_t peak;  /* highest level in the window so far */
};

static void sweep_over(struct sweep *w, int64_t sum, int64_t peak, bool in_window)
{
        int64_t high = w->level + peak;
        w->level += sum;
        /* Up to the start only the level that it has there counts. */
        w->peak = !in_window ? w->level : high > w->peak ? high : w->peak;
}

/* `until`: all instants of the node lie before it. At most two children are entered, one at either edge. */
static void sweep(const struct steps_pool *pool, uint32_t id, uint32_t height, int64_t until, struct sweep *w)
{
        const struct steps_node *node = &pool->nodes[id];
        for (uint32_t i = 0; i < node->n && node->at[i] < w->end; i++) {
                int64_t next = i + 1 < node->n ? node->at[i + 1] : until;
                bool before = height == 0 ? node->at[i] <= w->start : next <= w->start;
                bool within = height == 0 || (node->at[i] > w->start && next <= w->end);
                if (before || within)
                        sweep_over(w, node->sum[i], node->peak[i], !before);
                else
                        sweep(pool, node->ref[i], height - 1, next, w);
        }
}

int64_t steps_peak(const struct steps_pool *pool, const struct steps *s, int64_t level, int64_t start_ms,
                   int64_t end_ms)
{
        struct sweep w = {.start = start_ms, .end = end_ms, .level = level, .peak = level};
        if (s->root != STEPS_NONE)
                sweep(pool, s->root, s->height, INT64_MAX, &w);
        return w.peak;
}

static void each(const struct steps_pool *pool, uint32_t id, uint32_t height,
                 void (*fn)(int64_t at_ms, int64_t delta, uint32_t n, void *arg), void *arg)
{
        const struct steps_node *node = &pool->nodes[id];
        for (uint32_t i = 0; i < node->n; i++) {
                if (height > 0)
                        each(pool, node->ref[i], height - 1, fn, arg);
                else
                        fn(node->at[i], node->sum[i], node->ref[i], arg);
        }
}

void steps_each(const struct steps_pool *pool, const struct steps *s,
                void (*fn)(int64_t at_ms, int64_t delta, uint32_t n, void *arg), void *arg)
{
        if (s->root != STEPS_NONE)
                each(pool, s->root, s->height, fn, arg);
}

static size_t check(const struct steps_pool *pool, uint32_t id, uint32_t height, int64_t until)
{
        if (id >= pool->n_nodes)
                return 0;
        const struct steps_node *node = &pool->nodes[id];
        if (node->n < 1 || node->n > STEPS_FAN)
                return 0;
        size_t nodes = 1;
        for (uint32_t i = 0; i < node->n; i++) {
                int64_t next = i + 1 < node->n ? node->at[i + 1] : until;
                if (node->at[i] >= next)
                        return 0;
                if (height == 0) {
                        if (node->ref[i] == 0 || node->peak[i] != node->sum[i])
                                return 0;
                        continue;
                }
                size_t below = check(pool, node->ref[i], height - 1, next);
                struct entry e = below ? summary(pool, node->ref[i]) : (struct entry){0};
                if (below == 0 || e.at != node->at[i] || e.sum != node->sum[i] || e.peak != node->peak[i])
                        return 0;
                nodes += below;
        }
        return nodes;
}

size_t steps_check(const struct steps_pool *pool, const struct steps *s)
{
        if (s->root == STEPS_NONE || s->height > STEPS_HEIGHT_MAX ||
            (s->height > 0 && pool->nodes[s->root].n < 2))
                return 0;
        return check(pool, s->root, s->height, INT64_MAX);
}
