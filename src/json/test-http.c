/* SPDX-License-Identifier: Apache-2.0 */
/* Routes, queries, statuses, the OpenAPI document. */
#include <errno.h>
#include <glib.h>
#include <string.h>

#include "json/api.h"
#include "json/read.h"
#include "json/route.h"

static char part[ROUTE_PART];
static struct err err;

static int find(const char *method, const char *path)
{
        const struct api_route *r =
                route_find(api_meted_routes, api_meted_routes_n, method, path, part, &err);
        return r ? r->operation : 0;
}

static void test_each_route_is_found(void)
{
        for (size_t i = 0; i < api_meted_routes_n; i++) {
                const struct api_route *r = &api_meted_routes[i];
                g_auto(GStrv) pieces = g_regex_split_simple("\\{[a-z]+\\}", r->path, 0, 0);
                g_autofree char *path = g_strjoinv("v-1", pieces);
                g_assert_true(route_find(api_meted_routes, api_meted_routes_n, r->method, path, part, &err) ==
                              r);
                g_assert_cmpstr(part, ==, r->has_part ? "v-1" : "");
                g_assert_true(r->role == API_ROLE_OBSERVER || r->role == API_ROLE_HYPERVISOR ||
                              strcmp(r->method, "GET") != 0);
                /* Peers and all others have nothing in common; an operator may do what the others may. */
                g_assert_true(api_role_may(API_ROLE_HYPERVISOR, r) != api_role_may(API_ROLE_OPERATOR, r));
                g_assert_true(api_role_may(API_ROLE_OPERATOR, r) || !api_role_may(API_ROLE_MANAGER, r));
                g_assert_true(api_role_may(API_ROLE_MANAGER, r) || !api_role_may(API_ROLE_OBSERVER, r));
                g_assert_true(api_role_may(r->role, r));
                g_assert_false(api_role_may(0, r));
                g_assert_cmpstr(api_operation_name(r->operation), !=, "none");
        }
}

static void test_route_refusals(void)
{
        g_assert_cmpint(find("GET", "/v1/nothing"), ==, 0);
        g_assert_cmpint(err.reason, ==, REASON_NOT_FOUND);
        g_assert_cmpint(find("GET", "/v1/vms/a/b/c"), ==, 0);
        g_assert_cmpint(err.reason, ==, REASON_NOT_FOUND);
        g_assert_cmpint(find("PUT", "/v1/vms"), ==, 0);
        g_assert_cmpint(err.code, ==, ENOTSUP);
        g_assert_cmpstr(err.sentence, ==, "this path takes GET, POST");
        static const char *const bad[] = {"/v1/vms/..",    "/v1/vms/%2e%2e", "/v1/vms/a%2fb",
                                          "/v1/vms/a%00b", "/v1/vms/%zz",    "/v1/vms/a%4",
                                          "/v1/vms/",      "/v1/vms/-a",     "/v1/vms/a:b"};
        for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
                err = (struct err){0};
                g_assert_cmpint(find("GET", bad[i]), ==, 0);
                g_assert_cmpint(err.reason, ==, REASON_INVALID);
                g_assert_true(g_str_has_prefix(err.sentence, "name: "));
        }
        g_autofree char *longest = g_strnfill(63, 'x');
        g_autofree char *fits = g_strconcat("/v1/vms/", longest, NULL);
        g_autofree char *too_long = g_strconcat("/v1/vms/", longest, "x", NULL);
        g_assert_cmpint(find("GET", fits), ==, API_OPERATION_VM_SHOW);
        g_assert_cmpint(find("GET", too_long), ==, 0);
        g_assert_cmpint(find("DELETE", "/v1/reservations/a%3Ab"), ==, API_OPERATION_RESERVATION_DELETE);
        g_assert_cmpstr(part, ==, "a:b");
}

static void query_says(const char *text, const char *sentence)
{
        struct api_page_query q;
        g_assert_cmpint(api_page_query_read(text, &q, &err), ==, -EINVAL);
        g_assert_cmpint(err.reason, ==, REASON_INVALID);
        g_assert_cmpstr(err.sentence, ==, sentence);
}

