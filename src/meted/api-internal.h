/* SPDX-License-Identifier: Apache-2.0 */
/* meted/api-internal.h - what the files of the API share: api.c takes a request apart, asks who may, and
 * answers; api-vm.c does what is asked of VMs. */
#pragma once
#include <jansson.h>
#include "base/err.h"
#include "meted/machine.h"
#include "meted/meted.h"
#include "wire/http.h"

/* Takes the body, which may be NULL. */
void api_reply(struct http_request *req, int status, json_t *body);
void api_reply_vm(struct http_request *req, const struct machine *v);
/* With the status that the error's reason has (api_refuse(), in meted.h), or another one. */
void api_refuse_status(struct http_request *req, int status, const struct err *err);
void api_refuse_with(struct http_request *req, enum reason reason, const char *sentence);

/* Each answers at once, or when what was asked for is durable or has happened. */
void api_vm_create(struct meted *m, struct http_request *req, const json_t *body);
void api_vm_delete(struct meted *m, struct http_request *req, struct machine *v);
void api_vm_start(struct meted *m, struct http_request *req, struct machine *v);
void api_vm_stop(struct meted *m, struct http_request *req, struct machine *v, const json_t *body);
void api_vm_kill(struct meted *m, struct http_request *req, struct machine *v);
void api_vm_verify(struct meted *m, struct http_request *req, struct machine *v);
