/* SPDX-License-Identifier: Apache-2.0 */
/* The verbs for other hosts. pki init, pki add, pki show work on files alone, without meted. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "base/str.h"
#include "base/units.h"
#include "cli/exit.h"
#include "cli/host.h"
#include "cli/pki.h"

struct wanted {
        struct pki_member members[PKI_MEMBERS_MAX];
        size_t n;
        int days;
};

static int take(const struct arguments *a, const char *option, enum cert_role role, struct wanted *w,
                struct err *err)
{
        size_t at = 0;
        for (const char *text; (text = arguments_each(a, option, &at)) != NULL;) {
                if (w->n == PKI_MEMBERS_MAX)
                        return err_set(err, REASON_INVALID, E2BIG, "at most %d at a time", PKI_MEMBERS_MAX);
                int bad = pki_member_parse(role, text, &w->members[w->n++], err);
                if (bad)
                        return err_note(err, "%s", option);
        }
        return 0;
}

static int read_wanted(const struct arguments *a, struct wanted *w, struct err *err)
{
        const char *days = arguments_option(a, "--days");
        int64_t number = PKI_DAYS;
        int bad = take(a, "--hypervisor", CERT_HYPERVISOR, w, err);
        if (!bad)
                bad = take(a, "--manager", CERT_MANAGER, w, err);
        if (!bad)
                bad = take(a, "--operator", CERT_OPERATOR, w, err);
        if (!bad && days && (bad = units_parse_count(days, &number, err)))
                err_note(err, "--days");
        if (!bad && w->n == 0)
                bad = err_set(err, REASON_INVALID, EINVAL,
                              "nobody is named: --hypervisor, --manager or --operator");
        w->days = number > PKI_DAYS_MAX ? 0 : (int)number;
        return bad;
}

static void say(const char *dir, const struct wanted *w, bool is_new)
{
        if (is_new)
                (void)printf("%s/ca.key\tthe authority: keep it where no host can read it\n%s/ca.crt\n", dir,
                             dir);
        bool has_hypervisor = false;
        for (size_t i = 0; i < w->n; i++) {
                has_hypervisor = has_hypervisor || w->members[i].role == CERT_HYPERVISOR;
                (void)printf("%s/%s.key\t%s %s\n%s/%s.crt\n", dir, w->members[i].name,
                             cert_role_name(w->members[i].role), w->members[i].name, dir, w->members[i].name);
        }
        if (has_hypervisor)
                (void)printf("Give each hypervisor its own two files, ca.crt and peers.conf%s.\n",
                             is_new ? "" : "; those that were there get peers.conf again, as it has grown");
        else
                (void)printf("Give each of them its own two files and ca.crt.\n");
}

static int make(const struct arguments *a, bool is_new)
{
        struct wanted *w = calloc(1, sizeof(*w));
        const char *dir = a->operands[0];
        struct err err = {0};
        int bad = w ? read_wanted(a, w, &err) : err_set(&err, REASON_INTERNAL, ENOMEM, "no memory");
        if (!bad)
                bad = is_new ? pki_init(dir, w->members, w->n, w->days, &err)
                             : pki_add(dir, w->members, w->n, w->days, &err);
        if (!bad)
                say(dir, w, is_new);
        free(w);
        return bad ? verb_fail(a, &err) : EXIT_OK;
}

static int run_init(const struct arguments *a)
{
        return make(a, true);
}

static int run_add(const struct arguments *a)
{
        return make(a, false);
}

static int run_renew(const struct arguments *a)
{
        const char *days = arguments_option(a, "--days"), *dir = a->operands[0], *name = a->operands[1];
        int64_t number = PKI_DAYS;
        struct err err = {0};
        int bad = days ? units_parse_count(days, &number, &err) : 0;
        if (bad)
                (void)err_note(&err, "--days");
        else
                bad = pki_renew(dir, name, number > PKI_DAYS_MAX ? 0 : (int)number, &err);
        if (bad)
                return verb_fail(a, &err);
        (void)printf(
                "%s/%s.crt\nPut it where the old one is. A meted that has it is to be started again; its "
                "pin in peers.conf is the same.\n",
                dir, name);
        return EXIT_OK;
}

static int run_show(const struct arguments *a)
{
        struct cert_id id = {0};
        struct err err = {0};
        size_t n = 0;
        char *text = cert_file_read(a->operands[0], &n, &err);
        int bad = text ? cert_read_pem(text, n, &id, &err) : -err.code;
        if (text && bad)
                (void)err_note(&err, "%.150s", a->operands[0]);
        if (text)
                explicit_bzero(text, n);
        free(text);
        if (bad)
                return verb_fail(a, &err);
        json_t *answer = json_object();
        json_object_set_new(answer, "role", json_string(cert_role_name(id.role)));
        json_object_set_new(answer, "name", json_string(id.name));
        json_object_set_new(answer, "pin", json_string(id.pin));
        json_object_set_new(answer, "start_ms", json_integer(id.start_ms));
        json_object_set_new(answer, "end_ms", json_integer(id.end_ms));
        if (!host_json(a, answer)) {
                struct table *t =
                        table_new((const char *const[]){"ROLE", "NAME", "FROM", "UNTIL", "PIN", NULL});
                table_text(t, cert_role_name(id.role));
                table_text(t, id.name);
                table_time(t, id.start_ms);
                table_time(t, id.end_ms);
                table_text(t, id.pin);
                table_print(t, stdout, "none");
                table_free(t);
        }
        json_decref(answer);
        return EXIT_OK;
}

static const struct option_row make_options[] = {
        {"--hypervisor",                                                  "NAME[=ADDRESS[:PORT]]",
         "a host as its mete.conf names it, and where its meted listens", true},
        {"--manager", "NAME", "a manager", true},
        {"--operator",                                                               "NAME", "a person who may do everything, from anywhere", true},
        {"--days",                                                         "N", "how long the certificates are valid (365)", false},
        {NULL                                                          },
};

static const struct option_row renew_options[] = {
        {"--days",                                   "N", "how long the certificate is valid (365)", false},
        {NULL},
};

const struct verb pki_verbs[] = {
        {.words = "peers",
         .operands = "",
         .summary = "List the other hosts of peers.conf, and what was heard of each last",
         .text = "Reachable is one that answered when it was asked last, over TLS and with the pinned "
                 "certificate. "
                 "The clock is how much its is ahead of ours.",                                        .run = host_peers},
        { .words = "pki init",
         .operands = "DIR",
         .operands_min = 1,
         .operands_max = 1,
         .options = make_options,
         .summary = "Make an authority, and keys and certificates for hosts",
         .text = "The authority is DIR/ca.key and ca.crt, each of those named gets NAME.key and NAME.crt, "
                 "and "
                 "peers.conf has a group for each hypervisor; files that are there are never overwritten. "
                 "Role "
                 "and name stand in the certificate as a URI, mete:ROLE:NAME. The authority itself is valid "
                 "for "
                 "ten years at least.", .run = run_init},
        {                                                                                     .words = "pki add",
         .operands = "DIR",
         .operands_min = 1,
         .operands_max = 1,
         .options = make_options,
         .summary = "Make keys and certificates for more of them, signed by the authority in DIR",
         .text = "DIR/peers.conf gets a group for each new hypervisor: give it to the others again, and "
                 "reload their meted.", .run = run_add},
        {                                                                                           .words = "pki renew",
         .operands = "DIR NAME",
         .operands_min = 2,
         .operands_max = 2,
         .options = renew_options,
         .summary = "Make a new certificate for the key of NAME, signed by the authority in DIR",
         .text = "DIR/NAME.crt is replaced. Role, name and address are those of the old one, which may have "
                 "expired; the pin is the same, so that peers.conf stays as it is.", .run = run_renew},
        {                                                                                                 .words = "pki show",
         .operands = "FILE",
         .operands_min = 1,
         .operands_max = 1,
         .summary = "Show whose certificate a file is, until when, and its pin",
         .run = run_show},
};
const size_t pki_verbs_n = ARRAY_N(pki_verbs);
