// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/internal/vmtest/protocol"
)

// config asks for all that NetProbe can do.
//
//go:embed netprobe.yaml
var config []byte

const (
	telemetryURL = "http://localhost:8888/metrics"
	// the machine is emulated: what takes a second takes it many
	startTimeout = 3 * time.Minute
	stopTimeout  = time.Minute
)

// features runs NetProbe beside a pair of interfaces, and writes what it says of
// each feature.
func features(netprobe string) error {
	if err := veth("va", "vb"); err != nil {
		return err
	}
	const path = "/tmp/netprobe.yaml"
	if err := os.WriteFile(path, config, 0o644); err != nil {
		return err
	}
	cmd := exec.Command(netprobe, "--config", path)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start NetProbe: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()

	found, err := scrape(ended)
	if err != nil {
		return errors.Join(err, cmd.Process.Kill())
	}
	for _, f := range found {
		if err := protocol.Write(os.Stdout, protocol.Mark{Feature: f}); err != nil {
			return err
		}
	}
	return stop(cmd.Process, ended)
}

func veth(name, peer string) error {
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: peer}); err != nil {
		return fmt.Errorf("make a pair of interfaces: %w", err)
	}
	for _, n := range []string{name, peer} {
		link, err := netlink.LinkByName(n)
		if err == nil {
			err = netlink.LinkSetUp(link)
		}
		if err != nil {
			return fmt.Errorf("bring up interface %s: %w", n, err)
		}
	}
	return nil
}

// scrape asks until the receiver has read its counters once.
func scrape(ended <-chan error) ([]*protocol.Feature, error) {
	deadline := time.After(startTimeout)
	var err error
	for {
		var found []*protocol.Feature
		if found, err = ask(); err == nil && len(found) > 0 {
			return found, nil
		}
		select {
		case end := <-ended:
			return nil, fmt.Errorf("NetProbe ended (%v) before it said which features there are", end)
		case <-deadline:
			return nil, fmt.Errorf("NetProbe did not say within %s which features there are: %w", startTimeout, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// ask gives what features are now; none before the first interval.
func ask() ([]*protocol.Feature, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, telemetryURL, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", telemetryURL, err)
	}
	var found []*protocol.Feature
	for _, m := range families["otelcol_receiver_ebpfnet_feature"].GetMetric() {
		if m.GetGauge().GetValue() == 1 {
			found = append(found, &protocol.Feature{Name: label(m, "feature"), State: label(m, "state"), Reason: label(m, "reason")})
		}
	}
	return found, nil
}

func label(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

// stop ends NetProbe as an init system does.
func stop(process *os.Process, ended <-chan error) error {
	if err := process.Signal(unix.SIGTERM); err != nil {
		return fmt.Errorf("end NetProbe: %w", err)
	}
	select {
	case err := <-ended:
		if err != nil {
			return fmt.Errorf("NetProbe did not end well: %w", err)
		}
		return nil
	case <-time.After(stopTimeout):
		return errors.Join(fmt.Errorf("NetProbe did not end within %s", stopTimeout), process.Kill())
	}
}
