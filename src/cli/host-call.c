/* SPDX-License-Identifier: Apache-2.0 */
/* Calls to meted and what is done with answers: errors, pages, printing. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "base/units.h"
#include "cli/exit.h"
#include "cli/host.h"
#include "json/read.h"
#include "wire/http-client.h"

enum { CALL_MS = 30000, PAGES_MAX = 100000 };

/* Verbs of a server as a whole go to its service processor. */
static bool is_for_sp(const struct arguments *a)
{
        return strncmp(a->verb->words, "server ", 7) == 0 || strncmp(a->verb->words, "handover", 8) == 0;
}

const char *host_socket(const struct arguments *a)
{
        const char *path = arguments_option(a, "--socket");

        if (path == NULL)
                path = getenv(is_for_sp(a) ? "METE_SP_SOCKET" : "METE_SOCKET");
        if (path != NULL && path[0] != '\0')
                return path;
        return is_for_sp(a) ? HOST_SP_SOCKET : HOST_SOCKET;
}

/* What goes on without it is the answer to the question that comes next. */
static int no_sp(const char *socket, struct err *err)
{
        if (err->reason != REASON_PEER_LOST)
                return err_note(err, "mete-sp at %.100s", socket);
        return err_set(
                err, REASON_PEER_LOST, ENOENT,
                "mete-sp is not running, or not at %.80s (--socket, METE_SP_SOCKET): without it there is "
                "no configuration and no handover; hypervisors, VMs and local grants go on",
                socket);
}

/* An error object becomes *err; anything else that is no answer is a fault of the other side. */
static int refused(int status, const json_t *answer, struct err *err)
{
        enum reason reason = reason_from_name(host_text(answer, "reason"));

        if (reason == 0)
                return err_set(err, REASON_INTERNAL, EPROTO, "it answered with status %d and no reason",
                               status);
        return err_set(err, reason, EREMOTEIO, "%s", host_text(answer, "message"));
}

/* The error alone does not say where we looked. */
static int unreachable(const char *socket, struct err *err)
{
        struct stat st;
        if (err->reason != REASON_PEER_LOST)
                return err_note(err, "meted at %.100s", socket);
        if (stat(socket, &st) < 0 && errno == ENOENT)
                return err_set(
                        err, REASON_PEER_LOST, ENOENT,
                        "there is no %.100s: meted is not running, or its socket is another (--socket, "
                        "METE_SOCKET)",
                        socket);
        if (stat(socket, &st) == 0 && !S_ISSOCK(st.st_mode))
                return err_set(err, REASON_PEER_LOST, ENOTSOCK,
                               "%.100s is no socket: name that of meted (--socket, METE_SOCKET)", socket);
        return err_note(err, "meted at %.100s", socket);
}

static int take_answer(const struct http_answer *answer, const char *method, const char *path, json_t **ret,
                       struct err *err)
{
        json_t *value = json_read(answer->body, answer->body_n, err);

        if (value == NULL)
                return err_note(err, "%s %.60s was answered with status %d and no JSON", method, path,
                                answer->status);
        if (answer->status < 200 || answer->status > 299) {
                int r = refused(answer->status, value, err);
                json_decref(value);
                return r;
        }
        *ret = value;
        return 0;
}

int host_call(const struct arguments *a, const char *method, const char *path, json_t *body, int timeout_ms,
              json_t **ret, struct err *err)
{
        const char *manager = host_manager(a);
        size_t request_n = 0;
        char *request = body != NULL ? json_write(body, &request_n) : NULL;
        struct http_answer answer = {0};
        struct http_client *client = manager != NULL ? host_manager_connect(manager, a, err)
                                                     : http_client_new(host_socket(a), err);
        int r = client != NULL ? 0 : manager != NULL ? -err->code : unreachable(host_socket(a), err);

        json_decref(body);
        if (r == 0) {
                r = http_client_do(client, method, path, request, request_n, timeout_ms, &answer, err);
                if (r == 0)
                        r = take_answer(&answer, method, path, ret, err);
                else
                        r = manager != NULL ? err_note(err, "the manager")
                            : is_for_sp(a)  ? no_sp(host_socket(a), err)
                                            : unreachable(host_socket(a), err);
        }
        http_answer_done(&answer);
        http_client_free(client);
        free(request);
        return r;
}

