# vmfs: `make help` lists the targets.

GO      ?= go
BACKEND ?= qemu
# The version comes from git; a tree without git says "devel".
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS := -s -w -X main.version=$(VERSION)
CROSS   := linux/amd64 linux/arm64 darwin/arm64 darwin/amd64

# The go tool's own stamp of the checkout would fail where git refuses a
# directory that somebody else owns; VERSION takes its place.
export GOFLAGS := $(filter-out -buildvcs=%,$(GOFLAGS)) -buildvcs=false
export PATH    := $(PATH):/usr/local/go/bin

# Debian packages: to run a demo, and beyond that to run the tests. gcc is for
# the race detector.
ifeq ($(shell uname -m),aarch64)
QEMU_PACKAGE := qemu-system-arm
else
QEMU_PACKAGE := qemu-system-x86
endif
DEMO_PACKAGES := $(QEMU_PACKAGE) busybox-static ca-certificates
TEST_PACKAGES := $(DEMO_PACKAGES) qemu-system-arm qemu-utils passt iproute2 cpio diod socat gcc libc6-dev debootstrap lz4 xz-utils zstd

.DEFAULT_GOAL := build
.PHONY: build mac install-agent mac-checklist test-mac install guest guest-arm64 demo test test-all host testhost host-ring test-host test-cloud-hypervisor record-cloud-hypervisor bench-cloud-hypervisor lint vet staticcheck gofmt tidy unit version-ring test-qemu fuzz cross bench bench-vm bench-vsock bench-attacks soak soak-vsock gobench deps deps-demo deps-bench clean help

## build: bin/vmfs, a static binary; on a Mac as `make mac` has it
ifeq ($(shell uname -s),Darwin)
build: mac
else
build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/vmfs ./cmd/vmfs
endif

# A Mac's program has Virtualization.framework by cgo, and the right to use it by its
# signature: "-" is an ad-hoc one, for this Mac alone.
SIGN_AS      ?= -
ENTITLEMENTS ?= mac/vmfs.entitlements
## mac: bin/vmfs on a Mac, with Virtualization.framework (SIGN_AS=IDENTITY, ENTITLEMENTS=FILE)
mac:
	@[ "$$(uname -s)" = Darwin ] || { echo "make mac: on a Mac alone: its framework and codesign are nowhere else; make cross builds what can be built here" >&2; exit 1; }
	@xcode-select -p >/dev/null || { echo "make mac: a compiler is missing: run xcode-select --install" >&2; exit 1; }
	CGO_ENABLED=1 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/vmfs ./cmd/vmfs
	codesign --force --sign '$(SIGN_AS)' --entitlements $(ENTITLEMENTS) bin/vmfs

## install-agent: on a Mac, the server from login on (launchd), of the installed vmfs
AGENT := $(HOME)/Library/LaunchAgents/vmfs.plist
install-agent:
	@[ -x '$(PREFIX)/bin/vmfs' ] || { echo "make install-agent: $(PREFIX)/bin/vmfs is not there: make install comes first" >&2; exit 1; }
	mkdir -p $(dir $(AGENT)) $(HOME)/Library/Logs
	sed -e 's|PROGRAM|$(PREFIX)/bin/vmfs|' -e 's|>HOME/|>$(HOME)/|' mac/vmfs.plist >$(AGENT)
	-launchctl bootout gui/$$(id -u)/vmfs 2>/dev/null
	launchctl bootstrap gui/$$(id -u) $(AGENT)

## mac-checklist: on a Mac, docs/mac-checklist.md run from one end to the other; a report to send back
mac-checklist: mac
	mac/checklist.sh

