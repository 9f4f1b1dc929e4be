/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/agent.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/log.h"
#include "base/str.h"

enum {
        SAVE_AGAIN_MS = 1000,
        HOLD_AGAIN_MS = 1000,
        WATCH_MS = 60000,
        WATCH_WAIT_MS = 1000,
        WATCH_WAIT_MAX_MS = 60000
};

/* ---- the table's files ---- */

static void on_commit(void *arg)
{
        struct agent *a = arg;
        struct err why = {0};
        bool failed = false;

        for (size_t i = 0; i < a->table.n; i++)
                if (table_save(&a->table, a->table.rows[i], &why) < 0)
                        failed = true;
        if (failed != a->is_save_failing) {
                if (failed)
                        log_error("the table is only in memory: %s", why.sentence);
                else
                        log_note("the table is written again");
        }
        a->is_save_failing = failed;
        if (failed)
                loop_timer_in(&a->save_again, SAVE_AGAIN_MS);
}

static void on_save_again(void *arg)
{
        desk_changed(arg);
}

/* ---- control groups ---- */

static struct holds *make_holds(const struct agent_options *o)
{
        char mountinfo[256], cpus[256];
        bool is_real = strcmp(o->sys, "/sys") == 0;
        const char *lack;

        (void)snprintf(mountinfo, sizeof(mountinfo), "%s/mountinfo", o->sys);
        (void)snprintf(cpus, sizeof(cpus), "%s/devices/system/cpu", o->sys);
        struct hold_options hold = {.mountinfo = is_real ? NULL : mountinfo,
                                    .proc = "/proc",
                                    .systemd = is_real ? "/run/systemd/system" : "",
                                    .cpus = cpus,
                                    .records = o->state,
                                    .is_fake = !is_real};
        struct holds *holds = holds_new(&hold);
        const char *name = holds_provider(holds, &lack);
        if (*lack)
                log_note("held for applications by: %s; %s", name, lack);
        else
                log_info("held for applications by: %s", name);
        return holds;
}

static void on_hold_again(void *arg)
{
        struct agent *a = arg;

        if (holds_retry(a->holds) > 0)
                loop_timer_in(&a->hold_again, HOLD_AGAIN_MS);
}

/* ---- the host ---- */

static void fill_hello(void *arg, struct api_guest_hello *hello)
{
        struct agent *a = arg;

        (void)STR_COPY(hello->boot_id, a->boot_id);
        (void)STR_COPY(hello->features[hello->n_features++], "limits");
        online_state(a->online, &hello->state);
}

static void fill_sync(void *arg, struct api_guest_sync *sync)
{
        struct agent *a = arg;

        for (size_t i = 0; i < a->table.n && sync->n_requests < ARRAY_N(sync->requests); i++)
                if (row_is_open(a->table.rows[i]))
                        (void)STR_COPY(sync->requests[sync->n_requests++], a->table.rows[i]->id);
}

static bool is_live(const struct api_guest_synced *synced, const char *id)
{
        for (size_t i = 0; i < synced->n_live; i++)
                if (strcmp(synced->live[i], id) == 0)
                        return true;
        return false;
}

void agent_say_host(const struct agent *a, struct api_app_host *ret)
{
        *ret = (struct api_app_host){.generation = (int64_t)a->picture.generation};
        if (a->picture.generation == 0)
                return;
        ret->has_xml = ret->has_json = true;
        (void)snprintf(ret->xml, sizeof(ret->xml), "%.240s/" PICTURE_XML, a->picture.dir);
        (void)snprintf(ret->json, sizeof(ret->json), "%.240s/" PICTURE_JSON, a->picture.dir);
}

static void watch_later(struct agent *a, const char *why)
{
        log_warn("the host does not tell of its hardware, asked again in %lld ms: %s",
                 (long long)a->watch_wait_ms, why);
        loop_timer_in(&a->watch, a->watch_wait_ms);
        a->watch_wait_ms = MIN(2 * a->watch_wait_ms, WATCH_WAIT_MAX_MS);
}

