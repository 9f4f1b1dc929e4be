/* SPDX-License-Identifier: Apache-2.0 */
/* What a mete-manager is asked: how it is reached, its hosts, and drains. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/str.h"
#include "base/units.h"
#include "cli/exit.h"
#include "cli/host.h"
#include "wire/http-client.h"

enum { CALL_MS = 30000, DECIDE_MS = 600000, POLL_MS = 500 };

static const char default_cert[] = "/etc/mete/operator.crt";

static const char *setting(const struct arguments *a, const char *option, const char *variable)
{
        const char *text = arguments_option(a, option);
        if (!text)
                text = getenv(variable);
        return text && *text ? text : NULL;
}

/* Only verbs that take it are a manager's: METE_MANAGER means nothing to the others. */
const char *host_manager(const struct arguments *a)
{
        const struct option_row *row = a->verb->options;
        for (; row && row->name; row++)
                if (strcmp(row->name, "--manager") == 0)
                        return setting(a, "--manager", "METE_MANAGER");
        return NULL;
}

/* As 'mete pki' lays them out: NAME.crt, NAME.key, ca.crt. */
static int read_files(const struct arguments *a, struct cert_files *f, struct err *err)
{
        const char *cert = setting(a, "--cert", "METE_CERT"), *key = setting(a, "--key", "METE_KEY"),
                   *ca = setting(a, "--ca", "METE_CA");
        cert = cert ? cert : default_cert;
        const char *slash = strrchr(cert, '/'), *dot = strrchr(cert, '.');
        size_t folder = slash ? (size_t)(slash - cert) + 1 : 0;
        size_t stem = dot && dot >= cert + folder ? (size_t)(dot - cert) : strlen(cert);
        bool is_good = STR_COPY(f->cert, cert) && strlen(cert) + 8 < sizeof(f->cert);
        if (is_good && !key)
                (void)snprintf(f->key, sizeof(f->key), "%.*s.key", (int)stem, cert);
        if (is_good && !ca)
                (void)snprintf(f->ca, sizeof(f->ca), "%.*sca.crt", (int)folder, cert);
        if (!is_good || (key && !STR_COPY(f->key, key)) || (ca && !STR_COPY(f->ca, ca)))
                return err_set(err, REASON_INVALID, ENAMETOOLONG, "--cert, --key, --ca: too long a path");
        struct cert_id id;
        return cert_files_check(f, 0, &id, err) ? err_note(err, "--cert") : 0;
}

/* Nobody but a manager is told anything: the first question says nothing. */
static int check_peer(struct http_client *c, const char *url, struct err *err)
{
        struct http_answer answer = {0};
        struct cert_id id;
        int bad = http_client_do(c, "GET", "/health", NULL, 0, CALL_MS, &answer, err);
        http_answer_done(&answer);
        if (bad)
                return err_note(err, "the manager");
        if (!http_client_peer(c, &id) || id.role != CERT_MANAGER)
                return err_set(err, REASON_DENIED, EKEYREJECTED, "%.100s has no certificate of a manager",
                               url);
        return 0;
}

static struct http_client *connect_tls(const char *url, const char *where, const struct arguments *a,
                                       struct err *err)
{
        static struct cert_files files;
        struct http_target to = {.files = &files};
        char text[TCP_TEXT];
        size_t n = strcspn(where, "/");
        if (n >= sizeof(text) || (where[n] == '/' && where[n + 1] != '\0')) {
                (void)err_set(err, REASON_INVALID, EINVAL, "%.100s: https://HOST[:PORT] is wanted", url);
                return NULL;
        }
        (void)snprintf(text, sizeof(text), "%.*s", (int)n, where);
        if (tcp_address_parse(text, &to.address, err) || read_files(a, &files, err))
                return NULL;
        struct http_client *c = http_client_new_tls(&to, err);
        if (c && check_peer(c, url, err)) {
                http_client_free(c);
                return NULL;
        }
        return c;
}

