/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/picture.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/log.h"
#include "base/str.h"
#include "json/read.h"

static const char *path_of(const struct picture *p, const char *name, char buf[288])
{
        (void)snprintf(buf, 288, "%s/%s", p->dir, name);
        return buf;
}

/* ---- files ---- */

/* Whoever reads has the file of before, or this one, whole. */
static int put(const struct picture *p, const char *name,
               int (*write)(const struct picture *p, FILE *f, struct err *err), struct err *err)
{
        char path[288], fresh[288];
        (void)path_of(p, name, path);
        (void)snprintf(fresh, sizeof(fresh), "%.280s.new", path);
        FILE *f = fopen(fresh, "we");
        if (!f)
                return err_set(err, REASON_INTERNAL, errno, "%s: %s", fresh, strerror(errno));
        int r = fchmod(fileno(f), 0644) < 0
                        ? err_set(err, REASON_INTERNAL, errno, "%s: %s", fresh, strerror(errno))
                        : write(p, f, err);
        if (fclose(f) != 0 && r == 0)
                r = err_set(err, REASON_INTERNAL, errno, "%s: %s", fresh, strerror(errno));
        if (r == 0 && rename(fresh, path) < 0)
                r = err_set(err, REASON_INTERNAL, errno, "%s: %s", path, strerror(errno));
        if (r < 0)
                (void)unlink(fresh);
        return r;
}

static int write_json(const struct picture *p, FILE *f, struct err *err)
{
        json_t *all = json_pack("{s:I, s:s, s:O}", "generation", (json_int_t)p->generation, "digest",
                                p->digest, "hhi", p->hhi);
        int r = all && json_dumpf(all, f, JSON_COMPACT) == 0
                        ? 0
                        : err_set(err, REASON_INTERNAL, EIO, "%s cannot be written", PICTURE_JSON);
        json_decref(all);
        return r;
}

static int write_xml(const struct picture *p, FILE *f, struct err *err)
{
        return hhi_write_xml(p->hhi, f, err);
}

static void store(const struct picture *p, bool is_changed)
{
        struct err why = {0};
        if ((is_changed && put(p, PICTURE_XML, write_xml, &why) < 0) ||
            put(p, PICTURE_JSON, write_json, &why) < 0)
                log_error("what the host said is only in memory: %s", why.sentence);
}

static bool read_stored(struct picture *p, struct err *err)
{
        char path[288];
        g_autofree char *text = NULL;
        gsize n;
        if (!g_file_get_contents(path_of(p, PICTURE_JSON, path), &text, &n, NULL))
                return false;
        json_t *all = n <= PICTURE_BYTES_MAX ? json_read(text, n, err) : NULL;
        json_t *hhi = json_object_get(all, "hhi");
        const char *digest = json_string_value(json_object_get(all, "digest"));
        json_int_t generation = json_integer_value(json_object_get(all, "generation"));
        if (all && !(hhi && digest && generation > 0))
                (void)err_set(err, REASON_INVALID, EINVAL, "generation, digest and hhi are not all there");
        bool is_good =
                hhi && digest && generation > 0 && hhi_check(hhi, err) == 0 && STR_COPY(p->digest, digest);
        if (is_good) {
                p->generation = (uint64_t)generation;
                p->hhi = json_incref(hhi);
        } else {
                log_warn("%s is not what this agent wrote, and is not used: %s", path, err->sentence);
        }
        json_decref(all);
        return is_good;
}

void picture_init(struct picture *p, const char *dir)
{
        struct err why = {0};
        *p = (struct picture){.text = g_string_new(NULL)};
        (void)STR_COPY(p->dir, dir);
        if (read_stored(p, &why))
                store(p, true); /* host.xml may be gone with the boot before */
}

void picture_done(struct picture *p)
{
        if (p->text)
                (void)g_string_free(p->text, TRUE);
        json_decref(p->hhi);
        p->text = NULL;
        p->hhi = NULL;
}

/* ---- receiving ---- */

