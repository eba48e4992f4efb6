"""hivemind's side of the comparison: server processes, and three ways of asking them for a layer.

`OwnGate` is hivemind's own layer, which its users call: it finds the experts in the DHT and sends every (row, expert) pair by
itself. `GivenGate` is the same behind a gate that the caller has computed. `BestCase` is what hivemind's parts allow and its
layer does not do: each expert gets all of its rows in one request.
"""
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hivemind
import torch
from hivemind.moe.client.expert import create_remote_experts
from hivemind.moe.client.moe import RemoteMixtureOfExperts
from hivemind.moe.server.dht_handler import get_experts

from support.waiting import wait_until

PREFIX = "expert."
START_SECONDS = 300
ANSWER_SECONDS = 300


class Servers:
    """As a context manager: server processes with an equal share of the experts each, and `experts` that call them."""

    def __init__(self, folder, experts, servers, handlers):
        """`folder`: has weights.pt of servers.py; `handlers`: processes of each server that take requests, 0: as many as
        hivemind starts when it is not told, eight per expert."""
        self.folder, self.handlers = folder, handlers
        self.shares = torch.arange(experts).tensor_split(servers)
        self.processes, self.experts, self.dht = [], [], None

    def __enter__(self):
        try:
            peer = None
            for share in self.shares:
                address = self._start(share, peer)
                peer = peer or address
            self.dht = hivemind.DHT(initial_peers=[peer], start=True)
            uids = [f"{PREFIX}{expert}" for share in self.shares for expert in share.tolist()]
            infos = wait_until(lambda: self._look_up(uids), START_SECONDS, "hivemind's DHT lists all experts")
            self.experts = create_remote_experts(infos, self.dht)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in self.processes:
            self._kill(process)
        if self.dht:
            self.dht.shutdown()

    def kill_one(self):
        self._kill(self.processes[-1])

    def pids(self):
        return [process.pid for process in self.processes]

    def _start(self, share, peer):
        """-> the address of a new server"""
        name = f"{self.handlers}-{len(self.processes)}"
        ready, log = self.folder / f"ready-{name}", self.folder / f"server-{name}.log"
        command = [sys.executable, Path(__file__).with_name("servers.py"), "--first", share[0].item(), "--count", len(share),
                   "--handlers", self.handlers, "--weights", self.folder / "weights.pt", "--ready", ready]
        with open(log, "w") as output:
            self.processes.append(subprocess.Popen(list(map(str, command + (["--peer", peer] if peer else []))), stdout=output,
                                                   stderr=output, start_new_session=True))

        def address():
            assert self.processes[-1].poll() is None, f"hivemind's server ended: {log.read_text()[-2000:]}"
            return ready.exists() and ready.read_text()

        return wait_until(address, START_SECONDS, lambda: f"hivemind's server serves: {log.read_text()[-2000:]}")

    def _look_up(self, uids):
        infos = get_experts(self.dht, uids)
        return all(infos) and infos

    @staticmethod
    def _kill(process):
        """With all of its handlers; does nothing when it is gone."""
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        process.wait()


class OwnGate(RemoteMixtureOfExperts):
    """hivemind's layer as it is: a random gate, and a search in the DHT for where the experts are."""

    def __init__(self, servers, hidden, top_k):
        super().__init__(in_features=hidden, grid_size=(len(servers.experts),), dht=servers.dht, uid_prefix=PREFIX,
                         k_best=top_k, forward_timeout=ANSWER_SECONDS)
        self.servers = servers
        self.proj.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))  # the search takes no bf16 scores

    @torch.no_grad()
    def layer(self, hidden):
        """hidden [T, H] bf16 -> [T, H] f32. Experts that do not answer are left out, and the weights of the others made
        greater, as hivemind defines it."""
        return self(hidden)


class GivenGate(OwnGate):
    """hivemind's layer with the caller's experts and weights. What it does behind its gate is as it comes: the requests, the
    wait, and the softmax over the experts that answered."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.beam_search.batch_find_best_experts = lambda scores, beam_size: self._chosen

    def compute_expert_scores(self, grid_scores, batch_experts):
        return self._scores

    def layer(self, hidden, ids, gate_weights):
        """As OwnGate.layer; ids [T, k], gate_weights [T, k] with sums of 1."""
        self._chosen = [[self.servers.experts[expert] for expert in row] for row in ids.tolist()]
        self._scores = gate_weights.log()
        return super().layer(hidden)


class BestCase:
    """One request per expert with all of its rows, all experts at once, weights and sum in the caller."""

    def __init__(self, servers):
        self.servers, self.pool = servers, ThreadPoolExecutor(len(servers.experts))

    @torch.no_grad()
    def layer(self, hidden, ids, gate_weights):
        """As GivenGate.layer, but the terms of experts that do not answer are missing."""
        output, calls = torch.zeros(hidden.shape, dtype=torch.float32), []
        for expert in torch.unique(ids).tolist():
            rows, column = torch.nonzero(ids == expert, as_tuple=True)
            calls.append((rows, column, self.pool.submit(self.servers.experts[expert], hidden[rows])))
        for rows, column, call in calls:
            try:
                output.index_add_(0, rows, call.result(ANSWER_SECONDS).float() * gate_weights[rows, column, None])
            except Exception:  # whatever the library raises: the term is missing
                continue
        return output