static void test_query(void)
{
        struct api_page_query q;
        g_assert_cmpint(api_page_query_read(NULL, &q, &err), ==, 0);
        g_assert_false(q.has_after || q.has_limit);
        g_assert_cmpint(api_page_query_read("&limit=10&&after=a%26b+%C3%A9&", &q, &err), ==, 0);
        g_assert_true(q.has_after && q.has_limit);
        g_assert_cmpint(q.limit, ==, 10);
        g_assert_cmpstr(q.after, ==, "a&b \xc3\xa9");
        query_says("limit=1&limit=2", "query: a field stands there twice");
        query_says("limit=0", "limit: must be at least 1");
        query_says("limit=0x10", "limit: must be an integer");
        query_says("limit=010", "limit: must be an integer");
        query_says("limit=99999999999999999999", "limit: must be an integer");
        query_says("limit", "limit: must be an integer");
        query_says("before=1", "unknown field \"before\"");
        query_says("after=%", "query: bad %-escape");
        query_says("after=%00", "query: bad %-escape");
        query_says("after=%ff", "query: not UTF-8");
        query_says("%ff=1", "query: not UTF-8");
        query_says("after=%0a", "after: must not contain control characters");
        g_autofree char *huge = g_strnfill(2049, 'x');
        query_says(huge, "query: more than 2048 bytes");
}

static void test_status(void)
{
        for (int r = 1; r < REASON_N; r++)
                g_assert_cmpint(api_http_status((enum reason)r), >=, 400);
        g_assert_cmpint(api_http_status(REASON_NOT_FOUND), ==, 404);
        g_assert_cmpint(api_http_status(0), ==, 500);
        g_assert_cmpint(api_http_status(REASON_N), ==, 500);
}

/* The document is JSON, has each route with its operation and role, and no reference leads nowhere. */
static json_t *resolve(json_t *document, const char *ref)
{
        g_auto(GStrv) steps = g_strsplit(ref, "/", -1);
        for (size_t i = 1; steps[i] && document; i++)
                document = json_object_get(document, steps[i]);
        return document;
}

static size_t check_refs(json_t *document, json_t *v)
{
        size_t found = 0, i;
        const char *key;
        json_t *child;
        if (json_is_object(v)) {
                json_object_foreach(v, key, child)
                {
                        if (strcmp(key, "$ref") == 0) {
                                g_assert_nonnull(resolve(document, json_string_value(child)));
                                found++;
                        } else {
                                found += check_refs(document, child);
                        }
                }
        } else if (json_is_array(v)) {
                json_array_foreach(v, i, child) found += check_refs(document, child);
        }
        return found;
}

static void test_openapi(void)
{
        json_error_t fault;
        json_t *document = json_loads(api_meted_openapi, JSON_REJECT_DUPLICATES, &fault);
        g_assert_nonnull(document);
        for (size_t i = 0; i < api_meted_routes_n; i++) {
                const struct api_route *r = &api_meted_routes[i];
                g_autofree char *verb = g_ascii_strdown(r->method, -1);
                json_t *path = json_object_get(json_object_get(document, "paths"), r->path);
                json_t *o = json_object_get(path, verb);
                g_assert_cmpstr(json_string_value(json_object_get(o, "operationId")), ==,
                                api_operation_name(r->operation));
                g_assert_cmpstr(json_string_value(json_object_get(o, "x-role")), ==, api_role_name(r->role));
                json_t *responses = json_object_get(o, "responses");
                for (int reason = 1; reason < REASON_N; reason++) {
                        g_autofree char *status = g_strdup_printf("%d", api_http_status((enum reason)reason));
                        g_assert_nonnull(json_object_get(responses, status));
                }
        }
        g_assert_cmpuint(check_refs(document, document), >, 100);
        json_decref(document);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/http/each-route-is-found", test_each_route_is_found);
        g_test_add_func("/http/route-refusals", test_route_refusals);
        g_test_add_func("/http/query", test_query);
        g_test_add_func("/http/status", test_status);
        g_test_add_func("/http/openapi", test_openapi);
        return g_test_run();
}
