/* SPDX-License-Identifier: Apache-2.0 */
/* An upgrade is asked for. All that can be known without asking anybody is checked first; then the successor
 * is one of the hypervisors, with what of its part was nobody's, in the transaction in which the upgrade
 * begins. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/str.h"
#include "sp/lead.h"
#include "sp/upgrade.h"

enum { NAMES_MAX = 100 };

/* One that an earlier upgrade left without anything, and that nobody started since. */
static bool is_retired(const struct sp *sp, int k)
{
        const struct hypervisor_of *h = &sp->hypervisors[k];
        return server_is_empty(&sp->server, k) && !h->is_wanted && h->is_down;
}

static bool is_free(const struct sp *sp, const char *name)
{
        int k = server_find(&sp->server, name);
        return k < 0 || is_retired(sp, k);
}

/* a, a2, a3 ... */
static int next_name(const struct sp *sp, const char *of, char ret[SERVER_NAME], struct err *err)
{
        size_t n = strlen(of);
        while (n > 1 && of[n - 1] >= '0' && of[n - 1] <= '9')
                n--;
        unsigned long number = strtoul(of + n, NULL, 10);
        number = number > 0 && number < 10000 ? number : 1;
        for (int i = 0; i < NAMES_MAX; i++)
                if (snprintf(ret, SERVER_NAME, "%.*s%lu", (int)n, of, ++number) < SERVER_NAME &&
                    is_free(sp, ret))
                        return 0;
        return err_set(err, REASON_INVALID, EINVAL, "say what the successor is to be called (--as)");
}

/* What it is, apart from its part of the server. */
struct successor {
        char name[SERVER_NAME], user[LAUNCH_USER];
        int known; /* the retired one of that name; SERVER_NOBODY: it is new */
};

static int check_name(const struct sp *sp, const struct api_upgrade_start *in, struct successor *ret,
                      struct err *err)
{
        int bad = 0;
        if (in->has_as)
                (void)STR_COPY(ret->name, in->as);
        else
                bad = next_name(sp, in->from, ret->name, err);
        if (bad)
                return bad;
        ret->known = server_find(&sp->server, ret->name);
        if (!is_free(sp, ret->name))
                return err_set(
                        err, REASON_POLICY, EEXIST,
                        "%s is there, and has a part of the server or runs: its successor is a new one, or "
                        "one that was retired (--as)",
                        ret->name);
        if (ret->known < 0 && sp->server.n == SERVER_HYPERVISORS_MAX)
                return err_set(err, REASON_NO_CAPACITY, ENOSPC,
                               "a server has %d hypervisors at most: name one that was retired (--as)",
                               SERVER_HYPERVISORS_MAX);
        if (in->has_user)
                (void)STR_COPY(ret->user, in->user);
        else if (ret->known >= 0)
                (void)STR_COPY(ret->user, sp->hypervisors[ret->known].user);
        else if (snprintf(ret->user, sizeof(ret->user), "mete-%s", ret->name) >= (int)sizeof(ret->user))
                return err_set(err, REASON_INVALID, EINVAL, "say --user: its name is too long for one");
        for (int k = 0; k < sp->server.n; k++)
                if (k != ret->known && strcmp(sp->hypervisors[k].user, ret->user) == 0)
                        return err_set(
                                err, REASON_INVALID, EEXIST,
                                "%s and %s are both to run as %s: mete-keeper tells them apart by their "
                                "users (--user)",
                                sp->server.names[k], ret->name, ret->user);
        return hypervisor_check_user(sp, ret->user, err);
}

