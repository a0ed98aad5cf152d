"""SIGTERM, SIGINT and SIGHUP wait while the kernel is being changed, and are looked for between the steps.

They have no handlers: a Python handler runs between any two instructions, so also between a change and the note that
it was made. What is held back ends the process the usual way when it is released, with the status that the parent
expects.
"""

from __future__ import annotations

from .errors import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
else:
    import _signal  # signal(7) without the enumerations: 3 ms less at every start

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
