/* SPDX-License-Identifier: Apache-2.0 */
/* Runs a fuzz target over files, where libFuzzer is not: FUZZER FILE|FOLDER...
 * Each input is a heap copy of exactly its size, so that a sanitizer sees one byte too many. */
#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int run_file(FILE *f)
{
        uint8_t *data = NULL;
        size_t size = 0, room = 0, n;
        do {
                if (size == room) {
                        uint8_t *more = realloc(data, room = room ? 2 * room : 4096);
                        if (!more)
                                break;
                        data = more;
                }
                n = fread(data + size, 1, room - size, f);
                size += n;
        } while (n > 0);
        uint8_t *exact = malloc(size ? size : 1);
        if (!data || !exact || ferror(f)) {
                free(data);
                free(exact);
                return -EIO;
        }
        memcpy(exact, data, size);
        (void)LLVMFuzzerTestOneInput(exact, size);
        free(data);
        free(exact);
        return 0;
}

/* How many inputs were run, or a negative errno. */
static int run_path(const char *path)
{
        DIR *d = opendir(path);
        if (!d) {
                FILE *f = fopen(path, "rb");
                if (!f)
                        return -errno;
                int r = run_file(f);
                (void)fclose(f);
                return r < 0 ? r : 1;
        }
        int runs = 0, r = 0;
        for (struct dirent *e; r >= 0 && (e = readdir(d));) {
                if (e->d_name[0] == '.')
                        continue;
                char *inner = NULL;
                r = asprintf(&inner, "%s/%s", path, e->d_name) < 0 ? -ENOMEM : run_path(inner);
                if (r < 0)
                        fprintf(stderr, "%s: %s\n", e->d_name, strerror(-r));
                runs += r;
                free(inner);
        }
        closedir(d);
        return r < 0 ? r : runs;
}

int main(int argc, char **argv)
{
        int runs = 0;
        for (int i = 1; i < argc; i++) {
                int r = run_path(argv[i]);
                if (r < 0) {
                        fprintf(stderr, "%s: %s\n", argv[i], strerror(-r));
                        return 1;
                }
                runs += r;
        }
        printf("%d inputs\n", runs);
        return runs > 0 ? 0 : 1; /* an empty corpus tests nothing */
}
