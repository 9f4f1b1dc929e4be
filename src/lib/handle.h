/* SPDX-License-Identifier: Apache-2.0 */
/* lib/handle.h - what stands behind struct mete; for the library and for `mete` in a guest. */
#pragma once
#include <jansson.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/types.h>
#include "json/api.h"
#include "mete.h"
#include "wire/line.h"

enum {
        HANDLE_LINE_MAX = 4 << 20,
        HANDLE_EVENTS_MAX = 256,
        HANDLE_PATIENCE_MS = 10000,
        HANDLE_TIMEOUT_MS = 60000, /* of a request that names none, as the agent has it */
};

enum op_kind { OP_VERDICT = 1, OP_DONE, OP_RAW, OP_WATCH };

/* An answer that is outstanding. Its ticket is the id on the wire, also after the connection was made anew.
 */
struct op {
        uint64_t ticket; /* 0: unused */
        enum op_kind kind;
        char id[64]; /* of the request, or "" */
        const char *method;
        json_t *params; /* owned: sent again by mete_reopen() */
};

/* An event as the program gets it, and what goes with it. */
struct note {
        struct mete_event event; /* first: mete_event_free() gets its address */
        struct mete_verdict *verdict;
        json_t *raw; /* OP_RAW */
        struct mete_host host;
        struct note *next;
};

struct mete {
        pid_t owner;
        atomic_flag is_used;
        int fd; /* -1: lost */
        char path[108];
        int64_t connected_ms; /* when */
        /* How long an agent that is lost may take to come back. Half of it: to say what it says at once, or
         * after a request's deadline. */
        int64_t patience_ms;
        struct line in;
        char *out;
        size_t out_n, out_sent, out_room;
        uint64_t last_ticket;
        struct op ops[METE_OPEN_MAX + 1]; /* the last is for OP_WATCH, which the program did not begin */
        struct note *notes, **notes_end;
        size_t n_notes;
        struct err loss;          /* why it was lost */
        bool is_watching;         /* the host; again after each loss */
        uint64_t host_generation; /* of which the program was told */
};

/* Every public function stands between these two. */
int handle_enter(struct mete *m, struct mete_error *err);
int handle_leave(struct mete *m, int r, const struct err *why, struct mete_error *err);

/* Below: between enter and leave only. */
int handle_connect(struct mete *m, struct err *err);
void handle_lose(struct mete *m, const struct err *why);
/* Takes params. *ret_ticket is never 0. */
int handle_start(struct mete *m, enum op_kind kind, const char *method, json_t *params, const char *id,
                 uint64_t *ret_ticket, struct err *err);
int handle_process(struct mete *m, struct err *err);
/* Blocks until the answer to this ticket is there; connects again where needed, later and later.
 * answer_ms 0: as long as the connection holds. Else -ETIMEDOUT, or where it is lost by then why it is. */
int handle_await(struct mete *m, uint64_t ticket, int64_t answer_ms, struct note **ret, struct err *err);
int handle_poll(struct mete *m, int timeout_ms, struct err *err);
int64_t handle_mono_ms(void);
struct note *handle_take(struct mete *m, uint64_t ticket); /* ticket 0: the oldest; NULL: none */
void note_free(struct note *n);

/* Blocking call of any method of the application socket: its result as it came, for `mete --json`. */
int mete_call_raw(struct mete *m, const char *method, json_t *params, json_t **ret, struct mete_error *err);

void host_from(const struct api_app_host *from, struct mete_host *to);
struct mete_verdict *verdict_from(const struct api_verdict *v); /* NULL: no memory */
bool error_copy(struct mete_error *to, const struct err *from);
