/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/str.h"
#include "json/read.h"
#include "sp/lead.h"

/* ---- for the store ---- */

static void core_out(const struct handover_row *row, struct api_server_handover *r)
{
        (void)STR_COPY(r->state, handover_state_name(row->state));
        r->has_end = row->end != 0;
        if (row->end)
                (void)STR_COPY(r->end, handover_state_name(row->end));
        r->epoch = (int64_t)row->epoch;
        r->step = (int64_t)row->step;
        r->gap_ms = row->gap_ms;
        r->has_separate_ms = row->separate_ms > 0;
        r->separate_ms = row->separate_ms;
        r->has_reason = row->reason != 0;
        r->reason = row->reason;
        r->has_sentence = *row->sentence != '\0';
        (void)STR_COPY(r->sentence, row->sentence);
}

static void out(const struct leading *l, struct api_server_handover *r)
{
        core_out(&l->core.row, r);
        (void)STR_COPY(r->vm, l->vm);
        (void)STR_COPY(r->from, l->sp->server.names[l->from]);
        (void)STR_COPY(r->to, l->sp->server.names[l->to]);
        r->asked_ms = l->asked_ms;
        r->has_ended_ms = l->ended_ms > 0;
        r->ended_ms = l->ended_ms;
        r->has_dry_run = r->dry_run = l->is_dry;
        r->has_would = r->would = l->would;
        r->has_assigned = r->assigned = l->is_assigned;
        r->has_record = *l->record != '\0';
        (void)STR_COPY(r->record, l->record);
        (void)STR_COPY(r->boot, l->boot);
        r->has_transfer = *l->transfer != '\0';
        (void)STR_COPY(r->transfer, l->transfer);
        r->has_sent_bytes = l->sent_bytes >= 0;
        r->sent_bytes = l->sent_bytes;
        r->has_ram_bytes = l->ram_bytes >= 0;
        r->ram_bytes = l->ram_bytes;
        r->has_separated_bytes = l->separated_bytes >= 0;
        r->separated_bytes = l->separated_bytes;
        r->has_gap_us = l->gap_us >= 0;
        r->gap_us = l->gap_us;
        r->has_stood_us = l->stood_us > 0;
        r->stood_us = l->stood_us;
        r->has_ran_us = l->ran_us > 0;
        r->ran_us = l->ran_us;
        r->has_guest = l->guest && !handover_is_final(&l->core);
        if (r->has_guest)
                r->guest = *l->guest;
        const struct api_handover_part *parts = l->guest ? l->guest->parts : l->parts;
        r->n_parts = r->has_guest ? 0 : l->guest ? l->guest->n_parts : l->n_parts;
        memcpy(r->parts, parts, r->n_parts * sizeof(*parts));
}

char *lead_text(const struct leading *l)
{
        struct api_server_handover *r = g_new0(struct api_server_handover, 1);
        out(l, r);
        json_t *v = api_server_handover_emit(r);
        char *text = v ? json_write(v, NULL) : NULL;
        json_decref(v);
        g_free(r);
        return text;
}

static int core_in(const struct api_server_handover *r, const char *id, struct handover_row *row,
                   struct err *err)
{
        row->state = handover_state_from_name(r->state);
        row->end = r->has_end ? handover_state_from_name(r->end) : 0;
        if (!row->state || handover_role(row->state) != ROLE_PROCESSOR || (r->has_end && !row->end) ||
            handover_state_is_swift(row->state) || !STR_COPY(row->id, id))
                return err_set(err, REASON_INVALID, EINVAL, "no state is called %s",
                               row->state ? r->end : r->state);
        row->epoch = (uint64_t)r->epoch;
        row->step = (uint64_t)r->step;
        row->gap_ms = r->gap_ms;
        row->separate_ms = r->has_separate_ms ? r->separate_ms : 0;
        row->deadline_ms = INT64_MAX; /* begins anew */
        row->reason = r->has_reason ? (enum reason)r->reason : 0;
        (void)STR_COPY(row->sentence, r->has_sentence ? r->sentence : "");
        return 0;
}

