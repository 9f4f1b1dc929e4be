/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>
#include "agent/agent.h"
#include "agent/choose.h"

static int take_token(struct agent *a, const struct app *app, struct err *err)
{
        return apps_take_token(a->apps, app->uid)
                       ? 0
                       : err_set(err, REASON_BUSY, EBUSY, "slow down: too many requests of this user");
}

/* What the whole host could not give is no declaration, nor is what this VM may never have. */
static int check_capacity(const struct agent *a, const char *text, struct err *err)
{
        struct need need;
        if (!a->picture.hhi || need_parse(text, &need, NULL) < 0)
                return 0; /* what is wrong with it is said later */
        int64_t all = choose_capacity(a->picture.hhi, need.kind);
        all = need.kind == COMPONENT_CPU ? all / CPU_WHOLE_MILLI : all;
        if (all > 0 && need.amount > all)
                return err_set(err, REASON_NO_CAPACITY, ENOSPC, "%s: this host has less than that in all",
                               text);
        int64_t limit = channel_limit(a->channel, need.kind);
        char most[UNITS_TEXT];
        if (limit > 0 && need.amount > limit)
                return err_set(err, REASON_POLICY, EPERM,
                               "%s: this VM may have %s at most, by its definition", text,
                               need_amount_print(need.kind, limit, most));
        return 0;
}

void desk_declare(struct agent *a, const struct app *app, struct rpc_call *call, const json_t *params)
{
        const struct api_app_declaration *row = NULL;
        struct api_app_declare q;
        struct err why = {0};

        if (api_app_declare_parse(params, &q, &why) == 0 && take_token(a, app, &why) == 0 &&
            check_capacity(a, q.need, &why) == 0)
                row = declarations_add(&a->declarations, app->uid, &q, loop_now_ms(), &why);
        if (row)
                rpc_reply(call, api_app_declaration_emit(row));
        else
                desk_refuse(call, &why);
}

void desk_declared(struct agent *a, const struct app *app, struct rpc_call *call)
{
        struct api_app_declarations shown = {0};
        struct err why = {0};

        if (take_token(a, app, &why) < 0) {
                desk_refuse(call, &why);
                return;
        }
        declarations_tidy(&a->declarations, loop_now_ms());
        for (size_t i = 0; i < a->declarations.n; i++)
                if (app->uid == 0 || a->declarations.rows[i].uid == app->uid)
                        shown.declarations[shown.n_declarations++] = a->declarations.rows[i];
        rpc_reply(call, api_app_declarations_emit(&shown));
}

void desk_declare_drop(struct agent *a, const struct app *app, struct rpc_call *call, const json_t *params)
{
        struct api_app_declare_drop q;
        struct err why = {0};

        if (api_app_declare_drop_parse(params, &q, &why) == 0 && take_token(a, app, &why) == 0 &&
            declarations_drop(&a->declarations, app->uid, q.name, &why) == 0)
                rpc_reply(call, NULL);
        else
                desk_refuse(call, &why);
}
