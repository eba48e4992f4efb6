"""What a person sees of the placement: placement show and history, expert explain, top."""
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


# -- why ----------------------------------------------------------------------------------------------------------------

def replica_of(cluster, layer, expert):
    """-> the node that has it, and another one."""
    entry = cluster.expert(f"{layer}/{expert}")
    at = entry["replicas"][0]["node"]
    return at, next(name for name in NODES if name != at)


def changes(cluster, expert):
    """[(change, node, why)] of one expert, the newest last."""
    return [(change["change"], change["node"], change["why"])
            for epoch in cluster.json("placement", "history")["items"]
            for change in epoch["experts"] if expert in change["experts"]]


def test_history_and_explain_tell_of_a_migration(start_cluster):
    cluster = start_cluster(golden.FOLDER / "mixtral", expert_nodes=3, slots=8, dtype="f32")
    assert changes(cluster, "0/3")[0][2] == "first placement"
    at_rest = cluster.json("expert", "explain", "0/3")
    assert at_rest["replicas"][0] | {"slot": 0} == {"node": replica_of(cluster, 0, 3)[0], "slot": 0, "state": "serving",
                                                    "why": "first placement"}
    assert at_rest["under_way"] == [] and at_rest["operation"] is None
    assert at_rest["fair_share"] == pytest.approx(1 / 8)
    at, to = replica_of(cluster, 0, 3)
    operation = cluster.json("expert", "migrate", "0/3", "--to", to)["id"]
    added, removed = changes(cluster, "0/3")[-2:]
    assert added[:2] == ("added", to) and removed[:2] == ("removed", at)
    assert added[2] == removed[2] and added[2].startswith(f"{operation}: migrate")
    moved = cluster.json("expert", "explain", "0/3")
    assert [r["node"] for r in moved["replicas"]] == moved["wanted"] == [to]
    assert any("troupe expert unpin 0/3" in line for line in moved["would_change"])
    page = cluster.run("expert", "explain", "0/3").stdout
    assert "What would change it:" in page and to in page
    history = cluster.json("placement", "history")["items"]
    assert [e["epoch"] for e in history] == list(range(history[0]["epoch"], history[-1]["epoch"] + 1))
    assert history[-1]["epoch"] <= cluster.status()["epoch"]  # balance may follow
    assert [e["epoch"] >= history[-1]["epoch"] for e in cluster.json("placement", "history", "--last", "1")["items"]] == [True]
    assert operation in cluster.run("placement", "history").stdout


def test_explain_after_a_pin_a_prune_and_a_restart(start_cluster):
    cluster = start_cluster(golden.FOLDER / "mixtral", expert_nodes=3, slots=8, dtype="f32")
    assert cluster.run("expert", "pin", "1/2").returncode == 0
    pinned = cluster.json("expert", "explain", "1/2")
    assert pinned["pinned"] and any(line.startswith("pinned by an operator") for line in pinned["would_change"])
    assert cluster.run("expert", "prune", "1/5", "--yes").returncode == 0
    pruned = cluster.json("expert", "explain", "1/5")
    assert (pruned["state"], pruned["replicas"], pruned["fair_share"]) == ("pruned", [], 0)
    assert any("troupe expert restore 1/5" in line for line in pruned["would_change"])
    assert changes(cluster, "1/5")[-1][0] == "removed"
    assert "masked" in [change for change, _, _ in changes(cluster, "1/5")]
    history = cluster.json("placement", "history")["items"]
    cluster.kill("coordinator")
    cluster.start_missing()
    assert cluster.json("placement", "history")["items"][: len(history)] == history
    known = cluster.json("expert", "explain", "1/2")
    assert known["pinned"] and "before the coordinator's last start" in known["replicas"][0]["why"]


