/* SPDX-License-Identifier: Apache-2.0 */
/* What managers and operators ask of moves, and what they are answered. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/str.h"
#include "core/order.h"
#include "meted/moves-internal.h"
#include "meted/moves.h"
#include "vm/disk-file.h"
#include "wire/http.h"

enum { MOVES_MAX = 256, DRY_MAX = 8, FINISHED_KEPT = 64, PAGE = 64 };
/* Of an order whose id is as long as it may be. With "move:" before it and ".NUMBER" behind it is still a
 * name. */
enum { MOVE_ID_MAX = ORDER_MOVE_ID - 1 };

/* Finished ones are shown for a while, those that ended last. */
static void trim(struct meted *m)
{
        for (;;) {
                GHashTableIter i;
                gpointer p;
                struct moving *oldest = NULL;
                unsigned n = 0;
                g_hash_table_iter_init(&i, m->moves->by_id);
                while (g_hash_table_iter_next(&i, NULL, &p)) {
                        struct moving *mv = p;
                        if (!move_may_be_forgotten(&mv->core) || mv->askers)
                                continue;
                        n++;
                        if (!oldest || mv->ended_ms < oldest->ended_ms)
                                oldest = mv;
                }
                if (n <= FINISHED_KEPT)
                        return;
                struct err err = {0};
                if (store_delete_document(m->store, STORE_MOVE, oldest->core.row.id, &err)) {
                        meted_unwritten(m, &err);
                        return;
                }
                source_forget(oldest);
                g_hash_table_remove(m->moves->by_id, oldest->core.row.id);
        }
}

/* It is a part of other names: of reservations, of outcomes. */
int moves_check_id(const char *id, struct err *err)
{
        return strlen(id) <= MOVE_ID_MAX && str_is_name(id)
                       ? 0
                       : err_set(err, REASON_INVALID, EINVAL, "id: a name of at most %d characters is wanted",
                                 MOVE_ID_MAX);
}

int moves_check_room(struct meted *m, struct err *err)
{
        trim(m);
        return g_hash_table_size(m->moves->by_id) < MOVES_MAX
                       ? 0
                       : err_set(err, REASON_BUSY, EBUSY, "%d moves are under way, more are not", MOVES_MAX);
}

static int check_ask(struct meted *m, const struct machine *v, const struct api_vm_move *in, struct err *err)
{
        const struct level l = {in->has_level && in->level.has_total_ms ? in->level.total_ms : 0,
                                in->has_level && in->level.has_downtime_ms ? in->level.downtime_ms : 0,
                                in->has_best_effort && in->best_effort};
        struct api_peer_disk disk;
        int bad = in->has_level ? level_check(&l, err) : 0;
        if (bad)
                return bad;
        if (strcmp(in->to, m->config.name) == 0)
                return err_set(err, REASON_INVALID, EINVAL, "%s is this host", in->to);
        if (machine_state(v) != API_VM_STATE_RUNNING)
                return err_set(err, REASON_STALE, ESTALE, "the VM %s does not run", v->definition.name);
        char path[512];
        machine_path(v, "guard.sock", path, sizeof(path));
        if (access(path, F_OK) < 0)
                return err_set(
                        err, REASON_UNSUPPORTED, EOPNOTSUPP,
                        "the VMM of %s was started without a monitor for the guard of a move: it can be "
                        "moved after its next start",
                        v->definition.name);
        bad = moves_check(m, v, err);
        if (!bad && hypervisor_vm_relocating(m->hv, v->definition.name, NULL) != RELOCATING_NOTHING)
                bad = err_set(err, REASON_BUSY, EBUSY,
                              "memory of %s is being moved from one node of this host to another: ask again "
                              "when that is done",
                              v->definition.name);
        bad = bad ? bad : copy_check(v->vm, &v->definition, err);
        if (!bad && v->definition.has_disk && !m->config.shares_disks)
                bad = err_set(err, REASON_UNSUPPORTED, EOPNOTSUPP,
                              "%s has a disk, and that is not said to be the same on all peers ([move] "
                              "shared_disks in mete.conf)",
                              v->definition.name);
        else if (!bad && v->definition.has_disk)
                bad = disk_file_see(m->config.image_dir, v->definition.disk, &disk, err);
        return bad ? bad : peers_can(m, in->to, err);
}

