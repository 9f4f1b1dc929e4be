/* SPDX-License-Identifier: Apache-2.0 */
/* One suite for both stores of manager/record.h, a file and a real etcd: what is recorded is there, what is
 * not is not, nobody else writes, and where a store is away that is said within a bounded time. What only
 * an etcd can do to us comes behind it. Without /usr/bin/etcd its part is skipped.
 *
 * The unit suite has the file's half (-p /record/file); tests/etcd has etcd's, which waits for leases. */
#include <errno.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "etcd/message.h"
#include "loop/loop.h"
#include "manager/carried.h"
#include "manager/record.h"

static const char etcd_program[] = "/usr/bin/etcd";

/* A machine that stands still for as long as a lease loses the lead: only those wait for its end who must. */
enum { KEEP = 50, PATIENCE_MS = 60000, LEASE_MS = 30000, BRIEF_LEASE_MS = 6000 };

/* ---- a store, and one who uses it ---- */

struct place {
        char *dir, *path, *log;
        bool is_etcd;
        pid_t pid;
        struct record_etcd etcd;
        const char *quota; /* in bytes; NULL: etcd's own */
};

struct user {
        struct place *place;
        struct record *r;
        bool is_ready, is_done, is_lost;
        int bad; /* of the commit that is done */
        struct err err;
};

static void on_ready(void *arg)
{
        ((struct user *)arg)->is_ready = true;
}

static void on_done(void *arg, const struct err *err)
{
        struct user *u = arg;
        u->is_done = true;
        u->bad = err ? -err->code : 0;
        u->err = err ? *err : (struct err){0};
}

static void on_lost(void *arg, const struct err *err)
{
        struct user *u = arg;
        u->is_lost = true;
        u->err = *err;
}

static void on_tick(void *arg)
{
        (void)arg;
}

static void spin(const bool *until, const bool *or_until)
{
        int64_t end_ms = loop_mono_ms() + PATIENCE_MS;
        struct loop_timer tick;
        loop_timer_init(&tick, on_tick, NULL);
        while (!*until && !(or_until && *or_until)) {
                if (loop_mono_ms() > end_ms)
                        g_error("not within %d ms", PATIENCE_MS);
                loop_timer_in(&tick, 50);
                (void)loop_once(true);
        }
        loop_timer_cancel(&tick);
}

static void rest(int64_t ms)
{
        int64_t end_ms = loop_mono_ms() + ms;
        struct loop_timer tick;
        loop_timer_init(&tick, on_tick, NULL);
        while (loop_mono_ms() < end_ms) {
                loop_timer_in(&tick, 20);
                (void)loop_once(true);
        }
        loop_timer_cancel(&tick);
}

static void start_etcd(struct place *p)
{
        char own[64], peers[64], cluster[80];
        (void)snprintf(own, sizeof(own), "http://%s:%d", p->etcd.places.at[0].address.host, ETCD_PORT);
        (void)snprintf(peers, sizeof(peers), "http://%s:%d", p->etcd.places.at[0].address.host,
                       ETCD_PORT + 1);
        (void)snprintf(cluster, sizeof(cluster), "default=%s", peers);
        const char *const argv[] = {"etcd",   "--data-dir",
                                    p->path,  "--listen-client-urls",
                                    own,      "--advertise-client-urls",
                                    own,      "--listen-peer-urls",
                                    peers,    "--initial-advertise-peer-urls",
                                    peers,    "--initial-cluster",
                                    cluster,  p->quota ? "--quota-backend-bytes" : NULL,
                                    p->quota, NULL};
        pid_t parent = getpid();
        p->pid = fork();
        if (p->pid == 0) {
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* whatever becomes of the test */
                if (getppid() != parent || !freopen(p->log, "a", stderr) ||
                    !freopen("/dev/null", "w", stdout))
                        _exit(1);
                (void)execv(etcd_program, (char *const *)(uintptr_t)argv);
                _exit(1);
        }
        g_assert_cmpint(p->pid, >, 0);
}

