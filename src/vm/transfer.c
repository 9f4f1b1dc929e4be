/* SPDX-License-Identifier: Apache-2.0 */
/* The model: one operation at a time, a row of commands, each issued by its kind's function when the one
 * before was answered. Between the source's "completed" and the target's run there is one command, and no
 * look: every millisecond of it is one in which the guest stands.
 *
 * A call of the monitor cannot be taken back, and is answered at the latest when the connection goes: so
 * memory is freed when none is under way and no callback of ours is on the stack (`flight`, `depth`). */
#include "vm/transfer.h"

#include <assert.h>
#include <errno.h>
#include <glib.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "base/str.h"
#include "vm/pick.h"
#include "vm/vm-internal.h"

#define PLUGGED "dimmmem" /* as vm.c names it */

/* What of QEMU's own is in no file is less than this: the firmware and its tables. */
enum { FIRMWARE_MAX = 1 << 20 };
enum { PAUSE_MS = 5, FINAL_LOOKS = 100, LIMIT_MS = 60000, LEAST_MAJOR = 7, LEAST_MINOR = 2 };
enum op_kind { OP_NONE, OP_PREPARE, OP_SOCKET, OP_LOOK, OP_CANCEL, OP_RUN, OP_SETTLE, OP_ANNOUNCE };

struct transfer {
        struct transfer_options o;
        GMainContext *context;
        GSource *pause;
        unsigned flight, depth;
        bool is_doomed, is_complete;
        struct transfer_ram ram[TRANSFER_RAM_MAX];
        size_t n_ram, n_looked;
        /* The operation. */
        enum op_kind op;
        int step, looks;
        int64_t deadline_us;
        char uri[TRANSFER_PATH];
        struct transfer_seen seen;
        vm_done *done;
        transfer_look_done *look_done;
        void *arg;
};

static void op_next(struct transfer *t, const json_t *ret, const struct err *err);

/* ---- life ---- */

static void enter(struct transfer *t)
{
        t->depth++;
}

static void leave(struct transfer *t)
{
        if (--t->depth > 0 || t->flight > 0 || !t->is_doomed)
                return;
        g_main_context_unref(t->context);
        free(t);
}

static void pause_stop(struct transfer *t)
{
        if (t->pause) {
                g_source_destroy(t->pause);
                g_source_unref(t->pause);
        }
        t->pause = NULL;
}

/* The one way out of an operation. */
static void finish(struct transfer *t, const struct err *err)
{
        struct vm_result result = {.outcome = err ? VM_FAILED : VM_DONE};
        vm_done *done = t->done;
        transfer_look_done *look_done = t->look_done;
        void *arg = t->arg;
        struct transfer_seen seen = t->seen;
        if (err)
                result.err = *err;
        pause_stop(t);
        t->op = OP_NONE;
        enter(t);
        if (look_done)
                look_done(arg, err ? NULL : &seen, err);
        else if (done)
                done(arg, &result);
        leave(t);
}

static void fail(struct transfer *t, enum reason reason, int code, const char *sentence)
{
        struct err err = {0};
        (void)err_set(&err, reason, code, "%s", sentence);
        finish(t, &err);
}

static int left_ms(const struct transfer *t)
{
        int64_t left = (t->deadline_us - g_get_monotonic_time()) / 1000;
        return left < 1 ? 1 : (int)left;
}

static gboolean on_pause_over(gpointer data)
{
        struct transfer *t = data;
        enter(t);
        pause_stop(t);
        if (g_get_monotonic_time() >= t->deadline_us)
                fail(t, REASON_TIMEOUT, ETIMEDOUT, "the VMM took too long");
        else
                op_next(t, NULL, NULL);
        leave(t);
        return G_SOURCE_REMOVE;
}

static void pause_for(struct transfer *t, int ms)
{
        t->pause = g_timeout_source_new((guint)ms);
        g_source_set_callback(t->pause, on_pause_over, t, NULL);
        g_source_attach(t->pause, t->context);
}

static void on_answer(void *arg, const json_t *ret, const struct err *err)
{
        struct transfer *t = arg;
        assert(t->flight > 0);
        enter(t);
        t->flight--;
        if (!t->is_doomed)
                op_next(t, ret, err);
        leave(t);
}

