#!/bin/sh
# Measures the CPU engine in turn with the fused spike it grew out of, which lies outside the repository.
#
#   benches/spike.sh DIR [options of the bench]     DIR has `enc` and `fc`; --dtype f32|bf16|int8, --threads N, --help for all
#
# The spike is built into TARGET (default: target/spike beside this repository's builds). One dtype a call; POLYLORA_CPU_ISA
# narrows both to the same instructions.
set -eu
[ $# -ge 1 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
source=$(cd "$1" && pwd); shift
cd "$(dirname "$0")/.."
target=${TARGET:-${CARGO_TARGET_DIR:-$PWD/target}/spike}
exec cargo bench --quiet -p polylora-benches --bench spike -- --source "$source" --target "$target" "$@"
