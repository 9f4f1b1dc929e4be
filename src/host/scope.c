/* SPDX-License-Identifier: Apache-2.0 */
/* Calls are made asynchronously on a main context of their own, which runs until the answer is there: so all
 * of them, the handshake with the bus included, end at one deadline, and nothing else of the program runs
 * meanwhile. */
#include "host/scope.h"

#include <errno.h>
#include <gio/gio.h>
#include <glib.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/str.h"
#include "host/cgroupfs.h"

#define SYSTEMD    "org.freedesktop.systemd1"
#define MANAGER    SYSTEMD ".Manager"
#define PROPERTIES "org.freedesktop.DBus.Properties"
#define NOTE       "scope"

enum { WEIGHT = 10000, AGAIN_MS = 50 };

/* One scope_start(). */
struct talk {
        const struct scope_options *o;
        char slice[SCOPE_PATH], name[SCOPE_PATH];
        GMainContext *context;
        GCancellable *cancel; /* at the deadline */
        GDBusConnection *bus;
        GAsyncResult *answer;
        GHashTable *jobs; /* path of a job that ended: how */
};

int scope_name(const char *prefix, char ret_slice[SCOPE_PATH], char ret_scope[SCOPE_PATH], struct err *err)
{
        char base[SCOPE_PATH];
        if (!STR_COPY(base, prefix) || strlen(base) + sizeof("-vms.scope") > SCOPE_PATH)
                return err_set(err, REASON_INVALID, ENAMETOOLONG, "\"%.60s\" is too long to name a scope",
                               prefix);
        (void)g_strdelimit(base, "/", '-');
        (void)snprintf(ret_slice, SCOPE_PATH, "%s.slice", base);
        (void)snprintf(ret_scope, SCOPE_PATH, "%s-vms.scope", base);
        return 0;
}

/* ---- calls ---- */

static void on_answer(GObject *source, GAsyncResult *answer, gpointer arg)
{
        struct talk *t = arg;
        t->answer = g_object_ref(answer);
}

static gboolean on_deadline(gpointer arg)
{
        g_cancellable_cancel(arg);
        return G_SOURCE_REMOVE;
}

static GAsyncResult *await(struct talk *t)
{
        while (!t->answer)
                (void)g_main_context_iteration(t->context, TRUE);
        return g_steal_pointer(&t->answer);
}

static int fail(const struct talk *t, const char *what, GError *e, struct err *err)
{
        int r;
        if (g_cancellable_is_cancelled(t->cancel)) {
                r = err_set(err, REASON_TIMEOUT, ETIMEDOUT, "%s: no answer in %d ms", what, t->o->timeout_ms);
        } else {
                if (g_dbus_error_is_remote_error(e))
                        (void)g_dbus_error_strip_remote_error(e);
                r = err_set(err, REASON_PEER_LOST, EPROTO, "%s: %s", what, e->message);
        }
        g_error_free(e);
        return r;
}

static int connect_bus(struct talk *t, struct err *err)
{
        GError *e = NULL;
        g_autofree char *address = t->o->bus ? g_strdup(t->o->bus)
                                             : g_dbus_address_get_for_bus_sync(G_BUS_TYPE_SYSTEM, NULL, &e);
        if (!address)
                return fail(t, "the system bus", e, err);
        g_dbus_connection_new_for_address(address,
                                          G_DBUS_CONNECTION_FLAGS_AUTHENTICATION_CLIENT |
                                                  G_DBUS_CONNECTION_FLAGS_MESSAGE_BUS_CONNECTION,
                                          NULL, t->cancel, on_answer, t);
        g_autoptr(GAsyncResult) answer = await(t);
        t->bus = g_dbus_connection_new_for_address_finish(answer, &e);
        return t->bus ? 0 : fail(t, "the system bus", e, err);
}

/* ret_name, where the other side refuses: the name of its error, "" otherwise. */
static int call(struct talk *t, const char *path, const char *interface, const char *method,
                GVariant *parameters, const char *type, GVariant **ret, char ret_name[96], struct err *err)
{
        GError *e = NULL;
        g_autoptr(GVariantType) expected = g_variant_type_new(type);
        g_dbus_connection_call(t->bus, SYSTEMD, path, interface, method, parameters, expected,
                               G_DBUS_CALL_FLAGS_NONE, t->o->timeout_ms, t->cancel, on_answer, t);
        g_autoptr(GAsyncResult) answer = await(t);
        if (ret_name)
                ret_name[0] = '\0';
        GVariant *result = g_dbus_connection_call_finish(t->bus, answer, &e);
        if (!result) {
                g_autofree char *name = g_dbus_error_get_remote_error(e);
                if (name && ret_name)
                        (void)g_strlcpy(ret_name, name, 96);
                return fail(t, method, e, err);
        }
        *ret = result;
        return 0;
}