static void on_watched(void *arg, const json_t *result, const struct err *err)
{
        struct agent *a = arg;

        if (err && err->reason != REASON_CANCELLED && err->reason != REASON_UNSUPPORTED &&
            channel_is_ready(a->channel))
                watch_later(a, err->sentence);
}

static void watch_host(void *arg)
{
        struct agent *a = arg;
        struct api_guest_hhi_known known = {.generation = (int64_t)a->picture.generation};
        struct err why = {0};

        picture_forget_coming(&a->picture);
        if (channel_is_ready(a->channel) && channel_has_hhi(a->channel) &&
            channel_call(a->channel, API_GUEST_HHI_WATCH, api_guest_hhi_known_emit(&known), WATCH_MS,
                         on_watched, a, &why) < 0)
                watch_later(a, why.sentence);
}

static void on_hhi(struct agent *a, struct rpc_call *call, const json_t *params)
{
        struct api_guest_hhi *said = g_new(struct api_guest_hhi, 1);
        struct api_app_host host;
        struct err why = {0};

        if (api_guest_hhi_parse(params, said, &why) < 0) {
                rpc_refuse(call, RPC_WRONG_PARAMS, &why);
                g_free(said);
                return;
        }
        enum picture_outcome out = picture_take(&a->picture, said, &why);
        struct api_guest_hhi_done done = {.applied = out != PICTURE_REFUSED};
        rpc_reply(call, api_guest_hhi_done_emit(&done));
        if (out == PICTURE_REFUSED)
                log_note("host hardware information is not taken: %s", why.sentence);
        else if (out == PICTURE_SAME)
                log_info("host hardware information is as before, generation %lld",
                         (long long)said->generation);
        g_free(said);
        if (out != PICTURE_CHANGED)
                return;
        agent_say_host(a, &host);
        log_note("host hardware information has changed, generation %lld", (long long)host.generation);
        project_view_changed(&a->project);
        json_t *event = api_app_host_emit(&host);
        apps_tell(a->apps, api_app_methods[API_APP_HOST_CHANGED].name, event);
        json_decref(event);
}

/* What the host does not know any more has ended there. Requests without a verdict are asked again whether it
 * knows them or not. */
static void on_synced(void *arg, const struct api_guest_synced *synced)
{
        struct agent *a = arg;

        for (size_t i = 0; i < a->table.n; i++) {
                struct row *row = a->table.rows[i];
                if (is_live(synced, row->id))
                        continue;
                if (row->state == ROW_GRANTED || row->state == ROW_OFFERED)
                        desk_taken(row, REASON_STALE, "the host no longer has it");
        }
        a->watch_wait_ms = WATCH_WAIT_MS;
        loop_timer_cancel(&a->watch);
        watch_host(a); /* first: what is asked for below can be more than the host takes at once */
        for (size_t i = 0; i < a->table.n; i++)
                desk_pursue_now(a->table.rows[i]);
}

static void on_lost(void *arg, const struct err *err)
{
        struct agent *a = arg;

        for (size_t i = 0; i < a->table.n; i++) {
                struct row *row = a->table.rows[i];
                if (row->state == ROW_SENT || row->state == ROW_ACCEPTING || row->state == ROW_RELEASING)
                        (void)STR_COPY(row->problem, err->sentence);
        }
}

static void on_ended(void *arg, const struct api_guest_ended *ended)
{
        struct agent *a = arg;
        struct row *row = table_find(&a->table, ended->request);

        if (row != NULL)
                desk_taken(row, ended->reason, ended->sentence);
}

static void on_host_request(void *arg, struct rpc_call *call, enum api_guest_method method,
                            const json_t *params)
{
        struct agent *a = arg;
        struct api_guest_online online;
        struct api_guest_offline offline;
        struct api_guest_state state;
        struct err why = {0};

        if (method == API_GUEST_ONLINE && api_guest_online_parse(params, &online, &why) == 0) {
                online_request(a->online, &online, call);
        } else if (method == API_GUEST_OFFLINE && api_guest_offline_parse(params, &offline, &why) == 0) {
                struct cpulist cpus = {0};
                for (size_t i = 0; i < offline.n_cpus; i++)
                        (void)cpulist_add(&cpus, (uint32_t)offline.cpus[i]);
                holds_yield(a->holds, &cpus);
                online_offline(a->online, &offline, &state);
                rpc_reply(call, api_guest_state_emit(&state));
        } else if (method == API_GUEST_HHI) {
                on_hhi(a, call, params);
        } else {
                rpc_refuse(call, RPC_WRONG_PARAMS, &why);
        }
}

