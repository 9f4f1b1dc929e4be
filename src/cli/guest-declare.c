/* SPDX-License-Identifier: Apache-2.0 */
/* `mete declare`: what will be needed, and when, told to the agent in advance. Times are read here, in the
 * time zone of whoever types them; the agent knows moments alone. */
#define _XOPEN_SOURCE 700 /* strptime() */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include "base/units.h"
#include "cli/exit.h"
#include "cli/guest.h"
#include "cli/table.h"
#include "lib/handle.h"

static int64_t now_ms(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_REALTIME, &t);
        return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int64_t moment_of(struct tm *t)
{
        t->tm_isdst = -1;
        return (int64_t)mktime(t) * 1000;
}

/* HH:MM, the next time that it is so; 2026-11-21T22:00; +10m from now. */
static int parse_at(const char *text, int64_t *ret_ms, struct err *err)
{
        time_t now = (time_t)(now_ms() / 1000);
        struct tm t;
        const char *end;

        if (text[0] == '+') {
                int r = units_parse_ms(text + 1, ret_ms, err);
                *ret_ms += r < 0 ? 0 : now_ms();
                return r;
        }
        if (!localtime_r(&now, &t))
                return err_set(err, REASON_INTERNAL, EOVERFLOW, "the clock is none");
        t.tm_sec = 0;
        end = strptime(text, "%H:%M", &t);
        if (end && *end == '\0') {
                *ret_ms = moment_of(&t);
                if (*ret_ms < now_ms()) {
                        t.tm_mday++;
                        *ret_ms = moment_of(&t);
                }
                return 0;
        }
        end = strptime(text, "%Y-%m-%dT%H:%M", &t);
        if (end && *end == '\0') {
                *ret_ms = moment_of(&t);
                if (*ret_ms >= 0)
                        return 0;
        }
        return err_set(err, REASON_INVALID, EINVAL, "--at %.40s: a time is 22:00, 2026-11-21T22:00, or +10m",
                       text);
}

static int parse_duration(const char *option, const char *text, int64_t *ret_ms, struct err *err)
{
        static const struct {
                const char *name;
                int64_t ms;
        } words[] = {
                {"hour", 3600000  },
                {"day",  86400000 },
                {"week", 604800000},
        };
        for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
                if (strcmp(text, words[i].name) == 0) {
                        *ret_ms = words[i].ms;
                        return 0;
                }
        int r = units_parse_ms(text, ret_ms, err);
        return r < 0 ? err_note(err, "%s", option) : 0;
}

/* Of a time of day that comes again and again, the window that is under way, if one is. */
static int64_t under_way(int64_t start_ms, int64_t for_ms, int64_t every_ms)
{
        int64_t now = now_ms(), ahead = start_ms - now;
        if (ahead <= 0 || every_ms <= 0)
                return start_ms;
        int64_t before = start_ms - (ahead + every_ms - 1) / every_ms * every_ms;
        return before >= 0 && before + for_ms > now ? before : start_ms;
}

static int parse(const struct arguments *a, json_t **ret, struct err *err)
{
        const char *need = arguments_option(a, "--need"), *at = arguments_option(a, "--at");
        const char *length = arguments_option(a, "--for"), *every = arguments_option(a, "--every");
        const char *name = arguments_option(a, "--name");
        int64_t start_ms, for_ms, every_ms;

        if (!need || !at || !length)
                return err_set(err, REASON_INVALID, EINVAL,
                               "--need, --at and --for say what, when and how long");
        int r = parse_at(at, &start_ms, err);
        if (r == 0)
                r = parse_duration("--for", length, &for_ms, err);
        if (r == 0 && every)
                r = parse_duration("--every", every, &every_ms, err);
        if (r < 0)
                return r;
        if (every && strlen(at) <= sizeof("22:00") - 1 && *at != '+')
                start_ms = under_way(start_ms, for_ms, every_ms);
        *ret = json_pack("{s:s, s:I, s:I, s:s*}", "need", need, "start_ms", (json_int_t)start_ms, "for_ms",
                         (json_int_t)for_ms, "name", name);
        if (every)
                (void)json_object_set_new(*ret, "every_ms", json_integer(every_ms));
        return 0;
}

/* It is kept all the same: an agent that is started anew may ask. */
static void note_nobody_asks(struct mete *m)
{
        struct mete_about *about = NULL;
        struct mete_error err;

        if (mete_about(m, &about, &err) == 0 && about->project_ms == 0)
                (void)fputs("mete declare: it is kept, but this agent does not ask by itself, so nothing "
                            "comes of "
                            "it (mete-agent --project)\n",
                            stderr);
        mete_about_free(about);
}

/* Asks the agent; the answer is the caller's. */
static int call(const struct arguments *a, const char *method, json_t *params, json_t **ret)
{
        struct mete_error err;
        struct mete *m = NULL;
        int status = guest_open(a, &m);

        if (status != 0) {
                json_decref(params);
                return status;
        }
        if (mete_call_raw(m, method, params, ret, &err) < 0)
                status = guest_fail(a, &err);
        else if (strcmp(method, "declare") == 0)
                note_nobody_asks(m);
        mete_close(m);
        if (status == 0 && arguments_option(a, "--json")) {
                (void)json_dumpf(*ret, stdout, JSON_INDENT(2));
                (void)putchar('\n');
        }
        return status;
}

int guest_declare(const struct arguments *a)
{
        json_t *params = NULL, *row = NULL;
        struct err err = {0};

        if (parse(a, &params, &err) < 0)
                return verb_fail(a, &err);
        int status = call(a, "declare", params, &row);
        if (status == 0 && !arguments_option(a, "--json"))
                (void)printf("%s\n", json_string_value(json_object_get(row, "name")));
        json_decref(row);
        return status;
}

static int64_t number(const json_t *row, const char *name)
{
        return json_integer_value(json_object_get(row, name));
}

static void duration(struct table *t, int64_t ms)
{
        char text[UNITS_TEXT];
        table_text(t, ms > 0 ? units_print_ms(ms, text) : "");
}

int guest_declare_list(const struct arguments *a)
{
        json_t *said = NULL, *row;
        size_t i;
        int status = call(a, "declared", json_object(), &said);

        if (status == 0 && !arguments_option(a, "--json")) {
                struct table *t = table_new(
                        (const char *const[]){"NAME", "NEED", "BEGINS", "FOR", "EVERY", ">UID", NULL});
                json_array_foreach(json_object_get(said, "declarations"), i, row)
                {
                        int64_t start = number(row, "start_ms"), every = number(row, "every_ms");
                        int64_t passed = now_ms() - start - number(row, "for_ms");
                        if (every > 0 && passed >= 0) /* the one that is, or comes next */
                                start += (passed / every + 1) * every;
                        table_text(t, json_string_value(json_object_get(row, "name")));
                        table_text(t, json_string_value(json_object_get(row, "need")));
                        table_time(t, start);
                        duration(t, number(row, "for_ms"));
                        duration(t, every);
                        table_number(t, number(row, "uid"));
                }
                table_print(t, stdout, "nothing is declared");
                table_free(t);
        }
        json_decref(said);
        return status;
}

int guest_declare_drop(const struct arguments *a)
{
        json_t *said = NULL;
        int status = call(a, "declare-drop", json_pack("{s:s}", "name", a->operands[0]), &said);

        json_decref(said);
        return status;
}
