/* SPDX-License-Identifier: Apache-2.0 */
/* handover: a running VM changes hypervisor on one server; and how handovers stand. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "base/str.h"
#include "base/units.h"
#include "cli/exit.h"
#include "cli/host.h"
#include "json/read.h"
#include "wire/http-client.h"

/* AT_ONCE: as many as mete-sp takes of one hypervisor to another. */
enum { CALL_MS = 30000, POLL_MS = 50, VMS_MAX = 1024, AT_ONCE = 4 };

/* ---- what is shown ---- */

static bool is_over(const json_t *h)
{
        return json_object_get(h, "ended_ms") != NULL;
}

static void print_parts(const json_t *handover)
{
        size_t i;
        json_t *part;
        char amount[HOST_AMOUNT];
        json_array_foreach(json_object_get(handover, "parts"), i, part)
        {
                const char *portion = host_text(part, "portion"), *why = host_text(part, "why");
                (void)printf(
                        "  %s of %s: %s%s\n",
                        host_amount_text(host_text(part, "component"), host_number(part, "amount"), amount),
                        host_text(part, "component"), portion,
                        strcmp(why, "kept") == 0     ? ", as its source keeps what it lies in"
                        : strcmp(why, "shared") == 0 ? ", as it is shared with others that stay"
                                                     : "");
        }
}

static void print(const json_t *h)
{
        bool is_dry = json_is_true(json_object_get(h, "dry_run"));
        bool would = json_is_true(json_object_get(h, "would"));
        if (is_dry && is_over(h) && would) {
                (void)printf("%s: %s could be handed over from %s to %s\n", host_text(h, "id"),
                             host_text(h, "vm"), host_text(h, "from"), host_text(h, "to"));
        } else {
                (void)printf("%s: %s from %s to %s: %s%s%s\n", host_text(h, "id"), host_text(h, "vm"),
                             host_text(h, "from"), host_text(h, "to"), host_text(h, "state"),
                             json_object_get(h, "reason") ? ": " : "",
                             json_object_get(h, "reason") ? host_text(h, "sentence") : "");
        }
        print_parts(h);
        if (host_number(h, "separated_bytes") > 0)
                (void)printf("  %" PRId64 " bytes of its memory %s moved before, from what cannot leave\n",
                             host_number(h, "separated_bytes"), is_dry ? "would be" : "were");
        char within[UNITS_TEXT];
        if (host_number(h, "separate_ms") > 0 && (is_dry || !is_over(h)))
                (void)printf("  that may take %s\n", units_print_ms(host_number(h, "separate_ms"), within));
        if (json_object_get(h, "gap_us")) {
                (void)printf("  the guest stood for %.1f ms", (double)host_number(h, "gap_us") / 1000.0);
                if (json_object_get(h, "max_gap_ms"))
                        (void)printf(" of the %" PRId64 " ms that were allowed",
                                     host_number(h, "max_gap_ms"));
                (void)printf("\n");
        }
        if (json_object_get(h, "sent_bytes"))
                (void)printf("  %" PRId64 " bytes went over, %" PRId64 " of them of its memory\n",
                             host_number(h, "sent_bytes"), host_number(h, "ram_bytes"));
}

static const char *time_text(int64_t ms, char ret[32])
{
        const time_t at = (time_t)(ms / 1000);
        struct tm tm;
        ret[0] = '\0';
        if (ms > 0 && localtime_r(&at, &tm))
                (void)strftime(ret, 32, "%F %T", &tm);
        return ret;
}

/* All that is known of it, and how it came about. */
static int print_story(const struct arguments *a, const json_t *h, struct err *err)
{
        char asked[32], ended[32], path[160];
        json_t *page = NULL, *event;
        size_t i;
        (void)printf("  what changes hands is %s's\n",
                     host_text(h, json_is_true(json_object_get(h, "assigned")) ? "to" : "from"));
        (void)printf("  number %" PRId64 " of this server, asked for %s%s%s\n", host_number(h, "epoch"),
                     time_text(host_number(h, "asked_ms"), asked), is_over(h) ? ", ended " : ", under way",
                     time_text(host_number(h, "ended_ms"), ended));
        (void)snprintf(path, sizeof(path), "/v1/events?limit=256&trace=%s", host_text(h, "id"));
        int bad = host_call(a, "GET", path, NULL, CALL_MS, &page, err);
        json_array_foreach(json_object_get(page, "events"), i, event)
        {
                host_print_event(event, 0, 0);
        }
        json_decref(page);
        return bad;
}

