/* SPDX-License-Identifier: Apache-2.0 */
/* manager/record-etcd.c - an etcd as the store. Keys, behind the prefix:
 *
 *   /lead             who leads, with the lease; its create_revision is the claim
 *   /head             the format; its mod_revision is that of what was recorded last. While the state of a
 *                     file is carried there, another word, with which no manager leads
 *   /document/KIND/N  as in the store
 *   /event/SEQ        likewise, SEQ as 16 hexadecimal digits
 *
 * Every record is one transaction that compares the claim, so that who has lost the lead writes nothing, and
 * the head, so that an earlier record of our own whose answer was lost, and which etcd may carry out still,
 * cannot come behind a later one: of two that compare the same head one fails. What is there is read once, by
 * whoever begins to lead, into a store in memory, and goes there with each record. */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/str.h"
#include "etcd/message.h"
#include "json/api.h"
#include "json/read.h"
#include "manager/record-internal.h"

enum { KEY = RECORD_PREFIX + 160, PAGE = 256, READ_AGAIN_MS = 500, GIVE_BACK_MS = 1000 };
static const char format[] = "mete-manager 1", carrying[] = "mete-manager 1 carried from ";

struct cluster {
        struct record *r;
        const struct record_etcd *config;
        struct etcd *etcd;
        struct lead lead;
        struct loop_timer due, read_again;
        struct etcd_call *call, *read, *commit;
        enum lead_call calling;
        int64_t sent_ms;
        int64_t lease, claim, head;
        char *next;     /* where the next page begins */
        int64_t limit;  /* of a page */
        char word[64];  /* what our records say in the head */
        char found[64]; /* what it said, cut; "": there is none */
        bool is_loaded;
        bool is_wiping;   /* what was begun to be carried there goes, before it is begun anew */
        bool has_others;  /* something is recorded there besides, which counts or not with the head */
        char leader[128]; /* "": none is known */
        char said[256];   /* last, in the log */
        struct err problem;
};

static const char *key(const struct cluster *c, char ret[KEY], const char *what)
{
        (void)snprintf(ret, KEY, "%s/%s", c->config->prefix, what);
        return ret;
}

static const char *key_of_event(const struct cluster *c, char ret[KEY], int64_t seq)
{
        (void)snprintf(ret, KEY, "%s/event/%016" PRIx64, c->config->prefix, (uint64_t)seq);
        return ret;
}

/* In the log, where it is not what was said last. */
__attribute__((format(printf, 2, 3))) static void say(struct cluster *c, const char *fmt, ...)
{
        char text[sizeof(c->said)];
        va_list args;
        va_start(args, fmt);
        (void)vsnprintf(text, sizeof(text), fmt, args);
        va_end(args);
        if (strcmp(text, c->said) != 0)
                log_note("%s", text);
        memcpy(c->said, text, sizeof(text));
}

/* Whatever is under way, nobody waits for it any more; what was gathered is gone. */
static void lose(struct cluster *c, const struct err *err)
{
        struct etcd_call **const calls[] = {&c->call, &c->read, &c->commit};
        for (size_t i = 0; i < G_N_ELEMENTS(calls); i++) {
                if (*calls[i])
                        etcd_call_cancel(*calls[i]);
                *calls[i] = NULL;
        }
        loop_timer_cancel(&c->due);
        loop_timer_cancel(&c->read_again);
        c->is_loaded = false;
        c->r->is_busy = false;
        record_drop(c->r);
        c->r->told.lost(c->r->told.arg, err);
}

/* ---- what is recorded, read once ---- */

static void read_page(struct cluster *c);

static void take_event(struct cluster *c, int64_t seq, const char *text)
{
        struct api_event in = {0};
        struct store_event e = {.seq = seq};
        struct err err = {0};
        json_t *v = json_read(text, strlen(text), &err);
        int bad = v ? api_event_parse(v, &in, &err) : -EPROTO;
        json_decref(v);
        if (!bad) {
                e.at_ms = in.at_ms;
                (void)snprintf(e.trace, sizeof(e.trace), "%s", in.trace);
                (void)snprintf(e.subject, sizeof(e.subject), "%s", in.subject);
                (void)snprintf(e.event, sizeof(e.event), "%s", in.event);
                (void)snprintf(e.text, sizeof(e.text), "%.*s", (int)sizeof(e.text) - 1, in.text);
                bad = store_copy_event(c->r->store, &e, &err);
        }
        if (bad) /* a line of the log is not worth a fleet without its manager */
                log_warn("event %" PRId64 " in etcd is left out: %s", seq, err.sentence);
}

