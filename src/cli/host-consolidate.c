/* SPDX-License-Identifier: Apache-2.0 */
/* host consolidate: VMs whose memory lies on several nodes are brought together. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "base/str.h"
#include "base/units.h"
#include "cli/exit.h"
#include "cli/host.h"
#include "cli/table.h"

enum { CALL_MS = 30000 };

static void print_plan(const json_t *said)
{
        struct table *t = table_new((const char *const[]){"VM", "FROM", "TO", ">BYTES", NULL});
        size_t i;
        json_t *step;
        json_array_foreach(json_object_get(said, "steps"), i, step)
        {
                table_text(t, host_text(step, "vm"));
                table_text(t, host_text(step, "from"));
                table_text(t, host_text(step, "to"));
                table_bytes(t, host_number(step, "bytes"));
        }
        table_print(t, stdout, "no VM can be brought together");
        table_free(t);
        if (host_number(said, "scattered") > 0)
                (void)printf("%" PRId64
                             " of the VMs that run stay on several nodes: there is no node with room "
                             "for what would have to be moved\n",
                             host_number(said, "scattered"));
        if (host_number(said, "passed_over") > 0)
                (void)printf("%" PRId64
                             " of the VMs that run were passed over, as something else is under way with "
                             "them: ask again in a while\n",
                             host_number(said, "passed_over"));
        if (i > 0 && !json_is_true(json_object_get(said, "dry_run")))
                (void)printf("one after another; 'mete host consolidate --show' says how it stands\n");
}

static void print_state(const json_t *said)
{
        struct table *t = table_new((const char *const[]){"VM", "TO", "STATE", ">MOVED", "SENTENCE", NULL});
        size_t i;
        json_t *vm;
        json_array_foreach(json_object_get(said, "vms"), i, vm)
        {
                table_text(t, host_text(vm, "vm"));
                table_text(t, host_text(vm, "to"));
                table_text(t, host_text(vm, "state"));
                if (json_object_get(vm, "moved_bytes"))
                        table_bytes(t, host_number(vm, "moved_bytes"));
                else
                        table_text(t, "");
                table_text(t, host_text(vm, "sentence"));
        }
        table_print(t, stdout, "no VMs");
        table_free(t);
        (void)printf("%s%s\n", host_text(said, "state"),
                     json_object_get(said, "ended_ms") || strcmp(host_text(said, "state"), "under-way") == 0
                             ? ""
                             : ", and what was half way goes back");
}

static int body_of(const struct arguments *a, json_t *body, struct err *err)
{
        const char *limit = arguments_option(a, "--limit"), *within = arguments_option(a, "--within");
        int64_t bytes = 0, ms = 0;
        int bad = 0;
        if (a->n_operands == 1 && !str_is_name(a->operands[0]))
                return err_set(err, REASON_INVALID, EINVAL, "'%s' is no name of a VM", a->operands[0]);
        if (limit)
                bad = units_parse_bytes(limit, &bytes, err);
        if (!bad && limit && bytes < 1)
                bad = err_set(err, REASON_INVALID, EINVAL, "--limit %s: at least a byte", limit);
        if (!bad && within && units_parse_ms(within, &ms, err))
                bad = err_note(err, "--within %s", within);
        if (bad)
                return bad;
        if (a->n_operands == 1)
                (void)json_object_set_new(body, "vm", json_string(a->operands[0]));
        if (limit)
                (void)json_object_set_new(body, "limit_bytes", json_integer(bytes));
        if (within)
                (void)json_object_set_new(body, "within_ms", json_integer(ms));
        if (arguments_option(a, "--dry-run"))
                (void)json_object_set_new(body, "dry_run", json_true());
        return 0;
}

/* Of the one that is there. */
static int about(const struct arguments *a, bool is_cancel)
{
        json_t *said = NULL;
        struct err err = {0};
        int bad = 0;
        if (a->n_operands > 0 || arguments_option(a, "--limit") || arguments_option(a, "--within") ||
            arguments_option(a, "--dry-run") || (is_cancel && arguments_option(a, "--show")))
                bad = err_set(&err, REASON_INVALID, EINVAL, "%s goes with nothing else",
                              is_cancel ? "--cancel" : "--show");
        if (!bad)
                bad = host_call(a, is_cancel ? "DELETE" : "GET", "/v1/consolidate", NULL, CALL_MS, &said,
                                &err);
        if (bad)
                return verb_fail(a, &err);
        if (!host_json(a, said))
                print_state(said);
        json_decref(said);
        return EXIT_OK;
}

static int run_consolidate(const struct arguments *a)
{
        json_t *said = NULL;
        struct err err = {0};
        bool is_cancel = arguments_option(a, "--cancel") != NULL;
        if (is_cancel || arguments_option(a, "--show"))
                return about(a, is_cancel);
        json_t *body = json_object();
        int bad = body_of(a, body, &err);
        if (bad)
                json_decref(body);
        else
                bad = host_call(a, "POST", "/v1/consolidate", body, CALL_MS, &said, &err);
        if (bad)
                return verb_fail(a, &err);
        if (!host_json(a, said))
                print_plan(said);
        json_decref(said);
        return EXIT_OK;
}

/* clang-format off */
static const struct option_row consolidate_options[] = {
        {"--dry-run", NULL, "only say what would be moved", false},
        {"--limit", "SIZE", "move no more than this in all, such as 8G", false},
        {"--within", "TIME", "it is to be done within so long, such as 10m; then what is half way goes back", false},
        {"--show", NULL, "how the last one stands, or ended", false},
        {"--cancel", NULL, "break it off: no other VM is begun, and what is half way goes back", false},
        {NULL},
};

const struct verb consolidate_verbs[] = {
        {.words = "host consolidate", .operands = "[VM]", .operands_min = 0, .operands_max = 1, .options = consolidate_options,
         .summary = "Bring VMs together whose memory lies on several nodes",
         .text = "While they run: all of them, or one. Each as a whole or not at all, to the node where that moves least, those first "
                 "that take least, within what is free; slowly, so that guests hardly notice. Prints what is moved, and returns at once; it "
                 "goes on over restarts of meted. VMs that are together by then stay so, whatever becomes of the rest. "
                 "Memory on huge pages stays where it is.",
         .run = run_consolidate},
};
const size_t consolidate_verbs_n = ARRAY_N(consolidate_verbs);
/* clang-format on */
