// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What real programs say of their connections is what NetProbe says, of both ends.
func TestConnectionsOfPrograms(t *testing.T) {
	l := newLab(t)
	k := l.link(t, "np0")
	a := start(t, l.near, `{interfaces: {include: [np0]}, interval: 100ms}`) // of all namespaces
	k.up(t)
	for _, p := range k.pairings() {
		ends := connectionEnds{a.sink, p}
		t.Run("curl over "+p.name, ends.curl)
		t.Run("iperf3 TCP over "+p.name, ends.iperf3TCP)
		t.Run("iperf3 UDP over "+p.name, ends.iperf3UDP)
		t.Run("netcat over "+p.name, ends.netcat)
	}
	a.requireLossless(t)
}

// connectionEnds looks at both ends of a pairing's connections.
type connectionEnds struct {
	sink *sink
	pairing
}

// executableOf is the file name behind a command, of which there may be links.
func executableOf(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	require.NoError(t, err)
	path, err = filepath.EvalSymlinks(path)
	require.NoError(t, err)
	return filepath.Base(path)
}

// records gives those of a connection's client and server for a phase, and checks
// what both have.
func (e connectionEnds) records(t *testing.T, transport, phase string, port int) (client, server record) {
	t.Helper()
	match := map[string]any{
		"netprobe.connection.role": "client", "netprobe.connection.phase": phase,
		"network.transport": transport, "source.port": int64(port),
	}
	client = e.sink.connection(t, e.client.namespace, match)
	match["netprobe.connection.role"] = "server"
	if phase == "connect" {
		match["netprobe.connection.phase"] = "accept"
	}
	server = e.sink.connection(t, e.server.namespace, match)
	networkType := "ipv4"
	if e.client.addr.Is6() {
		networkType = "ipv6"
	}
	for _, r := range []record{client, server} {
		requireAttributes(t, r, map[string]any{
			"source.address": e.client.addr.String(), "destination.address": e.server.addr.String(),
			"destination.port": client.attrs["destination.port"], "network.type": networkType,
			"netprobe.flow.community_id": client.attrs["netprobe.flow.community_id"],
		})
		require.Regexp(t, `^1:[A-Za-z0-9+/]{27}=$`, r.attrs["netprobe.flow.community_id"])
	}
	return client, server
}

// requireProcess checks who has a socket.
func requireProcess(t *testing.T, r record, name string, pid int) {
	t.Helper()
	requireAttributes(t, r, map[string]any{"process.executable.name": name, "process.pid": int64(pid)})
}

// requireBytes checks what a connection has carried that was closed well, and that the
// other end knows the same.
func requireBytes(t *testing.T, client, server record, sent, received int64) {
	t.Helper()
	for r, want := range map[*record][2]int64{&client: {sent, received}, &server: {received, sent}} {
		requireAttributes(t, *r, map[string]any{
			"netprobe.connection.bytes.sent": want[0], "netprobe.connection.bytes.received": want[1],
			"error.type": nil, "netprobe.tcp.reset.by": nil,
		})
	}
}

func (e connectionEnds) curl(t *testing.T) {
	body := bytes.Repeat([]byte("netprobe"), 20_000)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(body))) // not in chunks, which curl does not count
		_, _ = w.Write(body)
	})}
	listener := e.server.listen(t, "tcp", e.server.endpoint("0"))
	done := make(chan error)
	go func() { done <- server.Serve(listener) }()
	defer func() {
		require.NoError(t, server.Close())
		require.ErrorIs(t, <-done, http.ErrServerClosed)
	}()
	curl := e.client.launch(t, exec.Command("curl", "--silent", "--noproxy", "*", "--output", "/dev/null",
		"--write-out", "%{json}", "http://"+listener.Addr().String()+"/"))
	var said struct {
		LocalPort    int     `json:"local_port"`
		TimeConnect  float64 `json:"time_connect"`
		TimeTotal    float64 `json:"time_total"`
		SizeDownload int64   `json:"size_download"`
		SizeHeader   int64   `json:"size_header"`
		SizeRequest  int64   `json:"size_request"`
	}
	require.NoError(t, json.Unmarshal([]byte(curl.result(t)), &said))
	require.EqualValues(t, len(body), said.SizeDownload)

	connect, accept := e.records(t, "tcp", "connect", said.LocalPort)
	requireProcess(t, connect, executableOf(t, "curl"), curl.cmd.Process.Pid)
	requireProcess(t, accept, executable(t), os.Getpid())
	latency := connect.seconds("netprobe.connection.latency")
	require.Positive(t, latency)
	require.LessOrEqual(t, latency.Seconds(), said.TimeConnect)
	require.Nil(t, accept.attrs["netprobe.connection.latency"])
	client, serving := e.records(t, "tcp", "close", said.LocalPort)
	requireProcess(t, client, executableOf(t, "curl"), curl.cmd.Process.Pid)
	requireProcess(t, serving, executable(t), os.Getpid())
	requireBytes(t, client, serving, said.SizeRequest, said.SizeHeader+said.SizeDownload)
	require.Equal(t, latency, client.seconds("netprobe.connection.latency"))
	require.Greater(t, client.seconds("netprobe.connection.duration"), time.Duration(0))
	require.LessOrEqual(t, client.seconds("netprobe.connection.duration").Seconds(), said.TimeTotal+0.05, "curl ends before its connection may")
	require.Positive(t, client.seconds("netprobe.tcp.rtt"))
}

