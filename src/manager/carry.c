/* SPDX-License-Identifier: Apache-2.0 */
/* manager/carry.c - in this order, so that a death at any instant leaves at most one state that counts, and a
 * second run that ends what the first began:
 *
 *      the file is marked: begun, with an id                       the file counts
 *      etcd's head has that id: no manager leads with it           the file
 *      etcd has documents and events, record by record             the file
 *      the file is marked: all                                     neither
 *      etcd's head has the format                                  etcd
 *
 * Run again before the second mark, it begins anew, with nothing of what is in etcd: the file may have been
 * used in between. Behind it only the last step is left. The file is locked all the while, and in etcd we
 * lead. */
#include "manager/carry.h"

#include <errno.h>
#include <glib-unix.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/str.h"
#include "loop/loop.h"
#include "manager/carried.h"
#include "manager/crash.h"
#include "manager/manager.h"

enum { CARRY_AGAIN_MS = 1000, CARRY_PATIENCE_MS = 15000 /* and a lease: that of who died while it led */ };

struct document {
        enum store_document kind;
        char *name, *text;
};

struct carry {
        const struct manager_config *config;
        struct record_etcd etcd;
        char path[512];
        struct store *file;
        struct record *to;
        struct api_carried mark;
        GArray *documents;               /* struct document, all of the file's */
        guint at, next;                  /* of them: as recorded, and with what is being */
        int64_t event, next_event;       /* the last, likewise */
        int64_t n_events, n_next_events; /* how many */
        struct loop_timer again, patience;
        struct err problem; /* of the last record, or none */
        int status;         /* -1: it is not over */
};

/* ---- the end ---- */

static void over(struct carry *c, int status)
{
        if (c->status < 0)
                c->status = status;
        loop_quit();
}

static void fail(struct carry *c, const struct err *err)
{
        log_error("%s", err->sentence);
        if (c->mark.is_all)
                log_note("%s does not count any more, and what is in etcd not yet: run this again", c->path);
        else
                log_note("nothing counts but %s, as before", c->path);
        over(c, 1);
}

static void on_patience(void *arg)
{
        struct carry *c = arg;
        struct err err = c->problem;
        if (record_is_ready(c->to, &err) && !err.reason)
                (void)err_set(&err, REASON_TIMEOUT, ETIMEDOUT, "no answer");
        (void)err_note(&err, "nothing was recorded for %" PRId64 " s",
                       (c->etcd.lease_ms + CARRY_PATIENCE_MS) / 1000);
        fail(c, &err);
}

static gboolean on_signal(gpointer arg)
{
        struct err err = {0};
        (void)err_set(&err, REASON_CANCELLED, EINTR, "it was ended by a signal");
        fail(arg, &err);
        return G_SOURCE_CONTINUE;
}

/* ---- there ---- */

static void gather(struct carry *c, struct err *err)
{
        static struct store_event events[RECORD_OPS_MAX];
        c->next = c->at;
        c->next_event = c->event;
        c->n_next_events = c->n_events;
        while (c->next < c->documents->len && record_has_room(c->to)) {
                const struct document *d = &g_array_index(c->documents, struct document, c->next++);
                record_put(c->to, d->kind, d->name, d->text);
        }
        if (c->next < c->documents->len)
                return;
        int n = store_events(c->file, c->event, NULL, events, RECORD_OPS_MAX, err);
        for (int i = 0; i < n && record_has_room(c->to); i++) {
                record_copy(c->to, &events[i]);
                c->next_event = events[i].seq;
                c->n_next_events++;
        }
}

static void go_on(struct carry *c)
{
        struct err err = {0};
        if (!c->mark.is_all) {
                gather(c, &err);
                if (!err.reason && (c->next > c->at || c->next_event > c->event)) {
                        record_commit(c->to);
                        return;
                }
                struct api_carried all = c->mark;
                all.is_all = true;
                all.at_ms = loop_now_ms();
                if (err.reason || carried_write(c->file, &all, &err)) {
                        record_drop(c->to);
                        fail(c, &err);
                        return;
                }
                c->mark = all;
                manager_crash_point("carry", "all", "recorded");
        }
        record_carried(c->to);
}

static void on_again(void *arg)
{
        go_on(arg);
}

static void on_ready(void *arg)
{
        struct carry *c = arg;
        loop_timer_in(&c->patience, c->etcd.lease_ms + CARRY_PATIENCE_MS);
        manager_crash_point("carry", "begun", "recorded");
        go_on(c);
}

