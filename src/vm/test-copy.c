/* SPDX-License-Identifier: Apache-2.0 */
/* Both ends of a move by copy beside a VMM that is played: what it is told and in which order, and what
 * becomes of it when that refuses, keeps silent, lies, or dies. Real ones are in test-copy-live.c. */
#include "vm/copy.h"

#include <errno.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/control.h"
#include "json/read.h"
#include "vm/pick.h"
#include "vm/test-played.h"
#include "vm/test-sample.h"

enum { LONG_MS = 5000, SHORT_MS = 60 };

/* The VMM. */
static struct {
        GString *heard; /* the commands of a move, with spaces between them */
        const char *fails, *mute, *broken;
        const char *deaf_to; /* a capability that it does not take */
        int dies_at, commands;
        json_t *capabilities, *parameters, *creds;
        char key[128];              /* as it was found when its object came */
        const char *status, *later; /* of its migration; what it becomes after so many looks */
        int64_t thread;             /* that sends */
        int looks, total_after;
        const char *run;
        json_t *migration; /* the whole answer, instead */
} vmm;

static char *dir;

static char *path_of(const char *name)
{
        return g_build_filename(dir, name, NULL);
}

static bool is(const char *command, const char *which)
{
        return which && strcmp(command, which) == 0;
}

/* Through the descriptor, as QEMU does it. */
static json_t *vmm_load_key(const json_t *arguments)
{
        g_autofree char *path = g_strdup_printf("%s/keys.psk", pick_text(arguments, "dir"));
        g_autofree char *text = NULL;
        if (!g_file_get_contents(path, &text, NULL, NULL))
                return NULL;
        (void)g_strlcpy(vmm.key, text, sizeof(vmm.key));
        json_decref(vmm.creds);
        vmm.creds = json_deep_copy(arguments);
        return json_object();
}

static json_t *vmm_capabilities(void)
{
        json_t *list = json_array(), *each;
        size_t i;
        json_array_foreach(vmm.capabilities, i, each)
        {
                json_t *mine = json_deep_copy(each);
                if (is(pick_text(each, "capability"), vmm.deaf_to))
                        json_object_set_new(mine, "state",
                                            json_boolean(!json_is_true(json_object_get(each, "state"))));
                json_array_append_new(list, mine);
        }
        json_array_append_new(list, json_pack("{s:s, s:b}", "capability", "zero-blocks", "state", 0));
        return list;
}

static json_t *vmm_migration(void)
{
        if (vmm.migration)
                return json_incref(vmm.migration);
        if (!vmm.status)
                return json_object();
        if (vmm.later && ++vmm.looks > 3)
                vmm.status = vmm.later;
        return json_pack("{s:s, s:i, s:i, s:{s:i, s:i, s:i, s:i, s:i, s:i, s:i}}", "status", vmm.status,
                         "total-time", vmm.total_after-- > 0 ? 0 : 1234, "downtime", 21, "ram", "remaining",
                         4096, "transferred", 8192, "normal", 7, "duplicate", 9, "dirty-sync-count", 3,
                         "precopy-bytes", 7000, "downtime-bytes", 1000);
}

/* NULL: an error. */
static json_t *vmm_do(const char *command, const json_t *arguments)
{
        if (is(command, "query-name"))
                return json_pack("{s:s}", "name", "v1");
        if (is(command, "query-uuid"))
                return json_pack("{s:s}", "UUID", "4f0a3c1e-1111-4222-8333-444455556666");
        if (is(command, "query-status"))
                return json_pack("{s:s}", "status", vmm.run);
        if (is(command, "query-migrationthreads"))
                return vmm.thread ? json_pack("[{s:s, s:I}]", "thread-name", "live_migration", "thread-id",
                                              (json_int_t)vmm.thread)
                                  : json_array();
        if (g_str_has_prefix(command, "query-") && !strstr(command, "migrate"))
                return json_array();
        if (is(command, "object-add"))
                return vmm_load_key(arguments);
        if (is(command, "object-del") && !vmm.creds)
                return NULL;
        if (is(command, "add-fd"))
                return played.passed_fd < 0 ? NULL
                                            : json_pack("{s:i, s:i}", "fdset-id", 3, "fd", played.passed_fd);
        if (is(command, "getfd") && played.passed_fd < 0)
                return NULL;
        if (is(command, "migrate-set-capabilities")) {
                json_decref(vmm.capabilities);
                vmm.capabilities = json_incref(json_object_get(arguments, "capabilities"));
        }
        if (is(command, "query-migrate-capabilities"))
                return vmm_capabilities();
        if (is(command, "migrate-set-parameters"))
                json_object_update(vmm.parameters, (json_t *)(uintptr_t)arguments);
        if (is(command, "query-migrate"))
                return vmm_migration();
        return json_object();
}

