// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/netprobe-otel/netprobe/internal/vmtest/protocol"
)

// wantedModules are directories of modules that network tests ask for. What those
// modules need comes with them from wherever it is.
var wantedModules = regexp.MustCompile(`^(net/(core|ipv4|ipv6|netfilter|bridge|sched|8021q|802|packet|unix|key|xfrm|mpls|netlink|llc|psample)/` +
	`|drivers/net/(veth|vxlan|dummy|tun|macvlan|macvtap|tap|ipvlan|geneve|wireguard|bonding|ifb|vrf|net_failover))`)

// module is one of a kernel's.
type module struct {
	file    string
	data    []byte // nil while it is not wanted
	needs   []string
	aliases []string
}

// modules reads those that are wanted from a kernel's tree.
func (k *kernel) modules() (map[string]*module, error) {
	all := map[string]*module{}
	var todo []string
	err := filepath.WalkDir(k.tree, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		_, inKernel, ok := strings.Cut(strings.TrimPrefix(file, k.tree), "/kernel/")
		name, _, isModule := strings.Cut(d.Name(), ".ko")
		if ok && isModule {
			name = protocol.ModuleName(name)
			all[name] = &module{file: file}
			if wantedModules.MatchString(inKernel) {
				todo = append(todo, name)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for modules: %w", err)
	}
	for len(todo) > 0 {
		m := all[todo[0]]
		todo = todo[1:]
		if m == nil || m.data != nil {
			continue // built in, or read already
		}
		if err := m.read(); err != nil {
			return nil, err
		}
		todo = append(todo, m.needs...)
	}
	maps.DeleteFunc(all, func(_ string, m *module) bool { return m.data == nil })
	return all, nil
}

func (m *module) read() error {
	var err error
	switch filepath.Ext(m.file) {
	case ".xz":
		m.data, err = exec.Command("xz", "-dc", m.file).Output()
	case ".ko":
		m.data, err = os.ReadFile(m.file)
	default:
		err = errors.New("unknown compression")
	}
	if err != nil {
		return fmt.Errorf("read module %s: %w", m.file, err)
	}
	f, err := elf.NewFile(bytes.NewReader(m.data))
	if err != nil {
		return fmt.Errorf("read module %s: %w", m.file, err)
	}
	section := f.Section(".modinfo")
	if section == nil {
		return fmt.Errorf("read module %s: it has no section .modinfo", m.file)
	}
	info, err := section.Data()
	if err != nil {
		return fmt.Errorf("read module %s: %w", m.file, err)
	}
	for entry := range strings.SplitSeq(string(info), "\x00") {
		switch key, value, _ := strings.Cut(entry, "="); {
		case key == "depends" && value != "":
			m.needs = strings.Split(protocol.ModuleName(value), ",")
		case key == "alias" && !strings.Contains(value, ":"): // those with one are devices'
			m.aliases = append(m.aliases, protocol.ModuleName(value))
		}
	}
	return nil
}

// writeBase writes what each guest of a kernel has: the program that is its
// userland, and modules.
func (k *kernel) writeBase(a *archive, guest string) error {
	for _, dir := range []string{"dev", "proc", "sys", "run", "tmp", "root", "etc", "usr/sbin", "usr/bin", "var/run"} {
		a.dir(dir)
	}
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
		a.link(dir, "usr/"+dir)
	}
	a.device("dev/console", 5, 1)
	a.device("dev/null", 1, 3)
	init, err := os.ReadFile(guest)
	if err != nil {
		return err
	}
	a.file("init", 0o755, string(init))
	a.link("usr/sbin/modprobe", "/init")
	a.file("etc/hosts", 0o644, "127.0.0.1 localhost\n::1 localhost\n")
	a.file("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
	a.file("etc/group", 0o644, "root:x:0:\nnogroup:x:65534:\n")
	a.file("etc/protocols", 0o644, "icmp 1\ntcp 6\nudp 17\nipv6-frag 44\nipv6-icmp 58\n")

	modules, err := k.modules()
	if err != nil {
		return err
	}
	var needs, aliases strings.Builder
	for _, name := range slices.Sorted(maps.Keys(modules)) {
		m := modules[name]
		fmt.Fprintf(&needs, "%s\t%s\n", name, strings.Join(m.needs, ","))
		for _, alias := range m.aliases {
			fmt.Fprintf(&aliases, "%s\t%s\n", alias, name)
		}
		a.file(path.Join(protocol.ModuleDir, name+".ko"), 0o644, string(m.data))
	}
	a.file(protocol.ModuleNeeds, 0o644, needs.String())
	a.file(protocol.ModuleAliases, 0o644, aliases.String())
	return nil
}

// addPlan tells the guest what to do.
func (a *archive) addPlan(plan *protocol.Plan) error {
	text, err := json.Marshal(plan)
	if err != nil {
		return err
	}
	a.file(protocol.PlanPath, 0o644, string(text))
	return nil
}

// addTree puts a directory in, or a file.
func (a *archive) addTree(host, guest string) error {
	return filepath.WalkDir(host, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(host, file)
		if err != nil {
			return err
		}
		if d.IsDir() {
			a.dir(path.Join(guest, rel))
			return nil
		}
		st, err := os.Stat(file)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(file)
		if err == nil {
			a.file(path.Join(guest, rel), int(st.Mode().Perm()), string(data))
		}
		return err
	})
}

// addProgram puts a program of this machine in, with the libraries that it needs.
func (a *archive) addProgram(host, guest string) error {
	data, err := os.ReadFile(host)
	if err != nil {
		return err
	}
	a.file(guest, 0o755, string(data))
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("read %s: %w", host, err)
	}
	if libraries, err := f.ImportedLibraries(); err != nil || len(libraries) == 0 {
		return err
	}
	out, err := exec.Command("ldd", host).Output()
	if err != nil {
		return fmt.Errorf("find the libraries of %s: %w", host, err)
	}
	for word := range strings.FieldsSeq(string(out)) {
		if !strings.HasPrefix(word, "/") {
			continue
		}
		library, err := os.ReadFile(word)
		if err != nil {
			return err
		}
		// where /lib is a link to /usr/lib
		if !strings.HasPrefix(word, "/usr/") {
			word = "/usr" + word
		}
		a.file(word, 0o755, string(library))
	}
	return nil
}

// writeArchive writes a file with what fill puts in.
func writeArchive(file string, fill func(*archive) error) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	a := newArchive(io.Writer(f))
	if err := errors.Join(fill(a), a.close(), f.Close()); err != nil {
		return errors.Join(fmt.Errorf("write the guest's files: %w", err), os.Remove(file))
	}
	return nil
}
