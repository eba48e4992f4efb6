"""`troupe generate` and `troupe chat` against fake routers: what is printed, Ctrl-C, a terminal, a router that dies."""
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest

from support.cluster import ROOT, TROUPE

sys.path.append(str(ROOT / "tests/client/python"))
from fake_router import CLUSTER, FakeRouter, Story, cancel_requests, failure, generate_requests  # noqa: E402
from troupe._proto import common_pb2  # noqa: E402

STORY = Story()
WHOLE = "".join(f"{position} " for position in range(STORY.length))
SECONDS = 60


@pytest.fixture
def routers(tmp_path):
    """routers(behaviour, ...) -> the fake routers of the cluster in tmp_path."""
    started = []

    def start(*behaviours):
        for number, behaviour in enumerate(behaviours):
            started.append(FakeRouter(f"ipc://{tmp_path}/router-{number}.ipc", behaviour))
        context = {"cluster_id": CLUSTER,
                   "routers": [{"name": f"router-{n}", "client": r.address} for n, r in enumerate(started)]}
        (tmp_path / "context.json").write_text(json.dumps(context))
        return started

    yield start
    for router in started:
        router.stop()


def environment():
    return {**{k: v for k, v in os.environ.items() if not k.startswith("TROUPE_")}, "TERM": "xterm", "LC_ALL": "C.UTF-8"}


def run(tmp_path, *arguments, text=None):
    command = [str(TROUPE), *arguments, "--data-dir", str(tmp_path)]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=SECONDS, env=environment())


def test_generate_prints_the_text_and_nothing_else(routers, tmp_path):
    (router,) = routers(STORY.behaviour())
    done = run(tmp_path, "generate", "once", "--max-tokens", "8", "--temperature", "0", "--seed", "7", "--stop", "a",
               "--stop", "b", "--top-k", "5", "--logit-bias", "7:-2", "--degrade", "fail", "--timeout", "20s")
    assert (done.returncode, done.stdout, done.stderr) == (0, WHOLE + "\n", "")
    asked = generate_requests(router)[0]
    assert (asked.text, asked.max_tokens, asked.sampling.temperature, asked.sampling.seed) == ("once", 8, 0, 7)
    assert (list(asked.stop), asked.sampling.top_k, dict(asked.sampling.logit_bias)) == (["a", "b"], 5, {7: -2})
    assert 19_000 <= asked.timeout_ms <= 20_000


def test_generate_as_json(routers, tmp_path):
    routers(STORY.behaviour())
    done = run(tmp_path, "generate", "once", "-o", "json", "--seed", "7")
    document = json.loads(done.stdout)
    assert (document["text"], document["finish_reason"], document["seed"]) == (WHOLE, "length", 7)
    assert document["usage"] == {"prompt_tokens": 3, "cached_tokens": 0, "completion_tokens": 8, "approximate_tokens": 0}
    assert document["tokens"][0] == {"id": 100, "text": "0 ", "logprob": -0.5, "exact": True}


