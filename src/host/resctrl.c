/* SPDX-License-Identifier: Apache-2.0 */
/* The model: each VM has a claim in the book: masks of ways, and percents. What the default group should have
 * follows from what it had before, and from all claims (`rest_of`); what a VM's group should have, from its
 * claim and, where it claims nothing, from the default group. A change puts a claim in or out, works out all
 * of it anew, and writes what differs. So a repeated change writes nothing, and an interrupted one writes the
 * remainder.
 *
 * Order of giving: book, group, its schemata, those of the default group, mode. Order of taking back: mode,
 * the default group, book, group. Whatever the moment of a crash, the default group then is as the book says,
 * or wider, never narrower: so what is narrower was done by an operator. */
#include "host/resctrl.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/str.h"
#include "host/resctrl-tree.h"

static const char *name_of(const struct resctrl_host *h, const char *vm, char buf[128])
{
        (void)snprintf(buf, 128, "%s@%s", h->prefix, vm);
        return buf;
}

static const struct resctrl_value *value_of(const struct resctrl_line *line, uint32_t id)
{
        for (size_t i = 0; i < line->n; i++)
                if (line->at[i].id == id)
                        return &line->at[i];
        return NULL;
}

static const struct resctrl_value *value_in(const struct resctrl_schemata *s, const char *name, uint32_t id)
{
        for (size_t i = 0; i < s->n; i++)
                if (strcmp(s->line[i].name, name) == 0)
                        return value_of(&s->line[i], id);
        return NULL;
}

/* Everything claimed of that cache: ways as one mask, bandwidth as a sum. */
static uint32_t claimed(const struct resctrl_book *b, enum resctrl_line_kind kind, uint32_t id,
                        const char *but)
{
        uint32_t all = 0;
        for (size_t i = 0; i < b->n; i++) {
                const struct resctrl_claim *c = &b->claims[i];
                const struct resctrl_value *v = value_of(kind == RESCTRL_WAYS ? &c->ways : &c->membw, id);
                if (v && (!but || strcmp(but, c->vm) != 0))
                        all = kind == RESCTRL_WAYS ? all | v->value : all + v->value;
        }
        return all;
}

static uint32_t rest_of(const struct resctrl_host *h, const struct resctrl_book *b,
                        enum resctrl_line_kind kind, uint32_t id, uint32_t before)
{
        uint32_t all = claimed(b, kind, id, NULL);
        if (all == 0)
                return before;
        if (kind == RESCTRL_WAYS)
                return resctrl_run(before & ~all);
        uint32_t left = all < 100 ? 100 - all : 0;
        left -= left % h->membw_step;
        return left < before ? left : before;
}

/* What the default group shall have: *s comes as it is now. `old` are the claims until now, `book` those to
 * come. What an operator narrowed stays narrow. */
static int settle_default(const struct resctrl_host *h, const struct resctrl_schemata *before,
                          const struct resctrl_book *old, const struct resctrl_book *book,
                          struct resctrl_schemata *s, struct err *err)
{
        for (size_t i = 0; i < s->n; i++) {
                struct resctrl_line *line = &s->line[i];
                bool is_ways = line->kind == RESCTRL_WAYS, is_membw = line->kind == RESCTRL_MEMBW;
                for (size_t j = 0; (is_ways || is_membw) && j < line->n; j++) {
                        struct resctrl_value *now = &line->at[j];
                        const struct resctrl_value *was = value_in(before, line->name, now->id);
                        uint32_t all = claimed(book, line->kind, now->id, NULL);
                        if (!was) /* a cache that came on line since */
                                was = now;
                        uint32_t had = rest_of(h, old, line->kind, now->id, was->value);
                        uint32_t next = rest_of(h, book, line->kind, now->id, was->value);
                        if (is_ways && now->value != had && !(now->value & ~had))
                                next = now->value & all ? resctrl_run(now->value & ~all) : now->value;
                        if (is_membw && now->value < had && now->value < next)
                                next = now->value;
                        uint32_t least = is_ways ? h->least_ways : h->membw_least;
                        if (all && (is_ways ? (uint32_t)__builtin_popcount(next) : next) < least)
                                return err_set(err, REASON_NO_CAPACITY, ENOSPC,
                                               "%s %u: nothing would be left to the rest of the machine",
                                               line->name, now->id);
                        now->value = next;
                }
        }
        return 0;
}

