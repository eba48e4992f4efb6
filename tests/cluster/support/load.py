"""Steady load on a cluster: threads that send batches and compare every row of every answer."""
import collections
import itertools
import threading
import time
from dataclasses import dataclass, field

import numpy as np

from support.golden import TOLERANCE, relative_error
from support.waiting import wait_until


@dataclass
class Batch:
    layer: int
    hidden: np.ndarray
    ids: np.ndarray
    expected: np.ndarray


def batches_of(model, count, rows, seed, avoid=()):
    """Precomputed, so that the load costs nothing but the cluster's work. `rows`: a number, or (smallest, largest). Without
    rows that choose one of the experts `avoid`, pairs (layer, expert)."""
    random = np.random.default_rng(seed)
    made = []
    for i in range(count):
        layer = model.layers[i % len(model.layers)]
        size = rows if isinstance(rows, int) else int(random.integers(rows[0], rows[1] + 1))
        hidden = model.rows(size, seed * 1000 + i)
        avoided = [expert for of, expert in avoid if of == layer]
        if avoided:
            more = model.rows(64 * size, seed * 1000 + i)
            hidden = more[~np.isin(model.choose(layer, more)[0], avoided).any(1)][:size]
            assert len(hidden) == size
        made.append(Batch(layer, hidden, model.choose(layer, hidden)[0], model.compute(layer, hidden)))
    return made


@dataclass
class Tally:
    answers: int = 0
    rows: int = 0
    slowest: float = 0.0
    failures: list = field(default_factory=list)


class Clients:
    """As a context manager: threads that run `_run(number)` until `_stop` is set, which is when it is left."""

    def __init__(self, count, patience):
        """`patience`: seconds that one of them may need to come to its end; None: as many as it takes."""
        self._patience = patience
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(count)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(self._patience)
            assert not thread.is_alive(), "a client hangs past its deadline"


class EpochLoad(Clients):
    """As a context manager: clients whose answers must each be what the model gives in one of its states; which state may
    depend on the layer and on the epoch that the answer names, and on nothing else.

    `batches`: (layer, hidden, expected); `explain(answer, expected)` -> the states under which the answer is right."""

    def __init__(self, cluster, states, batches, explain, clients=2, patience=120):
        super().__init__(clients, patience)
        self.cluster, self.batches, self.explain, self.clients = cluster, batches, explain, clients
        self.answers, self.failures = 0, []
        self.explained_by = collections.defaultdict(lambda: set(states))

    def _run(self, number):
        with self.cluster.connect() as client:
            for turn in itertools.count(number, self.clients):
                if self._stop.is_set():
                    return
                self._send(client, *self.batches[turn % len(self.batches)])

    def _send(self, client, layer, hidden, expected):
        try:
            answer = client.layer(layer, hidden, timeout=30)
        except Exception as problem:  # every kind of failure is a lost row
            with self._lock:
                self.failures.append(repr(problem))
            return
        right = self.explain(answer, expected)
        with self._lock:
            self.answers += 1
            if answer.flags.any():
                self.failures.append(f"flags {answer.flags[answer.flags != 0]} on a request that waits")
            self.explained_by[layer, answer.epoch] &= right
            if not self.explained_by[layer, answer.epoch]:
                self.failures.append(f"layer {layer}: no state explains the answers of epoch {answer.epoch}")

    def assert_exact(self):
        assert self.failures == []
        assert self.answers > 0


class SteadyLoad(Clients):
    """As a context manager: `clients` threads send the batches round and round until it is left."""

    def __init__(self, cluster, batches, clients=2, dtype="f32", timeout=60.0):
        super().__init__(clients, timeout + 30)
        self.cluster, self.batches, self.dtype, self.timeout = cluster, batches, dtype, timeout
        self.clients, self.tally = clients, Tally()

    def answers(self):
        with self._lock:
            return self.tally.answers

    def rows_per_second_over(self, seconds):
        """Rows answered per second from now on; returns after that time."""
        with self._lock:
            begin, rows = time.monotonic(), self.tally.rows
        wait_until(lambda: time.monotonic() - begin >= seconds, seconds + 30, "the measurement is over")
        with self._lock:
            return (self.tally.rows - rows) / (time.monotonic() - begin)

    def assert_exact(self):
        """No row lost, doubled or wrong."""
        assert self.tally.failures == []
        assert self.tally.answers > 0

    def _run(self, number):
        with self.cluster.connect() as client:
            turn = number
            while not self._stop.is_set():
                self._send(client, self.batches[turn % len(self.batches)])
                turn += self.clients

    def _send(self, client, batch):
        begin = time.monotonic()
        try:
            answer = client.layer(batch.layer, batch.hidden, timeout=self.timeout)
        except Exception as problem:  # every kind of failure is a lost row
            with self._lock:
                self.tally.failures.append(f"after {time.monotonic() - begin:.1f} s: {problem!r}")
            return
        wrong = self._what_is_wrong(batch, answer)
        with self._lock:
            if wrong:
                self.tally.failures.append(wrong)
            self.tally.answers += 1
            self.tally.rows += len(batch.hidden)
            self.tally.slowest = max(self.tally.slowest, time.monotonic() - begin)

    def _what_is_wrong(self, batch, answer):
        if answer.flags.any():
            return f"flags {answer.flags[answer.flags != 0]} on a request that waits"
        if not (np.sort(answer.expert_ids, 1) == np.sort(batch.ids, 1)).all():
            return "other experts were chosen"
        error = relative_error(answer.output, batch.expected)
        return f"output is off by {error:.2e} of the peak" if error > TOLERANCE[self.dtype] else None
