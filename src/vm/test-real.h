/* SPDX-License-Identifier: Apache-2.0 */
/* vm/test-real.h - a real VMM, started for a test as the keeper does it: its monitors are sockets in a
 * folder. */
#pragma once
#include <stdbool.h>
#include <sys/types.h>

#include "vm/argv.h"

/* Nobody's files: a VMM of another user, as the keeper has them. */
enum { STRANGER = 65534 };

/* qmp, oob, guard, agent, console and console.log are in dir. as_stranger: where this is root, the VMM is
 * that user, and so must be the owner of what it is to write to. It does not outlive the test. */
pid_t real_start(const char *dir, const struct api_vm_definition *d, const struct vm_argv_options *o,
                 bool as_stranger);
/* Kills and waits; 0 afterwards. */
void real_end(pid_t *pid);
/* A folder with payload.elf of that folder, and an empty disk.raw. Freed by real_remove_dir(). */
char *real_images(const char *payload);
/* With the files in it; frees the name. NULL-safe. */
void real_remove_dir(char *dir);