static void on_job_removed(GDBusConnection *bus, const char *sender, const char *path, const char *interface,
                           const char *signal, GVariant *parameters, gpointer arg)
{
        struct talk *t = arg;
        const char *job, *how;
        if (!g_variant_is_of_type(parameters, G_VARIANT_TYPE("(uoss)")))
                return;
        g_variant_get(parameters, "(u&os&s)", NULL, &job, NULL, &how);
        (void)g_hash_table_insert(t->jobs, g_strdup(job), g_strdup(how));
}

/* A text of an interface of the scope's. */
static int get(struct talk *t, const char *path, const char *interface, const char *name, char *ret,
               size_t size, struct err *err)
{
        g_autoptr(GVariant) result = NULL, value = NULL;
        int r = call(t, path, PROPERTIES, "Get", g_variant_new("(ss)", interface, name), "(v)", &result, NULL,
                     err);
        if (r < 0)
                return r;
        g_variant_get(result, "(v)", &value);
        if (!g_variant_is_of_type(value, G_VARIANT_TYPE_STRING) ||
            !str_copy(ret, size, g_variant_get_string(value, NULL)))
                return err_set(err, REASON_INTERNAL, EPROTO, "%s of %s is none that can be used", name,
                               t->name);
        return 0;
}

/* ---- the holder ---- */

/* Until it is told that it keeps a scope it is on a leash, which ends with whoever started it: it would
 * otherwise outlive him for nothing. */
void scope_hold(void)
{
        char said;
        (void)setsid();
        (void)prctl(PR_SET_NAME, SCOPE_HOLDER);
        (void)signal(SIGTERM, SIG_DFL);
        if (chdir("/") < 0 || read(STDIN_FILENO, &said, 1) != 1)
                _exit(1);
        for (;;)
                (void)pause();
}

static int holder_watch(struct scope *s, pid_t pid, struct err *err)
{
        int fd = pidfd_open(pid, 0);
        if (fd < 0)
                return err_set(err, REASON_INTERNAL, errno, "pidfd of %d: %s", (int)pid, strerror(errno));
        s->holder_fd = fd;
        s->holder = pid;
        return 0;
}

static void holder_end(struct scope *s)
{
        if (s->holder_fd < 0)
                return;
        (void)pidfd_send_signal(s->holder_fd, SIGKILL, NULL, 0);
        (void)waitid(P_PIDFD, (id_t)s->holder_fd, &(siginfo_t){0}, WEXITED); /* none of ours: -ECHILD */
        (void)close(s->holder_fd);
        s->holder_fd = -1;
        if (s->leash_fd >= 0)
                (void)close(s->leash_fd);
        s->leash_fd = -1;
}

static void holder_let_loose(struct scope *s)
{
        if (s->leash_fd < 0)
                return;
        (void)write(s->leash_fd, "", 1);
        (void)close(s->leash_fd);
        s->leash_fd = -1;
}

static int holder_start(const struct scope_options *o, struct scope *s, struct err *err)
{
        GError *e = NULL;
        GPid pid = 0;
        if (!g_spawn_async_with_pipes(NULL, (char **)(uintptr_t)o->holder, NULL,
                                      G_SPAWN_DO_NOT_REAP_CHILD | G_SPAWN_STDOUT_TO_DEV_NULL |
                                              G_SPAWN_STDERR_TO_DEV_NULL | G_SPAWN_CLOEXEC_PIPES,
                                      NULL, NULL, &pid, &s->leash_fd, NULL, NULL, &e)) {
                int r = err_set(err, REASON_INTERNAL, EIO, "%s: %s", o->holder[0], e->message);
                g_error_free(e);
                return r;
        }
        int r = holder_watch(s, pid, err);
        if (r < 0) { /* without its leash it ends */
                (void)close(s->leash_fd);
                s->leash_fd = -1;
        }
        return r;
}

