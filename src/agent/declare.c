/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/declare.h"

#include <errno.h>
#include <glib.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "base/log.h"
#include "base/str.h"
#include "json/read.h"

enum { FILE_BYTES_MAX = 131072 };

/* ---- one ---- */

/* Does it touch the time from now_ms until then_ms? */
static bool is_within(const struct api_app_declaration *row, int64_t now_ms, int64_t then_ms)
{
        int64_t start = row->start_ms;
        if (row->has_every_ms && now_ms >= start + row->for_ms) /* the first one that is not over */
                start += (now_ms - start - row->for_ms) / row->every_ms * row->every_ms + row->every_ms;
        return start <= then_ms && start + row->for_ms > now_ms;
}

static bool is_over(const struct api_app_declaration *row, int64_t now_ms)
{
        return !row->has_every_ms && row->start_ms + row->for_ms <= now_ms;
}

static int check_need(const char *text, struct need *ret, struct err *err)
{
        int r = need_parse(text, ret, err);
        if (r < 0)
                return r;
        if (ret->kind != COMPONENT_CPU && ret->kind != COMPONENT_MEMORY)
                return err_set(err, REASON_UNSUPPORTED, EOPNOTSUPP,
                               "%s: only cpu and memory are asked for in advance", text);
        if (ret->n_parameters > 0 || ret->amount_max != ret->amount)
                return err_set(err, REASON_UNSUPPORTED, EOPNOTSUPP,
                               "%s: a declaration is an amount alone; which component it is, is chosen when "
                               "it is time",
                               text);
        return 0;
}

static int check(const struct api_app_declaration *row, int64_t now_ms, struct err *err)
{
        struct need need;
        char length[UNITS_TEXT], every[UNITS_TEXT];
        int r = check_need(row->need, &need, err);
        if (r < 0)
                return r;
        if (row->has_every_ms && row->for_ms > row->every_ms)
                return err_set(err, REASON_INVALID, EINVAL,
                               "a window of %s does not end before it comes again after %s",
                               units_print_ms(row->for_ms, length), units_print_ms(row->every_ms, every));
        if (row->start_ms > now_ms + DECLARE_AHEAD_MS)
                return err_set(err, REASON_INVALID, EINVAL, "that begins more than a year from now");
        if (is_over(row, now_ms))
                return err_set(err, REASON_INVALID, EINVAL, "that is over already");
        return 0;
}

/* ---- the file ---- */

static int save(const struct declarations *d, struct err *err)
{
        struct api_app_declarations all = {.n_declarations = d->n};
        GError *why = NULL;
        size_t n;

        memcpy(all.declarations, d->rows, d->n * sizeof(d->rows[0]));
        json_t *v = api_app_declarations_emit(&all);
        char *text = v ? json_write(v, &n) : NULL;
        json_decref(v);
        if (!text)
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory to record the declaration");
        int r = 0;
        if (!g_file_set_contents(d->path, text, (gssize)n, &why)) {
                r = err_set(err, REASON_INTERNAL, EIO, "cannot record the declaration: %s", why->message);
                g_error_free(why);
        }
        free(text);
        return r;
}

void declarations_init(struct declarations *d, const char *folder)
{
        g_autofree struct api_app_declarations *all = g_new0(struct api_app_declarations, 1);
        g_autofree char *text = NULL;
        struct err why = {0};
        struct need need;
        gsize n;

        *d = (struct declarations){0};
        (void)snprintf(d->path, sizeof(d->path), "%.250s/" DECLARE_FILE, folder);
        if (!g_file_get_contents(d->path, &text, &n, NULL))
                return;
        json_t *v = n <= FILE_BYTES_MAX ? json_read(text, n, &why) : NULL;
        bool is_good = v && api_app_declarations_parse(v, all, &why) == 0;
        for (size_t i = 0; is_good && i < all->n_declarations; i++)
                is_good = check_need(all->declarations[i].need, &need, &why) == 0;
        json_decref(v);
        if (!is_good) {
                log_warn("%s is not what this agent wrote, and is not used: %s", d->path, why.sentence);
                return;
        }
        d->n = all->n_declarations;
        memcpy(d->rows, all->declarations, d->n * sizeof(d->rows[0]));
}

/* ---- all ---- */

/* Anybody's. */
static struct api_app_declaration *find_name(struct declarations *d, const char *name)
{
        for (size_t i = 0; i < d->n; i++)
                if (strcmp(d->rows[i].name, name) == 0)
                        return &d->rows[i];
        return NULL;
}

