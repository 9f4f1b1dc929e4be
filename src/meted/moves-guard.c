/* SPDX-License-Identifier: Apache-2.0 */
/* The guard of an attempt, as the side that gives a VM away has it: started, heard, dismissed; and whether it
 * was the guard that broke the attempt off. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/str.h"
#include "fleet/outcome.h"
#include "meted/moves-internal.h"
#include "meted/moves.h"
#include "vm/socket.h"

enum { KEEPER_MS = 20000, GUARD_MS = 5000, BOUND_MAX_US = 60000000 };

void source_guard_hang_up(struct moving *mv)
{
        if (mv->guard_fd < 0)
                return;
        loop_fd_remove(&mv->guard_says);
        (void)close(mv->guard_fd);
        mv->guard_fd = -1;
        mv->is_guard_awaited = mv->has_guard_spoken = false;
}

/* It hears nobody whom it has not spoken to before: it says what it is at to whoever connects. */
static void guard_dismiss(struct moving *mv)
{
        static const char done[] = "done\n";
        if (mv->has_guard_spoken)
                (void)!send(mv->guard_fd, done, sizeof(done) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* "resumed CUT RESUMED": so long after the guest stopped, in microseconds. */
static void learn_resumed(struct moving *mv, const char *text)
{
        static const char word[] = "resumed ";
        const char *at = strstr(text, word);
        if (!at)
                return;
        char *end = NULL;
        int64_t cut_us = g_ascii_strtoll(at + sizeof(word) - 1, &end, 10);
        int64_t resumed_us = g_ascii_strtoll(end, NULL, 10);
        if (cut_us <= 0 || resumed_us < cut_us)
                return;
        move_say(mv, "resumed", "it ran again %lld us after its guard broke it off",
                 (long long)(resumed_us - cut_us));
        source_learn_resumed(mv, resumed_us - cut_us);
}

/* "stopped CUT RESUMED LATE": so late it read that the guest had stopped. */
static void note_late(struct moving *mv, const char *text)
{
        static const char word[] = "stopped ";
        const char *at = strstr(text, word);
        if (!at)
                return;
        char *end = NULL;
        (void)g_ascii_strtoll(at + sizeof(word) - 1, &end, 10);
        (void)g_ascii_strtoll(end, &end, 10);
        mv->heard_late_us = MAX(g_ascii_strtoll(end, NULL, 10), 1);
}

static void on_guard_says(void *arg, uint32_t events)
{
        struct moving *mv = arg;
        char text[512];
        (void)events;
        ssize_t n = recv(mv->guard_fd, text, sizeof(text) - 1, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return;
        if (n <= 0) {
                mv->is_guard_lost = !mv->is_guard_over && mv->is_copying;
                source_guard_hang_up(mv);
                if (mv->is_guard_lost) /* it may be over, which QEMU says as well, and what of */
                        loop_timer_in(&mv->look, SOURCE_LOOK_MS);
                return;
        }
        text[n] = '\0';
        mv->has_guard_spoken = true;
        learn_resumed(mv, text);
        note_late(mv, text);
        if (mv->is_guard_over) {
                guard_dismiss(mv);
        } else if (mv->is_guard_awaited && strstr(text, "watching")) {
                mv->is_guard_awaited = false;
                loop_timer_cancel(&mv->look);
                source_connect(mv);
        }
}

static int guard_connect(struct moving *mv, struct err *err)
{
        const struct machine *v = machine_find(mv->m, mv->vm);
        char path[512];
        if (!v)
                return err_set(err, REASON_STALE, ESTALE, "it is gone");
        machine_path(v, "guard-says.sock", path, sizeof(path));
        int fd = vm_connect(path, err);
        int bad = fd < 0 ? fd : loop_fd_add(&mv->guard_says, fd, EPOLLIN, on_guard_says, mv, err);
        if (!bad)
                mv->guard_fd = fd;
        else if (fd >= 0)
                (void)close(fd);
        return bad;
}

/* Also one that another meted had started. It ends, and hangs up. */
void source_guard_end(struct moving *mv)
{
        struct err none = {0};
        mv->is_guard_over = true;
        if (mv->guard_fd < 0)
                (void)guard_connect(mv, &none);
        else
                guard_dismiss(mv);
}

static void on_guard(void *arg, const json_t *result, const struct err *err)
{
        struct moving *mv = arg;
        struct api_keeper_guard guard;
        struct err bad = {0};
        if (!err && api_keeper_guard_parse(result, &guard, &bad))
                err = &bad;
        if (!err && guard.has_fallback)
                move_fallback(mv, "%s", guard.fallback);
        if (!err && guard_connect(mv, &bad))
                err = &bad;
        if (err) {
                source_broken(mv, MOVE_EV_FAILED, err);
                return;
        }
        mv->is_guard_over = false;
        mv->heard_late_us = 0;
        mv->is_guard_awaited = true; /* the copy begins when it watches */
        loop_timer_in(&mv->look, GUARD_MS);
}

int source_outcome_dir(const struct meted *m, struct err *err)
{
        char path[512];
        (void)snprintf(path, sizeof(path), "%s/moves", m->config.state_dir);
        if (mkdir(path, 0700) < 0 && errno != EEXIST)
                return err_set(err, REASON_INTERNAL, errno, "%s: %s", path, strerror(errno));
        int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return fd < 0 ? err_set(err, REASON_INTERNAL, errno, "%s: %s", path, strerror(errno)) : fd;
}

bool source_guard(struct moving *mv, const struct machine *v, struct err *err)
{
        struct api_keeper_guard_start p = {0};
        char monitor[512], says[512], name[80];
        int fds[3] = {-1, -1, -1};
        /* What comes before the word that it stopped; and behind the bound, where it is cut, or committed
         * just before it. */
        const struct profile *of = &mv->profile;
        int64_t around_us = (int64_t)((of->stop.p99_s + plan_end_s(of, &mv->means)) * 1e6);
        int64_t bound_us = mv->core.row.level.downtime_ms * 1000 - around_us;
        machine_path(v, "guard.sock", monitor, sizeof(monitor));
        machine_path(v, "guard-says.sock", says, sizeof(says));
        move_outcome_name_of(mv, name);
        (void)STR_COPY(p.vm, mv->vm);
        (void)STR_COPY(p.move, name);
        p.bound_us = bound_us < 1000 ? 1000 : bound_us > BOUND_MAX_US ? BOUND_MAX_US : bound_us;
        bool is_good = (fds[0] = vm_connect_guard(monitor, err)) >= 0 &&
                       (fds[1] = vm_listen(says, err)) >= 0 && (fds[2] = source_outcome_dir(mv->m, err)) >= 0;
        if (is_good)
                keeper_call(mv->m->keeper, API_KEEPER_GUARD_START, api_keeper_guard_start_emit(&p), fds, 3,
                            KEEPER_MS, on_guard, mv);
        for (size_t i = 0; i < ARRAY_N(fds); i++)
                if (fds[i] >= 0)
                        (void)close(fds[i]);
        return is_good;
}

/* It writes first and cuts then: whatever QEMU or the other side says of the cut, is said later. */
bool source_is_cut(struct moving *mv, struct err *ret)
{
        enum outcome_is is = 0;
        char name[80], by[OUTCOME_BY] = "";
        struct err err = {0};
        int fd = source_outcome_dir(mv->m, &err);
        move_outcome_name_of(mv, name);
        int bad = fd < 0 ? fd : outcome_read(fd, name, &is, by, &err);
        if (fd >= 0)
                (void)close(fd);
        if (bad || is != OUTCOME_IS_ABORTED || strcmp(by, OUTCOME_BY_GUARD) != 0)
                return false;
        mv->was_cut = true;
        *ret = (struct err){0};
        (void)err_set(ret, REASON_TIMEOUT, ETIME,
                      "its guard broke it off: the guest would have stood for longer than %lld ms",
                      (long long)mv->core.row.level.downtime_ms);
        return true;
}
