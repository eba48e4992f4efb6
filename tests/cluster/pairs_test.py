"""Which experts rows choose together: routers count it, the coordinator gathers it, people see it (issue 5, part 6)."""
import collections

import numpy as np
import pytest

from support.waiting import wait_until

LAYER, FIRST, SECOND = 0, 3, 11


def rows_of_pair(model, count):
    """Rows that choose FIRST and SECOND."""
    hidden = model.rows(400 * count, 1)
    both = (np.sort(model.choose(LAYER, hidden)[0], 1) == (FIRST, SECOND)).all(1)
    return hidden[both][:count]


def test_the_pair_of_a_skewed_load_is_seen(random_model, start_cluster):
    cluster = start_cluster(random_model.folder, expert_nodes=2)
    assert cluster.json("expert", "show", f"{LAYER}/{FIRST}")["together"] == []
    skewed, others = rows_of_pair(random_model, 30), random_model.rows(100, 2)
    hidden = np.concatenate([skewed, others])
    chosen = random_model.choose(LAYER, hidden)[0]
    partners = collections.Counter(int(e) for row in chosen if FIRST in row for e in row)
    rows = partners.pop(FIRST)
    with cluster.connect() as client:
        client.layer(LAYER, hidden, timeout=30)
        seen = {}

        def is_seen():
            seen.update(cluster.json("expert", "show", f"{LAYER}/{FIRST}"))
            return seen["together"]

        wait_until(is_seen, 60, lambda: f"{LAYER}/{FIRST} is seen with others\n{cluster.logs()}")
    assert seen["together_missed"] == 0
    assert seen["together"][0]["expert"] == SECOND
    for other in seen["together"]:
        assert other["share"] == pytest.approx(partners[other["expert"]] / rows), other
    shown = cluster.run("expert", "show", f"{LAYER}/{FIRST}").stdout
    assert f"{LAYER}/{SECOND} ({100 * partners[SECOND] / rows:.0f} %)" in shown
    explained = cluster.json("expert", "explain", f"{LAYER}/{SECOND}")
    assert explained["together"][0]["expert"] == FIRST
    assert any(line.startswith(f"its rows chose most often, too: {LAYER}/{FIRST} (") for line in explained["reasons"])
