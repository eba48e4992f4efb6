#!/usr/bin/env bash
# Installs missing Debian packages (as root or with sudo) and builds Release into build/, programs in build/bin/.
# Can be run again: what did not change is neither installed nor built.
#   scripts/build.sh [--preset release|debug|asan-ubsan|tsan] [--no-install] [TARGET...]
set -euo pipefail
cd "$(dirname "$0")/.."
# Cached objects serve every clone on the machine, wherever it lies.
export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1

preset=release
install=yes
targets=()
while [ $# -gt 0 ]; do
  case "$1" in
    --preset) preset=${2:?--preset needs a name}; shift 2 ;;
    --no-install) install=no; shift ;;
    -*) echo "error: unknown argument $1; usage: scripts/build.sh [--preset NAME] [--no-install] [TARGET...]" >&2; exit 2 ;;
    *) targets+=("$1"); shift ;;
  esac
done

[ "$install" = no ] || scripts/install_packages.sh build

# A compiler of this code takes up to 1.5 GiB: fewer at once where memory is short.
available_mib=$(awk '/MemAvailable/ {print int($2 / 1024)}' /proc/meminfo)
jobs=$(nproc)
[ $((available_mib / 1500)) -ge "$jobs" ] || jobs=$((available_mib / 1500))
[ "$jobs" -ge 1 ] || jobs=1

echo "==> building (preset $preset, $jobs jobs)"
cmake --preset "$preset" >/dev/null
cmake --build --preset "$preset" -j "$jobs" ${targets[@]:+--target "${targets[@]}"}
