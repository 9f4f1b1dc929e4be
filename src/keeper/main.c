/* SPDX-License-Identifier: Apache-2.0 */
/* mete-keeper: the only process of mete that has privileges. */
#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <glib.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/log.h"
#include "base/notify.h"
#include "base/units.h"
#include "host/cpu.h"
#include "host/net.h"
#include "keeper/class.h"
#include "keeper/config.h"
#include "keeper/home.h"
#include "keeper/lend.h"
#include "keeper/space.h"
#include "keeper/verbs.h"
#include "keeper/vmm.h"
#include "loop/loop.h"

/* For whom this program starts itself; not for users. */
#define HOLD_SCOPE "--hold-scope"

enum { EXIT_USAGE = 64, EXIT_CONFIG = 78 }; /* of sysexits.h */

static gboolean on_signal(void *arg)
{
        loop_quit();
        return G_SOURCE_CONTINUE;
}

/* One keeper a run_dir; the lock goes with the process. */
static int lock(const struct keeper_config *config, struct err *err)
{
        g_autofree char *path = g_build_filename(config->run_dir, "lock", NULL);
        if (g_mkdir_with_parents(config->run_dir, 0755) < 0)
                return err_set(err, REASON_INTERNAL, errno, "%s: %s", config->run_dir, strerror(errno));
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
                return fd;
        int code = errno;
        if (fd >= 0)
                (void)close(fd);
        return code == EWOULDBLOCK
                       ? err_set(err, REASON_BUSY, EBUSY, "another keeper runs on %s", config->run_dir)
                       : err_set(err, REASON_INTERNAL, code, "%s: %s", path, strerror(code));
}

/* NULL: nothing is known of memory here. */
static const struct memory_host *probe_pages(const struct keeper_config *config)
{
        static struct memory_host memory;
        struct memory_options o = {.prefix = config->cgroup_prefix, .state_dir = config->run_dir};
        struct err err = {0};
        if (memory_host_init(&memory, &o, &err) == 0)
                return &memory;
        log_warn("no memory on huge pages: %s", err.sentence);
        return NULL;
}

/* NULL: nothing bounds the memory of a VMM here. Not in a hierarchy that holds CPUs, either: v2 cannot do it
 * within a threaded domain, and of v1's the CPUs' prefix would go with the last bound. */
static const struct memory_host *probe_memory(const struct keeper_config *config, const struct cpu_host *cpu)
{
        static struct memory_host memory;
        struct memory_options o = {.prefix = config->cgroup_prefix, .state_dir = config->run_dir};
        struct err err = {0};
        bool is_possible = memory_host_init(&memory, &o, &err) == 0 && *memory.confine.root;
        for (size_t i = 0; is_possible && i < cpu->n_trees; i++)
                is_possible = strcmp(memory.confine.root, cpu->tree[i].root) != 0;
        return is_possible ? &memory : NULL;
}

static int serve(const struct keeper_config *config, const struct cpu_host *cpu, struct home *home,
                 struct err *err)
{
        struct vmms vmms;
        struct verbs verbs;
        struct lends lends = {.loan_fd = -1, .place_fd = -1};
        static struct nics nics;
        static struct classes classes;
        const struct memory_host *memory = probe_memory(config, cpu);
        if (!memory)
                log_warn("%s", VMM_NO_BOUND);
        static struct huge huge;
        int r = huge_init(&huge, config, probe_pages(config), err);
        if (r < 0)
                return r;
        r = nics_init(&nics, config, err);
        if (r < 0) {
                huge_done(&huge);
                return r;
        }
        r = classes_init(&classes, config, err);
        if (r == 0)
                r = vmms_init(&vmms, config, cpu, memory, &huge, &nics, &classes, err);
        if (r < 0) {
                classes_done(&classes);
                huge_done(&huge);
                nics_done(&nics);
                return r;
        }
        unsigned adopted = vmms_adopt(&vmms);
        r = lends_init(&lends, &vmms, err);
        if (r == 0)
                r = verbs_init(&verbs, &vmms, home->fallback, err);
        if (r == 0 && (r = home_watch(home, err)) < 0)
                verbs_done(&verbs);
        if (r == 0) {
                log_note("ready at %s: CPUs held by %s in %s, %u VMMs adopted", config->socket,
                         cpu_provider_id_name(cpu->id), cpu->prefix, adopted);
                notify_send("READY=1");
                loop_run();
                notify_send("STOPPING=1");
                verbs_done(&verbs);
        }
        lends_done(&lends);
        vmms_done(&vmms);
        huge_done(&huge);
        classes_done(&classes);
        nics_done(&nics);
        if (r == 0 && home->is_lost)
                r = err_set(err, REASON_PEER_LOST, ECONNRESET,
                            "%s was ended, with what ran in it: to be started again", home->scope.path);
        return r;
}

