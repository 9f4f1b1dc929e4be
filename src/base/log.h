/* SPDX-License-Identifier: Apache-2.0 */
/* base/log.h - the log of a daemon: one line an entry on stderr, as systemd's journal reads it
 * ("<4>text"), or with a time of day where stderr is a terminal or a file.
 *
 * Each fault is logged once, by whoever decides what happens next; code below returns an error instead. */
#pragma once

enum log_level { LOG_ERROR = 3, LOG_WARN = 4, LOG_NOTE = 5, LOG_INFO = 6, LOG_DEBUG = 7 };

/* Name that starts each line, and the least urgent level that is written. Default "mete", LOG_INFO. */
void log_init(const char *program, enum log_level level);
void log_at(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_at(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_at(LOG_WARN, __VA_ARGS__)
#define log_note(...)  log_at(LOG_NOTE, __VA_ARGS__)
#define log_info(...)  log_at(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_at(LOG_DEBUG, __VA_ARGS__)
