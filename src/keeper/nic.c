/* SPDX-License-Identifier: Apache-2.0 */
/* Order: the record says what shall be before it is made, and says less only after less is there. So whatever
 * is in the kernel is in a record, and whoever repeats the call, or drops the VM, finds it. */
#include "keeper/nic.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/log.h"
#include "base/str.h"
#include "keeper/flow.h"
#include "keeper/nic-record.h"

/* ---- the host ---- */

static struct net_host_options options_of(const struct keeper_config *c)
{
        return (struct net_host_options){.bridge = c->bridge,
                                         .uplink = c->uplink,
                                         .rate_bps = c->link_bps,
                                         .is_managed = c->manages_net,
                                         .is_best_effort = c->is_best_effort};
}

static void publish(struct nics *n, int r, const struct err *why)
{
        struct nic_said said = {.is_ready = r == 0};
        if (!n->config->manages_net)
                return;
        if (n->is_ready) {
                (void)STR_COPY(said.uplink, n->net.uplink);
                said.rate_bps = n->net.rate_bps;
        }
        (void)STR_COPY(said.fallback, r < 0 ? why->sentence : n->net.fallback);
        (void)pthread_mutex_lock(&n->said_lock);
        n->said = said;
        (void)pthread_mutex_unlock(&n->said_lock);
}

void nics_say(struct nics *n, struct nic_said *ret)
{
        (void)pthread_mutex_lock(&n->said_lock);
        *ret = n->said;
        (void)pthread_mutex_unlock(&n->said_lock);
}

int nics_find_host(struct nics *n, struct err *err)
{
        struct net_host_options o = options_of(n->config);
        int r = n->is_ready ? 0 : net_host_init(&n->net, &o, err);
        n->is_ready = r == 0;
        if (r < 0)
                publish(n, r, err);
        return r;
}

static struct net_vm_rates rates_of(const struct nic_record *r)
{
        struct net_rate one = nic_record_rate(r);
        return (struct net_vm_rates){.to = one, .from = one};
}

static void make_again(const struct nic_record *r, void *arg)
{
        struct nics *n = arg;
        struct err err = {0};
        enum net_tap_state state;
        struct net_vm_rates rates = rates_of(r);
        int done = net_tap_look(&n->net, r->tap, &state, &err);
        if (done == 0 && state == NET_TAP_HELD)
                done = net_vm_activate(&n->net, r->tap, &rates, &err);
        if (done < 0)
                log_error("%s: what its network card is promised is not held: %s", r->vm, err.sentence);
}

static int start(struct nics *n, bool is_found_before, struct err *err)
{
        struct net_host_options o = options_of(n->config);
        int r = is_found_before ? net_host_renew(&n->net, &o, err) : 0;
        if (r == 0)
                r = net_host_start(&n->net, err);
        if (r < 0)
                return r;
        n->is_started = true;
        (void)nic_records_each(n->dir_fd, make_again, n);
        flows_make_again(n);
        return 0;
}

/* The uplink's queueing discipline can go at any time, with the guarantees of all VMs: whoever adds to them
 * makes it again first, with them. So does the first call of a keeper, of whose predecessor it may have been
 * taken. */
int nics_begin(struct nics *n, struct err *err)
{
        char difference[NET_SENTENCE] = "";
        bool is_found_before = n->is_ready;
        int r = nics_find_host(n, err);
        if (r < 0 || !n->config->manages_net)
                return r;
        if (n->is_started && net_host_verify(&n->net, difference, err) == 0)
                return 0;
        if (*difference)
                log_warn("bandwidth is held anew, as it was changed behind our back: %s", difference);
        r = start(n, is_found_before, err);
        publish(n, r, err);
        return r;
}

static int open_dir(const struct keeper_config *c, const char *name, struct err *err)
{
        g_autofree char *path = g_build_filename(c->run_dir, name, NULL);
        if (g_mkdir_with_parents(path, 0700) < 0)
                return err_set(err, REASON_INTERNAL, errno, "%s: %s", path, strerror(errno));
        int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        return fd < 0 ? err_set(err, REASON_INTERNAL, errno, "%s: %s", path, strerror(errno)) : fd;
}

