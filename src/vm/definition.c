/* SPDX-License-Identifier: Apache-2.0 */
/* On the size of base RAM. On TCG, QEMU 7.2 loses guest memory in a move by copy, but only of RAM blocks
 * whose size is a multiple of 256 KiB, so that a base of 512 MiB + 8 KiB would be spared. It is not given
 * that odd size: DIMMs are always multiples of their memory block, so a VM that has grown would not be
 * spared; huge pages would be ruled out; and "512M" would no longer be what the ledger books. Moves by copy
 * on such a QEMU are refused instead, and a handover copies nothing. */
#include "vm/definition.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/str.h"
#include "base/units.h"
#include "core/component.h"

enum { PCI_SLOT_SERIAL = 3, PCI_SLOT_DISK = 4, PCI_SLOT_NET = 5, SHARE_WHOLE_MILLI = 1000 };

int64_t vm_round_up(int64_t bytes, int64_t unit_bytes)
{
        if (bytes < 0 || bytes >= UNITS_MAX)
                return bytes;
        return (bytes + unit_bytes - 1) / unit_bytes * unit_bytes;
}

int64_t vm_definition_growth_bytes(const struct api_vm_definition *d)
{
        return d->memory_max_bytes - d->memory_bytes;
}

static void add_fallback(struct api_vm_definition *d, const char *text)
{
        if (d->n_fallbacks < ARRAY_N(d->fallbacks))
                snprintf(d->fallbacks[d->n_fallbacks++], sizeof(d->fallbacks[0]), "%s", text);
}

static int64_t round_and_say(struct api_vm_definition *d, const char *what, int64_t bytes, int64_t page_bytes)
{
        int64_t unit = page_bytes > VM_UNIT_BYTES ? page_bytes : VM_UNIT_BYTES;
        int64_t rounded = vm_round_up(bytes, unit);
        if (rounded != bytes) {
                char from[UNITS_TEXT], to[UNITS_TEXT], in[UNITS_TEXT], text[128];
                snprintf(text, sizeof(text), "%s rounded up from %s to %s: %s comes in units of %s", what,
                         units_print_bytes(bytes, from), units_print_bytes(rounded, to),
                         page_bytes ? "on its pages it" : "memory", units_print_bytes(unit, in));
                add_fallback(d, text);
        }
        return rounded;
}

static int draw_identity(struct api_vm_definition *d, struct err *err)
{
        unsigned char r[19];
        if (getrandom(r, sizeof(r), 0) != (ssize_t)sizeof(r))
                return err_set(err, REASON_INTERNAL, errno, "no random numbers: %s", strerror(errno));
        r[6] = (r[6] & 0x0f) | 0x40; /* RFC 4122: version 4 */
        r[8] = (r[8] & 0x3f) | 0x80; /* and its variant */
        snprintf(d->uuid, sizeof(d->uuid),
                 "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", r[0], r[1], r[2],
                 r[3], r[4], r[5], r[6], r[7], r[8], r[9], r[10], r[11], r[12], r[13], r[14], r[15]);
        /* The prefix that QEMU and KVM use, locally administered. */
        snprintf(d->mac, sizeof(d->mac), "52:54:00:%02x:%02x:%02x", r[16], r[17], r[18]);
        return 0;
}

/* A vCPU is one thread: a whole CPU is what it never uses more of anyhow. */
static int make_share(const struct api_vm_create *wish, int64_t share_milli, struct api_vm_definition *d,
                      struct err *err)
{
        d->share_milli = wish->has_share_milli ? wish->share_milli : share_milli;
        d->has_cpu_ceiling_milli = wish->has_cpu_ceiling_milli && wish->cpu_ceiling_milli < SHARE_WHOLE_MILLI;
        if (!d->has_cpu_ceiling_milli)
                return 0;
        d->cpu_ceiling_milli = wish->cpu_ceiling_milli;
        if (d->cpu_ceiling_milli < d->share_milli)
                return err_set(err, REASON_INVALID, EINVAL,
                               "cpu_ceiling_milli: must be at least share_milli (%jd)",
                               (intmax_t)d->share_milli);
        return 0;
}

