"""Client of a Troupe cluster.

    import troupe

    with troupe.connect() as cluster:
        for token in cluster.generate("def add(a, b):", max_new_tokens=64):
            print(token.text, end="", flush=True)
        result = cluster.layer(3, hidden)        # hidden [T, H] -> result.output [T, H]

``troupe.aio`` is the asyncio twin, ``troupe.hf`` puts a Hugging Face model's experts into the cluster.
"""

from __future__ import annotations

from typing import Any

from troupe._requests import DROPPED, EXACT, RENORMALISED, SUBSTITUTED, LayerResult
from troupe._streams import Token, TopLogprob, Usage
from troupe._version import __version__
from troupe.client import Cluster, TokenStream, connect
from troupe.errors import (
    Error,
    InvalidRequest,
    NotFound,
    Overloaded,
    PermissionDenied,
    Timeout,
    Unavailable,
)

__all__ = [
    "DROPPED",
    "EXACT",
    "RENORMALISED",
    "SUBSTITUTED",
    "Cluster",
    "Error",
    "InvalidRequest",
    "LayerResult",
    "NotFound",
    "Overloaded",
    "PermissionDenied",
    "Timeout",
    "Token",
    "TokenStream",
    "TopLogprob",
    "Unavailable",
    "Usage",
    "__version__",
    "aio",
    "connect",
    "hf",
]


def __getattr__(name: str) -> Any:
    # `troupe.aio` and `troupe.hf` work after a plain `import troupe`, and cost nothing until then.
    if name in ("aio", "hf"):
        import importlib

        return importlib.import_module(f"troupe.{name}")
    raise AttributeError(f"module 'troupe' has no attribute {name!r}")
