// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"encoding/binary"
	"fmt"
	"net/http"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"golang.org/x/sys/unix"
)

// pressure is how much TestLedgerUnderPressure does.
type pressure struct {
	flows    int
	within   time.Duration
	entries  int           // of the flow map
	interval time.Duration // in which more flows come than the map has entries
	patience time.Duration
}

// NETPROBE_PRESSURE=full is what `make pressure` does.
func pressureOf() pressure {
	if os.Getenv("NETPROBE_PRESSURE") == "full" {
		return pressure{flows: 1_000_000, within: time.Minute, entries: 65536, interval: 5 * time.Second, patience: 5 * time.Minute}
	}
	return pressure{flows: 60_000, within: 4 * time.Second, entries: 4096, interval: 500 * time.Millisecond, patience: patience}
}

// Far more flows than the map has room for, and a pipeline that takes them more
// slowly than they come: every packet is in a record that arrives, or in a loss
// that has a name, and the interface's counters are the kernel's.
func TestLedgerUnderPressure(t *testing.T) {
	p := pressureOf()
	for _, tt := range []struct {
		name  string
		queue int
		// pause before each batch of records is taken, of which there are 4096 in one.
		pause time.Duration
		loses bool
	}{
		{"all of it fits into the queue", p.flows, p.within * 4096 / time.Duration(p.flows) * 3 / 2, false},
		{"the queue overflows", p.flows / 20, p.within * 4096 / time.Duration(p.flows) * 4, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t)
			k := l.link(t, "np0")
			taker := newSlowTaker(t, l.near, tt.pause)
			receiver := fmt.Sprintf(`{interfaces: {include: [np0]}, interval: %s, flows: {max_entries: %d, queue_size: %d, map: shared}}`, p.interval, p.entries, tt.queue)
			a := &agent{host: l.near}
			// no queue between the receiver and the one who takes the logs
			a.process = l.near.launch(t, command(configOf(receiver, "compression: none, timeout: 1m, sending_queue: {enabled: false}, retry_on_failure: {enabled: false}")))
			a.waitReady(t)
			k.up(t)

			k.sendFlows(t, p.flows, p.within)

			var ledger map[string]float64
			require.EventuallyWithT(t, func(c *assert.CollectT) {
				kernel := k.kernel(c)
				assert.Equal(c, kernel, l.near.scrape(c, prometheusURL).counters(c, "np0"), "interface counters")
				self := l.near.scrape(c, selfURL)
				for _, unit := range []string{"packets", "bytes"} {
					ledger = a.requireClosed(c, self, unit, "tc_ingress")
					a.requireClosed(c, self, unit, "tc_egress")
				}
				seen := self.sum("otelcol_receiver_ebpfnet_packets", map[string]string{"hook": "tc_ingress", "outcome": "seen"})
				assert.EqualValues(c, kernel.RxPackets, seen, "the ledger has what the kernel has")
			}, p.patience, 200*time.Millisecond, "the ledger does not close")

			self := l.near.scrape(t, selfURL)
			lost := self.sum("otelcol_receiver_ebpfnet_packets", map[string]string{"outcome": "lost"})
			t.Logf("overflowed %v, ledger (bytes) %v, records %d", self.sum("otelcol_receiver_ebpfnet_flow_overflowed", nil), ledger, taker.records())
			require.Positive(t, self.sum("otelcol_receiver_ebpfnet_flow_overflowed", nil), "the flow map never was full: this was no pressure")
			exported := self.sum("otelcol_receiver_ebpfnet_packets", map[string]string{"outcome": "exported"})
			require.EqualValues(t, exported, taker.packets(), "what the ledger calls exported has arrived")
			if tt.loses {
				require.Positive(t, self.sum("otelcol_receiver_ebpfnet_packets", map[string]string{"outcome": "lost", "cause": "queue_full"}))
			} else {
				require.Zero(t, lost)
				require.GreaterOrEqual(t, taker.records(), p.flows)
			}
		})
	}
}

