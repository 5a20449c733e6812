// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// A snapshot is kept as it is stored: a version, then lists, each behind its length; numbers
// as variable-length integers, and each string once, by its number thereafter.
const codecVersion = 1

type encoder struct {
	out     []byte
	strings map[string]uint64
}

func (e *encoder) uint(v uint64) { e.out = binary.AppendUvarint(e.out, v) }
func (e *encoder) int(v int64)   { e.out = binary.AppendVarint(e.out, v) }

func (e *encoder) string(s string) {
	if at, ok := e.strings[s]; ok {
		e.uint(at)
		return
	}
	at := uint64(len(e.strings))
	e.strings[s] = at
	e.uint(at)
	e.uint(uint64(len(s)))
	e.out = append(e.out, s...)
}

func (e *encoder) counters(c *Counters) {
	// most are zero: a bit for each that is not
	values := c.values()
	var has byte
	for i, v := range values {
		if v != 0 {
			has |= 1 << i
		}
	}
	e.out = append(e.out, has)
	for _, v := range values {
		if v != 0 {
			e.int(v)
		}
	}
}

func (c *Counters) values() [8]int64 {
	return [8]int64{c.Bytes, c.Packets, c.Flows, c.Retransmits, c.Resets, c.Drops, int64(c.RTT), c.RTTs}
}

// Encode gives a snapshot's bytes.
func Encode(s *Snapshot) []byte {
	e := &encoder{out: make([]byte, 0, 64+64*len(s.Vertices)+48*len(s.Edges)), strings: map[string]uint64{}}
	e.out = append(e.out, codecVersion)
	base := s.From.UnixNano()
	e.int(base)
	e.int(s.To.UnixNano() - base)
	e.uint(uint64(len(s.Vertices)))
	for i := range s.Vertices {
		v := &s.Vertices[i]
		e.out = append(e.out, byte(v.Kind))
		for _, text := range []string{v.Namespace, v.Name, v.Node, v.Zone, v.WorkloadKind, v.WorkloadName} {
			e.string(text)
		}
		e.uint(uint64(len(v.Labels)))
		for _, l := range v.Labels {
			e.string(l.Key)
			e.string(l.Value)
		}
		e.uint(uint64(len(v.Addresses)))
		for _, a := range v.Addresses {
			raw := a.AsSlice()
			e.uint(uint64(len(raw)))
			e.out = append(e.out, raw...)
		}
		e.int(v.First - base)
		e.int(v.Last - base)
		e.int(v.Folded)
	}
	e.uint(uint64(len(s.Edges)))
	for i := range s.Edges {
		r := &s.Edges[i]
		e.uint(uint64(r.From))
		e.uint(uint64(r.To))
		e.string(r.Service)
		e.out = append(e.out, byte(r.Class))
		e.counters(&r.Forward)
		e.counters(&r.Reverse)
		e.uint(uint64(len(r.Protocols)))
		for _, p := range r.Protocols {
			e.string(p.Transport)
			e.uint(uint64(p.Port))
			e.int(p.Bytes)
		}
		e.uint(uint64(len(r.VNIs)))
		for _, vni := range r.VNIs {
			e.int(vni)
		}
		// to the millisecond
		e.int((r.First - base) / int64(time.Millisecond))
		e.int((r.Last - base) / int64(time.Millisecond))
	}
	e.uint(uint64(len(s.Ports)))
	for i := range s.Ports {
		p := &s.Ports[i]
		e.string(p.Transport)
		e.uint(uint64(p.Port))
		e.counters(&p.Counters)
	}
	e.int(s.Folded.Vertices)
	e.int(s.Folded.Edges)
	e.int(s.Folded.Records)
	return e.out
}

var errCut = errors.New("it ends too early")

type decoder struct {
	in      []byte
	strings []string
	err     error
}

func (d *decoder) byte() byte {
	if d.err != nil || len(d.in) == 0 {
		d.fail(errCut)
		return 0
	}
	b := d.in[0]
	d.in = d.in[1:]
	return b
}

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err = err
	}
	d.in = nil
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.in)
	if n <= 0 {
		d.fail(errCut)
		return 0
	}
	d.in = d.in[n:]
	return v
}

func (d *decoder) int() int64 {
	v, n := binary.Varint(d.in)
	if n <= 0 {
		d.fail(errCut)
		return 0
	}
	d.in = d.in[n:]
	return v
}

