/* SPDX-License-Identifier: Apache-2.0 */
/* lib/test-fake-agent.h - a scripted agent for tests of libmete: a thread that listens at a path of its own
 * and, for each line that comes, answers the next line of its script.
 *
 * A script line is text in which %d stands for the id of the message that it answers; "!close" closes the
 * connection and takes the next; "!silent" answers nothing; "!down" closes and stops listening. One step a
 * message that comes; "+TEXT" is sent along with the step before it. */
#pragma once
#include <pthread.h>
#include <stddef.h>

struct fake_agent {
        char folder[64], path[96];
        const char *const *script;
        pthread_t thread;
        int listen_fd, stop_fd[2];
        size_t step;         /* steps taken; read after fake_agent_stop() */
        char seen[64][1024]; /* the lines that came */
        size_t n_seen;
};

void fake_agent_start(struct fake_agent *a, const char *const *script); /* NULL-terminated */
void fake_agent_stop(struct fake_agent *a);

#define FAKE_GRANTED                                                                                         \
        "{\"jsonrpc\":\"2.0\",\"id\":%d,\"result\":{\"request\":\"r1\",\"outcome\":\"granted\","             \
        "\"sentence\":\"granted\",\"needs\":[{\"kind\":\"cpu\",\"amount\":2}],\"cpus\":[1,2],"               \
        "\"memory_bytes\":134217728,\"fallbacks\":[\"overcommitted\"]}}"
#define FAKE_NOT_NOW                                                                                         \
        "{\"jsonrpc\":\"2.0\",\"id\":%d,\"result\":{\"request\":\"r1\",\"outcome\":\"not-now\","             \
        "\"reason\":\"no-capacity\",\"sentence\":\"full\"}}"
#define FAKE_EMPTY "{\"jsonrpc\":\"2.0\",\"id\":%d,\"result\":{}}"
#define FAKE_DENIED                                                                                          \
        "{\"jsonrpc\":\"2.0\",\"id\":%d,\"error\":{\"code\":-32000,\"message\":\"not yours\","               \
        "\"data\":{\"reason\":\"denied\"}}}"
#define FAKE_ENDED                                                                                           \
        "{\"jsonrpc\":\"2.0\",\"method\":\"ended\",\"params\":{\"id\":\"r1\",\"reason\":\"policy\","         \
        "\"sentence\":\"the host takes it back\"}}"
