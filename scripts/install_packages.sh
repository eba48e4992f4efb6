#!/usr/bin/env bash
# Installs the Debian 12 packages of one purpose that are missing, as root or with sudo; says what it installs.
#   scripts/install_packages.sh build|python|checks
set -euo pipefail

case "${1:-}" in
  build)
    packages=(g++ cmake ninja-build ccache pkg-config protobuf-compiler libprotobuf-dev libcaf-dev libzmq3-dev libspdlog-dev
      libfmt-dev libcli11-dev libyaml-cpp-dev nlohmann-json3-dev libboost1.81-dev prometheus-cpp-dev libsqlite3-dev
      libsodium-dev libxxhash-dev libssl-dev libdnnl-dev libgtest-dev libgmock-dev libexpected-dev zlib1g-dev
      libpcre2-dev libutf8proc-dev libedit-dev) ;;
  python) packages=(python3 python3-venv) ;;
  checks) packages=(clang clang-format clang-tidy libclang-rt-14-dev libomp-dev python3 python3-yaml git) ;;
  *) echo "usage: scripts/install_packages.sh build|python|checks" >&2; exit 2 ;;
esac

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

sudo=""
if [ "$(id -u)" != 0 ]; then
  sudo=$(command -v sudo) || { echo "error: ${missing[*]} must be installed, and this is neither root nor is there sudo" >&2; exit 1; }
fi
echo "==> installing ${#missing[@]} Debian packages: ${missing[*]}"
$sudo apt-get update -qq
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
