/* SPDX-License-Identifier: Apache-2.0 */
/* host consolidate: VMs whose memory lies on several nodes are brought together. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include "base/str.h"
#include "base/units.h"
#include "cli/exit.h"
#include "cli/host.h"
#include "cli/table.h"

enum { CALL_MS = 30000 };

static void print(const json_t *said)
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
        if (i > 0 && !json_is_true(json_object_get(said, "dry_run")))
                (void)printf("one after another; 'mete events' says how each ended (consolidated, "
                             "not-consolidated)\n");
}

static int run_consolidate(const struct arguments *a)
{
        const char *limit = arguments_option(a, "--limit");
        json_t *body = json_object(), *said = NULL;
        struct err err = {0};
        int64_t bytes = 0;
        int bad = 0;
        if (a->n_operands == 1 && !str_is_name(a->operands[0]))
                bad = err_set(&err, REASON_INVALID, EINVAL, "'%s' is no name of a VM", a->operands[0]);
        if (!bad && limit)
                bad = units_parse_bytes(limit, &bytes, &err);
        if (!bad && limit && bytes < 1)
                bad = err_set(&err, REASON_INVALID, EINVAL, "--limit %s: at least a byte", limit);
        if (a->n_operands == 1)
                (void)json_object_set_new(body, "vm", json_string(a->operands[0]));
        if (limit)
                (void)json_object_set_new(body, "limit_bytes", json_integer(bytes));
        if (arguments_option(a, "--dry-run"))
                (void)json_object_set_new(body, "dry_run", json_true());
        if (bad)
                json_decref(body);
        else
                bad = host_call(a, "POST", "/v1/consolidate", body, CALL_MS, &said, &err);
        if (bad)
                return verb_fail(a, &err);
        if (!host_json(a, said))
                print(said);
        json_decref(said);
        return EXIT_OK;
}

/* clang-format off */
static const struct option_row consolidate_options[] = {
        {"--dry-run", NULL, "only say what would be moved", false},
        {"--limit", "SIZE", "move no more than this in all, such as 8G", false},
        {NULL},
};

const struct verb consolidate_verbs[] = {
        {.words = "host consolidate", .operands = "[VM]", .operands_min = 0, .operands_max = 1, .options = consolidate_options,
         .summary = "Bring VMs together whose memory lies on several nodes",
         .text = "While they run: all of them, or one. Each as a whole or not at all, to the node where that moves least, those first "
                 "that take least, within what is free; slowly, so that guests hardly notice. Prints what is moved, and returns at once. "
                 "Memory on huge pages stays where it is.",
         .run = run_consolidate},
};
const size_t consolidate_verbs_n = ARRAY_N(consolidate_verbs);
/* clang-format on */
