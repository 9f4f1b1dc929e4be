/* SPDX-License-Identifier: Apache-2.0 */
/* The store with a real SQLite: rows come back as they went in, what was not committed is gone after a
 * crash, what was is there, a full disk changes nothing, and only one may hold it. */
#include <errno.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "store/store.h"

static const struct component machine[] = {
        {.id = "cpu:0",        .kind = COMPONENT_CPU,    .capacity = 1000,    .owned = 1000   },
        {.id = "memory:node0", .kind = COMPONENT_MEMORY, .capacity = 1 << 30, .owned = 1 << 30},
};

struct place {
        char *dir, *path;
};

static void place_init(struct place *p)
{
        p->dir = g_dir_make_tmp("mete-store-XXXXXX", NULL);
        p->path = g_build_filename(p->dir, "mete.db", NULL);
}

static void place_done(struct place *p)
{
        static const char *const ends[] = {"", "-wal", "-shm", ".lock"};
        for (size_t i = 0; i < G_N_ELEMENTS(ends); i++) {
                char *f = g_strconcat(p->path, ends[i], NULL);
                (void)g_unlink(f);
                g_free(f);
        }
        g_assert_cmpint(g_rmdir(p->dir), ==, 0); /* nothing else was left there */
        g_free(p->path);
        g_free(p->dir);
}

static struct store *open_store(const struct place *p)
{
        struct store *s = NULL;
        struct err err = {0};
        if (store_open(p->path, machine, G_N_ELEMENTS(machine), &s, &err))
                g_error("%s", err.sentence);
        return s;
}

static void sample(struct request *r, uint64_t serial)
{
        struct err err = {0};
        memset(r, 0, sizeof(*r));
        r->serial = serial;
        (void)snprintf(r->key, sizeof(r->key), "vm:v/r%u", (unsigned)serial);
        (void)snprintf(r->id, sizeof(r->id), "r%u", (unsigned)serial);
        (void)snprintf(r->vm, sizeof(r->vm), "v");
        (void)snprintf(r->application, sizeof(r->application), "redis 17 \"quoted\" 'x'");
        (void)snprintf(r->sentence, sizeof(r->sentence), "granted; DROP TABLE request; --");
        r->kind = REQUEST_APP;
        r->state = REQUEST_GRANTED;
        r->outcome = OUTCOME_GRANTED;
        r->accepts_less = true;
        r->n_needs = 2;
        g_assert_cmpint(need_parse("cpu:1..2,share>=0.9", &r->needs[0], &err), ==, 0);
        g_assert_cmpint(need_parse("memory:256M", &r->needs[1], &err), ==, 0);
        r->met[0] = 1;
        r->met[1] = 256 << 20;
        r->n_definitions = 2;
        r->definitions = calloc(2, sizeof(*r->definitions));
        r->definitions[0] = (struct definition){.component = 0,
                                                .kind = VIRTUAL_VCPU,
                                                .slot = 3,
                                                .amount = 900,
                                                .exclusive = true,
                                                .moving = true,
                                                .goes_back = true,
                                                .from = 2,
                                                .page_bytes = 2 << 20,
                                                .host_active = true,
                                                .kept = true,
                                                .active = true,
                                                .configured = true};
        r->definitions[1] = (struct definition){
                .component = 1, .kind = VIRTUAL_DIMM, .amount = 256 << 20, .prepares = true, .way = WAY_HELD};
        r->asked_ms = r->start_ms = 1000;
        r->end_ms = LEDGER_OPEN;
}

struct found {
        int n;
        struct request last;
};

static int take(struct request *row, void *arg, struct err *err)
{
        struct found *f = arg;
        (void)err;
        f->n++;
        free(f->last.definitions);
        f->last = *row;
        row->definitions = NULL;
        return 0;
}

static int load(struct store *s, struct found *f)
{
        struct err err = {0};
        memset(f, 0, sizeof(*f));
        if (store_load_requests(s, take, f, &err))
                g_error("%s", err.sentence);
        return f->n;
}

