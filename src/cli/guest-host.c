/* SPDX-License-Identifier: Apache-2.0 */
/* `mete host show` in a guest: its host as the agent has stored it. */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/str.h"
#include "cli/exit.h"
#include "cli/guest.h"
#include "cli/table.h"

static const char *text_of(const json_t *object, const char *name)
{
        const char *text = json_string_value(json_object_get(object, name));
        return text ? text : "";
}

/* For people: of much memory no more than whole MiB. */
static int64_t rounded(const json_t *object, int64_t amount)
{
        const int64_t mib = 1048576;
        return strcmp(text_of(object, "kind"), "memory") == 0 && amount >= 16 * mib ? amount / mib * mib
                                                                                    : amount;
}

static void amount(struct table *t, const char *id, const json_t *object, const char *name)
{
        const json_t *v = json_object_get(object, name);
        if (json_is_integer(v))
                table_amount(t, id, rounded(object, json_integer_value(v)));
        else
                table_text(t, "");
}

/* "0,2" of [0,2], behind a word for whatever they are. */
static void numbers(struct table *t, const json_t *object)
{
        const char *name = json_object_get(object, "vcpus") ? "vcpus" : "slots";
        const json_t *list = json_object_get(object, name);
        char text[320] = ""; /* 64 numbers of up to three digits */
        for (size_t i = 0; i < json_array_size(list); i++) {
                size_t at = strlen(text);
                (void)snprintf(text + at, sizeof(text) - at, "%s%" JSON_INTEGER_FORMAT,
                               i                ? ","
                               : name[0] == 'v' ? "cpu "
                                                : "dimm ",
                               json_integer_value(json_array_get(list, i)));
        }
        table_text(t, text);
}

static int by_id(const void *a, const void *b)
{
        return strverscmp(*(const char *const *)a, *(const char *const *)b);
}

static int print(const json_t *stored)
{
        json_t *objects = json_object_get(json_object_get(stored, "hhi"), "objects");
        size_t n = 0;
        const char **ids = calloc(json_object_size(objects) + 1, sizeof(*ids)), *id;
        struct table *t = table_new(
                (const char *const[]){"COMPONENT", "MARK", ">IN ALL", ">YOURS", ">FREE", "HERE", "IN", NULL});
        json_t *object;
        if (!ids || !t) {
                free(ids);
                table_free(t);
                return EXIT_INTERNAL;
        }
        json_object_foreach(objects, id, object) if (json_object_get(object, "mark")) ids[n++] = id;
        qsort(ids, n, sizeof(*ids), by_id);
        for (size_t i = 0; i < n; i++) {
                object = json_object_get(objects, ids[i]);
                table_text(t, ids[i]);
                table_text(t, text_of(object, "mark"));
                amount(t, ids[i], object, "capacity");
                amount(t, ids[i], object, "yours");
                amount(t, ids[i], object, "free");
                numbers(t, object);
                table_text(t, text_of(object, "in"));
        }
        (void)printf("generation %" JSON_INTEGER_FORMAT "\n\n",
                     json_integer_value(json_object_get(stored, "generation")));
        table_print(t, stdout, "nothing of it is marked");
        if (n > 0)
                (void)puts(
                        "\nIN ALL is what the host has, also what it keeps for itself and gives to nobody.");
        table_free(t);
        free(ids);
        return 0;
}

int guest_host_show(const struct arguments *a)
{
        struct mete_error err = {0};
        struct mete_host host = {0};
        struct mete *m = NULL;
        json_error_t why;
        int status = guest_open(a, &m);

        if (status != 0)
                return status;
        if (mete_host(m, 0, &host, &err) < 0) {
                status = guest_fail(a, &err);
        } else if (host.generation == 0) {
                err.reason = METE_REASON_NOT_FOUND;
                (void)STR_COPY(err.sentence, "this VM was told nothing of its host yet");
                status = guest_fail(a, &err);
        }
        json_t *stored = status == 0 ? json_load_file(host.json, JSON_REJECT_DUPLICATES, &why) : NULL;
        if (status == 0 && !stored) {
                err.reason = METE_REASON_INTERNAL;
                (void)snprintf(err.sentence, sizeof(err.sentence), "%.100s: %.120s", host.json, why.text);
                status = guest_fail(a, &err);
        } else if (stored && arguments_option(a, "--json")) {
                (void)json_dumpf(stored, stdout, JSON_INDENT(2));
                (void)putchar('\n');
        } else if (stored) {
                status = print(stored);
        }
        json_decref(stored);
        mete_close(m);
        return status;
}
