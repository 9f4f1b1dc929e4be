/* SPDX-License-Identifier: Apache-2.0 */
/* What a guest makes of what it is told: parts, deltas, the same again, and everything that can come wrong.
 */
#include "agent/picture.h"

#include <glib/gstdio.h>
#include <string.h>

static char dir[] = "/tmp/mete-picture-XXXXXX";

static void begin(struct picture *p)
{
        strcpy(dir + strlen(dir) - 6, "XXXXXX");
        g_assert_nonnull(g_mkdtemp(dir));
        picture_init(p, dir);
}

static void end(struct picture *p)
{
        picture_done(p);
        picture_done(p);
        g_autofree char *command = g_strdup_printf("rm -rf '%s'", dir);
        g_assert_true(g_spawn_command_line_sync(command, NULL, NULL, NULL, NULL));
}

static char *document(int free_of_cpu1)
{
        return g_strdup_printf(
                "{\"objects\":{\"machine\":{\"kind\":\"machine\"},"
                "\"memory:node0\":{\"kind\":\"memory\",\"in\":\"machine\",\"os\":0,\"bytes\":1073741824},"
                "\"cpu:0\":{\"kind\":\"cpu\",\"in\":\"machine\",\"os\":0,\"mark\":\"yours\"},"
                "\"cpu:1\":{\"kind\":\"cpu\",\"in\":\"machine\",\"os\":1,\"mark\":\"free\",\"free\":%d}}}",
                free_of_cpu1);
}

static struct api_guest_hhi message(const char *base_digest, uint64_t generation, uint64_t base,
                                    const char *text)
{
        struct api_guest_hhi m = {.generation = (int64_t)generation,
                                  .has_base = base > 0,
                                  .base = (int64_t)base,
                                  .part = 1,
                                  .parts = 1};
        g_autofree char *all = g_strconcat(base_digest, text, NULL);
        g_autofree char *sum = g_compute_checksum_for_string(G_CHECKSUM_SHA256, all, -1);
        g_strlcpy(m.digest, sum, sizeof(m.digest));
        g_strlcpy(m.text, text, sizeof(m.text));
        return m;
}

static enum picture_outcome take_all(struct picture *p, uint64_t generation, int free_of_cpu1)
{
        g_autofree char *text = document(free_of_cpu1);
        struct api_guest_hhi m = message("", generation, 0, text);
        return picture_take(p, &m, NULL);
}

static enum picture_outcome take_patch(struct picture *p, uint64_t generation, uint64_t base,
                                       const char *text)
{
        struct api_guest_hhi m = message(p->digest, generation, base, text);
        return picture_take(p, &m, NULL);
}

static json_int_t free_of_cpu1(const struct picture *p)
{
        const json_t *objects = json_object_get(p->hhi, "objects");
        return json_integer_value(json_object_get(json_object_get(objects, "cpu:1"), "free"));
}

static bool has_xml_with(const char *word)
{
        g_autofree char *path = g_build_filename(dir, PICTURE_XML, NULL), *text = NULL;
        return g_file_get_contents(path, &text, NULL, NULL) && strstr(text, word);
}

static void test_whole_way(void)
{
        struct picture p;
        begin(&p);
        g_assert_cmpint(take_all(&p, 5, 400), ==, PICTURE_CHANGED);
        g_assert_true(p.generation == 5 && free_of_cpu1(&p) == 400 && has_xml_with("400"));
        /* The same once more is a later generation, and nothing else (2.7). */
        g_assert_cmpint(take_all(&p, 6, 400), ==, PICTURE_SAME);
        g_assert_cmpuint(p.generation, ==, 6);
        g_assert_cmpint(take_patch(&p, 9, 6, "{\"objects\":{\"cpu:1\":{\"free\":300}}}"), ==,
                        PICTURE_CHANGED);
        g_assert_true(p.generation == 9 && free_of_cpu1(&p) == 300 && has_xml_with("300"));
        g_assert_cmpint(take_patch(&p, 10, 9, "{}"), ==, PICTURE_SAME);
        /* Another agent goes on with it. */
        picture_done(&p);
        g_autofree char *xml = g_build_filename(dir, PICTURE_XML, NULL);
        g_assert_cmpint(g_unlink(xml), ==, 0);
        picture_init(&p, dir);
        g_assert_true(p.generation == 10 && free_of_cpu1(&p) == 300 && has_xml_with("300"));
        g_assert_cmpint(
                take_patch(&p, 11, 10, "{\"objects\":{\"cpu:1\":{\"free\":null,\"mark\":\"taken\"}}}"), ==,
                PICTURE_CHANGED);
        end(&p);
}