static void vmm_serve(int i, const char *command, json_t *arguments, const json_t *id)
{
        bool is_ours = !g_str_has_prefix(command, "query-") || strstr(command, "migrate");
        bool counts = is_ours && !is(command, "qmp_capabilities");
        if (counts)
                g_string_append_printf(vmm.heard, "%s%s", vmm.heard->len ? " " : "", command);
        if (counts && ++vmm.commands == vmm.dies_at)
                played_hang_up();
        else if (!is(command, vmm.mute))
                played_answer(i, id,
                              is(command, vmm.broken)  ? json_string("nonsense")
                              : is(command, vmm.fails) ? NULL
                                                       : vmm_do(command, arguments));
}

/* ---- the owner */

struct rig {
        struct api_vm_definition d;
        struct vm *vm;
        struct copy *copy;
        struct vm_result result;
        struct copy_seen seen;
        struct err look_err;
        int results, deaths, index[VM_EVENT_N];
        unsigned events[VM_EVENT_N];
        char words[64];
        bool frees;
};

static void on_result(void *arg, const struct vm_result *result)
{
        struct rig *r = arg;
        g_assert_true((result->err.reason == 0) == (result->outcome == VM_DONE));
        r->result = *result;
        r->results++;
        if (r->frees) {
                copy_free(r->copy);
                r->copy = NULL;
        }
}

static void on_seen(void *arg, const struct copy_seen *seen, const struct err *err)
{
        struct rig *r = arg;
        g_assert_true((seen == NULL) == (err != NULL));
        r->seen = seen ? *seen : (struct copy_seen){0};
        r->look_err = err ? *err : (struct err){0};
        r->results++;
}

static void on_event(void *arg, struct vm *vm, enum vm_event event, int index, const char *words)
{
        struct rig *r = arg;
        r->events[event]++;
        r->index[event] = index;
        (void)g_strlcpy(r->words, words, sizeof(r->words));
}

static void on_death(void *arg, struct vm *vm, const struct err *why)
{
        ((struct rig *)arg)->deaths++;
}

#define WAIT_FOR(condition)                                                                                  \
        for (gint64 end = g_get_monotonic_time() + (gint64)LONG_MS * 4000;                                   \
             !(condition) && g_get_monotonic_time() < end;)                                                  \
                if (!g_main_context_iteration(NULL, FALSE))                                                  \
                        g_usleep(100);

static void wait_one(struct rig *r)
{
        WAIT_FOR(r->results > 0);
        g_assert_cmpint(r->results, ==, 1);
        r->results = 0;
}

static void expect(struct rig *r, enum reason reason)
{
        wait_one(r);
        if (r->result.err.reason != reason)
                g_error("\"%s\" instead of %s", r->result.err.sentence, reason_name(reason));
}

static void expect_heard(const char *text)
{
        g_assert_cmpstr(vmm.heard->str, ==, text);
        g_string_truncate(vmm.heard, 0);
}

static void opened_with(struct rig *r, enum copy_side side, int major)
{
        struct err err = {0};
        *r = (struct rig){.d = sample_definition()};
        memset(&vmm, 0, sizeof(vmm));
        vmm.run = "running";
        vmm.heard = g_string_new(NULL);
        vmm.parameters = json_object();
        played_open(dir, major, vmm_serve);
        const struct vm_options o = {.definition = &r->d,
                                     .qmp_path = played.path[0],
                                     .oob_path = played.path[1],
                                     .ram_dir = "/ram",
                                     .on_event = on_event,
                                     .on_death = on_death};
        r->vm = vm_attach(&o, LONG_MS, on_result, r, &err);
        if (!r->vm)
                g_error("%s", err.sentence);
        r->copy = copy_new(&(struct copy_options){.vm = r->vm, .side = side, .dir = dir});
        expect(r, 0);
}

static void opened(struct rig *r, enum copy_side side)
{
        opened_with(r, side, 7);
}

static void closed(struct rig *r)
{
        g_autofree char *key = path_of(COPY_KEY_DIR);
        copy_free(r->copy);
        vm_free(r->vm);
        played_close();
        g_assert_false(g_file_test(key, G_FILE_TEST_EXISTS));
        g_string_free(vmm.heard, TRUE);
        json_decref(vmm.capabilities);
        json_decref(vmm.parameters);
        json_decref(vmm.creds);
        json_decref(vmm.migration);
}