static int check_huge(const struct keeper_config *config, struct err *err)
{
        struct huge huge;
        char text[UNITS_TEXT];
        int r = huge_check(&huge, config, err);
        for (size_t i = 0; r == 0 && i < huge.n; i++)
                g_print("huge pages of %s in %s\n", units_print_bytes(huge.sizes[i].page_bytes, text),
                        huge.sizes[i].dir);
        if (r == 0 && *huge.fallback)
                g_print("fallback: %s\n", huge.fallback);
        return r;
}

static int serve_at_home(const struct keeper_config *config, struct cpu_host *cpu,
                         const struct home_options *o, struct err *err)
{
        static struct home home;
        int r = home_start(&home, o, cpu, err);
        if (r < 0)
                return r;
        if (*home.fallback)
                log_warn("%s", home.fallback);
        r = serve(config, cpu, &home, err);
        home_done(&home);
        return r;
}

/* Looks, and asks nobody. */
static void check_home(const struct home_options *o, const struct cpu_host *cpu)
{
        struct home home;
        char slice[SCOPE_PATH], scope[SCOPE_PATH];
        if (home_look(&home, o, cpu) && scope_name(o->scope.prefix, slice, scope, NULL) == 0)
                g_print("groups of VMs in %s of %s, asked of systemd\n", scope, slice);
        if (*home.fallback)
                g_print("fallback: %s\n", home.fallback);
        home_done(&home);
}

/* Looks, and makes nothing that stays. */
static int check_net(const struct keeper_config *config, struct err *err)
{
        struct net_host net;
        struct net_host_options o = {.bridge = config->bridge,
                                     .uplink = config->uplink,
                                     .rate_bps = config->link_bps,
                                     .is_managed = config->manages_net,
                                     .is_best_effort = config->is_best_effort};
        int r = net_host_init(&net, &o, err);
        if (r < 0)
                return err_note(err, "[net]");
        if (config->manages_net)
                g_print("bandwidth of %s: %" G_GUINT64_FORMAT " bit/s, taps behind %s\n", net.uplink,
                        net.rate_bps, net.bridge);
        if (*net.fallback)
                g_print("fallback: %s\n", net.fallback);
        net_host_done(&net);
        return 0;
}

static int check_resctrl(const struct keeper_config *config, struct err *err)
{
        static struct resctrl_host h;
        bool is_made_up = false;
        int r = config->manages_resctrl ? classes_look(config, "", &h, &is_made_up, err) : 0;
        if (r < 0)
                return err_note(err, "[resctrl]");
        if (config->manages_resctrl && *h.root)
                g_print("%u classes of service at %s%s\n", h.n_groups, h.root,
                        is_made_up ? ", which is made up: nothing in it has an effect" : "");
        if (*h.cache_fallback)
                g_print("fallback: %s\n", h.cache_fallback);
        if (strcmp(h.cache_fallback, h.membw_fallback) != 0)
                g_print("fallback: %s\n", h.membw_fallback);
        return 0;
}

static int probe(const struct keeper_config *config, struct cpu_host *cpu, struct err *err)
{
        g_autofree char *keep_dir = g_build_filename(config->run_dir, "held", NULL);
        struct cpu_host_options o = {.prefix = config->cgroup_prefix,
                                     .cpus = config->cpus,
                                     .housekeeping = config->housekeeping,
                                     .keep_dir = keep_dir,
                                     .is_best_effort = config->is_best_effort};
        return cpu_host_init(cpu, &o, err);
}