/* Whatever comes wrong: what is known stays, whole (2.14). */
static void test_refused(void)
{
        struct picture p;
        struct err err = {0};
        begin(&p);
        g_assert_cmpint(take_patch(&p, 1, 1, "{}"), ==, PICTURE_REFUSED); /* against nothing */
        g_assert_cmpint(take_all(&p, 5, 400), ==, PICTURE_CHANGED);
        for (uint64_t generation = 1; generation <= 5; generation++)
                g_assert_cmpint(take_all(&p, generation, 1), ==, PICTURE_REFUSED); /* late, or once more */
        g_assert_cmpint(take_patch(&p, 7, 6, "{}"), ==, PICTURE_REFUSED);          /* one between was lost */
        g_assert_cmpint(take_patch(&p, 7, 4, "{}"), ==, PICTURE_REFUSED);
        static const char *const bad[] = {"",
                                          "{",
                                          "[]",
                                          "7",
                                          "{\"objects\":null}",
                                          "{\"objects\":{\"cpu:1\":{\"in\":\"nowhere\"}}}",
                                          "{\"objects\":{\"cpu:1\":7}}",
                                          "{\"objects\":{\"machine\":null}}"};
        for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
                struct api_guest_hhi all = message("", 8, 0, bad[i]);
                g_test_message("%s", bad[i]);
                g_assert_cmpint(take_patch(&p, 8, 5, bad[i]), ==, PICTURE_REFUSED);
                g_assert_cmpint(picture_take(&p, &all, &err), ==, PICTURE_REFUSED);
                g_assert_true(*err.sentence != '\0');
        }
        struct api_guest_hhi other = message("", 8, 5, "{}"); /* the digest is not that of the base */
        g_assert_cmpint(picture_take(&p, &other, &err), ==, PICTURE_REFUSED);
        g_assert_nonnull(strstr(err.sentence, "digest"));
        g_assert_true(p.generation == 5 && free_of_cpu1(&p) == 400 && has_xml_with("400"));
        g_assert_cmpint(take_patch(&p, 8, 5, "{\"objects\":{\"cpu:1\":{\"free\":200}}}"), ==,
                        PICTURE_CHANGED);
        end(&p);
}

static void test_parts(void)
{
        struct picture p;
        struct err err = {0};
        g_autofree char *text = document(123);
        struct api_guest_hhi whole = message("", 3, 0, text), part[3];
        size_t n = strlen(text) / 3;
        for (int i = 0; i < 3; i++) {
                part[i] = whole;
                part[i].part = i + 1;
                part[i].parts = 3;
                g_strlcpy(part[i].text, text + (size_t)i * n, i < 2 ? n + 1 : sizeof(part[i].text));
        }
        begin(&p);
        for (int i = 0; i < 3; i++)
                g_assert_cmpint(picture_take(&p, &part[i], &err), ==, i < 2 ? PICTURE_MORE : PICTURE_CHANGED);
        g_assert_cmpint(free_of_cpu1(&p), ==, 123);
        /* In another order, twice, of another message, or broken off: it is begun again. */
        static const int wrong[][4] = {
                {1, -1, -1, -1},
                {0, 0,  2,  -1},
                {0, 2,  -1, -1},
                {0, 1,  1,  -1},
                {0, 1,  0,  2 }
        };
        for (size_t w = 0; w < G_N_ELEMENTS(wrong); w++) {
                enum picture_outcome out = PICTURE_MORE;
                for (int i = 0; i < 4 && wrong[w][i] >= 0; i++) {
                        struct api_guest_hhi m = part[wrong[w][i]];
                        m.generation = 4;
                        out = picture_take(&p, &m, &err);
                }
                g_assert_cmpint(out, ==, PICTURE_REFUSED);
                g_assert_cmpuint(p.generation, ==, 3);
        }
        struct api_guest_hhi m = part[0];
        m.generation = 4;
        g_assert_cmpint(picture_take(&p, &m, &err), ==, PICTURE_MORE);
        picture_forget_coming(&p);
        m = part[1];
        m.generation = 4;
        g_assert_cmpint(picture_take(&p, &m, &err), ==, PICTURE_REFUSED);
        for (int i = 0; i < 3; i++) {
                part[i].generation = 4;
                g_assert_cmpint(picture_take(&p, &part[i], &err), ==, i < 2 ? PICTURE_MORE : PICTURE_SAME);
        }
        end(&p);
}

/* A stored file that is none, or half of one, is as if nothing were known. */
static void test_stored(void)
{
        static const char *const bad[] = {"", "{", "{\"generation\":3}", "[]",
                                          "{\"generation\":3,\"digest\":\"x\",\"hhi\":{\"objects\":{}}}"};
        for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
                struct picture p;
                begin(&p);
                picture_done(&p);
                g_autofree char *path = g_build_filename(dir, PICTURE_JSON, NULL);
                g_assert_true(g_file_set_contents(path, bad[i], -1, NULL));
                picture_init(&p, dir);
                g_assert_true(p.generation == 0 && !p.hhi);
                g_assert_cmpint(take_all(&p, 2, 7), ==, PICTURE_CHANGED);
                end(&p);
        }
}

/* Where it cannot be stored it is known all the same. */
static void test_unwritable(void)
{
        struct picture p;
        begin(&p);
        (void)g_strlcpy(p.dir, "/nonexistent", sizeof(p.dir));
        g_assert_cmpint(take_all(&p, 2, 7), ==, PICTURE_CHANGED);
        g_assert_cmpint(free_of_cpu1(&p), ==, 7);
        end(&p);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/picture/whole-way", test_whole_way);
        g_test_add_func("/picture/refused", test_refused);
        g_test_add_func("/picture/parts", test_parts);
        g_test_add_func("/picture/stored", test_stored);
        g_test_add_func("/picture/unwritable", test_unwritable);
        return g_test_run();
}
