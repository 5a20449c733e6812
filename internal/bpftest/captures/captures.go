// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// Package captures reads packet captures and what other decoders have found in
// them. For tests only.
//
// Beside a capture X lie X.frames.csv.gz, which says of each frame what a
// packet parser must find in it alone, and X.truth.json or X.truth.json.gz
// with the flows of the whole capture. X may be compressed: X.gz.
package captures

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// Capture is a capture with its truth.
type Capture struct {
	// Name is the path below the directory, without .gz.
	Name string
	// path of the capture, and of the truth without its endings.
	path, truth string
}

// Packet is a frame of a capture.
type Packet struct {
	Link layers.LinkType
	Data []byte
	// WireLen is how long the frame was before the capture cut it.
	WireLen int
}

const framesEnding = ".frames.csv.gz"

// Find returns the captures below a directory that have a truth, by name.
func Find(dir string) ([]Capture, error) {
	var found []Capture
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, framesEnding) {
			return err
		}
		truth := strings.TrimSuffix(path, framesEnding)
		file := truth
		if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
			file += ".gz"
		}
		name, err := filepath.Rel(dir, truth)
		if err != nil {
			return err
		}
		found = append(found, Capture{Name: filepath.ToSlash(name), path: file, truth: truth})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("find captures in %s: %w", dir, err)
	}
	slices.SortFunc(found, func(a, b Capture) int { return strings.Compare(a.Name, b.Name) })
	return found, nil
}

// Packets reads all frames of a capture. One that the file's end cuts off is left out.
func (c Capture) Packets() ([]Packet, error) {
	file, err := os.Open(c.path)
	if err != nil {
		return nil, fmt.Errorf("read capture: %w", err)
	}
	defer file.Close()
	next, err := reader(bufio.NewReader(file))
	if err != nil {
		return nil, fmt.Errorf("read capture %s: %w", c.Name, err)
	}

	var packets []Packet
	for {
		packet, err := next()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return packets, nil
		}
		if err != nil {
			return packets, fmt.Errorf("read capture %s, frame %d: %w", c.Name, len(packets)+1, err)
		}
		packets = append(packets, packet)
	}
}

// reader returns a function that reads the next frame of a pcapng or pcap file.
func reader(file *bufio.Reader) (func() (Packet, error), error) {
	plain, err := uncompressed(file)
	if err != nil {
		return nil, err
	}
	magic, err := plain.Peek(4)
	if err != nil {
		return nil, err
	}
	if [4]byte(magic) == [4]byte{0x0a, 0x0d, 0x0d, 0x0a} {
		ng, err := pcapgo.NewNgReader(plain, pcapgo.NgReaderOptions{WantMixedLinkType: true})
		if err != nil {
			return nil, err
		}
		return func() (Packet, error) {
			data, info, err := ng.ReadPacketData()
			if err != nil {
				return Packet{}, err
			}
			link, ok := info.AncillaryData[0].(layers.LinkType)
			if !ok {
				return Packet{}, fmt.Errorf("no link type in %v", info.AncillaryData)
			}
			return packet(link, data, info), nil
		}, nil
	}
	pcap, err := pcapgo.NewReader(plain)
	if err != nil {
		return nil, err
	}
	return func() (Packet, error) {
		data, info, err := pcap.ReadPacketData()
		return packet(pcap.LinkType(), data, info), err
	}, nil
}

func packet(link layers.LinkType, data []byte, info gopacket.CaptureInfo) Packet {
	return Packet{Link: link, Data: data, WireLen: info.Length}
}
