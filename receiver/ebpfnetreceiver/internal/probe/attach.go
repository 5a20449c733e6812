// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package probe

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/netprobe-otel/netprobe/bpf"
	"github.com/netprobe-otel/netprobe/internal/flow"
	"github.com/netprobe-otel/netprobe/receiver/ebpfnetreceiver/internal/kernel"
)

// Interface is what the probe must know of an interface to attach to it.
type Interface struct {
	Index int
	// Ethernet says that packets begin with an Ethernet header; otherwise they
	// begin with their network header.
	Ethernet bool
}

// Attachment says how a program is attached to an interface.
type Attachment struct {
	Hook Hook
	// Mode is "tcx", "clsact", "native", "generic" or "off".
	Mode string
	// Reason is why a better mode is not used, empty where it is: a short name
	// out of few. Err is the same in full.
	Reason string
	Err    error
}

type attachment struct {
	programs kernel.Closers
	modes    []Attachment
}

// Attach attaches the programs to an interface that they are not attached to,
// and says how. Its error means that nothing of a required probe is attached;
// what falls back or stays off by choice is in the attachments.
func (p *Probe) Attach(iface Interface) ([]Attachment, error) {
	if err := p.addCounters(uint32(iface.Index)); err != nil {
		return nil, err
	}
	a := &attachment{}
	p.attached[iface.Index] = a
	err := errors.Join(p.attachTC(iface, a), p.attachXDP(iface, a))
	if err != nil {
		return nil, errors.Join(err, p.Remove(iface.Index))
	}
	return a.modes, nil
}

// Remove detaches an interface's programs and forgets its counters: read them before.
func (p *Probe) Remove(index int) error {
	err := p.detachPrograms(index)
	delete(p.attached, index)
	return errors.Join(err, p.removeCounters(uint32(index)))
}

func (p *Probe) detachPrograms(index int) error {
	if a := p.attached[index]; a != nil {
		return a.programs.Close()
	}
	return nil
}

func (p *Probe) attachTC(iface Interface, a *attachment) error {
	if p.opts.TC == TCOff {
		return nil
	}
	ingress, egress := p.tc.TcIngress, p.tc.TcEgress
	if !iface.Ethernet {
		ingress, egress = p.tc.TcIngressL3, p.tc.TcEgressL3
	}
	for _, c := range []struct {
		hook Hook
		dir  flow.Direction
		prog *ebpf.Program
	}{
		{HookTCIngress, flow.Ingress, ingress},
		{HookTCEgress, flow.Egress, egress},
	} {
		mode := Attachment{Hook: c.hook}
		cl, err := p.attachClassifier(iface.Index, c.dir, c.prog, &mode)
		if err != nil {
			return fmt.Errorf("attach %s: %w", c.hook, err)
		}
		a.programs = append(a.programs, cl)
		a.modes = append(a.modes, mode)
	}
	return nil
}

// attachClassifier attaches prog to one direction of an interface: through TCX
// where the kernel has it (6.6), else through a clsact filter.
func (p *Probe) attachClassifier(index int, dir flow.Direction, prog *ebpf.Program, mode *Attachment) (io.Closer, error) {
	if p.opts.TC != TCClsact {
		cl, err := attachTCX(index, dir, prog)
		mode.Mode = string(TCX)
		if err == nil || p.opts.TC == TCX || !errors.Is(err, ebpf.ErrNotSupported) {
			return cl, err
		}
		mode.Reason, mode.Err = Reason(err), err
	}
	mode.Mode = string(TCClsact)
	return attachClsact(index, dir, prog)
}

// attachTCX puts the program before all others: many end the chain with their
// verdict, and what comes after them sees nothing. The price is at egress, where
// a packet that a later program drops counts as sent.
func attachTCX(index int, dir flow.Direction, prog *ebpf.Program) (io.Closer, error) {
	opts := link.TCXOptions{Interface: index, Program: prog, Attach: ebpf.AttachTCXIngress, Anchor: link.Head()}
	if dir == flow.Egress {
		opts.Attach = ebpf.AttachTCXEgress
	}
	return link.AttachTCX(opts)
}

func (p *Probe) attachXDP(iface Interface, a *attachment) error {
	if p.opts.XDP == XDPOff {
		return nil
	}
	mode := Attachment{Hook: HookXDP, Mode: string(XDPNative)}
	flags := link.XDPDriverMode
	if p.opts.XDP == XDPGeneric {
		mode.Mode, flags = string(XDPGeneric), link.XDPGenericMode
	}
	var cl io.Closer
	err := errXDPNeedsEthernet
	if iface.Ethernet {
		cl, err = link.AttachXDP(link.XDPOptions{Interface: iface.Index, Program: p.xdp.XdpCount, Flags: flags})
		if errors.Is(err, unix.EINVAL) && !exists(iface.Index) {
			// what bpf_xdp_link_attach answers then, and drivers to other things
			err = fmt.Errorf("%w: %w", unix.ENODEV, err)
		}
	}
	switch {
	case err == nil:
		a.programs = append(a.programs, cl)
	case p.opts.TC == TCOff && p.opts.XDP != XDPAuto:
		return fmt.Errorf("attach xdp in %s mode: %w", mode.Mode, err)
	default:
		// The TC programs count all the same, and one interface's driver must
		// not keep the others from being watched.
		mode.Mode, mode.Reason, mode.Err = string(XDPOff), Reason(err), err
	}
	a.modes = append(a.modes, mode)
	return nil
}

func exists(index int) bool {
	_, err := net.InterfaceByIndex(index)
	return err == nil
}

var errXDPNeedsEthernet = errors.New("the interface has no Ethernet frames")

// Reason gives a short name, out of few, of why attaching or loading failed.
func Reason(err error) string {
	switch {
	case errors.Is(err, errXDPNeedsEthernet):
		return "no_ethernet"
	case errors.Is(err, ebpf.ErrNotSupported), errors.Is(err, unix.EOPNOTSUPP):
		return "not_supported"
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EEXIST):
		return "in_use"
	case errors.Is(err, unix.ENODEV):
		return "interface_gone"
	case errors.Is(err, os.ErrNotExist):
		return "not_found"
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ERANGE):
		// what drivers answer where MTU, ring size or other features stand in the way
		return "refused_by_driver"
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return "not_permitted"
	case errors.Is(err, unix.ENOMEM):
		return "no_memory"
	default:
		return "other"
	}
}

func (p *Probe) addCounters(index uint32) error {
	cpus := kernel.PossibleCPUs()
	if err := p.tc.Interfaces.Put(index, make([]bpf.TCInterfaceCounters, cpus)); err != nil {
		if errors.Is(err, unix.E2BIG) {
			return fmt.Errorf("add counters of interface %d: more interfaces than interfaces::max_entries (%d): %w", index, p.opts.MaxInterfaces, err)
		}
		return fmt.Errorf("add counters of interface %d: %w", index, err)
	}
	if p.xdp == nil {
		return nil
	}
	if err := p.xdp.XdpInterfaces.Put(index, make([]bpf.XDPXdpCounters, cpus)); err != nil {
		return fmt.Errorf("add xdp counters of interface %d: %w", index, err)
	}
	return nil
}

func (p *Probe) removeCounters(index uint32) error {
	err := deleteKey(p.tc.Interfaces, index)
	if p.xdp != nil {
		err = errors.Join(err, deleteKey(p.xdp.XdpInterfaces, index))
	}
	return err
}

// deleteKey takes a key that is not there for deleted.
func deleteKey(m *ebpf.Map, key uint32) error {
	if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("remove counters of interface %d: %w", key, err)
	}
	return nil
}
