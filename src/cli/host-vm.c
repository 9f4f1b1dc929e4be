/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "base/str.h"
#include "base/units.h"
#include "cli/exit.h"
#include "cli/host.h"

enum {
        CALL_MS = 30000,
        START_MS = 120000, /* on TCG a VMM with much memory takes its time */
        STOP_DEFAULT_MS = 30000,
        STOP_MARGIN_MS = 15000, /* meted answers at its own limit; ours is only for a meted that hangs */
};

/* "2" or "1..4" with either kind of amount. The second is -1 where there is no range. */
static int range_parse(const char *option, const char *text,
                       int (*parse)(const char *, int64_t *, struct err *), int64_t *ret_low,
                       int64_t *ret_high, struct err *err)
{
        const char *dots = strstr(text, "..");
        char low[UNITS_TEXT];
        int64_t a;
        int64_t b = -1;
        size_t n = dots != NULL ? (size_t)(dots - text) : strlen(text);
        int r;

        if (n >= sizeof(low))
                return err_set(err, REASON_INVALID, EINVAL, "%s %s: too long", option, text);
        memcpy(low, text, n);
        low[n] = '\0';
        r = parse(low, &a, err);
        if (r == 0 && dots != NULL)
                r = parse(dots + 2, &b, err);
        if (r < 0)
                return err_note(err, "%s %s", option, text);
        if (dots != NULL && b < a)
                return err_set(err, REASON_INVALID, EINVAL, "%s %s: the second is less than the first",
                               option, text);
        *ret_low = a;
        *ret_high = b;
        return 0;
}

static int vm_path(const struct arguments *a, const char *verb, char *path, size_t size, struct err *err)
{
        const char *name = a->operands[0];

        if (!str_is_name(name))
                return err_set(err, REASON_INVALID, EINVAL,
                               "'%s' is no name: 1 to 63 letters, digits and ._- are wanted", name);
        (void)snprintf(path, size, "/v1/vms/%s%s%s", name, verb[0] != '\0' ? "/" : "", verb);
        return 0;
}

static int set_range(json_t *body, const struct arguments *a, const char *option, const char *fallback,
                     const char *low_name, const char *high_name,
                     int (*parse)(const char *, int64_t *, struct err *), struct err *err)
{
        const char *text = arguments_option(a, option);
        int64_t low = 0;
        int64_t high = -1;
        int r = range_parse(option, text != NULL ? text : fallback, parse, &low, &high, err);

        if (r < 0)
                return r;
        json_object_set_new(body, low_name, json_integer(low));
        if (high >= 0)
                json_object_set_new(body, high_name, json_integer(high));
        return 0;
}

/* SHARE[..CEILING] */
static int create_share(const struct arguments *a, json_t *body, struct err *err)
{
        const char *text = arguments_option(a, "--share");
        int64_t share = 0, ceiling = -1;

        if (text == NULL)
                return 0;
        int r = range_parse("--share", text, units_parse_milli, &share, &ceiling, err);
        if (r < 0)
                return r;
        if (share < 1 || share > 1000)
                return err_set(err, REASON_INVALID, ERANGE,
                               "--share %.60s: a share is from 0.001 to 1 of a host CPU", text);
        if (ceiling >= 0 && (ceiling < 100 || ceiling > 1000))
                return err_set(err, REASON_INVALID, ERANGE,
                               "--share %.60s: what it never exceeds is from 0.1 to 1 of a host CPU", text);
        json_object_set_new(body, "share_milli", json_integer(share));
        if (ceiling >= 0)
                json_object_set_new(body, "cpu_ceiling_milli", json_integer(ceiling));
        return 0;
}