static struct moving *asked_for(struct meted *m, const struct machine *v, const struct api_vm_move *in,
                                struct level *ret_level)
{
        struct moving *mv = moving_new(m);
        (void)STR_COPY(mv->vm, v->definition.name);
        (void)STR_COPY(mv->peer, in->to);
        mv->on_miss = in->has_on_miss && in->on_miss == API_ON_MISS_FINISH ? ON_MISS_FINISH
                      : in->has_on_miss && in->on_miss == API_ON_MISS_ASK  ? ON_MISS_ASK
                                                                           : ON_MISS_ABORT;
        *ret_level = (struct level){in->has_level && in->level.has_total_ms ? in->level.total_ms : 0,
                                    in->has_level && in->level.has_downtime_ms ? in->level.downtime_ms : 0,
                                    !in->has_level || (in->has_best_effort && in->best_effort)};
        mv->is_best_effort = ret_level->is_best_effort;
        mv->asked_ms = loop_now_ms();
        return mv;
}

static struct moving *begin(struct meted *m, const struct machine *v, const struct api_vm_move *in,
                            const char *id)
{
        struct move_effects effects = {0};
        struct level level;
        struct moving *mv = asked_for(m, v, in, &level);
        move_begin(&mv->core, id, &level, v->epoch, mv->asked_ms, &effects);
        g_hash_table_insert(m->moves->by_id, mv->core.row.id, mv);
        move_say(mv, "move-asked", "to %s, total %lld ms, downtime %lld ms%s", mv->peer,
                 (long long)level.total_ms, (long long)level.downtime_ms,
                 level.is_best_effort ? ", best effort" : "");
        moving_apply(mv, &effects);
        moving_arm(mv);
        return mv;
}

static void begin_dry(struct meted *m, const struct machine *v, const struct api_vm_move *in, const char *id,
                      struct http_request *req)
{
        struct level level;
        struct moving *mv = asked_for(m, v, in, &level);
        mv->is_dry = true;
        mv->core.row.state = MOVE_PLANNING;
        mv->core.row.owner = OWNER_SOURCE;
        mv->core.row.level = level;
        (void)STR_COPY(mv->core.row.id, id);
        mv->askers = g_list_prepend(mv->askers, req);
        m->moves->dry = g_list_prepend(m->moves->dry, mv);
        source_profile(mv, 0);
}

void moves_ask(struct meted *m, struct http_request *req, struct machine *v, const json_t *body)
{
        struct api_vm_move in = {0};
        struct err err = {0};
        char drawn[40];
        int bad = api_vm_move_parse(body, &in, &err);
        (void)snprintf(drawn, sizeof(drawn), "m%08x%08x", g_random_int(), g_random_int());
        const char *id = in.has_id ? in.id : drawn;
        struct moving *mv = bad || (in.has_dry_run && in.dry_run) ? NULL : moving_find(m, id);
        if (mv && (strcmp(mv->vm, v->definition.name) != 0 || strcmp(mv->peer, in.to) != 0))
                bad = err_set(&err, REASON_INVALID, EEXIST, "the id %s was used before, for another move",
                              id);
        if (!bad && !mv) {
                bad = moves_check_id(id, &err);
                bad = bad ? bad : check_ask(m, v, &in, &err);
                bad = bad ? bad : moves_check_room(m, &err);
        }
        bool is_dry = in.has_dry_run && in.dry_run;
        if (!bad && is_dry && g_list_length(m->moves->dry) >= DRY_MAX)
                bad = err_set(&err, REASON_BUSY, EBUSY, "%d dry runs are under way, more are not", DRY_MAX);
        if (bad) {
                api_refuse(req, &err);
                return;
        }
        if (is_dry) {
                begin_dry(m, v, &in, id, req);
                return;
        }
        bool is_new = mv == NULL;
        mv = mv ? mv : begin(m, v, &in, id);
        mv->askers = g_list_prepend(mv->askers, req);
        /* It is decided: under way, countered, or over. */
        if (!is_new && (mv->core.row.tries > 0 || mv->core.row.state >= MOVE_COPYING ||
                        mv->core.row.state == MOVE_COUNTERED))
                moving_answer(mv);
}

static struct moving *asked(struct meted *m, struct http_request *req, const char *id)
{
        struct err err = {0};
        struct moving *mv = moving_find(m, id);
        if (!mv) {
                (void)err_set(&err, REASON_NOT_FOUND, ENOENT, "no move is called %s", id);
                api_refuse(req, &err);
        }
        return mv;
}

struct told {
        struct http_request *req;
        char id[MOVE_ID];
};

