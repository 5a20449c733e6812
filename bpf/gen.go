// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// Package bpf holds NetProbe's eBPF programs and the Go bindings generated from
// them. It knows nothing of how they are attached or read.
//
// The objects are little-endian and contain nothing that depends on the
// architecture, so one serves amd64, arm64 and every other little-endian
// machine. They are committed: building NetProbe needs no clang.
package bpf

//go:generate go tool -modfile=../internal/tools/go.mod bpf2go -go-package bpf -target bpfel -cc clang-19 -strip llvm-strip-19 -type direction -type hook -type parse_outcome -type loss -type flow_has -type tunnel_type -type tunnel_refusal -type flow_event -type volume TC tc.bpf.c -- -O2 -g -Wall -Wextra -Werror -mcpu=v3 -I. -Iinclude
//go:generate go tool -modfile=../internal/tools/go.mod bpf2go -go-package bpf -target bpfel -cc clang-19 -strip llvm-strip-19 XDP xdp.bpf.c -- -O2 -g -Wall -Wextra -Werror -mcpu=v3 -I. -Iinclude
//go:generate go tool -modfile=../internal/tools/go.mod bpf2go -go-package bpf -target bpfel -cc clang-19 -strip llvm-strip-19 -type volume Netfilter netfilter.bpf.c -- -O2 -g -Wall -Wextra -Werror -mcpu=v3 -I. -Iinclude
//go:generate go tool -modfile=../internal/tools/go.mod bpf2go -go-package bpf -target bpfel -cc clang-19 -strip llvm-strip-19 -type drop_direction -type drop_ledger Drops drops.bpf.c -- -O2 -g -Wall -Wextra -Werror -mcpu=v3 -I. -Iinclude
//go:generate go tool -modfile=../internal/tools/go.mod bpf2go -go-package bpf -target bpfel -cc clang-19 -strip llvm-strip-19 -type socket_role -type socket_flag -type socket_failure -type socket_protocol -type socket_ledger -type socket_process -type socket_numbers -type socket_record Sockets sockets.bpf.c -- -O2 -g -Wall -Wextra -Werror -mcpu=v3 -I. -Iinclude