static int check(const struct sp *sp, const struct api_upgrade_start *in, struct err *err)
{
        const struct server *s = &sp->server;
        int from = server_find(s, in->from);
        if (upgrading_is_under_way(sp))
                return err_set(err, REASON_BUSY, EBUSY, "%s is being replaced (upgrade %s): one at a time",
                               s->names[sp->upgrading->from], sp->upgrading->core.id);
        if (s->epoch == 0)
                return err_set(
                        err, REASON_STALE, ESTALE,
                        "this server is not partitioned: there are no hypervisors ('mete server init')");
        if (from < 0)
                return err_set(err, REASON_NOT_FOUND, ENOENT, "no hypervisor is called %s", in->from);
        if (sp->hypervisors[from].state != API_SERVER_STATE_RUNNING)
                return err_set(err, REASON_STALE, EAGAIN, "%s does not run: 'mete server start %s'", in->from,
                               in->from);
        if (*in->vmm != '/' || access(in->vmm, X_OK) < 0)
                return err_set(err, REASON_INVALID, EINVAL,
                               "%.150s: not the path of a program that can be executed", in->vmm);
        if (in->has_memory_bytes && !in->has_cpus)
                return err_set(err, REASON_INVALID, EINVAL,
                               "--memory needs --cpus: it is of the nodes of those CPUs");
        if (s->giving.amount > 0)
                return err_set(err, REASON_BUSY, EBUSY, "%s is on its way from %s to %s; try again",
                               s->components[s->giving.component].id, s->names[s->giving.from],
                               s->names[s->giving.to]);
        return 0;
}

/* The partition with the successor; *ret_to is its number. */
static int enlarge(const struct sp *sp, const struct api_upgrade_start *in, const struct successor *who,
                   struct server *ret, int *ret_to, struct err *err)
{
        struct server s = sp->server;
        s.shares = g_memdup2(s.shares, (s.n_components + 1) * SERVER_HYPERVISORS_MAX * sizeof(*s.shares));
        int k = who->known >= 0 ? who->known : server_add(&s, who->name, err), bad = k < 0 ? k : 0;
        if (!bad && in->has_cpus)
                bad = partition_take_cpus(&s, k, in->cpus, err);
        if (!bad && in->has_memory_bytes)
                bad = server_take_memory(&s, k, in->memory_bytes, err);
        s.epoch++;
        if (bad) {
                g_free(s.shares);
                return bad;
        }
        *ret = s;
        *ret_to = k;
        return 0;
}

static int name(const struct sp *sp, const struct api_upgrade_start *in, char ret[UPGRADE_ID],
                struct err *err)
{
        uint32_t chance = 0;
        if (in->has_id) {
                (void)str_copy(ret, UPGRADE_ID, in->id);
                return 0;
        }
        if (getrandom(&chance, sizeof(chance), 0) != (ssize_t)sizeof(chance))
                return err_set(err, REASON_INTERNAL, errno, "no random bytes: %s", strerror(errno));
        (void)snprintf(ret, UPGRADE_ID, "u%lld-%08x", (long long)sp->server.epoch, chance);
        return 0;
}

/* As it is by now, where it is the same. */
static int check_words(const struct upgrading *up, const struct api_upgrade_start *in, struct err *err)
{
        const struct sp *sp = up->sp;
        bool is_same = strcmp(sp->server.names[up->from], in->from) == 0 &&
                       strcmp(sp->hypervisors[up->to].vmm, in->vmm) == 0 &&
                       (!in->has_as || strcmp(sp->server.names[up->to], in->as) == 0) &&
                       up->core.is_dry == (in->has_dry_run && in->dry_run);
        return is_same ? 0 : err_set(err, REASON_INVALID, EEXIST, "upgrade %s is another", in->id);
}

/* The bound is the one word that may be another: which guests keep it is found out only as they go, and then
 * there may be no way back. It counts for handovers that begin from now on. */
