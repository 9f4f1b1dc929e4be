/* SPDX-License-Identifier: Apache-2.0 */
/* What the host has and who holds it: host show, offline, online, ledger, leases, definition list, reserve,
 * unreserve. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>
#include "base/str.h"
#include "base/units.h"
#include "cli/exit.h"
#include "cli/host.h"

enum { CALL_MS = 30000 };

static void print_pages(const json_t *components)
{
        size_t i, k;
        json_t *c, *size;
        char text[UNITS_TEXT];

        json_array_foreach(components, i, c)
        {
                if (json_array_size(json_object_get(c, "page_bytes")) == 0)
                        continue;
                (void)printf("huge pages:  of %s", host_text(c, "id"));
                json_array_foreach(json_object_get(c, "page_bytes"), k, size)(void)
                        printf("%s %s", k > 0 ? "," : "", units_print_bytes(json_integer_value(size), text));
                (void)putchar('\n');
        }
}

const char *host_state_text(const json_t *component, char ret[HOST_STATE])
{
        const char *state = host_text(component, "state");
        time_t until = (time_t)(host_number(component, "until_ms") / 1000);
        char text[32] = "";
        struct tm tm;
        if (until && localtime_r(&until, &tm))
                (void)strftime(text, sizeof(text), ", until %F %T", &tm);
        (void)snprintf(ret, HOST_STATE, "%.127s%s", *state ? state : "usable", text);
        return ret;
}

static void print_components(const json_t *components)
{
        char state[HOST_STATE];
        struct table *t = table_new(
                (const char *const[]){"COMPONENT", ">NODE", ">CAPACITY", ">CLAIMED", ">FREE", "STATE", NULL});
        size_t i;
        json_t *c;

        json_array_foreach(components, i, c)
        {
                const char *id = host_text(c, "id");
                table_text(t, id);
                table_number(t, host_number(c, "node"));
                table_amount(t, id, host_number(c, "capacity"));
                table_amount(t, id, host_number(c, "claimed"));
                table_amount(t, id, host_number(c, "free"));
                table_text(t, host_state_text(c, state));
        }
        table_print(t, stdout, "no components");
        table_free(t);
}

int host_show(const struct arguments *a)
{
        json_t *host = NULL;
        struct err err = {0};
        size_t i;
        json_t *row;

        if (host_call(a, "GET", "/v1/host", NULL, CALL_MS, &host, &err) < 0)
                return verb_fail(a, &err);
        if (host_json(a, host)) {
                json_decref(host);
                return EXIT_OK;
        }
        (void)printf("host:        %s\naccelerator: %s\nqemu:        %s\ncpus by:     %s, overcommit %" PRId64
                     "\n",
                     host_text(host, "name"), host_text(host, "accelerator"), host_text(host, "qemu"),
                     host_text(host, "cpu_provider"), host_number(host, "cpu_overcommit"));
        json_array_foreach(json_object_get(host, "fallbacks"), i, row)(void)
                printf("fallback:    %s\n", json_string_value(row));
        print_pages(json_object_get(host, "components"));
        (void)putchar('\n');
        print_components(json_object_get(host, "components"));
        (void)putchar('\n');
        struct table *t =
                table_new((const char *const[]){"PARAMETER", "ANSWERED BY", "HELD BY", "MEANS", NULL});
        json_array_foreach(json_object_get(host, "parameters"), i, row)
        {
                char name[64];
                (void)snprintf(
                        name, sizeof(name), "%s:N,%s%s", host_text(row, "kind"), host_text(row, "name"),
                        strcmp(host_text(row, "relation"), "flag") == 0 ? "" : host_text(row, "relation"));
                table_text(t, name);
                table_text(t, host_text(row, "source"));
                table_text(t, host_text(row, "provider"));
                table_text(t, host_text(row, "description"));
        }
        table_print(t, stdout, "no parameters can be kept here");
        table_free(t);
        json_decref(host);
        return EXIT_OK;
}

int host_ledger(const struct arguments *a)
{
        json_t *page = NULL;
        struct err err = {0};
        size_t i;
        json_t *c;

        if (host_pages(a, "/v1/ledger", &page, &err) < 0)
                return verb_fail(a, &err);
        if (!host_json(a, page)) {
                print_components(json_object_get(page, "components"));
                (void)putchar('\n');
                struct table *t = table_new((const char *const[]){"COMPONENT", ">AMOUNT", "STATE", "HOLDER",
                                                                  "FROM", "UNTIL", NULL});
                json_array_foreach(json_object_get(page, "claims"), i, c)
                {
                        table_text(t, host_text(c, "component"));
                        table_amount(t, host_text(c, "component"), host_number(c, "amount"));
                        table_text(t, host_text(c, "state"));
                        table_text(t, host_text(c, "holder"));
                        table_time(t, host_number(c, "start_ms"));
                        table_time(t, host_number(c, "end_ms"));
                }
                table_print(t, stdout, "no claims");
                table_free(t);
        }
        json_decref(page);
        return EXIT_OK;
}

int host_leases(const struct arguments *a)
{
        json_t *page = NULL;
        struct err err = {0};
        size_t i;
        json_t *lease;

        if (host_pages(a, "/v1/leases", &page, &err) < 0)
                return verb_fail(a, &err);
        if (!host_json(a, page)) {
                struct table *t = table_new((const char *const[]){"HOLDER", "STATE", "NEEDS", "APPLICATION",
                                                                  "SINCE", "UNTIL", NULL});
                json_array_foreach(json_object_get(page, "leases"), i, lease)
                {
                        table_text(t, host_text(lease, "holder"));
                        table_text(t, host_text(lease, "state"));
                        table_text(t, host_joined(json_object_get(lease, "needs")));
                        table_text(t, host_text(lease, "application"));
                        table_time(t, host_number(lease, "since_ms"));
                        table_time(t, host_number(lease, "end_ms"));
                }
                table_print(t, stdout, "no leases");
                table_free(t);
        }
        json_decref(page);
        return EXIT_OK;
}

/* ---- definitions ---- */

