"""Pruning over a virtual day on the demo model: experts with under 2 % of their layer's traffic for a whole window go.

    day.py [--window 60] [--domains prose,code] [--quick] [--work build/demo_model] [--plot docs/pruning.svg]

The window is a setting (24 h by default); here a day is `--window` seconds, and all the rest is as it would be. The held-out loss of
every domain is measured before anything is streamed; then texts of `--domains` stream, and only their loss is measured while the
policy works (asking is traffic too). When no more experts go, the streams end, all domains are measured again, and then every expert is
restored by command, one after the other: probabilities and layer outputs must have the same bits as at first.
"""
import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from scenario import (COLORS, DEMO_MODEL, DOMAINS, ROOT, LocalCluster, Recorder, Streams, Texts, by_layer_and_expert, draw,  # noqa: E402
                      log_probabilities, machine, metrics)

LAYERS, EXPERTS, TOP_K, HIDDEN = 4, 16, 2, 256
LOSS_EVERY = 6.0
QUIET_SHARE = 0.35
"""Of the window: as long as nothing is pruned for so long, pruning has come to its end."""


class Day:
    def __init__(self, cluster, client, texts, windows, domains):
        self.cluster, self.client, self.texts, self.windows, self.domains = cluster, client, texts, windows, domains
        self.losses = {domain: [] for domain in domains}  # [(t, nats)]
        self.hidden = np.random.default_rng(3).standard_normal((64, HIDDEN), dtype=np.float32)

    def look(self):
        found = metrics(self.cluster.http, "moe_expert_tokens_total", "moe_masked_gate_mass_total")
        rows, mass = (by_layer_and_expert(found[name], LAYERS, EXPERTS) for name in ("moe_expert_tokens_total", "moe_masked_gate_mass_total"))
        present = np.zeros(LAYERS)
        for expert in self.client.list_experts():
            present[int(expert["layer"])] += expert["state"] == "active"
        return {"present": present, "bytes": self.client.status()["bytes_resident"], "rows": rows, "mass": mass.sum(1)}

    def answers(self):
        """Everything that must have the same bits again: probabilities of held-out text, and layers' outputs."""
        texts = {domain: log_probabilities(self.cluster, self.windows[domain]) for domain in DOMAINS}
        return texts, [self.client.layer(layer, self.hidden).output for layer in range(LAYERS)]

    def stream(self, recorder, window):
        """Until the policy has come to its end."""
        recorder.mark(" and ".join(self.domains))
        pruned, changed, begin = 0, 0.0, recorder.now()
        with Streams(self.cluster, self.texts, self.domains) as streams:
            while recorder.now() - begin < 1.2 * window or recorder.now() - changed < QUIET_SHARE * window:
                for domain in self.domains:
                    values = log_probabilities(self.cluster, self.windows[domain])
                    self.losses[domain].append((recorder.now(), float(-np.mean(values))))
                now = self.cluster.status()["pruned_experts"]
                if now != pruned:
                    pruned, changed = now, recorder.now()
                time.sleep(LOSS_EVERY)
        if streams.failures:
            raise SystemExit(f"error: {len(streams.failures)} texts failed: {streams.failures[0]}")

    def restore(self):
        """Seconds that each `troupe expert restore` took, all of it."""
        seconds = []
        while pruned := [expert for expert in self.cluster.experts() if expert["state"] == "pruned"]:
            self.cluster.wait_for_status(lambda status: status["operations_running"] == 0, 30, "the last prune is done")
            for expert in pruned:
                begin = time.monotonic()
                self.cluster.json("expert", "restore", f"{expert['layer']}/{expert['expert']}")
                seconds.append(time.monotonic() - begin)
        return seconds


def nats(texts):
    """{domain: mean cross-entropy}"""
    return {domain: float(-np.mean(values)) for domain, values in texts.items()}


def same_bits(before, after):
    texts = all(before[0][domain] == after[0][domain] for domain in DOMAINS)
    return texts and all(np.array_equal(a, b) for a, b in zip(before[1], after[1]))


