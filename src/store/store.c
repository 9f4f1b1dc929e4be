/* SPDX-License-Identifier: Apache-2.0 */
#include "store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/str.h"

/* No version was ever released, so any other is refused. */
enum { SCHEMA_VERSION = 4 };
static const char schema[] =
        "CREATE TABLE request (serial INTEGER PRIMARY KEY, key TEXT NOT NULL, id TEXT NOT NULL, vm TEXT NOT "
        "NULL,"
        " application TEXT NOT NULL, kind TEXT NOT NULL, state TEXT NOT NULL, accepts_less INTEGER NOT NULL,"
        " needs TEXT NOT NULL, met TEXT NOT NULL, definitions TEXT NOT NULL, outcome TEXT NOT NULL, reason "
        "TEXT "
        "NOT NULL,"
        " sentence TEXT NOT NULL, asked_ms INTEGER NOT NULL, start_ms INTEGER NOT NULL, end_ms INTEGER NOT "
        "NULL,"
        " offer_end_ms INTEGER NOT NULL, activation TEXT NOT NULL);"
        "CREATE TABLE event (seq INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, trace TEXT NOT NULL,"
        " subject TEXT NOT NULL, event TEXT NOT NULL, text TEXT NOT NULL);"
        "CREATE TABLE offline (component TEXT PRIMARY KEY, lost INTEGER NOT NULL, until_ms INTEGER NOT NULL,"
        " is_injected INTEGER NOT NULL) WITHOUT ROWID;"
        "CREATE TABLE document (kind TEXT NOT NULL, name TEXT NOT NULL, text TEXT NOT NULL,"
        " PRIMARY KEY (kind, name)) WITHOUT ROWID;"
        "CREATE TABLE highest (one INTEGER PRIMARY KEY CHECK (one = 1), serial INTEGER NOT NULL);"
        "INSERT INTO highest VALUES (1, 0);";

enum statement {
        PUT_REQUEST,
        PUT_ACTIVATION,
        FORGET_REQUEST,
        ADD_EVENT,
        PUT_DOCUMENT,
        DELETE_DOCUMENT,
        PUT_OFFLINE,
        DELETE_OFFLINE,
        BEGIN,
        COMMIT,
        ROLLBACK,
        EVENTS,
        EVENTS_OF,
        TRIM_EVENTS,
        PUT_HIGHEST,
        STATEMENT_N
};

static const char *const sql[STATEMENT_N] = {
        [PUT_REQUEST] = "INSERT OR REPLACE INTO request VALUES "
                        "(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18,?19)",
        [PUT_ACTIVATION] = "UPDATE request SET activation = ?2 WHERE serial = ?1",
        [FORGET_REQUEST] = "DELETE FROM request WHERE serial = ?1",
        [ADD_EVENT] = "INSERT INTO event VALUES (?1,?2,?3,?4,?5,?6)",
        [PUT_DOCUMENT] = "INSERT OR REPLACE INTO document VALUES (?1,?2,?3)",
        [DELETE_DOCUMENT] = "DELETE FROM document WHERE kind = ?1 AND name = ?2",
        [PUT_OFFLINE] = "INSERT OR REPLACE INTO offline VALUES (?1,?2,?3,?4)",
        [DELETE_OFFLINE] = "DELETE FROM offline WHERE component = ?1",
        [BEGIN] = "BEGIN IMMEDIATE",
        [COMMIT] = "COMMIT",
        [ROLLBACK] = "ROLLBACK",
        [EVENTS] = "SELECT seq, at_ms, trace, subject, event, text FROM event WHERE seq > ?1 AND seq <= ?2 "
                   "ORDER BY seq LIMIT ?3",
        [EVENTS_OF] = "SELECT seq, at_ms, trace, subject, event, text FROM event WHERE seq > ?1 AND seq <= "
                      "?2 AND (trace = ?4 OR substr(trace, instr(trace, '/') + 1) = ?4)"
                      " ORDER BY seq LIMIT ?3",
        [TRIM_EVENTS] = "DELETE FROM event WHERE seq <= ?1",
        [PUT_HIGHEST] = "UPDATE highest SET serial = ?1",
};

