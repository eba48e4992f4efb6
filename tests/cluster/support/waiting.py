"""Waiting for conditions, never for time: every wait has a deadline and says what it waited for."""
import time

POLL_SECONDS = 0.02


def wait_until(condition, deadline, what):
    """Polls until condition() is truthy and returns its value; AssertionError after `deadline` seconds.

    `what` says in words what was waited for; a callable is asked for them at the end.
    """
    end = time.monotonic() + deadline
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= end:
            raise AssertionError(f"still not after {deadline} s: {what() if callable(what) else what}")
        time.sleep(POLL_SECONDS)
