/* SPDX-License-Identifier: Apache-2.0 */
/* What goes over the wire in a handover. A hypervisor may have been taken over by somebody: what it says of
 * its VM is checked against the partition, what it says of who owns the VM against the record. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/str.h"
#include "fleet/handed.h"
#include "fleet/handover-wire.h"
#include "json/read.h"
#include "json/route.h"
#include "sp/crash.h"
#include "sp/lead.h"
#include "wire/unix.h"

/* To each hypervisor so many, and so many of each handover: one that never answers is in nobody's way but its
 * own. */
enum { SAY_MS = 5000, SAYING_MAX = 64, SAYING_EACH_MAX = 8, WORD_MAX = 256 << 10 };

/* One word that is under way to a hypervisor. */
struct saying {
        struct sp *sp;
        struct saying *next;
        struct http_call *call;
        int to;
        enum handover_says says;
        char id[HANDOVER_ID];
};

/* ---- said ---- */

static void remove_saying(struct saying *w)
{
        for (struct saying **at = &w->sp->sayings; *at; at = &(*at)->next)
                if (*at == w) {
                        *at = w->next;
                        break;
                }
        g_free(w);
}

/* The first word of each side is refused for good by who has no part in handovers: it need not be waited for.
 * Any other refusal is as if the word had been lost. */
static void refused(const struct saying *w, const struct http_answer *answer)
{
        struct api_error said = {0};
        struct err err = {0}, ignored;
        char sentence[HANDOVER_SENTENCE];
        struct leading *l = lead_find(w->sp, w->id);
        json_t *v = json_read(answer->body, answer->body_n, &ignored);
        bool is_understood = v && api_error_parse(v, &said, &ignored) == 0 && said.reason;
        bool is_first = w->says == HANDOVER_SAYS_CLASSIFY || w->says == HANDOVER_SAYS_OFFER;
        json_decref(v);
        (void)snprintf(sentence, sizeof(sentence), "%s: %.120s", w->sp->server.names[w->to],
                       is_understood ? said.message : "it answered without a reason");
        log_info("handover %s: %s: %s", w->id, handover_says_name(w->says), sentence);
        if (l && is_first && is_understood && said.reason != REASON_BUSY && said.reason != REASON_STALE &&
            (l->core.row.state == HANDOVER_CONFIGURED || l->core.row.state == HANDOVER_CLASSIFIED))
                (void)lead_cancel(l, (enum reason)said.reason, sentence, &err);
}

static void on_said(void *arg, const struct http_answer *answer, const struct cert_id *peer,
                    const struct err *err)
{
        struct saying *w = arg;
        (void)peer;
        if (!err && answer->status != 200)
                refused(w, answer);
        remove_saying(w);
}

static void along(const struct leading *l, const struct handover_message *said,
                  struct api_handover_message *m)
{
        const struct server *s = &l->sp->server;
        m->has_peer = true;
        (void)STR_COPY(m->peer, s->names[said->to == ROLE_SOURCE ? l->to : l->from]);
        for (uint32_t i = 0; said->says == HANDOVER_SAYS_CLASSIFY && i < s->n_components; i++)
                if (server_share(s, i, l->from)->is_kept && m->n_keeps < ARRAY_N(m->keeps))
                        (void)STR_COPY(m->keeps[m->n_keeps++], s->components[i].id);
        m->has_guest = l->guest && (said->says == HANDOVER_SAYS_OFFER || said->says == HANDOVER_SAYS_INFORM);
        if (m->has_guest)
                m->guest = *l->guest;
        m->has_transfer = said->says == HANDOVER_SAYS_GIVE && *l->transfer;
        (void)STR_COPY(m->transfer, l->transfer);
        m->has_partition_epoch =
                l->is_assigned && (said->says == HANDOVER_SAYS_STATUS || said->says == HANDOVER_SAYS_SETTLE);
        m->partition_epoch = l->assigned_epoch > 0 ? l->assigned_epoch : s->epoch;
}

static bool are_too_many(const struct sp *sp, int to, const char *id)
{
        unsigned n = 0, each = 0;
        for (const struct saying *w = sp->sayings; w; w = w->next) {
                n += w->to == to;
                each += w->to == to && strcmp(w->id, id) == 0;
        }
        return n >= SAYING_MAX || each >= SAYING_EACH_MAX;
}

/* By FINISH the claims of the VM end at its source, and what they were of would be free there for others,
 * where it has not taken yet the partition in which it is the target's, or a later one. */
static bool is_early(const struct leading *l, enum handover_says says)
{
        return says == HANDOVER_SAYS_FINISH && l->is_assigned &&
               l->sp->hypervisors[l->from].epoch < l->assigned_epoch;
}

