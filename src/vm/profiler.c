/* SPDX-License-Identifier: Apache-2.0 */
/* Three phases. CHOOSE: memory is cut into stretches of `step` pages, and one page of each is drawn; is it in
 * a hole, it is no part of the sample, and SEEK_DATA says where the next data are. So each page that has data
 * is in the sample with the same chance, 1 in step, also where the guest writes to every n-th page. MIX: the
 * order becomes a random one, so that whatever has been looked at when time runs out is a fair sample, and
 * address says nothing about time. LOOK: `next[k]` is the page that look k comes to next; next[k] <= next[k -
 * 1], and within a look pages come in the order in which they were first seen, which is that in which they
 * are due.
 *
 * First looks are spread over seconds. That keeps the load low, and a guest that works in bursts is seen at
 * all of its moods. A look that is so late that the page's next one is due as well is left out: it would only
 * be the next one again. A point of the curve stands where its looks really were, on the average.
 *
 * A page that changed stays dirty whatever it contains later, and is not read again. */
#include "vm/profiler.h"

#include <errno.h>
#include <glib.h>
#include <math.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "loop/loop.h"

static const int64_t look_us[PROFILER_LOOKS + 1] = {0, 50000, 200000, 1000000, 5000000};
enum { SPREAD_US = 2000000, WORDS = PRECOPY_PAGE / 4, SELDOM = 16 };

/* Nine of ten, on one side. */
static const double z = 1.2816;
/* What a plan would add to all of the curve for the sake of its least certain point is bounded by this: a
 * point that is less certain stands higher instead. */
static const double error_max = 0.1;

enum phase { CHOOSE = 1, MIX, LOOK };

struct page {
        uint64_t hash;
        int64_t offset;
        uint32_t seen_us; /* since the start */
        int32_t blocks;   /* of all files at that time, in pages, since the start */
        uint16_t file;
        bool is_dirty;
};

struct profiler {
        profiler_done_fn *done;
        void *arg;
        int64_t (*now_us)(void);
        struct loop_timer timer;
        size_t n_files;
        struct file {
                int fd; /* owned */
                int64_t pages, data_pages;
        } files[PROFILER_FILES_MAX];

        enum phase phase;
        unsigned pages_max;
        int64_t start_us, deadline_us, spread_us;
        int64_t blocks; /* of all files, in pages, when it began */
        int64_t step;
        size_t file; /* CHOOSE: where it is */
        int64_t stretch;
        size_t n, room; /* pages */
        struct page *pages;
        size_t mixed; /* MIX: so many are where they stay */

        size_t next[PROFILER_LOOKS + 1];
        unsigned zero; /* first looks that found nothing */
        struct sum {
                unsigned pages, changed;
                double us, grown; /* sums over pages */
        } sum[PROFILER_LOOKS + 1];

        uint64_t random;
        uint64_t zero_hash;
        struct profiler_result result;
        uint32_t key[WORDS + 8];
};

/* ---- chance ---- */

/* splitmix64, of Vigna. */
static uint64_t draw(struct profiler *p)
{
        uint64_t x = p->random += 0x9e3779b97f4a7c15;
        x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
        x = (x ^ x >> 27) * 0x94d049bb133111eb;
        return x ^ x >> 31;
}

static int64_t draw_below(struct profiler *p, int64_t n)
{
        return (int64_t)(draw(p) % (uint64_t)n);
}

static int make_key(struct profiler *p, uint64_t seed, struct err *err)
{
        p->random = seed;
        for (size_t i = 0; seed && i < WORDS; i++)
                p->key[i] = (uint32_t)draw(p);
        for (size_t had = 0; !seed && had < sizeof(p->key);) {
                ssize_t n = getrandom((char *)p->key + had, sizeof(p->key) - had, 0);
                if (n < 0 && errno != EINTR)
                        return err_set(err, REASON_INTERNAL, errno, "random numbers: %s", strerror(errno));
                had += n > 0 ? (size_t)n : 0;
        }
        if (!seed)
                memcpy(&p->random, p->key + WORDS, sizeof(p->random));
        return 0;
}

/* NH of UMAC (RFC 4418): of two pages that differ, whoever chose them, the chance of one hash is 2^-32 while
 * the key is not known. */
static uint64_t hash_page(const uint32_t *key, const uint32_t *words)
{
        uint64_t lane[4] = {0};
        for (size_t i = 0; i < WORDS; i += 8)
                for (size_t k = 0; k < 4; k++)
                        lane[k] +=
                                (uint64_t)(words[i + k] + key[i + k]) * (words[i + k + 4] + key[i + k + 4]);
        return lane[0] + lane[1] + lane[2] + lane[3];
}

/* ---- files ---- */

