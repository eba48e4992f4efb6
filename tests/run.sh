#!/usr/bin/env bash
# Installs what is missing, builds, runs every test and ends with a table. As root or with sudo on Debian 12; can be run
# again (the second run builds nothing that did not change).
#   --quick          unit tests and client tests only
#   --tsan           also the concurrent parts under ThreadSanitizer
#   --hf             also the comparison with transformers (downloads torch; its own virtual environment)
#   --soak SECONDS   the mixed-load runs with random faults last this long each (layers: 600, text: 1800 are the goals)
#   --no-install     do not touch the system's packages
#   --no-sanitizers  leave out the ASan+UBSan build (unit tests and fuzz targets)
set -uo pipefail
cd "$(dirname "$0")/.."
export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1  # as scripts/build.sh

quick=no tsan=no hf=no soak=0 install=() sanitizers=yes
while [ $# -gt 0 ]; do
  case "$1" in
    --quick) quick=yes; shift ;;
    --tsan) tsan=yes; shift ;;
    --hf) hf=yes; shift ;;
    --soak) soak=${2:?--soak needs seconds}; shift 2 ;;
    --no-install) install=(--no-install); shift ;;
    --no-sanitizers) sanitizers=no; shift ;;
    *) echo "error: unknown argument $1; see the head of tests/run.sh" >&2; exit 2 ;;
  esac
done

results=build/test-results
fuzz_seconds=3
step() { printf '\n==> %s\n' "$*"; }

suite() {  # suite NAME COMMAND...: runs it; XML reports go to $RESULTS
  local name=$1 begin=$SECONDS code=0
  shift
  export RESULTS=$PWD/$results/$name
  mkdir -p "$RESULTS"
  step "$name"
  "$@" || code=$?
  echo "$code $((SECONDS - begin))" >"$RESULTS/status"
  return 0
}

unit_tests() {  # BUILD_FOLDER [LIST]: every GoogleTest program that ctest knows there, or those that the file names
  GTEST_OUTPUT="xml:$RESULTS/" ctest --test-dir "$1" ${2:+-R "^($(paste -sd'|' "$2"))$"} -j "$(nproc)" --output-on-failure --no-tests=error
}

pytest_in() {  # FOLDER ARGUMENTS...
  local folder=$1
  shift
  (cd "$folder" && "$OLDPWD/.venv-test/bin/python" -m pytest -p no:cacheprovider --junitxml="$RESULTS/pytest.xml" "$@")
}

fuzz() {  # each target for a few seconds, beginning with its corpus
  local target code=0
  for target in build-fuzz/bin/*_fuzz; do
    local name corpus
    name=$(basename "$target")
    corpus=tests/fuzz/seeds/${name%_fuzz}
    mkdir -p "build-fuzz/found/$name"
    printf '  %-28s' "$name"
    if "$target" -max_total_time=$fuzz_seconds -rss_limit_mb=2048 -timeout=10 -artifact_prefix="build-fuzz/found/$name/" \
      "build-fuzz/found/$name" $([ -d "$corpus" ] && echo "$corpus") >"$RESULTS/$name.log" 2>&1; then
      echo "ok ($(grep -aoE '#[0-9]+' "$RESULTS/$name.log" | tail -n 1 | tr -d '#') runs)"
      echo '<testsuite><testcase name="fuzz"/></testsuite>' >"$RESULTS/$name.xml"
    else
      echo "FAILED"
      tail -n 30 "$RESULTS/$name.log"
      echo '<testsuite><testcase name="fuzz"><failure/></testcase></testsuite>' >"$RESULTS/$name.xml"
      code=1
    fi
  done
  return $code
}

rm -rf "$results"
step "building"
scripts/build.sh "${install[@]}" || exit 1
[ "$quick" = yes ] || [ ${#install[@]} -gt 0 ] || scripts/install_packages.sh checks || exit 1
scripts/python_env.sh .venv-test "${install[@]}" -- pytest pytest-timeout pytest-rerunfailures pyyaml ml_dtypes openai==3.57.0 ./client/python || exit 1

suite unit unit_tests build
suite client pytest_in tests/client/python --timeout 120
suite openai pytest_in tests/client/openai --timeout 120
if [ "$quick" = no ]; then
  # Many processes on a machine that others use too: a test that fails is tried once more, and named in the table.
  suite cluster pytest_in tests/cluster --timeout 600 --reruns 1 --soak-seconds "$soak"
fi
if [ "$quick" = no ] && [ "$sanitizers" = yes ]; then
  step "building with ASan and UBSan, and the fuzz targets"
  cmake --preset fuzz >/dev/null && cmake --build --preset fuzz -j "$(nproc)" --target sanitized_tests || exit 1
  suite asan-ubsan unit_tests build-fuzz tests/sanitized_tests.txt
  suite fuzz fuzz
fi
if [ "$tsan" = yes ]; then
  step "building with TSan"
  cmake --preset tsan >/dev/null && cmake --build --preset tsan -j "$(nproc)" --target tsan_tests || exit 1
  TSAN_OPTIONS="suppressions=$PWD/tests/tsan.supp halt_on_error=1" suite tsan unit_tests build-tsan tests/tsan_tests.txt
fi
if [ "$hf" = yes ]; then
  suite hf tests/client/hf/run.sh "${install[@]}" --timeout 1200 --junitxml="$PWD/$results/hf/pytest.xml"
fi

python3 tests/summary.py "$results"