static void ask(struct transfer *t, const char *command, json_t *arguments)
{
        struct qmp *q = vm_monitor(t->o.vm);
        if (!q) {
                json_decref(arguments);
                fail(t, REASON_STALE, EAGAIN, "the VMM was not attached to");
                return;
        }
        t->step++;
        t->flight++;
        qmp_execute(q, command, arguments, left_ms(t), on_answer, t);
}

/* Its first command is on its way when this returns, unless there is none to be asked: that is said from the
 * loop. */
static void begin(struct transfer *t, enum op_kind op, int timeout_ms, vm_done *done, void *arg)
{
        assert(t->op == OP_NONE && timeout_ms > 0);
        t->op = op;
        t->step = t->looks = 0;
        t->deadline_us = g_get_monotonic_time() + (int64_t)timeout_ms * 1000;
        t->done = done;
        t->look_done = NULL;
        t->arg = arg;
}

static void start(struct transfer *t)
{
        if (vm_monitor(t->o.vm) && (t->op != OP_RUN || t->is_complete))
                op_next(t, NULL, NULL);
        else
                pause_for(t, 0);
}

/* ---- prepare ---- */

/* late-block-activate counts at the target, where without it a stopped VMM would hold the disk's lock, and a
 * source could not run again. */
static const struct {
        const char *name;
        bool is_on;
} capabilities[] = {
        {"events",              true },
        {"return-path",         true },
        {"late-block-activate", true },
        {"x-ignore-shared",     true },
        {"multifd",             false},
        {"postcopy-ram",        false},
        {"auto-converge",       false},
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
        for (size_t i = 0; i < ARRAY_N(capabilities); i++) {
                bool found = false;
                size_t k;
                json_t *each;
                json_array_foreach(list, k, each)
                {
                        bool is_on = false;
                        pick_boolean(each, "state", &is_on);
                        if (strcmp(pick_text(each, "capability"), capabilities[i].name) == 0)
                                found = is_on == capabilities[i].is_on;
                }
                if (!found)
                        return false;
        }
        return true;
}

/* All of it goes in one pass, and at once. */
static json_t *wanted_parameters(void)
{
        return json_pack("{s:i, s:i, s:s, s:s}", "max-bandwidth", 0, "downtime-limit", LIMIT_MS, "tls-creds",
                         "", "tls-hostname", "");
}

static bool take_memory(struct transfer *t, const json_t *list)
{
        size_t i;
        json_t *each;
        t->n_ram = 0;
        t->n_looked = 0;
        if (!json_is_array(list) || json_array_size(list) == 0 || json_array_size(list) > TRANSFER_RAM_MAX)
                return false;
        json_array_foreach(list, i, each)
        {
                struct transfer_ram *r = &t->ram[t->n_ram++];
                *r = (struct transfer_ram){.bytes = 0};
                if (!pick_string(each, "id", r->id, sizeof(r->id)) ||
                    !pick_integer(each, "size", 1, INT64_MAX, &r->bytes) ||
                    !pick_boolean(each, "share", &r->is_shared))
                        return false;
                r->is_plugged = strncmp(r->id, PLUGGED, strlen(PLUGGED)) == 0;
        }
        return true;
}

static bool is_good_memory(struct transfer *t, const struct transfer_ram *r)
{
        struct err err = {0};
        if (r->is_shared)
                return true;
        (void)err_set(&err, REASON_INCOMPATIBLE, ENOTSUP, "its memory %s is not shareable", r->id);
        finish(t, &err);
        return false;
}

static json_t *object_of(const struct transfer_ram *r, const char *property)
{
        char path[TRANSFER_NAME + 16];
        (void)snprintf(path, sizeof(path), "/objects/%s", r->id);
        return json_pack("{s:s, s:s}", "path", path, "property", property);
}

/* The content of what was plugged stays when this VMM ends, or goes with it. */
static void ask_discard(struct transfer *t, const struct transfer_ram *r, bool is_on)
{
        json_t *arguments = object_of(r, "discard-data");
        json_object_set_new(arguments, "value", json_boolean(is_on));
        ask(t, "qom-set", arguments);
}

static int take_path(struct transfer *t, const json_t *ret, struct err *err)
{
        struct transfer_ram *r = &t->ram[t->n_looked];
        if (!json_is_string(ret) || !STR_COPY(r->path, json_string_value(ret)))
                return err_set(err, REASON_INTERNAL, EPROTO, "the path of its memory %s makes no sense",
                               r->id);
        return t->o.find ? t->o.find(t->o.find_arg, r, err) : 0;
}

