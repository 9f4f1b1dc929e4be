/* SPDX-License-Identifier: Apache-2.0 */
/* Between the codecs' structs and those of mete.h, which outlive a contract's changes. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/str.h"
#include "lib/handle.h"
#include "lib/need-text.h"

_Static_assert((int)METE_REASON_INTERNAL == (int)REASON_INTERNAL &&
                       (int)REASON_N == (int)METE_REASON_INTERNAL + 1,
               "mete.h and base/err.h differ");
_Static_assert((int)METE_REASON_NO_CAPACITY == (int)REASON_NO_CAPACITY &&
                       (int)METE_REASON_PEER_LOST == (int)REASON_PEER_LOST,
               "mete.h and base/err.h differ");
_Static_assert((int)METE_GRANTED == (int)API_OUTCOME_GRANTED &&
                       (int)METE_COUNTER_OFFERED == (int)API_OUTCOME_COUNTER_OFFERED &&
                       (int)METE_NOT_NOW == (int)API_OUTCOME_NOT_NOW &&
                       (int)METE_NEVER == (int)API_OUTCOME_NEVER,
               "mete.h and api/common.json differ");
_Static_assert(sizeof(((struct mete_error *)0)->sentence) == sizeof(((struct err *)0)->sentence),
               "mete.h and base/err.h differ");
_Static_assert(sizeof(((struct mete_verdict *)0)->cpus) / sizeof(int) ==
                               sizeof(((struct api_verdict *)0)->cpus) / sizeof(int64_t) &&
                       sizeof(((struct mete_verdict *)0)->fallbacks) ==
                               sizeof(((struct api_verdict *)0)->fallbacks),
               "mete.h and api/common.json differ");

static void verdict_fill(struct mete_verdict *to, const struct api_verdict *from)
{
        *to = (struct mete_verdict){.outcome = (enum mete_outcome)from->outcome,
                                    .reason = from->has_reason ? (enum mete_reason)from->reason
                                                               : METE_REASON_NONE,
                                    .n_needs = from->n_needs,
                                    .valid_ms = from->has_valid_ms ? from->valid_ms : 0,
                                    .n_cpus = from->n_cpus,
                                    .memory_bytes = from->has_memory_bytes ? from->memory_bytes : 0,
                                    .n_fallbacks = from->n_fallbacks};
        (void)STR_COPY(to->request, from->request);
        (void)STR_COPY(to->sentence, from->sentence);
        for (size_t i = 0; i < from->n_needs; i++)
                (void)need_text_print(&from->needs[i], to->needs[i]);
        for (size_t i = 0; i < from->n_cpus; i++)
                to->cpus[i] = (int)from->cpus[i];
        memcpy(to->fallbacks, from->fallbacks, sizeof(to->fallbacks));
}

struct mete_verdict *verdict_from(const struct api_verdict *v)
{
        struct mete_verdict *to = malloc(sizeof(*to));

        if (to != NULL)
                verdict_fill(to, v);
        return to;
}

/* One block: the list, its pointers, the rows, and room for a verdict each. */
struct list_block {
        struct mete_list list;
        const struct mete_row *pointers[256];
        struct list_row {
                struct mete_row row;
                struct mete_verdict verdict;
        } rows[];
};

static void row_fill(struct list_row *to, const struct api_app_row *from)
{
        struct mete_row *row = &to->row;

        *row = (struct mete_row){
                .uid = from->uid, .pid = from->pid, .n_needs = from->n_needs, .since_ms = from->since_ms};
        (void)STR_COPY(row->id, from->id);
        (void)STR_COPY(row->application, from->application);
        (void)STR_COPY(row->state, api_row_state_name(from->state));
        (void)STR_COPY(row->problem, from->problem);
        (void)STR_COPY(row->why, from->has_why ? from->why : "");
        memcpy(row->needs, from->needs, sizeof(row->needs));
        if (!from->has_verdict)
                return;
        verdict_fill(&to->verdict, &from->verdict);
        row->verdict = &to->verdict;
}

static int list_from(const json_t *raw, struct mete_list **ret, struct err *err)
{
        struct api_app_list *from = malloc(sizeof(*from)); /* more than a stack should hold */
        int r = from != NULL ? api_app_list_parse(raw, from, err)
                             : err_set(err, REASON_INTERNAL, ENOMEM, "no memory for the list");

        if (r == 0) {
                struct list_block *to = calloc(1, sizeof(*to) + from->n_rows * sizeof(to->rows[0]));
                if (to == NULL) {
                        r = err_set(err, REASON_INTERNAL, ENOMEM, "no memory for the list");
                } else {
                        for (size_t i = 0; i < from->n_rows; i++) {
                                row_fill(&to->rows[i], &from->rows[i]);
                                to->pointers[i] = &to->rows[i].row;
                        }
                        to->list = (struct mete_list){.n = from->n_rows, .rows = to->pointers};
                        *ret = &to->list;
                }
        }
        free(from);
        return r;
}

int mete_list(struct mete *m, struct mete_list **ret, struct mete_error *err)
{
        struct err why = {0};
        json_t *raw = NULL;

        int r = mete_call_raw(m, "list", json_object(), &raw, err);
        if (r < 0)
                return r;
        if (ret != NULL)
                r = list_from(raw, ret, &why);
        json_decref(raw);
        if (r < 0)
                (void)error_copy(err, &why);
        return r;
}

void mete_list_free(struct mete_list *list)
{
        free(list); /* the first member of its block */
}

int mete_about(struct mete *m, struct mete_about **ret, struct mete_error *err)
{
        struct api_app_hello hello = {.version = 1};
        struct api_app_welcome welcome;
        struct err why = {0};
        json_t *raw = NULL;

        int r = mete_call_raw(m, "hello", api_app_hello_emit(&hello), &raw, err);
        if (r < 0)
                return r;
        r = api_app_welcome_parse(raw, &welcome, &why);
        json_decref(raw);
        struct mete_about *about = r == 0 && ret != NULL ? calloc(1, sizeof(*about)) : NULL;
        if (r == 0 && ret != NULL && about == NULL)
                r = err_set(&why, REASON_INTERNAL, ENOMEM, "no memory");
        if (r < 0) {
                (void)error_copy(err, &why);
                return r;
        }
        if (about != NULL) {
                (void)STR_COPY(about->agent, welcome.agent);
                (void)STR_COPY(about->vm, welcome.vm);
                about->version = (int)welcome.version;
                about->connected = welcome.connected;
                about->project_ms = welcome.has_project_ms ? welcome.project_ms : 0;
                *ret = about;
        }
        return 0;
}

void mete_about_free(struct mete_about *about)
{
        free(about);
}

void mete_verdict_free(struct mete_verdict *v)
{
        free(v);
}

const char *mete_reason_name(enum mete_reason r)
{
        return reason_name((enum reason)r);
}

const char *mete_outcome_name(enum mete_outcome o)
{
        return api_outcome_name((enum api_outcome)o);
}

const char *mete_version(void)
{
        return METE_VERSION;
}