static int settle_vm(const struct resctrl_claim *c, struct resctrl_schemata *s, struct err *err)
{
        for (size_t i = 0; i < c->ways.n; i++)
                if (!resctrl_set(s, RESCTRL_WAYS, c->ways.at[i].id, c->ways.at[i].value))
                        return err_set(err, REASON_NOT_FOUND, ENOENT, "there is no cache %u",
                                       c->ways.at[i].id);
        for (size_t i = 0; i < c->membw.n; i++)
                if (!resctrl_set(s, RESCTRL_MEMBW, c->membw.at[i].id, c->membw.at[i].value))
                        return err_set(err, REASON_NOT_FOUND, ENOENT, "there is no memory bandwidth %u",
                                       c->membw.at[i].id);
        return 0;
}

/* Does the kernel's own hold apply: does nobody share any cache with it? */
static bool is_whole(const struct resctrl_claim *c, const struct resctrl_schemata *s)
{
        const struct resctrl_line *line = resctrl_line_of(s, RESCTRL_WAYS);
        if (!line || resctrl_line_of(s, RESCTRL_OTHER_WAYS))
                return false;
        for (size_t i = 0; i < line->n; i++)
                if (!value_of(&c->ways, line->at[i].id))
                        return false;
        return true;
}

/* A change under way. */
struct change {
        const struct resctrl_host *h;
        struct resctrl_tree tree;
        struct resctrl_book old, book; /* until now, and to be */
        struct resctrl_schemata before, target;
        struct resctrl_claim claim;
};

static int change_begin(struct change **ret, const struct resctrl_host *h, const char *vm, bool is_exclusive,
                        struct err *err)
{
        if (vm && !str_is_name(vm))
                return err_set(err, REASON_INVALID, EINVAL, "\"%.60s\" is no name of a VM", vm);
        struct change *c = calloc(1, sizeof(*c));
        if (!c)
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
        c->h = h;
        if (vm)
                (void)STR_COPY(c->claim.vm, vm);
        int r = resctrl_tree_open(&c->tree, h, is_exclusive, err);
        if (r == 0)
                r = resctrl_book_load(h->state_dir, &c->old, err);
        if (r == 0)
                r = resctrl_book_load(h->state_dir, &c->book, err);
        if (r == 0 && !c->book.before && !(c->book.before = strdup(c->tree.groups[0]->text)))
                r = err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
        if (r == 0)
                r = resctrl_schemata_parse(c->book.before, h->level, &c->before, err);
        *ret = c;
        return r;
}

/* On failure everything is put back. */
static int change_end(struct change *c, int r, struct err *err)
{
        if (!c)
                return r;
        if (r < 0)
                resctrl_tree_undo(&c->tree, err);
        resctrl_tree_close(&c->tree);
        resctrl_book_done(&c->old);
        resctrl_book_done(&c->book);
        free(c);
        return r;
}

static int settle(struct change *c, struct err *err)
{
        c->target = c->tree.groups[0]->s;
        return settle_default(c->h, &c->before, &c->old, &c->book, &c->target, err);
}

/* The default group and those of all VMs but `but`, as far as they are not so already. */
static int write_others(struct change *c, const char *but, struct err *err)
{
        struct resctrl_group *def = c->tree.groups[0];
        bool is_last = c->book.n == 0 && resctrl_schemata_is_equal(&c->target, &c->before);
        int r = resctrl_tree_set(&c->tree, def, &c->target, is_last ? c->book.before : NULL, err);
        struct resctrl_schemata *s = malloc(sizeof(*s));
        if (!s && r == 0)
                r = err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
        for (size_t i = 0; r == 0 && i < c->book.n; i++) {
                char name[128];
                const struct resctrl_claim *claim = &c->book.claims[i];
                struct resctrl_group *g = resctrl_tree_find(&c->tree, name_of(c->h, claim->vm, name));
                if (!g || strcmp(claim->vm, but) == 0)
                        continue;
                *s = c->target;
                (void)settle_vm(claim, s, NULL); /* a cache that went off line */
                r = resctrl_tree_set(&c->tree, g, s, NULL, err);
        }
        free(s);
        return r;
}

/* Ways of that cache that belong to somebody else. */
static uint32_t taken(const struct change *c, uint32_t id)
{
        uint32_t mask = c->h->shared_mask | claimed(&c->book, RESCTRL_WAYS, id, c->claim.vm);
        size_t prefix = strlen(c->h->prefix);
        for (size_t i = 1; i < c->tree.n; i++) {
                const struct resctrl_group *g = c->tree.groups[i];
                bool is_ours = strncmp(g->name, c->h->prefix, prefix) == 0 && g->name[prefix] == '@' &&
                               (resctrl_book_find(&c->book, g->name + prefix + 1) ||
                                strcmp(g->name + prefix + 1, c->claim.vm) == 0);
                if (!is_ours)
                        mask |= resctrl_ways_of(&g->s, id);
        }
        return mask;
}

