/* SPDX-License-Identifier: Apache-2.0 */
/* doctor: what this machine can do, asked of the machine itself, so that it also helps where meted does not
 * run. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include "base/str.h"
#include "base/units.h"
#include "cli/exit.h"
#include "cli/host.h"
#include "host/cpu.h"
#include "host/inventory.h"
#include "vm/probe.h"

enum { CALL_MS = 5000, PROBE_MS = 20000 };

/* What a finding means: changed is a grant that is not held as it was granted, missing is what mete cannot do
 * without. */
enum finding { FINDING_OK = 1, FINDING_FALLBACK, FINDING_CHANGED, FINDING_MISSING, FINDING_N };

struct doctor {
        const struct arguments *arguments;
        json_t *findings;
        struct table *table;
        int missing;
};

static void found(struct doctor *d, const char *what, enum finding finding, const char *text)
{
        static const char *const names[FINDING_N] = {[FINDING_OK] = "ok",
                                                     [FINDING_FALLBACK] = "fallback",
                                                     [FINDING_CHANGED] = "CHANGED",
                                                     [FINDING_MISSING] = "MISSING"};
        json_t *row = json_object();

        json_object_set_new(row, "what", json_string(what));
        json_object_set_new(row, "finding", json_string(names[finding]));
        json_object_set_new(row, "text", json_string(text));
        json_array_append_new(d->findings, row);
        table_text(d->table, what);
        table_text(d->table, names[finding]);
        table_text(d->table, text);
        d->missing += finding >= FINDING_CHANGED;
}

static void look_at_machine(struct doctor *d)
{
        struct inventory_options options = {.source = INVENTORY_LIVE};
        struct inventory inventory = {0};
        struct err err = {0};
        char text[256];
        char memory[UNITS_TEXT];
        size_t nodes = 0;

        if (inventory_read(&options, &inventory, &err) < 0) {
                found(d, "inventory", FINDING_MISSING, err.sentence);
                return;
        }
        for (size_t i = 0; i < inventory.n; i++)
                nodes += inventory.components[i].kind == COMPONENT_MEMORY;
        (void)snprintf(text, sizeof(text), "%zu CPUs, %s of memory on %zu NUMA node%s", inventory.cpus_owned,
                       units_print_bytes(inventory.memory_bytes >> 20 << 20, memory), nodes,
                       nodes == 1 ? "" : "s");
        found(d, "inventory", FINDING_OK, text);
        inventory_done(&inventory);
}

static void look_at_cpus(struct doctor *d)
{
        struct cpu_host_options options = {.prefix = "mete"};
        struct cpu_host *h = calloc(1, sizeof(*h));
        struct err err = {0};
        char text[256];

        if (h == NULL || cpu_host_init(h, &options, &err) < 0) {
                found(d, "CPU grants", FINDING_MISSING, err.sentence);
        } else {
                (void)snprintf(text, sizeof(text), "held by %s%s%s", cpu_provider_id_name(h->id),
                               h->fallback[0] != '\0' ? ": " : "", h->fallback);
                found(d, "CPU grants", h->fallback[0] != '\0' ? FINDING_FALLBACK : FINDING_OK, text);
                if (h->provider->is_holding_shares)
                        found(d, "exclusive CPUs", FINDING_FALLBACK, CPU_OUTSIDE);
                /* Without it what the keeper says is in force. */
                (void)snprintf(text, sizeof(text), "%s/mete.slice/mete-vms.scope", h->tree[0].root);
                if (h->id == CPU_CGROUP_V2 && access(text, F_OK) == 0)
                        found(d, "groups of VMs", FINDING_OK,
                              "in mete-vms.scope, which systemd has handed over");
        }
        free(h);
}

