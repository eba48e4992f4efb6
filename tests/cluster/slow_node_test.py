"""A node that is stopped four fifths of the time: noticed, left out, taken back, and no row wrong (issue 5, "Must show" 8)."""
import signal
import time

import pytest

from support.load import Clients, SteadyLoad, batches_of
from support.waiting import wait_until

STOPPED_SECONDS, RUNNING_SECONDS = 0.1, 0.025
SLOW = "expert-1"
HEDGE_SHARE = 0.05


class Pulses(Clients):
    """As a context manager: stops a process for 100 ms of every 125 ms. It runs again afterwards whatever happens."""

    def __init__(self, cluster, name):
        super().__init__(1, None)
        self.cluster, self.name = cluster, name

    def _run(self, _):
        while not self._stop.is_set():
            self.cluster.signal(self.name, signal.SIGSTOP)
            self._stop.wait(STOPPED_SECONDS)
            self.cluster.signal(self.name, signal.SIGCONT)
            self._stop.wait(RUNNING_SECONDS)


class TimedLoad(SteadyLoad):
    """Keeps the time of each answer too."""

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.times = []

    def _send(self, client, batch):
        begin = time.monotonic()
        super()._send(client, batch)
        self.times.append(time.monotonic() - begin)

    def p99_ms_of_next(self, answers):
        first = len(self.times)
        wait_until(lambda: len(self.times) >= first + answers, 120, "the load goes on")
        return round(1000 * sorted(self.times[first:])[int(0.99 * (len(self.times) - first - 1))], 1)


def pace(cluster):
    return cluster.metric("moe_node_slow", f'node="{SLOW}"')


def paces_told(cluster):
    """The kinds of the coordinator's events about the node's pace, oldest first; each has the figures."""
    told = [e for e in cluster.json("events")["items"] if e["kind"].startswith("node_pace_") and e["object"] == SLOW]
    assert all("x" in event["text"] and "ms" in event["text"] for event in told), told
    return [event["kind"] for event in told]


@pytest.mark.fault("N10")
def test_a_node_stopped_in_pulses_is_left_out_and_taken_back(random_model, start_cluster, record_property):
    cluster = start_cluster(random_model.folder, expert_nodes=3, replication=2, dtype="f32")
    cluster.wait_complete(replicas=2)
    figures = {}
    with TimedLoad(cluster, batches_of(random_model, 16, 16, seed=11), clients=4) as load:
        figures["p99 ms before"] = load.p99_ms_of_next(1000)
        wait_until(lambda: pace(cluster) == 0, 60, "no node is slow")
        with Pulses(cluster, SLOW):
            begin = time.monotonic()
            wait_until(lambda: pace(cluster) >= 1, 60, lambda: f"{SLOW} is noticed\n{cluster.logs()}")
            figures["noticed after s"] = round(time.monotonic() - begin, 1)
            wait_until(lambda: pace(cluster) == 2, 60, lambda: f"{SLOW} is quarantined\n{cluster.logs()}")
            figures["quarantined after s"] = round(time.monotonic() - begin, 1)
            figures["p99 ms while it is quarantined"] = load.p99_ms_of_next(1000)
            assert cluster.nodes()[SLOW]["state"] == "serving", "pulses are no death"
        begin = time.monotonic()
        wait_until(lambda: pace(cluster) == 0, 120, lambda: f"{SLOW} gets work again\n{cluster.logs()}")
        figures["back after s"] = round(time.monotonic() - begin, 1)
        figures["p99 ms after"] = load.p99_ms_of_next(1000)
    load.assert_exact()
    wait_until(lambda: paces_told(cluster)[-1:] == ["node_pace_normal"], 30, lambda: f"told: {paces_told(cluster)}")
    assert {"node_pace_slow", "node_pace_quarantined"} <= set(paces_told(cluster))
    # Gauges of the router are refreshed once a second; nothing changes any more.
    hedged, retries = cluster.metric("moe_hedged_calls_total"), cluster.metric("moe_call_retries_total")
    first_calls = cluster.metric("moe_dispatch_messages_total") - retries - hedged
    figures["hedged share"] = round(hedged / first_calls, 4)
    # Figures, not conditions: how fast it goes depends on what else the machine does.
    print(f"\n{figures}")
    for name, value in figures.items():
        record_property(name, value)
    assert 0 < hedged <= HEDGE_SHARE * first_calls