static void kill_etcd(struct place *p)
{
        g_assert_cmpint(kill(p->pid, SIGKILL), ==, 0);
        g_assert_cmpint(waitpid(p->pid, NULL, 0), ==, p->pid);
        p->pid = 0;
}

static void place_init(struct place *p, bool is_etcd, int64_t lease_ms, const char *quota)
{
        static int n;
        char own[64];
        unsigned pid = (unsigned)getpid();
        struct err err = {0};
        *p = (struct place){.is_etcd = is_etcd, .quota = quota};
        p->dir = g_dir_make_tmp("mete-record-XXXXXX", NULL);
        p->path = g_build_filename(p->dir, is_etcd ? "etcd" : "manager.db", NULL);
        p->log = g_build_filename(p->dir, "log", NULL);
        if (!is_etcd)
                return;
        /* An address of this test's own: no port is anybody else's. */
        (void)snprintf(own, sizeof(own), "http://127.%u.%u.%u", 160 + (pid >> 16 & 63), pid >> 8 & 255,
                       pid & 255);
        g_assert_cmpint(etcd_places_parse(own, &p->etcd.places, &err), ==, 0);
        p->etcd.lease_ms = lease_ms;
        (void)snprintf(p->etcd.prefix, sizeof(p->etcd.prefix), "/test/%d", n++);
        start_etcd(p);
}

static void remove_all(const char *path)
{
        GDir *d = g_dir_open(path, 0, NULL);
        for (const char *name; d && (name = g_dir_read_name(d));) {
                g_autofree char *inner = g_build_filename(path, name, NULL);
                remove_all(inner);
        }
        if (d)
                g_dir_close(d);
        (void)g_remove(path);
}

static void place_done(struct place *p)
{
        if (p->pid)
                kill_etcd(p);
        remove_all(p->dir);
        g_free(p->dir);
        g_free(p->path);
        g_free(p->log);
}

static struct record_etcd named(const struct place *p, const char *name)
{
        struct record_etcd e = p->etcd;
        (void)snprintf(e.name, sizeof(e.name), "%s", name);
        return e;
}

/* etcd is borrowed for the life of the record. */
static int open_as(struct place *p, struct user *u, struct record_etcd *etcd, const char *name,
                   struct err *err)
{
        const struct record_told told = {on_ready, on_done, on_lost, u};
        *u = (struct user){.place = p};
        *etcd = named(p, name);
        return p->is_etcd ? record_open_etcd(etcd, KEEP, &told, &u->r, err)
                          : record_open_file(p->path, KEEP, &told, &u->r, err);
}

static struct record_etcd first_etcd, second_etcd;

static void begin(struct place *p, struct user *u)
{
        struct err err = {0};
        if (open_as(p, u, &first_etcd, "first", &err))
                g_error("%s", err.sentence);
        record_begin(u->r);
        spin(&u->is_ready, &u->is_lost);
        if (!u->is_ready)
                g_error("%s", u->err.sentence);
}

static void end(struct user *u)
{
        record_close(u->r);
        u->r = NULL;
}

static int commit(struct user *u)
{
        u->is_done = false;
        record_commit(u->r);
        spin(&u->is_done, &u->is_lost);
        return u->is_lost ? -ESTALE : u->bad;
}

static void begin_again(struct user *u)
{
        struct place *p = u->place;
        end(u);
        begin(p, u);
}

/* A machine that is busy may be late with an answer, or for the lease: then it is gathered and committed once
 * more. */
#define RECORDED(u, ...)                                                                                     \
        do {                                                                                                 \
                __VA_ARGS__;                                                                                 \
                if (commit(u) == 0)                                                                          \
                        break;                                                                               \
                g_test_message("%s", (u)->err.sentence);                                                     \
                if ((u)->is_lost)                                                                            \
                        begin_again(u);                                                                      \
                rest(100);                                                                                   \
        } while (true)

static void say(struct user *u, const char *text)
{
        struct store_event e = {.at_ms = 7, .trace = "t", .subject = "s", .event = "said"};
        (void)snprintf(e.text, sizeof(e.text), "%s", text);
        record_say(u->r, &e);
}

static int say_document(const char *name, const char *text, void *arg, struct err *err)
{
        (void)err;
        g_string_append_printf(arg, "%s=%s ", name, text);
        return 0;
}

