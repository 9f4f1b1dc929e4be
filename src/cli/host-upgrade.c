/* SPDX-License-Identifier: Apache-2.0 */
/* server upgrade: a hypervisor is replaced by one with a newer VMM, and how that stands. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "base/str.h"
#include "base/units.h"
#include "cli/exit.h"
#include "cli/host.h"

enum { CALL_MS = 30000, POLL_MS = 200, AWAY_MAX_MS = 120000, VMS_MAX = 256 };

static const char path[] = "/v1/server/upgrade";

/* ---- what is shown ---- */

static bool is_over(const json_t *u)
{
        return json_object_get(u, "ended_ms") != NULL;
}

static const char *gap_text(const json_t *vm, char ret[32])
{
        ret[0] = '\0';
        if (json_object_get(vm, "gap_us"))
                (void)snprintf(ret, 32, "%.1fms", (double)host_number(vm, "gap_us") / 1000.0);
        return ret;
}

static void print_vms(const json_t *u)
{
        struct table *t = table_new(
                (const char *const[]){"VM", "STATE", ">GAP", ">TRIES", "HANDOVER", "SENTENCE", NULL});
        size_t i;
        json_t *vm;
        char gap[32];
        json_array_foreach(json_object_get(u, "vms"), i, vm)
        {
                table_text(t, host_text(vm, "name"));
                table_text(t, host_text(vm, "state"));
                table_text(t, gap_text(vm, gap));
                table_number(t, host_number(vm, "tries"));
                table_text(t, host_text(vm, "handover"));
                table_text(t, host_text(vm, "sentence"));
        }
        table_print(t, stdout, "no VM");
        table_free(t);
}

static void print_sum(const json_t *u)
{
        size_t n = json_array_size(json_object_get(u, "vms"));
        (void)printf("%" PRId64 " of %zu VM%s went from %s to %s", host_number(u, "went"), n,
                     n == 1 ? "" : "s", host_text(u, "from"), host_text(u, "to"));
        if (is_over(u))
                (void)printf(" in %.1f s",
                             (double)(host_number(u, "ended_ms") - host_number(u, "asked_ms")) / 1000.0);
        if (json_object_get(u, "gap_max_us"))
                (void)printf("; the longest that a guest stood: %.1f ms, all together: %.1f ms",
                             (double)host_number(u, "gap_max_us") / 1000.0,
                             (double)host_number(u, "gap_sum_us") / 1000.0);
        (void)printf("\n");
}

static void print(const json_t *u)
{
        bool would = json_is_true(json_object_get(u, "would"));
        (void)printf("%s: %s %s %s on %s: %s%s%s\n", host_text(u, "id"), host_text(u, "from"),
                     is_over(u) && would                          ? "could be replaced by"
                     : strcmp(host_text(u, "state"), "done") == 0 ? "was replaced by"
                                                                  : "to be replaced by",
                     host_text(u, "to"), host_text(u, "vmm"), host_text(u, "state"),
                     *host_text(u, "sentence") ? ": " : "", host_text(u, "sentence"));
        if (*host_text(u, "problem"))
                (void)printf("  waits: %s\n", host_text(u, "problem"));
        print_vms(u);
        print_sum(u);
}

/* One died in its handover, or is not where it was any more: whoever asked expected it to run. */
static bool has_lost(const json_t *u)
{
        size_t i;
        json_t *vm;
        json_array_foreach(json_object_get(u, "vms"), i, vm)
        {
                if (strcmp(host_text(vm, "state"), "left") == 0)
                        return true;
        }
        return false;
}

int host_upgrade_status(const json_t *u, bool is_cancel)
{
        enum reason r = reason_from_name(host_text(u, "reason"));
        const char *state = host_text(u, "state");
        if (!is_over(u))
                return EXIT_OK; /* --detach */
        if (is_cancel)
                return strcmp(state, "undone") == 0 ? EXIT_OK : (int)exit_from_reason(REASON_STALE);
        if (strcmp(state, "done") == 0 || json_is_true(json_object_get(u, "would")))
                return has_lost(u) ? EXIT_FAILED : EXIT_OK;
        return r ? (int)exit_from_reason(r) : EXIT_FAILED;
}