/* As many definitions as a VM may have are kept whole; of more, none are kept. */
static void test_too_long(void)
{
        enum { MOST = 160, TOO_MANY = 1000 };
        struct place p;
        struct request r;
        struct found f;
        struct err err = {0};
        place_init(&p);
        struct store *s = open_store(&p);
        sample(&r, 1);
        free(r.definitions);
        r.definitions = calloc(TOO_MANY, sizeof(*r.definitions));
        for (int i = 0; i < TOO_MANY; i++)
                r.definitions[i] = (struct definition){.component = 1,
                                                       .kind = VIRTUAL_DIMM,
                                                       .slot = (int16_t)(i % 64),
                                                       .amount = (INT64_C(1) << 53) - 1 - i,
                                                       .prepares = true,
                                                       .host_active = true,
                                                       .active = true,
                                                       .configured = true,
                                                       .way = WAY_HELD};
        r.n_definitions = TOO_MANY;
        g_assert_cmpint(store_put_request(s, &r, &err), ==, -EOVERFLOW);
        g_assert_cmpint(err.reason, ==, REASON_INTERNAL);
        store_rollback(s);
        g_assert_cmpint(load(s, &f), ==, 0);
        r.n_definitions = MOST;
        g_assert_cmpint(store_put_request(s, &r, &err), ==, 0);
        g_assert_cmpint(store_commit(s, &err), ==, 0);
        g_assert_cmpint(load(s, &f), ==, 1);
        g_assert_cmpuint(f.last.n_definitions, ==, MOST);
        g_assert_cmpint(f.last.definitions[MOST - 1].amount, ==, r.definitions[MOST - 1].amount);
        free(f.last.definitions);
        free(r.definitions);
        store_close(s);
        place_done(&p);
}

static void test_round_trip(void)
{
        struct place p;
        struct request r;
        struct found f;
        struct err err = {0};
        place_init(&p);
        struct store *s = open_store(&p);
        sample(&r, 1);
        g_assert_cmpint(store_put_request(s, &r, &err), ==, 0);
        g_assert_cmpint(store_commit(s, &err), ==, 0);
        store_close(s);
        s = open_store(&p);
        g_assert_cmpint(load(s, &f), ==, 1);
        const struct request *l = &f.last;
        g_assert_cmpstr(l->key, ==, r.key);
        g_assert_cmpstr(l->application, ==, r.application);
        g_assert_cmpstr(l->sentence, ==, r.sentence);
        g_assert_true(l->state == r.state && l->kind == r.kind && l->outcome == r.outcome && l->accepts_less);
        g_assert_true(l->end_ms == LEDGER_OPEN && l->met[1] == r.met[1]);
        g_assert_cmpuint(l->n_needs, ==, 2);
        g_assert_true(need_equal(&l->needs[0], &r.needs[0]));
        g_assert_cmpuint(l->n_definitions, ==, 2);
        g_assert_true(l->definitions[0].slot == 3 && l->definitions[0].amount == 900 &&
                      l->definitions[1].component == 1);
        g_assert_true(l->definitions[0].kind == VIRTUAL_VCPU && l->definitions[0].host_active &&
                      l->definitions[0].kept && !l->definitions[1].kept && l->definitions[0].active &&
                      l->definitions[0].configured && !l->definitions[0].prepares &&
                      l->definitions[0].way == WAY_NONE && l->definitions[0].moving &&
                      l->definitions[0].from == 2 && l->definitions[1].from == 0);
        g_assert_true(l->definitions[0].exclusive && !l->definitions[1].exclusive);
        g_assert_true(l->definitions[0].goes_back && !l->definitions[1].goes_back);
        g_assert_true(l->definitions[0].page_bytes == 2 << 20 && !l->definitions[1].page_bytes);
        g_assert_true(l->definitions[1].kind == VIRTUAL_DIMM && l->definitions[1].prepares &&
                      !l->definitions[1].host_active && l->definitions[1].way == WAY_HELD);
        g_assert_true(activation_parse("back bind 1 of end 0", &r.activation));
        g_assert_cmpint(store_put_activation(s, &r, &err), ==, 0);
        g_assert_cmpint(store_commit(s, &err), ==, 0);
        free(f.last.definitions);
        g_assert_cmpint(load(s, &f), ==, 1);
        g_assert_true(l->activation.is_back && l->activation.phase == PHASE_BIND && l->activation.item == 1 &&
                      l->activation.reached == PHASE_N);
        g_assert_cmpint(store_forget_request(s, 1, &err), ==, 0);
        g_assert_cmpint(store_commit(s, &err), ==, 0);
        free(f.last.definitions);
        g_assert_cmpint(load(s, &f), ==, 0);
        uint64_t serial;
        g_assert_cmpint(store_last_serial(s, &serial, &err), ==, 0);
        g_assert_cmpuint(serial, >=, 1); /* forgotten, and still not used again */
        free(r.definitions);
        store_close(s);
        place_done(&p);
}

