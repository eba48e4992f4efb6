#!/usr/bin/env bash
# The installed C++ client is complete: find_package(troupe), the pkg-config file, and nothing but its own names outside.
#   package_test.sh BUILD_FOLDER COMPILER
set -euo pipefail
build=$1 compiler=$2
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cmake --install "$build" --prefix "$work/prefix" --component client >/dev/null
library=$(find "$work/prefix" -name 'libtroupe-client.so' | head -n 1)
package_config=$(dirname "$(find "$work/prefix" -name troupe-client.pc)")

cmake -G Ninja -S "$here/package" -B "$work/cmake" -DCMAKE_PREFIX_PATH="$work/prefix" -DCMAKE_CXX_COMPILER="$compiler" >/dev/null
cmake --build "$work/cmake" >/dev/null
"$work/cmake/stranger"
echo "ok: find_package(troupe)"

sed -i "s#^prefix=.*#prefix=$work/prefix#" "$package_config/troupe-client.pc"
export PKG_CONFIG_PATH=$package_config
# shellcheck disable=SC2046 # the flags are several words
"$compiler" "$here/package/stranger.cpp" $(pkg-config --cflags --libs troupe-client) -o "$work/stranger"
LD_LIBRARY_PATH=$(dirname "$library") "$work/stranger" >/dev/null
echo "ok: pkg-config"

foreign=$(nm -DC --defined-only "$library" | grep -v ' troupe::client::\| for troupe::client::' | grep -vc ' A ' || true)
[ "$foreign" = 0 ] || { nm -DC --defined-only "$library" | grep -v 'troupe::client::' | head; echo "error: $foreign foreign names"; exit 1; }
echo "ok: only troupe::client is visible"