static void look_at_qemu(struct doctor *d)
{
        const char *path = getenv("METE_QEMU");
        struct api_qemu_probe *probe = calloc(1, sizeof(*probe));
        struct err err = {0};
        char text[256];
        char why[128] = "";

        if (probe_kvm("/dev/kvm", "/proc/cpuinfo", why, sizeof(why)))
                found(d, "accelerator", FINDING_OK, "kvm");
        else {
                (void)snprintf(text, sizeof(text), "tcg: %s", why);
                found(d, "accelerator", FINDING_FALLBACK, text);
        }
        if (path == NULL || path[0] == '\0')
                path = "/usr/bin/qemu-system-x86_64";
        if (probe == NULL || probe_qemu(path, NULL, PROBE_MS, probe, &err) < 0) {
                (void)snprintf(text, sizeof(text), "%s: %s", path, err.sentence);
                found(d, "QEMU", FINDING_MISSING, text);
        } else {
                (void)snprintf(text, sizeof(text), "%s, %s", probe->version, path);
                found(d, "QEMU", FINDING_OK, text);
        }
        free(probe);
}

static void look_at_ram_files(struct doctor *d)
{
        struct statvfs fs;
        char text[512];
        char size[UNITS_TEXT];
        json_t *host = NULL;
        struct err err = {0};

        /* Where the keeper has them; its default lies in /dev/shm. */
        bool is_known = host_call(d->arguments, "GET", "/v1/host", NULL, CALL_MS, &host, &err) == 0 &&
                        *host_text(host, "ram_dir") != '\0';
        const char *dir = is_known ? host_text(host, "ram_dir") : "/dev/shm";
        if (statvfs(dir, &fs) < 0) {
                (void)snprintf(text, sizeof(text), "%.255s: %s; shareable guest memory lives there", dir,
                               strerror(errno));
                found(d, "RAM files", FINDING_MISSING, text);
        } else {
                int64_t free_bytes = (int64_t)fs.f_bavail * (int64_t)fs.f_frsize;
                (void)snprintf(text, sizeof(text), "%.255s has room for %s%s", dir,
                               units_print_bytes(free_bytes >> 20 << 20, size),
                               is_known ? "" : "; whether the RAM files are there only meted knows");
                found(d, "RAM files", FINDING_OK, text);
        }
        json_decref(host);
}

/* What is wrong, and what would mend it. */
static void away(struct doctor *d, const char *what, const char *sentence, const char *unit,
                 const char *command)
{
        char text[512];
        if (access("/run/systemd/system", F_OK) == 0)
                (void)snprintf(text, sizeof(text), "%.300s; start it: systemctl start %s", sentence, unit);
        else
                (void)snprintf(text, sizeof(text), "%.300s; start it: %s", sentence, command);
        found(d, what, FINDING_MISSING, text);
}

/* Kinds that are there only where an operator wants them. */
static const struct kind_row {
        const char *what, *kind, *other;
        const char *(*print)(int64_t amount, char buf[UNITS_TEXT]); /* NULL: as a number */
        const char *unit, *may, *missing;                           /* unit NULL: the component says it */
} kind_rows[] = {
        {"bandwidth",          "net",   "",      units_print_rate,  "bit/s",   "guaranteed",
         "there is no kind net: [net] manage is not yes in mete.conf, so VMs have no network card"    },
        {"disks",              "block", "",      units_print_bytes, "bytes/s", "given away",
         "there is no kind block: [block] rate is not in mete.conf, so VMs' disks are held to nothing"},
        {"classes of service", "cache", "membw", NULL,              NULL,      "leased",
         "there are no kinds cache and membw: [resctrl] manage is not yes in mete.conf, or this kernel or "
         "CPU has no resctrl"                                                                         },
};

static void look_at_kind(struct doctor *d, const json_t *host, const struct kind_row *row)
{
        size_t i;
        json_t *c;
        char text[256];
        char amount[UNITS_TEXT];
        bool is_there = false;

        json_array_foreach(json_object_get(host, "components"), i, c)
        {
                const char *kind = host_text(c, "kind");
                int64_t capacity = host_number(c, "capacity");
                if (strcmp(kind, row->kind) != 0 && strcmp(kind, row->other) != 0)
                        continue;
                is_there = true;
                if (row->print)
                        (void)row->print(capacity, amount);
                else
                        (void)snprintf(amount, sizeof(amount), "%lld", (long long)capacity);
                (void)snprintf(text, sizeof(text), "%s %s of %s may be %s (%s)", amount,
                               row->unit ? row->unit : host_text(c, "unit"), host_text(c, "id"), row->may,
                               host_text(c, "source"));
                found(d, row->what, FINDING_OK, text);
        }
        if (!is_there)
                found(d, row->what, FINDING_FALLBACK, row->missing);
}

