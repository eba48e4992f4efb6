"""Shared fixtures: an address nobody uses yet, and routers that are stopped when a test ends."""

from __future__ import annotations

import itertools
from typing import Any, Iterator

import pytest
from fake_router import FakeRouter

_numbers = itertools.count()


@pytest.fixture
def address(tmp_path: Any) -> str:
    return f"ipc://{tmp_path}/router.ipc"


@pytest.fixture
def make_router(tmp_path: Any) -> Iterator[Any]:
    started = []

    def make(*args: Any, **kwargs: Any) -> FakeRouter:
        kwargs.setdefault("address", f"ipc://{tmp_path}/router-{next(_numbers)}.ipc")
        started.append(FakeRouter(*args, **kwargs))
        return started[-1]

    yield make
    for router in started:
        router.stop()
