/* SPDX-License-Identifier: Apache-2.0 */
/* Against a real bus with a systemd of ours on it, which makes plain folders instead of control groups. */
#include "host/scope.h"

#include <errno.h>
#include <gio/gio.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define UNIT_PATH "/org/freedesktop/systemd1/unit/m_2dvms_2escope"

enum mood {
        GOOD = 1,
        REFUSES,   /* StartTransientUnit: access denied */
        SILENT,    /* no answer to anything */
        FAILS,     /* the job ends so */
        NEVER,     /* the job does not end */
        ELSEWHERE, /* the scope's group is none that we see */
        LONG,      /* its path is longer than we can take */
        RACE,      /* another makes it between our question and our wish */
};

struct mock {
        enum mood mood;
        int n_asked; /* for the scope's state */
        int goings;  /* how often it is said that the scope is being stopped; -1: for ever */
        bool has_unit;
        bool is_absent; /* nobody has systemd's name */
        char *root;
        GMainContext *context;
        GMainLoop *loop;
        GThread *thread;
        GDBusConnection *bus;
        GPtrArray *kept;      /* calls without answer */
        GVariant *properties; /* that the scope was asked with */
        char *name;
        uint32_t pid;
};

struct fixture {
        char *root, *state, *dir;
        struct mock mock;
        struct scope_options options;
};

static GTestDBus *bus;

static const char interfaces[] =
        "<node><interface name='org.freedesktop.systemd1.Manager'>"
        "<method name='Subscribe'/>"
        "<method name='GetUnit'><arg type='s' direction='in'/><arg type='o' direction='out'/></method>"
        "<method name='StartTransientUnit'><arg type='s' direction='in'/><arg type='s' direction='in'/>"
        "<arg type='a(sv)' direction='in'/><arg type='a(sa(sv))' direction='in'/>"
        "<arg type='o' direction='out'/></method>"
        "<signal name='JobRemoved'><arg type='u'/><arg type='o'/><arg type='s'/><arg type='s'/></signal>"
        "</interface>"
        "<interface name='org.freedesktop.systemd1.Unit'><property name='ActiveState' type='s' "
        "access='read'/></interface>"
        "<interface name='org.freedesktop.systemd1.Scope'><property name='ControlGroup' type='s' "
        "access='read'/></interface></node>";

static void put(const char *dir, const char *file, const char *text)
{
        g_autofree char *path = g_build_filename(dir, file, NULL);
        g_assert_true(g_file_set_contents(path, text, -1, NULL));
}

static void make_scope(const char *root, uint32_t pid)
{
        g_autofree char *dir = g_build_filename(root, "m.slice/m-vms.scope", NULL);
        g_autofree char *text = pid ? g_strdup_printf("%u\n", pid) : g_strdup("");
        g_assert_cmpint(g_mkdir_with_parents(dir, 0755), ==, 0);
        put(dir, "cgroup.procs", text);
        put(dir, "cgroup.threads", text);
        put(dir, "cgroup.events", "populated 1\nfrozen 0\n");
}

static void start_unit(struct mock *m, GVariant *parameters)
{
        g_variant_get(parameters, "(ss@a(sv)@a(sa(sv)))", &m->name, NULL, &m->properties, NULL);
        for (gsize i = 0; i < g_variant_n_children(m->properties); i++) {
                const char *key;
                g_autoptr(GVariant) value = NULL;
                g_variant_get_child(m->properties, i, "(&sv)", &key, &value);
                if (strcmp(key, "PIDs") == 0)
                        g_variant_get_child(value, 0, "u", &m->pid);
        }
        make_scope(m->root, m->pid);
        m->has_unit = true;
}

