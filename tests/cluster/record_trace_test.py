"""A router writes down what experts have to do, and troupe simulate reads it (issue 5, item 8)."""
import collections
import csv
import json
import os
import pathlib
import signal
import subprocess

from support.cluster import http_request, is_alive, run_troupe
from support.waiting import wait_until

ROUTER = "router-0"
ROWS, BATCHES = 64, 24


def command_of(pid):
    return [os.fsdecode(word) for word in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]]


def is_ready(http):
    try:
        return http_request(http + "/readyz")[0] == 200
    except OSError:
        return False


def send_batches(cluster, model):
    """-> how often each (layer, expert) was chosen."""
    chosen = collections.Counter()
    with cluster.connect() as client:
        for turn in range(BATCHES):
            layer = model.layers[turn % len(model.layers)]
            hidden = model.rows(ROWS, turn)
            client.layer(layer, hidden, timeout=30)
            chosen.update((layer, int(expert)) for expert in model.choose(layer, hidden)[0].ravel())
    return chosen


def loads_in(file):
    loads = collections.Counter()
    for row in csv.DictReader(file.read_text().splitlines()):
        loads[int(row["layer"]), int(row["expert"])] += int(row["load"])
    return loads


def test_each_run_of_a_router_writes_a_file_of_its_own(start_cluster, random_model, tmp_path):
    cluster = start_cluster(random_model.folder, expert_nodes=1, record_trace=tmp_path)
    first = send_batches(cluster, random_model)
    cluster.signal(ROUTER, signal.SIGTERM)
    wait_until(lambda: not is_alive(cluster.pid(ROUTER)), 60, "the router has ended")
    cluster.start()  # what is missing
    second = send_batches(cluster, random_model)
    cluster.signal(ROUTER, signal.SIGTERM)
    wait_until(lambda: [loads_in(f) for f in sorted(tmp_path.glob(f"{ROUTER}.*.csv"))] == [first, second], 60,
               lambda: f"both files are whole: {sorted(tmp_path.iterdir())}")


def test_a_recorded_trace_is_simulated(start_cluster, random_model, tmp_path):
    file = tmp_path / "loads.csv"
    cluster = start_cluster(random_model.folder, expert_nodes=2)
    command = command_of(cluster.pid(ROUTER)) + ["--record-trace", str(file), "--record-trace-seconds", "1"]
    cluster.kill(ROUTER)
    with open(tmp_path / "router.log", "wb") as log:
        router = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_until(lambda: is_ready(cluster.http), 60, lambda: (tmp_path / "router.log").read_text(errors="replace"))
        chosen = send_batches(cluster, random_model)
    finally:
        router.send_signal(signal.SIGTERM)
        router.wait(60)

    assert loads_in(file) == chosen, "every row that was asked for, once per expert that it chose"

    done = run_troupe("simulate", "--loads", file, "--nodes", 2, "--slots", 2 * random_model.experts, "-o", "json")
    assert done.returncode == 0, done.stderr
    simulated = json.loads(done.stdout)
    assert simulated["layers"] == len(random_model.layers)
    assert simulated["items"] and all(step["unserved_share"] == 0 for step in simulated["items"])
