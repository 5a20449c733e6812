// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package k8sinventoryextension

import "unique"

// intern gives the same text for the same text, so that 100,000 pods of a few nodes
// and namespaces do not have their names each.
func intern(text string) string {
	return unique.Make(text).Value()
}
