/* SPDX-License-Identifier: Apache-2.0 */
#include "base/units.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* One row a suffix: how many base units it stands for. */
struct suffix {
        const char *text;
        int64_t factor;
};

static const struct suffix bytes_suffix[] = {
        {"",    1               },
        {"K",   INT64_C(1) << 10},
        {"KiB", INT64_C(1) << 10},
        {"M",   INT64_C(1) << 20},
        {"MiB", INT64_C(1) << 20},
        {"G",   INT64_C(1) << 30},
        {"GiB", INT64_C(1) << 30},
        {"T",   INT64_C(1) << 40},
        {"TiB", INT64_C(1) << 40},
        {NULL,  0               },
};
static const struct suffix rate_suffix[] = {
        {"",       1                     },
        {"bit/s",  1                     },
        {"K",      1000                  },
        {"kbit/s", 1000                  },
        {"M",      1000000               },
        {"Mbit/s", 1000000               },
        {"G",      1000000000            },
        {"Gbit/s", 1000000000            },
        {"T",      INT64_C(1000000000000)},
        {"Tbit/s", INT64_C(1000000000000)},
        {NULL,     0                     },
};
static const struct suffix milli_suffix[] = {
        {"",   1000},
        {NULL, 0   }
};
static const struct suffix ms_suffix[] = {
        {"ms", 1       },
        {"s",  1000    },
        {"m",  60000   },
        {"h",  3600000 },
        {"d",  86400000},
        {NULL, 0       },
};
static const struct suffix count_suffix[] = {
        {"",   1},
        {NULL, 0}
};

/* Digits with an optional fraction of up to three digits, then a suffix. Exact: 1.5G is 1536M; what is
 * not a whole number of base units is refused. */
static int parse(const char *text, const struct suffix *table, const char *what, int64_t *ret,
                 struct err *err)
{
        size_t whole_n = strspn(text, "0123456789"), fraction_n = 0;
        const char *rest = text + whole_n;
        if (*rest == '.') {
                fraction_n = strspn(rest + 1, "0123456789");
                if (fraction_n == 0 || fraction_n > 3)
                        return err_set(err, REASON_INVALID, EINVAL, "\"%.40s\" is not %s", text, what);
                rest += 1 + fraction_n;
        }
        if (whole_n == 0 || whole_n > 16)
                return err_set(err, REASON_INVALID, EINVAL, "\"%.40s\" is not %s", text, what);
        const struct suffix *s = table;
        while (s->text && strcmp(s->text, rest) != 0)
                s++;
        if (!s->text)
                return err_set(err, REASON_INVALID, EINVAL, "\"%.40s\" is not %s", text, what);
        int64_t whole = 0, fraction = 0, scale = 1000, thousandths, product;
        for (size_t i = 0; i < whole_n; i++)
                whole = whole * 10 + (text[i] - '0');
        for (size_t i = 0; i < 3; i++)
                fraction = fraction * 10 + (i < fraction_n ? text[whole_n + 1 + i] - '0' : 0);
        /* Sixteen digits fit, but no longer once they are thousandths. */
        if (__builtin_mul_overflow(whole, scale, &thousandths) ||
            __builtin_add_overflow(thousandths, fraction, &thousandths) ||
            __builtin_mul_overflow(thousandths, s->factor, &product) || product / scale >= UNITS_MAX)
                return err_set(err, REASON_INVALID, ERANGE, "\"%.40s\" is too large for %s", text, what);
        if (product % scale != 0)
                return err_set(err, REASON_INVALID, EINVAL, "\"%.40s\" is not a whole number of units", text);
        *ret = product / scale;
        return 0;
}

int units_parse_bytes(const char *text, int64_t *ret_bytes, struct err *err)
{
        return parse(text, bytes_suffix, "a size (such as 512M or 4G)", ret_bytes, err);
}

int units_parse_rate(const char *text, int64_t *ret_bps, struct err *err)
{
        return parse(text, rate_suffix, "a rate in bits a second (such as 200M or 1G)", ret_bps, err);
}

int units_parse_milli(const char *text, int64_t *ret_milli, struct err *err)
{
        return parse(text, milli_suffix, "a fraction (such as 0.9)", ret_milli, err);
}

int units_parse_ms(const char *text, int64_t *ret_ms, struct err *err)
{
        return parse(text, ms_suffix, "a duration (such as 250ms, 30s or 2h)", ret_ms, err);
}

int units_parse_count(const char *text, int64_t *ret_count, struct err *err)
{
        return parse(text, count_suffix, "a whole number", ret_count, err);
}

static const char *print(int64_t amount, int64_t step, char buf[UNITS_TEXT])
{
        static const char letter[] = {0, 'K', 'M', 'G', 'T'};
        int unit = 0;
        while (unit < 4 && amount != 0 && amount % step == 0) {
                amount /= step;
                unit++;
        }
        if (letter[unit])
                (void)snprintf(buf, UNITS_TEXT, "%lld%c", (long long)amount, letter[unit]);
        else
                (void)snprintf(buf, UNITS_TEXT, "%lld", (long long)amount);
        return buf;
}

const char *units_print_bytes(int64_t bytes, char buf[UNITS_TEXT])
{
        return print(bytes, 1024, buf);
}

const char *units_print_rate(int64_t bps, char buf[UNITS_TEXT])
{
        return print(bps, 1000, buf);
}

const char *units_print_ms(int64_t ms, char buf[UNITS_TEXT])
{
        static const struct {
                int64_t ms;
                const char *name;
        } units[] = {
                {86400000, "d" },
                {3600000,  "h" },
                {60000,    "m" },
                {1000,     "s" },
                {1,        "ms"},
        };
        size_t i = 0;
        while (ms == 0 || ms % units[i].ms != 0) {
                if (units[i].ms == 1)
                        break;
                i++;
        }
        (void)snprintf(buf, UNITS_TEXT, "%lld%s", (long long)(ms / units[i].ms), units[i].name);
        return buf;
}

const char *units_print_milli(int64_t milli, char buf[UNITS_TEXT])
{
        int n = snprintf(buf, UNITS_TEXT, "%lld.%03lld", (long long)(milli / 1000),
                         (long long)(milli % 1000));
        while (n > 0 && buf[n - 1] == '0')
                buf[--n] = '\0';
        if (n > 0 && buf[n - 1] == '.')
                buf[--n] = '\0';
        return buf;
}