static void expect(const struct user *u, enum store_document kind, const char *want)
{
        g_autoptr(GString) all = g_string_new(NULL);
        struct err err = {0};
        g_assert_cmpint(store_load_documents(record_store(u->r), kind, say_document, all, &err), ==, 0);
        g_assert_cmpstr(all->str, ==, want);
}

static int events(const struct user *u, struct store_event got[KEEP + 10])
{
        struct err err = {0};
        int n = store_events(record_store(u->r), 0, NULL, got, KEEP + 10, &err);
        g_assert_cmpint(n, >=, 0);
        return n;
}

/* ---- for both ---- */

static void test_round_trip(struct place *p)
{
        struct user u;
        static struct store_event got[KEEP + 10];
        begin(p, &u);
        expect(&u, STORE_ORDER, "");
        RECORDED(&u, record_put(u.r, STORE_ORDER, "b", "{\"text\":\"\xc3\xa4 \\\"quoted\\\" 'x'\"}");
                 record_put(u.r, STORE_ORDER, "a", "first");
                 record_put(u.r, STORE_ORDER, "a", "one"); /* the last word counts */
                 record_put(u.r, STORE_DRAIN, "a", "two"); /* names are each kind's own */
                 record_put(u.r, STORE_USED_ID, "order/old", "three"); say(&u, "hello");
                 expect(&u, STORE_ORDER, "")); /* not recorded, not there */
        RECORDED(&u, record_delete(u.r, STORE_DRAIN, "a"); record_delete(u.r, STORE_DRAIN, "never");
                 say(&u, "bye"));
        RECORDED(&u, record_put(u.r, STORE_ORDER, "c", "dropped"); record_drop(u.r));
        record_put(u.r, STORE_ORDER, "c", "not committed");
        for (int again = 0; again < 2; again++) {
                expect(&u, STORE_ORDER, "a=one b={\"text\":\"\xc3\xa4 \\\"quoted\\\" 'x'\"} ");
                expect(&u, STORE_DRAIN, "");
                expect(&u, STORE_USED_ID, "order/old=three ");
                g_assert_cmpint(events(&u, got), ==, 2);
                g_assert_cmpint(got[1].seq, ==, 2);
                g_assert_cmpint(got[1].at_ms, ==, 7);
                g_assert_cmpstr(got[1].text, ==, "bye");
                g_assert_cmpstr(got[0].trace, ==, "t");
                end(&u);
                begin(p, &u);
        }
        end(&u);
}

/* The newest are kept, their numbers go on. */
static void test_events(struct place *p)
{
        static struct store_event got[KEEP + 10];
        struct user u;
        char text[16];
        begin(p, &u);
        for (int i = 1; i <= 2 * KEEP; i += 10)
                RECORDED(
                        &u, for (int k = i; k < i + 10; k++) {
                                (void)snprintf(text, sizeof(text), "%d", k);
                                say(&u, text);
                        });
        for (int again = 0; again < 2; again++) {
                g_assert_cmpint(events(&u, got), ==, KEEP);
                g_assert_cmpint(got[0].seq, ==, KEEP + 1);
                g_assert_cmpstr(got[KEEP - 1].text, ==, "100");
                g_assert_cmpint(store_last_event(record_store(u.r)), ==, 2 * KEEP);
                end(&u);
                begin(p, &u);
        }
        end(&u);
}