void picture_forget_coming(struct picture *p)
{
        (void)g_string_truncate(p->text, 0);
        p->coming = 0;
        p->part = 0;
}

static int begin(struct picture *p, const struct api_guest_hhi *from, struct err *err)
{
        uint64_t generation = (uint64_t)from->generation, base = from->has_base ? (uint64_t)from->base : 0;
        picture_forget_coming(p);
        if (generation <= p->generation)
                return err_set(err, REASON_STALE, ESTALE, "generation %llu is known, this is %llu",
                               (unsigned long long)p->generation, (unsigned long long)generation);
        if (from->has_base && (base != p->generation || !p->hhi))
                return err_set(err, REASON_STALE, ESTALE, "generation %llu is known, this is against %llu",
                               (unsigned long long)p->generation, (unsigned long long)base);
        p->coming = generation;
        p->base = base;
        p->parts = from->parts;
        (void)STR_COPY(p->coming_digest, from->digest);
        return 0;
}

static int add(struct picture *p, const struct api_guest_hhi *from, struct err *err)
{
        if (from->part == 1) {
                int r = begin(p, from, err);
                if (r < 0)
                        return r;
        }
        if (p->coming == 0 || (uint64_t)from->generation != p->coming || from->part != p->part + 1 ||
            from->parts != p->parts || from->part > from->parts ||
            strcmp(from->digest, p->coming_digest) != 0)
                return err_set(err, REASON_INVALID, EPROTO, "part %lld of %lld is not the one that follows",
                               (long long)from->part, (long long)from->parts);
        size_t n = strlen(from->text);
        if (p->text->len + n > PICTURE_BYTES_MAX)
                return err_set(err, REASON_INVALID, E2BIG, "more than %d MiB", PICTURE_BYTES_MAX >> 20);
        (void)g_string_append_len(p->text, from->text, (gssize)n);
        p->part = from->part;
        return 0;
}

static bool has_digest(const struct picture *p)
{
        GChecksum *sum = g_checksum_new(G_CHECKSUM_SHA256);
        if (p->base)
                g_checksum_update(sum, (const guchar *)p->digest, (gssize)strlen(p->digest));
        g_checksum_update(sum, (const guchar *)p->text->str, (gssize)p->text->len);
        bool is_it = strcmp(g_checksum_get_string(sum), p->coming_digest) == 0;
        g_checksum_free(sum);
        return is_it;
}

/* The document that the text makes; a new reference. */
static json_t *make(const struct picture *p, struct err *err)
{
        json_t *said = json_read(p->text->str, p->text->len, err), *made = NULL;
        if (!said)
                return NULL;
        if (p->base) {
                made = json_incref(p->hhi);
                if (hhi_apply(&made, said, err) < 0) {
                        json_decref(made);
                        made = NULL;
                }
        } else if (hhi_check(said, err) == 0) {
                made = json_incref(said);
        }
        json_decref(said);
        return made;
}

static enum picture_outcome apply(struct picture *p, struct err *err)
{
        if (!has_digest(p)) {
                (void)err_set(err, REASON_INVALID, EBADMSG, "the digest is not that of the text");
                return PICTURE_REFUSED;
        }
        json_t *made = make(p, err);
        if (!made)
                return PICTURE_REFUSED;
        bool is_changed = !p->hhi || !json_equal(p->hhi, made);
        json_decref(p->hhi);
        p->hhi = made;
        p->generation = p->coming;
        memcpy(p->digest, p->coming_digest, sizeof(p->digest));
        store(p, is_changed);
        return is_changed ? PICTURE_CHANGED : PICTURE_SAME;
}

enum picture_outcome picture_take(struct picture *p, const struct api_guest_hhi *from, struct err *err)
{
        enum picture_outcome out = add(p, from, err) < 0 ? PICTURE_REFUSED
                                   : p->part < p->parts  ? PICTURE_MORE
                                                         : apply(p, err);
        if (out != PICTURE_MORE)
                picture_forget_coming(p);
        return out;
}
