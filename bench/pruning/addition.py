"""Progressive addition on the demo model: 4 of 16 experts per layer at first, the policy adds what rows miss.

    addition.py [--seconds 40] [--quick] [--work build/demo_model] [--plot docs/progressive_addition.svg]

Prose is streamed, then code, then sums. Every two seconds: experts present, bytes resident on the expert nodes, and the gate
probability that went to masked experts; about every eight seconds the held-out loss of the domains that have been streamed so
far (asking is traffic too, so none is asked earlier). Afterwards nothing is sent, and what is in memory is compared with the
experts in use; at last all experts are added, which says what the whole model does with the same text.
"""
import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from scenario import (COLORS, DEMO_MODEL, DOMAINS, ROOT, LocalCluster, Recorder, Streams, Texts, by_layer_and_expert, draw,  # noqa: E402
                      loss, machine, metrics, resident_bytes)

LAYERS, EXPERTS, TOP_K, ACTIVE = 4, 16, 2, 4
LOSS_EVERY = 8.0


class Run:
    """One run: the cluster, what is streamed, and what was seen."""

    def __init__(self, cluster, texts, windows):
        self.cluster, self.windows = cluster, windows
        self.losses = {domain: [] for domain in DOMAINS}  # [(t, nats)]
        self.client = cluster.connect()
        self.texts = texts
        self.present_after = {}
        self.first = {}

    def look(self):
        found = metrics(self.cluster.http, "moe_expert_tokens_total", "moe_masked_gate_mass_total")
        tables = {name: by_layer_and_expert(values, LAYERS, EXPERTS) for name, values in found.items()}
        experts = self.client.list_experts()
        present = np.zeros((LAYERS, EXPERTS), dtype=bool)
        for expert in experts:
            present[int(expert["layer"]), expert["expert"]] = expert["state"] == "active"
        return {"present": present, "bytes": self.client.status()["bytes_resident"],
                "rows": tables["moe_expert_tokens_total"].sum(1) / TOP_K, "mass": tables["moe_masked_gate_mass_total"].sum(1)}

    def drive(self, recorder, seconds):
        for number, domain in enumerate(DOMAINS):
            recorder.mark(domain)
            with Streams(self.cluster, self.texts, [domain], seed=number + 1) as streams:
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    for known in DOMAINS[:number + 1]:
                        self.losses[known].append((recorder.now(), loss(self.cluster, self.windows[known])))
                    time.sleep(max(0.0, min(LOSS_EVERY, end - time.monotonic())))
            if streams.failures:
                raise SystemExit(f"error: {len(streams.failures)} texts failed: {streams.failures[0]}")
            self.present_after[domain] = recorder.look()["present"]
        recorder.mark("rest")
        for domain in DOMAINS:
            self.losses[domain].append((recorder.now(), loss(self.cluster, self.windows[domain])))

    def add_all(self):
        for expert in self.cluster.experts():
            if expert["state"] == "dormant":
                self.cluster.json("expert", "add", f"{expert['layer']}/{expert['expert']}")

    def whole_model(self):
        """-> ({domain: loss}, {domain: [LAYERS, EXPERTS] share of the layer's rows}) with all experts there"""
        losses, shares = {}, {}
        for domain in DOMAINS:
            before = self._rows()
            losses[domain] = loss(self.cluster, self.windows[domain])
            rows = self._rows() - before
            shares[domain] = rows / rows.sum(1, keepdims=True)
        return losses, shares

    def _rows(self):
        return by_layer_and_expert(metrics(self.cluster.http, "moe_expert_tokens_total")["moe_expert_tokens_total"], LAYERS, EXPERTS)


def losses_of_the_start(windows):
    """By a cluster of its own that adds nothing: asking is traffic too."""
    with LocalCluster(DEMO_MODEL, expert_nodes=3, active_experts=ACTIVE) as cluster:
        return {domain: loss(cluster, windows[domain]) for domain in DOMAINS}


def masked_share(samples):
    """(times, [layer][time]): gate probability per row that went to masked experts, between two samples."""
    times, shares = [], []
    for before, after in zip(samples, samples[1:]):
        rows = after["rows"] - before["rows"]
        if rows.min() > 0:
            times.append((before["t"] + after["t"]) / 2)
            shares.append((after["mass"] - before["mass"]) / rows)
    return times, np.array(shares).reshape(-1, LAYERS).T