static struct api_app_declaration *find(struct declarations *d, uid_t uid, const char *name)
{
        for (size_t i = 0; i < d->n; i++)
                if ((uid_t)d->rows[i].uid == uid && strcmp(d->rows[i].name, name) == 0)
                        return &d->rows[i];
        return NULL;
}

static void make_name(struct declarations *d, char ret[64])
{
        for (unsigned i = 1; *ret == '\0' || find_name(d, ret); i++)
                (void)snprintf(ret, 64, "d%u", i);
}

static int check_room(const struct declarations *d, uid_t uid, struct err *err)
{
        size_t own = 0, roots = 0;
        for (size_t i = 0; i < d->n; i++) {
                own += (uid_t)d->rows[i].uid == uid;
                roots += d->rows[i].uid == 0;
        }
        size_t places = uid == 0 ? DECLARE_MAX - (d->n - roots) : DECLARE_MAX - DECLARE_PER_USER_MAX;
        size_t taken = uid == 0 ? roots : d->n - roots; /* root has its own, whatever others do */
        if (own >= DECLARE_PER_USER_MAX)
                return err_set(err, REASON_BUSY, EBUSY, "this user has %d declarations; drop some",
                               DECLARE_PER_USER_MAX);
        if (taken >= places)
                return err_set(err, REASON_BUSY, EBUSY, "there are %zu declarations, more are not kept",
                               d->n);
        return 0;
}

void declarations_tidy(struct declarations *d, int64_t now_ms)
{
        size_t kept = 0;
        for (size_t i = 0; i < d->n; i++)
                if (!is_over(&d->rows[i], now_ms))
                        d->rows[kept++] = d->rows[i];
        d->n = kept;
}

const struct api_app_declaration *declarations_add(struct declarations *d, uid_t uid,
                                                   const struct api_app_declare *q, int64_t now_ms,
                                                   struct err *err)
{
        struct api_app_declaration row = {.uid = uid,
                                          .start_ms = q->start_ms,
                                          .for_ms = q->for_ms,
                                          .has_every_ms = q->has_every_ms,
                                          .every_ms = q->has_every_ms ? q->every_ms : 0};

        (void)STR_COPY(row.need, q->need);
        if (check(&row, now_ms, err) < 0)
                return NULL;
        declarations_tidy(d, now_ms);
        if (q->has_name)
                (void)STR_COPY(row.name, q->name);
        else
                make_name(d, row.name);
        struct api_app_declaration *at = find(d, uid, row.name);
        if (!at && check_room(d, uid, err) < 0)
                return NULL;
        bool is_new = at == NULL;
        struct api_app_declaration before = is_new ? row : *at;
        if (is_new)
                at = &d->rows[d->n++];
        *at = row;
        if (save(d, err) == 0)
                return at;
        if (is_new)
                d->n--;
        else
                *at = before;
        return NULL;
}

int declarations_drop(struct declarations *d, uid_t uid, const char *name, struct err *err)
{
        struct api_app_declaration *at = find(d, uid, name);
        at = at ? at : find_name(d, name);
        if (!at)
                return err_set(err, REASON_NOT_FOUND, ENOENT, "there is no declaration %s", name);
        if ((uid_t)at->uid != uid && uid != 0)
                return err_set(err, REASON_DENIED, EPERM, "declaration %s belongs to another user", name);
        struct api_app_declaration gone = *at;
        size_t index = (size_t)(at - d->rows), behind = d->n - index - 1;
        memmove(at, at + 1, behind * sizeof(*at));
        d->n--;
        int r = save(d, err);
        if (r == 0)
                return 0;
        memmove(at + 1, at, behind * sizeof(*at));
        *at = gone;
        d->n++;
        return r;
}

int64_t declarations_need(const struct declarations *d, enum component_kind kind, int64_t now_ms,
                          int64_t then_ms, const char **ret_name)
{
        int64_t sum = 0, largest = 0;
        *ret_name = "";
        for (size_t i = 0; i < d->n; i++) {
                struct need need;
                if (!is_within(&d->rows[i], now_ms, then_ms) ||
                    need_parse(d->rows[i].need, &need, NULL) < 0 || need.kind != kind)
                        continue;
                sum = sum > UNITS_MAX - need.amount ? UNITS_MAX : sum + need.amount;
                if (need.amount > largest) {
                        largest = need.amount;
                        *ret_name = d->rows[i].name;
                }
        }
        return sum;
}
