/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/test-real.h"

#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <grp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vm/socket.h"

enum { FIRST_FD = 3, DISK_BYTES = 1 << 20 };

static void open_all(const char *dir, int fds[VM_FD_N])
{
        static const char *const names[VM_FD_N] = {
                [VM_FD_QMP] = "qmp",     [VM_FD_OOB] = "oob",         [VM_FD_GUARD] = "guard",
                [VM_FD_AGENT] = "agent", [VM_FD_CONSOLE] = "console", [VM_FD_CONSOLE_LOG] = "console.log"};
        struct err err = {0};
        for (int i = 0; i < VM_FD_N; i++) {
                g_autofree char *path = g_build_filename(dir, names[i], NULL);
                int fd = i == VM_FD_CONSOLE_LOG ? vm_console_open(path, &err) : vm_listen(path, &err);
                g_assert_cmpint(fd, >=, 0);
                /* Out of the way of the numbers that they are to have. */
                fds[i] = fcntl(fd, F_DUPFD_CLOEXEC, FIRST_FD + VM_FD_N);
                close(fd);
        }
}

static void become_stranger(void)
{
        if (geteuid() == 0 && (setgroups(0, NULL) < 0 || setresgid(STRANGER, STRANGER, STRANGER) < 0 ||
                               setresuid(STRANGER, STRANGER, STRANGER) < 0))
                _exit(126);
}

pid_t real_start(const char *dir, const struct api_vm_definition *d, const struct vm_argv_options *o,
                 bool as_stranger)
{
        struct vm_argv_options options = *o;
        struct vm_argv argv;
        struct err err = {0};
        int fds[VM_FD_N];
        options.first_fd = FIRST_FD;
        open_all(dir, fds);
        if (vm_argv_make(d, &options, &argv, &err) < 0)
                g_error("%s", err.sentence);
        pid_t pid = fork();
        g_assert_cmpint(pid, >=, 0);
        if (pid == 0) {
                for (int i = 0; i < VM_FD_N; i++)
                        dup2(fds[i], FIRST_FD + i);
                if (as_stranger)
                        become_stranger();
                prctl(PR_SET_PDEATHSIG, SIGKILL); /* a change of the user takes it away */
                execv(argv.args[0], argv.args);
                _exit(127);
        }
        for (int i = 0; i < VM_FD_N; i++)
                close(fds[i]);
        vm_argv_done(&argv);
        return pid;
}

void real_end(pid_t *pid)
{
        if (*pid > 0) {
                kill(*pid, SIGKILL);
                waitpid(*pid, NULL, 0);
        }
        *pid = 0;
}

char *real_images(const char *payload)
{
        g_autofree char *from = g_build_filename(payload, "payload.elf", NULL), *text = NULL;
        gsize n;
        char *dir = g_dir_make_tmp("mete-images-XXXXXX", NULL);
        g_autofree char *kernel = g_build_filename(dir, "payload.elf", NULL);
        g_autofree char *disk = g_build_filename(dir, "disk.raw", NULL);
        g_assert_true(g_file_get_contents(from, &text, &n, NULL));
        g_assert_true(g_file_set_contents(kernel, text, (gssize)n, NULL));
        int fd = open(disk, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        g_assert_cmpint(ftruncate(fd, DISK_BYTES), ==, 0);
        close(fd);
        g_assert_cmpint(chmod(disk, 0666) | chmod(kernel, 0644) | chmod(dir, 0755), ==, 0);
        return dir;
}

void real_remove_dir(char *dir)
{
        if (!dir)
                return;
        g_autoptr(GDir) d = g_dir_open(dir, 0, NULL);
        const char *name;
        while (d && (name = g_dir_read_name(d))) {
                g_autofree char *path = g_build_filename(dir, name, NULL);
                g_unlink(path);
        }
        g_rmdir(dir);
        g_free(dir);
}
