# k8sm: Kubernetes as an Apache Mesos framework. `make` alone shows the targets.

# Unless it is that of a tag, the version has the time of the commit: schedulers roll newer versions out only (api.KMVersion).
COMMITTED := TZ=UTC git show -s --format=%cd --date=format-local:%Y%m%dT%H%M%SZ
VERSION := $(shell { git describe --tags --dirty --exact-match || { v=$$(git describe --tags --always --dirty) && echo $$v+$$($(COMMITTED)); } || echo dev; } 2>/dev/null)
# Stock Kubernetes tells its version only if the link says it; without that a node shows v0.0.0.
KUBERNETES_VERSION := $(shell awk '$$1 == "k8s.io/kubernetes" { print $$2; exit }' go.mod)
LDFLAGS := -s -w -X github.com/k8sm/k8sm/api.Version=$(VERSION) \
	-X k8s.io/component-base/version.gitVersion=$(KUBERNETES_VERSION) \
	-X k8s.io/component-base/version.gitMajor=$(word 1,$(subst ., ,$(KUBERNETES_VERSION:v%=%))) \
	-X k8s.io/component-base/version.gitMinor=$(word 2,$(subst ., ,$(KUBERNETES_VERSION)))
comma   := ,
SHELL   := /bin/bash -o pipefail
BUILD   := build
PAUSE   := minion/cri/embedded/pause
HELPERS := minion/embedded/programs/warden minion/embedded/programs/keeper minion/embedded/programs/nft
# What km carries along: programs, and the web page.
EMBEDDED := $(PAUSE) $(HELPERS)
PAGE    := contrib/ui/embedded
# Static programs; tests use the same flags, so that Kubernetes is compiled once and not twice.
GO      := CGO_ENABLED=0 go
FLAGS   := -trimpath
# What km carries along stays the same from commit to commit, unless its source changes.
STATIC  := $(GO) build $(FLAGS) -buildvcs=false -ldflags='-s -w'
# Of what `go build -v` says, a person sees how far it is, and all that is wrong.
PROGRESS := awk '\
	/^[^ ]+\/[^ ]+$$|^[a-z0-9]+$$/ { if (++n % 100 == 0) { print "  " n " packages compiled"; fflush() } next } \
	/^go: downloading/ { if (++d % 50 == 0) { print "  " d " modules downloaded"; fflush() } next } \
	{ print; fflush() }'

# Packages that link stock Kubernetes; a race-instrumented build of all of that is worth nobody's time.
KUBERNETES := k8sm/k8sm$$|/api/controlplane$$|/contrib/cli$$|/contrib/cli/clients$$|/contrib/test/differential$$|/contrib/test/webpage$$|/minion/kubelet$$|/minion/proxy$$
# Fuzzers of what other processes send. That of scheduler/mesos compiles half of Kubernetes anew, for the decoder that api/mesoshttp's try.
LISTENERS := (api/mesoshttp Fuzz(Stream|Message)|wire FuzzCalls|executor/mesos FuzzEvents|(artifact|status) FuzzRequests)$$
LINT_VERSION := v2.6.0
VULNCHECK_VERSION := v1.9.0
GOFLAGS ?= $(shell go env GOFLAGS)
# What starts a Docker Engine takes the first in PATH. ENGINE=current puts one from its modules there.
ENGINES := $(BUILD)/engine
ifeq ($(ENGINE),current)
export PATH := $(CURDIR)/$(ENGINES):$(PATH)
endif

.PHONY: help
help: ## Show the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

.PHONY: deps
deps: ## Install what is missing on a Debian machine: Docker Engine, iptables and a few tools.
	@contrib/install-deps

.PHONY: test-deps
test-deps: ## Install what is missing for the tests: that, CNI plugins, a ZooKeeper, promtool, FTP and SFTP servers.
	@contrib/install-deps tests

.PHONY: build
build: $(EMBEDDED) $(PAGE) ## Build ./km and the example's program.
	@echo "building ./km (the first time takes about 12 minutes of CPU: all of Kubernetes is in it)"
	@$(GO) build $(FLAGS) -v -ldflags='$(LDFLAGS)' -o km . 2>&1 | $(PROGRESS)
	@mkdir -p $(BUILD)
	$(STATIC) -o $(BUILD)/web ./contrib/examples/web

.PHONY: $(EMBEDDED)
$(PAUSE):
	$(STATIC) -o $@ ./minion/cri/pause
$(HELPERS): minion/embedded/programs/%:
	$(STATIC) -o $@ ./minion/$*/program

# It takes a second if nothing has changed, and needs the npm registry only for packages that it has never fetched.
.PHONY: $(PAGE)
$(PAGE):
	@$(GO) run $(FLAGS) ./contrib/ui/bundle