static int make_net(const struct api_vm_create *wish, struct api_vm_definition *d, struct err *err)
{
        if (wish->has_network != wish->has_net_rate_bps)
                return err_set(err, REASON_INVALID, EINVAL, "network and net_rate_bps: each needs the other");
        if (wish->has_net_ceiling_bps && !wish->has_network)
                return err_set(err, REASON_INVALID, EINVAL, "net_ceiling_bps: needs a network");
        if (!(d->has_network = d->has_net_rate_bps = wish->has_network))
                return 0;
        STR_COPY(d->network, wish->network);
        d->net_rate_bps = vm_round_up(wish->net_rate_bps, NET_UNIT_BPS);
        d->has_net_ceiling_bps = wish->has_net_ceiling_bps;
        d->net_ceiling_bps = wish->has_net_ceiling_bps ? vm_round_up(wish->net_ceiling_bps, NET_UNIT_BPS) : 0;
        if (d->has_net_ceiling_bps && d->net_ceiling_bps < d->net_rate_bps)
                return err_set(err, REASON_INVALID, EINVAL,
                               "net_ceiling_bps: must be at least net_rate_bps (%jd)",
                               (intmax_t)d->net_rate_bps);
        if (d->net_rate_bps >= UNITS_MAX || d->net_ceiling_bps >= UNITS_MAX)
                return err_set(err, REASON_INVALID, ERANGE, "net_rate_bps, net_ceiling_bps: too large");
        return 0;
}

static int make_disk(const struct api_vm_create *wish, struct api_vm_definition *d, struct err *err)
{
        if ((d->has_disk = wish->has_disk))
                STR_COPY(d->disk, wish->disk);
        if (wish->has_disk_rate_bytes && !wish->has_disk)
                return err_set(err, REASON_INVALID, EINVAL, "disk_rate_bytes: needs a disk");
        if (wish->has_disk_ceiling_bytes && !wish->has_disk_rate_bytes)
                return err_set(err, REASON_INVALID, EINVAL, "disk_ceiling_bytes: needs disk_rate_bytes");
        d->has_disk_rate_bytes = wish->has_disk_rate_bytes;
        d->has_disk_ceiling_bytes = wish->has_disk_ceiling_bytes;
        d->disk_rate_bytes = wish->has_disk_rate_bytes ? vm_round_up(wish->disk_rate_bytes, BLOCK_UNIT) : 0;
        d->disk_ceiling_bytes =
                wish->has_disk_ceiling_bytes ? vm_round_up(wish->disk_ceiling_bytes, BLOCK_UNIT) : 0;
        if (d->has_disk_ceiling_bytes && d->disk_ceiling_bytes < d->disk_rate_bytes)
                return err_set(err, REASON_INVALID, EINVAL,
                               "disk_ceiling_bytes: must be at least disk_rate_bytes (%jd)",
                               (intmax_t)d->disk_rate_bytes);
        if (d->disk_rate_bytes >= UNITS_MAX || d->disk_ceiling_bytes >= UNITS_MAX)
                return err_set(err, REASON_INVALID, ERANGE, "disk_rate_bytes, disk_ceiling_bytes: too large");
        return 0;
}

