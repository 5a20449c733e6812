// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/netprobe-otel/netprobe/internal/vmtest/protocol"
)

// suite is the tests of a package: all but those that are left out.
type suite struct {
	dir string
	// leftOut has tests by name, and why they need not run on every kernel.
	leftOut map[string]string
	// old are all that run on kernels whose verifier is slow; none for all.
	old []string
	// modules are those that nothing loads by itself.
	modules []string
}

// Reasons to leave out a test: an emulated machine takes minutes for it.
const (
	manyPackets = "asks no more of the kernel than others that run, with many more packets"
	manyLoads   = "loads the same programs many times, which takes seconds each"
)

// slowVerifier says of a kernel that it takes long to load the programs: where the
// machine is emulated, 5.10 takes 13 s for those of TC and 6.12 takes 2 s.
func (k *kernel) slowVerifier() bool {
	return k.series != "sid" && slices.Compare(numbers(k.series), []int{6, 6}) < 0
}

// testSuites are those of packages that speak with the kernel.
var testSuites = []suite{
	{
		dir: "bpf",
		leftOut: map[string]string{
			"TestCutPacketsAtTC":          manyPackets,
			"TestCutPacketsAtXDP":         manyPackets,
			"TestEveryPacketIsInOnePlace": manyLoads,
			"TestFilter":                  manyLoads,
		},
		old: []string{
			"TestProgramsOnlyPass", "TestProgramsOnlyLook", "TestProgramsFitOldVerifiers", "TestTypesMatchObjects", "TestMapsHoldTypes",
			"TestPacketsAtTC", "TestPacketsAtXDP", "TestCaptures", "TestFlowHandshake",
			"TestFullRingBuffer", "TestFullTunnelTable", "TestRefusalsAreCounted",
		},
	},
	{
		dir:     "internal/flannel",
		leftOut: map[string]string{"TestReadAsProgramsDo": "asks programs that the machines do not have"},
	},
	{dir: "receiver/ebpfnetreceiver/internal/conntrack"},
	{dir: "receiver/ebpfnetreceiver/internal/drops"},
	{dir: "receiver/ebpfnetreceiver/internal/kernel"},
	{dir: "receiver/ebpfnetreceiver/internal/listeners"},
	{dir: "receiver/ebpfnetreceiver/internal/netdev"},
	{dir: "receiver/ebpfnetreceiver/internal/netfilter", modules: []string{"br_netfilter"}},
	{
		dir: "receiver/ebpfnetreceiver/internal/probe",
		leftOut: map[string]string{
			"TestFilter":              manyLoads,
			"TestFilterOfRandomFlows": manyPackets,
		},
		old: []string{
			"TestDetachAndClose", "TestAttachClassifierFallsBack", "TestClsactOfOthersStays", "TestClsactStaleFilters",
			"TestDrainInBatches", "TestEmptyOneByOne", "TestOverflow", "TestTunnels", "TestTun",
			"TestTCPSuperPackets", "TestXDPAlone", "TestCoarseClock", "TestTryBatch",
		},
	},
	{dir: "receiver/ebpfnetreceiver/internal/sockets"},
}

// suitesLeftOut are packages that speak with the kernel too, and why their tests
// need not run on every kernel.
var suitesLeftOut = map[string]string{
	"internal/e2e":             "runs two nodes' worth of programs and minutes of traffic; what it joins is tested here one by one",
	"receiver/ebpfnetreceiver": "asks of the kernel only what those packages do; the features that it tells of are asked for by running it",
}

const (
	featuresStep = "features"
	stepTimeout  = 30 * time.Minute
)

func (s *suite) name() string { return path.Base(s.dir) }

// anyOf is a pattern of tests.
func anyOf(names []string) string {
	var all []string
	for _, name := range names {
		all = append(all, "^"+name+"$")
	}
	return strings.Join(all, "|")
}

// tools are programs that tests call, with their Debian packages.
var tools = map[string]string{
	"nft":                   "nftables",
	"iptables-nft":          "iptables",
	"iptables-nft-save":     "iptables",
	"ip6tables-nft":         "iptables",
	"ip6tables-nft-save":    "iptables",
	"iptables-legacy":       "iptables",
	"iptables-legacy-save":  "iptables",
	"ip6tables-legacy":      "iptables",
	"ip6tables-legacy-save": "iptables",
	"conntrack":             "conntrack",
	"ping":                  "iputils-ping",
}

// extensions of iptables are opened by name, so that nothing tells of them.
const extensions = "/usr/lib/x86_64-linux-gnu/xtables"