/* Appends the arrays of a further page to those of the first. */
static void join(json_t *all, const json_t *page)
{
        const char *name;
        json_t *value;

        json_object_foreach((json_t *)page, name, value)
        {
                json_t *array = json_object_get(all, name);
                if (json_is_array(array) && json_is_array(value))
                        json_array_extend(array, value);
        }
}

int host_pages(const struct arguments *a, const char *path, json_t **ret, struct err *err)
{
        json_t *all = NULL;
        char next[512];

        const char *mark = strchr(path, '?') != NULL ? "&" : "?";
        (void)snprintf(next, sizeof(next), "%s%slimit=256", path, mark);
        for (int page_number = 0; page_number < PAGES_MAX; page_number++) {
                json_t *page = NULL;
                int r = host_call(a, "GET", next, NULL, CALL_MS, &page, err);
                if (r < 0) {
                        json_decref(all);
                        return r;
                }
                const char *key = host_text(page, "next");
                bool is_last = key[0] == '\0';
                int n = snprintf(next, sizeof(next), "%s%slimit=256&after=", path, mark);
                /* keys come from meted and may hold anything: written as a URL wants them */
                for (; *key != '\0' && n + 4 < (int)sizeof(next); key++)
                        n += snprintf(next + n, sizeof(next) - (size_t)n, "%%%02X", (unsigned char)*key);
                if (all == NULL) {
                        all = page;
                } else {
                        join(all, page);
                        json_decref(page);
                }
                if (is_last)
                        break;
        }
        json_object_del(all, "next");
        *ret = all;
        return 0;
}

bool host_json_line(const struct arguments *a, const json_t *event)
{
        if (arguments_option(a, "--json") == NULL)
                return false;
        char *text = json_write(event, NULL);
        (void)printf("%s\n", text != NULL ? text : "");
        free(text);
        return true;
}

bool host_json(const struct arguments *a, const json_t *answer)
{
        if (arguments_option(a, "--json") == NULL)
                return false;
        char *text = json_dumps(answer, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
        (void)printf("%s\n", text != NULL ? text : "");
        free(text);
        return true;
}

const char *host_text(const json_t *object, const char *name)
{
        const char *text = json_string_value(json_object_get(object, name));
        return text != NULL ? text : "";
}

int64_t host_number(const json_t *object, const char *name)
{
        return json_integer_value(json_object_get(object, name));
}

const char *host_joined(const json_t *array)
{
        static char text[1024];
        size_t n = 0;
        size_t i;
        json_t *one;

        text[0] = '\0';
        json_array_foreach(array, i, one)
        {
                int added = snprintf(text + n, sizeof(text) - n, "%s%s", i > 0 ? " " : "",
                                     json_string_value(one));
                if (added < 0 || n + (size_t)added >= sizeof(text))
                        break;
                n += (size_t)added;
        }
        return text;
}

const char *host_amount_text(const char *component, int64_t amount, char ret[HOST_AMOUNT])
{
        char text[UNITS_TEXT];

        if (strncmp(component, "memory", 6) == 0)
                (void)snprintf(ret, HOST_AMOUNT, "%s", units_print_bytes(amount, text));
        else if (strncmp(component, "cpu", 3) == 0)
                (void)snprintf(ret, HOST_AMOUNT, "%s CPU%s", units_print_milli(amount, text),
                               amount > 1000 ? "s" : "");
        else if (strncmp(component, "net", 3) == 0)
                (void)snprintf(ret, HOST_AMOUNT, "%s bit/s", units_print_rate(amount, text));
        else if (strncmp(component, "block", 5) == 0)
                (void)snprintf(ret, HOST_AMOUNT, "%s bytes/s", units_print_bytes(amount, text));
        else
                (void)snprintf(ret, HOST_AMOUNT, "%" PRId64, amount);
        return ret;
}
