/* SPDX-License-Identifier: Apache-2.0 */
/* One run of the binary answers everything: `-machine none` with the accelerator that would be used, since
 * which CPU models can be had depends on it. The run has a main context of its own, so that nothing of the
 * daemon's loop is dispatched meanwhile. */
#include "vm/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <inttypes.h>
#include <linux/kvm.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "base/str.h"
#include "json/read.h"
#include "vm/pick.h"
#include "vm/qmp.h"

enum { REMEMBERED_MAX = 1 << 18, QMP_FD = 3 };

/* From the most able to the least. Named models only: "max" and "host" are another CPU on every machine. */
static const char *const cpu_models[] = {
        "SapphireRapids",
        "Icelake-Server-noTSX",
        "Cascadelake-Server-noTSX",
        "EPYC-Milan",
        "EPYC-Rome",
        "Skylake-Server-noTSX-IBRS",
        "EPYC",
        "Skylake-Client-noTSX-IBRS",
        "Broadwell-noTSX",
        "Haswell-noTSX",
        "IvyBridge",
        "SandyBridge",
        "Westmere",
        "Nehalem",
        "Opteron_G3",
        "Penryn",
        "Conroe",
        "qemu64",
};

/* ---- KVM */

static bool cpu_has_virtualisation(const char *cpuinfo_path)
{
        FILE *f = fopen(cpuinfo_path, "re");
        char *line = NULL;
        size_t size = 0;
        bool found = false;
        while (f != NULL && !found && getline(&line, &size, f) > 0) {
                if (strncmp(line, "flags", 5) != 0)
                        continue;
                char *save = NULL;
                for (char *w = strtok_r(line, " \t\n:", &save); w != NULL && !found;
                     w = strtok_r(NULL, " \t\n:", &save))
                        found = strcmp(w, "vmx") == 0 || strcmp(w, "svm") == 0;
        }
        free(line);
        if (f != NULL)
                fclose(f);
        return found;
}

/* The CPU first: without its help nothing is to be had from the device, whatever opening it says. */
bool probe_kvm(const char *kvm_path, const char *cpuinfo_path, char *ret_why, size_t size)
{
        int fd = -1, vm = -1;
        const char *why = NULL;
        char text[128];
        if (!cpu_has_virtualisation(cpuinfo_path)) {
                /* Seen: KVM makes VMs here all the same, but no ordinary kernel boots in them. */
                why = "the CPU shows neither vmx nor svm";
        } else if ((fd = open(kvm_path, O_RDWR | O_CLOEXEC)) < 0) {
                snprintf(text, sizeof(text), "%.60s: %s", kvm_path, strerror(errno));
                why = text;
        } else if (ioctl(fd, KVM_GET_API_VERSION, 0) != KVM_API_VERSION ||
                   (vm = ioctl(fd, KVM_CREATE_VM, 0)) < 0) {
                why = "KVM cannot make a VM";
        }
        if (vm >= 0)
                close(vm);
        if (fd >= 0)
                close(fd);
        snprintf(ret_why, size, "%s", why != NULL ? why : "");
        return why == NULL;
}

/* ---- what is remembered */

static int describe_file(const char *path, bool kvm, char ret[128], struct err *err)
{
        struct stat st;
        if (stat(path, &st) < 0)
                return err_set(err, REASON_NOT_FOUND, errno, "QEMU %s: %s", path, strerror(errno));
        if (!S_ISREG(st.st_mode) || access(path, X_OK) < 0)
                return err_set(err, REASON_INVALID, EACCES, "QEMU %s: not a program", path);
        snprintf(ret, 128, "1:%jx:%jx:%jx:%jx.%09ld:%jx.%09ld:%d", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino,
                 (uintmax_t)st.st_size, (uintmax_t)st.st_mtim.tv_sec, st.st_mtim.tv_nsec,
                 (uintmax_t)st.st_ctim.tv_sec, st.st_ctim.tv_nsec, kvm);
        return 0;
}

static void remembered_read(const char *path, struct api_qemu_probe_list *ret)
{
        char *text = NULL;
        gsize n = 0;
        struct stat st;
        *ret = (struct api_qemu_probe_list){0};
        if (path == NULL || stat(path, &st) < 0 || st.st_size > REMEMBERED_MAX ||
            !g_file_get_contents(path, &text, &n, NULL))
                return;
        json_t *v = json_read(text, n, NULL);
        if (v == NULL || api_qemu_probe_list_parse(v, ret, NULL) < 0)
                *ret = (struct api_qemu_probe_list){0};
        json_decref(v);
        g_free(text);
}

