"""Where the cluster is and which keys open it: the context that ``troupe up`` writes, or a key file.

DATA/context.json (fields that are read here)::

    {"cluster_id": "...", "client": "ipc:///...", "routers": [{"name": "router-0", "client": "ipc:///..."}],
     "client_key": "keys/client.key", "server_keys": {"router-0": "<Z85 public key>"}}

A key file has lines ``public Z85``, ``secret Z85`` and, for connections over TCP, ``server Z85`` (the routers' public
key); empty lines and lines that begin with ``#`` do not count.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Union

from troupe.errors import InvalidRequest, PermissionDenied, Unavailable

PathLike = Union[str, "os.PathLike[str]"]

_Z85_KEY_LENGTH = 40


@dataclass(frozen=True)
class Credentials:
    """CURVE keys as Z85 text. ``servers`` maps router addresses to public keys; ``server`` is for all others."""

    public: str
    secret: str = field(repr=False)
    server: Optional[str] = None
    servers: Mapping[str, str] = field(default_factory=dict)

    def server_key(self, address: str) -> Optional[str]:
        return self.servers.get(address, self.server)


@dataclass(frozen=True)
class Target:
    """Routers to try, in this order, and what is needed to talk to them."""

    addresses: List[str]
    cluster_id: str = ""
    credentials: Optional[Credentials] = None


def resolve(address: Union[str, Sequence[str], None], keys: Optional[PathLike], data_dir: Optional[PathLike]) -> Target:
    """What connect() was asked for.

    Raises InvalidRequest, PermissionDenied (a key that others can read) or Unavailable.
    """
    if address is None:
        return _from_context(_context_dir(data_dir), keys)
    addresses = [address] if isinstance(address, str) else list(address)
    for one in addresses:
        if not one.startswith(("tcp://", "ipc://")):
            raise InvalidRequest(f"router address is {one!r}; use tcp://HOST:PORT or ipc://PATH")
    if keys is not None:
        target = _with_key_file(addresses, Path(keys), data_dir)
    elif all(one.startswith("ipc://") for one in addresses):
        return Target(addresses)
    else:
        target = _known_to_context(addresses, data_dir)
    _require_server_keys(target)
    return target


def read_key_file(path: Path) -> Credentials:
    """Raises PermissionDenied when others can read the file, InvalidRequest when it is no key file."""
    try:
        with open(path, encoding="ascii") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(4096)
    except OSError as cause:
        raise InvalidRequest(
            f"key file {path} cannot be read ({cause.strerror}); 'troupe keys gen' makes one"
        ) from cause
    except UnicodeDecodeError as cause:
        raise InvalidRequest(f"{path} is no key file; 'troupe keys gen' makes one") from cause
    if stat.S_IMODE(mode) & 0o077:
        raise PermissionDenied(f"key file {path} can be read by others; run: chmod 600 {path}")
    found = _key_lines(path, text)
    if "public" not in found or "secret" not in found:
        raise InvalidRequest(f"key file {path} has no 'public' and 'secret' lines; 'troupe keys gen' makes one")
    return Credentials(found["public"], found["secret"], found.get("server"))


def _key_lines(path: Path, text: str) -> Dict[str, str]:
    found: Dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or len(words[1]) != _Z85_KEY_LENGTH:
            # The line itself may be the secret: never quote it.
            raise InvalidRequest(f"key file {path}, line {number}: expected a name and a Z85 key of 40 characters")
        found[words[0]] = words[1]
    return found


def _context_dir(data_dir: Optional[PathLike]) -> Path:
    """The argument, else TROUPE_DATA_DIR, else ~/.local/state/troupe/default."""
    chosen = data_dir or os.environ.get("TROUPE_DATA_DIR")
    return Path(chosen) if chosen else Path.home() / ".local" / "state" / "troupe" / "default"


def _read_context(folder: Path) -> Dict[str, Any]:
    path = folder / "context.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as cause:
        raise Unavailable(f"no cluster is known in {folder}; start one with 'troupe up', or pass data_dir") from cause
    except OSError as cause:
        raise Unavailable(f"{path} cannot be read ({cause.strerror}); is it another user's cluster?") from cause
    except ValueError as cause:
        raise InvalidRequest(f"{path} is no JSON ({cause}); start the cluster anew with 'troupe up'") from cause
    if not isinstance(document, dict):
        raise InvalidRequest(f"{path} is no JSON object; start the cluster anew with 'troupe up'")
    return document


def _from_context(folder: Path, keys: Optional[PathLike]) -> Target:
    context = _read_context(folder)
    routers = [router for router in context.get("routers", []) if router.get("client")]
    addresses = [str(router["client"]) for router in routers]
    if not addresses and context.get("client"):
        addresses = [str(context["client"])]
    if not addresses:
        raise Unavailable(f"{folder / 'context.json'} names no router; 'troupe status' tells what runs")
    credentials = None
    if any(one.startswith("tcp://") for one in addresses):
        path = Path(keys) if keys is not None else folder / str(context.get("client_key", "keys/client.key"))
        own = read_key_file(path)
        credentials = Credentials(own.public, own.secret, own.server, _server_keys(context))
    target = Target(addresses, str(context.get("cluster_id", "")), credentials)
    _require_server_keys(target)
    return target


def _server_keys(context: Dict[str, Any]) -> Dict[str, str]:
    """Router address -> public key."""
    keys = context.get("server_keys", {})
    return {str(one["client"]): str(keys[one["name"]]) for one in context.get("routers", []) if one.get("name") in keys}


def _with_key_file(addresses: List[str], path: Path, data_dir: Optional[PathLike]) -> Target:
    """Our keys from a file; the routers' public keys from its ``server`` line, or from the context it lies beside.

    ``troupe up`` puts keys into DATA/keys.
    """
    own = read_key_file(path)
    folder = _context_dir(data_dir) if data_dir is not None else path.absolute().parent.parent
    try:
        context = _read_context(folder)
    except (Unavailable, InvalidRequest):
        return Target(addresses, credentials=own)
    servers = _server_keys(context)
    cluster_id = str(context.get("cluster_id", "")) if set(addresses) <= set(servers) else ""
    return Target(addresses, cluster_id, Credentials(own.public, own.secret, own.server, servers))


def _known_to_context(addresses: List[str], data_dir: Optional[PathLike]) -> Target:
    """TCP without ``keys``: the context's keys, when the addresses are those of the context's cluster."""
    try:
        known = _from_context(_context_dir(data_dir), None)
    except Unavailable:
        known = Target([])
    if not set(addresses) <= set(known.addresses):
        raise InvalidRequest(f"{addresses[0]} needs keys; pass keys='FILE', or data_dir of the cluster it belongs to")
    return Target(addresses, known.cluster_id, known.credentials)


def _require_server_keys(target: Target) -> None:
    for address in target.addresses:
        if address.startswith("tcp://") and (target.credentials is None or not target.credentials.server_key(address)):
            raise InvalidRequest(
                f"the public key of the router at {address} is not known; add a line 'server KEY' to the key file"
            )
