"""What both comparisons with llama.cpp share: the random checkpoint of both sides, the cluster, prompts, how figures are read."""
import contextlib
import os
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from scenario import LocalCluster, proportional_bytes  # noqa: E402
import random_mixtral  # noqa: E402  (support is on the path now)

VOCABULARY = random_mixtral.CONFIG["vocab_size"]


def prompt(count, *seed):
    """[count] random token ids without the special ones."""
    return [int(token) for token in np.random.default_rng(seed).integers(2, VOCABULARY, count)]


def keep_to_cores(count):
    """This process and all that it starts run on so many cores, whatever else the machine has."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


@contextlib.contextmanager
def checkpoints():
    """A folder with the same weights twice, removed at the end: model.gguf, and Hugging Face files in model/."""
    with tempfile.TemporaryDirectory(prefix="troupe-llama-") as name:
        folder = Path(name)
        weights = random_mixtral.make_tensors(1)
        random_mixtral.write_hugging_face(folder / "model", weights)
        random_mixtral.write_gguf(folder / "model.gguf", weights)
        del weights
        yield folder


def start_cluster(folder, threads):
    """Of three expert nodes, on what checkpoints() made; a context manager."""
    return LocalCluster(folder / "model", folder / "data", dtype="bf16", router_threads=threads)


def cluster_bytes(cluster):
    """Memory of all of its processes."""
    return sum(proportional_bytes(process["pid"]) for process in cluster.context()["processes"])


def ratio(pairs):
    """Median over the rounds of ours over theirs; `pairs`: (theirs, ours) of each round."""
    return statistics.median(ours / theirs for theirs, ours in pairs)
