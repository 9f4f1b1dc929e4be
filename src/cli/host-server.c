/* SPDX-License-Identifier: Apache-2.0 */
/* server: what the service processor of this machine has given to which hypervisor. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "base/str.h"
#include "base/units.h"
#include "cli/exit.h"
#include "cli/host.h"

enum { CALL_MS = 90000, PAGE = 256 };

/* ---- NAME:node=0,memory=2G,keep=cpu:1 ---- */

static int take_list(json_t *to, const char *key, const char *value, struct err *err)
{
        json_t *list = json_object_get(to, key);
        if (!list) {
                list = json_array();
                (void)json_object_set_new(to, key, list);
        }
        return json_array_append_new(list, json_string(value)) == 0
                       ? 0
                       : err_set(err, REASON_INVALID, EINVAL, "%s: no text", key);
}

/* More of the same, behind a comma: cpus=0-3,8. */
static int take_more(json_t *to, const char *key, const char *value, struct err *err)
{
        const char *before = json_string_value(json_object_get(to, key));
        json_t *text = before ? json_sprintf("%s,%s", before, value) : json_string(value);
        return text && json_object_set_new(to, key, text) == 0
                       ? 0
                       : err_set(err, REASON_INVALID, EINVAL, "%s: no text", key);
}

static int take_key(json_t *to, const char *key, const char *value, bool is_more, struct err *err)
{
        int64_t bytes;
        if (strcmp(key, "node") == 0)
                return take_more(to, "nodes", value, err);
        if (strcmp(key, "cpus") == 0)
                return take_more(to, "cpus", value, err);
        if (strcmp(key, "keep") == 0)
                return take_list(to, "keep", value, err);
        if (is_more || json_object_get(to, key))
                return err_set(err, REASON_INVALID, EINVAL, "%s= takes one value", key);
        if (strcmp(key, "memory") == 0) {
                if (units_parse_bytes(value, &bytes, err))
                        return err_note(err, "memory=");
                if (json_object_get(to, "memory_bytes"))
                        return err_set(err, REASON_INVALID, EINVAL, "memory= takes one value");
                return json_object_set_new(to, "memory_bytes", json_integer(bytes));
        }
        if (strcmp(key, "user") == 0 || strcmp(key, "vmm") == 0)
                return json_object_set_new(to, key, json_string(value));
        return err_set(err, REASON_INVALID, EINVAL,
                       "there is no key %.40s: node=, cpus=, memory=, keep=, user=, vmm=", key);
}

static int parse_part(const char *text, json_t **ret, struct err *err)
{
        char copy[2048], *at, *next, key[16] = "";
        if (!STR_COPY(copy, text))
                return err_set(err, REASON_INVALID, EINVAL, "too long");
        char *rest = strchr(copy, ':');
        if (!rest)
                return err_set(err, REASON_INVALID, EINVAL,
                               "'%.60s': NAME:node=N or NAME:cpus=LIST,memory=SIZE", text);
        *rest++ = '\0';
        json_t *part = json_object();
        int bad = json_object_set_new(part, "name", json_string(copy));
        for (at = rest; !bad && at && *at; at = next) {
                next = strchr(at, ',');
                if (next)
                        *next++ = '\0';
                char *value = strchr(at, '=');
                bool is_more = !value;
                if (value)
                        *value++ = '\0';
                if (value && !STR_COPY(key, at))
                        bad = err_set(err, REASON_INVALID, EINVAL, "there is no key %.40s", at);
                else if (!*key)
                        bad = err_set(err, REASON_INVALID, EINVAL, "'%.60s': KEY=VALUE is wanted", at);
                else
                        bad = take_key(part, key, value ? value : at, is_more, err);
        }
        if (bad)
                json_decref(part);
        else
                *ret = part;
        return bad ? err_note(err, "--hypervisor %.100s", text) : 0;
}

/* ---- what is shown ---- */

static void show_hypervisors(const json_t *server)
{
        size_t i;
        json_t *h;
        struct table *t = table_new((const char *const[]){"HYPERVISOR", "STATE", "USER", ">PID", "QEMU",
                                                          ">EPOCH", ">RESTARTS", "SOCKET", "PROBLEM", NULL});
        json_array_foreach(json_object_get(server, "hypervisors"), i, h)
        {
                table_text(t, host_text(h, "name"));
                table_text(t, host_text(h, "state"));
                table_text(t, host_text(h, "user"));
                if (json_object_get(h, "pid"))
                        table_number(t, host_number(h, "pid"));
                else
                        table_text(t, "");
                table_text(t, host_text(h, "vmm_version"));
                table_number(t, host_number(h, "epoch"));
                table_number(t, host_number(h, "restarts"));
                table_text(t, host_text(h, "socket"));
                table_text(t, host_text(h, "problem"));
        }
        table_print(t, stdout, "no hypervisor: 'mete server init' partitions this server");
        table_free(t);
}

static void row(struct table *t, const json_t *resource, int64_t amount, const char *manager,
                const char *kept)
{
        table_text(t, host_text(resource, "id"));
        table_number(t, host_number(resource, "node"));
        table_amount(t, host_text(resource, "id"), amount);
        table_text(t, manager);
        table_text(t, kept);
}

