#!/usr/bin/env bash
# Installs missing Debian packages (as root or with sudo) and builds Release into build/, programs in build/bin/.
#   scripts/build.sh [--preset release|debug|asan-ubsan|tsan] [--no-install]
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(g++ cmake ninja-build ccache pkg-config protobuf-compiler libprotobuf-dev libcaf-dev libzmq3-dev libspdlog-dev
  libfmt-dev libcli11-dev libyaml-cpp-dev nlohmann-json3-dev libboost1.81-dev prometheus-cpp-dev libsqlite3-dev
  libsodium-dev libxxhash-dev libssl-dev libdnnl-dev libgtest-dev libgmock-dev libexpected-dev zlib1g-dev
  libcurl4-openssl-dev)
preset=release
install=yes
while [ $# -gt 0 ]; do
  case "$1" in
    --preset) preset=$2; shift 2 ;;
    --no-install) install=no; shift ;;
    *) echo "error: unknown argument $1; usage: scripts/build.sh [--preset NAME] [--no-install]" >&2; exit 2 ;;
  esac
done

if [ "$install" = yes ]; then
  missing=()
  for package in "${packages[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
  done
  if [ ${#missing[@]} -gt 0 ]; then
    echo "==> installing ${#missing[@]} Debian packages: ${missing[*]}"
    sudo=""
    [ "$(id -u)" = 0 ] || sudo=sudo
    $sudo apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  fi
fi

echo "==> building (preset $preset)"
cmake --preset "$preset" >/dev/null
cmake --build --preset "$preset" -j "$(nproc)"