static void look_at_use(struct doctor *d, const json_t *host)
{
        size_t i;
        json_t *c;
        char text[256], state[HOST_STATE];

        json_array_foreach(json_object_get(host, "components"), i, c)
        {
                if (*host_text(c, "state") == '\0')
                        continue;
                (void)snprintf(text, sizeof(text), "%s is %s", host_text(c, "id"), host_state_text(c, state));
                found(d, "out of use", FINDING_FALLBACK, text);
        }
}

static void look_at_pages(struct doctor *d, const json_t *host)
{
        size_t i, k;
        json_t *c, *size;
        char text[256] = "";
        char bytes[UNITS_TEXT];

        json_array_foreach(json_object_get(host, "components"), i, c)
        {
                if (*text != '\0') /* all nodes have the same */
                        break;
                json_array_foreach(json_object_get(c, "page_bytes"), k, size)
                {
                        size_t at = strlen(text);
                        (void)snprintf(text + at, sizeof(text) - at, "%s%s",
                                       k > 0 ? ", " : "memory may be of pages of ",
                                       units_print_bytes(json_integer_value(size), bytes));
                }
        }
        if (*text != '\0')
                found(d, "huge pages", FINDING_OK, text);
        else
                found(d, "huge pages", FINDING_FALLBACK,
                      "memory is of ordinary pages only: [keeper] huge_dir in keeper.conf names no "
                      "hugetlbfs");
}

/* What was granted and is not held as it was. */
static void look_at_vms(struct doctor *d)
{
        json_t *page = NULL;
        struct err err = {0};
        char text[512];
        size_t i, k;
        json_t *vm, *changed;

        if (host_pages(d->arguments, "/v1/vms", &page, &err) < 0) {
                found(d, "VMs", FINDING_MISSING, err.sentence);
                return;
        }
        json_array_foreach(json_object_get(page, "vms"), i, vm)
        {
                if (json_array_size(json_object_get(vm, "kept")) == 0)
                        continue;
                (void)snprintf(text, sizeof(text), "%s is stopped and keeps what it had; it counts as free",
                               host_text(vm, "name"));
                found(d, "kept", FINDING_OK, text);
        }
        json_array_foreach(json_object_get(page, "vms"), i, vm)
                json_array_foreach(json_object_get(vm, "changed"), k, changed)
        {
                (void)snprintf(text, sizeof(text), "%s, %.300s", host_text(vm, "name"),
                               json_string_value(changed));
                found(d, "VM", FINDING_CHANGED, text);
        }
        json_decref(page);
}

enum { CERTIFICATE_SOON_DAYS = 30, CLOCK_OFF_MS = 1000 };

static void look_at_peer(struct doctor *d, const json_t *peer)
{
        char text[512];
        char ends[64] = "";
        int64_t days = CERTIFICATE_SOON_DAYS;
        int64_t ahead_ms = host_number(peer, "clock_ahead_ms");
        if (!json_is_true(json_object_get(peer, "reachable"))) {
                (void)snprintf(text, sizeof(text), "%s is not reachable: %.300s", host_text(peer, "name"),
                               json_object_get(peer, "problem") ? host_text(peer, "problem")
                                                                : "it was not asked yet");
                found(d, "peer", FINDING_FALLBACK, text);
                return;
        }
        (void)host_certificate_ends(peer, ends, sizeof(ends), &days);
        bool is_off = ahead_ms > CLOCK_OFF_MS || ahead_ms < -CLOCK_OFF_MS;
        (void)snprintf(text, sizeof(text), "%s is reachable, %s%sits clock is %" PRId64 " ms %s",
                       host_text(peer, "name"), ends, *ends ? ", " : "", ahead_ms < 0 ? -ahead_ms : ahead_ms,
                       ahead_ms < 0 ? "behind" : "ahead");
        found(d, "peer", is_off || days < CERTIFICATE_SOON_DAYS ? FINDING_FALLBACK : FINDING_OK, text);
}