static void close_tap(void *fd)
{
        (void)close(GPOINTER_TO_INT(fd));
}

int nics_init(struct nics *n, const struct keeper_config *config, struct err *err)
{
        struct err why = {0};
        *n = (struct nics){.config = config, .dir_fd = -1, .flow_fd = -1};
        if (config->manages_net && (n->dir_fd = open_dir(config, "nic", err)) < 0)
                return n->dir_fd;
        if (config->manages_net && (n->flow_fd = open_dir(config, "flow", err)) < 0) {
                (void)close(n->dir_fd);
                return n->flow_fd;
        }
        n->taps = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, close_tap);
        (void)pthread_mutex_init(&n->lock, NULL);
        (void)pthread_mutex_init(&n->said_lock, NULL);
        if (nics_begin(n, &why) < 0)
                log_error("no VM has bandwidth, it is tried again when one wants some: %s", why.sentence);
        else if (config->manages_net && *n->net.fallback)
                log_warn("%s", n->net.fallback);
        return 0;
}

static void count(const struct nic_record *r, void *arg)
{
        (void)r;
        (*(unsigned *)arg)++;
}

void nics_done(struct nics *n)
{
        unsigned left = 0;
        struct err err = {0};
        if (!n->taps)
                return;
        if (n->dir_fd >= 0) {
                unsigned bad = nic_records_each(n->dir_fd, count, &left);
                bad += nic_records_each(n->flow_fd, count, &left);
                left += bad;
                (void)close(n->dir_fd);
                (void)close(n->flow_fd);
        }
        g_hash_table_unref(n->taps);
        n->taps = NULL;
        if (n->is_ready && n->config->manages_net && left == 0 && net_host_finish(&n->net, &err) < 0)
                log_error("what held bandwidth stays: %s", err.sentence);
        if (n->is_ready)
                net_host_done(&n->net);
        (void)pthread_mutex_destroy(&n->lock);
        (void)pthread_mutex_destroy(&n->said_lock);
}

/* ---- taps ---- */

struct numbers {
        bool taken[NET_SLOT_MAX];
};

static void note_number(const struct nic_record *r, void *arg)
{
        ((struct numbers *)arg)->taken[r->tap] = true;
}

/* The lowest number that no VM has and no interface. */
static int choose_number(const struct nics *n, unsigned *ret, struct err *err)
{
        g_autofree struct numbers *numbers = g_new0(struct numbers, 1);
        if (nic_records_each(n->dir_fd, note_number, numbers) > 0)
                return err_set(err, REASON_INTERNAL, EIO,
                               "a record of a network card cannot be read, so its tap is not known");
        for (unsigned i = 0; i < NET_SLOT_MAX; i++) {
                char name[IFNAMSIZ];
                (void)snprintf(name, sizeof(name), "mete-%u", i);
                if (numbers->taken[i] || if_nametoindex(name))
                        continue;
                *ret = i;
                return 0;
        }
        return err_set(err, REASON_BUSY, EBUSY, "there are %d taps already", NET_SLOT_MAX);
}

/* Made where there is none. 1: it was. The owner of a tap may attach to it without privilege: nobody. */
static int ensure_tap(struct nics *n, const struct nic_record *r, bool is_running, struct err *err)
{
        enum net_tap_state state;
        int fd, made = net_tap_look(&n->net, r->tap, &state, err);
        if (made < 0)
                return made;
        if (is_running && state == NET_TAP_NONE)
                return err_set(err, REASON_BUSY, EBUSY,
                               "%s runs without the tap mete-%u, and gets none before its next start", r->vm,
                               r->tap);
        made = net_tap_make(&n->net, r->tap, 0, &fd, err);
        if (made == -EBUSY)
                return 0;
        if (made < 0)
                return made;
        (void)g_hash_table_replace(n->taps, g_strdup(r->vm), GINT_TO_POINTER(fd));
        return 1;
}