/* What one record has no room for goes into the next, and large ones are read again, too. */
static void test_many(struct place *p)
{
        enum { MANY = 700, LARGE = 150 * 1024, N_LARGE = 12 };
        struct user u;
        char name[32];
        g_autofree char *large = g_strnfill(LARGE, 'x');
        int commits = 0;
        begin(p, &u);
        for (int i = 0, next = 0; i < MANY + N_LARGE; i = next, commits++)
                RECORDED(
                        &u, for (next = i; next < MANY + N_LARGE && record_has_room(u.r); next++) {
                                bool is_large = next >= MANY;
                                (void)snprintf(name, sizeof(name), "n%05d", next);
                                record_put(u.r, is_large ? STORE_DRAIN : STORE_ORDER, name,
                                           is_large ? large : "{}");
                        });
        g_assert_cmpint(commits, >=, MANY / RECORD_OPS_MAX + N_LARGE * LARGE / (RECORD_BYTES_MAX + LARGE));
        end(&u);
        begin(p, &u);
        g_autoptr(GString) orders = g_string_new(NULL), drains = g_string_new(NULL);
        struct err err = {0};
        g_assert_cmpint(store_load_documents(record_store(u.r), STORE_ORDER, say_document, orders, &err), ==,
                        0);
        g_assert_cmpint(store_load_documents(record_store(u.r), STORE_DRAIN, say_document, drains, &err), ==,
                        0);
        g_assert_cmpuint(orders->len, ==, MANY * strlen("n00000={} "));
        g_assert_cmpuint(drains->len, ==, N_LARGE * (LARGE + strlen("n00000= ")));
        end(&u);
}

/* While one has it, another has not; then it has all of it. */
static void test_one_at_a_time(struct place *p)
{
        struct user first, second;
        struct err err = {0};
        begin(p, &first);
        RECORDED(&first, record_put(first.r, STORE_ORDER, "a", "one"));
        int bad = open_as(p, &second, &second_etcd, "second", &err);
        if (p->is_etcd) {
                bool is_said = false;
                g_assert_cmpint(bad, ==, 0);
                record_begin(second.r);
                for (int64_t end_ms = loop_mono_ms() + PATIENCE_MS; !is_said && loop_mono_ms() < end_ms;) {
                        rest(20);
                        g_assert_false(record_is_ready(second.r, &err));
                        is_said = strcmp(err.sentence, "first leads; this one waits") == 0;
                }
                g_assert_true(is_said);
                g_assert_cmpint(commit(&second), <, 0); /* said, not lost */
                g_assert_false(second.is_lost || second.is_ready);
                expect(&second, STORE_ORDER, "");
        } else {
                g_assert_cmpint(bad, ==, -EBUSY);
        }
        RECORDED(&first, record_put(first.r, STORE_ORDER, "a", "two"));
        end(&first);
        if (p->is_etcd)
                spin(&second.is_ready, NULL);
        else
                begin(p, &second);
        expect(&second, STORE_ORDER, "a=two ");
        end(&second);
}

/* A user that dies: what it was told is recorded is there, and nothing else. */
static void test_death(struct place *p)
{
        struct user u;
        int told[2];
        char c;
        g_assert_cmpint(pipe(told), ==, 0);
        pid_t pid = fork();
        if (pid == 0) {
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                begin(p, &u);
                RECORDED(&u, record_put(u.r, STORE_ORDER, "a", "one"));
                record_put(u.r, STORE_ORDER, "b", "two");
                (void)!write(told[1], "x", 1);
                for (;;)
                        (void)pause();
        }
        g_assert_cmpint(read(told[0], &c, 1), ==, 1);
        g_assert_cmpint(kill(pid, SIGKILL), ==, 0);
        g_assert_cmpint(waitpid(pid, NULL, 0), ==, pid);
        begin(p, &u); /* an etcd: when the lease has run out */
        expect(&u, STORE_ORDER, "a=one ");
        end(&u);
        close(told[0]);
        close(told[1]);
}

struct limit {
        struct rlimit before;
};

/* The store is away: a disk that is full, an etcd that does not answer. */
static void away(struct place *p, struct limit *l)
{
        struct rlimit none = {4096, 0};
        if (p->is_etcd) {
                g_assert_cmpint(kill(p->pid, SIGSTOP), ==, 0);
                return;
        }
        (void)signal(SIGXFSZ, SIG_IGN);
        g_assert_cmpint(getrlimit(RLIMIT_FSIZE, &l->before), ==, 0);
        none.rlim_max = l->before.rlim_max;
        g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &none), ==, 0);
}

static void back(struct place *p, const struct limit *l)
{
        if (p->is_etcd)
                g_assert_cmpint(kill(p->pid, SIGCONT), ==, 0);
        else
                g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &l->before), ==, 0);
}