.PHONY: run
run: deps build ## Bring a cluster up on this machine and stay until Ctrl-C.
	@./km up

.PHONY: demo
demo: deps build ## Bring a cluster up in a scratch directory, run a pod through it, take it down.
	$(GO) build $(FLAGS) -o $(BUILD)/demo ./contrib/test/demo
	@$(BUILD)/demo --km ./km --image $(BUILD)/web --pod contrib/examples/web.json

.PHONY: test
test: test-deps build ## Run every test: unit tests with the race detector, then the whole chain on a real Docker Engine.
	go test -race -shuffle=on -timeout 20m $$(go list ./... | grep -Ev '$(KUBERNETES)|/contrib/test/e2e$$')
	$(GO) test $(FLAGS) -shuffle=on -timeout 20m $$(go list ./... | grep -E '$(KUBERNETES)')
	FUZZ='$(LISTENERS)' contrib/test/fuzz-all 30s 30s
	$(GO) test $(FLAGS) -count=1 -timeout 45m ./contrib/test/e2e

.PHONY: packages
packages: build ## Write a deb, an rpm and a container image to build/packages.
	@rm -rf $(BUILD)/packages
	@cd contrib/package && $(GO) run $(FLAGS) . -km ../../km -out ../../$(BUILD)/packages -version '$(VERSION)'

.PHONY: test-packages
test-packages: packages ## Install the packages on a machine with systemd, load the image into a Docker Engine, in namespaces of this one, and run them.
	@contrib/install-deps packages
	cd contrib/package && $(GO) test $(FLAGS) -count=1 ./...

.PHONY: test-isolated
test-isolated: test-deps build ## Run the tests of the whole chain once more, on agents with all isolators: ISOLATION=LIST RUN=REGEXP.
	K8SM_UP_FLAGS=--isolation=$(or $(ISOLATION),cgroups/all$(comma)filesystem/linux$(comma)namespaces/pid$(comma)disk/du) \
		$(GO) test $(FLAGS) -count=1 -timeout 40m -run '$(RUN)' ./contrib/test/e2e

.PHONY: test-engine
test-engine: test-deps build ## Run the tests of the whole chain on another Docker Engine: ENGINE=current RUN=REGEXP.
	@contrib/test/build-engine '$(ENGINE)' $(ENGINES)
	$(GO) test $(FLAGS) -count=1 -timeout 45m -run '$(RUN)' ./contrib/test/e2e

.PHONY: test-power
test-power: build ## Take the power away from a machine with Debian 13, cgroup v2 and Docker 26.1 again and again: CUTS=N.
	@contrib/install-deps power
	@contrib/test/power/build-machine $(BUILD)/power
	$(STATIC) -o $(BUILD)/power/guest ./contrib/test/power/guest
	$(GO) build $(FLAGS) -o $(BUILD)/power/program ./contrib/test/power
	@$(BUILD)/power/program -km ./km -cuts=$(or $(CUTS),20)

.PHONY: test-masters
test-masters: deps build ## Harm each of three control planes, and print how long clients wait: FAULTS=kill,stop,cut,fill LIMIT=TIME NODES=false ADDONS=true.
	$(GO) build $(FLAGS) -o $(BUILD)/masters ./contrib/test/masters
	@$(BUILD)/masters --km ./km -faults=$(or $(FAULTS),kill$(comma)stop$(comma)cut$(comma)fill) -limit=$(or $(LIMIT),15s) -nodes=$(or $(NODES),true) -addons=$(or $(ADDONS),false)

.PHONY: test-upgrade
test-upgrade: test-deps build ## Upgrade a cluster from an earlier Kubernetes, which is compiled first: KUBERNETES=VERSION.
	@echo "building build/before/km (the first time takes about 12 minutes of CPU)"
	@nice contrib/test/build-before $(or $(KUBERNETES),v1.35.4) $(BUILD)/before/km
	K8SM_OLD_KM=$(CURDIR)/$(BUILD)/before/km $(GO) test $(FLAGS) -count=1 -timeout 60m -run TestKubernetesIsUpgraded ./contrib/test/e2e

.PHONY: fuzz
fuzz: $(EMBEDDED) ## Run the fuzzers: FUZZ=REGEXP, FUZZTIME=TIME for those of what other processes send, 5s for each other.
	FUZZ='$(FUZZ)' contrib/test/fuzz-all $(or $(FUZZTIME),1m) 5s

