/* SPDX-License-Identifier: Apache-2.0 */
/* move: a VM goes to another host; and how moves stand. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "base/str.h"
#include "base/units.h"
#include "cli/exit.h"
#include "cli/host.h"

enum { CALL_MS = 30000, DECIDE_MS = 180000, POLL_MS = 200, BAR = 24 };

static int id_path(const struct arguments *a, const char *verb, char *path, size_t size, struct err *err)
{
        if (!str_is_name(a->operands[0]))
                return err_set(err, REASON_INVALID, EINVAL, "'%s' is no id of a move", a->operands[0]);
        (void)snprintf(path, size, "/v1/moves/%s%s", a->operands[0], verb);
        return 0;
}

static int set_ms(json_t *to, const struct arguments *a, const char *option, const char *name,
                  struct err *err)
{
        const char *text = arguments_option(a, option);
        int64_t ms;
        if (!text)
                return 0;
        int bad = units_parse_ms(text, &ms, err);
        if (bad)
                return err_note(err, "%s %s", option, text);
        (void)json_object_set_new(to, name, json_integer(ms));
        return 0;
}

static int level_of(const struct arguments *a, json_t **ret, struct err *err)
{
        json_t *level = json_object();
        int bad = set_ms(level, a, "--max-time", "total_ms", err);
        if (!bad)
                bad = set_ms(level, a, "--max-downtime", "downtime_ms", err);
        if (bad || json_object_size(level) == 0) {
                json_decref(level);
                level = NULL;
        }
        *ret = level;
        return bad;
}

/* ---- what is shown ---- */

static bool is_over(const json_t *move)
{
        return json_object_get(move, "ended_ms") != NULL;
}

/* A manager's, which is about a move at a host. */
static bool is_order(const json_t *move)
{
        return json_object_get(move, "round") != NULL;
}

static const char *level_text(const json_t *move, char *ret, size_t size)
{
        const json_t *level = json_object_get(move, json_object_get(move, "taken") ? "taken" : "level");
        int64_t total = host_number(level, "total_ms"), downtime = host_number(level, "downtime_ms");
        size_t at = 0;
        ret[0] = '\0';
        if (total)
                at += (size_t)snprintf(ret, size, "time %" PRId64 "ms ", total);
        if (downtime)
                at += (size_t)snprintf(ret + at, size - at, "downtime %" PRId64 "ms ", downtime);
        (void)snprintf(ret + at, size - at, "%s",
                       json_is_true(json_object_get(move, "best_effort")) ? "best effort" : "");
        return ret;
}

static void print_offers(const json_t *move)
{
        size_t i;
        json_t *offer;
        json_array_foreach(json_object_get(move, "offers"), i, offer)
        {
                const json_t *level = json_object_get(offer, "level");
                (void)printf("  could be kept (%s):%s", host_text(offer, "kind"), "");
                if (json_object_get(level, "total_ms"))
                        (void)printf(" --max-time %" PRId64 "ms", host_number(level, "total_ms"));
                if (json_object_get(level, "downtime_ms"))
                        (void)printf(" --max-downtime %" PRId64 "ms", host_number(level, "downtime_ms"));
                (void)printf("%s\n", i == 0 && host_number(move, "offer_ms") > 0 ? "  (held)" : "");
        }
        if (json_object_get(move, "limit"))
                (void)printf("  there is too little of: %s\n", host_text(move, "limit"));
        if (json_object_get(move, "earliest_ms"))
                (void)printf("  could be kept as asked for: in %.1fs, as far as the ledgers know\n",
                             (double)host_number(move, "earliest_ms") / 1000);
}

/* By their sources. */
static void print_figures(const json_t *plan)
{
        static const char *const sources[] = {"measured", "sampled",    "learnt", "told",
                                              "free",     "configured", "assumed"};
        size_t i;
        json_t *figure;
        for (size_t s = 0; s < ARRAY_N(sources); s++) {
                bool is_first = true;
                json_array_foreach(json_object_get(plan, "figures"), i, figure)
                {
                        if (strcmp(host_text(figure, "source"), sources[s]) != 0)
                                continue;
                        if (is_first)
                                (void)printf("  %s:", sources[s]);
                        (void)printf(" %s=%" PRId64, host_text(figure, "figure"),
                                     host_number(figure, "value"));
                        is_first = false;
                }
                if (!is_first)
                        (void)printf("\n");
        }
}

