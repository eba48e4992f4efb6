"""Streams of both clients against fake routers: results, early ends, and routers that die (faults.md P3, P13)."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, List

import pytest
import troupe
from fake_router import Story, cancel_requests, failure, generate_requests
from troupe import _limits
from troupe._proto import client_router_pb2 as pb
from troupe._proto import common_pb2

STORY = Story()
WHOLE = "".join(f"{position} " for position in range(STORY.length))


def run(coroutine: Any) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 30))


def test_a_stream_is_its_tokens(make_router: Any) -> None:
    with troupe.connect(make_router(behaviour=STORY.behaviour()).address) as cluster:
        stream = cluster.generate("once", max_new_tokens=8, temperature=0.0, seed=7)
        tokens = list(stream)
        assert [token.id for token in tokens] == list(range(100, 108))
        assert "".join(token.text for token in tokens) == WHOLE
        assert [token.position for token in tokens] == list(range(8))
        assert all(token.logprob == -0.5 and token.exact for token in tokens)
        assert [token.finish_reason for token in tokens] == [None] * 7 + ["length"]
        assert stream.seed == 7 and stream.prompt_tokens == 3
        assert stream.usage is not None and stream.usage.completion_tokens == 8
        assert [token.id for token in cluster.generate([1, 2, 3])] == list(range(100, 108)), "the connection goes on"


def test_tokens_come_as_they_are_told(make_router: Any) -> None:
    told = threading.Event()

    def act(router: Any, peer: bytes, message: Any, tensors: Any) -> None:
        STORY.tell(router, peer, message.generate, until=1)
        told.wait(10)
        for position in range(1, STORY.length):
            event = pb.GenerateEvent(request_id=message.generate.request_id, tokens=[STORY.token(position)])
            router.events(peer, event)
        STORY.end(router, peer, message.generate)

    with troupe.connect(make_router(behaviour=act).address) as cluster:
        stream = iter(cluster.generate("once"))
        assert next(stream).id == 100
        told.set()
        assert [token.id for token in stream] == list(range(101, 108))


def test_p13_leaving_the_loop_ends_the_work(make_router: Any) -> None:
    router = make_router(behaviour=STORY.behaviour(until=3))
    with troupe.connect(router.address) as cluster:
        for token in cluster.generate("once"):
            if token.position == 1:
                break
        router.wait_for(lambda: cancel_requests(router) == [generate_requests(router)[0].request_id])
        with cluster.generate("twice") as stream:
            next(stream)
        router.wait_for(lambda: len(cancel_requests(router)) == 2)
        assert list(stream) == []
        stream.close()
        assert len(router.hellos) == 1, "the connection is used again"


def test_an_error_ends_the_iteration(make_router: Any) -> None:
    def act(router: Any, peer: bytes, message: Any, tensors: Any) -> None:
        STORY.tell(router, peer, message.generate, until=2)
        router.answer(peer, failure(message.generate.request_id, common_pb2.TIMEOUT, "the deadline passed"))

    with troupe.connect(make_router(behaviour=act).address) as cluster:
        stream = cluster.generate("once")
        assert [next(stream).id, next(stream).id] == [100, 101]
        with pytest.raises(troupe.Timeout, match="deadline"):
            next(stream)
        with pytest.raises(StopIteration):
            next(stream)


def test_p3_another_router_goes_on_where_one_was_killed(make_router: Any) -> None:
    first, second = make_router(behaviour=STORY.behaviour(until=3)), make_router(behaviour=STORY.behaviour())
    with troupe.connect([first.address, second.address]) as cluster:
        stream = cluster.generate("once", max_tokens=8)
        tokens = [next(stream) for _ in range(3)]
        first.stop()
        tokens += stream
    assert "".join(token.text for token in tokens) == WHOLE
    assert [token.position for token in tokens] == list(range(8))
    asked, again = generate_requests(first)[0], generate_requests(second)[0]
    assert list(again.resumed) == [100, 101, 102]
    assert (again.sampling.seed, again.text, again.max_tokens) == (asked.sampling.seed, "once", 8)


def test_p3_sixteen_streams_survive_their_router(make_router: Any) -> None:
    first, second = make_router(behaviour=STORY.behaviour(until=3)), make_router(behaviour=STORY.behaviour())
    texts: List[str] = []

    def read(cluster: Any) -> None:
        texts.append("".join(token.text for token in cluster.generate("once", max_tokens=8)))

    with troupe.connect([first.address, second.address]) as cluster:
        threads = [threading.Thread(target=read, args=(cluster,)) for _ in range(16)]
        for thread in threads:
            thread.start()
        first.wait_for(lambda: len(generate_requests(first)) == 16)
        first.stop()
        for thread in threads:
            thread.join()
    assert texts == [WHOLE] * 16


def test_p3_a_router_that_was_restarted_goes_on(make_router: Any, address: str) -> None:
    first = make_router(behaviour=STORY.behaviour(until=3), address=address)
    with troupe.connect(address) as cluster:
        stream = cluster.generate("once", max_tokens=8)
        tokens = [next(stream) for _ in range(3)]
        first.stop()
        second = make_router(behaviour=STORY.behaviour(), address=address)
        tokens += stream
    assert "".join(token.text for token in tokens) == WHOLE
    assert list(generate_requests(second)[0].resumed) == [100, 101, 102]


def test_p3_a_frozen_router_is_noticed(make_router: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_limits, "HEARTBEAT_INTERVAL_MS", 100)
    monkeypatch.setattr(_limits, "HEARTBEAT_TIMEOUT_MS", 500)
    address = f"ipc://{tmp_path}/frozen.ipc"
    program = (
        "import sys; from fake_router import FakeRouter, Story; "
        f"FakeRouter({address!r}, Story().behaviour(until=3)); print('ready', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=Path(__file__).parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        second = make_router(behaviour=STORY.behaviour())
        with troupe.connect([address, second.address]) as cluster:
            stream = cluster.generate("once", max_tokens=8)
            tokens = [next(stream) for _ in range(3)]
            process.send_signal(signal.SIGSTOP)
            tokens += stream
        assert "".join(token.text for token in tokens) == WHOLE
    finally:
        process.kill()
        process.communicate()


def test_p13_ctrl_c_leaves_the_cluster_usable(make_router: Any, request: Any) -> None:
    # A shell's background job ignores Ctrl-C, and Python keeps it that way.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    router = make_router(behaviour=STORY.behaviour(until=3))
    with troupe.connect(router.address) as cluster:
        stream = cluster.generate("once")
        assert [next(stream).id for _ in range(3)] == [100, 101, 102]
        pressed = threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT))
        pressed.start()
        with pytest.raises(KeyboardInterrupt):
            next(stream)
        pressed.join()
        assert next(cluster.generate("twice")).id == 100
        assert len(router.hellos) == 2, "the interrupted connection is not used again"


def test_tokenize_and_back(make_router: Any) -> None:
    with troupe.connect(make_router().address) as cluster:
        assert cluster.tokenize("hi") == [104, 105]
        assert cluster.detokenize([111, 107]) == "ok"

    async def use(address: str) -> None:
        async with troupe.aio.connect(address) as cluster:
            assert await cluster.tokenize("hi") == [104, 105]
            assert await cluster.detokenize([111, 107]) == "ok"

    run(use(make_router().address))


# -- asyncio ----------------------------------------------------------------------------------------------------------


def test_asyncio_streams_side_by_side(make_router: Any) -> None:
    async def read(cluster: Any) -> str:
        return "".join([token.text async for token in cluster.generate("once", max_tokens=8)])

    async def use(address: str) -> None:
        async with troupe.aio.connect(address) as cluster:
            assert await asyncio.gather(*(read(cluster) for _ in range(100))) == [WHOLE] * 100

    router = make_router(behaviour=STORY.behaviour())
    run(use(router.address))
    assert len(router.hellos) == 1


def test_p3_asyncio_streams_survive_their_router(make_router: Any) -> None:
    first, second = make_router(behaviour=STORY.behaviour(until=3)), make_router(behaviour=STORY.behaviour())

    async def read(cluster: Any) -> str:
        return "".join([token.text async for token in cluster.generate("once", max_tokens=8)])

    async def use() -> None:
        async with troupe.aio.connect([first.address, second.address]) as cluster:
            reading = [asyncio.ensure_future(read(cluster)) for _ in range(16)]
            while len(generate_requests(first)) < 16:
                await asyncio.sleep(0)
            first.stop()
            assert await asyncio.gather(*reading) == [WHOLE] * 16

    run(use())


def test_p13_asyncio_streams_that_are_left_end_their_work(make_router: Any) -> None:
    router = make_router(behaviour=STORY.behaviour(until=3))

    async def use() -> None:
        async with troupe.aio.connect(router.address) as cluster:
            async for _ in cluster.generate("left early"):
                break
            while len(cancel_requests(router)) < 1:
                await asyncio.sleep(0)
            async with cluster.generate("closed") as stream:
                await stream.__anext__()
            assert [token async for token in stream] == []

            async def read() -> None:
                async for _ in cluster.generate("cancelled"):
                    pass

            task = asyncio.ensure_future(read())
            while len(generate_requests(router)) < 3:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            while len(cancel_requests(router)) < 3:
                await asyncio.sleep(0)

    run(use())


def test_asyncio_errors_end_the_iteration(make_router: Any) -> None:
    def act(router: Any, peer: bytes, message: Any, tensors: Any) -> None:
        STORY.tell(router, peer, message.generate, until=1)
        router.answer(peer, failure(message.generate.request_id, common_pb2.INTERNAL, "a bug"))

    async def use(address: str) -> None:
        cluster = await troupe.aio.connect(address)
        seen = []
        with pytest.raises(troupe.Error, match="a bug"):
            async for token in cluster.generate("once"):
                seen.append(token.id)
        assert seen == [100]
        waiting = cluster.generate("never mind")
        await cluster.close()
        with pytest.raises(troupe.InvalidRequest, match="closed"):
            async for _ in waiting:
                pass

    run(use(make_router(behaviour=act).address))


def test_time_alone_moves_no_stream(make_router: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that pauses is not mistaken for a router that is silent."""
    monkeypatch.setattr(_limits, "STREAM_SILENCE_MAX", 0.05)
    router = make_router(behaviour=STORY.behaviour())
    with troupe.connect(router.address) as cluster:
        stream = cluster.generate("once", max_tokens=8)
        first = next(stream)
        paused_until = time.monotonic() + 0.1
        while time.monotonic() < paused_until:
            pass
        assert "".join([first.text, *(token.text for token in stream)]) == WHOLE
    assert len(generate_requests(router)) == 1
