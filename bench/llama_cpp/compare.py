"""The same model in llama.cpp (one process) and in a Troupe cluster (experts in three other processes), taken in turns.

    compare.py [--bin build/bin] [--rounds 3] [--streams 1,8,32] [--tokens 64] [--prompt 512] [--threads 2]

Model: random Mixtral type, hidden 1024, 8 layers, 16 heads, 4 KV heads, 32 experts top-4, width 512, vocabulary 4,096,
432 M parameters, bf16. llama.cpp is asked through llama-cpp-python's C interface: one batch per step, no sampling.
Troupe is asked over HTTP, greedy, and samples. Prefill: one prompt. Decode: so many streams at once, each with a prompt
of 16 tokens; the time of the same request with one token is taken off. Prints medians, and the median of the ratios of
each round.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import random_mixtral

VOCABULARY = random_mixtral.CONFIG["vocab_size"]
DECODE_PROMPT = 16


def tokens(count, seed):
    return [int(t) for t in np.random.default_rng(seed).integers(2, VOCABULARY, count)]


class LlamaCpp:
    """One context with room for every stream; tokens to decode are given, so that no sampler costs time."""

    def __init__(self, path, threads, streams, context):
        from llama_cpp import llama_cpp as c

        self.c = c
        c.llama_backend_init()
        self.silence = c.llama_log_callback(lambda *_: None)  # must outlive the library's use of it
        c.llama_log_set(self.silence, None)
        model = c.llama_model_default_params()
        model.n_gpu_layers = 0
        self.model = c.llama_load_model_from_file(str(path).encode(), model)
        if not self.model:
            sys.exit(f"llama.cpp cannot load {path}")
        options = c.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch, options.n_seq_max = context * streams, 2048, 512, streams
        options.n_threads = options.n_threads_batch = threads
        self.context = c.llama_new_context_with_model(self.model, options)
        self.batch = c.llama_batch_init(2048, 0, 1)

    def forget(self):
        c = self.c
        c.llama_memory_clear(c.llama_get_memory(self.context), True)

    def decode(self, rows):
        """rows: (token, position, sequence, wants logits)"""
        self.batch.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            self.batch.token[i], self.batch.pos[i] = token, position
            self.batch.n_seq_id[i] = 1
            self.batch.seq_id[i][0] = sequence
            self.batch.logits[i] = wanted
        if self.c.llama_decode(self.context, self.batch) != 0:
            sys.exit("llama_decode failed")

    def prefill_seconds(self, count, seed):
        self.forget()
        begin = time.perf_counter()
        self.decode([(t, i, 0, i == count - 1) for i, t in enumerate(tokens(count, seed))])
        return time.perf_counter() - begin

    def decode_seconds(self, streams, count, seed):
        self.forget()
        for s in range(streams):
            self.decode([(t, i, s, i == DECODE_PROMPT - 1) for i, t in enumerate(tokens(DECODE_PROMPT, seed + s))])
        following = np.array(tokens(streams * count, seed)).reshape(count, streams)
        begin = time.perf_counter()
        for step in range(count):
            self.decode([(int(following[step, s]), DECODE_PROMPT + step, s, True) for s in range(streams)])
        return time.perf_counter() - begin

    def first_token(self, prompt):
        self.forget()
        self.decode([(t, i, 0, i == len(prompt) - 1) for i, t in enumerate(prompt)])
        logits = self.c.llama_get_logits_ith(self.context, len(prompt) - 1)
        return int(np.argmax(np.ctypeslib.as_array(logits, (VOCABULARY,))))


class Troupe:
    """A cluster of three expert nodes, asked over HTTP."""

    def __init__(self, programs, model, folder, threads):
        self.troupe = str(pathlib.Path(programs) / "troupe")
        self.environment = dict(os.environ, TROUPE_DATA_DIR=str(folder))
        up = subprocess.run([self.troupe, "up", "--model", str(model), "--dtype", "bf16", "--router-threads", str(threads),
                             "--detach", "-o", "json"], env=self.environment, capture_output=True, text=True)
        if up.returncode != 0:
            sys.exit(up.stderr)
        started = json.loads(up.stdout)
        self.url, self.processes = started["http"], started["processes"]

    def stop(self):
        subprocess.run([self.troupe, "down"], env=self.environment, capture_output=True)

    def ask(self, prompt, count):
        body = json.dumps({"prompt": prompt, "max_tokens": count, "temperature": 0, "ignore_eos": True,
                           "return_token_ids": True}).encode()
        request = urllib.request.Request(self.url + "/v1/completions", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.load(answer)["choices"][0]["token_ids"]

    def ask_all(self, prompts, count):
        """Seconds until the last of the answers."""
        threads = [threading.Thread(target=self.ask, args=(p, count)) for p in prompts]
        begin = time.perf_counter()
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        return time.perf_counter() - begin

    def prefill_seconds(self, count, seed):
        begin = time.perf_counter()
        self.ask(tokens(count, seed), 1)
        return time.perf_counter() - begin

    def decode_seconds(self, streams, count, seed):
        prompts = [tokens(DECODE_PROMPT, seed + s) for s in range(streams)]
        first = self.ask_all(prompts, 1)  # the second time the prompts are in the prefix cache but for one token
        first = min(first, self.ask_all(prompts, 1))
        return self.ask_all(prompts, count + 1) - first

    def first_token(self, prompt):
        return self.ask(prompt, 1)[0]

    def resident_bytes(self):
        total = 0
        for process in self.processes:
            for line in pathlib.Path(f"/proc/{process['pid']}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    total += int(line.split()[1]) * 1024
        return total


def measure(sides, options):
    """name of the figure -> per round (llama.cpp, Troupe), in tokens per second."""
    figures = {}
    for round_number in range(options.rounds + 1):  # the first warms up and does not count
        seed = 1000 * (round_number + 1)
        jobs = {f"prefill {options.prompt}": (options.prompt, lambda s: s.prefill_seconds(options.prompt, seed))}
        for streams in options.streams:
            jobs[f"decode x{streams}"] = (streams * options.tokens,
                                          lambda s, n=streams: s.decode_seconds(n, options.tokens, seed))
        for name, (count, job) in jobs.items():
            pair = [count / job(side) for side in sides]
            if round_number > 0:
                figures.setdefault(name, []).append(pair)
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default="build/bin")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=lambda text: [int(n) for n in text.split(",")], default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="troupe-llama-") as folder:
        folder = pathlib.Path(folder)
        weights = random_mixtral.make_tensors(1)
        random_mixtral.write_hugging_face(folder / "model", weights)
        random_mixtral.write_gguf(folder / "model.gguf", weights)
        del weights
        llama = LlamaCpp(folder / "model.gguf", options.threads, max(options.streams), 1024)
        troupe = Troupe(options.bin, folder / "model", folder / "data", options.threads)
        try:
            same = sum(llama.first_token(tokens(40, s)) == troupe.first_token(tokens(40, s)) for s in range(20))
            print(f"greedy next token of 20 prompts: {same} equal")
            figures = measure((llama, troupe), options)
            print(f"resident: this process with llama.cpp {int(open('/proc/self/statm').read().split()[1]) * 4096 >> 20} MiB, "
                  f"Troupe's processes {troupe.resident_bytes() >> 20} MiB")
        finally:
            troupe.stop()
    print(f"{'tokens/s, medians':20} {'llama.cpp':>10} {'Troupe':>10} {'ratio':>7}")
    for name, pairs in figures.items():
        ratio = statistics.median(ours / theirs for theirs, ours in pairs)
        theirs, ours = (statistics.median(column) for column in zip(*pairs))
        print(f"{name:20} {theirs:10.1f} {ours:10.1f} {ratio:7.2f}")


if __name__ == "__main__":
    main()
