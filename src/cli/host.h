/* SPDX-License-Identifier: Apache-2.0 */
/* cli/host.h - verbs of `mete` on a host: they speak to meted over its Unix socket. */
#pragma once
#include <jansson.h>
#include <stdbool.h>
#include "base/err.h"
#include "cli/table.h"
#include "cli/verb.h"

#define HOST_SOCKET "/run/mete/meted.sock"

extern const struct verb host_verbs[];
extern const size_t host_verbs_n;
/* Those for other hosts and their certificates. */
extern const struct verb move_verbs[];
extern const size_t move_verbs_n;
extern const struct verb pki_verbs[];
extern const size_t pki_verbs_n;

/* --socket, METE_SOCKET, or the default. Borrowed. */
const char *host_socket(const struct arguments *a);

/* One call. `body` is taken and may be NULL. 0: *ret is the answer, owned by the caller (json_decref).
 * Negative: refused, or meted cannot be reached (REASON_PEER_LOST). */
int host_call(const struct arguments *a, const char *method, const char *path, json_t *body, int timeout_ms,
              json_t **ret, struct err *err);
/* Reads all pages of a list. Arrays of the pages are joined; other fields are those of the first page. */
int host_pages(const struct arguments *a, const char *path, json_t **ret, struct err *err);

/* Whether --json was given. If so, prints the answer. */
bool host_json(const struct arguments *a, const json_t *answer);
/* Fields of an answer; "" or 0 where absent. */
const char *host_text(const json_t *object, const char *name);
int64_t host_number(const json_t *object, const char *name);
/* "a, b" of an array of strings; a static buffer, good until the next call. */
const char *host_joined(const json_t *array);
/* An amount for a sentence: "512M", "1 CPU", "0.9 CPU". Returns ret. */
enum { HOST_AMOUNT = 48 };
const char *host_amount_text(const char *component, int64_t amount, char ret[HOST_AMOUNT]);

/* "off line, by an operator, until 2026-01-02 10:05:00"; "usable". Returns ret. */
enum { HOST_STATE = 192 };
const char *host_state_text(const json_t *component, char ret[HOST_STATE]);

/* The verbs, by file. */
int host_vm_create(const struct arguments *a);
int host_vm_start(const struct arguments *a);
int host_vm_stop(const struct arguments *a);
int host_vm_kill(const struct arguments *a);
int host_vm_verify(const struct arguments *a);
int host_vm_delete(const struct arguments *a);
int host_vm_list(const struct arguments *a);
int host_vm_show(const struct arguments *a);
int host_show(const struct arguments *a);
int host_offline(const struct arguments *a);
int host_online(const struct arguments *a);
int host_ledger(const struct arguments *a);
int host_definition_list(const struct arguments *a);
int host_definition_show(const struct arguments *a);
/* Those of one VM, as a table. Negative: *err says why. */
int host_check_vm(const struct arguments *a, const char *name, struct err *err); /* is it defined? */
int host_print_definitions(const struct arguments *a, const char *vm, struct err *err);
int host_leases(const struct arguments *a);
int host_reserve(const struct arguments *a);
int host_unreserve(const struct arguments *a);
int host_events(const struct arguments *a);
int host_doctor(const struct arguments *a);
int host_peers(const struct arguments *a);
/* "its certificate is valid for 12 days", of a host or of a peer. false: it is not known. */
bool host_certificate_ends(const json_t *object, char *text, size_t size, int64_t *ret_days);