def report(day, options, before, after, restored, seconds, sizes, operations):
    first, last = nats(before[0]), nats(after[0])
    print(f"\n{len(operations)} experts were pruned: per layer "
          f"{', '.join(str(sum(o['object'].startswith(f'{layer}/') for o in operations)) for layer in range(LAYERS))}. The last one:\n"
          f"  {operations[-1]['object']}: {operations[-1]['why']}" if operations else "\nnothing was pruned")
    print("\n| held-out loss | before | after | change |\n|---|---|---|---|")
    mix = {name: np.mean([values[domain] for domain in options.domains]) for name, values in (("before", first), ("after", last))}
    lines = [(f"the traffic's own mix ({' and '.join(options.domains)})", mix["before"], mix["after"])]
    lines += [(domain + ("" if domain in options.domains else " (absent)"), first[domain], last[domain]) for domain in DOMAINS]
    for name, a, b in lines:
        print(f"| {name} | {a:.4f} | {b:.4f} | {100 * (b / a - 1):+.2f} % |")
    print(f"\nresident: {sizes['all'] / 1e6:.2f} MB before, {sizes['pruned'] / 1e6:.2f} MB pruned, {sizes['restored'] / 1e6:.2f} MB restored")
    if seconds:
        print(f"restore, by command, each: median {np.median(seconds):.2f} s, most {max(seconds):.2f} s; all {len(seconds)}: {sum(seconds):.1f} s")
    print(f"outputs after restore have the bits of before: {'yes' if same_bits(before, restored) else 'NO'}")


def plot(path, day, recorder, window):
    samples = recorder.samples
    t = [sample["t"] / window * 24 for sample in samples]
    moved = [(a, b) for a, b in zip(samples, samples[1:]) if (b["rows"].sum(1) > a["rows"].sum(1)).all()]
    times = [(a["t"] + b["t"]) / 2 / window * 24 for a, b in moved]
    shares = [(b["mass"] - a["mass"]) / ((b["rows"] - a["rows"]).sum(1) / TOP_K) for a, b in moved]
    draw(path, f"Pruning under 2 % of a layer's traffic on the demo model; a day is {window:.0f} s", [
        ("experts present", {f"layer {layer}": (t, [sample["present"][layer] for sample in samples]) for layer in range(LAYERS)}),
        ("MB resident", {"expert nodes": (t, [sample["bytes"] / 1e6 for sample in samples], "#475569")}),
        ("masked gate mass", {f"layer {layer}": (times, [share[layer] for share in shares]) for layer in range(LAYERS)}),
        ("held-out loss", {domain: ([at / window * 24 for at, _ in values], [value for _, value in values], COLORS[domain])
                           for domain, values in day.losses.items()}),
    ], [(at / window * 24, words) for at, words in recorder.marks], "hours of the virtual day")


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--window", type=float, default=60, help="seconds of a virtual day (10 or more)")
    arguments.add_argument("--share", type=float, default=0.02, help="--prune-share")
    arguments.add_argument("--domains", default="prose,code", type=lambda names: names.split(","), help="that are streamed")
    arguments.add_argument("--windows", type=int, default=16, help="held-out texts of each domain")
    arguments.add_argument("--quick", action="store_true", help="a run of a minute")
    arguments.add_argument("--work", type=Path, default=ROOT / "build" / "demo_model", help="where the texts are, or shall be made")
    arguments.add_argument("--plot", type=Path, help="SVG file to write")
    options = arguments.parse_args()
    if options.quick:
        options.window, options.windows = 20, 4
    texts = Texts(options.work.resolve())
    windows = {domain: texts.held_out(domain, options.windows, 256) for domain in DOMAINS}
    print(machine())
    with LocalCluster(DEMO_MODEL, expert_nodes=3, policies="prune", prune_share=options.share,
                      prune_window=f"{options.window:.0f}s") as cluster, cluster.connect() as client:
        day, sizes = Day(cluster, client, texts, windows, options.domains), {}
        before, sizes["all"] = day.answers(), cluster.status()["bytes_resident"]
        with Recorder(day.look) as recorder:
            day.stream(recorder, options.window)
            recorder.mark("measured")
            operations = [o for o in cluster.json("op", "list")["items"] if o["kind"] == "prune"]
            after, sizes["pruned"] = day.answers(), cluster.status()["bytes_resident"]
            recorder.mark("restore")
            seconds = day.restore()
        restored, sizes["restored"] = day.answers(), cluster.status()["bytes_resident"]
    report(day, options, before, after, restored, seconds, sizes, operations)
    if options.plot:
        plot(options.plot, day, recorder, options.window)
    if not same_bits(before, restored):
        sys.exit(1)


if __name__ == "__main__":
    main()