## install: the program, its manual and its completions, in PREFIX (/usr/local) below DESTDIR
PREFIX ?= /usr/local
install: build
	install -d $(DESTDIR)$(PREFIX)/bin $(addprefix $(DESTDIR)$(PREFIX)/share/,bash-completion/completions zsh/site-functions fish/vendor_completions.d)
	install -m 755 bin/vmfs $(DESTDIR)$(PREFIX)/bin/vmfs
	for page in docs/man/*.[1-9]; do \
		dir=$(DESTDIR)$(PREFIX)/share/man/man$${page##*.}; \
		install -d $$dir && install -m 644 $$page $$dir || exit 1; \
	done
	bin/vmfs completion bash >$(DESTDIR)$(PREFIX)/share/bash-completion/completions/vmfs
	bin/vmfs completion zsh >$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_vmfs
	bin/vmfs completion fish >$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/vmfs.fish

## guest: the demo guest, build/guest/vmlinuz and build/guest/initrd
ifeq ($(shell uname -s),Darwin)
guest: build
	mac/guest.sh build/guest
else
guest: build
	bin/vmfs guest build -o build/guest
endif

## guest-arm64: the same for an arm64 host, a Mac too, made on Debian: build/guest-arm64
guest-arm64: build deps-demo
	CGO_ENABLED=0 GOOS=linux GOARCH=arm64 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o build/cross/vmfs-linux-arm64 ./cmd/vmfs
	bin/vmfs guest build -o build/guest-arm64 --arch arm64 --agent build/cross/vmfs-linux-arm64

## demo: the whole life of a VM, told as it happens (BACKEND=cloud-hypervisor; BACKEND=sim needs Go only)
ifeq ($(BACKEND),sim)
demo: build
else
demo: deps-demo
	$(MAKE) --no-print-directory build guest
endif
	BACKEND=$(BACKEND) examples/demo.sh

# One after the other, so that what is printed belongs together.
RINGS := lint unit host-ring version-ring fuzz cross
## test: packages, and every ring of tests: lint, unit, host, version, fuzz, cross builds (docs/testing.md)
test: deps
	@+MAKE='$(MAKE)' test/rings $(RINGS)

## test-all: everything there is, in about an hour; the result goes to docs/testing.md
test-all: deps
	@+MAKE='$(MAKE)' test/rings -o docs/testing.md $(RINGS) -- test-host test-cloud-hypervisor \
		-- test-qemu 'test-qemu SUITE=trixie' 'test-qemu SUITE=sid' 'soak SOAK=2m' soak-vsock

## unit: the tests alone
unit:
	CGO_ENABLED=1 $(GO) test -race -p 2 -timeout 15m $(TESTFLAGS) ./...

# In every QEMU ring the tests are compiled here, and run in another Debian by test/suite.
QEMU_TEST := CGO_ENABLED=1 $(GO) test -race -count=1 -timeout 15m

## version-ring: boot, snapshot and restore on Debian 13's QEMU, also of this machine's snapshots
RING_SUITE := trixie
version-ring: deps
	test/suite make $(RING_SUITE)
	@dir=$$(mktemp -d) && trap 'rm -r "$$dir"' EXIT && export VMFS_SNAPSHOTS="$$dir" && set -x && \
	$(QEMU_TEST) -run '^TestSnapshotsOfOtherQEMUs$$' ./backends/qemu && \
	$(QEMU_TEST) -exec '$(CURDIR)/test/suite run $(RING_SUITE)' -run '^(TestSnapshotsOfOtherQEMUs|TestSuite)$$/^(of |snapshot|restore)' ./backends/qemu

## test-qemu: backends/qemu's tests and the stories on the QEMU of a Debian release (SUITE=trixie, sid; none: on this machine's)
STORIES := TestDemo|TestDemoInterrupted|TestExamples|TestKilledVMM|TestHungVMM|TestKilledServer|TestKilledInSnapshot|TestRestart|TestFailingStarts|TestFullDisk|TestStoppedServer|TestMany|TestVsockGuest|TestVsockFailedStart|TestVsockLeftDevice
test-qemu: deps
	$(QEMU_TEST) $(if $(SUITE),-exec '$(CURDIR)/test/suite run $(SUITE)') $(TESTFLAGS) ./backends/qemu ./backends/hostnet
	$(QEMU_TEST) $(if $(SUITE),-exec '$(CURDIR)/test/suite run $(SUITE)') $(TESTFLAGS) -run '^($(STORIES))$$' ./cmd/vmfs
	test/suite passed docs/qemu-versions.md $(SUITE)

# The program that runs another one on an emulated KVM host (docs/testing.md).
TESTHOST  := build/testhost/testhost
HOST_TEST := $(GO) test -count=1 -timeout 20m -v -exec '$(CURDIR)/$(TESTHOST) -guests \
	-out $(CURDIR)/build/testhost/out -log $(CURDIR)/build/testhost/console.log'

## host-ring: vmfs on a KVM host: users on the mount, a bridge, vhost, snapshot and restore, a killed server
host-ring: testhost build
	$(HOST_TEST) -run '^TestHost$$/^qemu$$' ./guest/testhost/ring

# Each of the tests on a KVM host of its own, and none skipped: 'NAMES PACKAGE'…
define on_hosts
@for t in $(1); do \
	set -f -- $$t; $(HOST_TEST) -run "$$1" "$$2" | tee build/testhost/test.log || exit 1; \
	! grep -e '--- SKIP' build/testhost/test.log || { echo "a host with KVM has all that was skipped" >&2; exit 1; }; \
done
endef

## test-host: all of hypervisortest on QEMU with KVM, passthrough of a PCI device, and the demo, on a KVM host
test-host: SHELL := /bin/bash -o pipefail
test-host: testhost build
	$(call on_hosts,'^TestSuite$$ ./backends/qemu' '^Test(PCI|Demo)$$/^qemu$$ ./guest/testhost/ring')

## test-cloud-hypervisor: hypervisortest, the recorded exchanges, the stories, taps, pci, snapshots and the demo on Cloud Hypervisor, on a KVM host
# All STORIES but TestVsockLeftDevice, of the device that QEMU needs beside it, and TestDemo, which CH_HOSTS has.
CH_STORIES := TestDemoInterrupted|TestExamples|TestKilledVMM|TestHungVMM|TestKilledServer|TestKilledInSnapshot|TestRestart|TestFailingStarts|TestFullDisk|TestStoppedServer|TestMany|TestVsockGuest|TestVsockFailedStart
# What the package's own tests have the real one do, beside hypervisortest.
CH_TESTS   := TestSuite|TestRealDisks|TestRealMachine|TestConsoleOutlives|TestRestoredElsewhere
CH_HOSTS   := Test(Host|PCI|Demo)
test-cloud-hypervisor: SHELL := /bin/bash -o pipefail
ifneq ($(VMFS_CLOUD_HYPERVISOR)$(shell command -v cloud-hypervisor),)
test-cloud-hypervisor: export VMFS_STORIES_ON := cloud-hypervisor
test-cloud-hypervisor: testhost build
	$(call on_hosts,'^TestRealExchanges$$ ./backends/cloudhypervisor/chtest' '^($(CH_TESTS))$$ ./backends/cloudhypervisor' '^$(CH_HOSTS)$$/^cloud-hypervisor$$ ./guest/testhost/ring' '^($(CH_STORIES))$$ ./cmd/vmfs')
else
test-cloud-hypervisor:
	@n=$$(for t in '^TestRealExchanges$$ ./backends/cloudhypervisor/chtest' '^($(CH_TESTS))$$ ./backends/cloudhypervisor' '^$(CH_HOSTS)$$ ./guest/testhost/ring' '^($(CH_STORIES))$$ ./cmd/vmfs'; do \
		set -f -- $$t; $(GO) test -list "$$1" "$$2" || exit 1; done | grep -c ^Test) || exit 1; \
	echo "$$n tests on Cloud Hypervisor are skipped: no cloud-hypervisor in PATH and none named by \$$VMFS_CLOUD_HYPERVISOR"
endif

## test-mac: the checklist for a Mac, on a real guest under QEMU: what of it is the script (five minutes)
test-mac: deps
	VMFS_MAC_CHECKLIST=1 $(GO) test -count=1 -timeout 20m -run '^TestMacChecklist$$' -v ./cmd/vmfs

testhost: deps
	@$(GO) build -o $(TESTHOST) ./guest/testhost/run

## host: a shell on an emulated KVM host with this machine's files (CMD='…': one line there)
host: testhost
	@$(TESTHOST) -q $(if $(value CMD),-c '$(subst ','\'',$(value CMD))')

# The script is backends/cloudhypervisor/chtest/script_test.go.
RECORDING := backends/cloudhypervisor/chtest/testdata/exchanges.json
## record-cloud-hypervisor: what $VMFS_CLOUD_HYPERVISOR says to a script, on a KVM host; the fake is held to that
record-cloud-hypervisor: testhost build
	$(HOST_TEST) -run '^TestRealExchanges$$' ./backends/cloudhypervisor/chtest -record /out/exchanges.json
	cp build/testhost/out/exchanges.json $(RECORDING)

## fuzz: decoders, parsers and whole sessions, a bounded number of inputs each (FUZZTIME=1m: so long each)
# Go before 1.27 now and then takes the end of a -fuzztime that is a duration for a
# failure, so it is a count unless told otherwise.
FUZZ := ninep/wire:FuzzDecoders:100000 ninep:FuzzSession:5000 ninep:FuzzModel:3000 ninep/dial:FuzzParse:80000 \
	ctl:FuzzParse:80000 machine/config:FuzzParse:80000 machine/config:FuzzChecks:20000 backends/qemu:FuzzArgs:20000 backends/cloudhypervisor:FuzzConfigs:20000 machine/rc:FuzzSplit:80000 backends/qemu/qmp:FuzzRead:80000 \
	backends/cloudhypervisor/api:FuzzEvents:40000 backends/cloudhypervisor/api:FuzzRefusal:40000 internal/unixhttp:FuzzAnswer:80000 internal/printable:FuzzLine:80000 fs:FuzzRights:300 guest/control:FuzzServe:40000
fuzz:
	@for f in $(FUZZ); do \
		count=$${f##*:}; f=$${f%:*}; \
		echo "go test -fuzz $${f#*:} ./$${f%%:*}"; \
		$(GO) test -run '^$$' -fuzz "^$${f#*:}$$" -fuzztime "$(or $(FUZZTIME),$${count}x)" ./$${f%%:*} || exit 1; \
	done

## lint: go vet for every system of the cross builds, staticcheck, gofmt, go.mod as go mod tidy has it
lint: gofmt tidy vet staticcheck

gofmt:
	@bad=$$(find . -name '*.go' -not -path './.git/*' -not -path './build/*' -exec "$$($(GO) env GOROOT)/bin/gofmt" -l {} +) || exit 1; \
	if [ -n "$$bad" ]; then printf 'gofmt -w is due for:\n%s\n' "$$bad" >&2; exit 1; fi

tidy:
	$(GO) mod tidy -diff

vet:
	@for t in $(CROSS); do \
		echo "go vet $$t"; \
		CGO_ENABLED=0 GOOS=$${t%/*} GOARCH=$${t#*/} $(GO) vet ./... || exit 1; \
	done

