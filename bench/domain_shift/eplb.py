"""The published balancer (bench/planner/eplb), carried out on a cluster by an operator's commands."""
import json
import tempfile
import time

import numpy as np

from scenario import by_layer_and_expert, metrics
from support.cluster import run_troupe
from support.load import Clients


class EplbEvery(Clients):
    """As a context manager: every `seconds` a new placement for the rows since the last one, then the commands that lead there.
    `rounds`: of each, the seconds that it took and the replicas that it wanted on other nodes."""

    def __init__(self, cluster, seconds, layers, experts, slots_per_layer):
        super().__init__(1, None)
        self.cluster, self.seconds, self.layers, self.experts = cluster, seconds, layers, experts
        self.slots_per_layer, self.rounds = slots_per_layer, []
        self.nodes = sorted(name for name, node in cluster.nodes().items() if node["role"] == "expert")

    def _run(self, _):
        rows = self._rows()
        while not self._stop.wait(self.seconds):
            before, rows = rows, self._rows()
            begin = time.monotonic()
            wanted = self.plan(rows - before)
            moves = sum(len(wanted[name] - nodes) for name, nodes in self.places().items())
            self.carry_out(wanted)
            self.rounds.append({"seconds": time.monotonic() - begin, "moves": moves})

    def _rows(self):
        return by_layer_and_expert(metrics(self.cluster.http, "moe_expert_tokens_total")["moe_expert_tokens_total"], self.layers,
                                   self.experts)

    def plan(self, loads):
        """loads [layers, experts] -> {"L/E": names of its nodes}; a second replica on one node counts once."""
        with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
            file.write("step,layer,expert,load\n")
            for (layer, expert), load in np.ndenumerate(loads):
                file.write(f"0,{layer},{expert},{load}\n")
            file.flush()
            done = run_troupe("simulate", "--loads", file.name, "--nodes", len(self.nodes), "--slots", self.slots_per_layer,
                              "--planner", "eplb", "--show-placement", "-o", "json")
        if done.returncode != 0:
            raise SystemExit(f"error: troupe simulate: {done.stderr}")
        wanted = {f"{layer}/{expert}": set() for layer in range(self.layers) for expert in range(self.experts)}
        for layer in json.loads(done.stdout)["items"][-1]["placement"]:
            for node, held in zip(self.nodes, layer["nodes"]):
                for expert in held:
                    wanted[f"{layer['layer']}/{expert}"].add(node)
        return wanted

    def places(self):
        return {f"{e['layer']}/{e['expert']}": {r["node"] for r in e["replicas"]} for e in self.cluster.experts()}

    def carry_out(self, wanted):
        """First fewer replicas, then moves as slots become free, then more replicas, and those to their nodes."""
        for grows in (False, True):
            places = self.places()
            for name, nodes in places.items():
                if (len(wanted[name]) > len(nodes)) == grows and len(wanted[name]) != len(nodes):
                    self._command("expert", "replicate", name, "--count", len(wanted[name]))
            while not self._stop.is_set() and self._move_once(wanted):
                pass

    def _move_once(self, wanted):
        """Moves what can be moved now; False when that was nothing."""
        free = {name: node["slots_total"] - node["slots_used"] for name, node in self.cluster.nodes().items()}
        moved = False
        for name, nodes in self.places().items():
            for source, target in zip(sorted(nodes - wanted[name]), sorted(wanted[name] - nodes)):
                if free[target] > 0 and self._command("expert", "migrate", name, "--from", source, "--to", target):
                    free[target] -= 1
                    free[source] += 1
                    moved = True
        return moved

    def _command(self, *words):
        """True: done. A refusal (no free slot now) is looked at again in the next round."""
        return not self._stop.is_set() and self.cluster.run(*words).returncode == 0