static const char *yes_no(const json_t *object, const char *name)
{
        return json_is_true(json_object_get(object, name)) ? "yes" : "no";
}

/* All of them; of one VM where vm is not NULL; of one item of it where item is not NULL. */
static int read_definitions(const struct arguments *a, const char *vm, const char *item, json_t **ret,
                            struct err *err)
{
        json_t *page = NULL;
        char path[128] = "/v1/definitions";
        if (vm != NULL && !str_is_name(vm))
                return err_set(err, REASON_NOT_FOUND, ENOENT, "no VM is called %s", vm);
        if (vm != NULL)
                (void)snprintf(path, sizeof(path), "/v1/definitions?vm=%.63s", vm);
        int r = host_pages(a, path, &page, err);
        if (r < 0)
                return r;
        json_t *list = json_object_get(page, "definitions");
        for (size_t i = json_array_size(list); item != NULL && i-- > 0;)
                if (strcmp(host_text(json_array_get(list, i), "item"), item) != 0)
                        (void)json_array_remove(list, i);
        *ret = page;
        return 0;
}

static void print_definitions(const json_t *page)
{
        size_t i;
        json_t *d;
        struct table *t = table_new((const char *const[]){"VM", "ITEM", "COMPONENT", ">AMOUNT", "HOST",
                                                          "ACTIVE", "CONFIGURED", "HOLDER", NULL});
        json_array_foreach(json_object_get(page, "definitions"), i, d)
        {
                table_text(t, host_text(d, "vm"));
                table_text(t, host_text(d, "item"));
                table_text(t, host_text(d, "component"));
                table_amount(t, host_text(d, "component"), host_number(d, "amount"));
                table_text(t, yes_no(d, "host_active"));
                table_text(t, json_is_true(json_object_get(d, "held")) ? "held" : yes_no(d, "active"));
                table_text(t, yes_no(d, "configured"));
                table_text(t, host_text(d, "holder"));
        }
        table_print(t, stdout, "no definitions");
        table_free(t);
}

int host_print_definitions(const struct arguments *a, const char *vm, struct err *err)
{
        json_t *page = NULL;
        int r = read_definitions(a, vm, NULL, &page, err);
        if (r == 0)
                print_definitions(page);
        json_decref(page);
        return r;
}

int host_definition_list(const struct arguments *a)
{
        json_t *page = NULL;
        struct err err = {0};
        if ((a->n_operands && host_check_vm(a, a->operands[0], &err) < 0) ||
            read_definitions(a, a->n_operands ? a->operands[0] : NULL, NULL, &page, &err) < 0)
                return verb_fail(a, &err);
        if (!host_json(a, page))
                print_definitions(page);
        json_decref(page);
        return EXIT_OK;
}

