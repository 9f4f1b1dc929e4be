/* SPDX-License-Identifier: Apache-2.0 */
/* sp/test-upgrade-world.h - a world for the driver of an upgrade: two hypervisors with VMs, handovers, a
 * journal, and mete-sp, which dies before or behind what it makes durable. Of one test program. */
#pragma once
#include <errno.h>
#include <glib.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "sp/lead.h"
#include "sp/upgrade.h"

#define MIB (INT64_C(1) << 20)
enum {
        CPUS = 4,
        MEMORY = CPUS,
        KEPT, /* likewise memory; there is none, but in one test */
        COMPONENTS,
        VMS = 8,
        VMS_MAX = 10,
        LEADS = 200,
        A = 0,
        B = 1,
        OTHER = 2
};
enum { STEP_MS = 50, VM_MIB = 64, ON_A_CPU = 4 };

struct http_call {
        http_call_done_fn *done;
        void *arg;
        char path[128];
        int to;
        bool is_open;
};

struct vm_there {
        char name[16];
        int at, moved; /* -1: nowhere */
        bool is_stopped;
};

struct disk {
        char *upgrade; /* its document; NULL: none */
        struct server server;
        bool wanted[SERVER_HYPERVISORS_MAX];
        char vmm[SERVER_HYPERVISORS_MAX][64], user[SERVER_HYPERVISORS_MAX][32];
};

static struct {
        struct disk disk;
        struct vm_there vms[VMS_MAX];
        bool alive[SERVER_HYPERVISORS_MAX];
        struct leading leads[LEADS];
        unsigned age[LEADS];
        size_t n_leads;
        struct http_call call;
        int64_t now_ms;
        unsigned points, die_at, fail_at, dry_runs;
        bool is_dead, never_starts;
        bool is_gone[SERVER_HYPERVISORS_MAX]; /* it was told its part, and never runs again */
        bool is_deaf[SERVER_HYPERVISORS_MAX]; /* it runs, and answers nothing */
        int64_t found_at_ms;                  /* before that none is found by a mete-sp that has started */
        int64_t ends_at_ms;                   /* before that no handover gets on */
        int64_t fits_at_ms;                   /* `unfit` does from then on; 0: never */
        unsigned reserved;                    /* so many times there is a reservation at the old one */
        const char *unfit;    /* this VM does not fit; "-NAME": that is found when it is handed over */
        const char *newcomer; /* started at the old one when it seems to have none */
        bool is_endless;      /* the old one never comes to an end of what its VMs have */
        bool is_spread;       /* each VM has something of both CPUs that VMs are on */
        int64_t kept_mib;     /* so much of each VM's memory lies where the old one keeps it */
        const char *slow;     /* its guest would stand longer than any bound */
        const char *busy;     /* somebody else hands this one over, until all others went */
        int per_cpu;          /* VMs that a CPU of the successor has room for */
        const int64_t (*unlike)[CPUS]; /* what each VM has of each CPU of the old one, and needs there, in
                                          all; NULL: they are alike */
} w;

static struct component machine[COMPONENTS];
static struct sp *sp;

/* ---- the disk ---- */

static void save_partition(void)
{
        struct server *to = &w.disk.server;
        g_free(to->shares);
        *to = sp->server;
        to->shares =
                g_memdup2(sp->server.shares, (COMPONENTS + 1) * SERVER_HYPERVISORS_MAX * sizeof(*to->shares));
        for (int k = 0; k < SERVER_HYPERVISORS_MAX; k++) {
                w.disk.wanted[k] = sp->hypervisors[k].is_wanted;
                (void)STR_COPY(w.disk.vmm[k], sp->hypervisors[k].vmm);
                (void)STR_COPY(w.disk.user[k], sp->hypervisors[k].user);
        }
}

/* 0: it is durable. Dead before it, or behind it: nothing more is done by this one. */
static int pass(void (*save)(void))
{
        if (w.is_dead)
                return -EIO;
        w.points++;
        if (w.points == w.fail_at)
                return -ENOSPC;
        if (2 * w.points - 1 == w.die_at) {
                w.is_dead = true;
                return -EIO;
        }
        save();
        if (2 * w.points == w.die_at)
                w.is_dead = true;
        return 0;
}

