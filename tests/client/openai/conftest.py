import json
import pathlib
import subprocess
import time
import urllib.request

import pytest

ROOT = pathlib.Path(__file__).parents[3]
PROGRAM = ROOT / "build/bin/openai_door_server"
MODEL = ROOT / "tests/golden/dev/tokenizer"


def pytest_configure(config):
    config.addinivalue_line("markers", "fault(*numbers): cases of the project's fault list")


class Door:
    """A server of the router's doors before a fake engine (door_server.cpp)."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen([PROGRAM, MODEL, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().strip()
        assert self.url.startswith("http://"), "the server did not start; is build/bin/openai_door_server built?"

    def counts(self):
        with urllib.request.urlopen(self.url + "/counts", timeout=30) as answer:
            return json.load(answer)

    def await_counts(self, condition):
        """The counts as soon as `condition` holds for them; fails after 30 s."""
        end = time.monotonic() + 30
        while not condition(counts := self.counts()):
            assert time.monotonic() < end, counts
            time.sleep(0.01)
        return counts

    def stop(self):
        self.process.stdin.close()
        assert self.process.wait(timeout=30) == 0


@pytest.fixture(scope="session")
def door():
    made = Door()
    yield made
    made.stop()


@pytest.fixture
def locked_door(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("# who may ask\nsk-alice-0123456789 alice\nsk-nobody-0123456789\n")
    made = Door(keys)
    yield made
    made.stop()
