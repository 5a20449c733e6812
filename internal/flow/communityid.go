// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // fixed by the specification; it identifies, it does not protect
	"encoding/base64"
	"encoding/binary"
)

// icmpCounterparts pairs the message types of which one answers the other, as
// the Community ID specification lists them: they take the place of ports, and
// only paired types make a conversation of two directions.
var (
	icmpCounterparts = map[uint16]uint16{
		0: 8, 8: 0, // echo
		9: 10, 10: 9, // router advertisement, solicitation
		13: 14, 14: 13, // timestamp
		15: 16, 16: 15, // information
		17: 18, 18: 17, // address mask
	}
	icmp6Counterparts = map[uint16]uint16{
		128: 129, 129: 128, // echo
		130: 131, 131: 130, // multicast listener query, report
		133: 134, 134: 133, // router solicitation, advertisement
		135: 136, 136: 135, // neighbour solicitation, advertisement
		139: 140, 140: 139, // node information
		144: 145, 145: 144, // home agent address discovery
	}
)

// CommunityID gives the Community ID of the conversation as it was opened: before
// translation, so that both directions have the same wherever they were counted.
func (r *Record) CommunityID() string {
	if r.NAT == nil {
		return r.Key.CommunityID()
	}
	original := r.Key
	t := &r.NAT.Original
	original.Source, original.Destination = t.Source, t.Destination
	original.SourcePort, original.DestinationPort = t.SourcePort, t.DestinationPort
	return original.CommunityID()
}

// CommunityID gives the flow's Community ID, version 1 with seed 0: the same
// for both directions and in other tools that speak it, as Zeek and Suricata.
// See https://github.com/corelight/community-id-spec.
func (k *Key) CommunityID() string {
	source, destination := k.Source.AsSlice(), k.Destination.AsSlice()
	a, b := k.SourcePort, k.DestinationPort
	ports, oneWay := k.communityIDHasPorts(), false
	if ports && k.Protocol.IsICMP() {
		a, b, oneWay = k.icmpPorts()
	}
	if order := bytes.Compare(source, destination); !oneWay && (order > 0 || order == 0 && a > b) {
		source, destination, a, b = destination, source, b, a
	}

	var buf [2 + 16 + 16 + 2 + 4]byte
	msg := append(buf[:0], 0, 0) // seed
	msg = append(msg, source...)
	msg = append(msg, destination...)
	msg = append(msg, byte(k.Protocol), 0)
	if ports {
		msg = binary.BigEndian.AppendUint16(msg, a)
		msg = binary.BigEndian.AppendUint16(msg, b)
	}
	sum := sha1.Sum(msg) //nolint:gosec // see the import
	return "1:" + base64.StdEncoding.EncodeToString(sum[:])
}

// communityIDHasPorts says whether ports go into the hash: version 1 knows
// those of five protocols, and takes any other for one without.
func (k *Key) communityIDHasPorts() bool {
	switch k.Protocol {
	case TCP, UDP, SCTP, ICMP, ICMPv6:
		return k.Has&HasPorts != 0
	default:
		return false
	}
}

func (k *Key) icmpPorts() (source, destination uint16, oneWay bool) {
	pairs := icmpCounterparts
	if k.Protocol == ICMPv6 {
		pairs = icmp6Counterparts
	}
	if other, ok := pairs[k.SourcePort]; ok {
		return k.SourcePort, other, false
	}
	return k.SourcePort, k.DestinationPort, true
}
