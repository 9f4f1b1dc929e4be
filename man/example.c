/* SPDX-License-Identifier: Apache-2.0 */
/* The example of libmete(3): asks for memory, takes less if there is less, and says what it got. */
#include <err.h>
#include <inttypes.h>
#include <mete.h>
#include <stdio.h>

int main(void)
{
        struct mete_options options = METE_OPTIONS_INIT;
        const char *needs[] = {"memory:1G"};
        struct mete_verdict *v;
        struct mete_error e;
        struct mete *m;

        if (mete_open(NULL, &m, &e) < 0)
                errx(1, "%s", e.sentence);
        options.or_less = 1;
        int r = mete_request(m, needs, 1, &options, &v, &e);
        if (r == METE_COUNTER_OFFERED) {
                struct mete_verdict *offer = v;
                r = mete_accept(m, offer->request, &v, &e);
                mete_verdict_free(offer);
        }
        if (r < 0)
                errx(1, "%s", e.sentence);
        if (r != METE_GRANTED)
                errx(1, "%s: %s", mete_outcome_name((enum mete_outcome)r), v->sentence);
        (void)printf("%" PRId64 " bytes more\n", v->memory_bytes);
        (void)mete_release(m, v->request, &e);
        mete_verdict_free(v);
        mete_close(m);
        return 0;
}
