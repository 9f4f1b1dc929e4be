/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/host-http.h"
#include <curl/curl.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { ANSWER_MAX = 64 << 20, LINE_MAX_BYTES = 1 << 20, CONNECT_MS = 5000 };

struct buffer {
        char *text;
        size_t n, room;
};

/* What arrives of a stream: whole lines are given on. */
struct lines {
        struct buffer partial;
        bool (*on_line)(void *arg, const char *line, size_t n);
        void *arg;
        bool is_done;
};

static bool append(struct buffer *b, const char *text, size_t n, size_t most)
{
        if (n > most - b->n)
                return false;
        if (b->n + n + 1 > b->room) {
                size_t room = 2 * (b->n + n + 1);
                char *grown = realloc(b->text, room);
                if (grown == NULL)
                        return false;
                b->text = grown;
                b->room = room;
        }
        memcpy(b->text + b->n, text, n);
        b->n += n;
        b->text[b->n] = '\0';
        return true;
}

static size_t on_body(char *text, size_t size, size_t n, void *arg)
{
        return append(arg, text, size * n, ANSWER_MAX) ? size * n : 0;
}

static size_t on_stream(char *text, size_t size, size_t n, void *arg)
{
        struct lines *l = arg;
        size_t left = size * n;

        while (left > 0) {
                const char *end = memchr(text, '\n', left);
                size_t take = end != NULL ? (size_t)(end - text) : left;
                if (!append(&l->partial, text, take, LINE_MAX_BYTES))
                        return 0;
                if (end == NULL)
                        break;
                size_t length = l->partial.n > 0 && l->partial.text[l->partial.n - 1] == '\r'
                                        ? l->partial.n - 1
                                        : l->partial.n;
                l->partial.n = 0;
                if (!l->on_line(l->arg, l->partial.text, length)) {
                        l->is_done = true;
                        return 0;
                }
                text += take + 1;
                left -= take + 1;
        }
        return size * n;
}

static CURL *handle(const char *socket, const char *path)
{
        static bool is_ready;
        char url[1024];

        if (!is_ready)
                is_ready = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
        CURL *curl = curl_easy_init();
        if (curl == NULL)
                return NULL;
        (void)snprintf(url, sizeof(url), "http://meted%s", path);
        curl_easy_setopt(curl, CURLOPT_URL, url);
        curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, socket);
        curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
        curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
        curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
        return curl;
}

static int failed(CURLcode code, const char *socket, int timeout_ms, struct err *err)
{
        long number = 0;

        (void)number;
        if (code == CURLE_OPERATION_TIMEDOUT)
                return err_set(err, REASON_TIMEOUT, ETIMEDOUT, "meted at %s did not answer within %d ms",
                               socket, timeout_ms);
        return err_set(err, REASON_PEER_LOST, ECONNREFUSED,
                       "meted cannot be reached at %s: %s; is it running?", socket, curl_easy_strerror(code));
}

int host_http_call(const char *socket, const char *method, const char *path, const char *body, int timeout_ms,
                   int *ret_status, char **ret_text, size_t *ret_n, struct err *err)
{
        CURL *curl = handle(socket, path);
        struct buffer answer = {0};
        struct curl_slist *headers = NULL;
        long status = 0;

        if (curl == NULL || !append(&answer, "", 0, ANSWER_MAX)) {
                curl_easy_cleanup(curl);
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory for a call to meted");
        }
        headers = curl_slist_append(headers, "Content-Type: application/json");
        curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
        curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
        curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)timeout_ms);
        curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
        curl_easy_setopt(curl, CURLOPT_WRITEDATA, &answer);
        if (strcmp(method, "POST") == 0)
                curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body != NULL ? body : "");
        CURLcode code = curl_easy_perform(curl);
        curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
        curl_slist_free_all(headers);
        curl_easy_cleanup(curl);
        if (code != CURLE_OK) {
                free(answer.text);
                return failed(code, socket, timeout_ms, err);
        }
        *ret_status = (int)status;
        *ret_text = answer.text;
        *ret_n = answer.n;
        return 0;
}

int host_http_stream(const char *socket, const char *path,
                     bool (*on_line)(void *arg, const char *line, size_t n), void *arg, struct err *err)
{
        CURL *curl = handle(socket, path);
        struct lines lines = {.on_line = on_line, .arg = arg};
        struct curl_slist *headers = NULL;

        if (curl == NULL)
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory for a call to meted");
        headers = curl_slist_append(headers, "Accept: text/event-stream");
        curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
        curl_easy_setopt(curl, CURLOPT_FAILONERROR, 1L);
        curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_stream);
        curl_easy_setopt(curl, CURLOPT_WRITEDATA, &lines);
        CURLcode code = curl_easy_perform(curl);
        curl_slist_free_all(headers);
        curl_easy_cleanup(curl);
        free(lines.partial.text);
        return code == CURLE_OK || lines.is_done ? 0 : failed(code, socket, 0, err);
}
