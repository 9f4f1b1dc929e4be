/* SPDX-License-Identifier: Apache-2.0 */
/* Each event is one turn: the core steps, what it says is made durable, and only then anything is done. Where
 * it cannot be made durable the step is taken back, and the clock tries again; whoever spoke speaks again.
 *
 * What is reassignable changes its owner in the same transaction as the state `assigned`, and back in that of
 * the state behind it, where the target returned it. The record is the only thing that is decided outside of
 * the journal; it is looked at whenever a state is entered that depends on it, when it changes, and before
 * anybody's word is believed that it contradicts. */
#include "sp/lead.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/str.h"
#include "fleet/handed.h"
#include "json/read.h"
#include "sp/crash.h"
#include "sp/upgrade.h"

enum { AGAIN_MS = 1000 };

/* ---- the record: a folder that the keeper has made with the loan of the memory ---- */

static int boot_id(char ret[LEAD_NAME], struct err *err)
{
        FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
        bool is_read = f && fgets(ret, LEAD_NAME, f);
        if (f)
                (void)fclose(f);
        if (!is_read)
                return err_set(err, REASON_INTERNAL, EIO, "the boot id of this machine cannot be read");
        ret[strcspn(ret, "\n")] = '\0';
        return 0;
}

/* Then every VMM is dead, and nobody else will write anything. */
static bool is_of_another_boot(const struct leading *l)
{
        char now[LEAD_NAME];
        struct err err = {0};
        return boot_id(now, &err) == 0 && strcmp(now, l->boot) != 0;
}

/* The source says where it is, and we write there as root: so only where the keeper makes such, RUN_DIR/
 * handover/TAG/record. All above it is root's. */
static int check_path(const struct sp *sp, const char *path, struct err *err)
{
        size_t n = strlen(sp->config.keeper_run_dir);
        bool is_good =
                strncmp(path, sp->config.keeper_run_dir, n) == 0 && g_str_has_prefix(path + n, "/handover/");
        const char *tag = is_good ? path + n + strlen("/handover/") : "";
        size_t digits = strspn(tag, "0123456789abcdef");
        if (!is_good || digits == 0 || strcmp(tag + digits, "/record") != 0)
                return err_set(err, REASON_INVALID, EINVAL,
                               "the record is not under %.100s/handover ([keeper] run_dir in sp.conf)",
                               sp->config.keeper_run_dir);
        return 0;
}

static int open_path(const struct leading *l, const char *path, struct err *err)
{
        struct stat st;
        int bad = check_path(l->sp, path, err);
        if (bad)
                return bad;
        int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
                return err_set(err, REASON_INTERNAL, errno, "the record of %s: %s", l->core.row.id,
                               strerror(errno));
        if (fstat(fd, &st) == 0 && st.st_uid == 0 && (st.st_mode & S_ISVTX))
                return fd;
        (void)close(fd);
        return err_set(err, REASON_POLICY, EPERM, "the record of %s is not root's, with the sticky bit",
                       l->core.row.id);
}

static int open_dir(struct leading *l, struct err *err)
{
        int fd = l->dir_fd >= 0 ? l->dir_fd : open_path(l, l->record, err);
        l->dir_fd = fd >= 0 ? fd : -1;
        return fd >= 0 ? 0 : fd;
}

static void close_dir(struct leading *l)
{
        loop_fd_remove(&l->notify);
        if (l->notify_fd >= 0)
                (void)close(l->notify_fd);
        if (l->dir_fd >= 0)
                (void)close(l->dir_fd);
        l->notify_fd = l->dir_fd = -1;
}