/* Each resource names its manager (5.2). */
static void show_resources(const json_t *server)
{
        size_t i, k;
        json_t *r, *holder;
        const json_t *giving = json_object_get(server, "giving");
        struct table *t =
                table_new((const char *const[]){"RESOURCE", ">NODE", ">AMOUNT", "MANAGER", "KEPT", NULL});
        json_array_foreach(json_object_get(server, "resources"), i, r)
        {
                json_array_foreach(json_object_get(r, "holders"), k, holder)
                {
                        bool is_kept = json_is_true(json_object_get(holder, "kept"));
                        row(t, r, host_number(holder, "amount"), host_text(holder, "hypervisor"),
                            is_kept ? "kept" : "");
                }
                if (giving && strcmp(host_text(giving, "component"), host_text(r, "id")) == 0) {
                        char text[96];
                        (void)snprintf(text, sizeof(text), "(from %s to %s)", host_text(giving, "from"),
                                       host_text(giving, "to"));
                        row(t, r, host_number(giving, "amount"), text, "");
                }
                if (host_number(r, "nobody") > 0)
                        row(t, r, host_number(r, "nobody"), "nobody", "");
        }
        table_print(t, stdout, "none");
        table_free(t);
}

static void show_upgrade(const json_t *u)
{
        if (u)
                (void)printf("%s is being replaced by %s: %s, %" PRId64 " of %" PRId64
                             " VMs went ('mete server upgrade')\n",
                             host_text(u, "from"), host_text(u, "to"), host_text(u, "state"),
                             host_number(u, "went"), host_number(u, "vms"));
}

static int answer(const struct arguments *a, const char *method, const char *path, json_t *body)
{
        json_t *server = NULL;
        struct err err = {0};
        if (host_call(a, method, path, body, CALL_MS, &server, &err) < 0)
                return verb_fail(a, &err);
        if (!host_json(a, server)) {
                (void)printf("server %s, epoch %" PRId64 "\n", host_text(server, "name"),
                             host_number(server, "epoch"));
                show_hypervisors(server);
                show_resources(server);
                show_upgrade(json_object_get(server, "upgrade"));
        }
        json_decref(server);
        return EXIT_OK;
}

/* ---- verbs ---- */

static int host_server_show(const struct arguments *a)
{
        return answer(a, "GET", "/v1/server", NULL);
}

static int host_server_init(const struct arguments *a)
{
        json_t *parts = json_array(), *part = NULL;
        struct err err = {0};
        size_t at = 0;
        int bad = 0;
        for (const char *text; !bad && (text = arguments_each(a, "--hypervisor", &at));) {
                bad = parse_part(text, &part, &err);
                if (!bad)
                        (void)json_array_append_new(parts, part);
        }
        if (!bad && json_array_size(parts) == 0)
                bad = err_set(&err, REASON_INVALID, EINVAL, "--hypervisor is wanted");
        if (bad) {
                json_decref(parts);
                return verb_fail(a, &err);
        }
        return answer(a, "POST", "/v1/server", json_pack("{s:o}", "hypervisors", parts));
}

static int order(const struct arguments *a, const char *what)
{
        char path[128];
        struct err err = {0};
        if (!str_is_name(a->operands[0])) {
                (void)err_set(&err, REASON_INVALID, EINVAL, "'%s' is no name of a hypervisor",
                              a->operands[0]);
                return verb_fail(a, &err);
        }
        (void)snprintf(path, sizeof(path), "/v1/hypervisors/%s/%s", a->operands[0], what);
        return answer(a, "POST", path, json_object());
}

static int host_server_start(const struct arguments *a)
{
        return order(a, "start");
}

static int host_server_stop(const struct arguments *a)
{
        return order(a, "stop");
}

static int host_server_give(const struct arguments *a)
{
        const char *from = arguments_option(a, "--from"), *to = arguments_option(a, "--to"),
                   *amount = arguments_option(a, "--amount");
        struct err err = {0};
        int64_t bytes = 0;
        if (arguments_option(a, "--cancel"))
                return answer(a, "DELETE", "/v1/server/give", NULL);
        if (a->n_operands == 0) {
                (void)err_set(&err, REASON_INVALID, EINVAL, "a component is wanted, or --cancel");
                return verb_fail(a, &err);
        }
        int bad = from && to ? 0 : err_set(&err, REASON_INVALID, EINVAL, "--from and --to are wanted");
        if (!bad && amount)
                bad = units_parse_bytes(amount, &bytes, &err);
        if (bad)
                return verb_fail(a, &err);
        json_t *body = json_pack("{s:s, s:s, s:s}", "component", a->operands[0], "from", from, "to", to);
        if (amount)
                (void)json_object_set_new(body, "amount", json_integer(bytes));
        return answer(a, "POST", "/v1/server/give", body);
}