static void on_call(GDBusConnection *c, const char *sender, const char *path, const char *interface,
                    const char *method, GVariant *parameters, GDBusMethodInvocation *call, gpointer arg)
{
        struct mock *m = arg;
        if (m->mood == SILENT) {
                g_ptr_array_add(m->kept, call);
        } else if (strcmp(method, "Subscribe") == 0) {
                g_dbus_method_invocation_return_value(call, NULL);
        } else if (strcmp(method, "GetUnit") == 0) {
                if (m->has_unit || m->goings != 0)
                        g_dbus_method_invocation_return_value(call, g_variant_new("(o)", UNIT_PATH));
                else
                        g_dbus_method_invocation_return_dbus_error(
                                call, "org.freedesktop.systemd1.NoSuchUnit", "not loaded");
        } else if (m->mood == REFUSES) {
                g_dbus_method_invocation_return_dbus_error(call, "org.freedesktop.DBus.Error.AccessDenied",
                                                           "it may not");
        } else if (m->mood == RACE) {
                make_scope(m->root, 0);
                m->has_unit = true;
                g_variant_get(parameters, "(ss@a(sv)@a(sa(sv)))", &m->name, NULL, &m->properties, NULL);
                g_dbus_method_invocation_return_dbus_error(call, "org.freedesktop.systemd1.UnitExists",
                                                           "it is there");
        } else {
                static const char job[] = "/org/freedesktop/systemd1/job/7";
                start_unit(m, parameters);
                /* The job of another first; and ours ends before its answer leaves, as it may. */
                (void)g_dbus_connection_emit_signal(
                        c, NULL, path, interface, "JobRemoved",
                        g_variant_new("(uoss)", 6, "/org/freedesktop/systemd1/job/6", "x.service", "failed"),
                        NULL);
                if (m->mood != NEVER)
                        (void)g_dbus_connection_emit_signal(
                                c, NULL, path, interface, "JobRemoved",
                                g_variant_new("(uoss)", 7, job, m->name,
                                              m->mood == FAILS ? "failed" : "done"),
                                NULL);
                g_dbus_method_invocation_return_value(call, g_variant_new("(o)", job));
        }
}

static GVariant *on_get(GDBusConnection *c, const char *sender, const char *path, const char *interface,
                        const char *property, GError **e, gpointer arg)
{
        struct mock *m = arg;
        if (strcmp(property, "ActiveState") == 0) {
                bool is_going = m->goings != 0;
                m->n_asked++;
                if (m->goings > 0)
                        m->goings--;
                return g_variant_new_string(is_going ? "deactivating" : "active");
        }
        return g_variant_new_string(
                m->mood == ELSEWHERE ? "/not/here"
                : m->mood == LONG
                        ? "/m.slice/0123456789012345678901234567890123456789012345678901234567/m-vms.scope"
                        : "/m.slice/m-vms.scope");
}

static const GDBusInterfaceVTable table = {.method_call = on_call, .get_property = on_get};

static gpointer mock_run(gpointer arg)
{
        struct mock *m = arg;
        g_main_context_push_thread_default(m->context);
        GError *e = NULL;
        m->bus =
                g_dbus_connection_new_for_address_sync(g_test_dbus_get_bus_address(bus),
                                                       G_DBUS_CONNECTION_FLAGS_AUTHENTICATION_CLIENT |
                                                               G_DBUS_CONNECTION_FLAGS_MESSAGE_BUS_CONNECTION,
                                                       NULL, NULL, &e);
        g_assert_no_error(e);
        GDBusNodeInfo *info = g_dbus_node_info_new_for_xml(interfaces, &e);
        g_assert_no_error(e);
        for (int i = 0; i < 3; i++)
                g_assert_cmpuint(g_dbus_connection_register_object(
                                         m->bus, i == 0 ? "/org/freedesktop/systemd1" : UNIT_PATH,
                                         info->interfaces[i], &table, m, NULL, &e),
                                 >, 0);
        if (!m->is_absent) {
                GVariant *got = g_dbus_connection_call_sync(
                        m->bus, "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus",
                        "RequestName", g_variant_new("(su)", "org.freedesktop.systemd1", 4), NULL,
                        G_DBUS_CALL_FLAGS_NONE, -1, NULL, &e);
                g_assert_no_error(e);
                g_variant_unref(got);
        }
        g_main_loop_run(m->loop);
        g_assert_true(g_dbus_connection_close_sync(m->bus, NULL, NULL)); /* the name is free again */
        g_object_unref(m->bus);
        g_dbus_node_info_unref(info);
        while (g_main_context_iteration(m->context, FALSE)) {
        }
        g_main_context_pop_thread_default(m->context);
        return NULL;
}

