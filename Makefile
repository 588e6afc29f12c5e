# SPDX-License-Identifier: Apache-2.0
# The front door; meson and ninja do the work. `make help` says what there is.

BUILD  ?= build
PREFIX ?= /usr/local
# Left empty, meson's own defaults stand.
MESONFLAGS ?=
TESTFLAGS  ?=

.DEFAULT_GOAL := all
.PHONY: all demo test soak install uninstall clean help packages tarball

all: $(BUILD)/build.ninja
	@ninja -C $(BUILD) --quiet
	@echo "built: $(BUILD)/cleave (try: $(BUILD)/cleave doctor)"

packages:
	@sh .ci/packages

$(BUILD)/build.ninja: | packages
	@echo "configuring $(BUILD)"
	@meson setup $(BUILD) --prefix=$(PREFIX) $(MESONFLAGS) >$(BUILD).log 2>&1 || \
		{ cat $(BUILD).log >&2; rm -f $(BUILD).log; exit 1; }
	@rm -f $(BUILD).log

demo: all
	@demo/demo $(BUILD)

test: all
	@meson test -C $(BUILD) --no-rebuild --no-suite soak --print-errorlogs $(TESTFLAGS)

soak: all
	@meson test -C $(BUILD) --no-rebuild --suite soak --logbase soaklog --print-errorlogs \
		--verbose $(TESTFLAGS)

install: all
	@meson install -C $(BUILD) --no-rebuild --quiet
	@echo "installed under $(DESTDIR)$(PREFIX)"

tarball: packages
	@deploy/tarball

uninstall:
	@ninja -C $(BUILD) --quiet uninstall

clean:
	@rm -rf $(BUILD) $(BUILD)-asan $(BUILD)-tsan build-portable build-portable-aarch64 build-extras

help:
	@echo "make            build: $(BUILD)/cleave, $(BUILD)/cleaved and the libraries"
	@echo "make demo       two tenants share a GPU, real or simulated, in under a minute"
	@echo "make test       every test, at most eight minutes on two cores"
	@echo "make soak       the long forms of the stress tests and fuzzers"
	@echo "make install    under PREFIX=$(PREFIX), below DESTDIR if that is set"
	@echo "make tarball    for other distributions: glibc 2.31 or later"
	@echo "make clean      remove what was built"