staticcheck:
	$(GO) tool staticcheck ./...

## cross: vmfs for every system it is meant for, without cgo, in build/cross
cross:
	@for t in $(CROSS); do \
		out=build/cross/vmfs-$${t%/*}-$${t#*/}; \
		echo "go build $$out"; \
		CGO_ENABLED=0 GOOS=$${t%/*} GOARCH=$${t#*/} $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $$out ./cmd/vmfs || exit 1; \
	done

## bench: 9P servers side by side, VMs, vsock streams (docs/benchmarks.md), in about twenty minutes
bench: deps-bench build
	$(GO) run ./ninep/bench -vmfs bin/vmfs $(BENCHFLAGS)
	$(MAKE) --no-print-directory bench-vm
	$(MAKE) --no-print-directory bench-vsock

## bench-vm: pause and start beside bare QMP, virsh and a script; a snapshot; fifty VMs (five minutes)
bench-vm: deps-bench deps-demo
	VMFS_BENCH=pause,start,snapshot,many $(GO) test -count=1 -timeout 30m -run '^TestBenchVM$$' -v ./cmd/vmfs

## bench-cloud-hypervisor: pause, start and snapshot beside ch-remote and curl on a KVM host (ten minutes)
bench-cloud-hypervisor: deps-bench testhost build
	VMFS_BENCH=cloud-hypervisor $(HOST_TEST) -run '^TestBenchCloudHypervisor$$' ./cmd/vmfs

