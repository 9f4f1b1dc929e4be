/* SPDX-License-Identifier: Apache-2.0 */
/* A handover as it is kept in the store, and the record of it that all three have (fleet/handed.h). In the
 * store: {"vm": ..., "state": ..., "guest": {...}}. */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "base/log.h"
#include "base/str.h"
#include "fleet/handed.h"
#include "json/read.h"
#include "meted/handover-internal.h"

#define NO_DEADLINE INT64_C(9007199254740991) /* as the store has it */

/* What else is to be kept in a swift state goes with the row that is there: none is read as a swift one. */
const struct handover_row *handing_row(const struct handing *ho)
{
        return handover_state_is_swift(ho->core.row.state) ? &ho->written : &ho->core.row;
}

static json_t *keeps_out(const struct handing *ho)
{
        json_t *all = json_array();
        for (size_t i = 0; i < ho->n_keeps; i++)
                (void)json_array_append_new(all, json_string(ho->keeps[i]));
        return all;
}

/* What would not be known to be kept would be given away. */
static bool keeps_in(struct handing *ho, const json_t *all)
{
        size_t i;
        const json_t *one;
        json_array_foreach(all, i, one)
        {
                const char *name = json_string_value(one);
                if (!name || ho->n_keeps == HANDING_KEEPS_MAX || !STR_COPY(ho->keeps[ho->n_keeps++], name))
                        return false;
        }
        return true;
}

char *handing_record(const struct handing *ho)
{
        const struct handover_row *row = handing_row(ho);
        json_t *v = json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:b, s:b, s:b, s:b, s:i, s:s, s:s, s:I, "
                              "s:I, s:s, s:I, s:b, s:I, s:I, s:o}",
                              "vm", ho->vm, "state", handover_state_name(row->state), "end",
                              row->end ? handover_state_name(row->end) : "", "epoch", (json_int_t)row->epoch,
                              "step", (json_int_t)row->step, "gap_ms", (json_int_t)row->gap_ms, "deadline_ms",
                              (json_int_t)(row->deadline_ms < NO_DEADLINE ? row->deadline_ms : NO_DEADLINE),
                              "is_told", row->is_told, "is_unsure", row->is_unsure, "is_returned",
                              ho->is_returned, "may_lend", ho->may_lend, "reason", (int)row->reason,
                              "sentence", row->sentence, "peer", ho->peer, "asked_ms",
                              (json_int_t)ho->asked_ms, "ended_ms", (json_int_t)ho->ended_ms, "boot",
                              ho->boot, "part_epoch", (json_int_t)ho->part_epoch, "separates", ho->separates,
                              "separated_bytes", (json_int_t)ho->separated_bytes, "separate_ms",
                              (json_int_t)row->separate_ms, "keeps", keeps_out(ho));
        json_t *guest = v && ho->guest ? api_handover_guest_emit(ho->guest) : NULL;
        bool is_good = v && (!ho->guest || (guest && json_object_set_new(v, "guest", guest) == 0));
        char *text = is_good ? json_write(v, NULL) : NULL;
        json_decref(v);
        return text;
}

static const char *word(const json_t *v, const char *key)
{
        const char *text = json_string_value(json_object_get(v, key));
        return text ? text : "";
}

static int64_t figure(const json_t *v, const char *key)
{
        return json_integer_value(json_object_get(v, key));
}

static bool is(const json_t *v, const char *key)
{
        return json_is_true(json_object_get(v, key));
}

/* One that an earlier meted wrote may be swift by now: in the one before it the record is asked again. */
static enum handover_state state_of(const char *name)
{
        enum handover_state s = handover_state_from_name(name);
        return s == SOURCE_RESUMING ? SOURCE_CLOSING : s;
}

