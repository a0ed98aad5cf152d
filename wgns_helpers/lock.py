"""One at a time: locks that wait with a bound, and end with the process that has them."""

from __future__ import annotations

import fcntl
import os
import time

from . import signals
from .errors import TryAgainError, say

_PATIENCE = 60.0  # seconds; whoever has the lock needs milliseconds, and more while a name server does not answer


def take(descriptor: int, what: str, patience: float | None = None) -> None:
    """Take the flock(2) of an open file, which the kernel takes back when this process ends, however it ends.

    Says whom it waits for. Raises `TryAgainError` after `patience` seconds (a minute), `InterruptError` on a signal.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        began = time.monotonic()
        bound = _PATIENCE if patience is None else patience

        def look(times: int) -> None:
            waited = time.monotonic() - began
            if waited > bound:
                raise TryAgainError(f"{_holder(descriptor)} has had the lock of {what} for {waited:.0f} s")
            if times == 1:
                say(f"waiting for {_holder(descriptor)}, at most {bound:.0f} s: it has the lock of {what}")

        with signals.Watch(look):
            fcntl.flock(descriptor, fcntl.LOCK_EX)


def _holder(descriptor: int) -> str:
    """Who has the lock of an open file, as far as proc_locks(5) and proc_pid_comm(5) tell."""
    inode = str(os.fstat(descriptor).st_ino)
    try:
        with open("/proc/locks", encoding="ascii") as locks:
            held = [line.split() for line in locks if "->" not in line]
        number = next(f[4] for f in held if f[1] == "FLOCK" and f[5].rpartition(":")[2] == inode)
        with open(f"/proc/{number}/comm", encoding="utf-8", errors="replace") as comm:
            return f"process {number} ({comm.read().strip()})"
    except (OSError, StopIteration):
        return "another program"