/* By the target's meted: of anybody else `committed` and `returned` do not count (api/keeper.json). */
static int check_writer(const struct leading *l, const char *name, bool *ret, struct err *err)
{
        struct launch_user u;
        struct stat st;
        int bad = launch_user(l->sp->hypervisors[l->to].user, &u, err);
        if (!bad && fstatat(l->dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
                bad = err_set(err, REASON_INTERNAL, errno, "the record of %s: %s", l->core.row.id,
                              strerror(errno));
        if (!bad)
                *ret = st.st_uid == u.uid;
        return bad;
}

int lead_look(struct leading *l, enum handover_record *ret, struct err *err)
{
        bool is_targets = false;
        int bad = open_dir(l, err);
        if (bad && is_of_another_boot(l)) {
                *ret = l->is_assigned ? RECORD_COMMITTED : RECORD_ABORTED;
                return 0;
        }
        if (!bad)
                bad = handed_read(l->dir_fd, ret, err);
        if (!bad && *ret == RECORD_RETURNED) {
                bad = check_writer(l, HANDED_RETURNED, &is_targets, err);
                *ret = is_targets ? RECORD_RETURNED : RECORD_COMMITTED;
        }
        if (!bad && (*ret == RECORD_COMMITTED || *ret == RECORD_RETURNED)) {
                bad = check_writer(l, HANDED_OUTCOME, &is_targets, err);
                *ret = is_targets ? *ret : RECORD_ABORTED;
        }
        return bad;
}

/* One that says something already is of another handover. */
int lead_set_record(struct leading *l, const char *path, struct err *err)
{
        enum handover_record record = RECORD_NONE;
        int bad = 0, fd = open_path(l, path, err);
        if (fd < 0)
                return fd;
        bad = handed_read(fd, &record, err);
        (void)close(fd);
        for (const struct leading *o = l->sp->leadings; o && !bad; o = o->next)
                if (record != RECORD_NONE || (o != l && strcmp(o->record, path) == 0))
                        bad = err_set(err, REASON_POLICY, EPERM, "the record is another handover's");
        if (!bad)
                bad = boot_id(l->boot, err);
        if (bad)
                return bad;
        close_dir(l);
        (void)STR_COPY(l->record, path);
        return 0;
}

static bool event_of(enum handover_record record, enum handover_event_kind *ret)
{
        *ret = record == RECORD_COMMITTED  ? HANDOVER_EV_COMMITTED
               : record == RECORD_ABORTED  ? HANDOVER_EV_ABORTED
               : record == RECORD_RETURNED ? HANDOVER_EV_RETURNED
                                           : HANDOVER_EV_UNKNOWN;
        return record != RECORD_NONE;
}

static void behind(struct leading *l, enum handover_event_kind kind, uint64_t token)
{
        l->after = (struct handover_event){.kind = kind, .token = token};
        l->has_after = true;
}

static void look_now(struct leading *l)
{
        enum handover_record record;
        enum handover_event_kind kind;
        struct err err = {0};
        if (lead_look(l, &record, &err) == 0 && event_of(record, &kind))
                behind(l, kind, 0);
}

static void on_notify(void *arg, uint32_t events)
{
        struct leading *l = arg;
        char buffer[4096];
        struct err err = {0};
        (void)events;
        while (read(l->notify_fd, buffer, sizeof(buffer)) > 0)
                ;
        l->has_after = false;
        look_now(l);
        if (l->has_after) {
                struct handover_event ev = l->after;
                l->has_after = false;
                (void)lead_take(l, &ev, &err); /* the clock looks again where it was not taken */
        }
}

/* A word is linked to its place, and its other name removed: by that it is known, and not by what else comes
 * there while the guest stands, as its target is to have the CPU then. */
static void watch(struct leading *l)
{
        struct err err = {0};
        if (l->notify_fd < 0 && open_dir(l, &err) == 0) {
                l->notify_fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
                if (l->notify_fd >= 0 &&
                    (inotify_add_watch(l->notify_fd, l->record, IN_DELETE) < 0 ||
                     loop_fd_add(&l->notify, l->notify_fd, EPOLLIN, on_notify, l, &err))) {
                        (void)close(l->notify_fd);
                        l->notify_fd = -1; /* the clock looks, too */
                }
        }
        look_now(l);
}

static void write_record(struct leading *l, const struct handover_effect *e)
{
        enum handover_record record = RECORD_NONE;
        enum handover_event_kind kind = HANDOVER_EV_UNKNOWN;
        struct err err = {0};
        sp_crash_point("record begin");
        int bad = open_dir(l, &err);
        if (!bad)
                bad = handed_write(l->dir_fd, e->record, "sp", &record, &err);
        if (!bad || is_of_another_boot(l))
                bad = lead_look(l, &record, &err);
        sp_crash_point("record end");
        if (bad)
                log_warn("handover %s: %s", l->core.row.id, err.sentence);
        else
                (void)event_of(record, &kind);
        behind(l, kind, e->token);
}

/* ---- the partition ---- */

static void assign(struct leading *l, bool is_back)
{
        struct sp *sp = l->sp;
        struct server_portion portions[LEAD_PARTS];
        size_t n = lead_portions(l, portions);
        server_assign(&sp->server, is_back ? l->to : l->from, is_back ? l->from : l->to, portions, n);
        l->is_assigned = !is_back;
        (void)STR_COPY(sp->committed, is_back ? "" : l->core.row.id);
        (void)STR_COPY(sp->assigned_trace, l->core.row.id);
        sp->assigned_epoch = l->assigned_epoch = sp->server.epoch;
}

/* ---- a turn ---- */

struct before {
        struct handover core;
        bool is_assigned, would;
        int64_t ended_ms, epoch;
        char committed[HANDOVER_ID];
        struct server_share *shares; /* NULL: the partition was not touched */
};

static void take_back(struct leading *l, struct before *b)
{
        struct sp *sp = l->sp;
        l->core = b->core;
        l->is_assigned = b->is_assigned;
        l->ended_ms = b->ended_ms;
        if (b->shares) {
                memcpy(sp->server.shares, b->shares,
                       sp->server.n_components * SERVER_HYPERVISORS_MAX * sizeof(*b->shares));
                sp->server.epoch = b->epoch;
                (void)STR_COPY(sp->committed, b->committed);
        }
}

/* Once it has ended nothing of its guest is needed but what people ask for. */
static void settle(struct leading *l)
{
        for (size_t i = 0; l->guest && i < l->guest->n_parts && i < LEAD_PARTS; i++)
                l->parts[l->n_parts++] = l->guest->parts[i];
        g_free(l->guest);
        l->guest = NULL;
}

/* What must be durable before anything is done. */
static int journal(struct leading *l, const struct handover_effects *out, struct before *b, struct err *err)
{
        struct sp *sp = l->sp;
        const char *event = NULL, *text = "";
        bool is_persist = false, is_assign = false;
        enum handover_state s = l->core.row.state;
        char subject[REQUEST_KEY];
        for (size_t i = 0; i < out->n; i++) {
                is_persist |= out->list[i].kind == HANDOVER_PERSIST;
                is_assign |= out->list[i].kind == HANDOVER_ASSIGN;
                if (out->list[i].kind == HANDOVER_EVENT) {
                        event = out->list[i].event;
                        text = out->list[i].text;
                }
        }
        if (!is_persist && !event)
                return 0;
        bool is_back = l->is_assigned && (s == HANDOVER_RECALLING ||
                                          (s == HANDOVER_DROPPING && b->core.row.state == HANDOVER_ASSIGNED));
        if (is_assign || is_back) {
                b->shares = g_memdup2(sp->server.shares,
                                      sp->server.n_components * SERVER_HYPERVISORS_MAX * sizeof(*b->shares));
                b->epoch = sp->server.epoch;
                assign(l, is_back);
        }
        if (handover_is_final(&l->core) && l->ended_ms == 0)
                l->ended_ms = loop_now_ms();
        (void)snprintf(subject, sizeof(subject), "vm:%s", l->vm);
        int bad = journal_lead(sp, is_persist ? l : NULL, b->shares != NULL, l->core.row.id, subject,
                               event ? event : "told", err, "%s", text ? text : "");
        if (bad)
                take_back(l, b);
        return bad;
}

static void say(struct leading *l, const struct handover_message *said)
{
        if (!l->is_dry || said->says != HANDOVER_SAYS_SEPARATE) {
                lead_say(l, said);
                return;
        }
        /* What was to be found out is known, and nothing was touched yet. */
        l->would = true;
        behind(l, HANDOVER_EV_CANCEL, 0);
        l->after.sentence = "it was only to be found out whether it would do";
}

/* Of the others there is nothing to be done but what is durable by now; who asked looks how it ended. */
static void act(struct leading *l, const struct handover_effect *e)
{
        if (e->kind == HANDOVER_SEND)
                say(l, &e->message);
        else if (e->kind == HANDOVER_WRITE)
                write_record(l, e);
        else if (e->kind == HANDOVER_WATCH)
                watch(l);
        else if (e->kind == HANDOVER_FORGET)
                close_dir(l); /* the keeper removes it: it may ask once more whose the memory is */
}

static void set_clock(struct leading *l)
{
        int64_t at_ms = handover_deadline(&l->core);
        if (at_ms == INT64_MAX)
                loop_timer_cancel(&l->tick);
        else
                loop_timer_at(&l->tick, at_ms);
}

static int turn(struct leading *l, const struct handover_effects *out, struct before *b, struct err *err)
{
        int bad = journal(l, out, b, err);
        for (size_t i = 0; !bad && i < out->n; i++)
                act(l, &out->list[i]);
        for (int k = 0; !bad && b->shares && k < l->sp->server.n; k++)
                hypervisor_look(&l->sp->hypervisors[k]);
        g_free(b->shares);
        if (!bad && handover_is_final(&l->core)) {
                settle(l);
                upgrading_wake(l->sp);
        }
        return bad;
}

int lead_take(struct leading *l, const struct handover_event *ev, struct err *err)
{
        struct handover_event next = *ev;
        int first = 1, r;
        for (bool is_first = true;; is_first = false) {
                struct handover_effects out = {0};
                struct before b = {.core = l->core, .is_assigned = l->is_assigned, .ended_ms = l->ended_ms};
                struct err ignored = {0};
                (void)STR_COPY(b.committed, l->sp->committed);
                next.now_ms = loop_mono_ms();
                l->has_after = false;
                r = handover_step(&l->core, &next, &out, is_first ? err : &ignored);
                if (r > 0 && (r = turn(l, &out, &b, is_first ? err : &ignored)) < 0)
                        l->has_after = false;
                else if (r == 0 && out.n > 0)
                        r = 1;
                if (is_first)
                        first = r;
                if (!l->has_after)
                        break;
                next = l->after;
        }
        set_clock(l);
        if (l->sp->problem.reason) /* not at once again: the disk is full */
                loop_timer_in(&l->tick, AGAIN_MS);
        return first;
}

static void on_tick(void *arg)
{
        struct leading *l = arg;
        struct err err = {0};
        struct handover_event ev = {.kind = HANDOVER_EV_TICK};
        enum handover_record record;
        if (handover_state_has(l->core.row.state, HANDOVER_WATCH) && lead_look(l, &record, &err) == 0) {
                struct handover_event said = {0};
                if (event_of(record, &said.kind))
                        (void)lead_take(l, &said, &err);
        }
        (void)lead_take(l, &ev, &err);
}

int lead_cancel(struct leading *l, enum reason reason, const char *sentence, struct err *err)
{
        struct handover_event ev = {.kind = HANDOVER_EV_CANCEL, .reason = reason, .sentence = sentence};
        enum handover_state s = l->core.row.state;
        if (s == HANDOVER_CLOSING || s == HANDOVER_RECALLING || s == HANDOVER_DROPPING)
                return 0; /* it is being broken off */
        int r = lead_take(l, &ev, err);
        if (r == 0)
                return err_set(err, REASON_STALE, ESTALE, "handover %s: it is %s: too late to break it off",
                               l->core.row.id, handover_state_name(l->core.row.state));
        return r < 0 ? r : 0;
}

/* ---- begin, go on, end ---- */

unsigned lead_count(const struct sp *sp)
{
        unsigned n = 0;
        for (const struct leading *l = sp->leadings; l; l = l->next)
                n += !handover_is_final(&l->core);
        return n;
}

const struct leading *lead_of(const struct sp *sp, int hypervisor)
{
        for (const struct leading *l = sp->leadings; l; l = l->next)
                if (!handover_is_final(&l->core) && (l->from == hypervisor || l->to == hypervisor))
                        return l;
        return NULL;
}

/* What was assigned to it waits for its word alone. */
const struct leading *lead_undecided(const struct sp *sp, int hypervisor)
{
        for (const struct leading *l = sp->leadings; l; l = l->next) {
                bool is_its = l->to == hypervisor && l->core.row.state != HANDOVER_ASSIGNED;
                if (handover_may_assign(&l->core) && (l->from == hypervisor || is_its))
                        return l;
        }
        return NULL;
}

/* Two hypervisors may have VMs of one name, but not where one of them would get the other's. */
int lead_check(const struct sp *sp, const char *vm, int from, int to, struct err *err)
{
        unsigned n = 0, of_pair = 0;
        for (const struct leading *l = sp->leadings; l; l = l->next) {
                if (handover_is_final(&l->core))
                        continue;
                bool is_near = l->from == from || l->to == from || l->from == to || l->to == to;
                if (strcmp(l->vm, vm) == 0 && is_near)
                        return err_set(err, REASON_BUSY, EALREADY,
                                       "%s is being handed over from %s to %s (%s): a VM once at a time", vm,
                                       sp->server.names[l->from], sp->server.names[l->to], l->core.row.id);
                n++;
                of_pair += l->from == from && l->to == to;
        }
        if (of_pair >= LEADS_PAIR_MAX)
                return err_set(err, REASON_BUSY, EBUSY,
                               "%u VMs are being handed over from %s to %s: try again when one is through",
                               of_pair, sp->server.names[from], sp->server.names[to]);
        return n < LEADS_MAX ? 0
                             : err_set(err, REASON_BUSY, EBUSY,
                                       "%u handovers are under way: try again when one is through", n);
}

/* One that is committed may still be returned; of the others nobody knows which will be. */
int lead_check_portions(const struct leading *l, struct err *err)
{
        struct server s = l->sp->server;
        struct server_portion portions[LEAD_PARTS];
        s.shares = g_memdup2(s.shares, s.n_components * SERVER_HYPERVISORS_MAX * sizeof(*s.shares));
        for (const struct leading *o = l->sp->leadings; o; o = o->next) {
                bool may_return = o->core.row.state == HANDOVER_ASSIGNED;
                if (o != l && !o->is_dry && !handover_is_final(&o->core) && (!o->is_assigned || may_return))
                        server_set_aside(&s, o->is_assigned ? o->to : o->from, portions,
                                         lead_portions(o, portions));
        }
        int bad = server_assign_check(&s, l->from, l->to, portions, lead_portions(l, portions), err);
        g_free(s.shares);
        return bad;
}

struct leading *lead_find(const struct sp *sp, const char *id)
{
        for (struct leading *l = sp->leadings; l; l = l->next)
                if (strcmp(l->core.row.id, id) == 0)
                        return l;
        return NULL;
}

/* The oldest of too many goes, with the transaction that comes next. */
static void trim(struct sp *sp)
{
        size_t n = 0;
        for (struct leading **at = &sp->leadings; *at;) {
                struct leading *l = *at;
                if (++n <= LEAD_KEPT || !handover_is_final(&l->core)) {
                        at = &l->next;
                        continue;
                }
                *at = l->next;
                journal_forget_lead(sp, l->core.row.id);
                loop_timer_cancel(&l->tick);
                lead_free(l);
        }
}

static void init(struct leading *l)
{
        loop_timer_init(&l->tick, on_tick, l);
}

/* Its own, also where the journal was lost and the numbers begin anew. */
static int name(const struct leading *l, const struct api_handover_start *in, char ret[HANDOVER_ID],
                struct err *err)
{
        uint32_t chance = 0;
        if (in->has_id) {
                (void)str_copy(ret, HANDOVER_ID, in->id);
                return 0;
        }
        if (getrandom(&chance, sizeof(chance), 0) != (ssize_t)sizeof(chance))
                return err_set(err, REASON_INTERNAL, errno, "no random bytes: %s", strerror(errno));
        (void)snprintf(ret, HANDOVER_ID, "h%llu-%08x", (unsigned long long)l->sp->handovers + 1, chance);
        return 0;
}

int lead_begin(struct sp *sp, const struct api_handover_start *in, int from, int to, struct leading **ret,
               struct err *err)
{
        struct leading *l = g_new0(struct leading, 1);
        struct handover_effects out = {0};
        struct before b = {0};
        char id[HANDOVER_ID];
        *l = (struct leading){.sp = sp,
                              .from = from,
                              .to = to,
                              .is_dry = in->has_dry_run && in->dry_run,
                              .asked_ms = loop_now_ms(),
                              .dir_fd = -1,
                              .notify_fd = -1,
                              .gap_us = -1,
                              .sent_bytes = -1,
                              .ram_bytes = -1,
                              .separated_bytes = -1};
        (void)STR_COPY(l->vm, in->vm);
        init(l);
        int bad = boot_id(l->boot, err);
        if (!bad)
                bad = name(l, in, id, err);
        if (bad) {
                lead_free(l);
                return bad;
        }
        sp->handovers++;
        handover_begin(&l->core, id, sp->handovers, in->has_max_gap_ms ? in->max_gap_ms : 0,
                       in->has_within_ms ? in->within_ms : 0, loop_mono_ms(), &out);
        b.core = l->core;
        l->next = sp->leadings;
        sp->leadings = l;
        trim(sp);
        bad = turn(l, &out, &b, err);
        if (bad) {
                sp->leadings = l->next;
                sp->handovers--;
                lead_free(l);
                return bad;
        }
        set_clock(l);
        *ret = l;
        return 0;
}

static int load_one(const char *name, const char *text, void *arg, struct err *err)
{
        struct sp *sp = arg;
        struct leading *l = NULL, **at = &sp->leadings;
        int bad = lead_read(sp, name, text, &l, err);
        if (bad)
                return err_note(err, "the handover %.60s in the store", name);
        init(l);
        while (*at && (*at)->core.row.epoch > l->core.row.epoch)
                at = &(*at)->next;
        l->next = *at;
        *at = l;
        return 0;
}

int lead_load(struct sp *sp, struct err *err)
{
        return store_load_documents(sp->store, STORE_MOVE, load_one, sp, err);
}

static void go_on(struct leading *l)
{
        struct handover_effects out = {0};
        const struct handover_row row = l->core.row;
        struct handover_event ev;
        struct err err = {0};
        l->assigned_epoch = l->sp->server.epoch;
        l->has_after = false;
        handover_restore(&l->core, &row, 0, RECORD_NONE, loop_mono_ms(), &out);
        for (size_t i = 0; i < out.n; i++) /* a processor's are but to be done again */
                act(l, &out.list[i]);
        set_clock(l);
        if (l->has_after) {
                ev = l->after;
                (void)lead_take(l, &ev, &err);
        }
}

void lead_start(struct sp *sp)
{
        for (struct leading *l = sp->leadings; l; l = l->next)
                if (!handover_is_final(&l->core))
                        go_on(l);
}

void lead_end(struct sp *sp)
{
        while (sp->leadings) {
                struct leading *l = sp->leadings;
                sp->leadings = l->next;
                loop_timer_cancel(&l->tick);
                close_dir(l);
                lead_free(l);
        }
}