/* Loss of this file costs a probe, no more. */
static void remembered_write(const char *path, struct api_qemu_probe_list *list,
                             const struct api_qemu_probe *probe)
{
        size_t keep = 0;
        for (size_t i = 0; i < list->n_probes; i++)
                if (strcmp(list->probes[i].path, probe->path) != 0 && keep + 1 < ARRAY_N(list->probes))
                        list->probes[keep++] = list->probes[i];
        list->probes[keep] = *probe;
        list->n_probes = keep + 1;
        json_t *v = api_qemu_probe_list_emit(list);
        size_t n = 0;
        char *text = v != NULL ? json_write(v, &n) : NULL;
        GError *fault = NULL;
        if (text != NULL && !g_file_set_contents(path, text, n, &fault)) {
                log_warn("%s: what QEMU can do is not remembered: %s", path, fault->message);
                g_error_free(fault);
        }
        free(text);
        json_decref(v);
}

/* ---- one run */

struct run {
        struct api_qemu_probe *probe;
        GMainContext *context;
        struct qmp *q;
        int timeout_ms;
        bool finished;
        struct err err; /* of the first fault */
};

static void finish(struct run *r, const struct err *err)
{
        if (!r->finished && err != NULL)
                r->err = *err;
        r->finished = true;
}

/* "pc-q35-7.2" or "pc-q35-4.0.1" -> a number that orders them; 0: not one of them. */
static int64_t machine_rank(const char *name)
{
        static const char prefix[] = "pc-q35-";
        int64_t rank = 0;
        if (strncmp(name, prefix, strlen(prefix)) != 0)
                return 0;
        const char *s = name + strlen(prefix);
        for (int part = 0; part < 3; part++) {
                size_t n = strspn(s, "0123456789");
                bool last = s[n] == '\0';
                if (n < 1 || n > 2 || (!last && s[n] != '.') || (last && part == 0))
                        return 0;
                rank = rank * 100 + strtol(s, NULL, 10);
                if (last)
                        return part == 1 ? rank * 100 : rank;
                s += n + 1;
        }
        return 0;
}

static void choose_machine(struct run *r, const json_t *machines)
{
        int64_t best = 0;
        size_t i;
        json_t *m;
        json_array_foreach(machines, i, m)
        {
                char name[sizeof(r->probe->machine)];
                bool deprecated = false;
                pick_boolean(m, "deprecated", &deprecated);
                if (!pick_string(m, "name", name, sizeof(name)) || !str_is_name(name) ||
                    machine_rank(name) == 0)
                        continue;
                if (r->probe->n_machines < ARRAY_N(r->probe->machines))
                        STR_COPY(r->probe->machines[r->probe->n_machines++], name);
                if (!deprecated && machine_rank(name) > best) {
                        best = machine_rank(name);
                        STR_COPY(r->probe->machine, name);
                }
        }
}

static const json_t *find_model(const json_t *models, const char *name)
{
        size_t i;
        json_t *m;
        json_array_foreach(models, i, m) if (strcmp(pick_text(m, "name"), name) == 0) return m;
        return NULL;
}

static bool model_is_whole(const json_t *m)
{
        const json_t *missing = json_object_get(m, "unavailable-features");
        return json_is_array(missing) && json_array_size(missing) == 0;
}

static bool model_is_usable(const json_t *m)
{
        bool deprecated = false;
        pick_boolean(m, "deprecated", &deprecated);
        return m != NULL && !deprecated && model_is_whole(m);
}

/* Also what is deprecated: a VM that has it goes on with it. */
static void list_models(struct run *r, const json_t *models)
{
        size_t i;
        json_t *m;
        json_array_foreach(models, i, m)
        {
                char name[sizeof(r->probe->cpu_model)];
                if (model_is_whole(m) && pick_string(m, "name", name, sizeof(name)) && str_is_name(name) &&
                    r->probe->n_cpu_models < ARRAY_N(r->probe->cpu_models))
                        STR_COPY(r->probe->cpu_models[r->probe->n_cpu_models++], name);
        }
}

