"""Where connect() looks for the cluster and its keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import troupe
import zmq
from troupe import _context

KEY = "A" * 40
OTHER_KEY = "B" * 40
SECRET = "C" * 40


def write_context(folder: Path, **changes: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "cluster_id": "c-1",
        "client": "ipc:///run/router-0.client.ipc",
        "routers": [
            {"name": "router-0", "client": "ipc:///run/router-0.client.ipc", "http": "http://127.0.0.1:1"},
            {"name": "router-1", "client": "ipc:///run/router-1.client.ipc", "http": "http://127.0.0.1:2"},
        ],
    }
    document.update(changes)
    (folder / "context.json").write_text(json.dumps(document))


def write_key_file(path: Path, text: str, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_argument_goes_before_the_variable_goes_before_the_home(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TROUPE_DATA_DIR", raising=False)
    write_context(tmp_path / "home/.local/state/troupe/default", cluster_id="home")
    assert _context.resolve(None, None, None).cluster_id == "home"
    write_context(tmp_path / "variable", cluster_id="variable")
    monkeypatch.setenv("TROUPE_DATA_DIR", str(tmp_path / "variable"))
    assert _context.resolve(None, None, None).cluster_id == "variable"
    write_context(tmp_path / "argument", cluster_id="argument")
    assert _context.resolve(None, None, tmp_path / "argument").cluster_id == "argument"


def test_all_routers_are_used(tmp_path: Path) -> None:
    write_context(tmp_path)
    target = _context.resolve(None, None, tmp_path)
    assert target.addresses == ["ipc:///run/router-0.client.ipc", "ipc:///run/router-1.client.ipc"]
    assert target.credentials is None


def test_tcp_routers_come_with_their_keys(tmp_path: Path, monkeypatch: Any) -> None:
    routers = [
        {"name": "router-0", "client": "tcp://10.0.0.5:7400"},
        {"name": "router-1", "client": "tcp://10.0.0.6:7400"},
    ]
    server_keys = {"router-0": KEY, "router-1": OTHER_KEY}
    write_context(tmp_path, routers=routers, server_keys=server_keys, client_key="keys/client.key")
    write_key_file(tmp_path / "keys/client.key", f"public {KEY}\nsecret {SECRET}\n")
    both = ["tcp://10.0.0.5:7400", "tcp://10.0.0.6:7400"]
    monkeypatch.setenv("TROUPE_DATA_DIR", str(tmp_path / "none"))
    for target in (
        _context.resolve(None, None, tmp_path),
        _context.resolve(both, None, tmp_path),
        _context.resolve(both, tmp_path / "keys/client.key", None),  # the context lies beside the key
    ):
        assert target.credentials is not None
        assert target.credentials.server_key("tcp://10.0.0.5:7400") == KEY
        assert target.credentials.server_key("tcp://10.0.0.6:7400") == OTHER_KEY
        assert target.cluster_id == "c-1"
        assert SECRET not in repr(target)


def test_no_context_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(troupe.Unavailable, match="troupe up"):
        troupe.connect(data_dir=tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", '"text"'])
def test_a_damaged_context_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "context.json").write_text(text)
    with pytest.raises(troupe.InvalidRequest, match="context.json"):
        troupe.connect(data_dir=tmp_path)


def test_a_context_without_routers_is_unavailable(tmp_path: Path) -> None:
    write_context(tmp_path, routers=[], client="")
    with pytest.raises(troupe.Unavailable, match="names no router"):
        troupe.connect(data_dir=tmp_path)


def test_an_address_must_be_tcp_or_ipc() -> None:
    with pytest.raises(troupe.InvalidRequest, match="tcp://HOST:PORT"):
        troupe.connect("http://127.0.0.1:8080")


def test_key_file(tmp_path: Path) -> None:
    public, secret = (key.decode() for key in zmq.curve_keypair())
    path = write_key_file(tmp_path / "k", f"# mine\n\npublic {public}\nsecret {secret}\nserver {KEY}\n")
    credentials = _context.read_key_file(path)
    assert (credentials.public, credentials.secret, credentials.server) == (public, secret, KEY)
    assert secret not in repr(credentials)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = write_key_file(tmp_path / "k", f"public {KEY}\nsecret {KEY}\n", mode)
    with pytest.raises(troupe.PermissionDenied, match="chmod 600"):
        _context.read_key_file(path)


@pytest.mark.parametrize(
    "text",
    ["", f"public {KEY}\n", f"secret {KEY}\n", f"public {KEY}\nsecret short\n", f"public {KEY}\n{KEY}\n", "\xe9"],
)
def test_what_is_no_key_file_is_refused_without_quoting_it(tmp_path: Path, text: str) -> None:
    path = write_key_file(tmp_path / "k", text)
    with pytest.raises(troupe.InvalidRequest) as caught:
        _context.read_key_file(path)
    assert KEY not in str(caught.value)


def test_a_missing_key_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(troupe.InvalidRequest, match="cannot be read"):
        troupe.connect("tcp://127.0.0.1:1", keys=tmp_path / "none")


def test_tcp_needs_the_servers_key(tmp_path: Path) -> None:
    keys = write_key_file(tmp_path / "k", f"public {KEY}\nsecret {KEY}\n")
    with pytest.raises(troupe.InvalidRequest, match="server KEY"):
        troupe.connect("tcp://127.0.0.1:1", keys=keys)
