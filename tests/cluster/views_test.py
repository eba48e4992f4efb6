"""What a person sees of the placement: placement show, top."""
import os
import pty
import select
import signal
import subprocess
import time

import pytest

from support import golden
from support.cluster import TROUPE, run_troupe
from support.waiting import wait_until

NODES = ["expert-0", "expert-1", "expert-2"]
SHADES = "\u2591\u2592\u2593\u2588"


@pytest.fixture
def busy_cluster(mixtral_cluster):
    """Each expert that the golden rows choose has traffic, and the coordinator knows."""
    def has_traffic():
        with mixtral_cluster.connect() as client:
            for layer in golden.layers("mixtral"):
                client.layer(layer.name, layer.hidden)
        placement = mixtral_cluster.json("placement", "show")
        return all(layer["imbalance"] is not None for layer in placement["layers"])

    wait_until(has_traffic, 60, "traffic in every layer")
    return mixtral_cluster


def test_placement_show_says_where_everything_is(busy_cluster):
    wait_until(lambda: busy_cluster.json("placement", "show")["moving"] == 0, 60, "nothing moves")
    placement = busy_cluster.json("placement", "show")
    status = busy_cluster.status()
    assert (placement["term"], placement["epoch"]) == (status["term"], status["epoch"])
    assert [n["name"] for n in placement["nodes"]] == NODES
    assert sum(n["replicas"] for n in placement["nodes"]) == 16
    assert sum(n["load"] for n in placement["nodes"]) == pytest.approx(2)
    assert [layer["layer"] for layer in placement["layers"]] == [0, 1]
    for layer in placement["layers"]:
        assert sum(layer["load"].values()) == pytest.approx(1)
        assert layer["imbalance"] == pytest.approx(max(layer["load"].values()) * len(NODES))
    assert 1 <= placement["imbalance"] <= len(NODES)
    at = {(e["layer"], e["expert"]): [r["node"] for r in e["replicas"]] for e in busy_cluster.experts()}
    for item in placement["items"]:
        assert [r["node"] for r in item["replicas"]] == item["wanted"] == at[item["layer"], item["expert"]]
        assert item["coming"] == item["going"] == []
    assert busy_cluster.run("placement", "show", "-o", "name").stdout.split()[:2] == ["0/0", "0/1"]
    table = busy_cluster.run("placement", "show").stdout
    assert table.startswith("TERM") and all(name in table for name in NODES)
    wide = busy_cluster.run("placement", "show", "-o", "wide").stdout
    assert "WANTED" in wide and "WANTED" not in table


def test_a_placement_without_coordinator_is_what_a_router_knows(start_cluster):
    cluster = start_cluster(golden.FOLDER / "mixtral", expert_nodes=2)
    cluster.kill("coordinator")
    done = cluster.run("placement", "show")
    assert done.returncode == 0, done.stderr
    assert "coordinator" in done.stderr and "expert-1" in done.stdout
    assert cluster.run("top").returncode == 3


def test_top_prints_one_frame_into_a_pipe(busy_cluster):
    frame = busy_cluster.run("top", environment={"LC_ALL": "C.UTF-8"})
    assert frame.returncode == 0, frame.stderr
    assert "\x1b" not in frame.stdout
    assert all(name in frame.stdout for name in NODES)
    assert any(shade in frame.stdout for shade in SHADES)
    assert len([line for line in frame.stdout.splitlines() if line.endswith("|")]) == 2
    plain = busy_cluster.run("top", "--once", environment={"LC_ALL": "C"})
    assert plain.stdout.isascii()
    document = busy_cluster.json("top", "--once")
    assert set(document) == {"status", "placement", "operations"}
    assert document["status"]["state"] == "serving"
    assert all(n["rows_per_second"] >= 0 for n in document["placement"]["nodes"])


class Terminal:
    """`troupe top` on a terminal of its own."""

    def __init__(self, cluster):
        self.end, side = pty.openpty()
        self.process = subprocess.Popen([str(TROUPE), "top", "--data-dir", str(cluster.data_dir)], stdin=side, stdout=side,
                                        stderr=side, start_new_session=True)
        os.close(side)
        self.seen = b""

    def read_until(self, text, seconds=60):
        deadline = time.monotonic() + seconds
        while text not in self.seen:
            ready, _, _ = select.select([self.end], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"no {text} in {self.seen}"
            try:
                self.seen += os.read(self.end, 65536)
            except OSError:  # the other side is closed
                assert text in self.seen, f"no {text} in {self.seen}"

    def ends(self):
        self.read_until(b"\x1b[?1049l")  # the first page is back
        code = self.process.wait(60)
        os.close(self.end)
        return code


def test_top_on_a_terminal_is_redrawn_until_q(mixtral_cluster):
    terminal = Terminal(mixtral_cluster)
    terminal.read_until(b"expert-2")
    terminal.seen = b""
    terminal.read_until(b"\x1b[H")  # again, by itself
    terminal.read_until(b"expert-2")
    os.write(terminal.end, b"q")
    assert terminal.ends() == 0


def test_ctrl_c_ends_top(mixtral_cluster):
    terminal = Terminal(mixtral_cluster)
    terminal.read_until(b"expert-2")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.ends() == 130


def test_views_of_no_cluster(tmp_path):
    for words in (["placement", "show"], ["top"], ["top", "--once"]):
        done = run_troupe(*words, "--data-dir", tmp_path)
        assert done.returncode == 3 and str(tmp_path) in done.stderr, done.stderr
    unknown = run_troupe("placement", "shw", "--data-dir", tmp_path)
    assert unknown.returncode == 2 and "did you mean show?" in unknown.stderr