/* NETWORK:RATE[..CEILING] */
static int create_net(const struct arguments *a, json_t *body, struct err *err)
{
        const char *text = arguments_option(a, "--net");
        const char *rates = text != NULL ? strchr(text, ':') : NULL;
        char network[64];
        int64_t rate = 0, ceiling = -1;

        if (text == NULL)
                return 0;
        if (rates == NULL || (size_t)(rates - text) >= sizeof(network))
                return err_set(err, REASON_INVALID, EINVAL,
                               "--net %.60s: NETWORK:RATE is wanted, such as lan:200M or lan:200M..1G", text);
        memcpy(network, text, (size_t)(rates - text));
        network[rates - text] = '\0';
        int r = range_parse("--net", rates + 1, units_parse_rate, &rate, &ceiling, err);
        if (r < 0)
                return r;
        json_object_set_new(body, "network", json_string(network));
        json_object_set_new(body, "net_rate_bps", json_integer(rate));
        if (ceiling >= 0)
                json_object_set_new(body, "net_ceiling_bps", json_integer(ceiling));
        return 0;
}

static int create_disk_rate(const struct arguments *a, json_t *body, struct err *err)
{
        const char *text = arguments_option(a, "--disk-rate");
        int64_t rate = 0, ceiling = -1;

        if (text == NULL)
                return 0;
        int r = range_parse("--disk-rate", text, units_parse_bytes, &rate, &ceiling, err);
        if (r < 0)
                return r;
        json_object_set_new(body, "disk_rate_bytes", json_integer(rate));
        if (ceiling >= 0)
                json_object_set_new(body, "disk_ceiling_bytes", json_integer(ceiling));
        return 0;
}

static int create_body(const struct arguments *a, json_t *body, struct err *err)
{
        static const char *const plain[][2] = {
                {"--kernel", "kernel"},
                {"--initrd", "initrd"},
                {"--append", "append"},
                {"--disk",   "disk"  }
        };
        int r;

        json_object_set_new(body, "name", json_string(a->operands[0]));
        r = set_range(body, a, "--cpus", "1", "cpus", "cpus_max", units_parse_count, err);
        if (r == 0)
                r = set_range(body, a, "--memory", "512M", "memory_bytes", "memory_max_bytes",
                              units_parse_bytes, err);
        if (r < 0)
                return r;
        r = create_share(a, body, err);
        if (r == 0)
                r = create_net(a, body, err);
        if (r == 0)
                r = create_disk_rate(a, body, err);
        if (r < 0)
                return r;
        const char *page = arguments_option(a, "--page");
        int64_t page_bytes;
        if (page != NULL) {
                r = units_parse_bytes(page, &page_bytes, err);
                if (r < 0)
                        return err_note(err, "--page %s", page);
                json_object_set_new(body, "page_bytes", json_integer(page_bytes));
        }
        if (arguments_option(a, "--prealloc") != NULL)
                json_object_set_new(body, "prealloc", json_true());
        for (size_t i = 0; i < ARRAY_N(plain); i++) {
                const char *value = arguments_option(a, plain[i][0]);
                if (value != NULL)
                        json_object_set_new(body, plain[i][1], json_string(value));
        }
        return 0;
}

static void print_fallbacks(const json_t *answer)
{
        const json_t *fallbacks = json_object_get(answer, "fallbacks");
        size_t i;
        json_t *one;

        json_array_foreach(fallbacks, i, one)(void) printf("fallback: %s\n", json_string_value(one));
}

static void print_changed(const json_t *vm)
{
        size_t i;
        json_t *one;

        json_array_foreach(json_object_get(vm, "changed"), i, one)(void)
                printf("changed:   %s\n", json_string_value(one));
}

static const char *range_text(int64_t low, int64_t high, bool bytes, char *buf, size_t size)
{
        char one[UNITS_TEXT];
        char two[UNITS_TEXT];

        if (bytes)
                (void)snprintf(buf, size, low == high ? "%s" : "%s..%s", units_print_bytes(low, one),
                               units_print_bytes(high, two));
        else
                (void)snprintf(buf, size, low == high ? "%" PRId64 : "%" PRId64 "..%" PRId64, low, high);
        return buf;
}

/* What stays bound for a VM that is stopped. */
static void print_kept(const json_t *vm)
{
        char amount[UNITS_TEXT];
        size_t i;
        json_t *one;

        json_array_foreach(json_object_get(vm, "kept"), i, one)
        {
                int64_t n = host_number(one, "amount");
                bool is_memory = strncmp(host_text(one, "component"), "memory", 6) == 0;
                (void)printf("kept:      %s on %s, %s\n", host_text(one, "item"), host_text(one, "component"),
                             is_memory ? units_print_bytes(n, amount) : units_print_milli(n, amount));
        }
}