/* ---- until it is over ---- */

struct progress {
        bool is_silent;
        char state[32], problem[256];
        char vms[VMS_MAX][16]; /* what each was at when it was said last */
};

/* A line for each thing that is new. */
static void say_progress(struct progress *p, const json_t *u)
{
        size_t i;
        json_t *vm;
        char gap[32];
        if (p->is_silent)
                return;
        if (strcmp(p->state, host_text(u, "state")) != 0)
                (void)printf("%s: %s\n", host_text(u, "from"), host_text(u, "state"));
        json_array_foreach(json_object_get(u, "vms"), i, vm)
        {
                const char *state = host_text(vm, "state");
                bool is_end = strcmp(state, "went") == 0 || strcmp(state, "unfit") == 0 ||
                              strcmp(state, "left") == 0;
                if (i >= VMS_MAX || strcmp(p->vms[i], state) == 0)
                        continue;
                (void)STR_COPY(p->vms[i], state);
                if (is_end)
                        (void)printf("  %s: %s%s%s%s%s\n", host_text(vm, "name"), state,
                                     json_object_get(vm, "gap_us") ? ", its guest stood for " : "",
                                     gap_text(vm, gap), *host_text(vm, "sentence") ? ": " : "",
                                     host_text(vm, "sentence"));
        }
        if (*host_text(u, "problem") && strcmp(p->problem, host_text(u, "problem")) != 0)
                (void)printf("  waits: %s\n", host_text(u, "problem"));
        (void)STR_COPY(p->state, host_text(u, "state"));
        (void)STR_COPY(p->problem, host_text(u, "problem"));
        (void)fflush(stdout);
}

/* It goes on where mete-sp is started again, and so do we. */
static int wait_for_end(const struct arguments *a, json_t **u, struct err *err)
{
        const struct timespec pause = {.tv_nsec = POLL_MS * 1000000L};
        struct progress p = {.is_silent = arguments_option(a, "--json") != NULL};
        int64_t away_ms = 0;
        say_progress(&p, *u);
        while (!is_over(*u)) {
                json_t *now = NULL;
                (void)nanosleep(&pause, NULL);
                int bad = host_call(a, "GET", path, NULL, CALL_MS, &now, err);
                if (bad && (err->reason != REASON_PEER_LOST || (away_ms += POLL_MS) > AWAY_MAX_MS))
                        return bad;
                if (bad)
                        continue;
                away_ms = 0;
                if (strcmp(host_text(now, "id"), host_text(*u, "id")) != 0) {
                        json_decref(now);
                        return err_set(err, REASON_STALE, ESTALE,
                                       "another upgrade has begun since: %s is over", host_text(*u, "id"));
                }
                json_decref(*u);
                *u = now;
                say_progress(&p, *u);
        }
        return 0;
}

/* ---- asked for ---- */

static int take_amounts(const struct arguments *a, json_t *body, struct err *err)
{
        const char *memory = arguments_option(a, "--memory"), *gap = arguments_option(a, "--max-gap");
        int64_t n = 0;
        if (memory && units_parse_bytes(memory, &n, err))
                return err_note(err, "--memory %s", memory);
        if (memory)
                (void)json_object_set_new(body, "memory_bytes", json_integer(n));
        if (gap && units_parse_ms(gap, &n, err))
                return err_note(err, "--max-gap %s", gap);
        if (gap)
                (void)json_object_set_new(body, "max_gap_ms", json_integer(n));
        return 0;
}

