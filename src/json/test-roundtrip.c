/* SPDX-License-Identifier: Apache-2.0 */
/* Every def: what is emitted is read back as the same, and every way to break a document is refused with a
 * message that names the place. Another run: --seed with the value that is printed first. */
#include <errno.h>
#include <glib.h>
#include <stdlib.h>
#include <string.h>

#include "json/case.h"
#include "json/read.h"

enum { ROUNDS = 40 };

/* How much a random struct has: what may be absent is absent, or one of each is there, or as it comes. */
enum fullness { BARE = 1, FULL, MIXED };

static int64_t random_between(int64_t min, int64_t max)
{
        if (g_test_rand_bit())
                return g_test_rand_bit() ? min : max;
        uint64_t wide = (uint64_t)(guint32)g_test_rand_int() << 32 | (guint32)g_test_rand_int();
        return min + (int64_t)(wide % ((uint64_t)(max - min) + 1));
}

/* Text of exactly n bytes: ASCII with what JSON must escape, and characters of two to four bytes. */
static void fill_text(char *dst, size_t n)
{
        static const char *const wide[] = {"\xc2\xa0",     "\xc3\xa9",         "\xdf\xbf",
                                           "\xe0\xa0\x80", "\xe2\x82\xac",     "\xed\x9f\xbf",
                                           "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"};
        for (size_t i = 0; i < n;) {
                const char *c = wide[g_test_rand_int_range(0, G_N_ELEMENTS(wide))];
                if (g_test_rand_int_range(0, 4) == 0 && i + strlen(c) <= n) {
                        memcpy(dst + i, c, strlen(c));
                        i += strlen(c);
                } else {
                        dst[i++] = (char)g_test_rand_int_range(0x20, 0x7f);
                }
        }
        dst[n] = '\0';
}

static void fill_word(char *dst, size_t n, bool is_id)
{
        const char *letters = is_id ? "Aa0Zz9._:-" : "Aa0Zz9_.-";
        size_t all = strlen(letters);
        for (size_t i = 0; i < n; i++) /* the last two do not start a name */
                dst[i] = letters[g_test_rand_int_range(0, (gint32)(i == 0 && !is_id ? all - 2 : all))];
        dst[n] = '\0';
}

static void fill(const struct case_def *def, void *p, enum fullness fullness);

static void fill_value(const struct case_field *f, char *p, enum fullness fullness)
{
        switch (f->kind) {
        case CASE_TEXT:
                fill_text(p, (size_t)random_between(f->min, f->max));
                break;
        case CASE_NAME:
        case CASE_ID:
                fill_word(p, (size_t)random_between(f->min, f->max), f->kind == CASE_ID);
                break;
        case CASE_INTEGER:
                *(int64_t *)(void *)p = random_between(f->min, f->max);
                break;
        case CASE_BOOLEAN:
                *(bool *)p = g_test_rand_bit();
                break;
        case CASE_WORD:
                *(int *)(void *)p = (int)random_between(1, f->max);
                break;
        case CASE_OBJECT:
                fill(f->def, p, fullness);
                break;
        }
}

static void fill_field(const struct case_field *f, char *p, enum fullness fullness)
{
        size_t n = 1;
        if (f->is_array) {
                size_t most = MIN(f->array_max, f->size * f->array_max <= 4096 ? f->array_max : 3);
                n = fullness == MIXED  ? (size_t)random_between((int64_t)f->array_min, (int64_t)most)
                    : fullness == FULL ? MAX(f->array_min, 1)
                                       : f->array_min;
                *(size_t *)(void *)(p + f->count_offset) = n;
        } else if (f->has_flag) {
                n = fullness == FULL || (fullness == MIXED && g_test_rand_bit());
                *(bool *)(p + f->has_offset) = n > 0;
        }
        for (size_t i = 0; i < n; i++)
                fill_value(f, p + f->offset + i * f->size, fullness);
}

static void fill(const struct case_def *def, void *p, enum fullness fullness)
{
        memset(p, 0, def->size);
        for (size_t i = 0; i < def->n_fields; i++)
                fill_field(&def->fields[i], p, fullness);
}

static json_t *random_document(const struct case_def *def, enum fullness fullness)
{
        void *p = g_malloc(def->size);
        fill(def, p, fullness);
        json_t *v = def->emit(p);
        g_assert_nonnull(v);
        g_free(p);
        return v;
}

/* emit, write, read, parse, emit again: the same text. */
static void test_roundtrip(const void *arg)
{
        const struct case_def *def = arg;
        for (int round = 0; round < ROUNDS; round++) {
                struct err err = {0};
                json_t *v = random_document(def, (enum fullness)(1 + round % 3));
                size_t n;
                char *text = json_write(v, &n);
                json_t *back = json_read(text, n, &err);
                void *p = g_malloc(def->size);
                memset(p, 0xa5, def->size); /* whatever stood there before must not matter */
                if (!back || def->parse(back, p, &err) < 0)
                        g_error("%s: %s\n%s", def->name, err.sentence, text);
                json_t *again = def->emit(p);
                char *text_again = json_write(again, NULL);
                g_assert_cmpstr(text, ==, text_again);
                g_free(p);
                free(text);
                free(text_again);
                json_decref(v);
                json_decref(back);
                json_decref(again);
        }
}

