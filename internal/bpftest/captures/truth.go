// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package captures

import (
	"bufio"
	"compress/gzip"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// FiveTuple names one direction of a conversation. Ports are 0 where a packet
// has none, type and code for ICMP and ICMPv6.
type FiveTuple struct {
	Source, Destination         netip.Addr
	Protocol                    uint8
	SourcePort, DestinationPort uint16
}

func (f FiveTuple) String() string {
	return fmt.Sprintf("%s>%s/%d/%d>%d", f.Source, f.Destination, f.Protocol, f.SourcePort, f.DestinationPort)
}

// Frame is what the truth says of a frame.
type Frame struct {
	CapLen, WireLen int
	// VLANs and Labels are those before the first IP header, outermost first.
	VLANs, Labels []uint32
	// HasFlow says whether there is an IP header; what follows is of the outermost.
	HasFlow bool
	FiveTuple
	// Flags are the set TCP flags in the order FSRPAUEC.
	Flags string
	// Fragment is "first" or "other" for a fragment.
	Fragment string
	// Chain names the headers as tshark does, outermost first.
	Chain []string
	// Tunnels are those behind the outermost IP header, outermost first:
	// "vxlan:5001" and "geneve:3" with their VNI, "gre", "erspan", "ipip" for
	// IPv4 and "6in4" for IPv6 in either, and some that NetProbe does not open.
	Tunnels []string
	// IPLayers counts the IP headers.
	IPLayers int
	// Inner is of the innermost IP header, if there are more than one.
	Inner *Inner
	// Agreed says that two decoders found the same in the frame.
	Agreed bool
}

// Inner is what the truth says of a frame's innermost IP layer.
type Inner struct {
	FiveTuple
	Flags, Fragment string
}

// Flow is a flow of a capture. Its bytes are those of whole frames, also inside a tunnel.
type Flow struct {
	Packets   uint64 `json:"packets"`
	WireBytes uint64 `json:"wire_bytes"`
}

// InnerTuple names one direction of a conversation in tunnels.
type InnerTuple struct {
	// Tunnels are those of a frame with ">" between them.
	Tunnels string
	FiveTuple
}

// Flows are the flows of a capture.
type Flows struct {
	// Flows are the outermost ones.
	Flows map[FiveTuple]Flow
	// Count is how many there are, also where Flows holds only the largest.
	Count int
	// Inner are the innermost flows of the frames with more than one IP layer.
	Inner map[InnerTuple]Flow
	// InnerCount is how many there are, also where Inner holds only the largest.
	InnerCount int
}

// uncompressed reads a file that may be compressed.
func uncompressed(file *bufio.Reader) (*bufio.Reader, error) {
	magic, err := file.Peek(2)
	if err != nil {
		return nil, err
	}
	if magic[0] != 0x1f || magic[1] != 0x8b {
		return file, nil
	}
	plain, err := gzip.NewReader(file)
	if err != nil {
		return nil, err
	}
	return bufio.NewReader(plain), nil
}

// Frames reads what the truth says of each frame.
func (c Capture) Frames() ([]Frame, error) {
	file, err := os.Open(c.truth + framesEnding)
	if err != nil {
		return nil, fmt.Errorf("read truth: %w", err)
	}
	defer file.Close()
	plain, err := uncompressed(bufio.NewReader(file))
	if err != nil {
		return nil, fmt.Errorf("read truth of %s: %w", c.Name, err)
	}
	table := csv.NewReader(plain)
	table.ReuseRecord = true
	header, err := table.Read()
	if err != nil {
		return nil, fmt.Errorf("read truth of %s: %w", c.Name, err)
	}
	columns := make(map[string]int, len(header))
	for i, name := range header {
		columns[name] = i
	}

	var frames []Frame
	for {
		record, err := table.Read()
		if errors.Is(err, io.EOF) {
			return frames, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read truth of %s: %w", c.Name, err)
		}
		row := row{columns: columns, record: record}
		frame := row.frame()
		if row.err != nil {
			return nil, fmt.Errorf("read truth of %s, frame %d: %w", c.Name, len(frames)+1, row.err)
		}
		frames = append(frames, frame)
	}
}

// row reads the columns of one frame; err is the first error.
type row struct {
	columns map[string]int
	record  []string
	err     error
}

func (r *row) text(column string) string {
	i, ok := r.columns[column]
	if !ok {
		r.err = errors.Join(r.err, fmt.Errorf("no column %q", column))
		return ""
	}
	return r.record[i]
}

func (r *row) number(column string) uint64 {
	return r.parse(column, r.text(column))
}

func (r *row) parse(column, text string) uint64 {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("parse %s: %w", column, err)
	}
	return n
}