static const struct copy_key key = {"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"};

static void prepare(struct rig *r, enum reason reason)
{
        copy_prepare(r->copy, &key, LONG_MS, on_result, r);
        expect(r, reason);
}

/* Our end of the stream's other side. */
static int begin(struct rig *r, enum reason reason)
{
        int pair[2];
        g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), ==, 0);
        copy_begin(r->copy, pair[0], LONG_MS, on_result, r);
        expect(r, reason);
        return pair[1];
}

static int64_t parameter(const char *name)
{
        int64_t v = -1;
        pick_integer(vmm.parameters, name, 0, INT64_MAX, &v);
        return v;
}

static bool is_closed(int fd)
{
        char byte;
        return recv(fd, &byte, 1, MSG_DONTWAIT) == 0;
}

static void test_source(void)
{
        struct rig r;
        opened(&r, COPY_SOURCE);
        g_autofree char *file = path_of(COPY_KEY_FILE);
        prepare(&r, 0);
        expect_heard("object-del add-fd object-add remove-fd migrate-set-capabilities "
                     "query-migrate-capabilities migrate-set-parameters");
        g_assert_cmpstr(vmm.key, ==,
                        "qemu:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n");
        g_assert_cmpstr(pick_text(vmm.creds, "endpoint"), ==, "client");
        g_assert_false(g_file_test(file, G_FILE_TEST_EXISTS));
        g_assert_cmpstr(pick_text(vmm.parameters, "tls-creds"), ==, pick_text(vmm.creds, "id"));
        g_assert_cmpint(parameter("max-bandwidth"), ==, 0);
        g_assert_cmpint(parameter("downtime-limit"), ==, 1);
        int other = begin(&r, 0);
        expect_heard("getfd migrate");
        copy_limit(r.copy, 80, LONG_MS, on_result, &r);
        expect(&r, 0);
        copy_bandwidth(r.copy, 50000000, LONG_MS, on_result, &r);
        expect(&r, 0);
        g_assert_cmpint(parameter("downtime-limit"), ==, 80);
        g_assert_cmpint(parameter("max-bandwidth"), ==, 50000000);
        g_assert_false(is_closed(other));
        close(other);
        closed(&r);
}

static void test_destination(void)
{
        struct rig r;
        opened(&r, COPY_DESTINATION);
        g_autofree char *file = path_of(COPY_KEY_FILE);
        struct stat st;
        prepare(&r, 0);
        expect_heard("object-del add-fd object-add migrate-set-capabilities query-migrate-capabilities "
                     "migrate-set-parameters");
        g_assert_cmpstr(pick_text(vmm.creds, "endpoint"), ==, "server");
        g_assert_cmpint(parameter("downtime-limit"), ==, -1);
        g_assert_cmpint(stat(file, &st), ==, 0);
        g_assert_cmpint(st.st_mode & 0777, ==, 0444);
        int other = begin(&r, 0);
        expect_heard("getfd migrate-incoming");
        /* The VMM's end is the only one: what it is, is seen at the other side. */
        close(played.passed_fd);
        played.passed_fd = -1;
        g_assert_true(is_closed(other));
        close(other);
        /* The key is read at the handshake. */
        static const char *const states[] = {"setup", "active"};
        for (size_t i = 0; i < ARRAY_N(states); i++) {
                vmm.status = states[i];
                copy_look(r.copy, LONG_MS, on_seen, &r);
                wait_one(&r);
                g_assert_cmpstr(copy_status_name(r.seen.status), ==, states[i]);
                g_assert_true(g_file_test(file, G_FILE_TEST_EXISTS) == (i == 0));
        }
        prepare(&r, 0); /* what was there is replaced */
        copy_announce(r.copy, LONG_MS, on_result, &r);
        expect(&r, 0);
        g_assert_true(g_str_has_suffix(vmm.heard->str, " announce-self"));
        closed(&r);
}

