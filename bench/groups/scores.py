"""What a group should score by, and which experts should make one: the demo model in transformers, without a cluster.

    scores.py --streams DIR [--tokens 8192]

DIR as for compare.py (train_*.npy too). A group scores by its best expert (max) or by the sum of its two best (sum). Groups are neighbours, or
pairs matched greedily by how often the training tokens choose both. Prints nodes per row (a group is a node), rows changed, losses.
"""
import argparse
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

MODEL = Path(__file__).resolve().parents[2] / "examples/demo_model"
EXPERTS, GROUPS = 16, 8
DOMAINS = ("prose", "code", "sums")
SEQUENCE = 256
SETTINGS = [(2, 1), (2, 2), (2, 3), (4, 2), (4, 3)]
"""Experts per row, groups kept."""


class Gate:
    """How rows choose now, and what they chose. `order[layer]`: the experts, group by group."""

    def __init__(self):
        self.top_k, self.kept, self.score = 2, GROUPS, "max"
        self.order = {}
        self.forget()

    def forget(self):
        self.rows = self.changed = self.nodes = 0
        self.together = {}  # layer -> [EXPERTS, EXPERTS] rows that chose both

    def choose(self, layer, probability):
        """probability [T, EXPERTS] -> ids [T, k]"""
        order = self.order.get(layer, torch.arange(EXPERTS))
        place = torch.argsort(order)
        grouped = probability[:, order].view(-1, GROUPS, EXPERTS // GROUPS)
        score = grouped.max(-1).values if self.score == "max" else grouped.topk(2, -1).values.sum(-1)
        kept = torch.zeros_like(score, dtype=torch.bool).scatter_(1, score.topk(self.kept, -1).indices, True)
        allowed = kept.repeat_interleave(EXPERTS // GROUPS, 1)[:, place]
        ids = torch.where(allowed, probability, -1.0).topk(self.top_k, -1).indices
        whole = probability.topk(self.top_k, -1).indices
        chosen = torch.zeros_like(probability).scatter_(1, ids, 1.0)
        self.rows += len(ids)
        self.changed += int((ids.sort(-1).values != whole.sort(-1).values).any(-1).sum())
        self.nodes += int(chosen[:, order].view(-1, GROUPS, EXPERTS // GROUPS).amax(-1).sum())
        self.together[layer] = self.together.get(layer, 0) + chosen.T @ chosen
        return ids

    def match(self):
        """Pairs of experts, those first that were chosen together most often."""
        for layer, counts in self.together.items():
            counts = counts.clone().fill_diagonal_(-1)
            order = []
            while len(order) < EXPERTS:
                a, b = divmod(int(counts.argmax()), EXPERTS)
                order += [a, b]
                counts[[a, b]] = -1
                counts[:, [a, b]] = -1
            self.order[layer] = torch.tensor(order)


def attach(model, gate):
    def forward(block, hidden):
        rows = hidden.view(-1, hidden.shape[-1])
        logits = block.gate(rows)
        probability = torch.softmax(logits.float(), -1)
        ids = gate.choose(block.number, probability)
        weights = probability.gather(1, ids)
        weights = weights / weights.sum(-1, keepdim=True)
        output = torch.zeros_like(rows)
        for e in range(EXPERTS):
            row, rank = torch.nonzero(ids == e, as_tuple=True)
            if len(row):
                output.index_add_(0, row, block.experts[e](rows[row]) * weights[row, rank, None])
        return output.view(hidden.shape), logits

    MixtralSparseMoeBlock.forward = forward
    for number, layer in enumerate(model.model.layers):
        layer.block_sparse_moe.number = number


def loss(model, stream):
    """Nats per token."""
    total = 0.0
    for batch in torch.from_numpy(stream.astype(np.int64)).view(-1, SEQUENCE).split(8):
        with torch.no_grad():
            logits = model(batch).logits[:, :-1]
        total += torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum").item()
    return total / (len(stream) // SEQUENCE * (SEQUENCE - 1))


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--streams", type=Path, required=True, help="folder of held_out_*.npy and train_*.npy")
    arguments.add_argument("--tokens", type=int, default=8192, help="of each domain; a multiple of 256 [8192]")
    options = arguments.parse_args()
    torch.set_num_threads(1)

    def streams(part):
        return [np.load(options.streams / f"{part}_{domain}.npy")[: options.tokens] for domain in DOMAINS]

    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    gate = Gate()
    attach(model, gate)
    print("| experts per row | groups | made of | score | nodes per row | rows changed, % | loss, prose | loss, code | loss, sums |")
    print("|" + "---|" * 9)
    for kind in ("neighbours", "matched"):
        if kind == "matched":
            gate.top_k, gate.kept, gate.score = 2, GROUPS, "max"
            gate.forget()
            for stream in streams("train"):
                loss(model, stream)
            gate.match()
        for top_k, kept in SETTINGS:
            for score in ("max", "sum"):
                gate.top_k, gate.kept, gate.score = top_k, kept, score
                gate.forget()
                losses = " | ".join(f"{loss(model, stream):.4f}" for stream in streams("held_out"))
                print(f"| {top_k} | {kept} of {GROUPS} | {kind} | {score} | {gate.nodes / gate.rows:.2f} "
                      f"| {100 * gate.changed / gate.rows:.1f} | {losses} |", flush=True)


if __name__ == "__main__":
    main()
