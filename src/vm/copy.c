/* SPDX-License-Identifier: Apache-2.0 */
/* The model: operations stand in a queue; the first one is at work, and is a row of commands, each issued by
 * its kind's function when the one before was answered. Either one call of the monitor is under way
 * (`is_asked`), or a pause between two.
 *
 * A call of the monitor cannot be taken back, and is answered at the latest when the connection goes: so
 * memory is freed when none is under way and no callback of ours is on the stack (`flight`, `depth`). */
#include "vm/copy.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <linux/sockios.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/str.h"
#include "core/control.h"
#include "vm/pick.h"
#include "vm/vm-internal.h"

#define CREDS  "mete-copy-key"
#define SOCKET "mete-copy"

enum op_kind { OP_PREPARE = 1, OP_BEGIN, OP_PARAMETER, OP_LOOK, OP_CANCEL, OP_ANNOUNCE };

/* Between two looks at something that takes its time. */
enum { PAUSE_MS = 10, FINAL_LOOKS = 50 };

struct op {
        GList link; /* in copy->ops; link.data is this */
        struct copy *owner;
        enum op_kind kind;
        int step;
        int64_t deadline_us;
        GSource *timer; /* its deadline, while another is before it, or there is a pause */
        struct copy_key key;
        int fd; /* of OP_BEGIN; owned, -1 when it was passed on */
        const char *parameter;
        int64_t value;
        int looks;
        struct copy_seen seen;
        vm_done *done;
        copy_look_done *look_done;
        void *arg;
};

struct copy {
        struct vm *vm;
        enum copy_side side;
        char dir[512];
        GMainContext *context;
        GQueue ops;
        bool is_asked; /* the first operation's call is under way */
        GSource *pause;
        unsigned flight, depth;
        bool is_doomed;
        int64_t fdset; /* of the key's folder in the VMM; -1: none */
        int key_dir_fd;
        int socket_fd; /* of a source; what is still in it is asked here, and here it can be cut off */
        bool has_key_file;
        int64_t thread;     /* copy_seen.thread */
        bool is_thread_off; /* this VMM does not say it */
};

static void op_next(struct copy *c, struct op *op, const json_t *ret, const struct err *err);

/* ---- life ---- */

static void enter(struct copy *c)
{
        c->depth++;
}

static void leave(struct copy *c)
{
        if (--c->depth > 0 || c->flight > 0 || !c->is_doomed)
                return;
        g_main_context_unref(c->context);
        free(c);
}

static struct op *current(struct copy *c)
{
        return c->ops.head ? c->ops.head->data : NULL;
}

static void close_fd(int *fd)
{
        if (*fd >= 0)
                (void)close(*fd);
        *fd = -1;
}

static void source_stop(GSource **source)
{
        if (*source) {
                g_source_destroy(*source);
                g_source_unref(*source);
        }
        *source = NULL;
}

static int left_ms(const struct op *op)
{
        int64_t left = (op->deadline_us - g_get_monotonic_time()) / 1000;
        return left < 1 ? 1 : (int)left;
}

static void key_remove(struct copy *c)
{
        char path[sizeof(c->dir) + sizeof(COPY_KEY_FILE) + 1];
        close_fd(&c->key_dir_fd);
        if (!c->has_key_file)
                return;
        c->has_key_file = false;
        (void)snprintf(path, sizeof(path), "%s/" COPY_KEY_FILE, c->dir);
        (void)unlink(path);
        (void)snprintf(path, sizeof(path), "%s/" COPY_KEY_DIR, c->dir);
        (void)rmdir(path);
}

/* The one way out of an operation. */
static void op_answer(struct op *op, const struct copy_seen *seen, const struct err *err)
{
        struct vm_result result = {.outcome = err ? VM_FAILED : VM_DONE};
        if (err)
                result.err = *err;
        g_queue_unlink(&op->owner->ops, &op->link);
        source_stop(&op->timer);
        close_fd(&op->fd);
        explicit_bzero(&op->key, sizeof(op->key));
        if (op->look_done)
                op->look_done(op->arg, err ? NULL : seen, err);
        else if (op->done)
                op->done(op->arg, &result);
        free(op);
}

static void begin_first(struct copy *c)
{
        if (!c->is_doomed && current(c) && !c->is_asked && !c->pause)
                op_next(c, current(c), NULL, NULL);
}