void lead_told(const struct hypervisor_of *h)
{
        for (struct leading *l = h->sp->leadings; l; l = l->next) {
                if (l->from != h->number || !l->is_held || l->core.row.state != HANDOVER_FINISHING ||
                    is_early(l, l->held.says))
                        continue;
                l->is_held = false;
                lead_say(l, &l->held);
        }
}

void lead_say(struct leading *l, const struct handover_message *said)
{
        struct sp *sp = l->sp;
        int to = said->to == ROLE_SOURCE ? l->from : l->to;
        struct hypervisor_of *h = &sp->hypervisors[to];
        struct http_target target = hypervisor_target(h);
        struct err err = {0};
        size_t n = 0;
        char point[64];
        if (is_early(l, said->says)) {
                l->is_held = true;
                l->held = *said;
                return;
        }
        if (h->pid_fd < 0 || are_too_many(sp, to, said->id))
                return; /* it does not run, or does not answer: it is said again */
        struct api_handover_message *m = g_new0(struct api_handover_message, 1);
        handover_wire_fill(said, l->vm, m);
        along(l, said, m);
        json_t *v = api_handover_message_emit(m);
        char *text = v ? json_write(v, &n) : NULL;
        json_decref(v);
        g_free(m);
        struct saying *w = g_new0(struct saying, 1);
        *w = (struct saying){.sp = sp, .next = sp->sayings, .to = to, .says = said->says};
        (void)STR_COPY(w->id, said->id);
        (void)snprintf(point, sizeof(point), "say %s", handover_says_name(said->says));
        sp_crash_point(point);
        w->call = text ? http_call(sp->calls, &target, "POST", "/v1/handover/messages", text, n, SAY_MS,
                                   on_said, w, &err)
                       : NULL;
        free(text);
        if (!w->call) {
                g_free(w);
                return;
        }
        sp->sayings = w;
}

void lead_words_end(struct sp *sp)
{
        while (sp->sayings) {
                struct saying *w = sp->sayings;
                http_call_cancel(w->call);
                remove_saying(w);
        }
}

/* ---- what a source says that its VM has ---- */

size_t lead_portions(const struct leading *l, struct server_portion *ret)
{
        size_t n = 0;
        for (size_t i = 0; l->guest && i < l->guest->n_parts && n < LEAD_PARTS; i++) {
                const struct api_handover_part *p = &l->guest->parts[i];
                int64_t at = server_component(&l->sp->server, p->component);
                if (at >= 0 && p->portion == API_HANDOVER_PORTION_REASSIGNABLE)
                        ret[n++] = (struct server_portion){.component = (uint32_t)at, .amount = p->amount};
        }
        return n;
}

/* is_last: what is said now is what changes hands. */
static int check_part(const struct leading *l, const struct api_handover_part *p, bool is_last,
                      struct err *err)
{
        const struct server *s = &l->sp->server;
        int64_t at = server_component(s, p->component);
        if (at < 0)
                return err_set(err, REASON_INVALID, EINVAL, "this server has no %s", p->component);
        if (s->components[at].kind == COMPONENT_MEMORY && p->portion == API_HANDOVER_PORTION_UNREASSIGNABLE)
                return err_set(err, REASON_UNREASSIGNABLE, EPERM,
                               "%" PRId64 " MiB of its memory in %s cannot change hands: %s",
                               (p->amount - p->moved) >> 20, p->component,
                               p->why == API_HANDOVER_WHY_KEPT
                                       ? "the source keeps that, and has no room for it elsewhere, or it is "
                                         "on huge pages"
                                       : "it is shared with somebody that stays");
        if (is_last && p->portion == API_HANDOVER_PORTION_SEPARABLE)
                return err_set(err, REASON_UNREASSIGNABLE, EPERM, "%s was not separated", p->component);
        return 0;
}

static int check_guest(struct leading *l, const struct api_handover_guest *g, bool is_last, struct err *err)
{
        struct api_handover_guest *before = l->guest;
        int bad = 0;
        if (strcmp(g->vm.definition.name, l->vm) != 0)
                return err_set(err, REASON_INVALID, EINVAL, "this is %s, and not %s", g->vm.definition.name,
                               l->vm);
        for (size_t i = 0; i < g->n_parts && !bad; i++) {
                bad = check_part(l, &g->parts[i], is_last, err);
                for (size_t k = 0; k < i && !bad; k++)
                        if (g->parts[i].portion == API_HANDOVER_PORTION_REASSIGNABLE &&
                            g->parts[k].portion == API_HANDOVER_PORTION_REASSIGNABLE &&
                            strcmp(g->parts[i].component, g->parts[k].component) == 0)
                                bad = err_set(err, REASON_INVALID, EINVAL, "%s is said twice",
                                              g->parts[i].component);
        }
        if (!bad && is_last)
                bad = lead_set_record(l, g->loan.record, err);
        if (bad)
                return bad;
        l->guest = g_memdup2(g, sizeof(*g));
        bad = lead_check_portions(l, err);
        if (bad) {
                g_free(l->guest);
                l->guest = before;
        } else {
                g_free(before);
        }
        return bad;
}

