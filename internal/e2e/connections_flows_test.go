// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What is dropped of a flow is on its record, once, whatever the cause.
func TestFlowsHaveWhatIsDroppedOfThem(t *testing.T) {
	const datagrams, size = 200, 1000
	l := newLab(t)
	k := l.link(t, "np0")
	k.up(t)
	l.near.execute(t, "table inet lab { chain in { type filter hook input priority 0; udp dport 7031 drop; }; }", "nft", "-f", "-")
	a := start(t, l.near, watchLink)
	for _, tt := range []struct {
		name, port, reason string
		near, far          netip.Addr
	}{
		{"by netfilter over IPv4", "7031", "NETFILTER_DROP", k.near4, k.far4},
		{"by netfilter over IPv6", "7031", "NETFILTER_DROP", k.near6, k.far6},
		{"for want of room over IPv4", "7032", "SOCKET_RCVBUFF", k.near4, k.far4},
		{"for want of room over IPv6", "7032", "SOCKET_RCVBUFF", k.near6, k.far6},
	} {
		t.Run(tt.name, func(t *testing.T) {
			near, far := host{l.near, tt.near}, host{l.far, tt.far}
			server := near.listenPacket(t, "udp", near.endpoint(tt.port)) // reads nothing
			require.NoError(t, server.(interface{ SetReadBuffer(int) error }).SetReadBuffer(size))
			before := l.near.statistics(t)
			client, err := far.dial(t.Context(), "udp", near.endpoint(tt.port))
			require.NoError(t, err)
			for range datagrams {
				_, err := client.Write(make([]byte, size))
				require.NoError(t, err)
			}
			want := int64(datagrams)
			if tt.reason == "SOCKET_RCVBUFF" {
				name := "UdpRcvbufErrors"
				if tt.near.Is6() {
					name = "Udp6RcvbufErrors"
				}
				want = l.near.statistics(t)[name] - before[name]
				require.Positive(t, want)
				require.Less(t, want, int64(datagrams))
			}
			from := addrOf(client.LocalAddr())
			match := map[string]any{"source.address": from.Addr().String(), "source.port": int64(from.Port())}
			require.EventuallyWithT(t, func(c *assert.CollectT) {
				var packets, dropped, told int64
				for _, r := range a.sink.records(func(attrs map[string]any) bool { return hasAll(attrs, match) }) {
					switch r.EventName() {
					case "netprobe.flow":
						packets, dropped = packets+r.int("netprobe.flow.packets"), dropped+r.int("netprobe.drops")
						assert.Equal(c, int64(os.Getpid()), r.attrs["process.pid"], "the sender's")
					case "netprobe.drop":
						assert.Equal(c, tt.reason, r.attrs["netprobe.drop.reason"])
						told += r.int("netprobe.drops")
					}
				}
				assert.EqualValues(c, datagrams, packets)
				assert.Equal(c, want, told, "by records of drops")
				assert.Equal(c, want, dropped, "by records of flows")
			}, patience, glance)
			require.NoError(t, client.Close())
		})
	}
}

// unifiedGroups is where the hierarchy of control groups of version 2 is; "" for nowhere.
func unifiedGroups(t *testing.T) string {
	t.Helper()
	mounts, err := os.Open("/proc/mounts")
	require.NoError(t, err)
	defer mounts.Close()
	for lines := bufio.NewScanner(mounts); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 2 && fields[2] == "cgroup2" {
			return fields[1]
		}
	}
	return ""
}

// A process in a container's control group has its container on its connections and flows.
func TestConnectionsOfContainers(t *testing.T) {
	t.Parallel()
	groups := unifiedGroups(t)
	if groups == "" {
		t.Skip("control groups of version 2 are not mounted")
	}
	id := strings.Repeat("0123456789abcdef", 4)
	group := filepath.Join(groups, "netprobe-test-"+id)
	if err := os.Mkdir(group, 0o755); errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.EACCES) {
		t.Skipf("control groups cannot be made: %s", err)
	} else {
		require.NoError(t, err)
	}
	t.Cleanup(func() {
		require.EventuallyWithT(t, func(c *assert.CollectT) { assert.NoError(c, os.Remove(group)) }, patience, glance)
	})
	directory, err := os.Open(group)
	require.NoError(t, err)
	defer directory.Close()
	l := newLab(t)
	k := l.link(t, "np0")
	k.up(t)
	a := start(t, l.near, watchLink)
	for _, far := range []netip.Addr{k.far4, k.far6} {
		listener := l.far.listen(t, "tcp", host{l.far, far}.endpoint("7041"))
		cmd := exec.Command("nc", "-N", host{l.far, far}.bound(), far.String(), "7041")
		cmd.Stdin = strings.NewReader("from a container")
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(directory.Fd())}
		client := l.near.launch(t, cmd)
		conn, err := listener.Accept()
		require.NoError(t, err)
		require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
		require.NoError(t, readAll(conn, len("from a container")))
		client.result(t)
		want := map[string]any{
			"process.pid": int64(cmd.Process.Pid), "process.executable.name": executableOf(t, "nc"), "container.id": id,
			"source.container.id": id,
		}
		for _, phase := range []string{"connect", "close"} {
			r := a.sink.connection(t, l.near, map[string]any{"process.pid": int64(cmd.Process.Pid), "netprobe.connection.phase": phase})
			requireAttributes(t, r, want)
		}
		port := addrOf(conn.RemoteAddr()).Port()
		requireProcessOfFlow(t, a, netip.AddrPortFrom(far, 7041), port, want)
	}
}