struct http_client *host_manager_connect(const char *url, const struct arguments *a, struct err *err)
{
        static const char https[] = "https://", unix_path[] = "unix:";
        if (strncmp(url, https, sizeof(https) - 1) == 0)
                return connect_tls(url, url + sizeof(https) - 1, a, err);
        const char *path =
                strncmp(url, unix_path, sizeof(unix_path) - 1) == 0 ? url + sizeof(unix_path) - 1 : url;
        if (*path == '/')
                return http_client_new(path, err);
        (void)err_set(err, REASON_INVALID, EINVAL,
                      "--manager %.100s: https://HOST[:PORT] or the path of a socket is wanted", url);
        return NULL;
}

static int need_manager(const struct arguments *a, struct err *err)
{
        return host_manager(a) ? 0
                               : err_set(err, REASON_INVALID, EINVAL,
                                         "this is asked of a manager: --manager URL or METE_MANAGER");
}

/* ---- hosts ---- */

static int run_hosts(const struct arguments *a)
{
        json_t *answer = NULL, *host;
        struct err err = {0};
        size_t i;
        if (need_manager(a, &err) || host_pages(a, "/v1/hosts", &answer, &err) < 0)
                return verb_fail(a, &err);
        if (!host_json(a, answer)) {
                struct table *t = table_new((const char *const[]){"NAME", "STATE", "ADDRESS", "QEMU", ">VMS",
                                                                  ">RUNNING", ">FREE CPU", ">FREE MEMORY",
                                                                  "HEARD", "PROBLEM", NULL});
                json_array_foreach(json_object_get(answer, "hosts"), i, host)
                {
                        bool is_there = json_is_true(json_object_get(host, "reachable"));
                        table_text(t, host_text(host, "name"));
                        table_text(t, json_is_true(json_object_get(host, "draining")) ? "draining"
                                      : is_there                                      ? "reachable"
                                                                                      : "unreachable");
                        table_text(t, host_text(host, "address"));
                        table_text(t, host_text(host, "qemu"));
                        table_number(t, host_number(host, "vms"));
                        table_number(t, host_number(host, "running"));
                        table_amount(t, "cpu", host_number(host, "cpu_free_milli"));
                        table_bytes(t, host_number(host, "memory_free_bytes"));
                        table_time(t, host_number(host, "heard_ms"));
                        table_text(t, host_text(host, "problem"));
                }
                table_print(t, stdout, "no hosts");
                table_free(t);
        }
        json_decref(answer);
        return EXIT_OK;
}

/* ---- drains ---- */

static bool is_over(const json_t *drain)
{
        return json_object_get(drain, "ended_ms") != NULL;
}

static void print_drain(const json_t *drain)
{
        size_t i;
        json_t *vm;
        char text[UNITS_TEXT];
        (void)printf("%s: %s: %s: %s\n", host_text(drain, "id"), host_text(drain, "host"),
                     host_text(drain, "state"), host_text(drain, "sentence"));
        if (json_object_get(drain, "predicted_ms"))
                (void)printf("  all of it takes: %s\n",
                             units_print_ms(host_number(drain, "predicted_ms"), text));
        struct table *t = table_new((const char *const[]){"VM", "STATE", "TO", ">MEMORY", ">TAKES",
                                                          ">OVER AFTER", "ORDER", "SENTENCE", NULL});
        json_array_foreach(json_object_get(drain, "vms"), i, vm)
        {
                table_text(t, host_text(vm, "vm"));
                table_text(t, host_text(vm, "state"));
                table_text(t, host_text(vm, "to"));
                table_bytes(t, host_number(vm, "memory_bytes"));
                table_text(t, json_object_get(vm, "predicted_ms")
                                      ? units_print_ms(host_number(vm, "predicted_ms"), text)
                                      : "");
                table_text(t, json_object_get(vm, "ends_ms")
                                      ? units_print_ms(host_number(vm, "ends_ms"), text)
                                      : "");
                table_text(t, host_text(vm, "order"));
                table_text(t, host_text(vm, "sentence"));
        }
        table_print(t, stdout, "no VMs");
        table_free(t);
}