static int take_document(struct cluster *c, const char *name, const char *text, struct err *err)
{
        for (enum store_document kind = 1; kind < STORE_DOCUMENT_N; kind++) {
                const char *word = store_document_name(kind);
                size_t n = strlen(word);
                if (strncmp(name, word, n) == 0 && name[n] == '/')
                        return store_put_document(c->r->store, kind, name + n + 1, text, err);
        }
        return 0; /* of nobody that we know */
}

static int take(struct cluster *c, const struct etcd_kv *kv, struct err *err)
{
        const char *name = kv->key + strlen(c->config->prefix) + 1;
        bool is_head = strcmp(name, "head") == 0;
        if (is_head) {
                c->head = kv->changed;
                (void)g_strlcpy(c->found, *kv->value ? kv->value : "?", sizeof(c->found));
        }
        c->has_others = c->has_others || (!is_head && strcmp(name, "lead") != 0);
        if (*c->config->carried && !c->config->is_all_carried)
                return 0; /* whatever it is, it goes, or we do */
        if (g_str_has_prefix(name, "document/"))
                return take_document(c, name + strlen("document/"), kv->value, err);
        if (g_str_has_prefix(name, "event/"))
                take_event(c, (int64_t)strtoull(name + strlen("event/"), NULL, 16), kv->value);
        return 0;
}

static int take_page(struct cluster *c, const struct etcd_range *page, struct err *err)
{
        int bad = 0;
        for (size_t i = 0; i < page->n && !bad; i++) {
                if (!g_str_has_prefix(page->kvs[i].key, c->config->prefix) ||
                    page->kvs[i].key[strlen(c->config->prefix)] != '/' ||
                    strcmp(page->kvs[i].key, c->next) < 0)
                        bad = err_set(err, REASON_INTERNAL, EPROTO, "etcd answers with keys not asked for");
                else
                        bad = take(c, &page->kvs[i], err);
        }
        bad = bad ? bad : store_commit(c->r->store, err);
        if (!bad && page->is_more) { /* what comes behind the last one */
                g_free(c->next);
                c->next = g_strdup_printf("%s\001", page->kvs[page->n - 1].key);
        }
        return bad;
}

/* Who finds what in the head. A manager: its format, or nothing yet. Who carries a file's state there: what
 * it has begun itself; at first nothing at all, and at last its own word alone. */
static int check_head(const struct cluster *c, struct err *err)
{
        const char *prefix = c->config->prefix;
        bool is_carrier = *c->config->carried, is_last = c->config->is_all_carried;
        bool is_none = !*c->found, is_state = strcmp(c->found, format) == 0;
        if (strcmp(c->found, c->word) == 0 || (is_none && !is_carrier) ||
            (is_none && !is_last && !c->has_others))
                return 0;
        if (is_last && is_state)
                return err_set(err, REASON_STALE, EALREADY,
                               "what is recorded under %s in etcd counts already", prefix);
        if (is_last && is_none)
                return err_set(err, REASON_INCOMPATIBLE, ENOENT,
                               "nothing of what was carried over is under %s in this etcd", prefix);
        if (g_str_has_prefix(c->found, carrying))
                return err_set(
                        err, REASON_INCOMPATIBLE, EEXIST,
                        "under %s in etcd is a part of the state of the file %s, which is being carried "
                        "over: end that with --carry-over where it was begun",
                        prefix, c->found + strlen(carrying));
        if (is_none || (is_carrier && is_state))
                return err_set(err, REASON_INCOMPATIBLE, EEXIST, "there is a state under %s in etcd already",
                               prefix);
        return err_set(err, REASON_INCOMPATIBLE, EPROTO,
                       "what is recorded under %s in etcd is not of this version's format (%s)", prefix,
                       format);
}

static void send(struct cluster *c);

