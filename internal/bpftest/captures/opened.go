// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package captures

import (
	"regexp"
	"slices"
	"strings"
)

// Why a frame whose truth has a tunnel cannot be held against its inner layer,
// where it is not the layers between that say it.
const (
	// Nested is a frame with more than two IP layers: the truth has the first
	// and the last of them, and the flow is that of the second.
	Nested = "nested"
	// OtherPort is a tunnel over UDP to a port that is not its own.
	OtherPort = "port"
)

// opens matches what may stand between two IP headers for the second to be that
// of an opened tunnel.
var opens = regexp.MustCompile(`^(|gre|udp/geneve|(gre|udp/geneve|udp/vxlan)/eth(/vlan|/ieee8021ad){0,4})$`)

// tunnelPorts are the UDP destination ports of the tunnels that are opened.
var tunnelPorts = []uint16{4789, 6081, 8472}

// Opened is the frame as one sees it who opens VXLAN, Geneve, GRE and IP-in-IP
// once: the flow is that of the IP layer inside, the tags and labels stay.
//
// If there is such a layer but not in a tunnel of these, the frame is returned
// as it is and with what is between the layers, as "gre/ppp" or "udp/gtp", or
// with one of the constants.
func (f Frame) Opened() (Frame, string) {
	between, inside := betweenLayers(f.Chain)
	switch {
	case !inside || f.Inner == nil:
		return f, ""
	case !opens.MatchString(between):
		return f, between
	case strings.HasPrefix(between, "udp/") && !slices.Contains(tunnelPorts, f.DestinationPort):
		return f, OtherPort
	case f.IPLayers != 2:
		return f, Nested
	}
	f.FiveTuple, f.Flags, f.Fragment = f.Inner.FiveTuple, f.Inner.Flags, f.Inner.Fragment
	return f, ""
}

// betweenLayers answers what stands between the first two IP headers of a
// frame, and whether there are two. AH belongs to the header that it follows.
func betweenLayers(chain []string) (string, bool) {
	isIP := func(layer string) bool { return layer == "ip" || layer == "ipv6" }
	first := slices.IndexFunc(chain, isIP)
	if first < 0 {
		return "", false
	}
	behind := chain[first+1:]
	if len(behind) > 0 && behind[0] == "ah" {
		behind = behind[1:]
	}
	second := slices.IndexFunc(behind, isIP)
	if second < 0 {
		return "", false
	}
	return strings.Join(behind[:second], "/"), true
}
