/* SPDX-License-Identifier: Apache-2.0 */
/* vm/copy.h - one end of a move by copy, over the connection to its VMM (vm/vm.h).
 *
 * The destination's VMM was started with vm_argv_options.is_incoming. Then, in this order:
 *   both:   copy_prepare() with the same key;
 *   dest:   copy_begin() with the socket that it accepted; source: copy_begin() with its end of it;
 *   source: copy_look() as often as wanted, copy_limit(), copy_bandwidth(); VM_EVENT_MIGRATION and
 *           VM_EVENT_PASS come to the owner of the connection. Its "completed" means that all is at the
 *           destination and was acknowledged from there: return-path is on, or copy_prepare() fails.
 *   dest:   vm_cont(), copy_announce(); source: vm_quit(). Or, of a source that completed and whose move was
 *           not committed: the destination's VMM is ended, then the source's vm_cont().
 * A source that says "failed" or "cancelled" runs again by itself.
 *
 * The memory goes over TLS with a key that was made for this move (tls-creds-psk), so that no VMM ever sees
 * the host's own. A VMM reads it from a folder, and may not enter meted's: it is handed a descriptor of one
 * in there, which nobody without it comes by.
 *
 * Operations of one end run one after another; each is answered exactly once, from the loop, and has a
 * deadline that counts from the call. They do not wait for those of vm.h, which the owner leaves be. While
 * the guest stands the VMM answers nothing but out-of-band commands: operations fail as timeout then, and may
 * be repeated. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"
#include "core/estimate.h"
#include "vm/vm.h"

#define COPY_KEY_DIR  "copy"
#define COPY_KEY_FILE COPY_KEY_DIR "/keys.psk"

enum { COPY_TCG_MAJOR = 10, COPY_KEY_BYTES = 32, COPY_SOCKET_BYTES = 128 << 10, COPY_LIMIT_MAX_MS = 2000000 };

enum copy_side { COPY_SOURCE = 1, COPY_DESTINATION };

/* QEMU's, as far as they differ for us. */
enum copy_status {
        COPY_IDLE = 1, /* nothing was begun */
        COPY_SETUP,    /* until both sides have shaken hands */
        COPY_ACTIVE,
        COPY_FINISHING, /* the guest stands */
        COPY_COMPLETED,
        COPY_CANCELLING,
        COPY_CANCELLED,
        COPY_FAILED,
        COPY_STATUS_N
};

struct copy_seen {
        enum copy_status status;
        int64_t total_ms, setup_ms, downtime_ms; /* 0: not yet known */
        int64_t throttle_percent;
        int64_t device_bytes; /* of a source that completed: what it sent beside memory; 0: not known (7.2) */
        int64_t stopped_bytes; /* likewise: of memory, while the guest stood */
        struct sample sample;  /* of a source that sends, or did */
        int64_t thread;        /* of a source that sends: the VMM's thread that does so; 0: not known */
        char why[160];         /* of one that failed, in QEMU's words; "" */
};

struct copy_key {
        char hex[2 * COPY_KEY_BYTES + 1];
};

struct copy_options {
        struct vm *vm;       /* attached; there until after copy_free() */
        enum copy_side side; /* of this VMM */
        const char *dir; /* the VM's folder, which nobody else may enter; the key is below it for as long as
                            it is needed; copied */
};
struct copy;
struct copy *copy_new(const struct copy_options *o);
/* NULL-safe. What is under way goes on; unfinished operations are answered as cancelled before it returns. To
 * be called when the VMM has died: the socket is ours as well, and its other end notices only then. */
void copy_free(struct copy *c);

/* Incompatible: this VMM would lose memory that its guest writes during a copy, and say that it completed:
 * QEMU 7.2 on TCG does, up to 83 pages of 512 MiB; 10.0.2 lost none. What lies between was not looked at, and
 * is taken for one that does. With KVM writes are tracked otherwise. Nothing here refuses because of it. */
int copy_check(const struct vm *vm, const struct api_vm_definition *d, struct err *err);

int copy_key_make(struct copy_key *ret, struct err *err);

/* Capabilities, key and parameters; may be repeated before each attempt. A source begins with a limit of 1
 * ms, so that it stops only a guest of which next to nothing is left to send. Incompatible: the VMM lacks
 * what it takes.
 */
void copy_prepare(struct copy *c, const struct copy_key *key, int timeout_ms, vm_done *done, void *arg);
/* Takes fd in any case, a connected stream socket. Done when the VMM has begun, which is not to say that
 * anybody answers at the other end. */
void copy_begin(struct copy *c, int fd, int timeout_ms, vm_done *done, void *arg);
/* The source stops the guest when it takes the rest to need no longer than this, from 1 ms: with 0 QEMU stops
 * it once everything was sent a first time, without a look at what was dirtied meanwhile. */
void copy_limit(struct copy *c, int64_t downtime_ms, int timeout_ms, vm_done *done, void *arg);
/* Most bytes a second that the source sends while the guest runs; 0: all that it can. */
void copy_bandwidth(struct copy *c, int64_t bytes_per_s, int timeout_ms, vm_done *done, void *arg);
/* seen: NULL exactly where err is set. Of a source that completed, its total time is known, and it
 * can be told to run again. */
typedef void copy_look_done(void *arg, const struct copy_seen *seen, const struct err *err);
void copy_look(struct copy *c, int timeout_ms, copy_look_done *done, void *arg);
/* Done when the source runs on, with all that it had. Stale: all had gone over before. Nothing was begun:
 * done. Also ends one that hangs because the other side does not answer. A destination is ended by vm_quit().
 */
void copy_cancel(struct copy *c, int timeout_ms, vm_done *done, void *arg);
/* Tells the network where the guest's cards are now. */
void copy_announce(struct copy *c, int timeout_ms, vm_done *done, void *arg);

/* Of a source that was begun: its end of the stream, borrowed; -1: there is none (any more). */
int copy_socket(const struct copy *c);
/* Bounds what a socket of the memory stream holds to about COPY_SOCKET_BYTES in each direction: QEMU takes
 * what is in there for sent, and misses its limit by it. ret: both, as the kernel has it: so much the stream
 * holds outside QEMU when this was done at both ends (plan.h: queued_bytes).
 */
int copy_socket_bound(int fd, int64_t *ret_bytes, struct err *err);

const char *copy_status_name(enum copy_status s); /* as QEMU names it, where there is one name */
/* Of what a VMM says; 0: nothing known. */
enum copy_status copy_status_from_name(const char *name);