static void look_at_peers(struct doctor *d)
{
        json_t *page = NULL;
        json_t *peer;
        struct err err = {0};
        char text[512];
        char ends[64] = "";
        int64_t days = 0;
        size_t i;
        if (host_pages(d->arguments, "/v1/peers", &page, &err) < 0) {
                found(d, "TLS", FINDING_MISSING, err.sentence);
                return;
        }
        if (*host_text(page, "listens") == '\0') {
                found(d, "TLS", FINDING_OK, "not for other hosts: [listen] tls is not in mete.conf");
        } else {
                bool is_known = host_certificate_ends(page, ends, sizeof(ends), &days);
                (void)snprintf(text, sizeof(text), "meted listens at %s, %s", host_text(page, "listens"),
                               ends);
                found(d, "TLS",
                      !is_known || days < 0          ? FINDING_MISSING
                      : days < CERTIFICATE_SOON_DAYS ? FINDING_FALLBACK
                                                     : FINDING_OK,
                      text);
        }
        json_array_foreach(json_object_get(page, "peers"), i, peer) look_at_peer(d, peer);
        json_decref(page);
}

static void look_at_daemons(struct doctor *d)
{
        json_t *health = NULL;
        json_t *host = NULL;
        struct err err = {0};
        char text[512];
        size_t i;
        json_t *fallback;

        if (host_call(d->arguments, "GET", "/health", NULL, CALL_MS, &health, &err) < 0) {
                if (err.reason == REASON_PEER_LOST)
                        away(d, "meted", err.sentence, "mete-keeper meted",
                             "mete-keeper as root, then meted as its user");
                else
                        found(d, "meted", FINDING_MISSING, err.sentence);
                return;
        }
        if (json_is_true(json_object_get(health, "ok"))) {
                (void)snprintf(text, sizeof(text), "version %s, up for %" PRId64 " s",
                               host_text(health, "version"), host_number(health, "uptime_ms") / 1000);
                found(d, "meted", FINDING_OK, text);
                found(d, "mete-keeper", FINDING_OK, "meted reaches it");
        } else if (strstr(host_text(health, "problem"), "mete-keeper") != NULL) {
                away(d, "mete-keeper", host_text(health, "problem"), "mete-keeper", "mete-keeper as root");
        } else {
                found(d, "meted", FINDING_MISSING, host_text(health, "problem"));
        }
        json_decref(health);
        if (host_call(d->arguments, "GET", "/v1/host", NULL, CALL_MS, &host, &err) < 0) {
                found(d, "this host", FINDING_MISSING, err.sentence);
                return;
        }
        look_at_use(d, host);
        look_at_pages(d, host);
        for (i = 0; i < ARRAY_N(kind_rows); i++)
                look_at_kind(d, host, &kind_rows[i]);
        json_array_foreach(json_object_get(host, "fallbacks"), i, fallback)
                found(d, "in force", FINDING_FALLBACK, json_string_value(fallback));
        json_decref(host);
        look_at_peers(d);
        look_at_vms(d);
}

int host_doctor(const struct arguments *a)
{
        struct doctor d = {.arguments = a, .findings = json_array()};

        d.table = table_new((const char *const[]){"WHAT", "FINDING", "IN WORDS", NULL});
        look_at_machine(&d);
        look_at_cpus(&d);
        look_at_qemu(&d);
        look_at_ram_files(&d);
        look_at_daemons(&d);
        json_t *answer = json_object();
        json_object_set_new(answer, "findings", d.findings);
        if (!host_json(a, answer))
                table_print(d.table, stdout, "nothing");
        table_free(d.table);
        json_decref(answer);
        return d.missing > 0 ? EXIT_FAILED : EXIT_OK;
}
