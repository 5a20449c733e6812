// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNamesOfTunnels(t *testing.T) {
	var types, refusals []string
	for i := range TunnelTypes {
		types = append(types, TunnelType(i).String())
	}
	for i := range Refusals {
		refusals = append(refusals, Refusal(i).String())
	}
	require.Equal(t, []string{"", "vxlan", "geneve", "gre", "ipip"}, types)
	require.Equal(t, []string{
		"", "vxlan_no_vni", "vxlan_reserved_bits", "vxlan_gpe", "vxlan_nsh", "geneve_version", "geneve_control",
		"gre_version", "gre_routing", "erspan",
	}, refusals)
}
