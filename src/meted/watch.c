/* SPDX-License-Identifier: Apache-2.0 */
#include "meted/watch.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>
#include "base/log.h"
#include "host/presence.h"
#include "meted/health.h"
#include "meted/hhi.h"

static const char sysfs[] = "/sys", proc[] = "/proc";
enum { SETTLE_MS = 50, MIB_SHIFT = 20 }; /* a CPU that goes makes a dozen events */

struct watch {
        struct loop_fd at[PRESENCE_SOURCES];
        int fds[PRESENCE_SOURCES], n_fds;
        struct loop_timer look;
        int64_t look_at_mono_ms;
        int64_t *first;  /* bytes of each node at the start; -1 of what is no memory */
        bool *was_there; /* links that were seen once */
        struct presence_carrier *carrier;
        bool *was_gone;    /* CPUs, at the last look */
        bool *is_unplaced; /* CPUs that were off line when the document was made: it has them anywhere */
        bool is_hhi_due;   /* one of those is on line */
        bool is_unsure;    /* a link has a carrier, but not for long */
        bool is_unknown;   /* memory is spoilt, and nobody says of which node */
        uint64_t devices;
        int64_t read_at_mono_ms; /* when they were read anew last; 0: never */
};

/* ---- looking ---- */

/* Negative: it cannot be read. */
static int64_t lost_of(struct meted *m, size_t i, size_t n_nodes, bool *ret_is_gone)
{
        struct watch *w = m->watch;
        const struct component *c = &m->inventory.components[i];
        int64_t now = presence_memory(sysfs, c->os_index),
                spoilt = presence_poisoned(sysfs, proc, c->os_index, n_nodes);
        if (now < 0 && now != -ENOENT)
                return now;
        if (spoilt < 0 && spoilt != -ENODATA)
                return spoilt;
        if (w->first[i] < 0)
                w->first[i] = now;
        *ret_is_gone = w->first[i] > 0 && now <= 0;
        w->is_unknown = w->is_unknown || spoilt < 0;
        /* Small change is the kernel's own. */
        int64_t less = now > 0 && now < w->first[i] ? (w->first[i] - now) >> MIB_SHIFT << MIB_SHIFT : 0;
        return less + (spoilt > 0 ? spoilt : 0);
}

static void look_at(struct meted *m)
{
        struct watch *w = m->watch;
        struct cpulist online;
        struct err err = {0};
        size_t n_nodes = 0;
        bool has_cpus = presence_cpus(sysfs, "online", &online, &err) == 0;
        w->is_unknown = w->is_unsure = false;
        for (size_t i = 0; i < m->inventory.n; i++)
                n_nodes += m->inventory.components[i].kind == COMPONENT_MEMORY;
        for (size_t i = 0; i < m->inventory.n; i++) {
                const struct component *c = &m->inventory.components[i];
                bool is_gone = false, is_known = true;
                int64_t lost = 0;
                int node = -1;
                if (c->capacity == 0)
                        continue; /* of before this start: there is nothing to give back */
                if (c->kind == COMPONENT_CPU) {
                        is_known = has_cpus;
                        is_gone = has_cpus && !cpulist_has(&online, c->os_index);
                        if (has_cpus && !is_gone && (!c->healthy || w->is_unplaced[i])) {
                                node = presence_node(sysfs, c->os_index); /* it is known only now */
                                w->is_hhi_due = w->is_hhi_due || w->is_unplaced[i];
                        }
                        w->was_gone[i] = is_known ? is_gone : w->was_gone[i];
                } else if (c->kind == COMPONENT_MEMORY) {
                        lost = lost_of(m, i, n_nodes, &is_gone);
                        is_known = lost >= 0;
                } else if (c->kind == COMPONENT_NET) {
                        int link = presence_link(c->id + strlen("net:"));
                        is_known = link >= 0 || link == -ENODEV;
                        w->was_there[i] = w->was_there[i] || link >= 0;
                        /* it may be in a namespace that we do not see */
                        if (is_known && w->was_there[i])
                                is_gone = presence_is_down(&w->carrier[i], link > 0, loop_mono_ms());
                        w->is_unsure = w->is_unsure || (is_gone && link > 0);
                }
                if (is_known) /* else what was seen last stands */
                        health_seen(m, i, is_gone, lost, (uint32_t)(node + 1));
        }
}

/* What is off line now, the document that was just made has anywhere. */
static void is_placed(struct meted *m)
{
        memcpy(m->watch->is_unplaced, m->watch->was_gone, m->inventory.n * sizeof(*m->watch->was_gone));
        m->watch->is_hhi_due = false;
}

