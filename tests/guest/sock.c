/* SPDX-License-Identifier: Apache-2.0 */
/* sock PATH [stay] - connect standard input and output to a Unix socket or a character device, in the guests
 * of tests. The end of the input is not the end: it goes on until the other side closes, and with `stay` even
 * then, as a process without a connection. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static int open_path(const char *path)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        struct stat st;

        if (stat(path, &st) == 0 && S_ISCHR(st.st_mode))
                return open(path, O_RDWR);
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
        return connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ? -1 : fd;
}

/* false: the end of `from`, or nobody takes it. */
static int copy(int from, int to)
{
        char buffer[65536];
        ssize_t n = read(from, buffer, sizeof(buffer));

        for (ssize_t done = 0; done < n;) {
                ssize_t one = write(to, buffer + done, (size_t)(n - done));
                if (one < 0)
                        return 0;
                done += one;
        }
        return n > 0;
}

int main(int argc, char **argv)
{
        int stay = argc == 3 && strcmp(argv[2], "stay") == 0;
        int fd = argc == 2 || stay ? open_path(argv[1]) : -1;
        struct pollfd polls[2] = {
                {.fd = 0,  .events = POLLIN},
                {.fd = fd, .events = POLLIN}
        };

        if (fd < 0) {
                (void)fprintf(stderr, "sock: %s\n",
                              argc == 2 || stay ? strerror(errno) : "usage: sock PATH [stay]");
                return 1;
        }
        while (poll(polls, 2, -1) > 0) {
                if (polls[1].revents != 0 && !copy(fd, 1)) {
                        while (stay)
                                (void)pause();
                        return 0;
                }
                if (polls[0].revents != 0 && !copy(0, fd))
                        polls[0].fd = -1;
        }
        return 1;
}
