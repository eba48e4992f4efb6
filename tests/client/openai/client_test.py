"""The official openai client against the router's doors with a fake engine behind them (door_server.cpp): what an
unchanged program of a user sees. The fake's words (@hold, @refuse, ...) are in tests/router_node/fake_generation.hpp."""
import asyncio
import http.client
import json

import openai
import pytest

SENTENCE = "The hills were green, 日本 and 😀; he said nothing."


def make(door, key="none", **more):
    return openai.OpenAI(base_url=door.url + "/v1", api_key=key, max_retries=0, timeout=60, **more)


def make_async(door):
    return openai.AsyncOpenAI(base_url=door.url + "/v1", api_key="none", max_retries=0, timeout=60)


@pytest.fixture
def client(door):
    with make(door) as made:
        yield made


def chat(client, text, **more):
    return client.chat.completions.create(model="fake", messages=[{"role": "user", "content": text}], **more)


def complete(client, prompt, **more):
    return client.completions.create(model="fake", prompt=prompt, **more)


# -- answers ------------------------------------------------------------------------------------------------------


def test_plain_chat(client):
    answer = chat(client, "Hi", temperature=0)
    assert answer.object == "chat.completion" and answer.model == "fake" and answer.id.startswith("chatcmpl-")
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content.startswith(SENTENCE)
    assert answer.choices[0].finish_reason == "stop"
    usage = answer.usage
    assert usage.prompt_tokens > 0 and usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details.cached_tokens == 0
    assert answer.system_fingerprint == "fp"


def test_streamed_chat_equals_the_plain_one(client):
    plain = chat(client, "Hi", seed=3)
    chunks = list(chat(client, "Hi", seed=3, stream=True, stream_options={"include_usage": True}))
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == plain.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage == plain.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_without_include_usage_there_is_none(client):
    assert all(chunk.usage is None for chunk in chat(client, "Hi", stream=True, max_tokens=3))


def test_completion_of_text_ids_and_lists(client):
    assert complete(client, "Hi", temperature=0).choices[0].text.startswith(SENTENCE[:10])
    assert complete(client, [5, 6, 7]).usage.prompt_tokens == 3
    answers = complete(client, [[5], [6, 7]], temperature=0)
    assert [choice.index for choice in answers.choices] == [0, 1] and answers.usage.prompt_tokens == 3
    assert len(complete(client, ["a", "b"], n=2).choices) == 4


