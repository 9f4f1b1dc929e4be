/* SPDX-License-Identifier: Apache-2.0 */
/* As in nic.c, the record says what shall be before it is made, and goes after it is gone. */
#include "keeper/flow.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "base/log.h"
#include "base/str.h"

#define ITEM "stream"

static unsigned purpose_of(const struct nic_record *r)
{
        return FLOW_PURPOSE_FIRST + r->tap;
}

static void make_again(const struct nic_record *r, void *arg)
{
        struct nics *n = arg;
        struct err err = {0};
        struct net_rate rate = nic_record_rate(r);
        if (*n->net.uplink && net_purpose_activate(&n->net, purpose_of(r), &rate, &err) < 0)
                log_error("%s: what its move is promised is not held: %s", r->vm, err.sentence);
}

void flows_make_again(struct nics *n)
{
        (void)nic_records_each(n->flow_fd, make_again, n);
}

struct numbers {
        bool taken[NET_PURPOSE_MAX - FLOW_PURPOSE_FIRST + 1];
};

static void note_number(const struct nic_record *r, void *arg)
{
        struct numbers *numbers = arg;
        if (r->tap < ARRAY_N(numbers->taken))
                numbers->taken[r->tap] = true;
}

static int choose_number(const struct nics *n, unsigned *ret, struct err *err)
{
        struct numbers numbers = {0};
        if (nic_records_each(n->flow_fd, note_number, &numbers) > 0)
                return err_set(err, REASON_INTERNAL, EIO,
                               "a record of a move's stream cannot be read, so its class is not known");
        for (unsigned i = 0; i < ARRAY_N(numbers.taken); i++)
                if (!numbers.taken[i]) {
                        *ret = i;
                        return 0;
                }
        return err_set(err, REASON_BUSY, EBUSY, "%zu moves have a class of the uplink already",
                       ARRAY_N(numbers.taken));
}

/* 1: there is one. 0: there is none. */
static int find(const struct nics *n, const char *vm, struct nic_record *ret, struct err *err)
{
        struct err why = {0};
        int r = n->flow_fd < 0 ? 0 : nic_record_read(n->flow_fd, vm, ret, &why);
        if (n->flow_fd < 0 || why.reason == REASON_NOT_FOUND)
                return 0;
        if (r < 0)
                *err = why;
        return r < 0 ? r : 1;
}

static int apply(struct nics *n, const struct nic_record *r, int fd, struct err *err)
{
        struct net_rate rate = nic_record_rate(r);
        int done = net_purpose_activate(&n->net, purpose_of(r), &rate, err);
        return done == 0 && fd >= 0 ? net_purpose_mark(&n->net, purpose_of(r), fd, err) : done;
}

static void undo(struct nics *n, const struct nic_record *now, const struct nic_record *before, bool had)
{
        struct err more = {0};
        int r;
        if (had)
                r = apply(n, before, -1, &more) < 0 ? -1 : nic_record_write(n->flow_fd, before, &more);
        else
                r = net_purpose_deactivate(&n->net, purpose_of(now), &more) < 0
                            ? -1
                            : nic_record_remove(n->flow_fd, now->vm, &more);
        if (r < 0)
                log_error("%s: the class of its move: %s", now->vm, more.sentence);
}

static int hold(struct nics *n, const char *vm, const struct net_rate *rate, int fd,
                char ret_lacking[NET_SENTENCE], struct err *err)
{
        struct nic_record before = {0}, now;
        int had, r = nics_begin(n, err);
        if (r == 0 && !n->config->manages_net) {
                (void)snprintf(ret_lacking, NET_SENTENCE,
                               "the rate of the move is not guaranteed: the network is not managed by mete "
                               "([net] manage)");
                return 0;
        }
        if (r == 0 && !*n->net.uplink) {
                (void)snprintf(ret_lacking, NET_SENTENCE,
                               "the rate of the move is not guaranteed: no uplink is named ([net] uplink)");
                return 0;
        }
        if (r < 0 || (r = had = find(n, vm, &before, err)) < 0)
                return r;
        if (!had && fd < 0)
                return err_set(err, REASON_NOT_FOUND, ENOENT, "nothing is held for a move of %s", vm);
        now = before;
        (void)g_strlcpy(now.vm, vm, sizeof(now.vm));
        if (!had && (r = choose_number(n, &now.tap, err)) < 0)
                return r;
        r = nic_record_set(&now, ITEM, rate, err);
        if (r == 0)
                r = nics_check_room(n, &now, n->flow_fd, err);
        if (r == 0)
                r = nic_record_write(n->flow_fd, &now, err);
        if (r == 0 && (r = apply(n, &now, fd, err)) < 0)
                undo(n, &now, &before, had);
        return r < 0 ? r : 1;
}

static int drop(struct nics *n, const char *vm, uint64_t *ret_sent_bytes, struct err *err)
{
        struct nic_record r;
        struct net_purpose_figures f = {0};
        struct err none;
        int done = find(n, vm, &r, err);
        if (done <= 0)
                return done;
        done = nics_find_host(n, err);
        if (done == 0 &&
            *n->net.uplink) { /* where it cannot be said how much went through, it goes as well */
                (void)net_purpose_read(&n->net, purpose_of(&r), &f, &none);
                done = net_purpose_deactivate(&n->net, purpose_of(&r), err);
                if (done == -ENODEV) /* the uplink is gone, and took it along */
                        done = 0;
        }
        if (done == 0)
                done = nic_record_remove(n->flow_fd, vm, err);
        if (done < 0)
                return done;
        *ret_sent_bytes = f.uplink.sent_bytes;
        return 1;
}

struct sweep {
        struct nics *n;
        bool (*is_running)(const char *vm, void *arg);
        void *arg;
};

static void sweep(const struct nic_record *r, void *arg)
{
        struct sweep *s = arg;
        struct err err = {0};
        uint64_t bytes;
        if (s->is_running(r->vm, s->arg))
                return;
        if (drop(s->n, r->vm, &bytes, &err) < 0)
                log_error("%s: the class of a move that is over stays: %s", r->vm, err.sentence);
        else
                log_note("%s: the class of a move that is over is removed", r->vm);
}

/* ---- one at a time ---- */

int flow_hold(struct nics *n, const char *vm, const struct net_rate *rate, int fd,
              char ret_lacking[NET_SENTENCE], struct err *err)
{
        (void)pthread_mutex_lock(&n->lock);
        int r = hold(n, vm, rate, fd, ret_lacking, err);
        (void)pthread_mutex_unlock(&n->lock);
        return r;
}

bool flow_is_held(struct nics *n, const char *vm)
{
        struct nic_record r;
        struct err err = {0};
        (void)pthread_mutex_lock(&n->lock);
        int there = find(n, vm, &r, &err);
        (void)pthread_mutex_unlock(&n->lock);
        return there != 0; /* also one whose record cannot be read: it is there to be dropped */
}

int flow_drop(struct nics *n, const char *vm, uint64_t *ret_sent_bytes, struct err *err)
{
        (void)pthread_mutex_lock(&n->lock);
        int r = drop(n, vm, ret_sent_bytes, err);
        (void)pthread_mutex_unlock(&n->lock);
        return r;
}

void flows_sweep(struct nics *n, bool (*is_running)(const char *vm, void *arg), void *arg)
{
        struct sweep s = {n, is_running, arg};
        (void)pthread_mutex_lock(&n->lock);
        if (n->flow_fd >= 0)
                (void)nic_records_each(n->flow_fd, sweep, &s);
        (void)pthread_mutex_unlock(&n->lock);
}
