// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package inventory

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseFlannel(t *testing.T) {
	mac := net.HardwareAddr{0x5a, 0x29, 0x11, 0x02, 0x03, 0x04}
	for name, tt := range map[string]struct {
		annotations map[string]string
		want        *Flannel
		err         string
	}{
		"no flannel": {map[string]string{"a": "b"}, nil, ""},
		"vxlan": {
			map[string]string{annotationBackendType: "vxlan", annotationPublicIP: "192.168.0.1", annotationBackendData: `{"VNI":1,"VtepMAC":"5a:29:11:02:03:04"}`},
			&Flannel{Backend: "vxlan", V4: &FlannelBackend{PublicIP: nodeIP, VNI: 1, HasVNI: true, VTEPMAC: mac}}, "",
		},
		"dual-stack": {
			map[string]string{
				annotationBackendType: "vxlan", annotationPublicIP: "192.168.0.1", annotationBackendData: `{"VNI":1,"VtepMAC":"5a:29:11:02:03:04"}`,
				annotationPublicIPv6: "fd00::1", annotationBackendV6: `{"VNI":2,"VtepMAC":"5a:29:11:02:03:04"}`,
			},
			&Flannel{
				Backend: "vxlan",
				V4:      &FlannelBackend{PublicIP: nodeIP, VNI: 1, HasVNI: true, VTEPMAC: mac},
				V6:      &FlannelBackend{PublicIP: addr("fd00::1"), VNI: 2, HasVNI: true, VTEPMAC: mac},
			}, "",
		},
		"host-gw": {
			map[string]string{annotationBackendType: "host-gw", annotationPublicIP: "192.168.0.1", annotationBackendData: "null"},
			&Flannel{Backend: "host-gw", V4: &FlannelBackend{PublicIP: nodeIP}}, "",
		},
		"wireguard": {
			map[string]string{annotationBackendType: "wireguard", annotationPublicIP: "192.168.0.1", annotationBackendData: `{"PublicKey":"c2VjcmV0"}`},
			&Flannel{Backend: "wireguard", V4: &FlannelBackend{PublicIP: nodeIP, PublicKey: "c2VjcmV0"}}, "",
		},
		"not JSON": {
			map[string]string{annotationBackendType: "vxlan", annotationPublicIP: "192.168.0.1", annotationBackendData: `{`},
			&Flannel{Backend: "vxlan", V4: &FlannelBackend{PublicIP: nodeIP}}, "annotation " + annotationBackendData + ": unexpected end of JSON input",
		},
		"address and MAC": {
			map[string]string{annotationBackendType: "vxlan", annotationPublicIP: "here", annotationBackendData: `{"VNI":7,"VtepMAC":"5a"}`},
			&Flannel{Backend: "vxlan", V4: &FlannelBackend{VNI: 7, HasVNI: true}},
			"annotation " + annotationPublicIP + `: ParseAddr("here"): unable to parse IP` + "\nannotation " + annotationBackendData + ": VtepMAC: address 5a: invalid MAC address",
		},
		"VNI too large": {
			map[string]string{annotationBackendType: "vxlan", annotationBackendData: `{"VNI":16777216}`},
			&Flannel{Backend: "vxlan", V4: &FlannelBackend{}}, "annotation " + annotationBackendData + ": VNI 16777216 does not fit into 24 bits",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseFlannel(tt.annotations)
			require.Equal(t, tt.want, got)
			if tt.err == "" {
				require.NoError(t, err)
				return
			}
			require.EqualError(t, err, tt.err)
		})
	}
}

func FuzzParseFlannel(f *testing.F) {
	f.Add("vxlan", "192.168.0.1", `{"VNI":1,"VtepMAC":"5a:29:11:02:03:04"}`, "fd00::1", "null")
	f.Add("", "", "", "", `{"PublicKey":7}`)
	f.Fuzz(func(t *testing.T, backend, ip, data, ip6, data6 string) {
		got, err := ParseFlannel(map[string]string{
			annotationBackendType: backend, annotationPublicIP: ip, annotationBackendData: data,
			annotationPublicIPv6: ip6, annotationBackendV6: data6,
		})
		require.NotNil(t, got)
		for _, b := range []*FlannelBackend{got.V4, got.V6} {
			require.NotNil(t, b, "an address is there")
			require.LessOrEqual(t, b.VNI, uint32(maxVNI))
			require.True(t, b.HasVNI || b.VNI == 0)
			require.True(t, err != nil || b.PublicIP.IsValid())
		}
		s := NewStore(grace)
		s.SetNode(node("a", func(n *Node) { n.Flannel = got }))
		if got.V4.PublicIP.IsValid() {
			require.Equal(t, "a", s.NodeByTunnelEnd(got.V4.PublicIP).Name)
		}
		s.DeleteNode("a")
		require.Empty(t, s.tunnelEnds)
	})
}