static void loaded(struct cluster *c)
{
        struct err err = {0};
        if (check_head(c, &err)) {
                lose(c, &err);
                return;
        }
        if (*c->config->carried && !c->config->is_all_carried && !c->is_wiping) {
                c->is_wiping = true;
                send(c);
                return;
        }
        c->is_wiping = false;
        c->is_loaded = true;
        c->problem = (struct err){0};
        say(c, "%s leads", c->config->name);
        c->r->told.ready(c->r->told.arg);
}

static void on_page(void *arg, const json_t *answer, const struct err *failed)
{
        struct cluster *c = arg;
        struct etcd_range page = {0};
        struct err err = {0};
        c->read = NULL;
        if (failed && failed->code == EMSGSIZE && c->limit > 1) {
                c->limit /= 2;
                read_page(c);
                return;
        }
        if (failed) { /* as long as it leads it goes on */
                c->problem = *failed;
                say(c, "what is recorded cannot be read: %s", failed->sentence);
                loop_timer_in(&c->read_again, READ_AGAIN_MS);
                return;
        }
        int bad = etcd_range_read(answer, &page, &err);
        bad = bad ? bad : take_page(c, &page, &err);
        bool is_more = page.is_more;
        etcd_range_done(&page);
        if (bad) {
                err.reason = REASON_INTERNAL;
                lose(c, &err);
        } else if (is_more) {
                read_page(c);
        } else {
                loaded(c);
        }
}

static void read_page(struct cluster *c)
{
        char end[KEY];
        struct err err = {0};
        (void)snprintf(end, sizeof(end), "%s0", c->config->prefix); /* '0' comes behind '/' */
        c->read =
                etcd_call(c->etcd, "/v3/kv/range", etcd_range_body(c->next, end, c->limit), on_page, c, &err);
        if (!c->read)
                on_page(c, NULL, &err);
}

static void load(struct cluster *c)
{
        char all[KEY];
        c->is_wiping = c->has_others = false;
        c->head = 0;
        c->found[0] = '\0';
        g_free(c->next);
        c->next = g_strdup(key(c, all, ""));
        c->limit = PAGE;
        read_page(c);
}

static void on_read_again(void *arg)
{
        struct cluster *c = arg;
        if (c->is_wiping)
                load(c);
        else
                read_page(c);
}

/* ---- who leads ---- */

static void lead_event(struct cluster *c, enum lead_event_kind kind, int64_t ttl_s);

/* Whose lead it is, as they say themselves. */
static void take_leader(struct cluster *c, const struct etcd_kv *kv)
{
        (void)g_strlcpy(c->leader, kv->value, sizeof(c->leader));
        for (char *p = c->leader; *p; p++)
                if ((unsigned char)*p < ' ' || (unsigned char)*p >= 0x7f)
                        *p = '?';
}

static enum lead_event_kind heard_look(struct cluster *c, const json_t *answer, struct err *err)
{
        struct etcd_range r = {0};
        if (etcd_range_read(answer, &r, err))
                return LEAD_EV_FAILED;
        enum lead_event_kind kind = r.n > 0 ? LEAD_EV_HELD : LEAD_EV_FREE;
        if (r.n > 0)
                take_leader(c, &r.kvs[0]);
        etcd_range_done(&r);
        return kind;
}

static enum lead_event_kind heard_claim(struct cluster *c, const json_t *answer, struct err *err)
{
        struct etcd_range r = {0};
        bool is_ours = false;
        int64_t revision = 0;
        if (etcd_txn_read(answer, &is_ours, &revision, &r, 1, err))
                return LEAD_EV_FAILED;
        if (!is_ours && r.n == 1 && r.kvs[0].lease == c->lease) { /* claimed before; the answer was lost */
                is_ours = true;
                revision = r.kvs[0].created;
        }
        if (is_ours)
                c->claim = revision;
        else if (r.n == 1)
                take_leader(c, &r.kvs[0]);
        etcd_range_done(&r);
        return is_ours ? LEAD_EV_WON : LEAD_EV_HELD;
}

static enum lead_event_kind heard(struct cluster *c, const json_t *answer, int64_t *ret_ttl_s,
                                  struct err *err)
{
        switch (c->calling) {
        case LEAD_CALL_NONE:
                break;
        case LEAD_CALL_LOOK:
                return heard_look(c, answer, err);
        case LEAD_CALL_GRANT:
                return etcd_grant_read(answer, &c->lease, ret_ttl_s, err) ? LEAD_EV_FAILED : LEAD_EV_LEASE;
        case LEAD_CALL_CLAIM:
                return heard_claim(c, answer, err);
        case LEAD_CALL_KEEP:
                if (etcd_keep_read(answer, ret_ttl_s, err))
                        return LEAD_EV_FAILED;
                return *ret_ttl_s > 0 ? LEAD_EV_LEASE : LEAD_EV_GONE;
        }
        assert(!"a call");
        return LEAD_EV_FAILED;
}

