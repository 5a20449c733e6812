// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Vmtest boots Debian's kernels, runs the tests of the packages that speak with the
// kernel on each, and checks the table of features that the documents have against
// what NetProbe says of itself there. To look at one thing:
//
//	make test-vm KERNELS=5.10 VMTEST_FLAGS='-only bpf -run TestPacketsAtXDP'
//
// The machines are emulated, so that any Linux machine with x86-64 programs can do
// it, and nobody needs be root; what is fast or slow there says nothing. A kernel
// takes 10 to 20 minutes on two cores that others use too. Kernels
// come from Debian's mirrors into VMTEST_CACHE (default: netprobe-vmtest in the
// user's cache directory) and stay as they are: remove one there for a newer.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/vmtest/protocol"
)

type options struct {
	kernels, netprobe, table, logs string
	only, run                      string
	update                         bool
}

func main() {
	var o options
	flag.StringVar(&o.kernels, "kernels", "5.10 6.1 6.12 sid", "series of Debian's kernels, and sid for its newest")
	flag.StringVar(&o.netprobe, "netprobe", "build/netprobe", "the program whose features are asked for")
	flag.StringVar(&o.table, "table", "receiver/ebpfnetreceiver/README.md", "the document with the table")
	flag.StringVar(&o.logs, "logs", "build/vmtest", "where to leave what the machines wrote")
	flag.StringVar(&o.only, "only", ".", "pattern of steps: features, and packages by their last name")
	flag.StringVar(&o.run, "run", "", "pattern of tests, as go test has it; else all but those that are left out")
	flag.BoolVar(&o.update, "update", false, "write what was found into the table")
	flag.Parse()
	// What is interrupted ends its machine and removes its files.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	err := test(ctx, &o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "vmtest:", err)
		os.Exit(1)
	}
}

func test(ctx context.Context, o *options) error {
	needs := map[string]string{"qemu-system-x86_64": "qemu-system-x86", "xz": "xz-utils", "apt-get": "apt", "dpkg-deb": "dpkg", "go": "golang"}
	for program, pkg := range tools {
		needs[program] = pkg
	}
	only, err := regexp.Compile(o.only)
	if err := errors.Join(err, missing(needs)); err != nil {
		return err
	}
	documented, err := readTable(o.table)
	if err != nil {
		return err
	}
	kernels, err := openCache()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "vmtest-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b, err := build(dir, o.netprobe, only)
	if err != nil {
		return err
	}
	b.sayWhatIsLeftOut()
	if err := os.MkdirAll(o.logs, 0o755); err != nil {
		return err
	}
	var errs []error
	for series := range strings.FieldsSeq(o.kernels) {
		if err := testOn(ctx, kernels, series, b, documented, o); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", series, err))
		}
		if ctx.Err() != nil {
			return errors.Join(errs...)
		}
	}
	if o.update {
		errs = append(errs, documented.write())
	}
	return errors.Join(errs...)
}

// testOn runs all on one kernel.
func testOn(ctx context.Context, kernels cache, series string, b *built, documented *table, o *options) error {
	k, err := kernels.kernel(series)
	if err != nil {
		return err
	}
	plan := b.plan(k, o.run)
	initrd, err := k.initrd(b.dir, b, plan)
	if err != nil {
		return err
	}
	defer os.Remove(initrd)
	log, err := os.Create(filepath.Join(o.logs, series+".log"))
	if err != nil {
		return err
	}
	defer log.Close()

	fmt.Printf("%s is Debian's %s; its output is in %s\n", series, k.release, log.Name())
	r := &result{series: series, left: len(plan.Steps)}
	m := &machine{image: k.image, initrd: initrd, timeout: time.Duration(1+len(plan.Steps)) * stepTimeout}
	err = m.run(ctx, func(line string) {
		if mark, ok := protocol.Read(line); ok {
			r.mark(&mark)
		} else {
			r.output = append(r.output, line...)
			_, err := log.WriteString(line)
			r.errs = append(r.errs, err)
		}
	})
	return errors.Join(err, r.judge(k, documented, o.update))
}

// result is what a guest told.
type result struct {
	series string
	left   int    // steps that have not ended
	output []byte // of the step that runs
	found  []*protocol.Feature
	errs   []error
}

func (r *result) mark(m *protocol.Mark) {
	switch {
	case m.Feature != nil:
		r.found = append(r.found, m.Feature)
	case m.Began:
		r.output = nil
	default:
		r.left--
		r.ended(m)
	}
}

// ended says how a step did.
func (r *result) ended(m *protocol.Mark) {
	var failed error
	if m.Error != "" {
		failed = fmt.Errorf("%s: %s", m.Step, m.Error)
	}
	if m.Step == featuresStep {
		fmt.Printf("%s %s: in %s\n", r.series, m.Step, m.Took.Round(time.Second))
		if failed != nil {
			failed = fmt.Errorf("%w\n%s", failed, r.output)
		}
		r.errs = append(r.errs, failed)
		return
	}
	tests, err := readTests(r.output)
	if err != nil {
		r.errs = append(r.errs, failed, err)
		return
	}
	fmt.Printf("%s %s: %d tests passed, %d were skipped, %d failed, in %s\n",
		r.series, m.Step, len(tests.passed), len(tests.skipped), len(tests.failed), m.Took.Round(time.Second))
	for why, names := range tests.skippedBy() {
		fmt.Printf("%s %s: skipped %d, because %s: %s\n", r.series, m.Step, len(names), why, strings.Join(names, " "))
	}
	if failed != nil {
		for _, t := range append(tests.failed, tests.cut...) {
			failed = fmt.Errorf("%w\n%s:\n%s", failed, t.name, t.output)
		}
	}
	r.errs = append(r.errs, failed)
}

// judge compares what NetProbe said with what the table says.
func (r *result) judge(k *kernel, documented *table, update bool) error {
	errs := r.errs
	if r.left > 0 {
		errs = append(errs, fmt.Errorf("%d steps did not end", r.left))
	}
	if len(r.found) == 0 {
		return errors.Join(errs...) // the step was not asked for, or it has failed
	}
	slices.SortFunc(r.found, func(a, b *protocol.Feature) int { return strings.Compare(a.Name, b.Name) })
	found := support{}
	for _, f := range r.found {
		fmt.Printf("%s feature %s: %s %s\n", r.series, f.Name, f.State, f.Reason)
		found[f.Name] = f.State == "on"
	}
	if update {
		return errors.Join(append(errs, documented.update(k, found))...)
	}
	lost, gained := documented.check(k.series, found)
	if len(lost) > 0 {
		errs = append(errs, fmt.Errorf("%s says that it has %s: mend that, or write what there is with UPDATE=1", documented.file, strings.Join(lost, ", ")))
	}
	if len(gained) > 0 {
		fmt.Printf("%s has more than %s says, to be written with UPDATE=1: %s\n", r.series, documented.file, strings.Join(gained, ", "))
	}
	return errors.Join(errs...)
}
