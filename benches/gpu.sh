#!/bin/sh
# Measures polylora on a GPU in turn with PyTorch, torch.compile, Triton and PEFT, and lays the figures side by side.
#
#   benches/gpu.sh PYTHON [FOLDER]
#
# PYTHON has torch, and for the whole of it triton, transformers and peft. FOLDER [target/gpu-bench] gets the JSON lines and
# `tables.md`. Each round runs ours, then theirs. Without a GPU the tables say `not run` and show the floors.
#
#   OURS=DIR       the programs gpu_kernels and gpu_forward, built before [cargo builds them]
#   FEATURES=cuda  what they are built with      DEVICE=cuda   what they run on
#   DTYPES=bf16    f32,f16,bf16                  ROUNDS=2
#   PARTS="kernels forward"                      FIGURE_SECONDS=0.1
#   MODEL=DIR      all-MiniLM-L6-v2 [polylora's cache]
#   CHECK=1        first compares every kernel with its reference on the GPU
#   KERNELS="--widths 4096 --ranks 16", FORWARD="--batch 32,100": options for both sides of a part
#   OURS_ONLY="--quick", THEIRS_ONLY="--compile-seconds 60": options for one side
set -eu
[ $# -ge 1 ] || { sed -n '2,18s/^# \{0,1\}//p' "$0" >&2; exit 2; }
python=$1
here=$(cd "$(dirname "$0")" && pwd)
out=${2:-$here/../target/gpu-bench}
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$here/.."
features=${FEATURES:-cuda} device=${DEVICE:-cuda} dtypes=${DTYPES:-bf16} seconds=${FIGURE_SECONDS:-0.1}
model=${MODEL:-${XDG_CACHE_HOME:-$HOME/.cache}/polylora/models/all-MiniLM-L6-v2}

program() { # its name
    if [ -n "${OURS:-}" ]; then
        echo "$OURS/$1"
    else
        cargo bench --quiet -p polylora-benches --features "$features" --bench "$1" --no-run --message-format=json |
            sed -n "s/.*\"name\":\"$1\".*\"executable\":\"\([^\"]*\)\".*/\1/p" | tail -n 1
    fi
}

if [ "${CHECK:-0}" = 1 ]; then
    if [ -x "${OURS:-}/gpu_ops" ]; then
        "$OURS/gpu_ops"
    else
        cargo test -p polylora-kernels --features "$features" --test gpu_ops
    fi
fi
rm -f "$out"/*.jsonl
for part in ${PARTS:-kernels forward}; do
    ours=$(program "gpu_$part")
    [ -x "$ours" ] || { echo "there is no program gpu_$part ($ours)" >&2; exit 1; }
    extra=
    case $part in
        kernels) extra=${KERNELS:-} ;;
        forward) extra=${FORWARD:-} ;;
    esac
    model_option=
    # Ours looks for the model by itself where the cache has none.
    [ "$part" = forward ] && [ -d "$model" ] && model_option="--model $model"
    round=1
    while [ "$round" -le "${ROUNDS:-2}" ]; do
        echo "$part, round $round: polylora" >&2
        # shellcheck disable=SC2086 # options are words
        "$ours" --device "$device" --dtype "$dtypes" --seconds "$seconds" --json $model_option $extra ${OURS_ONLY:-} \
            >"$out/$part-ours-$round.jsonl"
        echo "$part, round $round: others" >&2
        # shellcheck disable=SC2086
        "$python" "$here/gpu_peers.py" --part "$part" --dtype "$dtypes" --seconds "$seconds" $model_option $extra \
            ${THEIRS_ONLY:-} >"$out/$part-theirs-$round.jsonl"
        round=$((round + 1))
    done
done
"$python" "$here/gpu_table.py" "$out"/*.jsonl | tee "$out/tables.md"