/* One document that is being broken, and mended again. */
struct breaking {
        const struct case_def *def;
        json_t *root;
        void *scratch;
        size_t refused;
};

static void assert_refused(struct breaking *b, const char *expected)
{
        struct err err = {0};
        if (b->def->parse(b->root, b->scratch, &err) == 0)
                g_error("%s: accepted what should be refused with '%s'", b->def->name, expected);
        g_assert_cmpint(err.code, ==, EINVAL);
        g_assert_cmpint(err.reason, ==, REASON_INVALID);
        if (!g_str_has_prefix(err.sentence, expected))
                g_error("%s: '%s' should start with '%s'", b->def->name, err.sentence, expected);
        b->refused++;
}

static void assert_accepted(struct breaking *b)
{
        struct err err = {0};
        if (b->def->parse(b->root, b->scratch, &err) < 0)
                g_error("%s: %s", b->def->name, err.sentence);
}

/* Where a value stands: a member of an object, or an entry of an array. */
struct slot {
        json_t *parent;
        const char *name;
        size_t index;
        const char *path;
};

static json_t *slot_get(const struct slot *s)
{
        return s->name ? json_object_get(s->parent, s->name) : json_array_get(s->parent, s->index);
}

static void slot_set(const struct slot *s, json_t *v)
{
        int r = s->name ? json_object_set_new(s->parent, s->name, v)
                        : json_array_set_new(s->parent, s->index, v);
        g_assert_cmpint(r, ==, 0);
}

/* With bad (taken) in the slot the document is refused there, with these words. */
static void try_bad(struct breaking *b, const struct slot *s, json_t *bad, const char *words)
{
        json_t *good = json_incref(slot_get(s));
        g_autofree char *expected = g_strdup_printf("%s: %s", s->path, words);
        g_assert_nonnull(bad);
        slot_set(s, bad);
        assert_refused(b, expected);
        slot_set(s, good);
}

static void try_bad_text(struct breaking *b, const struct slot *s, const struct case_field *f)
{
        g_autofree char *longer = g_strnfill((gsize)f->max + 1, 'a');
        try_bad(b, s, json_string(longer), "must have at most ");
        if (f->min == 1)
                try_bad(b, s, json_string(""), "must not be empty");
        else if (f->min > 1)
                try_bad(b, s, json_stringn(longer, (size_t)f->min - 1), "must have at least ");
        static const char *const control[] = {"\x01", "\x1f", "\x7f", "\xc2\x80", "\xc2\x9f"};
        for (size_t i = 0; i < G_N_ELEMENTS(control); i++) {
                g_autofree char *text = g_strnfill((gsize)MAX(f->min, 2), 'a');
                memcpy(text, control[i], strlen(control[i]));
                if ((int64_t)strlen(text) <= f->max)
                        try_bad(b, s, json_string(text), "must not contain control characters");
        }
        static const char *const no_word[] = {"a b", "a/b", "\xc3\xa9", "a,b"};
        for (size_t i = 0; f->kind != CASE_TEXT && i < G_N_ELEMENTS(no_word); i++)
                try_bad(b, s, json_string(no_word[i]),
                        f->kind == CASE_ID ? "must be an id" : "must be a name");
        static const char *const no_name[] = {"-a", ".a", "..", "a:b"};
        for (size_t i = 0; f->kind == CASE_NAME && i < G_N_ELEMENTS(no_name); i++)
                try_bad(b, s, json_string(no_name[i]), "must be a name");
}

static void try_wrong_types(struct breaking *b, const struct slot *s, json_type right, const char *words)
{
        json_t *all[] = {json_null(),    json_true(),      json_integer(1), json_real(1.0),
                         json_real(0.5), json_string("1"), json_array(),    json_object()};
        for (size_t i = 0; i < G_N_ELEMENTS(all); i++) {
                if (json_typeof(all[i]) == right)
                        json_decref(all[i]);
                else
                        try_bad(b, s, all[i], words);
        }
}

static void break_object(struct breaking *b, const struct case_def *def, json_t *object, const char *path);

static void break_value(struct breaking *b, const struct slot *s, const struct case_field *f)
{
        switch (f->kind) {
        case CASE_TEXT:
        case CASE_NAME:
        case CASE_ID:
                try_wrong_types(b, s, JSON_STRING, "must be a string");
                try_bad_text(b, s, f);
                break;
        case CASE_INTEGER:
                try_wrong_types(b, s, JSON_INTEGER, "must be an integer");
                try_bad(b, s, json_integer(f->min - 1), "must be at least ");
                try_bad(b, s, json_integer(f->max + 1), "must be at most ");
                try_bad(b, s, json_integer(INT64_MIN), "must be at least ");
                try_bad(b, s, json_integer(INT64_MAX), "must be at most ");
                break;
        case CASE_BOOLEAN:
                try_wrong_types(b, s, JSON_TRUE, "must be true or false");
                break;
        case CASE_WORD:
                try_wrong_types(b, s, JSON_STRING, "must be a string");
                try_bad(b, s, json_string("no-such-word"), "must be one of ");
                try_bad(b, s, json_string(""), "must be one of ");
                break;
        case CASE_OBJECT:
                try_wrong_types(b, s, JSON_OBJECT, "must be an object");
                break_object(b, f->def, slot_get(s), s->path);
                break;
        }
}

