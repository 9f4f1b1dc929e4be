/* SPDX-License-Identifier: Apache-2.0 */
/* vm/qmp.h - one QMP monitor of one VMM, over a connected Unix stream socket, on the GLib loop.
 *
 * The VMM is hostile input: what it sends is bounded in line length, depth and number; a reply that nobody
 * waits for is counted and dropped; nothing it sends can assert. What cannot be mended (a line above the
 * limit, no greeting, end of file) loses the connection, which is reported at once.
 *
 * Contract: every call is answered exactly once through its callback, always from the loop and never from
 * within qmp_execute(): with the reply, or with an error (the VMM's own, timeout, peer-lost, cancelled).
 * Any function here may be called from any callback, qmp_free() included.
 * Sources are attached to the thread-default context of the thread that called qmp_new(). */
#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

enum {
        QMP_LINE_MAX = 1 << 20,  /* bytes of one line from the VMM */
        QMP_QUEUE_MAX = 1 << 18, /* bytes that wait to be sent to a VMM that does not read */
        QMP_CALLS_MAX = 256,     /* calls without an answer */
        QMP_STALE_MAX = 256,     /* lines before the greeting, left over from the client before us */
};

struct qmp_version {
        int major, minor, micro;
        char package[64]; /* the distributor's words, "" where there are none */
};

struct qmp_counters {
        uint64_t replies, events;
        uint64_t unreadable; /* lines that are not a message */
        uint64_t unexpected; /* replies to calls that were never made */
        uint64_t late;       /* replies to calls that had timed out */
};

struct qmp_options {
        bool oob;        /* ask for out-of-band execution; its lack loses the connection as incompatible */
        int greeting_ms; /* until the monitor is ready; 0: 10 s */
        void (*on_ready)(void *arg, const struct qmp_version *version);
        /* data is borrowed and may be NULL; name is a known-good string, data is not. */
        void (*on_event)(void *arg, const char *name, const json_t *data);
        /* Once, after every unanswered call was answered. Not called after qmp_free(). */
        void (*on_lost)(void *arg, const struct err *why);
        /* Sees every line, for tests that record; without its newline. May be NULL, as all of these. */
        void (*on_line)(void *arg, bool sent, const char *line, size_t n);
};

struct qmp;

/* ret is borrowed; NULL exactly where err is set. */
typedef void qmp_done(void *arg, const json_t *ret, const struct err *err);

/* Takes fd in any case. NULL: no memory or not a socket that can be made non-blocking. */
struct qmp *qmp_new(int fd, const struct qmp_options *options, void *arg);
/* NULL-safe. Unanswered calls are answered as cancelled before it returns. */
void qmp_free(struct qmp *q);

bool qmp_is_ready(const struct qmp *q);
/* When the last event was, in microseconds of the monotonic clock, by the stamp that the VMM gave it: however
 * late it is read here. Not in the future, and not before the event that came before it, whatever the stamp
 * says; without one it is when it was read. 0: there was none. */
int64_t qmp_event_us(const struct qmp *q);
/* Takes arguments (may be NULL). timeout_ms > 0. done may be NULL. */
void qmp_execute(struct qmp *q, const char *command, json_t *arguments, int timeout_ms, qmp_done *done,
                 void *arg);
/* The same, with a descriptor that goes along, such as getfd and add-fd want one; taken in any case. */
void qmp_execute_fd(struct qmp *q, const char *command, json_t *arguments, int fd, int timeout_ms,
                    qmp_done *done, void *arg);
/* Is answered even while the VMM's main loop is held; only for commands that allow it. */
void qmp_execute_oob(struct qmp *q, const char *command, json_t *arguments, int timeout_ms, qmp_done *done,
                     void *arg);
const struct qmp_counters *qmp_counters(const struct qmp *q);