/* What the wish says about the machine, without identity: the part that a repeated wish must match. */
static int make_machine(const struct api_vm_create *wish, int64_t share_milli, struct api_vm_definition *d,
                        struct err *err)
{
        int64_t cpus_max = wish->has_cpus_max ? wish->cpus_max : wish->cpus;
        int64_t memory_max = wish->has_memory_max_bytes ? wish->memory_max_bytes : wish->memory_bytes;
        if (cpus_max < wish->cpus)
                return err_set(err, REASON_INVALID, EINVAL, "cpus_max: must be at least cpus (%jd)",
                               (intmax_t)wish->cpus);
        if (memory_max < wish->memory_bytes)
                return err_set(err, REASON_INVALID, EINVAL,
                               "memory_max_bytes: must be at least memory_bytes (%jd)",
                               (intmax_t)wish->memory_bytes);
        if (wish->has_initrd && !wish->has_kernel)
                return err_set(err, REASON_INVALID, EINVAL, "initrd: needs a kernel");
        if (wish->has_append && !wish->has_kernel)
                return err_set(err, REASON_INVALID, EINVAL, "append: needs a kernel");
        STR_COPY(d->name, wish->name);
        d->cpus = wish->cpus;
        d->cpus_max = cpus_max;
        d->unit_bytes = VM_UNIT_BYTES;
        int64_t page_bytes = wish->has_page_bytes ? wish->page_bytes : 0;
        if (page_bytes & (page_bytes - 1))
                return err_set(err, REASON_INVALID, EINVAL, "page_bytes: must be a power of two");
        d->has_page_bytes = wish->has_page_bytes;
        d->page_bytes = page_bytes;
        d->memory_bytes = round_and_say(d, "memory", wish->memory_bytes, page_bytes);
        d->memory_max_bytes = round_and_say(d, "memory limit", memory_max, 0);
        if (d->memory_max_bytes < d->memory_bytes)
                d->memory_max_bytes = d->memory_bytes;
        if (d->memory_max_bytes >= UNITS_MAX)
                return err_set(err, REASON_INVALID, ERANGE, "memory_max_bytes: too large");
        int64_t units = vm_definition_growth_bytes(d) / d->unit_bytes;
        d->dimm_slots = units < VM_DIMMS_MAX ? units : VM_DIMMS_MAX;
        d->numa_nodes = 1;
        d->serial_pci_slot = PCI_SLOT_SERIAL;
        d->disk_pci_slot = PCI_SLOT_DISK;
        d->net_pci_slot = PCI_SLOT_NET;
        d->has_prealloc = d->prealloc = wish->has_prealloc && wish->prealloc;
        if ((d->has_kernel = wish->has_kernel))
                STR_COPY(d->kernel, wish->kernel);
        if ((d->has_initrd = wish->has_initrd))
                STR_COPY(d->initrd, wish->initrd);
        if ((d->has_append = wish->has_append))
                STR_COPY(d->append, wish->append);
        int r = make_share(wish, share_milli, d, err);
        if (r == 0)
                r = make_disk(wish, d, err);
        return r < 0 ? r : make_net(wish, d, err);
}

static void say_fallbacks(struct api_vm_definition *d, const struct api_qemu_probe *probe)
{
        char text[128];
        if (d->accelerator == API_ACCELERATOR_TCG) {
                snprintf(text, sizeof(text), "runs on TCG, not KVM: %s", probe->accelerator_why);
                add_fallback(d, text);
        }
        if (d->cpu_mechanism == API_CPU_MECHANISM_PARK && d->cpus_max > d->cpus)
                add_fallback(
                        d,
                        "vCPUs that are taken back are parked, not unplugged: unplugging is unsafe on TCG");
        if (d->memory_mechanism == API_MEMORY_MECHANISM_DIMM && !probe->virtio_mem_safe &&
            vm_definition_growth_bytes(d) > 0) {
                snprintf(text, sizeof(text), "memory grows by DIMMs: virtio-mem is not safe with QEMU %s",
                         probe->version);
                add_fallback(d, text);
        }
        if (d->dimm_slots == VM_DIMMS_MAX && vm_definition_growth_bytes(d) / d->unit_bytes > VM_DIMMS_MAX) {
                snprintf(text, sizeof(text), "memory can be added at most %d times at once", VM_DIMMS_MAX);
                add_fallback(d, text);
        }
}