static void choose_model(struct run *r, const json_t *models)
{
        for (size_t i = 0; i < ARRAY_N(cpu_models); i++) {
                char versioned[sizeof(r->probe->cpu_model)];
                const json_t *m = find_model(models, cpu_models[i]);
                /* The plain name may mean another version with another machine type. */
                if (!model_is_usable(m) || !pick_string(m, "alias-of", versioned, sizeof(versioned)) ||
                    !str_is_name(versioned) || !model_is_usable(find_model(models, versioned)))
                        continue;
                STR_COPY(r->probe->cpu_model, versioned);
                return;
        }
}

static void on_models(void *arg, const json_t *ret, const struct err *err)
{
        struct run *r = arg;
        struct err none = {0};
        if (err == NULL) {
                choose_model(r, ret);
                list_models(r, ret);
        }
        if (err == NULL && r->probe->cpu_model[0] == '\0') {
                err_set(&none, REASON_UNSUPPORTED, ENOTSUP, "none of the CPU models that we know can be had");
                err = &none;
        }
        finish(r, err);
}

static void on_machines(void *arg, const json_t *ret, const struct err *err)
{
        struct run *r = arg;
        struct err none = {0};
        if (err == NULL)
                choose_machine(r, ret);
        if (err == NULL && r->probe->machine[0] == '\0') {
                err_set(&none, REASON_UNSUPPORTED, ENOTSUP, "it has no versioned q35 machine type");
                err = &none;
        }
        if (err != NULL)
                finish(r, err);
        else
                qmp_execute(r->q, "query-cpu-definitions", NULL, r->timeout_ms, on_models, r);
}

static void on_ready(void *arg, const struct qmp_version *v)
{
        struct run *r = arg;
        struct api_qemu_probe *p = r->probe;
        p->major = v->major;
        p->minor = v->minor;
        p->micro = v->micro;
        snprintf(p->version, sizeof(p->version), "%d.%d.%d", v->major, v->minor, v->micro);
        if (v->major < 7 || (v->major == 7 && v->minor < 2)) {
                struct err err = {0};
                err_set(&err, REASON_UNSUPPORTED, ENOTSUP, "version %s is too old, 7.2 is needed",
                        p->version);
                finish(r, &err);
                return;
        }
        qmp_execute(r->q, "query-machines", NULL, r->timeout_ms, on_machines, r);
}

static void on_lost(void *arg, const struct err *why)
{
        finish(arg, why);
}

static int start(const char *path, const char *accelerator, int monitor, int complaints, pid_t *ret_pid)
{
        char machine[64], chardev[64];
        snprintf(machine, sizeof(machine), "none,accel=%s", accelerator);
        snprintf(chardev, sizeof(chardev), "socket,id=qmp0,fd=%d", QMP_FD);
        char *argv[] = {(char *)path,
                        (char *)"-nodefaults",
                        (char *)"-no-user-config",
                        (char *)"-display",
                        (char *)"none",
                        (char *)"-machine",
                        machine,
                        (char *)"-chardev",
                        chardev,
                        (char *)"-mon",
                        (char *)"chardev=qmp0,mode=control",
                        NULL};
        posix_spawn_file_actions_t actions;
        posix_spawnattr_t attributes;
        sigset_t none, usual;
        sigemptyset(&none);
        sigfillset(&usual);
        posix_spawn_file_actions_init(&actions);
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
        posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
        posix_spawn_file_actions_adddup2(&actions, complaints, 2);
        posix_spawn_file_actions_adddup2(&actions, monitor, QMP_FD);
        posix_spawnattr_init(&attributes);
        posix_spawnattr_setsigmask(&attributes, &none);
        posix_spawnattr_setsigdefault(&attributes, &usual);
        posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
        int r = posix_spawn(ret_pid, path, &actions, &attributes, argv, environ);
        posix_spawn_file_actions_destroy(&actions);
        posix_spawnattr_destroy(&attributes);
        return r;
}

static void converse(struct run *r, int fd)
{
        r->context = g_main_context_new();
        g_main_context_push_thread_default(r->context);
        r->q = qmp_new(
                fd,
                &(struct qmp_options){.greeting_ms = r->timeout_ms, .on_ready = on_ready, .on_lost = on_lost},
                r);
        /* Ends: the greeting and each call have their deadline. */
        while (r->q != NULL && !r->finished)
                g_main_context_iteration(r->context, TRUE);
        if (r->q == NULL)
                err_set(&r->err, REASON_INTERNAL, ENOMEM, "no memory");
        qmp_free(r->q);
        g_main_context_pop_thread_default(r->context);
        g_main_context_unref(r->context);
}

