/* SPDX-License-Identifier: Apache-2.0 */
/* sp/hypervisor.c - one meted, from outside.
 *
 *              not wanted                  wanted
 *   no process stopped                     waiting, until it is time to start it (again)
 *   process    ending (SIGTERM, SIGKILL)   starting, until it has taken its partition; then running
 *
 * What is true is looked at, never remembered: whoever listens on its socket, as its user, is the meted of
 * this hypervisor, whoever started it. So one that ran before we did is taken over, and where two were
 * started, the lock of its store leaves one. All of it is one function, hypervisor_look(), called again and
 * again until nothing is left to be done; what it does may be done twice. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "base/str.h"
#include "json/read.h"
#include "sp/crash.h"
#include "sp/lead.h"
#include "sp/sp.h"
#include "sp/upgrade.h"
#include "wire/unix.h"

enum {
        SOON_MS = 100,
        IDLE_MS = 5000,    /* a stopped one may have been started by a mete-sp that died of it */
        BACK_OFF_MS = 200, /* doubled each time */
        BACK_OFF_MAX_MS = 30000,
        STEADY_MS = 60000, /* ran so long: the next end is another story */
        LISTEN_MS = 30000, /* until it is a problem that it does not listen */
        CALL_MS = 10000,
        AGAIN_MS = 1000, /* what it refused is asked again */
        KILL_MS = 20000,
};
enum { EXIT_CONFIG = 78 };

const char *hypervisor_name(const struct hypervisor_of *h)
{
        return h->sp->server.names[h->number];
}

struct http_target hypervisor_target(const struct hypervisor_of *h)
{
        return (struct http_target){.socket = h->socket, .has_owner = true, .owner = h->uid};
}

static void on_look(void *arg);

static void look_in(struct hypervisor_of *h, int64_t ms)
{
        loop_timer_in(&h->look, ms);
}

void hypervisor_look(struct hypervisor_of *h)
{
        look_in(h, 0);
}

static void subject_of(const struct hypervisor_of *h, char ret[REQUEST_KEY])
{
        (void)snprintf(ret, REQUEST_KEY, "hypervisor:%s", hypervisor_name(h));
}

__attribute__((format(printf, 3, 4))) static void note(struct hypervisor_of *h, const char *event,
                                                       const char *fmt, ...)
{
        char subject[REQUEST_KEY], text[REQUEST_SENTENCE];
        va_list args;
        va_start(args, fmt);
        (void)vsnprintf(text, sizeof(text), fmt, args);
        va_end(args);
        subject_of(h, subject);
        journal_note(h->sp, *h->trace ? h->trace : "sp", subject, event, "%s", text);
}

/* Whoever waits hears of it as well; it is tried again all the same. */
static void has_problem(struct hypervisor_of *h, const struct err *why)
{
        if (strcmp(h->problem, why->sentence) != 0)
                note(h, "problem", "%s", why->sentence);
        (void)STR_COPY(h->problem, why->sentence);
        api_answer_all(h->sp, &h->waiters, why);
        upgrading_wake(h->sp);
}

/* ---- the process ---- */

static void is_stopped(struct hypervisor_of *h)
{
        h->state = API_SERVER_STATE_STOPPED;
        if (!h->is_down)
                upgrading_wake(h->sp);
        h->is_down = true;
        api_answer_all(h->sp, &h->waiters, NULL);
        look_in(h, IDLE_MS);
}

static void on_end(void *arg, uint32_t events)
{
        struct hypervisor_of *h = arg;
        siginfo_t info = {0};
        struct err err = {0};
        (void)events;
        bool is_known = h->is_child && waitid((idtype_t)P_PIDFD, (id_t)h->pid_fd, &info, WEXITED) == 0;
        loop_fd_remove(&h->watch);
        (void)close(h->pid_fd);
        h->pid_fd = -1;
        h->epoch = h->telling = 0;
        *h->version = *h->qemu = '\0';
        if (h->call)
                http_call_cancel(h->call);
        h->call = NULL;
        if (!is_known)
                (void)err_set(&err, REASON_PEER_LOST, ESRCH, "its meted (%d) has ended", (int)h->pid);
        else if (info.si_code == CLD_EXITED && info.si_status == EXIT_CONFIG)
                (void)err_set(&err, REASON_INVALID, EINVAL,
                              "its meted does not take its configuration: its log says why");
        else
                (void)err_set(&err, REASON_PEER_LOST, ESRCH, "its meted (%d) %s %d; see its log", (int)h->pid,
                              info.si_code == CLD_EXITED ? "ended with status" : "was ended by signal",
                              info.si_status);
        if (h->is_wanted) {
                int64_t ran_ms = loop_mono_ms() - h->started_mono_ms;
                h->back_off_ms =
                        ran_ms >= STEADY_MS || h->back_off_ms == 0 ? BACK_OFF_MS : 2 * h->back_off_ms;
                h->back_off_ms = MIN(h->back_off_ms, BACK_OFF_MAX_MS);
                h->state = API_SERVER_STATE_WAITING;
                h->restarts++;
                has_problem(h, &err);
                look_in(h, h->back_off_ms);
        } else {
                *h->problem = '\0';
                note(h, "stopped", "%s", err.sentence);
                is_stopped(h);
        }
}