/* It is said, what was recorded stays, and when the store is back the later word holds, also where it has
 * both: etcd may carry out what it did not answer. */
static void test_away(struct place *p)
{
        static struct store_event got[KEEP + 10];
        struct user u;
        struct limit l;
        begin(p, &u);
        RECORDED(&u, record_put(u.r, STORE_ORDER, "a", "before"));
        away(p, &l);
        g_autofree char *large = g_strnfill(64 * 1024, 'x');
        for (int i = 0; i < 2; i++) {
                record_put(u.r, STORE_ORDER, "a", large);
                say(&u, "it is away");
                say(&u, "still");
                g_assert_cmpint(commit(&u), <, 0);
                g_assert_cmpstr(u.err.sentence, !=, "");
                expect(&u, STORE_ORDER, "a=before ");
                if (u.is_lost) /* the lease ran out meanwhile */
                        break;
        }
        back(p, &l);
        for (bool is_recorded = false; !is_recorded;) {
                record_put(u.r, STORE_ORDER, "a", "later");
                say(&u, "it is back");
                is_recorded = commit(&u) == 0;
                if (u.is_lost)
                        begin_again(&u);
        }
        for (int again = 0; again < 2; again++) {
                expect(&u, STORE_ORDER, "a=later ");
                int n = events(&u, got);
                g_assert_cmpint(n, >=, 1);
                g_assert_cmpstr(got[n - 1].text, ==, "it is back");
                end(&u);
                begin(p, &u);
        }
        end(&u);
}

/* A file whose state was carried over is nobody's any more; where that was only begun, it is. */
static void test_marked(struct place *p)
{
        struct api_carried mark = {.id = "f1", .etcd = "https://a", .prefix = "/mete/x", .at_ms = 7},
                           got = {0};
        struct user u;
        struct err err = {0};
        begin(p, &u);
        RECORDED(&u, record_put(u.r, STORE_ORDER, "a", "one"));
        g_assert_cmpint(carried_read(record_store(u.r), &got, &err), ==, 0);
        g_assert_cmpint(carried_write(record_store(u.r), &mark, &err), ==, 0);
        end(&u);
        begin(p, &u);
        expect(&u, STORE_ORDER, "a=one ");
        mark.is_all = true;
        g_assert_cmpint(carried_write(record_store(u.r), &mark, &err), ==, 0);
        g_assert_cmpint(carried_read(record_store(u.r), &got, &err), ==, 1);
        g_assert_true(got.is_all && got.at_ms == 7 && strcmp(got.id, "f1") == 0);
        g_assert_cmpstr(got.prefix, ==, "/mete/x");
        end(&u);
        g_assert_cmpint(open_as(p, &u, &first_etcd, "first", &err), <, 0);
        g_assert_cmpint(err.reason, ==, REASON_INCOMPATIBLE);
        g_assert_nonnull(strstr(err.sentence, "carried over to etcd, under /mete/x"));
        g_assert_null(u.r);
}

/* ---- of an etcd alone ---- */

struct raw {
        bool is_over;
        int bad;
};

static void on_raw(void *arg, const json_t *answer, const struct err *err)
{
        struct raw *r = arg;
        (void)answer;
        r->is_over = true;
        r->bad = err ? -err->code : 0;
}

/* Somebody else, by hand. */
static void raw(struct place *p, json_t *txn)
{
        struct err err = {0};
        struct raw r = {0};
        struct etcd *e = etcd_new(&p->etcd.places, &p->etcd.files, 10000, &err);
        for (int i = 0; i < 300 && (i == 0 || r.bad); i++) { /* it may be on its way up */
                r = (struct raw){0};
                g_assert_nonnull(etcd_call(e, "/v3/kv/txn", json_incref(txn), on_raw, &r, &err));
                spin(&r.is_over, NULL);
                if (r.bad)
                        rest(100);
        }
        g_assert_cmpint(r.bad, ==, 0);
        json_decref(txn);
        etcd_free(e);
}

static char *key(const struct place *p, const char *what)
{
        return g_strdup_printf("%s/%s", p->etcd.prefix, what);
}

