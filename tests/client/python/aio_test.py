"""The asyncio client against a fake router. What both clients share is tested in client_test.py."""

from __future__ import annotations

import asyncio
from typing import Any, List

import numpy as np
import pytest
import troupe
from fake_router import double, failure, layer_reply
from troupe._proto import common_pb2

HIDDEN = np.arange(12, dtype=np.float32).reshape(3, 4)


def run(coroutine: Any) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 30))


async def until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0)


def test_the_same_verbs(make_router: Any) -> None:
    async def use() -> None:
        async with troupe.aio.connect(make_router().address) as cluster:
            result = await cluster.layer(3, HIDDEN)
            assert np.array_equal(result.output, 2 * HIDDEN) and result.epoch == 7
            result = await cluster.experts(3, HIDDEN, np.zeros((3, 2), int), np.ones((3, 2)))
            assert np.array_equal(result.output, 2 * HIDDEN)
            assert await cluster.nodes() == await cluster.list_experts(layer=1) == [{"name": "expert-0"}]
            assert (await cluster.status())["kind"] != (await cluster.model())["kind"]

    run(use())


def test_connect_may_be_awaited(make_router: Any) -> None:
    async def use() -> None:
        cluster = await troupe.aio.connect(make_router().address)
        assert np.array_equal((await cluster.layer(0, HIDDEN)).output, 2 * HIDDEN)
        await cluster.close()
        await cluster.close()
        with pytest.raises(troupe.InvalidRequest, match="closed"):
            await cluster.layer(0, HIDDEN)

    run(use())


def test_many_calls_share_one_connection(make_router: Any) -> None:
    waiting: List[Any] = []

    def gather(router: Any, peer: bytes, message: Any, tensors: List[Any]) -> None:
        waiting.append((peer, message, tensors))
        if len(waiting) == 20:
            for one in reversed(waiting):
                double(router, *one)
            waiting.clear()

    router = make_router(behaviour=gather)

    async def use() -> None:
        async with troupe.aio.connect(router.address) as cluster:
            results = await asyncio.gather(*(cluster.layer(0, HIDDEN + number) for number in range(100)))
        for number, result in enumerate(results):
            assert np.array_equal(result.output, 2 * (HIDDEN + number))

    run(use())
    assert len(router.hellos) == 1


def test_no_more_calls_are_at_the_router_than_it_can_answer(make_router: Any) -> None:
    """Routers queue a bounded number of answers per connection and drop what is beyond."""
    waiting: List[Any] = []
    largest = 0

    def hold(router: Any, peer: bytes, message: Any, tensors: List[Any]) -> None:
        nonlocal largest
        waiting.append((peer, message, tensors))
        largest = max(largest, len(waiting))
        if len(waiting) == 32 or len(router.seen) > 64:
            while waiting:
                double(router, *waiting.pop())

    async def use() -> None:
        async with troupe.aio.connect(make_router(behaviour=hold).address) as cluster:
            results = await asyncio.gather(*(cluster.layer(0, HIDDEN) for _ in range(100)))
        assert len(results) == 100

    run(use())
    assert largest == 32


def test_thousands_of_calls_in_a_row_never_stall(make_router: Any) -> None:
    """A wake-up of the socket that were swallowed would show as a timeout."""

    async def use() -> None:
        async with troupe.aio.connect(make_router().address) as cluster:

            async def caller() -> None:
                for _ in range(250):
                    await cluster.layer(0, HIDDEN, timeout=5)

            await asyncio.gather(*(caller() for _ in range(8)))

    run(use())


def test_failures_are_raised(make_router: Any) -> None:
    def fail(router: Any, peer: bytes, message: Any, tensors: List[Any]) -> None:
        router.answer(peer, failure(message.layer.request_id, common_pb2.OVERLOADED, "too many rows; wait", 100))

    async def use() -> None:
        async with troupe.aio.connect(make_router(behaviour=fail).address) as cluster:
            with pytest.raises(troupe.Overloaded, match="too many rows") as caught:
                await cluster.layer(0, HIDDEN)
            assert caught.value.retry_after == 0.1
            with pytest.raises(troupe.InvalidRequest):
                await cluster.layer(0, HIDDEN.astype(np.float64))

    run(use())


def test_nobody_there_is_unavailable(address: str) -> None:
    async def use() -> None:
        with pytest.raises(troupe.Unavailable, match="no router answered"):
            await troupe.aio.connect(address, timeout=0.3)

    run(use())


def test_calls_survive_the_loss_of_their_router(make_router: Any) -> None:
    first, second = make_router(behaviour=lambda *unused: None), make_router()

    async def use() -> None:
        async with troupe.aio.connect([first.address, second.address]) as cluster:
            calls = [asyncio.ensure_future(cluster.layer(0, HIDDEN + number)) for number in range(10)]
            await until(lambda: len(first.seen) == 10)
            first.stop()
            for number, result in enumerate(await asyncio.gather(*calls)):
                assert np.array_equal(result.output, 2 * (HIDDEN + number))

    run(use())
    ids = {message.layer.request_id for message in first.seen}
    assert ids == {message.layer.request_id for message in second.seen} and len(second.seen) == 10


def test_a_restarted_router_is_found_again(make_router: Any) -> None:
    async def use() -> None:
        router = make_router()
        async with troupe.aio.connect(router.address) as cluster:
            for _ in range(3):
                router.stop()
                router = make_router(address=router.address)
                assert np.array_equal((await cluster.layer(0, HIDDEN)).output, 2 * HIDDEN)

    run(use())


def test_a_cancelled_call_is_forgotten(make_router: Any) -> None:
    kept: List[Any] = []

    def behave(router: Any, peer: bytes, message: Any, tensors: List[Any]) -> None:
        if not kept:
            kept.append(layer_reply(message.layer.request_id, tensors[0], common_pb2.F32, scale=100.0))
            return
        router.answer(peer, kept[0])
        double(router, peer, message, tensors)

    async def use() -> None:
        async with troupe.aio.connect(make_router(behaviour=behave).address) as cluster:
            call = asyncio.ensure_future(cluster.layer(0, HIDDEN))
            await until(lambda: len(kept) == 1)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert np.array_equal((await cluster.layer(0, HIDDEN)).output, 2 * HIDDEN)

    run(use())


def test_close_ends_calls_under_way(make_router: Any) -> None:
    router = make_router(behaviour=lambda *unused: None)

    async def use() -> None:
        cluster = await troupe.aio.connect(router.address)
        call = asyncio.ensure_future(cluster.layer(0, HIDDEN))
        await until(lambda: len(router.seen) == 1)
        await cluster.close()
        with pytest.raises(troupe.InvalidRequest, match="closed"):
            await call

    run(use())