static int64_t monotonic_us(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static int64_t cpu_us(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
        return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* What they take, in pages. Whatever a VMM made of them, sums stay far from the end of their types. */
static int64_t taken_pages(const struct profiler *p)
{
        int64_t pages = 0;
        for (size_t i = 0; i < p->n_files; i++) {
                struct stat st;
                if (fstat(p->files[i].fd, &st) == 0)
                        pages += CLAMP((int64_t)st.st_blocks / (PRECOPY_PAGE / 512), 0, INT32_MAX);
        }
        return pages;
}

static int measure_files(struct profiler *p, struct err *err)
{
        int64_t data = 0;
        for (size_t i = 0; i < p->n_files; i++) {
                struct file *f = &p->files[i];
                struct stat st;
                if (fstat(f->fd, &st) < 0)
                        return err_set(err, REASON_INTERNAL, errno, "RAM file: %s", strerror(errno));
                if (!S_ISREG(st.st_mode))
                        return err_set(err, REASON_INVALID, EINVAL, "RAM file: not a plain file");
                f->pages = (int64_t)st.st_size / PRECOPY_PAGE;
                f->data_pages =
                        CLAMP((int64_t)st.st_blocks / (PRECOPY_PAGE / 512), 0, MIN(f->pages, INT32_MAX));
                p->result.memory_bytes += MIN(f->pages, INT32_MAX) * PRECOPY_PAGE;
                data += f->data_pages;
        }
        p->result.data_bytes = data * PRECOPY_PAGE;
        p->step = MAX((data + p->pages_max - 1) / p->pages_max, 1);
        p->room = (size_t)MIN(data / p->step, p->pages_max) * 9 / 8 + 64;
        p->pages = g_new(struct page, p->room);
        p->blocks = taken_pages(p);
        return 0;
}

/* One stretch, or the holes up to the next. false: there are no more. */
static bool choose_one(struct profiler *p)
{
        const struct file *f = &p->files[p->file];
        int64_t first = p->stretch * p->step;
        if (first >= f->pages || f->data_pages == 0 || p->n == p->room) {
                p->stretch = 0;
                return ++p->file < p->n_files && p->n < p->room;
        }
        /* The last stretch may be a short one: its pages have the chance of all others. */
        int64_t page = first + draw_below(p, p->step);
        p->stretch++;
        if (page >= f->pages)
                return true;
        off_t data = lseek(f->fd, page * PRECOPY_PAGE, SEEK_DATA);
        if (data < 0 && errno == ENXIO) {
                p->stretch = f->pages / p->step + 1;
        } else if (data < 0 || data / PRECOPY_PAGE == page) { /* or a file system that knows no holes */
                p->pages[p->n++] = (struct page){.offset = page * PRECOPY_PAGE, .file = (uint16_t)p->file};
        } else {
                p->stretch = MAX(p->stretch, data / PRECOPY_PAGE / p->step);
        }
        return true;
}

static bool mix_one(struct profiler *p)
{
        if (p->mixed >= p->n)
                return false;
        size_t other = p->mixed + (size_t)draw_below(p, (int64_t)(p->n - p->mixed));
        struct page had = p->pages[p->mixed];
        p->pages[p->mixed++] = p->pages[other];
        p->pages[other] = had;
        return true;
}

static int read_page(const struct profiler *p, const struct page *page, uint64_t *ret_hash, struct err *err)
{
        uint32_t words[WORDS];
        ssize_t n = pread(p->files[page->file].fd, words, sizeof(words), page->offset);
        if (n < 0)
                return err_set(err, REASON_INTERNAL, errno, "RAM file: %s", strerror(errno));
        if (n != sizeof(words))
                return err_set(err, REASON_STALE, ESTALE, "a RAM file was cut short while it was looked at");
        *ret_hash = hash_page(p->key, words);
        return 0;
}

/* ---- looks ---- */

static int64_t due_us(const struct profiler *p, unsigned look)
{
        size_t i = p->next[look];
        return look == 0 ? p->spread_us * (int64_t)i / (int64_t)p->n : p->pages[i].seen_us + look_us[look];
}

/* At the latest: a page that was not seen by then has no next look. */
static bool has_more(const struct profiler *p, unsigned look)
{
        return p->next[look] < (look == 0 ? p->n : p->next[look - 1]);
}

/* The one to be made now: those that tell of short times first, as they must not be late; new pages last. -1:
 * none. */
static int due_look(const struct profiler *p, int64_t now_us)
{
        for (unsigned look = 1; look <= PROFILER_LOOKS; look++)
                if (has_more(p, look) && due_us(p, look) <= now_us)
                        return (int)look;
        return has_more(p, 0) && due_us(p, 0) <= now_us ? 0 : -1;
}

static int make_look(struct profiler *p, unsigned look, int64_t now_us, int64_t grown, struct err *err)
{
        struct page *page = &p->pages[p->next[look]];
        struct sum *sum = &p->sum[look];
        uint64_t hash = 0;
        int64_t after_us = now_us - page->seen_us;
        bool is_left_out = look > 0 && look < PROFILER_LOOKS && after_us >= look_us[look + 1];
        if (!is_left_out && !page->is_dirty) {
                int r = read_page(p, page, &hash, err);
                if (r < 0)
                        return r;
        }
        p->next[look]++;
        if (look == 0) {
                page->hash = hash;
                page->seen_us = (uint32_t)now_us;
                page->blocks = (int32_t)CLAMP(grown, INT32_MIN, INT32_MAX);
                p->zero += hash == p->zero_hash;
                sum->pages++;
        } else if (!is_left_out) {
                page->is_dirty = page->is_dirty || hash != page->hash;
                sum->pages++;
                sum->changed += page->is_dirty;
                sum->us += (double)after_us;
                sum->grown += (double)(grown - page->blocks);
        }
        return 0;
}

/* ---- what is made of them ---- */

/* Wilson's bound of a part, of which `changed` of n were seen. Also where all pages were looked at: each was
 * so for a time of its own. */
static double bound(double changed, double n, double side)
{
        double part = changed / n, zz = z * z / n;
        double width = z * sqrt(part * (1 - part) / n + zz / (4 * n));
        return CLAMP((part + zz / 2 + side * width) / (1 + zz), 0, 1);
}

static void add_point(struct profiler_result *r, const struct sum *sum)
{
        struct profiler_look *l = &r->looks[r->n_looks++];
        double n = sum->pages, data = (double)r->data_bytes, memory = (double)r->memory_bytes;
        double grown = fmax(sum->grown / n, 0) * PRECOPY_PAGE;
        *l = (struct profiler_look){
                .s = sum->us / n * 1e-6,
                .pages = sum->pages,
                .changed = sum->changed,
                .dirty_bytes = fmin(data * sum->changed / n + grown, memory),
                .low_bytes = fmin(data * bound(sum->changed, n, -1) + grown, memory),
                .high_bytes = fmin(data * bound(sum->changed, n, 1) + grown, memory),
        };
}

/* One error for the whole curve, and points such that each with it is not below its own bound. */
static void make_curve(const struct profiler_result *r, struct curve *ret)
{
        struct curve c = {.source = FIGURE_SAMPLED};
        for (size_t i = 0; i < r->n_looks; i++) {
                const struct profiler_look *l = &r->looks[i];
                if (l->dirty_bytes > 0)
                        c.error = fmax(c.error, fmin(l->high_bytes / l->dirty_bytes - 1, error_max));
                else if (l->high_bytes > 0)
                        c.error = error_max;
        }
        for (size_t i = 0; i < r->n_looks; i++) {
                const struct profiler_look *l = &r->looks[i];
                struct curve_point at = {l->s, fmax(l->dirty_bytes, l->high_bytes / (1 + c.error))};
                const struct curve_point *had = c.n_points ? &c.points[c.n_points - 1] : NULL;
                if (had && at.s <= had->s)
                        continue;
                if (had)
                        at.bytes = fmax(at.bytes, had->bytes);
                c.points[c.n_points++] = at;
        }
        *ret = c;
}

static void finish(struct profiler *p, const struct err *why)
{
        struct profiler_result *r = &p->result;
        struct err err = {0};
        loop_timer_cancel(&p->timer);
        r->pages = p->sum[0].pages;
        /* With less it would be chance, but where there is no more. */
        for (unsigned look = 1; look <= PROFILER_LOOKS; look++)
                if (p->sum[look].pages >= MIN(SELDOM, p->n) && p->sum[look].pages > 0)
                        add_point(r, &p->sum[look]);
        if (!why && r->n_looks == 0 && p->n > 0) {
                (void)err_set(&err, REASON_TIMEOUT, ETIMEDOUT, "by the deadline no RAM page was seen twice");
                why = &err;
        }
        if (why) {
                p->done(p->arg, NULL, why);
                return;
        }
        bool is_all = p->step == 1 && r->pages == p->n && p->n < p->room;
        double n = fmax(r->pages, 1), part = (n - p->zero) / n, data = (double)r->data_bytes;
        r->source = is_all ? FIGURE_MEASURED : FIGURE_SAMPLED;
        r->populated_bytes = p->n ? (int64_t)(data * part / PRECOPY_PAGE) * PRECOPY_PAGE : 0;
        r->populated_error = is_all || part <= 0 ? 0 : bound(n - p->zero, n, 1) / part - 1;
        r->zero_pages = (r->memory_bytes - r->populated_bytes) / PRECOPY_PAGE;
        make_curve(r, &r->dirty);
        p->done(p->arg, r, NULL);
}

void profiler_fill(const struct profiler_result *r, struct profile *p)
{
        p->populated_bytes = r->populated_bytes;
        p->zero_pages = r->zero_pages;
        p->populated_source = p->zero_pages_source = r->source;
        p->dirty = r->dirty;
}

/* ---- slices ---- */

/* When there is something to do, since the start; -1: never again. */
static int64_t wanted_us(const struct profiler *p)
{
        int64_t at = -1;
        for (unsigned look = 0; look <= PROFILER_LOOKS; look++)
                if (has_more(p, look) && (at < 0 || due_us(p, look) < at))
                        at = due_us(p, look);
        return at;
}

/* 0: there is more. 1: all is done. */
static int work(struct profiler *p, int64_t begin_us, struct err *err)
{
        int64_t grown = taken_pages(p) - p->blocks;
        for (int64_t now = begin_us; now - begin_us < PROFILER_SLICE_US && now - p->start_us < p->deadline_us;
             now = p->now_us()) {
                int look = -1;
                if (p->phase == CHOOSE && !choose_one(p))
                        p->phase = MIX;
                else if (p->phase == MIX && !mix_one(p))
                        p->phase = LOOK;
                if (p->phase != LOOK)
                        continue;
                if (p->n == 0)
                        return 1;
                if (p->sum[0].pages == 0) { /* the first look comes now, whatever the choice took */
                        p->deadline_us -= now - p->start_us;
                        p->start_us = now;
                }
                if ((look = due_look(p, now - p->start_us)) < 0)
                        break;
                int r = make_look(p, (unsigned)look, now - p->start_us, grown, err);
                if (r < 0)
                        return r;
        }
        return p->phase == LOOK && wanted_us(p) < 0;
}

static void on_timer(void *arg)
{
        struct profiler *p = arg;
        struct err err = {0};
        int64_t begin_us = p->now_us(), cpu = cpu_us();
        int r = work(p, begin_us, &err);
        int64_t now = p->now_us();
        p->result.slices++;
        p->result.cpu_us += cpu_us() - cpu;
        p->result.longest_slice_us = MAX(p->result.longest_slice_us, now - begin_us);
        p->result.elapsed_us = now - p->start_us;
        if (r != 0 || now - p->start_us >= p->deadline_us) {
                finish(p, r < 0 ? &err : NULL); /* p may be gone */
                return;
        }
        int64_t at_us = p->phase == LOOK ? wanted_us(p) : 0;
        int64_t in_us = MIN(at_us, p->deadline_us) - (now - p->start_us);
        loop_timer_in(&p->timer, MAX((in_us + 999) / 1000, PROFILER_REST_MS));
}

struct profiler *profiler_new(const int *fds, size_t n, const struct profiler_options *options,
                              profiler_done_fn *done, void *arg, struct err *err)
{
        const struct profiler_options none = {0}, *o = options ? options : &none;
        if (n == 0 || n > PROFILER_FILES_MAX) {
                (void)err_set(err, REASON_INVALID, EINVAL, "%zu RAM files: 1 to %d can be looked at", n,
                              PROFILER_FILES_MAX);
                return NULL;
        }
        struct profiler *p = g_new0(struct profiler, 1);
        p->done = done;
        p->arg = arg;
        p->now_us = o->now_us ? o->now_us : monotonic_us;
        p->phase = CHOOSE;
        p->pages_max = o->pages_max ? MIN(o->pages_max, PROFILER_PAGES_MAX) : PROFILER_PAGES_MAX;
        p->deadline_us = (o->deadline_ms > 0 ? MIN(o->deadline_ms, PROFILER_MS) : PROFILER_MS) * 1000;
        p->spread_us = MIN(SPREAD_US, p->deadline_us / 4);
        p->n_files = n;
        for (size_t i = 0; i < n; i++)
                p->files[i].fd = fds[i];
        loop_timer_init(&p->timer, on_timer, p);
        if (make_key(p, o->seed, err) < 0 || measure_files(p, err) < 0) {
                g_free(p);
                return NULL;
        }
        static const uint32_t nothing[WORDS];
        p->zero_hash = hash_page(p->key, nothing);
        p->start_us = p->now_us();
        loop_timer_in(&p->timer, 0);
        return p;
}

void profiler_free(struct profiler *p)
{
        if (!p)
                return;
        loop_timer_cancel(&p->timer);
        for (size_t i = 0; i < p->n_files; i++)
                (void)close(p->files[i].fd);
        g_free(p->pages);
        g_free(p);
}
