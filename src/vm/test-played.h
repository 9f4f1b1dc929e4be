/* SPDX-License-Identifier: Apache-2.0 */
/* vm/test-played.h - the monitors of a VMM that is played: it greets, takes one client at each, hands over
 * each command as it comes, and says what it is told to say. What it makes of a command is the test's. */
#pragma once
#include <glib.h>
#include <jansson.h>
#include <stdbool.h>

enum { MONITORS = 2 };

/* `command` of monitor i: without an answer from this, there is none. */
typedef void played_command(int i, const char *command, json_t *arguments, const json_t *id);

struct played {
        int listener[MONITORS], fd[MONITORS];
        guint accepting[MONITORS], reading[MONITORS];
        GString *in[MONITORS];
        char *path[MONITORS];
        int major;     /* of the version that it says */
        int passed_fd; /* the last that it was passed; -1 */
        played_command *on_command;
};
extern struct played played;

/* Its sockets are dir/0, for commands, and dir/1, out of band. */
void played_open(const char *dir, int major, played_command *on_command);
void played_close(void);
/* Takes v. */
void played_say(int i, json_t *v);
/* ret: taken; NULL: an error. */
void played_answer(int i, const json_t *id, json_t *ret);
void played_hang_up(void);