static int status_of(const json_t *h)
{
        enum reason r = reason_from_name(host_text(h, "reason"));
        if (!is_over(h) || strcmp(host_text(h, "state"), "running-on-target") == 0 ||
            json_is_true(json_object_get(h, "would")))
                return EXIT_OK;
        return r ? (int)exit_from_reason(r) : EXIT_FAILED;
}

static int id_path(const struct arguments *a, char *path, size_t size, struct err *err)
{
        if (!str_is_name(a->operands[0]))
                return err_set(err, REASON_INVALID, EINVAL, "'%s' is no id of a handover", a->operands[0]);
        (void)snprintf(path, size, "/v1/handovers/%s", a->operands[0]);
        return 0;
}

/* ---- one ---- */

/* A line for each state that is seen, on a terminal in place. */
static int wait_for_end(const struct arguments *a, json_t **h, struct err *err)
{
        char path[96], seen[32] = "";
        const struct timespec pause = {.tv_nsec = POLL_MS * 1000000L};
        bool is_terminal = isatty(STDOUT_FILENO) && !arguments_option(a, "--json");
        (void)snprintf(path, sizeof(path), "/v1/handovers/%s", host_text(*h, "id"));
        while (!is_over(*h)) {
                json_t *now = NULL;
                if (is_terminal && strcmp(seen, host_text(*h, "state")) != 0) {
                        (void)STR_COPY(seen, host_text(*h, "state"));
                        (void)printf("\r\033[K%s: %s", host_text(*h, "vm"), seen);
                        (void)fflush(stdout);
                }
                (void)nanosleep(&pause, NULL);
                int bad = host_call(a, "GET", path, NULL, CALL_MS, &now, err);
                if (bad)
                        return bad;
                json_decref(*h);
                *h = now;
        }
        if (is_terminal)
                (void)printf("\r\033[K");
        return 0;
}

static int body_of(const struct arguments *a, const char *vm, json_t **ret, struct err *err)
{
        const char *to = arguments_option(a, "--to"), *from = arguments_option(a, "--from"),
                   *gap = arguments_option(a, "--max-gap"), *id = arguments_option(a, "--id"),
                   *within = arguments_option(a, "--within");
        int64_t ms = 0, within_ms = 0;
        if (!str_is_name(vm))
                return err_set(err, REASON_INVALID, EINVAL, "'%s' is no name of a VM", vm);
        if (!to)
                return err_set(err, REASON_INVALID, EINVAL,
                               "--to is missing: which hypervisor (mete server show)?");
        if (gap && units_parse_ms(gap, &ms, err))
                return err_note(err, "--max-gap %s", gap);
        if (within && units_parse_ms(within, &within_ms, err))
                return err_note(err, "--within %s", within);
        json_t *body = json_pack("{s:s, s:s}", "vm", vm, "to", to);
        if (from)
                (void)json_object_set_new(body, "from", json_string(from));
        if (id)
                (void)json_object_set_new(body, "id", json_string(id));
        if (gap)
                (void)json_object_set_new(body, "max_gap_ms", json_integer(ms));
        if (within)
                (void)json_object_set_new(body, "within_ms", json_integer(within_ms));
        if (arguments_option(a, "--dry-run"))
                (void)json_object_set_new(body, "dry_run", json_true());
        *ret = body;
        return 0;
}

/* is_waiting: until it is over. Returns the exit status. */
static int hand_over(const struct arguments *a, const char *vm, bool is_waiting)
{
        json_t *body = NULL, *h = NULL;
        struct err err = {0};
        int bad = body_of(a, vm, &body, &err);
        if (!bad)
                bad = host_call(a, "POST", "/v1/handovers", body, CALL_MS, &h, &err);
        if (!bad && is_waiting)
                bad = wait_for_end(a, &h, &err);
        if (bad) {
                json_decref(h);
                return verb_fail(a, &err);
        }
        if (!host_json(a, h))
                print(h);
        int status = status_of(h);
        json_decref(h);
        return status;
}

/* ---- all of a hypervisor ---- */

static int ask(const char *socket, const char *path, json_t **ret, struct err *err)
{
        struct http_answer answer = {0};
        struct http_client *client = http_client_new(socket, err);
        int bad = client ? http_client_do(client, "GET", path, NULL, 0, CALL_MS, &answer, err) : -err->code;
        if (!bad && answer.status != 200)
                bad = err_set(err, REASON_INTERNAL, EPROTO, "%.100s answered %.60s with status %d", socket,
                              path, answer.status);
        if (!bad)
                bad = (*ret = json_read(answer.body, answer.body_n, err)) ? 0 : -EPROTO;
        http_answer_done(&answer);
        http_client_free(client);
        return bad;
}

