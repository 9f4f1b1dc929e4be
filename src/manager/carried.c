/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/carried.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "json/read.h"

static const char name[] = "etcd";

struct found {
        struct api_carried *mark;
        int n;
};

static int take(const char *of, const char *text, void *arg, struct err *err)
{
        struct found *f = arg;
        if (strcmp(of, name) != 0)
                return 0;
        json_t *v = json_read(text, strlen(text), err);
        int bad = v ? api_carried_parse(v, f->mark, err) : -EPROTO;
        json_decref(v);
        f->n += !bad;
        return bad ? err_note(err, "the mark that it was carried over") : 0;
}

int carried_read(struct store *file, struct api_carried *ret, struct err *err)
{
        struct found f = {.mark = ret};
        int bad = store_load_documents(file, STORE_CARRIED, take, &f, err);
        return bad ? bad : f.n;
}

int carried_write(struct store *file, const struct api_carried *mark, struct err *err)
{
        json_t *v = api_carried_emit(mark);
        char *text = v ? json_write(v, NULL) : NULL;
        json_decref(v);
        int bad = text ? store_put_document(file, STORE_CARRIED, name, text, err)
                       : err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
        free(text);
        bad = bad ? bad : store_commit(file, err);
        if (bad)
                store_rollback(file);
        return bad;
}

int carried_check(struct store *file, const char *path, struct err *err)
{
        struct api_carried mark = {0};
        int n = carried_read(file, &mark, err);
        if (n <= 0 || !mark.is_all)
                return n < 0 ? n : 0;
        return err_set(
                err, REASON_INCOMPATIBLE, EREMCHG,
                "what %.60s records was carried over to etcd, under %.60s: set [store] etcd, or take the "
                "file away to begin anew",
                path, mark.prefix);
}