int vm_definition_make(const struct api_vm_create *wish, int64_t share_milli,
                       const struct api_qemu_probe *probe, struct api_vm_definition *ret, struct err *err)
{
        struct api_vm_definition d = {0};
        int r = make_machine(wish, share_milli, &d, err);
        if (r == 0)
                r = draw_identity(&d, err);
        if (r < 0)
                return r;
        STR_COPY(d.qemu_path, probe->path);
        STR_COPY(d.qemu_version, probe->version);
        STR_COPY(d.machine, probe->machine);
        STR_COPY(d.cpu_model, probe->cpu_model);
        d.accelerator = probe->accelerator;
        d.cpu_mechanism = probe->cpu_mechanism;
        d.memory_mechanism = probe->memory_mechanism;
        say_fallbacks(&d, probe);
        r = vm_definition_check(&d, err);
        if (r < 0)
                return r;
        *ret = d;
        return 0;
}

static int differs(const char *vm, const char *field, const char *is, const char *wished, struct err *err)
{
        return err_set(err, REASON_INVALID, EEXIST,
                       "a VM is called %s already, with another %s: %.40s, not %.40s", vm, field, is, wished);
}

int vm_definition_answers(const struct api_vm_definition *d, const struct api_vm_create *wish,
                          int64_t share_milli, struct err *err)
{
        struct api_vm_definition w = {0};
        int r = make_machine(wish, share_milli, &w, err);
        if (r < 0)
                return r;
        const struct {
                const char *name;
                int64_t is, wished;
        } numbers[] = {
                {"cpus",               d->cpus,               w.cpus              },
                {"cpus_max",           d->cpus_max,           w.cpus_max          },
                {"share_milli",        d->share_milli,        w.share_milli       },
                {"cpu_ceiling_milli",  d->cpu_ceiling_milli,  w.cpu_ceiling_milli },
                {"memory_bytes",       d->memory_bytes,       w.memory_bytes      },
                {"memory_max_bytes",   d->memory_max_bytes,   w.memory_max_bytes  },
                {"net_rate_bps",       d->net_rate_bps,       w.net_rate_bps      },
                {"net_ceiling_bps",    d->net_ceiling_bps,    w.net_ceiling_bps   },
                {"disk_rate_bytes",    d->disk_rate_bytes,    w.disk_rate_bytes   },
                {"disk_ceiling_bytes", d->disk_ceiling_bytes, w.disk_ceiling_bytes},
                {"page_bytes",         d->page_bytes,         w.page_bytes        },
                {"prealloc",           d->prealloc,           w.prealloc          },
        };
        const struct {
                const char *name;
                const char *is, *wished; /* NULL: none */
        } texts[] = {
                {"kernel",  d->has_kernel ? d->kernel : NULL,   w.has_kernel ? w.kernel : NULL  },
                {"initrd",  d->has_initrd ? d->initrd : NULL,   w.has_initrd ? w.initrd : NULL  },
                {"append",  d->has_append ? d->append : NULL,   w.has_append ? w.append : NULL  },
                {"disk",    d->has_disk ? d->disk : NULL,       w.has_disk ? w.disk : NULL      },
                {"network", d->has_network ? d->network : NULL, w.has_network ? w.network : NULL},
        };
        for (size_t i = 0; i < ARRAY_N(numbers); i++) {
                char is[24], wished[24];
                if (numbers[i].is == numbers[i].wished)
                        continue;
                snprintf(is, sizeof(is), "%jd", (intmax_t)numbers[i].is);
                snprintf(wished, sizeof(wished), "%jd", (intmax_t)numbers[i].wished);
                return differs(d->name, numbers[i].name, is, wished, err);
        }
        for (size_t i = 0; i < ARRAY_N(texts); i++) {
                const char *is = texts[i].is ? texts[i].is : "none";
                const char *wished = texts[i].wished ? texts[i].wished : "none";
                if (!texts[i].is != !texts[i].wished || strcmp(is, wished) != 0)
                        return differs(d->name, texts[i].name, is, wished, err);
        }
        return 0;
}

static bool is_uuid(const char *s)
{
        for (int i = 0; i < 36; i++)
                if (i == 8 || i == 13 || i == 18 || i == 23 ? s[i] != '-'
                                                            : strchr("0123456789abcdef", s[i]) == NULL)
                        return false;
        return s[36] == '\0';
}

