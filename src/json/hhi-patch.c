/* SPDX-License-Identifier: Apache-2.0 */
/* JSON merge patches (RFC 7396). Documents have no null, so that a null in a patch means one thing: gone. */
#include <errno.h>
#include "json/hhi.h"
#include "json/read.h"

/* The members of `new` that `old` has not, or has otherwise, and a null for those that are gone. A member
 * that is an object in both is compared member by member: a bounded document bounds the recursion. */
json_t *hhi_diff(const json_t *old, const json_t *new)
{
        json_t *patch = json_object(), *value;
        const char *key;
        bool ok = patch != NULL;
        json_object_foreach((json_t *)new, key, value)
        {
                json_t *was = json_object_get(old, key);
                if (was && json_equal(was, value))
                        continue;
                ok = ok && json_object_set_new(patch, key,
                                               json_is_object(was) && json_is_object(value)
                                                       ? hhi_diff(was, value)
                                                       : json_deep_copy(value)) == 0;
        }
        json_object_foreach((json_t *)old, key, value) if (!json_object_get(new, key)) ok =
                ok && json_object_set_new(patch, key, json_null()) == 0;
        if (!ok) {
                json_decref(patch);
                return NULL;
        }
        return patch;
}

/* Into an object that is ours alone. 0, -EINVAL (too deep), -ENOMEM. */
static int merge(json_t *target, const json_t *patch, int depth)
{
        json_t *value;
        const char *key;
        int r = 0;
        if (depth == 0)
                return -EINVAL;
        json_object_foreach((json_t *)patch, key, value)
        {
                json_t *was = json_object_get(target, key);
                if (json_is_null(value)) {
                        (void)json_object_del(target, key);
                        continue;
                }
                if (!json_is_object(value)) {
                        if (json_object_set_new(target, key, json_deep_copy(value)) < 0)
                                return -ENOMEM;
                        continue;
                }
                /* Into nothing as well: the nulls of a patch are never members. */
                if (!json_is_object(was)) {
                        if (json_object_set_new(target, key, json_object()) < 0)
                                return -ENOMEM;
                        was = json_object_get(target, key);
                }
                if ((r = merge(was, value, depth - 1)) < 0)
                        return r;
        }
        return 0;
}

int hhi_apply(json_t **hhi, const json_t *patch, struct err *err)
{
        if (!json_is_object(patch))
                return err_set(err, REASON_INVALID, EINVAL, "HHI: a patch is an object");
        json_t *copy = json_deep_copy(*hhi);
        int r = copy ? merge(copy, patch, JSON_DEPTH_MAX) : -ENOMEM;
        if (r == -ENOMEM)
                r = err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
        else if (r < 0)
                r = err_set(err, REASON_INVALID, EINVAL, "HHI: a patch nested deeper than %d",
                            JSON_DEPTH_MAX);
        else
                r = hhi_check(copy, err);
        if (r < 0) {
                json_decref(copy);
                return r;
        }
        json_decref(*hhi);
        *hhi = copy;
        return 0;
}
