"""Mixed requests for text by seed, good and bad, while expert nodes die: each ends exactly once, nothing stays behind."""
import collections
import http.client
import json
import random
import shutil
import time
import urllib.parse

import pytest
import troupe

from support import golden
from support.cluster import http_request
from support.flatness import assert_flat, sizes
from support.load import Clients
from support.waiting import wait_until

DEMO_MODEL = golden.FOLDER.parents[2] / "examples" / "demo_model"
CONTEXT = 2200
PROMPT_MAX = 2000
CLIENTS = 8
SHORT_RUN_REQUESTS = 160
SHORT_RUN_KILLS = 1
WARM_UP_REQUESTS = 60
SECONDS = 120
# How a request may end. Exactly one of these, for each.
ENDS = {"answer", "approximation", "error", "cancelled"}


@pytest.fixture(scope="session")
def long_demo_model(tmp_path_factory):
    """The demo model with a longer context: what it says there is no matter here."""
    folder = tmp_path_factory.mktemp("model") / "long"
    folder.mkdir()
    for file in DEMO_MODEL.iterdir():
        if file.suffix in (".safetensors", ".json"):
            shutil.copy(file, folder)
    config = json.loads((DEMO_MODEL / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": CONTEXT}))
    return folder


def question(rng):
    """-> (body of a completion, why it must be refused or None, after how many chunks the client leaves or None)"""
    length = int(PROMPT_MAX ** rng.random())
    body = {"prompt": [rng.randrange(2, 4000) for _ in range(length)], "max_tokens": rng.randrange(1, 65),
            "temperature": rng.choice([0, 0.7, 1.0]), "seed": rng.randrange(2**31),
            "degrade": rng.choice(["wait", "substitute", "renormalise", "fail"]), "timeout_ms": SECONDS * 1000}
    if rng.random() < 0.4:
        body |= {"presence_penalty": rng.uniform(-2, 2), "frequency_penalty": rng.uniform(-2, 2),
                 "repetition_penalty": rng.uniform(0.8, 1.3)}
    if rng.random() < 0.3:
        body |= {"top_p": rng.uniform(0.1, 1), "top_k": rng.randrange(1, 50)}
    if rng.random() < 0.2:
        body["stop"] = ["e", "the"]
    kind = rng.random()
    if kind < 0.10:
        refused = rng.choice([{"max_tokens": CONTEXT}, {"max_tokens": -1}, {"temperature": 3}, {"top_p": 0},
                              {"prompt": [9999999]}, {"prompt": []}])
        return body | refused, True, None
    if kind < 0.15:
        return body | {"timeout_ms": rng.randrange(1, 30)}, None, None
    return body, None, rng.randrange(0, 12) if kind < 0.30 else None


def ask_over_http(address, body, leave_after):
    """-> how it ended"""
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=SECONDS)
    try:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        if answer.status != 200:
            return "error" if json.loads(answer.read())["error"]["code"] else "no code"
        return read_events(answer, leave_after) if body.get("stream") else end_of_plain(json.loads(answer.read()))
    finally:
        connection.close()


def end_of_plain(document):
    choices = document["choices"]
    if not all(choice["finish_reason"] in ("stop", "length") for choice in choices):
        return "no finish_reason"
    return "approximation" if document["usage"].get("approximate_tokens") else "answer"


def read_events(answer, leave_after):
    ends, declared, finished = [], False, 0
    for line in answer:
        if not line.startswith(b"data: "):
            continue
        if line.strip() == b"data: [DONE]":
            ends.append("approximation" if declared else "answer")
            continue
        event = json.loads(line[len(b"data: "):])
        if "error" in event:
            ends.append("error")
            continue
        finished += sum(choice["finish_reason"] is not None for choice in event["choices"])
        declared |= any(choice.get("troupe", {}).get("exact") is False for choice in event["choices"])
        if leave_after is not None and not ends:
            leave_after -= 1
            if leave_after < 0:
                return "cancelled"
    if len(ends) != 1 or (ends[0] != "error" and finished == 0):
        return f"{finished} finish reasons, then {ends}"
    return ends[0]


def ask_over_zeromq(client, body, leave_after):
    options = {k: v for k, v in body.items() if k not in ("timeout_ms", "prompt", "model")}
    finished, inexact = [], False
    try:
        for number, token in enumerate(client.generate(body["prompt"], timeout=body["timeout_ms"] / 1000, **options)):
            inexact |= not token.exact
            finished += [token.finish_reason] if token.finish_reason else []
            if leave_after is not None and number >= leave_after and not finished:
                return "cancelled"
    except troupe.Error:
        return "error" if not finished else "an end, then an error"
    return ("approximation" if inexact else "answer") if len(finished) == 1 else f"ends {finished}"


class Traffic(Clients):
    """As a context manager: CLIENTS threads that ask one question after another until it is left."""

    def __init__(self, cluster, seed):
        super().__init__(CLIENTS, 2 * SECONDS)
        self.cluster, self.seed = cluster, seed
        self.model = json.loads(http_request(cluster.http + "/v1/models")[2])["data"][0]["id"]
        self.ends, self.wrong = collections.Counter(), []

    def requests(self):
        with self._lock:
            return sum(self.ends.values())

    def _run(self, number):
        rng = random.Random(self.seed * 1000 + number)
        address = urllib.parse.urlsplit(self.cluster.http)
        with self.cluster.connect() as client:
            while not self._stop.is_set():
                body, must_fail, leave_after = question(rng)
                door = rng.choice(["plain", "stream", "zeromq"])
                try:
                    end = self._ask(door, rng, address, client, body | {"model": self.model}, leave_after)
                except Exception as problem:  # a broken connection is none of the ends either
                    end = f"{type(problem).__name__}: {problem}"
                with self._lock:
                    self.ends[end] += 1
                    if end not in ENDS or (must_fail and end != "error"):
                        self.wrong.append((door, end, {**body, "prompt": len(body["prompt"])}))

    @staticmethod
    def _ask(door, rng, address, client, body, leave_after):
        if door == "zeromq":
            return ask_over_zeromq(client, body, leave_after)
        if door == "stream":
            return ask_over_http(address, body | {"stream": True}, leave_after)
        return ask_over_http(address, body | {"n": rng.choice([1, 1, 2, 3])}, None)


@pytest.mark.fault("P13")
def test_mixed_requests_end_once_and_leave_nothing(long_demo_model, start_cluster, request):
    seconds, seed = request.config.getoption("--soak-seconds"), request.config.getoption("--seed")
    cluster = start_cluster(long_demo_model, expert_nodes=3, dtype="f32", kv_memory="16MiB")
    kills, end = 0, time.monotonic() + seconds
    with Traffic(cluster, seed) as traffic:
        wait_until(lambda: traffic.requests() >= WARM_UP_REQUESTS, SECONDS, "the first requests have ended")
        while kills < SHORT_RUN_KILLS or time.monotonic() < end or traffic.requests() < SHORT_RUN_REQUESTS:
            if kills == 0:
                before = sizes(cluster)
            cluster.kill(f"expert-{kills % 3}")
            kills += 1
            cluster.start_missing()
            cluster.wait_complete(1)
            at_least = traffic.requests() + max(20, SHORT_RUN_REQUESTS // 4)
            wait_until(lambda: traffic.requests() >= at_least, SECONDS, "requests go on")
    assert not traffic.wrong, f"seed {seed}, {len(traffic.wrong)} of {traffic.requests()}: {traffic.wrong[:5]}"
    print(f"\n{kills} nodes killed; {dict(traffic.ends)}; preempted {cluster.metric('moe_preemptions_total'):.0f}", end="")
    # How many meet a dead node is left to chance.
    assert set(traffic.ends) >= ENDS - {"approximation"}, "the kinds of ends that do not need one were seen"
    for gauge in ("moe_kv_cache_usage_ratio", "moe_generations_running", "moe_generations_waiting",
                  "moe_generations_stalled"):
        wait_until(lambda name=gauge: cluster.metric(name) == 0, 10, f"{gauge} is 0 again")
    assert_flat(before, sizes(cluster))
