"""Streams the demo model's texts through a running cluster, one per domain, and compares with what transformers wrote.

usage: stream_demo_texts.py MODEL_FOLDER DATA_DIR     exit status 1 when a text differs
"""
import json
import pathlib
import sys

import troupe


def stream(cluster, case, max_tokens):
    """Prints the answer as it comes; returns its token ids without the end token."""
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    print(f"\n[{case['domain']}] {case['prompt']}{bold}", end="")
    ids = []
    for token in cluster.generate(case["prompt"], max_new_tokens=max_tokens, temperature=0.0):
        print(token.text, end="", flush=True)
        ids.append(token.id)
    print(plain)
    return ids[: len(case["ids"])]


def main():
    model, data_dir = pathlib.Path(sys.argv[1]), sys.argv[2]
    reference = json.loads((model / "greedy_texts.json").read_text())
    # The longest of each: some answers end at once.
    one_per_domain = {case["domain"]: case for case in sorted(reference["prompts"], key=lambda c: len(c["ids"]))}
    differing = []
    with troupe.connect(data_dir=data_dir) as cluster:
        for case in one_per_domain.values():
            if stream(cluster, case, reference["max_tokens"]) != case["ids"]:
                differing.append(case["domain"])
    if differing:
        sys.exit(f"differs from transformers: {', '.join(differing)}")
    print(f"\n{len(one_per_domain)} texts, token by token what transformers computes from the same files.")


if __name__ == "__main__":
    main()
