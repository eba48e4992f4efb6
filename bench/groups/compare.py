"""How many nodes a row touches, and what that costs, when rows choose inside 2 or 3 of 8 groups of experts.

    compare.py --streams DIR [--tokens 8192] [--bin build/bin]

DIR: where examples/demo_model/train_data.py wrote held_out_{prose,code,sums}.npy. For each setting a cluster of the demo model with
eight expert nodes; the loss is what its HTTP server says about the tokens of these streams. Then a random DeepSeek-V3 layer, whose
groups are its own: nothing is approximated there, the question is where experts stand.
"""
import argparse
import json
import shutil
import subprocess
import tempfile
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import troupe

ROOT = Path(__file__).resolve().parents[2]
NODES = GROUPS = 8
DOMAINS = ("prose", "code", "sums")
SEQUENCE, SEQUENCES_PER_REQUEST = 256, 16
TEXTS = (1, 4, 16)
"""How many texts are decoded at a time while messages are counted."""
PROMPT_TOKENS, ANSWER_TOKENS = 16, 64
SETTINGS = [(2, None), (2, 1), (2, 2), (2, 3), (4, None), (4, 2), (4, 3)]
"""Experts per row, and groups that it keeps (None: no groups). The demo model was trained with two experts per row."""


class Cluster:
    """`troupe up` on a folder with eight expert nodes; as a context manager."""

    def __init__(self, binaries, model, kept=None):
        self.troupe, self.model = str(binaries / "troupe"), model
        self.options = [] if kept is None else ["--route-groups", str(GROUPS), "--route-groups-kept", str(kept)]
        self.data = tempfile.mkdtemp(prefix="troupe-bench-")

    def __enter__(self):
        up = subprocess.run([self.troupe, "up", "--model", str(self.model), "--expert-nodes", str(NODES), "--dtype", "f32",
                             "--data-dir", self.data, *self.options, "--detach", "-o", "json"], capture_output=True, text=True)
        if up.returncode != 0:
            raise SystemExit(f"error: troupe up failed\n{up.stderr}")
        self.http = json.loads(up.stdout)["http"]
        return self

    def __exit__(self, *_):
        subprocess.run([self.troupe, "down", "--data-dir", self.data, "--yes"], capture_output=True)
        shutil.rmtree(self.data)

    def metric(self, name):
        """Sum over all layers."""
        with urllib.request.urlopen(self.http + "/metrics") as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((name + "{", name + " ")))

    def complete(self, **fields):
        request = urllib.request.Request(self.http + "/v1/completions", json.dumps(fields).encode())
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)["choices"]


class Mean:
    """Mean of a histogram of the router over what happens inside `with`."""

    def __init__(self, cluster, name):
        self.cluster, self.name = cluster, name

    def read(self):
        return np.array([self.cluster.metric(f"{self.name}_{part}") for part in ("sum", "count")])

    def __enter__(self):
        self.before = self.read()
        return self

    def __exit__(self, *_):
        total, self.count = self.read() - self.before
        self.value = total / self.count