static int apply(struct nics *n, const struct nic_record *r, bool is_running, struct err *err)
{
        struct net_vm_rates rates = rates_of(r);
        int made = ensure_tap(n, r, is_running, err);
        if (made < 0)
                return made;
        int done = net_vm_activate(&n->net, r->tap, &rates, err);
        if (done < 0 && made)
                (void)g_hash_table_remove(n->taps, r->vm);
        return done;
}

/* ---- items ---- */

/* 1: it has something. 0: it has nothing. */
static int find(const struct nics *n, const char *vm, struct nic_record *ret, struct err *err)
{
        struct err why = {0};
        int r = n->dir_fd < 0 ? 0 : nic_record_read(n->dir_fd, vm, ret, &why);
        if (n->dir_fd < 0 || why.reason == REASON_NOT_FOUND)
                return 0;
        if (r < 0) {
                if (err)
                        *err = why;
                return r;
        }
        return 1;
}

struct sum {
        const char *but;
        uint64_t rate_bytes;
};

static void add(const struct nic_record *r, void *arg)
{
        struct sum *s = arg;
        if (strcmp(r->vm, s->but) != 0)
                s->rate_bytes += nic_record_rate(r).rate_bps / 8;
}

/* Promised is what is in records, also to a VM that has no class on the uplink at the moment. Flows compete
 * for it as VMs do. */
int nics_check_room(const struct nics *n, const struct nic_record *r, int dir_fd, struct err *err)
{
        const int dirs[] = {n->dir_fd, n->flow_fd};
        struct sum s = {.rate_bytes = 0};
        unsigned bad = 0;
        uint64_t asked_bytes = nic_record_rate(r).rate_bps / 8, room_bytes = net_host_room_bps(&n->net) / 8;
        for (size_t i = 0; i < ARRAY_N(dirs); i++) {
                s.but = dirs[i] == dir_fd ? r->vm : "";
                if (dirs[i] == n->flow_fd || n->net.is_holding_share)
                        bad += nic_records_each(dirs[i], add, &s);
        }
        if (bad)
                return err_set(err, REASON_INTERNAL, EIO,
                               "a record of a network card cannot be read, so what is promised is not known");
        if (s.rate_bytes + asked_bytes <= room_bytes)
                return 0;
        return err_set(err, REASON_NO_CAPACITY, ENOSPC,
                       "%s: %" PRIu64 " of %" PRIu64 " bit/s are guaranteed already, %" PRIu64
                       " for %s do not fit",
                       n->net.uplink, s.rate_bytes * 8, room_bytes * 8, asked_bytes * 8, r->vm);
}

static int check_room(const struct nics *n, const struct nic_record *r, struct err *err)
{
        return n->net.is_holding_share ? nics_check_room(n, r, n->dir_fd, err) : 0;
}

static int hold(struct nics *n, const char *vm, const char *item, const struct net_rate *rate,
                bool is_running, struct err *err)
{
        struct nic_record before = {0}, now;
        int had, r = nics_begin(n, err);
        if (r < 0 || (r = had = find(n, vm, &before, err)) < 0)
                return r;
        now = before;
        if (!had) {
                /* unmanaged: refused here, with the sentence of why */
                if (!n->config->manages_net)
                        return net_vm_activate(&n->net, 0, &(struct net_vm_rates){0}, err);
                (void)g_strlcpy(now.vm, vm, sizeof(now.vm));
                if ((r = choose_number(n, &now.tap, err)) < 0)
                        return r;
        }
        r = nic_record_set(&now, item, rate, err);
        if (r == 0)
                r = check_room(n, &now, err);
        if (r == 0)
                r = nic_record_write(n->dir_fd, &now, err);
        if (r == 0 && (r = apply(n, &now, is_running, err)) < 0) {
                struct err more;
                int undone = had ? nic_record_write(n->dir_fd, &before, &more)
                                 : nic_record_remove(n->dir_fd, vm, &more);
                if (undone < 0)
                        (void)err_note(err, "its record says more than there is (%.100s)", more.sentence);
        }
        return r;
}