static const struct upgrading *saving;
static bool is_saving_partition;

static void save_upgrade(void)
{
        free(w.disk.upgrade);
        w.disk.upgrade = upgrading_text(saving);
        g_assert_nonnull(w.disk.upgrade);
        if (is_saving_partition)
                save_partition();
}

int journal_upgrade(struct sp *of, const struct upgrading *up, bool with_partition, const char *trace,
                    const char *subject, const char *event, struct err *err, const char *fmt, ...)
{
        g_assert_cmpuint(strlen(event), <, 32);
        saving = up;
        is_saving_partition = with_partition;
        int bad = pass(save_upgrade);
        return bad ? err_set(err, REASON_INTERNAL, ENOSPC, "the disk is full") : 0;
}

/* ---- what else there is of mete-sp ---- */

const char *hypervisor_name(const struct hypervisor_of *h)
{
        return h->sp->server.names[h->number];
}

struct http_target hypervisor_target(const struct hypervisor_of *h)
{
        return (struct http_target){.socket = h->socket};
}

void hypervisor_look(struct hypervisor_of *h)
{
} /* once in a step of the world */

void hypervisor_begin(struct hypervisor_of *h, struct sp *of, int number)
{
        h->sp = of;
        h->number = number;
        h->state = h->is_wanted ? API_SERVER_STATE_WAITING : API_SERVER_STATE_STOPPED;
        h->is_down = false;
        g_snprintf(h->socket, sizeof(h->socket), "%d", number);
}

int hypervisor_check_user(const struct sp *of, const char *user, struct err *err)
{
        return strcmp(user, "nobody") == 0 ? err_set(err, REASON_NOT_FOUND, ENOENT, "no user") : 0;
}

int partition_take_cpus(struct server *s, int hypervisor, const char *list, struct err *err)
{
        return server_take(s, hypervisor, (uint32_t)strtoul(list, NULL, 10), CPU_WHOLE_MILLI, err);
}

void lead_listen_end(struct hypervisor_of *h)
{
}

struct leading *lead_find(const struct sp *of, const char *id)
{
        for (size_t i = 0; i < w.n_leads; i++)
                if (strcmp(w.leads[i].core.row.id, id) == 0)
                        return &w.leads[i];
        return NULL;
}

static int at_successor(void)
{
        int n = 0;
        for (size_t i = 0; i < VMS_MAX; i++)
                n += *w.vms[i].name && w.vms[i].at == B;
        return n;
}

static unsigned under_way(void)
{
        unsigned n = 0;
        for (size_t i = 0; i < w.n_leads; i++)
                n += !handover_is_final(&w.leads[i].core);
        return n;
}

const struct leading *lead_of(const struct sp *of, int hypervisor)
{
        for (size_t i = 0; i < w.n_leads; i++)
                if (!handover_is_final(&w.leads[i].core) &&
                    (w.leads[i].from == hypervisor || w.leads[i].to == hypervisor))
                        return &w.leads[i];
        return NULL;
}

const struct leading *lead_undecided(const struct sp *of, int hypervisor)
{
        for (size_t i = 0; i < w.n_leads; i++) {
                const struct leading *l = &w.leads[i];
                bool is_its = l->to == hypervisor && l->core.row.state != HANDOVER_ASSIGNED;
                if (handover_may_assign(&l->core) && (l->from == hypervisor || is_its))
                        return l;
        }
        return NULL;
}

int lead_may_begin(const struct sp *of, const struct api_handover_start *in, int from, struct err *err)
{
        if (of->server.giving.amount > 0 || under_way() >= LEADS_PAIR_MAX)
                return err_set(err, REASON_BUSY, EBUSY, "try again");
        if (w.busy && strcmp(in->vm, w.busy) == 0 && at_successor() < VMS - 1)
                return err_set(err, REASON_BUSY, EALREADY, "it is being handed over");
        return of->hypervisors[from].state == API_SERVER_STATE_RUNNING &&
                               of->hypervisors[B].state == API_SERVER_STATE_RUNNING
                       ? 0
                       : err_set(err, REASON_STALE, EAGAIN, "it does not run");
}