static void test_lock(void)
{
        struct place p;
        struct err err = {0};
        struct store *second = NULL;
        place_init(&p);
        struct store *s = open_store(&p);
        g_assert_cmpint(store_open(p.path, machine, G_N_ELEMENTS(machine), &second, &err), ==, -EBUSY);
        g_assert_cmpint(err.reason, ==, REASON_BUSY);
        g_assert_null(second);
        store_close(s);
        place_done(&p);
}

/* A child writes, commits up to a number that it tells, writes more and is killed. */
static void test_crash(void)
{
        for (int committed = 0; committed < 4; committed++) {
                struct place p;
                struct found f;
                int told[2];
                place_init(&p);
                g_assert_cmpint(pipe(told), ==, 0);
                pid_t pid = fork();
                if (pid == 0) {
                        struct err err = {0};
                        struct request r;
                        struct store *s = open_store(&p);
                        for (int i = 1; i <= committed + 1; i++) {
                                sample(&r, (uint64_t)i);
                                if (store_put_request(s, &r, &err) ||
                                    (i <= committed && store_commit(s, &err)))
                                        _exit(1);
                        }
                        (void)!write(told[1], "x", 1);
                        (void)pause();
                        _exit(0);
                }
                char c;
                g_assert_cmpint(read(told[0], &c, 1), ==, 1);
                g_assert_cmpint(kill(pid, SIGKILL), ==, 0);
                g_assert_cmpint(waitpid(pid, NULL, 0), ==, pid);
                struct store *s = open_store(&p);
                g_assert_cmpint(load(s, &f), ==, committed);
                free(f.last.definitions);
                store_close(s);
                close(told[0]);
                close(told[1]);
                place_done(&p);
        }
}

/* The disk is full: a file may not grow any more. The error says so, what was committed stays, and when
 * there is room again it goes on. */
static void test_full_disk(void)
{
        struct place p;
        struct found f;
        struct request r;
        struct err err = {0};
        struct rlimit unlimited, small = {16384, 0};
        place_init(&p);
        struct store *s = open_store(&p);
        sample(&r, 1);
        g_assert_cmpint(store_put_request(s, &r, &err), ==, 0);
        g_assert_cmpint(store_commit(s, &err), ==, 0);
        (void)signal(SIGXFSZ, SIG_IGN);
        g_assert_cmpint(getrlimit(RLIMIT_FSIZE, &unlimited), ==, 0);
        small.rlim_max = unlimited.rlim_max;
        g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &small), ==, 0);
        int bad = 0, made = 1;
        while (!bad && made < 10000) {
                struct request more;
                sample(&more, (uint64_t)made + 1);
                bad = store_put_request(s, &more, &err);
                if (!bad)
                        bad = store_commit(s, &err);
                if (!bad)
                        made++;
                free(more.definitions);
        }
        g_assert_cmpint(bad, <, 0);
        g_assert_cmpint(err.reason, ==, REASON_INTERNAL);
        g_assert_cmpstr(err.sentence, !=, "");
        store_rollback(s);
        g_assert_cmpint(load(s, &f), ==, made);
        free(f.last.definitions);
        g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &unlimited), ==, 0);
        r.serial = 20000;
        err = (struct err){0};
        if (store_put_request(s, &r, &err) || store_commit(s, &err))
                g_error("%s", err.sentence);
        g_assert_cmpint(load(s, &f), ==, made + 1);
        free(f.last.definitions);
        free(r.definitions);
        store_close(s);
        place_done(&p);
}

