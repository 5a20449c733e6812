// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"time"

	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/netprobe-otel/netprobe/internal/netattr"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/aggregate"
)

// Event is something that happened and has a log record of its own.
type Event interface {
	Append(o *Observer, to plog.LogRecordSlice, observed time.Time)
}

// EventLogs gives one log record per event.
func (o *Observer) EventLogs(events []Event, observed time.Time) plog.Logs {
	ld, out := o.logs(len(events))
	for _, e := range events {
		e.Append(o, out, observed)
	}
	return ld
}

// TunnelEvent is a tunnel that was seen for the first time, or no more.
type TunnelEvent struct{ aggregate.TunnelEvent }

// Append implements Event.
func (e TunnelEvent) Append(o *Observer, to plog.LogRecordSlice, observed time.Time) {
	lr := appendEvent(to, netattr.EventTunnel, e.At, observed)
	state := "down"
	if e.Up {
		state = "up"
	}
	lr.Attributes().PutStr(netattr.TunnelState, state)
	putTunnelEnds(&e.Tunnel, lr.Attributes())
	lr.Attributes().PutInt(netattr.ObservationNetNS, int64(o.NetNS))
}