static void nothing(void)
{
}

int lead_begin(struct sp *of, const struct api_handover_start *in, int from, int to, struct leading **ret,
               struct err *err)
{
        struct leading *l = &w.leads[w.n_leads];
        g_assert_null(lead_find(of, in->id)); /* never twice */
        g_assert_cmpuint(w.n_leads, <, LEADS);
        if (pass(nothing))
                return err_set(err, REASON_INTERNAL, EIO, "dead");
        *l = (struct leading){.from = from, .to = to, .is_dry = in->dry_run, .gap_us = -1};
        (void)STR_COPY(l->vm, in->vm);
        (void)STR_COPY(l->core.row.id, in->id);
        l->core.row.state = HANDOVER_CONFIGURED;
        l->core.row.gap_ms = in->has_max_gap_ms ? in->max_gap_ms : 0;
        w.dry_runs += l->is_dry && under_way() > 0;
        w.age[w.n_leads++] = 0;
        *ret = l;
        return 0;
}

int lead_cancel(struct leading *l, enum reason reason, const char *sentence, struct err *err)
{
        if (w.age[l - w.leads] > 1)
                return err_set(err, REASON_STALE, ESTALE, "too late");
        l->core.row.state = HANDOVER_ROLLED_BACK;
        l->core.row.reason = reason;
        (void)STR_COPY(l->core.row.sentence, sentence);
        return 0;
}

int give_begin(struct sp *of, const struct api_server_give *in, const char *trace, struct err *err)
{
        struct server_giving g = {.component = (uint32_t)server_component(&of->server, in->component),
                                  .from = server_find(&of->server, in->from),
                                  .to = server_find(&of->server, in->to),
                                  .amount = in->amount};
        g_assert_true(in->has_amount && of->hypervisors[g.from].state == API_SERVER_STATE_RUNNING);
        if (under_way() > 0)
                return err_set(err, REASON_BUSY, EBUSY, "a VM is being handed over");
        if (w.is_dead)
                return err_set(err, REASON_BUSY, EBUSY, "dead");
        int bad = server_give_begin(&of->server, &g, err);
        if (!bad && pass(save_partition)) {
                server_give_undo(&of->server);
                of->server.epoch -= 2;
                return err_set(err, REASON_BUSY, EIO, "not written");
        }
        return bad;
}

int give_cancel(struct sp *of, struct err *err)
{
        struct err why = {0};
        if (of->server.giving.amount == 0 || w.is_dead)
                return 0;
        server_give_undo(&of->server);
        save_partition();
        (void)err_set(&why, REASON_CANCELLED, ECANCELED, "wanted no longer");
        upgrading_gave(of, &why);
        return 0;
}

struct http_call *http_call(struct http_calls *c, const struct http_target *to, const char *method,
                            const char *path, const char *body, size_t body_n, int64_t timeout_ms,
                            http_call_done_fn *done, void *arg, struct err *err)
{
        g_assert_cmpstr(method, ==, "GET");
        g_assert_false(w.call.is_open); /* one at a time */
        w.call = (struct http_call){
                .done = done, .arg = arg, .to = (int)strtol(to->socket, NULL, 10), .is_open = true};
        g_assert_true(STR_COPY(w.call.path, path));
        return &w.call;
}

void http_call_cancel(struct http_call *call)
{
        call->is_open = false;
}

/* ---- what goes on by itself ---- */

/* Half of them lie on each of the first two CPUs of the old one; or each on both. */
static int64_t claimed_by(uint32_t vm, int hypervisor, uint32_t component)
{
        bool is_there = w.vms[vm].at == hypervisor && !w.vms[vm].is_stopped && *w.vms[vm].name;
        if (!is_there)
                return 0;
        int64_t kept = hypervisor == A ? w.kept_mib * MIB : 0; /* at the successor it is where that may be */
        if (component == MEMORY || component == KEPT)
                return component == KEPT ? kept : VM_MIB * MIB - kept;
        if (hypervisor == A && w.unlike)
                return w.unlike[vm][component];
        if (hypervisor == A && w.is_spread)
                return component < 2 ? 125 : 0;
        if (hypervisor == A)
                return vm / ON_A_CPU == component ? 100 : 0;
        return server_share(&sp->server, component, hypervisor)->amount > 0 ? 100 : 0;
}