static int watch(struct hypervisor_of *h, pid_t pid, int pid_fd, bool is_child, struct err *err)
{
        int bad = loop_fd_add(&h->watch, pid_fd, EPOLLIN, on_end, h, err);
        if (bad)
                return bad;
        h->pid = pid;
        h->pid_fd = pid_fd;
        h->is_child = is_child;
        h->is_down = false;
        h->started_mono_ms = loop_mono_ms();
        h->state = API_SERVER_STATE_STARTING;
        return 0;
}

/* Who listened may have ended since, and another process have its number: SIGTERM and SIGKILL go to what
 * pid_fd is. So it is looked at by its number first, and that it is alive after that: then the number was its
 * own all the while. */
static bool is_of_user(pid_t pid, int pid_fd, uid_t uid)
{
        struct pollfd p = {.fd = pid_fd, .events = POLLIN};
        char path[64], line[256], wanted[64];
        bool is_same = false;
        (void)snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
        (void)snprintf(wanted, sizeof(wanted), "Uid:\t%u\t%u\t", (unsigned)uid, (unsigned)uid);
        FILE *f = fopen(path, "re");
        while (f && !is_same && fgets(line, sizeof(line), f))
                is_same = g_str_has_prefix(line, wanted);
        if (f)
                (void)fclose(f);
        return is_same && poll(&p, 1, 0) == 0;
}

/* true: somebody is there. */
static bool adopt(struct hypervisor_of *h)
{
        struct unix_peer peer = {0};
        struct launch_user u;
        struct err err = {0};
        int fd = unix_connect(h->socket, &err);
        if (fd < 0)
                return false;
        int bad = unix_peer_get(fd, &peer, &err);
        if (!bad)
                bad = launch_user(h->user, &u, &err);
        if (!bad && peer.uid != u.uid)
                bad = err_set(&err, REASON_POLICY, EPERM, "uid %u listens at %.150s, and not %s",
                              (unsigned)peer.uid, h->socket, h->user);
        if (!bad)
                bad = lead_listen(h, &u, &err);
        h->uid = bad ? h->uid : u.uid;
        int pid_fd = bad ? -1 : pidfd_open(peer.pid, 0);
        (void)close(fd);
        if (!bad && pid_fd >= 0 && !is_of_user(peer.pid, pid_fd, u.uid)) {
                (void)close(pid_fd);
                pid_fd = -1;
        }
        if (!bad && pid_fd < 0)
                return false; /* it has ended just now */
        if (!bad)
                bad = watch(h, peer.pid, pid_fd, false, &err);
        if (bad && pid_fd >= 0)
                (void)close(pid_fd);
        if (bad)
                has_problem(h, &err);
        else
                note(h, "taken-over", "meted %d runs already", (int)peer.pid);
        return true;
}

/* One that is there already must be its own: what lies above is root's, so nobody else can have made it. */
static int make_dir(const char *above, const struct hypervisor_of *h, const struct launch_user *u,
                    mode_t mode, struct err *err)
{
        char path[SP_PATH];
        struct stat st;
        (void)snprintf(path, sizeof(path), "%s/%s", above, hypervisor_name(h));
        if (mkdir(path, 0700) == 0 && (chown(path, u->uid, u->gid) < 0 || chmod(path, mode) < 0)) {
                int code = errno;
                (void)rmdir(path);
                return err_set(err, REASON_INTERNAL, code, "%.150s: %s", path, strerror(code));
        }
        if (lstat(path, &st) < 0)
                return err_set(err, REASON_INTERNAL, errno, "%.150s: %s", path, strerror(errno));
        if (!S_ISDIR(st.st_mode) || st.st_uid != u->uid)
                return err_set(err, REASON_POLICY, EPERM, "%.150s is not a folder of %s's", path, u->name);
        return 0;
}

