"""Should experts that the same rows choose stand on one node? The demo model in numpy, without a cluster.

    together.py --streams DIR [--tokens 8192]

DIR as for scores.py. Places each layer's experts on equal nodes by their loads on the training tokens (fullest first, to the emptiest node
with room), and then changes places of two experts as long as that puts more of the pairs together and leaves the fullest node below the
target (or no fuller than it was). Prints what held-out tokens make of both placements.
"""
import argparse
import json
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/cluster"))
from support import safetensors  # noqa: E402

MODEL = ROOT / "examples/demo_model"
DOMAINS = ("prose", "code", "sums")
SEQUENCE, TARGET = 256, 0.05
SETTINGS = [(2, 3), (2, 4), (2, 8), (4, 4), (4, 8)]
"""Experts per row, nodes."""


class DemoModel:
    def __init__(self):
        config = json.loads((MODEL / "config.json").read_text())
        self.layers, self.experts, self.top_k = (config[k] for k in ("num_hidden_layers", "num_local_experts", "num_experts_per_tok"))
        self.heads, self.kv_heads, self.head = (config[k] for k in ("num_attention_heads", "num_key_value_heads", "head_dim"))
        self.tensors = {name: t.astype(np.float32) for name, t in safetensors.load(MODEL / "model.safetensors").items()}
        angle = np.outer(np.arange(SEQUENCE), 1 / config["rope_theta"] ** (np.arange(0, self.head, 2) / self.head))
        self.cos, self.sin = (np.concatenate([f(angle)] * 2, -1)[:, None] for f in (np.cos, np.sin))
        self.mask = np.triu(np.full((SEQUENCE, SEQUENCE), -1e9, np.float32), 1)

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * self.tensors[name]

    def turn(self, x):
        a, b = np.split(x, 2, -1)
        return x * self.cos + np.concatenate([-b, a], -1) * self.sin

    def attend(self, h, prefix):
        q, k, v = ((h @ self.tensors[f"{prefix}.{n}_proj.weight"].T).reshape(SEQUENCE, -1, self.head) for n in "qkv")
        k, v = (np.repeat(x, self.heads // self.kv_heads, 1) for x in (self.turn(k), v))
        score = softmax(np.einsum("ihd,jhd->hij", self.turn(q), k) / np.sqrt(self.head) + self.mask)
        return np.einsum("hij,jhd->ihd", score, v).reshape(SEQUENCE, -1) @ self.tensors[f"{prefix}.o_proj.weight"].T

    def mix(self, h, gate, prefix):
        ids = np.argsort(-gate, 1)[:, : self.top_k]
        weights = np.take_along_axis(gate, ids, 1)
        weights /= weights.sum(1, keepdims=True)
        output = np.zeros_like(h)
        for e in range(self.experts):
            row, rank = np.nonzero(ids == e)
            w1, w2, w3 = (self.tensors[f"{prefix}.experts.{e}.{n}.weight"].T for n in ("w1", "w2", "w3"))
            up = h[row] @ w1
            output[row] += weights[row, rank, None] * ((up / (1 + np.exp(-up)) * (h[row] @ w3)) @ w2)
        return output

    def gates(self, ids):
        """ids [SEQUENCE] -> gate probabilities [layers, SEQUENCE, experts]"""
        x, seen = self.tensors["model.embed_tokens.weight"][ids], []
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}"
            x = x + self.attend(self.norm(x, f"{prefix}.input_layernorm.weight"), f"{prefix}.self_attn")
            h = self.norm(x, f"{prefix}.post_attention_layernorm.weight")
            seen.append(softmax(h @ self.tensors[f"{prefix}.block_sparse_moe.gate.weight"].T))
            x = x + self.mix(h, seen[-1], f"{prefix}.block_sparse_moe")
        return np.stack(seen)


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def imbalance(load, place, nodes):
    time = np.bincount(place, load, nodes)
    return time.max() / time.mean() - 1


def by_load(load, nodes):
    place, time, used = np.zeros(len(load), int), np.zeros(nodes), np.zeros(nodes, int)
    for e in np.argsort(-load, kind="stable"):
        node = min((n for n in range(nodes) if used[n] < -(-len(load) // nodes)), key=lambda n: time[n])
        place[e], time[node], used[node] = node, time[node] + load[e], used[node] + 1
    return place


def together(load, pairs, place, nodes):
    """-> the placement after changes of places, and how many there were"""
    place, limit, changes = place.copy(), max(TARGET, imbalance(load, place, nodes)) + 1e-12, 0
    while True:
        best, chosen = 1e-9, None
        for a, b in np.argwhere(place[:, None] < place):
            gain = (pairs[a, place == place[b]].sum() - pairs[a, b] + pairs[b, place == place[a]].sum() - pairs[a, b]
                    - pairs[a, place == place[a]].sum() - pairs[b, place == place[b]].sum())
            after = place.copy()
            after[[a, b]] = place[[b, a]]
            if gain > best and imbalance(load, after, nodes) <= limit:
                best, chosen = gain, after
        if chosen is None:
            return place, changes
        place, changes = chosen, changes + 1


def nodes_touched(chosen, place, nodes, rows):
    """By `rows` rows at a time."""
    touched = np.zeros((len(chosen), nodes), bool)
    np.put_along_axis(touched, place[chosen], True, 1)
    return touched[: len(chosen) // rows * rows].reshape(-1, rows, nodes).any(1).sum(1).mean()


def compare(train, held_out, top_k, nodes):
    """Gate probabilities [T, experts] of one layer -> the columns of one line of the table."""
    seen, unseen = (np.argsort(-gate, 1)[:, :top_k] for gate in (train, held_out))
    hot = np.zeros_like(train)
    np.put_along_axis(hot, seen, 1, 1)
    load, pairs = hot.sum(0), hot.T @ hot * (1 - np.eye(hot.shape[1]))
    first = by_load(load, nodes)
    second, changes = together(load, pairs, first, nodes)
    unseen_load = np.bincount(unseen.ravel(), minlength=len(load))
    return [changes] + [value for rows in (1, 4, 16) for value in (nodes_touched(unseen, p, nodes, rows) for p in (first, second))] + [
        imbalance(unseen_load, p, nodes) for p in (first, second)]


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--streams", type=Path, required=True, help="folder of held_out_*.npy and train_*.npy")
    arguments.add_argument("--tokens", type=int, default=8192, help="of each domain; a multiple of 256 [8192]")
    options = arguments.parse_args()
    model, random, gates = DemoModel(), np.random.default_rng(1), {}
    for part in ("train", "held_out"):
        for domain in DOMAINS:
            ids = np.load(options.streams / f"{part}_{domain}.npy")[: options.tokens].reshape(-1, SEQUENCE)
            gates[part, domain] = np.concatenate([model.gates(sequence) for sequence in ids], 1)
    print("| experts per row | nodes | changes of places | nodes per row | messages, 4 rows | messages, 16 rows | imbalance of held-out tokens |")
    print("|" + "---|" * 7)
    for top_k, nodes in SETTINGS:
        lines = []
        for layer in range(model.layers):
            for domains in (*((d,) for d in DOMAINS), DOMAINS):  # one kind of text, and all of them at once
                train, held_out = (np.concatenate([gates[part, d][layer] for d in domains]) for part in ("train", "held_out"))
                lines.append(compare(train, random.permutation(held_out), top_k, nodes))
        mean = np.mean(lines, 0)
        pairs = " | ".join(f"{mean[i]:.2f}, {mean[i + 1]:.2f}" for i in (1, 3, 5, 7))
        print(f"| {top_k} | {nodes} | {mean[0]:.1f} | {pairs} |", flush=True)


if __name__ == "__main__":
    main()
