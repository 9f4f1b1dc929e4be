/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/table.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/units.h"

struct table {
        size_t columns;
        const char *titles[TABLE_COLUMNS_MAX];
        char **cells; /* row after row */
        size_t n, room;
};

struct table *table_new(const char *const *titles)
{
        struct table *t = calloc(1, sizeof(*t));

        for (; t != NULL && titles[t->columns] != NULL && t->columns < TABLE_COLUMNS_MAX; t->columns++)
                t->titles[t->columns] = titles[t->columns];
        return t;
}

void table_free(struct table *t)
{
        if (t == NULL)
                return;
        for (size_t i = 0; i < t->n; i++)
                free(t->cells[i]);
        free(t->cells);
        free(t);
}

void table_text(struct table *t, const char *text)
{
        if (t->n == t->room) {
                size_t room = t->room > 0 ? 2 * t->room : 64;
                char **cells = reallocarray(t->cells, room, sizeof(*cells));
                if (cells == NULL)
                        abort(); /* a command line without memory for a table has nothing better to do */
                t->cells = cells;
                t->room = room;
        }
        char *cell = strdup(text != NULL && text[0] != '\0' ? text : "-");
        if (cell == NULL)
                abort();
        for (char *c = cell; *c != '\0'; c++)
                if ((unsigned char)*c < ' ' || *c == 0x7f)
                        *c = '?';
        t->cells[t->n++] = cell;
}

void table_number(struct table *t, int64_t number)
{
        char text[32];

        (void)snprintf(text, sizeof(text), "%" PRId64, number);
        table_text(t, text);
}

void table_bytes(struct table *t, int64_t bytes)
{
        char text[UNITS_TEXT];

        table_text(t, units_print_bytes(bytes, text));
}

void table_amount(struct table *t, const char *component, int64_t amount)
{
        char text[UNITS_TEXT];

        if (strncmp(component, "memory", 6) == 0 || strncmp(component, "block", 5) == 0)
                table_bytes(t, amount);
        else if (strncmp(component, "cpu", 3) == 0)
                table_text(t, units_print_milli(amount, text));
        else if (strncmp(component, "net", 3) == 0)
                table_text(t, units_print_rate(amount, text));
        else
                table_number(t, amount);
}

void table_time(struct table *t, int64_t ms)
{
        char text[32] = "";
        time_t seconds = (time_t)(ms / 1000);
        struct tm tm;

        if (ms > 0 && localtime_r(&seconds, &tm) != NULL)
                (void)strftime(text, sizeof(text), "%F %T", &tm);
        table_text(t, text);
}

static void print_cell(FILE *out, const char *text, size_t width, int right, int last)
{
        int pad = (int)(width > strlen(text) ? width - strlen(text) : 0);

        if (right)
                (void)fprintf(out, "%*s%s%s", pad, "", text, last ? "\n" : "  ");
        else
                (void)fprintf(out, "%s%*s%s", text, last ? 0 : pad, "", last ? "\n" : "  ");
}

void table_print(const struct table *t, FILE *out, const char *none)
{
        size_t width[TABLE_COLUMNS_MAX];

        if (t->n < t->columns) {
                (void)fprintf(out, "%s\n", none);
                return;
        }
        for (size_t c = 0; c < t->columns; c++) {
                width[c] = strlen(t->titles[c] + (t->titles[c][0] == '>'));
                for (size_t i = c; i < t->n; i += t->columns)
                        width[c] = strlen(t->cells[i]) > width[c] ? strlen(t->cells[i]) : width[c];
        }
        for (size_t c = 0; c < t->columns; c++)
                print_cell(out, t->titles[c] + (t->titles[c][0] == '>'), width[c], t->titles[c][0] == '>',
                           c + 1 == t->columns);
        for (size_t i = 0; i < t->n; i++) {
                size_t c = i % t->columns;
                print_cell(out, t->cells[i], width[c], t->titles[c][0] == '>', c + 1 == t->columns);
        }
}
