/* SPDX-License-Identifier: Apache-2.0 */
/* meted/main.c - start and end of the daemon. */
#include <errno.h>
#include <getopt.h>
#include <glib-unix.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "base/log.h"
#include "base/notify.h"
#include "host/resctrl.h"
#include "meted/activate.h"
#include "meted/health.h"
#include "meted/hhi.h"
#include "meted/machine.h"
#include "meted/meted.h"
#include "meted/consolidate.h"
#include "meted/handover.h"
#include "meted/moves.h"
#include "meted/partition.h"
#include "meted/watch.h"
#include "vm/socket.h"
#include "wire/peers.h"

enum { HOUSEKEEPING_MS = 5000, CONSOLE_MAX_BYTES = 1 << 20 };
enum {
        EXIT_CONFIG = 78 /* EX_CONFIG */,
        PROBE_MS = 20000,
        KEEPER_LIST_MS = 20000,
        LIST_RETRY_MS = 500,
        AWAITED_MS = 250
};

static const char usage[] =
        "Usage: meted [--config PATH] [--check] [--verbose]\n"
        "The daemon of one mete hypervisor: ledger, VMs, negotiation with guests.\n"
        "\n"
        "  --config PATH  configuration, see mete.conf(5) (/etc/mete/mete.conf)\n"
        "  --check        say what is wrong with the configuration on this machine, and end\n"
        "  --verbose      log more\n"
        "  --version      print the version\n"
        "  --help         this text\n"
        "\n"
        "Reads peers.conf anew after SIGHUP. Ends with 0 after SIGTERM, 64 for a wrong command line, 78 for "
        "a wrong "
        "configuration, 1 for anything\n"
        "else. VMs outlive it.\n";

enum { MBIT = 1000 * 1000 };

struct lines {
        char (*text)[128];
        size_t n, max;
};

/* What is said already, and what has no room, is left out. */
__attribute__((format(printf, 2, 3))) static void add(struct lines *l, const char *format, ...)
{
        va_list args;
        if (l->n == l->max)
                return;
        va_start(args, format);
        (void)vsnprintf(l->text[l->n], sizeof(l->text[0]), format, args);
        va_end(args);
        for (size_t i = 0; i < l->n; i++)
                if (strcmp(l->text[i], l->text[l->n]) == 0)
                        return;
        l->n++;
}

static bool has_free_disk(const struct machine *v)
{
        const struct request *base = machine_base(v);
        bool is_held = false;
        if (!base || base->state != REQUEST_GRANTED || !v->definition.has_disk)
                return false;
        for (size_t i = 0; i < base->n_definitions; i++)
                is_held = is_held || base->definitions[i].kind == VIRTUAL_DISK;
        return !is_held;
}

static void add_disk(const struct meted *m, const struct machine *v, struct lines *l)
{
        unsigned n = 0;
        if (!m->config.disk_rate || (v && !v->definition.has_disk))
                return;
        add(l, "disks are held to their rates by their VMMs (throttle groups), not by io.max of the kernel");
        for (guint i = 0; !v && i < m->machines->len; i++)
                n += has_free_disk(g_ptr_array_index(m->machines, i));
        if (v && has_free_disk(v))
                add(l, "its disk is held to no rate until its next start");
        else if (n > 0)
                add(l, "the disks of %u VMs are held to no rate until their next start", n);
}

/* Does the ledger have CPUs on which the keeper may place nothing? */
static bool gives_others(const struct meted *m, const char *cpus)
{
        struct cpulist theirs;
        bool is_so = false;
        if (strcmp(m->config.source, "live") != 0 || cpulist_parse(cpus, &theirs, NULL) < 0)
                return false;
        for (size_t i = 0; i < m->inventory.n; i++) {
                const struct component *c = &m->inventory.components[i];
                is_so = is_so || (c->kind == COMPONENT_CPU && c->owned > 0 && c->healthy &&
                                  !cpulist_has(&theirs, c->os_index));
        }
        return is_so;
}