static void test_events(void)
{
        struct place p;
        struct err err = {0};
        struct store_event e = {.at_ms = 5, .trace = "t", .subject = "vm:v", .event = "granted", .text = "x"},
                           got[4];
        place_init(&p);
        struct store *s = open_store(&p);
        for (int i = 0; i < 5; i++) {
                int64_t seq;
                e.trace[0] = i % 2 ? 'u' : 't';
                g_assert_cmpint(store_add_event(s, &e, &seq, &err), ==, 0);
                g_assert_cmpint(seq, ==, i + 1);
        }
        g_assert_cmpint(store_events(s, 0, NULL, got, 4, &err), ==, 0); /* not durable, not shown */
        g_assert_cmpint(store_commit(s, &err), ==, 0);
        g_assert_cmpint(store_events(s, 0, NULL, got, 4, &err), ==, 4);
        g_assert_cmpint(store_events(s, 4, NULL, got, 4, &err), ==, 1);
        g_assert_cmpint(store_events(s, 0, "u", got, 4, &err), ==, 2);
        g_assert_cmpint(got[1].seq, ==, 4);
        g_assert_cmpint(store_trim_events(s, 2, &err), ==, 0);
        g_assert_cmpint(store_commit(s, &err), ==, 0);
        g_assert_cmpint(store_events(s, 0, NULL, got, 4, &err), ==, 2);
        g_assert_cmpint(got[0].seq, ==, 4);
        store_close(s);
        s = open_store(&p);
        g_assert_cmpint(store_last_event(s), ==, 5); /* numbers go on */
        store_close(s);
        place_done(&p);
}

/* A file that is not ours, or from a newer meted, is refused with words and left alone. */
static void test_foreign(void)
{
        struct place p;
        struct err err = {0};
        struct store *s = NULL;
        place_init(&p);
        g_assert_true(g_file_set_contents(
                p.path, "this is no database, but it is long enough to be looked at", -1, NULL));
        g_assert_cmpint(store_open(p.path, machine, G_N_ELEMENTS(machine), &s, &err), <, 0);
        g_assert_null(s);
        g_assert_nonnull(strstr(err.sentence, "mete.db"));
        place_done(&p);
}

static int collect(const char *component, void *arg, struct err *err)
{
        GString *all = arg;
        (void)err;
        g_string_append_printf(all, "%s ", component);
        return 0;
}

/* The machine has lost what is claimed: it is named, and nothing is read as if it had never been claimed. */
static void test_missing_component(void)
{
        struct place p;
        struct request r;
        struct found f;
        struct err err = {0};
        place_init(&p);
        struct store *s = open_store(&p);
        sample(&r, 1);
        g_assert_cmpint(store_put_request(s, &r, &err), ==, 0);
        g_assert_cmpint(store_commit(s, &err), ==, 0);
        g_autoptr(GString) all = g_string_new(NULL);
        g_assert_cmpint(store_each_missing(s, collect, all, &err), ==, 0);
        g_assert_cmpstr(all->str, ==, "");
        store_set_components(s, machine + 1, 1);
        g_assert_cmpint(store_each_missing(s, collect, all, &err), ==, 0);
        g_assert_cmpstr(all->str, ==, "cpu:0 ");
        memset(&f, 0, sizeof(f));
        g_assert_cmpint(store_load_requests(s, take, &f, &err), <, 0);
        g_assert_nonnull(strstr(err.sentence, "vm:v/r1: it claims cpu:0"));
        g_assert_cmpint(f.n, ==, 0);
        struct component grown[] = {machine[1], machine[0]}; /* under another number */
        store_set_components(s, grown, 2);
        g_assert_cmpint(load(s, &f), ==, 1);
        g_assert_cmpuint(f.last.n_definitions, ==, 2);
        g_assert_true(f.last.definitions[0].component == 1 && f.last.definitions[1].component == 0);
        g_assert_cmpuint(f.last.definitions[0].from, ==, 1);
        free(f.last.definitions);
        free(r.definitions);
        store_close(s);
        place_done(&p);
}

static int say(const struct store_offline *o, void *arg, struct err *err)
{
        (void)err;
        g_string_append_printf(arg, "%s %lld %lld%s; ", o->component, (long long)o->lost,
                               (long long)o->until_ms, o->is_injected ? " injected" : "");
        return 0;
}

/* What is out of use is so with the turn that decided it, and not otherwise. */
static void test_offline(void)
{
        struct place p;
        struct err err = {0};
        place_init(&p);
        struct store *s = open_store(&p);
        const struct store_offline a = {.component = "cpu:0"}, b = {.component = "memory:node0",
                                                                    .lost = 4096,
                                                                    .until_ms = 77,
                                                                    .is_injected = true};
        g_assert_cmpint(store_put_offline(s, &a, &err), ==, 0);
        g_assert_cmpint(store_put_offline(s, &b, &err), ==, 0);
        g_assert_cmpint(store_commit(s, &err), ==, 0);
        g_assert_cmpint(store_delete_offline(s, "cpu:0", &err), ==, 0);
        store_rollback(s);
        store_close(s);
        s = open_store(&p);
        g_autoptr(GString) all = g_string_new(NULL);
        g_assert_cmpint(store_load_offline(s, say, all, &err), ==, 0);
        g_assert_cmpstr(all->str, ==, "cpu:0 0 0; memory:node0 4096 77 injected; ");
        g_assert_cmpint(store_delete_offline(s, "cpu:0", &err), ==, 0);
        g_assert_cmpint(store_commit(s, &err), ==, 0);
        g_string_truncate(all, 0);
        g_assert_cmpint(store_load_offline(s, say, all, &err), ==, 0);
        g_assert_cmpstr(all->str, ==, "memory:node0 4096 77 injected; ");
        store_close(s);
        place_done(&p);
}

