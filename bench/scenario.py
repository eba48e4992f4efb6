"""What the measurements on the demo model share: real text of its three domains, streams of it, held-out loss through a
cluster, what a cluster says of itself over time, and how that is drawn (bench/pruning, bench/domain_shift). bench/llama_cpp and
bench/hivemind use its clusters and how it measures memory.
"""
import http.client
import json
import os
import re
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
DEMO_MODEL = ROOT / "examples" / "demo_model"
sys.path.insert(0, str(ROOT / "tests" / "cluster"))
from support.cluster import LocalCluster, http_request  # noqa: E402,F401  (after the path is set)
from support.load import Clients  # noqa: E402

DOMAINS = ("prose", "code", "sums")
COLORS = {"prose": "#c2410c", "code": "#1d4ed8", "sums": "#047857"}
REQUEST_SECONDS = 120
PROMPTS_PER_REQUEST = 8


class Texts:
    """Token ids of real text by domain and part ("train", "held_out"), as examples/demo_model/train_data.py makes them."""

    def __init__(self, work):
        """`work`: a folder with its files; made when they are missing (needs Debian's package archive)."""
        if not all((work / f"held_out_{domain}.npy").exists() for domain in DOMAINS):
            subprocess.run([sys.executable, DEMO_MODEL / "train_data.py", "--work", work], check=True)
        if (work / "tokenizer.json").read_bytes() != (DEMO_MODEL / "tokenizer.json").read_bytes():
            raise SystemExit(f"error: {work} was made with another tokenizer than the model's; give an empty --work folder")
        self.streams = {(part, domain): np.load(work / f"{part}_{domain}.npy", mmap_mode="r")
                        for part in ("train", "held_out") for domain in DOMAINS}

    def held_out(self, domain, count, length):
        """[count][length] token ids, spread evenly over what training never saw."""
        stream = self.streams["held_out", domain]
        starts = np.linspace(0, len(stream) - length, count).astype(int)
        return [stream[at:at + length].astype(int).tolist() for at in starts]

    def somewhere(self, domain, length, random):
        """[length] token ids of the training part."""
        stream = self.streams["train", domain]
        at = int(random.integers(len(stream) - length))
        return stream[at:at + length].astype(int).tolist()


class Streams(Clients):
    """As a context manager: `count` clients that each ask for one text after the other. Prompts are real text of
    `domains` (in turns; may be changed any time), and each text is then streamed for `answer` tokens.

    Read from any thread: tokens, failures, approximate. take_gaps() takes and empties.
    """

    def __init__(self, cluster, texts, domains, count=4, prompt=96, answer=24, seed=1):
        super().__init__(count, None)
        self.address, self.texts, self.domains = urllib.parse.urlsplit(cluster.http), texts, tuple(domains)
        self.prompt, self.answer, self.seed = prompt, answer, seed
        self.tokens = self.approximate = 0
        self.failures, self._gaps = [], []

    def take_gaps(self):
        """[(time, seconds)] between two tokens of one text since the last call; time as time.monotonic()."""
        with self._lock:
            gaps, self._gaps = self._gaps, []
        return gaps

    def _run(self, number):
        random = np.random.default_rng([self.seed, number])
        turn = number
        while not self._stop.is_set():
            domain = self.domains[turn % len(self.domains)]
            turn += 1
            try:
                self._stream(self.texts.somewhere(domain, self.prompt, random), int(random.integers(2**31)))
            except (OSError, http.client.HTTPException, RuntimeError) as problem:
                with self._lock:
                    self.failures.append(f"{type(problem).__name__}: {problem}")

    def _stream(self, prompt, seed):
        body = {"prompt": prompt, "max_tokens": self.answer, "temperature": 0.8, "seed": seed, "ignore_eos": True, "stream": True,
                "timeout_ms": REQUEST_SECONDS * 1000}
        connection = http.client.HTTPConnection(self.address.hostname, self.address.port, timeout=REQUEST_SECONDS)
        try:
            connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            if answer.status != 200:
                raise RuntimeError(f"{answer.status}: {answer.read()[:300]}")
            self._read(answer)
        finally:
            connection.close()

    def _read(self, answer):
        last = None
        for line in answer:
            if not line.startswith(b"data: "):
                continue
            if line.strip() == b"data: [DONE]":
                return
            event, now = json.loads(line[len(b"data: "):]), time.monotonic()
            if "error" in event:
                raise RuntimeError(event["error"])
            with self._lock:
                self.tokens += 1
                self.approximate += "troupe" in event["choices"][0] or "troupe" in event
                if last is not None:
                    self._gaps.append((now, now - last))
            last = now
        raise RuntimeError("the stream ended without [DONE]")


