/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <glib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json/hhi.h"
#include "json/read.h"

static const char small[] =
        "{'objects':{'machine':{'kind':'machine','os':0,'infos':{'Architecture':'x86_64'}},"
        "'package:0':{'kind':'package','in':'machine','os':0},"
        "'memory:node0':{'kind':'memory','in':'package:0','os':0,'bytes':1073741824,"
        "'pages':[{'bytes':4096,'count':262144}]},"
        "'memory:node1':{'kind':'memory','in':'machine','os':1,'bytes':5,'near':[[1,1]]},"
        "'l3:0':{'kind':'l3','in':'package:0','bytes':1048576,'line':64,'ways':16},"
        "'core:0':{'kind':'core','in':'l3:0','os':0},"
        "'cpu:0':{'kind':'cpu','in':'core:0','os':0},'cpu:1':{'kind':'cpu','in':'core:0','os':1},"
        "'cpu:2':{'kind':'cpu','in':'package:0','os':2,'mark':'offline'},"
        "'bridge:0000:00':{'kind':'bridge','in':'package:0','buses':[0,3]},"
        "'bridge:0000:00:1f.7':{'kind':'bridge','in':'bridge:0000:00','buses':[1,1],'class':1540},"
        "'pci:0000:01:00.0':{'kind':'pci','in':'bridge:0000:00:1f.7','class':512,'link_bytes_per_s':"
        "2000000000},"
        "'net:eth0':{'kind':'net','in':'pci:0000:01:00.0'}},"
        "'distances':[{'name':'NUMALatency','kind':5,'of':['memory:node0','memory:node1'],'values':[10,20,20,"
        "10]}],"
        "'memattrs':[{'name':'Bandwidth','flags':5,'values':[{'of':'memory:node0','from':[[0,1]],'value':7}]}"
        "],"
        "'cpukinds':[{'cpus':[[0,0],[2,2]],'efficiency':1,'infos':{'CoreType':'big'}}]}";

/* Of JSON with ' for ". */
static json_t *read_text(const char *text)
{
        g_autofree char *quoted = g_strdelimit(g_strdup(text), "'", '"');
        struct err err = {0};
        json_t *v = json_read(quoted, strlen(quoted), &err);
        if (!v)
                g_error("%s", err.sentence);
        return v;
}

static void check_ok(const json_t *hhi)
{
        struct err err = {0};
        if (hhi_check(hhi, &err) < 0)
                g_error("%s", err.sentence);
}

static char *xml_of(const json_t *hhi)
{
        char *text = NULL;
        size_t n = 0;
        struct err err = {0};
        FILE *f = open_memstream(&text, &n);
        g_assert_nonnull(f);
        if (hhi_write_xml(hhi, f, &err) < 0)
                g_error("%s", err.sentence);
        (void)fclose(f);
        return text;
}