static int say_document(const char *name, const char *text, void *arg, struct err *err)
{
        (void)err;
        g_string_append_printf(arg, "%s %s; ", name, text);
        return 0;
}

/* Names are each kind's own. */
static void test_documents(void)
{
        struct place p;
        struct err err = {0};
        place_init(&p);
        struct store *s = open_store(&p);
        g_assert_cmpint(store_put_document(s, STORE_VM, "b", "one", &err), ==, 0);
        g_assert_cmpint(store_put_document(s, STORE_VM, "a", "two", &err), ==, 0);
        g_assert_cmpint(store_put_document(s, STORE_MOVE, "a", "three", &err), ==, 0);
        g_assert_cmpint(store_commit(s, &err), ==, 0);
        g_assert_cmpint(store_put_document(s, STORE_VM, "b", "four", &err), ==, 0);
        g_assert_cmpint(store_delete_document(s, STORE_MOVE, "a", &err), ==, 0);
        store_rollback(s);
        g_assert_cmpint(store_put_document(s, STORE_VM, "b", "five", &err), ==, 0);
        g_assert_cmpint(store_delete_document(s, STORE_LEARNT, "a", &err), ==, 0); /* was never there */
        g_assert_cmpint(store_commit(s, &err), ==, 0);
        store_close(s);
        s = open_store(&p);
        g_autoptr(GString) vms = g_string_new(NULL), moves = g_string_new(NULL);
        g_assert_cmpint(store_load_documents(s, STORE_VM, say_document, vms, &err), ==, 0);
        g_assert_cmpint(store_load_documents(s, STORE_MOVE, say_document, moves, &err), ==, 0);
        g_assert_cmpstr(vms->str, ==, "a two; b five; ");
        g_assert_cmpstr(moves->str, ==, "a three; ");
        store_close(s);
        place_done(&p);
}

/* An id is a guest's own choice; which guest's is part of the trace. */
static void test_traces(void)
{
        static const char *const traces[] = {"v/x", "w/x", "x", "v/y", "w", "x/x"};
        static const struct {
                const char *asked;
                int n;
        } rows[] = {
                {"v/x", 1},
                {"w/x", 1},
                {"x",   4},
                {"y",   1},
                {"w",   1},
                {"v",   0},
                {"/x",  0},
                {"%",   0}
        };
        struct store_event e = {0}, got[8];
        struct place p;
        struct err err = {0};
        place_init(&p);
        struct store *s = open_store(&p);
        for (size_t i = 0; i < G_N_ELEMENTS(traces); i++) {
                (void)snprintf(e.trace, sizeof(e.trace), "%s", traces[i]);
                g_assert_cmpint(store_add_event(s, &e, NULL, &err), ==, 0);
        }
        g_assert_cmpint(store_commit(s, &err), ==, 0);
        for (size_t i = 0; i < G_N_ELEMENTS(rows); i++)
                g_assert_cmpint(store_events(s, 0, rows[i].asked, got, 8, &err), ==, rows[i].n);
        store_close(s);
        place_done(&p);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/store/round-trip", test_round_trip);
        g_test_add_func("/store/too-long", test_too_long);
        g_test_add_func("/store/lock", test_lock);
        g_test_add_func("/store/crash", test_crash);
        g_test_add_func("/store/full-disk", test_full_disk);
        g_test_add_func("/store/events", test_events);
        g_test_add_func("/store/foreign", test_foreign);
        g_test_add_func("/store/missing-component", test_missing_component);
        g_test_add_func("/store/traces", test_traces);
        g_test_add_func("/store/offline", test_offline);
        g_test_add_func("/store/documents", test_documents);
        return g_test_run();
}
