/* SPDX-License-Identifier: Apache-2.0 */
#include "fleet/handover-wire.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/str.h"

/* Both are in the order of the contract. */
static_assert((int)API_HANDOVER_SAYS_CLASSIFY == (int)HANDOVER_SAYS_CLASSIFY &&
                      (int)API_HANDOVER_SAYS_OFFER == (int)HANDOVER_SAYS_OFFER &&
                      (int)API_HANDOVER_SAYS_STATUS == (int)HANDOVER_SAYS_STATUS &&
                      (int)API_HANDOVER_SAYS_CLASSIFIED == (int)HANDOVER_SAYS_CLASSIFIED &&
                      (int)API_HANDOVER_SAYS_GIVEN == (int)HANDOVER_SAYS_GIVEN &&
                      (int)API_HANDOVER_SAYS_ACCEPTED == (int)HANDOVER_SAYS_ACCEPTED &&
                      (int)API_HANDOVER_SAYS_LOST == (int)HANDOVER_SAYS_LOST &&
                      (int)API_HANDOVER_SAYS_LOST + 1 == (int)HANDOVER_SAYS_N,
              "api/handover.json and core/handover.h say the same words");

void handover_wire_fill(const struct handover_message *said, const char *vm, struct api_handover_message *ret)
{
        memset(ret, 0, sizeof(*ret));
        ret->says = (enum api_handover_says)said->says;
        (void)STR_COPY(ret->handover, said->id);
        (void)STR_COPY(ret->vm, vm);
        ret->epoch = (int64_t)said->epoch;
        ret->has_gap_ms = said->gap_ms > 0;
        ret->gap_ms = said->gap_ms;
        ret->has_separate_ms = said->separate_ms > 0;
        ret->separate_ms = said->separate_ms;
        ret->has_reason = said->reason > 0 && said->reason < REASON_N;
        ret->reason = said->reason;
        ret->has_sentence = *said->sentence != '\0';
        (void)STR_COPY(ret->sentence, said->sentence);
}

static const char *lacks(const struct api_handover_message *in)
{
        enum handover_says says = (enum handover_says)in->says;
        bool is_ours = says < HANDOVER_SAYS_CLASSIFIED;
        bool has_guest = says == HANDOVER_SAYS_CLASSIFIED || says == HANDOVER_SAYS_QUIESCED ||
                         says == HANDOVER_SAYS_OFFER || says == HANDOVER_SAYS_INFORM;
        if (is_ours && !in->has_peer)
                return "peer";
        if (has_guest && !in->has_guest)
                return "guest";
        if ((says == HANDOVER_SAYS_QUIESCED || says == HANDOVER_SAYS_INFORM) && !in->guest.has_control)
                return "control";
        if ((says == HANDOVER_SAYS_QUIESCED || says == HANDOVER_SAYS_INFORM) && !in->guest.has_loan)
                return "loan";
        if ((says == HANDOVER_SAYS_INFORMED || says == HANDOVER_SAYS_GIVE) && !in->has_transfer)
                return "transfer";
        return NULL;
}

int handover_wire_take(const struct api_handover_message *in, struct handover_message *ret, struct err *err)
{
        const char *what = lacks(in);
        *ret = (struct handover_message){.says = (enum handover_says)in->says,
                                         .epoch = (uint64_t)in->epoch,
                                         .gap_ms = in->has_gap_ms ? in->gap_ms : 0,
                                         .separate_ms = in->has_separate_ms ? in->separate_ms : 0,
                                         .reason = in->has_reason ? (enum reason)in->reason : 0};
        if (what)
                return err_set(err, REASON_INVALID, EINVAL, "handover %s: a word \"%s\" needs a %s",
                               in->handover, handover_says_name(ret->says), what);
        ret->to = ret->says < HANDOVER_SAYS_OFFER        ? ROLE_SOURCE
                  : ret->says < HANDOVER_SAYS_CLASSIFIED ? ROLE_TARGET
                                                         : ROLE_PROCESSOR;
        (void)STR_COPY(ret->id, in->handover);
        (void)STR_COPY(ret->sentence, in->has_sentence ? in->sentence : "");
        return 0;
}
