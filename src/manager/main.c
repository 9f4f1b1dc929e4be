/* SPDX-License-Identifier: Apache-2.0 */
/* manager/main.c - start and end of the daemon, and the transaction of each turn. */
#include <errno.h>
#include <getopt.h>
#include <glib-unix.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/notify.h"
#include "base/str.h"
#include "manager/manager.h"

enum { EXIT_CONFIG = 78 /* EX_CONFIG */, AGAIN_MS = 1000 };

static const char usage[] = "Usage: mete-manager [--config PATH] [--check] [--verbose]\n"
                            "Moves VMs among the hosts of a fleet, at service levels and by policy.\n"
                            "\n"
                            "  --config PATH  configuration, see mete.conf(5) (/etc/mete/manager.conf)\n"
                            "  --check        say what is wrong with the configuration, and end\n"
                            "  --verbose      log more\n"
                            "  --version      print the version\n"
                            "  --help         this text\n"
                            "\n"
                            "Reads hosts.conf anew after SIGHUP. Ends with 0 after SIGTERM, 64 for a wrong "
                            "command line, 78 for a "
                            "wrong configuration,\n"
                            "1 for anything else. Moves that are under way go on without it.\n";

/* ---- the transaction ---- */

void manager_changed(struct manager *m)
{
        loop_turn_request(&m->commit);
}

void manager_say(struct manager *m, const char *trace, const char *subject, const char *event,
                 const char *text)
{
        struct store_event e = {.at_ms = loop_now_ms()};
        (void)snprintf(e.trace, sizeof(e.trace), "%s", trace);
        (void)snprintf(e.subject, sizeof(e.subject), "%s", subject);
        (void)snprintf(e.event, sizeof(e.event), "%s", event);
        (void)snprintf(e.text, sizeof(e.text), "%s", text);
        if (m->events->len == MANAGER_EVENTS_WAITING)
                g_array_remove_index(m->events, 0);
        g_array_append_val(m->events, e);
        log_info("%s: %s: %s", trace, event, text);
        manager_changed(m);
}

static int write_all(struct manager *m, struct err *err)
{
        int bad = used_write(m, err);
        bad = bad ? bad : orders_write(m, err);
        bad = bad ? bad : drains_write(m, err);
        for (guint i = 0; i < m->events->len && !bad; i++)
                bad = store_add_event(m->store, &g_array_index(m->events, struct store_event, i), NULL, err);
        if (!bad && m->events->len > 0)
                bad = store_trim_events(m->store, MANAGER_EVENTS_KEPT, err);
        return bad ? bad : store_commit(m->store, err);
}

/* What cannot be recorded is not done: it stays to be recorded, and is tried again. */
static void on_commit(void *arg)
{
        struct manager *m = arg;
        struct err err = {0};
        if (write_all(m, &err)) {
                store_rollback(m->store);
                if (!m->is_unwritten)
                        log_error("nothing can be recorded: %s; trying again", err.sentence);
                m->is_unwritten = true;
                m->problem = err;
                loop_timer_in(&m->again, AGAIN_MS);
                return;
        }
        if (m->is_unwritten)
                log_note("it can be recorded again");
        m->is_unwritten = false;
        g_array_set_size(m->events, 0);
        used_written(m);
        orders_written(m);
        drains_written(m);
        events_publish(m);
}

static void on_again(void *arg)
{
        manager_changed(arg);
}

/* ---- start ---- */

static int check_certificate(const struct manager_config *c, struct err *err)
{
        struct cert_id id;
        int bad = cert_files_check(&c->files, 0, &id, err);
        if (!bad && id.role != CERT_MANAGER)
                bad = err_set(err, REASON_INVALID, EINVAL,
                              "%.100s is the certificate of %s %s, and this is a manager ('mete pki add DIR "
                              "--manager NAME')",
                              c->files.cert, cert_role_name(id.role), id.name);
        return bad;
}