/* That of all hypervisors, or its own beside it: DIR/hypervisor-NAME.conf. */
static int read_base(const struct hypervisor_of *h, GKeyFile *f, struct err *err)
{
        const char *base = h->sp->config.base;
        g_autoptr(GError) e = NULL;
        size_t n = g_str_has_suffix(base, ".conf") ? strlen(base) - strlen(".conf") : strlen(base);
        g_autofree char *own = g_strdup_printf("%.*s-%s%s", (int)n, base, hypervisor_name(h), base + n);
        const char *path = access(own, F_OK) == 0 ? own : base;
        if (access(path, F_OK) == 0 && !g_key_file_load_from_file(f, path, G_KEY_FILE_NONE, &e))
                return err_set(err, REASON_INVALID, EINVAL, "%.100s: %.100s", path, e->message);
        for (const char *const *key = (const char *const[]){"cpus", "memory", NULL}; *key; key++)
                if (g_key_file_has_key(f, "host", *key, NULL))
                        return err_set(
                                err, REASON_INVALID, EINVAL,
                                "%.100s: [host] %s: the partition is not this file's to say: take it out",
                                path, *key);
        return 0;
}

static int write_config(const struct hypervisor_of *h, const char *path, struct err *err)
{
        const struct sp_config *c = &h->sp->config;
        g_autoptr(GKeyFile) f = g_key_file_new();
        g_autoptr(GError) e = NULL;
        g_autofree char *state = g_strdup_printf("%s/%s", c->state_dir, hypervisor_name(h)),
                        *run = g_strdup_printf("%s/%s", c->run_dir, hypervisor_name(h));
        int bad = read_base(h, f, err);
        if (bad)
                return bad;
        g_key_file_set_string(f, "meted", "name", hypervisor_name(h));
        g_key_file_set_string(f, "meted", "state_dir", state);
        g_key_file_set_string(f, "meted", "run_dir", run);
        g_key_file_set_string(f, "meted", "socket", h->socket);
        g_key_file_set_string(f, "server", "managed", "yes");
        g_key_file_set_string(f, "server", "processor", h->answers);
        g_key_file_set_string(f, "host", "source", c->source);
        if (*h->vmm)
                g_key_file_set_string(f, "vm", "qemu", h->vmm);
        if (!g_key_file_save_to_file(f, path, &e) || chmod(path, 0644) < 0)
                return err_set(err, REASON_INTERNAL, EIO, "%.200s", e ? e->message : strerror(errno));
        return 0;
}

static void start(struct hypervisor_of *h)
{
        struct sp *sp = h->sp;
        struct launch_user u;
        struct err err = {0};
        char path[SP_PATH], option[] = "--config";
        char *const argv[] = {sp->config.meted, option, path, NULL};
        pid_t pid = 0;
        int pid_fd = -1, bad = launch_user(h->user, &u, &err);
        (void)snprintf(path, sizeof(path), "%s/%s.conf", sp->config.run_dir, hypervisor_name(h));
        if (!bad)
                bad = make_dir(sp->config.state_dir, h, &u, 0700, &err);
        if (!bad)
                bad = make_dir(sp->config.run_dir, h, &u, 0711, &err);
        if (!bad)
                bad = lead_listen(h, &u, &err);
        if (!bad)
                bad = write_config(h, path, &err);
        sp_crash_point("start");
        if (!bad)
                bad = launch(&u, argv, &pid, &pid_fd, &err);
        h->uid = bad ? h->uid : u.uid;
        sp_crash_point("started");
        if (!bad && (bad = watch(h, pid, pid_fd, true, &err))) {
                (void)pidfd_send_signal(pid_fd, SIGTERM, NULL, 0);
                (void)close(pid_fd);
        }
        if (!bad) {
                note(h, "started", "meted %d as %s", (int)pid, u.name);
                look_in(h, SOON_MS);
                return;
        }
        has_problem(h, &err);
        h->state = API_SERVER_STATE_WAITING;
        h->back_off_ms = h->back_off_ms == 0 ? BACK_OFF_MS : MIN(2 * h->back_off_ms, BACK_OFF_MAX_MS);
        look_in(h, h->back_off_ms);
}

/* ---- configuring ---- */

static void call(struct hypervisor_of *h, const char *method, const char *path, json_t *body,
                 http_call_done_fn *done)
{
        struct err err = {0};
        size_t n = 0;
        char *text = body ? json_write(body, &n) : NULL;
        struct http_target to = hypervisor_target(h);
        json_decref(body);
        h->call = http_call(h->sp->calls, &to, method, path, text, n, CALL_MS, done, h, &err);
        free(text);
        if (!h->call)
                look_in(h, AGAIN_MS);
}

static void on_host(void *arg, const struct http_answer *answer, const struct cert_id *peer,
                    const struct err *err)
{
        struct hypervisor_of *h = arg;
        struct err bad = {0};
        (void)peer;
        h->call = NULL;
        json_t *v = err || answer->status != 200 ? NULL : json_read(answer->body, answer->body_n, &bad);
        const char *qemu = json_string_value(json_object_get(v, "qemu"));
        if (qemu && STR_COPY(h->qemu, qemu))
                (void)STR_COPY(h->version, METE_VERSION); /* the program is the one that we start */
        json_decref(v);
        look_in(h, *h->qemu ? 0 : AGAIN_MS);
}

