"""The same MoE layer through hivemind's remote experts and through a Troupe cluster, in one run, taken in turns.

    compare.py [--rows 1,8,64,512] [--calls 7] [--handlers 2,0]

Layer: hidden 2048, width 1024, 64 experts, top-8, bf16, three servers each. hivemind is asked in three ways (callers.py): by its
layer behind a gate that the caller has computed, and in the best case that its parts allow, where answers must be Troupe's; and
by its layer with its own gate, next to Troupe with its own. Servers are started anew for each number of handler processes, 0
being hivemind's default. Prints median milliseconds and how many times hivemind's rows/s Troupe's are; processes and memory;
then one server of each side is killed and all are asked again, with the error against the full answer.
"""
import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from scenario import LocalCluster, machine, numbers, proportional_bytes  # noqa: E402
from callers import BestCase, GivenGate, OwnGate, Servers  # noqa: E402  (support is on the path now)
from random_layer import EXPERTS, HIDDEN, TOP_K, WEIGHT_BYTES, make_weights, requests, write_checkpoint  # noqa: E402
from support.golden import TOLERANCE, relative_error  # noqa: E402

SERVERS = 3
SECONDS_PER_SIZE = 20


def process_trees(roots):
    """The pids of these processes and of all that they started."""
    table = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    children = {}
    for line in table.splitlines():
        pid, parent = map(int, line.split())
        children.setdefault(parent, []).append(pid)
    found = list(roots)
    for pid in found:  # grows while it is read
        found += children.get(pid, [])
    return found


def ask_troupe(client):
    """Troupe's side, as the others are asked: experts and weights are the caller's."""
    return lambda hidden, ids, weights: client.experts(0, hidden, ids.numpy().astype(np.int32), weights.numpy()).output.float()


def milliseconds(sides, rows, calls, same_gate):
    """{name: median} of `sides`, {name: function of a request}. Each side in turn gets a request twice and the second counts:
    during the first, processes of the side before come to rest. There are fewer than `calls` when they take long. `same_gate`:
    the answers must be equal."""
    times = {name: [] for name in sides}
    end = time.monotonic() + SECONDS_PER_SIZE
    for request in requests(rows, calls, rows):
        answers = {}
        for name, ask in sides.items():
            ask(*request)
            begin = time.perf_counter()
            answers[name] = ask(*request)
            times[name].append((time.perf_counter() - begin) * 1e3)
        for name, answer in answers.items():
            error = relative_error(answer, answers["Troupe"])
            if same_gate and error > TOLERANCE["bf16"]:
                raise SystemExit(f"error: {name} and Troupe disagree at {rows} rows: {error:.1e} of the peak")
        if time.monotonic() > end:
            break
    return {name: statistics.median(values) for name, values in times.items()}


def measure(sides, options, same_gate=True):
    theirs = [name for name in sides if name != "Troupe"]
    print("\n| rows | Troupe, ms | " + " | ".join(f"{name}, ms | times its rows/s" for name in theirs) + " |")
    print("|---|---|" + "---|---|" * len(theirs))
    for rows in options.rows:
        ms = milliseconds(sides, rows, options.calls, same_gate)
        print(f"| {rows} | {ms['Troupe']:.2f} | "
              + " | ".join(f"{ms[name]:.1f} | {ms[name] / ms['Troupe']:.1f}" for name in theirs) + " |", flush=True)


def report_memory(name, roots, copies):
    pids = process_trees(roots)
    print(f"{name}: {len(pids)} processes, {sum(map(proportional_bytes, pids)) / 1e9:.2f} GB for {copies} x "
          f"{WEIGHT_BYTES / 1e9:.2f} GB of weights")


def errors_without_a_server(sides, kill):
    """kill() takes one server away: how far the answers for the same rows then are from what they were."""
    request = next(requests(64, 1, 99))
    before = {name: ask(*request) for name, ask in sides.items()}
    kill()
    print("one server killed, error of the peak: "
          + ", ".join(f"{name} {relative_error(ask(*request), before[name]):.1e}" for name, ask in sides.items()))


def compare(cluster, folder, handlers, options):
    with Servers(folder, EXPERTS, SERVERS, handlers) as servers, cluster.connect() as client:
        print(f"\nhivemind with {handlers or 'its default number of'} handler processes per server; {machine()}")
        theirs = {"hivemind's layer": GivenGate(servers, HIDDEN, TOP_K).layer,
                  "hivemind's best case": BestCase(servers).layer}
        measure({"Troupe": ask_troupe(client), **theirs}, options)
        own_gate = OwnGate(servers, HIDDEN, TOP_K)
        measure({"Troupe": lambda hidden, *_: client.layer(0, hidden).output.float(),
                 "hivemind's layer with its own gate": lambda hidden, *_: own_gate.layer(hidden)}, options, same_gate=False)
        print()
        report_memory("hivemind", servers.pids(), 1)
        errors_without_a_server(theirs, servers.kill_one)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rows", type=numbers, default=[1, 8, 64, 512])
    arguments.add_argument("--calls", type=int, default=7)
    arguments.add_argument("--handlers", type=numbers, default=[2, 0], help="per hivemind server; 0: its own default")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="troupe-bench-") as name:
        folder = Path(name)
        weights = make_weights(7)
        write_checkpoint(folder, weights)
        torch.save(weights, folder / "weights.pt")
        del weights
        with LocalCluster(folder, folder / "cluster", expert_nodes=SERVERS, replication=2, dtype="bf16") as cluster:
            for handlers in options.handlers:
                compare(cluster, folder, handlers, options)
            report_memory("Troupe", [process["pid"] for process in cluster.context()["processes"]], 2)
            with cluster.connect() as client:
                errors_without_a_server({"Troupe": ask_troupe(client)}, lambda: cluster.kill("expert-1"))


if __name__ == "__main__":
    main()