static int change_gap(struct upgrading *up, int64_t max_gap_ms, struct err *err)
{
        int64_t before_ms = up->max_gap_ms;
        if (max_gap_ms == before_ms)
                return 0;
        if (upgrade_is_final(&up->core))
                return err_set(err, REASON_INVALID, EEXIST, "upgrade %s is over, and had another --max-gap",
                               up->core.id);
        struct upgrade *before = upgrading_before(up);
        char text[64];
        (void)snprintf(text, sizeof(text), "the bound is %lld ms now, and was %lld ms", (long long)max_gap_ms,
                       (long long)before_ms);
        up->max_gap_ms = max_gap_ms;
        upgrade_urge(&up->core);
        if (upgrading_put(up, before, NULL, "bound", text)) {
                up->max_gap_ms = before_ms;
                return err_set(err, REASON_INTERNAL, EIO, "%.200s", up->sp->problem.sentence);
        }
        upgrading_wake(up->sp);
        return 0;
}

static int ask_again(struct upgrading *up, const struct api_upgrade_start *in, struct err *err)
{
        int bad = check_words(up, in, err);
        return bad ? bad : change_gap(up, in->has_max_gap_ms ? in->max_gap_ms : 0, err);
}

static struct upgrading *make(struct sp *sp, const struct api_upgrade_start *in, const char *id, int to)
{
        struct upgrading *up = g_new0(struct upgrading, 1);
        *up = (struct upgrading){.sp = sp,
                                 .from = server_find(&sp->server, in->from),
                                 .to = to,
                                 .max_gap_ms = in->has_max_gap_ms ? in->max_gap_ms : 0,
                                 .asked_ms = loop_now_ms(),
                                 .taken = g_new0(int64_t, sp->server.n_components + 1)};
        for (uint32_t i = 0; i < sp->server.n_components; i++)
                up->taken[i] = server_share(&sp->server, i, to)->amount;
        upgrade_begin(&up->core, id, in->has_dry_run && in->dry_run);
        return up;
}

/* s is taken on success. */
static int begin(struct sp *sp, struct server *s, int to, const struct successor *who,
                 const struct api_upgrade_start *in, const char *id, struct err *err)
{
        struct server before = sp->server;
        struct hypervisor_of *h = &sp->hypervisors[to];
        char subject[REQUEST_KEY], user[LAUNCH_USER], vmm[sizeof(h->vmm)];
        (void)STR_COPY(user, h->user);
        (void)STR_COPY(vmm, h->vmm);
        sp->server = *s;
        struct upgrading *up = make(sp, in, id, to);
        (void)STR_COPY(h->user, who->user);
        (void)STR_COPY(h->vmm, in->vmm);
        (void)STR_COPY(h->trace, id);
        *h->problem = '\0';
        (void)snprintf(subject, sizeof(subject), "hypervisor:%s", in->from);
        int bad = journal_upgrade(sp, up, true, id, subject, "upgrade-lending", err,
                                  "%s is to replace it, on %.100s", who->name, in->vmm);
        if (bad) {
                sp->server = before;
                (void)STR_COPY(h->user, user);
                (void)STR_COPY(h->vmm, vmm);
                upgrading_free(up);
                return bad;
        }
        *s = before;       /* the caller's to end */
        upgrading_end(sp); /* the one before */
        if (who->known >= 0)
                lead_listen_end(h); /* its socket is its user's */
        else
                hypervisor_begin(h, sp, to);
        upgrading_begin(up);
        for (int k = 0; k < sp->server.n; k++)
                hypervisor_look(&sp->hypervisors[k]);
        return 0;
}

int upgrading_ask(struct sp *sp, const struct api_upgrade_start *in, struct err *err)
{
        struct successor who = {.known = SERVER_NOBODY};
        struct server s = {0};
        char id[UPGRADE_ID];
        int to = 0;
        if (in->has_id && sp->upgrading && strcmp(sp->upgrading->core.id, in->id) == 0)
                return ask_again(sp->upgrading, in, err);
        int bad = check(sp, in, err);
        bad = bad ? bad : check_name(sp, in, &who, err);
        bad = bad ? bad : name(sp, in, id, err);
        bad = bad ? bad : enlarge(sp, in, &who, &s, &to, err);
        if (bad)
                return bad;
        bad = begin(sp, &s, to, &who, in, id, err);
        g_free(s.shares);
        return bad;
}
