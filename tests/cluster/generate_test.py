"""Text from real clusters: the goldens' tokens through both doors, and streams that survive routers and expert nodes."""
import asyncio
import json
import threading
import urllib.request

import pytest
import troupe

from support import golden
from support.cluster import http_request
from support.waiting import wait_until

# The families whose whole model is served.
FAMILIES = ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe"]
STREAMS = 16
LENGTH = 180  # the goldens' context has 256 tokens
SECONDS = 120


def cases(family):
    return json.loads((golden.FOLDER / family / "generation.json").read_text())["cases"]


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_are_the_references(family, start_cluster):
    cluster = start_cluster(golden.FOLDER / family, expert_nodes=3, dtype="f32")
    with cluster.connect() as client:
        for case in cases(family):
            greedy = dict(max_new_tokens=len(case["greedy_ids"]), temperature=0.0, ignore_eos=True)
            tokens = list(client.generate(case["prompt_ids"], **greedy))
            assert [token.id for token in tokens] == case["greedy_ids"]
            assert [token.position for token in tokens] == list(range(len(tokens)))
            assert tokens[-1].finish_reason == "length" and all(token.exact for token in tokens)
            assert complete(cluster, case["prompt_ids"], len(tokens)) == client.detokenize(case["greedy_ids"])


def complete(cluster, prompt, length):
    """The same over HTTP, which has no token ids in its answers."""
    body = {"model": "any", "prompt": prompt, "max_tokens": length, "temperature": 0, "ignore_eos": True,
            "skip_special_tokens": False}
    body["model"] = json.loads(http_request(cluster.http + "/v1/models")[2])["data"][0]["id"]
    status, _, answer = http_request(cluster.http + "/v1/completions", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    assert status == 200, answer
    return json.loads(answer)["choices"][0]["text"]


def test_batched_texts_are_the_texts_alone(start_cluster):
    cluster = start_cluster(golden.FOLDER / "mixtral", expert_nodes=3, dtype="f32")

    async def read(client, number):
        return [token.id async for token in client.generate(**question(number))]

    async def together():
        async with troupe.aio.connect(data_dir=cluster.data_dir) as client:
            return await asyncio.gather(*(read(client, number) for number in range(32)))

    with cluster.connect() as client:
        alone = [[token.id for token in client.generate(**question(number))] for number in range(32)]
    assert asyncio.run(asyncio.wait_for(together(), SECONDS)) == alone


def question(number, length=40):
    """Half of them greedy, half drawn with a seed; prompts of different lengths."""
    drawn = dict(temperature=0.8, top_p=0.95, seed=number) if number % 2 else dict(temperature=0.0)
    prompt = [2 + (number * 37 + place * 11) % 500 for place in range(1 + number % 23)]
    return dict(prompt=prompt, max_new_tokens=length, ignore_eos=True, timeout=SECONDS, **drawn)


class Readers:
    """STREAMS threads, each reading an answer of LENGTH tokens."""

    def __init__(self, client):
        self.tokens = [[] for _ in range(STREAMS)]
        self.errors = []
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._read, args=(client, number)) for number in range(STREAMS)]
        for thread in self._threads:
            thread.start()

    def _read(self, client, number):
        try:
            for token in client.generate(**question(number, LENGTH)):
                with self._changed:
                    self.tokens[number].append(token)
                    self._changed.notify()
        except troupe.Error as error:
            with self._changed:
                self.errors.append(error)
                self._changed.notify()

    def wait_for_each(self, count):
        """Until every stream has so many tokens. Returns how many streams are not over."""
        with self._changed:
            enough = self._changed.wait_for(
                lambda: self.errors or all(len(tokens) >= count for tokens in self.tokens), SECONDS)
            assert enough and not self.errors, self.errors
            return sum(len(tokens) < LENGTH for tokens in self.tokens)

    def ids(self):
        for thread in self._threads:
            thread.join(SECONDS)
        assert not self.errors, self.errors
        for tokens in self.tokens:
            assert [token.position for token in tokens] == list(range(LENGTH)), "none is lost, none comes twice"
        return [[token.id for token in tokens] for tokens in self.tokens]


