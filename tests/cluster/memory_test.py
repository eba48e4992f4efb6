"""An expert node's memory is its bundles and little else (issue "Must show" 9)."""
import re

import pytest

from support.cluster import http_request, resident_bytes
from support.random_model import RandomMixtral

ALLOWED_SHARE = 0.05
ALLOWED_BYTES = 64 * 1024 * 1024


@pytest.fixture(scope="module")
def heavy_model(tmp_path_factory):
    """600 MiB of experts: enough that a second copy of anything would show."""
    return RandomMixtral(tmp_path_factory.mktemp("model") / "heavy", hidden=1024, width=2048, experts=25, layers=2)


@pytest.mark.parametrize("replication", [1, 2])
def test_resident_set_follows_the_bundles(heavy_model, start_cluster, replication):
    cluster = start_cluster(heavy_model.folder, expert_nodes=2, replication=replication, dtype="bf16")
    with cluster.connect() as client:
        for layer in heavy_model.layers:
            client.layer(layer, heavy_model.rows(512, 1))
    bundles = {}
    for expert in cluster.experts():
        for replica in expert["replicas"]:
            bundles[replica["node"]] = bundles.get(replica["node"], 0) + expert["bytes"]
    for name, node in cluster.nodes().items():
        if node["role"] != "expert":
            continue
        limit = bundles[name] * (1 + ALLOWED_SHARE) + ALLOWED_BYTES
        resident = resident_bytes(cluster.pid(name))
        assert bundles[name] <= resident <= limit, f"{name}: {resident / 2**20:.0f} MiB for {bundles[name] / 2**20:.0f} MiB"
        assert bundles[name] <= node["bytes_resident"] <= limit
        metrics = http_request(http_address(cluster, name) + "/metrics")[2].decode()
        said = float(re.search(r"^process_resident_memory_bytes ([0-9.e+]+)", metrics, re.MULTILINE)[1])
        assert said == pytest.approx(resident, rel=0.05)


def http_address(cluster, name):
    command = next(p["command"] for p in cluster.context()["processes"] if p["name"] == name)
    return "http://" + command[command.index("--http") + 1]