/* The lead is taken away behind our back: nothing more is written, though the lease lives. */
static void test_fenced(struct place *p)
{
        for (int taken = 0; taken < 2; taken++) {
                struct user u;
                g_autofree char *lead = key(p, "lead");
                json_t *txn = etcd_txn_new();
                begin(p, &u);
                RECORDED(&u, record_put(u.r, STORE_ORDER, "a", "one"));
                etcd_txn_delete(txn, lead, NULL);
                raw(p, txn);
                if (taken) {
                        txn = etcd_txn_new();
                        etcd_txn_put(txn, lead, "somebody \x1b[1m else", 0);
                        raw(p, txn);
                }
                while (!u.is_lost) {
                        record_put(u.r, STORE_ORDER, "a", "two");
                        g_assert_cmpint(commit(&u), <, 0);
                }
                end(&u);
                if (taken) {
                        txn = etcd_txn_new();
                        etcd_txn_delete(txn, lead, NULL);
                        raw(p, txn);
                }
                begin(p, &u);
                expect(&u, STORE_ORDER, "a=one ");
                end(&u);
        }
}

/* etcd is silent until the lease is over: another may lead. It is noticed without anything to record, and
 * without etcd. */
static void test_lease_gone(struct place *p)
{
        struct user u;
        begin(p, &u);
        g_assert_cmpint(kill(p->pid, SIGSTOP), ==, 0);
        spin(&u.is_lost, NULL);
        g_assert_nonnull(strstr(u.err.sentence, "has run out"));
        struct err err = {0};
        g_assert_false(record_is_ready(u.r, &err));
        record_put(u.r, STORE_ORDER, "a", "one");
        g_assert_cmpint(commit(&u), <, 0);
        g_assert_cmpint(kill(p->pid, SIGCONT), ==, 0);
        end(&u);
        begin(p, &u);
        expect(&u, STORE_ORDER, "");
        end(&u);
}

/* kill -9 of etcd: what it said is recorded is there, and it goes on. */
static void test_etcd_dies(struct place *p)
{
        struct user u;
        begin(p, &u);
        for (int i = 0; i < 3; i++) {
                char name[8];
                (void)snprintf(name, sizeof(name), "n%d", i);
                RECORDED(&u, record_put(u.r, STORE_ORDER, name, "x"));
                kill_etcd(p);
                record_put(u.r, STORE_ORDER, "y", "y");
                g_assert_cmpint(commit(&u), <, 0);
                start_etcd(p);
                for (bool is_recorded = false; !is_recorded;) {
                        record_put(u.r, STORE_DRAIN, name, "z");
                        is_recorded = commit(&u) == 0;
                        if (u.is_lost)
                                begin_again(&u);
                        else if (!is_recorded)
                                rest(50);
                }
        }
        end(&u);
        begin(p, &u);
        expect(&u, STORE_ORDER, "n0=x n1=x n2=x ");
        expect(&u, STORE_DRAIN, "n0=z n1=z n2=z ");
        end(&u);
}

/* No space by its quota: refused in its own words, nothing of it is there, and it leads still. */
static void test_full(struct place *p)
{
        struct user u;
        g_autofree char *large = g_strnfill(400 * 1024, 'x');
        int n = 0, bad = 0;
        begin(p, &u);
        RECORDED(&u, record_put(u.r, STORE_DRAIN, "a", "before"));
        while (!(bad && strstr(u.err.sentence, "space exceeded"))) {
                g_assert_cmpint(n++, <, 500);
                record_put(u.r, STORE_ORDER, "large", large);
                bad = commit(&u);
                g_assert_false(u.is_lost);
        }
        record_put(u.r, STORE_DRAIN, "a", "after");
        g_assert_cmpint(commit(&u), <, 0);
        expect(&u, STORE_DRAIN, "a=before ");
        end(&u);
}