/* Names of those that run there, in *ret, an array. */
static int running_at(const char *socket, json_t **ret, struct err *err)
{
        json_t *names = json_array(), *page = NULL, *vm;
        char path[192] = "/v1/vms?limit=256";
        size_t i;
        int bad = 0;
        for (bool is_more = true; is_more && !bad; json_decref(page), page = NULL) {
                bad = ask(socket, path, &page, err);
                json_array_foreach(json_object_get(page, "vms"), i, vm)
                {
                        if (strcmp(host_text(vm, "state"), "running") == 0 &&
                            json_array_size(names) < VMS_MAX)
                                (void)json_array_append_new(names, json_string(host_text(vm, "name")));
                }
                const char *next = json_string_value(json_object_get(page, "next"));
                is_more = next && str_is_name(next);
                if (is_more)
                        (void)snprintf(path, sizeof(path), "/v1/vms?limit=256&after=%s", next);
        }
        if (bad)
                json_decref(names);
        else
                *ret = names;
        return bad;
}

static int find_socket(const struct arguments *a, const char *name, char *ret, size_t size, struct err *err)
{
        json_t *server = NULL, *h;
        size_t i;
        int bad = host_call(a, "GET", "/v1/server", NULL, CALL_MS, &server, err);
        if (bad)
                return bad;
        bad = err_set(err, REASON_NOT_FOUND, ENOENT, "no hypervisor is called %s", name);
        json_array_foreach(json_object_get(server, "hypervisors"), i, h)
        {
                if (strcmp(host_text(h, "name"), name) == 0 && str_copy(ret, size, host_text(h, "socket")))
                        bad = 0;
        }
        json_decref(server);
        return bad;
}

/* How one of them ended; the first that did not go well says the exit status. */
static void take_end(const struct arguments *a, const json_t *h, int *worst)
{
        int status = status_of(h);
        if (!host_json(a, h))
                print(h);
        *worst = *worst == EXIT_OK ? status : *worst;
}

/* Of those that are under way, what is over leaves its place. Returns how many are left. */
static size_t poll_all(const struct arguments *a, json_t **under_way, int *worst)
{
        size_t n = 0;
        for (size_t i = 0; i < AT_ONCE; i++) {
                json_t *now = NULL;
                struct err err = {0};
                char path[96];
                if (!under_way[i])
                        continue;
                (void)snprintf(path, sizeof(path), "/v1/handovers/%s", host_text(under_way[i], "id"));
                if (host_call(a, "GET", path, NULL, CALL_MS, &now, &err)) {
                        int status = verb_fail(a, &err);
                        *worst = *worst == EXIT_OK ? status : *worst;
                } else if (!is_over(now)) {
                        n++;
                        json_decref(now);
                        continue;
                } else {
                        take_end(a, now, worst);
                }
                json_decref(now);
                json_decref(under_way[i]);
                under_way[i] = NULL;
        }
        return n;
}

/* true: it is under way, or was refused. false: there is no place for it while others are. */
static bool begin_one(const struct arguments *a, const char *vm, json_t **under_way, int *worst)
{
        json_t *body = NULL;
        struct err err = {0};
        size_t free_at = 0, n = 0;
        for (size_t i = 0; i < AT_ONCE; i++) {
                n += under_way[i] != NULL;
                free_at = under_way[i] ? free_at : i;
        }
        if (n == AT_ONCE)
                return false;
        int bad = body_of(a, vm, &body, &err);
        if (!bad)
                bad = host_call(a, "POST", "/v1/handovers", body, CALL_MS, &under_way[free_at], &err);
        if (bad && err.reason == REASON_BUSY && n > 0)
                return false;
        if (bad) {
                int status = verb_fail(a, &err);
                *worst = *worst == EXIT_OK ? status : *worst;
        }
        return true;
}