/* The first line that it left on stderr, where that explains more than a lost connection does. */
static void note_complaint(int complaints, struct err *err)
{
        char text[160];
        ssize_t n = pread(complaints, text, sizeof(text) - 1, 0);
        if (n <= 0 || err->reason != REASON_PEER_LOST)
                return;
        text[n] = '\0';
        text[strcspn(text, "\r\n")] = '\0';
        for (char *c = text; *c != '\0'; c++)
                if (*c < 0x20 || *c == 0x7f)
                        *c = '?';
        err_set(err, REASON_UNSUPPORTED, ENOEXEC, "it says: %s", text);
}

static int run(const char *path, struct run *r, const char *accelerator)
{
        int fds[2], complaints = memfd_create("complaints", MFD_CLOEXEC);
        pid_t pid;
        if (complaints < 0)
                return err_set(&r->err, REASON_INTERNAL, errno, "memfd: %s", strerror(errno));
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0) {
                close(complaints);
                return err_set(&r->err, REASON_INTERNAL, errno, "socketpair: %s", strerror(errno));
        }
        int code = start(path, accelerator, fds[1], complaints, &pid);
        close(fds[1]);
        if (code != 0) {
                err_set(&r->err, REASON_UNSUPPORTED, code, "%s", strerror(code));
                close(fds[0]);
        } else {
                converse(r, fds[0]);
                kill(pid, SIGKILL); /* it has nothing to lose */
                while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
                        ;
                note_complaint(complaints, &r->err);
        }
        close(complaints);
        return r->err.reason != 0 ? -r->err.code : 0;
}

int probe_qemu(const char *path, const char *remembered, int timeout_ms, struct api_qemu_probe *ret,
               struct err *err)
{
        struct api_qemu_probe p = {0};
        struct api_qemu_probe_list list;
        char why[128];
        if (path[0] != '/' || !STR_COPY(p.path, path))
                return err_set(err, REASON_INVALID, EINVAL,
                               "QEMU %.100s: must be an absolute path below 256 bytes", path);
        bool kvm = probe_kvm("/dev/kvm", "/proc/cpuinfo", why, sizeof(why));
        int r = describe_file(path, kvm, p.file, err);
        if (r < 0)
                return r;
        remembered_read(remembered, &list);
        for (size_t i = 0; i < list.n_probes; i++) {
                if (strcmp(list.probes[i].path, path) == 0 && strcmp(list.probes[i].file, p.file) == 0) {
                        *ret = list.probes[i];
                        return 0;
                }
        }
        struct run run_state = {.probe = &p, .timeout_ms = timeout_ms};
        if (run(path, &run_state, kvm ? "kvm" : "tcg") < 0) {
                if (err != NULL)
                        *err = run_state.err;
                return err_note(err, "QEMU %s", path);
        }
        p.accelerator = kvm ? API_ACCELERATOR_KVM : API_ACCELERATOR_TCG;
        p.has_accelerator_why = !kvm;
        if (!kvm)
                STR_COPY(p.accelerator_why, why);
        p.virtio_mem_safe = p.major > 8 || (p.major == 8 && p.minor >= 1);
        p.memory_mechanism = API_MEMORY_MECHANISM_DIMM;
        /* On TCG QEMU dies of a later migration, or of the next plug. */
        p.cpu_mechanism = kvm ? API_CPU_MECHANISM_UNPLUG : API_CPU_MECHANISM_PARK;
        if (remembered != NULL)
                remembered_write(remembered, &list, &p);
        *ret = p;
        return 0;
}

int probe_runs(const struct api_qemu_probe *probe, const struct api_vm_definition *d, struct err *err)
{
        bool has_machine = false, has_model = false;
        for (size_t i = 0; i < probe->n_machines; i++)
                has_machine = has_machine || strcmp(probe->machines[i], d->machine) == 0;
        for (size_t i = 0; i < probe->n_cpu_models; i++)
                has_model = has_model || strcmp(probe->cpu_models[i], d->cpu_model) == 0;
        if (!has_machine)
                return err_set(err, REASON_INCOMPATIBLE, ENOTSUP,
                               "%.60s is a machine %s, which QEMU %.30s here has not", d->name, d->machine,
                               probe->version);
        return has_model
                       ? 0
                       : err_set(err, REASON_INCOMPATIBLE, ENOTSUP,
                                 "%.60s has CPU model %s, which QEMU %.30s here cannot give it (%s)", d->name,
                                 d->cpu_model, probe->version, api_accelerator_name(probe->accelerator));
}
