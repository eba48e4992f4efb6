"""Trains the demo model, or its dense twin, on the streams that train_data.py wrote:

    python3 examples/demo_model/train.py moe   --work build/demo_model
    python3 examples/demo_model/train.py dense --work build/demo_model

Both see the same tokens in the same order. Goes on from WORK/<kind>.pt when there is one (written every CHECKPOINT_EVERY
steps, kill it when you like); adds a line of JSON to WORK/<kind>.jsonl at every evaluation. With --steps given smaller than
before, the learning rate begins to fall earlier: that ends a run early without wasting it.
"""
import argparse
import ctypes
import json
import os
import time
from pathlib import Path

import numpy as np
import torch

from train_data import DOMAINS
from train_network import Network, Shape, alignment_loss, balance_loss
from train_optimizer import Muon

STEPS = 1000
CONTEXT, LONG_CONTEXT = 256, 512
FINISH_FROM = 0.8
"""The part of the steps that has CONTEXT tokens in a sequence; the rest has LONG_CONTEXT (short sequences are cheaper) and
takes its prose from the stream with more small talk."""
TOKENS = {"prose": 3072, "code": 3072, "sums": 2048}
"""Tokens of each domain in a step; a sequence has one domain."""
WARM_UP_STEPS, FALL_FROM = 30, 0.5
"""The learning rate rises over the first steps and falls to zero over the last part of all steps."""
MUON_RATE, ADAM_RATE = 0.02, 0.004
EXPERT_STEP_SIZE = 0.5
"""Of MUON_RATE, for the experts' matrices (of both kinds): Muon steps as far on a noisy gradient as on a sure one, and an
expert's comes from an eighth of a step's rows."""
BALANCE, ALIGNMENT = 0.01, 0.015
"""Weights of the two losses on the gates, for each layer."""
EVALUATE_EVERY, CHECKPOINT_EVERY = 50, 100
EVALUATION_TOKENS = 8192


def keep_freed_memory():
    """Tells glibc not to give the big buffers of one step back to the kernel before the next: a quarter of the time."""
    m_trim_threshold, m_top_pad, m_mmap_threshold = -1, -2, -3
    libc = ctypes.CDLL(None)
    libc.mallopt(m_mmap_threshold, 1 << 25)
    libc.mallopt(m_top_pad, 1 << 28)
    libc.mallopt(m_trim_threshold, (1 << 31) - 1)


def sequences(stream, tokens, at, context):
    """[tokens / context, context + 1] ids of the stream from token `at`, round and round."""
    at %= len(stream) - tokens - 1
    window = torch.from_numpy(stream[at:at + tokens + 1].astype(np.int64))
    return window.unfold(0, context + 1, context)


def batch(streams, step, context):
    """The sequences of a step, domain after domain, and the rows that each domain has in it."""
    parts = [sequences(streams[domain], TOKENS[domain], step * TOKENS[domain], context) for domain in DOMAINS]
    rows, begin = [], 0
    for part in parts:
        rows.append(slice(begin, begin + len(part) * context))
        begin = rows[-1].stop
    return torch.cat(parts), rows


def rate_factor(step, steps):
    fall = (steps - step) / (steps * (1 - FALL_FROM))
    return min(1.0, (step + 1) / WARM_UP_STEPS, fall)