// requireClosed checks that what a hook saw is the sum of what became of it, and
// gives that by outcome and cause.
func (a *agent) requireClosed(t require.TestingT, self families, unit, hook string) map[string]float64 {
	name := "otelcol_receiver_ebpfnet_" + unit
	entries, sum, seen := map[string]float64{}, 0.0, 0.0
	for _, m := range self[name].GetMetric() {
		l := labels(m)
		if l["hook"] != hook {
			continue
		}
		if l["outcome"] == "seen" {
			seen = value(m)
			continue
		}
		sum += value(m)
		if v := value(m); v != 0 {
			entries[l["outcome"]+" "+l["cause"]] = v
		}
	}
	assert.Equal(t, seen, sum, "%s seen at %s, and what became of them: %v", unit, hook, entries)
	return entries
}

// slowTaker takes flow records after a pause for each batch, and keeps no more
// of them than their sum.
type slowTaker struct {
	mu       sync.Mutex // guards what follows
	n        int
	nPackets uint64
}

func newSlowTaker(t *testing.T, host *namespace, pause time.Duration) *slowTaker {
	t.Helper()
	s := &slowTaker{}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/logs", take(func(body []byte) ([]byte, error) {
		req := plogotlp.NewExportRequest()
		if err := req.UnmarshalProto(body); err != nil {
			return nil, err
		}
		time.Sleep(pause)
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, rl := range req.Logs().ResourceLogs().All() {
			for _, sl := range rl.ScopeLogs().All() {
				for _, lr := range sl.LogRecords().All() {
					if v, ok := lr.Attributes().Get("netprobe.flow.packets"); ok {
						s.n++
						s.nPackets += uint64(v.Int())
					}
				}
			}
		}
		return plogotlp.NewExportResponse().MarshalProto()
	}))
	mux.HandleFunc("POST /v1/metrics", take(func([]byte) ([]byte, error) {
		return pmetricotlp.NewExportResponse().MarshalProto()
	}))
	host.serveOTLP(t, mux)
	return s
}

func (s *slowTaker) records() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n
}

func (s *slowTaker) packets() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nPackets
}

// sendFlows sends one UDP datagram of each of so many flows from the far end,
// evenly over a time. They are to an address that nobody has, so that nothing
// comes back.
func (k *link) sendFlows(t *testing.T, flows int, within time.Duration) {
	t.Helper()
	dev, err := k.lab.far.links.LinkByName(k.peer)
	require.NoError(t, err)
	buf := gopacket.NewSerializeBuffer()
	source := k.far4.As4()
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: source[:], DstIP: []byte{203, 0, 113, 7}}
	udp := &layers.UDP{SrcPort: 1, DstPort: 7}
	require.NoError(t, gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true},
		&layers.Ethernet{SrcMAC: dev.Attrs().HardwareAddr, DstMAC: k.device(t).Attrs().HardwareAddr, EthernetType: layers.EthernetTypeIPv4},
		ip, udp, gopacket.Payload(make([]byte, 18))))
	frame := buf.Bytes()
	const sourceAddress, sourcePort = 14 + 12, 14 + 20

	var fd int
	require.NoError(t, k.lab.far.in(func() error {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: dev.Attrs().Index})
	}))
	defer unix.Close(fd)
	began := time.Now()
	for n := range flows {
		// 10.0.0.0/8 is no source that the near host answers to
		binary.BigEndian.PutUint32(frame[sourceAddress:], 10<<24|uint32(n)>>14)
		binary.BigEndian.PutUint16(frame[sourcePort:], uint16(1024+n&0x3fff))
		for {
			_, err := unix.Write(fd, frame)
			if err == nil {
				break
			}
			require.ErrorIs(t, err, syscall.ENOBUFS)
			time.Sleep(time.Millisecond)
		}
		if n%64 == 0 {
			time.Sleep(time.Until(began.Add(within * time.Duration(n) / time.Duration(flows))))
		}
	}
	t.Logf("sent %d flows in %s", flows, time.Since(began))
}