static void mock_start(struct fixture *f, enum mood mood)
{
        struct mock *m = &f->mock;
        m->mood = mood;
        m->root = f->root;
        m->kept = g_ptr_array_new_with_free_func(g_object_unref);
        m->context = g_main_context_new();
        m->loop = g_main_loop_new(m->context, FALSE);
        m->thread = g_thread_new("systemd", mock_run, m);
        while (!g_main_loop_is_running(m->loop))
                g_usleep(1000);
}

static gboolean on_quit(gpointer arg)
{
        g_main_loop_quit(arg);
        return G_SOURCE_REMOVE;
}

static void mock_stop(struct fixture *f)
{
        struct mock *m = &f->mock;
        g_main_context_invoke(m->context, on_quit, m->loop);
        (void)g_thread_join(m->thread);
        g_ptr_array_unref(m->kept);
        g_main_loop_unref(m->loop);
        g_main_context_unref(m->context);
        g_clear_pointer(&m->properties, g_variant_unref);
        g_clear_pointer(&m->name, g_free);
        f->mock = (struct mock){0};
}

static const char *const holder[] = {"/proc/self/exe", "--hold", NULL};

static void set_up(struct fixture *f)
{
        *f = (struct fixture){.root = g_dir_make_tmp("mete-scope-XXXXXX", NULL)};
        f->state = g_build_filename(f->root, "state", NULL);
        f->dir = g_build_filename(f->root, "m.slice/m-vms.scope", NULL);
        g_assert_cmpint(g_mkdir(f->state, 0755), ==, 0);
        f->options = (struct scope_options){.prefix = "m",
                                            .root = f->root,
                                            .state_dir = f->state,
                                            .bus = bus ? g_test_dbus_get_bus_address(bus) : NULL,
                                            .keeper_unit = "k.service",
                                            .holder = holder,
                                            .timeout_ms = 60000};
}

static void remove_all(const char *path)
{
        GDir *d = g_dir_open(path, 0, NULL);
        for (const char *name; d && (name = g_dir_read_name(d));) {
                g_autofree char *each = g_build_filename(path, name, NULL);
                remove_all(each);
        }
        if (d)
                g_dir_close(d);
        (void)g_remove(path);
}

static void tear_down(struct fixture *f)
{
        remove_all(f->root);
        g_free(f->root);
        g_free(f->state);
        g_free(f->dir);
}

static bool is_noted(const struct fixture *f)
{
        g_autofree char *path = g_build_filename(f->state, "scope", NULL), *text = NULL;
        return g_file_get_contents(path, &text, NULL, NULL) && strcmp(text, "m.slice/m-vms.scope") == 0;
}

static bool is_alive(const struct scope *s)
{
        return pidfd_send_signal(s->holder_fd, 0, NULL, 0) == 0;
}

static void calls_itself(pid_t pid, const char *name)
{
        g_autofree char *path = g_strdup_printf("/proc/%d/comm", (int)pid);
        for (;; g_usleep(1000)) { /* it has only just been started */
                g_autofree char *comm = NULL;
                g_assert_true(g_file_get_contents(path, &comm, NULL, NULL));
                if (g_str_has_prefix(comm, name))
                        return;
        }
}

static void is_property(const struct mock *m, const char *key, const char *text)
{
        g_autoptr(GVariant) all = g_variant_ref(m->properties);
        g_autofree char *found = NULL;
        for (gsize i = 0; i < g_variant_n_children(all); i++) {
                const char *name;
                g_autoptr(GVariant) value = NULL;
                g_variant_get_child(all, i, "(&sv)", &name, &value);
                if (strcmp(name, key) == 0)
                        found = g_variant_print(value, FALSE);
        }
        g_assert_cmpstr(found, ==, text);
}

/* ---- tests ---- */

