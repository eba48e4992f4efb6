"""The same model in llama.cpp (one process) and in a Troupe cluster (experts in three other processes), taken in turns.

    compare.py [--rounds 3] [--streams 1,8,32] [--tokens 64] [--prompt 512] [--threads 2]

Model: random Mixtral type, hidden 1024, 8 layers, 16 heads, 4 KV heads, 32 experts top-4, width 512, vocabulary 4,096,
432 M parameters, bf16. llama.cpp is asked through llama-cpp-python's C interface: one batch per step, no sampling.
Troupe is asked over HTTP, greedy, and samples. Prefill: one prompt. Decode: so many streams at once, each with a prompt
of 16 tokens; the time of the same request with one token is taken off. Prints medians, and the median of the ratios of
each round; at last what one layer's round trip costs, in a cluster of its own (troupe bench layer).
"""
import argparse
import json
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pair import VOCABULARY, checkpoints, cluster_bytes, keep_to_cores, prompt, ratio, start_cluster
import random_mixtral  # behind pair: it sets the path
from scenario import machine, numbers, proportional_bytes
from support.cluster import http_request, run_troupe

DECODE_PROMPT = 16
LAYER_CALLS = 200


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
        self.decode([(t, i, 0, i == count - 1) for i, t in enumerate(prompt(count, seed))])
        return time.perf_counter() - begin

    def decode_seconds(self, streams, count, seed):
        self.forget()
        for s in range(streams):
            self.decode([(t, i, s, i == DECODE_PROMPT - 1) for i, t in enumerate(prompt(DECODE_PROMPT, seed, s))])
        following = np.array(prompt(streams * count, seed)).reshape(count, streams)
        begin = time.perf_counter()
        for step in range(count):
            self.decode([(int(following[step, s]), DECODE_PROMPT + step, s, True) for s in range(streams)])
        return time.perf_counter() - begin

    def first_token(self, tokens):
        self.forget()
        self.decode([(t, i, 0, i == len(tokens) - 1) for i, t in enumerate(tokens)])
        logits = self.c.llama_get_logits_ith(self.context, len(tokens) - 1)
        return int(np.argmax(np.ctypeslib.as_array(logits, (VOCABULARY,))))


class Troupe:
    """A cluster of three expert nodes, asked over HTTP."""

    def __init__(self, cluster):
        self.url = cluster.http

    def ask(self, tokens, count):
        body = {"prompt": tokens, "max_tokens": count, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
        status, _, answer = http_request(self.url + "/v1/completions", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"}, timeout=300)
        if status != 200:
            sys.exit(f"error: the router answered {status}: {answer[:300]}")
        return json.loads(answer)["choices"][0]["token_ids"]

    def ask_all(self, prompts, count):
        """Seconds until the last of the answers."""
        begin = time.perf_counter()
        with ThreadPoolExecutor(len(prompts)) as pool:
            list(pool.map(lambda tokens: self.ask(tokens, count), prompts))
        return time.perf_counter() - begin

    def prefill_seconds(self, count, seed):
        return self.ask_all([prompt(count, seed)], 1)

    def decode_seconds(self, streams, count, seed):
        prompts = [prompt(DECODE_PROMPT, seed, s) for s in range(streams)]
        first = self.ask_all(prompts, 1)  # the second time the prompts are in the prefix cache but for one token
        first = min(first, self.ask_all(prompts, 1))
        return self.ask_all(prompts, count + 1) - first

    def first_token(self, tokens):
        return self.ask(tokens, 1)[0]


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


def layer_round_trips(rows, threads):
    """[row of `troupe bench layer`] for a layer of this model's shape: what one costs in a cluster and in one process."""
    c = random_mixtral.CONFIG
    done = run_troupe("bench", "layer", "--hidden", c["hidden_size"], "--width", c["intermediate_size"], "--experts",
                      c["num_local_experts"], "--top-k", c["num_experts_per_tok"], "--rows", ",".join(map(str, rows)),
                      "--threads", threads, "--node-threads", threads, "--calls", LAYER_CALLS, "--no-curve", "-o", "json")
    if done.returncode != 0:
        sys.exit(f"error: troupe bench layer failed: {done.stderr}")
    return json.loads(done.stdout)["items"]


def print_figures(figures):
    print("\n| tokens/s, medians | llama.cpp, one process | Troupe, experts in three other processes | ratio |\n|---|---|---|---|")
    for name, pairs in figures.items():
        theirs, ours = (statistics.median(column) for column in zip(*pairs))
        print(f"| {name} | {theirs:,.0f} | {ours:,.0f} | {ratio(pairs):.2f} |")


def print_layers(layers):
    print("\n| one layer's round trip, rows | p50, ms | p99, ms | in one process, p50, ms | messages |\n|---|---|---|---|---|")
    for layer in layers:
        print(f"| {layer['rows']} | {layer['cluster_p50_ms']:.2f} | {layer['cluster_p99_ms']:.2f} | "
              f"{layer['in_process_p50_ms']:.2f} | {layer['messages_per_layer']:.1f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=numbers, default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    keep_to_cores(options.threads)
    with checkpoints() as folder:
        llama = LlamaCpp(folder / "model.gguf", options.threads, max(options.streams), 1024)
        with start_cluster(folder, options.threads) as cluster:
            troupe = Troupe(cluster)
            same = sum(llama.first_token(prompt(40, s)) == troupe.first_token(prompt(40, s)) for s in range(20))
            print(f"{machine()}; greedy next token of 20 prompts: {same} equal")
            figures = measure((llama, troupe), options)
            print(f"memory: this process with llama.cpp {proportional_bytes('self') >> 20} MiB, "
                  f"Troupe's processes {cluster_bytes(cluster) >> 20} MiB")
    print_figures(figures)
    print_layers(layer_round_trips(options.streams, options.threads))


if __name__ == "__main__":
    main()
