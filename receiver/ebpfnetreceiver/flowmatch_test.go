// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package ebpfnetreceiver

import (
	"net/netip"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/netprobe-otel/netprobe/internal/flow"
)

func TestFlowMatchParse(t *testing.T) {
	network := netip.MustParsePrefix
	for _, tt := range []struct {
		name string
		in   FlowMatch
		want flowRule
	}{
		{"network", FlowMatch{CIDR: "10.0.0.0/8"}, flowRule{network: network("10.0.0.0/8")}},
		{"network with host bits", FlowMatch{CIDR: "10.1.2.3/8"}, flowRule{network: network("10.0.0.0/8")}},
		{"all of ipv4", FlowMatch{CIDR: "0.0.0.0/0"}, flowRule{network: network("0.0.0.0/0")}},
		{"address", FlowMatch{CIDR: "192.0.2.1"}, flowRule{network: network("192.0.2.1/32")}},
		{"ipv6 network", FlowMatch{CIDR: "2001:db8::1/32"}, flowRule{network: network("2001:db8::/32")}},
		{"ipv6 address", FlowMatch{CIDR: "2001:db8::1"}, flowRule{network: network("2001:db8::1/128")}},
		{"mapped address", FlowMatch{CIDR: "::ffff:192.0.2.1"}, flowRule{network: network("192.0.2.1/32")}},
		{"unspecified ipv6 address", FlowMatch{CIDR: "::"}, flowRule{network: network("::/128")}},
		{"port", FlowMatch{Port: "53"}, flowRule{portMin: 53, portMax: 53}},
		{"ports", FlowMatch{Port: "1-65535"}, flowRule{portMin: 1, portMax: 65535}},
		{"ports with spaces", FlowMatch{Port: " 80 - 90 "}, flowRule{portMin: 80, portMax: 90}},
		{"protocol", FlowMatch{Protocol: "ipv6-icmp"}, flowRule{protocol: flow.ICMPv6, hasProtocol: true}},
		{"protocol by number", FlowMatch{Protocol: "132"}, flowRule{protocol: flow.SCTP, hasProtocol: true}},
		{"protocol zero", FlowMatch{Protocol: "0"}, flowRule{hasProtocol: true}},
		{
			"all of it", FlowMatch{CIDR: "::1", Port: "5-6", Protocol: "udp"},
			flowRule{network: network("::1/128"), portMin: 5, portMax: 6, protocol: flow.UDP, hasProtocol: true},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.in.parse()
			require.NoError(t, err)
			require.Equal(t, tt.want, got)
		})
	}
}

// Networks of IPv6 are of IPv6 alone, also those that hold IPv4 by its form.
func TestFlowMatchTakesNetworksOfOneVersion(t *testing.T) {
	for bits := range 129 {
		text := "::/" + strconv.Itoa(bits)
		got, err := (&FlowMatch{CIDR: text}).parse()
		require.NoError(t, err, text)
		require.True(t, got.network.Addr().Is6())
		text = "::ffff:0.0.0.0/" + strconv.Itoa(bits)
		_, err = (&FlowMatch{CIDR: text}).parse()
		require.Error(t, err, text)
	}
}

// Whatever is parsed is a rule that the programs can take, and says the same when
// it is written out and read again.
func FuzzFlowMatch(f *testing.F) {
	for _, m := range []FlowMatch{
		{}, {"10.0.0.0/8", "8000-8999", "tcp"}, {"::1", "53", "17"}, {"::ffff:1.2.3.4/100", "0", "TCP"},
		{"fe80::1%eth0", "1-", "256"}, {"::/0", "-", "-1"}, {"1.2.3.4/33", "99999", "hopopt"},
	} {
		f.Add(m.CIDR, m.Port, m.Protocol)
	}
	f.Fuzz(func(t *testing.T, cidr, port, protocol string) {
		rule, err := (&FlowMatch{CIDR: cidr, Port: port, Protocol: protocol}).parse()
		if err != nil {
			require.NotEmpty(t, err.Error())
			return
		}
		var again FlowMatch
		if rule.network.IsValid() {
			require.Equal(t, rule.network.Masked(), rule.network)
			require.False(t, rule.network.Addr().Is4In6())
			again.CIDR = rule.network.String()
		}
		require.LessOrEqual(t, rule.portMin, rule.portMax)
		require.Equal(t, rule.portMin == 0, rule.portMax == 0)
		if rule.portMax > 0 {
			again.Port = strconv.Itoa(int(rule.portMin)) + "-" + strconv.Itoa(int(rule.portMax))
		}
		if rule.hasProtocol {
			again.Protocol = rule.protocol.String()
		}
		same, err := again.parse()
		require.NoError(t, err)
		require.Equal(t, rule, same)
	})
}
