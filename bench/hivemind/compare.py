"""The same MoE layer through hivemind's remote experts and through a Troupe cluster, in one run, taken in turns.

    compare.py [--rows 1,8,64,512] [--calls 7] [--handlers 2] [--bin build/bin]

Layer: hidden 2048, width 1024, 64 experts, top-8, bf16, three servers each. The caller has gated (ids and weights are
random, the same for both sides). hivemind gets its best case: one request per expert with all rows of that expert, all
experts at once, weights and sum in the caller. Prints median milliseconds, rows/s and the ratio, processes and resident
memory; then one server of each side is killed and both are asked again, with the error against the full answer.
"""
import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

HIDDEN, WIDTH, EXPERTS, TOP_K, SERVERS = 2048, 1024, 64, 8, 3
START_DEADLINE_SECONDS = 180


def make_weights(seed):
    """dict of bf16 tensors [EXPERTS, out, in] scaled so that activations keep order one."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"gate": (WIDTH, HIDDEN), "up": (WIDTH, HIDDEN), "down": (HIDDEN, WIDTH)}
    return {name: (torch.randn((EXPERTS, *shape), generator=generator) / shape[1] ** 0.5).to(torch.bfloat16)
            for name, shape in shapes.items()}


def write_checkpoint(folder, weights):
    """A Qwen3-MoE checkpoint of one layer that holds exactly these experts."""
    config = {"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "hidden_size": HIDDEN,
              "moe_intermediate_size": WIDTH, "intermediate_size": WIDTH, "num_experts": EXPERTS,
              "num_experts_per_tok": TOP_K, "norm_topk_prob": True, "num_hidden_layers": 1, "decoder_sparse_step": 1,
              "mlp_only_layers": [], "hidden_act": "silu", "vocab_size": 8, "num_attention_heads": 16,
              "num_key_value_heads": 16, "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {"model.layers.0.mlp.gate.weight": torch.randn((EXPERTS, HIDDEN)).to(torch.bfloat16)}
    for e in range(EXPERTS):
        for name in ("gate", "up", "down"):
            tensors[f"model.layers.0.mlp.experts.{e}.{name}_proj.weight"] = weights[name][e]
    header, offset = {}, 0
    for name, tensor in tensors.items():
        size = tensor.numel() * 2
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(tensor.contiguous().view(torch.int16).numpy().tobytes())


def resident_bytes(roots):
    """(processes, bytes): proportional set size of the process trees below these pids."""
    table = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    children = {}
    for line in table.splitlines():
        pid, parent = map(int, line.split())
        children.setdefault(parent, []).append(pid)
    todo, total, count = list(roots), 0, 0
    while todo:
        pid = todo.pop()
        todo += children.get(pid, [])
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        count += 1
        total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) * 1024
    return count, total


class Hivemind:
    """Three server processes and a caller that sends each expert all of its rows in one request."""

    def __init__(self, folder, weights, handlers):
        torch.save(weights, folder / "weights.pt")
        self.servers, peer = [], None
        share = -(-EXPERTS // SERVERS)
        for i in range(SERVERS):
            ready = folder / f"ready-{i}"
            command = [sys.executable, str(Path(__file__).with_name("servers.py")), "--first", str(i * share), "--count",
                       str(min(share, EXPERTS - i * share)), "--hidden", str(HIDDEN), "--width", str(WIDTH),
                       "--handlers", str(handlers), "--weights", str(folder / "weights.pt"), "--ready", str(ready)]
            log = open(folder / f"server-{i}.log", "w")
            self.servers.append(subprocess.Popen(command + (["--peer", peer] if peer else []), stdout=log, stderr=log,
                                                 start_new_session=True))
            deadline = time.monotonic() + START_DEADLINE_SECONDS
            while not ready.exists() or not ready.read_text():
                if time.monotonic() > deadline or self.servers[-1].poll() is not None:
                    raise SystemExit(f"error: hivemind server {i} did not start; see {log.name}\n{Path(log.name).read_text()[-2000:]}")
                time.sleep(0.1)
            peer = peer or ready.read_text()
        import hivemind
        from hivemind.moe.server.dht_handler import get_experts
        from hivemind.moe.client.expert import create_remote_experts
        self.dht = hivemind.DHT(initial_peers=[peer], start=True)
        uids = [f"expert.{e}" for e in range(EXPERTS)]
        deadline = time.monotonic() + START_DEADLINE_SECONDS
        while True:
            infos = get_experts(self.dht, uids)
            if all(infos):
                break
            if time.monotonic() > deadline:
                raise SystemExit("error: hivemind's DHT does not list all experts")
            time.sleep(0.5)
        self.experts = create_remote_experts(infos, self.dht)
        self.pool = ThreadPoolExecutor(EXPERTS)

    def layer(self, hidden, ids, gate_weights, timeout=30):
        """hidden [T, H] bf16 -> ([T, H] f32, experts that failed): their terms are missing, as hivemind defines it."""
        output, failed, calls = torch.zeros(hidden.shape, dtype=torch.float32), 0, []
        for e in torch.unique(ids).tolist():
            rows, column = torch.nonzero(ids == e, as_tuple=True)
            calls.append((rows, column, self.pool.submit(self.experts[e], hidden[rows])))
        for rows, column, call in calls:
            try:
                output.index_add_(0, rows, call.result(timeout).detach().float() * gate_weights[rows, column, None])
            except Exception:  # whatever the library raises: the term is missing
                failed += 1
        return output, failed

    def kill_one(self):
        os.killpg(self.servers[-1].pid, signal.SIGKILL)

    def stop(self):
        for server in self.servers:
            try:
                os.killpg(server.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.dht.shutdown()


class Troupe:
    """`troupe up` with three expert nodes and two replicas, and its Python client."""

    def __init__(self, folder, binaries, replication):
        self.troupe, self.data = str(binaries / "troupe"), folder / "cluster"
        up = subprocess.run([self.troupe, "up", "--model", str(folder), "--expert-nodes", str(SERVERS), "--replication",
                             str(replication), "--dtype", "bf16", "--data-dir", str(self.data), "--detach", "-o", "json"],
                            capture_output=True, text=True)
        if up.returncode != 0:
            raise SystemExit(f"error: troupe up failed\n{up.stderr}")
        self.processes = json.loads(up.stdout)["processes"]
        import troupe
        self.cluster = troupe.connect(data_dir=str(self.data))

    def layer(self, hidden, ids, gate_weights):
        return self.cluster.experts(0, hidden, ids.numpy().astype(np.int32), gate_weights.numpy()).output

    def kill_one(self):
        os.kill(next(p["pid"] for p in self.processes if p["role"] == "expert"), signal.SIGKILL)

    def stop(self):
        self.cluster.close()
        subprocess.run([self.troupe, "down", "--data-dir", str(self.data), "--yes"], capture_output=True)


def requests(rows, count, seed):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        hidden = torch.randn((rows, HIDDEN), generator=generator).to(torch.bfloat16)
        scores = torch.rand((rows, EXPERTS), generator=generator)
        top = scores.topk(TOP_K, dim=1)
        yield hidden, top.indices, top.values / top.values.sum(1, keepdim=True)


def as_float(array):
    return array.float() if isinstance(array, torch.Tensor) else torch.from_numpy(np.asarray(array, dtype=np.float32))


def compare(ours, theirs, rows, calls):
    ms = {"troupe": [], "hivemind": []}
    for n, (hidden, ids, weights) in enumerate(requests(rows, calls + 1, rows)):
        begin = time.perf_counter()
        a = as_float(ours.layer(hidden, ids, weights))
        middle = time.perf_counter()
        b, failed = theirs.layer(hidden, ids, weights)
        end = time.perf_counter()
        difference = float((a - b).abs().max() / b.abs().max())
        if failed or difference > 2e-2:
            raise SystemExit(f"error: the two sides disagree at {rows} rows: {difference:.1e} of the peak, {failed} experts failed")
        if n:  # the first call of each size warms both sides
            ms["troupe"].append((middle - begin) * 1e3)
            ms["hivemind"].append((end - middle) * 1e3)
    return {side: statistics.median(values) for side, values in ms.items()}


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rows", default="1,8,64,512")
    arguments.add_argument("--calls", type=int, default=7)
    arguments.add_argument("--handlers", type=int, default=2, help="connection handler processes per hivemind server")
    arguments.add_argument("--bin", type=Path, default=Path(__file__).resolve().parents[2] / "build" / "bin")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="troupe-bench-") as name:
        folder = Path(name)
        weights = make_weights(7)
        write_checkpoint(folder, weights)
        theirs = Hivemind(folder, weights, options.handlers)
        ours = Troupe(folder, options.bin, replication=2)
        try:
            print(f"{'rows':>5} {'troupe ms':>10} {'hivemind ms':>12} {'troupe rows/s':>14} {'hivemind rows/s':>16} {'ratio':>6}")
            for rows in map(int, options.rows.split(",")):
                ms = compare(ours, theirs, rows, options.calls)
                print(f"{rows:>5} {ms['troupe']:>10.1f} {ms['hivemind']:>12.1f} {rows / ms['troupe'] * 1e3:>14.0f} "
                      f"{rows / ms['hivemind'] * 1e3:>16.0f} {ms['hivemind'] / ms['troupe']:>6.1f}", flush=True)
            for side, roots in (("troupe", [p["pid"] for p in ours.processes]), ("hivemind", [s.pid for s in theirs.servers])):
                processes, resident = resident_bytes(roots)
                print(f"{side}: {processes} processes, {resident / 1e9:.2f} GB for {EXPERTS * 3 * HIDDEN * WIDTH * 2 / 1e9:.2f} GB of weights"
                      + (" twice" if side == "troupe" else ""))
            hidden, ids, gate_weights = next(requests(64, 1, 99))
            full = as_float(ours.layer(hidden, ids, gate_weights))
            ours.kill_one()
            theirs.kill_one()
            after = as_float(ours.layer(hidden, ids, gate_weights))
            lost, failed = theirs.layer(hidden, ids, gate_weights)
            print(f"one server of each killed: troupe differs by {float((after - full).abs().max() / full.abs().max()):.1e} of the peak; "
                  f"hivemind dropped {failed} experts and differs by {float((lost - full).abs().max() / full.abs().max()):.1e}")
        finally:
            theirs.stop()
            ours.stop()


if __name__ == "__main__":
    main()
