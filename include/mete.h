/* SPDX-License-Identifier: Apache-2.0 */
/* mete.h - libmete: a program in a virtual machine asks for what it needs, and gives it back.
 *
 *     struct mete *m;
 *     struct mete_verdict *v;
 *     struct mete_error e;
 *     const char *needs[] = {"cpu:2,share>=0.9", "memory:1G"};
 *     if (mete_open(NULL, &m, &e) < 0)
 *             errx(1, "%s", e.sentence);
 *     if (mete_request(m, needs, 2, NULL, &v, &e) == METE_GRANTED)
 *             work();                     (v->cpus, v->memory_bytes)
 *     mete_release(m, v->request, &e);
 *
 * What is granted belongs to the process that asked: it ends with mete_release(), or when that process ends,
 * in whatever way. Closing the handle does not end it.
 *
 * Two faces, which may be mixed on one handle. The blocking face (mete_request and so on) returns when there
 * is an answer. The non-blocking face (mete_*_start, mete_process, mete_next_event) never waits; the program
 * polls mete_fd() for mete_events() in a loop of its own. A blocking call keeps events that are not its own
 * for mete_next_event().
 *
 * Results. A function returns 0 or a documented positive outcome, or a negative errno; then *err, where it is
 * not NULL, has a reason from a closed list and a sentence. ret_ arguments are untouched on failure. A
 * refusal is not a failure: it is a verdict.
 *     -EINVAL    invalid: an argument breaks a bound that is stated here; nothing was sent
 *     -ECHILD    invalid: the handle was made before fork(), in another process; open one of your own
 *     -EBUSY     busy: two threads use the handle at once, METE_OPEN_MAX answers are outstanding, or the
 *                agent has too many connections, or too many of this user
 *     -ENOTCONN  peer-lost: the agent is gone; mete_reopen()
 *     -ETIMEDOUT timeout: whoever listens there does not answer; what was asked may still be answered later
 *     -ENOMEM    internal
 *     others     what the agent said: the reason tells, the errno only resembles it
 *
 * Threads: a handle may be used by one thread at a time, different handles at once by different threads.
 * Fork: the descriptor is close-on-exec. A forked child must not use the parent's handle (it is refused), may
 * mete_close() it, and holds no lease of its parent's.
 * Signals: no handler is installed, SIGPIPE is never raised; blocking calls continue after a signal.
 * Units are in the names: _ms milliseconds, _bytes bytes. Text is UTF-8 and ends in NUL. */
#ifndef METE_H
#define METE_H
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Bounds. Ids: letters, digits and ._:- only. */
#define METE_ID_MAX         63       /* bytes of an id, NUL not counted */
#define METE_NEED_MAX       127      /* bytes of a need */
#define METE_NEEDS_MAX      4        /* needs of a request */
#define METE_NAME_MAX       31       /* bytes of an application's name */
#define METE_TIMEOUT_MAX_MS 86400000 /* a day */
#define METE_OPEN_MAX       32       /* answers outstanding on a handle */

/* Why something was refused, failed or ended. Values are never reused; more may be added. */
enum mete_reason {
        METE_REASON_NONE = 0,
        METE_REASON_INVALID = 1,
        METE_REASON_NOT_FOUND,
        METE_REASON_DENIED,
        METE_REASON_UNSUPPORTED,
        METE_REASON_NO_CAPACITY,
        METE_REASON_NO_OFFERS,
        METE_REASON_COST,
        METE_REASON_STALE,
        METE_REASON_BUSY,
        METE_REASON_TIMEOUT,
        METE_REASON_CANCELLED,
        METE_REASON_POLICY,
        METE_REASON_INCOMPATIBLE,
        METE_REASON_PEER_LOST,
        METE_REASON_UNREASSIGNABLE,
        METE_REASON_INTERNAL
};

struct mete_error {
        enum mete_reason reason;
        int code;           /* a positive errno */
        char sentence[256]; /* what is wrong and, where possible, what to do; no newline */
};

enum mete_outcome {
        METE_GRANTED = 1,     /* the resources are usable now */
        METE_COUNTER_OFFERED, /* `needs` are held for valid_ms: mete_accept() or mete_decline() */
        METE_NOT_NOW,         /* refused; may be granted at another time */
        METE_NEVER            /* refused; this platform cannot do it */
};

/* The answer to a request. Made by the library, given back with mete_verdict_free(); later versions may add
 * members at its end. */