static void on_lead(void *arg, const json_t *answer, const struct err *failed)
{
        struct cluster *c = arg;
        struct err err = {0};
        int64_t ttl_s = 0;
        c->call = NULL;
        if (failed)
                err = *failed;
        enum lead_event_kind kind = failed ? LEAD_EV_FAILED : heard(c, answer, &ttl_s, &err);
        if (kind == LEAD_EV_FAILED) {
                c->problem = err;
                say(c, "nothing can be recorded: %s", err.sentence);
        } else if (c->is_loaded && c->problem.reason) {
                c->problem = (struct err){0};
                say(c, "etcd answers again");
        }
        lead_event(c, kind, ttl_s);
}

static void lead_call(struct cluster *c, enum lead_call call)
{
        static const char *const paths[] = {[LEAD_CALL_LOOK] = "/v3/kv/range",
                                            [LEAD_CALL_GRANT] = "/v3/lease/grant",
                                            [LEAD_CALL_CLAIM] = "/v3/kv/txn",
                                            [LEAD_CALL_KEEP] = "/v3/lease/keepalive"};
        char lead[KEY];
        struct err err = {0};
        json_t *body = NULL;
        (void)key(c, lead, "lead");
        switch (call) {
        case LEAD_CALL_NONE:
                return;
        case LEAD_CALL_LOOK:
                body = etcd_range_body(lead, NULL, 1);
                break;
        case LEAD_CALL_GRANT:
                body = etcd_grant_body((c->config->lease_ms + 999) / 1000);
                break;
        case LEAD_CALL_CLAIM:
                body = etcd_txn_new();
                etcd_txn_if_created(body, lead, 0);
                etcd_txn_put(body, lead, c->config->name, c->lease);
                etcd_txn_else_get(body, lead);
                break;
        case LEAD_CALL_KEEP:
                body = etcd_lease_body(c->lease);
                break;
        }
        c->calling = call;
        c->sent_ms = loop_boot_ms();
        c->call = etcd_call(c->etcd, paths[call], body, on_lead, c, &err);
        if (!c->call)
                on_lead(c, NULL, &err);
}

static void lost(struct cluster *c, enum lead_event_kind kind)
{
        struct err err = {0};
        (void)err_set(&err, REASON_STALE, ESTALE, "%s",
                      kind == LEAD_EV_HELD || kind == LEAD_EV_FREE
                              ? "another manager has taken over the lead in etcd"
                              : "the lease in etcd has run out: another manager may lead");
        lose(c, &err);
}

static void lead_event(struct cluster *c, enum lead_event_kind kind, int64_t ttl_s)
{
        const struct lead_event ev = {
                .kind = kind, .now_ms = loop_boot_ms(), .sent_ms = c->sent_ms, .ttl_ms = ttl_s * 1000};
        enum lead_state before = c->lead.state;
        enum lead_call call = lead_step(&c->lead, &ev);
        if (c->lead.due_ms)
                loop_timer_in(&c->due, c->lead.due_ms - ev.now_ms); /* late by what the machine sleeps */
        else
                loop_timer_cancel(&c->due);
        if (kind == LEAD_EV_HELD && c->lead.state == LEAD_LOOKING)
                say(c, "%s leads; this one waits", c->leader);
        if (before != c->lead.state && c->lead.state == LEAD_LOST)
                lost(c, kind);
        else
                lead_call(c, call);
        if (before == LEAD_CLAIMING && c->lead.state == LEAD_LEADING)
                load(c);
}

static void on_due(void *arg)
{
        lead_event(arg, LEAD_EV_TIME, 0);
}

/* ---- a record ---- */