static void test_refused(void)
{
        static const struct {
                const char *fails, *broken, *deaf_to;
                enum reason reason;
        } rows[] = {
                {"object-add",                 NULL,                         NULL,                  REASON_INTERNAL    },
                {"add-fd",                     NULL,                         NULL,                  REASON_INTERNAL    },
                {"migrate-set-capabilities",   NULL,                         NULL,                  REASON_INTERNAL    },
                {"query-migrate-capabilities", NULL,                         NULL,                  REASON_INTERNAL    },
                {"migrate-set-parameters",     NULL,                         NULL,                  REASON_INTERNAL    },
                {NULL,                         "add-fd",                     NULL,                  REASON_INTERNAL    },
                {NULL,                         "query-migrate-capabilities", NULL,                  REASON_INCOMPATIBLE},
                {NULL,                         NULL,                         "return-path",         REASON_INCOMPATIBLE},
                {NULL,                         NULL,                         "events",              REASON_INCOMPATIBLE},
                {NULL,                         NULL,                         "late-block-activate", REASON_INCOMPATIBLE},
                {NULL,                         NULL,                         "x-ignore-shared",     REASON_INCOMPATIBLE},
        };
        for (size_t i = 0; i < ARRAY_N(rows); i++) {
                struct rig r;
                opened(&r, COPY_SOURCE);
                vmm.fails = rows[i].fails;
                vmm.broken = rows[i].broken;
                vmm.deaf_to = rows[i].deaf_to;
                prepare(&r, rows[i].reason);
                closed(&r);
        }
        struct rig r;
        opened(&r, COPY_SOURCE);
        g_assert_cmpint(g_chmod(dir, 0711), ==, 0); /* the key would be anybody's */
        prepare(&r, REASON_POLICY);
        g_assert_cmpint(g_chmod(dir, 0700), ==, 0);
        expect_heard("object-del");
        vmm.fails = "migrate";
        int other = begin(&r, REASON_INTERNAL);
        vmm.fails = NULL;
        copy_look(r.copy, LONG_MS, on_seen, &r); /* by then it has heard all */
        wait_one(&r);
        expect_heard("getfd migrate closefd query-migrate");
        g_assert_true(is_closed(other)); /* whoever was at the other end knows, whatever the VMM does */
        close(other);
        closed(&r);
}

static void test_look(void)
{
        struct rig r;
        opened(&r, COPY_SOURCE);
        copy_look(r.copy, LONG_MS, on_seen, &r);
        wait_one(&r);
        g_assert_cmpint(r.seen.status, ==, COPY_IDLE);
        vmm.status = "active";
        copy_look(r.copy, LONG_MS, on_seen, &r);
        wait_one(&r);
        g_assert_cmpint(r.seen.status, ==, COPY_ACTIVE);
        g_assert_cmpint(r.seen.sample.remaining_bytes, ==, 4096);
        g_assert_cmpint(r.seen.sample.transferred_bytes, ==, 8192);
        g_assert_cmpint(r.seen.sample.normal_pages, ==, 7);
        g_assert_cmpint(r.seen.sample.zero_pages, ==, 9);
        g_assert_cmpint(r.seen.sample.syncs, ==, 3);
        /* Which thread sends: not yet, nonsense, and from then on. */
        for (size_t i = 0; i < 4; i++) {
                static const int64_t says[] = {0, -4711, 4711, 4712}, is[] = {0, 0, 4711, 4711};
                vmm.thread = says[i];
                copy_look(r.copy, LONG_MS, on_seen, &r);
                wait_one(&r);
                g_assert_cmpint(r.seen.thread, ==, is[i]);
        }
        /* It has completed, and has no sums yet. */
        vmm.status = "completed";
        vmm.total_after = 3;
        g_string_truncate(vmm.heard, 0);
        copy_look(r.copy, LONG_MS, on_seen, &r);
        wait_one(&r);
        g_assert_cmpint(r.seen.status, ==, COPY_COMPLETED);
        g_assert_cmpint(r.seen.total_ms, ==, 1234);
        g_assert_cmpint(r.seen.device_bytes, ==, 192);
        g_assert_cmpint(r.seen.downtime_ms, ==, 21);
        expect_heard("query-migrate query-migrate query-migrate query-migrate");
        vmm.total_after = 1000; /* and never will */
        copy_look(r.copy, LONG_MS, on_seen, &r);
        wait_one(&r);
        g_assert_cmpint(r.seen.status, ==, COPY_COMPLETED);
        vmm.total_after = 0;
        vmm.run = "finish-migrate"; /* it could not be told to run again */
        g_string_truncate(vmm.heard, 0);
        copy_look(r.copy, LONG_MS, on_seen, &r);
        WAIT_FOR(vmm.heard->len > 100);
        g_assert_cmpint(r.results, ==, 0);
        vmm.run = "postmigrate";
        wait_one(&r);
        g_assert_cmpint(r.seen.status, ==, COPY_COMPLETED);
        /* Lies. */
        vmm.migration = json_pack("{s:s, s:i, s:s, s:{s:i, s:s}}", "status", "failed", "total-time", -5,
                                  "error-desc", "no\nmore", "ram", "remaining", -1, "transferred", "x");
        copy_look(r.copy, LONG_MS, on_seen, &r);
        wait_one(&r);
        g_assert_cmpint(r.seen.status, ==, COPY_FAILED);
        g_assert_cmpstr(r.seen.why, ==, "no?more");
        g_assert_cmpint(r.seen.total_ms + r.seen.sample.remaining_bytes, ==, 0);
        json_object_set_new(vmm.migration, "status", json_string("cheese"));
        copy_look(r.copy, LONG_MS, on_seen, &r);
        wait_one(&r);
        g_assert_cmpint(r.look_err.reason, ==, REASON_INTERNAL);
        vmm.broken = "query-migrate";
        copy_look(r.copy, LONG_MS, on_seen, &r);
        wait_one(&r);
        g_assert_cmpint(r.look_err.reason, ==, REASON_INTERNAL);
        closed(&r);
}