size_t meted_fallbacks(const struct meted *m, const struct machine *v, char (*ret)[128], size_t max)
{
        struct lines l = {ret, 0, max};
        const struct api_keeper_info *k = keeper_info(m->keeper);
        if (!v && m->probe.accelerator == API_ACCELERATOR_TCG) /* a VM has a line of its own for it */
                add(&l, "no KVM: %.100s; VMs run on TCG", m->probe.accelerator_why);
        if (!v && watch_late(m))
                add(&l, "%s", watch_late(m));
        if (!v && watch_blind(m))
                add(&l, "%s", watch_blind(m));
        if (!v && partition_lacks(m))
                add(&l, "%s", partition_lacks(m));
        if (m->config.is_managed &&
            (m->config.manages_net || m->config.disk_rate || m->config.manages_resctrl))
                add(&l,
                    "links, disks and caches are in no partition of a server: nothing of them is given away");
        if (m->config.cpu_overcommit > 1)
                add(&l, "CPUs are overcommitted %d times where no share is stated", m->config.cpu_overcommit);
        if (strcmp(m->config.source, "live") != 0)
                add(&l, "the inventory is not this machine's but from %.90s", m->config.source);
        if (k && k->has_cpus && gives_others(m, k->cpus))
                add(&l, "mete.conf gives away CPUs that the keeper has not: it has %.60s ([keeper] cpus)",
                    k->cpus);
        if (m->config.manages_net && k &&
            (!k->has_net_uplink || strcmp(k->net_uplink, m->config.uplink) != 0))
                add(&l, "mete-keeper does not hold the bandwidth of %s: VMs with a network card do not start",
                    m->config.uplink);
        else if (m->config.manages_net && k && k->has_net_rate_bps && k->net_rate_bps < m->config.link_bps)
                add(&l, "the keeper holds %lld Mbit/s of %s, and mete.conf gives %lld away",
                    (long long)(k->net_rate_bps / MBIT), m->config.uplink,
                    (long long)(m->config.link_bps / MBIT));
        if (*m->resctrl_fallback)
                add(&l, "%s", m->resctrl_fallback);
        if (m->config.manages_resctrl && k && !k->has_resctrl)
                add(&l, "mete-keeper makes no classes of service: there are no leases of cache and membw");
        if (!v && *m->peers_problem)
                add(&l, "peers.conf was not taken, the peers are as before: %.75s", m->peers_problem);
        for (size_t i = 0; k && i < k->n_fallbacks; i++)
                add(&l, "%s", k->fallbacks[i]);
        for (size_t i = 0; v && i < v->definition.n_fallbacks; i++)
                add(&l, "%s", v->definition.fallbacks[i]);
        add_disk(m, v, &l);
        return l.n;
}

/* ---- after the keeper said which VMMs are there ---- */

static void ignore(void *arg, const json_t *result, const struct err *err)
{
        (void)result;
        if (err)
                log_warn("cannot end the stray VMM of %s: %s", (const char *)arg, err->sentence);
        g_free(arg);
}

/* A VMM that no record accounts for: it must not keep what the ledger thinks is free. */
static void end_stray(struct meted *m, const char *name)
{
        struct api_keeper_vm p;
        log_warn("VMM of %s is running, and nothing here knows of it; ending it", name);
        (void)snprintf(p.vm, sizeof(p.vm), "%s", name);
        keeper_call(m->keeper, API_KEEPER_VMM_KILL, api_keeper_vm_emit(&p), NULL, 0, KEEPER_LIST_MS, ignore,
                    g_strdup(name));
        keeper_call(m->keeper, API_KEEPER_VM_DROP, api_keeper_vm_emit(&p), NULL, 0, KEEPER_LIST_MS, ignore,
                    g_strdup(name));
}

/* Directories of VMs that were deleted by a meted that died before it came to this. A VMM that runs keeps its
 * sockets, whosoever it is. */
static void clear_dirs(struct meted *m, const struct api_keeper_vmm_list *list)
{
        char path[512];
        (void)snprintf(path, sizeof(path), "%s/vm", m->config.run_dir);
        GDir *d = g_dir_open(path, 0, NULL);
        for (const char *name; d && (name = g_dir_read_name(d));) {
                bool runs = false;
                for (size_t i = 0; i < list->n_vmms && !runs; i++)
                        runs = strcmp(list->vmms[i].vm, name) == 0;
                if (!runs && !machine_find(m, name))
                        machine_clear_dir(m, name);
        }
        if (d)
                g_dir_close(d);
}