/* Serials are taken from the store in blocks, so that "never reused" costs a row only now and then. */
enum { SERIAL_BLOCK = 4096 };

struct store {
        sqlite3 *db;
        int lock_fd;
        sqlite3_stmt *stmt[STATEMENT_N];
        const struct component *components;
        size_t n_components;
        bool dirty;
        int64_t last_event;      /* the highest seq given out */
        int64_t committed_event; /* the highest seq that is durable */
        uint64_t highest;        /* serials up to here are accounted for on disk */
};

static int fail(struct store *s, const char *what, struct err *err)
{
        int code = sqlite3_errcode(s->db) == SQLITE_FULL ? ENOSPC : EIO;
        return err_set(err, REASON_INTERNAL, code, "%s: %s", what, sqlite3_errmsg(s->db));
}

static int run(struct store *s, enum statement st, const char *what, struct err *err)
{
        int rc = sqlite3_step(s->stmt[st]);
        int bad = rc == SQLITE_DONE || rc == SQLITE_ROW ? 0 : fail(s, what, err);
        sqlite3_reset(s->stmt[st]);
        return bad;
}

static int begin(struct store *s, struct err *err)
{
        if (s->dirty)
                return 0;
        int bad = run(s, BEGIN, "cannot begin to record", err);
        if (!bad)
                s->dirty = true;
        return bad;
}

/* ---- open and close ---- */

static int exec(struct store *s, const char *text, const char *what, struct err *err)
{
        return sqlite3_exec(s->db, text, NULL, NULL, NULL) == SQLITE_OK ? 0 : fail(s, what, err);
}

static int one_int(struct store *s, const char *text, int64_t *ret, struct err *err)
{
        sqlite3_stmt *q;
        if (sqlite3_prepare_v2(s->db, text, -1, &q, NULL) != SQLITE_OK)
                return fail(s, "cannot read the store", err);
        int rc = sqlite3_step(q);
        if (rc == SQLITE_ROW)
                *ret = sqlite3_column_int64(q, 0);
        sqlite3_finalize(q);
        return rc == SQLITE_ROW ? 0 : fail(s, "cannot read the store", err);
}

static int take_lock(struct store *s, const char *path, struct err *err)
{
        char lock[4096];
        if (!path)
                return 0;
        if (snprintf(lock, sizeof(lock), "%s.lock", path) >= (int)sizeof(lock))
                return err_set(err, REASON_INVALID, ENAMETOOLONG, "the path of the store is too long");
        s->lock_fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (s->lock_fd < 0)
                return err_set(err, REASON_INTERNAL, errno, "cannot open %s: %s", lock, strerror(errno));
        if (flock(s->lock_fd, LOCK_EX | LOCK_NB) < 0)
                return err_set(err, REASON_BUSY, EBUSY, "another meted runs on the store %s", path);
        return 0;
}

static int prepare(struct store *s, struct err *err)
{
        int64_t version = 0;
        int bad = exec(s,
                       "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;"
                       " PRAGMA temp_store=MEMORY; PRAGMA cache_size=-4096; PRAGMA locking_mode=EXCLUSIVE",
                       "cannot set up the store", err);
        if (!bad)
                bad = one_int(s, "PRAGMA user_version", &version, err);
        if (bad)
                return bad;
        if (version != 0 && version != SCHEMA_VERSION)
                return err_set(err, REASON_INCOMPATIBLE, EPROTO,
                               "the store has version %" PRId64
                               ", this meted knows %d; run the meted that made "
                               "it, or move the store away while no VM runs",
                               version, SCHEMA_VERSION);
        if (version == 0) {
                char set[64];
                (void)snprintf(set, sizeof(set), "PRAGMA user_version=%d", SCHEMA_VERSION);
                bad = exec(s, "BEGIN", "cannot make the store", err);
                if (!bad)
                        bad = exec(s, schema, "cannot make the store", err);
                if (!bad)
                        bad = exec(s, set, "cannot make the store", err);
                if (!bad)
                        bad = exec(s, "COMMIT", "cannot make the store", err);
                if (bad)
                        return bad;
        }
        for (int i = 0; i < STATEMENT_N; i++)
                if (sqlite3_prepare_v3(s->db, sql[i], -1, SQLITE_PREPARE_PERSISTENT, &s->stmt[i], NULL) !=
                    SQLITE_OK)
                        return fail(s, "cannot prepare the store", err);
        int64_t highest = 0;
        bad = one_int(s, "SELECT serial FROM highest", &highest, err);
        if (!bad)
                bad = one_int(s, "SELECT coalesce(max(seq), 0) FROM event", &s->last_event, err);
        if (bad)
                return bad;
        s->highest = (uint64_t)highest;
        s->committed_event = s->last_event;
        return 0;
}