static void test_name(void)
{
        char slice[SCOPE_PATH], scope[SCOPE_PATH];
        struct err err = {0};
        g_assert_cmpint(scope_name("mete", slice, scope, &err), ==, 0);
        g_assert_cmpstr(slice, ==, "mete.slice");
        g_assert_cmpstr(scope, ==, "mete-vms.scope");
        g_assert_cmpint(scope_name("a/b", slice, scope, &err), ==, 0);
        g_assert_cmpstr(slice, ==, "a-b.slice");
        g_assert_cmpstr(scope, ==, "a-b-vms.scope");
        g_autofree char *most = g_strnfill(SCOPE_PATH - sizeof("-vms.scope"), 'x'),
                        *more = g_strconcat(most, "x", NULL);
        g_assert_cmpint(scope_name(most, slice, scope, &err), ==, 0);
        g_assert_cmpuint(strlen(scope), ==, SCOPE_PATH - 1);
        g_assert_cmpint(scope_name(more, slice, scope, &err), ==, -ENAMETOOLONG);
}

static void test_made(void)
{
        struct fixture f;
        struct scope s, again;
        struct err err = {0};
        set_up(&f);
        mock_start(&f, GOOD);
        g_assert_cmpint(scope_start(&f.options, &s, &err), ==, 0);
        g_assert_true(s.is_made);
        g_assert_cmpstr(s.path, ==, "m.slice/m-vms.scope");
        g_assert_cmpstr(f.mock.name, ==, "m-vms.scope");
        g_assert_cmpuint(f.mock.pid, ==, s.holder);
        is_property(&f.mock, "Slice", "'m.slice'");
        is_property(&f.mock, "DelegateControllers", "['cpu', 'cpuset', 'io', 'memory', 'pids']");
        is_property(&f.mock, "CPUWeight", "10000");
        is_property(&f.mock, "TasksMax", "18446744073709551615");
        is_property(&f.mock, "Before", "['k.service']");
        is_property(&f.mock, "CollectMode", "'inactive-or-failed'");
        g_assert_true(is_noted(&f));
        calls_itself(s.holder, SCOPE_HOLDER);
        g_assert_true(is_alive(&s));

        /* With VMs in it, it stays, and who comes next finds it. */
        pid_t pid = s.holder;
        scope_done(&s, &f.options, false);
        g_assert_cmpint(kill(pid, 0), ==, 0);
        g_assert_cmpint(scope_start(&f.options, &again, &err), ==, 0);
        g_assert_false(again.is_made);
        g_assert_cmpint(again.holder, ==, pid);
        scope_done(&again, &f.options, true);
        g_assert_cmpint(kill(pid, 0), ==, -1);
        g_assert_false(is_noted(&f));
        scope_done(&again, &f.options, true);
        mock_stop(&f);
        tear_down(&f);
}

/* Its holder was killed, the VMs are there: it gets another, and not a stranger that is in it. */
static void test_new_holder(void)
{
        struct fixture f;
        struct scope s;
        struct err err = {0};
        set_up(&f);
        make_scope(f.root, (uint32_t)getpid());
        mock_start(&f, GOOD);
        f.mock.has_unit = true;
        g_assert_cmpint(scope_start(&f.options, &s, &err), ==, 0);
        g_assert_false(s.is_made);
        g_assert_null(f.mock.name); /* nothing was asked for */
        g_assert_cmpint(s.holder, !=, getpid());
        g_autofree char *path = g_build_filename(f.dir, "cgroup.procs", NULL), *text = NULL,
                        *wanted = g_strdup_printf("%d\n", (int)s.holder);
        g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
        g_assert_true(g_str_has_prefix(text, wanted));
        scope_done(&s, &f.options, true);
        mock_stop(&f);
        tear_down(&f);
}

/* What cannot be kept is no reason to go elsewhere: VMs may be in it. */
static void test_cannot_keep(void)
{
        struct fixture f;
        struct scope s;
        struct err err = {0};
        set_up(&f);
        make_scope(f.root, 0);
        g_autofree char *path = g_build_filename(f.dir, "cgroup.procs", NULL);
        g_assert_cmpint(g_unlink(path), ==, 0);
        mock_start(&f, GOOD);
        f.mock.has_unit = true;
        g_assert_cmpint(scope_start(&f.options, &s, &err), ==, -EBUSY);
        mock_stop(&f);
        tear_down(&f);
}