static void print_plan(const json_t *move)
{
        const json_t *plan = json_object_get(move, "plan");
        const json_t *total = json_object_get(plan, "total_ms"),
                     *downtime = json_object_get(plan, "downtime_ms");
        char rate[UNITS_TEXT];
        if (!total || !downtime)
                return;
        (void)printf("  expected: %" PRId64 "ms, downtime %" PRId64 "ms, %" PRId64
                     " bytes, with %s of the link that are free\n",
                     host_number(total, "p50"), host_number(downtime, "p50"),
                     host_number(json_object_get(plan, "sent_bytes"), "p50"),
                     units_print_rate(host_number(plan, "expected_bps"), rate));
        int64_t bps = host_number(json_object_get(plan, "vector"), "bandwidth_bps");
        if (bps > 0)
                (void)printf("  promised: %" PRId64 "ms, downtime %" PRId64 "ms, with %s that are reserved\n",
                             host_number(total, "p90"), host_number(downtime, "p90"),
                             units_print_rate(bps, rate));
        else
                (void)printf("  promised: nothing, as nothing is reserved for a best effort\n");
        print_figures(plan);
}

/* ", 12.3s left": of the time, where an end is expected. */
static const char *left_text(const json_t *progress, char *ret, size_t size)
{
        const json_t *left = json_object_get(progress, "predicted_left_ms");
        ret[0] = '\0';
        if (left)
                (void)snprintf(ret, size, ", %.1fs left", (double)json_integer_value(left) / 1000);
        return ret;
}

static void print_how_far(const json_t *p)
{
        char sent[UNITS_TEXT], rest[UNITS_TEXT], rate[UNITS_TEXT], dirty[UNITS_TEXT], left[48];
        if (!p)
                return;
        (void)printf("  so far: round %" PRId64 ", %s sent, %s to go at %s/s, dirties %s/s%s\n",
                     host_number(p, "round"), units_print_bytes(host_number(p, "sent_bytes"), sent),
                     units_print_bytes(host_number(p, "left_bytes"), rest),
                     units_print_bytes(host_number(p, "bytes_per_s"), rate),
                     units_print_bytes(host_number(p, "dirty_bytes_per_s"), dirty),
                     left_text(p, left, sizeof(left)));
        if (json_object_get(p, "predicted_total_ms"))
                (void)printf("  by now: %" PRId64 "ms, downtime %" PRId64 "ms\n",
                             host_number(p, "predicted_total_ms"), host_number(p, "predicted_downtime_ms"));
}

static const char *order_to(const json_t *order)
{
        size_t at = (size_t)host_number(order, "at");
        const char *to = json_string_value(json_array_get(json_object_get(order, "to"), at));
        return to ? to : "";
}

void host_print_move(const json_t *move)
{
        char level[96];
        if (is_order(move)) {
                (void)printf("%s: %s from %s to %s: %s%s%s\n", host_text(move, "id"), host_text(move, "vm"),
                             host_text(move, "from"), order_to(move), host_text(move, "state"),
                             json_object_get(move, "sentence") ? ": " : "", host_text(move, "sentence"));
                if (json_object_get(move, "move"))
                        host_print_move(json_object_get(move, "move"));
                return;
        }
        (void)printf("%s: %s %s %s: %s%s%s\n", host_text(move, "id"), host_text(move, "vm"),
                     strcmp(host_text(move, "role"), "source") == 0 ? "to" : "from", host_text(move, "peer"),
                     host_text(move, "state"), json_object_get(move, "sentence") ? ": " : "",
                     host_text(move, "sentence"));
        (void)printf("  asked for: %s\n", level_text(move, level, sizeof(level)));
        print_plan(move);
        print_how_far(json_object_get(move, "progress"));
        if (json_object_get(move, "total_ms"))
                (void)printf("  took: %" PRId64 "ms, downtime %" PRId64 "ms\n", host_number(move, "total_ms"),
                             host_number(move, "downtime_ms"));
        if (json_object_get(move, "stood_ms"))
                (void)printf("  stood here in an attempt that was broken off: %" PRId64 "ms\n",
                             host_number(move, "stood_ms"));
        size_t i;
        json_t *fallback;
        json_array_foreach(json_object_get(move, "fallbacks"), i, fallback)(void)
                printf("  fallback: %s\n", json_string_value(fallback));
        if (strcmp(host_text(move, "state"), "countered") == 0 || json_object_get(move, "limit") ||
            json_object_get(move, "offer_ms"))
                print_offers(move);
}