static void refused(struct hypervisor_of *h, const struct http_answer *answer)
{
        struct api_error said = {0};
        struct err err = {0}, ignored;
        json_t *v = json_read(answer->body, answer->body_n, &ignored);
        if (v && api_error_parse(v, &said, &ignored) == 0 && said.reason)
                (void)err_set(&err, (enum reason)said.reason, EREMOTEIO, "%s", said.message);
        else
                (void)err_set(&err, REASON_INTERNAL, EPROTO, "it answered with status %d and no reason",
                              answer->status);
        json_decref(v);
        has_problem(h, &err);
        give_refused(h->sp, h, &err);
        look_in(h, AGAIN_MS);
}

static void on_told(void *arg, const struct http_answer *answer, const struct cert_id *peer,
                    const struct err *err)
{
        struct hypervisor_of *h = arg;
        (void)peer;
        h->call = NULL;
        if (err && err->reason == REASON_PEER_LOST && loop_mono_ms() - h->started_mono_ms < LISTEN_MS) {
                look_in(h, SOON_MS); /* it does not listen yet, or ends: we hear of that */
        } else if (err) {
                has_problem(h, err);
                look_in(h, AGAIN_MS);
        } else if (answer->status != 200) {
                refused(h, answer);
        } else {
                h->epoch = h->telling;
                *h->problem = '\0';
                sp_crash_point("told");
                note(h, "configured", "it has taken its partition of epoch %lld", (long long)h->epoch);
                give_taken(h->sp, h, h->epoch);
                lead_told(h);
                look_in(h, h->epoch == h->telling ? 0 : AGAIN_MS);
        }
}

static void tell(struct hypervisor_of *h)
{
        if (upgrading_telling(h->sp, h->number)) {
                look_in(h, AGAIN_MS);
                return;
        }
        struct api_partition *p = g_new0(struct api_partition, 1);
        partition_of(h->sp, h->number, p);
        h->telling = p->epoch;
        sp_crash_point("tell");
        call(h, "POST", "/v1/partition", api_partition_emit(p), on_told);
        g_free(p);
}

/* ---- all of it ---- */

static void look_at_running(struct hypervisor_of *h)
{
        if (!h->is_wanted) {
                bool is_late = h->state == API_SERVER_STATE_ENDING;
                h->state = API_SERVER_STATE_ENDING;
                sp_crash_point("stop");
                (void)pidfd_send_signal(h->pid_fd, is_late ? SIGKILL : SIGTERM, NULL, 0);
                look_in(h, KILL_MS);
        } else if (h->call) {
                return; /* its answer looks again */
        } else if (h->epoch != h->sp->server.epoch) {
                tell(h);
        } else if (!*h->qemu) {
                call(h, "GET", "/v1/host", NULL, on_host);
        } else if (h->state != API_SERVER_STATE_RUNNING) {
                h->state = API_SERVER_STATE_RUNNING;
                note(h, "running", "meted %d, QEMU %s", (int)h->pid, h->qemu);
                api_answer_all(h->sp, &h->waiters, NULL);
                upgrading_wake(h->sp);
        } else {
                api_answer_all(h->sp, &h->waiters, NULL);
        }
}

static void on_look(void *arg)
{
        struct hypervisor_of *h = arg;
        if (h->pid_fd >= 0 || adopt(h)) {
                if (h->pid_fd >= 0)
                        look_at_running(h);
                else
                        look_in(h, AGAIN_MS); /* a stranger listens there */
        } else if (h->is_wanted) {
                h->is_down = false;
                start(h);
        } else {
                is_stopped(h);
        }
}

void hypervisor_begin(struct hypervisor_of *h, struct sp *sp, int number)
{
        h->sp = sp;
        h->number = number;
        h->pid_fd = -1;
        h->state = h->is_wanted ? API_SERVER_STATE_WAITING : API_SERVER_STATE_STOPPED;
        (void)snprintf(h->socket, sizeof(h->socket), "%s/%s/meted.sock", sp->config.run_dir,
                       hypervisor_name(h));
        loop_timer_init(&h->look, on_look, h);
        hypervisor_look(h);
}

void hypervisor_end(struct hypervisor_of *h)
{
        if (!h->sp)
                return;
        loop_timer_cancel(&h->look);
        loop_fd_remove(&h->watch);
        if (h->call)
                http_call_cancel(h->call);
        if (h->pid_fd >= 0)
                (void)close(h->pid_fd);
        *h = (struct hypervisor_of){.pid_fd = -1};
}
