#!/usr/bin/env bash
# `cargo check` of every crate, without GPU features, for targets that this machine cannot run: types, borrows and `cfg`s are
# checked; nothing is linked, no test runs.
#
#   .ci/cross-check.sh CACHE    # CACHE/zig gets the C compiler; the target folder is cargo's as usual
#
# One dependency compiles C and assembly for the target when it is only checked: ring (TLS of `pull`). `zig cc` compiles
# it, from PyPI, with its own headers of each system; for Windows those are MinGW's, which a check does not mind.
# A target that cannot be tried is listed as NOT RUN and is no failure; one that does not check is.
set -euo pipefail
cache=$(realpath -m "${1:?a folder for the C compiler}")
cd "$(dirname "$0")/.."

zig_version=0.17.0
# Rust's name, zig's name, the archiver whose arguments cc-rs writes for it.
targets=(
  "aarch64-unknown-linux-gnu aarch64-linux-gnu ar"
  "aarch64-apple-darwin aarch64-macos ar"
  "x86_64-pc-windows-msvc x86_64-windows-gnu lib"
)

if [ "$("$cache/zig/bin/python" -m ziglang version 2>/dev/null)" != "$zig_version" ]; then
  if ! { python3 -m venv --clear "$cache/zig" &&
    "$cache/zig/bin/python" -m pip install -q --disable-pip-version-check "ziglang==$zig_version"; }; then
    echo "NOT RUN: no C compiler for other targets (ziglang $zig_version from PyPI could not be installed)"
    exit 0
  fi
fi

# The C compiler for one target: without cc-rs's words for the target and for folders of systems that are not here.
write_compiler() { # path, zig's name
  cat > "$1" <<SH
#!/bin/bash
arguments=()
while [ \$# -gt 0 ]; do
  case \$1 in
    --target=*|-mmacosx-version-min=*) ;;
    -target|-arch|-isysroot) shift ;;
    *) arguments+=("\$1") ;;
  esac
  shift
done
exec "$cache/zig/bin/python" -m ziglang cc -target $2 "\${arguments[@]}"
SH
  chmod +x "$1"
}

write_archiver() { # path, ar or lib
  printf '#!/bin/sh\nexec "%s" -m ziglang %s "$@"\n' "$cache/zig/bin/python" "$2" > "$1"
  chmod +x "$1"
}

checked=() not_run=() failed=()
for pair in "${targets[@]}"; do
  read -r target zig archiver <<< "$pair"
  if ! rustc --print target-libdir --target "$target" 2>/dev/null | xargs -r test -d; then
    rustup target add "$target" || { not_run+=("$target"); continue; }
  fi
  tool=$cache/zig/bin/$target
  write_compiler "$tool-cc" "$zig"
  write_archiver "$tool-ar" "$archiver"
  if env "CC_${target//-/_}=$tool-cc" "AR_${target//-/_}=$tool-ar" \
    cargo check --workspace --locked --target "$target"; then
    checked+=("$target")
  else
    failed+=("$target")
  fi
done

echo "checked, not linked and not run: ${checked[*]:-none}"
[ ${#not_run[@]} = 0 ] || echo "NOT RUN: the standard library could not be installed (rustup target add) for: ${not_run[*]}"
[ ${#failed[@]} = 0 ] || { echo "does not check: ${failed[*]}"; exit 1; }
