"""A cluster of real processes, driven through build/bin/troupe as a person would."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import urllib.error
import urllib.request

import troupe as client_package

from support.waiting import wait_until

ROOT = pathlib.Path(__file__).resolve().parents[3]
BUILD = pathlib.Path(os.environ.get("TROUPE_TEST_BUILD", ROOT / "build"))
TROUPE = BUILD / "bin" / "troupe"
COMMAND_SECONDS = 150


def run_troupe(*arguments, timeout=COMMAND_SECONDS, environment=None, program=TROUPE):
    """Runs the program without a terminal; returns the finished process (returncode, stdout, stderr)."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith("TROUPE_")}
    return subprocess.run([str(program), *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=timeout, env={**variables, **(environment or {})})


class LocalCluster:
    """Started by start() or as a context manager; its folder is removed unless the test failed to stop it."""

    def __init__(self, model, data_dir=None, program=TROUPE, **options):
        """`options` become flags of troupe up: expert_nodes=3 -> --expert-nodes 3, pin_streams=True -> --pin-streams. The
        programs beside `program` are used."""
        self.program = program
        self.model = pathlib.Path(model)
        self.owns_folder = data_dir is None
        self.data_dir = pathlib.Path(data_dir or tempfile.mkdtemp(prefix="troupe-"))
        self.options = [word for name, value in options.items()
                        for word in ("--" + name.replace("_", "-"), *([] if value is True else [str(value)]))]
        self.ready = {}

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def up(self, *extra):
        return run_troupe("up", "--model", self.model, "--data-dir", self.data_dir, *self.options, "--detach", "-o", "json",
                          *extra, program=self.program)

    def start(self, *extra):
        done = self.up(*extra)
        assert done.returncode == 0, f"troupe up failed ({done.returncode}): {done.stderr}\n{self.logs()}"
        self.ready = json.loads(done.stdout)

    def stop(self):
        done = self.run("down")
        assert done.returncode == 0, done.stderr
        if self.owns_folder:
            shutil.rmtree(self.data_dir)

    def run(self, *arguments, **keywords):
        return run_troupe(*arguments, "--data-dir", self.data_dir, **keywords)

    def json(self, *arguments):
        done = self.run(*arguments, "-o", "json")
        assert done.returncode == 0, f"troupe {arguments}: {done.returncode}: {done.stderr}"
        return json.loads(done.stdout)

    # -- what it says about itself --------------------------------------------------------------------------------

    def context(self):
        return json.loads((self.data_dir / "context.json").read_text())

    def status(self):
        return self.json("status")

    def nodes(self):
        return {node["name"]: node for node in self.json("node", "list")["items"]}

    def experts(self):
        return self.json("expert", "list")["items"]

    def expert(self, name):
        """One item of experts(); `name`: "3/17"."""
        layer, index = map(int, name.split("/"))
        return next(e for e in self.experts() if (e["layer"], e["expert"]) == (layer, index))

    def logs(self):
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}"
                         for path in sorted((self.data_dir / "log").glob("*.log")))

    # -- its processes --------------------------------------------------------------------------------------------

    def pid(self, name):
        return next(p["pid"] for p in self.context()["processes"] if p["name"] == name)

    def signal(self, name, number):
        os.kill(self.pid(name), number)

    def wake(self, name, deadline, story=lambda: ""):
        """Ends a freeze; returns when the node serves again. False: libzmq aborted it, and it was started anew.

        libzmq 4.3.4 (its issue 4841): input that ends and output that becomes possible in one look at a socket abort the
        process. Nothing in Troupe can keep that from happening; who watches processes starts it again.
        """
        pid = self.pid(name)
        self.signal(name, signal.SIGCONT)
        wait_until(lambda: not is_alive(pid) or self.nodes()[name]["state"] == "serving", deadline,
                   lambda: f"{name} is back; {story()}")
        if is_alive(pid):
            return True
        assert "Assertion failed: !_io_error" in self.logs(), f"{name} died; {story()}"
        self.start_missing()
        return False

    def kill(self, name):
        """kill -9, and waits until the process is gone."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(pid), 10, f"{name} is gone")

    def start_missing(self):
        """troupe up again: starts what does not run. One that died often is left out for a minute (faults.md P8)."""
        self.start("--timeout", "120s")

    # -- talking to it --------------------------------------------------------------------------------------------

    @property
    def http(self):
        return self.context()["http"]

    def metric(self, name, label=""):
        """The first router's value: the sum over all labels, or over those with `label` (node="expert-1") among them."""
        text = http_request(self.http + "/metrics")[2].decode()
        values = [float(line.rsplit(" ", 1)[1]) for line in text.splitlines()
                  if line.startswith((name + " ", name + "{")) and label in line]
        assert values, f"no metric {name} {label}"
        return sum(values)

    def connect(self):
        return client_package.connect(data_dir=self.data_dir)

    def wait_for_status(self, condition, deadline, what):
        last = {}

        def check():
            last.clear()
            last.update(self.status())
            return condition(last)

        wait_until(check, deadline, lambda: f"{what}; status is {last}\n{self.logs()}")
        return last

    def wait_complete(self, replicas, deadline=60):
        """Every expert has this many replicas, all of them on nodes that serve."""
        def check():
            serving = {name for name, node in self.nodes().items() if node["state"] == "serving"}
            return all(len({r["node"] for r in e["replicas"]} & serving) >= replicas for e in self.experts())

        wait_until(check, deadline, lambda: f"{replicas} replicas of every expert\n{self.logs()}")


def is_alive(pid):
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def resident_bytes(pid):
    """What `top` shows as RES."""
    pages = int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def open_descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def http_request(url, body=None, headers=None, timeout=60):
    """-> (status, headers, body); an HTTP error status is an answer, not an exception."""
    request = urllib.request.Request(url, data=body, headers=headers or {}, method="POST" if body is not None else "GET")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=timeout) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()