/* Each is a merge patch that breaks the small document, and a part of the sentence. */
static const struct {
        const char *patch, *sentence;
} broken[] = {
        {"{'objects':null}",                                                                                "0 objects"                       },
        {"{'objects':[]}",                                                                                  "0 objects"                       },
        {"{'objects':{'machine':null}}",                                                                    "machine: is missing"             },
        {"{'objects':{'machine':{'in':'machine'}}}",                                                        "machine: the id does not fit"    },
        {"{'objects':{'core:0':null}}",                                                                     "cpu:0: is in nothing"            },
        {"{'objects':{'core:0':{'in':'cpu:0'}}}",                                                           "cannot be in"                    },
        {"{'objects':{'core:0':{'in':'core:0'}}}",                                                          "in itself"                       },
        {"{'objects':{'core:0':{'in':'l3:0'},'l3:0':{'in':'core:0'}}}",                                     "in itself"                       },
        {"{'objects':{'core:0':{'in':'core:1'},'core:1':{'kind':'core','in':'l3:0'}}}",
         "in another of its kind"                                                                                                             },
        {"{'objects':{'core:0':{'in':7}}}",                                                                 "core:0: is in nothing"           },
        {"{'objects':{'core:0':{'kind':'cpu'}}}",                                                           "core:0: the id does not fit"     },
        {"{'objects':{'core:0':{'kind':'heart'}}}",                                                         "core:0: no such kind"            },
        {"{'objects':{'core:0':7}}",                                                                        "core:0: an object without a kind"},
        {"{'objects':{'cpu:0':{'os':1}}}",                                                                  "cpu:0: the id does not fit"      },
        {"{'objects':{'cpu:0':{'os':-1}}}",                                                                 "cpu:0: os"                       },
        {"{'objects':{'cpu:0':{'os':'0'}}}",                                                                "cpu:0: os"                       },
        {"{'objects':{'cpu:4096':{'kind':'cpu','in':'core:0','os':4096}}}",                                 "cpu:4096: the id does not fit"   },
        {"{'objects':{'cpu:01':{'kind':'cpu','in':'core:0','os':1}}}",                                      "cpu:01: the id does not fit"     },
        {"{'objects':{'cpu:0':{'mark':'mine'}}}",                                                           "cpu:0: no such mark"             },
        {"{'objects':{'cpu:0':{'free':-1}}}",                                                               "cpu:0: free"                     },
        {"{'objects':{'cpu:0':{'free':9007199254740993}}}",                                                 "cpu:0: free"                     },
        {"{'objects':{'cpu:0':{'vcpus':[0,'1']}}}",                                                         "vcpus are no numbers"            },
        {"{'objects':{'memory:node0':{'slots':3}}}",                                                        "slots are no numbers"            },
        {"{'objects':{'memory:node1':{'near':[[1,0]]}}}",                                                   "near is no list"                 },
        {"{'objects':{'memory:node1':{'near':[[1,1],[1,1]]}}}",                                             "near is no list"                 },
        {"{'objects':{'memory:node1':{'near':[[0,99999]]}}}",                                               "near is no list"                 },
        {"{'objects':{'memory:node0':{'pages':[{'bytes':4096}]}}}",                                         "pages have no bytes"             },
        {"{'objects':{'memory:node0':{'in':'net:eth0'}}}",                                                  "cannot be in"                    },
        {"{'objects':{'memory:node0':null,'memory:node1':null},'distances':null,'memattrs':null}",
         "no memory"                                                                                                                          },
        {"{'objects':{'cpu:0':{'mark':'offline'},'cpu:1':{'mark':'offline'}}}",                             "no CPU on line"                  },
        {"{'objects':{'bridge:0000:00:1f.7':{'buses':[1]}}}",                                               "buses are not"                   },
        {"{'objects':{'bridge:0000:00:1f.7':{'buses':null}}}",                                              "the id does not fit"             },
        {"{'objects':{'pci:0000:1:0.0':{'kind':'pci','in':'machine'}}}",                                    "the id does not fit"             },
        {"{'objects':{'net:a b':{'kind':'net','in':'machine'}}}",                                           "net:a?b: the id does not fit"    },
        {"{'objects':{'net:':{'kind':'net','in':'machine'}}}",                                              "the id does not fit"             },
        {"{'objects':{'net:eth0':{'infos':{'A':[]}}}}",                                                     "infos are no short texts"        },
        {"{'distances':{}}",                                                                                "distances: no list"              },
        {"{'distances':[{'kind':5,'of':['memory:node0','memory:node1'],'values':[10,20,20]}]}",             "no square"                       },
        {"{'distances':[{'kind':5,'of':['memory:node0','memory:node7'],'values':[10,20,20,10]}]}",
         "not there"                                                                                                                          },
        {"{'distances':[{'kind':0,'of':['memory:node0','memory:node1'],'values':[10,20,20,10]}]}",
         "kind is not"                                                                                                                        },
        {"{'distances':[{'kind':5,'of':['memory:node0','memory:node1'],'values':[10,20,20,0.5]}]}",
         "no number"                                                                                                                          },
        {"{'memattrs':[{'name':'','flags':5,'values':[]}]}",                                                "no short text"                   },
        {"{'memattrs':[{'name':'x','flags':3,'values':[]}]}",                                               "flags"                           },
        {"{'memattrs':[{'name':'x','flags':4,'values':[]}]}",                                               "flags"                           },
        {"{'memattrs':[{'name':'x','flags':5,'values':[{'of':'memory:node0','value':7}]}]}",
         "from is nothing"                                                                                                                    },
        {"{'memattrs':[{'name':'x','flags':1,'values':[{'of':'memory:node0','value':7,'from':[[0,1]]}]}]}",
         "from is"                                                                                                                            },
        {"{'memattrs':[{'name':'x','flags':1,'values':[{'of':'memory:node9','value':7}]}]}",                "not there"                       },
        {"{'cpukinds':[{'cpus':[[0,9]]}]}",                                                                 "CPUs that are there"             },
        {"{'cpukinds':[{'cpus':'0-1'}]}",                                                                   "CPUs that are there"             },
        {"{'objects':{'cpu:0':{'x':[null]}}}",                                                              "a null"                          },
        {"7",                                                                                               "a patch is an object"            },
        {"null",                                                                                            "a patch is an object"            },
};