static void test_cancel(void)
{
        static const struct {
                const char *status, *later, *fails, *mute;
                enum reason reason;
        } rows[] = {
                {"cancelling", "cancelled", NULL,             NULL,            0             },
                {"cancelling", "failed",    NULL,             NULL,            0             },
                {"cancelling", "completed", NULL,             NULL,            REASON_STALE  },
                {NULL,         NULL,        NULL,             NULL,            0             },
                {"cancelled",  NULL,        "migrate_cancel", NULL,            0             },
                {"active",     NULL,        NULL,             NULL,            REASON_TIMEOUT},
                {"active",     NULL,        NULL,             "query-migrate", REASON_TIMEOUT},
        };
        for (size_t i = 0; i < ARRAY_N(rows); i++) {
                struct rig r;
                opened(&r, COPY_SOURCE);
                int other = begin(&r, 0);
                vmm.status = rows[i].status;
                vmm.later = rows[i].later;
                vmm.fails = rows[i].fails;
                vmm.mute = rows[i].mute;
                copy_cancel(r.copy, rows[i].reason == REASON_TIMEOUT ? SHORT_MS : LONG_MS, on_result, &r);
                expect(&r, rows[i].reason);
                g_assert_true(is_closed(other)); /* one that hangs comes out by it */
                close(other);
                closed(&r);
        }
}

/* One after another, each with its own deadline. */
static void test_order(void)
{
        struct rig r;
        opened(&r, COPY_SOURCE);
        vmm.mute = "migrate-set-parameters";
        copy_limit(r.copy, 1, LONG_MS, on_result, &r);
        copy_bandwidth(r.copy, 1, SHORT_MS, on_result, &r);
        expect(&r, REASON_TIMEOUT);
        g_assert_nonnull(strstr(r.result.err.sentence, "before"));
        expect_heard("migrate-set-parameters");
        copy_free(r.copy);
        r.copy = NULL;
        expect(&r, REASON_CANCELLED);
        closed(&r);
}

static void test_death(void)
{
        /* At each command of a preparation, a beginning and a look: each is answered once. */
        for (int at = 1; at <= 10; at++) {
                struct rig r;
                int pair[2];
                opened(&r, COPY_SOURCE);
                vmm.dies_at = at;
                g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), ==, 0);
                copy_prepare(r.copy, &key, LONG_MS, on_result, &r);
                copy_begin(r.copy, pair[0], LONG_MS, on_result, &r);
                copy_look(r.copy, LONG_MS, on_seen, &r);
                WAIT_FOR(r.results == 3 && r.deaths == 1);
                g_assert_cmpint(r.results, ==, 3);
                g_assert_cmpint(r.deaths, ==, 1);
                g_assert_cmpint(r.look_err.reason, ==, REASON_PEER_LOST);
                copy_free(r.copy);
                r.copy = NULL;
                if (played.passed_fd >= 0)
                        close(played.passed_fd);
                played.passed_fd = -1;
                g_assert_true(is_closed(pair[1]));
                close(pair[1]);
                closed(&r);
        }
}

