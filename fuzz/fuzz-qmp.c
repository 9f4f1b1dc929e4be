/* SPDX-License-Identifier: Apache-2.0 */
/* What a VMM says on its main monitor while we attach to it, plug a vCPU and memory, and take them back. Its
 * out-of-band monitor behaves. Every operation must be answered exactly once, whatever comes. */
#include <glib.h>
#include <glib/gstdio.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/str.h"
#include "vm/socket.h"
#include "vm/test-sample.h"
#include "vm/vm.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { OPERATIONS = 7, MINUTE_MS = 60000 };

static const char oob_says[] = "{\"QMP\":{\"version\":{\"qemu\":{\"major\":7,\"minor\":2,\"micro\":0},"
                               "\"package\":\"\"},\"capabilities\":[\"oob\"]}}\n"
                               "{\"return\":{},\"id\":1}\n";

static char *dir, *path[2];
static int listener[2];
static int answers;

static void clean_up(void)
{
        for (int i = 0; i < 2; i++)
                g_unlink(path[i]);
        g_rmdir(dir);
}

static void set_up(void)
{
        dir = g_dir_make_tmp("mete-fuzz-XXXXXX", NULL);
        for (int i = 0; i < 2; i++) {
                path[i] = g_strdup_printf("%s/%d", dir, i);
                listener[i] = vm_listen(path[i], NULL);
                if (listener[i] < 0)
                        abort();
        }
        atexit(clean_up);
}

static void on_result(void *arg, const struct vm_result *result)
{
        if (result->outcome <= 0 || result->outcome >= VM_OUTCOME_N)
                abort();
        answers++;
        if (getenv("FUZZ_QMP_TALK") != NULL)
                fprintf(stderr, "%s %s\n", vm_outcome_name(result->outcome), result->err.sentence);
}

static void on_event(void *arg, struct vm *vm, enum vm_event event, int index, const char *words)
{
        if (event <= 0 || event >= VM_EVENT_N || index < 0 || index >= VM_CPUS_MAX || strlen(words) >= 64)
                abort();
}

/* A line at a time, as an answer comes to each question: replies ahead of their commands count for nothing.
 */
static void feed(int fd, const uint8_t *data, size_t size)
{
        bool moving = true;
        while (size > 0 && moving) {
                const uint8_t *newline = memchr(data, '\n', size);
                size_t n = newline != NULL ? (size_t)(newline - data) + 1 : size;
                ssize_t sent = send(fd, data, n, MSG_DONTWAIT | MSG_NOSIGNAL);
                data += sent > 0 ? sent : 0;
                size -= sent > 0 ? sent : 0;
                moving = sent > 0;
                while (g_main_context_iteration(NULL, FALSE))
                        moving = true;
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        if (dir == NULL)
                set_up();
        struct api_vm_definition d = sample_definition();
        d.cpu_mechanism = API_CPU_MECHANISM_UNPLUG;
        answers = 0;
        struct vm *vm = vm_attach(&(struct vm_options){.definition = &d,
                                                       .qmp_path = path[0],
                                                       .oob_path = path[1],
                                                       .ram_dir = "/ram",
                                                       .on_event = on_event},
                                  MINUTE_MS, on_result, NULL, NULL);
        int main = accept(listener[0], NULL, NULL), oob = accept(listener[1], NULL, NULL);
        if (vm == NULL || main < 0 || oob < 0)
                abort();
        vm_cpu_ensure(vm, 1, MINUTE_MS, on_result, NULL);
        vm_memory_ensure(vm, 0, VM_UNIT_BYTES, MINUTE_MS, on_result, NULL);
        vm_memory_remove(vm, 0, MINUTE_MS, on_result, NULL);
        vm_cpu_remove(vm, 1, MINUTE_MS, on_result, NULL);
        vm_refresh(vm, MINUTE_MS, on_result, NULL);
        vm_quit(vm, MINUTE_MS, on_result, NULL);
        feed(oob, (const uint8_t *)oob_says, strlen(oob_says));
        feed(main, data, size);
        shutdown(main, SHUT_WR);
        while (g_main_context_iteration(NULL, FALSE))
                ;
        vm_free(vm);
        close(main);
        close(oob);
        if (answers != OPERATIONS)
                abort();
        return 0;
}