.PHONY: critest
critest: $(PAUSE) ## Run critest, the validation suite of Kubernetes' runtime interface: SEED=N CASES=REGEXP ENGINE=current IMAGES=containerd|graphdriver.
	@contrib/install-deps critest
	@contrib/test/build-engine '$(ENGINE)' $(ENGINES)
	@$(GO) build $(FLAGS) -v -o $(BUILD)/critest/harness ./contrib/test/critest 2>&1 | $(PROGRESS)
	$(STATIC) -o $(BUILD)/critest/standin ./contrib/test/critest/standin
	@$(BUILD)/critest/harness -seed=$(or $(SEED),1) -focus='$(CASES)' -images='$(IMAGES)'

.PHONY: cis
cis: deps build ## Check a running cluster against the CIS Kubernetes Benchmark, one line an item.
	$(GO) build $(FLAGS) -o $(BUILD)/cis ./contrib/test/cis/program
	@$(BUILD)/cis --km ./km

.PHONY: renewal
renewal: deps build ## Run a cluster whose certificates last 90 s, and use all of it through three renewals.
	$(GO) build $(FLAGS) -o $(BUILD)/renewal ./contrib/test/renewal
	@$(BUILD)/renewal --km ./km

.PHONY: rotation
rotation: deps build ## Replace all CAs of a cluster while all of it is used.
	$(GO) build $(FLAGS) -o $(BUILD)/renewal ./contrib/test/renewal
	@$(BUILD)/renewal --km ./km --rotate-ca

.PHONY: conformance
conformance: build ## Run Kubernetes' own conformance tests: FOCUS=REGEXP PROCS=N SEED=N NODES=N.
	@contrib/install-deps conformance
	@$(GO) build $(FLAGS) -v -o $(BUILD)/conformance/harness ./contrib/test/conformance 2>&1 | $(PROGRESS)
	@$(BUILD)/conformance/harness -focus='$(or $(FOCUS),\[Conformance\])' -procs=$(or $(PROCS),4) -seed=$(or $(SEED),1) -nodes=$(or $(NODES),1)

.PHONY: soak
soak: deps build ## Run a cluster under load for hours, and check that nothing grows: DURATION=TIME PACE=PODS NODES=N.
	$(GO) build $(FLAGS) -o $(BUILD)/soak/program ./contrib/test/soak
	@$(BUILD)/soak/program --km ./km -duration=$(or $(DURATION),2h) -pace=$(or $(PACE),5) -nodes=$(or $(NODES),3)
	@cd contrib/test/soak/plot && $(GO) run $(FLAGS) . -samples ../../../../$(BUILD)/soak/samples.csv -out ../../../../$(BUILD)/soak/soak.png

.PHONY: bench
bench: deps build ## Measure, and print one BENCH line a figure.
	$(GO) build $(FLAGS) -o $(BUILD)/bench ./contrib/test/bench
	@$(BUILD)/bench --km ./km --image $(BUILD)/web --pod contrib/examples/web.json

.PHONY: check
check: $(BUILD)/bin/golangci-lint ## Check format, vet, lint, the import rules and the web page's types.
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo "not gofmt'ed:"; gofmt -l $$(git ls-files '*.go'); exit 1; }
	$(GO) vet $(FLAGS) ./...
	CGO_ENABLED=0 GOFLAGS='$(GOFLAGS) $(FLAGS)' $(BUILD)/bin/golangci-lint run ./...
	cd contrib/package && $(GO) vet $(FLAGS) ./... && CGO_ENABLED=0 GOFLAGS='$(GOFLAGS) $(FLAGS)' ../../$(BUILD)/bin/golangci-lint run ./...
	$(GO) test $(FLAGS) -run TestImport ./contrib/test/e2e
	$(GO) run $(FLAGS) ./contrib/ui/bundle -dev
	contrib/ui/web/node_modules/@typescript/typescript-*/lib/tsc -p contrib/ui/web

$(BUILD)/bin/golangci-lint:
	GOBIN=$(CURDIR)/$(BUILD)/bin go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)

# Go's vulnerability database is a module too, so the module proxy has it where vuln.go.dev cannot be reached.
.PHONY: vulncheck
vulncheck: build ## Look up what ./km links in Go's vulnerability database. It fails if there is anything.
	@db=$$(go mod download -json golang.org/x/vulndb@latest | sed -n 's/^\t"Dir": "\(.*\)",$$/\1/p') && \
		$(GO) run golang.org/x/vuln/cmd/govulncheck@$(VULNCHECK_VERSION) -mode=binary -db=file://$$db/data/osv ./km

.PHONY: clean
clean: ## Remove what the build made.
	rm -rf km $(BUILD) $(EMBEDDED) $(PAGE)/*.gz $(PAGE)/.stamp contrib/ui/web/node_modules