def test_a_rollback_goes_back_behind_a_restart(start_cluster):
    cluster = start_cluster(golden.FOLDER / "mixtral", expert_nodes=3, slots=8, dtype="f32")
    at, to = replica_of(cluster, 0, 3)
    epoch = cluster.status()["epoch"]
    cluster.json("expert", "migrate", "0/3", "--to", to)
    assert cluster.run("expert", "prune", "1/5", "--yes").returncode == 0
    cluster.kill("coordinator")
    cluster.start_missing()
    assert cluster.run("placement", "rollback", str(epoch), "--dry-run").returncode == 0
    assert cluster.json("placement", "rollback", str(epoch))["state"] == "done"
    assert replica_of(cluster, 0, 3)[0] == at
    assert cluster.expert("1/5")["state"] == "active"


def test_commands_leave_an_audit_line(start_cluster):
    cluster = start_cluster(golden.FOLDER / "mixtral", expert_nodes=2)
    assert cluster.run("expert", "pin", "0/3").returncode == 0
    assert cluster.run("expert", "migrate", "0/3", "--to", "nowhere").returncode == 1
    assert cluster.run("expert", "pin", "0/4", "--dry-run").returncode == 0
    lines = [(e["severity"], e["object"], e["text"]) for e in cluster.json("events")["items"] if e["kind"] == "audit"]
    assert [line[:2] for line in lines] == [("info", "0/3"), ("warning", "0/3")]
    assert lines[0][2].endswith(": expert pin 0/3: done")
    assert ": expert migrate 0/3 --to nowhere: refused: no node nowhere" in lines[1][2]
    log = (cluster.data_dir / "log" / "coordinator.log").read_text()
    assert all(text in log for _, _, text in lines)


def test_explain_refuses_what_is_no_expert(mixtral_cluster):
    for name, code, says in [("banana", 2, "LAYER/EXPERT"), ("0/99", 1, "layer 0 has experts 0-7"), ("9/0", 1, "no MoE layer")]:
        done = mixtral_cluster.run("expert", "explain", name)
        assert done.returncode == code and says in done.stderr, done.stderr
        assert done.stdout == ""
    for value in ("0", "-1", "many"):
        assert mixtral_cluster.run("placement", "history", "--last", value).returncode == 2


def test_placement_plan_changes_nothing(busy_cluster, tmp_path):
    before = busy_cluster.json("expert", "list")
    plan = busy_cluster.json("placement", "plan", "--max-moves", "-1")
    assert plan["imbalance_after"] <= plan["imbalance_before"]
    assert plan["moves"] == len(plan["items"]) and plan["bytes"] == sum(move["bytes"] for move in plan["items"])
    assert [layer["layer"] for layer in plan["layers"]] == [0, 1]
    # All of layer 1's load on the experts of one node: some of them have to go elsewhere.
    crowded = {e["expert"] for e in before["items"] if e["layer"] == 1 and e["replicas"][0]["node"] == "expert-0"}
    loads = tmp_path / "loads.csv"
    loads.write_text("step,layer,expert,load\n" + "".join(f"0,1,{e},100\n" for e in sorted(crowded)))
    plan = busy_cluster.json("placement", "plan", "--loads", loads)
    assert plan["layers"][0]["imbalance_before"] is None
    assert plan["layers"][1]["imbalance_before"] == pytest.approx(3)
    assert plan["layers"][1]["imbalance_after"] < 3
    assert {move["layer"] for move in plan["items"]} == {1}
    assert "IMBALANCE NOW" in busy_cluster.run("placement", "plan", "--loads", loads).stdout
    assert [e["replicas"] for e in busy_cluster.experts()] == [e["replicas"] for e in before["items"]]
    loads.write_text("step,layer,expert,load\n0,7,0,1\n")
    refused = busy_cluster.run("placement", "plan", "--loads", loads)
    assert refused.returncode == 1 and "layer 7" in refused.stderr
    loads.write_text("step,layer,expert,load\n0,1,99,1\n")
    refused = busy_cluster.run("placement", "plan", "--loads", loads)
    assert refused.returncode == 1 and "1/99" in refused.stderr
    missing = busy_cluster.run("placement", "plan", "--loads", tmp_path / "no.csv")
    assert missing.returncode == 1 and "no.csv" in missing.stderr
