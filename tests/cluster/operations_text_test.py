"""Random operations by seed that must not change a text, while sixteen texts stream and rows are checked (issue 5, "Must
show" 1). `--operations 500` is the long run; it prints how much slower tokens came meanwhile."""
import collections
import http.client
import itertools
import json
import random
import shutil
import time
import urllib.parse

import numpy as np

from support import golden
from support.cluster import http_request
from support.load import Clients, SteadyLoad, batches_of
from support.random_model import MixtralTwin
from support.waiting import wait_until

DEMO_MODEL = golden.FOLDER.parents[2] / "examples" / "demo_model"
NODES = ("expert-0", "expert-1", "expert-2")
SLOTS = 48  # two nodes can hold every expert twice over while the third is drained
STREAMS = 16
LENGTH = 96
SECONDS = 60
QUIET_TEXTS = 3 * STREAMS
# At most so many experts are replicated, and pinned, at a time.
CHANGED_MAX = 4


class Texts(Clients):
    """As a context manager: STREAMS threads that each ask for one greedy text again and again and compare it."""

    def __init__(self, cluster, prompts):
        super().__init__(STREAMS, 2 * SECONDS)
        self.address = urllib.parse.urlsplit(cluster.http)
        self.model = json.loads(http_request(cluster.http + "/v1/models")[2])["data"][0]["id"]
        self.prompts, self.wrong, self._texts, self._gaps = prompts, [], 0, []
        self.expected = [self._read(prompt)[0] for prompt in prompts]  # nothing else happens yet

    def texts(self):
        with self._lock:
            return self._texts

    def take_gaps(self):
        """Seconds between two tokens of one text, of the texts that ended since the last call."""
        with self._lock:
            gaps, self._gaps = self._gaps, []
        return gaps

    def _run(self, number):
        while not self._stop.is_set():
            try:
                text, gaps = self._read(self.prompts[number])
            except Exception as problem:  # a failed request of any kind
                text, gaps = f"{type(problem).__name__}: {problem}", []
            with self._lock:
                self._texts += 1
                self._gaps += gaps
                if text != self.expected[number]:
                    self.wrong.append((number, text, self.expected[number]))

    def _read(self, prompt):
        """-> (text, seconds between its pieces)"""
        connection = http.client.HTTPConnection(self.address.hostname, self.address.port, timeout=SECONDS)
        try:
            body = {"model": self.model, "prompt": prompt, "max_tokens": LENGTH, "temperature": 0, "ignore_eos": True,
                    "stream": True, "skip_special_tokens": False, "timeout_ms": SECONDS * 1000}
            connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            if answer.status != 200:
                raise RuntimeError(f"{answer.status}: {answer.read()[:500]}")
            return self._join(answer)
        finally:
            connection.close()

    @staticmethod
    def _join(answer):
        text, times = "", []
        for line in answer:
            if not line.startswith(b"data: "):
                continue
            if line.strip() == b"data: [DONE]":
                return text, list(np.diff(times))
            event = json.loads(line[len(b"data: "):])
            if "error" in event:
                raise RuntimeError(event["error"])
            times.append(time.monotonic())
            text += event["choices"][0]["text"]
        raise RuntimeError("the stream ended without [DONE]")


