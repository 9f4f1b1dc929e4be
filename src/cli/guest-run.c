/* SPDX-License-Identifier: Apache-2.0 */
/* mete run: the request, the verdict, the command, the release, in this order.
 *
 * Signals are taken from a descriptor before anything is asked for, so that none falls between two stones:
 * before the command runs they withdraw the request, while it runs they are the command's. */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/str.h"
#include "base/units.h"
#include "cli/exit.h"
#include "cli/guest.h"
#include "lib/handle.h"
#include "lib/need-text.h"

enum {
        RUN_NEEDS_MAX = METE_NEEDS_MAX,
        REOPEN_FIRST_MS = 50,
        REOPEN_MAX_MS = 2000,
        LOST_MAX_MS = 10000,    /* lost for so long before the verdict: gone for good */
        TIMEOUT_GRACE_MS = 5000 /* an agent that keeps the timeout has answered by then */
};

struct run {
        const struct arguments *a;
        struct mete *m;
        int signal_fd;
        sigset_t before;
        const char *needs[RUN_NEEDS_MAX];
        size_t n_needs;
        struct mete_options options;
        uint64_t ticket;
        char id[64];
        bool is_connected;    /* to the agent */
        int64_t connected_ms; /* the last time that it became so */
        int64_t lost_ms;      /* the first of some losses in a row; 0: there was none */
        int64_t reopen_ms;    /* the wait before the agent is looked for again */
        int64_t due_ms;       /* a verdict is not waited for any longer */
        bool is_told;         /* that the lease has ended */
        pid_t child;
        bool is_ended; /* the command's exit status is known */
        int status;
};

static int usage(const struct run *r, const char *text)
{
        (void)fprintf(stderr, "mete run: %s; see 'mete help run'\n", text);
        return EXIT_USAGE;
}

static int take_arguments(struct run *r)
{
        const char *timeout = arguments_option(r->a, "--timeout"), *need;
        struct err err = {0};
        size_t at = 0;

        while ((need = arguments_each(r->a, "--need", &at)) != NULL) {
                if (r->n_needs == RUN_NEEDS_MAX)
                        return usage(r, "at most 4 needs");
                r->needs[r->n_needs++] = need;
        }
        if (r->n_needs == 0)
                return usage(r, "what is needed? --need cpu:1");
        r->options = (struct mete_options)METE_OPTIONS_INIT;
        r->options.id = arguments_option(r->a, "--id");
        r->options.or_less = arguments_option(r->a, "--or-less") != NULL;
        r->options.name = arguments_option(r->a, "--name");
        if (timeout == NULL)
                return 0;
        if (units_parse_ms(timeout, &r->options.timeout_ms, &err) < 0)
                return usage(r, err.sentence);
        return r->options.timeout_ms > 0 ? 0 : usage(r, "--timeout must be more than nothing");
}

/* The name of the program, as much of it as fits. */
static const char *name_of(const char *command, char buf[METE_NAME_MAX + 1])
{
        const char *slash = strrchr(command, '/');
        const char *name = slash != NULL && slash[1] != '\0' ? slash + 1 : command;

        (void)snprintf(buf, METE_NAME_MAX + 1, "%s", name);
        for (char *c = buf; *c != '\0'; c++)
                if (*c < ' ' || *c > '~')
                        *c = '_';
        return buf[0] != '\0' ? buf : "run";
}

static int take_signals(struct run *r)
{
        static const int taken[] = {SIGCHLD, SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH};
        sigset_t set;

        (void)sigemptyset(&set);
        for (size_t i = 0; i < ARRAY_N(taken); i++)
                (void)sigaddset(&set, taken[i]);
        (void)sigprocmask(SIG_BLOCK, &set, &r->before);
        r->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
        if (r->signal_fd >= 0)
                return 0;
        (void)fprintf(stderr, "mete run: signalfd: %s\n", strerror(errno));
        return EXIT_INTERNAL;
}

/* ---- waiting ---- */

/* The agent is gone, perhaps to be started again. */
static void find_again(struct run *r)
{
        r->reopen_ms = r->reopen_ms * 2 < REOPEN_MAX_MS ? r->reopen_ms * 2 : REOPEN_MAX_MS;
        if (mete_reopen(r->m, NULL) < 0)
                return;
        r->is_connected = true;
        r->connected_ms = handle_mono_ms();
}

/* Who takes connections and drops them is as good as gone: only what has held for a while ends a run of
 * losses. */
static void note_loss(struct run *r)
{
        int64_t now_ms = handle_mono_ms();

        if (!r->is_connected || mete_fd(r->m, NULL) >= 0)
                return;
        r->is_connected = false;
        if (r->lost_ms != 0 && now_ms - r->connected_ms < LOST_MAX_MS)
                return;
        r->lost_ms = now_ms;
        r->reopen_ms = REOPEN_FIRST_MS;
}

