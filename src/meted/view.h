/* SPDX-License-Identifier: Apache-2.0 */
/* meted/view.h - what the API shows, made from what is true now. New references; NULL with *err set. */
#pragma once
#include <jansson.h>
#include "json/api.h"
#include "meted/meted.h"

json_t *view_health(const struct meted *m);
json_t *view_host(const struct meted *m);
void view_vm(const struct machine *v, struct api_vm *ret);
json_t *view_vms(struct meted *m, const char *query, struct err *err);
json_t *view_ledger(struct meted *m, const char *query, struct err *err);
json_t *view_leases(struct meted *m, const char *query, struct err *err);
json_t *view_definitions(struct meted *m, const char *query, struct err *err);
json_t *view_events(struct meted *m, const struct api_event_query *q, struct err *err);
json_t *view_event(const struct store_event *e);