struct mete_verdict {
        enum mete_outcome outcome;
        enum mete_reason reason; /* METE_REASON_NONE where granted */
        char request[64];        /* id of the request: for mete_accept, mete_decline, mete_release */
        char sentence[256];      /* the decision in words */
        size_t n_needs;
        char needs[4][128]; /* what was granted, or is offered instead */
        int64_t valid_ms;   /* counter-offer: held for so long; else 0 */
        size_t n_cpus;
        int cpus[64];         /* numbers of the granted CPUs, as in /sys/devices/system/cpu */
        int64_t memory_bytes; /* memory that was added to this machine for the grant */
        size_t n_fallbacks;
        char fallbacks[8][128]; /* what this platform does in a lesser way than asked for would suggest */
};

/* How to ask. Start from METE_OPTIONS_INIT; `size` lets later versions add members. */
struct mete_options {
        size_t size;
        const char *id;     /* asking again with the same id has the same answer; NULL: made for you */
        const char *name;   /* what the program calls itself, for people; NULL: the name of its executable */
        int or_less;        /* not 0: a counter-offer of less is welcome */
        int64_t timeout_ms; /* withdraw the request, and answer not-now with timeout, after so long; 0: 60 s
                             */
        uint64_t host_generation; /* decided on that generation of the host's information (mete_host()):
                                   * not-now with stale where this machine has another one by now, or where a
                                   * component that a need names has changed; 0: whatever the host is like */
};
#define METE_OPTIONS_INIT                                                                                    \
        {                                                                                                    \
                sizeof(struct mete_options), NULL, NULL, 0, 0, 0                                             \
        }

struct mete; /* a connection to the agent */

/* ---- opening ---- */

/* Connects to the agent's socket; NULL: $METE_SOCKET, or else /run/mete/agent.sock. Does not wait.
 * peer-lost: no agent there. busy: it has no time to take connections. denied. invalid: the path is too long.
 * Where it has too many connections, or too many of this user, the first call that waits says so: busy. Give
 * the handle back with mete_close(). */
int mete_open(const char *socket_path, struct mete **ret, struct mete_error *err);
/* NULL is allowed. Outstanding requests are not withdrawn, leases are not released. */
void mete_close(struct mete *m);
/* Connects again after -ENOTCONN or METE_EVENT_LOST, and asks again for every answer that is outstanding; the
 * same ids make that safe. Does not wait. mete_fd() may be another one then. 0 also where nothing was lost.
 * Blocking calls do so themselves, later and later, for up to 10 s, and not past their deadline; a connection
 * that is lost again and again counts as one that is gone. */
int mete_reopen(struct mete *m, struct mete_error *err);

/* What the agent is. Blocks, for 5 s at most. Give back with mete_about_free(). */
struct mete_about {
        char agent[32];       /* version of its software */
        char vm[64];          /* name of this machine, "" until the host has said it */
        int version;          /* of its contract */
        int connected;        /* 1: it reaches its host */
        long long project_ms; /* how often it measures what is used, to ask by itself; 0: it does not ask */
};
int mete_about(struct mete *m, struct mete_about **ret, struct mete_error *err);
void mete_about_free(struct mete_about *about);

/* ---- the blocking face ---- */

/* Asks for 1 to METE_NEEDS_MAX needs, all of them or none: KIND:AMOUNT[..AMOUNT][,PARAMETER...], such as
 * cpu:2,share>=0.9  cpu:1,exclusive  memory:512M..2G  (the manual mete(1) lists them). Returns the outcome, a
 * positive number, and the verdict, which ret_verdict NULL leaves out. options NULL: METE_OPTIONS_INIT. An
 * agent answers by timeout_ms; 5 s later it is no longer waited for.
 * invalid: malformed needs or options. denied: the id is another user's. busy: too many open requests. */
int mete_request(struct mete *m, const char *const *needs, size_t n_needs, const struct mete_options *options,
                 struct mete_verdict **ret_verdict, struct mete_error *err);
/* Takes the counter-offer made to this request. Returns an outcome as mete_request() does: granted, or
 * not-now where the offer was no longer valid. not-found, denied; stale: there is no offer to take. */
int mete_accept(struct mete *m, const char *id, struct mete_verdict **ret_verdict, struct mete_error *err);
/* Refuses it; what was held for it is free again. */
int mete_decline(struct mete *m, const char *id, struct mete_error *err);
/* Ends a lease, or withdraws a request. Allowed to the same user, and to root. Again: no error. */
int mete_release(struct mete *m, const char *id, struct mete_error *err);
void mete_verdict_free(struct mete_verdict *v);