static void look_at_devices(struct meted *m)
{
        struct watch *w = m->watch;
        uint64_t now = presence_devices(sysfs);
        struct err err = {0};
        int64_t start_ms = loop_mono_ms(), last_ms = w->read_at_mono_ms;
        /* It takes tens of milliseconds, so one that comes and goes without end is not followed so closely.
         */
        if ((now == w->devices && !w->is_hhi_due) || (last_ms && start_ms < last_ms + WATCH_EVERY_MS))
                return;
        w->read_at_mono_ms = start_ms;
        if (hhi_rebuild(m, &err)) {
                log_warn("the machine has changed, and cannot be read anew: %s", err.sentence);
        } else {
                hypervisor_note(m->hv, loop_now_ms(), "meted", "host", "devices-changed",
                                "%s; read anew in %lld ms",
                                now != w->devices ? "devices came or went" : "CPUs came that it had not seen",
                                (long long)(loop_mono_ms() - start_ms));
                w->devices = now;
                is_placed(m);
        }
        meted_changed(m);
}

static void look_in(struct watch *w, int64_t ms)
{
        if (loop_timer_is_set(&w->look) && w->look_at_mono_ms <= loop_mono_ms() + ms)
                return;
        w->look_at_mono_ms = loop_mono_ms() + ms;
        loop_timer_in(&w->look, ms);
}

static void on_look(void *arg)
{
        struct meted *m = arg;
        look_at(m);
        (void)health_apply(m, "so says the kernel");
        look_at_devices(m);
        look_in(m->watch, m->watch->is_unsure ? PRESENCE_CARRIER_MS : WATCH_EVERY_MS);
}

/* ---- hearing ---- */

static void on_heard(void *arg, uint32_t events)
{
        struct meted *m = arg;
        (void)events;
        for (size_t i = 0; i < PRESENCE_SOURCES; i++)
                if (m->watch->fds[i] >= 0)
                        presence_drain(m->watch->fds[i]);
        look_in(m->watch, SETTLE_MS);
}

void watch_init(struct meted *m)
{
        if (strcmp(m->config.source, "live") != 0)
                return;
        struct watch *w = m->watch = g_new0(struct watch, 1);
        w->first = g_new(int64_t, m->inventory.n);
        w->was_there = g_new0(bool, m->inventory.n);
        w->was_gone = g_new0(bool, m->inventory.n);
        w->is_unplaced = g_new0(bool, m->inventory.n);
        w->carrier = g_new0(struct presence_carrier, m->inventory.n);
        for (size_t i = 0; i < m->inventory.n; i++)
                w->first[i] = -1;
        for (size_t i = 0; i < PRESENCE_SOURCES; i++)
                w->fds[i] = -1;
        loop_timer_init(&w->look, on_look, m);
        w->devices = presence_devices(sysfs);
        look_at(m);
        is_placed(m);
}

void watch_start(struct meted *m)
{
        struct watch *w = m->watch;
        struct err err = {0};
        if (!w)
                return;
        w->n_fds = presence_listen(w->fds);
        for (size_t i = 0; i < PRESENCE_SOURCES; i++)
                if (w->fds[i] >= 0 && loop_fd_add(&w->at[i], w->fds[i], EPOLLIN, on_heard, m, &err))
                        log_warn("changes of the machine: %s", err.sentence);
        look_in(w, 0); /* what has changed since watch_init() */
}

void watch_done(struct meted *m)
{
        struct watch *w = m->watch;
        if (!w)
                return;
        for (size_t i = 0; i < PRESENCE_SOURCES; i++) {
                loop_fd_remove(&w->at[i]);
                if (w->fds[i] >= 0)
                        close(w->fds[i]);
        }
        loop_timer_cancel(&w->look);
        g_free(w->first);
        g_free(w->was_there);
        g_free(w->was_gone);
        g_free(w->is_unplaced);
        g_free(w->carrier);
        g_free(w);
        m->watch = NULL;
}

const char *watch_late(const struct meted *m)
{
        return m->watch && m->watch->n_fds < PRESENCE_SOURCES
                       ? "the kernel does not say when CPUs, memory or "
                         "links change: they are looked at every 10 s"
                       : NULL;
}

const char *watch_blind(const struct meted *m)
{
        return m->watch && m->watch->is_unknown
                       ? "memory is spoilt, and this kernel does not say of which node: it stays in use"
                       : NULL;
}
