/* SPDX-License-Identifier: Apache-2.0 */
/* mete-sp: the service processor of one server. */
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
#include "base/str.h"
#include "sp/lead.h"
#include "sp/sp.h"
#include "sp/upgrade.h"

enum { EXIT_USAGE = 64, EXIT_CONFIG = 78 /* sysexits.h */ };

static gboolean on_signal(void *arg)
{
        (void)arg;
        loop_quit();
        return G_SOURCE_CONTINUE;
}

static int read_inventory(struct sp *sp, struct err *err)
{
        const char *source = sp->config.source;
        struct inventory_options o = {.source = INVENTORY_LIVE, .reserve_bytes = sp->config.reserve_bytes};
        if (g_str_has_prefix(source, "xml:")) {
                o.source = INVENTORY_XML;
                o.text = source + 4;
        } else if (g_str_has_prefix(source, "synthetic:")) {
                o.source = INVENTORY_SYNTHETIC;
                o.text = source + 10;
        } else if (strcmp(source, "live") != 0) {
                return err_set(err, REASON_INVALID, EINVAL,
                               "[host] source: must be live, xml:PATH or synthetic:TEXT");
        }
        return inventory_read(&o, &sp->inventory, err) ? err_note(err, "[host]") : 0;
}

/* One a server, whatever state it has; goes with the process. */
static int lock(const char *path, struct err *err)
{
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
                return fd;
        int code = errno;
        if (fd >= 0)
                (void)close(fd);
        return code == EWOULDBLOCK
                       ? err_set(err, REASON_BUSY, EBUSY,
                                 "a service processor of this server runs already (it holds %s)", path)
                       : err_set(err, REASON_INTERNAL, code, "%s: %s", path, strerror(code));
}

/* Root's, whatever lies above, and such as can be passed through. */
static int make_dir(const char *path, struct err *err)
{
        struct stat st;
        if (mkdir(path, 0711) == 0)
                (void)chmod(path, 0711);
        if (lstat(path, &st) < 0)
                return err_set(err, REASON_INTERNAL, errno, "%s: %s", path, strerror(errno));
        if (!S_ISDIR(st.st_mode) || st.st_uid != 0 || (st.st_mode & 022))
                return err_set(err, REASON_POLICY, EPERM,
                               "%s must be a folder of root's that nobody else writes to", path);
        return 0;
}

static int begin(struct sp *sp, struct err *err)
{
        int bad = server_init(&sp->server, sp->inventory.components, sp->inventory.n, err);
        (void)STR_COPY(sp->name, sp->config.name);
        if (!bad)
                bad = make_dir(sp->config.state_dir, err);
        if (!bad)
                bad = make_dir(sp->config.run_dir, err);
        if (!bad)
                bad = journal_open(sp, err);
        if (!bad)
                bad = lead_load(sp, err);
        if (!bad)
                bad = (sp->calls = http_calls_new(err)) ? 0 : -ENOMEM;
        if (!bad)
                bad = api_start(sp, err);
        if (bad)
                return bad;
        sp->ready_mono_ms = loop_mono_ms();
        journal_note(sp, "sp", "server", "started", "mete-sp %s of %s", METE_VERSION, sp->name);
        for (int k = 0; k < sp->server.n; k++)
                hypervisor_begin(&sp->hypervisors[k], sp, k);
        lead_start(sp);
        if (sp->upgrading)
                upgrading_begin(sp->upgrading);
        return 0;
}

static void end(struct sp *sp)
{
        api_stop(sp);
        upgrading_end(sp);
        lead_words_end(sp);
        lead_end(sp);
        for (int k = 0; k < SERVER_HYPERVISORS_MAX; k++)
                hypervisor_end(&sp->hypervisors[k]);
        http_calls_free(sp->calls);
        store_close(sp->store);
        server_done(&sp->server);
        inventory_done(&sp->inventory);
}

/* Returns the exit status. */
static int run(const char *path, bool is_check, struct err *err)
{
        g_autofree struct sp *sp = g_new0(struct sp, 1);
        int lock_fd = -1, bad = sp_config_read(path, &sp->config, err);
        if (!bad)
                bad = read_inventory(sp, err);
        if (bad)
                return EXIT_CONFIG;
        if (is_check) {
                g_print("%s: good\n", path);
                inventory_done(&sp->inventory);
                return 0;
        }
        if (geteuid() != 0)
                bad = err_set(err, REASON_DENIED, EPERM,
                              "mete-sp needs root: it starts each hypervisor as a user of its own");
        if (!bad)
                bad = (lock_fd = lock(sp->config.lock, err)) < 0 ? lock_fd : 0;
        if (!bad)
                bad = begin(sp, err);
        if (!bad) {
                log_note("ready on %s, %d hypervisors, epoch %lld", sp->config.socket, sp->server.n,
                         (long long)sp->server.epoch);
                notify_send("READY=1");
                loop_run();
                notify_send("STOPPING=1");
                log_note("stopping; hypervisors and VMs run on");
        }
        end(sp);
        if (lock_fd >= 0)
                (void)close(lock_fd);
        return bad ? 1 : 0;
}

int main(int argc, char **argv)
{
        g_autofree char *path = NULL;
        gboolean is_check = FALSE, is_version = FALSE, is_verbose = FALSE;
        const GOptionEntry entries[] = {
                {"config", 'c', 0, G_OPTION_ARG_FILENAME, &path, "Configuration (" SP_CONFIG_PATH ")",
                 "PATH"},
                {"check",       0, 0, G_OPTION_ARG_NONE, &is_check, "Check it, then exit", NULL},
                {"verbose",   'v', 0, G_OPTION_ARG_NONE, &is_verbose, "Log more", NULL},
                {"version",   0, 0, G_OPTION_ARG_NONE, &is_version, "Print the version", NULL},
                {0 },
        };
        g_autoptr(GOptionContext) context = g_option_context_new("- partition a server among hypervisors");
        g_autoptr(GError) e = NULL;
        g_option_context_set_description(
                context,
                "Starts and configures the meted's of one server, and says which part of it is whose. "
                "Ends with 0 after SIGTERM, 64 for a wrong\ncommand line, 78 for a missing or wrong "
                "configuration, 1 for anything else. Hypervisors and VMs outlive it.");
        g_option_context_add_main_entries(context, entries, NULL);
        if (!g_option_context_parse(context, &argc, &argv, &e) || argc > 1) {
                g_printerr("mete-sp: %s (see --help)\n", e ? e->message : "takes no arguments");
                return EXIT_USAGE;
        }
        if (is_version) {
                g_print("mete-sp %s\n", METE_VERSION);
                return 0;
        }
        log_init("mete-sp", is_verbose ? LOG_DEBUG : LOG_INFO);
        (void)umask(022);
        (void)signal(SIGPIPE, SIG_IGN);
        guint term = g_unix_signal_add(SIGTERM, on_signal, NULL),
              intr = g_unix_signal_add(SIGINT, on_signal, NULL);
        struct err err = {0};
        int status = run(path ? path : SP_CONFIG_PATH, is_check, &err);
        if (status != 0)
                log_error("%s", err.sentence);
        (void)g_source_remove(term);
        (void)g_source_remove(intr);
        loop_done();
        return status;
}