/* Another format is left alone; so is a document of a kind that nobody knows. */
static void test_format(struct place *p)
{
        struct user u;
        struct err err = {0};
        g_autofree char *head = key(p, "head"), *odd = key(p, "document/what/x"),
                        *event = key(p, "event/0000000000000001");
        json_t *txn = etcd_txn_new();
        etcd_txn_put(txn, head, "mete-manager 99", 0);
        raw(p, txn);
        g_assert_cmpint(open_as(p, &u, &first_etcd, "first", &err), ==, 0);
        record_begin(u.r);
        spin(&u.is_lost, &u.is_ready);
        g_assert_true(u.is_lost && !u.is_ready);
        g_assert_cmpint(u.err.reason, ==, REASON_INCOMPATIBLE);
        end(&u);
        txn = etcd_txn_new();
        etcd_txn_delete(txn, head, NULL);
        etcd_txn_put(txn, odd, "y", 0);
        etcd_txn_put(txn, event, "no JSON", 0);
        raw(p, txn);
        begin(p, &u);
        expect(&u, STORE_ORDER, "");
        RECORDED(&u, say(&u, "one"));
        end(&u);
}

/* ---- the state of a file goes there ---- */

/* Who carries it: ready, or lost. */
static void begin_carrying(struct place *p, struct user *u, const char *id, bool is_all)
{
        const struct record_told told = {on_ready, on_done, on_lost, u};
        struct err err = {0};
        *u = (struct user){.place = p};
        first_etcd = named(p, "carrier");
        (void)snprintf(first_etcd.carried, sizeof(first_etcd.carried), "%s", id);
        first_etcd.is_all_carried = is_all;
        g_assert_cmpint(record_open_etcd(&first_etcd, KEEP, &told, &u->r, &err), ==, 0);
        record_begin(u->r);
        spin(&u->is_ready, &u->is_lost);
}

static void refused(struct user *u, int code, const char *words)
{
        g_assert_true(u->is_lost && !u->is_ready);
        g_assert_cmpint(u->err.code, ==, code);
        if (!strstr(u->err.sentence, words))
                g_error("%s: not as in \"%s\"", words, u->err.sentence);
        end(u);
}

static void refuse_manager(struct place *p, const char *words)
{
        struct user u;
        struct err err = {0};
        g_assert_cmpint(open_as(p, &u, &first_etcd, "first", &err), ==, 0);
        record_begin(u.r);
        spin(&u.is_ready, &u.is_lost);
        refused(&u, EEXIST, words);
}

static void put(struct user *u, const char *name, int64_t seq)
{
        struct store_event e = {.seq = seq, .at_ms = 7, .trace = "t", .subject = "s", .event = "said"};
        (void)snprintf(e.text, sizeof(e.text), "%s", name);
        record_put(u->r, STORE_ORDER, name, "x");
        record_copy(u->r, &e);
}

/* A part of it, or (name NULL) the word that it counts. false: the lease did not live through it. */
static bool carry(struct user *u, const char *name, int64_t seq)
{
        for (;;) {
                u->is_done = false;
                if (name) {
                        put(u, name, seq);
                        record_commit(u->r);
                } else {
                        record_carried(u->r);
                }
                spin(&u->is_done, &u->is_lost);
                if (u->is_lost || !u->bad)
                        return !u->is_lost;
                rest(100);
        }
}

/* Interrupted, nobody else's, begun anew with nothing of what is there, and then a state with its numbers. */
static bool carried_once(struct place *p)
{
        static struct store_event got[KEEP + 10];
        struct user u;
        begin_carrying(p, &u, "f1", false);
        bool is_good = u.is_ready && carry(&u, "a", 5) && carry(&u, "b", 9);
        end(&u);
        if (!is_good)
                return false;
        refuse_manager(p, "a part of the state of the file f1");
        begin_carrying(p, &u, "f2", false);
        refused(&u, EEXIST, "a part of the state of the file f1");
        begin_carrying(p, &u, "f1", false);
        if (u.is_ready) {
                expect(&u, STORE_ORDER, "");
                g_assert_cmpint(events(&u, got), ==, 0);
        }
        is_good = u.is_ready && carry(&u, "c", 3) && carry(&u, "d", 4);
        end(&u);
        if (!is_good)
                return false;
        begin_carrying(p, &u, "f1", true);
        is_good = u.is_ready && carry(&u, NULL, 0);
        end(&u);
        if (!is_good)
                return false;
        begin(p, &u);
        expect(&u, STORE_ORDER, "c=x d=x ");
        RECORDED(&u, say(&u, "next"));
        g_assert_cmpint(events(&u, got), ==, 3);
        g_assert_true(got[0].seq == 3 && got[1].seq == 4 && got[2].seq == 5);
        g_assert_cmpstr(got[2].text, ==, "next");
        end(&u);
        return true;
}