static const char *dir_of(const struct scope_options *o, const char *path, char buf[CGROUPFS_PATH])
{
        (void)snprintf(buf, CGROUPFS_PATH, "%s/%s", o->root, path);
        return buf;
}

/* In the scope itself, not below: so it is in no VM's group. Opened first, and then looked at once more. */
static bool holder_find(const struct scope_options *o, struct scope *s)
{
        char dir[CGROUPFS_PATH], text[4096], proc[32], comm[32], *save;
        (void)dir_of(o, s->path, dir);
        if (cgroupfs_read(dir, "cgroup.threads", text, sizeof(text), NULL) < 0)
                return false;
        for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
                long pid = strtol(line, NULL, 10);
                (void)snprintf(proc, sizeof(proc), "/proc/%ld", pid);
                if (pid <= 0 || holder_watch(s, (pid_t)pid, NULL) < 0)
                        continue;
                if (cgroupfs_read(proc, "comm", comm, sizeof(comm), NULL) == 0 &&
                    strcmp(comm, SCOPE_HOLDER) == 0 && cgroupfs_lists(dir, "cgroup.threads", pid, NULL) == 1)
                        return true;
                (void)close(s->holder_fd);
                s->holder_fd = -1;
        }
        return false;
}

/* A scope that is there has a holder from now on. */
static int adopt(const struct scope_options *o, struct scope *s, struct err *err)
{
        char dir[CGROUPFS_PATH], text[16];
        struct err why = {0};
        if (holder_find(o, s))
                return 0;
        int r = holder_start(o, s, &why);
        (void)snprintf(text, sizeof(text), "%d\n", (int)s->holder);
        if (r == 0)
                r = cgroupfs_write(dir_of(o, s->path, dir), "cgroup.procs", text, false, &why);
        return r < 0 ? err_set(err, REASON_BUSY, EBUSY, "%s is there and cannot be kept: %s", s->path,
                               why.sentence)
                     : 0;
}

/* ---- systemd's side ---- */

static GVariant *properties(const struct talk *t, pid_t holder)
{
        static const char *const controllers[] = {"cpu", "cpuset", "io", "memory", "pids", NULL};
        const uint32_t pid = (uint32_t)holder;
        GVariantBuilder b;
        g_variant_builder_init(&b, G_VARIANT_TYPE("a(sv)"));
        g_variant_builder_add(&b, "(sv)", "Description",
                              g_variant_new_string("mete's virtual machines, side by side"));
        g_variant_builder_add(&b, "(sv)", "Slice", g_variant_new_string(t->slice));
        g_variant_builder_add(&b, "(sv)", "DelegateControllers", g_variant_new_strv(controllers, -1));
        g_variant_builder_add(&b, "(sv)", "CPUWeight", g_variant_new_uint64(WEIGHT));
        /* All VMs are in it: the limit that a single scope has by default is not meant for that, and
         * systemd-oomd ends scopes whole. */
        g_variant_builder_add(&b, "(sv)", "TasksMax", g_variant_new_uint64(UINT64_MAX));
        g_variant_builder_add(&b, "(sv)", "ManagedOOMPreference", g_variant_new_string("omit"));
        /* Or one that failed would keep its name, and there were no second. */
        g_variant_builder_add(&b, "(sv)", "CollectMode", g_variant_new_string("inactive-or-failed"));
        if (t->o->keeper_unit) {
                /* When the host goes down the daemons end first, and do not take it for deaths of VMs. The
                 * other order could not be had: a scope behind the unit that asks for it never starts. */
                const char *const before[] = {t->o->keeper_unit, NULL};
                g_variant_builder_add(&b, "(sv)", "Before", g_variant_new_strv(before, -1));
        }
        g_variant_builder_add(&b, "(sv)", "PIDs",
                              g_variant_new_fixed_array(G_VARIANT_TYPE_UINT32, &pid, 1, sizeof(pid)));
        return g_variant_builder_end(&b);
}