// length reads how many things of some bytes at least follow.
func (d *decoder) length(each int) int {
	n := d.uint()
	if n > uint64(len(d.in)/each) {
		d.fail(errCut)
		return 0
	}
	return int(n)
}

func (d *decoder) string() string {
	at := d.uint()
	switch {
	case d.err != nil:
		return ""
	case at < uint64(len(d.strings)):
		return d.strings[at]
	case at > uint64(len(d.strings)):
		d.fail(fmt.Errorf("string %d is not there", at))
		return ""
	}
	n := d.length(1)
	s := string(d.in[:n])
	d.in = d.in[n:]
	d.strings = append(d.strings, s)
	return s
}

func (d *decoder) counters(c *Counters) {
	has := d.byte()
	var v [8]int64
	for i := range v {
		if has&(1<<i) != 0 {
			v[i] = d.int()
		}
	}
	*c = Counters{v[0], v[1], v[2], v[3], v[4], v[5], time.Duration(v[6]), v[7]}
}

// Decode reads what Encode gave. An error says what is wrong with it.
func Decode(in []byte) (*Snapshot, error) {
	d := &decoder{in: in}
	if version := d.byte(); d.err == nil && version != codecVersion {
		return nil, fmt.Errorf("read a snapshot: version %d is not known", version)
	}
	s := &Snapshot{}
	base := d.int()
	s.From = time.Unix(0, base).UTC()
	s.To = time.Unix(0, base+d.int()).UTC()
	s.Vertices = make([]Vertex, d.length(12))
	for i := range s.Vertices {
		d.vertex(&s.Vertices[i], base)
	}
	s.Edges = make([]Edge, d.length(8))
	for i := range s.Edges {
		d.edge(&s.Edges[i], base, len(s.Vertices))
	}
	s.Ports = make([]PortTotal, d.length(3))
	for i := range s.Ports {
		p := &s.Ports[i]
		p.Transport, p.Port = d.string(), uint16(d.uint())
		d.counters(&p.Counters)
	}
	s.Folded = Folded{d.int(), d.int(), d.int()}
	if d.err != nil {
		return nil, fmt.Errorf("read a snapshot: %w", d.err)
	}
	return s, nil
}

func (d *decoder) vertex(v *Vertex, base int64) {
	if v.Kind = Kind(d.byte()); v.Kind >= kinds {
		d.fail(fmt.Errorf("there is no kind %d", v.Kind))
	}
	for _, text := range []*string{&v.Namespace, &v.Name, &v.Node, &v.Zone, &v.WorkloadKind, &v.WorkloadName} {
		*text = d.string()
	}
	if n := d.length(2); n > 0 {
		v.Labels = make([]Label, n)
		for i := range v.Labels {
			v.Labels[i] = Label{d.string(), d.string()}
		}
	}
	if n := d.length(1); n > 0 {
		v.Addresses = make([]netip.Addr, n)
		for i := range v.Addresses {
			size := d.length(1)
			v.Addresses[i], _ = netip.AddrFromSlice(d.in[:size])
			if d.in = d.in[size:]; !v.Addresses[i].IsValid() && size != 0 {
				d.fail(fmt.Errorf("an address has no %d bytes", size))
			}
		}
	}
	v.First, v.Last, v.Folded = base+d.int(), base+d.int(), d.int()
}

func (d *decoder) edge(e *Edge, base int64, vertices int) {
	from, to := d.uint(), d.uint()
	if from >= uint64(vertices) || to >= uint64(vertices) {
		d.fail(fmt.Errorf("an edge is of vertices that are not there"))
	}
	e.From, e.To, e.Service = int32(from), int32(to), d.string()
	if e.Class = Class(d.byte()); e.Class >= classes {
		d.fail(fmt.Errorf("there is no class %d", e.Class))
	}
	d.counters(&e.Forward)
	d.counters(&e.Reverse)
	if n := d.length(3); n > 0 {
		e.Protocols = make([]Protocol, n)
		for i := range e.Protocols {
			e.Protocols[i] = Protocol{d.string(), uint16(d.uint()), d.int()}
		}
	}
	if n := d.length(1); n > 0 {
		e.VNIs = make([]int64, n)
		for i := range e.VNIs {
			e.VNIs[i] = d.int()
		}
	}
	e.First, e.Last = base+d.int()*int64(time.Millisecond), base+d.int()*int64(time.Millisecond)
}