int host_definition_show(const struct arguments *a)
{
        json_t *page = NULL;
        struct err err = {0};
        char vm[64];
        const char *slash = strchr(a->operands[0], '/');
        size_t n = slash ? (size_t)(slash - a->operands[0]) : 0;
        if (n == 0 || n >= sizeof(vm)) {
                (void)err_set(&err, REASON_INVALID, EINVAL,
                              "%s: a definition is called VM/ITEM, such as web1/vcpu3", a->operands[0]);
                return verb_fail(a, &err);
        }
        memcpy(vm, a->operands[0], n);
        vm[n] = '\0';
        if (read_definitions(a, vm, slash + 1, &page, &err) < 0)
                return verb_fail(a, &err);
        const json_t *d = json_array_get(json_object_get(page, "definitions"), 0);
        if (d == NULL) {
                (void)err_set(&err, REASON_NOT_FOUND, ENOENT, "no virtual resource is called %s",
                              a->operands[0]);
                json_decref(page);
                return verb_fail(a, &err);
        }
        if (!host_json(a, d)) {
                const char *key;
                json_t *value;
                json_object_foreach((json_t *)d, key, value)
                {
                        char amount[HOST_AMOUNT];
                        const char *text = json_is_true(value) ? "yes" : "no";
                        if (json_is_string(value))
                                text = json_string_value(value);
                        else if (json_is_integer(value))
                                text = host_amount_text(host_text(d, "component"), json_integer_value(value),
                                                        amount);
                        (void)printf("%-12s %s\n", key, text);
                }
        }
        json_decref(page);
        return EXIT_OK;
}

/* An option with a length of time, in milliseconds; -1 where it was not given. */
static int option_ms(const struct arguments *a, const char *option, int64_t *ret_ms, struct err *err)
{
        const char *text = arguments_option(a, option);
        int r;

        if (text == NULL) {
                *ret_ms = -1;
                return 0;
        }
        r = units_parse_ms(text, ret_ms, err);
        return r < 0 ? err_note(err, "%s %s", option, text) : 0;
}

