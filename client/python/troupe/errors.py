"""Errors of the client. Every failure of a call is a subclass of :class:`Error`.

A message says what happened, to which object, and after a semicolon what to do next.
"""

from __future__ import annotations

from typing import Dict, Optional, Type

from troupe._proto import common_pb2

_RETRYABLE = frozenset({"unavailable", "timeout", "overloaded", "stale_epoch", "in_progress", "handshake_required"})


class Error(Exception):
    """A call failed.

    ``code`` names the cause (the list is in ``docs/client-python.md``), ``retryable`` says whether the same call may
    succeed later without being changed, ``retry_after`` is the cluster's hint in seconds, or None.
    """

    default_code = "internal"

    def __init__(self, message: str, code: Optional[str] = None, retry_after: Optional[float] = None) -> None:
        super().__init__(message)
        self.code: str = code if code is not None else self.default_code
        self.retry_after: Optional[float] = retry_after

    @property
    def retryable(self) -> bool:
        return self.code in _RETRYABLE


class InvalidRequest(Error):
    """Malformed or contradictory input; the same call can never succeed."""

    default_code = "invalid_request"


class NotFound(Error):
    """No such layer or expert."""

    default_code = "not_found"


class Unavailable(Error):
    """No replica, no router or no coordinator at the moment."""

    default_code = "unavailable"


class Timeout(Error):
    """The deadline passed before the answer was complete."""

    default_code = "timeout"


class Overloaded(Error):
    """A bound on rows, bytes or connections is reached; try again later."""

    default_code = "overloaded"


class PermissionDenied(Error):
    """The cluster does not accept this key, or its role does not allow the call."""

    default_code = "permission_denied"


_CLASSES: Dict[str, Type[Error]] = {
    "invalid_request": InvalidRequest,
    "too_large": InvalidRequest,
    "not_found": NotFound,
    "unknown_expert": NotFound,
    "unavailable": Unavailable,
    "stale_epoch": Unavailable,
    "in_progress": Unavailable,
    "handshake_required": Unavailable,
    "timeout": Timeout,
    "overloaded": Overloaded,
    "permission_denied": PermissionDenied,
}


def make_error(code: str, message: str, retry_after: Optional[float] = None) -> Error:
    """The error of the class that belongs to ``code``."""
    return _CLASSES.get(code, Error)(message, code=code, retry_after=retry_after)


def code_name(number: int) -> str:
    """The name of a wire error code; one that this client does not know counts as ``internal``."""
    if number in (0, common_pb2.INTERNAL) or number not in common_pb2.ErrorCode.values():
        return "internal"
    return str(common_pb2.ErrorCode.Name(number)).lower()


def from_wire(error: common_pb2.Error) -> Error:
    """The error that a Failure carries."""
    retry_after = error.retry_after_ms / 1000.0 if error.retry_after_ms else None
    message = error.message or "the router gave no reason; look at its log"
    return make_error(code_name(error.code), message, retry_after)
