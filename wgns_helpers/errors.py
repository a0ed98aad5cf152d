"""Failures with their exit codes and hints, and how the programs print them."""

import os
import sys

# sd-daemon(3) priorities
ERROR, WARNING, NOTICE, INFO = 3, 4, 5, 6
_LISTED = 20  # items in one message
_UNSAID: set[int] = set()

HIDDEN = "(not shown: it looks like a key)"
_LOOKS_LIKE_A_KEY = 32  # characters of base64 in a row; a WireGuard key has 43, one that was cut while copying fewer
_BASE64 = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")


class Failure(Exception):  # noqa: N818  (not every one is an error: an interruption)
    """The kernel or the system refused: the reason in one line, and a hint if there is a way out."""

    code = 1

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.hint = hint


class UsageError(Failure):
    """The command line makes no sense."""

    code = 2


class MissingError(Failure):
    """Something needed is missing (EX_UNAVAILABLE of sysexits(3)): a namespace, a link, a library."""

    code = 69


class TryAgainError(Failure):
    """It may work later (EX_TEMPFAIL): a name that does not resolve yet, a lock that another program holds."""

    code = 75


class PermissionRefusedError(Failure):
    """The caller may not do this here (EX_NOPERM), or it would not be safe."""

    code = 77


class ConfigError(Failure):
    """The configuration is wrong (EX_CONFIG)."""

    code = 78


def system_error(what: str, error: OSError, detail: str = "") -> Failure:
    """The exception for a system call that failed: 77 without permission, 1 otherwise.

    `detail` is what the kernel says itself (the extended acknowledgement of netlink(7)).
    """
    reason = os.strerror(error.errno or 0).lower() + (f" ({detail})" if detail else "")
    if isinstance(error, PermissionError):
        lacking = "root lacks a capability (CapabilityBoundingSet=, a container?), or another user owns the file"
        return PermissionRefusedError(f"{what}: {reason}", "run it as root" if os.geteuid() else lacking)
    return Failure(f"{what}: {reason}")


def shown(value: str) -> str:
    """`value` in quotes for a message: at most 60 characters, and never something that may be a key.

    Blanks and what is not printable ASCII do not end a key: it may have been broken while copying.
    """
    visible = "".join(c if c in _BASE64 else " " for c in value if "!" <= c <= "~")
    if any(len(run) >= _LOOKS_LIKE_A_KEY for run in visible.split()):
        return HIDDEN
    return f'"{value[:60]}{"…" if len(value) > 60 else ""}"'


def did_you_mean(name: str, names: list[str]) -> str:
    """How a hint begins if some of the names have nearly the letters of `name`; empty otherwise."""
    near = sorted(each for each in names if len({*each} ^ {*name}) < 3)  # difflib would take 2 ms
    return f"did you mean {' or '.join(near[:3])}? " * bool(near)


def listed(items: list[str]) -> str:
    """The items in one line, the first of them where there are many."""
    more = [f"{len(items) - _LISTED} more"] * (len(items) > _LISTED)
    return "; ".join(items[:_LISTED] + more)


def leave_out_warnings() -> None:
    """From here on `warn` prints nothing: for programs that read a configuration of which wg-up has warned already."""
    _UNSAID.add(WARNING)


def say(text: str, hint: str = "", priority: int = INFO) -> None:
    """One line on standard error, and one for the hint; with priorities where the journal reads (sd-daemon(3))."""
    program = os.path.basename(sys.argv[0])
    said = [text, f"hint: {hint}"] if hint else [text]
    lines = [f"{program}: " + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line) for line in said]
    try:
        stream = os.fstat(2)
        journal = os.environ.get("JOURNAL_STREAM") == f"{stream.st_dev}:{stream.st_ino}"
        prefix = f"<{priority}>" if journal else ""
        os.write(2, "".join(f"{prefix}{line}\n" for line in lines).encode(errors="replace"))
    except OSError:
        pass  # nobody listens; the exit code still tells


def say_absent(text: str) -> None:
    """Report that there is nothing to remove; not after a unit's failure, whose reason is the last line then.

    For $SERVICE_RESULT in ExecStopPost= see systemd.exec(5).
    """
    if os.environ.get("SERVICE_RESULT", "success") == "success":
        say(text)


def warn(text: str, hint: str = "") -> None:
    """A line about something that is left out or dangerous, but does not stop the work."""
    if WARNING not in _UNSAID:
        say(f"warning: {text}", hint, WARNING)
