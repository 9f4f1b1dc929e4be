/* SPDX-License-Identifier: Apache-2.0 */
/* cli/guest.h - verbs of `mete` in a guest: they speak to mete-agent through libmete. */
#pragma once
#include "base/err.h"
#include "cli/verb.h"
#include "mete.h"

#define GUEST_SOCKET "/run/mete/agent.sock"

extern const struct verb guest_verbs[];
extern const size_t guest_verbs_n;

/* Opens the agent's socket: --socket, METE_SOCKET, or the default; and makes sure, within some seconds, that
 * an agent is there. 0, or an exit status after it was said on stderr what is wrong. */
int guest_open(const struct arguments *a, struct mete **ret);
/* "mete run: SENTENCE (reason)" on stderr; the exit status. */
int guest_fail(const struct arguments *a, const struct mete_error *e);

int guest_run(const struct arguments *a);       /* guest-run.c */
int guest_host_show(const struct arguments *a); /* guest-host.c */
int guest_declare(const struct arguments *a);   /* guest-declare.c */
int guest_declare_list(const struct arguments *a);
int guest_declare_drop(const struct arguments *a);
/* What only a guest's own `mete` has: on a host these words are the host's. */
extern const struct verb guest_only_verbs[];
extern const size_t guest_only_verbs_n;