static int64_t claimed(int hypervisor, uint32_t component)
{
        int64_t n = 0;
        for (uint32_t i = 0; i < VMS_MAX; i++)
                n += claimed_by(i, hypervisor, component);
        return n;
}

static json_t *host_of(int k)
{
        json_t *list = json_array();
        for (uint32_t i = 0; i < COMPONENTS; i++) {
                int64_t owned = server_share(&sp->server, i, k)->amount, busy = claimed(k, i);
                json_array_append_new(list,
                                      json_pack("{s:s, s:I, s:I}", "id", machine[i].id, "claimed",
                                                (json_int_t)busy, "free", (json_int_t)MAX(owned - busy, 0)));
        }
        return json_pack("{s:s, s:o}", "qemu", "10.0", "components", list);
}

/* Two a page. */
static json_t *vms_of(int k, const char *path)
{
        const char *after = strstr(path, "after=");
        json_t *list = json_array(), *page = json_pack("{s:o}", "vms", list);
        for (size_t i = 0; i < VMS_MAX; i++) {
                if (w.vms[i].at != k || !*w.vms[i].name || (after && strcmp(w.vms[i].name, after + 6) <= 0))
                        continue;
                if (json_array_size(list) == 2) {
                        const json_t *last = json_array_get(list, 1);
                        (void)json_object_set(page, "next", json_object_get(last, "name"));
                        break;
                }
                json_array_append_new(list, json_pack("{s:s, s:s}", "name", w.vms[i].name, "state",
                                                      w.vms[i].is_stopped ? "stopped" : "running"));
        }
        return page;
}

/* There is a reservation at the old one, for a while. Else what VMs have; two a page. */
static json_t *ledger_of(int k, const char *path)
{
        if (strcmp(path, "/v1/ledger?limit=1") == 0) {
                bool has = k == A && w.reserved > 0 && w.reserved--;
                return json_pack("{s:[], s:o}", "components", "claims",
                                 has ? json_pack("[{s:s}]", "holder", "reservation:r1") : json_array());
        }
        const char *after = strstr(path, "after=");
        uint32_t i = after ? (uint32_t)strtoul(after + 6, NULL, 10) : 0, end = MIN(i + 2, VMS_MAX);
        json_t *claims = json_array(), *page = json_pack("{s:[], s:o}", "components", "claims", claims);
        for (; i < end; i++)
                for (uint32_t c = 0; c < COMPONENTS; c++) {
                        int64_t amount = claimed_by(i, k, c);
                        g_autofree char *holder = g_strdup_printf("vm:%s", w.vms[i].name);
                        if (amount > 0)
                                json_array_append_new(claims,
                                                      json_pack("{s:s, s:I, s:s, s:s, s:I}", "component",
                                                                machine[c].id, "amount", (json_int_t)amount,
                                                                "holder", holder, "state", "active",
                                                                "start_ms", (json_int_t)1));
                }
        if (end < VMS_MAX || w.is_endless) {
                g_autofree char *next = g_strdup_printf("%u", w.is_endless ? 0 : end);
                (void)json_object_set_new(page, "next", json_string(next));
        }
        return page;
}

static void answer(void)
{
        struct http_call call = w.call;
        struct http_answer got = {.status = 200};
        struct err gone = {.reason = REASON_PEER_LOST};
        if (!call.is_open)
                return;
        w.call.is_open = false;
        if (!w.alive[call.to] || w.is_deaf[call.to]) {
                call.done(call.arg, NULL, NULL, &gone);
                return;
        }
        json_t *v = strcmp(call.path, "/v1/host") == 0           ? host_of(call.to)
                    : g_str_has_prefix(call.path, "/v1/ledger?") ? ledger_of(call.to, call.path)
                                                                 : vms_of(call.to, call.path);
        got.body = json_dumps(v, 0);
        got.body_n = strlen(got.body);
        json_decref(v);
        call.done(call.arg, &got, NULL, NULL);
        free(got.body);
}