static int in(struct sp *sp, const struct api_server_handover *r, struct leading *l, struct err *err)
{
        l->from = server_find(&sp->server, r->from);
        l->to = server_find(&sp->server, r->to);
        if (l->from < 0 || l->to < 0 || l->from == l->to)
                return err_set(err, REASON_INVALID, EINVAL, "there is no hypervisor %s",
                               l->from < 0 ? r->from : r->to);
        (void)STR_COPY(l->vm, r->vm);
        (void)STR_COPY(l->record, r->has_record ? r->record : "");
        (void)STR_COPY(l->boot, r->boot);
        (void)STR_COPY(l->transfer, r->has_transfer ? r->transfer : "");
        l->is_dry = r->has_dry_run && r->dry_run;
        l->would = r->has_would && r->would;
        l->is_assigned = r->has_assigned && r->assigned;
        l->asked_ms = r->asked_ms;
        l->ended_ms = r->has_ended_ms ? r->ended_ms : 0;
        l->sent_bytes = r->has_sent_bytes ? r->sent_bytes : -1;
        l->ram_bytes = r->has_ram_bytes ? r->ram_bytes : -1;
        l->separated_bytes = r->has_separated_bytes ? r->separated_bytes : -1;
        l->gap_us = r->has_gap_us ? r->gap_us : -1;
        l->stood_us = r->has_stood_us ? r->stood_us : 0;
        l->ran_us = r->has_ran_us ? r->ran_us : 0;
        if (r->has_guest)
                l->guest = g_memdup2(&r->guest, sizeof(r->guest));
        l->n_parts = r->n_parts;
        memcpy(l->parts, r->parts, r->n_parts * sizeof(*l->parts));
        return 0;
}

int lead_read(struct sp *sp, const char *id, const char *text, struct leading **ret, struct err *err)
{
        struct api_server_handover *r = g_new0(struct api_server_handover, 1);
        struct leading *l = g_new0(struct leading, 1);
        *l = (struct leading){.sp = sp, .dir_fd = -1, .notify_fd = -1};
        json_t *v = json_read(text, strlen(text), err);
        int bad = v ? api_server_handover_parse(v, r, err) : -EINVAL;
        if (!bad)
                bad = core_in(r, id, &l->core.row, err);
        if (!bad)
                bad = in(sp, r, l, err);
        json_decref(v);
        g_free(r);
        if (bad)
                lead_free(l);
        else
                *ret = l;
        return bad;
}

void lead_free(struct leading *l)
{
        g_free(l->guest);
        g_free(l);
}

/* ---- for people ---- */

void lead_show(const struct leading *l, struct api_handover *ret)
{
        const struct handover_row *row = &l->core.row;
        const struct api_handover_part *parts = l->guest ? l->guest->parts : l->parts;
        memset(ret, 0, sizeof(*ret));
        (void)STR_COPY(ret->id, row->id);
        (void)STR_COPY(ret->vm, l->vm);
        (void)STR_COPY(ret->from, l->sp->server.names[l->from]);
        (void)STR_COPY(ret->to, l->sp->server.names[l->to]);
        (void)STR_COPY(ret->state, handover_state_name(row->state));
        ret->epoch = (int64_t)row->epoch;
        ret->has_dry_run = ret->dry_run = l->is_dry;
        ret->has_would = l->is_dry && l->ended_ms > 0;
        ret->would = l->would;
        ret->has_max_gap_ms = row->gap_ms > 0;
        ret->max_gap_ms = row->gap_ms;
        ret->has_separate_ms = row->separate_ms > 0;
        ret->separate_ms = row->separate_ms;
        ret->asked_ms = l->asked_ms;
        ret->has_ended_ms = l->ended_ms > 0;
        ret->ended_ms = l->ended_ms;
        ret->has_gap_us = l->gap_us >= 0;
        ret->gap_us = l->gap_us;
        ret->has_sent_bytes = l->sent_bytes >= 0;
        ret->sent_bytes = l->sent_bytes;
        ret->has_ram_bytes = l->ram_bytes >= 0;
        ret->ram_bytes = l->ram_bytes;
        ret->has_separated_bytes = l->separated_bytes >= 0;
        ret->separated_bytes = l->separated_bytes;
        ret->n_parts = l->guest ? l->guest->n_parts : l->n_parts;
        memcpy(ret->parts, parts, ret->n_parts * sizeof(*parts));
        ret->has_assigned = ret->assigned = l->is_assigned;
        ret->has_reason = row->reason > 0;
        ret->reason = row->reason;
        ret->has_sentence = *row->sentence != '\0';
        (void)STR_COPY(ret->sentence, row->sentence);
}
