"""Signals that wait between two steps, and locks that wait with a bound: one program at a time changes a namespace.

SIGTERM, SIGINT and SIGHUP wait while the kernel is being changed, and are looked for between the steps.

They have no handlers: a Python handler runs between any two instructions, so also between a change and the note that
it was made. What is held back ends the process the usual way when it is released, with the status that the parent
expects.
"""

from __future__ import annotations

import fcntl
import os
import time

from .errors import Failure, TryAgainError, say, system_error, warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
else:
    import _signal  # signal(7) without the enumerations: 3 ms less at every start

DIRECTORY = "/run/wgns"

_PATIENCE = 60.0  # seconds; a holder needs milliseconds, and more while a name server does not answer
_PAUSE = 0.05  # seconds between two looks
_SILENT = 0.3  # seconds of waiting that are not worth a message

_SIGNALS = (_signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP)


class InterruptError(Failure):
    """Somebody wants the program to end; what it changed has to be undone first."""


def default() -> None:
    """Let the signals end the process at once, Ctrl-C too: nothing has been changed yet."""
    if _signal.getsignal(_signal.SIGINT) is not _signal.SIG_IGN:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)


def hold() -> None:
    """From here on the signals wait for `check` or `release`. Those that the caller ignores (nohup(1)) stay ignored."""
    wanted = {number for number in _SIGNALS if _signal.getsignal(number) is not _signal.SIG_IGN}
    _signal.pthread_sigmask(_signal.SIG_BLOCK, wanted)


def check() -> None:
    """Raise `InterruptError` if one of the signals is waiting."""
    if _signal.sigpending() & set(_SIGNALS):
        raise InterruptError("interrupted: what was done is undone")


def release() -> None:
    """Let the signals through; one that was waiting ends the process here."""
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, _SIGNALS)


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
                take(self._descriptor, self._what, self._patience)
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


def take(descriptor: int, what: str, patience: float) -> None:
    """Take the flock(2) of an open file, and report whom this waits for.

    Raises `TryAgainError` after `patience` seconds, `InterruptError` on a signal.
    """
    began, reported = time.monotonic(), False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            check()
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
