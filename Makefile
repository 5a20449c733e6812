# Copyright The NetProbe Authors
# SPDX-License-Identifier: Apache-2.0

SHELL := /bin/bash
.DEFAULT_GOAL := help

GO ?= go
# No version control stamp: the version is that of builder-config.yaml.
export GOFLAGS ?= -buildvcs=false
TOOLS := internal/tools/go.mod
CONFIG ?= config/netprobe.yaml
# The clang major that the committed objects are made with: another one gives
# other bytes.
CLANG := clang-19
# a number of executions, because a time can run out in the middle of one
FUZZTIME ?= 30000x
BIN := build/netprobe
# Writes cmd/netprobe.
OCB = $(GO) tool -modfile=$(TOOLS) builder --config builder-config.yaml --skip-strict-versioning=false --skip-compilation

ROOT := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: help
help: ## Show what there is
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: build ## Build, and run with the default config (CONFIG=…) as root
	@echo
	@echo "  topology     http://localhost:8081/   (REST: /api/topology, /api/flows, /api/openapi.json)"
	@echo "  Prometheus   http://localhost:9464/metrics"
	@echo "  health       http://localhost:13133/"
	@echo "  itself       http://localhost:8888/metrics"
	@echo "  stop         Ctrl-C"
	@echo
	@if [ "$$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then \
		echo "make run: loading eBPF programs needs root and there is no sudo; run it as root" >&2; exit 1; fi
	@exec $(ROOT) $(BIN) --config $(CONFIG)

.PHONY: build
build: check-go ## Build build/netprobe with ocb
	mkdir -p cmd build
	$(OCB)
	cd cmd/netprobe && CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w" -o ../../$(BIN) .

VERSION = $(shell awk '$$1 == "version:" {print $$2}' builder-config.yaml)
IMAGE ?= netprobe:$(VERSION)
.PHONY: image
image: build ## Build the container image IMAGE (netprobe:<version>) with docker, podman or buildah
	@for tool in docker podman buildah; do command -v $$tool >/dev/null && break; tool=; done; \
	if [ -z "$$tool" ]; then \
		echo "make image: there is no docker, podman or buildah to build $(IMAGE) with" >&2; exit 1; fi; \
	set -x; $$tool build -f deploy/Dockerfile -t $(IMAGE) --build-arg VERSION=$(VERSION) \
		--build-arg REVISION="$$(git rev-parse HEAD 2>/dev/null)" build

.PHONY: test
test: deps ## Everything that proves a change: as root, also the eBPF programs
	@if [ "$$(id -u)" != 0 ]; then \
		echo "make test: not root, so the tests that load eBPF programs are skipped" >&2; fi
	$(MAKE) --no-print-directory verify build
	$(TESTENV) NETPROBE_BIN=$(CURDIR)/$(BIN) $(GO) test $$($(GO) list ./... | grep -v /internal/e2e$$)
	$(TESTENV) NETPROBE_BIN=$(CURDIR)/$(BIN) $(GO) test -count=1 ./internal/e2e
	$(MAKE) --no-print-directory fuzz

# As root nothing may be skipped for want of privilege.
TESTENV = REQUIRE_BPF=$(if $(ROOT),0,1)

# The page needs Node; `make test` does not, and so has only the sums that tell of a forgotten build.
WEB := extension/topologyextension/web

.PHONY: page
page: page-deps ## Build the topology extension's page anew, into the files that are committed
	cd $(WEB) && npm run --silent check && npm run --silent build

.PHONY: test-page
test-page: page-deps ## The page in Chromium, and is it what its sources give? (as root with NETPROBE_BIN=build/netprobe also on live traffic)
	@$(call install,chromium fonts-dejavu-core $(if $(NETPROBE_BIN),iproute2 curl python3))
	cd $(WEB) && npm run --silent check && npm run --silent build -- --check && npm run --silent unit
	cd $(WEB) && $(if $(NETPROBE_BIN),test/live.sh $(abspath $(NETPROBE_BIN)) $(abspath $(CONFIG))) npm run --silent browser
	@echo "screenshots and frame times are in $(WEB)/output"

.PHONY: page-deps
page-deps:
	@command -v npm >/dev/null || { $(call install,nodejs npm); }
	@node -e 'process.exit(process.versions.node.split(".")[0] < 20 ? 1 : 0)' || { \
		echo "Node 20 or later is needed for the page, this is $$(node --version)" >&2; exit 1; }
	cd $(WEB) && npm ci --no-audit --no-fund

.PHONY: test-race
test-race: ## The receiver's tests under the race detector (needs gcc)
	CGO_ENABLED=1 $(GO) test -race ./receiver/... ./exporter/... ./extension/... ./internal/...

.PHONY: fuzz
fuzz: ## Fuzz each parser for FUZZTIME (30000x, or as 10m); the eBPF ones as root
	@set -e; for pkg in $$($(GO) list ./...); do \
		for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
			echo "fuzz $$pkg $$f $(FUZZTIME)"; \
			$(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$pkg; \
		done; done

.PHONY: pressure
pressure: build ## A million flows in a minute, a small flow map and a slow pipeline, as root: does the ledger close?
	$(TESTENV) NETPROBE_PRESSURE=full NETPROBE_BIN=$(CURDIR)/$(BIN) $(GO) test -count=1 -timeout 20m -v -run TestLedgerUnderPressure ./internal/e2e

KERNELS ?= 5.10 6.1 6.12 sid
.PHONY: test-vm
test-vm: build ## The tests on Debian's KERNELS (5.10 6.1 6.12 sid), emulated, and the table of features (UPDATE=1 writes it)
	@$(call install,$(VM_PACKAGES))
	$(GO) run ./internal/vmtest -netprobe $(BIN) -kernels "$(KERNELS)" $(if $(UPDATE),-update) $(VMTEST_FLAGS)

# Where etcd and Kubernetes are; what is not there is built, which takes a quarter of an hour.
# What is there is taken as it is.
K8S_BIN ?= build/k8s
.PHONY: test-k8s
test-k8s: $(addprefix $(K8S_BIN)/,etcd kube-apiserver kube-controller-manager) ## What follows a cluster, with a real API server (builds Kubernetes into K8S_BIN)
	K8S_BIN=$(abspath $(K8S_BIN)) $(GO) test -count=1 -tags k8s -timeout 20m ./extension/... ./internal/inventory

$(K8S_BIN)/%: | check-go
	GO=$(GO) internal/k8stest/binaries/build.sh $(@D) $*

.PHONY: bench
bench: ## Benchmarks of the programs and of the components
	$(GO) test -run '^$$' -bench . -benchmem ./bpf/... ./receiver/... ./processor/... ./extension/... ./internal/...

.PHONY: generate
generate: deps ## Make bindings, objects, metadata and cmd/netprobe anew
	$(GO) generate ./...
	$(OCB)

.PHONY: verify
verify: verify-versions verify-fmt verify-generate ## Check versions, format, and that generated files are what their sources give
	$(GO) vet ./...

# What `make generate` writes.
GENERATED = $(shell find bpf receiver extension processor exporter cmd -name '*_bpfel.*' -o -name 'generated_*' -o -name documentation.md \
	-o -path 'receiver/*/README.md' -o -path 'extension/*/README.md' -o -path 'processor/*/README.md' -o -path 'exporter/*/README.md' -o -path 'cmd/netprobe/*')

.PHONY: verify-generate
verify-generate: deps ## Check that the generated files are what their sources give
	@sums=$$(mktemp) && trap 'rm -f "$$sums"' EXIT && sha256sum $(GENERATED) > "$$sums" && \
	$(MAKE) --no-print-directory generate && sha256sum --quiet --check "$$sums" || { \
		echo "generated files were not what their sources give; they are now: look at them and commit" >&2; exit 1; }

.PHONY: verify-fmt
verify-fmt: deps ## Check the format of Go and C
	@bad=$$(gofmt -l $$(git ls-files "*.go" | xargs -n1 dirname | cut -d/ -f1 | grep -v "^cmd" | sort -u)) && [ -z "$$bad" ] || { echo "not formatted by gofmt: $$bad" >&2; exit 1; }
	clang-format-19 --dry-run -Werror bpf/*.bpf.c bpf/flowbench/*.bpf.c bpf/lib/*.h bpf/include/kernel.h

.PHONY: verify-versions
verify-versions: ## Check that no collector module has drifted from its pin
	@! grep -nE '(go.opentelemetry.io/collector|opentelemetry-collector-contrib)[^ ]* v' go.mod cmd/netprobe/go.mod builder-config.yaml $(TOOLS) \
		| grep -vE ' (v1\.65\.0|v0\.159\.0)( |$$)|/(receiver/kafkareceiver|pkg/translator/azure) v0\.158\.0( |$$)' || { echo "collector modules off their pins, see above" >&2; exit 1; }

.PHONY: check-go
check-go:
	@command -v $(GO) >/dev/null || { echo "Go 1.26 or later is needed: https://go.dev/dl/" >&2; exit 1; }

# Debian packages that the tests and generators call, and those of test-vm.
PACKAGES := clang-19 clang-format-19 llvm-19 iproute2 iputils-ping iperf3 nftables iptables conntrack curl netcat-openbsd
VM_PACKAGES := qemu-system-x86 xz-utils debian-archive-keyring iputils-ping nftables iptables conntrack
.PHONY: deps
deps: check-go ## Install the Debian packages that tests and generators need
	@$(call install,$(PACKAGES))

# Installs those packages that are not there.
define install
missing=; for p in $(1); do \
	[ "$$(dpkg-query -W -f '$${db:Status-Status}' $$p 2>/dev/null)" = installed ] || missing="$$missing $$p"; done; \
[ -z "$$missing" ] && exit 0; \
if [ "$$(id -u)" != 0 ]; then echo "these packages are missing, install them as root: apt-get install$$missing" >&2; exit 1; fi; \
apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing
endef

.PHONY: clean
clean: ## Remove what was built
	rm -rf build
