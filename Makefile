# What people call: build, test, quickstart, bench, lint.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
VERSION := $(shell git describe --tags --always 2>/dev/null || echo dev)
STATIC := CGO_ENABLED=0 go build -ldflags "-s -w -buildid="
EMBEDDED := cmd/holdfast/agentbin/bin
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.7.0

# Nothing for debuggers: the programs are stripped, and tests compile faster.
export GOFLAGS := -trimpath -buildvcs=false -gcflags=all=-dwarf=false
# A distribution's go may be set to stay at its own version.
export GOTOOLCHAIN ?= auto

.PHONY: build test test-long setup crash quickstart lint bench clean

build: ## bin/holdfast and bin/holdfast-agent, static
	mkdir -p bin
	$(STATIC) -o $(EMBEDDED)/holdfast-agent ./cmd/holdfast-agent
	$(STATIC) -o $(EMBEDDED)/holdfast-registry ./cmd/holdfast-registry
	cp $(EMBEDDED)/holdfast-agent bin/holdfast-agent
	CGO_ENABLED=0 go build -ldflags "-s -w -buildid= -X holdfast.dev/holdfast/cmd/holdfast/cli.Version=$(VERSION)" -o bin/holdfast ./cmd/holdfast

setup: ## host packages that the lab and the tests need
	./qemu-tests/host-setup.sh --test

lint:
	files=$$(gofmt -l .); test -z "$$files" || { echo "not formatted by gofmt: $$files"; exit 1; }
	CGO_ENABLED=0 go vet ./...
	CGO_ENABLED=0 go run $(STATICCHECK) ./...
	shellcheck .ci/run .ci/test .ci/test-long .ci/crash qemu-tests/*.sh examples/*.sh

test: setup build ## everything that continuous integration runs
	./.ci/test

test-long: setup build ## hours: every boot test of updates and Secure Boot, into docs/results/boot-long.md
	./.ci/test-long

crash: setup build ## hours: power cuts, judged and real, into docs/results/crash.md
	./.ci/crash

quickstart: ## a fresh machine to a running site
	./examples/quickstart.sh

bench: build ## measures into docs/performance.md
	go run ./qemu-tests/bench

clean:
	rm -rf bin $(EMBEDDED)/holdfast-agent $(EMBEDDED)/holdfast-registry .test.json
