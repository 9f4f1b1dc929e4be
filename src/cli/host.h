/* SPDX-License-Identifier: Apache-2.0 */
/* cli/host.h - verbs of `mete` on a host: they speak to meted over its Unix socket. */
#pragma once
#include <jansson.h>
#include <stdbool.h>
#include "base/err.h"
#include "cli/table.h"
#include "cli/verb.h"

#define HOST_SOCKET    "/run/mete/meted.sock"
#define HOST_SP_SOCKET "/run/mete-sp/sp.sock"

extern const struct verb host_verbs[];
extern const size_t host_verbs_n;
/* Those for other hosts and their certificates. */
extern const struct verb move_verbs[];
extern const size_t move_verbs_n;
extern const struct verb server_verbs[];
extern const size_t server_verbs_n;
extern const struct verb handover_verbs[];
extern const size_t handover_verbs_n;
extern const struct verb consolidate_verbs[];
extern const size_t consolidate_verbs_n;
extern const struct verb pki_verbs[];
extern const size_t pki_verbs_n;

/* Verbs that a manager has, too, take these: then it is asked, and not the meted of this host. */
/* clang-format off */
#define HOST_MANAGER_OPTIONS                                                                                                        \
        {"--manager", "URL", "ask this mete-manager: https://HOST[:PORT], or the path of its socket (METE_MANAGER)", false, true},  \
        {"--cert", "FILE", "certificate to show it (METE_CERT; default /etc/mete/operator.crt)", false, true},                      \
        {"--key", "FILE", "its key (METE_KEY; as the certificate, ending in .key)", false, true},                                   \
        {"--ca", "FILE", "the authority (METE_CA; ca.crt beside the certificate)", false, true}
/* clang-format on */
/* NULL: none is named. Borrowed. */
const char *host_manager(const struct arguments *a);
struct http_client;
/* A connection to it. Asked over TLS, it has shown a manager's certificate. */
struct http_client *host_manager_connect(const char *url, const struct arguments *a, struct err *err);

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
/* The same on one line, of one entry of many. */
bool host_json_line(const struct arguments *a, const json_t *event);
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

/* One line of what others have said: control characters become '?'. */
void host_print_line(char *text);
/* As `mete events` has it, with two columns of at least these widths. */
void host_print_event(const json_t *event, int trace_width, int subject_width);
void host_print_move(const json_t *move);
/* Where --to is a hypervisor of the server that this one is of, the VM is handed over, and not moved by copy
 * (S.6): done then, *ret is the exit status. false: it is not, as far as can be known. */
bool host_hand_over_instead(const struct arguments *a, int *ret);

/* The verbs, by file. */
int host_server_upgrade(const struct arguments *a);
/* The exit status that goes with an upgrade as it stands; is_cancel: of the command that wanted it undone. */
int host_upgrade_status(const json_t *upgrade, bool is_cancel);
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
int host_why(const struct arguments *a);
int host_doctor(const struct arguments *a);
int host_peers(const struct arguments *a);
extern const struct verb manager_verbs[];
extern const size_t manager_verbs_n;
/* "its certificate is valid for 12 days", of a host or of a peer. false: it is not known. */
bool host_certificate_ends(const json_t *object, char *text, size_t size, int64_t *ret_days);
