"""One at a time: locks that only root can take, that are waited for with a bound, and that end with their process."""

from __future__ import annotations

import fcntl
import os
import time

from . import signals
from .errors import TryAgainError, say, system_error, warn

DIRECTORY = "/run/wgns"

_PATIENCE = 60.0  # seconds; a holder needs milliseconds, and more while a name server does not answer
_PAUSE = 0.05  # seconds between two looks
_SILENT = 0.3  # seconds of waiting that are not worth a message


class Lock:
    """The lock of a named network namespace.

    It is a flock(2) of a file below /run that only root can open: any local user could hold one of a file that
    everybody can read. The file exists only while a program holds it or waits for it, or after one was killed.
    With `optional`, work that must not be held up goes on without the lock after `patience` seconds.
    """

    def __init__(self, name: str, patience: float | None = None, *, optional: bool = False) -> None:
        self._folder, self._what = f"{DIRECTORY}/{name}", f'namespace "{name}"'
        self._patience, self._optional = _PATIENCE if patience is None else patience, optional
        self._descriptor = -1

    def __enter__(self) -> None:
        """Take it. Raises `TryAgainError` after `patience` seconds, `InterruptError` on a signal."""
        try:
            while self._descriptor < 0 or not os.fstat(self._descriptor).st_nlink:  # the former holder removes the file
                self._descriptor = self._open()
                wait(self._descriptor, self._what, self._patience)
        except TryAgainError as error:
            os.close(self._descriptor)
            self._descriptor = -1
            if not self._optional:
                raise
            warn(f"{error}: going on without it")

    def __exit__(self, *_: object) -> None:
        if self._descriptor < 0:
            return
        try:
            os.unlink(f"{self._folder}/lock")
            os.rmdir(self._folder)
        except OSError:
            pass  # a program that waits for the lock has made it anew, or there is something else in the folder
        os.close(self._descriptor)

    def _open(self) -> int:
        path = f"{self._folder}/lock"
        while True:
            try:
                make_folder(DIRECTORY)
                make_folder(self._folder)
                return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            except FileNotFoundError:  # the former holder has just removed the folder
                continue
            except OSError as error:
                raise system_error(path, error) from None


def make_folder(path: str) -> None:
    """Make a folder that every user can read, whatever the umask is, unless it exists. Raises OSError."""
    if not os.path.isdir(path):
        os.makedirs(path, exist_ok=True)
        os.chmod(path, 0o755)  # noqa: S103  (services of any user read there)


def wait(descriptor: int, what: str, patience: float) -> None:
    """Take the flock(2) of an open file, and report whom this waits for.

    Raises `TryAgainError` after `patience` seconds, `InterruptError` on a signal.
    """
    began, reported = time.monotonic(), False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            signals.check()
        else:
            return
        waited = time.monotonic() - began
        if waited > patience:
            raise TryAgainError(f"{_holder(descriptor)} has had the lock of {what} for {waited:.0f} s")
        if waited > _SILENT and not reported:
            reported = True
            say(f"waiting for {_holder(descriptor)}, at most {patience:.0f} s: it has the lock of {what}")
        time.sleep(_PAUSE)


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
