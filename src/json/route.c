/* SPDX-License-Identifier: Apache-2.0 */
#include "json/route.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "json/field.h"
#include "json/query.h"

/* Whether path is the pattern, and what stands there for the part in braces (n bytes at *ret_part). */
static bool matches(const char *pattern, const char *path, const char **ret_part, size_t *ret_n)
{
        size_t before = strcspn(pattern, "{");
        *ret_part = path;
        *ret_n = 0;
        if (strncmp(pattern, path, before) != 0)
                return false;
        if (pattern[before] == '\0')
                return path[before] == '\0';
        const char *after = strchr(pattern, '}') + 1;
        *ret_part = path + before;
        *ret_n = strcspn(path + before, "/");
        return strcmp(after, path + before + *ret_n) == 0;
}

static int part_read(const struct api_route *route, const char *text, size_t n, char part[ROUTE_PART],
                     struct err *err)
{
        const char *open = strchr(route->path, '{');
        char name[32];
        (void)snprintf(name, sizeof(name), "%.*s", (int)strcspn(open + 1, "}"), open + 1);
        struct field_at at = {.name = name};
        int length = query_unescape(text, n, 0, part, ROUTE_PART);
        if (length < 0)
                return err_set(err, REASON_INVALID, EINVAL, "%s: has a bad %%-escape, or more than %d bytes",
                               name, ROUTE_PART - 1);
        return field_text(&at, part, (size_t)length, 1, ROUTE_PART - 1,
                          route->part_is_id ? FIELD_ID : FIELD_NAME, err);
}

const struct api_route *route_find(const struct api_route *routes, size_t n, const char *method,
                                   const char *path, char part[ROUTE_PART], struct err *err)
{
        char has[64] = "";
        part[0] = '\0';
        for (size_t i = 0; i < n; i++) {
                const char *text;
                size_t length;
                if (!matches(routes[i].path, path, &text, &length))
                        continue;
                if (strcmp(routes[i].method, method) != 0) {
                        size_t used = strlen(has);
                        (void)snprintf(has + used, sizeof(has) - used, "%s%s", used ? ", " : "",
                                       routes[i].method);
                        continue;
                }
                if (routes[i].has_part && part_read(&routes[i], text, length, part, err) < 0)
                        return NULL;
                return &routes[i];
        }
        if (has[0])
                err_set(err, REASON_INVALID, ENOTSUP, "this path takes %s", has);
        else
                err_set(err, REASON_NOT_FOUND, ENOENT,
                        "no such path; /openapi.json lists those that there are");
        return NULL;
}
