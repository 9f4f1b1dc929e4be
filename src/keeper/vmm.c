/* SPDX-License-Identifier: Apache-2.0 */
#include "keeper/vmm.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/log.h"
#include "base/str.h"
#include "keeper/argv.h"
#include "keeper/flow.h"
#include "keeper/guard.h"
#include "keeper/launch.h"
#include "keeper/lend.h"
#include "keeper/ramdir.h"
#include "keeper/space.h"

static void vmm_free(void *arg)
{
        struct vmm *m = arg;
        loop_fd_remove(&m->watch);
        outlet_close(&m->outlet);
        if (m->pid_fd >= 0)
                (void)close(m->pid_fd);
        g_slist_free(m->waiting);
        g_free(m);
}

static struct vmm *vmm_new(struct vmms *v)
{
        struct vmm *m = g_new0(struct vmm, 1);
        m->owner = v;
        m->pid_fd = -1;
        return m;
}

/* How it ended, where we are its parent; one sentence in the log, with the last thing that it said. */
static void tell_end(struct vmm *m)
{
        siginfo_t info = {0};
        const char *said = m->outlet.last;
        bool is_reaped =
                m->is_child && waitid((idtype_t)P_PIDFD, (id_t)m->pid_fd, &info, WEXITED) == 0 && info.si_pid;
        /* It may have ended by itself just before. */
        bool is_otherwise = is_reaped && (info.si_code == CLD_EXITED || info.si_status != SIGKILL);
        if (m->is_end_asked && !is_otherwise)
                log_note("%s: VMM %d is ended, as it was asked for", m->record.vm, (int)m->record.pid);
        else if (is_reaped)
                log_note("%s: VMM %d %s %d%s%s", m->record.vm, (int)m->record.pid,
                         info.si_code == CLD_EXITED ? "exited with status" : "was ended by signal",
                         info.si_status, *said ? "; last it said: " : "", said);
        else
                log_note("%s: VMM %d is gone", m->record.vm, (int)m->record.pid);
}

static void on_end(void *arg, uint32_t events)
{
        struct vmm *m = arg;
        loop_fd_remove(&m->watch);
        outlet_close(&m->outlet);
        tell_end(m);
        (void)close(m->pid_fd);
        m->pid_fd = -1;
        if (m->owner->on_gone)
                m->owner->on_gone(m->owner->arg, m);
}

/* pid_fd is taken. */
static int watch(struct vmm *m, int pid_fd, struct err *err)
{
        m->pid_fd = pid_fd;
        return loop_fd_add(&m->watch, pid_fd, EPOLLIN, on_end, m, err);
}

static int open_dir(const char *path, mode_t mode, gid_t gid, struct err *err)
{
        if (g_mkdir_with_parents(path, 0755) < 0)
                return err_set(err, REASON_INTERNAL, errno, "%s: %s", path, strerror(errno));
        int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        struct stat st;
        int r = 0;
        if (fd >= 0 && fstat(fd, &st) == 0 && st.st_uid != geteuid())
                r = err_set(err, REASON_POLICY, EPERM, "%s belongs to uid %u", path, (unsigned)st.st_uid);
        else if (fd < 0 || fchown(fd, (uid_t)-1, gid) < 0 || fchmod(fd, mode) < 0)
                r = err_set(err, REASON_INTERNAL, errno, "%s: %s", path, strerror(errno));
        if (r < 0 && fd >= 0)
                (void)close(fd);
        return r < 0 ? r : fd;
}