static void print_progress(const json_t *move)
{
        const json_t *p = json_object_get(is_order(move) ? json_object_get(move, "move") : move, "progress");
        char bar[BAR + 1], to_go[UNITS_TEXT], rate[UNITS_TEXT], dirty[UNITS_TEXT], left[48];
        int64_t sent = host_number(p, "sent_bytes"), rest = host_number(p, "left_bytes");
        int full = sent + rest > 0 ? (int)(BAR * sent / (sent + rest)) : 0;
        if (!isatty(STDOUT_FILENO))
                return;
        for (int i = 0; i < BAR; i++)
                bar[i] = i < full ? '#' : '.';
        bar[BAR] = '\0';
        if (p)
                (void)printf("\r\033[K%s [%s] round %" PRId64 ", %s to go, %s/s, dirties %s/s%s",
                             host_text(move, "state"), bar, host_number(p, "round"),
                             units_print_bytes(rest, to_go),
                             units_print_bytes(host_number(p, "bytes_per_s"), rate),
                             units_print_bytes(host_number(p, "dirty_bytes_per_s"), dirty),
                             left_text(p, left, sizeof(left)));
        else
                (void)printf("\r\033[K%s", host_text(move, "state"));
        (void)fflush(stdout);
}

static int status_of(const json_t *move)
{
        const char *state = host_text(move, "state");
        if (strcmp(state, "countered") == 0 || strcmp(state, "offered") == 0 ||
            strcmp(state, "declined") == 0)
                return EXIT_NOT_NOW;
        if (!is_over(move) || strcmp(state, "done") == 0 || strcmp(state, "dry-run") == 0 ||
            strcmp(state, "settled") == 0)
                return EXIT_OK;
        enum reason r = reason_from_name(host_text(move, "reason"));
        return r ? (int)exit_from_reason(r) : EXIT_FAILED;
}

/* ---- the verbs ---- */

static int wait_for_end(const struct arguments *a, json_t **move, struct err *err)
{
        char path[96];
        (void)snprintf(path, sizeof(path), "/v1/moves/%s", host_text(*move, "id"));
        bool is_said = false;
        while (!is_over(*move) && strcmp(host_text(*move, "state"), "countered") != 0 &&
               strcmp(host_text(*move, "state"), "offered") != 0) {
                const json_t *there = is_order(*move) ? json_object_get(*move, "move") : *move;
                const struct timespec pause = {.tv_nsec = POLL_MS * 1000000L};
                json_t *now = NULL;
                print_progress(*move);
                if (json_object_get(there, "offer_ms") && !is_said) {
                        int64_t ms = host_number(
                                json_object_get(json_array_get(json_object_get(there, "offers"), 0), "level"),
                                "total_ms");
                        (void)fprintf(
                                stderr,
                                "%sits time will be missed; it could be kept to another: mete move accept "
                                "%s --max-time %" PRId64 "ms\n",
                                isatty(STDERR_FILENO) ? "\r\033[K" : "", host_text(*move, "id"), ms);
                        is_said = true;
                }
                (void)nanosleep(&pause, NULL);
                int bad = host_call(a, "GET", path, NULL, CALL_MS, &now, err);
                if (bad)
                        return bad;
                json_decref(*move);
                *move = now;
        }
        if (isatty(STDOUT_FILENO))
                (void)printf("\r\033[K");
        return 0;
}

static int set_policy(json_t *body, const struct arguments *a, struct err *err)
{
        json_t *floor = json_object();
        int bad = set_ms(floor, a, "--floor-time", "total_ms", err);
        if (!bad)
                bad = set_ms(floor, a, "--floor-downtime", "downtime_ms", err);
        if (!bad)
                bad = set_ms(body, a, "--wait-for", "wait_ms", err);
        if (arguments_option(a, "--ask"))
                (void)json_object_set_new(body, "ask", json_true());
        bool is_said = json_object_size(floor) > 0 || json_object_get(body, "wait_ms") != NULL ||
                       json_object_get(body, "ask") != NULL;
        if (!bad && is_said && !host_manager(a))
                bad = err_set(err, REASON_INVALID, EINVAL,
                              "--floor-time, --floor-downtime, --wait-for and --ask are a manager's "
                              "(--manager)");
        else if (!bad && host_manager(a) && arguments_option(a, "--dry-run"))
                bad = err_set(err, REASON_UNSUPPORTED, EINVAL,
                              "a dry run is asked of the VM's own host, without --manager");
        if (json_object_size(floor) > 0)
                (void)json_object_set(body, "floor", floor);
        json_decref(floor);
        return bad;
}