static int take(struct handing *ho, const char *id, const json_t *v, struct err *err)
{
        struct handover_row *row = &ho->core.row;
        const json_t *guest = json_object_get(v, "guest");
        row->state = state_of(word(v, "state"));
        row->end = *word(v, "end") ? handover_state_from_name(word(v, "end")) : 0;
        if (!row->state || handover_role(row->state) == ROLE_PROCESSOR ||
            handover_state_is_swift(row->state) || (*word(v, "end") && !row->end))
                return err_set(err, REASON_INTERNAL, EINVAL, "no such state: %s %s", word(v, "state"),
                               word(v, "end"));
        row->epoch = (uint64_t)figure(v, "epoch");
        row->step = (uint64_t)figure(v, "step");
        row->gap_ms = figure(v, "gap_ms");
        row->separate_ms = figure(v, "separate_ms");
        row->deadline_ms = figure(v, "deadline_ms");
        if (row->deadline_ms >= NO_DEADLINE)
                row->deadline_ms = INT64_MAX;
        row->is_told = is(v, "is_told");
        row->is_unsure = is(v, "is_unsure");
        row->reason = (enum reason)figure(v, "reason");
        ho->is_returned = is(v, "is_returned");
        ho->may_lend = is(v, "may_lend");
        ho->asked_ms = figure(v, "asked_ms");
        ho->ended_ms = figure(v, "ended_ms");
        ho->part_epoch = figure(v, "part_epoch");
        ho->separates = is(v, "separates");
        ho->separated_bytes = figure(v, "separated_bytes");
        if (!STR_COPY(row->id, id) || !STR_COPY(ho->vm, word(v, "vm")) || !*ho->vm ||
            !STR_COPY(row->sentence, word(v, "sentence")) || !STR_COPY(ho->peer, word(v, "peer")) ||
            !STR_COPY(ho->boot, word(v, "boot")) || !keeps_in(ho, json_object_get(v, "keeps")) ||
            row->epoch == 0 || row->reason >= REASON_N)
                return err_set(err, REASON_INTERNAL, EINVAL, "it makes no sense");
        if (!guest)
                return 0;
        ho->guest = g_new0(struct api_handover_guest, 1);
        return api_handover_guest_parse(guest, ho->guest, err);
}

int handing_record_read(struct handing *ho, const char *id, const char *text, struct err *err)
{
        json_t *v = json_read(text, strlen(text), err);
        int bad = v ? take(ho, id, v, err) : -EPROTO;
        json_decref(v);
        return bad ? err_note(err, "the handover %s in the store", id) : 0;
}

/* ---- the record that all three have ---- */

static int record_open(const struct handing *ho, struct err *err)
{
        if (!ho->guest || !ho->guest->has_loan)
                return err_set(err, REASON_INTERNAL, ENOENT, "it has no record yet");
        return handed_open(ho->guest->loan.record, err);
}

/* Each side wrote as its own user: the keeper tells them apart by that. */
static enum handed_whose whose(const struct handing *ho)
{
        return handing_is_source(ho) ? HANDED_OTHERS : HANDED_MINE;
}

int handing_read(const struct handing *ho, enum handover_record *ret, struct err *err)
{
        *ret = RECORD_NONE;
        if (!ho->guest || !ho->guest->has_loan)
                return 0;
        int fd = record_open(ho, err);
        if (fd < 0)
                return fd;
        int bad = handed_read_of(fd, whose(ho), ret, err);
        (void)close(fd);
        if (bad)
                *ret = RECORD_NONE;
        return bad;
}

void handing_stand(struct handing *ho)
{
        struct err err = {0};
        int fd = record_open(ho, &err), bad = fd < 0 ? fd : handed_stand(fd, &err);
        if (fd >= 0)
                (void)close(fd);
        if (bad)
                log_warn("handover %s: %s", ho->core.row.id, err.sentence);
}

bool handing_stands(const struct handing *ho)
{
        struct err err = {0};
        bool is = false;
        int fd = record_open(ho, &err);
        if (fd >= 0 && handed_stands_of(fd, HANDED_OTHERS, &is, &err))
                log_debug("handover %s: %s", ho->core.row.id, err.sentence);
        if (fd >= 0)
                (void)close(fd);
        return is;
}

/* The folder is root's, and so is all above it: what is watched is what is read. */
void handing_notify(struct handing *ho, void (*fn)(void *handing, uint32_t events))
{
        struct err err = {0};
        if (ho->notify_fd >= 0 || !ho->guest || !ho->guest->has_loan)
                return;
        ho->notify_fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
        if (ho->notify_fd < 0)
                return;
        if (inotify_add_watch(ho->notify_fd, ho->guest->loan.record,
                              IN_CREATE | IN_MOVED_TO | IN_ONLYDIR | IN_DONT_FOLLOW) < 0 ||
            loop_fd_add(&ho->notify, ho->notify_fd, EPOLLIN, fn, ho, &err)) {
                (void)close(ho->notify_fd);
                ho->notify_fd = -1;
        }
}

void handing_notify_end(struct handing *ho)
{
        if (ho->notify_fd < 0)
                return;
        loop_fd_remove(&ho->notify);
        (void)close(ho->notify_fd);
        ho->notify_fd = -1;
}

