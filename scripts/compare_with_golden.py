#!/usr/bin/env python3
"""Sends the inputs of a golden checkpoint through a running cluster and compares the answers with the reference.

usage: compare_with_golden.py GOLDEN_FOLDER DATA_DIR     exit status 1 when an answer is further off than it may be
"""
import json
import pathlib
import re
import struct
import sys
import time

import numpy as np

import troupe

TOLERANCE = 2e-5  # of the reference's largest absolute value; the cluster computes in f32
TYPES = {"F32": np.float32, "I32": np.int32, "U8": np.uint8}


def read_safetensors(path):
    raw = path.read_bytes()
    begin = 8 + struct.unpack("<Q", raw[:8])[0]
    tensors = {}
    for name, entry in json.loads(raw[8:begin]).items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            values = np.frombuffer(raw[begin + first:begin + last], TYPES[entry["dtype"]])
            tensors[name] = values.reshape(entry["shape"])
    return tensors


def layers_of(tensors):
    """(layer as the client names it, prefix of its tensors) for every MoE layer."""
    for name in sorted(tensors):
        match = re.fullmatch(r"((?:encoder\.|decoder\.)?)layer\.(\d+)\.input", name)
        if match:
            yield match[1] + match[2], name[: -len(".input")]


def relative_error(answer, reference):
    return float(np.abs(answer - reference).max() / np.abs(reference).max())


def main():
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    reference = read_safetensors(pathlib.Path(sys.argv[1]) / "layers.safetensors")
    bad = 0
    print(f"{'layer':>10} {'rows':>5} {'experts':>9} {'routed output':>14} {'block output':>13} {'took':>9}  verdict")
    with troupe.connect(data_dir=sys.argv[2]) as cluster:
        for layer, prefix in layers_of(reference):
            hidden = reference[f"{prefix}.input"]
            begin = time.perf_counter()
            answer = cluster.layer(layer, hidden)
            took = time.perf_counter() - begin
            ids = reference[f"{prefix}.expert_ids"]
            same = bool((np.sort(answer.expert_ids, 1) == np.sort(ids, 1)).all())
            routed = relative_error(answer.routed_output, reference[f"{prefix}.routed_output"])
            block = relative_error(answer.output, reference[f"{prefix}.block_output"])
            good = same and routed <= TOLERANCE and block <= TOLERANCE and not answer.flags.any()
            bad += not good
            print(f"{layer:>10} {len(hidden):>5} {'the same' if same else 'DIFFER':>9} {routed:>14.1e} {block:>13.1e} "
                  f"{took * 1000:>6.1f} ms  {'ok' if good else 'TOO FAR OFF'}")
    print(f"\nlargest deviation allowed: {TOLERANCE:.0e} of the reference's largest absolute value")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
