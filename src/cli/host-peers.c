/* SPDX-License-Identifier: Apache-2.0 */
/* peers: the other hosts, as meted heard of them last. */
#include <inttypes.h>
#include <string.h>
#include <time.h>
#include "base/units.h"
#include "cli/exit.h"
#include "cli/host.h"

enum { DAY_MS = 86400 * 1000, NUMBER = 32 };

/* What is free of a kind in a hello; -1: it has none of it. */
static int64_t free_of(const json_t *peer, const char *kind)
{
        size_t i;
        json_t *row;
        json_array_foreach(json_object_get(json_object_get(peer, "hello"), "free"), i, row)
        {
                if (strcmp(host_text(row, "kind"), kind) == 0)
                        return host_number(row, "free");
        }
        return -1;
}

static const char *state_of(const json_t *peer)
{
        if (json_is_true(json_object_get(peer, "reachable")))
                return "reachable";
        return json_object_get(peer, "asked_ms") ? "unreachable" : "not asked";
}

static const char *clock_of(const json_t *peer, char ret[NUMBER])
{
        ret[0] = '\0';
        if (json_object_get(peer, "clock_ahead_ms"))
                (void)snprintf(ret, NUMBER, "%+" PRId64 "ms", host_number(peer, "clock_ahead_ms"));
        return ret;
}

int host_peers(const struct arguments *a)
{
        json_t *answer = NULL, *peer;
        struct err err = {0};
        char text[NUMBER];
        size_t i;
        if (host_pages(a, "/v1/peers", &answer, &err) < 0)
                return verb_fail(a, &err);
        if (!host_json(a, answer)) {
                struct table *t = table_new((const char *const[]){
                        "NAME", "STATE", "ADDRESS", "HEARD", "VERSION", "QEMU", ">CLOCK", "CERTIFICATE UNTIL",
                        ">FREE CPU", ">FREE MEMORY", "PROBLEM", NULL});
                json_array_foreach(json_object_get(answer, "peers"), i, peer)
                {
                        const json_t *hello = json_object_get(peer, "hello");
                        /* What is free there, and its clock, are of now, or not known. */
                        bool is_now = json_is_true(json_object_get(peer, "reachable"));
                        int64_t cpu = is_now ? free_of(peer, "cpu") : -1;
                        int64_t memory = is_now ? free_of(peer, "memory") : -1;
                        table_text(t, host_text(peer, "name"));
                        table_text(t, state_of(peer));
                        table_text(t, host_text(peer, "address"));
                        table_time(t, host_number(peer, "heard_ms"));
                        table_text(t, host_text(hello, "version"));
                        table_text(t, host_text(hello, "qemu"));
                        table_text(t, is_now ? clock_of(peer, text) : "");
                        table_time(t, host_number(peer, "certificate_end_ms"));
                        table_text(t, cpu < 0 ? "" : units_print_milli(cpu, (char[UNITS_TEXT]){0}));
                        if (memory < 0)
                                table_text(t, "");
                        else
                                table_bytes(t, memory);
                        table_text(t, host_text(peer, "problem"));
                }
                table_print(t, stdout, "none");
                table_free(t);
        }
        json_decref(answer);
        return EXIT_OK;
}

bool host_certificate_ends(const json_t *object, char *text, size_t size, int64_t *ret_days)
{
        int64_t end_ms = host_number(object, "certificate_end_ms");
        if (end_ms == 0)
                return false;
        *ret_days = (end_ms - (int64_t)time(NULL) * 1000) / DAY_MS;
        if (end_ms <= (int64_t)time(NULL) * 1000)
                (void)snprintf(text, size, "its certificate has expired");
        else
                (void)snprintf(text, size, "its certificate is valid for %" PRId64 " days", *ret_days);
        return true;
}