/* Waits for a signal, the agent, or due_ms where it is not 0. Returns a signal, or 0. */
static int wait_some(struct run *r, struct signalfd_siginfo *info)
{
        struct pollfd p[2] = {
                {.fd = r->signal_fd, .events = POLLIN},
                { .fd = mete_fd(r->m,             NULL),      .events = 0}
        };
        int wait_ms = -1;

        if (p[1].fd >= 0) {
                p[1].events = (short)mete_events(r->m, NULL);
        } else {
                p[1].fd = -1;
                wait_ms = (int)r->reopen_ms;
        }
        int64_t left_ms = r->due_ms != 0 ? r->due_ms - handle_mono_ms() : INT_MAX;
        if (r->due_ms != 0 && (wait_ms < 0 || left_ms < wait_ms))
                wait_ms = left_ms > 0 ? (int)left_ms : 0;
        int n = poll(p, 2, wait_ms);
        if (n == 0 && !r->is_connected)
                find_again(r);
        if (n > 0 && p[1].revents != 0)
                (void)mete_process(r->m, NULL);
        note_loss(r);
        if (n > 0 && p[0].revents != 0 && read(r->signal_fd, info, sizeof(*info)) == (ssize_t)sizeof(*info))
                return (int)info->ssi_signo;
        return 0;
}

/* ---- the verdict ---- */

static int say_verdict(const struct run *r, const struct mete_verdict *v)
{
        if (arguments_option(r->a, "--json") != NULL)
                (void)printf("{\"request\":\"%s\",\"outcome\":\"%s\",\"reason\":\"%s\"}\n", v->request,
                             mete_outcome_name(v->outcome), mete_reason_name(v->reason));
        (void)fprintf(stderr, "mete run: %s: %s (%s)\n", mete_outcome_name(v->outcome), v->sentence,
                      mete_reason_name(v->reason));
        enum exit_status status = exit_from_reason((enum reason)v->reason);
        if (v->outcome == METE_NEVER && status == EXIT_NOT_NOW)
                return EXIT_NEVER;
        return v->outcome == METE_NOT_NOW && status == EXIT_FAILED ? EXIT_NOT_NOW : (int)status;
}

static void wait_for_verdict(struct run *r)
{
        r->due_ms = handle_mono_ms() + TIMEOUT_GRACE_MS +
                    (r->options.timeout_ms > 0 ? r->options.timeout_ms : HANDLE_TIMEOUT_MS);
}

/* What was asked for in other units than it is given in may have been a slip: memory:512 for memory:512M. */
static void say_rounded(const struct run *r, const struct mete_verdict *v)
{
        struct api_need asked, given;

        for (size_t i = 0; i < r->n_needs && i < v->n_needs; i++) {
                if (need_text_parse(r->needs[i], &asked, NULL) < 0 ||
                    need_text_parse(v->needs[i], &given, NULL) < 0)
                        continue;
                int64_t most = asked.has_amount_max ? asked.amount_max : asked.amount;
                if (strcmp(asked.kind, given.kind) == 0 && given.amount > most)
                        (void)fprintf(stderr, "mete run: %s was rounded up to %s\n", r->needs[i],
                                      v->needs[i]);
        }
}

/* 0: granted. -1: go on waiting. Else the exit status. */
static int on_verdict(struct run *r, const struct mete_verdict *v, char cpus[], size_t cpus_size)
{
        struct mete_error err;

        (void)STR_COPY(r->id, v->request);
        if (v->outcome == METE_COUNTER_OFFERED) {
                if (!r->options.or_less)
                        return say_verdict(r, v);
                (void)fprintf(stderr, "mete run: taking less: %s\n", v->sentence);
                wait_for_verdict(r);
                return mete_accept_start(r->m, r->id, &r->ticket, &err) < 0 ? guest_fail(r->a, &err) : -1;
        }
        if (v->outcome != METE_GRANTED)
                return say_verdict(r, v);
        size_t at = 0;
        char bytes[32];
        cpus[0] = '\0';
        for (size_t i = 0; i < v->n_cpus && at < cpus_size; i++)
                at += (size_t)snprintf(cpus + at, cpus_size - at, "%s%d", i > 0 ? "," : "", v->cpus[i]);
        (void)snprintf(bytes, sizeof(bytes), "%lld", (long long)v->memory_bytes);
        (void)setenv("METE_REQUEST", r->id, 1);
        (void)setenv("METE_CPUS", cpus, 1);
        (void)setenv("METE_MEMORY_BYTES", bytes, 1);
        say_rounded(r, v);
        for (size_t i = 0; arguments_option(r->a, "--verbose") != NULL && i < v->n_fallbacks; i++)
                (void)fprintf(stderr, "mete run: note: %s\n", v->fallbacks[i]);
        return 0;
}

/* As on_verdict(). */
static int take_events(struct run *r)
{
        struct mete_event *e = NULL;
        int status = -1;
        char cpus[512];

        while (status == -1 && mete_next_event(r->m, &e, NULL) == 1) {
                if (e->kind == METE_EVENT_VERDICT && e->ticket == r->ticket)
                        status = on_verdict(r, e->verdict, cpus, sizeof(cpus));
                else if (e->kind == METE_EVENT_FAILED && e->ticket == r->ticket)
                        status = guest_fail(r->a, &e->error);
                else if (e->kind == METE_EVENT_LOST && e->error.reason != METE_REASON_PEER_LOST)
                        status = guest_fail(r->a, &e->error); /* turned away, or no agent */
                mete_event_free(e);
        }
        return status;
}