/* 1: it is active, and s->path said. 0: there is none; *ret_going: one is about to go, or to come. */
static int find(struct talk *t, struct scope *s, bool *ret_going, struct err *err)
{
        char name[96], state[24], path[CGROUPFS_PATH], dir[CGROUPFS_PATH];
        const char *unit;
        g_autoptr(GVariant) result = NULL;
        int r = call(t, "/org/freedesktop/systemd1", MANAGER, "GetUnit", g_variant_new("(s)", t->name), "(o)",
                     &result, name, err);
        if (r < 0 && strcmp(name, SYSTEMD ".NoSuchUnit") != 0)
                return r;
        if (r < 0) {
                *ret_going = false;
                return 0;
        }
        g_variant_get(result, "(&o)", &unit);
        r = get(t, unit, SYSTEMD ".Unit", "ActiveState", state, sizeof(state), err);
        if (r < 0)
                return r;
        bool is_active = strcmp(state, "active") == 0;
        *ret_going = !is_active && strcmp(state, "inactive") != 0 && strcmp(state, "failed") != 0;
        if (!is_active)
                return 0;
        r = get(t, unit, SYSTEMD ".Scope", "ControlGroup", path, sizeof(path), err);
        if (r < 0)
                return r;
        if (path[0] != '/' || strlen(path) > SCOPE_PATH || !cgroupfs_is_path(path + 1, SCOPE_PATH))
                return err_set(err, REASON_UNSUPPORTED, ENAMETOOLONG, "%s lies at %.60s, which is too long",
                               t->name, path);
        (void)STR_COPY(s->path, path + 1);
        if (access(dir_of(t->o, s->path, dir), F_OK) < 0)
                return err_set(err, REASON_INTERNAL, errno, "%s: %s", dir, strerror(errno));
        return 1;
}

/* 1: made. 0: there is one by that name. */
static int make(struct talk *t, struct scope *s, struct err *err)
{
        char name[96];
        const char *job;
        g_autoptr(GVariant) result = NULL;
        int r = call(t, "/org/freedesktop/systemd1", MANAGER, "StartTransientUnit",
                     g_variant_new("(ss@a(sv)@a(sa(sv)))", t->name, "fail", properties(t, s->holder),
                                   g_variant_new_array(G_VARIANT_TYPE("(sa(sv))"), NULL, 0)),
                     "(o)", &result, name, err);
        if (r < 0)
                return strcmp(name, SYSTEMD ".UnitExists") == 0 ? 0 : r;
        g_variant_get(result, "(&o)", &job);
        const char *how;
        while (!(how = g_hash_table_lookup(t->jobs, job)) && !g_cancellable_is_cancelled(t->cancel))
                (void)g_main_context_iteration(t->context, TRUE);
        if (!how)
                return err_set(err, REASON_TIMEOUT, ETIMEDOUT, "%s: systemd did not start it in %d ms",
                               t->name, t->o->timeout_ms);
        if (strcmp(how, "done") != 0)
                return err_set(err, REASON_PEER_LOST, EPROTO, "%s: systemd did not start it: %s", t->name,
                               how);
        return 1;
}

static gboolean on_again(gpointer arg)
{
        *(bool *)arg = true;
        return G_SOURCE_REMOVE;
}

static void wait_a_little(struct talk *t)
{
        bool is_over = false;
        GSource *source = g_timeout_source_new(AGAIN_MS);
        g_source_set_callback(source, on_again, &is_over, NULL);
        (void)g_source_attach(source, t->context);
        while (!is_over)
                (void)g_main_context_iteration(t->context, TRUE);
        g_source_destroy(source);
        g_source_unref(source);
}

/* systemd comes to the bus a moment after that was started: by this very connection, for instance. */
static int subscribe(struct talk *t, struct err *err)
{
        char name[96];
        g_autoptr(GVariant) result = NULL;
        for (;; wait_a_little(t)) {
                int r = call(t, "/org/freedesktop/systemd1", MANAGER, "Subscribe", NULL, "()", &result, name,
                             err);
                if (r == 0 || strcmp(name, "org.freedesktop.DBus.Error.ServiceUnknown") != 0)
                        return r;
        }
}

static int ask(struct talk *t, struct scope *s, struct err *err)
{
        bool is_going = false;
        int r = connect_bus(t, err);
        if (r < 0)
                return r;
        guint watch = g_dbus_connection_signal_subscribe(t->bus, SYSTEMD, MANAGER, "JobRemoved", NULL, NULL,
                                                         G_DBUS_SIGNAL_FLAGS_NONE, on_job_removed, t, NULL);
        r = subscribe(t, err);
        for (bool is_first = true; r == 0; is_first = false) {
                if (!is_first)
                        wait_a_little(t);
                if ((r = find(t, s, &is_going, err)) != 0 || is_going)
                        continue;
                if (s->holder_fd < 0)
                        r = holder_start(t->o, s, err);
                if (r == 0)
                        r = make(t, s, err);
                if (r == 1) {
                        s->is_made = true;
                        r = find(t, s, &is_going, err);
                }
        }
        g_dbus_connection_signal_unsubscribe(t->bus, watch);
        if (r == -ETIMEDOUT && is_going)
                r = err_set(err, REASON_BUSY, EBUSY, "%s of before is being stopped still", t->name);
        return r < 0 ? r : 0;
}