/* ---- heard ---- */

static void set_if(bool is_there, int64_t value, int64_t *ret)
{
        if (is_there)
                *ret = value;
}

/* What goes along with a word that the core waits for; elsewhere it is old, or means nothing. */
static int take_along(struct leading *l, const struct api_handover_message *m, struct err *err)
{
        enum handover_state s = l->core.row.state;
        enum handover_says says = (enum handover_says)m->says;
        if (says == HANDOVER_SAYS_CLASSIFIED && s == HANDOVER_CONFIGURED && l->is_dry)
                set_if(m->has_separated_bytes, m->separated_bytes, &l->separated_bytes);
        if ((says == HANDOVER_SAYS_CLASSIFIED && s == HANDOVER_CONFIGURED) ||
            (says == HANDOVER_SAYS_QUIESCED && s == HANDOVER_SEPARATED))
                return check_guest(l, &m->guest, says == HANDOVER_SAYS_QUIESCED, err);
        if (says == HANDOVER_SAYS_SEPARATED && s == HANDOVER_ACCEPTED)
                set_if(m->has_separated_bytes, m->separated_bytes, &l->separated_bytes);
        if (says == HANDOVER_SAYS_INFORMED && s == HANDOVER_QUIESCED) {
                if (*m->transfer != '/' || strstr(m->transfer, "/../"))
                        return err_set(err, REASON_INVALID, EINVAL, "the path of the transfer is wrong");
                (void)STR_COPY(l->transfer, m->transfer);
        }
        if ((says == HANDOVER_SAYS_GIVEN &&
             (s == HANDOVER_INFORMED || s == HANDOVER_ASSIGNED || s == HANDOVER_FINISHING)) ||
            (says == HANDOVER_SAYS_GONE && s == HANDOVER_FINISHING)) {
                set_if(m->has_sent_bytes, m->sent_bytes, &l->sent_bytes);
                set_if(m->has_ram_bytes, m->ram_bytes, &l->ram_bytes);
                set_if(m->has_at_us, m->at_us, &l->stood_us);
        }
        if (says == HANDOVER_SAYS_RUNNING && s < HANDOVER_FINISHING)
                set_if(m->has_at_us, m->at_us, &l->ran_us);
        if (l->stood_us > 0 && l->ran_us >= l->stood_us && l->ran_us - l->stood_us <= INT64_C(3600000000))
                l->gap_us = l->ran_us - l->stood_us;
        return 0;
}

/* Who owns the VM is not theirs to say. Nor that it goes back, while it can still go forth: the target might
 * be told already that the source's VMM stands, and commit. So before that is believed the record says it. */
static int check_record(struct leading *l, enum handover_says says, struct err *err)
{
        enum handover_state s = l->core.row.state;
        enum handover_record record;
        bool is_targets =
                says == HANDOVER_SAYS_GIVEN || says == HANDOVER_SAYS_RUNNING || says == HANDOVER_SAYS_LOST;
        bool is_back =
                says == HANDOVER_SAYS_BACK || says == HANDOVER_SAYS_DIED || says == HANDOVER_SAYS_DROPPED;
        if ((s != HANDOVER_INFORMED && s != HANDOVER_ASSIGNED && s != HANDOVER_CLOSING) ||
            (!is_targets && !is_back))
                return 0;
        int bad = lead_look(l, &record, err);
        if (!bad && is_back && record == RECORD_NONE) {
                bad = handed_write(l->dir_fd, RECORD_ABORTED, "sp", &record, err);
                bad = bad ? bad : lead_look(l, &record, err); /* who was first, and whether that counts */
        }
        if (!bad && ((is_targets && record != RECORD_COMMITTED) || (is_back && record == RECORD_COMMITTED)))
                bad = err_set(err, REASON_POLICY, EPERM, "the record says otherwise than \"%s\"",
                              handover_says_name(says));
        return bad;
}

