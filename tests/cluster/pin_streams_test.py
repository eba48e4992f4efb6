"""Streams that are pinned to the weights they began with (--pin-streams) go on with them over a refresh; others begin with
the new ones, and the old ones are freed when the last pinned stream has ended."""
import json
import shutil
import threading

import pytest

from support import golden
from support.waiting import wait_until

DEMO_MODEL = golden.FOLDER.parents[2] / "examples" / "demo_model"
EXPERTS = 64
SLOTS = 48  # room for both versions of everything
STREAMS = 12
LENGTH = 700
SECONDS = 120
ATTEMPTS = 10  # streams may happen to end before the refresh does


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The demo model, and it again with other weights in every third expert of each layer."""
    other = tmp_path_factory.mktemp("model") / "other"
    shutil.copytree(DEMO_MODEL, other)
    path = other / "model.safetensors"
    content = bytearray(path.read_bytes())
    data = 8 + int.from_bytes(content[:8], "little")
    for name, tensor in json.loads(content[8:data]).items():
        if ".experts." in name and int(name.split(".experts.")[1].split(".")[0]) % 3 == 0 and ".w2." in name:
            begin, end = tensor["data_offsets"]
            for at in range(data + begin + 1, data + end, 2):
                content[at] ^= 0x80  # the sign of a little-endian bf16
    path.write_bytes(content)
    return [DEMO_MODEL, other]


class Stream:
    """A thread that reads one greedy answer."""

    def __init__(self, client, number):
        self.number, self.tokens, self.failure = number, [], None
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(client,), daemon=True)
        self._thread.start()

    def _read(self, client):
        prompt = [0] + [3 + (self.number * 37 + place * 11) % 4000 for place in range(3 + self.number)]
        try:
            for token in client.generate(prompt, max_new_tokens=LENGTH, temperature=0.0, ignore_eos=True, timeout=SECONDS):
                self.tokens.append(token)
                self._begun.set()
        except Exception as problem:  # a failed request of any kind
            self.failure = problem
        self._begun.set()

    def wait_begun(self):
        assert self._begun.wait(SECONDS)
        return self

    def is_over(self):
        return not self._thread.is_alive()

    def ids(self):
        """Of the whole answer."""
        self._thread.join(SECONDS)
        assert self.failure is None and self.is_over(), self.failure
        assert [token.position for token in self.tokens if not token.exact] == []
        return [token.id for token in self.tokens]


def texts(client):
    streams = [Stream(client, number) for number in range(STREAMS)]
    return [stream.ids() for stream in streams]


def slots_used(cluster):
    return sum(node.get("slots_used", 0) for node in cluster.nodes().values() if node["role"] == "expert")


def test_pinned_streams_keep_their_weights_over_a_refresh(start_cluster, folders):
    cluster = start_cluster(DEMO_MODEL, expert_nodes=3, slots=SLOTS, dtype="f32", pin_streams=True)

    def refresh(to):
        done = cluster.json("refresh", "now", "--from", str(folders[to]))
        assert done["state"] == "done"

    with cluster.connect() as client:
        expected = [texts(client)]
        refresh(1)
        expected.append(texts(client))
        assert all(old != new for old, new in zip(*expected))
        served, has_overlapped = 1, False
        for _ in range(ATTEMPTS):
            streams = [Stream(client, number).wait_begun() for number in range(STREAMS)]
            refresh(1 - served)
            used = slots_used(cluster)
            fresh = Stream(client, 0).wait_begun()
            if not all(stream.is_over() for stream in streams):
                has_overlapped = True
                assert used > EXPERTS, "what they go by was freed"
            assert [stream.ids() for stream in streams] == expected[served]
            served = 1 - served
            assert fresh.ids() == expected[served][0]
            wait_until(lambda: slots_used(cluster) == EXPERTS, SECONDS, lambda: f"{slots_used(cluster)} slots are used")
            if has_overlapped:
                break
        assert has_overlapped
    assert cluster.metric("moe_generations_unpinned_total") == 0
    assert cluster.metric("moe_generations_pinned_behind") == 0
