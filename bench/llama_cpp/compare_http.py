"""llama.cpp's own HTTP server and a Troupe cluster's on the same random checkpoint: streamed texts, in turns in one run.

    compare_http.py --llama-server PROGRAM [--rounds 3] [--clients 1,8,32] [--prompt 128] [--tokens 64] [--threads 2]

So many clients at once, each asking for one text after the other: two, a single client eight. Every prompt is new, random
token ids; answers are greedy and have --tokens tokens. Prints output tokens/s (of a round: from the first request to the last
token), time to the first token and between tokens (of all rounds together), and memory. Both sides and the clients share
--threads cores.
"""
import argparse
import http.client
import json
import socket
import statistics
import subprocess
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pair import checkpoints, cluster_bytes, keep_to_cores, prompt, ratio, start_cluster
from scenario import machine, numbers, proportional_bytes
from support.cluster import http_request
from support.waiting import wait_until

REQUEST_SECONDS = 300
START_SECONDS = 120
TEXTS_PER_CLIENT, TEXTS_MIN = 2, 8
CONTEXT_PER_SLOT = 512


class LlamaServer:
    """As a context manager: llama-server with a slot for each client. `http`: its address; `extra`: fields of requests.

    Continuous batching is its default. What keeps prompts for later is off: no prompt comes twice, so that it could only
    cost time.
    """

    extra = {"cache_prompt": False}

    def __init__(self, program, folder, slots, threads):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.http, self.log = f"http://127.0.0.1:{port}", folder / "llama-server.log"
        self.command = [program, "--model", folder / "model.gguf", "--host", "127.0.0.1", "--port", port, "--threads", threads,
                        "--threads-batch", threads, "--parallel", slots, "--ctx-size", slots * CONTEXT_PER_SLOT,
                        "--no-cache-prompt", "--cache-ram", 0, "--offline"]

    def __enter__(self):
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(list(map(str, self.command)), stdout=log, stderr=log)
        wait_until(self._serves, START_SECONDS, lambda: f"llama-server serves: {self.log.read_text()[-2000:]}")
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def resident_bytes(self):
        return proportional_bytes(self.process.pid)

    def _serves(self):
        assert self.process.poll() is None, f"llama-server ended: {self.log.read_text()[-2000:]}"
        try:
            return http_request(self.http + "/health")[0] == 200
        except OSError:
            return False


class Troupe:
    """A running cluster: what LlamaServer offers."""

    extra = {}

    def __init__(self, cluster):
        self.cluster, self.http = cluster, cluster.http

    def resident_bytes(self):
        return cluster_bytes(self.cluster)


def stream(side, tokens, count):
    """Asks for one text -> times of time.perf_counter(): [when it was asked, when each of its tokens came]."""
    address = urllib.parse.urlsplit(side.http)
    body = json.dumps({"prompt": tokens, "max_tokens": count, "temperature": 0, "ignore_eos": True, "stream": True, **side.extra})
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=REQUEST_SECONDS)
    times, events = [time.perf_counter()], []
    try:
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {answer.read()[:300]}")
        for line in answer:
            if line.startswith(b"data: {"):
                times.append(time.perf_counter())
                events.append(line)
    finally:
        connection.close()
    pieces = ["".join(choice["text"] for choice in json.loads(event[len(b"data: "):]).get("choices", [])) for event in events]
    came = [when for when, piece in zip(times[1:], pieces) if piece]  # the last event of a text has none
    if len(came) != count:
        raise RuntimeError(f"{len(came)} pieces of text instead of {count}: {events[-1][:300]}")
    return [times[0], *came]


@dataclass
class Figures:
    """Of one side with one number of clients."""

    rates: list = field(default_factory=list)
    """Output tokens/s of each round."""
    first: list = field(default_factory=list)
    """Milliseconds to the first token, of each text."""
    between: list = field(default_factory=list)
    """Milliseconds from one token of a text to the next."""

    def add(self, texts):
        """`texts`: what stream() returned for each text of a round."""
        times = np.array(texts)
        self.rates.append(times[:, 1:].size / (times.max() - times.min()))
        steps = np.diff(times) * 1e3
        self.first += steps[:, 0].tolist()
        self.between += steps[:, 1:].ravel().tolist()


def run_clients(side, clients, texts, length, count, seed):
    """[stream()] of `clients` clients that ask for `texts` texts each."""
    def ask(client):
        return [stream(side, prompt(length, seed, client, text), count) for text in range(texts)]

    with ThreadPoolExecutor(clients) as pool:
        return [times for of_client in pool.map(ask, range(clients)) for times in of_client]


def measure(sides, options):
    """{clients: [Figures of each side]}; rounds take the sides in turns. One short text per client before warms both up."""
    figures = {}
    for clients in options.clients:
        figures[clients] = [Figures() for _ in sides]
        texts = max(TEXTS_PER_CLIENT, TEXTS_MIN // clients)
        for side in sides:
            run_clients(side, clients, 1, options.prompt, 4, clients)
        for number in range(options.rounds):
            for side, its in zip(sides, figures[clients]):
                its.add(run_clients(side, clients, texts, options.prompt, options.tokens, 1000 * (number + 1) + clients))
    return figures


def print_figures(figures):
    def spread(values):
        return f"{statistics.median(values):,.1f} / {np.percentile(values, 99):,.1f}"

    print("\n| clients | | llama.cpp's server | Troupe, experts in three other processes | ratio |\n|---|---|---|---|---|")
    for clients, (theirs, ours) in figures.items():
        print(f"| {clients} | output tokens/s | {statistics.median(theirs.rates):.0f} | {statistics.median(ours.rates):.0f} | "
              f"{ratio(zip(theirs.rates, ours.rates)):.2f} |")
        for words, name in (("first token, ms, p50 / p99", "first"), ("between tokens, ms, p50 / p99", "between")):
            their, our = getattr(theirs, name), getattr(ours, name)
            print(f"| | {words} | {spread(their)} | {spread(our)} | {statistics.median(our) / statistics.median(their):.2f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-server", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=numbers, default=[1, 8, 32])
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    keep_to_cores(options.threads)
    with checkpoints() as folder, LlamaServer(options.llama_server, folder, max(options.clients), options.threads) as server, \
            start_cluster(folder, options.threads) as cluster:
        print(machine())
        sides = (server, Troupe(cluster))
        figures = measure(sides, options)
        print("memory: llama-server {} MiB, Troupe's processes {} MiB".format(*(side.resident_bytes() >> 20 for side in sides)))
    print_figures(figures)


if __name__ == "__main__":
    main()
