# SPDX-License-Identifier: Apache-2.0
# One word a habit; Meson does the work. `make help` lists them.
BUILD   ?= build/debug
RELEASE ?= build/release
PYTHON  ?= /usr/bin/python3
PREFIX  ?= /usr/local
# bench: only figures whose name starts so
B       ?=
# system: another QEMU than the one in PATH
QEMU    ?=
# grid: which of its moves, faults and Linux guests, a..b; all that have no row yet
GRID_CELLS  ?=
GRID_FAULTS ?=
GRID_LINUX  ?=
# fuzz: which target, for how long
T       ?= need
SECS    ?= 60
# system: further arguments for pytest
ARGS    ?=

MESON_TEST = meson test -C $(BUILD) --no-rebuild --timeout-multiplier 5 --print-errorlogs
C_FILES    = $(shell find src include fuzz bench tests -name '*.[ch]' -not -path '*/corpus/*')

.PHONY: all release test check system nested grid bench fuzz format lint cover man docs help clean install

all: $(BUILD)/build.ninja ## debug build with ASan and UBSan
	@ninja -C $(BUILD)

release: $(RELEASE)/build.ninja ## optimised build; the guest's programs are static
	@ninja -C $(RELEASE)

test: all ## unit tests, fuzz corpora, layers: no root, no QEMU, under 60 s
	@$(MESON_TEST) --suite unit

check: ## everything the CI runs; logs under build/check
	@./check

system: all release ## tests with real guests, as root; QEMU=PATH for another QEMU, ARGS= for pytest
	@METE_QEMU="$(QEMU)" METE_BUILD=$(BUILD) METE_RELEASE=$(RELEASE) \
		$(PYTHON) -B -m pytest -p no:cacheprovider tests/platform tests/root tests/etcd tests/system $(ARGS)

nested: all release ## host side of mete in a guest with NUMA nodes and cgroup v2; no root; ARGS= for pytest
	@METE_RELEASE=$(RELEASE) $(PYTHON) -B -m pytest -p no:cacheprovider tests/nested $(ARGS)

grid: release ## 240 moves, 100 faults, 16 moves of Linux over a shaped link, as root, resumable; GRID_CELLS=, GRID_FAULTS=, GRID_LINUX=a..b
	@METE_RELEASE=$(RELEASE) GRID_CELLS="$(GRID_CELLS)" GRID_FAULTS="$(GRID_FAULTS)" GRID_LINUX="$(GRID_LINUX)" $(PYTHON) -B tests/grid/grid.py

bench: release ## BENCH name value unit, and build/bench/NAME.json; B=PREFIX for a part
	@METE_RELEASE=$(RELEASE) $(PYTHON) -B tools/bench "$(B)"

fuzz: build/fuzz/build.ninja ## libFuzzer (clang); T=TARGET SECS=SECONDS
	@ninja -C build/fuzz
	@mkdir -p build/fuzz/corpus/$(T)
	@build/fuzz/fuzz/fuzz-$(T) $(addprefix -dict=,$(wildcard build/fuzz/fuzz/$(T).dict)) -max_total_time=$(SECS) -print_final_stats=1 build/fuzz/corpus/$(T) fuzz/corpus/$(T)

format: ## clang-format every source file in place
	@clang-format -i $(C_FILES)

lint: all ## clang-format, clang-tidy, cppcheck, shellcheck
	@tools/lint $(BUILD)

cover: build/cover/build.ninja ## line coverage of the unit tests, by file
	@ninja -C build/cover && meson test -C build/cover --no-rebuild --suite unit >/dev/null && tools/cover build/cover

man: all ## the manual pages, made from the tables that also feed --help, and checked
	@$(PYTHON) -B tests/docs/man.py . $(BUILD) && ls -1 $(BUILD)/man/*.[1-8]

docs: all ## docs/ and the reference pages of the contracts, into build/docs
	@mkdir -p build/docs/api && cp docs/*.md build/docs/ && cp $(BUILD)/src/json/*.md build/docs/api/
	@ls -1 build/docs/*.md build/docs/api/*.md

install: release ## into PREFIX (default /usr/local); DESTDIR is honoured
	@meson configure $(RELEASE) -Dprefix=$(PREFIX) && ninja -C $(RELEASE) && meson install -C $(RELEASE) --no-rebuild

clean: ## remove everything that was built
	@rm -rf build

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

$(BUILD)/build.ninja:
	@meson setup $(BUILD) -Db_sanitize=address,undefined >/dev/null
$(RELEASE)/build.ninja:
	@meson setup $(RELEASE) --buildtype=release >/dev/null
build/fuzz/build.ninja:
	@CC=clang meson setup build/fuzz -Dfuzz=true -Db_sanitize=address,undefined -Db_lundef=false -Dc_args=-fsanitize=fuzzer-no-link >/dev/null
build/cover/build.ninja:
	@meson setup build/cover -Db_coverage=true >/dev/null