def test_n_and_seed(client):
    first = complete(client, "Hi", n=4, seed=1, max_tokens=8)
    assert [c.text for c in first.choices] == [c.text for c in complete(client, "Hi", n=4, seed=1, max_tokens=8).choices]
    assert len({choice.text for choice in first.choices}) > 1
    assert first.usage.completion_tokens == 32
    streamed = [""] * 4
    for chunk in complete(client, "Hi", n=4, seed=1, max_tokens=8, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == [choice.text for choice in first.choices]


def test_stop_and_length(client):
    stopped = chat(client, "Hi", temperature=0, stop=["green", "never"])
    assert stopped.choices[0].message.content == "The hills were " and stopped.choices[0].finish_reason == "stop"
    assert chat(client, "Hi", max_tokens=2).choices[0].finish_reason == "length"
    assert chat(client, "Hi", max_completion_tokens=2).usage.completion_tokens == 2


def test_no_chunk_splits_a_character(client):
    texts = [c.choices[0].delta.content or "" for c in chat(client, "Hi", temperature=0, stream=True)]
    assert "�" not in "".join(texts) and "日本 and 😀" in "".join(texts)


def test_logprobs_of_chats(client):
    answer = chat(client, "Hi", temperature=0, max_tokens=3, logprobs=True, top_logprobs=2)
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == 3 and tokens[0].logprob == -0.25 and len(tokens[0].top_logprobs) == 2
    assert bytes(b for t in tokens for b in t.bytes).decode().startswith("The")
    assert chat(client, "Hi", max_tokens=3).choices[0].logprobs is None
    streamed = list(chat(client, "Hi", temperature=0, max_tokens=3, logprobs=True, stream=True))
    assert sum(len(c.choices[0].logprobs.content) for c in streamed if c.choices[0].logprobs) == 3


def test_logprobs_of_completions_and_echo(client):
    choice = complete(client, "hello world", temperature=0, max_tokens=2, logprobs=2, echo=True).choices[0]
    assert choice.text.startswith("hello world")
    listed = choice.logprobs
    assert len(listed.tokens) == len(listed.token_logprobs) == len(listed.top_logprobs) == len(listed.text_offset) == 10
    assert listed.token_logprobs[0] is None and listed.token_logprobs[1] == -0.5
    assert listed.text_offset == sorted(listed.text_offset)


def test_our_fields(client):
    answer = complete(client, "@inexact 1", max_tokens=3, extra_body={"degrade": "substitute", "timeout_ms": 60_000, "top_k": 5,
                                                                      "min_p": 0.1, "repetition_penalty": 1.1, "ignore_eos": True})
    assert answer.troupe == {"approximate_tokens": 1}
    marked = [c for c in complete(client, "@inexact 1", max_tokens=3, stream=True) if getattr(c, "troupe", None)]
    assert [c.troupe for c in marked] == [{"exact": False, "reason": "substituted", "layers": [0, 2]}]


def test_unknown_fields_are_ignored(client):
    assert chat(client, "Hi", extra_body={"mood": "good"}, user="somebody", max_tokens=2).choices


# -- errors -------------------------------------------------------------------------------------------------------


def raised(kind, call):
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    return caught.value


@pytest.mark.fault("W14")
@pytest.mark.parametrize(("fields", "param"), [
    ({"n": 10**9}, "n"), ({"max_tokens": -1}, "max_tokens"), ({"temperature": 5}, "temperature"), ({"top_p": 2}, "top_p"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"), ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"logit_bias": {"999999": 1}}, "logit_bias"), ({"stop": [""]}, "stop"), ({"top_logprobs": 5}, "top_logprobs")])
def test_bad_fields_are_bad_requests_that_name_them(client, fields, param):
    error = raised(openai.BadRequestError, lambda: chat(client, "Hi", **fields))
    assert error.param == param and error.type == "invalid_request_error" and error.response.headers["x-should-retry"] == "false"


@pytest.mark.fault("W14")
def test_messages_that_are_none(client):
    assert raised(openai.BadRequestError, lambda: client.chat.completions.create(model="fake", messages=[])).param == "messages"
    image = [{"type": "image_url", "image_url": {"url": "data:,x"}}]
    assert raised(openai.BadRequestError, lambda: chat(client, image)).param == "messages[0].content[0].type"


@pytest.mark.fault("W14")
def test_unknown_model(client):
    call = lambda: client.completions.create(model="gpt-4", prompt="Hi")  # noqa: E731
    assert raised(openai.NotFoundError, call).code == "model_not_found"


@pytest.mark.fault("W15")
def test_prompts_longer_than_the_context(client):
    error = raised(openai.BadRequestError, lambda: complete(client, [1] * 5000))
    assert error.code == "context_length_exceeded" and "2048" in error.message and "5000" in error.message


@pytest.mark.fault("W16")
def test_token_ids_beyond_the_vocabulary(client):
    assert raised(openai.BadRequestError, lambda: complete(client, [1, 10**6])).param == "prompt"


@pytest.mark.fault("W6", "W14")
@pytest.mark.parametrize("body", [b"", b"nope", b"[]", b'{"messages": ' + b"[" * 10_000, b'{"prompt": "\xff"}', b'{"prompt": NaN}'])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"])
def test_bodies_that_are_no_request(door, path, body):
    connection = http.client.HTTPConnection(door.url.removeprefix("http://"), timeout=30)
    connection.request("POST", path, body)
    answer = connection.getresponse()
    assert answer.status == 400
    assert json.load(answer)["error"]["message"]
    connection.close()


@pytest.mark.fault("W14")
def test_bodies_that_are_too_large(client):
    with pytest.raises(openai.APIStatusError) as caught:
        complete(client, "x" * (9 << 20))
    assert caught.value.status_code == 413


@pytest.mark.fault("O1")
def test_a_full_line_is_a_rate_limit(client):
    error = raised(openai.RateLimitError, lambda: chat(client, "@refuse"))
    assert error.code == "overloaded" and error.response.headers["retry-after"] == "1"
    assert "x-should-retry" not in error.response.headers


def test_statuses_become_the_clients_exceptions(client):
    raised(openai.InternalServerError, lambda: chat(client, "@gone"))
    raised(openai.InternalServerError, lambda: chat(client, "@timeout 1"))
    raised(openai.InternalServerError, lambda: chat(client, "@timeout 0", stream=True))


@pytest.mark.fault("O10")
def test_time_that_is_over_on_arrival(door, client):
    before = door.counts()["accepted"]
    error = raised(openai.InternalServerError, lambda: complete(client, "Hi", extra_body={"timeout_ms": 0}))
    assert error.status_code == 504 and door.counts()["accepted"] == before
    assert door.counts()["outcomes"]["expired"] >= 1


def test_an_error_in_the_middle_of_a_stream_is_raised(client):
    stream = chat(client, "@unavailable 3", stream=True)
    with pytest.raises(openai.APIError) as caught:
        for _ in stream:
            pass
    assert caught.value.code == "unavailable"


@pytest.mark.fault("H1")
def test_keys(locked_door):
    raised(openai.AuthenticationError, lambda: chat(make(locked_door, "sk-wrong"), "Hi"))
    assert chat(make(locked_door, "sk-alice-0123456789"), "Hi", max_tokens=2).choices
    assert locked_door.counts()["accepted"] == 1


@pytest.mark.fault("O3")
def test_a_flood_with_one_key_leaves_the_others_alone(locked_door):
    alice, other = make(locked_door, "sk-alice-0123456789"), make(locked_door, "sk-nobody-0123456789")
    streams = [complete(alice, "@hold 1", n=16, stream=True) for _ in range(8)]  # 128 answers
    assert raised(openai.RateLimitError, lambda: complete(alice, "Hi")).code == "rate_limit_exceeded"
    assert complete(other, "Hi").choices
    for stream in streams:
        stream.close()
    locked_door.await_counts(lambda counts: counts["running"] == 0)
    assert complete(alice, "Hi").choices


# -- cancelling ---------------------------------------------------------------------------------------------------


@pytest.mark.fault("P13")
def test_closing_a_stream_cancels_its_work(door, client):
    aborted = door.counts()["outcomes"].get("aborted", 0)
    # At temperature 0 the answer begins with whole characters: two tokens of an emoji would be held back.
    stream = chat(client, "@hold 2", stream=True, temperature=0)
    for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    assert door.counts()["running"] == 1
    stream.close()
    counts = door.await_counts(lambda counts: counts["running"] == 0)
    assert counts["outcomes"]["aborted"] == aborted + 1


@pytest.mark.fault("P13")
def test_cancelling_a_task_cancels_its_work(door):
    async def main():
        async with make_async(door) as client:
            task = asyncio.create_task(chat(client, "@hold 0"))
            while door.counts()["running"] == 0:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    door.await_counts(lambda counts: counts["running"] == 0)


def test_pings_do_not_disturb_the_client(door, client):
    """The fake is silent for longer than the ping interval; the stream only ends when its client goes away."""
    connection = http.client.HTTPConnection(door.url.removeprefix("http://"), timeout=30)
    connection.request("POST", "/v1/completions", json.dumps({"prompt": "@hold 0", "stream": True}))
    answer = connection.getresponse()
    assert [answer.readline() for _ in range(4)] == [b": ping\n", b"\n", b": ping\n", b"\n"]
    connection.close()
    door.await_counts(lambda counts: counts["running"] == 0)


# -- many ---------------------------------------------------------------------------------------------------------


def test_64_streams_at_once(door):
    async def one(client, seed):
        text = ""
        async for chunk in await chat(client, "Hi", seed=seed, max_tokens=30, stream=True):
            text += chunk.choices[0].delta.content or ""
        return text

    async def main():
        async with make_async(door) as client:
            plain = [(await chat(client, "Hi", seed=seed, max_tokens=30)).choices[0].message.content for seed in range(64)]
            assert await asyncio.gather(*(one(client, seed) for seed in range(64))) == plain

    asyncio.run(main())


def test_headers_of_a_stream(door):
    connection = http.client.HTTPConnection(door.url.removeprefix("http://"), timeout=30)
    connection.request("POST", "/v1/completions", json.dumps({"prompt": "Hi", "stream": True, "max_tokens": 1}),
                       {"X-Request-Id": "mine"})
    answer = connection.getresponse()
    assert answer.headers["Content-Type"] == "text/event-stream" and answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["X-Accel-Buffering"] == "no" and answer.headers["X-Request-Id"] == "mine"
    events = answer.read().split(b"\n\n")
    assert events[-2:] == [b"data: [DONE]", b""]
    assert all(json.loads(event.removeprefix(b"data: ")) for event in events[:-2])
    connection.close()
