#!/bin/sh
# Measures polylora in turn with sentence-transformers, PyTorch, ONNX Runtime and PEFT on the CPU, one JSON object a line.
#
#   benches/peers.sh DIR [options of peers.py]
#
# DIR/venv is made from peers-requirements.txt when it is not there (about 3 GB; PIP_INDEX_URL etc. hold). The model comes
# from polylora's own cache, or from MODEL=DIR. THREADS sets the threads of everyone [default: all cores].
set -eu
[ $# -ge 1 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
dir=$1; shift
here=$(cd "$(dirname "$0")" && pwd)
if [ ! -x "$dir/venv/bin/python" ]; then
    python3 -m venv "$dir/venv"
    "$dir/venv/bin/pip" install --quiet -r "$here/peers-requirements.txt"
fi
ours=$(cd "$here/.." && cargo bench --quiet -p polylora-benches --bench lockstep --no-run --message-format=json |
    sed -n 's/.*"name":"lockstep".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
model=${MODEL:-$("$ours" </dev/null | sed -n 's/.*"model":"\([^"]*\)".*/\1/p')}
HF_HUB_OFFLINE=1 exec "$dir/venv/bin/python" "$here/peers.py" --model "$model" --ours "$ours" \
    --threads "${THREADS:-$(nproc)}" "$@"