static int choose_ways(struct change *c, const struct resctrl_want *want, struct err *err)
{
        const struct resctrl_host *h = c->h;
        const struct resctrl_claim *have = resctrl_book_find(&c->book, c->claim.vm);
        struct resctrl_line *line = &c->claim.ways;
        line->kind = RESCTRL_WAYS;
        if (want->ways > 0 && h->level == 0)
                return err_set(err, REASON_UNSUPPORTED, EOPNOTSUPP, "%s", h->cache_fallback);
        if ((want->ways > 0) != (cpulist_count(&want->cache_ids) > 0) || want->ways > 32)
                return err_set(err, REASON_INVALID, EINVAL, "%u ways on %zu caches", want->ways,
                               cpulist_count(&want->cache_ids));
        uint32_t ways = want->ways < h->least_ways ? h->least_ways : want->ways;
        for (int id = want->ways ? cpulist_next(&want->cache_ids, 0) : -1; id >= 0;
             id = cpulist_next(&want->cache_ids, (uint32_t)id + 1)) {
                uint32_t before = resctrl_ways_of(&c->before, (uint32_t)id), mask = 0;
                if (line->n == RESCTRL_IDS || before == 0)
                        return err_set(err, REASON_NOT_FOUND, ENOENT, "there is no L%d cache %d", h->level,
                                       id);
                uint32_t free_ways = h->full_mask & ~taken(c, (uint32_t)id);
                const struct resctrl_value *v = have ? value_of(&have->ways, (uint32_t)id) : NULL;
                if (v && (uint32_t)__builtin_popcount(v->value) == ways && !(v->value & ~free_ways))
                        mask = v->value;
                if (!mask)
                        mask = resctrl_pick(
                                free_ways,
                                before & ~claimed(&c->book, RESCTRL_WAYS, (uint32_t)id, c->claim.vm), ways,
                                h->least_ways);
                if (!mask)
                        return err_set(err, REASON_NO_CAPACITY, ENOSPC,
                                       "L%d cache %d: no %u ways side by side are free (%d are, anywhere)",
                                       h->level, id, ways, __builtin_popcount(free_ways));
                line->at[line->n++] = (struct resctrl_value){.id = (uint32_t)id, .value = mask};
        }
        return 0;
}

static int choose_membw(struct change *c, const struct resctrl_want *want, struct err *err)
{
        const struct resctrl_host *h = c->h;
        struct resctrl_line *line = &c->claim.membw;
        uint32_t percent = want->membw_percent;
        line->kind = RESCTRL_MEMBW;
        if (percent > 0 && h->membw_step == 0)
                return err_set(err, REASON_UNSUPPORTED, EOPNOTSUPP, "%s", h->membw_fallback);
        if ((percent > 0) != (cpulist_count(&want->membw_ids) > 0) || percent > 100)
                return err_set(err, REASON_INVALID, EINVAL, "%u percent of %zu memory bandwidths", percent,
                               cpulist_count(&want->membw_ids));
        if (percent == 0)
                return 0;
        percent += (h->membw_step - percent % h->membw_step) % h->membw_step;
        if (percent < h->membw_least)
                percent = h->membw_least;
        for (int id = cpulist_next(&want->membw_ids, 0); id >= 0;
             id = cpulist_next(&want->membw_ids, (uint32_t)id + 1)) {
                const struct resctrl_line *mb = resctrl_line_of(&c->before, RESCTRL_MEMBW);
                if (line->n == RESCTRL_IDS || !mb || !value_of(mb, (uint32_t)id))
                        return err_set(err, REASON_NOT_FOUND, ENOENT, "there is no memory bandwidth %d", id);
                uint32_t others = claimed(&c->book, RESCTRL_MEMBW, (uint32_t)id, c->claim.vm);
                if (others + percent + h->membw_least > 100)
                        return err_set(err, REASON_NO_CAPACITY, ENOSPC,
                                       "memory bandwidth %d: %u percent are given away, no %u are left "
                                       "beside the %u "
                                       "of the rest of the machine",
                                       id, others, percent, h->membw_least);
                line->at[line->n++] = (struct resctrl_value){.id = (uint32_t)id, .value = percent};
        }
        return 0;
}

static bool is_line_equal(const struct resctrl_line *a, const struct resctrl_line *b)
{
        return a->n == b->n && memcmp(a->at, b->at, a->n * sizeof(a->at[0])) == 0;
}

