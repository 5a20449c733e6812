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
	// outer is how much belongs to the datagram that the view is tunnelled in,
	// of which more fragments follow where continued is set.
	outer     int
	continued bool
}

// has answers nil if the view holds n bytes, and else who took them: the length
// of the datagram or of the one around it (malformed) or the end of the packet
// (truncated).
func (v view) has(n int) error {
	if n > v.within(n) {
		return errMalformed
	}
	if n > v.length {
		return errTruncated
	}
	return nil
}

// within is n, or what datagram lengths leave of it.
func (v view) within(n int) int {
	if v.limit != unlimited {
		n = min(n, v.limit)
	}
	if v.outer != unlimited {
		n = min(n, v.outer)
	}
	return n
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
	v.data = v.data[min(n, len(v.data)):]
	v.length -= n
	if v.limit != unlimited {
		v.limit -= n
	}
	if v.outer != unlimited {
		v.outer -= n
	}
	return v, nil
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

// whole answers nil if the packet holds all of the datagram, as far as it does
// not go on in later fragments of the one around.
func (v view) whole() error {
	end := v.limit
	if v.continued {
		end = v.within(end)
	}
	if end > v.length || end > v.within(end) {
		return errTruncated
	}
	return nil
}

// upTo is the view with no more than n bytes of the datagram.
func (v view) upTo(n int) view {
	if v.limit == unlimited || n < v.limit {
		v.limit = n
	}
	return v
}

// tunnelled is the view as what a tunnel carries: the limit becomes that of the
// datagram around, of which more fragments may follow.
func (v view) tunnelled(more bool) view {
	v.outer, v.limit, v.continued = v.limit, unlimited, more
	return v
}