/* Each file of its memory, one after the other: where it is, and that nothing is given back. */
static void next_prepare(struct transfer *t, const json_t *ret, const struct err *err)
{
        enum { ENABLE, CHECK, SET, MEMORY, LIST, PATH, KEEP };
        struct err why = {0};
        int r = 0;
        if (err) {
                why = *err;
                if (t->step <= SET && why.reason != REASON_TIMEOUT && why.reason != REASON_PEER_LOST)
                        why.reason = REASON_INCOMPATIBLE;
                finish(t, &why);
                return;
        }
        switch (t->step) {
        case ENABLE:
                ask(t, "migrate-set-capabilities", wanted_capabilities());
                return;
        case CHECK:
                ask(t, "query-migrate-capabilities", NULL);
                return;
        case SET:
                if (has_capabilities(ret))
                        ask(t, "migrate-set-parameters", wanted_parameters());
                else
                        fail(t, REASON_INCOMPATIBLE, ENOTSUP,
                             "the VMM did not take the capabilities of a handover");
                return;
        case MEMORY:
                ask(t, "query-memdev", NULL);
                return;
        case LIST:
                if (!take_memory(t, ret))
                        r = err_set(&why, REASON_INTERNAL, EPROTO,
                                    "the VMM's answer to query-memdev makes no sense");
                break;
        case PATH:
                r = take_path(t, ret, &why);
                if (r == 0 && t->ram[t->n_looked].is_plugged) {
                        ask_discard(t, &t->ram[t->n_looked], false);
                        return;
                }
                t->n_looked++;
                break;
        default:
                t->n_looked++;
        }
        if (r < 0) {
                finish(t, &why);
        } else if (t->n_looked == t->n_ram) {
                finish(t, NULL);
        } else if (is_good_memory(t, &t->ram[t->n_looked])) {
                t->step = LIST;
                ask(t, "qom-get", object_of(&t->ram[t->n_looked], "mem-path"));
        }
}

/* ---- the others ---- */

static int64_t figure(const json_t *object, const char *key)
{
        int64_t v = 0;
        pick_integer(object, key, 0, INT64_MAX, &v);
        return v;
}

static bool see(struct transfer *t, const json_t *ret)
{
        const json_t *ram = json_object_get(ret, "ram");
        t->seen = (struct transfer_seen){0};
        if (!json_is_object(ret))
                return false;
        t->seen.status = copy_status_from_name(pick_text(ret, "status"));
        t->seen.total_ms = figure(ret, "total-time");
        t->seen.downtime_ms = figure(ret, "downtime");
        t->seen.transferred_bytes = figure(ram, "transferred");
        t->seen.firmware_bytes = figure(ram, "normal-bytes");
        if (t->seen.firmware_bytes > FIRMWARE_MAX) {
                t->seen.ram_bytes = t->seen.firmware_bytes - FIRMWARE_MAX;
                t->seen.firmware_bytes = FIRMWARE_MAX;
        }
        pick_words(ret, "error-desc", t->seen.why, sizeof(t->seen.why));
        if (t->o.is_target && t->seen.status == COPY_COMPLETED)
                t->is_complete = true;
        return t->seen.status != 0;
}

/* QEMU says that it has completed before it has its sums, and before it could be told to run again. */
static void next_look(struct transfer *t, const json_t *ret, const struct err *err)
{
        enum { LOOK, SEE, SETTLE };
        bool is_settled = true;
        if (err) {
                finish(t, err);
                return;
        }
        if (t->step == LOOK) {
                t->looks++;
                ask(t, "query-migrate", NULL);
                return;
        }
        if (t->step == SEE) {
                if (!see(t, ret)) {
                        fail(t, REASON_INTERNAL, EPROTO, "the VMM's answer to query-migrate makes no sense");
                        return;
                }
                is_settled = t->o.is_target || t->seen.status != COPY_COMPLETED;
                if (!is_settled && t->seen.total_ms > 0) {
                        ask(t, "query-status", NULL);
                        return;
                }
        } else {
                is_settled = strcmp(pick_text(ret, "status"), "finish-migrate") != 0;
        }
        if (is_settled || t->looks >= FINAL_LOOKS) {
                finish(t, NULL);
        } else {
                t->step = LOOK;
                pause_for(t, PAUSE_MS);
        }
}