static void test_check(void)
{
        json_t *hhi = read_text(small), *before = json_deep_copy(hhi);
        check_ok(hhi);
        for (size_t i = 0; i < G_N_ELEMENTS(broken); i++) {
                struct err err = {0};
                json_t *patch = read_text(broken[i].patch);
                g_assert_cmpint(hhi_apply(&hhi, patch, &err), ==, -EINVAL);
                g_assert_cmpint(err.reason, ==, REASON_INVALID);
                if (!strstr(err.sentence, broken[i].sentence))
                        g_error("%s: %s", broken[i].patch, err.sentence);
                g_assert_true(json_equal(hhi, before));
                json_decref(patch);
        }
        json_decref(hhi);
        json_decref(before);
}

static void test_bounds(void)
{
        struct err err = {0};
        char id[32], in[32] = "machine";
        json_t *hhi = read_text(small), *objects = json_object_get(hhi, "objects");
        for (int i = 0; i < HHI_DEPTH_MAX; i++) {
                (void)snprintf(id, sizeof(id), "group:%d", i);
                json_object_set_new(objects, id, json_pack("{s:s,s:s}", "kind", "group", "in", in));
                memcpy(in, id, sizeof(in));
        }
        check_ok(hhi);
        json_object_set_new(objects, "group:x", json_pack("{s:s,s:s}", "kind", "group", "in", in));
        g_assert_cmpint(hhi_check(hhi, &err), ==, -EINVAL);
        g_assert_nonnull(strstr(err.sentence, "too deep"));
        json_object_del(objects, "group:x");
        for (size_t i = json_object_size(objects); i < HHI_OBJECTS_MAX; i++) {
                (void)snprintf(id, sizeof(id), "dma:%zu", i);
                json_object_set_new(objects, id, json_pack("{s:s,s:s}", "kind", "dma", "in", "machine"));
        }
        check_ok(hhi);
        json_object_set_new(objects, "dma:x", json_pack("{s:s,s:s}", "kind", "dma", "in", "machine"));
        g_assert_cmpint(hhi_check(hhi, &err), ==, -EINVAL);
        g_assert_nonnull(strstr(err.sentence, "objects (1 to"));
        json_decref(hhi);
        g_assert_cmpint(hhi_check(NULL, &err), ==, -EINVAL);
        hhi = json_null();
        g_assert_cmpint(hhi_check(hhi, &err), ==, -EINVAL);
}

static void refused_table(const char *key, json_t *table, const char *sentence)
{
        struct err err = {0};
        json_t *hhi = read_text(small);
        json_object_set_new(hhi, key, table);
        g_assert_cmpint(hhi_check(hhi, &err), ==, -EINVAL);
        if (!strstr(err.sentence, sentence))
                g_error("%s: %s", key, err.sentence);
        json_decref(hhi);
}

static json_t *many(size_t n, json_t *v)
{
        json_t *list = json_array();
        while (n-- > 0)
                json_array_append(list, v);
        json_decref(v);
        return list;
}

static json_t *matrix(size_t n)
{
        return json_pack("{s:i,s:o,s:o}", "kind", 5, "of", many(n, json_string("cpu:0")), "values",
                         many(n * n, json_integer(1)));
}

static json_t *attribute(size_t n)
{
        return json_pack("{s:s,s:i,s:o}", "name", "x", "flags", 1, "values",
                         many(n, json_pack("{s:s,s:i}", "of", "cpu:0", "value", 1)));
}