/* Returns the exit status. */
static int run(const char *path, bool is_check, struct err *err)
{
        struct keeper_config config;
        static struct cpu_host cpu;
        char text[CPULIST_TEXT];
        static const char *const holder[] = {"/proc/self/exe", HOLD_SCOPE, NULL};
        int lock_fd = -1, r = keeper_config_read(path, &config, err);
        if (r < 0)
                return EXIT_CONFIG;
        const struct home_options home = {
                .systemd = SCOPE_SYSTEMD,
                .wants_scope = config.wants_scope,
                .scope = {.prefix = config.cgroup_prefix,
                          .root = cpu.tree[0].root,
                          .state_dir = config.run_dir,
                          .keeper_unit = "mete-keeper.service",
                          .holder = holder,
                          .timeout_ms = SCOPE_TIMEOUT_MS}
        };
        r = probe(&config, &cpu, err);
        bool is_config_wrong = r < 0 && err->reason == REASON_INVALID; /* cpus, housekeeping, cgroup_prefix */
        if (r == 0 && is_check) {
                g_print("%s: good\nsocket %s\nuids %u-%u\nCPUs %s, held by %s\n", path, config.socket,
                        (unsigned)config.uid_first, (unsigned)config.uid_first + config.uid_count - 1,
                        cpulist_print(&cpu.usable, text), cpu_provider_id_name(cpu.id));
                if (*cpu.fallback)
                        g_print("fallback: %s\n", cpu.fallback);
                check_home(&home, &cpu);
                if (!probe_memory(&config, &cpu))
                        g_print("fallback: %s\n", VMM_NO_BOUND);
                r = check_huge(&config, err);
                if (r == 0)
                        r = check_net(&config, err);
                if (r == 0)
                        r = check_resctrl(&config, err);
                is_config_wrong = r < 0;
        } else if (r == 0) {
                if (*cpu.fallback)
                        log_warn("%s", cpu.fallback);
                r = lock_fd = lock(&config, err);
                if (r >= 0)
                        r = space_settle(&config, err);
                if (r >= 0)
                        r = serve_at_home(&config, &cpu, &home, err);
        }
        if (lock_fd >= 0)
                (void)close(lock_fd);
        keeper_config_done(&config);
        return is_config_wrong ? EXIT_CONFIG : r < 0 ? 1 : 0;
}

int main(int argc, char **argv)
{
        g_autofree char *path = NULL;
        gboolean is_check = FALSE, is_version = FALSE, is_verbose = FALSE;
        const GOptionEntry entries[] = {
                {"config", 'c', 0, G_OPTION_ARG_FILENAME, &path, "Configuration (" KEEPER_CONFIG_PATH ")",
                 "PATH"},
                {"check",       0, 0, G_OPTION_ARG_NONE, &is_check, "Check it and this machine, then exit", NULL},
                {"verbose",   'v', 0, G_OPTION_ARG_NONE, &is_verbose, "Log more", NULL},
                {"version",   0, 0, G_OPTION_ARG_NONE, &is_version, "Print the version", NULL},
                {0 },
        };
        g_autoptr(GOptionContext) context = g_option_context_new("- hold what mete grants");
        g_autoptr(GError) e = NULL;
        if (argc == 2 && strcmp(argv[1], HOLD_SCOPE) == 0)
                scope_hold();
        g_option_context_set_description(
                context, "The one process of mete that needs root: it starts VMMs under "
                         "uids of their own and holds their CPUs.\nmeted is its client. Ends with 0 after "
                         "SIGTERM, 64 for a wrong command line, 78 for a missing or wrong "
                         "configuration, 1 for anything\nelse.");
        g_option_context_add_main_entries(context, entries, NULL);
        if (!g_option_context_parse(context, &argc, &argv, &e) || argc > 1) {
                g_printerr("mete-keeper: %s (see --help)\n", e ? e->message : "takes no arguments");
                return EXIT_USAGE;
        }
        if (is_version) {
                g_print("mete-keeper %s\n", METE_VERSION);
                return 0;
        }
        log_init("mete-keeper", is_verbose ? LOG_DEBUG : LOG_INFO);
        (void)umask(022);
        (void)signal(SIGPIPE, SIG_IGN);
        guint term = g_unix_signal_add(SIGTERM, on_signal, NULL),
              intr = g_unix_signal_add(SIGINT, on_signal, NULL);
        struct err err = {0};
        int status = run(path ? path : KEEPER_CONFIG_PATH, is_check, &err);
        if (status != 0)
                log_error("%s", err.sentence);
        (void)g_source_remove(term);
        (void)g_source_remove(intr);
        loop_done();
        return status;
}