/* By `yank` and not by migrate_cancel: QEMU 7.2 takes that while it waits for the target's last word, and
 * then runs the guest with its disk still given away, which ends it at the latest with the next handover
 * (bdrv_inactivate_recurse() asserts). Where nothing is under way there is nothing to yank; that is an error
 * that says nothing. */
static void next_cancel(struct transfer *t, const json_t *ret, const struct err *err)
{
        enum { CUT, LOOK, SEE };
        struct qmp *oob = vm_oob_monitor(t->o.vm);
        bool is_lost = err && (err->reason == REASON_TIMEOUT || err->reason == REASON_PEER_LOST ||
                               err->reason == REASON_CANCELLED);
        if (err && (is_lost || t->step != LOOK)) {
                finish(t, err);
        } else if (t->step == CUT && oob) {
                t->step++;
                t->flight++;
                qmp_execute_oob(oob, "yank", json_pack("{s:[{s:s}]}", "instances", "type", "migration"),
                                left_ms(t), on_answer, t);
        } else if (t->step == CUT || t->step == LOOK) {
                t->step = LOOK;
                ask(t, "query-migrate", NULL);
        } else if (!see(t, ret)) {
                fail(t, REASON_INTERNAL, EPROTO, "the VMM's answer to query-migrate makes no sense");
        } else if (t->seen.status == COPY_COMPLETED) {
                fail(t, REASON_STALE, EALREADY, "all of it had gone over before");
        } else if (t->seen.status == COPY_IDLE || t->seen.status == COPY_CANCELLED ||
                   t->seen.status == COPY_FAILED) {
                finish(t, NULL);
        } else {
                t->step = LOOK;
                pause_for(t, PAUSE_MS);
        }
}

static void next_settle(struct transfer *t, const struct err *err)
{
        size_t at = (size_t)t->step;
        if (err) {
                finish(t, err);
                return;
        }
        while (at < t->n_looked && !t->ram[at].is_plugged)
                at++;
        t->step = (int)at;
        if (at < t->n_looked)
                ask_discard(t, &t->ram[at], true);
        else
                finish(t, NULL);
}

static void next_single(struct transfer *t, const struct err *err)
{
        if (err || t->step > 0)
                finish(t, err);
        else if (t->op == OP_SOCKET)
                ask(t, t->o.is_target ? "migrate-incoming" : "migrate", json_pack("{s:s}", "uri", t->uri));
        else if (t->op == OP_ANNOUNCE)
                ask(t, "announce-self",
                    json_pack("{s:i, s:i, s:i, s:i}", "initial", 50, "max", 550, "rounds", 5, "step", 100));
        else if (t->is_complete)
                ask(t, "cont", NULL);
        else
                fail(t, REASON_STALE, EAGAIN, "not all of the VM is there yet");
}

static void op_next(struct transfer *t, const json_t *ret, const struct err *err)
{
        switch (t->op) {
        case OP_PREPARE:
                next_prepare(t, ret, err);
                break;
        case OP_LOOK:
                next_look(t, ret, err);
                break;
        case OP_CANCEL:
                next_cancel(t, ret, err);
                break;
        case OP_SETTLE:
                next_settle(t, err);
                break;
        case OP_SOCKET:
        case OP_RUN:
        case OP_ANNOUNCE:
                next_single(t, err);
                break;
        case OP_NONE:
                break;
        }
}

/* ---- from outside ---- */

struct transfer *transfer_new(const struct transfer_options *o)
{
        struct transfer *t = calloc(1, sizeof(*t));
        assert(t);
        t->o = *o;
        t->context = g_main_context_ref_thread_default();
        return t;
}

void transfer_free(struct transfer *t)
{
        struct err err = {0};
        if (!t || t->is_doomed)
                return;
        enter(t);
        t->is_doomed = true;
        (void)err_set(&err, REASON_CANCELLED, ECANCELED, "the handover was let go of");
        if (t->op != OP_NONE)
                finish(t, &err);
        leave(t);
}

void transfer_prepare(struct transfer *t, int timeout_ms, vm_done *done, void *arg)
{
        begin(t, OP_PREPARE, timeout_ms, done, arg);
        start(t);
}

