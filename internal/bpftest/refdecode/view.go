// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

package refdecode

import "errors"

var (
	errTruncated   = errors.New("truncated")
	errMalformed   = errors.New("malformed")
	errUnsupported = errors.New("unsupported")
	errNotIP       = errors.New("not IP")
)

func outcomeOf(err error) Outcome {
	switch {
	case err == nil:
		return OK
	case errors.Is(err, errTruncated):
		return Truncated
	case errors.Is(err, errMalformed):
		return Malformed
	case errors.Is(err, errUnsupported):
		return Unsupported
	default:
		return NotIP
	}
}

// unlimited is the limit where no header around says how long its payload is.
const unlimited = -1

// view is the rest of a packet from one layer on.
type view struct {
	data   []byte // what can be read
	length int    // how much there is said to be
	limit  int    // how much belongs to the datagram by its own length
}

// has answers nil if the view holds n bytes, and else who took them: the
// datagram's own length (malformed) or the end of the packet (truncated).
func (v view) has(n int) error {
	if v.limit != unlimited && n > v.limit {
		return errMalformed
	}
	if n > v.length {
		return errTruncated
	}
	return nil
}

// peek returns the first n bytes of the view.
func (v view) peek(n int) ([]byte, error) {
	if err := v.has(n); err != nil {
		return nil, err
	}
	if n > len(v.data) {
		return nil, errTruncated
	}
	return v.data[:n], nil
}

// after returns what follows the first n bytes.
func (v view) after(n int) (view, error) {
	if err := v.has(n); err != nil {
		return view{}, err
	}
	rest := view{data: v.data[min(n, len(v.data)):], length: v.length - n, limit: unlimited}
	if v.limit != unlimited {
		rest.limit = v.limit - n
	}
	return rest, nil
}

// split returns the first n bytes and what follows them.
func (v view) split(n int) ([]byte, view, error) {
	head, err := v.peek(n)
	if err != nil {
		return nil, view{}, err
	}
	rest, err := v.after(n)
	return head, rest, err
}

// whole answers nil if the packet holds all of the datagram.
func (v view) whole() error {
	if v.limit > v.length {
		return errTruncated
	}
	return nil
}