static void print_net(const json_t *vm)
{
        char rate[UNITS_TEXT], most[UNITS_TEXT], now[UNITS_TEXT];
        int64_t ceiling = host_number(vm, "net_ceiling_bps");

        (void)printf("network:   %s, %s bit/s guaranteed, %s at most, now %s\n", host_text(vm, "network"),
                     units_print_rate(host_number(vm, "net_rate_bps"), rate),
                     ceiling > 0 ? units_print_rate(ceiling, most) : "as the link has",
                     units_print_rate(host_number(vm, "net_now_bps"), now));
}

static void print_disk(const json_t *vm)
{
        char rate[UNITS_TEXT], most[UNITS_TEXT], now[UNITS_TEXT];
        int64_t stated = host_number(vm, "disk_rate_bytes"), ceiling = host_number(vm, "disk_ceiling_bytes");

        (void)printf("disk:      %s bytes/s of its own, ",
                     stated > 0 ? units_print_bytes(stated, rate)
                                : "what the host gives where none is stated, in");
        (void)printf("%s with leases, now %s\n",
                     ceiling > 0 ? units_print_bytes(ceiling, most) : "as much as the host has",
                     units_print_bytes(host_number(vm, "disk_now_bytes"), now));
}

static void print_vm(const json_t *vm)
{
        char text[2 * UNITS_TEXT + 4];
        char small[UNITS_TEXT];
        size_t i;
        json_t *vcpu;

        (void)printf("name:      %s\nuuid:      %s\nstate:     %s\n", host_text(vm, "name"),
                     host_text(vm, "uuid"), host_text(vm, "state"));
        if (host_number(vm, "pid") > 0)
                (void)printf("pid:       %" PRId64 "\n", host_number(vm, "pid"));
        if (host_text(vm, "ended")[0] != '\0')
                (void)printf("ended:     %s\n", host_text(vm, "ended"));
        (void)printf(
                "cpus:      %s, each of its own with a share of %s",
                range_text(host_number(vm, "cpus"), host_number(vm, "cpus_max"), false, text, sizeof(text)),
                units_print_milli(host_number(vm, "share_milli"), small));
        if (host_number(vm, "cpu_ceiling_milli") > 0)
                (void)printf(", and %s at most",
                             units_print_milli(host_number(vm, "cpu_ceiling_milli"), small));
        (void)putchar('\n');
        (void)printf("memory:    %s in units of %s",
                     range_text(host_number(vm, "memory_bytes"), host_number(vm, "memory_max_bytes"), true,
                                text, sizeof(text)),
                     units_print_bytes(host_number(vm, "unit_bytes"), small));
        (void)printf(", now %s", units_print_bytes(host_number(vm, "memory_now_bytes"), small));
        if (host_number(vm, "page_bytes") > 0)
                (void)printf(", of its own on pages of %s",
                             units_print_bytes(host_number(vm, "page_bytes"), small));
        (void)printf("%s\n",
                     json_is_true(json_object_get(vm, "prealloc")) ? ", taken as a whole at its start" : "");
        print_kept(vm);
        if (host_text(vm, "network")[0] != '\0')
                print_net(vm);
        if (host_number(vm, "disk_rate_bytes") > 0 || host_number(vm, "disk_now_bytes") > 0)
                print_disk(vm);
        (void)printf("machine:   %s, CPU %s, %s, QEMU %s\n", host_text(vm, "machine"),
                     host_text(vm, "cpu_model"), host_text(vm, "accelerator"), host_text(vm, "qemu"));
        (void)printf("grows by:  memory %s, vCPUs taken back by %s\n", host_text(vm, "memory_mechanism"),
                     host_text(vm, "cpu_mechanism"));
        (void)printf("agent:     %s\n",
                     host_text(vm, "agent")[0] != '\0' ? host_text(vm, "agent") : "not connected");
        print_changed(vm);
        print_fallbacks(vm);
        struct table *t = table_new((const char *const[]){">VCPU", "USE", "BACKED BY", ">SHARE", NULL});
        json_array_foreach(json_object_get(vm, "vcpus"), i, vcpu)
        {
                table_number(t, host_number(vcpu, "vcpu"));
                table_text(t, host_text(vcpu, "use"));
                table_text(t, host_text(vcpu, "component"));
                table_text(t, units_print_milli(host_number(vcpu, "share_milli"), small));
        }
        if (json_array_size(json_object_get(vm, "vcpus")) > 0) {
                (void)putchar('\n');
                table_print(t, stdout, "no vCPUs");
        }
        table_free(t);
}

