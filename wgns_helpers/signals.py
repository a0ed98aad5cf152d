"""Signals that wait between two steps, and locks that wait with a bound: one program at a time changes a namespace.

SIGTERM, SIGINT and SIGHUP wait while a program changes the kernel, and it checks for them between the steps.

They have no handlers: a Python handler runs between any two instructions, so also between a change and the note that
it was made. What is held back ends the process the usual way when it is released, with the status that the parent
expects.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal without the enumerations: 3 ms less at every start
import fcntl
import os
import time

from .errors import Failure, TryAgainError, say, system_error, warn

DIRECTORY = "/run/wgns"

_PATIENCE = 60.0  # seconds; a holder needs milliseconds, and more while a name server does not answer
_PAUSE = 0.05  # seconds between two tries
_SILENT = 6  # tries that are not worth a message

_SIGNALS = (_signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP)


class InterruptError(Failure):
    """A signal asks the program to end; it undoes first what it changed."""


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


def pause(seconds: float) -> bool:
    """Sleep, with the signals held back; whether one of them came and ended that."""
    return _signal.sigtimedwait(_SIGNALS, seconds) is not None


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
        path = f"{self._folder}/lock"
        while self._descriptor < 0 or not os.fstat(self._descriptor).st_nlink:  # the former holder removes the file
            try:
                make_folder(self._folder)
                self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
                take(self._descriptor, self._what, self._patience)
            except FileNotFoundError:  # the former holder has just removed the folder
                continue
            except OSError as error:
                raise system_error(path, error) from None
            except TryAgainError as error:
                os.close(self._descriptor)
                self._descriptor = -1
                if not self._optional:
                    raise
                warn(f"{error}: going on without it")
                return

    def __exit__(self, *_: object) -> None:
        if self._descriptor < 0:
            return
        try:
            os.unlink(f"{self._folder}/lock")
            os.rmdir(self._folder)
        except OSError:
            pass  # a program that waits for the lock has made it anew, or there is something else in the folder
        os.close(self._descriptor)


def make_folder(path: str) -> None:
    """Make a folder that every user can read, whatever the umask is, unless it exists; its parents too."""
    if not os.path.isdir(path):
        make_folder(os.path.dirname(path))
        os.makedirs(path, exist_ok=True)
        os.chmod(path, 0o755)  # noqa: S103  (services of any user read there)


def take(descriptor: int, what: str, patience: float) -> None:
    """Take the flock(2) of an open file, and report what this process waits for.

    Raises `TryAgainError` after `patience` seconds, a little later on a busy machine; `InterruptError` on a signal.
    """
    for tries in range(int(patience / _PAUSE) + 1):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            check()
        else:
            return
        if tries == _SILENT:
            say(f"waiting at most {patience:.0f} s for another program, which has the lock of {what}")
        time.sleep(_PAUSE)
    raise TryAgainError(f"another program has had the lock of {what} for {patience:.0f} s")