static void give_on(void)
{
        const struct server_giving g = sp->server.giving;
        struct err why = {0};
        if (g.amount == 0 || !w.alive[g.from] || w.is_deaf[g.from])
                return;
        bool is_claimed = g.component == MEMORY ? server_share(&sp->server, MEMORY, g.from)->amount <
                                                          claimed(g.from, MEMORY)
                                                : claimed(g.from, g.component) > 0;
        if (is_claimed) {
                server_give_undo(&sp->server);
                (void)err_set(&why, REASON_UNREASSIGNABLE, EPERM, "it is claimed");
        } else {
                server_give_end(&sp->server);
        }
        save_partition();
        upgrading_gave(sp, is_claimed ? &why : NULL);
}

static struct vm_there *find_vm(const char *name)
{
        for (size_t i = 0; i < VMS_MAX; i++)
                if (strcmp(w.vms[i].name, name) == 0)
                        return &w.vms[i];
        g_assert_not_reached();
}

static int64_t need_of(size_t vm)
{
        int64_t milli = 0;
        for (uint32_t i = 0; i < CPUS; i++)
                milli += w.unlike[vm][i];
        return milli;
}

static bool has_room(const struct vm_there *vm)
{
        int64_t milli = server_sum(&sp->server, B, COMPONENT_CPU);
        if (!w.unlike)
                return at_successor() < w.per_cpu * milli / 1000;
        for (size_t i = 0; i < VMS_MAX; i++)
                if (&w.vms[i] == vm || (*w.vms[i].name && w.vms[i].at == B))
                        milli -= need_of(i);
        return milli >= 0;
}

static void end_lead(struct leading *l)
{
        struct handover_row *row = &l->core.row;
        struct vm_there *vm = find_vm(l->vm);
        if (w.fits_at_ms > 0 && w.now_ms >= w.fits_at_ms)
                w.unfit = NULL;
        bool is_unfit = w.unfit && (strcmp(w.unfit, l->vm) == 0 ||
                                    (*w.unfit == '-' && !l->is_dry && strcmp(w.unfit + 1, l->vm) == 0));
        bool fits = has_room(vm);
        g_assert_cmpint(vm->at, ==, A);
        if (l->is_dry || is_unfit || !fits) {
                l->would = l->is_dry && !is_unfit && fits;
                row->state = HANDOVER_ROLLED_BACK;
                row->reason = is_unfit ? REASON_INCOMPATIBLE : fits ? REASON_CANCELLED : REASON_NO_CAPACITY;
                (void)STR_COPY(row->sentence, is_unfit ? "another CPU model" : "");
                return;
        }
        if (w.slow && strcmp(w.slow, l->vm) == 0 && l->core.row.gap_ms > 0) {
                row->state = HANDOVER_ROLLED_BACK;
                row->reason = REASON_TIMEOUT;
                (void)STR_COPY(row->sentence, "its guest stood for too long");
                return;
        }
        const struct server_portion p = {.component = MEMORY, .amount = VM_MIB * MIB};
        struct err err = {0};
        g_assert_cmpint(server_assign_check(&sp->server, A, B, &p, 1, &err), ==, 0);
        server_assign(&sp->server, A, B, &p, 1);
        save_partition();
        vm->at = B;
        vm->moved++;
        l->is_assigned = true;
        l->gap_us = 5000;
        row->state = HANDOVER_RUNNING;
}

static void hypervisors_go_on(void)
{
        for (int k = 0; k < sp->server.n; k++) {
                struct hypervisor_of *h = &sp->hypervisors[k];
                enum api_server_state was = h->state;
                bool is_told = h->is_wanted && !(k == B && w.never_starts) && w.now_ms >= w.found_at_ms &&
                               upgrading_telling(sp, k) == 0;
                w.alive[k] = is_told && !w.is_gone[k];
                h->is_down = !h->is_wanted;
                h->state = w.alive[k]     ? API_SERVER_STATE_RUNNING
                           : h->is_wanted ? API_SERVER_STATE_WAITING
                                          : API_SERVER_STATE_STOPPED;
                if (h->is_wanted && (w.never_starts || w.is_gone[k]) && !w.alive[k])
                        (void)STR_COPY(h->problem, "its meted does not take its configuration");
                if (h->state != was)
                        upgrading_wake(sp);
        }
}