static void use_socket(struct transfer *t, const char *path, int timeout_ms, vm_done *done, void *arg)
{
        begin(t, OP_SOCKET, timeout_ms, done, arg);
        assert(strlen(path) < 100);
        t->is_complete = false;
        (void)snprintf(t->uri, sizeof(t->uri), "unix:%s", path);
        start(t);
}

void transfer_listen(struct transfer *t, const char *path, int timeout_ms, vm_done *done, void *arg)
{
        assert(t->o.is_target);
        use_socket(t, path, timeout_ms, done, arg);
}

void transfer_begin(struct transfer *t, const char *path, int timeout_ms, vm_done *done, void *arg)
{
        assert(!t->o.is_target);
        use_socket(t, path, timeout_ms, done, arg);
}

void transfer_look(struct transfer *t, int timeout_ms, transfer_look_done *done, void *arg)
{
        begin(t, OP_LOOK, timeout_ms, NULL, arg);
        t->look_done = done;
        start(t);
}

void transfer_cancel(struct transfer *t, int timeout_ms, vm_done *done, void *arg)
{
        begin(t, OP_CANCEL, timeout_ms, done, arg);
        start(t);
}

void transfer_run(struct transfer *t, int timeout_ms, vm_done *done, void *arg)
{
        begin(t, OP_RUN, timeout_ms, done, arg);
        start(t);
}

void transfer_note(struct transfer *t, const char *words)
{
        if (t->o.is_target && strcmp(words, "completed") == 0)
                t->is_complete = true;
}

void transfer_settle(struct transfer *t, int timeout_ms, vm_done *done, void *arg)
{
        begin(t, OP_SETTLE, timeout_ms, done, arg);
        start(t);
}

void transfer_announce(struct transfer *t, int timeout_ms, vm_done *done, void *arg)
{
        begin(t, OP_ANNOUNCE, timeout_ms, done, arg);
        start(t);
}

/* ---- what both must have in common ---- */

const struct transfer_ram *transfer_ram(const struct transfer *t, size_t *ret_n)
{
        *ret_n = t->n_looked;
        return t->ram;
}

static const struct transfer_ram *ram_of(const struct transfer *t, const char *id)
{
        for (size_t i = 0; i < t->n_looked; i++)
                if (strcmp(t->ram[i].id, id) == 0)
                        return &t->ram[i];
        return NULL;
}

int transfer_ram_check(const struct transfer *source, const struct transfer *target, struct err *err)
{
        if (source->n_looked == 0 || target->n_looked > source->n_looked)
                return err_set(err, REASON_INCOMPATIBLE, EINVAL,
                               "the target has %zu files of memory, the source %zu", target->n_looked,
                               source->n_looked);
        for (size_t i = 0; i < source->n_looked; i++) {
                const struct transfer_ram *a = &source->ram[i], *b = ram_of(target, a->id);
                if (!b)
                        return err_set(err, REASON_INCOMPATIBLE, EINVAL, "the target lacks memory %s", a->id);
                if (a->bytes != b->bytes)
                        return err_set(err, REASON_INCOMPATIBLE, EINVAL,
                                       "memory %s has %" PRId64 " bytes, at the target %" PRId64, a->id,
                                       a->bytes, b->bytes);
                if (!a->is_shared || !b->is_shared)
                        return err_set(err, REASON_INCOMPATIBLE, EINVAL, "memory %s is not shareable", a->id);
                if (a->inode == 0 || a->device != b->device || a->inode != b->inode)
                        return err_set(err, REASON_INCOMPATIBLE, EINVAL,
                                       "memory %s is another file at the target (inode %" PRIu64
                                       ", not %" PRIu64 ")",
                                       a->id, b->inode, a->inode);
        }
        return 0;
}

int transfer_ram_find(FILE *maps, struct transfer_ram *ram, struct err *err)
{
        char line[TRANSFER_PATH + 128];
        bool is_whole = true; /* what is read begins a line */
        while (fgets(line, sizeof(line), maps)) {
                char mode[5] = "";
                unsigned major = 0, minor = 0;
                uint64_t inode = 0;
                int at = 0;
                size_t n = strlen(line);
                bool begins = is_whole;
                is_whole = n > 0 && line[n - 1] == '\n';
                if (is_whole)
                        line[n - 1] = '\0';
                /* NOLINTNEXTLINE(cert-err34-c): the kernel's own words */
                int got = sscanf(line, "%*s %4s %*s %x:%x %" SCNu64 " %n", mode, &major, &minor, &inode, &at);
                if (!begins || got < 4 || at == 0 || mode[3] != 's' || strcmp(line + at, ram->path) != 0)
                        continue;
                ram->device = makedev(major, minor);
                ram->inode = inode;
                return 0;
        }
        return err_set(err, REASON_INCOMPATIBLE, ENOENT,
                       "memory %s: the VMM has not mapped %.120s for sharing", ram->id, ram->path);
}