int vmms_init(struct vmms *v, const struct keeper_config *config, const struct cpu_host *cpu,
              const struct memory_host *memory, const struct huge *huge, struct nics *nics,
              struct classes *classes, struct err *err)
{
        g_autofree char *records = g_build_filename(config->run_dir, "vm", NULL);
        g_autofree char *logs = g_build_filename(config->run_dir, "log", NULL);
        *v = (struct vmms){.config = config,
                           .cpu = cpu,
                           .memory = memory,
                           .huge = huge,
                           .nics = nics,
                           .classes = classes,
                           .ram_fd = -1,
                           .record_fd = -1,
                           .log_fd = -1};
        v->by_name = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, vmm_free);
        int r = v->record_fd = open_dir(records, 0700, 0, err);
        if (r >= 0)
                r = v->log_fd = open_dir(logs, config->n_spaces > 1 ? 0751 : 0750, config->users[0].gid, err);
        if (r >= 0)
                r = v->ram_fd = ramdir_open_base(config->ram_dir, err);
        if (r >= 0)
                r = cpu->provider->start(cpu, err);
        if (r < 0)
                vmms_done(v);
        return r < 0 ? r : 0;
}

void vmms_done(struct vmms *v)
{
        bool is_empty = !v->by_name || g_hash_table_size(v->by_name) == 0;
        if (v->by_name)
                g_hash_table_unref(v->by_name);
        v->by_name = NULL;
        if (is_empty)
                v->cpu->provider->finish(v->cpu);
        for (int **fd = (int *[]){&v->ram_fd, &v->record_fd, &v->log_fd, NULL}; *fd; fd++)
                if (**fd >= 0) {
                        (void)close(**fd);
                        **fd = -1;
                }
}

/* The pidfd is opened first: it pins the process, whose start time is compared then. */
static int find_process(const struct record *r)
{
        uint64_t ticks;
        int fd = pidfd_open(r->pid, 0);
        if (fd < 0)
                return -1;
        if (record_start_ticks(r->pid, &ticks, NULL) == 0 && ticks == r->start_ticks)
                return fd;
        (void)close(fd);
        return -1;
}

/* A pipe without a name, such as a keeper made. One with a name may have others who write into it, and what
 * they write is not for us to take. */
static bool is_pipe(int fd)
{
        struct stat st;
        struct statfs fs;
        return fstat(fd, &st) == 0 && S_ISFIFO(st.st_mode) && st.st_uid == geteuid() &&
               fstatfs(fd, &fs) == 0 && fs.f_type == PIPEFS_MAGIC;
}

/* Its end of the pipe is still there as its descriptor 2; we make ourselves a new one. What is there is of
 * the VMM's choosing by now, so it is looked at before it is opened. */