static void step(void)
{
        answer();
        give_on();
        for (size_t n = 0; n < w.n_leads && w.now_ms >= w.ends_at_ms; n++) {
                size_t i = w.unlike ? w.n_leads - 1 - n : n; /* the last may be the first */
                if (w.leads[i].from == A && w.leads[i].to == B && !handover_is_final(&w.leads[i].core) &&
                    ++w.age[i] > 2) {
                        end_lead(&w.leads[i]);
                        upgrading_wake(sp);
                }
        }
        hypervisors_go_on();
        if (w.newcomer && sp->upgrading->core.state == UPGRADE_GIVING) {
                (void)STR_COPY(w.vms[VMS].name, w.newcomer);
                w.vms[VMS].at = A;
                w.newcomer = NULL;
        }
}

/* ---- life and death ---- */

static void born(void)
{
        struct err err = {0};
        sp = g_new0(struct sp, 1);
        w.is_dead = false;
        sp->server = w.disk.server;
        sp->server.shares = g_memdup2(w.disk.server.shares, (COMPONENTS + 1) * SERVER_HYPERVISORS_MAX *
                                                                    sizeof(struct server_share));
        for (int k = 0; k < sp->server.n; k++) {
                sp->hypervisors[k].is_wanted = w.disk.wanted[k];
                (void)STR_COPY(sp->hypervisors[k].vmm, w.disk.vmm[k]);
                (void)STR_COPY(sp->hypervisors[k].user, w.disk.user[k]);
                hypervisor_begin(&sp->hypervisors[k], sp, k);
        }
        if (w.disk.upgrade) {
                g_assert_cmpint(upgrading_load(sp, w.disk.upgrade, &err), ==, 0);
                upgrading_begin(sp->upgrading);
        }
}

static void die(void)
{
        upgrading_end(sp);
        w.call.is_open = false;
        g_free(sp->server.shares);
        g_free(sp);
}

static void begin(void)
{
        struct err err = {0};
        memset(&w, 0, sizeof(w));
        w.now_ms = 1000000;
        loop_clock_fake(w.now_ms, w.now_ms);
        w.per_cpu = 100;
        for (uint32_t i = 0; i < COMPONENTS; i++) {
                bool is_cpu = i < CPUS;
                machine[i] = (struct component){.kind = is_cpu ? COMPONENT_CPU : COMPONENT_MEMORY,
                                                .os_index = is_cpu ? i : 0,
                                                .capacity = is_cpu ? 1000 : 2000 * MIB,
                                                .owned = is_cpu ? 1000 : 2000 * MIB,
                                                .healthy = true};
                if (i == KEPT)
                        machine[i].capacity = machine[i].owned = 0;
                g_snprintf(machine[i].id, sizeof(machine[i].id), is_cpu ? "cpu:%u" : "memory:node%u",
                           is_cpu ? i : i - MEMORY);
        }
        struct server *s = &w.disk.server;
        g_assert_cmpint(server_init(s, machine, COMPONENTS, &err), ==, 0);
        g_assert_cmpint(server_add(s, "a", &err), ==, A);
        for (uint32_t i = 0; i < 3; i++) /* the fourth is nobody's */
                g_assert_cmpint(server_take(s, A, i, 1000, &err), ==, 0);
        g_assert_cmpint(server_take(s, A, MEMORY, 1000 * MIB, &err), ==, 0);
        s->epoch = 1;
        w.disk.wanted[A] = w.alive[A] = true;
        (void)STR_COPY(w.disk.user[A], "mete-a");
        for (int i = 0; i < VMS; i++) {
                g_snprintf(w.vms[i].name, sizeof(w.vms[i].name), "v%d", i);
                w.vms[i].at = A;
        }
        born();
        hypervisors_go_on();
}