@pytest.mark.fault("P3")
def test_streams_survive_their_router(start_cluster):
    cluster = start_cluster(golden.FOLDER / "mixtral", expert_nodes=3, routers=2, dtype="f32")
    with cluster.connect() as client:
        undisturbed = Readers(client).ids()
        readers = Readers(client)
        assert readers.wait_for_each(3) > 0, "some are under way"
        cluster.kill("router-0")
        assert readers.ids() == undisturbed


@pytest.mark.fault("P1")
def test_streams_survive_an_expert_node(start_cluster):
    cluster = start_cluster(golden.FOLDER / "mixtral", expert_nodes=3, replication=2, dtype="f32")
    cluster.wait_complete(2)
    with cluster.connect() as client:
        readers = Readers(client)
        assert readers.wait_for_each(3) > 0, "some are under way"
        cluster.kill("expert-1")
        readers.ids()
        assert all(token.exact for tokens in readers.tokens for token in tokens)


@pytest.mark.fault("P13")
def test_a_stream_that_is_left_ends_its_work(start_cluster):
    cluster = start_cluster(golden.FOLDER / "mixtral", expert_nodes=3, dtype="f32")
    with cluster.connect() as client:
        for token in client.generate([2, 3], max_new_tokens=LENGTH, ignore_eos=True):
            if token.position == 2:
                break
        done = cluster.run("generate", "a", "--max-tokens", "5", "--ignore-eos", "-o", "json")
        assert done.returncode == 0 and len(json.loads(done.stdout)["tokens"]) == 5
    gauge = [line for line in http_request(cluster.http + "/metrics")[2].decode().splitlines()
             if line.startswith("moe_generations_running")]
    assert gauge == ["moe_generations_running 0"]


@pytest.mark.fault("P13")
def test_requests_for_text_are_counted_by_outcome(start_cluster):
    cluster = start_cluster(golden.FOLDER / "mixtral", expert_nodes=3, dtype="f32")

    def count(outcome):
        return cluster.metric("moe_requests_total", f'outcome="{outcome}"')

    answered = http_request(cluster.http + "/v1/completions", json.dumps({"prompt": [2, 3], "max_tokens": 3}).encode())
    refused = http_request(cluster.http + "/v1/completions", b'{"prompt": [2, 3], "n": 99}')
    assert (answered[0], refused[0]) == (200, 400)
    wait_until(lambda: (count("ok"), count("rejected")) == (1, 1), 30, lambda: "an answer and a refusal are counted")
    long = json.dumps({"prompt": [2, 3], "max_tokens": LENGTH, "ignore_eos": True, "stream": True, "n": 4}).encode()
    with urllib.request.urlopen(cluster.http + "/v1/completions", long, timeout=SECONDS) as stream:
        assert stream.readline().startswith(b"data: ")
    wait_until(lambda: count("aborted") == 1, 30, lambda: "a client that left is counted as aborted")
    assert count("error") == 0
    with cluster.connect() as client:
        list(client.generate([2, 3], max_new_tokens=3))
    wait_until(lambda: count("ok") == 2, 30, lambda: "streams over ZeroMQ count as well")
    wait_until(lambda: cluster.metric("moe_requests_running") == 0, 30, lambda: "nothing is under way")


def test_bench_generate_measures_both_doors(start_cluster):
    cluster = start_cluster(golden.FOLDER / "mixtral", expert_nodes=3, dtype="f32")
    for door in ([], ["--http"]):
        report = cluster.json("bench", "generate", "--concurrency", "1,4", "--prompt-tokens", "8", "--output-tokens", "6",
                              "--requests", "8", *door)
        assert report["door"] == ("http" if door else "zeromq")
        for row, streams in zip(report["items"], (1, 4)):
            assert (row["concurrency"], row["requests"], row["failed"], row["output_tokens"]) == (streams, 8, 0, 48)
            assert 0 < row["first_token_p50_ms"] <= row["first_token_p99_ms"] <= row["request_p99_ms"]