/* What it does not make cannot be given away. A tree that is not there just now may be when it is wanted. */
static void take_classes(struct meted *m)
{
        const struct api_keeper_info *k = keeper_info(m->keeper);
        if (!k)
                return;
        for (size_t i = 0; i < m->inventory.n; i++)
                if (component_is_of_class(m->inventory.components[i].kind))
                        m->inventory.components[i].healthy = k->manages_resctrl;
        hypervisor_set_classes(m->hv, k->manages_resctrl);
}

static void on_vmms(void *arg, const json_t *result, const struct err *err);

/* Who is attached to a VMM hears of its end from its monitor, and who carries out a step for it from that. Of
 * any other only the keeper knows whether it is there. */
static void forget_vmms(struct meted *m)
{
        for (guint i = 0; i < m->machines->len; i++) {
                struct machine *v = g_ptr_array_index(m->machines, i);
                if (!v->vm && !v->step)
                        v->pid = 0;
        }
}

static void list_vmms(void *arg)
{
        struct meted *m = arg;
        keeper_call(m->keeper, API_KEEPER_VMM_LIST, NULL, NULL, 0, KEEPER_LIST_MS, on_vmms, m);
}

/* Of the sizes that the kernel knows, the keeper gives those for which it has a hugetlbfs. */
static void take_page_sizes(struct meted *m)
{
        const struct api_keeper_info *k = keeper_info(m->keeper);
        int64_t sizes[COMPONENT_PAGES] = {0};
        if (!k || strcmp(m->config.source, "live") != 0)
                return;
        _Static_assert(sizeof(m->huge) == sizeof(k->huge), "the contract has as many sizes");
        memcpy(m->huge, k->huge, sizeof(m->huge));
        m->n_huge = k->n_huge;
        for (size_t i = 0; i < k->n_huge && i < COMPONENT_PAGES; i++)
                sizes[i] = k->huge[i].page_bytes;
        for (size_t i = 0; i < m->inventory.n; i++)
                if (m->inventory.components[i].kind == COMPONENT_MEMORY)
                        memcpy(m->inventory.components[i].page_bytes, sizes, sizeof(sizes));
        hypervisor_set_pages(m->hv, sizes);
}

/* Moves and handovers of before a restart go on when somebody is attached to their VMM, or it is gone. That
 * is said to nobody where it is a step of an activation that attaches: so it is looked at until none waits.
 */
static void adopt(void *arg)
{
        struct meted *m = arg;
        bool do_wait = moves_adopt(m);
        if (handovers_adopt(m) || do_wait)
                loop_timer_in(&m->awaited, AWAITED_MS);
}

static void on_vmms(void *arg, const json_t *result, const struct err *err)
{
        struct meted *m = arg;
        struct api_keeper_vmm_list *list = g_new0(struct api_keeper_vmm_list, 1);
        struct err bad = {0};
        if (err && err->reason == REASON_CANCELLED) {
                g_free(list);
                return;
        }
        if (!err && api_keeper_vmm_list_parse(result, list, &bad))
                err = &bad;
        if (err) {
                g_free(list);
                if (m->adopted && !keeper_info(m->keeper))
                        return; /* it is asked when it is back */
                log_error("cannot learn which VMMs are there: %s; asking again", err->sentence);
                loop_timer_in(&m->list, LIST_RETRY_MS);
                return;
        }
        take_page_sizes(m);
        take_classes(m);
        forget_vmms(m);
        for (size_t i = 0; i < list->n_vmms; i++) {
                struct machine *v = machine_find(m, list->vmms[i].vm);
                const struct request *base = v ? machine_base(v) : NULL;
                if (!base || request_is_final(base)) {
                        end_stray(m, list->vmms[i].vm);
                        continue;
                }
                if (list->vmms[i].has_move_held && list->vmms[i].move_held)
                        moves_sweep(m, v->definition.name);
                v->pid = (pid_t)list->vmms[i].pid;
                (void)snprintf(v->ram_dir, sizeof(v->ram_dir), "%s", list->vmms[i].ram_dir);
        }
        bool is_first = !m->adopted;
        m->adopted = true;
        if (is_first)
                clear_dirs(m, list);
        g_free(list);
        for (guint i = 0; i < m->machines->len; i++) {
                struct machine *v = g_ptr_array_index(m->machines, i);
                const struct request *base = machine_base(v);
                if (base && base->state == REQUEST_GRANTED && !v->step && !v->is_dead)
                        activate_adopt(v);
        }
        if (is_first)
                boot_check(m);
        hypervisor_recover(m->hv, loop_now_ms());
        adopt(m);
        if (is_first) {
                health_settle(m);
                watch_start(m);
        }
        meted_changed(m);
}