// built is what is made here for all kernels.
type built struct {
	dir, guest, netprobe string
	suites               []suite
}

// build compiles the guest and the tests, static, since the guest has no libraries.
func build(dir, netprobe string, only *regexp.Regexp) (*built, error) {
	b := &built{dir: dir, guest: filepath.Join(dir, "guest")}
	if only.MatchString(featuresStep) {
		b.netprobe = netprobe
	}
	if err := compile("build", "-o", b.guest, "./internal/vmtest/guest"); err != nil {
		return nil, err
	}
	for _, s := range testSuites {
		if !only.MatchString(s.name()) {
			continue
		}
		if err := compile("test", "-c", "-o", b.test(&s), "./"+s.dir); err != nil {
			return nil, err
		}
		b.suites = append(b.suites, s)
	}
	if b.netprobe == "" && b.suites == nil {
		return nil, fmt.Errorf("nothing to do: neither %q nor a package of tests matches %q", featuresStep, only)
	}
	return b, nil
}

func (b *built) test(s *suite) string { return filepath.Join(b.dir, s.name()+".test") }

func compile(command string, args ...string) error {
	args = append([]string{command, "-trimpath", "-ldflags", "-s -w"}, args...)
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// addTo puts it into the guest's files.
func (b *built) addTo(a *archive) error {
	var errs []error
	for i := range b.suites {
		s := &b.suites[i]
		errs = append(errs, a.addProgram(b.test(s), guestTest(s)))
		a.dir(guestDir(s))
		if data := filepath.Join(s.dir, "testdata"); exists(data) {
			errs = append(errs, a.addTree(data, path.Join(guestDir(s), "testdata")))
		}
	}
	if b.netprobe != "" {
		errs = append(errs, a.addProgram(b.netprobe, guestNetProbe))
	}
	for tool := range tools {
		host, err := exec.LookPath(tool)
		if err == nil {
			err = a.addProgram(host, path.Join("/usr/sbin", tool))
		}
		errs = append(errs, err)
	}
	errs = append(errs, a.addTree(extensions, extensions))
	return errors.Join(errs...)
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// Where things are in the guest.
const guestNetProbe = "/usr/bin/netprobe"

func guestDir(s *suite) string  { return path.Join("/test", s.name()) }
func guestTest(s *suite) string { return path.Join(guestDir(s), s.name()+".test") }

// plan is what the guest does with it on a kernel: what says most of it first. Run
// is a pattern of tests, empty for all that are not left out.
func (b *built) plan(k *kernel, run string) *protocol.Plan {
	plan := &protocol.Plan{}
	if b.netprobe != "" {
		plan.Steps = append(plan.Steps, protocol.Step{
			Name: featuresStep, Argv: []string{"/init", "features", guestNetProbe},
			Modules: []string{"nf_conntrack"}, // as on a host that translates addresses
			Timeout: stepTimeout,
		})
	}
	for i := range b.suites {
		s := &b.suites[i]
		plan.Steps = append(plan.Steps, protocol.Step{
			Name: s.name(), Argv: append([]string{guestTest(s), "-test.v=test2json"}, s.chosen(k, run)...),
			Dir: guestDir(s), Env: []string{"REQUIRE_BPF=1"}, Modules: s.modules, Timeout: stepTimeout,
		})
	}
	return plan
}

// chosen are the flags that choose tests.
func (s *suite) chosen(k *kernel, run string) []string {
	switch {
	case run != "":
		return []string{"-test.run", run}
	case k.slowVerifier() && s.old != nil:
		return []string{"-test.run", anyOf(s.old)}
	case s.leftOut != nil:
		return []string{"-test.skip", anyOf(slices.Sorted(maps.Keys(s.leftOut)))}
	default:
		return nil
	}
}

// sayWhatIsLeftOut, so that nobody takes what passes for all that there is.
func (b *built) sayWhatIsLeftOut() {
	for i := range b.suites {
		s := &b.suites[i]
		for _, name := range slices.Sorted(maps.Keys(s.leftOut)) {
			fmt.Printf("left out: %s %s: it %s\n", s.name(), name, s.leftOut[name])
		}
		if s.old != nil {
			fmt.Printf("left out: %s on kernels with a slow verifier (before 6.6): all but %s\n", s.name(), strings.Join(s.old, " "))
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(suitesLeftOut)) {
		fmt.Printf("left out: %s: it %s\n", dir, suitesLeftOut[dir])
	}
}
