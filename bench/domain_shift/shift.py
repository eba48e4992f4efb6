"""Prose, then code, then sums through a cluster of three nodes: static placement, EPLB every N seconds, Troupe's balancing policy.

    shift.py [--seconds 60] [--contenders static,eplb,troupe] [--quick] [--work build/demo_model]
             [--keep build/domain_shift] [--plot docs/domain_shift.svg]

Each contender gets a cluster of its own with the same slots, the same streams (by seed) and the same phases, one after the other;
what was seen is kept as FOLDER/NAME.json, so that contenders can be run at different times and reported together (--report).
Every two seconds: rows of each layer that each node computed (imbalance: most over mean of the nodes, minus 1). All the time
one client asks single experts for one row, in turns: how long rows of an expert wait.

A cold expert has less than 5 % of its fair share of the rows before a shift. It has a problem when in the phase after the shift its
rows wait more than twice the median of all experts' rows, or when one is not answered exactly.
"""
import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from scenario import (DEMO_MODEL, DOMAINS, ROOT, LocalCluster, Recorder, Streams, Texts, by_layer_and_expert, draw, machine,  # noqa: E402
                      metrics)
from domain_shift.eplb import EplbEvery  # noqa: E402
from support.load import Clients  # noqa: E402

LAYERS, EXPERTS, HIDDEN, NODES = 4, 16, 256, 3
SLOTS_PER_LAYER = 18
"""Two more than experts, as EPLB's published setting has one eighth more; of a node: LAYERS * SLOTS_PER_LAYER / NODES."""
COLD_SHARE, SLOW_FACTOR = 0.05, 2.0
CONTENDERS = {"static": "static placement", "eplb": "EPLB every N", "troupe": "Troupe, --policies balance"}


class Probe(Clients):
    """As a context manager: asks each expert in turns for one row. `waits`: [(time, "L/E", seconds, exact)]."""

    def __init__(self, cluster):
        super().__init__(1, None)
        self.cluster, self.waits = cluster, []

    def _run(self, _):
        row = np.random.default_rng(5).standard_normal((1, HIDDEN), dtype=np.float32)
        with self.cluster.connect() as client:
            for turn in range(10**9):
                layer, expert = divmod(turn % (LAYERS * EXPERTS), EXPERTS)
                begin = time.monotonic()
                try:
                    answer = client.experts(layer, row, np.array([[expert]], np.int32), np.ones((1, 1), np.float32))
                    exact = not answer.flags.any()
                except Exception:  # whatever the client raises: the row was not answered
                    exact = False
                self.waits.append((begin, f"{layer}/{expert}", time.monotonic() - begin, exact))
                if self._stop.wait(0.02):
                    return


def look_at(cluster, nodes):
    """Rows by node, layer and expert so far; what masked experts would have had; bundles loaded."""
    rows, loads = np.zeros((NODES, LAYERS, EXPERTS)), 0
    for n, url in enumerate(nodes):
        found = metrics(url, "moe_expert_tokens_total", "moe_expert_loads_total")
        rows[n] = by_layer_and_expert(found["moe_expert_tokens_total"], LAYERS, EXPERTS)
        loads += sum(found["moe_expert_loads_total"].values())
    masked = metrics(cluster.http, "moe_masked_gate_mass_total")["moe_masked_gate_mass_total"]
    return {"rows": rows.tolist(), "masked": sum(masked.values()), "loads": loads}


def run_phases(cluster, texts, seconds, recorder, probe):
    """[{domain, begin, end, tokens, gaps}], times of the recorder."""
    phases = []
    with Streams(cluster, texts, [DOMAINS[0]], count=6) as streams:
        offset = time.monotonic() - recorder.now()
        for domain in DOMAINS:
            streams.domains = (domain,)
            recorder.mark(domain)
            begin, before = recorder.now(), streams.tokens
            streams.take_gaps()
            time.sleep(seconds)
            phases.append({"domain": domain, "begin": begin, "end": recorder.now(), "tokens": streams.tokens - before,
                           "gaps": [gap for _, gap in streams.take_gaps()]})
    if streams.failures:
        raise SystemExit(f"error: {len(streams.failures)} texts failed: {streams.failures[0]}")
    for phase in phases:
        phase["waits"] = [wait[1:] for wait in probe.waits if phase["begin"] <= wait[0] - offset < phase["end"]]
        phase["approximate"] = streams.approximate
    return phases


