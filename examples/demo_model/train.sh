#!/usr/bin/env bash
# Trains the demo model again from nothing and replaces the files in this folder: fetches the texts (Debian's
# archive) and PyTorch (PyPI), then trains (about 40 minutes of one core for both models). Goes on where it was when it is started again.
#   examples/demo_model/train.sh [WORK_FOLDER]
set -euo pipefail
cd "$(dirname "$0")/../.."
here=examples/demo_model
work=${1:-build/demo_model}
python=$work/venv/bin/python

mkdir -p "$work"
scripts/python_env.sh "$work/venv" -- -r "$here/requirements.txt"
[ -e "$work/tokenizer.json" ] || "$python" $here/train_data.py --work "$work"
for kind in moe dense; do "$python" $here/train.py $kind --work "$work"; done
"$python" $here/train_export.py --work "$work" --to $here
"$python" $here/train_report.py --work "$work" --model $here