static void test_carried(struct place *p)
{
        struct user u;
        int tries = 0;
        do
                (void)snprintf(p->etcd.prefix, sizeof(p->etcd.prefix), "/carried/%d", tries++);
        while (!carried_once(p));
        begin_carrying(p, &u, "f3", false);
        refused(&u, EEXIST, "there is a state");
        begin_carrying(p, &u, "f1", true);
        refused(&u, EALREADY, "counts already");
        g_autofree char *head = key(p, "head");
        json_t *txn = etcd_txn_new();
        etcd_txn_delete(txn, head, NULL);
        raw(p, txn);
        begin_carrying(p, &u, "f3", false); /* what is there without a head may be somebody's */
        refused(&u, EEXIST, "there is a state");
        begin_carrying(p, &u, "f1", true);
        refused(&u, ENOENT, "nothing of what was carried over");
        txn = etcd_txn_new();
        etcd_txn_put(txn, head, "mete-manager 99", 0);
        raw(p, txn);
        begin_carrying(p, &u, "f3", false);
        refused(&u, EPROTO, "this version's format");
}

/* ---- all of them ---- */

static void run(gconstpointer arg, bool is_etcd, int64_t lease_ms, const char *quota)
{
        struct place p;
        void (*test)(struct place *) = (void (*)(struct place *))(uintptr_t)arg;
        if (is_etcd && access(etcd_program, X_OK) < 0) {
                g_test_skip("there is no /usr/bin/etcd (etcd-server)");
                return;
        }
        place_init(&p, is_etcd, lease_ms, quota);
        test(&p);
        loop_done(); /* the next one may fork */
        place_done(&p);
}

static void on_file(gconstpointer arg)
{
        run(arg, false, 0, NULL);
}

static void on_etcd(gconstpointer arg)
{
        run(arg, true, LEASE_MS, NULL);
}

static void on_small_etcd(gconstpointer arg)
{
        run(arg, true, LEASE_MS, "4194304");
}

static void on_brief_etcd(gconstpointer arg)
{
        run(arg, true, BRIEF_LEASE_MS, NULL);
}

static const struct {
        const char *name;
        void (*test)(struct place *);
        void (*on_etcd)(gconstpointer);
        bool is_for_both;
} tests[] = {
        {"round-trip",    test_round_trip,    on_etcd,       true },
        {"events",        test_events,        on_etcd,       true },
        {"many",          test_many,          on_etcd,       true },
        {"one-at-a-time", test_one_at_a_time, on_etcd,       true },
        {"death",         test_death,         on_brief_etcd, true },
        {"away",          test_away,          on_brief_etcd, true },
        {"fenced",        test_fenced,        on_etcd,       false},
        {"lease-gone",    test_lease_gone,    on_brief_etcd, false},
        {"etcd-dies",     test_etcd_dies,     on_brief_etcd, false},
        {"full",          test_full,          on_small_etcd, false},
        {"format",        test_format,        on_etcd,       false},
        {"carried",       test_carried,       on_etcd,       false},
};

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_data_func("/record/file/marked", (gconstpointer)(uintptr_t)test_marked, on_file);
        for (size_t i = 0; i < G_N_ELEMENTS(tests); i++) {
                g_autofree char *file = g_strdup_printf("/record/file/%s", tests[i].name);
                g_autofree char *etcd = g_strdup_printf("/record/etcd/%s", tests[i].name);
                gconstpointer arg = (gconstpointer)(uintptr_t)tests[i].test;
                if (tests[i].is_for_both)
                        g_test_add_data_func(file, arg, on_file);
                g_test_add_data_func(etcd, arg, tests[i].on_etcd);
        }
        return g_test_run();
}
