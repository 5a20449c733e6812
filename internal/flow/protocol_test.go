// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestProtocolString(t *testing.T) {
	for protocol, want := range map[Protocol]string{
		0: "hopopt", ICMP: "icmp", 2: "igmp", 4: "ipv4", TCP: "tcp", UDP: "udp", DCCP: "dccp", 41: "ipv6",
		43: "ipv6-route", 44: "ipv6-frag", 46: "rsvp", 47: "gre", 50: "esp", 51: "ah", ICMPv6: "ipv6-icmp",
		59: "ipv6-nonxt", 60: "ipv6-opts", 61: "61", 88: "eigrp", 89: "ospfigp", 94: "ipip", 103: "pim",
		108: "ipcomp", 112: "vrrp", 114: "114", 115: "l2tp", SCTP: "sctp", 133: "fc", 135: "mobility header",
		UDPLite: "udplite", 137: "mpls-in-ip", 139: "shim6", 142: "ethernet", 143: "aggfrag", 144: "nsh",
		147: "147", 253: "253", 254: "254", 255: "255",
	} {
		require.Equal(t, want, protocol.String(), "protocol %d", protocol)
	}
}

func TestProtocolStringsDiffer(t *testing.T) {
	seen := make(map[string]int, 256)
	for i := range 256 {
		name := Protocol(i).String()
		require.Equal(t, strings.ToLower(name), name)
		require.NotEmpty(t, name)
		if other, ok := seen[name]; ok {
			t.Errorf("protocols %d and %d are both %q", other, i, name)
		}
		seen[name] = i
	}
}

// Every protocol is read as it is written, and by its number.
func TestParseProtocol(t *testing.T) {
	for i := range 256 {
		for _, text := range []string{Protocol(i).String(), strconv.Itoa(i)} {
			got, err := ParseProtocol(text)
			require.NoError(t, err)
			require.Equal(t, Protocol(i), got, text)
		}
	}
	for _, text := range []string{"", "TCP", "tcp ", "256", "-1", "+6", "0x6", "icmpv6", "6.0"} {
		_, err := ParseProtocol(text)
		require.EqualError(t, err, strconv.Quote(text)+
			" is neither an IANA keyword in lower case, such as tcp or ipv6-icmp, nor a number up to 255")
	}
}

func TestProtocolIsICMP(t *testing.T) {
	for i := range 256 {
		require.Equal(t, i == 1 || i == 58, Protocol(i).IsICMP(), "protocol %d", i)
	}
}
