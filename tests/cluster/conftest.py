"""Fixtures of the cluster tests: real processes, one folder each, stopped whatever happens."""
import os
import pathlib

import pytest

from support import golden
from support.cluster import LocalCluster
from support.random_model import RandomMixtral


def pytest_configure(config):
    config.addinivalue_line("markers", "fault(number, ...): the cases of faults.md that the test covers")
    config.addinivalue_line("markers", "soak: runs for --soak-seconds; left out without it")


def pytest_addoption(parser):
    parser.addoption("--soak-seconds", type=int, default=0, help="how long each mixed-load run lasts (0: a short one)")
    parser.addoption("--operations", type=int, default=40, help="how many random operations run while text streams")
    parser.addoption("--seed", type=int, default=20240601, help="of the mixed-load run")


tried_again = []  # reports of tests that failed and ran once more (--reruns)


def pytest_runtest_logreport(report):
    if report.outcome == "rerun":
        tried_again.append(report)


def pytest_terminal_summary(terminalreporter):
    """A first failure is shown as a whole also when the second try passed."""
    for report in tried_again:
        terminalreporter.section(f"first try of {report.nodeid}")
        terminalreporter.write_line(report.longreprtext)
    if tried_again and "RESULTS" in os.environ:
        names = "\n".join(report.nodeid for report in tried_again)
        pathlib.Path(os.environ["RESULTS"], "rerun").write_text(names)


@pytest.fixture(scope="session")
def mixtral_cluster():
    """Three expert nodes on the golden Mixtral, for tests that leave the cluster as it was."""
    with LocalCluster(golden.FOLDER / "mixtral", expert_nodes=3, dtype="f32") as cluster:
        yield cluster


@pytest.fixture(scope="session")
def random_model(tmp_path_factory):
    """Some weights that are worth loading: 32 experts of 768 KiB in two layers."""
    return RandomMixtral(tmp_path_factory.mktemp("model") / "random-mixtral")


@pytest.fixture
def start_cluster():
    """start_cluster(model, **options) -> a running LocalCluster that is stopped after the test."""
    started = []

    def start(model, **options):
        cluster = LocalCluster(model, **options)
        started.append(cluster)
        cluster.start()
        return cluster

    yield start
    for cluster in reversed(started):
        cluster.stop()