static int run_move(const struct arguments *a)
{
        json_t *body = json_object(), *level = NULL, *answer = NULL;
        struct err err = {0};
        char path[128];
        const char *to = arguments_option(a, "--to"), *miss = arguments_option(a, "--on-miss"),
                   *id = arguments_option(a, "--id");
        int bad = 0;
        if (!str_is_name(a->operands[0]))
                bad = err_set(&err, REASON_INVALID, EINVAL, "'%s' is no name of a VM", a->operands[0]);
        else if (!to)
                bad = err_set(&err, REASON_INVALID, EINVAL, "--to is missing: which peer (mete peers)?");
        if (!bad)
                bad = level_of(a, &level, &err);
        if (!bad)
                bad = set_policy(body, a, &err);
        int status;
        if (!bad && !host_manager(a) && host_hand_over_instead(a, &status)) {
                json_decref(level);
                json_decref(body);
                return status;
        }
        if (bad) {
                json_decref(level);
                json_decref(body);
                return verb_fail(a, &err);
        }
        (void)json_object_set_new(body, "to", json_string(to));
        if (level)
                (void)json_object_set_new(body, "level", level);
        if (miss)
                (void)json_object_set_new(body, "on_miss", json_string(miss));
        if (id)
                (void)json_object_set_new(body, "id", json_string(id));
        if (arguments_option(a, "--dry-run"))
                (void)json_object_set_new(body, "dry_run", json_true());
        if (arguments_option(a, "--best-effort"))
                (void)json_object_set_new(body, "best_effort", json_true());
        (void)snprintf(path, sizeof(path), "/v1/vms/%s/move", a->operands[0]);
        if (host_call(a, "POST", path, body, DECIDE_MS, &answer, &err) < 0 ||
            (arguments_option(a, "--wait") && wait_for_end(a, &answer, &err) < 0)) {
                json_decref(answer);
                return verb_fail(a, &err);
        }
        if (!host_json(a, answer))
                host_print_move(answer);
        status = status_of(answer);
        json_decref(answer);
        return status;
}

static int run_list(const struct arguments *a)
{
        json_t *answer = NULL, *move;
        struct err err = {0};
        char level[96];
        size_t i;
        if (host_pages(a, "/v1/moves", &answer, &err) < 0)
                return verb_fail(a, &err);
        if (!host_json(a, answer)) {
                struct table *t =
                        host_manager(a) ? table_new((const char *const[]){"ID", "VM", "FROM", "TO", "STATE",
                                                                          "LEVEL", ">ROUND", "ASKED", "ENDED",
                                                                          "SENTENCE", NULL})
                                        : table_new((const char *const[]){"ID", "VM", "ROLE", "PEER", "STATE",
                                                                          "LEVEL", ">ATTEMPT", "ASKED",
                                                                          "ENDED", "SENTENCE", NULL});
                json_array_foreach(json_object_get(answer, "moves"), i, move)
                {
                        bool is_manager = is_order(move);
                        table_text(t, host_text(move, "id"));
                        table_text(t, host_text(move, "vm"));
                        table_text(t, host_text(move, is_manager ? "from" : "role"));
                        table_text(t, is_manager ? order_to(move) : host_text(move, "peer"));
                        table_text(t, host_text(move, "state"));
                        table_text(t, level_text(move, level, sizeof(level)));
                        table_number(t, host_number(move, is_manager ? "round" : "attempt"));
                        table_time(t, host_number(move, is_manager ? "asked_ms" : "started_ms"));
                        table_time(t, host_number(move, "ended_ms"));
                        table_text(t, host_text(move, "sentence"));
                }
                table_print(t, stdout, "no moves");
                table_free(t);
        }
        json_decref(answer);
        return EXIT_OK;
}

static int ask_about(const struct arguments *a, const char *method, const char *verb, json_t *body)
{
        json_t *answer = NULL;
        struct err err = {0};
        char path[128];
        if (id_path(a, verb, path, sizeof(path), &err) < 0) {
                json_decref(body);
                return verb_fail(a, &err);
        }
        if (host_call(a, method, path, body, CALL_MS, &answer, &err) < 0)
                return verb_fail(a, &err);
        if (!host_json(a, answer))
                host_print_move(answer);
        json_decref(answer);
        return EXIT_OK;
}

static int run_show(const struct arguments *a)
{
        return ask_about(a, "GET", "", NULL);
}

static int run_cancel(const struct arguments *a)
{
        return ask_about(a, "DELETE", "", NULL);
}