def with_top_k(folder, model, top_k):
    """The checkpoint with another number of experts per row."""
    for file in model.iterdir():
        if file.suffix in (".json", ".safetensors") and file.name != "config.json":
            shutil.copy(file, folder / file.name)
    config = json.loads((model / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_experts_per_tok": top_k}))


def held_out_loss(cluster, stream):
    """Nats per token."""
    sequences = stream[: len(stream) // SEQUENCE * SEQUENCE].reshape(-1, SEQUENCE).tolist()
    total = count = 0
    for begin in range(0, len(sequences), SEQUENCES_PER_REQUEST):
        choices = cluster.complete(prompt=sequences[begin:begin + SEQUENCES_PER_REQUEST], echo=True, max_tokens=0, logprobs=0)
        for choice in choices:
            known = [value for value in choice["logprobs"]["token_logprobs"] if value is not None]
            total -= sum(known)
            count += len(known)
    assert count == len(sequences) * (SEQUENCE - 1)
    return total / count


def messages_while_decoding(cluster, streams):
    """Mean messages per layer and step with TEXTS texts at a time."""
    prompts = [streams[domain][i * SEQUENCE:i * SEQUENCE + PROMPT_TOKENS].tolist() for i in range(6) for domain in DOMAINS]
    means = []
    for texts in TEXTS:
        def decode(prompt):
            cluster.complete(prompt=prompt, max_tokens=ANSWER_TOKENS, ignore_eos=True, temperature=0)
        with Mean(cluster, "moe_dispatch_messages_per_request") as messages, ThreadPoolExecutor(texts) as pool:
            list(pool.map(decode, prompts[:max(texts, 6)]))
        means.append(messages.value)
    return means


def measure_demo(binaries, model, top_k, kept, streams):
    """[nodes per row, messages by TEXTS, percent of rows changed, losses by DOMAINS]"""
    with tempfile.TemporaryDirectory() as name:
        with_top_k(Path(name), model, top_k)
        with Cluster(binaries, Path(name), kept) as cluster:
            with Mean(cluster, "moe_dispatch_nodes_per_row") as nodes:
                losses = [held_out_loss(cluster, streams[domain]) for domain in DOMAINS]
            changed = cluster.metric("moe_group_limited_rows_total") / nodes.count
            messages = messages_while_decoding(cluster, streams)
    return [nodes.value, *messages, 100 * changed, *losses]


def write_deepseek(folder, kept):
    """One random MoE layer of type deepseek_v3: 64 experts in 8 groups, top-8."""
    config = json.loads((ROOT / "tests/golden/dev/deepseek_v3/config.json").read_text())
    hidden, width, experts = 128, 64, 64
    config.update(hidden_size=hidden, moe_intermediate_size=width, n_routed_experts=experts, n_group=GROUPS, topk_group=kept,
                  num_experts_per_tok=8, num_hidden_layers=1, first_k_dense_replace=0)
    (folder / "config.json").write_text(json.dumps(config))
    random = np.random.default_rng(3)
    block = "model.layers.0.mlp"
    shapes = {f"{block}.gate.weight": (experts, hidden), f"{block}.gate.e_score_correction_bias": (experts,)}
    for part in ["shared_experts", *(f"experts.{e}" for e in range(experts))]:
        for name, shape in (("gate_proj", (width, hidden)), ("up_proj", (width, hidden)), ("down_proj", (hidden, width))):
            shapes[f"{block}.{part}.{name}.weight"] = shape
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            scale = shape[-1] ** -0.5 if len(shape) == 2 else 0.0
            file.write((random.standard_normal(shape) * scale).astype(np.float32).tobytes())


def measure_deepseek(binaries, kept):
    """[nodes per row, the same if experts were dealt out to the nodes one by one, messages for 1, 4, 16 rows]"""
    rows = np.random.default_rng(4).standard_normal((512, 128)).astype(np.float32)
    with tempfile.TemporaryDirectory() as name:
        write_deepseek(Path(name), kept)
        with Cluster(binaries, Path(name)) as cluster, troupe.connect(data_dir=cluster.data) as client:
            with Mean(cluster, "moe_dispatch_nodes_per_row") as nodes:
                ids = np.asarray(client.layer(0, rows).expert_ids)
            messages = []
            for size in TEXTS:
                with Mean(cluster, "moe_dispatch_messages_per_request") as mean:
                    for begin in range(0, len(rows), size):
                        client.layer(0, rows[begin:begin + size])
                messages.append(mean.value)
    dealt_out = np.mean([len(set(row % NODES)) for row in ids])
    return [nodes.value, dealt_out, *messages]


def print_table(heads, rows):
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)
    print()


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--streams", type=Path, required=True, help="folder of held_out_*.npy")
    arguments.add_argument("--tokens", type=int, default=8192, help="of each domain [8192]")
    arguments.add_argument("--bin", type=Path, default=ROOT / "build" / "bin")
    options = arguments.parse_args()
    streams = {domain: np.load(options.streams / f"held_out_{domain}.npy")[: options.tokens] for domain in DOMAINS}
    heads = ["experts per row", "groups", "nodes per row", *(f"messages, {n} text{'s' if n > 1 else ''}" for n in TEXTS),
             "rows changed, %", *(f"loss, {d}" for d in DOMAINS)]
    places = (2, 2, 2, 2, 1, 4, 4, 4)
    demo = ((str(k), "none" if kept is None else f"{kept} of {GROUPS}",
             *(f"{value:.{p}f}" for value, p in
               zip(measure_demo(options.bin, ROOT / "examples/demo_model", k, kept, streams), places))) for k, kept in SETTINGS)
    print_table(heads, demo)
    heads = ["groups of its own", "nodes per row", "dealt out one by one", *(f"messages, {n} row{'s' if n > 1 else ''}" for n in TEXTS)]
    print_table(heads, ((f"{kept} of {GROUPS}", *(f"{v:.2f}" for v in measure_deepseek(options.bin, kept))) for kept in (2, 3, 4)))


if __name__ == "__main__":
    main()