static void on_recorded(void *arg, const struct err *err)
{
        struct carry *c = arg;
        if (err) {
                if (strcmp(c->problem.sentence, err->sentence) != 0)
                        log_warn("nothing can be recorded: %s; trying again", err->sentence);
                c->problem = *err;
                loop_timer_in(&c->again, CARRY_AGAIN_MS);
                return;
        }
        c->problem = (struct err){0};
        loop_timer_in(&c->patience, c->etcd.lease_ms + CARRY_PATIENCE_MS);
        if (!c->mark.is_all) {
                c->at = c->next;
                c->event = c->next_event;
                c->n_events = c->n_next_events;
                manager_crash_point("carry", "part", "recorded");
                go_on(c);
                return;
        }
        manager_crash_point("carry", "there", "recorded");
        log_note("what %s records counts under %s in etcd from now on, and the file no more", c->path,
                 c->etcd.prefix);
        over(c, 0);
}

static void on_lost(void *arg, const struct err *err)
{
        struct carry *c = arg;
        if (err->code == EALREADY) {
                log_note("it was carried over before: %s", err->sentence);
                over(c, 0);
        } else {
                fail(c, err);
        }
}

/* ---- from here ---- */

static void clear_document(void *arg)
{
        struct document *d = arg;
        g_free(d->name);
        g_free(d->text);
}

struct reading {
        struct carry *c;
        enum store_document kind;
};

static int take(const char *name, const char *text, void *arg, struct err *err)
{
        const struct reading *r = arg;
        struct document d = {r->kind, g_strdup(name), g_strdup(text)};
        (void)err;
        g_array_append_val(r->c->documents, d);
        return 0;
}

static int read_file(struct carry *c, struct err *err)
{
        int bad = 0;
        for (enum store_document kind = 1; kind < STORE_DOCUMENT_N && !bad; kind++) {
                struct reading r = {c, kind};
                if (kind != STORE_CARRIED)
                        bad = store_load_documents(c->file, kind, take, &r, err);
        }
        return bad;
}

/* Who began it goes on, under its id. */
static int mark(struct carry *c, struct err *err)
{
        int n = carried_read(c->file, &c->mark, err);
        if (n < 0)
                return n;
        if (n > 0 && c->mark.is_all) {
                if (strcmp(c->mark.prefix, c->config->etcd.prefix) == 0)
                        return 0;
                return err_set(err, REASON_INCOMPATIBLE, EREMCHG,
                               "what %.60s records was carried over before, under %.60s", c->path,
                               c->mark.prefix);
        }
        if (n == 0)
                (void)snprintf(c->mark.id, sizeof(c->mark.id), "%08x%08x", g_random_int(), g_random_int());
        (void)STR_COPY(c->mark.etcd, c->config->etcd_at);
        (void)STR_COPY(c->mark.prefix, c->config->etcd.prefix);
        c->mark.at_ms = loop_now_ms();
        return carried_write(c->file, &c->mark, err);
}

static int open_both(struct carry *c, struct err *err)
{
        const struct record_told told = {on_ready, on_recorded, on_lost, c};
        (void)snprintf(c->path, sizeof(c->path), "%s/manager.db", c->config->state_dir);
        if (access(c->path, F_OK) < 0)
                return err_set(err, REASON_NOT_FOUND, errno, "%.200s: %s: there is nothing to carry over",
                               c->path, strerror(errno));
        int bad = store_open(c->path, NULL, 0, &c->file, err);
        bad = bad ? bad : mark(c, err);
        bad = bad ? bad : read_file(c, err);
        if (bad)
                return bad;
        c->etcd = c->config->etcd;
        (void)STR_COPY(c->etcd.carried, c->mark.id);
        c->etcd.is_all_carried = c->mark.is_all;
        return record_open_etcd(&c->etcd, MANAGER_EVENTS_KEPT, &told, &c->to, err);
}

int carry_over(const struct manager_config *config)
{
        struct carry c = {.config = config, .status = -1};
        struct err err = {0};
        guint term = g_unix_signal_add(SIGTERM, on_signal, &c), in = g_unix_signal_add(SIGINT, on_signal, &c);
        c.documents = g_array_new(FALSE, FALSE, sizeof(struct document));
        g_array_set_clear_func(c.documents, clear_document);
        loop_timer_init(&c.again, on_again, &c);
        loop_timer_init(&c.patience, on_patience, &c);
        if (open_both(&c, &err)) {
                log_error("%s", err.sentence);
                c.status = 1;
        } else {
                loop_timer_in(&c.patience, c.etcd.lease_ms + CARRY_PATIENCE_MS);
                record_begin(c.to);
                loop_run();
                log_info("%u documents and %" PRId64 " events were carried over", c.at, c.n_events);
        }
        loop_timer_cancel(&c.again);
        loop_timer_cancel(&c.patience);
        record_close(c.to);
        store_close(c.file);
        g_array_free(c.documents, TRUE);
        g_source_remove(term);
        g_source_remove(in);
        loop_done();
        return c.status;
}