@torch.no_grad()
def evaluate(network, streams, context, tokens=EVALUATION_TOKENS):
    """({domain: loss}, {domain: [layer][expert] share of the choices}) on the held-out streams."""
    losses, shares = {}, {}
    for domain in DOMAINS:
        total, counts, parts = 0.0, 0, sequences(streams[domain], tokens, 0, context).split(EVALUATION_TOKENS // context)
        for part in parts:
            loss, gates = network(part)
            total += loss.item() * len(part)
            if network.shape.experts > 1:
                counts = counts + torch.stack([chosen.flatten().bincount(minlength=network.shape.experts) for _, chosen in gates])
        losses[domain] = total / sum(map(len, parts))
        if network.shape.experts > 1:
            shares[domain] = (counts / counts.sum(1, keepdim=True)).tolist()
    return losses, shares


def gate_loss(gates, rows):
    return sum(BALANCE * balance_loss(*gate) + ALIGNMENT * alignment_loss(gate[0], rows) for gate in gates)


class Run:
    """A network, its optimizers, and how far they are."""

    def __init__(self, kind, work):
        self.path = work / f"{kind}.pt"
        self.network = Network(Shape() if kind == "moe" else Shape().dense())
        named = list(self.network.named_parameters())
        matrices = [p for name, p in named if p.ndim >= 2 and "embedding" not in name and "gate" not in name]
        others = [p for name, p in named if p.ndim < 2 or "embedding" in name or "gate" in name]
        experts, attention = [p for p in matrices if p.ndim == 3], [p for p in matrices if p.ndim == 2]
        self.muon = Muon([{"params": attention}, {"params": experts, "step_size": EXPERT_STEP_SIZE}], MUON_RATE)
        self.adam = torch.optim.AdamW(others, ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
        self.step, self.wall_s, self.cpu_s = 0, 0.0, 0.0
        if self.path.exists():
            self.restore(torch.load(self.path))

    def restore(self, saved):
        self.network.load_state_dict(saved["network"])
        self.muon.load_state_dict(saved["muon"])
        self.adam.load_state_dict(saved["adam"])
        self.step, self.wall_s, self.cpu_s = saved["progress"]

    def save(self):
        partial = self.path.with_suffix(".partial")
        torch.save({"network": self.network.state_dict(), "muon": self.muon.state_dict(), "adam": self.adam.state_dict(),
                    "progress": (self.step, self.wall_s, self.cpu_s)}, partial)
        partial.replace(self.path)

    def advance(self, tokens, rows, factor):
        """One step; returns the mean cross-entropy."""
        loss, gates = self.network(tokens)
        (loss + gate_loss(gates, rows) if self.network.shape.experts > 1 else loss).backward()
        for optimizer, rate in ((self.muon, MUON_RATE), (self.adam, ADAM_RATE)):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        return loss.item()


def load_streams(work, part):
    return {domain: np.load(work / f"{part}_{domain}.npy", mmap_mode="r") for domain in DOMAINS}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("moe", "dense"))
    parser.add_argument("--work", type=Path, default=Path("build/demo_model"))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--stop-at", type=int, default=1 << 30, help="stop after this step, as if killed")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    torch.set_flush_denormal(True)
    train, held_out = load_streams(arguments.work, "train"), load_streams(arguments.work, "held_out")
    finish = train | {"prose": np.load(arguments.work / "finish_prose.npy")}
    run = Run(arguments.kind, arguments.work)
    log = (arguments.work / f"{arguments.kind}.jsonl").open("a", buffering=1)
    losses = []
    while run.step < min(arguments.steps, arguments.stop_at):
        wall, cpu = time.monotonic(), time.process_time()
        context, streams = (CONTEXT, train) if run.step < arguments.steps * FINISH_FROM else (LONG_CONTEXT, finish)
        losses.append(run.advance(*batch(streams, run.step, context), rate_factor(run.step, arguments.steps)))
        run.wall_s += time.monotonic() - wall
        run.cpu_s += time.process_time() - cpu
        if run.step % EVALUATE_EVERY == 0 or run.step == arguments.steps:
            held, shares = evaluate(run.network, held_out, CONTEXT)
            record = {"step": run.step, "tokens": run.step * sum(TOKENS.values()), "wall_s": round(run.wall_s, 1),
                      "cpu_s": round(run.cpu_s, 1), "train": sum(losses) / len(losses), "held_out": held, "shares": shares}
            losses = []
            log.write(json.dumps(record) + "\n")
            print({key: record[key] for key in ("step", "wall_s", "cpu_s", "train", "held_out")}, flush=True)
        if run.step % CHECKPOINT_EVERY == 0 or run.step == arguments.steps:
            run.save()


if __name__ == "__main__":
    main()
