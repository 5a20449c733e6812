#!/usr/bin/env bash
# Copyright The NetProbe Authors
# SPDX-License-Identifier: Apache-2.0
#
# build.sh DIRECTORY BINARY: builds etcd, kube-apiserver or kube-controller-manager
# of the versions in go.mod, static, into DIRECTORY.
set -euo pipefail
mkdir -p "$1"
out=$(cd "$1" && pwd)/$2
cd "$(dirname "$0")"
go=${GO:-go}
case $2 in
etcd) package=go.etcd.io/etcd/server/v3 ;;
kube-apiserver | kube-controller-manager) package=k8s.io/kubernetes/cmd/$2 ;;
*) echo "build.sh: no rule for $2" >&2; exit 1 ;;
esac
# Without a version an API server takes itself for one of long ago, and refuses to start.
version=$($go list -m -f '{{.Version}}' k8s.io/kubernetes)
stamp=k8s.io/component-base/version
minor=${version#v*.}
CGO_ENABLED=0 $go build -trimpath -o "$out" -ldflags "-s -w -X $stamp.gitVersion=$version \
	-X $stamp.gitMajor=1 -X $stamp.gitMinor=${minor%%.*} -X $stamp.gitTreeState=clean" "$package"
