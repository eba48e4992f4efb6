#!/usr/bin/env bash
# Generates the Python client's protobuf modules from proto/. The results are committed, so that the wheel needs no compiler.
#   scripts/generate_python_proto.sh           writes client/python/troupe/_proto
#   scripts/generate_python_proto.sh --check   says whether the committed modules are what would be written (exit 1: not)
set -euo pipefail
cd "$(dirname "$0")/.."

target=client/python/troupe/_proto
# Code of this generation runs on every protobuf runtime from 4.21 on; a newer protoc would shut older runtimes out.
wanted="libprotoc 3.21.12"
found=$(protoc --version)
if [ "$found" != "$wanted" ]; then
  echo "error: protoc is '$found', the committed modules come from '$wanted'; install Debian 12's protobuf-compiler" >&2
  exit 2
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The files are renamed to troupe/_proto/*.proto: the imports of the generated modules then fit the package, and the names
# in protobuf's process-wide descriptor pool cannot collide with another package's proto/common.proto.
mkdir -p "$work/in/troupe/_proto" "$work/out"
for name in common client_router; do
  sed 's#import "proto/#import "troupe/_proto/#' "proto/$name.proto" >"$work/in/troupe/_proto/$name.proto"
done
(cd "$work/in" && protoc -I. --python_out="$work/out" --pyi_out="$work/out" troupe/_proto/*.proto)

if [ "${1:-}" = --check ]; then
  for file in "$work"/out/troupe/_proto/*; do
    cmp "$file" "$target/$(basename "$file")" || {
      echo "error: $target is older than proto/; run scripts/generate_python_proto.sh" >&2
      exit 1
    }
  done
  echo "$target is fresh"
else
  cp "$work"/out/troupe/_proto/* "$target/"
fi