static int body_of(const struct arguments *a, json_t **ret, struct err *err)
{
        static const char *const texts[][2] = {
                {"--vmm",  "vmm" },
                {"--as",   "as"  },
                {"--user", "user"},
                {"--cpus", "cpus"},
                {"--id",   "id"  }
        };
        json_t *body = json_pack("{s:s}", "from", a->operands[0]);
        for (size_t i = 0; i < ARRAY_N(texts); i++)
                if (arguments_option(a, texts[i][0]))
                        (void)json_object_set_new(body, texts[i][1],
                                                  json_string(arguments_option(a, texts[i][0])));
        if (arguments_option(a, "--dry-run"))
                (void)json_object_set_new(body, "dry_run", json_true());
        int bad = take_amounts(a, body, err);
        if (bad)
                json_decref(body);
        else
                *ret = body;
        return bad;
}

/* What makes no sense together: it would be taken for something else than was meant. NULL: it does. */
static const char *misused(const struct arguments *a)
{
        static const char *const of_start[] = {"--as",      "--user",    "--cpus",   "--memory",
                                               "--max-gap", "--dry-run", "--detach", "--id"};
        bool is_cancel = arguments_option(a, "--cancel");
        if (arguments_option(a, "--vmm")) {
                if (is_cancel)
                        return "--cancel is without --vmm";
                if (arguments_option(a, "--memory") && !arguments_option(a, "--cpus"))
                        return "--memory needs --cpus: it is of the nodes of those CPUs";
                return a->n_operands == 1 ? NULL : "a hypervisor is wanted: which is to be replaced?";
        }
        for (size_t i = 0; i < ARRAY_N(of_start); i++) {
                bool is_of_both = strcmp(of_start[i], "--detach") == 0 || strcmp(of_start[i], "--id") == 0;
                if (arguments_option(a, of_start[i]) && !(is_cancel && is_of_both))
                        return is_cancel ? "--cancel has no option but --id and --detach"
                                         : "--vmm is wanted: which QEMU is its successor to have?";
        }
        if (a->n_operands > 0 && !is_cancel)
                return "--vmm is wanted: which QEMU is its successor to have?";
        return NULL;
}

/* Whoever says which one is meant does not break off another. */
static int check_meant(const struct arguments *a, struct err *err)
{
        const char *id = arguments_option(a, "--id");
        json_t *u = NULL;
        if (a->n_operands == 0 && !id)
                return 0;
        int bad = host_call(a, "GET", path, NULL, CALL_MS, &u, err);
        if (!bad && a->n_operands > 0 && strcmp(a->operands[0], host_text(u, "from")) != 0)
                bad = err_set(err, REASON_INVALID, EINVAL, "it is not %s that is replaced, but %s",
                              a->operands[0], host_text(u, "from"));
        if (!bad && id && strcmp(id, host_text(u, "id")) != 0)
                bad = err_set(err, REASON_INVALID, EINVAL, "the upgrade is not %s, but %s", id,
                              host_text(u, "id"));
        json_decref(u);
        return bad;
}

int host_server_upgrade(const struct arguments *a)
{
        bool is_cancel = arguments_option(a, "--cancel"), is_start = arguments_option(a, "--vmm");
        const char *misuse = misused(a);
        json_t *body = NULL, *u = NULL;
        struct err err = {0};
        if (misuse) {
                (void)fprintf(stderr, "mete %s: %s ('mete help %s')\n", a->verb->words, misuse,
                              a->verb->words);
                return EXIT_USAGE;
        }
        int bad = is_start ? body_of(a, &body, &err) : is_cancel ? check_meant(a, &err) : 0;
        if (!bad)
                bad = host_call(a,
                                is_start    ? "POST"
                                : is_cancel ? "DELETE"
                                            : "GET",
                                path, body, CALL_MS, &u, &err);
        if (!bad && (is_start || is_cancel) && !arguments_option(a, "--detach"))
                bad = wait_for_end(a, &u, &err);
        if (bad) {
                json_decref(u);
                return verb_fail(a, &err);
        }
        if (!host_json(a, u))
                print(u);
        int status = is_start || is_cancel ? host_upgrade_status(u, is_cancel) : EXIT_OK;
        json_decref(u);
        return status;
}