int store_open(const char *path, const struct component *components, size_t n_components, struct store **ret,
               struct err *err)
{
        struct store *s = calloc(1, sizeof(*s));
        if (!s)
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory for the store");
        s->lock_fd = -1;
        s->components = components;
        s->n_components = n_components;
        int bad = take_lock(s, path, err);
        if (!bad && sqlite3_open_v2(path ? path : ":memory:", &s->db,
                                    SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOFOLLOW,
                                    NULL) != SQLITE_OK)
                bad = fail(s, "cannot open the store", err);
        if (!bad)
                bad = prepare(s, err);
        if (bad) {
                err_note(err, "%s", path ? path : "in memory");
                store_close(s);
                return bad;
        }
        *ret = s;
        return 0;
}

void store_close(struct store *s)
{
        if (!s)
                return;
        for (int i = 0; i < STATEMENT_N; i++)
                sqlite3_finalize(s->stmt[i]);
        sqlite3_close(s->db);
        if (s->lock_fd >= 0)
                close(s->lock_fd);
        free(s);
}

/* ---- writes ---- */

struct text {
        char *buf;
        size_t size, at;
        bool is_short; /* something did not fit, and is not there */
};

static void add(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void add(struct text *t, const char *fmt, ...)
{
        va_list ap;
        va_start(ap, fmt);
        int n = vsnprintf(t->buf + t->at, t->size - t->at, fmt, ap);
        va_end(ap);
        if (n >= 0 && t->at + (size_t)n < t->size)
                t->at += (size_t)n;
        else
                t->is_short = true;
}

static void bind_text(sqlite3_stmt *q, int i, const char *text)
{
        sqlite3_bind_text(q, i, text, -1, SQLITE_TRANSIENT);
}

/* At most one for each vCPU, DIMM slot and node, so this is bounded. */
enum { DEFINITIONS_TEXT = 160 * 100 };

/* "cpu:0=900@1/vcpu/ha", "memory:node0=536870912@0/dimm/hP2048": component, amount, slot, what it backs, and
 * what is true of it: p it is prepared first, h host side active, k taken over from the run before, a active,
 * c in the I/O configuration, m being moved there, b back to where it was, g on the way back, x held there,
 * e exclusive, P of huge pages of so many KiB; and last, F and the id of the component that it leaves.
 */
static void add_definition(const struct store *s, struct text *t, const struct definition *d)
{
        char pages[24] = "";
        if (d->page_bytes)
                (void)snprintf(pages, sizeof(pages), "P%" PRId64, d->page_bytes / 1024);
        add(t, "%s%s=%" PRId64 "@%d/%s/%s%s%s%s%s%s%s%s%s%s%s%s%s", t->at ? " " : "",
            s->components[d->component].id, d->amount, d->slot, virtual_kind_name(d->kind),
            d->prepares ? "p" : "", d->host_active ? "h" : "", d->kept ? "k" : "", d->active ? "a" : "",
            d->configured ? "c" : "", d->moving ? "m" : "", d->goes_back ? "b" : "",
            d->way == WAY_GOING ? "g" : "", d->way == WAY_HELD ? "x" : "", d->exclusive ? "e" : "", pages,
            d->from ? "F" : "", d->from ? s->components[d->from - 1].id : "");
}

int store_put_request(struct store *s, const struct request *r, struct err *err)
{
        int bad = begin(s, err);
        if (bad)
                return bad;
        if (r->serial > s->highest) {
                s->highest = r->serial + SERIAL_BLOCK;
                sqlite3_bind_int64(s->stmt[PUT_HIGHEST], 1, (int64_t)s->highest);
                bad = run(s, PUT_HIGHEST, "cannot record serials", err);
                if (bad)
                        return bad;
        }
        char needs[NEEDS_MAX * NEED_TEXT], met[NEEDS_MAX * 24], definitions[DEFINITIONS_TEXT];
        char activation[ACTIVATION_TEXT];
        struct text n = {needs, sizeof(needs), 0, false}, m = {met, sizeof(met), 0, false},
                    c = {definitions, sizeof(definitions), 0, false};
        needs[0] = met[0] = definitions[0] = '\0';
        for (size_t i = 0; i < r->n_needs; i++) {
                char one[NEED_TEXT];
                add(&n, "%s%s", i ? " " : "", need_print(&r->needs[i], one));
                add(&m, "%s%" PRId64, i ? " " : "", r->met[i]);
        }
        for (size_t i = 0; i < r->n_definitions; i++)
                add_definition(s, &c, &r->definitions[i]);
        /* Less than all of it would be given away again after a restart. */
        if (n.is_short || m.is_short || c.is_short)
                return err_set(err, REASON_INTERNAL, EOVERFLOW, "the record of %s has no room for all of it",
                               r->key);
        sqlite3_stmt *q = s->stmt[PUT_REQUEST];
        sqlite3_bind_int64(q, 1, (int64_t)r->serial);
        bind_text(q, 2, r->key);
        bind_text(q, 3, r->id);
        bind_text(q, 4, r->vm);
        bind_text(q, 5, r->application);
        bind_text(q, 6, request_kind_name(r->kind));
        bind_text(q, 7, request_state_name(r->state));
        sqlite3_bind_int(q, 8, r->accepts_less);
        bind_text(q, 9, needs);
        bind_text(q, 10, met);
        bind_text(q, 11, definitions);
        bind_text(q, 12, outcome_name(r->outcome));
        bind_text(q, 13, reason_name(r->reason));
        bind_text(q, 14, r->sentence);
        sqlite3_bind_int64(q, 15, r->asked_ms);
        sqlite3_bind_int64(q, 16, r->start_ms);
        sqlite3_bind_int64(q, 17, r->end_ms);
        sqlite3_bind_int64(q, 18, r->offer_end_ms);
        bind_text(q, 19, activation_print(&r->activation, activation));
        return run(s, PUT_REQUEST, "cannot record a request", err);
}

int store_put_activation(struct store *s, const struct request *r, struct err *err)
{
        char activation[ACTIVATION_TEXT];
        int bad = begin(s, err);
        if (bad)
                return bad;
        sqlite3_bind_int64(s->stmt[PUT_ACTIVATION], 1, (int64_t)r->serial);
        bind_text(s->stmt[PUT_ACTIVATION], 2, activation_print(&r->activation, activation));
        return run(s, PUT_ACTIVATION, "cannot journal a step", err);
}

int store_forget_request(struct store *s, uint64_t serial, struct err *err)
{
        int bad = begin(s, err);
        if (bad)
                return bad;
        sqlite3_bind_int64(s->stmt[FORGET_REQUEST], 1, (int64_t)serial);
        return run(s, FORGET_REQUEST, "cannot forget a request", err);
}

static int add_event(struct store *s, const struct store_event *e, int64_t seq, struct err *err)
{
        int bad = begin(s, err);
        if (bad)
                return bad;
        sqlite3_stmt *q = s->stmt[ADD_EVENT];
        sqlite3_bind_int64(q, 1, seq);
        sqlite3_bind_int64(q, 2, e->at_ms);
        bind_text(q, 3, e->trace);
        bind_text(q, 4, e->subject);
        bind_text(q, 5, e->event);
        bind_text(q, 6, e->text);
        bad = run(s, ADD_EVENT, "cannot record an event", err);
        if (!bad)
                s->last_event = seq;
        return bad;
}

int store_add_event(struct store *s, const struct store_event *e, int64_t *ret_seq, struct err *err)
{
        int bad = add_event(s, e, s->last_event + 1, err);
        if (!bad && ret_seq)
                *ret_seq = s->last_event;
        return bad;
}

int store_copy_event(struct store *s, const struct store_event *e, struct err *err)
{
        if (e->seq <= s->last_event)
                return err_set(err, REASON_INTERNAL, EBADMSG, "event %" PRId64 " is not behind %" PRId64,
                               e->seq, s->last_event);
        return add_event(s, e, e->seq, err);
}

static const char *const documents[STORE_DOCUMENT_N] = {
        [STORE_VM] = "vm",           [STORE_MOVE] = "move",
        [STORE_LEARNT] = "learnt",   [STORE_ORDER] = "order",
        [STORE_DRAIN] = "drain",     [STORE_SERVER] = "server",
        [STORE_USED_ID] = "used-id", [STORE_HANDOVER] = "handover",
        [STORE_CARRIED] = "carried", [STORE_CONSOLIDATION] = "consolidation"};

const char *store_document_name(enum store_document kind)
{
        return documents[kind];
}

int store_put_document(struct store *s, enum store_document kind, const char *name, const char *text,
                       struct err *err)
{
        int bad = begin(s, err);
        if (bad)
                return bad;
        bind_text(s->stmt[PUT_DOCUMENT], 1, documents[kind]);
        bind_text(s->stmt[PUT_DOCUMENT], 2, name);
        bind_text(s->stmt[PUT_DOCUMENT], 3, text);
        return run(s, PUT_DOCUMENT, "cannot record a document", err);
}

int store_delete_document(struct store *s, enum store_document kind, const char *name, struct err *err)
{
        int bad = begin(s, err);
        if (bad)
                return bad;
        bind_text(s->stmt[DELETE_DOCUMENT], 1, documents[kind]);
        bind_text(s->stmt[DELETE_DOCUMENT], 2, name);
        return run(s, DELETE_DOCUMENT, "cannot delete a document", err);
}

int store_put_offline(struct store *s, const struct store_offline *o, struct err *err)
{
        int bad = begin(s, err);
        if (bad)
                return bad;
        bind_text(s->stmt[PUT_OFFLINE], 1, o->component);
        sqlite3_bind_int64(s->stmt[PUT_OFFLINE], 2, o->lost);
        sqlite3_bind_int64(s->stmt[PUT_OFFLINE], 3, o->until_ms);
        sqlite3_bind_int(s->stmt[PUT_OFFLINE], 4, o->is_injected);
        return run(s, PUT_OFFLINE, "cannot record what is out of use", err);
}

int store_delete_offline(struct store *s, const char *component, struct err *err)
{
        int bad = begin(s, err);
        if (bad)
                return bad;
        bind_text(s->stmt[DELETE_OFFLINE], 1, component);
        return run(s, DELETE_OFFLINE, "cannot record what is in use again", err);
}

int store_trim_events(struct store *s, int64_t keep, struct err *err)
{
        int bad = begin(s, err);
        if (bad)
                return bad;
        sqlite3_bind_int64(s->stmt[TRIM_EVENTS], 1, s->last_event - keep);
        return run(s, TRIM_EVENTS, "cannot trim the event log", err);
}

int store_commit(struct store *s, struct err *err)
{
        if (!s->dirty)
                return 0;
        int bad = run(s, COMMIT, "cannot record", err);
        if (bad)
                return bad;
        s->dirty = false;
        s->committed_event = s->last_event;
        return 0;
}

void store_rollback(struct store *s)
{
        if (!s->dirty)
                return;
        (void)run(s, ROLLBACK, "cannot roll back", NULL); /* SQLite may have rolled back by itself */
        s->dirty = false;
        s->last_event = s->committed_event;
        int64_t highest = 0;
        if (one_int(s, "SELECT serial FROM highest", &highest, NULL) == 0)
                s->highest = (uint64_t)highest;
}

bool store_is_dirty(const struct store *s)
{
        return s->dirty;
}

/* ---- reads ---- */

static const char *column(sqlite3_stmt *q, int i)
{
        const unsigned char *t = sqlite3_column_text(q, i);
        return t ? (const char *)t : "";
}

static const struct component *find_component(const struct store *s, const char *id, size_t id_n)
{
        for (size_t c = 0; c < s->n_components; c++)
                if (strlen(s->components[c].id) == id_n && strncmp(s->components[c].id, id, id_n) == 0)
                        return &s->components[c];
        return NULL;
}

/* The inverse of add_definition(), but for the component's id. A component that it was leaving, and that is
 * not known any more, is given to nobody. */
static bool parse_definition(const struct store *s, const char *text, struct definition *ret)
{
        char *end, kind[8] = "";
        const char *p = text + strcspn(text, "= ");
        if (*p != '=')
                return false;
        ret->amount = strtoll(p + 1, &end, 10);
        if (*end != '@' || ret->amount <= 0)
                return false;
        long slot = strtol(end + 1, &end, 10);
        if (*end != '/' || slot < -1 || slot > 63)
                return false;
        ret->slot = (int16_t)slot;
        size_t n = strcspn(++end, "/ ");
        if (n >= sizeof(kind) || end[n] != '/')
                return false;
        memcpy(kind, end, n);
        ret->kind = virtual_kind_from_name(kind);
        for (p = end + n + 1; *p && *p != ' '; p++) {
                switch (*p) {
                case 'p':
                        ret->prepares = true;
                        break;
                case 'h':
                        ret->host_active = true;
                        break;
                case 'k':
                        ret->kept = true;
                        break;
                case 'a':
                        ret->active = true;
                        break;
                case 'c':
                        ret->configured = true;
                        break;
                case 'm':
                        ret->moving = true;
                        break;
                case 'b':
                        ret->goes_back = true;
                        break;
                case 'g':
                        ret->way = WAY_GOING;
                        break;
                case 'x':
                        ret->way = WAY_HELD;
                        break;
                case 'e':
                        ret->exclusive = true;
                        break;
                case 'P':
                        ret->page_bytes = strtoll(p + 1, &end, 10) * 1024;
                        if (end == p + 1 || ret->page_bytes <= 0 || ret->page_bytes > INT64_C(1) << 40)
                                return false;
                        p = end - 1;
                        break;
                case 'F':
                        n = strcspn(++p, " ");
                        const struct component *from = find_component(s, p, n);
                        ret->from = from ? (uint32_t)(from - s->components) + 1 : 0;
                        if (n == 0)
                                return false;
                        p += n - 1;
                        break;
                default:
                        return false;
                }
        }
        return ret->kind != 0;
}

static int parse_definitions(const struct store *s, const char *text, struct request *r, struct err *err)
{
        size_t n = 1;
        if (!*text)
                return 0;
        for (const char *p = text; *p; p++)
                n += *p == ' ';
        r->definitions = calloc(n, sizeof(*r->definitions));
        if (!r->definitions)
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory for definitions");
        for (const char *p = text; *p; p += strspn(p, " ")) {
                struct definition *d = &r->definitions[r->n_definitions++];
                size_t id_n = strcspn(p, "= ");
                if (!parse_definition(s, p, d))
                        return err_set(err, REASON_INTERNAL, EINVAL,
                                       "%s: its definitions \"%.60s\" cannot be read", r->key, text);
                const struct component *c = find_component(s, p, id_n);
                if (!c)
                        return err_set(err, REASON_INTERNAL, ENODEV, "%s: it claims %.*s, which is not known",
                                       r->key, (int)id_n, p);
                d->component = (uint32_t)(c - s->components);
                p += strcspn(p, " ");
        }
        return 0;
}

void store_set_components(struct store *s, const struct component *components, size_t n_components)
{
        s->components = components;
        s->n_components = n_components;
}

int store_each_missing(struct store *s, int (*fn)(const char *component, void *arg, struct err *err),
                       void *arg, struct err *err)
{
        sqlite3_stmt *q;
        int bad = 0, rc = SQLITE_DONE;
        if (sqlite3_prepare_v2(s->db,
                               "SELECT definitions FROM request WHERE definitions <> '' ORDER BY serial", -1,
                               &q, NULL) != SQLITE_OK)
                return fail(s, "cannot read claims", err);
        while (!bad && (rc = sqlite3_step(q)) == SQLITE_ROW) {
                for (const char *p = column(q, 0); *p && !bad; p += strspn(p, " ")) {
                        char id[sizeof(s->components->id)];
                        size_t id_n = strcspn(p, "= ");
                        /* what cannot be a component is said when the request is read */
                        if (id_n > 0 && id_n < sizeof(id) && !find_component(s, p, id_n)) {
                                memcpy(id, p, id_n);
                                id[id_n] = '\0';
                                bad = fn(id, arg, err);
                        }
                        p += strcspn(p, " ");
                }
        }
        if (!bad && rc != SQLITE_DONE)
                bad = fail(s, "cannot read claims", err);
        sqlite3_finalize(q);
        return bad;
}

static int parse_needs(const char *needs, const char *met, struct request *r, struct err *err)
{
        char copy[NEEDS_MAX * NEED_TEXT], *save = NULL;
        const char *texts[NEEDS_MAX];
        if (!STR_COPY(copy, needs))
                return err_set(err, REASON_INTERNAL, EINVAL, "%s: its needs are too long", r->key);
        for (char *t = strtok_r(copy, " ", &save); t; t = strtok_r(NULL, " ", &save)) {
                if (r->n_needs == NEEDS_MAX)
                        return err_set(err, REASON_INTERNAL, EINVAL, "%s: it has too many needs", r->key);
                texts[r->n_needs++] = t;
        }
        if (r->n_needs == 0)
                return 0;
        int bad = needs_parse(texts, r->n_needs, r->needs, err);
        for (size_t i = 0; !bad && i < r->n_needs; i++) {
                char *end;
                r->met[i] = strtoll(met, &end, 10);
                met = end;
        }
        return bad;
}

static int parse_row(const struct store *s, sqlite3_stmt *q, struct request *r, struct err *err)
{
        r->serial = (uint64_t)sqlite3_column_int64(q, 0);
        bool fits = STR_COPY(r->key, column(q, 1)) && STR_COPY(r->id, column(q, 2)) &&
                    STR_COPY(r->vm, column(q, 3)) && STR_COPY(r->application, column(q, 4)) &&
                    STR_COPY(r->sentence, column(q, 13));
        r->kind = request_kind_from_name(column(q, 5));
        r->state = request_state_from_name(column(q, 6));
        r->accepts_less = sqlite3_column_int(q, 7) != 0;
        r->outcome = outcome_from_name(column(q, 11));
        r->reason = reason_from_name(column(q, 12));
        r->asked_ms = sqlite3_column_int64(q, 14);
        r->start_ms = sqlite3_column_int64(q, 15);
        r->end_ms = sqlite3_column_int64(q, 16);
        r->offer_end_ms = sqlite3_column_int64(q, 17);
        if (!fits || !r->kind || !r->state || !r->outcome || r->end_ms <= r->start_ms)
                return err_set(err, REASON_INTERNAL, EINVAL,
                               "request %" PRIu64 " in the store cannot be read", r->serial);
        int bad = parse_needs(column(q, 8), column(q, 9), r, err);
        if (!bad && !activation_parse(column(q, 18), &r->activation))
                bad = err_set(err, REASON_INTERNAL, EINVAL, "%s: its activation \"%.60s\" cannot be read",
                              r->key, column(q, 18));
        return bad ? bad : parse_definitions(s, column(q, 10), r, err);
}

int store_load_requests(struct store *s, int (*fn)(struct request *row, void *arg, struct err *err),
                        void *arg, struct err *err)
{
        sqlite3_stmt *q;
        if (sqlite3_prepare_v2(s->db, "SELECT * FROM request ORDER BY serial", -1, &q, NULL) != SQLITE_OK)
                return fail(s, "cannot read requests", err);
        int bad = 0, rc = SQLITE_DONE;
        while (!bad && (rc = sqlite3_step(q)) == SQLITE_ROW) {
                struct request r = {0};
                bad = parse_row(s, q, &r, err);
                if (!bad)
                        bad = fn(&r, arg, err);
                free(r.definitions);
        }
        if (!bad && rc != SQLITE_DONE)
                bad = fail(s, "cannot read requests", err);
        sqlite3_finalize(q);
        return bad;
}

int store_load_offline(struct store *s, int (*fn)(const struct store_offline *o, void *arg, struct err *err),
                       void *arg, struct err *err)
{
        sqlite3_stmt *q;
        if (sqlite3_prepare_v2(s->db, "SELECT * FROM offline ORDER BY component", -1, &q, NULL) != SQLITE_OK)
                return fail(s, "cannot read what is out of use", err);
        int bad = 0, rc = SQLITE_DONE;
        while (!bad && (rc = sqlite3_step(q)) == SQLITE_ROW) {
                struct store_offline o = {.lost = sqlite3_column_int64(q, 1),
                                          .until_ms = sqlite3_column_int64(q, 2),
                                          .is_injected = sqlite3_column_int(q, 3) != 0};
                bad = STR_COPY(o.component, column(q, 0)) && o.lost >= 0
                              ? fn(&o, arg, err)
                              : err_set(err, REASON_INTERNAL, EINVAL,
                                        "what is out of use in the store cannot be read");
        }
        if (!bad && rc != SQLITE_DONE)
                bad = fail(s, "cannot read what is out of use", err);
        sqlite3_finalize(q);
        return bad;
}

int store_load_documents(struct store *s, enum store_document kind,
                         int (*fn)(const char *name, const char *text, void *arg, struct err *err), void *arg,
                         struct err *err)
{
        sqlite3_stmt *q;
        if (sqlite3_prepare_v2(s->db, "SELECT name, text FROM document WHERE kind = ?1 ORDER BY name", -1, &q,
                               NULL) != SQLITE_OK)
                return fail(s, "cannot read documents", err);
        bind_text(q, 1, documents[kind]);
        int bad = 0, rc = SQLITE_DONE;
        while (!bad && (rc = sqlite3_step(q)) == SQLITE_ROW)
                bad = fn(column(q, 0), column(q, 1), arg, err);
        if (!bad && rc != SQLITE_DONE)
                bad = fail(s, "cannot read documents", err);
        sqlite3_finalize(q);
        return bad;
}

int store_events(struct store *s, int64_t after, const char *trace, struct store_event *ret, int limit,
                 struct err *err)
{
        sqlite3_stmt *q = s->stmt[trace ? EVENTS_OF : EVENTS];
        int n = 0, rc = SQLITE_DONE;
        sqlite3_bind_int64(q, 1, after);
        sqlite3_bind_int64(q, 2, s->committed_event);
        sqlite3_bind_int(q, 3, limit);
        if (trace)
                bind_text(q, 4, trace);
        while (n < limit && (rc = sqlite3_step(q)) == SQLITE_ROW) {
                struct store_event *e = &ret[n++];
                e->seq = sqlite3_column_int64(q, 0);
                e->at_ms = sqlite3_column_int64(q, 1);
                (void)snprintf(e->trace, sizeof(e->trace), "%s", column(q, 2));
                (void)snprintf(e->subject, sizeof(e->subject), "%s", column(q, 3));
                (void)snprintf(e->event, sizeof(e->event), "%s", column(q, 4));
                (void)snprintf(e->text, sizeof(e->text), "%s", column(q, 5));
        }
        bool broken = n < limit && rc != SQLITE_DONE;
        int bad = broken ? fail(s, "cannot read events", err) : 0;
        sqlite3_reset(q);
        return bad ? bad : n;
}

int64_t store_last_event(struct store *s)
{
        return s->committed_event;
}

int store_last_serial(struct store *s, uint64_t *ret, struct err *err)
{
        (void)err;
        *ret = s->highest;
        return 0;
}