// iperf3Said is what iperf3 --json says of one stream.
type iperf3Said struct {
	Start struct {
		Connected []struct {
			LocalPort int `json:"local_port"`
		}
	}
	End struct {
		Streams []struct {
			Sender struct{ Retransmits int64 }
		}
		SumSent     iperf3Sum `json:"sum_sent"`
		SumReceived iperf3Sum `json:"sum_received"`
		Sum         iperf3Sum
	}
}

type iperf3Sum struct{ Bytes int64 }

// iperf3 runs both ends, and gives what the client says.
func (e connectionEnds) iperf3(t *testing.T, args ...string) (said iperf3Said, client, server int) {
	t.Helper()
	address := e.server.addr.String()
	serving := e.server.launch(t, exec.Command("iperf3", "--server", "--one-off", "--forceflush", "--bind", address))
	e.server.waitListening(t, 5201)
	asking := e.client.launch(t, exec.Command("iperf3", append([]string{"--client", address, "--json"}, args...)...))
	require.NoError(t, json.Unmarshal([]byte(asking.result(t)), &said), "%s", asking.output)
	serving.result(t)
	require.Len(t, said.Start.Connected, 1)
	return said, asking.cmd.Process.Pid, serving.cmd.Process.Pid
}

// iperf3Cookie is what each TCP connection of iperf3 begins with.
const iperf3Cookie = 37

// What iperf3 sends last its server may leave unread, and reset the connection for it.
func (e connectionEnds) iperf3TCP(t *testing.T) {
	said, asking, serving := e.iperf3(t, "-b", "100M", "-w", "64K", "-l", "8K", "-n", "1M")
	client, server := e.records(t, "tcp", "close", said.Start.Connected[0].LocalPort)
	requireProcess(t, client, executableOf(t, "iperf3"), asking)
	requireProcess(t, server, executableOf(t, "iperf3"), serving)
	sent, received := client.int("netprobe.connection.bytes.sent"), server.int("netprobe.connection.bytes.received")
	require.LessOrEqual(t, sent, said.End.SumSent.Bytes+iperf3Cookie)
	require.GreaterOrEqual(t, received, said.End.SumReceived.Bytes+iperf3Cookie)
	require.LessOrEqual(t, received, sent)
	require.Zero(t, client.int("netprobe.connection.bytes.received")+server.int("netprobe.connection.bytes.sent"))
	// what comes after the last look of iperf3 is not in its number
	require.GreaterOrEqual(t, client.int("netprobe.tcp.retransmits"), said.End.Streams[0].Sender.Retransmits)
	require.Equal(t, client.attrs["error.type"], server.attrs["error.type"])
	if client.attrs["error.type"] == "reset" {
		require.Equal(t, "remote", client.attrs["netprobe.tcp.reset.by"])
		require.Equal(t, "local", server.attrs["netprobe.tcp.reset.by"])
	}
}

// iperf3Hello is the one datagram that each end of iperf3 sends before the stream.
const iperf3Hello = 4

func (e connectionEnds) iperf3UDP(t *testing.T) {
	// longer than an interval: the server connects its socket after the first datagram
	said, asking, serving := e.iperf3(t, "-u", "-b", "10M", "-l", "1000", "-n", "500K")
	client := e.sink.connection(t, e.client.namespace, map[string]any{
		"netprobe.connection.phase": "close", "network.transport": "udp", "source.port": int64(said.Start.Connected[0].LocalPort),
	})
	requireProcess(t, client, executableOf(t, "iperf3"), asking)
	requireAttributes(t, client, map[string]any{
		"netprobe.connection.role": "client", "destination.address": e.server.addr.String(), "destination.port": int64(5201),
		"netprobe.connection.bytes.sent": said.End.Sum.Bytes + iperf3Hello, "netprobe.connection.bytes.received": int64(iperf3Hello),
	})
	server := e.sink.connection(t, e.server.namespace, map[string]any{
		"netprobe.connection.phase": "close", "network.transport": "udp", "process.pid": int64(serving), "source.port": client.attrs["source.port"],
	})
	// what comes last the server may leave unread
	require.LessOrEqual(t, server.int("netprobe.connection.bytes.received"), said.End.Sum.Bytes+iperf3Hello)
	require.Greater(t, server.int("netprobe.connection.bytes.received"), said.End.Sum.Bytes/2)
	requireAttributes(t, server, map[string]any{
		"netprobe.connection.role": "server", "netprobe.connection.bytes.sent": int64(iperf3Hello),
		"source.address":      e.client.addr.String(),
		"destination.address": e.server.addr.String(), "destination.port": int64(5201),
	})
}

