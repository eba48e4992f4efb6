"""A golden model whose experts live in the running cluster gives the recorded logits and greedy tokens.

usage: check_cluster.py FAMILY DATA_DIR     exit status 1 when it does not
"""

from __future__ import annotations

import sys

import torch
import troupe
from goldens import GOLDENS, greedy_matches, load_local, logits_difference

TOLERANCE = 2e-5  # of the largest absolute logit; the cluster computes in f32


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    family, data_dir = sys.argv[1:]
    good = True
    with troupe.connect(data_dir=data_dir) as cluster:
        models = {
            "attach": troupe.hf.attach(load_local(family), cluster),
            "load": troupe.hf.load(GOLDENS / family, cluster, dtype=torch.float32),
        }
        for verb, model in models.items():
            difference = logits_difference(model, family)
            try:
                greedy, right = f"{greedy_matches(model, family)} continuations identical", True
            except AssertionError as mismatch:
                greedy, right = f"DIFFER: {mismatch}", False
            right = right and difference <= TOLERANCE
            good = good and right
            logits = f"logits off by {difference:.1e} (at most {TOLERANCE:.0e})"
            print(f"{family:>10} {verb:>6}: {logits}, {greedy}  {'ok' if right else 'WRONG'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
