/* SPDX-License-Identifier: Apache-2.0 */
/* Sends without end: net-send ADDRESS PORT. A guest whose share of a link is measured. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv)
{
        static char zeros[256 * 1024];
        struct sockaddr_in to = {.sin_family = AF_INET};
        if (argc != 3 || inet_pton(AF_INET, argv[1], &to.sin_addr) != 1)
                return 64;
        to.sin_port = htons((uint16_t)strtoul(argv[2], NULL, 10));
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0) {
                perror("net-send");
                return 1;
        }
        while (write(fd, zeros, sizeof(zeros)) > 0)
                continue;
        perror("net-send");
        return 1;
}
