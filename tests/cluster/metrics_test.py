"""GET /metrics of every process: the promised names are there, and their values change when that happens which they count."""
import json
import re

import pytest
import yaml

from support import golden
from support.cluster import ROOT, LocalCluster, http_request
from support.waiting import wait_until


def addresses(cluster):
    """name -> URL of every process's HTTP server"""
    return {p["name"]: "http://" + p["command"][p["command"].index("--http") + 1]
            for p in cluster.context()["processes"]}


def samples(url):
    """[(name, labels, value)]"""
    status, _, text = http_request(url + "/metrics")
    assert status == 200
    found = []
    for line in text.decode().splitlines():
        if line.startswith("#"):
            continue
        name, labels, value = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line).groups()
        found.append((name, dict(re.findall(r'(\w+)="([^"]*)"', labels or "")), float(value)))
    return found


def value(url, metric, **labels):
    """The sum over what has these labels; None: there is no such sample."""
    matching = [v for n, l, v in samples(url) if n == metric and labels.items() <= l.items()]
    return sum(matching) if matching else None


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(golden.FOLDER / "mixtral", expert_nodes=3, dtype="f32") as running:
        yield running


def test_every_process_knows_its_peers_and_actors(cluster):
    for name, url in addresses(cluster).items():
        assert value(url, "moe_build_info") == 1
        build = next(labels for n, labels, _ in samples(url) if n == "moe_build_info")
        version = json.loads(http_request(url + "/version")[2])
        assert version["commit"] == build["commit"] and re.fullmatch(r"[0-9a-f]{12}|", build["commit"])
        assert value(url, "moe_curve_handshake_failures_total") == 0
        actors = {"coordinator": {"coordinator", "store", "folder"}, "router-0": {"router", "generation"}}
        shown = {labels["name"] for n, labels, _ in samples(url) if n == "moe_actor_mailbox_depth"}
        assert shown == actors.get(name, {"expert-host"})
        if name == "coordinator":
            peers = {labels["peer"]: v for n, labels, v in samples(url) if n == "moe_peer_up"}
            assert peers == {"expert-0": 1, "expert-1": 1, "expert-2": 1, "router-0": 1}
        else:
            wait_until(lambda: value(url, "moe_peer_rtt_seconds", peer="coordinator"), 10, "a heartbeat was answered")
            assert 0 < value(url, "moe_peer_rtt_seconds", peer="coordinator") < 5
            assert value(url, "moe_heartbeats_missed_total", peer="coordinator") is not None


def test_the_cluster_is_summed_up_over_http(cluster):
    status, _, body = http_request(cluster.http + "/cluster")
    assert status == 200
    assert json.loads(body).keys() >= {"cluster_id", "state", "term", "epoch", "model", "nodes", "unroutable_experts"}
    assert json.loads(body)["cluster_id"] == cluster.status()["cluster_id"]


def test_loads_are_timed_by_source(cluster):
    urls = addresses(cluster)
    loaded = sum(value(urls[f"expert-{i}"], "moe_expert_load_seconds_count", source="checkpoint") for i in range(3))
    assert loaded >= 16
    assert sum(value(urls[f"expert-{i}"], "moe_expert_load_seconds_sum", source="checkpoint") for i in range(3)) > 0


def test_migrations_and_prunes_are_counted(cluster):
    coordinator = addresses(cluster)["coordinator"]

    def counts():
        return [value(coordinator, "moe_migration_" + name) for name in
                ("started_total", "completed_total", "failed_total", "duration_seconds_count")]

    before = counts()
    here = cluster.expert("0/1")["replicas"][0]["node"]
    there = next(f"expert-{i}" for i in range(3) if f"expert-{i}" != here)
    cluster.json("expert", "migrate", "0/1", "--to", there)
    wait_until(lambda: counts() == [before[0] + 1, before[1] + 1, before[2], before[3] + 1], 10,
               lambda: f"one migration more: {before} -> {counts()}")
    pruned = value(coordinator, "moe_pruned_experts_total")
    cluster.json("expert", "prune", "0/2")
    wait_until(lambda: value(coordinator, "moe_pruned_experts_total") == pruned + 1, 10, "one expert more was pruned")
    cluster.json("expert", "restore", "0/2")


def test_refreshes_leave_their_time_and_the_schedule_no_events(cluster):
    coordinator = addresses(cluster)["coordinator"]
    name = "moe_refresh_last_success_timestamp_seconds"
    assert value(coordinator, name) is None, "there was none"
    cluster.json("refresh", "schedule", "--every", "1s")
    wait_until(lambda: (value(coordinator, "moe_refresh_unchanged_total") or 0) >= 2, 30, "two looks that found nothing")
    first = value(coordinator, name)
    wait_until(lambda: value(coordinator, name) > first, 30, "another one")
    cluster.json("refresh", "schedule", "--every", "0")
    audited = [e["text"] for e in cluster.json("events")["items"] if e["kind"] == "audit"]
    assert not any("the schedule" in text for text in audited)


def test_a_process_that_comes_anew_is_counted(cluster):
    coordinator = addresses(cluster)["coordinator"]
    assert value(coordinator, "moe_actor_restarts_total", name="expert-2") == 0
    missed = value(coordinator, "moe_heartbeats_missed_total", peer="expert-2")
    cluster.kill("expert-2")
    wait_until(lambda: value(coordinator, "moe_peer_up", peer="expert-2") == 0, 20, "it is missed")
    cluster.start_missing()
    wait_until(lambda: value(coordinator, "moe_actor_restarts_total", name="expert-2") == 1, 20, "it came anew")
    assert value(coordinator, "moe_heartbeats_missed_total", peer="expert-2") > missed
    assert value(coordinator, "moe_peer_up", peer="expert-2") == 1


def test_alert_rules_speak_of_metrics_that_exist(cluster):
    there = {n for url in addresses(cluster).values() for n, _, _ in samples(url)}
    rules = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())
    alerts = {rule["alert"]: rule["expr"] for group in rules["groups"] for rule in group["rules"]}
    assert "moe_expert_cold" in alerts
    for alert, expression in alerts.items():
        for metric in re.findall(r"\bmoe_\w+", expression):
            assert metric in there, f"{alert}: no {metric}"