static void test_table_bounds(void)
{
        g_autofree char *name = g_strnfill(HHI_TEXT_MAX + 1, 'a'),
                        *id = g_strdup_printf("net:%0*d", HHI_ID_SIZE - 4, 0);
        json_t *hhi = read_text(small), *objects = json_object_get(hhi, "objects");
        struct err err = {0};
        json_object_set_new(hhi, "distances", many(1, matrix(512)));
        json_object_set_new(hhi, "memattrs", many(1, attribute(HHI_VALUES_MAX)));
        check_ok(hhi);
        refused_table("distances", many(1, matrix(513)), "too many");
        refused_table("distances", many(2, matrix(512)), "too many");
        refused_table("distances", many(HHI_TABLES_MAX + 1, matrix(2)), "too long");
        refused_table("memattrs", many(1, attribute(HHI_VALUES_MAX + 1)), "too many");
        refused_table("memattrs", many(2, attribute(HHI_VALUES_MAX)), "too many");
        refused_table("memattrs", many(HHI_TABLES_MAX + 1, attribute(0)), "too long");
        refused_table("memattrs", json_pack("[{s:s,s:i,s:[]}]", "name", name, "flags", 1, "values"),
                      "no short text");
        refused_table("cpukinds", many(HHI_TABLES_MAX + 1, json_pack("{s:[]}", "cpus")), "too long");
        json_object_set_new(objects, id, json_pack("{s:s,s:s}", "kind", "net", "in", "machine"));
        g_assert_cmpint(hhi_check(hhi, &err), ==, -EINVAL);
        g_assert_nonnull(strstr(err.sentence, "too long"));
        json_decref(hhi);
}

static void test_mark(void)
{
        struct err err = {0};
        const uint32_t vcpus[] = {1, 3};
        struct hhi_state mine = {HHI_YOURS, 1000, 300, 700, vcpus, 2, NULL, 0},
                         none = {0, -1, -1, -1, NULL, 0, NULL, 0};
        json_t *hhi = read_text(small), *before = json_deep_copy(hhi), *cpu, *expected;
        g_assert_cmpint(hhi_mark(hhi, "cpu:1", &mine, &err), ==, 0);
        check_ok(hhi);
        cpu = json_object_get(json_object_get(hhi, "objects"), "cpu:1");
        expected = read_text(
                "{'kind':'cpu','in':'core:0','os':1,'mark':'yours','capacity':1000,'free':300,'yours':700,"
                "'vcpus':[1,3]}");
        g_assert_true(json_equal(cpu, expected));
        g_assert_cmpint(hhi_mark(hhi, "cpu:1", &none, &err), ==, 0);
        g_assert_true(json_equal(hhi, before));
        g_assert_cmpint(hhi_mark(hhi, "cpu:7", &mine, &err), ==, -ENOENT);
        json_decref(expected);
        json_decref(hhi);
        json_decref(before);
}

static void test_add(void)
{
        static const struct {
                const char *id, *in;
                int outcome;
        } rows[] = {
                {"cache:0",      "l3:0",     0      },
                {"membw:0",      "l3:0",     0      },
                {"net:bond0",    "machine",  0      },
                {"block:images", "machine",  0      },
                {"net:eth0",     "machine",  0      },
                {"cache:1",      "l3:7",     -ENOENT},
                {"cache:1",      "net:eth0", -EINVAL},
                {"cache:01",     "l3:0",     -EINVAL},
                {"cache:",       "l3:0",     -EINVAL},
                {"cache:4096",   "l3:0",     -EINVAL},
                {"cache",        "l3:0",     -EINVAL},
                {"cpu:9",        "core:0",   -EINVAL},
                {"net:a b",      "machine",  -EINVAL},
                {"net:",         "machine",  -EINVAL}
        };
        struct hhi_state mine = {HHI_YOURS, 16, 4, 12, NULL, 0, NULL, 0};
        json_t *hhi = read_text(small);
        for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
                struct err err = {0};
                size_t n = json_object_size(json_object_get(hhi, "objects"));
                bool is_new = rows[i].outcome == 0 && strcmp(rows[i].id, "net:eth0") != 0;
                g_assert_cmpint(hhi_add(hhi, rows[i].id, rows[i].in, &err), ==, rows[i].outcome);
                g_assert_cmpuint(json_object_size(json_object_get(hhi, "objects")), ==, n + is_new);
                check_ok(hhi);
        }
        g_assert_cmpint(hhi_mark(hhi, "cache:0", &mine, NULL), ==, 0);
        g_autofree char *text = xml_of(hhi);
        g_assert_nonnull(strstr(text, "name=\"bond0\""));
        g_assert_null(strstr(text, "null"));
        g_assert_null(strstr(text, "MeteMark")); /* hwloc has no object for it */
        json_decref(hhi);
}