static void finish(struct copy *c, const struct copy_seen *seen, const struct err *err)
{
        source_stop(&c->pause);
        enter(c);
        op_answer(current(c), seen, err);
        begin_first(c);
        leave(c);
}

static void fail(struct copy *c, enum reason reason, int code, const char *sentence)
{
        struct err err = {0};
        (void)err_set(&err, reason, code, "%s", sentence);
        finish(c, NULL, &err);
}

/* The calls of the one that is at work have the same deadline, and say so themselves. */
static gboolean on_timer(gpointer data)
{
        struct op *op = data;
        struct copy *c = op->owner;
        struct err err = {0};
        enter(c);
        if (op != current(c)) {
                (void)err_set(&err, REASON_TIMEOUT, ETIMEDOUT,
                              "what was asked of the VMM before took too long");
                op_answer(op, NULL, &err);
        } else if (!c->is_asked) {
                fail(c, REASON_TIMEOUT, ETIMEDOUT, "the VMM took too long");
        }
        leave(c);
        return G_SOURCE_REMOVE;
}

static GSource *timer_start(struct copy *c, int ms, GSourceFunc fn, void *data)
{
        GSource *s = g_timeout_source_new((guint)ms);
        g_source_set_callback(s, fn, data, NULL);
        g_source_attach(s, c->context);
        return s;
}

/* Begins from the loop: no callback from within the call. */
static gboolean on_pause_over(gpointer data)
{
        struct copy *c = data;
        enter(c);
        source_stop(&c->pause);
        begin_first(c);
        leave(c);
        return G_SOURCE_REMOVE;
}

static void pause_for(struct copy *c, int ms)
{
        c->pause = timer_start(c, ms, on_pause_over, c);
}

static struct op *op_new(struct copy *c, enum op_kind kind, int timeout_ms, vm_done *done, void *arg)
{
        assert(timeout_ms > 0);
        struct op *op = calloc(1, sizeof(*op));
        assert(op);
        *op = (struct op){.owner = c,
                          .kind = kind,
                          .deadline_us = g_get_monotonic_time() + (int64_t)timeout_ms * 1000,
                          .fd = -1,
                          .done = done,
                          .arg = arg};
        op->link.data = op;
        op->timer = timer_start(c, timeout_ms, on_timer, op);
        g_queue_push_tail_link(&c->ops, &op->link);
        if (op == current(c) && !c->pause)
                pause_for(c, 0);
        return op;
}

/* ---- one command ---- */

static void on_answer(void *arg, const json_t *ret, const struct err *err)
{
        struct copy *c = arg;
        assert(c->flight > 0);
        enter(c);
        c->flight--;
        c->is_asked = false;
        if (!c->is_doomed)
                op_next(c, current(c), ret, err);
        leave(c);
}

/* fd is taken; -1: none. */
static void ask_with(struct copy *c, const char *command, json_t *arguments, int fd)
{
        struct qmp *q = vm_monitor(c->vm);
        if (!q) {
                json_decref(arguments);
                close_fd(&fd);
                fail(c, REASON_STALE, EAGAIN, "the VMM was not attached to");
                return;
        }
        current(c)->step++;
        c->flight++;
        c->is_asked = true;
        if (fd >= 0)
                qmp_execute_fd(q, command, arguments, fd, left_ms(current(c)), on_answer, c);
        else
                qmp_execute(q, command, arguments, left_ms(current(c)), on_answer, c);
}

static void ask(struct copy *c, const char *command, json_t *arguments)
{
        ask_with(c, command, arguments, -1);
}

static bool is_fatal(const struct err *err)
{
        return err && (err->reason == REASON_TIMEOUT || err->reason == REASON_PEER_LOST ||
                       err->reason == REASON_CANCELLED);
}

/* ---- prepare ---- */

/* late-block-activate counts at the destination, where without it a stopped VMM would hold the disk's lock,
 * and a source could not run again. */
static const struct {
        const char *name;
        bool is_on;
} capabilities[] = {
        {"events",              true },
        {"return-path",         true },
        {"late-block-activate", true },
        {"multifd",             false}, /* it takes no descriptor */
        {"x-ignore-shared",     false}, /* it would leave out the memory, which is shared with nobody here */
        {"postcopy-ram",        false},
        {"auto-converge",       false}, /* it stalls a vCPU for most of a second */
};

