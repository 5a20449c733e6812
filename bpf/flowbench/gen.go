// Copyright The NetProbe Authors
// SPDX-License-Identifier: Apache-2.0

// Package flowbench has eBPF programs that only benchmarks load.
package flowbench

//go:generate go tool -modfile=../../internal/tools/go.mod bpf2go -go-package flowbench -target bpfel -cc clang-19 -strip llvm-strip-19 Bench flowbench.bpf.c -- -O2 -g -Wall -Wextra -Werror -mcpu=v3 -I.. -I../include