/* Checks what came of it; a scope that was there gets its holder. */
static int settle(const struct scope_options *o, struct scope *s, struct err *err)
{
        char dir[CGROUPFS_PATH];
        if (!s->is_made)
                return adopt(o, s, err);
        int r = cgroupfs_lists(dir_of(o, s->path, dir), "cgroup.procs", s->holder, err);
        if (r == 0)
                r = err_set(err, REASON_INTERNAL, ESRCH, "%s: the process that shall keep it is not in it",
                            s->path);
        return r < 0 ? r : 0;
}

bool scope_find(const struct scope_options *o, char ret_path[SCOPE_PATH])
{
        char path[SCOPE_PATH * 2], dir[CGROUPFS_PATH], events[256];
        if (cgroupfs_read(o->state_dir, NOTE, path, sizeof(path), NULL) < 0 ||
            !cgroupfs_is_path(path, SCOPE_PATH) ||
            cgroupfs_read(dir_of(o, path, dir), "cgroup.events", events, sizeof(events), NULL) < 0 ||
            !strstr(events, "populated 1"))
                return false;
        return str_copy(ret_path, SCOPE_PATH, path);
}

int scope_take(const struct scope_options *o, struct scope *ret, struct err *err)
{
        struct scope s = SCOPE_NONE;
        if (!scope_find(o, s.path))
                return err_set(err, REASON_NOT_FOUND, ENOENT, "there is no scope of before");
        int r = adopt(o, &s, err);
        if (r < 0) {
                holder_end(&s);
                return r;
        }
        holder_let_loose(&s);
        *ret = s;
        return 0;
}

static void talk_done(struct talk *t)
{
        if (t->bus) {
                g_dbus_connection_close(t->bus, NULL, NULL, NULL);
                g_object_unref(t->bus);
        }
        while (g_main_context_iteration(t->context, FALSE)) {
        }
        g_hash_table_unref(t->jobs);
        g_object_unref(t->cancel);
}

int scope_start(const struct scope_options *o, struct scope *ret, struct err *err)
{
        struct talk t = {.o = o};
        struct scope s = SCOPE_NONE;
        int r = scope_name(o->prefix, t.slice, t.name, err);
        if (r < 0)
                return r;
        t.context = g_main_context_new();
        t.cancel = g_cancellable_new();
        t.jobs = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
        g_main_context_push_thread_default(t.context);
        GSource *deadline = g_timeout_source_new((guint)o->timeout_ms);
        g_source_set_callback(deadline, on_deadline, t.cancel, NULL);
        (void)g_source_attach(deadline, t.context);
        r = ask(&t, &s, err);
        if (r == -EPROTO || r == -ETIMEDOUT) { /* no answer, or no */
                holder_end(&s);
                r = scope_find(o, s.path) ? 0 : r;
                s.is_made = false;
        }
        g_source_destroy(deadline);
        g_source_unref(deadline);
        talk_done(&t);
        g_main_context_pop_thread_default(t.context);
        g_main_context_unref(t.context);
        if (r == 0 && !s.is_made && s.holder_fd >= 0)
                holder_end(&s); /* started for one of our own, and another was quicker */
        if (r == 0)
                r = settle(o, &s, err);
        if (r == 0)
                r = cgroupfs_keep(o->state_dir, NOTE, s.path, err);
        if (r < 0) {
                holder_end(&s);
                return r;
        }
        holder_let_loose(&s);
        *ret = s;
        return 0;
}

void scope_done(struct scope *s, const struct scope_options *o, bool is_empty)
{
        if (s->holder_fd < 0)
                return;
        if (is_empty) {
                holder_end(s);
                (void)cgroupfs_forget(o->state_dir, NOTE, NULL);
        } else {
                (void)close(s->holder_fd);
                s->holder_fd = -1;
        }
}