def report(run, at_rest, whole, shares):
    print("\n| after | experts present per layer | of the added ones, among as many that the whole model uses most | "
          "of the whole model's rows that choose a present expert |\n|---|---|---|---|")
    for number, domain in enumerate(DOMAINS):
        wanted = np.mean([shares[known] for known in DOMAINS[:number + 1]], axis=0)
        right = added = 0
        for layer in range(LAYERS):
            new = np.flatnonzero(run.present_after[domain][layer, ACTIVE:]) + ACTIVE
            best = np.argsort(-wanted[layer, ACTIVE:])[:len(new)] + ACTIVE
            right, added = right + len(set(new) & set(best)), added + len(new)
        covered = (wanted * run.present_after[domain]).sum(1).mean()
        print(f"| {domain} | {', '.join(str(n) for n in run.present_after[domain].sum(1))} | {right} of {added} | {100 * covered:.0f} % |")
    print("\n| held-out loss | 4 experts per layer | when its text ended | at rest | all experts |\n|---|---|---|---|---|")
    for number, domain in enumerate(DOMAINS):
        values = [value for _, value in run.losses[domain]]
        ended = values[-2] if number == len(DOMAINS) - 1 else run.losses[domain][-2][1]
        print(f"| {domain} | {run.first[domain]:.3f} | {ended:.3f} | {values[-1]:.3f} | {whole[domain]:.3f} |")
    print(f"\nat rest: {at_rest['experts']} of {LAYERS * EXPERTS} experts are there; {at_rest['bytes'] / 1e6:.2f} MB resident, and the "
          f"checkpoint's bytes of those experts are {at_rest['bundles'] / 1e6:.2f} MB")
    for name, size in at_rest["processes"].items():
        print(f"processes of the expert nodes, {name}: {size / 1e6:.1f} MB")


def plot(path, run, recorder):
    samples = recorder.samples
    times, shares = masked_share(samples)
    t = [sample["t"] for sample in samples]
    draw(path, "Progressive addition on the demo model: 4 of 16 experts per layer at first", [
        ("experts present", {f"layer {layer}": (t, [sample["present"][layer].sum() for sample in samples]) for layer in range(LAYERS)}),
        ("MB resident", {"expert nodes": (t, [sample["bytes"] / 1e6 for sample in samples], "#475569")}),
        ("masked gate mass", {f"layer {layer}": (times, shares[layer]) for layer in range(LAYERS)}),
        ("held-out loss", {domain: ([at for at, _ in run.losses[domain]], [value for _, value in run.losses[domain]], COLORS[domain])
                           for domain in DOMAINS}),
    ], recorder.marks)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seconds", type=float, default=40, help="of streaming, each domain")
    arguments.add_argument("--windows", type=int, default=8, help="held-out texts of each domain")
    arguments.add_argument("--quick", action="store_true", help="a run of a minute")
    arguments.add_argument("--work", type=Path, default=ROOT / "build" / "demo_model", help="where the texts are, or shall be made")
    arguments.add_argument("--plot", type=Path, help="SVG file to write")
    options = arguments.parse_args()
    if options.quick:
        options.seconds, options.windows = 12, 4
    texts = Texts(options.work.resolve())
    windows = {domain: texts.held_out(domain, options.windows, 256) for domain in DOMAINS}
    print(machine())
    first = losses_of_the_start(windows)
    with LocalCluster(DEMO_MODEL, expert_nodes=3, active_experts=ACTIVE, policies="add") as cluster:
        run, at_rest = Run(cluster, texts, windows), {"processes": {}}
        run.first = first
        with run.client:
            at_rest["processes"]["4 experts per layer"] = resident_bytes(cluster)
            with Recorder(run.look) as recorder:
                run.drive(recorder, options.seconds)
            active = [expert for expert in cluster.experts() if expert["state"] == "active"]
            at_rest |= {"experts": len(active), "bytes": cluster.status()["bytes_resident"],
                        "bundles": sum(expert["bytes"] for expert in active)}
            at_rest["processes"]["at rest"] = resident_bytes(cluster)
            run.add_all()
            whole, shares = run.whole_model()
            at_rest["processes"]["all experts"] = resident_bytes(cluster)
    report(run, at_rest, whole, shares)
    if options.plot:
        plot(options.plot, run, recorder)


if __name__ == "__main__":
    main()