class Operator:
    """Random operations, one at a time. Each must end done or cancelled, or be refused for a reason that is named here.

    A method of this class is an operation; KINDS says how often each comes. None may change what the model computes.
    """

    KINDS = {"migrate": 4, "replicate": 3, "pin": 1, "drain": 2, "cancel": 2, "prune": 2, "refresh": 2}

    def __init__(self, cluster, seed, idle, folders):
        """`idle`: experts that no text and no row meets. `folders`: checkpoints that differ in those alone."""
        self.cluster, self.random, self.history = cluster, random.Random(seed), collections.Counter()
        self.replicated, self.pinned, self.drained = set(), set(), None
        self.idle, self.folders, self.pruned = idle, folders, set()

    def step(self):
        kind = self.random.choices(list(self.KINDS), self.KINDS.values())[0]
        self.history[getattr(self, kind)()] += 1

    def places(self):
        return {f"{e['layer']}/{e['expert']}": {r["node"] for r in e["replicas"]} for e in self.cluster.experts()}

    # Each returns what it did, in words for the summary.

    def migrate(self):
        expert, to = self._expert_and_target()
        done, refused = self._do("expert", "migrate", expert, "--to", to, refusals=("already", "pinned"))
        return "migrate refused" if refused else f"migrate {self._end_of(done, 'done')}"

    def cancel(self):
        """Of a migrate that has just begun; it may be too late."""
        expert, to = self._expert_and_target()
        started, refused = self._do("expert", "migrate", expert, "--to", to, "--no-wait", refusals=("already", "pinned"))
        if refused or not started["operation"]:
            return "cancel: nothing to migrate"
        self._do("op", "cancel", started["operation"], "--no-wait", refusals=("is done",))
        return f"cancel: migrate {self._end_of(self.cluster.json('op', 'watch', started['operation']), 'done', 'cancelled')}"

    def replicate(self):
        expert = self._toggle(self.replicated)
        count = 2 if expert in self.replicated else 1
        done, _ = self._do("expert", "replicate", expert, "--count", count)
        if done.get("operation"):
            self._end_of(done, "done")
        return f"replicate to {count}"

    def pin(self):
        expert = self._toggle(self.pinned)
        word = "pin" if expert in self.pinned else "unpin"
        self._do("expert", word, expert)
        return word

    def prune(self):
        """An idle expert, or restore it. Of a replicated one the number of replicas is still to be taken back."""
        expert = self.random.choice([expert for expert in self.idle if expert not in self.replicated] or [None])
        if expert is None:
            return "prune: nothing is idle"
        word = "restore" if expert in self.pruned else "prune"
        done, refused = self._do("expert", word, expert, refusals=("pinned",))
        if refused:
            return f"{word} refused"
        self.pruned ^= {expert}
        return f"{word} {self._end_of(done, 'done')}"

    def refresh(self):
        """To other weights for idle experts, back, or to those that are served."""
        done, _ = self._do("refresh", "now", "--from", self.random.choice(self.folders))
        if "operation" in done:
            return "refresh to the same weights"
        return f"refresh {self._end_of(done, 'done')}"

    def drain(self):
        if self.drained:
            self._do("node", "undrain", self.drained)
            self.drained = None
            return "undrain"
        self.drained = self.random.choice(NODES)
        self._do("node", "drain", self.drained, "--yes")
        assert self.cluster.nodes()[self.drained]["slots_used"] == 0
        return "drain"

    def undo(self):
        """What it has changed and not yet taken back."""
        while self.replicated:
            self._do("expert", "replicate", self.replicated.pop(), "--count", 1)
        while self.pinned:
            self._do("expert", "unpin", self.pinned.pop())
        while self.pruned:
            self._do("expert", "restore", self.pruned.pop())
        if self.drained:
            self.drain()

    def _expert_and_target(self):
        places = self.places()
        free = {expert: sorted(set(NODES) - at - {self.drained}) for expert, at in sorted(places.items()) if at}
        expert = self.random.choice([expert for expert, nodes in free.items() if nodes and expert not in self.pinned])
        return expert, self.random.choice(free[expert])

    def _toggle(self, changed):
        """An expert that now belongs to `changed`, or does so no longer."""
        if len(changed) >= CHANGED_MAX or (changed and self.random.random() < 0.5):
            expert = self.random.choice(sorted(changed))
            changed.remove(expert)
        else:
            expert = self.random.choice(sorted(set(self.places()) - changed - self.pruned))
            changed.add(expert)
        return expert

    def _do(self, *words, refusals=()):
        """-> (document, was it refused as a conflict with one of these words)"""
        done = self.cluster.run(*words, "-o", "json")
        if done.returncode == 4 and any(reason in done.stderr for reason in refusals):
            return {}, True
        assert done.returncode == 0, f"troupe {words}: {done.returncode}: {done.stderr}\n{self.cluster.logs()}"
        return json.loads(done.stdout), False

    @staticmethod
    def _end_of(operation, *allowed):
        assert operation["state"] in allowed, operation
        return operation["state"]