/* A VMM whose tap is taken away has a dead card for the rest of its life. */
static int check_not_held(struct nics *n, const struct nic_record *r, struct err *err)
{
        enum net_tap_state state = NET_TAP_NONE;
        int done = nics_find_host(n, err);
        if (done == 0 && !g_hash_table_contains(n->taps, r->vm))
                done = net_tap_look(&n->net, r->tap, &state, err);
        if (done == 0 && state == NET_TAP_HELD)
                done = err_set(err, REASON_BUSY, EBUSY, "the VMM of %s has the tap mete-%u: end it first",
                               r->vm, r->tap);
        return done;
}

/* Its tap, its rates, its record. */
static int remove_all(struct nics *n, const struct nic_record *r, struct err *err)
{
        int done = nics_find_host(n, err);
        if (done == 0)
                done = net_vm_deactivate(&n->net, r->tap, err);
        if (done == 0)
                done = net_tap_remove(&n->net, r->tap, err);
        if (done < 0)
                return done;
        (void)g_hash_table_remove(n->taps, r->vm);
        return nic_record_remove(n->dir_fd, r->vm, err);
}

static int let_go(struct nics *n, const char *vm, const char *item, struct err *err)
{
        struct nic_record r;
        uint64_t rate_bps;
        int done = find(n, vm, &r, err);
        if (done <= 0 || !nic_record_has(&r, item, &rate_bps))
                return done < 0 ? done : 0;
        nic_record_take_out(&r, item);
        if (r.n_items == 0) {
                done = check_not_held(n, &r, err);
                return done < 0 ? done : remove_all(n, &r, err);
        }
        struct net_vm_rates rates = rates_of(&r);
        enum net_tap_state state;
        done = nics_begin(n, err);
        if (done == 0)
                done = net_tap_look(&n->net, r.tap, &state, err);
        if (done == 0) /* where its VMM has ended, the tap has too */
                done = state == NET_TAP_NONE ? net_vm_deactivate(&n->net, r.tap, err)
                                             : net_vm_activate(&n->net, r.tap, &rates, err);
        return done < 0 ? done : nic_record_write(n->dir_fd, &r, err);
}

static int prune(struct nics *n, const char *vm, const char (*keep)[CPU_ITEM_SIZE], size_t n_keep,
                 struct err *err)
{
        struct nic_record r;
        int done = find(n, vm, &r, err);
        for (size_t i = 0; done == 1 && i < r.n_items; i++) {
                bool stays = false;
                for (size_t k = 0; k < n_keep; k++)
                        stays = stays || strcmp(r.items[i].name, keep[k]) == 0;
                int each = stays ? 0 : let_go(n, vm, r.items[i].name, err);
                done = each < 0 ? each : done;
        }
        return done < 0 ? done : 0;
}

static int read_back(struct nics *n, const char *vm, const char *item, struct nic_live *ret, struct err *err)
{
        struct nic_record r;
        struct nic_live live = {0};
        struct net_vm_figures f;
        struct err why;
        char difference[NET_SENTENCE];
        int done = find(n, vm, &r, err);
        if (done < 0)
                return done;
        if (done == 0 || !nic_record_has(&r, item, &live.rate_bps))
                return err_set(err, REASON_NOT_FOUND, ENOENT, "it is not activated");
        struct net_vm_rates rates = rates_of(&r);
        done = nics_find_host(n, err);
        if (done == 0) /* where that cannot be said, the rest says more */
                done = net_host_verify(&n->net, difference, &why) == 1;
        if (done == 0)
                done = net_vm_verify(&n->net, r.tap, &rates, difference, err);
        if (done == 1)
                done = err_set(err, REASON_STALE, EPROTO, "it was changed behind our back: %.150s",
                               difference);
        if (done == 0)
                done = net_vm_read(&n->net, r.tap, &f, err);
        if (done < 0)
                return done;
        live.set = f.set.to;
        *ret = live;
        return 0;
}