/* So much of each VM lies where the old one keeps it. */
static void keep(int64_t mib)
{
        struct err err = {0};
        w.kept_mib = mib;
        machine[KEPT].capacity = machine[KEPT].owned = 500 * MIB;
        g_assert_cmpint(server_take(&sp->server, A, KEPT, 500 * MIB, &err), ==, 0);
        g_assert_cmpint(server_keep(&sp->server, A, KEPT, &err), ==, 0);
}

static int ask(const char *id, bool is_dry, bool with_nobodys, struct err *err)
{
        g_autofree struct api_upgrade_start *in = g_new0(struct api_upgrade_start, 1);
        in->has_id = true;
        (void)STR_COPY(in->id, id);
        (void)STR_COPY(in->from, "a");
        (void)STR_COPY(in->vmm, "/bin/sh");
        in->has_dry_run = in->dry_run = is_dry;
        in->has_cpus = in->has_memory_bytes = with_nobodys;
        (void)STR_COPY(in->cpus, "3");
        in->memory_bytes = 7 * MIB;
        return upgrading_ask(sp, in, err);
}

static const struct upgrade *core(void)
{
        return &sp->upgrading->core;
}

static void tick(void)
{
        w.now_ms += STEP_MS;
        loop_clock_fake(w.now_ms, w.now_ms);
        while (loop_once(false) && !w.is_dead)
                ;
}

/* true: it died, and there is another. */
static bool turn(void)
{
        tick();
        if (w.is_dead) {
                die();
                born();
                w.die_at = 0;
                return true;
        }
        step();
        return false;
}

/* Until it is over; a dead one is followed by another. every: each of them dies so many points later. Returns
 * how many died. */
static unsigned run(unsigned every)
{
        unsigned deaths = 0, n;
        for (n = 0; n < 20000 && !upgrade_is_final(core()); n++)
                if (turn()) {
                        deaths++;
                        w.die_at = every ? 2 * w.points + every : 0;
                }
        if (n == 20000)
                g_error("it hangs: %s, %s", upgrade_state_name(core()->state), sp->upgrading->problem);
        return deaths;
}

static void check_parts(int64_t nobody_mib)
{
        g_assert_true(server_is_sound(&sp->server));
        g_assert_cmpint(server_nobodys(&sp->server, MEMORY), ==, nobody_mib * MIB);
        g_assert_cmpint(sp->server.giving.amount, ==, 0);
        g_assert_cmpuint(w.dry_runs, ==, 0); /* each is tried alone */
}

static void is_done(int64_t nobody_mib, int n_vms)
{
        hypervisors_go_on();
        g_assert_cmpint(core()->state, ==, UPGRADE_DONE);
        g_assert_cmpint(at_successor(), ==, n_vms);
        for (size_t i = 0; i < VMS_MAX; i++)
                g_assert_cmpint(w.vms[i].moved, ==, w.vms[i].at == B);
        g_assert_true(server_is_empty(&sp->server, A) && w.alive[B] && !w.alive[A]);
        g_assert_cmpuint(upgrade_count(core(), UPGRADE_VM_WENT), ==, (unsigned)n_vms);
        check_parts(nobody_mib);
        for (size_t i = 0; i < core()->n; i++)
                g_assert_cmpint(core()->vms[i].gap_us, ==, 5000);
}

static void is_undone(enum reason reason)
{
        hypervisors_go_on();
        g_assert_cmpint(core()->state, ==, UPGRADE_UNDONE);
        g_assert_cmpint(core()->reason, ==, reason);
        g_assert_cmpint(at_successor(), ==, 0);
        g_assert_true(server_is_empty(&sp->server, B) && !w.alive[B] && w.alive[A]);
        g_assert_cmpint(server_sum(&sp->server, A, COMPONENT_CPU), ==, 3000);
        g_assert_cmpint(server_share(&sp->server, 3, A)->amount, ==, 0);
        check_parts(1000);
}

static void end(void)
{
        die();
        g_free(w.disk.server.shares);
        free(w.disk.upgrade);
        loop_clock_real();
        loop_done();
}