func (e connectionEnds) netcat(t *testing.T) {
	const port, up, down = 7001, 300_000, 5
	serving := exec.Command("nc", "-l", e.server.addr.String(), strconv.Itoa(port))
	answer, answerer, err := os.Pipe()
	require.NoError(t, err)
	serving.Stdin = answer
	server := e.server.launch(t, serving)
	require.NoError(t, answer.Close())
	e.server.waitListening(t, port)
	question, asker, err := os.Pipe()
	require.NoError(t, err)
	asking := exec.Command("nc", "-N", e.client.bound(), e.server.addr.String(), strconv.Itoa(port))
	asking.Stdin = question
	client := e.client.launch(t, asking)
	require.NoError(t, question.Close())
	_, err = asker.Write(make([]byte, up))
	require.NoError(t, err)
	_, err = answerer.Write(make([]byte, down))
	require.NoError(t, err)

	// while it lives, ss(8) knows it
	require.Eventually(t, func() bool {
		return len(client.output.String()) == down && len(server.output.String()) == up
	}, patience, glance)
	connect := e.sink.connection(t, e.client.namespace, map[string]any{
		"netprobe.connection.phase": "connect", "destination.port": int64(port), "process.pid": int64(asking.Process.Pid),
	})
	ss := e.client.socketStatistics(t, int(connect.int("source.port")))
	require.Equal(t, strconv.Itoa(asking.Process.Pid), ss["pid"])
	require.Equal(t, fmt.Sprint(up), ss["bytes_sent"])
	require.Equal(t, fmt.Sprint(down), ss["bytes_received"])

	require.NoError(t, asker.Close())
	require.NoError(t, answerer.Close())
	client.result(t)
	server.result(t)
	near, far := e.records(t, "tcp", "close", int(connect.int("source.port")))
	requireProcess(t, near, executableOf(t, "nc"), asking.Process.Pid)
	requireProcess(t, far, executableOf(t, "nc"), serving.Process.Pid)
	requireBytes(t, near, far, up, down)
	// since then it has sent and received one FIN, and what acknowledges it
	for key, name := range map[string]string{"segs_out": "netprobe.connection.segments.sent", "segs_in": "netprobe.connection.segments.received"} {
		before, err := strconv.ParseInt(ss[key], 10, 64)
		require.NoError(t, err)
		require.Greater(t, near.int(name), before)
		require.LessOrEqual(t, near.int(name), before+2)
	}
}

// bound keeps nc(1) to the host's IP version.
func (h host) bound() string {
	if h.addr.Is6() {
		return "-6"
	}
	return "-4"
}

// Connections that were there before are known with their ends and processes; what they
// did before is not in the totals.
func TestConnectionsFromBefore(t *testing.T) {
	t.Parallel()
	const before, after = 16 << 20, 1000
	l := newLab(t)
	k := l.link(t, "np0")
	k.up(t)
	type pair struct {
		pairing
		client, server net.Conn
	}
	var pairs []pair
	for _, p := range k.pairings() {
		client, server := p.connect(t)
		exchange(t, client, server, before)
		pairs = append(pairs, pair{p, client, server})
	}
	a := start(t, l.near, watchOwn)
	for _, p := range pairs {
		exchange(t, p.client, p.server, after)
	}
	totals := func() (sum int64) {
		for _, metric := range []string{"netprobe.socket.bytes.sent", "netprobe.socket.bytes.recv"} {
			sum += a.sink.sum(metric, map[string]any{"network.transport": "tcp"})
		}
		return sum
	}
	for _, p := range pairs {
		require.NoError(t, p.client.Close())
		_, err := io.Copy(io.Discard, p.server)
		require.NoError(t, err)
		require.NoError(t, p.server.Close())
		role := "client"
		if p.pairing.server.namespace == l.near {
			role = "server"
		}
		match := map[string]any{"source.port": int64(addrOf(p.client.LocalAddr()).Port())}
		closed := a.sink.connection(t, l.near, match) // and nothing of its beginning
		requireAttributes(t, closed, map[string]any{
			"netprobe.connection.phase": "close", "netprobe.connection.role": role,
			"process.pid": int64(os.Getpid()), "process.executable.name": executable(t),
			"netprobe.connection.bytes.sent": int64(before + after), "netprobe.connection.bytes.received": int64(before + after),
			"netprobe.connection.duration": nil, "netprobe.connection.latency": nil, "error.type": nil,
		})
	}
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		assert.GreaterOrEqual(c, totals(), int64(len(pairs)*2*after))
	}, patience, glance)
	require.Less(t, totals(), int64(before), "bytes from before are in the totals")
	a.requireLossless(t)
}