static void test_race(void)
{
        struct fixture f;
        struct scope s;
        struct err err = {0};
        set_up(&f);
        mock_start(&f, RACE);
        g_assert_cmpint(scope_start(&f.options, &s, &err), ==, 0);
        g_assert_false(s.is_made);
        g_assert_true(is_alive(&s));
        scope_done(&s, &f.options, true);
        mock_stop(&f);
        tear_down(&f);
}

/* Nobody is left behind, and nothing noted. */
static void refused(enum mood mood, int timeout_ms, int code, const char *word)
{
        struct fixture f;
        struct scope s = {.holder_fd = -7};
        struct err err = {0};
        set_up(&f);
        f.options.timeout_ms = timeout_ms;
        mock_start(&f, mood);
        g_assert_cmpint(scope_start(&f.options, &s, &err), ==, -code);
        g_assert_nonnull(strstr(err.sentence, word));
        g_assert_cmpint(s.holder_fd, ==, -7);
        g_assert_false(is_noted(&f));
        uint32_t pid = f.mock.pid;
        g_assert_true(pid > 0 || mood == REFUSES || code == ETIMEDOUT);
        if (pid > 0)
                g_assert_cmpint(kill((pid_t)pid, 0), ==, -1);
        mock_stop(&f);
        tear_down(&f);
}

static void test_refused(void)
{
        refused(REFUSES, 60000, EPROTO, "it may not");
        refused(FAILS, 60000, EPROTO, "did not start it: failed");
        refused(ELSEWHERE, 60000, ENOENT, "not/here");
        refused(LONG, 60000, ENAMETOOLONG, "too long");
}

static void test_hangs(void)
{
        refused(SILENT, 200, ETIMEDOUT, "no answer in 200 ms");
        refused(NEVER, 500, ETIMEDOUT, "500 ms");
}

static void test_going(void)
{
        struct fixture f;
        struct scope s;
        struct err err = {0};
        set_up(&f);
        mock_start(&f, GOOD);
        f.mock.goings = 2;
        g_assert_cmpint(scope_start(&f.options, &s, &err), ==, 0);
        g_assert_true(s.is_made);
        scope_done(&s, &f.options, true);
        mock_stop(&f);

        /* It does not go: there is none, and no other place either. */
        mock_start(&f, GOOD);
        f.mock.goings = -1;
        put(f.state, "scope", "m.slice/m-vms.scope");
        g_autofree char *events = g_build_filename(f.dir, "cgroup.events", NULL);
        g_assert_cmpint(g_unlink(events), ==, 0);
        int r = 0;
        for (f.options.timeout_ms = 200; f.mock.n_asked < 2; f.options.timeout_ms *= 2) {
                f.mock.n_asked = 0; /* twice: the first answer has come */
                r = scope_start(&f.options, &s, &err);
        }
        g_assert_cmpint(r, ==, -EBUSY);
        g_assert_nonnull(strstr(err.sentence, "being stopped"));
        g_assert_null(f.mock.name);
        mock_stop(&f);
        tear_down(&f);
}

/* Where VMs are is known without an answer. */
static void test_noted(void)
{
        struct fixture f;
        struct scope s;
        struct err err = {0};
        set_up(&f);
        make_scope(f.root, 0);
        put(f.state, "scope", "m.slice/m-vms.scope");
        mock_start(&f, SILENT);
        f.options.timeout_ms = 200;
        g_assert_cmpint(scope_start(&f.options, &s, &err), ==, 0);
        g_assert_cmpstr(s.path, ==, "m.slice/m-vms.scope");
        g_assert_true(is_alive(&s));
        scope_done(&s, &f.options, false);
        (void)kill(s.holder, SIGKILL);

        g_assert_cmpint(scope_take(&f.options, &s, &err), ==, 0);
        g_assert_true(is_alive(&s));
        scope_done(&s, &f.options, false);
        (void)kill(s.holder, SIGKILL);

        /* Nobody in it: it is systemd's to remove. And no path of anybody else's. */
        put(f.dir, "cgroup.events", "populated 0\nfrozen 0\n");
        g_assert_cmpint(scope_start(&f.options, &s, &err), ==, -ETIMEDOUT);
        g_assert_cmpint(scope_take(&f.options, &s, &err), ==, -ENOENT);
        put(f.dir, "cgroup.events", "populated 1\nfrozen 0\n");
        put(f.state, "scope", "../m.slice/m-vms.scope");
        g_assert_cmpint(scope_start(&f.options, &s, &err), ==, -ETIMEDOUT);
        mock_stop(&f);
        tear_down(&f);
}