static void reopen_outlet(struct vmm *m)
{
        char path[64];
        (void)snprintf(path, sizeof(path), "/proc/%d/fd/2", (int)m->record.pid);
        int at = open(path, O_PATH | O_CLOEXEC), fd = -1;
        if (at >= 0 && is_pipe(at)) {
                (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", at);
                fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
        }
        if (at >= 0)
                (void)close(at);
        struct err err = {.sentence = "its end is not there any more"};
        if (fd < 0 || outlet_open(&m->outlet, m->owner->log_fd, m->record.vm,
                                  space_of_vm(m->owner->config, m->record.vm)->gid, fd, false, &err) < 0)
                log_warn("%s: what its VMM says is not kept any more: %s", m->record.vm, err.sentence);
}

static bool adopt(struct vmms *v, const struct record *r)
{
        struct vmm *m = vmm_new(v);
        struct err err = {0};
        m->record = *r;
        (void)g_hash_table_insert(v->by_name, m->record.vm, m);
        int fd = find_process(r);
        if (fd < 0) {
                log_note("%s: VMM %d ended while there was no keeper", r->vm, (int)r->pid);
                return false;
        }
        if (watch(m, fd, &err) < 0)
                log_error("%s: its end will not be noticed: %s", r->vm, err.sentence);
        reopen_outlet(m);
        log_note("%s: adopted VMM %d", r->vm, (int)r->pid);
        return true;
}

static bool is_running(const char *vm, void *arg)
{
        const struct vmm *m = g_hash_table_lookup(((struct vmms *)arg)->by_name, vm);
        return m && m->pid_fd >= 0;
}

unsigned vmms_adopt(struct vmms *v)
{
        unsigned n = 0;
        int fd = openat(v->record_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *d = fd < 0 ? NULL : fdopendir(fd);
        if (!d)
                return 0;
        for (struct dirent *e; (e = readdir(d));) {
                struct record r;
                struct err err = {0};
                if (!g_str_has_suffix(e->d_name, ".json"))
                        continue;
                if (record_read(v->record_fd, e->d_name, &r, &err) < 0)
                        log_error("record left alone: %s", err.sentence);
                else if (!g_hash_table_contains(v->by_name, r.vm))
                        n += adopt(v, &r);
        }
        (void)closedir(d);
        flows_sweep(v->nics, is_running, v);
        return n;
}

int vmms_check_slot(const struct vmms *v, const char *vm, uid_t uid, struct err *err)
{
        GHashTableIter i;
        void *value;
        unsigned slot = uid - v->config->uid_first;
        g_hash_table_iter_init(&i, v->by_name);
        while (g_hash_table_iter_next(&i, NULL, &value)) {
                const struct vmm *m = value;
                if (m->record.uid == uid && strcmp(m->record.vm, vm) != 0)
                        return err_set(err, REASON_BUSY, EBUSY,
                                       "slot %u belongs to VM %s, %s, until that is dropped", slot,
                                       m->record.vm, m->pid_fd >= 0 ? "which runs" : "which has ended");
        }
        const char *borrower = lends_borrower_of_uid(v->lends, uid);
        if (borrower && strcmp(borrower, vm) != 0)
                return err_set(err, REASON_BUSY, EBUSY,
                               "slot %u belongs to VM %s, which has borrowed memory, until that is returned",
                               slot, borrower);
        return 0;
}

static int check_slot(const struct vmms *v, const struct api_keeper_vmm_start *s, struct err *err)
{
        const struct vmm *m = g_hash_table_lookup(v->by_name, s->vm);
        if (s->slot >= v->config->uid_count)
                return err_set(err, REASON_INVALID, EINVAL, "slot %lld: there are %u", (long long)s->slot,
                               v->config->uid_count);
        if (m && m->pid_fd >= 0)
                return err_set(err, REASON_BUSY, EBUSY, "%s runs already, as process %d", s->vm,
                               (int)m->record.pid);
        return vmms_check_slot(v, s->vm, v->config->uid_first + (uid_t)s->slot, err);
}

bool vmm_is_there(const struct vmm *vmm)
{
        return vmm->pid_fd >= 0 && pidfd_send_signal(vmm->pid_fd, 0, NULL, 0) == 0;
}

bool vmms_has(const struct vmms *v, const char *vm)
{
        const struct vmm *m = g_hash_table_lookup(v->by_name, vm);
        return m && vmm_is_there(m);
}

/* Root's group is not given away for it. */
static int kvm_group(gid_t *ret, struct err *err)
{
        struct stat st;
        if (stat("/dev/kvm", &st) < 0)
                return err_set(err, REASON_UNSUPPORTED, errno, "/dev/kvm: %s", strerror(errno));
        *ret = 0;
        if (st.st_mode & S_IWOTH)
                return 0;
        if (st.st_gid == 0 || !(st.st_mode & S_IWGRP))
                return err_set(err, REASON_UNSUPPORTED, EACCES,
                               "/dev/kvm is root's alone: give it to group kvm with mode 0660");
        *ret = st.st_gid;
        return 0;
}

static int make_outlet(struct vmm *m, int *ret_write_fd, struct err *err)
{
        int fds[2];
        if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
                return err_set(err, REASON_INTERNAL, errno, "pipe: %s", strerror(errno));
        int r = outlet_open(&m->outlet, m->owner->log_fd, m->record.vm,
                            space_of_vm(m->owner->config, m->record.vm)->gid, fds[0], true, err);
        if (r < 0)
                (void)close(fds[1]);
        else
                *ret_write_fd = fds[1];
        return r;
}

/* From the fork to the running program. On failure the process is gone. */
static int run(struct vmm *m, const struct launch_options *o, struct err *err)
{
        struct vmms *v = m->owner;
        struct launch l;
        int pid_fd = -1, r = launch_begin(&l, o, err);
        if (r < 0)
                return r;
        m->record.pid = l.pid;
        m->is_child = true;
        r = record_start_ticks(l.pid, &m->record.start_ticks, err);
        if (r == 0)
                r = record_write(v->record_fd, &m->record, err);
        if (r == 0)
                r = v->cpu->provider->vm_enter(v->cpu, m->record.vm, l.pid, err);
        if (r == 0 && v->memory)
                r = memory_limit_enter(v->memory, m->record.vm, l.pid, err);
        if (r < 0)
                launch_cancel(&l);
        else
                r = launch_finish(&l, &pid_fd, err);
        if (r == 0 && (r = watch(m, pid_fd, err)) < 0) {
                (void)pidfd_send_signal(pid_fd, SIGKILL, NULL, 0);
                (void)waitid((idtype_t)P_PIDFD, (id_t)pid_fd, &(siginfo_t){0}, WEXITED);
                (void)close(pid_fd);
                m->pid_fd = -1;
        }
        return r;
}

/* More vCPUs than any definition has: the bound is a fence, and the command line is not ours to read. */
enum { BOUND_VCPUS = 64 };

static int prepare_and_run(struct vmm *m, struct launch_options *o, const struct api_keeper_vmm_start *s,
                           bool is_kvm, struct err *err)
{
        const struct ramdir_keep keep = {s->keep, s->n_keep};
        int64_t memory_bytes = s->memory_bytes;
        struct vmms *v = m->owner;
        const char *vm = m->record.vm;
        int64_t huge_bytes = s->has_huge_bytes ? s->huge_bytes : 0;
        /* What it has borrowed is there, and is not to be had once more. */
        if ((o->is_borrower = lends_borrowed_by(v->lends, vm) != NULL))
                memory_bytes = 0;
        int out = -1, r = ramdir_make(v->ram_fd, vm, o->uid, space_of_vm(v->config, vm)->gid,
                                      memory_bytes > huge_bytes ? memory_bytes - huge_bytes : 0, &keep, err);
        memory_bytes = s->memory_bytes;
        if (r == 0)
                r = huge_make(v->huge, vm, o->uid, huge_bytes > 0, &keep, err);
        if (r == 0)
                r = lends_link(v->lends, vm, err);
        if (r < 0)
                return r;
        r = v->cpu->provider->vm_make(v->cpu, vm, err);
        if (r == 0 && v->memory)
                r = memory_limit_set(v->memory, vm, memory_limit_bytes(memory_bytes, BOUND_VCPUS, !is_kvm),
                                     err);
        if (r == 0)
                r = make_outlet(m, &out, err);
        if (r == 0) {
                o->stderr_fd = out;
                r = run(m, o, err);
                (void)close(out);
        }
        return r;
}

/* What was just killed is in its groups until it has exited. */
static int remove_groups(struct vmms *v, const char *vm, enum cpu_removal removal, struct err *err)
{
        int r = v->cpu->provider->vm_remove(v->cpu, vm, removal, err);
        for (int tries = 0; r == -EBUSY && tries < 50; tries++) {
                g_usleep(10000);
                r = v->cpu->provider->vm_remove(v->cpu, vm, removal, err);
        }
        return r;
}

/* What one cannot give back is no reason to keep the rest: the first error is the one that is told. */
static int first(int r, int now, const struct err *why, struct err *err)
{
        if (r == 0 && now < 0 && err)
                *err = *why;
        return r < 0 ? r : now;
}

static int let_go_of_all(struct vmms *v, const char *vm, struct err *err)
{
        struct err later;
        int r = nics_drop(v->nics, vm, err);
        return first(r, classes_drop(v->classes, vm, &later), &later, err);
}

static int let_go_of_others(struct vmms *v, const struct api_keeper_vm_drop *p, struct err *err)
{
        struct err later;
        int r = v->cpu->provider->prune(v->cpu, p->vm, p->keep, p->n_keep, err);
        r = first(r, nics_prune(v->nics, p->vm, p->keep, p->n_keep, &later), &later, err);
        return first(r, classes_prune(v->classes, p->vm, p->keep, p->n_keep, &later), &later, err);
}

/* What was there for the VMM: processes, groups, files, the bound. uid 0: none was started. */
static int clear(struct vmms *v, const char *vm, uid_t uid, enum cpu_removal removal,
                 const struct ramdir_keep *keep, struct err *err)
{
        struct err later;
        int r = uid ? launch_sweep(uid, err) : 0;
        if (r < 0)
                return r;
        r = remove_groups(v, vm, removal, err);
        int cleared =
                keep->n ? ramdir_prune(v->ram_fd, vm, keep, &later) : ramdir_drop(v->ram_fd, vm, &later);
        r = first(r, cleared, &later, err);
        r = first(r, huge_clear(v->huge, vm, keep, &later), &later, err);
        return v->memory ? first(r, memory_limit_lift(v->memory, vm, &later), &later, err) : r;
}

/* 0: *ret_uid says whose processes are to be ended; 0 for nobody's. */
static int check_ended(const struct vmms *v, const char *vm, uid_t *ret_uid, struct err *err)
{
        const struct vmm *m = g_hash_table_lookup(v->by_name, vm);
        *ret_uid = 0;
        if (m && m->pid_fd >= 0)
                return err_set(err, REASON_BUSY, EBUSY, "%s runs, as process %d: end it first", vm,
                               (int)m->record.pid);
        /* A record from before a change of the configuration may name any uid: only those for VMs are swept.
         */
        if (m && m->record.uid - v->config->uid_first < v->config->uid_count)
                *ret_uid = m->record.uid;
        return 0;
}

static void forget(struct vmms *v, const char *vm)
{
        outlet_remove(v->log_fd, vm);
        record_remove(v->record_fd, vm);
        guards_forget(v->record_fd, vm);
        (void)g_hash_table_remove(v->by_name, vm);
}

/* What is kept is kept with the slot, as that uid owns it. */
static int make_room(struct vmms *v, const char *vm, const struct ramdir_keep *keep, struct err *err)
{
        uid_t uid;
        int r = check_ended(v, vm, &uid, err);
        if (r == 0)
                r = clear(v, vm, uid, CPU_REMOVE_BUT_ITEMS, keep, err);
        if (r == 0 && keep->n == 0)
                forget(v, vm);
        return r;
}

int vmms_drop_begin(struct vmms *v, struct vmm_drop *d, struct err *err)
{
        d->owner = v;
        int r = check_ended(v, d->what.vm, &d->uid, err);
        return r < 0 ? r : lends_before_end(v->lends, d->what.vm, NULL, err);
}

int vmm_drop_run(const struct vmm_drop *d, struct err *err)
{
        const struct api_keeper_vm_drop *p = &d->what;
        const struct ramdir_keep keep = {p->keep, p->n_keep};
        struct err later, late;
        int r = clear(d->owner, p->vm, d->uid, p->n_keep ? CPU_REMOVE_BUT_ITEMS : CPU_REMOVE_ALL, &keep, err);
        int rest = p->n_keep ? let_go_of_others(d->owner, p, &later) : let_go_of_all(d->owner, p->vm, &later);
        if (r == 0) /* else there are files still, and pages given back would be taken from others */
                rest = first(rest, huge_release(d->owner->huge, p->vm, &keep, &late), &late, &later);
        return first(r, rest, &later, err);
}

void vmms_drop_end(const struct vmm_drop *d)
{
        if (d->what.n_keep == 0)
                forget(d->owner, d->what.vm);
}

int vmms_start(struct vmms *v, const struct api_keeper_vmm_start *s, const int *fds, size_t n_fds,
               struct vmm **ret, struct err *err)
{
        struct keeper_argv made = {0};
        int with_tap[LAUNCH_FDS_MAX], tap = -1;
        g_autofree char *ram_dir = g_build_filename(v->config->ram_dir, s->vm, NULL);
        struct launch_options o = {.uid = v->config->uid_first + (uid_t)s->slot, .fds = fds, .n_fds = n_fds};
        int r = check_slot(v, s, err);
        if (r == 0)
                r = lends_before_start(v->lends, s->vm, o.uid, err);
        if (r == 0)
                r = keeper_argv_make(v->config->qemu, s, ram_dir, &made, err);
        g_auto(GStrv) argv = made.words;
        if (r == 0 && made.is_kvm)
                r = kvm_group(&o.gid_extra, err);
        if (r < 0)
                return r;
        /* One that ended and was not dropped makes room for its successor. What was activated for this VM was
         * so before its start, and does not end with a start that fails. */
        const struct ramdir_keep keep = {s->keep, s->n_keep};
        if (g_hash_table_contains(v->by_name, s->vm) && (r = make_room(v, s->vm, &keep, err)) < 0)
                return r;
        if (made.has_tap) {
                for (size_t i = 0; i < n_fds; i++)
                        with_tap[i] = fds[i];
                if ((r = nics_tap(v->nics, s->vm, &tap, err)) < 0)
                        return r;
                with_tap[n_fds] = tap;
                o.fds = with_tap;
                o.n_fds = n_fds + 1;
        }
        if (s->n_keep > 0) { /* its place in the table, which it has kept until there is the next one */
                outlet_remove(v->log_fd, s->vm);
                (void)g_hash_table_remove(v->by_name, s->vm);
        }
        o.argv = argv;
        struct vmm *m = vmm_new(v);
        (void)STR_COPY(m->record.vm, s->vm);
        m->record.uid = o.uid;
        (void)g_hash_table_insert(v->by_name, m->record.vm, m);
        r = prepare_and_run(m, &o, s, made.is_kvm, err);
        if (tap >= 0 && r < 0)
                nics_tap_back(v->nics, s->vm, tap);
        else if (tap >= 0)
                (void)close(tap);
        if (r < 0) {
                /* What cannot be removed now belongs to that uid still, as what is kept does: it keeps its
                 * slot until it is dropped. */
                struct err why;
                int bad = make_room(v, s->vm, &keep, &why);
                if (bad < 0)
                        log_error("%s: did not start, and what it left stays until it is dropped: %s", s->vm,
                                  why.sentence);
                if (bad < 0 || keep.n > 0)
                        outlet_close(&m->outlet);
                return r;
        }
        log_note("%s: started VMM %d as uid %u", m->record.vm, (int)m->record.pid, (unsigned)m->record.uid);
        *ret = m;
        return 0;
}

int vmms_kill(struct vmms *v, const char *vm, struct vmm **ret, struct err *err)
{
        struct vmm *m = g_hash_table_lookup(v->by_name, vm);
        if (!m || m->pid_fd < 0)
                return 0;
        if (pidfd_send_signal(m->pid_fd, SIGKILL, NULL, 0) < 0 && errno != ESRCH)
                return err_set(err, REASON_INTERNAL, errno, "%s: cannot end VMM %d: %s", vm,
                               (int)m->record.pid, strerror(errno));
        m->is_end_asked = true;
        *ret = m;
        return 1;
}

/* The thread must be the VMM's at this moment. It may end at any other, and its number be a stranger's, so
 * this is asked before a thread is moved and once more afterwards; what was a stranger's is given back. The
 * pidfd is asked after /proc was, so that the pid in the path was still the VMM's own when the path was
 * looked up. */
int vmm_ref_find_thread(const struct vmm_ref *ref, int64_t tid, struct err *err)
{
        if (ref->pid_fd < 0)
                return err_set(err, REASON_NOT_FOUND, ESRCH, "%s does not run", ref->vm);
        char path[64];
        (void)snprintf(path, sizeof(path), "/proc/%d/task/%lld", (int)ref->pid, (long long)tid);
        if (tid > INT32_MAX || access(path, F_OK) < 0 || pidfd_send_signal(ref->pid_fd, 0, NULL, 0) < 0)
                return err_set(err, REASON_NOT_FOUND, ESRCH, "%lld is no thread of %s's VMM", (long long)tid,
                               ref->vm);
        return 0;
}

/* After a move that failed, too: it may have put a thread back that was not the one which it looked at. */
int vmm_ref_check_moved(const struct cpu_host *cpu, const struct vmm_ref *ref, int64_t tid, struct err *err)
{
        int r = vmm_ref_find_thread(ref, tid, err);
        if (r < 0)
                cpu->provider->give_back(cpu, ref->vm, (pid_t)tid);
        return r;
}

int vmms_refer(const struct vmms *v, struct vmm_ref *ret, struct err *err)
{
        const struct vmm *m = g_hash_table_lookup(v->by_name, ret->vm);
        ret->pid_fd = -1;
        if (!m || m->pid_fd < 0)
                return 0;
        int fd = fcntl(m->pid_fd, F_DUPFD_CLOEXEC, 0);
        if (fd < 0)
                return err_set(err, REASON_BUSY, errno, "VMM of %s: %s", ret->vm, strerror(errno));
        ret->pid_fd = fd;
        ret->pid = m->record.pid;
        ret->uid = m->record.uid;
        return 0;
}

int vmms_open_ram(const struct vmms *v, const struct api_keeper_ram *p, struct ramdir_file *files,
                  int64_t *page_bytes, struct err *err)
{
        const struct vmm *m = g_hash_table_lookup(v->by_name, p->vm);
        if (!m || m->pid_fd < 0)
                return err_set(err, REASON_NOT_FOUND, ESRCH, "the VMM of %s does not run", p->vm);
        for (size_t i = 0; i < p->n_items; i++) {
                files[i] = (struct ramdir_file){.fd = -1};
                (void)STR_COPY(files[i].item, p->items[i]);
                page_bytes[i] = 0;
        }
        int r = ramdir_open(v->ram_fd, p->vm, m->record.uid, files, p->n_items, err);
        for (size_t s = 0; r >= 0 && s < v->huge->n; s++) {
                for (size_t i = 0; i < p->n_items; i++)
                        page_bytes[i] = files[i].fd < 0 ? v->huge->sizes[s].page_bytes : page_bytes[i];
                r = ramdir_open(v->huge->sizes[s].fd, p->vm, m->record.uid, files, p->n_items, err);
        }
        if (r >= 0 && (size_t)r == p->n_items)
                return 0;
        for (size_t i = 0; i < p->n_items; i++) {
                if (files[i].fd >= 0)
                        (void)close(files[i].fd);
                else if (r >= 0)
                        r = err_set(err, REASON_NOT_FOUND, ENOENT, "%s has no RAM file %s", p->vm,
                                    p->items[i]);
        }
        return r;
}

bool vmm_describe(const struct vmm *m, struct api_keeper_vmm *ret)
{
        if (m->pid_fd < 0)
                return false;
        const struct keeper_config *c = m->owner->config;
        *ret = (struct api_keeper_vmm){.pid = m->record.pid, .uid = m->record.uid};
        (void)STR_COPY(ret->vm, m->record.vm);
        (void)snprintf(ret->ram_dir, sizeof(ret->ram_dir), "%s/%s", c->ram_dir, m->record.vm);
        (void)snprintf(ret->log, sizeof(ret->log), "%s/log/%s.log", c->run_dir, m->record.vm);
        return true;
}