static int status_of(const json_t *drain)
{
        const char *state = host_text(drain, "state");
        if (strcmp(state, "impossible") == 0 ||
            (strcmp(state, "dry-run") == 0 && !json_is_true(json_object_get(drain, "possible"))))
                return EXIT_NOT_NOW;
        if (!is_over(drain) || strcmp(state, "done") == 0 || strcmp(state, "dry-run") == 0)
                return EXIT_OK;
        enum reason r = reason_from_name(host_text(drain, "reason"));
        return r ? (int)exit_from_reason(r) : EXIT_FAILED;
}

static int wait_for_end(const struct arguments *a, json_t **drain, struct err *err)
{
        char path[96];
        (void)snprintf(path, sizeof(path), "/v1/drains/%s", host_text(*drain, "id"));
        while (!is_over(*drain)) {
                const struct timespec pause = {.tv_nsec = POLL_MS * 1000000L};
                json_t *now = NULL;
                (void)nanosleep(&pause, NULL);
                int bad = host_call(a, "GET", path, NULL, CALL_MS, &now, err);
                if (bad)
                        return bad;
                json_decref(*drain);
                *drain = now;
        }
        return 0;
}

static int set_time(json_t *to, const struct arguments *a, const char *option, const char *name,
                    struct err *err)
{
        const char *text = arguments_option(a, option);
        int64_t ms;
        int bad = text ? units_parse_ms(text, &ms, err) : 0;
        if (bad)
                return err_note(err, "%s %s", option, text);
        if (text)
                (void)json_object_set_new(to, name, json_integer(ms));
        return 0;
}

static int drain_body(const struct arguments *a, json_t *body, struct err *err)
{
        const char *id = arguments_option(a, "--id");
        int bad = need_manager(a, err);
        if (!bad && !str_is_name(a->operands[0]))
                bad = err_set(err, REASON_INVALID, EINVAL, "'%s' is no name of a host", a->operands[0]);
        if (!bad && !arguments_option(a, "--within"))
                bad = err_set(err, REASON_INVALID, EINVAL, "--within is missing: how long may it take?");
        bad = bad ? bad : set_time(body, a, "--within", "within_ms", err);
        bad = bad ? bad : set_time(body, a, "--max-downtime", "downtime_ms", err);
        bad = bad ? bad : set_time(body, a, "--floor-downtime", "floor_downtime_ms", err);
        if (id)
                (void)json_object_set_new(body, "id", json_string(id));
        if (arguments_option(a, "--dry-run"))
                (void)json_object_set_new(body, "dry_run", json_true());
        return bad;
}

static int run_drain(const struct arguments *a)
{
        json_t *body = json_object(), *answer = NULL;
        struct err err = {0};
        char path[128];
        if (drain_body(a, body, &err)) {
                json_decref(body);
                return verb_fail(a, &err);
        }
        (void)snprintf(path, sizeof(path), "/v1/hosts/%s/drain", a->operands[0]);
        if (host_call(a, "POST", path, body, DECIDE_MS, &answer, &err) < 0)
                return verb_fail(a, &err);
        if (!arguments_option(a, "--json") && !is_over(answer) && arguments_option(a, "--wait"))
                print_drain(answer);
        if (arguments_option(a, "--wait") && wait_for_end(a, &answer, &err) < 0) {
                json_decref(answer);
                return verb_fail(a, &err);
        }
        if (!host_json(a, answer))
                print_drain(answer);
        int status = status_of(answer);
        json_decref(answer);
        return status;
}

