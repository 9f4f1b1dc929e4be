/* SPDX-License-Identifier: Apache-2.0 */
/* meted/hhi.h - guests are told of their host (2.1 to 2.12): the whole machine once, then what has changed.
 *
 * The document (json/hhi.h) is the machine's, and the same for all but for its marks. Of each guest that
 * listens three rows a component are kept: as it is now, as the guest knows it, and as it was when what is
 * under way was written. So a delta costs what has changed, and the document is only written for a guest that
 * wants all of it. When what is told, and against which generation, core/telling.h decides. */
#pragma once
#include "json/api.h"
#include "meted/meted.h"

struct machine;
struct need;
struct listener;

/* The document, from the inventory's source. */
int hhi_init(struct meted *m, struct err *err);
void hhi_done(struct meted *m);
/* Read anew, as something is there that was not, or the other way round: whoever listens gets all of it. */
int hhi_rebuild(struct meted *m, struct err *err);
/* Something was decided, and is durable: whoever has another view now is told of it. */
void hhi_changed(struct meted *m);

/* The guest wants to be told from now on, and has that generation; 0: none. It is told on v->agent. */
void hhi_watch(struct machine *v, uint64_t generation);
/* It has come here, and was told up to that generation where it was. */
void hhi_follow(struct machine *v, int64_t generation);
/* Its channel is gone. It goes on with what it has when it is back. */
void hhi_unwatch(struct machine *v);
/* The VM is removed. */
void hhi_forget(struct machine *v);
/* Was what is needed chosen from a view that is no longer so (2.14)? *err says what is not. */
bool hhi_is_stale(const struct machine *v, uint64_t generation, const struct need *needs, size_t n,
                  struct err *err);
/* Which generation the guest has, by its own word; 0: none, or it does not listen. */
uint64_t hhi_known(const struct machine *v);
/* The latest that it may have been told, for who tells it next; 0: none. */
int64_t hhi_latest(const struct machine *v);
