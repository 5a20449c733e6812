// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"fmt"
	"strconv"
	"strings"
)

// label is how a vertex is called in a picture.
func (v *Vertex) label() string {
	name := v.Name
	if v.Kind == KindOther {
		return "other"
	}
	if v.Kind == KindWorkload {
		_, name, _ = strings.Cut(v.Name, "/")
	}
	if v.Namespace != "" {
		name = v.Namespace + "/" + name
	}
	return v.Kind.String() + " " + name
}

func (e *Edge) label() string {
	t := e.Total()
	text := byteSize(t.Bytes)
	if len(e.Protocols) > 0 {
		text += " " + e.Protocols[0].Transport
		if e.Protocols[0].Port != 0 {
			text += "/" + strconv.Itoa(int(e.Protocols[0].Port))
		}
	}
	if t.Drops > 0 {
		text += fmt.Sprintf(" drops %d", t.Drops)
	}
	if t.Retransmits > 0 {
		text += fmt.Sprintf(" retransmits %d", t.Retransmits)
	}
	return text
}

func byteSize(n int64) string {
	if n < 1000 {
		return strconv.FormatInt(n, 10) + " B"
	}
	size, unit := float64(n), -1
	for size >= 1000 && unit < 5 {
		size /= 1000
		unit++
	}
	return fmt.Sprintf("%.1f %cB", size, "kMGTPE"[unit])
}

// DOT gives the graph in Graphviz' language. Names are within quotes, where a backslash and a
// quote are all that has a meaning; ours have neither.
func (s *Snapshot) DOT() string {
	escape := func(b *strings.Builder, r rune) { fmt.Fprintf(b, "&#%d;", r) }
	var b strings.Builder
	b.WriteString("digraph topology {\n  rankdir=LR;\n  node [shape=box];\n")
	for i := range s.Vertices {
		fmt.Fprintf(&b, "  n%d [label=\"%s\"];\n", i, quote(s.Vertices[i].label(), escape))
	}
	for i := range s.Edges {
		e := &s.Edges[i]
		fmt.Fprintf(&b, "  n%d -> n%d [label=\"%s\"];\n", e.From, e.To, quote(e.label(), escape))
	}
	b.WriteString("}\n")
	return b.String()
}

// Mermaid gives the graph in Mermaid's language, in which a character is written #number;.
func (s *Snapshot) Mermaid() string {
	escape := func(b *strings.Builder, r rune) { fmt.Fprintf(b, "#%d;", r) }
	var b strings.Builder
	b.WriteString("flowchart LR\n")
	for i := range s.Vertices {
		fmt.Fprintf(&b, "  n%d[\"%s\"]\n", i, quote(s.Vertices[i].label(), escape))
	}
	for i := range s.Edges {
		e := &s.Edges[i]
		fmt.Fprintf(&b, "  n%d -->|\"%s\"| n%d\n", e.From, quote(e.label(), escape), e.To)
	}
	return b.String()
}