static void on_keeper(void *arg, bool connected)
{
        struct meted *m = arg;
        hypervisor_note(m->hv, loop_now_ms(), "keeper", "host", connected ? "keeper-there" : "keeper-away",
                        "%s",
                        connected ? "mete-keeper is there" : "mete-keeper is away; what needs it waits");
        /* One that was away may have been so because the machine was worked on. Before its first word nobody
         * is attached to any VM. */
        for (guint i = 0; connected && i < m->machines->len; i++)
                (void)activate_verify(g_ptr_array_index(m->machines, i));
        meted_changed(m);
        if (connected && m->adopted)
                list_vmms(m); /* VMMs may have ended meanwhile, and some be left that nobody could end */
}

/* ---- what is granted, looked at again ---- */

/* One VM at a time, so that many of them make no peak. */
static void on_verify(void *arg)
{
        struct meted *m = arg;
        guint n = m->machines->len;
        if (n > 0)
                (void)activate_verify(g_ptr_array_index(m->machines, m->verified++ % n));
        loop_timer_in(&m->verify, m->config.verify_ms / (n > 0 ? n : 1) + 1);
}

/* ---- consoles ---- */

/* A guest may write to its console without end; what is kept of it is bounded. */
static void on_housekeeping(void *arg)
{
        struct meted *m = arg;
        for (guint i = 0; i < m->machines->len; i++) {
                const struct machine *v = g_ptr_array_index(m->machines, i);
                char path[512];
                struct err err = {0};
                machine_path(v, "console.log", path, sizeof(path));
                if (v->pid && vm_console_trim(path, CONSOLE_MAX_BYTES, &err) < 0)
                        log_warn("VM %s: %s", v->definition.name, err.sentence);
        }
        loop_timer_in(&m->housekeeping, HOUSEKEEPING_MS);
}

/* ---- start ---- */

enum { L3 = 3 };

/* Which CPUs are below which L3 cache, and what of it may be given away. A made-up tree says the former
 * itself. */
static int add_domains(struct meted *m, struct err *err)
{
        static struct resctrl_host h;
        static struct cpulist below[CPULIST_MAX];
        struct statfs fs = {0};
        char sysfs[256] = "/sys";
        const char *root = *m->config.resctrl ? m->config.resctrl : NULL;
        if (root && statfs(root, &fs) < 0)
                return err_set(err, REASON_INVALID, errno, "[resctrl] path %.100s: %s", root,
                               strerror(errno));
        struct resctrl_options o = {.prefix = "mete", .state_dir = "/nonexistent", .root = root};
        o.is_fake = root && fs.f_type != RDTGROUP_SUPER_MAGIC;
        if (o.is_fake)
                (void)snprintf(sysfs, sizeof(sysfs), "%s/sys", root);
        int bad = resctrl_host_init(&h, &o, err);
        (void)snprintf(m->resctrl_fallback, sizeof(m->resctrl_fallback), "%s",
                       bad         ? ""
                       : o.is_fake ? "resctrl is a made-up tree: cache and membw are not enforced"
                                   : h.cache_fallback);
        size_t n = m->inventory.n;
        for (size_t i = 0; !bad && *h.root && i < n; i++) {
                const struct component *c = &m->inventory.components[i];
                struct cpulist one = {0}, ids = {0};
                if (c->kind == COMPONENT_CPU && cpulist_add(&one, c->os_index) &&
                    resctrl_ids_of(sysfs, &one, L3, &ids, NULL) == 0)
                        (void)cpulist_add(&below[cpulist_next(&ids, 0)], c->os_index);
        }
        uint32_t free_ways = h.level == L3 ? h.full_mask & ~h.shared_mask : 0;
        for (uint32_t id = 0; !bad && id < CPULIST_MAX; id++)
                if (cpulist_count(&below[id]) > 0)
                        bad = inventory_add_domain(&m->inventory, id, &below[id],
                                                   __builtin_popcount(free_ways), h.least_ways, h.least_ways,
                                                   h.membw_least, err);
        return bad;
}