/* Some side by side; one that stays does not keep the others. */
static int hand_over_all(const struct arguments *a)
{
        const char *from = arguments_option(a, "--from");
        const struct timespec pause = {.tv_nsec = POLL_MS * 1000000L};
        char socket[320];
        json_t *names = NULL, *under_way[AT_ONCE] = {NULL};
        struct err err = {0};
        int worst = EXIT_OK;
        if (!from || !arguments_option(a, "--to") || arguments_option(a, "--id")) {
                (void)err_set(&err, REASON_INVALID, EINVAL, "--all wants --from and --to, and no --id");
                return verb_fail(a, &err);
        }
        int bad = find_socket(a, from, socket, sizeof(socket), &err);
        if (!bad)
                bad = running_at(socket, &names, &err);
        if (bad)
                return verb_fail(a, &err);
        for (size_t next = 0, left = 0; next < json_array_size(names) || left > 0;) {
                while (next < json_array_size(names) &&
                       begin_one(a, json_string_value(json_array_get(names, next)), under_way, &worst))
                        next++;
                left = poll_all(a, under_way, &worst);
                if (left > 0)
                        (void)nanosleep(&pause, NULL);
        }
        if (json_array_size(names) == 0)
                (void)fprintf(stderr, "no VM runs at %s\n", from);
        json_decref(names);
        return worst;
}

/* ---- verbs ---- */

static int run_handover(const struct arguments *a)
{
        struct err err = {0};
        bool is_all = arguments_option(a, "--all") != NULL;
        if (is_all == (a->n_operands == 1)) {
                (void)err_set(&err, REASON_INVALID, EINVAL, "a VM is wanted, or --all");
                return verb_fail(a, &err);
        }
        return is_all ? hand_over_all(a)
                      : hand_over(a, a->operands[0],
                                  arguments_option(a, "--wait") || arguments_option(a, "--dry-run"));
}

static int run_list(const struct arguments *a)
{
        json_t *answer = NULL, *h;
        struct err err = {0};
        char gap[32];
        size_t i;
        if (host_call(a, "GET", "/v1/handovers", NULL, CALL_MS, &answer, &err) < 0)
                return verb_fail(a, &err);
        if (!host_json(a, answer)) {
                struct table *t = table_new((const char *const[]){"ID", "VM", "FROM", "TO", "STATE", ">GAP",
                                                                  "ASKED", "ENDED", "SENTENCE", NULL});
                json_array_foreach(json_object_get(answer, "handovers"), i, h)
                {
                        gap[0] = '\0';
                        if (json_object_get(h, "gap_us"))
                                (void)snprintf(gap, sizeof(gap), "%.1fms",
                                               (double)host_number(h, "gap_us") / 1000.0);
                        table_text(t, host_text(h, "id"));
                        table_text(t, host_text(h, "vm"));
                        table_text(t, host_text(h, "from"));
                        table_text(t, host_text(h, "to"));
                        table_text(t, host_text(h, "state"));
                        table_text(t, gap);
                        table_time(t, host_number(h, "asked_ms"));
                        table_time(t, host_number(h, "ended_ms"));
                        table_text(t, host_text(h, "sentence"));
                }
                table_print(t, stdout, "no handovers");
                table_free(t);
        }
        json_decref(answer);
        return EXIT_OK;
}

static int about(const struct arguments *a, const char *method, bool is_whole)
{
        json_t *h = NULL;
        struct err err = {0};
        char path[96];
        int bad = id_path(a, path, sizeof(path), &err);
        if (bad || host_call(a, method, path, NULL, CALL_MS, &h, &err) < 0)
                return verb_fail(a, &err);
        if (!host_json(a, h)) {
                print(h);
                bad = is_whole ? print_story(a, h, &err) : 0;
        }
        json_decref(h);
        return bad ? verb_fail(a, &err) : EXIT_OK;
}

static int run_show(const struct arguments *a)
{
        return about(a, "GET", true);
}

static int run_cancel(const struct arguments *a)
{
        return about(a, "DELETE", false);
}

/* clang-format off */
static const struct option_row handover_options[] = {
        {"--to", "HYPERVISOR", "the hypervisor of this server that is to run it", false},
        {"--from", "HYPERVISOR", "the one that runs it; needed with --all, and where two have a VM of that name", false},
        {"--max-gap", "TIME", "the guest may stand for so long, such as 50ms; else it stays where it was", false},
        {"--within", "TIME", "what has to be moved before, as its hypervisor keeps what it lies in, is moved within so long, such as 10m; else it stays", false},
        {"--dry-run", NULL, "only find out whether it would do, and what would change hands", false},
        {"--all", NULL, "all VMs that run at --from, a few of them side by side", false},
        {"--id", "ID", "id of the handover, for asking again; else one is made", false},
        {"--wait", NULL, "until it is over, with its state on a terminal", false},
        {NULL},
};

