#!/usr/bin/env bash
# What finds faults that tests do not look for: Miri, AddressSanitizer and fuzzing.
#
#   .ci/sanitize.sh                 a short run, as .ci/run has it: minutes
#   .ci/sanitize.sh long SECONDS    the same with so many seconds for each fuzz target
#
# A tool that cannot be had prints NOT RUN and fails nothing; a finding fails, and so does what no longer builds. Builds,
# corpora and findings lie in the cache folder of .ci/run. docs/fuzzing.md tells the rest.
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-short}" in
  short) seconds=10 ;;
  long) seconds=${2:?how many seconds for each target?} ;;
  *) echo "usage: $0 [long SECONDS]" >&2; exit 2 ;;
esac
cache=$(realpath -m "${POLYLORA_CI_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/polylora-ci}")
export CARGO_TERM_COLOR=never CARGO_INCREMENTAL=0
# All of this is built with other flags than the rest.
export CARGO_TARGET_DIR=$cache/asan
target=$(rustc -vV | sed -n 's/^host: //p')
targets=(linear attention peft_folder tensor_header openai_body word_piece)
findings=()

not_run() { printf 'NOT RUN: %s\n' "$*"; }
step() { printf -- '-- %s (%s)\n' "$*" "$(date +%T)"; }

step "Miri: the kernels' plain loops"
if cargo miri --version >/dev/null 2>&1; then miri=(cargo miri)
elif cargo +nightly miri --version >/dev/null 2>&1; then miri=(cargo +nightly miri)
else miri=(); fi
if [ ${#miri[@]} = 0 ]; then
  not_run "Miri is not installed (rustup +nightly component add miri): undefined behaviour of the kernels' plain loops was not looked for by it"
else
  # Laws without property tests: each takes seconds here. Miri has no wide instructions and sees the scalar twins.
  rc=0
  MIRIFLAGS=-Zmiri-disable-isolation timeout 300 "${miri[@]}" test -p polylora-kernels-cpu --test laws -- \
    --exact linear::a_nan_row_stays_alone attention::large_finite_scores_give_the_mean_of_equal_keys || rc=$?
  if [ "$rc" = 124 ]; then not_run "Miri did not come to its end in five minutes"
  elif [ "$rc" != 0 ]; then findings+=("Miri: see above"); fi
fi

step "AddressSanitizer: the kernels' tests on every instruction set of this machine"
asan=
if [ "$target" = x86_64-unknown-linux-gnu ] &&
  compgen -G "$(rustc --print sysroot)/lib/rustlib/$target/lib/librustc*_rt.asan.a" >/dev/null; then
  asan=yes
  # The flag is unstable, the compiler the project's own. With --target, build scripts do not get the flag. A test of the
  # emulator of AMX's tiles waits for a segmentation fault, which the sanitizer must leave to it.
  RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address ASAN_OPTIONS=handle_segv=0 \
    cargo test -p polylora-kernels-cpu --lib --tests --target "$target" --locked ||
    findings+=("AddressSanitizer: see above")
else
  not_run "the compiler for $target has no AddressSanitizer: reads and writes out of bounds were not looked for"
fi

step "fuzzing: $seconds seconds for each target"
fuzzers=
if [ -z "$asan" ]; then
  not_run "fuzzing needs AddressSanitizer"
elif PATH=$cache/tools/bin:$PATH command -v cargo-fuzz >/dev/null ||
  cargo install cargo-fuzz --version 0.13.2 --locked --quiet --root "$cache/tools" --target-dir "$cache/tools/build"; then
  cargo metadata --manifest-path fuzz/Cargo.toml --locked --format-version 1 >/dev/null
  RUSTC_BOOTSTRAP=1 PATH=$cache/tools/bin:$PATH cargo fuzz build --release --target "$target"
  fuzzers=$CARGO_TARGET_DIR/$target/release
else
  not_run "cargo-fuzz cannot be installed: no fuzz target was run"
fi
if [ -n "$fuzzers" ]; then
  python3 fuzz/seeds.py "$cache/fuzz/seeds"
  for name in "${targets[@]}"; do
    mkdir -p "$cache/fuzz/corpus/$name" "$cache/fuzz/findings"
    dictionary=()
    case $name in
      peft_folder | tensor_header) dictionary=(-dict=fuzz/dictionaries/peft.dict) ;;
      openai_body) dictionary=(-dict=fuzz/dictionaries/openai.dict) ;;
    esac
    log=$cache/fuzz/$name.log
    # A single allocation beyond 64 MB is a finding: no input is longer than 16 kB.
    if "$fuzzers/$name" "${dictionary[@]}" -max_total_time="$seconds" -max_len=16384 -timeout=20 -rss_limit_mb=2048 \
      -malloc_limit_mb=64 -print_final_stats=1 -artifact_prefix="$cache/fuzz/findings/$name-" \
      "$cache/fuzz/corpus/$name" "$cache/fuzz/seeds/$name" >"$log" 2>&1; then
      awk -v name="$name" '/^stat::number_of_executed_units/ { runs = $2 } / cov: / { for (i = 1; i < NF; i++) if ($i == "cov:") edges = $(i + 1) }
        END { printf "%-14s %10d executions, %5d edges, nothing found\n", name, runs, edges }' "$log"
    else
      tail -n 40 "$log"
      findings+=("$name: the input is in $cache/fuzz/findings; again: $fuzzers/$name INPUT")
    fi
  done
fi

for finding in "${findings[@]}"; do printf 'FOUND: %s\n' "$finding"; done
[ ${#findings[@]} = 0 ]