/* As many as may be are accepted; one more, or one too few, is not. */
static void break_length(struct breaking *b, const struct slot *s, const struct case_field *f)
{
        json_t *good = json_incref(slot_get(s)), *entry = json_array_get(good, 0), *many = json_array();
        for (size_t i = 0; i < f->array_max; i++)
                g_assert_cmpint(json_array_append(many, entry), ==, 0);
        slot_set(s, json_incref(many));
        assert_accepted(b);
        g_assert_cmpint(json_array_append(many, entry), ==, 0);
        slot_set(s, json_incref(good));
        try_bad(b, s, many, "must have at most ");
        if (f->array_min > 0)
                try_bad(b, s, json_array(), "must have at least ");
        json_decref(good);
}

static void break_array(struct breaking *b, const struct slot *s, const struct case_field *f)
{
        json_t *array = slot_get(s);
        try_wrong_types(b, s, JSON_ARRAY, "must be an array");
        for (size_t i = 0; i < json_array_size(array); i++) {
                g_autofree char *path = g_strdup_printf("%s[%zu]", s->path, i);
                break_value(b, &(struct slot){.parent = array, .index = i, .path = path}, f);
        }
        break_length(b, s, f);
}

static void break_object(struct breaking *b, const struct case_def *def, json_t *object, const char *path)
{
        g_autofree char *unknown =
                g_strdup_printf("%s%sunknown field \"no_such_field\"", path, path[0] ? ": " : "");
        json_object_set_new(object, "no_such_field", json_null());
        assert_refused(b, unknown);
        json_object_del(object, "no_such_field");
        for (size_t i = 0; i < def->n_fields; i++) {
                const struct case_field *f = &def->fields[i];
                g_autofree char *at = g_strdup_printf("%s%s%s", path, path[0] ? "." : "", f->name);
                g_autofree char *missing = g_strdup_printf("%s: required", at);
                struct slot s = {.parent = object, .name = f->name, .path = at};
                json_t *good = json_incref(json_object_get(object, f->name));
                json_object_del(object, f->name);
                if (f->required)
                        assert_refused(b, missing);
                else
                        assert_accepted(b);
                json_object_set_new(object, f->name, good);
                if (f->is_array)
                        break_array(b, &s, f);
                else
                        break_value(b, &s, f);
        }
}

static void test_refusals(const void *arg)
{
        struct breaking b = {.def = arg};
        b.root = random_document(b.def, FULL);
        b.scratch = g_malloc(b.def->size);
        break_object(&b, b.def, b.root, "");
        assert_accepted(&b); /* all was mended */
        g_assert_cmpuint(b.refused, >, b.def->n_fields);
        static const char *const no_object[] = {"null", "true", "0", "\"x\"", "[]"};
        for (size_t i = 0; i < G_N_ELEMENTS(no_object); i++) {
                json_decref(b.root);
                b.root = json_loads(no_object[i], JSON_DECODE_ANY, NULL);
                assert_refused(&b, "must be an object");
        }
        json_decref(b.root);
        g_free(b.scratch);
}

enum { NEAR_MAX = 20 }; /* jansson says no longer words */

static void test_duplicate_key(const void *arg)
{
        const struct case_def *def = arg;
        for (size_t i = 0; i < def->n_fields; i++) {
                struct err err = {0};
                json_t *v = random_document(def, FULL);
                char *text = json_write(v, NULL);
                g_autofree char *twice = g_strdup_printf("{\"%s\":0,%s", def->fields[i].name, text + 1);
                g_autofree char *key = g_strdup_printf("\"%s\"", def->fields[i].name);
                g_assert_null(json_read(twice, strlen(twice), &err));
                g_assert_nonnull(strstr(err.sentence, "duplicate object key"));
                if (strlen(key) <= NEAR_MAX)
                        g_assert_nonnull(strstr(err.sentence, key));
                free(text);
                json_decref(v);
        }
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        for (size_t i = 0; i < case_defs_n; i++) {
                static const struct {
                        const char *name;
                        void (*run)(const void *arg);
                } tests[] = {
                        {"same",          test_roundtrip    },
                        {"refusals",      test_refusals     },
                        {"duplicate-key", test_duplicate_key},
                };
                for (size_t j = 0; j < G_N_ELEMENTS(tests); j++) {
                        g_autofree char *path =
                                g_strdup_printf("/roundtrip/%s/%s", case_defs[i]->name, tests[j].name);
                        g_test_add_data_func(path, case_defs[i], tests[j].run);
                }
        }
        return g_test_run();
}