def test_generate_reads_standard_input_and_speaks_to_chat_models(routers, tmp_path):
    (router,) = routers(STORY.behaviour())
    assert run(tmp_path, "generate", "-", text="from a\npipe").returncode == 0
    assert run(tmp_path, "generate", "--chat", "hi", "--system", "be brief").returncode == 0
    assert generate_requests(router)[0].text == "from a\npipe"
    assert json.loads(generate_requests(router)[1].messages_json) == [
        {"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]


@pytest.mark.parametrize(("arguments", "code", "says"), [
    (["generate"], 2, "prompt"),
    (["generate", "x", "--logit-bias", "7"], 2, "--logit-bias 7: write a token id"),
    (["generate", "x", "--system", "y"], 2, "--system needs --chat"),
    (["generate", "x", "--temprature", "1"], 2, "--temperature"),
    (["generate", "x", "--temperature", "2.5"], 2, "--temperature"),
    (["generate", "x", "--top-p", "0"], 2, "--top-p"),
    (["generate", "x", "--repetition-penalty", "11"], 2, "--repetition-penalty"),
    (["chat", "--presence-penalty", "-3"], 2, "--presence-penalty"),
    (["generate", "x"], 3, "no cluster"),
    (["chat"], 3, "no cluster"),
])
def test_mistakes_are_told(tmp_path, arguments, code, says):
    done = run(tmp_path, *arguments, text="")
    assert done.returncode == code and done.stdout == ""
    assert done.stderr.startswith("error: ") and says in done.stderr


def test_errors_of_the_cluster_have_their_exit_status(routers, tmp_path):
    def refuse(router, peer, message, tensors):
        router.answer(peer, failure(message.generate.request_id, common_pb2.OVERLOADED, "200 requests wait; retry later"))

    routers(refuse)
    done = run(tmp_path, "generate", "once")
    assert (done.returncode, done.stdout, done.stderr) == (4, "", "error: 200 requests wait; retry later\n")


@pytest.mark.fault("P3")
def test_an_answer_survives_its_router(routers, tmp_path):
    first, second = routers(STORY.behaviour(until=3), STORY.behaviour())
    process = subprocess.Popen([str(TROUPE), "generate", "once", "--max-tokens", "8", "--data-dir", str(tmp_path)],
                               stdout=subprocess.PIPE, env=environment())
    assert process.stdout.read(len("0 1 2 ")) == b"0 1 2 "
    first.stop()
    rest, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0 and "0 1 2 " + rest.decode() == WHOLE + "\n"
    assert list(generate_requests(second)[0].resumed) == [100, 101, 102]


@pytest.mark.fault("P13")
def test_ctrl_c_ends_the_work(routers, tmp_path):
    (router,) = routers(STORY.behaviour(until=3))
    process = subprocess.Popen([str(TROUPE), "generate", "once", "--data-dir", str(tmp_path)], stdout=subprocess.PIPE,
                               env=environment())
    assert process.stdout.read(len("0 1 2 ")) == b"0 1 2 "
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    router.wait_for(lambda: len(cancel_requests(router)) == 1)


# -- chat -------------------------------------------------------------------------------------------------------------


def test_chat_from_a_pipe_keeps_the_conversation(routers, tmp_path):
    (router,) = routers(STORY.behaviour())
    done = run(tmp_path, "chat", "--system", "be brief", text="one\n\n/nonsense\ntwo\n/reset\n//three\n/quit\nnot read\n")
    assert done.returncode == 0 and done.stdout == 3 * (WHOLE + "\n")
    assert "no command /nonsense" in done.stderr
    first, second, third = (json.loads(asked.messages_json) for asked in generate_requests(router))
    system = {"role": "system", "content": "be brief"}
    assert first == [system, {"role": "user", "content": "one"}]
    assert second == [*first, {"role": "assistant", "content": WHOLE}, {"role": "user", "content": "two"}]
    assert third == [system, {"role": "user", "content": "/three"}]


class Terminal:
    """A person in front of `troupe ARGUMENTS`."""

    def __init__(self, *arguments):
        pid, self.screen = pty.fork()
        if pid == 0:
            os.execve(TROUPE, [str(TROUPE), *arguments], environment())
        self.pid = pid
        self.seen = ""

    def read_until(self, text):
        """Waits until `text` appears behind what was waited for before."""
        deadline = time.monotonic() + SECONDS
        while text not in self.seen:
            ready, _, _ = select.select([self.screen], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{text!r} does not appear in {self.seen!r}"
            self.seen += os.read(self.screen, 4096).decode(errors="replace")
        before, _, self.seen = self.seen.partition(text)
        return before

    def type(self, keys):
        os.write(self.screen, keys.encode())

    def end(self, key=None):
        """The exit status, once the program has left the terminal. `key` is typed, and again after a second without
        an answer, as a person would: keys that come between two lines of input can be lost."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            try:
                if key:
                    self.type(key)
                if select.select([self.screen], [], [], 1)[0] and not os.read(self.screen, 4096):
                    break
            except OSError:  # the other side is gone
                break
        else:
            os.kill(self.pid, signal.SIGKILL)
        status = os.waitpid(self.pid, 0)[1]
        os.close(self.screen)
        return os.waitstatus_to_exitcode(status)


@pytest.mark.fault("P13")
def test_chat_on_a_terminal(routers, tmp_path):
    def act(router, peer, message, tensors):
        if message.WhichOneof("body") == "generate":
            question = json.loads(message.generate.messages_json)[-1]["content"]
            STORY.tell(router, peer, message.generate, 3 if question == "endless" else None)

    (router,) = routers(act)
    person = Terminal("chat", "--data-dir", str(tmp_path))
    person.read_until(">>> ")
    person.type("hellp\x7fo\u00e9\x02\x04\n")  # backspace; the last letter goes by Ctrl-B, Ctrl-D
    person.read_until(WHOLE)
    person.read_until(">>> ")
    person.type("half a line\x03")  # Ctrl-C throws it away
    person.read_until("^C")
    person.read_until(">>> ")
    person.type("endless\n")
    person.read_until("0 1 2 ")
    person.type("\x03")  # Ctrl-C stops the answer
    person.read_until(">>> ")
    router.wait_for(lambda: len(cancel_requests(router)) == 1)
    person.type("\x1b[A\x1b[A\n")  # the line before the last one, from the history
    person.read_until(WHOLE)
    person.read_until(">>> ")
    assert person.end("\x04") == 0  # Ctrl-D
    said = [json.loads(asked.messages_json)[-1]["content"] for asked in generate_requests(router)]
    assert said == ["hello", "endless", "hello"]
    last = json.loads(generate_requests(router)[-1].messages_json)
    assert [one["role"] for one in last] == ["user", "assistant", "user", "assistant", "user"]
    assert last[3]["content"] == "0 1 2 ", "what was said before Ctrl-C counts"
    history = tmp_path / "chat_history"
    assert history.stat().st_mode & 0o777 == 0o600 and "endless" in history.read_text()

    again = Terminal("chat", "--data-dir", str(tmp_path))
    again.read_until(">>> ")
    again.type("\x1b[A\x1b[A\n")  # the history of the last session
    again.read_until("0 1 2 ")
    again.type("\x03")  # not both at once: the terminal forgets what waits behind Ctrl-C
    again.read_until(">>> ")
    assert again.end("\x04") == 0


def test_help_begins_with_examples():
    for verb in (["generate"], ["chat"], ["bench", "generate"]):
        done = subprocess.run([str(TROUPE), *verb, "--help"], capture_output=True, text=True, timeout=SECONDS)
        assert done.returncode == 0 and done.stdout.index("Examples:") < done.stdout.index("Usage:"), done.stdout
