# SPDX-License-Identifier: Apache-2.0
# One word a habit; Meson does the work. `make help` lists them.
B ?=
BUILD ?= build/debug
PYTHON ?= /usr/bin/python3