enum handover_event_kind handing_event_of(enum handover_record record)
{
        return record == RECORD_COMMITTED  ? HANDOVER_EV_COMMITTED
               : record == RECORD_ABORTED  ? HANDOVER_EV_ABORTED
               : record == RECORD_RETURNED ? HANDOVER_EV_RETURNED
                                           : HANDOVER_EV_UNKNOWN;
}

static bool is_of_another_boot(const struct handing *ho)
{
        char now[BOOT_ID];
        enum handover_record is;
        struct err err = {0};
        return *ho->boot && boot_read(now) && strcmp(now, ho->boot) != 0 && handing_read(ho, &is, &err) < 0;
}

bool handing_may_be_undone(const struct handing *ho)
{
        return ho->core.row.state == TARGET_LOST && !ho->core.row.is_told && ho->part_epoch == 0 &&
               is_of_another_boot(ho);
}

/* What has come is not ours after all. Both VMMs went with the machine: what stays is the definition, which
 * is another's again, as before it was adopted, and goes. */
static void disown(struct handing *ho)
{
        struct machine *v = machine_find(ho->m, ho->vm);
        struct err err = {0};
        ho->is_defined = v && ho->guest && strcmp(v->definition.uuid, ho->guest->vm.definition.uuid) == 0;
        ho->is_returned = false;
        if (!ho->is_defined)
                return;
        v->epoch = 0;
        if (machine_put(v, &err))
                meted_unwritten(ho->m, &err);
}

/* mete-sp goes by what it has assigned: it asks for the target's STATUS, and for all that comes behind that,
 * when it has. */
void handing_follow(struct handing *ho, const struct handover_message *said)
{
        enum handover_state s = ho->core.row.state;
        enum handover_record is = RECORD_NONE;
        bool is_back = said->says == HANDOVER_SAYS_ABORT || said->says == HANDOVER_SAYS_DROP;
        bool was_here = s == TARGET_RUNNING || handing_may_be_undone(ho);
        bool is_on = said->says == HANDOVER_SAYS_FINISH || said->says == HANDOVER_SAYS_STATUS ||
                     said->says == HANDOVER_SAYS_SETTLE;
        if (s == SOURCE_CLOSING || s == TARGET_CLOSING)
                is = is_back ? RECORD_ABORTED : is_on ? RECORD_COMMITTED : RECORD_NONE;
        else if ((s == SOURCE_GIVEN && is_back) || (s == TARGET_RETURNING && (is_back || is_on)))
                is = RECORD_RETURNED;
        else if (was_here && said->says == HANDOVER_SAYS_DROP && ho->part_epoch == 0)
                is = RECORD_RETURNED; /* it went before mete-sp had heard, which then has assigned nothing */
        if (is == RECORD_NONE || said->epoch != ho->core.row.epoch || ho->is_void || ho->is_loaded ||
            !is_of_another_boot(ho))
                return;
        if (was_here)
                disown(ho);
        handing_report(ho, ho->core.row.step, handing_event_of(is), NULL);
}

/* Who lets go of what was lent gives up, unless it was decided before: the keeper waits for a word. */
void handing_give_up(const struct handing *ho, const char *by)
{
        struct err err = {0};
        enum handover_record is;
        int fd = ho->guest && ho->guest->has_loan ? handed_open(ho->guest->loan.record, &err) : -ENOENT;
        if (fd >= 0 && handed_write_of(fd, whose(ho), RECORD_ABORTED, by, &is, &err))
                log_warn("handover %s: %s", ho->core.row.id, err.sentence);
        if (fd >= 0)
                (void)close(fd);
}

/* Before there was a loan nobody else can have written: who gives up then gives up for all. */
void handing_write(struct handing *ho, enum handover_record wanted, const char *by)
{
        struct err err = {0};
        enum handover_record is = RECORD_NONE;
        bool has_record = ho->guest && ho->guest->has_loan;
        int fd = has_record ? record_open(ho, &err) : -ENOENT;
        int bad = fd < 0 ? fd : handed_write_of(fd, whose(ho), wanted, by, &is, &err);
        if (fd >= 0)
                (void)close(fd);
        if (!has_record && wanted == RECORD_ABORTED) {
                is = RECORD_ABORTED;
                bad = 0;
        }
        handing_report(ho, ho->core.row.step, bad ? HANDOVER_EV_UNKNOWN : handing_event_of(is),
                       bad ? &err : NULL);
}