/* The requests of this user (root: of all), oldest first. Blocks, for 5 s at most. Give back with
 * mete_list_free(). */
struct mete_row {
        char id[64];
        char application[64]; /* name, process id and start time */
        int64_t uid, pid;
        char state[32]; /* unsent sent counter-offered granted releasing refused ended */
        size_t n_needs;
        char needs[4][128];                 /* what was asked for; after a grant what was granted */
        int64_t since_ms;                   /* since 1970 */
        char problem[256];                  /* why it could not be sent, or "" */
        const struct mete_verdict *verdict; /* or NULL; goes with the list */
        char why[256];                      /* why the agent asked by itself, or has given it back; else "" */
};
struct mete_list {
        size_t n;
        const struct mete_row *const *rows;
};
int mete_list(struct mete *m, struct mete_list **ret, struct mete_error *err);
void mete_list_free(struct mete_list *list);

/* The machine on which this one runs, as this one was told: files that are replaced as a whole with each
 * change. `xml` is an hwloc topology of the whole host, with what is this machine's marked (MeteMark=yours):
 * hwloc_topology_set_xml(), or lstopo -i. `json` has more, and generation and digest. */
struct mete_host {
        uint64_t generation; /* it rises with each change; 0: nothing was told yet, and there are no files */
        char xml[256], json[256];
};
/* Blocks, for 5 s at most. watch not 0: from now on each change is an event of this handle, METE_EVENT_HOST,
 * also after mete_reopen(). unsupported: an agent of before 0.2. */
int mete_host(struct mete *m, int watch, struct mete_host *ret, struct mete_error *err);

/* ---- the non-blocking face ---- */

/* The descriptor to poll, and for what (POLLIN, POLLOUT); ask again after each call of the library. The
 * descriptor stays the library's. -ENOTCONN while the connection is lost. */
int mete_fd(struct mete *m, struct mete_error *err);
int mete_events(struct mete *m, struct mete_error *err);
/* Sends and receives what can be without waiting. Call it when the descriptor is ready; a call too many does
 * no harm. -ENOTCONN: the connection is lost (METE_EVENT_LOST says so once, too). */
int mete_process(struct mete *m, struct mete_error *err);

/* Begin; the answer comes as one event with the same ticket. */
int mete_request_start(struct mete *m, const char *const *needs, size_t n_needs,
                       const struct mete_options *options, uint64_t *ret_ticket, struct mete_error *err);
int mete_accept_start(struct mete *m, const char *id, uint64_t *ret_ticket, struct mete_error *err);
int mete_decline_start(struct mete *m, const char *id, uint64_t *ret_ticket, struct mete_error *err);
int mete_release_start(struct mete *m, const char *id, uint64_t *ret_ticket, struct mete_error *err);

enum mete_event_kind {
        METE_EVENT_VERDICT = 1, /* `verdict` answers a request or an accept */
        METE_EVENT_DONE,        /* a decline or release was carried out */
        METE_EVENT_FAILED,      /* `error` is the answer */
        METE_EVENT_ENDED, /* a lease of this process ended unasked, by the host, or by another process that
                             released it: `id`, `error` says why; ticket 0 */
        METE_EVENT_LOST,  /* the agent is gone: mete_reopen(); ticket 0. Answers are still outstanding */
        METE_EVENT_HOST   /* `host` is another one by now: see mete_host(); ticket 0 */
};
struct mete_event {
        enum mete_event_kind kind;
        uint64_t ticket; /* of the call that began it; never 0 there */
        char id[64];     /* of the request, "" for METE_EVENT_LOST and METE_EVENT_HOST */
        struct mete_error error;
        const struct mete_verdict *verdict; /* or NULL; goes with the event */
        const struct mete_host *host;       /* or NULL; goes with the event */
};
/* 1: *ret is the oldest event; give it back with mete_event_free(). 0: there is none. */
int mete_next_event(struct mete *m, struct mete_event **ret, struct mete_error *err);
void mete_event_free(struct mete_event *event);
/* Blocks until there is an event, for at most timeout_ms (negative: without end). 1: there is. 0: time is up.
 */
int mete_wait(struct mete *m, int timeout_ms, struct mete_error *err);

/* ---- words ---- */

/* "no-capacity" and the like; "none" for a value that does not exist. Static. */
const char *mete_reason_name(enum mete_reason r);
/* "granted", "counter-offered", "not-now", "never". */
const char *mete_outcome_name(enum mete_outcome o);
/* Version of the library, "0.1.0". */
const char *mete_version(void);

#ifdef __cplusplus
}
#endif
#endif