const struct verb handover_verbs[] = {
        {.words = "handover list", .operands = "", .summary = "List the handovers under way, and those that ended last", .run = run_list},
        {.words = "handover show", .operands = "ID", .operands_min = 1, .operands_max = 1, .summary = "Show one handover, and how it came about", .run = run_show},
        {.words = "handover cancel", .operands = "ID", .operands_min = 1, .operands_max = 1,
         .summary = "Break a handover off",
         .text = "The VM stays with its source, or goes back to it. Once it is committed it is too late (stale).",
         .run = run_cancel},
        {.words = "handover", .operands = "[VM]", .operands_min = 0, .operands_max = 1, .options = handover_options,
         .summary = "Hand a running VM over to another hypervisor of this server",
         .text = "Its memory stays where it is, and is not copied: it changes its owner; CPUs it gets of its new hypervisor. "
                 "What lies where its hypervisor keeps it is moved before, while it runs. "
                 "Asked of mete-sp; without it there are no handovers. Returns when it is under way; with --wait, --dry-run and "
                 "--all when it is over.",
         .run = run_handover},
};
const size_t handover_verbs_n = ARRAY_N(handover_verbs);
/* clang-format on */

/* ---- in place of a move ---- */

static bool is_named(const json_t *array, const char *name)
{
        size_t i;
        json_t *one;
        json_array_foreach(array, i, one)
        {
                const char *text = json_string_value(one); /* NULL: the answer may be anything */
                if (text && strcmp(text, name) == 0)
                        return true;
        }
        return false;
}

static const struct option_row *row_of(const struct option_row *rows, const char *name)
{
        while (rows->name && strcmp(rows->name, name) != 0)
                rows++;
        return rows->name ? rows : NULL;
}

static void add_option(struct arguments *to, const char *name, const char *value)
{
        const struct option_row *row = row_of(handover_options, name);
        row = row ? row : row_of(verb_common_options, name);
        if (!row || !value || to->n_options == ARGUMENTS_OPTIONS_MAX)
                return;
        to->options[to->n_options].row = row;
        to->options[to->n_options++].value = value;
}

/* Where mete-sp is said to be is what a meted says, which may have been taken over: asked, with the rights of
 * whoever calls, is only where this caller would look without it. */
static const char *processor_of(const json_t *partition, struct err *err)
{
        const char *own = getenv("METE_SP_SOCKET"), *said = host_text(partition, "processor");
        if (own && *own)
                return own;
        if (!*said || strcmp(said, HOST_SP_SOCKET) == 0)
                return HOST_SP_SOCKET;
        (void)err_set(err, REASON_POLICY, EPERM,
                      "mete-sp is said to be at %.80s, and not at " HOST_SP_SOCKET
                      ": if that is right, name it with METE_SP_SOCKET",
                      said);
        return NULL;
}

bool host_hand_over_instead(const struct arguments *a, int *ret)
{
        const char *to = arguments_option(a, "--to"), *vm = a->operands[0];
        struct arguments b = {
                .verb = &handover_verbs[handover_verbs_n - 1], .operands = a->operands, .n_operands = 1};
        json_t *partition = NULL;
        struct err err = {0};
        if (host_call(a, "GET", "/v1/partition", NULL, CALL_MS, &partition, &err))
                return false; /* the move itself says what is wrong */
        bool is_near = is_named(json_object_get(partition, "hypervisors"), to);
        const char *processor = is_near ? processor_of(partition, &err) : NULL;
        if (is_near && !processor) {
                *ret = verb_fail(a, &err);
        } else if (is_near) {
                (void)fprintf(stderr,
                              "%s is a hypervisor of this server: %s is handed over to it, and not copied\n",
                              to, vm);
                if (arguments_option(a, "--max-time"))
                        (void)fprintf(stderr,
                                      "its time has no bound then; its downtime has (--max-downtime)\n");
                add_option(&b, "--to", to);
                add_option(&b, "--from", json_string_value(json_object_get(partition, "hypervisor")));
                add_option(&b, "--max-gap",
                           arguments_option(a, "--best-effort") ? NULL
                                                                : arguments_option(a, "--max-downtime"));
                add_option(&b, "--dry-run", arguments_option(a, "--dry-run"));
                add_option(&b, "--id", arguments_option(a, "--id"));
                add_option(&b, "--wait", arguments_option(a, "--wait"));
                add_option(&b, "--json", arguments_option(a, "--json"));
                add_option(&b, "--socket", processor);
                *ret = run_handover(&b);
        }
        json_decref(partition);
        return is_near;
}