static int read_inventory(struct meted *m, struct err *err)
{
        const char *source = m->config.source;
        struct inventory_options o = {
                .source = INVENTORY_LIVE,
                .cpus = *m->config.cpus ? m->config.cpus : NULL,
                .memory_bytes = m->config.memory_bytes,
                /* of a server that is managed the service processor leaves it to the host */
                .reserve_bytes = m->config.is_managed ? 0 : m->config.reserve_bytes,
        };
        if (strncmp(source, "xml:", 4) == 0) {
                o.source = INVENTORY_XML;
                o.text = source + 4;
        } else if (strncmp(source, "synthetic:", 10) == 0) {
                o.source = INVENTORY_SYNTHETIC;
                o.text = source + 10;
        } else if (strcmp(source, "live") != 0) {
                return err_set(err, REASON_INVALID, EINVAL,
                               "source: must be live, xml:PATH or synthetic:TEXT");
        }
        int bad = inventory_read(&o, &m->inventory, err);
        if (!bad && m->config.manages_resctrl && (bad = add_domains(m, err)))
                inventory_done(&m->inventory);
        if (!bad && m->config.manages_net &&
            (bad = inventory_add_link(&m->inventory, m->config.uplink, m->config.link_bps, err)))
                inventory_done(&m->inventory);
        if (!bad && m->config.disk_rate &&
            (bad = inventory_add_disk(&m->inventory, "images", m->config.disk_rate, err)))
                inventory_done(&m->inventory);
        return bad;
}

/* A certificate whose time is over is no reason not to start: VMs and guests need us, not peers alone. */
static int check_certificates(const struct meted *m, unsigned *warnings, struct err *err)
{
        struct cert_id id;
        struct peers peers = {0};
        int bad = peers_read(m->config.peers, &peers, err);
        if ((bad && bad != -ENOENT) || !*m->config.tls) {
                peers_done(&peers);
                return bad == -ENOENT ? 0 : bad;
        }
        bad = cert_files_check(&m->config.files, 0, &id, err);
        if (!bad && (id.role != CERT_HYPERVISOR || strcmp(id.name, m->config.name) != 0))
                bad = err_set(err, REASON_INVALID, EINVAL,
                              "%.100s is the certificate of %s %s, and [meted] name is %s",
                              m->config.files.cert, cert_role_name(id.role), id.name, m->config.name);
        if (!bad && warnings) /* at the start the list of peers says so */
                *warnings += peers_warn(m, &peers, &id);
        peers_done(&peers);
        return bad;
}

/* What a start does not fail on. */
static void check_folders(const struct meted *m, unsigned *warnings)
{
        if (access(m->config.image_dir, F_OK) == 0)
                return;
        log_warn("[vm] image_dir: %s: %s; a VM with a disk or a kernel of its own does not start",
                 m->config.image_dir, strerror(errno));
        (*warnings)++;
}

/* All that a configuration can be wrong in: also that it gives away what this machine does not have. Returns
 * the exit status. warnings: counted, of what is only to be said when asked to check; NULL: it is not. */
