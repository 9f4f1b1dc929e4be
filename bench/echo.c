/* SPDX-License-Identifier: Apache-2.0 */
/* bench-echo SOCKET
 *
 * The least that a host can do at the other end of a guest's port: connects, and sends back what it reads,
 * until the other end closes. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int main(int argc, char **argv)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        char buffer[65536];
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        if (argc != 2 || strlen(argv[1]) >= sizeof(address.sun_path)) {
                (void)fputs("usage: bench-echo SOCKET\n", stderr);
                return 64;
        }
        (void)strcpy(address.sun_path, argv[1]);
        if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
                (void)fprintf(stderr, "bench-echo: %s: %s\n", argv[1], strerror(errno));
                return 1;
        }
        for (ssize_t n; (n = read(fd, buffer, sizeof(buffer))) > 0;)
                for (ssize_t at = 0, done; at < n; at += done)
                        if ((done = write(fd, buffer + at, (size_t)(n - at))) <= 0)
                                return 1;
        return 0;
}
