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
#include "manager/carry.h"
#include "manager/manager.h"

enum { EXIT_CONFIG = 78 /* EX_CONFIG */, AGAIN_MS = 1000 };

static const char usage[] =
        "Usage: mete-manager [--config PATH] [--check | --carry-over] [--verbose]\n"
        "Moves VMs among the hosts of a fleet, at service levels and by policy.\n"
        "\n"
        "  --config PATH  configuration, see mete.conf(5) (/etc/mete/manager.conf)\n"
        "  --check        say what is wrong with the configuration, and end\n"
        "  --carry-over   carry what the file in state_dir records over to etcd, and end\n"
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
        if (m->events->len == MANAGER_EVENTS_WAITING) /* the oldest that is not being recorded */
                g_array_remove_index(m->events, m->n_events_writing);
        g_array_append_val(m->events, e);
        log_info("%s: %s: %s", trace, event, text);
        manager_changed(m);
}

static int gather(struct manager *m, struct err *err)
{
        int bad = used_write(m, err);
        bad = bad ? bad : drains_write(m, err);
        bad = bad ? bad : orders_write(m, NULL, err);
        m->n_events_writing = 0;
        while (!bad && m->n_events_writing < m->events->len && record_has_room(m->record))
                record_say(m->record, &g_array_index(m->events, struct store_event, m->n_events_writing++));
        return bad;
}

/* What cannot be recorded is not done: it stays to be recorded, and is tried again. */
static void unwritten(struct manager *m, const struct err *err)
{
        m->n_events_writing = 0;
        used_unwritten(m);
        orders_unwritten(m);
        drains_unwritten(m);
        if (!m->is_unwritten)
                log_error("nothing can be recorded: %s; trying again", err->sentence);
        m->is_unwritten = true;
        m->problem = *err;
        loop_timer_in(&m->again, AGAIN_MS);
}

static void on_recorded(void *arg, const struct err *err)
{
        struct manager *m = arg;
        m->is_writing = false;
        if (err) {
                unwritten(m, err);
                return;
        }
        if (m->is_unwritten)
                log_note("it can be recorded again");
        m->is_unwritten = false;
        g_array_remove_range(m->events, 0, m->n_events_writing);
        m->n_events_writing = 0;
        used_written(m);
        orders_written(m);
        drains_written(m);
        events_publish(m);
        if (m->is_changed || m->events->len > 0)
                manager_changed(m);
        m->is_changed = false;
}

static void on_commit(void *arg)
{
        struct manager *m = arg;
        struct err err = {0};
        if (m->is_writing)
                m->is_changed = true;
        if (m->is_writing || !m->is_leading || loop_timer_is_set(&m->again))
                return;
        if (gather(m, &err)) {
                record_drop(m->record);
                unwritten(m, &err);
                return;
        }
        m->is_writing = true;
        record_commit(m->record);
}

static void on_again(void *arg)
{
        manager_changed(arg);
}

/* ---- start ---- */

/* Also who it is to other managers. */
static int check_certificate(struct manager_config *c, struct err *err)
{
        struct cert_id id;
        int bad = cert_files_check(&c->files, 0, &id, err);
        if (!bad && id.role != CERT_MANAGER)
                bad = err_set(err, REASON_INVALID, EINVAL,
                              "%.100s is the certificate of %s %s, and this is a manager ('mete pki add DIR "
                              "--manager NAME')",
                              c->files.cert, cert_role_name(id.role), id.name);
        if (!bad)
                (void)snprintf(c->etcd.name, sizeof(c->etcd.name), "%s%s%s", id.name, *c->tls ? " at " : "",
                               c->tls);
        return bad;
}

static void warn(const struct etcd_places *places)
{
        char text[TCP_TEXT];
        for (size_t i = 0; i < places->n; i++)
                if (places->at[i].is_plain)
                        log_warn("etcd at %s takes http://: whoever has a login here can write there, and so "
                                 "order moves; https:// with --client-cert-auth keeps them out",
                                 tcp_address_text(&places->at[i].address, text));
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
        else
                warn(&m->config.etcd.places);
        return bad ? EXIT_CONFIG : 0;
}

/* What was recorded may wait long for a connection to its host: when another may lead, the order may be over
 * there by the time. What went out before that and is on its way, none can call back. */
static bool may_send(void *arg)
{
        const struct manager *m = arg;
        return record_is_ready(m->record, NULL);
}

/* What is recorded is there, and nobody else acts on it. */
static int lead(struct manager *m, struct err *err)
{
        m->store = record_store(m->record);
        int bad = used_start(m, err);
        bad = bad ? bad : orders_start(m, err);
        bad = bad ? bad : drains_start(m, err);
        if (!bad && !((m->calls = http_calls_new(err)) && (m->long_calls = http_calls_new(err))))
                bad = -ENOMEM;
        bad = bad ? bad : fleet_start(m, err);
        if (bad)
                return bad;
        http_calls_check(m->calls, may_send, m);
        http_calls_check(m->long_calls, may_send, m);
        m->is_leading = true;
        manager_say(m, "manager", "manager", "started", "mete-manager " METE_VERSION);
        orders_adopt(m);
        drains_adopt(m);
        return 0;
}

