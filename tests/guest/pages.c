/* SPDX-License-Identifier: Apache-2.0 */
/* pages FILE - map a file and read every page of it, then wait; says "ready" once. In the guests of tests:
 * VmRSS in /proc/PID/status is then what of it is still in memory, since nothing is read again. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int main(int argc, char **argv)
{
        struct stat st = {0};
        int fd = argc == 2 ? open(argv[1], O_RDONLY) : -1;
        const volatile char *map = fd >= 0 && fstat(fd, &st) == 0 && st.st_size > 0
                                           ? mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0)
                                           : MAP_FAILED;
        unsigned sum = 0;

        if (map == MAP_FAILED) {
                (void)fprintf(stderr, "pages: %s\n", argc == 2 ? strerror(errno) : "usage: pages FILE");
                return 1;
        }
        for (off_t at = 0; at < st.st_size; at += 4096)
                sum += (unsigned char)map[at];
        (void)printf("ready %u\n", sum);
        (void)fflush(stdout);
        for (;;)
                (void)pause();
}