static char *event_text(const struct store_event *e, int64_t seq)
{
        struct api_event out = {.seq = seq, .at_ms = e->at_ms};
        (void)snprintf(out.trace, sizeof(out.trace), "%s", e->trace);
        (void)snprintf(out.subject, sizeof(out.subject), "%.*s", (int)sizeof(out.subject) - 1, e->subject);
        (void)snprintf(out.event, sizeof(out.event), "%s", e->event);
        (void)snprintf(out.text, sizeof(out.text), "%s", e->text);
        json_t *v = api_event_emit(&out);
        char *text = v ? json_write(v, NULL) : NULL;
        json_decref(v);
        return text;
}

static void add_op(const struct cluster *c, json_t *txn, const struct op *op, int64_t *last)
{
        char to[KEY];
        if (op->event) {
                *last = op->event->seq ? op->event->seq : *last + 1;
                char *text = event_text(op->event, *last);
                etcd_txn_put(txn, key_of_event(c, to, *last), text ? text : "", 0);
                free(text);
                return;
        }
        (void)snprintf(to, sizeof(to), "%s/document/%s/%s", c->config->prefix, store_document_name(op->kind),
                       op->name);
        if (op->text)
                etcd_txn_put(txn, to, op->text, 0);
        else
                etcd_txn_delete(txn, to, NULL);
}

/* The oldest lines of the log go; and those that are there of an earlier record, whose answer was lost, and
 * that this one does not overwrite: it has them, or the next. */
static void add_events_end(const struct cluster *c, json_t *txn, int64_t last)
{
        char from[KEY], to[KEY];
        if (last > c->r->keep)
                etcd_txn_delete(txn, key_of_event(c, from, 0), key_of_event(c, to, last - c->r->keep + 1));
        (void)key_of_event(c, from, last + 1);
        etcd_txn_delete(txn, from, key(c, to, "event0"));
}

static json_t *record_body(const struct cluster *c)
{
        char lead[KEY], head[KEY], from[KEY], to[KEY];
        int64_t last = store_last_event(c->r->store);
        json_t *txn = etcd_txn_new();
        (void)key(c, lead, "lead");
        (void)key(c, head, "head");
        etcd_txn_if_created(txn, lead, c->claim);
        etcd_txn_if_changed(txn, head, c->head);
        etcd_txn_put(txn, head, c->word, 0);
        if (c->is_wiping) /* of the log, add_events_end() does */
                etcd_txn_delete(txn, key(c, from, "document/"), key(c, to, "document0"));
        for (guint i = 0; i < c->r->ops->len; i++)
                add_op(c, txn, &g_array_index(c->r->ops, struct op, i), &last);
        add_events_end(c, txn, last);
        etcd_txn_else_get(txn, lead);
        etcd_txn_else_get(txn, head);
        return txn;
}

/* It was not written: of what was compared, what is otherwise? */
static void refused(struct cluster *c, const struct etcd_range *lead, const struct etcd_range *head)
{
        if (lead->n != 1 || lead->kvs[0].created != c->claim) {
                lead_event(c, lead->n ? LEAD_EV_HELD : LEAD_EV_FREE, 0);
                return;
        }
        c->head = head->n == 1 ? head->kvs[0].changed : 0; /* an earlier one of ours has come late */
        send(c);
}

static void recorded(struct cluster *c, int64_t revision)
{
        struct err err = {0};
        c->head = revision;
        if (c->is_wiping) {
                (void)g_strlcpy(c->found, c->word, sizeof(c->found));
                loaded(c);
                return;
        }
        if (record_apply(c->r, &err)) { /* no memory, say: what is read next would not be what is recorded */
                lose(c, &err);
                return;
        }
        if (!lead_is_sure(&c->lead, loop_boot_ms())) { /* whoever leads then goes on with it */
                (void)err_set(&err, REASON_STALE, ESTALE,
                              "the lease in etcd ran out before it was known that something is recorded");
                lose(c, &err);
                return;
        }
        record_finish(c->r, NULL);
}

/* Perhaps it is all the same. */
static void unrecorded(struct cluster *c, const struct err *err)
{
        if (!c->is_wiping) {
                record_finish(c->r, err);
                return;
        }
        c->problem = *err;
        say(c, "what was begun to be carried over cannot be deleted: %s", err->sentence);
        loop_timer_in(&c->read_again, READ_AGAIN_MS);
}

