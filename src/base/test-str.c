/* SPDX-License-Identifier: Apache-2.0 */
#include "base/str.h"

#include <glib.h>
#include <string.h>

static void test_copy(void)
{
        char dst[4] = "old";
        g_assert_false(STR_COPY(dst, "four"));
        g_assert_cmpstr(dst, ==, "old");
        g_assert_true(STR_COPY(dst, "abc"));
        g_assert_cmpstr(dst, ==, "abc");
        g_assert_true(STR_COPY(dst, ""));
        g_assert_cmpstr(dst, ==, "");
        g_assert_false(str_copy(dst, 0, ""));
}

static void test_is_name(void)
{
        char longest[65];
        memset(longest, 'n', 64);
        longest[63] = '\0';
        g_assert_true(str_is_name(longest));
        longest[63] = 'n';
        longest[64] = '\0';
        g_assert_false(str_is_name(longest));
        static const char *const good[] = {"a", "Z", "0", "_", "vm-1", "a.b", "a..", "_x-"};
        static const char *const bad[] = {"",    ".",   "..",       ".a",    "-a", "a b",
                                          "a/b", "a\n", "\xc3\xa4", "a\x7f", "a:b"};
        for (size_t i = 0; i < ARRAY_N(good); i++)
                g_assert_true(str_is_name(good[i]));
        for (size_t i = 0; i < ARRAY_N(bad); i++)
                g_assert_false(str_is_name(bad[i]));
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/base/str/copy", test_copy);
        g_test_add_func("/base/str/is-name", test_is_name);
        return g_test_run();
}