// requireProcessOfFlow waits for a flow's records, of packets to a server, and checks whose
// they are.
func requireProcessOfFlow(t *testing.T, a *agent, to netip.AddrPort, from uint16, want map[string]any) {
	t.Helper()
	var found []record
	require.Eventually(t, func() bool {
		found = a.sink.records(func(attrs map[string]any) bool {
			return isFlow(attrs) && hasAll(attrs, map[string]any{
				"destination.address": to.Addr().String(), "destination.port": int64(to.Port()), "source.port": int64(from),
			})
		})
		return len(found) > 0
	}, patience, glance)
	for _, r := range found {
		requireAttributes(t, r, want)
	}
}

// Each node's records of a pod's flow have the process that is on it: the sender's where
// both are, also where a service is between the two.
func TestClusterFlowsHaveTheirProcesses(t *testing.T) {
	c := newCluster(t)
	agents := c.start(t, `{interval: 200ms}`)
	type held struct {
		conversation
		client, server programEnd
	}
	var all []held
	for _, conv := range c.conversations() {
		client, server := conv.program(t)
		all = append(all, held{conv, client, server})
	}
	for i := range all {
		conv := &all[i]
		for j, n := range c.nodes {
			if conv.conversation.client.node == n || conv.conversation.server.node == n {
				t.Run(fmt.Sprintf("%s, on node %d", conv.name, n.number), func(t *testing.T) {
					requireProcesses(t, agents[j].sink, n, &conv.conversation, conv.client, conv.server)
				})
			}
		}
	}
}

// requireProcesses waits for both directions of a conversation on a node. All namespaces
// are watched, so that the other node's process is known too: but for that of a service's
// client, which has another tuple there.
func requireProcesses(t *testing.T, s *sink, n *node, c *conversation, client, server programEnd) {
	t.Helper()
	for _, toServer := range []bool{true, false} {
		f := client.flight(c, server, toServer)
		known := !toServer || n == c.client.node || !f.translated()
		want := server.pid
		if toServer && known {
			want = client.pid
		}
		require.EventuallyWithT(t, func(t *assert.CollectT) {
			records := recordsOf(s.byKey(), &f)
			assert.NotEmpty(t, records, &f)
			for _, r := range records {
				assert.Equal(t, want, r.attrs["process.pid"], &f)
				assert.Equal(t, known, r.attrs["netprobe.tcp.retransmits"] != nil, "the sender is known")
			}
		}, patience, glance)
	}
}

// programEnd is a program at one end of a conversation, and what it sees of it.
type programEnd struct {
	pid  int64
	view view
}

func (e programEnd) flight(c *conversation, server programEnd, toServer bool) flight {
	return c.flights("TCP", "tcp", e.view, server.view, true)[map[bool]int{true: 0, false: 1}[toServer]]
}

// program lets two programs hold the conversation.
func (c *conversation) program(t *testing.T) (client, server programEnd) {
	t.Helper()
	listen, dial := c.targets(tcpPort, tcpServicePort)
	at, to := netip.MustParseAddrPort(listen), netip.MustParseAddrPort(dial)
	serving := exec.Command("nc", "-l", "-v", "-n", at.Addr().String(), "8080")
	answer := c.server.launch(t, serving)
	c.server.waitListening(t, tcpPort)
	asking := exec.Command("nc", "-N", "-n", to.Addr().String(), strings.TrimPrefix(dial[strings.LastIndex(dial, ":"):], ":"))
	question, asker, err := os.Pipe()
	require.NoError(t, err)
	asking.Stdin = question
	request := c.client.launch(t, asking)
	require.NoError(t, question.Close())
	_, err = asker.WriteString("ask\n")
	require.NoError(t, err)
	require.Eventually(t, func() bool { return strings.Contains(answer.output.String(), "ask") }, patience, glance)
	client = programEnd{int64(asking.Process.Pid), c.client.namespace.viewOf(t, asking.Process.Pid, true)}
	server = programEnd{int64(serving.Process.Pid), c.server.namespace.viewOf(t, serving.Process.Pid, false)}
	require.NoError(t, asker.Close())
	request.result(t)
	answer.result(t)
	return client, server
}

// viewOf is what the one connection of a process is to its end, from the client on.
func (n *namespace) viewOf(t *testing.T, pid int, opened bool) view {
	t.Helper()
	var out []byte
	require.NoError(t, n.in(func() (err error) {
		out, err = exec.Command("ss", "-tnpOH").CombinedOutput()
		return err
	}))
	for line := range strings.Lines(string(out)) {
		if !strings.Contains(line, fmt.Sprintf("pid=%d,", pid)) {
			continue
		}
		fields := strings.Fields(line)
		local, peer := netip.MustParseAddrPort(fields[3]), netip.MustParseAddrPort(fields[4])
		if opened {
			return view{local, peer}
		}
		return view{peer, local}
	}
	require.FailNow(t, "no connection", "of process %d: %s", pid, out)
	return view{}
}