/* For a VM of which no VMM runs. That of one which has ended went with it, unless it made it persistent; and
 * so did all that no VMM had when a keeper ended. */
static int make_tap_ready(struct nics *n, const struct nic_record *r, struct err *err)
{
        enum net_tap_state state = NET_TAP_NONE;
        int done = nics_begin(n, err);
        if (done == 0)
                done = net_tap_look(&n->net, r->tap, &state, err);
        if (done < 0 || (state == NET_TAP_HELD && g_hash_table_contains(n->taps, r->vm)))
                return done;
        (void)g_hash_table_remove(n->taps, r->vm);
        done = net_tap_remove(&n->net, r->tap, err);
        return done < 0 ? done : apply(n, r, false, err);
}

static int give_tap(struct nics *n, const char *vm, int *ret_fd, struct err *err)
{
        struct nic_record r;
        void *name, *fd;
        int done = find(n, vm, &r, err);
        if (done == 0)
                done = err_set(err, REASON_NOT_FOUND, ENOENT, "no network card of %s is activated", vm);
        if (done > 0)
                done = make_tap_ready(n, &r, err);
        if (done < 0)
                return done;
        if (!g_hash_table_steal_extended(n->taps, vm, &name, &fd))
                return err_set(err, REASON_BUSY, EBUSY,
                               "the tap mete-%u of %s is there, and a process has it", r.tap, vm);
        g_free(name);
        *ret_fd = GPOINTER_TO_INT(fd);
        return 0;
}

/* ---- one at a time ---- */

int nics_hold(struct nics *n, const char *vm, const char *item, const struct net_rate *rate, bool is_running,
              struct err *err)
{
        (void)pthread_mutex_lock(&n->lock);
        int r = hold(n, vm, item, rate, is_running, err);
        (void)pthread_mutex_unlock(&n->lock);
        return r;
}

int nics_let_go(struct nics *n, const char *vm, const char *item, struct err *err)
{
        (void)pthread_mutex_lock(&n->lock);
        int r = let_go(n, vm, item, err);
        (void)pthread_mutex_unlock(&n->lock);
        return r;
}

int nics_read(struct nics *n, const char *vm, const char *item, struct nic_live *ret, struct err *err)
{
        (void)pthread_mutex_lock(&n->lock);
        int r = read_back(n, vm, item, ret, err);
        (void)pthread_mutex_unlock(&n->lock);
        return r;
}

int nics_prune(struct nics *n, const char *vm, const char (*keep)[CPU_ITEM_SIZE], size_t n_keep,
               struct err *err)
{
        (void)pthread_mutex_lock(&n->lock);
        int r = prune(n, vm, keep, n_keep, err);
        (void)pthread_mutex_unlock(&n->lock);
        return r;
}

int nics_drop(struct nics *n, const char *vm, struct err *err)
{
        struct nic_record record;
        (void)pthread_mutex_lock(&n->lock);
        int r = find(n, vm, &record, err);
        if (r == 1)
                r = remove_all(n, &record, err);
        (void)pthread_mutex_unlock(&n->lock);
        return r;
}

int nics_tap(struct nics *n, const char *vm, int *ret_fd, struct err *err)
{
        (void)pthread_mutex_lock(&n->lock);
        int r = give_tap(n, vm, ret_fd, err);
        (void)pthread_mutex_unlock(&n->lock);
        return r;
}

void nics_tap_back(struct nics *n, const char *vm, int fd)
{
        struct nic_record r;
        (void)pthread_mutex_lock(&n->lock);
        if (find(n, vm, &r, NULL) == 1 && !g_hash_table_contains(n->taps, vm))
                (void)g_hash_table_insert(n->taps, g_strdup(vm), GINT_TO_POINTER(fd));
        else
                (void)close(fd);
        (void)pthread_mutex_unlock(&n->lock);
}