static int version_number(const char *version)
{
        char *end = NULL;
        long major = strtol(version, &end, 10), minor = *end == '.' ? strtol(end + 1, NULL, 10) : 0;
        return major < 0 || major > 1000 || minor < 0 || minor > 999 ? 0 : (int)(major * 1000 + minor);
}

static int differs(const char *what, const char *here, const char *there, struct err *err)
{
        if (strcmp(here, there) == 0)
                return 0;
        return err_set(err, REASON_INCOMPATIBLE, EINVAL, "%s: %.60s here, %.60s at the target", what,
                       *here ? here : "none", *there ? there : "none");
}

static int differs_by(const char *what, int64_t here, int64_t there, struct err *err)
{
        if (here == there)
                return 0;
        return err_set(err, REASON_INCOMPATIBLE, EINVAL, "%s: %" PRId64 " here, %" PRId64 " at the target",
                       what, here, there);
}

static int check_versions(const char *here, const char *there, struct err *err)
{
        int a = version_number(here), b = version_number(there), least = LEAST_MAJOR * 1000 + LEAST_MINOR;
        if (a < least || b < least)
                return err_set(err, REASON_INCOMPATIBLE, ENOTSUP,
                               "QEMU %.30s: a handover takes %d.%d or later on both sides",
                               a < least ? here : there, LEAST_MAJOR, LEAST_MINOR);
        if (b < a)
                return err_set(err, REASON_INCOMPATIBLE, ENOTSUP,
                               "QEMU %.30s at the target is older than %.30s here", there, here);
        return 0;
}

int transfer_check(const struct api_vm_definition *here, const char *version_here,
                   const struct api_vm_definition *there, const char *version_there, struct err *err)
{
        const struct {
                const char *what;
                int64_t here, there;
        } figures[] = {
                {"accelerator",     here->accelerator,      there->accelerator     },
                {"vCPUs",           here->cpus,             there->cpus            },
                {"vCPU slots",      here->cpus_max,         there->cpus_max        },
                {"memory",          here->memory_bytes,     there->memory_bytes    },
                {"most memory",     here->memory_max_bytes, there->memory_max_bytes},
                {"memory slots",    here->dimm_slots,       there->dimm_slots      },
                {"kind of memory",  here->memory_mechanism, there->memory_mechanism},
                {"page size",       here->page_bytes,       there->page_bytes      },
                {"disks",           here->has_disk,         there->has_disk        },
                {"network cards",   here->has_network,      there->has_network     },
                {"slot of serial",  here->serial_pci_slot,  there->serial_pci_slot },
                {"slot of disk",    here->disk_pci_slot,    there->disk_pci_slot   },
                {"slot of network", here->net_pci_slot,     there->net_pci_slot    },
        };
        int r = check_versions(version_here, version_there, err);
        if (r == 0)
                r = differs("machine", here->machine, there->machine, err);
        if (r == 0)
                r = differs("CPU model", here->cpu_model, there->cpu_model, err);
        if (r == 0)
                r = differs("UUID", here->uuid, there->uuid, err);
        if (r == 0 && here->has_disk && there->has_disk)
                r = differs("disk", here->disk, there->disk, err);
        if (r == 0 && here->has_network && there->has_network)
                r = differs("MAC address", here->mac, there->mac, err);
        for (size_t i = 0; r == 0 && i < ARRAY_N(figures); i++)
                r = differs_by(figures[i].what, figures[i].here, figures[i].there, err);
        if (r == 0 && here->memory_mechanism == API_MEMORY_MECHANISM_VIRTIO_MEM &&
            version_number(version_here) < 8001)
                r = err_set(err, REASON_INCOMPATIBLE, ENOTSUP,
                            "virtio-mem is not handed over by QEMU %.30s; 8.1 or later does", version_here);
        return r;
}