/* ---- coming and going ---- */

static int read_boot_id(char id[64], struct err *err)
{
        int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
        ssize_t n = fd >= 0 ? read(fd, id, 63) : -1;

        if (fd >= 0)
                (void)close(fd);
        if (n <= 0)
                return err_set(err, REASON_INTERNAL, EIO, "/proc/sys/kernel/random/boot_id cannot be read");
        id[n] = '\0';
        id[strcspn(id, "\n")] = '\0';
        return 0;
}

/* The folder above the socket, where it is missing: /run/mete is ours to make. */
static void make_folder_of(const char *path)
{
        char folder[256];
        const char *slash = strrchr(path, '/');

        if (slash == NULL || slash == path || (size_t)(slash - path) >= sizeof(folder))
                return;
        memcpy(folder, path, (size_t)(slash - path));
        folder[slash - path] = '\0';
        (void)mkdir(folder, 0755);
}

int agent_init(struct agent *a, const struct agent_options *o, struct err *err)
{
        static const struct channel_owner owner = {.fill_hello = fill_hello,
                                                   .fill_sync = fill_sync,
                                                   .on_synced = on_synced,
                                                   .on_lost = on_lost,
                                                   .on_request = on_host_request,
                                                   .on_ended = on_ended};

        *a = (struct agent){.table = {.dir_fd = -1}};
        loop_turn_init(&a->commit, LOOP_COMMIT, on_commit, a);
        loop_timer_init(&a->save_again, on_save_again, a);
        loop_timer_init(&a->hold_again, on_hold_again, a);
        loop_timer_init(&a->watch, watch_host, a);
        make_folder_of(o->socket);
        make_folder_of(o->state);
        int r = read_boot_id(a->boot_id, err);
        if (r < 0)
                return r;
        /* The socket first: it is what keeps a second agent from the same table. */
        a->apps = apps_new(o->socket, desk_request, a, err);
        if (a->apps == NULL)
                return -err->code;
        a->online = online_new(o->sys);
        r = table_open(&a->table, o->state, a->boot_id, err);
        if (r < 0) {
                apps_free(a->apps);
                online_free(a->online);
                return r;
        }
        a->holds = make_holds(o);
        g_autofree char *folder = g_path_get_dirname(o->socket);
        picture_init(&a->picture, folder);
        declarations_init(&a->declarations, o->state);
        a->channel = channel_new(o->port, &owner, a);
        for (size_t i = 0; i < a->table.n; i++)
                desk_row_begin(a, a->table.rows[i]);
        rows_hold_all(a);
        project_init(&a->project, a, o);
        if (a->table.n > 0)
                log_note("%zu requests read back", a->table.n);
        return 0;
}

/* Rows stay: another agent will take them over. Applications that wait are not refused: they lose the
 * connection, and ask the next agent with the same ids. */
void agent_done(struct agent *a)
{
        struct err why = {0};
        struct rpc_call *call;

        on_commit(a);
        apps_free(a->apps);
        a->apps = NULL;
        project_done(&a->project);
        (void)err_set(&why, REASON_PEER_LOST, ECONNRESET, "the agent is stopping");
        for (size_t i = 0; i < a->table.n; i++) {
                struct row *row = a->table.rows[i];
                while ((call = waiters_take(&row->ask)) != NULL || (call = waiters_take(&row->done)) != NULL)
                        rpc_refuse(call, RPC_REFUSED, &why); /* goes nowhere */
                desk_row_end(row);
        }
        channel_free(a->channel);
        online_free(a->online);
        holds_free(a->holds);
        picture_done(&a->picture);
        loop_timer_cancel(&a->save_again);
        loop_timer_cancel(&a->hold_again);
        loop_timer_cancel(&a->watch);
        loop_turn_cancel(&a->commit);
        table_done(&a->table);
}