static bool is_mac(const char *s)
{
        for (int i = 0; i < 17; i++)
                if (i % 3 == 2 ? s[i] != ':' : strchr("0123456789abcdef", s[i]) == NULL)
                        return false;
        return s[17] == '\0';
}

int vm_definition_check(const struct api_vm_definition *d, struct err *err)
{
        int64_t growth = vm_definition_growth_bytes(d);
        const char *fault = NULL;
        if (!str_is_name(d->name) || !str_is_name(d->machine) || !str_is_name(d->cpu_model))
                fault = "name, machine and cpu_model must be names";
        else if (strlen(d->uuid) != 36 || !is_uuid(d->uuid))
                fault = "uuid: must be a UUID";
        else if (strlen(d->mac) != 17 || !is_mac(d->mac))
                fault = "mac: must be a MAC address";
        else if (d->qemu_path[0] != '/')
                fault = "qemu_path: must be absolute";
        else if (d->cpus < 1 || d->cpus > d->cpus_max || d->cpus_max > VM_CPUS_MAX)
                fault = "cpus: must be within 1 and cpus_max, and that within 64";
        else if (d->has_cpu_ceiling_milli && d->cpu_ceiling_milli < d->share_milli)
                fault = "cpu_ceiling_milli: must be at least share_milli";
        else if (d->unit_bytes != VM_UNIT_BYTES)
                fault = "unit_bytes: must be 128 MiB";
        else if (d->memory_bytes < 1 || growth < 0 || d->memory_bytes % d->unit_bytes != 0 ||
                 growth % d->unit_bytes != 0)
                fault = "memory_bytes, memory_max_bytes: must be whole units and in order";
        else if (d->has_page_bytes && (d->page_bytes < 1 || (d->page_bytes & (d->page_bytes - 1)) ||
                                       d->memory_bytes % d->page_bytes))
                fault = "page_bytes: must be a power of two, and memory_bytes whole pages";
        else if (d->dimm_slots < 0 || d->dimm_slots > VM_DIMMS_MAX || (growth > 0) != (d->dimm_slots > 0))
                fault = "dimm_slots: must be there where memory may grow, and 64 at most";
        else if (d->numa_nodes != 1)
                fault = "numa_nodes: must be 1";
        else if (d->serial_pci_slot == d->disk_pci_slot || d->serial_pci_slot == d->net_pci_slot ||
                 d->disk_pci_slot == d->net_pci_slot)
                fault = "PCI slots: each can be taken once";
        else if (d->memory_mechanism != API_MEMORY_MECHANISM_DIMM)
                fault = "memory_mechanism: must be dimm";
        else if ((d->has_initrd || d->has_append) && !d->has_kernel)
                fault = "initrd and append need a kernel";
        else if (d->has_network != d->has_net_rate_bps || (d->has_net_ceiling_bps && !d->has_network))
                fault = "network: needs net_rate_bps, and that and net_ceiling_bps need it";
        else if (d->has_network && (d->net_rate_bps < NET_LEAST_BPS || d->net_rate_bps % NET_UNIT_BPS != 0 ||
                                    (d->has_net_ceiling_bps && d->net_ceiling_bps < d->net_rate_bps)))
                fault = "net_rate_bps, net_ceiling_bps: must be whole units of 8000 and in order";
        else if ((d->has_disk_rate_bytes && !d->has_disk) ||
                 (d->has_disk_ceiling_bytes && !d->has_disk_rate_bytes))
                fault = "disk_rate_bytes: needs a disk, and disk_ceiling_bytes needs it";
        else if (d->has_disk_rate_bytes &&
                 (d->disk_rate_bytes < BLOCK_UNIT || d->disk_rate_bytes % BLOCK_UNIT != 0 ||
                  (d->has_disk_ceiling_bytes && d->disk_ceiling_bytes < d->disk_rate_bytes)))
                fault = "disk_rate_bytes, disk_ceiling_bytes: must be whole units of 65536 and in order";
        if (fault != NULL)
                return err_set(err, REASON_INVALID, EINVAL, "definition of VM: %s", fault);
        return 0;
}