static void on_ready(void *arg)
{
        struct manager *m = arg;
        struct err err = {0};
        if (!lead(m, &err))
                return;
        log_error("%s", err.sentence);
        m->is_broken = true;
        loop_quit();
}

/* Nothing of what is in memory counts any more: whoever leads next has what is recorded. */
static void on_lost(void *arg, const struct err *err)
{
        struct manager *m = arg;
        m->is_leading = false;
        m->is_broken = err->reason == REASON_INTERNAL || err->reason == REASON_INCOMPATIBLE;
        if (m->is_broken)
                log_error("%s", err->sentence);
        else
                log_note("%s; this one begins anew", err->sentence);
        loop_quit();
}

static int open_record(struct manager *m, struct err *err)
{
        const struct record_told told = {on_ready, on_recorded, on_lost, m};
        char path[512];
        if (m->config.etcd.places.n > 0)
                return record_open_etcd(&m->config.etcd, MANAGER_EVENTS_KEPT, &told, &m->record, err);
        if (mkdir(m->config.state_dir, 0700) < 0 && errno != EEXIST)
                return err_set(err, REASON_INTERNAL, errno, "cannot make %s: %s", m->config.state_dir,
                               strerror(errno));
        (void)snprintf(path, sizeof(path), "%s/manager.db", m->config.state_dir);
        return record_open_file(path, MANAGER_EVENTS_KEPT, &told, &m->record, err);
}

static int start(struct manager *m, struct err *err)
{
        m->events = g_array_new(FALSE, FALSE, sizeof(struct store_event));
        loop_turn_init(&m->commit, LOOP_COMMIT, on_commit, m);
        loop_timer_init(&m->again, on_again, m);
        m->ready_mono_ms = loop_mono_ms();
        int bad = open_record(m, err);
        bad = bad ? bad : api_start(m, err);
        if (!bad)
                record_begin(m->record);
        return bad;
}

static void stop(struct manager *m)
{
        if (m->drains)
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
        record_close(m->record);
        g_array_free(m->events, TRUE);
        *m = (struct manager){.config = m->config, .is_ending = m->is_ending};
}

static gboolean on_signal(gpointer arg)
{
        struct manager *m = arg;
        m->is_ending = true;
        loop_quit();
        return G_SOURCE_CONTINUE;
}

static gboolean on_reload(gpointer arg)
{
        struct manager *m = arg;
        if (m->is_leading)
                fleet_reload(m);
        else
                fleet_check(m);
        return G_SOURCE_CONTINUE;
}

/* Until it is to end, or its lead is lost. */
static int run_once(struct manager *m)
{
        struct err err = {0};
        int bad = start(m, &err);
        if (bad) {
                log_error("%s", err.sentence);
        } else {
                log_info("ready on %s, store in %s", m->config.socket,
                         m->config.etcd.places.n > 0 ? "etcd" : m->config.state_dir);
                notify_send("READY=1");
                loop_run();
                bad = m->is_broken;
        }
        stop(m);
        return bad;
}

static int run(struct manager *m)
{
        guint term = g_unix_signal_add(SIGTERM, on_signal, m), in = g_unix_signal_add(SIGINT, on_signal, m),
              hup = g_unix_signal_add(SIGHUP, on_reload, m);
        int bad;
        do
                bad = run_once(m);
        while (!bad && !m->is_ending);
        if (!bad)
                log_info("stopping; moves that are under way go on");
        g_source_remove(hup);
        g_source_remove(term);
        g_source_remove(in);
        loop_done();
        return bad ? 1 : 0;
}

static int carry(const struct manager *m, const char *path)
{
        if (m->config.etcd.places.n > 0)
                return carry_over(&m->config);
        log_error("%.100s: [store] etcd does not say where what is recorded is to be carried over", path);
        return EXIT_CONFIG;
}

int main(int argc, char **argv)
{
        static const struct option options[] = {
                {"config",     required_argument, NULL, 'c'},
                {"check",        no_argument, NULL, 'k'},
                {"carry-over",            no_argument, NULL, 'o'},
                {"verbose",no_argument, NULL, 'v'},
                {"version",         no_argument, NULL, 'V'},
                {"help", no_argument, NULL, 'h'},
                {0       },
        };
        const char *path = "/etc/mete/manager.conf";
        enum log_level level = LOG_INFO;
        bool is_check = false, is_carry = false;
        for (int c; (c = getopt_long(argc, argv, "c:h", options, NULL)) != -1;) {
                switch (c) {
                case 'c':
                        path = optarg;
                        break;
                case 'k':
                        is_check = true;
                        break;
                case 'o':
                        is_carry = true;
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
                status = is_carry ? carry(m, path) : run(m);
        }
        g_free(m);
        return status;
}
