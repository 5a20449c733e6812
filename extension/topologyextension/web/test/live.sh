#!/usr/bin/env bash
# Copyright The NetProbe Authors
# SPDX-License-Identifier: Apache-2.0
#
# Runs a command beside a NetProbe that sees traffic between two network namespaces, made for
# this and gone afterwards: live.sh <netprobe> <config> <command …>. As root. In the command's
# environment NETPROBE_URL is where the page is; it runs in the namespace of the NetProbe.
set -euo pipefail

binary=$1 config=$2
shift 2
here=netprobe-page-$$ there=netprobe-page-$$-b
dir=$(mktemp -d)

cleanup() {
	for pid in $(jobs -p); do kill "$pid" 2>/dev/null || true; done
	wait 2>/dev/null || true
	ip netns del "$here" 2>/dev/null || true
	ip netns del "$there" 2>/dev/null || true
	rm -rf "$dir"
}
trap cleanup EXIT

ip netns add "$here"
ip netns add "$there"
ip -n "$here" link add uplink type veth peer name uplink netns "$there"
for ns in "$here" "$there"; do ip -n "$ns" link set lo up; done
ip -n "$here" address add 192.0.2.1/24 dev uplink
for i in 2 3 4 5; do ip -n "$there" address add "192.0.2.$i/24" dev uplink; done
for ns in "$here" "$there"; do ip -n "$ns" link set uplink up; done

# A server on each address, and requests of different sizes to them, all the time.
head -c 400000 /dev/zero >"$dir/large"
head -c 4000 /dev/zero >"$dir/small"
for i in 2 3 4 5; do
	ip netns exec "$there" python3 -m http.server --directory "$dir" --bind "192.0.2.$i" "808$i" >/dev/null 2>&1 &
done
ip netns exec "$here" bash -c 'while :; do
	for i in 2 3 4 5; do
		curl -s -o /dev/null "http://192.0.2.$i:808$i/$([ $((RANDOM % i)) = 0 ] && echo large || echo small)" || true
	done
	sleep 0.1
done' &
ip netns exec "$here" "$binary" --config "$config" >"$dir/log" 2>&1 &

for _ in $(seq 100); do
	ip netns exec "$here" curl -s -o /dev/null --max-time 1 http://localhost:8081/ && break
	sleep 0.2
done || { cat "$dir/log" >&2; exit 1; }
NETPROBE_URL=http://localhost:8081/ ip netns exec "$here" "$@" || { code=$?; tail -20 "$dir/log" >&2; exit $code; }