def percentiles(gaps):
    return [float(np.percentile(gaps, q)) * 1000 for q in (50, 99)]


def idle_experts(cluster):
    """Pairs (layer, expert) that no row has met so far."""
    def totals():
        return {(expert["layer"], expert["expert"]): expert["tokens_total"] for expert in cluster.experts()}

    last, since = {}, time.monotonic()

    def is_reported():  # nodes report about once a second
        nonlocal last, since
        now = totals()
        if now != last:
            last, since = now, time.monotonic()
        return time.monotonic() - since >= 2.5

    wait_until(is_reported, SECONDS, "the nodes have reported what they computed")
    return sorted(expert for expert, tokens in last.items() if tokens == 0)


def write_variant(folder, idle):
    """The demo model with other weights for these experts."""
    shutil.copytree(DEMO_MODEL, folder)
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    data = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:data])
    for layer, expert in idle:
        begin, end = header[f"model.layers.{layer}.block_sparse_moe.experts.{expert}.w2.weight"]["data_offsets"]
        for at in range(data + begin + 1, data + end, 2):
            content[at] ^= 0x80  # the sign of a little-endian bf16
    path.write_bytes(content)
    return folder


def test_random_operations_change_no_text(start_cluster, request, tmp_path):
    seed, operations = request.config.getoption("--seed"), request.config.getoption("--operations")
    cluster = start_cluster(DEMO_MODEL, expert_nodes=3, slots=SLOTS, dtype="f32")
    model = MixtralTwin(DEMO_MODEL)
    # Prose and code: sums would leave no expert idle.
    known = json.loads((DEMO_MODEL / "greedy_texts.json").read_text())["prompts"][:8]
    texts = Texts(cluster, [prompt["prompt_ids"] for prompt in itertools.islice(itertools.cycle(known), STREAMS)])
    idle = idle_experts(cluster)
    assert len(idle) >= 3
    operator = Operator(cluster, seed, [f"{layer}/{expert}" for layer, expert in idle],
                        [str(DEMO_MODEL), str(write_variant(tmp_path / "variant", idle))])
    with SteadyLoad(cluster, batches_of(model, 16, 16, seed, idle), clients=1, timeout=30) as rows, texts:
        wait_until(lambda: texts.texts() >= STREAMS, SECONDS, "every text was read once")
        texts.take_gaps()
        before = texts.texts()
        wait_until(lambda: texts.texts() >= before + QUIET_TEXTS, 2 * SECONDS, "texts stream while nothing happens")
        quiet = percentiles(texts.take_gaps())
        for _ in range(operations):
            operator.step()
        operating = percentiles(texts.take_gaps())
        operator.undo()
        before = texts.texts()
        wait_until(lambda: texts.texts() >= before + STREAMS, SECONDS, "texts go on")
    assert texts.wrong == [], f"seed {seed}, {len(texts.wrong)} of {texts.texts()} texts: {texts.wrong[:3]}"
    rows.assert_exact()
    assert cluster.status()["operations_running"] == 0
    assert cluster.status()["unroutable_experts"] == 0
    assert set(map(len, operator.places().values())) == {1}
    print(f"\n{dict(operator.history)}; {texts.texts()} texts, {rows.answers()} answers of rows; ms between tokens "
          f"p50 {quiet[0]:.1f} -> {operating[0]:.1f}, p99 {quiet[1]:.1f} -> {operating[1]:.1f} "
          f"(x {operating[1] / quiet[1]:.2f})", end="")