def log_probabilities(cluster, windows):
    """[[logprob of each token but the first]] of texts given as token ids, by the cluster."""
    result = []
    for at in range(0, len(windows), PROMPTS_PER_REQUEST):
        body = {"prompt": windows[at:at + PROMPTS_PER_REQUEST], "max_tokens": 0, "echo": True, "logprobs": 0,
                "timeout_ms": REQUEST_SECONDS * 1000}
        status, _, answer = http_request(cluster.http + "/v1/completions", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"}, timeout=REQUEST_SECONDS + 10)
        if status != 200:
            raise SystemExit(f"error: held-out text was answered {status}: {answer[:300]}")
        choices = sorted(json.loads(answer)["choices"], key=lambda choice: choice["index"])
        result += [choice["logprobs"]["token_logprobs"][1:] for choice in choices]
    return result


def loss(cluster, windows):
    """Mean cross-entropy of texts, nats per token."""
    return float(-np.mean(log_probabilities(cluster, windows)))


def metrics(url, *names):
    """{name: {(value of each label, in order): number}} of a process's /metrics."""
    found = {name: {} for name in names}
    for line in http_request(url + "/metrics")[2].decode().splitlines():
        match = re.match(r"(\w+)(?:\{(.*)\})? (\S+)$", line)
        if match and match[1] in found:
            found[match[1]][tuple(re.findall(r'="([^"]*)"', match[2] or ""))] = float(match[3])
    return found


def by_layer_and_expert(values, layers, experts):
    """[layers, experts] of metric values labelled (layer, expert)."""
    table = np.zeros((layers, experts))
    for (layer, expert), value in values.items():
        table[int(layer), int(expert)] = value
    return table


def numbers(text):
    """Of an option with commas: "1,8,32" -> [1, 8, 32]."""
    return [int(number) for number in text.split(",")]


def proportional_bytes(pid):
    """Memory of a process, of what it shares with others its part. 0: it is gone."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return 1024 * next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))


def resident_bytes(cluster):
    """Proportional set size of the expert nodes' processes."""
    return sum(proportional_bytes(process["pid"]) for process in cluster.context()["processes"] if process["role"] == "expert")


class Recorder(Clients):
    """As a context manager: looks at the cluster every `interval` seconds. `samples`: dicts of what look() returns, each
    with `t`, seconds since the beginning; `marks`: [(t, words)] of what the measurement did."""

    def __init__(self, look, interval=2.0):
        super().__init__(1, None)
        self.look, self.interval, self.samples, self.marks = look, interval, [], []
        self._begin, self._failure = time.monotonic(), None

    def __exit__(self, kind, *_):
        super().__exit__()
        if self._failure and kind is None:
            raise self._failure

    def now(self):
        return time.monotonic() - self._begin

    def mark(self, words):
        self.marks.append((self.now(), words))

    def _run(self, _):
        while True:
            t = self.now()
            try:
                self.samples.append({"t": t, **self.look()})
            except Exception as failure:  # of any kind: the measurement has a hole
                self._failure = failure
                return
            if self._stop.wait(max(0.0, self.interval - (self.now() - t))):
                return


def pyplot():
    """matplotlib's, set so that equal figures give equal files."""
    import matplotlib
    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "troupe", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot as plot
    return plot


def draw(path, title, panels, marks, time_label="seconds"):
    """Panels [(label, {name: (times, values[, color])})] above each other over one axis of time, into an SVG file."""
    plot = pyplot()
    figure, axes = plot.subplots(len(panels), 1, figsize=(9, 2.1 * len(panels) + 0.5), layout="constrained", sharex=True)
    for axis, (label, lines) in zip(axes, panels):
        for name, (times, values, *color) in lines.items():
            axis.plot(times, values, label=name, color=color[0] if color else None, linewidth=1.3)
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        axis.set_ylim(bottom=min(0, axis.get_ylim()[0]) if "loss" not in label else None)
        if len(lines) > 1:
            axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        for at, _ in marks:
            axis.axvline(at, color="#475569", linewidth=0.8, linestyle=":")
    for at, words in marks:
        axes[0].text(at, 1.02, " " + words, transform=axes[0].get_xaxis_transform(), fontsize=8, color="#475569")
    axes[-1].set_xlabel(time_label)
    figure.suptitle(title, fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plot.close(figure)


def machine():
    """What figures of this run must be read with: time, cores and what else the machine does."""
    return f"{time.strftime('%Y-%m-%d %H:%M')}, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}"