static int host_server_events(const struct arguments *a)
{
        const char *trace = arguments_option(a, "--trace");
        struct err err = {0};
        int64_t after = 0;
        size_t n = PAGE, i;
        if (trace && !str_is_id(trace)) {
                (void)err_set(&err, REASON_INVALID, EINVAL, "'%s' is no id", trace);
                return verb_fail(a, &err);
        }
        while (n == PAGE) {
                json_t *page = NULL, *event;
                char path[192];
                (void)snprintf(path, sizeof(path), "/v1/events?after=%" PRId64 "&limit=%d%s%s", after, PAGE,
                               trace ? "&trace=" : "", trace ? trace : "");
                if (host_call(a, "GET", path, NULL, CALL_MS, &page, &err) < 0)
                        return verb_fail(a, &err);
                n = json_array_size(json_object_get(page, "events"));
                json_array_foreach(json_object_get(page, "events"), i, event)
                {
                        after = host_number(event, "seq");
                        if (!host_json_line(a, event))
                                host_print_event(event, 20, 16);
                }
                json_decref(page);
        }
        return EXIT_OK;
}

/* clang-format off */
static const struct option_row init_options[] = {
        {"--hypervisor",                                                           "NAME:KEY=VALUE,...",
         "a hypervisor and its part: node=0 or cpus=0-3,8; memory=16G; keep=memory:node0; user=mete-a (mete-NAME); "
         "vmm=/usr/bin/qemu-system-x86_64",                                                                 true},
        {NULL                                                                                                   },
};
static const struct option_row give_options[] = {
        {"--from",                              "HYPERVISOR", "who has it", false},
        {"--to", "HYPERVISOR", "who is to have it", false},
        {"--amount",                                "SIZE", "only so much of it, of memory: 4G (all that it has of it)", false},
        {"--cancel", NULL, "take back what is on its way and was not let go of yet", false},
        {NULL                                },
};
static const struct option_row upgrade_options[] = {
        {"--vmm", "PATH", "the QEMU of the successor; without it, how the upgrade stands, or the last one ended, is shown", false},
        {"--as", "NAME", "name of the successor: a new one, or one that was retired (that of the old one with the next number: a, a2, a3)", false},
        {"--user", "USER", "user as which its meted runs (mete-NAME, or as it was)", false},
        {"--cpus", "LIST", "CPUs that are nobody's, and are to be its: 0-3,8", false},
        {"--memory", "SIZE", "memory that is nobody's, likewise, of the nodes of those CPUs: needs --cpus", false},
        {"--max-gap", "TIME", "each guest may stand for so long, such as 50ms; else it goes back, and is tried again. Another with the same --id: from now on", false},
        {"--dry-run", NULL, "only start the successor, try each VM on it, and undo that", false},
        {"--id", "ID", "id of the upgrade, for asking again; else one is made", false},
        {"--detach", NULL, "return when it is under way", false},
        {"--cancel", NULL, "undo what is under way, where no VM went over yet; fails unless it ended undone. With HYPERVISOR or --id: only that one", false},
        {NULL                                },
};
static const struct option_row server_events_options[] = {
        {"--trace", "ID", "only what came of that request", false},
        {NULL                                },
};

const struct verb server_verbs[] = {
        {"server init",   "",           0, 0, false, init_options,          "Partition this server among hypervisors",
         "Once for a server: what overlaps is refused, and so is another partition where there is one. What no "
         "hypervisor has is nobody's, and what is kept never changes hands.",                                               host_server_init  },
        {"server show",   "",           0, 0, false, NULL,
         "Show the hypervisors of this server, and who manages which resource",              NULL,                           host_server_show  },
        {"server start",  "HYPERVISOR", 1, 1, false, NULL,                  "Start a hypervisor, now and whenever mete-sp starts",
         "Returns when it has taken its part of the server, or says what is wrong.",                                        host_server_start },
        {"server stop",   "HYPERVISOR", 1, 1, false, NULL,                  "Stop a hypervisor until it is started again",
         "Its VMs run on, and nobody decides for them meanwhile. Of one that an upgrade waits for, as it does not say which VMs it has, "
         "it says that it has none: what it has is the other's then, also what a VM has that runs there all the same.",      host_server_stop  },
        {"server give",   "[COMPONENT]", 0, 1, false, give_options,          "Give what a hypervisor has free to another",
         "Refused where something of it is claimed, now or in time to come, or kept. Until the giver has recorded "
         "that it is without, nobody has it.",                                                                              host_server_give  },
        {"server upgrade", "[HYPERVISOR]", 0, 1, false, upgrade_options,      "Replace a hypervisor by one with a newer QEMU, while its VMs run",
         "Its successor is started with what the old one has free, each VM is tried on it, and all are handed over, a few side by side; "
         "the rest of the old one follows, and it ends. Where anything does not fit, nothing moves, and all is undone; once a VM went "
         "over it only goes forward. Goes on where mete-sp is killed and started again. Prints what became of each VM, and the sum. "
         "Fails where it was undone, and where a VM died or left meanwhile.", host_server_upgrade },
        {"server events", "",           0, 0, false, server_events_options, "Print the event log of the service processor", NULL,
         host_server_events                                                                                                                   },
};
const size_t server_verbs_n = ARRAY_N(server_verbs);
/* clang-format on */
