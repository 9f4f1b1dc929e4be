#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes everything that follows from the contracts under api/.

    gen-api.py c       OUTDIR SCHEMA...   api.h, api.c, openapi.c: types, decoders, encoders, tables
    gen-api.py openapi OUTDIR SCHEMA...   openapi.json of meted's API
    gen-api.py cases   OUTDIR SCHEMA...   case.c: the contracts as tables, for tests and fuzzers
    gen-api.py docs    OUTDIR SCHEMA...   CONTRACT.md, index.md: reference pages
    gen-api.py dict    OUTDIR SCHEMA...   api-CONTRACT.dict: the words of a contract, for libFuzzer
    gen-api.py corpus  OUTDIR SCHEMA...   api-CONTRACT/DEF: first inputs of the fuzzers (run by hand, checked in)

A schema that uses a keyword outside the stated subset (gen_api/schema.py), that leaves a description
out, or that defines a name twice is refused with the place of the fault.
"""
import pathlib
import sys

sys.dont_write_bytecode = True  # the source tree stays as it was
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from gen_api import cases, csource, openapi, reference, schema, seeds  # noqa: E402

KINDS = {
    "c": csource.generate,
    "openapi": openapi.generate,
    "cases": cases.generate,
    "docs": reference.generate,
    "dict": seeds.dictionary,
    "corpus": seeds.corpus,
}


def main(argv):
    if len(argv) < 4 or argv[1] not in KINDS:
        sys.stderr.write(__doc__)
        return 2
    out = pathlib.Path(argv[2])
    try:
        made = KINDS[argv[1]](schema.load([pathlib.Path(p) for p in argv[3:]]))
    except schema.Fault as fault:
        sys.stderr.write(f"gen-api: {fault}\n")
        return 1
    out.mkdir(parents=True, exist_ok=True)
    for name, text in made.items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