## bench-vsock: streams through 9P and v9fs beside the device's socket, socat and slirp (ten minutes)
bench-vsock: deps
	VMFS_BENCH=vsock $(GO) test -count=1 -timeout 60m -run '^TestBenchVsock$$' -v ./cmd/vmfs

## bench-attacks: how long another client waits while clients without rights do their worst (two minutes, two cores)
bench-attacks:
	VMFS_BENCH=attacks $(GO) test -count=1 -timeout 10m -run '^TestBenchAttacks$$' -v ./cmd/vmfs

## soak: random verbs and random ends on 20 VMs, for SOAK (BACKEND=sim: simulated; VMFS_SOAK_SEED=N: as it was)
SOAK ?= 10m
soak: deps
	CGO_ENABLED=1 VMFS_SOAK=$(SOAK) VMFS_SOAK_BACKEND=$(BACKEND) $(GO) test -race -count=1 -timeout 24h -run '^TestSoak$$' -v ./cmd/vmfs

## soak-vsock: gigabytes, pauses and stalled readers, of the vsock device alone and through the tree (five minutes)
soak-vsock: deps
	VMFS_SOAK=1 $(GO) test -count=1 -timeout 60m -run '^TestSoak$$' -v ./vsock/vhostuser
	VMFS_SOAK_VSOCK=1 $(GO) test -count=1 -timeout 60m -run '^TestVsockSoak$$' -v ./cmd/vmfs