/* What has come of it is said once it is recorded. */
static void on_told(struct meted *m, void *call, const struct request *r, const struct err *err)
{
        struct told *t = call;
        struct moving *mv = moving_find(m, t->id);
        struct err gone = {0};
        (void)r;
        if (!err && !mv)
                (void)err_set(&gone, REASON_NOT_FOUND, ENOENT, "no move is called %s", t->id);
        if (err || !mv) {
                api_refuse(t->req, err ? err : &gone);
        } else {
                mv->askers = g_list_prepend(mv->askers, t->req);
                moving_answer(mv);
        }
        g_free(t);
}

/* done: what came of the word. Where it was too late nothing was done, and that is said. */
static void tell_later(struct moving *mv, struct http_request *req, int done, struct err *err)
{
        const struct move_row *row = &mv->core.row;
        if (done == 0)
                (void)err_set(err, mv->is_void || mv->is_loaded ? REASON_BUSY : REASON_STALE, EALREADY,
                              mv->is_void || mv->is_loaded ? "the move %s is being found again: ask again"
                                                           : "the move %s is %s: it is too late for that",
                              row->id, move_state_name(row->state));
        if (done <= 0) {
                api_refuse(req, err);
                return;
        }
        struct told *t = g_new0(struct told, 1);
        t->req = req;
        (void)STR_COPY(t->id, mv->core.row.id);
        meted_wait(mv->m, 0, WAIT_COMMIT, on_told, t);
        meted_changed(mv->m);
}

void moves_cancel(struct meted *m, struct http_request *req, const char *id)
{
        struct moving *mv = asked(m, req, id);
        struct move_event ev = {
                .kind = MOVE_EV_CANCEL, .reason = REASON_CANCELLED, .sentence = "it was cancelled"};
        struct err err = {0};
        if (!mv)
                return;
        int done = moving_step(mv, &ev, &err);
        if (mv->core.row.reason == REASON_CANCELLED && move_is_final(&mv->core))
                done = 1; /* it is as it was wanted */
        tell_later(mv, req, done, &err);
}

void moves_accept(struct meted *m, struct http_request *req, const char *id, const json_t *body)
{
        struct api_move_accept in = {0};
        struct err err = {0};
        struct moving *mv = asked(m, req, id);
        if (!mv)
                return;
        if (api_move_accept_parse(body, &in, &err)) {
                api_refuse(req, &err);
                return;
        }
        struct move_event ev = {
                .kind = MOVE_EV_ACCEPT,
                .level = {in.level.has_total_ms ? in.level.total_ms : 0,
                          in.level.has_downtime_ms ? in.level.downtime_ms : 0, mv->is_best_effort}
        };
        bool is_copied = mv->core.row.state == MOVE_COPYING;
        int done = is_copied ? source_accept(mv, &ev.level, &err) : 1;
        done = done > 0 ? moving_step(mv, &ev, &err) : done;
        if (is_copied && done > 0)
                source_accepted(mv);
        tell_later(mv, req, done, &err);
}

json_t *moves_show(const struct meted *m, const char *id, struct err *err)
{
        struct moving *mv = moving_find(m, id);
        if (!mv)
                (void)err_set(err, REASON_NOT_FOUND, ENOENT, "no move is called %s", id);
        return mv ? move_view(mv) : NULL;
}

static int by_name(gconstpointer a, gconstpointer b)
{
        return strcmp(*(char *const *)a, *(char *const *)b);
}

json_t *moves_list(const struct meted *m, const char *query, struct err *err)
{
        struct api_move_query q = {0};
        if (api_move_query_read(query, &q, err))
                return NULL;
        guint n = 0;
        gpointer *ids = g_hash_table_get_keys_as_array(m->moves->by_id, &n);
        qsort(ids, n, sizeof(*ids), by_name);
        json_t *list = json_array(), *page = json_object();
        size_t limit = q.has_limit ? (size_t)q.limit : PAGE;
        const char *last = NULL;
        for (guint i = 0; i < n; i++) {
                if (q.has_after && strcmp(ids[i], q.after) <= 0)
                        continue;
                if (json_array_size(list) == limit) {
                        (void)json_object_set_new(page, "next", json_string(last));
                        break;
                }
                last = ids[i];
                (void)json_array_append_new(list, move_view(moving_find(m, last)));
        }
        g_free(ids);
        (void)json_object_set_new(page, "moves", list);
        return page;
}