static int configure(struct meted *m, const char *path, unsigned *warnings)
{
        struct err err = {0};
        if (config_read(path, &m->config, &err)) {
                log_error("%s", err.sentence);
                return EXIT_CONFIG;
        }
        if (check_certificates(m, warnings, &err)) {
                err_note(&err, "%s: [listen]", path);
                log_error("%s", err.sentence);
                return EXIT_CONFIG;
        }
        if (read_inventory(m, &err)) {
                err_note(&err, "%s: [host]", path);
                log_error("%s", err.sentence);
                return err.reason == REASON_INTERNAL ? 1 : EXIT_CONFIG;
        }
        if (hhi_init(m, &err)) {
                err_note(&err, "%s: [host] source", path);
                log_error("%s", err.sentence);
                return err.reason == REASON_INTERNAL ? 1 : EXIT_CONFIG;
        }
        if (warnings)
                check_folders(m, warnings);
        return 0;
}

/* The machine, or the source of its inventory, has lost something that is claimed: it stays in the books,
 * with nothing to give away, until what is claimed of it is given back, or it is there again. */
static int on_missing(const char *component, void *arg, struct err *err)
{
        struct meted *m = arg;
        int bad = inventory_add_missing(&m->inventory, component, err);
        if (!bad)
                store_set_components(m->store, m->inventory.components, m->inventory.n);
        return bad;
}

static void say_missing(const struct request *r, void *arg)
{
        struct meted *m = arg;
        for (size_t i = 0; i < r->n_definitions; i++) {
                const struct component *c = &m->inventory.components[r->definitions[i].component];
                if (c->healthy || c->capacity > 0)
                        continue;
                log_warn("%s claims %s, which is not there any more", r->key, c->id);
                char trace[REQUEST_TRACE];
                request_trace(r, trace);
                hypervisor_note(m->hv, loop_now_ms(), trace, r->key, "component-missing",
                                "%s is not there any more; its claim of %s stays until it is given back",
                                c->id, c->id);
        }
}

static int make_dir(const char *path, mode_t mode, struct err *err)
{
        /* chmod, because of the umask; one that is there already is the operator's */
        if ((mkdir(path, mode) < 0 || chmod(path, mode) < 0) && errno != EEXIST)
                return err_set(err, REASON_INTERNAL, errno, "cannot make %s: %s", path, strerror(errno));
        return 0;
}

static int start(struct meted *m, struct err *err)
{
        char path[512];
        m->machines = g_ptr_array_new();
        int bad = make_dir(m->config.state_dir, 0700, err);
        if (!bad)
                bad = make_dir(m->config.run_dir, 0711, err);
        if (bad)
                return bad;
        (void)snprintf(path, sizeof(path), "%s/mete.db", m->config.state_dir);
        bad = store_open(path, m->inventory.components, m->inventory.n, &m->store, err);
        if (bad)
                return bad;
        bad = store_each_missing(m->store, on_missing, m, err);
        if (bad)
                return bad;
        watch_init(m);
        (void)snprintf(path, sizeof(path), "%s/probe.json", m->config.state_dir);
        bad = probe_qemu(m->config.qemu, path, PROBE_MS, &m->probe, err);
        if (!bad)
                bad = store_load_documents(m->store, STORE_VM, machine_load, m, err);
        if (!bad)
                bad = meted_load(m, err);
        if (!bad)
                bad = peers_start(m, err);
        if (!bad)
                bad = moves_start(m, err);
        if (!bad)
                bad = handovers_start(m, err);
        if (!bad)
                bad = consolidate_start(m, err);
        if (!bad)
                bad = api_start(m, err);
        if (bad)
                return bad;
        m->keeper = keeper_new(m->config.keeper_socket, on_keeper, m);
        loop_timer_init(&m->list, list_vmms, m);
        loop_timer_init(&m->awaited, adopt, m);
        list_vmms(m);
        hypervisor_note(m->hv, loop_now_ms(), "meted", "host", "started", "meted %s on QEMU %s (%s)",
                        METE_VERSION, m->probe.version, api_accelerator_name(m->probe.accelerator));
        hypervisor_each(m->hv, say_missing, m);
        loop_timer_init(&m->housekeeping, on_housekeeping, m);
        loop_timer_in(&m->housekeeping, HOUSEKEEPING_MS);
        loop_timer_init(&m->verify, on_verify, m);
        if (m->config.verify_ms > 0)
                loop_timer_in(&m->verify, m->config.verify_ms);
        m->ready_mono_ms = loop_mono_ms();
        meted_changed(m);
        return 0;
}