static void test_free_within(void)
{
        struct rig r;
        opened(&r, COPY_SOURCE);
        r.frees = true;
        copy_prepare(r.copy, &key, LONG_MS, on_result, &r);
        copy_limit(r.copy, 5, LONG_MS, on_result, &r);
        WAIT_FOR(r.results == 2);
        g_assert_cmpint(r.results, ==, 2);
        closed(&r);
        /* While a command is under way, whose answer comes to nobody. */
        opened(&r, COPY_SOURCE);
        vmm.mute = "migrate-set-parameters";
        copy_limit(r.copy, 5, LONG_MS, on_result, &r);
        WAIT_FOR(vmm.heard->len > 0);
        copy_free(r.copy);
        r.copy = NULL;
        expect(&r, REASON_CANCELLED);
        closed(&r);
}

static void tell(const char *name, json_t *data)
{
        played_say(0, json_pack("{s:s, s:{s:i, s:i}, s:o}", "event", name, "timestamp", "seconds", 1,
                                "microseconds", 2, "data", data));
}

static void test_events(void)
{
        struct rig r;
        opened(&r, COPY_DESTINATION);
        tell("MIGRATION_PASS", json_pack("{s:i}", "pass", 4));
        tell("MIGRATION_PASS", json_pack("{s:s}", "pass", "x"));
        tell("MIGRATION", json_pack("{s:s}", "status", "completed"));
        WAIT_FOR(r.events[VM_EVENT_MIGRATION] == 1);
        g_assert_cmpuint(r.events[VM_EVENT_PASS], ==, 2);
        g_assert_cmpint(r.index[VM_EVENT_PASS], ==, 0);
        g_assert_cmpstr(r.words, ==, "completed");
        /* It would run by itself as soon as all is there. */
        vmm.run = "inmigrate";
        vm_cont(r.vm, LONG_MS, on_result, &r);
        expect(&r, REASON_STALE);
        g_assert_null(strstr(vmm.heard->str, "cont"));
        g_assert_cmpint(vm_run(r.vm), ==, VM_RUN_INCOMING);
        closed(&r);
}

static void test_check(void)
{
        static const struct {
                int major;
                enum api_accelerator accelerator;
                enum reason reason;
        } rows[] = {
                {7,  API_ACCELERATOR_TCG, REASON_INCOMPATIBLE},
                {9,  API_ACCELERATOR_TCG, REASON_INCOMPATIBLE},
                {10, API_ACCELERATOR_TCG, 0                  },
                {11, API_ACCELERATOR_TCG, 0                  },
                {7,  API_ACCELERATOR_KVM, 0                  },
        };
        for (size_t i = 0; i < ARRAY_N(rows); i++) {
                struct rig r;
                struct err err = {0};
                opened_with(&r, COPY_SOURCE, rows[i].major);
                r.d.accelerator = rows[i].accelerator;
                g_assert_true((copy_check(r.vm, &r.d, &err) == 0) == (rows[i].reason == 0));
                g_assert_cmpint(err.reason, ==, rows[i].reason);
                closed(&r);
        }
}

static void test_key_and_socket(void)
{
        struct copy_key a, b;
        struct err err = {0};
        int pair[2];
        int64_t bytes = 0;
        g_assert_cmpint(copy_key_make(&a, &err), ==, 0);
        g_assert_cmpint(copy_key_make(&b, &err), ==, 0);
        g_assert_cmpuint(strspn(a.hex, "0123456789abcdef"), ==, 2 * COPY_KEY_BYTES);
        g_assert_cmpstr(a.hex, !=, b.hex);
        g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), ==, 0);
        g_assert_cmpint(copy_socket_bound(pair[0], &bytes, &err), ==, 0);
        g_assert_cmpint(bytes, ==, 2 * COPY_SOCKET_BYTES);
        close(pair[0]);
        close(pair[1]);
        g_assert_cmpint(copy_socket_bound(-1, &bytes, &err), ==, -EBADF);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        dir = g_dir_make_tmp("mete-copy-XXXXXX", NULL);
        g_test_add_func("/copy/source", test_source);
        g_test_add_func("/copy/destination", test_destination);
        g_test_add_func("/copy/refused", test_refused);
        g_test_add_func("/copy/look", test_look);
        g_test_add_func("/copy/cancel", test_cancel);
        g_test_add_func("/copy/order", test_order);
        g_test_add_func("/copy/death", test_death);
        g_test_add_func("/copy/free-within", test_free_within);
        g_test_add_func("/copy/events", test_events);
        g_test_add_func("/copy/check", test_check);
        g_test_add_func("/copy/key-and-socket", test_key_and_socket);
        int r = g_test_run();
        g_rmdir(dir);
        g_free(dir);
        return r;
}