static void on_commit(void *arg, const json_t *answer, const struct err *failed)
{
        struct cluster *c = arg;
        struct etcd_range got[2] = {{0}};
        struct err err = {0};
        bool is_recorded = false;
        int64_t revision = 0;
        c->commit = NULL;
        if (failed)
                err = *failed;
        int bad = failed ? -EIO : etcd_txn_read(answer, &is_recorded, &revision, got, 2, &err);
        if (bad)
                unrecorded(c, &err);
        else if (is_recorded)
                recorded(c, revision);
        else
                refused(c, &got[0], &got[1]);
        etcd_range_done(&got[0]);
        etcd_range_done(&got[1]);
}

static void send(struct cluster *c)
{
        struct err err = {0};
        c->commit = etcd_call(c->etcd, "/v3/kv/txn", record_body(c), on_commit, c, &err);
        if (!c->commit)
                unrecorded(c, &err);
}

void cluster_commit(struct cluster *c)
{
        struct err err = {0};
        if (!cluster_is_ready(c, &err))
                record_finish(c->r, &err);
        else if (c->r->ops->len == 0)
                record_finish(c->r, NULL);
        else
                send(c);
}

void cluster_carried(struct cluster *c)
{
        struct err err = {0};
        (void)g_strlcpy(c->word, format, sizeof(c->word));
        if (cluster_is_ready(c, &err))
                send(c);
        else
                record_finish(c->r, &err);
}

bool cluster_is_ready(const struct cluster *c, struct err *err)
{
        if (c->is_loaded && lead_is_sure(&c->lead, loop_boot_ms()))
                return true;
        if (c->problem.reason && (c->lead.failures > 0 || c->lead.state == LEAD_LEADING)) {
                if (err)
                        *err = c->problem;
        } else if (c->lead.state == LEAD_LOOKING && *c->leader) {
                (void)err_set(err, REASON_BUSY, EBUSY, "%s leads; this one waits", c->leader);
        } else {
                (void)err_set(err, REASON_BUSY, EBUSY,
                              "it is being found out in etcd who leads, and what is recorded");
        }
        return false;
}

/* ---- coming and going ---- */

struct cluster *cluster_new(struct record *r, const struct record_etcd *etcd, struct err *err)
{
        struct cluster *c = g_new0(struct cluster, 1);
        c->r = r;
        c->config = etcd;
        (void)snprintf(c->word, sizeof(c->word), "%s%s", *etcd->carried ? carrying : format, etcd->carried);
        loop_timer_init(&c->due, on_due, c);
        loop_timer_init(&c->read_again, on_read_again, c);
        /* Three calls may be lost before the lease is. */
        c->etcd = etcd_new(&etcd->places, &etcd->files, etcd->lease_ms / 3, err);
        if (c->etcd)
                return c;
        g_free(c);
        return NULL;
}

void cluster_begin(struct cluster *c)
{
        lead_call(c, lead_begin(&c->lead));
}

struct giving_back {
        bool is_answered, is_over;
};

static void on_given_back(void *arg, const json_t *answer, const struct err *err)
{
        (void)answer, (void)err;
        ((struct giving_back *)arg)->is_answered = true;
}

static void on_too_long(void *arg)
{
        ((struct giving_back *)arg)->is_over = true;
}

/* The next one need not wait for the end of the lease. */
static void give_back(struct cluster *c)
{
        struct giving_back g = {0};
        struct loop_timer timer;
        loop_timer_init(&timer, on_too_long, &g);
        loop_timer_in(&timer, GIVE_BACK_MS);
        struct etcd_call *call =
                etcd_call(c->etcd, "/v3/lease/revoke", etcd_lease_body(c->lease), on_given_back, &g, NULL);
        while (call && !g.is_answered && !g.is_over)
                (void)loop_once(true);
        if (call && !g.is_answered)
                etcd_call_cancel(call);
        loop_timer_cancel(&timer);
}

void cluster_free(struct cluster *c)
{
        if (!c)
                return;
        loop_timer_cancel(&c->due);
        loop_timer_cancel(&c->read_again);
        if (c->call)
                etcd_call_cancel(c->call);
        if (c->read)
                etcd_call_cancel(c->read);
        if (c->commit)
                etcd_call_cancel(c->commit);
        if (c->lead.end_ms > 0)
                give_back(c);
        etcd_free(c->etcd);
        g_free(c->next);
        g_free(c);
}
