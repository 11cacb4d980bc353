#!/bin/bash
# What a developer and a server ask of a repository: history.sh REPOSITORY
set -euo pipefail
repository=$1
export GIT_CONFIG_NOSYSTEM=1
git() { command git -C "$repository" -c pack.threads=1 "$@"; }
git log --stat --patch --find-copies-harder main | cksum
git log --graph --topo-order --format='%h %an %s' -S'a a' main | cksum
for file in part0/file0.txt part1/file1.txt part5/file5.txt; do git blame -w -C main -- "$file" | cksum; done
git rev-list --objects --all | git pack-objects --no-reuse-delta --depth=20 --window=20 --stdout -q | cksum
git fsck --no-dangling --no-progress