static void stop(struct meted *m)
{
        api_stop(m);
        peers_stop(m);
        if (m->ready_mono_ms) {
                loop_timer_cancel(&m->housekeeping);
                loop_timer_cancel(&m->list);
                loop_timer_cancel(&m->awaited);
                loop_timer_cancel(&m->verify);
        }
        moves_stop(m);
        consolidate_stop(m);
        handovers_stop(m);
        /* First: a guest whose request is under way hears nothing, and asks the next meted. */
        for (guint i = 0; m->machines && i < m->machines->len; i++)
                machine_detach(g_ptr_array_index(m->machines, i));
        if (m->after)
                turns_done(m);
        moves_free(m);
        handovers_free(m);
        partition_done(m);
        events_done(m);
        keeper_free(m->keeper);
        /* A turn that is not finished is not recorded by halves: closing the store drops it. */
        watch_done(m);
        health_done(m);
        hypervisor_free(m->hv);
        store_close(m->store);
        inventory_done(&m->inventory);
        for (guint i = 0; m->machines && i < m->machines->len; i++) {
                hhi_forget(g_ptr_array_index(m->machines, i));
                g_free(g_ptr_array_index(m->machines, i));
        }
        hhi_done(m);
        if (m->machines)
                g_ptr_array_free(m->machines, TRUE);
}

static gboolean on_signal(gpointer arg)
{
        (void)arg;
        loop_quit();
        return G_SOURCE_CONTINUE;
}

static gboolean on_reload(gpointer arg)
{
        peers_reload(arg);
        return G_SOURCE_CONTINUE;
}

int main(int argc, char **argv)
{
        static const struct option options[] = {
                {"config",     required_argument, NULL, 'c'},
                {"check",        no_argument, NULL, 'k'},
                {"verbose",            no_argument, NULL, 'v'},
                {"version",no_argument, NULL, 'V'},
                {"help",         no_argument, NULL, 'h'},
                {0   },
        };
        const char *path = "/etc/mete/mete.conf";
        enum log_level level = LOG_INFO;
        bool check = false;
        for (int c; (c = getopt_long(argc, argv, "c:h", options, NULL)) != -1;) {
                switch (c) {
                case 'c':
                        path = optarg;
                        break;
                case 'k':
                        check = true;
                        break;
                case 'v':
                        level = LOG_DEBUG;
                        break;
                case 'V':
                        (void)printf("meted %s\n", METE_VERSION);
                        return 0;
                case 'h':
                        (void)fputs(usage, stdout);
                        return 0;
                default:
                        (void)fputs(usage, stderr);
                        return 64;
                }
        }
        if (optind < argc) {
                (void)fprintf(stderr, "meted: takes no arguments (see --help)\n");
                return 64;
        }
        log_init("meted", level);
        struct meted *m = g_new0(struct meted, 1);
        struct err err = {0};
        unsigned warnings = 0;
        int status = configure(m, path, check ? &warnings : NULL);
        if (!status && check && warnings > 0)
                (void)printf("%s: good, with %u warning%s\n", path, warnings, warnings == 1 ? "" : "s");
        else if (!status && check)
                (void)printf("%s: good\n", path);
        if (status || check) {
                hhi_done(m);
                inventory_done(&m->inventory);
                g_free(m);
                return status;
        }
        (void)signal(SIGPIPE, SIG_IGN);
        (void)umask(0077); /* the store is nobody else's to read */
        turns_init(m);
        guint term = g_unix_signal_add(SIGTERM, on_signal, NULL),
              in = g_unix_signal_add(SIGINT, on_signal, NULL), hup = 0;
        int bad = start(m, &err);
        if (bad) {
                log_error("%s", err.sentence);
        } else {
                log_info("ready on %s, store in %s", m->config.socket, m->config.state_dir);
                hup = g_unix_signal_add(SIGHUP, on_reload, m);
                notify_send("READY=1");
                loop_run();
                log_info("stopping; VMs run on");
        }
        if (hup)
                g_source_remove(hup);
        stop(m);
        g_source_remove(term);
        g_source_remove(in);
        loop_done();
        g_free(m);
        return bad ? 1 : 0;
}