## gobench: the Go benchmarks
gobench:
	$(GO) test -run '^$$' -bench . -benchmem ./...

deps-bench:
	@$(call install,diod curl libvirt-daemon libvirt-clients)

## deps: install the Debian packages that the tests need (as root; else say which)
deps:
	@$(call install,$(TEST_PACKAGES))

deps-demo:
	@$(call install,$(DEMO_PACKAGES))

## clean: remove what was built
clean:
	rm -rf bin build

## help: this list
help:
	@sed -n 's/^## /  make /p' $(firstword $(MAKEFILE_LIST))

# install PACKAGES installs those of them that are missing. The package lists are
# needed beyond that, to download the guest's kernel.
define install
if ! command -v apt-get >/dev/null; then \
	echo "This is not Debian: see to it that these are there: $(1)" >&2; exit 0; \
fi; \
missing=; \
for p in $(1); do \
	[ "$$(dpkg-query -W -f '$${db:Status-Status}' $$p 2>/dev/null)" = installed ] || missing="$$missing $$p"; \
done; \
lists=; apt-cache show linux-image-$$(dpkg --print-architecture) >/dev/null 2>&1 || lists=missing; \
if [ -z "$$missing$$lists" ]; then exit 0; fi; \
if [ "$$(id -u)" != 0 ]; then \
	echo "Packages are missing. Run: sudo apt-get update && sudo apt-get install --no-install-recommends$$missing" >&2; exit 1; \
fi; \
apt-get update || exit 1; \
if [ -n "$$missing" ]; then \
	DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $$missing; \
fi
endef