static int ask_about(const struct arguments *a, const char *method)
{
        json_t *answer = NULL;
        struct err err = {0};
        char path[128];
        int bad = need_manager(a, &err);
        if (!bad && !str_is_name(a->operands[0]))
                bad = err_set(&err, REASON_INVALID, EINVAL, "'%s' is no id of a drain", a->operands[0]);
        (void)snprintf(path, sizeof(path), "/v1/drains/%.63s", bad ? "" : a->operands[0]);
        if (bad || host_call(a, method, path, NULL, DECIDE_MS, &answer, &err) < 0)
                return verb_fail(a, &err);
        if (!host_json(a, answer))
                print_drain(answer);
        json_decref(answer);
        return EXIT_OK;
}

static int run_show(const struct arguments *a)
{
        return ask_about(a, "GET");
}

static int run_cancel(const struct arguments *a)
{
        return ask_about(a, "DELETE");
}

static int run_list(const struct arguments *a)
{
        json_t *answer = NULL, *drain;
        struct err err = {0};
        size_t i;
        if (need_manager(a, &err) || host_pages(a, "/v1/drains", &answer, &err) < 0)
                return verb_fail(a, &err);
        if (!host_json(a, answer)) {
                struct table *t = table_new(
                        (const char *const[]){"ID", "HOST", "STATE", "ASKED", "ENDED", "SENTENCE", NULL});
                json_array_foreach(json_object_get(answer, "drains"), i, drain)
                {
                        table_text(t, host_text(drain, "id"));
                        table_text(t, host_text(drain, "host"));
                        table_text(t, host_text(drain, "state"));
                        table_time(t, host_number(drain, "asked_ms"));
                        table_time(t, host_number(drain, "ended_ms"));
                        table_text(t, host_text(drain, "sentence"));
                }
                table_print(t, stdout, "no drains");
                table_free(t);
        }
        json_decref(answer);
        return EXIT_OK;
}

/* clang-format off */
static const struct option_row drain_options[] = {
        {"--within", "TIME", "all is to be over within so long, such as 10m", false},
        {"--max-downtime", "TIME", "longest downtime of each VM, such as 100ms; an enforced bound", false},
        {"--floor-downtime", "TIME", "the longest downtime that is accepted where that cannot be kept", false},
        {"--dry-run", NULL, "only say whether it can be done, and how", false},
        {"--id", "ID", "id of the drain, for asking again; else one is drawn", false},
        {"--wait", NULL, "until it is over", false},
        HOST_MANAGER_OPTIONS,
        {NULL},
};
static const struct option_row about_options[] = {HOST_MANAGER_OPTIONS, {NULL}};

const struct verb manager_verbs[] = {
        {.words = "host list", .operands = "", .options = about_options, .summary = "List the hosts of a fleet", .run = run_hosts},
        {.words = "drain list", .operands = "", .options = about_options, .summary = "List drains under way, and those that ended last", .run = run_list},
        {.words = "drain show", .operands = "ID", .operands_min = 1, .operands_max = 1, .options = about_options, .summary = "Show one drain, VM by VM", .run = run_show},
        {.words = "drain cancel",
         .operands = "ID",
         .operands_min = 1,
         .operands_max = 1,
         .options = about_options,
         .summary = "Begin no more moves of a drain, and break off the one under way",
         .text = "VMs that were moved stay where they are.",
         .run = run_cancel},
        {.words = "drain",
         .operands = "HOST",
         .operands_min = 1,
         .operands_max = 1,
         .options = drain_options,
         .summary = "Move all running VMs of a host to others, within a time",
         .text = "Each VM's host is asked what its move takes, and nothing is begun unless all of it can be done in time: "
                 "what limits it is said, of each VM where it would go and how long that takes, and the exit status is 75. "
                 "The VMs move one after the other, those that move soonest first. Where one of them cannot be moved after "
                 "all, another host is tried, and then it stops.",
         .run = run_drain},
};
/* clang-format on */
const size_t manager_verbs_n = ARRAY_N(manager_verbs);
