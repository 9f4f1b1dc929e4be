/* SPDX-License-Identifier: Apache-2.0 */
/* core/checks.c - what was granted is looked at again, and made again what was granted.
 *
 * A check goes over the items of a granted request, in its turn among the walks of the VM:
 *
 *   look -> as it was granted: the next item
 *        -> changed: the log says so; then, by policy: host -> bind, where it is due -> look again
 *        -> nobody knows: no more of this request, this time
 *
 * What is to be moved begins with host instead: it is held by another component since, and not as that was.
 * Where that takes many steps, as with memory, each check makes one of them; then everything else of the VM
 * has its turn, and the next check is of what moves alone, unless somebody has asked for all of it.
 *
 * The activation of the request stays where it is, at its end: a way back that begins meanwhile begins there,
 * and takes the place of the check. */
#include "core/hypervisor-internal.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

void check_begin(struct entry *e)
{
        e->check = CHECK_LOOK;
        e->check_item = 0;
        e->is_check_narrow = e->check_has_more = false;
        e->checked = (struct checked){0};
}

void check_begin_narrow(struct entry *e)
{
        check_begin(e);
        e->is_check_narrow = true;
}

static struct definition *item_of(struct entry *e)
{
        assert(e->check_item < e->r.n_definitions);
        return &e->r.definitions[e->check_item];
}

static void next_item(struct entry *e)
{
        e->check = CHECK_LOOK;
        e->check_item++;
}

/* "vcpu 1 on cpu:1: its share is 10 thousandths where 900 were granted" */
static void note(struct hypervisor *h, struct entry *e, const char *event, const char *before,
                 const char *sentence, int64_t now_ms)
{
        char trace[REQUEST_TRACE], item[64];
        request_trace(&e->r, trace);
        item_text(h, item_of(e), item, sizeof(item));
        hypervisor_note(h, now_ms, trace, e->r.key, event, "%s%s: %s", before, item, sentence);
}

static void show_changed(struct hypervisor *h, struct entry *e, const char *sentence)
{
        char item[64];
        item_text(h, item_of(e), item, sizeof(item));
        (void)snprintf(e->changed, sizeof(e->changed), "%s: %.*s", item,
                       (int)(sizeof(e->changed) - sizeof(item) - 3), sentence);
}

bool check_is_moving(const struct entry *e)
{
        for (size_t i = 0; i < e->r.n_definitions; i++)
                if (e->r.definitions[i].moving)
                        return true;
        return false;
}

static bool has_changed(const struct entry *e)
{
        for (size_t i = 0; i < e->r.n_definitions; i++)
                if (e->r.definitions[i].change)
                        return true;
        return false;
}

static void is_good(struct hypervisor *h, struct entry *e, const char *sentence, int64_t now_ms)
{
        struct definition *d = item_of(e);
        if (d->moving) {
                d->moving = false;
                e->move_tries = 0;
                claim_from_release(h, d);
                d->change = CHANGE_NONE;
                effect_push(h, EFFECT_PERSIST, &e->r, now_ms);
                note(h, e, "moved", "", "it is held there now", now_ms);
        } else if (d->change) {
                d->change = CHANGE_NONE;
                e->checked.repaired++;
                note(h, e, "repaired", "", sentence, now_ms);
        }
        if (!has_changed(e))
                e->changed[0] = '\0';
        next_item(e);
}

/* Said once, and tried again at each look. */
static void is_lasting(struct hypervisor *h, struct entry *e, const struct err *err, int64_t now_ms)
{
        struct definition *d = item_of(e);
        e->checked.lasting++;
        show_changed(h, e, err->sentence);
        if (d->moving) {
                e->move_tries++;
                e->move_reason = err->reason;
        }
        if (d->change != CHANGE_LASTING)
                note(h, e, d->moving ? "move-failed" : "repair-failed", "", err->sentence, now_ms);
        d->change = CHANGE_LASTING;
        next_item(e);
}

static void is_changed(struct hypervisor *h, struct entry *e, const struct err *err, int64_t now_ms)
{
        struct definition *d = item_of(e);
        if (d->change == CHANGE_NONE) {
                e->checked.changed++;
                d->change = CHANGE_SEEN;
                note(h, e, "changed", "changed behind our back: ", err->sentence, now_ms);
        }
        show_changed(h, e, err->sentence);
        if (h->config.repairs) {
                e->check = definition_uses(d, PHASE_HOST) ? CHECK_HOST : CHECK_BIND;
                return;
        }
        e->checked.lasting++;
        next_item(e);
}