static void test_digest(void)
{
        struct err err = {0};
        char a[HHI_DIGEST_SIZE], b[HHI_DIGEST_SIZE];
        json_t *one = read_text("{'b':[1,2],'a':'x'}"), *same = read_text(" {'a' : 'x', 'b' : [1, 2]}");
        g_autofree char *plain =
                g_compute_checksum_for_string(G_CHECKSUM_SHA256, "{\"a\":\"x\",\"b\":[1,2]}", -1);
        g_assert_cmpint(hhi_digest(one, a, &err), ==, 0);
        g_assert_cmpint(hhi_digest(same, b, &err), ==, 0);
        g_assert_cmpstr(a, ==, plain);
        g_assert_cmpstr(a, ==, b);
        json_array_append_new(json_object_get(same, "b"), json_integer(3));
        g_assert_cmpint(hhi_digest(same, b, &err), ==, 0);
        g_assert_cmpstr(a, !=, b);
        json_decref(one);
        json_decref(same);
}

/* A small machine like any other: what is there, where, and how it is marked is drawn. */
static json_t *random_hhi(GRand *rand)
{
        static const char *const places[] = {"machine", "package:0", "core:0"};
        json_t *hhi = read_text(small), *objects = json_object_get(hhi, "objects");
        int n = g_rand_int_range(rand, 0, 40);
        for (int i = 3; i < n; i++) {
                g_autofree char *id = g_strdup_printf("cpu:%d", i);
                const uint32_t vcpu = g_rand_int_range(rand, 0, 9);
                struct hhi_state state = {(enum hhi_mark)g_rand_int_range(rand, 0, HHI_MARK_N),
                                          g_rand_int_range(rand, -1, 3),
                                          g_rand_int_range(rand, -1, 3),
                                          -1,
                                          &vcpu,
                                          (size_t)g_rand_int_range(rand, 0, 2),
                                          NULL,
                                          0};
                if (g_rand_boolean(rand))
                        continue;
                json_object_set_new(objects, id,
                                    json_pack("{s:s,s:s,s:i}", "kind", "cpu", "in",
                                              places[g_rand_int_range(rand, 0, 3)], "os", i));
                g_assert_cmpint(hhi_mark(hhi, id, &state, NULL), ==, 0);
        }
        if (g_rand_boolean(rand))
                json_object_del(objects, "net:eth0");
        if (g_rand_boolean(rand))
                json_object_del(hhi, "memattrs");
        if (g_rand_boolean(rand))
                json_array_set_new(
                        json_object_get(json_array_get(json_object_get(hhi, "distances"), 0), "values"), 1,
                        json_integer(g_rand_int_range(rand, 11, 30)));
        return hhi;
}

static void test_patch(void)
{
        guint32 seed = g_test_rand_int();
        GRand *rand = g_rand_new_with_seed(seed);
        struct err err = {0};
        g_test_message("seed %u", seed);
        for (int i = 0; i < 300; i++) {
                json_t *old = random_hhi(rand), *new = random_hhi(rand), *now = json_incref(old);
                json_t *before = json_deep_copy(old), *patch = hhi_diff(old, new),
                       *nothing = hhi_diff(new, new);
                check_ok(old);
                g_assert_cmpint(hhi_apply(&now, patch, &err), ==, 0);
                g_assert_true(json_equal(now, new));
                g_assert_true(json_equal(old, before)); /* who else has the old one keeps it */
                g_assert_cmpint(hhi_apply(&now, patch, &err), ==, 0);
                g_assert_true(json_equal(now, new));
                g_assert_cmpuint(json_object_size(nothing), ==, 0);
                g_assert_cmpint(hhi_apply(&now, nothing, &err), ==, 0);
                g_assert_true(json_equal(now, new));
                json_decref(old);
                json_decref(new);
                json_decref(now);
                json_decref(before);
                json_decref(patch);
                json_decref(nothing);
        }
        g_rand_free(rand);
}