static int run_accept(const struct arguments *a)
{
        json_t *level = NULL;
        struct err err = {0};
        int bad = level_of(a, &level, &err);
        if (!bad && !level && host_manager(a))
                level = json_object(); /* whatever it is: an order has one offer */
        if (!bad && !level)
                bad = err_set(&err, REASON_INVALID, EINVAL, "which level? Say it as it was offered");
        if (bad)
                return verb_fail(a, &err);
        if (json_object_size(level) == 0)
                return ask_about(a, "POST", "/accept", level);
        return ask_about(a, "POST", "/accept", json_pack("{s:o}", "level", level));
}

static int run_decline(const struct arguments *a)
{
        struct err err = {0};
        if (host_manager(a))
                return ask_about(a, "POST", "/decline", NULL);
        (void)err_set(&err, REASON_INVALID, EINVAL,
                      "this is asked of a manager (--manager URL or METE_MANAGER); a host's own offer is "
                      "declined by 'mete move cancel'");
        return verb_fail(a, &err);
}

static const struct option_row move_options[] = {
        {"--to",                                                                           "PEER", "the host that is to run it, as mete peers lists it; with a manager also 'any'",
         false},
        {"--max-time", "TIME", "longest total time, such as 30s", false},
        {"--max-downtime",                                                                                "TIME", "longest downtime, such as 100ms; an enforced bound", false},
        {"--best-effort",                                                                          NULL, "move it all the same where the level cannot be kept", false},
        {"--on-miss",                                                                           "abort|finish|ask", "when the total time will be missed after all (abort)", false},
        {"--dry-run",                                                                 NULL, "only say what would come of it; nothing is reserved", false},
        {"--id",                            "ID", "id of the move, for asking again; else one is drawn", false},
        {"--wait",                                                                                NULL, "until it is over, with a bar on a terminal", false},
        {"--floor-time",   "TIME",
         "with a manager: the longest total time that is accepted where the level cannot be kept", false},
        {"--floor-downtime",                                                                           "TIME", "with a manager: likewise, the longest downtime", false},
        {"--wait-for",                                                                      "TIME", "with a manager: for so long it asks again where neither can be kept", false},
        {"--ask",                          NULL, "with a manager: what policy does not take waits for mete move accept or decline",
         false},
        HOST_MANAGER_OPTIONS,
        {NULL                                                                               },
};
static const struct option_row about_options[] = {HOST_MANAGER_OPTIONS, {NULL}};
static const struct option_row accept_options[] = {
        {"--max-time",         "TIME", "as it was offered", false},
        {"--max-downtime", "TIME", "as it was offered", false},
        HOST_MANAGER_OPTIONS,
        {NULL                   },
};

/* clang-format off */
const struct verb move_verbs[] = {
        {.words = "move list", .operands = "", .options = about_options, .summary = "List moves under way, and those that ended last", .run = run_list},
        {.words = "move show", .operands = "ID", .operands_min = 1, .operands_max = 1, .options = about_options, .summary = "Show one move", .run = run_show},
        {.words = "move cancel",
         .operands = "ID",
         .options = about_options,
         .operands_min = 1,
         .operands_max = 1,
         .summary = "Break a move off, or decline the level that is offered",
         .text = "The VM stays where it is, and runs. Where the outcome is being written already it is too late "
                 "(stale): mete move show says what came of it.",
         .run = run_cancel},
        {.words = "move accept",
         .operands = "ID",
         .operands_min = 1,
         .operands_max = 1,
         .options = accept_options,
         .summary = "Take a level that is offered",
         .text = "Of a manager's move it need not be said.",
         .run = run_accept},
        {.words = "move decline",
         .operands = "ID",
         .operands_min = 1,
         .operands_max = 1,
         .options = about_options,
         .summary = "Decline a level that a manager's move is offered (--ask)",
         .text = "It is given back, and the VM is left where it is; another host or a later time is tried as the move says.",
         .run = run_decline},
        {.words = "move",
         .operands = "VM",
         .operands_min = 1,
         .operands_max = 1,
         .options = move_options,
         .summary = "Move a running VM to another host",
         .text = "What it takes is planned from what the VM's memory does, and reserved on both hosts, before anything "
                 "starts. Where the level cannot be kept, levels that could be are printed, and the first of them is "
                 "held for a while. A downtime that was promised is a bound: if it would be longer, the VM runs on "
                 "where it was. To a hypervisor of the same server it is handed over instead, and not copied (mete handover): its "
                 "downtime is the bound of the gap then, and there is none of its time. Without a level the move is a best effort. With --manager the VM may be on any host of "
                 "the fleet, and what could be kept instead is accepted, waited for or declined as policy says.",
         .run = run_move},
};
/* clang-format on */
const size_t move_verbs_n = ARRAY_N(move_verbs);
