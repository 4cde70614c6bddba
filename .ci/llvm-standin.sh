#!/usr/bin/env bash
# Debian's LLVM in the place of the LLVM that `--features cuda` downloads.
#
# cubecl-cuda links cubecl-llvm whichever way its kernels are compiled, and cubecl-llvm's build script fetches a bundle
# of LLVM 23 from GitHub unless that bundle is installed already. On a network that has only package registries this
# script installs LLVM 22 from Debian (bookworm has it in bookworm-security, trixie and later in main) and lays out a
# folder that passes for the bundle: a marker file, and a `llvm-config` that answers for Debian's. The C interface that
# is called is in both versions. The route that is shipped and proved goes through NVRTC, not through this LLVM.
#
#   exports=$(.ci/llvm-standin.sh [DIR])    # DIR: where the folder goes, ~/.cache/llvm-standin without
#   eval "$exports"                         # then: cargo check -p polylora-server --features cuda
#
# Standard output is the exports and nothing else. A second call does nothing. A bundle that was downloaded stays in use.
set -euo pipefail

llvm=/usr/lib/llvm-22
# gcc and g++: the build script compiles LLVM's C++ headers; the rest is what `llvm-config --libs --system-libs` names.
packages=(gcc g++ llvm-22-dev libpolly-22-dev libzstd-dev zlib1g-dev libz3-dev libxml2-dev)
# The toolkit whose interface cudarc binds where no toolkit is installed: that of tests/cuda/requirements.txt.
cuda_version=12080

die() { printf 'llvm-standin: %s\n' "$*" >&2; exit 1; }
is_installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

lock=$(dirname "$0")/../Cargo.lock
version=$(awk '/^name = "tracel-llvm-bundler"$/ { getline; gsub(/^version = |"/, ""); print; exit }' "$lock")
[ -n "$version" ] || die "Cargo.lock names no tracel-llvm-bundler: does the cuda feature still need LLVM?"
case $version in
  23.*) ;;
  *) die "Cargo.lock has tracel-llvm-bundler $version; LLVM 22 is known to stand in for 23 only" ;;
esac
bundle=tracel/tracel-llvm-$version
marker=.tracel-llvm-installed

real=${XDG_DATA_HOME:-$HOME/.local/share}
if [ -e "$real/$bundle/$marker" ]; then
  printf 'export XDG_DATA_HOME=%q CUDARC_CUDA_VERSION=%s\n' "$real" "$cuda_version"
  exit
fi

missing=()
if command -v dpkg-query >/dev/null; then
  for package in "${packages[@]}"; do is_installed "$package" || missing+=("$package"); done
else
  die "this is no Debian: install LLVM by letting the build download it (allow github.com), or run this on Debian 12 or newer"
fi
if [ ${#missing[@]} -gt 0 ]; then
  [ "$(id -u)" = 0 ] || die "not root, and these packages are missing: run  sudo apt-get install ${missing[*]}"
  {
    echo "llvm-standin: installing ${missing[*]}"
    apt-get update -qq || echo "llvm-standin: apt-get update failed; going on with the lists there are"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
  } >&2 || die "apt-get could not install ${missing[*]} (Debian 12 needs bookworm-security among its sources)"
fi
[ -x $llvm/bin/llvm-config ] || die "$llvm/bin/llvm-config is not there although llvm-22-dev is installed"

dir=$(realpath -m "${1:-${XDG_CACHE_HOME:-$HOME/.cache}/llvm-standin}")
home=$dir/$bundle
mkdir -p "$home/bin"
# Debian prints z3 as the path of a shared object; the build script takes names only.
cat > "$home/bin/llvm-config.new" <<SH
#!/bin/sh
set -e
answer=\$($llvm/bin/llvm-config "\$@")
printf '%s\n' "\$answer" | sed -E 's#(^| )/[^ ]*/lib([A-Za-z0-9_+-]+)\.so#\1-l\2#g'
SH
chmod +x "$home/bin/llvm-config.new"
mv "$home/bin/llvm-config.new" "$home/bin/llvm-config"
# Cargo builds again what depends on the marker when its time changes.
[ -e "$home/$marker" ] || touch "$home/$marker"
printf 'export XDG_DATA_HOME=%q CUDARC_CUDA_VERSION=%s\n' "$dir" "$cuda_version"
