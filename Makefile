# What people call: build, test, quickstart, bench, lint.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
VERSION := $(shell git describe --tags --always 2>/dev/null || echo dev)
export GOFLAGS := -trimpath -buildvcs=false
STATIC := CGO_ENABLED=0 go build -ldflags "-s -w -buildid="
AGENT := cmd/holdfast/agentbin/bin/holdfast-agent
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.7.0

.PHONY: build test setup quickstart lint fuzz bench clean

build: ## bin/holdfast and bin/holdfast-agent, static
	mkdir -p bin
	$(STATIC) -o $(AGENT) ./cmd/holdfast-agent
	CGO_ENABLED=0 go build -ldflags "-s -w -buildid= -X holdfast.dev/holdfast/cmd/holdfast/cli.Version=$(VERSION)" -o bin/holdfast ./cmd/holdfast

setup: ## host packages that the lab and the tests need
	./qemu-tests/host-setup.sh --test

lint:
	test -z "$$(gofmt -l . | tee /dev/stderr)"
	go vet ./...
	go run $(STATICCHECK) ./...

test: setup build lint ## everything that continuous integration runs
	go test -json -race -timeout 30m $$(go list ./... | grep -v /qemu-tests/boot) > .test.json; \
	  unit=$$?; go test -json -timeout 60m -count=1 ./qemu-tests/boot >> .test.json; \
	  boot=$$?; go run ./.ci/count < .test.json

quickstart: ## a fresh machine to a running site
	./examples/quickstart.sh

bench:
	./qemu-tests/bench.sh

clean:
	rm -rf bin $(AGENT) .test.json