/* The cases of RFC 7396, appendix A, that a document can have; under a member that nobody checks. */
static void test_rfc(void)
{
        static const char *const rows[][3] = {
                {"{'a':'b'}",         "{'a':'c'}",                 "{'a':'c'}"        },
                {"{'a':'b'}",         "{'b':'c'}",                 "{'a':'b','b':'c'}"},
                {"{'a':'b'}",         "{'a':null}",                "{}"               },
                {"{'a':'b','b':'c'}", "{'a':null}",                "{'b':'c'}"        },
                {"{'a':['b']}",       "{'a':'c'}",                 "{'a':'c'}"        },
                {"{'a':'c'}",         "{'a':['b']}",               "{'a':['b']}"      },
                {"{'a':{'b':'c'}}",   "{'a':{'b':'d','c':null}}",  "{'a':{'b':'d'}}"  },
                {"{'a':[{'b':'c'}]}", "{'a':[1]}",                 "{'a':[1]}"        },
                {"['a','b']",         "['c','d']",                 "['c','d']"        },
                {"{'a':'foo'}",       "'bar'",                     "'bar'"            },
                {"[1,2]",             "{'a':'b','c':null}",        "{'a':'b'}"        },
                {"{}",                "{'a':{'bb':{'ccc':null}}}", "{'a':{'bb':{}}}"  },
        };
        for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
                struct err err = {0};
                json_t *hhi = read_text(small), *patch = json_object(), *expected = read_text(rows[i][2]);
                json_object_set_new(hhi, "x", read_text(rows[i][0]));
                json_object_set_new(patch, "x", read_text(rows[i][1]));
                g_assert_cmpint(hhi_apply(&hhi, patch, &err), ==, 0);
                g_assert_true(json_equal(json_object_get(hhi, "x"), expected));
                json_decref(hhi);
                json_decref(patch);
                json_decref(expected);
        }
}

static void test_xml(void)
{
        static const char *const parts[] = {
                "<topology version=\"2.0\">",
                "<object type=\"Machine\" os_index=\"0\" cpuset=\"0x3\" "
                "complete_cpuset=\"0x7\" nodeset=\"0x3\"",
                "<object type=\"NUMANode\" os_index=\"1\" cpuset=\"0x2\" "
                "complete_cpuset=\"0x2\" nodeset=\"0x2\"",
                "<page_type size=\"4096\" count=\"262144\"/>",
                "<object type=\"PU\" os_index=\"1\"",
                "<info name=\"MeteMark\" value=\"yours\"/>",
                "<info name=\"MeteVcpu\" value=\"1,3\"/>",
                "pci_busid=\"0000:01:00.0\" pci_type=\"0200 [0000:0000] [0000:0000] 00\" "
                "pci_link_speed=\"2.000000\"",
                "name=\"eth0\" osdev_type=\"2\"",
                "<indexes length=\"4\">0 1 </indexes>",
                "<u64values length=\"12\">10 20 20 10 </u64values>",
                "<cpukind cpuset=\"0x1\" forced_efficiency=\"1\">",
                "value=\"&lt;&quot;?&amp;&gt;\"",
        };
        struct err err = {0};
        const uint32_t vcpus[] = {1, 3};
        struct hhi_state mine = {HHI_YOURS, 1000, 300, 700, vcpus, 2, NULL, 0};
        json_t *hhi = read_text(small);
        json_object_set_new(
                json_object_get(json_object_get(json_object_get(hhi, "objects"), "machine"), "infos"),
                "CPUModel", json_string("<\"\n&>"));
        g_assert_cmpint(hhi_mark(hhi, "cpu:1", &mine, &err), ==, 0);
        g_autofree char *text = xml_of(hhi);
        for (size_t i = 0; i < G_N_ELEMENTS(parts); i++)
                if (!strstr(text, parts[i]))
                        g_error("no %s in %s", parts[i], text);
        g_assert_null(strstr(text, "type=\"PU\" os_index=\"2\"")); /* is off line */
        FILE *full = fopen("/dev/full", "we");
        if (full) {
                g_assert_cmpint(hhi_write_xml(hhi, full, &err), ==, -EIO);
                (void)fclose(full);
        }
        json_object_del(json_object_get(hhi, "objects"), "machine");
        g_assert_cmpint(hhi_write_xml(hhi, stdout, &err), ==, -EINVAL);
        json_decref(hhi);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/hhi/check", test_check);
        g_test_add_func("/hhi/bounds", test_bounds);
        g_test_add_func("/hhi/table-bounds", test_table_bounds);
        g_test_add_func("/hhi/mark", test_mark);
        g_test_add_func("/hhi/add", test_add);
        g_test_add_func("/hhi/digest", test_digest);
        g_test_add_func("/hhi/patch", test_patch);
        g_test_add_func("/hhi/rfc", test_rfc);
        g_test_add_func("/hhi/xml", test_xml);
        return g_test_run();
}