static int configure(struct manager *m, const char *path)
{
        struct peers hosts = {0};
        struct err err = {0};
        int bad = manager_config_read(path, &m->config, &err);
        if (!bad && (bad = check_certificate(&m->config, &err)))
                err_note(&err, "%.100s: [listen]", path);
        if (!bad && (bad = peers_read(m->config.hosts, &hosts, &err)))
                err_note(&err, "%.100s: [hosts] file", path);
        peers_done(&hosts);
        if (bad)
                log_error("%s", err.sentence);
        return bad ? EXIT_CONFIG : 0;
}

static int start(struct manager *m, struct err *err)
{
        char path[512];
        if (mkdir(m->config.state_dir, 0700) < 0 && errno != EEXIST)
                return err_set(err, REASON_INTERNAL, errno, "cannot make %s: %s", m->config.state_dir,
                               strerror(errno));
        (void)snprintf(path, sizeof(path), "%s/manager.db", m->config.state_dir);
        int bad = store_open(path, NULL, 0, &m->store, err);
        bad = bad ? bad : used_start(m, err);
        bad = bad ? bad : orders_start(m, err);
        bad = bad ? bad : drains_start(m, err);
        if (!bad && !((m->calls = http_calls_new(err)) && (m->long_calls = http_calls_new(err))))
                bad = -ENOMEM;
        bad = bad ? bad : fleet_start(m, err);
        bad = bad ? bad : api_start(m, err);
        if (bad)
                return bad;
        m->ready_mono_ms = loop_mono_ms();
        manager_say(m, "manager", "manager", "started", "mete-manager " METE_VERSION);
        orders_adopt(m);
        drains_adopt(m);
        return 0;
}

static void stop(struct manager *m)
{
        drains_stop(m);
        orders_stop(m);
        used_stop(m);
        if (m->fleet)
                fleet_stop(m);
        http_calls_free(m->calls);
        http_calls_free(m->long_calls);
        api_stop(m);
        events_stop(m);
        loop_turn_cancel(&m->commit);
        loop_timer_cancel(&m->again);
        store_close(m->store);
        g_array_free(m->events, TRUE);
}

static gboolean on_signal(gpointer arg)
{
        (void)arg;
        loop_quit();
        return G_SOURCE_CONTINUE;
}

static gboolean on_reload(gpointer arg)
{
        fleet_reload(arg);
        return G_SOURCE_CONTINUE;
}

static int run(struct manager *m)
{
        struct err err = {0};
        guint term = g_unix_signal_add(SIGTERM, on_signal, NULL),
              in = g_unix_signal_add(SIGINT, on_signal, NULL), hup = 0;
        m->events = g_array_new(FALSE, FALSE, sizeof(struct store_event));
        loop_turn_init(&m->commit, LOOP_COMMIT, on_commit, m);
        loop_timer_init(&m->again, on_again, m);
        int bad = start(m, &err);
        if (bad) {
                log_error("%s", err.sentence);
        } else {
                log_info("ready on %s, store in %s", m->config.socket, m->config.state_dir);
                hup = g_unix_signal_add(SIGHUP, on_reload, m);
                notify_send("READY=1");
                loop_run();
                log_info("stopping; moves that are under way go on");
        }
        if (hup)
                g_source_remove(hup);
        stop(m);
        g_source_remove(term);
        g_source_remove(in);
        loop_done();
        return bad ? 1 : 0;
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
        const char *path = "/etc/mete/manager.conf";
        enum log_level level = LOG_INFO;
        bool is_check = false;
        for (int c; (c = getopt_long(argc, argv, "c:h", options, NULL)) != -1;) {
                switch (c) {
                case 'c':
                        path = optarg;
                        break;
                case 'k':
                        is_check = true;
                        break;
                case 'v':
                        level = LOG_DEBUG;
                        break;
                case 'V':
                        (void)printf("mete-manager %s\n", METE_VERSION);
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
                (void)fprintf(stderr, "mete-manager: takes no arguments (see --help)\n");
                return 64;
        }
        log_init("mete-manager", level);
        struct manager *m = g_new0(struct manager, 1);
        int status = configure(m, path);
        if (!status && is_check)
                (void)printf("%s: good\n", path);
        if (!status && !is_check) {
                (void)signal(SIGPIPE, SIG_IGN);
                (void)umask(0077); /* the store is nobody else's to read */
                status = run(m);
        }
        g_free(m);
        return status;
}