static int give(struct change *c, const struct resctrl_want *want, struct err *err)
{
        char name[128];
        const struct resctrl_claim *have = resctrl_book_find(&c->old, c->claim.vm);
        if (want->ways == 0 && want->membw_percent == 0)
                return err_set(err, REASON_INVALID, EINVAL,
                               "neither ways of a cache nor memory bandwidth are asked for");
        int r = choose_ways(c, want, err);
        if (r < 0 || (r = choose_membw(c, want, err)) < 0 ||
            (r = resctrl_book_put(&c->book, &c->claim, err)) < 0 || (r = settle(c, err)) < 0)
                return r;
        struct resctrl_schemata *s = malloc(sizeof(*s));
        if (!s)
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
        *s = c->target;
        struct resctrl_group *g = resctrl_tree_find(&c->tree, name_of(c->h, c->claim.vm, name));
        r = settle_vm(&c->claim, s, err);
        bool is_same = have && is_line_equal(&have->ways, &c->claim.ways) &&
                       is_line_equal(&have->membw, &c->claim.membw);
        if (r == 0 && !is_same)
                r = resctrl_tree_save(&c->tree, &c->old, &c->book, err);
        if (r == 0 && !g)
                r = resctrl_tree_make(&c->tree, name, &g, err);
        const char *mode = is_whole(&c->claim, s) ? "exclusive" : "shareable";
        if (r == 0 && (strcmp(mode, "shareable") == 0 || !resctrl_schemata_is_equal(&g->s, s)))
                r = resctrl_tree_set_mode(&c->tree, g, "shareable", err);
        if (r == 0)
                r = resctrl_tree_set(&c->tree, g, s, NULL, err);
        if (r == 0)
                r = write_others(c, c->claim.vm, err);
        if (r == 0)
                r = resctrl_tree_set_mode(&c->tree, g, mode, err);
        free(s);
        return r;
}

int resctrl_activate(const struct resctrl_host *h, const char *vm, const struct resctrl_want *want,
                     struct err *err)
{
        struct change *c = NULL;
        struct err none = {0};
        err = err ? err : &none;
        int r = change_begin(&c, h, vm, true, err);
        if (r == 0)
                r = give(c, want, err);
        return change_end(c, r, err);
}

static int take_back(struct change *c, struct err *err)
{
        char name[128];
        struct resctrl_group *g = resctrl_tree_find(&c->tree, name_of(c->h, c->claim.vm, name));
        bool is_claimed = resctrl_book_find(&c->old, c->claim.vm) != NULL;
        if (!g && !is_claimed)
                return 0;
        resctrl_book_drop(&c->book, c->claim.vm);
        int r = settle(c, err);
        if (r == 0 && g)
                r = resctrl_tree_set_mode(&c->tree, g, "shareable", err);
        if (r == 0)
                r = write_others(c, c->claim.vm, err);
        if (r == 0 && is_claimed)
                r = resctrl_tree_save(&c->tree, &c->old, &c->book, err);
        if (r == 0)
                r = resctrl_tree_remove(&c->tree, name, err);
        return r;
}

int resctrl_deactivate(const struct resctrl_host *h, const char *vm, struct err *err)
{
        struct change *c = NULL;
        struct err none = {0};
        if (!*h->root) /* nothing can have been given */
                return 0;
        err = err ? err : &none;
        int r = change_begin(&c, h, vm, true, err);
        if (r == 0)
                r = take_back(c, err);
        return change_end(c, r, err);
}

/* The name of one VM of ours that nobody knows. 1: there is one. */
static int find_unknown(const struct resctrl_host *h, bool (*is_known)(const char *vm, void *arg), void *arg,
                        char vm[64], struct err *err)
{
        struct change *c = NULL;
        size_t prefix = strlen(h->prefix);
        int r = change_begin(&c, h, NULL, false, err);
        for (size_t i = 0; r == 0 && i < c->old.n; i++)
                if (!is_known(c->old.claims[i].vm, arg))
                        r = str_copy(vm, 64, c->old.claims[i].vm);
        for (size_t i = 1; r == 0 && i < c->tree.n; i++) {
                const char *name = c->tree.groups[i]->name;
                if (strncmp(name, h->prefix, prefix) == 0 && name[prefix] == '@' &&
                    str_is_name(name + prefix + 1) && !is_known(name + prefix + 1, arg))
                        r = str_copy(vm, 64, name + prefix + 1);
        }
        return change_end(c, r, err);
}