static int take_word(struct leading *l, const struct api_handover_message *m,
                     const struct handover_message *said, struct err *err)
{
        struct handover_event ev = {.kind = HANDOVER_EV_MESSAGE, .message = said};
        int bad;
        if (strcmp(m->vm, l->vm) != 0)
                return err_set(err, REASON_INVALID, EINVAL, "handover %s is of %s", said->id, l->vm);
        if (said->epoch != l->core.row.epoch)
                return err_set(err, REASON_STALE, ESTALE, "handover %s has another number", said->id);
        if ((bad = check_record(l, said->says, err)))
                return bad;
        if ((bad = take_along(l, m, err))) {
                struct err ignored = {0};
                log_warn("handover %s: %s", said->id, err->sentence);
                (void)lead_cancel(l, err->reason, err->sentence, &ignored);
                return bad;
        }
        bad = lead_take(l, &ev, err);
        return bad < 0 ? bad : 0;
}

/* Nothing is known of it, and the answer to that is owed all the same. */
static void answer_unknown(struct hypervisor_of *h, const struct api_handover_message *m,
                           const struct handover_message *said)
{
        struct handover_message answer;
        struct leading none = {.sp = h->sp, .from = h->number, .to = h->number, .dir_fd = -1};
        /* One at a time: such words cost nothing, and those of a handover that is known are to get through.
         */
        for (const struct saying *w = h->sp->sayings; w; w = w->next)
                if (w->to == h->number && !lead_find(h->sp, w->id))
                        return;
        if (!handover_answer_unknown(said, &answer))
                return;
        (void)STR_COPY(none.vm, m->vm);
        lead_say(&none, &answer);
}

static int hear(struct hypervisor_of *h, const json_t *body, struct err *err)
{
        struct api_handover_message *m = g_new0(struct api_handover_message, 1);
        struct handover_message said = {0};
        int bad = api_handover_message_parse(body, m, err);
        if (!bad)
                bad = handover_wire_take(m, &said, err);
        if (!bad && said.to != ROLE_PROCESSOR)
                bad = err_set(err, REASON_INVALID, EINVAL, "\"%s\" is mete-sp's to say",
                              handover_says_name(said.says));
        struct leading *l = bad ? NULL : lead_find(h->sp, said.id);
        bool is_targets = !bad && said.says >= HANDOVER_SAYS_ACCEPTED;
        if (l && h->number != (is_targets ? l->to : l->from))
                bad = err_set(err, REASON_DENIED, EACCES, "%s is not the %s of handover %s",
                              hypervisor_name(h), is_targets ? "target" : "source", said.id);
        if (!bad && l)
                bad = take_word(l, m, &said, err);
        else if (!bad)
                answer_unknown(h, m, &said);
        g_free(m);
        return bad;
}

static void on_word(void *arg, struct http_request *req)
{
        struct hypervisor_of *h = arg;
        struct launch_user u;
        struct err err = {0};
        char part[ROUTE_PART];
        h->sp->requests++;
        const struct api_route *route =
                route_find(api_sp_routes, api_sp_routes_n, req->method, req->path, part, &err);
        bool is_word = route && route->operation == API_SP_OPERATION_HANDOVER_MESSAGE;
        int bad = route ? 0 : -err.code;
        if (!bad && !is_word)
                bad = err_set(&err, REASON_DENIED, EACCES, "only /v1/handover/messages is here");
        if (!bad)
                bad = launch_user(h->user, &u, &err);
        if (!bad && req->peer.uid != u.uid && req->peer.uid != 0)
                bad = err_set(&err, REASON_DENIED, EACCES, "this is for %s alone", h->user);
        json_t *body = bad ? NULL : json_read(req->body, req->body_n, &err);
        if (!bad)
                bad = body ? hear(h, body, &err) : -EINVAL;
        json_decref(body);
        if (bad) {
                h->sp->refused += err.reason == REASON_DENIED;
                api_refuse(req, &err);
        } else {
                api_reply(req, 200, api_handover_taken_emit(&(struct api_handover_taken){.taken = true}));
        }
}

int lead_listen(struct hypervisor_of *h, const struct launch_user *u, struct err *err)
{
        struct http_limits limits = {.body_max_bytes = WORD_MAX, .connections_max = 64};
        if (h->words)
                return 0;
        (void)snprintf(h->answers, sizeof(h->answers), "%s/%s.words.sock", h->sp->config.run_dir,
                       hypervisor_name(h));
        int fd = unix_listen(h->answers, 0600, err);
        if (fd < 0)
                return err_note(err, "the socket for its words");
        if (chown(h->answers, u->uid, u->gid) < 0)
                (void)err_set(err, REASON_INTERNAL, errno, "%.150s: %s", h->answers, strerror(errno));
        else
                h->words = http_server_new(fd, &limits, on_word, h, err);
        if (h->words)
                return 0;
        (void)close(fd);
        (void)unlink(h->answers);
        return -EIO;
}

void lead_listen_end(struct hypervisor_of *h)
{
        if (!h->words)
                return;
        http_server_free(h->words);
        h->words = NULL;
        (void)unlink(h->answers);
}