int host_vm_create(const struct arguments *a)
{
        json_t *body = json_object();
        json_t *vm = NULL;
        struct err err = {0};
        char path[128];
        int r = vm_path(a, "", path, sizeof(path), &err);

        if (r == 0)
                r = create_body(a, body, &err);
        if (r < 0) {
                json_decref(body);
                return verb_fail(a, &err);
        }
        bool is_bootable = json_object_get(body, "kernel") != NULL || json_object_get(body, "disk") != NULL;
        if (host_call(a, "POST", "/v1/vms", body, CALL_MS, &vm, &err) < 0)
                return verb_fail(a, &err);
        if (!is_bootable)
                (void)fprintf(
                        stderr,
                        "mete vm create: %s has neither a kernel nor a disk, so there is nothing that it "
                        "could boot; see --kernel and --disk\n",
                        a->operands[0]);
        if (!host_json(a, vm)) {
                char text[2 * UNITS_TEXT + 4];
                char memory[2 * UNITS_TEXT + 4];
                (void)printf("%s: cpus %s, memory %s, %s, %s\n", host_text(vm, "name"),
                             range_text(host_number(vm, "cpus"), host_number(vm, "cpus_max"), false, text,
                                        sizeof(text)),
                             range_text(host_number(vm, "memory_bytes"), host_number(vm, "memory_max_bytes"),
                                        true, memory, sizeof(memory)),
                             host_text(vm, "machine"), host_text(vm, "accelerator"));
                print_fallbacks(vm);
        }
        json_decref(vm);
        return EXIT_OK;
}

/* A verb on a VM whose answer is the VM. */
static int vm_act(const struct arguments *a, const char *verb, json_t *body, int timeout_ms)
{
        json_t *vm = NULL;
        struct err err = {0};
        char path[128];

        if (vm_path(a, verb, path, sizeof(path), &err) < 0) {
                json_decref(body);
                return verb_fail(a, &err);
        }
        if (host_call(a, "POST", path, body, timeout_ms, &vm, &err) < 0)
                return verb_fail(a, &err);
        if (!host_json(a, vm))
                (void)printf("%s: %s\n", host_text(vm, "name"), host_text(vm, "state"));
        json_decref(vm);
        return EXIT_OK;
}

int host_vm_start(const struct arguments *a)
{
        return vm_act(a, "start", NULL, START_MS);
}

int host_vm_stop(const struct arguments *a)
{
        const char *text = arguments_option(a, "--timeout");
        int64_t timeout_ms = STOP_DEFAULT_MS;
        struct err err = {0};

        if (text != NULL) {
                if (units_parse_ms(text, &timeout_ms, &err) < 0) {
                        (void)err_note(&err, "--timeout %s", text);
                        return verb_fail(a, &err);
                }
                if (timeout_ms < 1 || timeout_ms > 600000) {
                        (void)err_set(&err, REASON_INVALID, EINVAL, "--timeout %s: 1ms to 10m are possible",
                                      text);
                        return verb_fail(a, &err);
                }
        }
        json_t *body = json_object();
        json_object_set_new(body, "timeout_ms", json_integer(timeout_ms));
        return vm_act(a, "stop", body, (int)timeout_ms + STOP_MARGIN_MS);
}

int host_vm_kill(const struct arguments *a)
{
        return vm_act(a, "kill", NULL, CALL_MS);
}