bool check_next(struct hypervisor *h, struct entry *e, int64_t now_ms, struct activation *ret)
{
        static const enum phase phases[CHECK_N] = {
                [CHECK_LOOK] = PHASE_FINALISE,
                [CHECK_HOST] = PHASE_HOST,
                [CHECK_BIND] = PHASE_BIND,
                [CHECK_LOOK_AGAIN] = PHASE_FINALISE,
        };
        assert(e->r.state == REQUEST_GRANTED && phases[e->check]);
        while (e->is_check_narrow && e->check == CHECK_LOOK && e->check_item < e->r.n_definitions &&
               !(item_of(e)->moving && item_of(e)->change != CHANGE_LASTING))
                e->check_item++;
        if (e->check_item >= e->r.n_definitions) {
                if (!e->is_check_narrow) /* who waits for that wants all of it to be looked at */
                        effect_push(h, EFFECT_CHECKED, &e->r, now_ms)->checked = e->checked;
                return false;
        }
        if (e->check == CHECK_LOOK && item_of(e)->moving)
                e->check = CHECK_HOST;
        *ret = (struct activation){.phase = phases[e->check], .item = e->check_item};
        return true;
}

static void looked(struct hypervisor *h, struct entry *e, const struct err *err, int64_t now_ms)
{
        if (!err) {
                is_good(h, e, "it is as it was granted again", now_ms);
        } else if (err->reason == REASON_STALE || err->reason == REASON_NOT_FOUND) {
                is_changed(h, e, err, now_ms);
        } else {
                e->checked.unknown++;
                e->check_item = (uint16_t)e->r.n_definitions;
        }
}

void check_report(struct hypervisor *h, struct entry *e, const struct err *err, int64_t now_ms)
{
        enum check now = e->check;
        assert(now > CHECK_NONE && now < CHECK_N);
        if (e->check_restarts) {
                e->check_restarts = false;
                check_begin(e);
                return;
        }
        if (now == CHECK_LOOK || (now == CHECK_LOOK_AGAIN && err && err->reason == REASON_BUSY))
                looked(h, e, err, now_ms);
        else if (err)
                is_lasting(h, e, err, now_ms);
        else if (now == CHECK_LOOK_AGAIN)
                is_good(h, e, "it was made again what was granted", now_ms);
        else
                e->check = now == CHECK_HOST && definition_uses(item_of(e), PHASE_BIND) ? CHECK_BIND
                                                                                        : CHECK_LOOK_AGAIN;
}

void check_goes_on(struct entry *e)
{
        assert(e->check > CHECK_NONE && e->check < CHECK_N);
        if (e->check_restarts) {
                e->check_restarts = false;
                check_begin(e);
                return;
        }
        if (item_of(e)->moving)
                item_of(e)->change = CHANGE_NONE; /* what did not do the last time does now */
        e->check_has_more = true;
        next_item(e);
}

/* A granted request is in the queue for no other reason. */
static void ask_for(struct entry *e)
{
        if (e->is_walking) {
                e->checks_again = true;
                return;
        }
        check_begin(e);
        queue_push(e);
}

void check_moves(struct hypervisor *h, struct entry *e, int64_t now_ms)
{
        const struct entry *base = base_of(h, e->vm->shape.name);
        if (!base || base->r.state != REQUEST_GRANTED)
                return; /* it ends with its VM */
        bool is_out = e == e->vm->walk_first && e->vm->is_step_out && e->vm->is_step_check;
        e->check_restarts = e->is_walking && is_out;
        if (!e->is_walking || !is_out)
                check_begin(e);
        queue_push(e);
        queue_go_on(h, e->vm, now_ms);
}

int hypervisor_vm_check(struct hypervisor *h, const char *name, int64_t now_ms, uint64_t *ret_serial,
                        struct err *err)
{
        struct entry *base = base_of(h, name);
        if (!base || base->r.state != REQUEST_GRANTED)
                return err_set(err, REASON_STALE, EAGAIN, "the VM %s is not running", name);
        for (struct entry *e = h->oldest; e; e = e->newer)
                if (e->vm == base->vm && e->r.kind == REQUEST_APP && e->r.state == REQUEST_GRANTED)
                        ask_for(e);
        ask_for(base);
        *ret_serial = base->r.serial;
        queue_go_on(h, base->vm, now_ms);
        return 0;
}

const char *hypervisor_changed(const struct hypervisor *h, uint64_t serial)
{
        const struct entry *e = find_serial(h, serial);
        return e ? e->changed : "";
}
