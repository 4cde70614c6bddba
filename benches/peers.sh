#!/bin/sh
# Measures polylora in turn with ONNX Runtime, OpenVINO, PyTorch, sentence-transformers and PEFT on the CPU, one JSON object a
# line; benches/peer_table.py makes tables of them.
#
#   benches/peers.sh DIR [options of peers.py] >FILE       --preset library|avx2|adapters, --help for all
#   benches/peer_table.py [--peak f32=..,bf16=..,int8=..] FILE...
#
# DIR/venv is made from peers-requirements.txt when it is not there (about 3 GB; PIP_INDEX_URL etc. hold), and DIR/cache holds
# the graphs and adapters that are made for the others. The model comes from polylora's own cache, or from MODEL=DIR.
# OURS=PROGRAM is a lockstep program that was built before.
set -eu
[ $# -ge 1 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2; }
dir=$1; shift
here=$(cd "$(dirname "$0")" && pwd)
if [ ! -x "$dir/venv/bin/python" ]; then
    python3 -m venv "$dir/venv"
    "$dir/venv/bin/pip" install --quiet -r "$here/peers-requirements.txt"
fi
ours=${OURS:-$(cd "$here/.." && cargo bench --quiet -p polylora-benches --bench lockstep --no-run --message-format=json |
    sed -n 's/.*"name":"lockstep".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)}
model=${MODEL:-$("$ours" </dev/null | sed -n 's/.*"model":"\([^"]*\)".*/\1/p')}
HF_HUB_OFFLINE=1 exec "$dir/venv/bin/python" "$here/peers.py" --model "$model" --ours "$ours" --cache "$dir/cache" "$@"
