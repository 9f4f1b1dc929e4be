/* SPDX-License-Identifier: Apache-2.0 */
/* vm/socket.h - the sockets and the console file between meted and a VMM.
 *
 * meted listens, the VMM inherits the listening descriptor and accepts on it, one client at a time. So a
 * meted that starts again connects by path, and a VMM that is dead refuses the connection, provided that
 * meted closes its own copy of the descriptor as soon as the VMM has it. */
#pragma once
#include <stdint.h>
#include "base/err.h"

/* A listening stream socket at path, for this uid alone. A socket file that is there already is replaced;
 * any other kind of file is refused. Returns the descriptor (close-on-exec) or a negative errno. */
int vm_listen(const char *path, struct err *err);
/* Returns a connected, non-blocking descriptor or a negative errno. Never blocks. */
int vm_connect(const char *path, struct err *err);
/* The monitor that is there for the guard of a move, which has it alone. Unsupported: the VMM was started
 * without one, by an older mete, and cannot be moved until it is started again. */
int vm_connect_guard(const char *path, struct err *err);
/* Where a console is written, made if need be, appended to. The guest decides how much comes: call
 * vm_console_trim() now and then. Returns the descriptor or a negative errno. */
int vm_console_open(const char *path, struct err *err);
/* Above limit_bytes what was written is moved to "PATH.1" (replaced) and the file starts anew. What the
 * guest writes in between may be lost. 1: moved. 0: below. */
int vm_console_trim(const char *path, long limit_bytes, struct err *err);
/* What the other end of a TCP connection has acknowledged so far, by the kernel's count, which goes on
 * whatever the VMM that sends is busy with; negative: not known. */
int64_t vm_socket_acked_bytes(int fd);