int host_vm_verify(const struct arguments *a)
{
        json_t *vm = NULL;
        struct err err = {0};
        char path[128];

        if (vm_path(a, "verify", path, sizeof(path), &err) < 0 ||
            host_call(a, "POST", path, NULL, START_MS, &vm, &err) < 0)
                return verb_fail(a, &err);
        bool is_changed = json_array_size(json_object_get(vm, "changed")) > 0;
        int64_t repaired = host_number(vm, "repaired"), unknown = host_number(vm, "unknown");
        if (!host_json(a, vm)) {
                const char *name = host_text(vm, "name");
                print_changed(vm);
                if (unknown > 0)
                        (void)printf("%s: %" PRId64
                                     " of its requests could not be looked at; is mete-keeper there?\n",
                                     name, unknown);
                else if (!is_changed)
                        (void)printf("%s: all is held as it was granted%s\n", name, repaired ? " again" : "");
                if (repaired > 0)
                        (void)printf("repaired:  %" PRId64
                                     " changed behind our back; 'mete events --trace %s' says what\n",
                                     repaired, name);
        }
        json_decref(vm);
        return is_changed || unknown > 0 ? EXIT_FAILED : EXIT_OK;
}

int host_vm_delete(const struct arguments *a)
{
        json_t *answer = NULL;
        struct err err = {0};
        char path[128];

        if (vm_path(a, "", path, sizeof(path), &err) < 0 ||
            host_call(a, "DELETE", path, NULL, CALL_MS, &answer, &err) < 0)
                return verb_fail(a, &err);
        (void)host_json(a, answer);
        json_decref(answer);
        return EXIT_OK;
}

int host_vm_list(const struct arguments *a)
{
        json_t *page = NULL;
        struct err err = {0};
        size_t i;
        json_t *vm;
        char text[2 * UNITS_TEXT + 4];

        if (host_pages(a, "/v1/vms", &page, &err) < 0)
                return verb_fail(a, &err);
        if (!host_json(a, page)) {
                struct table *t = table_new((const char *const[]){"NAME", "STATE", ">CPUS", ">MEMORY",
                                                                  ">MEMORY NOW", "AGENT", NULL});
                json_array_foreach(json_object_get(page, "vms"), i, vm)
                {
                        table_text(t, host_text(vm, "name"));
                        table_text(t, host_text(vm, "state"));
                        table_text(t, range_text(host_number(vm, "cpus"), host_number(vm, "cpus_max"), false,
                                                 text, sizeof(text)));
                        table_text(t,
                                   range_text(host_number(vm, "memory_bytes"),
                                              host_number(vm, "memory_max_bytes"), true, text, sizeof(text)));
                        table_bytes(t, host_number(vm, "memory_now_bytes"));
                        table_text(t, host_text(vm, "agent"));
                }
                table_print(t, stdout, "no VMs");
                table_free(t);
        }
        json_decref(page);
        return EXIT_OK;
}

int host_check_vm(const struct arguments *a, const char *name, struct err *err)
{
        json_t *vm = NULL;
        char path[128];
        if (!str_is_name(name))
                return err_set(err, REASON_NOT_FOUND, ENOENT, "no VM is called %s", name);
        (void)snprintf(path, sizeof(path), "/v1/vms/%.63s", name);
        int r = host_call(a, "GET", path, NULL, CALL_MS, &vm, err);
        json_decref(vm);
        return r;
}

int host_vm_show(const struct arguments *a)
{
        json_t *vm = NULL;
        struct err err = {0};
        char path[128];

        if (vm_path(a, "", path, sizeof(path), &err) < 0 ||
            host_call(a, "GET", path, NULL, CALL_MS, &vm, &err) < 0)
                return verb_fail(a, &err);
        if (!host_json(a, vm)) {
                print_vm(vm);
                (void)printf("\n");
                if (host_print_definitions(a, a->operands[0], &err) < 0) {
                        json_decref(vm);
                        return verb_fail(a, &err);
                }
        }
        json_decref(vm);
        return EXIT_OK;
}
