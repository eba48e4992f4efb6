#!/usr/bin/env bash
# From a bare Debian 12 to streamed text: installs what is missing, builds, starts a coordinator, three expert nodes and a
# router on the model that the repository ships, streams three texts through them and compares them with what
# transformers wrote. As root or with sudo; can be run again.
#   ./quickstart.sh [--no-install]
set -euo pipefail
cd "$(dirname "$0")"
model=examples/demo_model
data_dir=${TROUPE_QUICKSTART_DIR:-$PWD/build/quickstart}
install_flag=${1:-}

step() { printf '\n==> %s\n' "$*"; }

step "1/5 building Troupe (a quarter of an hour the first time)"
scripts/build.sh $install_flag programs

step "2/5 making a Python environment in .venv and installing the client"
scripts/python_env.sh .venv $install_flag -- ./client/python

step "3/5 starting a cluster on $model: 4 layers x 16 experts on three expert nodes"
stop_cluster() { build/bin/troupe down --data-dir "$data_dir" || true; }
trap stop_cluster EXIT
build/bin/troupe down --data-dir "$data_dir" 2>/dev/null
build/bin/troupe up --model "$model" --expert-nodes 3 --dtype f32 --data-dir "$data_dir" --detach
build/bin/troupe node list --data-dir "$data_dir"

step "4/5 streaming text, every token through eight experts, while expert 0/0 moves to another node"
.venv/bin/python scripts/stream_demo_texts.py "$model" "$data_dir" &
streaming=$!
elsewhere=$(build/bin/troupe expert show 0/0 --data-dir "$data_dir" -o json |
  .venv/bin/python -c 'import json, sys; here = {r["node"] for r in json.load(sys.stdin)["replicas"]}; print(next(n for n in ("expert-0", "expert-1", "expert-2") if n not in here))')
build/bin/troupe expert migrate 0/0 --to "$elsewhere" --data-dir "$data_dir"
wait "$streaming"
build/bin/troupe op list --data-dir "$data_dir"

step "5/5 stopping the cluster"
trap - EXIT
build/bin/troupe down --data-dir "$data_dir"
cat <<'END'

It works. Next:
  build/bin/troupe up --model examples/demo_model --detach && build/bin/troupe chat
  build/bin/troupe up --model DIR      your own checkpoint; text of Mixtral, Qwen2-MoE, Qwen3-MoE and OLMoE, layers of five more
  docs/http-api.md                     the OpenAI-compatible HTTP API; client/python/README.md: the Python client
  ./tests/run.sh                       every test
END