static int reserve_body(const struct arguments *a, json_t *body, struct err *err)
{
        json_t *needs = json_array();
        struct timespec now;
        int64_t start_ms;
        int64_t for_ms;
        size_t at = 0;
        const char *need;

        json_object_set_new(body, "id", json_string(a->operands[0]));
        json_object_set_new(body, "needs", needs);
        while ((need = arguments_each(a, "--need", &at)) != NULL)
                json_array_append_new(needs, json_string(need));
        if (json_array_size(needs) == 0)
                return err_set(err, REASON_INVALID, EINVAL, "at least one --need is wanted");
        int r = option_ms(a, "--start", &start_ms, err);
        if (r == 0)
                r = option_ms(a, "--for", &for_ms, err);
        if (r < 0)
                return r;
        (void)clock_gettime(CLOCK_REALTIME, &now);
        int64_t begin_ms = (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000 + (start_ms > 0 ? start_ms : 0);
        if (start_ms > 0)
                json_object_set_new(body, "start_ms", json_integer(begin_ms));
        if (for_ms >= 0)
                json_object_set_new(body, "end_ms", json_integer(begin_ms + for_ms));
        return 0;
}

static void add_count(char *text, size_t size, int64_t n, const char *one, const char *many)
{
        size_t at = strlen(text);
        if (n > 0)
                (void)snprintf(text + at, size - at, "%s%" PRId64 " %s", at > 0 ? ", " : ": ", n,
                               n == 1 ? one : many);
}

/* "cpu:1 is off line, by an operator: 2 vCPUs move, 1 lease ends" */
static void print_changed(const json_t *c)
{
        char state[HOST_STATE], text[256] = "";
        const char *id = host_text(c, "component");
        add_count(text, sizeof(text), host_number(c, "moves"), "vCPU moves", "vCPUs move");
        add_count(text, sizeof(text), host_number(c, "ends"), "lease ends", "leases end");
        add_count(text, sizeof(text), host_number(c, "stuck"), "vCPU has no other place and stays",
                  "vCPUs have no other place and stay");
        add_count(text, sizeof(text), host_number(c, "keeps"), "VM keeps its own memory",
                  "VMs keep their own memory");
        (void)printf("%s is %s%s\n", id, host_state_text(c, state), text);
        if (*host_text(c, "state") && host_number(c, "left") == 0)
                (void)printf("nothing of %.*s can be given away now\n", (int)strcspn(id, ":"), id);
}

static int change_component(const struct arguments *a, const char *path, json_t *body)
{
        json_t *answer = NULL;
        struct err err = {0};
        if (host_call(a, "POST", path, body, CALL_MS, &answer, &err) < 0)
                return verb_fail(a, &err);
        if (!host_json(a, answer))
                print_changed(answer);
        json_decref(answer);
        return EXIT_OK;
}

enum { YEAR_DAYS = 365 };

int host_offline(const struct arguments *a)
{
        struct err err = {0};
        int64_t for_ms, bytes = 0;
        const char *amount = arguments_option(a, "--amount");
        int r = option_ms(a, "--for", &for_ms, &err);
        if (r == 0 && (for_ms == 0 || for_ms > (int64_t)YEAR_DAYS * 24 * 3600 * 1000))
                r = err_set(&err, REASON_INVALID, ERANGE,
                            "--for %s: it must be more than nothing, and at most %dd",
                            arguments_option(a, "--for"), YEAR_DAYS);
        if (r == 0 && amount != NULL && (r = units_parse_bytes(amount, &bytes, &err)) < 0)
                (void)err_note(&err, "--amount %s", amount);
        else if (r == 0 && amount != NULL && bytes == 0)
                r = err_set(&err, REASON_INVALID, ERANGE, "--amount %s: that is nothing", amount);
        if (r < 0)
                return verb_fail(a, &err);
        json_t *body = json_pack("{s:s}", "component", a->operands[0]);
        if (amount != NULL)
                json_object_set_new(body, "amount_bytes", json_integer(bytes));
        if (for_ms >= 0)
                json_object_set_new(body, "for_ms", json_integer(for_ms));
        if (arguments_option(a, "--inject") != NULL)
                json_object_set_new(body, "injected", json_true());
        return change_component(a, "/v1/host/offline", body);
}

int host_online(const struct arguments *a)
{
        return change_component(a, "/v1/host/online", json_pack("{s:s}", "component", a->operands[0]));
}

int host_reserve(const struct arguments *a)
{
        json_t *body = json_object();
        json_t *verdict = NULL;
        struct err err = {0};
        int status = EXIT_OK;

        if (reserve_body(a, body, &err) < 0) {
                json_decref(body);
                return verb_fail(a, &err);
        }
        if (host_call(a, "POST", "/v1/reservations", body, CALL_MS, &verdict, &err) < 0)
                return verb_fail(a, &err);
        if (strcmp(host_text(verdict, "outcome"), "granted") != 0) {
                status = exit_from_reason(reason_from_name(host_text(verdict, "reason")));
                if (strcmp(host_text(verdict, "outcome"), "never") == 0 && status == EXIT_NOT_NOW)
                        status = EXIT_NEVER;
        }
        bool granted = status == EXIT_OK; /* that sentence begins with the word */
        if (!host_json(a, verdict))
                (void)fprintf(granted ? stdout : stderr, "%s: %s%s%s\n", host_text(verdict, "request"),
                              granted ? "" : host_text(verdict, "outcome"), granted ? "" : ": ",
                              host_text(verdict, "sentence"));
        json_decref(verdict);
        return status;
}

int host_unreserve(const struct arguments *a)
{
        json_t *answer = NULL;
        struct err err = {0};
        char path[512];

        if (strlen(a->operands[0]) > 63 || strpbrk(a->operands[0], "/?#% ") != NULL) {
                (void)err_set(&err, REASON_INVALID, EINVAL, "'%s' is no id", a->operands[0]);
                return verb_fail(a, &err);
        }
        (void)snprintf(path, sizeof(path), "/v1/reservations/%s", a->operands[0]);
        if (host_call(a, "DELETE", path, NULL, CALL_MS, &answer, &err) < 0)
                return verb_fail(a, &err);
        (void)host_json(a, answer);
        json_decref(answer);
        return EXIT_OK;
}