int resctrl_sweep(const struct resctrl_host *h, bool (*is_known)(const char *vm, void *arg), void *arg,
                  struct err *err)
{
        char vm[64];
        int r = 0;
        while (*h->root && (r = find_unknown(h, is_known, arg, vm, err)) == 1)
                if ((r = resctrl_deactivate(h, vm, err)) < 0)
                        break;
        return r;
}

static int stale(struct err *err, const char *vm, const char *what, const char *text)
{
        char line[128];
        (void)err_set(err, REASON_STALE, ESTALE, "resctrl group of VM %s was changed by somebody: %s%.120s",
                      vm, what, resctrl_tree_one_line(text, line));
        return 1;
}

static int verify_ways(const struct change *c, const struct resctrl_group *g, struct err *err)
{
        for (size_t i = 0; i < c->claim.ways.n; i++) {
                const struct resctrl_value *v = &c->claim.ways.at[i];
                for (size_t j = 0; j < g->s.n; j++) {
                        const struct resctrl_line *line = &g->s.line[j];
                        const struct resctrl_value *now =
                                line->kind == RESCTRL_WAYS ? value_of(line, v->id) : v;
                        if (!now || now->value != v->value)
                                return stale(err, c->claim.vm, "it has the ways ", g->text);
                }
                for (size_t j = 0; j < c->tree.n; j++) {
                        const struct resctrl_group *other = c->tree.groups[j];
                        if (other != g && resctrl_ways_of(&other->s, v->id) & v->value)
                                return stale(err, c->claim.vm, "its ways are in use also by the group ",
                                             *other->name ? other->name : "default");
                }
        }
        if (*g->mode && is_whole(&c->claim, &g->s) && strcmp(g->mode, "exclusive") != 0)
                return stale(err, c->claim.vm, "its mode is ", g->mode);
        return 0;
}

static int verify_membw(const struct change *c, const struct resctrl_group *g, struct err *err)
{
        for (size_t i = 0; i < c->claim.membw.n; i++) {
                const struct resctrl_value *v = &c->claim.membw.at[i];
                const struct resctrl_value *now = value_in(&g->s, "MB", v->id);
                const struct resctrl_value *was = value_in(&c->before, "MB", v->id);
                const struct resctrl_value *def = value_in(&c->tree.groups[0]->s, "MB", v->id);
                if (!now || now->value != v->value)
                        return stale(err, c->claim.vm, "it has ", g->text);
                if (was && def && def->value > rest_of(c->h, &c->old, RESCTRL_MEMBW, v->id, was->value))
                        return stale(err, c->claim.vm, "the default group has ", c->tree.groups[0]->text);
        }
        return 0;
}

static int verify_threads(const struct change *c, const struct resctrl_group *g, pid_t pid, struct err *err)
{
        char path[64], dir[CGROUPFS_PATH];
        int r = 0;
        (void)snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
        DIR *d = pid > 0 ? opendir(path) : NULL;
        (void)resctrl_tree_path(c->h, g->name, dir);
        for (struct dirent *e; r == 0 && d && (e = readdir(d));) {
                int64_t tid = strtoll(e->d_name, NULL, 10);
                if (c->h->is_fake && tid != pid)
                        continue;
                int is_there = tid > 0 ? cgroupfs_lists(dir, "tasks", tid, err) : 1;
                if (is_there == 0 && faccessat(dirfd(d), e->d_name, F_OK, 0) < 0)
                        continue; /* it ended meanwhile */
                if (is_there <= 0)
                        r = is_there < 0 ? is_there : stale(err, c->claim.vm, "it lacks thread ", e->d_name);
        }
        if (d)
                (void)closedir(d);
        return r;
}

int resctrl_verify(const struct resctrl_host *h, const char *vm, pid_t pid, struct err *err)
{
        struct change *c = NULL;
        char name[128];
        if (!*h->root)
                return 0;
        int r = change_begin(&c, h, vm, false, err);
        if (r < 0)
                return change_end(c, r, err);
        const struct resctrl_claim *have = resctrl_book_find(&c->old, vm);
        const struct resctrl_group *g = resctrl_tree_find(&c->tree, name_of(h, vm, name));
        if (have && !g) {
                r = stale(err, vm, "it is gone", "");
        } else if (!have && g) {
                r = stale(err, vm, "it is there, and nothing was given", "");
        } else if (have) {
                c->claim = *have;
                r = verify_ways(c, g, err);
                if (r == 0)
                        r = verify_membw(c, g, err);
                if (r == 0)
                        r = verify_threads(c, g, pid, err);
        }
        return change_end(c, r, err);
}
