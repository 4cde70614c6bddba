#!/usr/bin/env bash
# What a program with the cuda feature does on a machine without NVIDIA's driver: it starts, `--device auto` takes the CPU,
# `--device cuda` is refused in one sentence. The driver is loaded at run time, so linking alone does not show this.
#
#   .ci/cuda-without-driver.sh target/debug/polylora
set -euo pipefail
program=$(realpath "${1:?the program}")
cd "$(dirname "$0")/.."
model=tests/fixtures/encoders/bert/model

if [[ $(PATH=$PATH:/sbin ldconfig -p) == *libcuda.so* ]]; then
  echo "NOT RUN: this machine has NVIDIA's driver"
  exit 0
fi

"$program" --version

# Runs `embed` on a device; output and exit status go into $said and $status.
embed() {
  status=0
  said=$("$program" embed --embedding-model "$model" --device "$1" "a text" 2>&1) || status=$?
  if [[ $said == *panicked* ]]; then
    printf -- '--device %s panicked:\n%s\n' "$1" "$said"
    exit 1
  fi
}

embed auto
[ "$status" = 0 ] || { printf -- '--device auto ended with %s:\n%s\n' "$status" "$said"; exit 1; }
echo "--device auto: an embedding on the CPU"
embed cuda
[ "$status" != 0 ] || { echo "--device cuda did not fail"; exit 1; }
[[ $said == *"this machine has 0 such device"* ]] || { printf -- '--device cuda says something else:\n%s\n' "$said"; exit 1; }
printf -- '--device cuda: %s\n' "$said"