def measure(name, texts, options):
    flags = {"policies": "balance"} if name == "troupe" else {}
    print(f"{CONTENDERS[name]}: {machine()}", flush=True)
    with LocalCluster(DEMO_MODEL, expert_nodes=NODES, slots=LAYERS * SLOTS_PER_LAYER // NODES, **flags) as cluster:
        nodes = ["http://" + node["http"] for node in cluster.nodes().values() if node["role"] == "expert"]
        eplb = EplbEvery(cluster, options.every, LAYERS, EXPERTS, SLOTS_PER_LAYER)
        with Probe(cluster) as probe, Recorder(lambda: look_at(cluster, nodes)) as recorder:
            if name == "eplb":
                with eplb:
                    phases = run_phases(cluster, texts, options.seconds, recorder, probe)
            else:
                phases = run_phases(cluster, texts, options.seconds, recorder, probe)
        operations = [o["why"] for o in cluster.json("op", "list")["items"] if o.get("why")]
    return {"name": name, "machine": machine(), "every": options.every, "phases": phases, "samples": recorder.samples,
            "marks": recorder.marks, "rounds": eplb.rounds, "reasons": operations[-3:]}


def imbalance(samples):
    """(times, values): mean over the layers of most over mean of the nodes' rows, minus 1, between two samples."""
    times, values = [], []
    for before, after in zip(samples, samples[1:]):
        rows = (np.array(after["rows"]) - np.array(before["rows"])).sum(2)  # [node, layer]
        if rows.sum(0).min() > 0:
            times.append((before["t"] + after["t"]) / 2)
            values.append(float((rows.max(0) / rows.mean(0)).mean() - 1))
    return np.array(times), np.array(values)


def rows_between(samples, begin, end):
    """[LAYERS, EXPERTS] rows computed by all nodes."""
    inside = [sample for sample in samples if begin <= sample["t"] <= end]
    return (np.array(inside[-1]["rows"]) - np.array(inside[0]["rows"])).sum(0)


def cold_problems(run):
    """(cold experts, those with a problem), summed over the shifts."""
    cold_count = problems = 0
    for before, after in zip(run["phases"], run["phases"][1:]):
        rows = rows_between(run["samples"], before["begin"], before["end"])
        share = rows / rows.sum(1, keepdims=True)
        waits = {}
        for expert, seconds, exact in after["waits"]:
            waits.setdefault(expert, []).append(seconds if exact else float("inf"))
        median = np.median([seconds for values in waits.values() for seconds in values])
        for layer, expert in zip(*np.nonzero(share < COLD_SHARE / EXPERTS)):
            values = waits.get(f"{layer}/{expert}", [])
            cold_count += 1
            problems += bool(values) and (np.median(values) > SLOW_FACTOR * median or np.isinf(values).any())
    return cold_count, problems


def figures(run):
    times, values = imbalance(run["samples"])
    after_shift = [value for phase in run["phases"][1:] for value in values[(times >= phase["begin"]) & (times < phase["end"])]]
    second_half = [value for phase in run["phases"]
                   for value in values[(times >= (phase["begin"] + phase["end"]) / 2) & (times < phase["end"])]]
    gaps = [gap for phase in run["phases"] for gap in phase["gaps"]]
    length = sum(phase["end"] - phase["begin"] for phase in run["phases"])
    cold, problems = cold_problems(run)
    return {"imbalance": float(values.mean()), "after_shift": float(np.mean(after_shift)), "second_half": float(np.mean(second_half)),
            "p50": 1000 * float(np.percentile(gaps, 50)), "p99": 1000 * float(np.percentile(gaps, 99)),
            "tokens": sum(phase["tokens"] for phase in run["phases"]) / length, "masked": run["samples"][-1]["masked"],
            "loads": run["samples"][-1]["loads"] - run["samples"][0]["loads"], "cold": cold, "problems": problems,
            "approximate": run["phases"][-1]["approximate"]}


def report(runs):
    print("\n| | imbalance, mean | after a shift | second half of each phase | p50, p99 between tokens, ms | tokens/s | masked mass | "
          "bundles copied | cold experts | with a problem | approximate tokens |\n|---|---|---|---|---|---|---|---|---|---|---|")
    seen = {run["name"]: figures(run) for run in runs}
    for run in runs:
        f = seen[run["name"]]
        print(f"| {title(run)} | {f['imbalance']:.3f} | "
              f"{f['after_shift']:.3f} | {f['second_half']:.3f} | {f['p50']:.1f}, {f['p99']:.1f} | {f['tokens']:.0f} | {f['masked']:.0f} | "
              f"{f['loads']:.0f} | {f['cold']} | {f['problems']} | {f['approximate']} |")
    for name in ("eplb", "troupe"):
        if name in seen and "static" in seen:
            print(f"{CONTENDERS[name]}: imbalance {100 * (1 - seen[name]['imbalance'] / seen['static']['imbalance']):+.0f} % better than static "
                  f"placement, {100 * (1 - seen[name]['second_half'] / seen['static']['second_half']):+.0f} % in second halves")
    for run in runs:
        print(f"{title(run)}: measured {run['machine']}")
        if run["rounds"]:
            print(f"  {len(run['rounds'])} rounds, {np.mean([r['moves'] for r in run['rounds']]):.0f} moves and "
                  f"{np.mean([r['seconds'] for r in run['rounds']]):.1f} s each")
        for reason in run["reasons"][-1:]:
            print(f"  its last reason: {reason}")


def title(run):
    return CONTENDERS[run["name"]].replace("every N", f"every {run['every']:.0f} s")


def plot(path, runs):
    colors = {"static": "#475569", "eplb": "#1d4ed8", "troupe": "#c2410c"}
    panels = [("imbalance", {title(run): (*smooth(*imbalance(run["samples"])), colors[run["name"]]) for run in runs}),
              ("bundles copied", {title(run): ([s["t"] for s in run["samples"]], [s["loads"] - run["samples"][0]["loads"] for s in run["samples"]],
                                               colors[run["name"]]) for run in runs})]
    draw(path, "Domain shift on the demo model: prose, then code, then sums, on three nodes", panels, runs[0]["marks"])


def smooth(times, values, width=3):
    """Means of `width` neighbours."""
    kernel = np.ones(width) / width
    return times[width // 2:len(times) - (width - 1) // 2], np.convolve(values, kernel, "valid")


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seconds", type=float, default=60, help="of each domain")
    arguments.add_argument("--every", type=float, default=20, help="seconds between two placements of EPLB")
    arguments.add_argument("--contenders", default=",".join(CONTENDERS), type=lambda names: names.split(","))
    arguments.add_argument("--quick", action="store_true", help="a run of a minute and a half")
    arguments.add_argument("--report", action="store_true", help="only report what is kept")
    arguments.add_argument("--work", type=Path, default=ROOT / "build" / "demo_model", help="where the texts are, or shall be made")
    arguments.add_argument("--keep", type=Path, default=ROOT / "build" / "domain_shift", help="where results are kept")
    arguments.add_argument("--plot", type=Path, help="SVG file to write")
    options = arguments.parse_args()
    if options.quick:
        options.seconds, options.every = 10, 5
    options.keep.mkdir(parents=True, exist_ok=True)
    if not options.report:
        texts = Texts(options.work.resolve())
        for name in options.contenders:
            (options.keep / f"{name}.json").write_text(json.dumps(measure(name, texts, options)))
    runs = [json.loads((options.keep / f"{name}.json").read_text()) for name in options.contenders]
    report(runs)
    if options.plot:
        plot(options.plot, runs)


if __name__ == "__main__":
    main()