static json_t *wanted_capabilities(void)
{
        json_t *list = json_array();
        for (size_t i = 0; i < ARRAY_N(capabilities); i++)
                json_array_append_new(list, json_pack("{s:s, s:b}", "capability", capabilities[i].name,
                                                      "state", capabilities[i].is_on));
        return json_pack("{s:o}", "capabilities", list);
}

static bool has_capabilities(const json_t *list)
{
        size_t n = 0, i;
        json_t *entry;
        json_array_foreach(list, i, entry)
        {
                bool state = false;
                for (size_t k = 0; k < ARRAY_N(capabilities); k++)
                        if (strcmp(pick_text(entry, "capability"), capabilities[k].name) == 0)
                                n += pick_boolean(entry, "state", &state) && state == capabilities[k].is_on;
        }
        return n == ARRAY_N(capabilities);
}

/* Those who have a descriptor of the folder may read what is in it; nobody else comes by, as the one above is
 * ours alone. */
static int key_write(struct copy *c, const struct copy_key *key, struct err *err)
{
        char path[sizeof(c->dir) + sizeof(COPY_KEY_DIR) + 1], line[sizeof(key->hex) + 8];
        struct stat st;
        int r = 0, n = snprintf(line, sizeof(line), "qemu:%s\n", key->hex); /* the name that QEMU looks for */
        key_remove(c);
        if (stat(c->dir, &st) < 0 || (st.st_mode & 077) != 0 || st.st_uid != geteuid())
                return err_set(err, REASON_POLICY, EPERM, "%.180s: others may enter it", c->dir);
        (void)snprintf(path, sizeof(path), "%s/" COPY_KEY_DIR, c->dir);
        if (mkdir(path, 0711) < 0 && errno != EEXIST)
                return err_set(err, REASON_INTERNAL, errno, "%.180s: %s", path, strerror(errno));
        c->has_key_file = true;
        c->key_dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (c->key_dir_fd < 0 || fchmod(c->key_dir_fd, 0711) < 0 ||
            (unlinkat(c->key_dir_fd, "keys.psk", 0) < 0 && errno != ENOENT))
                r = err_set(err, REASON_INTERNAL, errno, "%.180s: %s", path, strerror(errno));
        int fd = r ? -1 : openat(c->key_dir_fd, "keys.psk", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (!r && (fd < 0 || write(fd, line, (size_t)n) != n || fchmod(fd, 0444) < 0))
                r = err_set(err, REASON_INTERNAL, errno, "%.180s/keys.psk: %s", path, strerror(errno));
        close_fd(&fd);
        explicit_bzero(line, sizeof(line));
        if (r)
                key_remove(c);
        return r;
}

static void pass_key_dir(struct copy *c, struct op *op)
{
        struct err err = {0};
        int r = key_write(c, &op->key, &err);
        explicit_bzero(&op->key, sizeof(op->key));
        int fd = c->key_dir_fd;
        c->key_dir_fd = -1;
        if (r)
                finish(c, NULL, &err);
        else
                ask_with(c, "add-fd", NULL, fd);
}

static void load_key(struct copy *c, const json_t *ret)
{
        int64_t fd = 0;
        char dir[48];
        if (!pick_integer(ret, "fd", 0, INT32_MAX, &fd) ||
            !pick_integer(ret, "fdset-id", 0, INT64_MAX, &c->fdset)) {
                fail(c, REASON_INTERNAL, EPROTO, "the VMM's answer to add-fd makes no sense");
                return;
        }
        (void)snprintf(dir, sizeof(dir), "/proc/self/fd/%d", (int)fd);
        ask(c, "object-add",
            json_pack("{s:s, s:s, s:s, s:s}", "qom-type", "tls-creds-psk", "id", CREDS, "dir", dir,
                      "endpoint", c->side == COPY_SOURCE ? "client" : "server"));
}

static void forget_key_dir(struct copy *c)
{
        int64_t fdset = c->fdset;
        c->fdset = -1;
        ask(c, "remove-fd", json_pack("{s:I}", "fdset-id", (json_int_t)fdset));
}

/* A pre-shared key has no name that could be checked against tls-hostname or tls-authz: they stay unset. */
static json_t *wanted_parameters(const struct copy *c)
{
        json_t *p = json_pack("{s:s}", "tls-creds", CREDS);
        if (c->side == COPY_SOURCE) {
                json_object_set_new(p, "max-bandwidth", json_integer(0));
                json_object_set_new(p, "downtime-limit", json_integer(1)); /* not 0: copy_limit() */
        }
        return p;
}

/* A source has read the key when it has the object; a destination reads it again at the handshake. */
static void next_prepare(struct copy *c, struct op *op, const json_t *ret, const struct err *err)
{
        enum { DROP, PASS, LOAD, FORGET, ENABLE, CHECK, SET, END };
        /* That there was no such object, or that what is to be forgotten is gone, is no fault. */
        bool may_fail = op->step == PASS || (op->step == ENABLE && c->side == COPY_SOURCE);
        if (is_fatal(err) || (err && !may_fail)) {
                key_remove(c);
                finish(c, NULL, err);
                return;
        }
        if (op->step == FORGET) {
                if (c->side == COPY_DESTINATION)
                        op->step++;
                else
                        key_remove(c);
        }
        switch (op->step) {
        case DROP:
                ask(c, "object-del", json_pack("{s:s}", "id", CREDS));
                break;
        case PASS:
                pass_key_dir(c, op);
                break;
        case LOAD:
                load_key(c, ret);
                break;
        case FORGET:
                forget_key_dir(c);
                break;
        case ENABLE:
                ask(c, "migrate-set-capabilities", wanted_capabilities());
                break;
        case CHECK:
                ask(c, "query-migrate-capabilities", NULL);
                break;
        case SET:
                if (has_capabilities(ret))
                        ask(c, "migrate-set-parameters", wanted_parameters(c));
                else
                        fail(c, REASON_INCOMPATIBLE, ENOTSUP,
                             "the VMM did not take the capabilities of a move");
                break;
        default:
                finish(c, NULL, NULL);
        }
}

/* ---- begin ---- */

/* A VMM that is still in there, waiting for its peer, comes out by that. */
static void cut_off(struct copy *c)
{
        if (c->socket_fd >= 0)
                (void)shutdown(c->socket_fd, SHUT_RDWR);
        close_fd(&c->socket_fd);
}

/* QEMU makes a descriptor that it is passed a blocking one, and would then hold its main loop, and with it
 * the guest's devices, for as long as the other side takes to shake hands, or for good. So it is made
 * non-blocking again through ours, which is the same description; when hands are shaken QEMU changes that
 * as it likes. */
static void next_begin(struct copy *c, struct op *op, const json_t *ret, const struct err *err)
{
        enum { PASS, BEGIN, CLOSE };
        if (err) {
                struct err why = *err;
                if (op->step == CLOSE && !is_fatal(err)) /* it would stay open, and nobody would know of it */
                        qmp_execute(vm_monitor(c->vm), "closefd", json_pack("{s:s}", "fdname", SOCKET),
                                    left_ms(op), NULL, NULL);
                cut_off(c);
                finish(c, NULL, &why);
        } else if (op->step == PASS) {
                int fd = op->fd;
                op->fd = -1;
                close_fd(&c->socket_fd);
                c->socket_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
                ask_with(c, "getfd", json_pack("{s:s}", "fdname", SOCKET), fd);
        } else if (op->step == BEGIN) {
                int flags = fcntl(c->socket_fd, F_GETFL);
                if (flags < 0 || fcntl(c->socket_fd, F_SETFL, flags | O_NONBLOCK) < 0)
                        fail(c, REASON_INTERNAL, errno, "the socket of the stream is none");
                else
                        ask(c, c->side == COPY_SOURCE ? "migrate" : "migrate-incoming",
                            json_pack("{s:s}", "uri", "fd:" SOCKET));
        } else {
                /* Its end must be seen at the other side when the VMM dies. A source's owner sees to that. */
                if (c->side == COPY_DESTINATION)
                        close_fd(&c->socket_fd);
                finish(c, NULL, NULL);
        }
}

/* ---- look ---- */

static const struct {
        const char *name;
        enum copy_status status;
} status_rows[] = {
        {"none",            COPY_IDLE      },
        {"setup",           COPY_SETUP     },
        {"active",          COPY_ACTIVE    },
        {"device",          COPY_FINISHING },
        {"completed",       COPY_COMPLETED },
        {"cancelling",      COPY_CANCELLING},
        {"cancelled",       COPY_CANCELLED },
        {"failed",          COPY_FAILED    },
 /* None that we ask for, but a VMM may say anything. */
        {"wait-unplug",     COPY_SETUP     },
        {"pre-switchover",  COPY_FINISHING },
        {"postcopy-active", COPY_FINISHING },
};

const char *copy_status_name(enum copy_status s)
{
        static const char *const names[COPY_STATUS_N] = {
                [COPY_IDLE] = "none",           [COPY_SETUP] = "setup",
                [COPY_ACTIVE] = "active",       [COPY_FINISHING] = "device",
                [COPY_COMPLETED] = "completed", [COPY_CANCELLING] = "cancelling",
                [COPY_CANCELLED] = "cancelled", [COPY_FAILED] = "failed",
        };
        return s > 0 && s < COPY_STATUS_N ? names[s] : "none";
}

enum copy_status copy_status_from_name(const char *name)
{
        if (!*name)
                return COPY_IDLE; /* it says nothing where nothing was begun */
        for (size_t i = 0; i < ARRAY_N(status_rows); i++)
                if (strcmp(name, status_rows[i].name) == 0)
                        return status_rows[i].status;
        return 0;
}

static bool is_over(enum copy_status s)
{
        return s == COPY_IDLE || s == COPY_COMPLETED || s == COPY_CANCELLED || s == COPY_FAILED;
}

static int64_t figure(const json_t *object, const char *key)
{
        int64_t v = 0;
        pick_integer(object, key, 0, INT64_MAX, &v);
        return v;
}

static bool see(const struct copy *c, const json_t *ret, struct copy_seen *seen)
{
        const json_t *ram = json_object_get(ret, "ram");
        int queued = 0;
        *seen = (struct copy_seen){0};
        if (!json_is_object(ret))
                return false;
        seen->status = copy_status_from_name(pick_text(ret, "status"));
        seen->total_ms = figure(ret, "total-time");
        seen->setup_ms = figure(ret, "setup-time");
        seen->downtime_ms = figure(ret, "downtime");
        seen->throttle_percent = figure(ret, "cpu-throttle-percentage");
        pick_words(ret, "error-desc", seen->why, sizeof(seen->why));
        seen->sample = (struct sample){.remaining_bytes = figure(ram, "remaining"),
                                       .transferred_bytes = figure(ram, "transferred"),
                                       .normal_pages = figure(ram, "normal"),
                                       .zero_pages = figure(ram, "duplicate"),
                                       .syncs = figure(ram, "dirty-sync-count")};
        int64_t first = figure(ram, "precopy-bytes"), stopped = figure(ram, "downtime-bytes");
        int64_t rest = seen->sample.transferred_bytes - figure(ram, "postcopy-bytes");
        if (seen->status == COPY_COMPLETED && first > 0 && first <= rest && stopped < rest - first) {
                seen->device_bytes = rest - first - stopped;
                seen->stopped_bytes = stopped;
        }
        if (c->socket_fd >= 0 && ioctl(c->socket_fd, SIOCOUTQ, &queued) == 0)
                seen->sample.queued_bytes = queued;
        return seen->status != 0;
}

static void look_again(struct copy *c, struct op *op)
{
        op->step = 0;
        pause_for(c, PAUSE_MS);
}

/* There is one, as the stream is one: no multifd. */
static void see_thread(struct copy *c, const json_t *ret, const struct err *err)
{
        const json_t *first = json_array_get(ret, 0);
        c->is_thread_off = err != NULL;
        if (!err && json_is_object(first))
                (void)pick_integer(first, "thread-id", 1, INT32_MAX, &c->thread);
}

/* QEMU says that it has completed before it has its sums, and before it could be told to run again. */
static void next_look(struct copy *c, struct op *op, const json_t *ret, const struct err *err)
{
        enum { LOOK, SEE, SETTLE };
        bool may_look_again = op->looks < FINAL_LOOKS;
        if (op->step == SETTLE && op->seen.status == COPY_ACTIVE && !is_fatal(err)) {
                see_thread(c, ret, err);
                op->seen.thread = c->thread;
                finish(c, &op->seen, NULL);
        } else if (err) {
                finish(c, NULL, err);
        } else if (op->step == LOOK) {
                op->looks++;
                ask(c, "query-migrate", NULL);
        } else if (op->step == SEE) {
                if (!see(c, ret, &op->seen)) {
                        fail(c, REASON_INTERNAL, EPROTO, "the VMM's answer to query-migrate makes no sense");
                        return;
                }
                if (op->seen.status != COPY_IDLE && op->seen.status != COPY_SETUP)
                        key_remove(c); /* the handshake is over */
                op->seen.thread = c->thread;
                if (c->side == COPY_SOURCE && op->seen.status == COPY_ACTIVE && !c->thread &&
                    !c->is_thread_off)
                        ask(c, "query-migrationthreads", NULL);
                else if (c->side != COPY_SOURCE || op->seen.status != COPY_COMPLETED)
                        finish(c, &op->seen, NULL);
                else if (op->seen.total_ms == 0 && may_look_again)
                        look_again(c, op);
                else
                        ask(c, "query-status", NULL);
        } else if (strcmp(pick_text(ret, "status"), "finish-migrate") == 0 && may_look_again) {
                look_again(c, op);
        } else {
                finish(c, &op->seen, NULL);
        }
}

/* ---- cancel ---- */

/* The socket is cut off as well: a VMM that still waits for its peer's handshake, or whose peer reads no
 * more, would go on waiting. */
static void next_cancel(struct copy *c, struct op *op, const json_t *ret, const struct err *err)
{
        struct copy_seen seen;
        if (err && (is_fatal(err) || op->step != 1)) {
                finish(c, NULL, err);
        } else if (op->step == 0) {
                ask(c, "migrate_cancel", NULL);
                if (c->socket_fd >= 0)
                        (void)shutdown(c->socket_fd, SHUT_RDWR);
        } else if (op->step == 1) {
                ask(c, "query-migrate", NULL);
        } else if (!see(c, ret, &seen)) {
                fail(c, REASON_INTERNAL, EPROTO, "the VMM's answer to query-migrate makes no sense");
        } else if (seen.status == COPY_COMPLETED) {
                fail(c, REASON_STALE, EALREADY, "all of it had gone over before");
        } else if (is_over(seen.status)) {
                key_remove(c);
                close_fd(&c->socket_fd);
                finish(c, NULL, NULL);
        } else {
                op->step = 1;
                pause_for(c, PAUSE_MS);
        }
}

/* ---- the rest ---- */

static void next_single(struct copy *c, struct op *op, const struct err *err)
{
        if (err || op->step > 0)
                finish(c, NULL, err);
        else if (op->kind == OP_ANNOUNCE)
                ask(c, "announce-self",
                    json_pack("{s:i, s:i, s:i, s:i}", "initial", 50, "max", 550, "rounds", 5, "step", 100));
        else
                ask(c, "migrate-set-parameters", json_pack("{s:I}", op->parameter, (json_int_t)op->value));
}

static void op_next(struct copy *c, struct op *op, const json_t *ret, const struct err *err)
{
        switch (op->kind) {
        case OP_PREPARE:
                next_prepare(c, op, ret, err);
                break;
        case OP_BEGIN:
                next_begin(c, op, ret, err);
                break;
        case OP_LOOK:
                next_look(c, op, ret, err);
                break;
        case OP_CANCEL:
                next_cancel(c, op, ret, err);
                break;
        case OP_PARAMETER:
        case OP_ANNOUNCE:
                next_single(c, op, err);
                break;
        }
}

struct copy *copy_new(const struct copy_options *o)
{
        struct copy *c = calloc(1, sizeof(*c));
        assert(c && (o->side == COPY_SOURCE || o->side == COPY_DESTINATION));
        *c = (struct copy){.vm = o->vm, .side = o->side, .fdset = -1, .key_dir_fd = -1, .socket_fd = -1};
        bool fits = STR_COPY(c->dir, o->dir);
        assert(fits); /* as long as a run directory may be, and a VM's name */
        c->context = g_main_context_ref_thread_default();
        g_queue_init(&c->ops);
        return c;
}

void copy_free(struct copy *c)
{
        if (!c || c->is_doomed)
                return;
        struct err err = {0};
        enter(c);
        c->is_doomed = true;
        source_stop(&c->pause);
        (void)err_set(&err, REASON_CANCELLED, ECANCELED, "the move was let go of");
        while (current(c))
                op_answer(current(c), NULL, &err);
        key_remove(c);
        close_fd(&c->socket_fd);
        leave(c);
}

int copy_socket(const struct copy *c)
{
        return c->socket_fd;
}

int copy_check(const struct vm *vm, const struct api_vm_definition *d, struct err *err)
{
        const char *version = vm_qemu_version(vm);
        if (d->accelerator != API_ACCELERATOR_TCG || strtol(version, NULL, 10) >= COPY_TCG_MAJOR)
                return 0;
        return err_set(
                err, REASON_INCOMPATIBLE, ENOTSUP,
                "VM %s: QEMU %s without KVM may lose memory in a move by copy; with QEMU %d or later it "
                "can be moved",
                d->name, version, COPY_TCG_MAJOR);
}

int copy_key_make(struct copy_key *ret, struct err *err)
{
        uint8_t bytes[COPY_KEY_BYTES];
        if (getrandom(bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes))
                return err_set(err, REASON_INTERNAL, errno, "no random key: %s", strerror(errno));
        for (size_t i = 0; i < sizeof(bytes); i++)
                (void)snprintf(ret->hex + 2 * i, 3, "%02x", bytes[i]);
        explicit_bzero(bytes, sizeof(bytes));
        return 0;
}

void copy_prepare(struct copy *c, const struct copy_key *key, int timeout_ms, vm_done *done, void *arg)
{
        assert(strspn(key->hex, "0123456789abcdef") == sizeof(key->hex) - 1);
        op_new(c, OP_PREPARE, timeout_ms, done, arg)->key = *key;
}

void copy_begin(struct copy *c, int fd, int timeout_ms, vm_done *done, void *arg)
{
        op_new(c, OP_BEGIN, timeout_ms, done, arg)->fd = fd;
}

static void set_parameter(struct copy *c, const char *name, int64_t value, int timeout_ms, vm_done *done,
                          void *arg)
{
        struct op *op = op_new(c, OP_PARAMETER, timeout_ms, done, arg);
        op->parameter = name;
        op->value = value;
}

void copy_limit(struct copy *c, int64_t downtime_ms, int timeout_ms, vm_done *done, void *arg)
{
        assert(downtime_ms >= 1 && downtime_ms <= COPY_LIMIT_MAX_MS);
        set_parameter(c, "downtime-limit", downtime_ms, timeout_ms, done, arg);
}

void copy_bandwidth(struct copy *c, int64_t bytes_per_s, int timeout_ms, vm_done *done, void *arg)
{
        assert(bytes_per_s >= 0);
        set_parameter(c, "max-bandwidth", bytes_per_s, timeout_ms, done, arg);
}

void copy_look(struct copy *c, int timeout_ms, copy_look_done *done, void *arg)
{
        op_new(c, OP_LOOK, timeout_ms, NULL, arg)->look_done = done;
}

void copy_cancel(struct copy *c, int timeout_ms, vm_done *done, void *arg)
{
        op_new(c, OP_CANCEL, timeout_ms, done, arg);
}

void copy_announce(struct copy *c, int timeout_ms, vm_done *done, void *arg)
{
        op_new(c, OP_ANNOUNCE, timeout_ms, done, arg);
}

/* The kernel doubles what it is asked for, for what it needs beside the bytes, and says so. */
int copy_socket_bound(int fd, int64_t *ret_bytes, struct err *err)
{
        static const int which[] = {SO_SNDBUF, SO_RCVBUF};
        int64_t sum = 0;
        for (size_t i = 0; i < ARRAY_N(which); i++) {
                int half = COPY_SOCKET_BYTES / 2, value = 0;
                socklen_t n = sizeof(value);
                if (setsockopt(fd, SOL_SOCKET, which[i], &half, sizeof(half)) < 0 ||
                    getsockopt(fd, SOL_SOCKET, which[i], &value, &n) < 0)
                        return err_set(err, REASON_INTERNAL, errno, "the buffers of the stream: %s",
                                       strerror(errno));
                sum += value;
        }
        *ret_bytes = sum;
        return 0;
}