// list reads numbers with dots between them.
func (r *row) list(column string) []uint32 {
	text := r.text(column)
	if text == "" {
		return nil
	}
	var list []uint32
	for item := range strings.SplitSeq(text, ".") {
		list = append(list, uint32(r.parse(column, item)))
	}
	return list
}

func (r *row) address(column string) netip.Addr {
	addr, err := netip.ParseAddr(r.text(column))
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("parse %s: %w", column, err)
	}
	return addr
}

func (r *row) frame() Frame {
	f := Frame{
		CapLen:  int(r.number("caplen")),
		WireLen: int(r.number("wirelen")),
		VLANs:   r.list("vlans"),
		Labels:  r.labels(),
		HasFlow: r.text("ver") != "",
		Chain:   strings.Split(r.text("chain"), "/"),
		Agreed:  r.text("agree") == "1",
	}
	if !f.HasFlow {
		return f
	}
	f.FiveTuple = r.tuple("")
	f.Flags = r.text("flags")
	f.Fragment = r.text("frag")
	f.IPLayers = int(r.number("ip_layers"))
	if tunnels := r.text("tunnel"); tunnels != "" {
		f.Tunnels = strings.Split(tunnels, tunnelSeparator)
	}
	if r.text("iver") != "" {
		f.Inner = &Inner{r.tuple("i"), r.text("iflags"), r.text("ifrag")}
	}
	return f
}

// tunnelSeparator stands between the names of tunnels in tunnels.
const tunnelSeparator = ">"

// tuple reads the columns that begin with prefix: none for the outermost IP
// layer, "i" for the innermost.
func (r *row) tuple(prefix string) FiveTuple {
	return FiveTuple{
		Source:          r.address(prefix + "src"),
		Destination:     r.address(prefix + "dst"),
		Protocol:        uint8(r.number(prefix + "proto")),
		SourcePort:      uint16(r.number(prefix + "sport")),
		DestinationPort: uint16(r.number(prefix + "dport")),
	}
}

// labels are the MPLS labels before the first IP header: the column also has
// those of tunnels behind it.
func (r *row) labels() []uint32 {
	all, n := r.list("mpls"), 0
	for layer := range strings.SplitSeq(r.text("chain"), "/") {
		switch layer {
		case "mpls":
			n++
		case "ip", "ipv6":
			return all[:min(n, len(all))]
		}
	}
	return all[:min(n, len(all))]
}

// Flows reads the flows of the whole capture.
func (c Capture) Flows() (Flows, error) {
	file, err := os.Open(c.truth + ".truth.json")
	if errors.Is(err, fs.ErrNotExist) {
		file, err = os.Open(c.truth + ".truth.json.gz")
	}
	if err != nil {
		return Flows{}, fmt.Errorf("read truth: %w", err)
	}
	defer file.Close()
	plain, err := uncompressed(bufio.NewReader(file))
	if err != nil {
		return Flows{}, fmt.Errorf("read truth of %s: %w", c.Name, err)
	}
	var truth struct {
		Count      int        `json:"flows_outer_count"`
		Flows      []flowJSON `json:"flows_outer"`
		InnerCount int        `json:"flows_inner_count"`
		Inner      []flowJSON `json:"flows_inner"`
	}
	if err := json.NewDecoder(plain).Decode(&truth); err != nil {
		return Flows{}, fmt.Errorf("read truth of %s: %w", c.Name, err)
	}
	flows := Flows{
		Flows: make(map[FiveTuple]Flow, len(truth.Flows)), Count: truth.Count,
		Inner: make(map[InnerTuple]Flow, len(truth.Inner)), InnerCount: truth.InnerCount,
	}
	for _, f := range truth.Flows {
		flows.Flows[f.tuple()] = f.Flow
	}
	for _, f := range truth.Inner {
		flows.Inner[InnerTuple{strings.Join(f.Tunnels, tunnelSeparator), f.tuple()}] = f.Flow
	}
	return flows, nil
}

// flowJSON is a flow as the truth has it.
type flowJSON struct {
	Source          netip.Addr `json:"src"`
	Destination     netip.Addr `json:"dst"`
	Protocol        uint8      `json:"proto"`
	SourcePort      uint16     `json:"sport"`
	DestinationPort uint16     `json:"dport"`
	Tunnels         []string   `json:"tunnel"`
	Flow
}

func (f *flowJSON) tuple() FiveTuple {
	return FiveTuple{f.Source, f.Destination, f.Protocol, f.SourcePort, f.DestinationPort}
}
