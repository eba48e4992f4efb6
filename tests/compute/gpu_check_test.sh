#!/usr/bin/env bash
# scripts/gpu-check builds without warnings from what is in the repository and the toolkit alone, and says by name what it
# could not run.   usage: gpu_check_test.sh BUILD_FOLDER; exit status 77: passed, nothing ran on a GPU
set -uo pipefail
cd "$(dirname "$0")/../.."
build=$1
complain() { echo "FAILED: $*"; exit 1; }

output=$(CXXFLAGS=-Werror scripts/gpu-check --short --build "$build")
code=$?
echo "$output"
[ $code = 0 ] || [ $code = 77 ] || complain "exit status $code"
grep -q '^build  *passed' <<<"$output" || complain "the build is not in the table"
grep -q '^parity-on-loops  *passed.*44 passed, 0 failed' <<<"$output" || complain "parity on plain loops is not in the table"
[ $code = 0 ] || grep -q '^parity  *skipped .*cuda:0 cannot be used: ' <<<"$output" || complain "skipped without a reason"
! grep -qi 'warning' "$build/build.log" || complain "the build warns"
dependencies=$(find "$build" -name '*.d')
[ -n "$dependencies" ] || complain "no dependency file says what was included"
# shellcheck disable=SC2086
foreign=$(grep -hoE '/usr/(local/)?include/(tl|fmt|nlohmann|spdlog|gtest|caf|oneapi|openssl)/[^ ]*' $dependencies | sort -u)
[ -z "$foreign" ] || complain "headers of packages that a GPU machine need not have: $foreign"
exit $code