static int withdrawn(struct run *r, int signal)
{
        /* What we asked for goes when this process does, at the latest. */
        (void)fprintf(stderr, "mete run: withdrawn by signal %d\n", signal);
        return 128 + signal;
}

/* 0, or the exit status where there is no use in waiting any longer. */
static int give_up(const struct run *r)
{
        int64_t now_ms = handle_mono_ms();

        bool is_late = now_ms >= r->due_ms;
        /* Found again just now, it may be lost again the next moment. */
        bool is_lost = !r->is_connected || (r->lost_ms != 0 && now_ms - r->connected_ms < LOST_MAX_MS);
        if (is_lost && (is_late || (!r->is_connected && now_ms - r->lost_ms > LOST_MAX_MS))) {
                (void)fprintf(stderr, "mete run: the agent is gone (peer-lost)\n");
                return EXIT_UNAVAILABLE;
        }
        if (!is_late)
                return 0;
        (void)fprintf(stderr, "mete run: the agent does not answer (timeout)\n");
        return EXIT_NOT_NOW;
}

static int ask(struct run *r)
{
        struct mete_error err;

        r->is_connected = true;
        r->connected_ms = handle_mono_ms();
        wait_for_verdict(r);
        if (mete_request_start(r->m, r->needs, r->n_needs, &r->options, &r->ticket, &err) < 0)
                return guest_fail(r->a, &err);
        for (;;) {
                struct signalfd_siginfo info;
                int signal = wait_some(r, &info);
                if (signal != 0 && signal != SIGCHLD && signal != SIGWINCH && signal != SIGUSR1 &&
                    signal != SIGUSR2)
                        return withdrawn(r, signal);
                int status = take_events(r);
                if (status != -1)
                        return status;
                status = give_up(r);
                if (status != 0)
                        return status;
        }
}

/* ---- the command ---- */

static void become(const struct run *r, pid_t parent)
{
        /* The lease is this process' parent's: the command must not outlive it. */
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
                _exit(EXIT_INTERNAL);
        (void)sigprocmask(SIG_SETMASK, &r->before, NULL);
        (void)execvp(r->a->operands[0], r->a->operands);
        int code = errno;
        (void)fprintf(stderr, "mete run: %s: %s\n", r->a->operands[0], strerror(code));
        _exit(code == ENOENT ? 127 : 126);
}

static void on_child(struct run *r)
{
        int status;

        if (waitpid(r->child, &status, WNOHANG) != r->child)
                return;
        r->is_ended = true;
        r->status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void on_signal(struct run *r, const struct signalfd_siginfo *info)
{
        int signal = (int)info->ssi_signo;

        if (signal == SIGCHLD)
                on_child(r);
        else if (info->ssi_code != SI_KERNEL) /* the terminal's go to the command by themselves */
                (void)kill(r->child, signal);
}

static void say_ended(struct run *r)
{
        struct mete_event *e = NULL;

        while (mete_next_event(r->m, &e, NULL) == 1) {
                if (e->kind == METE_EVENT_ENDED && strcmp(e->id, r->id) == 0 && !r->is_told) {
                        r->is_told = true;
                        (void)fprintf(
                                stderr,
                                "mete run: the lease %s has ended: %s (%s); %s keeps running without it\n",
                                r->id, e->error.sentence, mete_reason_name(e->error.reason),
                                r->a->operands[0]);
                }
                mete_event_free(e);
        }
}

static int work(struct run *r)
{
        struct mete_error err;
        pid_t parent = getpid();

        (void)fflush(NULL);
        r->child = fork();
        if (r->child == 0)
                become(r, parent);
        if (r->child < 0) {
                (void)fprintf(stderr, "mete run: fork: %s\n", strerror(errno));
                return EXIT_INTERNAL;
        }
        r->due_ms = 0;
        while (!r->is_ended) {
                struct signalfd_siginfo info;
                say_ended(r);
                if (wait_some(r, &info) != 0)
                        on_signal(r, &info);
        }
        if (mete_release(r->m, r->id, &err) < 0)
                (void)fprintf(stderr, "mete run: the lease goes with this process, not before: %s\n",
                              err.sentence);
        return r->status;
}

int guest_run(const struct arguments *a)
{
        struct run r = {.a = a, .signal_fd = -1};
        char name[METE_NAME_MAX + 1];
        int status = take_arguments(&r);

        if (status == 0)
                status = guest_open(a, &r.m);
        if (status == 0) /* until now there was nothing to withdraw */
                status = take_signals(&r);
        if (status == 0) {
                if (r.options.name == NULL)
                        r.options.name = name_of(a->operands[0], name);
                status = ask(&r);
                if (status == 0)
                        status = work(&r);
        }
        mete_close(r.m);
        if (r.signal_fd >= 0)
                (void)close(r.signal_fd);
        return status;
}
