/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/id.h"
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#ifndef GRND_INSECURE
#define GRND_INSECURE 0x0004 /* Linux 5.6 */
#endif

/* Before Linux 5.6, and only until the kernel has its entropy: the time, the process, and a count. */
static void fill_from_time(unsigned char *buf, size_t n)
{
        static uint64_t count;
        struct timespec t;

        (void)clock_gettime(CLOCK_REALTIME, &t);
        uint64_t x = ((uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec) ^ (uint64_t)getpid() << 40 ^
                     ++count << 32;
        for (size_t i = 0; i < n; i++) {
                x ^= x >> 12; /* xorshift64* */
                x ^= x << 25;
                x ^= x >> 27;
                buf[i] = (unsigned char)((x * 0x2545f4914f6cdd1d) >> 56);
        }
}

void id_random(void *buf, size_t n)
{
        if (getrandom(buf, n, GRND_INSECURE) != (ssize_t)n && getrandom(buf, n, GRND_NONBLOCK) != (ssize_t)n)
                fill_from_time(buf, n);
}

void id_make(char id[64])
{
        unsigned char random[16];

        id_random(random, sizeof(random));
        for (size_t i = 0; i < sizeof(random); i++)
                (void)snprintf(id + 2 * i, 3, "%02x", random[i]);
}
