// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package inventory

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
)

// Annotations that flannel puts on nodes (pkg/subnet/kube/annotations.go).
const (
	annotationPrefix      = "flannel.alpha.coreos.com/"
	annotationBackendType = annotationPrefix + "backend-type"
	annotationBackendData = annotationPrefix + "backend-data"
	annotationBackendV6   = annotationPrefix + "backend-v6-data"
	annotationPublicIP    = annotationPrefix + "public-ip"
	annotationPublicIPv6  = annotationPrefix + "public-ipv6"
)

// FlannelAnnotations are the keys that ParseFlannel reads.
var FlannelAnnotations = []string{annotationBackendType, annotationBackendData, annotationBackendV6, annotationPublicIP, annotationPublicIPv6}

// Flannel is what flannel says of a node.
type Flannel struct {
	// Backend is vxlan, host-gw, wireguard, ipip, ….
	Backend string
	// V4 and V6 are the backend's parts of each IP version; nil where it has none.
	V4, V6 *FlannelBackend
}

// FlannelBackend is a node's end of flannel's network, of one IP version.
type FlannelBackend struct {
	PublicIP netip.Addr // invalid where it is not said
	// VNI is valid where HasVNI is; VTEPMAC is nil without it.
	VNI     uint32
	HasVNI  bool
	VTEPMAC net.HardwareAddr
	// PublicKey is WireGuard's.
	PublicKey string
}

// ParseFlannel reads a node's annotations. It gives nil where flannel has none
// there. What can be read is given also with an error, which names the annotation.
func ParseFlannel(annotations map[string]string) (*Flannel, error) {
	backend, ok := annotations[annotationBackendType]
	if !ok {
		return nil, nil
	}
	f := &Flannel{Backend: backend}
	var errs [2]error
	f.V4, errs[0] = parseBackend(annotations, annotationPublicIP, annotationBackendData)
	f.V6, errs[1] = parseBackend(annotations, annotationPublicIPv6, annotationBackendV6)
	return f, errors.Join(errs[:]...)
}

func parseBackend(annotations map[string]string, addressKey, dataKey string) (*FlannelBackend, error) {
	address, hasAddress := annotations[addressKey]
	data, hasData := annotations[dataKey]
	if !hasAddress && (!hasData || data == "null" || data == "") {
		return nil, nil
	}
	b := &FlannelBackend{}
	var errs []error
	if hasAddress {
		parsed, err := netip.ParseAddr(address)
		if err != nil {
			errs = append(errs, fmt.Errorf("annotation %s: %w", addressKey, err))
		}
		b.PublicIP = parsed
	}
	if err := b.parseData(data); err != nil {
		errs = append(errs, fmt.Errorf("annotation %s: %w", dataKey, err))
	}
	return b, errors.Join(errs...)
}

// maxVNI is the largest of 24 bits (RFC 7348, section 5).
const maxVNI = 1<<24 - 1

// parseData reads what the backend says of itself: nothing, null, or an object
// whose members depend on the backend.
func (b *FlannelBackend) parseData(data string) error {
	if data == "" {
		return nil
	}
	var members struct {
		VNI       *uint32
		VtepMAC   *string
		PublicKey string
	}
	if err := json.Unmarshal([]byte(data), &members); err != nil {
		return err
	}
	b.PublicKey = members.PublicKey
	if members.VNI != nil {
		if *members.VNI > maxVNI {
			return errors.New("VNI " + strconv.FormatUint(uint64(*members.VNI), 10) + " does not fit into 24 bits")
		}
		b.VNI, b.HasVNI = *members.VNI, true
	}
	if members.VtepMAC == nil {
		return nil
	}
	mac, err := net.ParseMAC(*members.VtepMAC)
	if err != nil {
		return fmt.Errorf("VtepMAC: %w", err)
	}
	b.VTEPMAC = mac
	return nil
}