static gpointer come_late(gpointer arg)
{
        struct fixture *f = arg;
        g_usleep(100000);
        mock_start(f, GOOD);
        return NULL;
}

/* A bus without systemd, and one to which it comes late; no bus; one that takes connections and says nothing.
 */
static void test_bus(void)
{
        struct fixture f;
        struct scope s;
        struct err err = {0};
        set_up(&f);
        f.mock.is_absent = true;
        mock_start(&f, GOOD);
        f.options.timeout_ms = 200;
        g_assert_cmpint(scope_start(&f.options, &s, &err), ==, -ETIMEDOUT);
        mock_stop(&f);
        f.options.timeout_ms = 60000;
        GThread *thread = g_thread_new("late", come_late, &f);
        g_assert_cmpint(scope_start(&f.options, &s, &err), ==, 0);
        (void)g_thread_join(thread);
        scope_done(&s, &f.options, true);
        mock_stop(&f);

        g_autofree char *path = g_build_filename(f.root, "bus", NULL),
                        *address = g_strconcat("unix:path=", path, NULL);
        f.options.bus = address;
        g_assert_cmpint(scope_start(&f.options, &s, &err), ==, -EPROTO);
        struct sockaddr_un a = {.sun_family = AF_UNIX};
        (void)g_strlcpy(a.sun_path, path, sizeof(a.sun_path));
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        g_assert_cmpint(bind(fd, (const struct sockaddr *)&a, sizeof(a)), ==, 0);
        g_assert_cmpint(listen(fd, 4), ==, 0);
        f.options.timeout_ms = 200;
        g_assert_cmpint(scope_start(&f.options, &s, &err), ==, -ETIMEDOUT);
        (void)close(fd);
        tear_down(&f);
}

/* Who started it dies before it keeps a scope. */
static void test_leash(void)
{
        GPid pid;
        int leash, status;
        g_assert_true(g_spawn_async_with_pipes(NULL, (char **)(uintptr_t)holder, NULL,
                                               G_SPAWN_DO_NOT_REAP_CHILD | G_SPAWN_CLOEXEC_PIPES, NULL, NULL,
                                               &pid, &leash, NULL, NULL, NULL));
        (void)close(leash);
        g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
        g_assert_true(WIFEXITED(status));
}

int main(int argc, char **argv)
{
        if (argc == 2 && strcmp(argv[1], "--hold") == 0)
                scope_hold();
        (void)signal(SIGPIPE, SIG_IGN);
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/host/scope/name", test_name);
        g_test_add_func("/host/scope/leash", test_leash);
        g_autofree char *daemon = g_find_program_in_path("dbus-daemon");
        if (daemon) {
                bus = g_test_dbus_new(G_TEST_DBUS_NONE);
                g_test_dbus_up(bus);
                g_test_add_func("/host/scope/made", test_made);
                g_test_add_func("/host/scope/new-holder", test_new_holder);
                g_test_add_func("/host/scope/cannot-keep", test_cannot_keep);
                g_test_add_func("/host/scope/race", test_race);
                g_test_add_func("/host/scope/refused", test_refused);
                g_test_add_func("/host/scope/hangs", test_hangs);
                g_test_add_func("/host/scope/going", test_going);
                g_test_add_func("/host/scope/noted", test_noted);
                g_test_add_func("/host/scope/bus", test_bus);
        } else {
                g_test_message("dbus-daemon is not installed: there is no bus to test with");
        }
        int status = g_test_run();
        if (bus) {
                g_test_dbus_down(bus);
                g_object_unref(bus);
        }
        return status;
}
