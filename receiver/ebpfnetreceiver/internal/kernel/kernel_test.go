// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kernel

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

type closer func() error

func (c closer) Close() error { return c() }

func TestClosers(t *testing.T) {
	first, second := errors.New("first"), errors.New("second")
	var order []string
	closing := func(name string, err error) closer {
		return func() error { order = append(order, name); return err }
	}
	c := Closers{closing("a", first), closing("b", nil), closing("c", second)}
	err := c.Close()
	require.ErrorIs(t, err, first)
	require.ErrorIs(t, err, second)
	require.Equal(t, []string{"c", "b", "a"}, order)
	require.NoError(t, c.Close())
	require.Len(t, order, 3)
}
