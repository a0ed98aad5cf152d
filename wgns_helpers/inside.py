"""Who is inside a tunnel's network namespace, by unit, and whether they still see the tunnel's files in /etc.

A DHCP client that renames a new /etc/resolv.conf into place takes away what was mounted on the former one, in all mount
namespaces: names are then looked up by the host's file.
"""

from __future__ import annotations

import os

from . import netns
from .dns_files import FILES
from .errors import NOTICE, Failure, TryAgainError, say
from .signals import DIRECTORY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_UNITS = (".service", ".scope", ".socket", ".mount", ".swap")  # those that can have processes (systemd.unit(5))
_OURS = "wgns-refresh.service"  # which enters each namespace for a moment
_LINKS = 40  # symlinks on the way to a file, as the kernel has it (path_resolution(7))
_PATIENCE = 20  # seconds for systemctl


def by_unit(processes: Iterable[int]) -> dict[str, dict[int, str]]:
    """The names of processes, by unit and number; without this program and `wgns refresh` of the timer."""
    found: dict[str, dict[int, str]] = {}
    for process in processes:
        unit, name = unit_of(process), netns.comm(process)
        if name and process != os.getpid() and unit != _OURS:
            found.setdefault(unit, {})[process] = name
    return found


def unit_of(process: int) -> str:
    """The unit of a process by its control group, in the unified hierarchy or systemd's own (cgroups(7)); or ""."""
    for line in _read(f"/proc/{process}/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "name=systemd"):
            return next((part for part in reversed(path.split("/")) if part.endswith(_UNITS)), "")
    return ""


def oldest(processes: dict[int, str]) -> int:
    """The process that started first, 0 where systemd still prepares all of them: it names those in parentheses."""
    ready = [process for process, name in processes.items() if not name.startswith("(")]
    return min(ready, key=_started, default=0)


def _started(process: int) -> int:
    fields = _read(f"/proc/{process}/stat").rpartition(")")[2].split()
    return int(fields[19]) if len(fields) > 19 else 1 << 64  # proc_pid_stat(5); it has ended


def replaced(process: int, name: str) -> dict[str, str]:
    """The tunnel's files that a process no longer sees in /etc, with the paths at which it sees others.

    None for a process that was not given them, by the drop-in or `wgns exec`: these show it /run/netns/NAME and hide
    /run/wgns. Nor where that cannot be seen from here.
    """
    root, found = f"/proc/{process}/root", {}
    given = os.path.exists(f"{root}{netns.DIRECTORY}/{name}") and not os.path.exists(f"{root}{DIRECTORY}")
    for file in FILES if given else ():
        ours, path = _stat(f"{DIRECTORY}/{name}/{file}"), _within(root, f"/etc/{file}")
        seen = _stat(root + path)
        needed = seen or file == "resolv.conf"  # a C library without nsswitch.conf asks DNS as well
        if ours and needed and seen != ours:
            found[file] = path
    return found


def _within(root: str, path: str) -> str:
    """What `path` means to a process with this root directory: its absolute symlinks do not lead out of that."""
    there, parts, links = "", path.split("/"), 0
    while parts:
        part = parts.pop(0)
        if part == "..":
            there = there.rpartition("/")[0]
        elif part not in ("", "."):
            try:
                target = os.readlink(f"{root}{there}/{part}") if links < _LINKS else ""
            except OSError:  # no symlink, or nothing at all
                target = ""
            there = "" if target.startswith("/") else there if target else f"{there}/{part}"
            parts, links = target.split("/") + parts, links + bool(target)
    return there


def _stat(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def judged(name: str, found: dict[str, dict[int, str]], main: dict[str, int]) -> dict[str, Any]:
    """Whether each unit is confined, and which of the tunnel's files it no longer sees.

    That goes by its main process, if that is inside, and else by the oldest.
    """
    confined, lost = {}, {}
    for unit, processes in found.items():
        process = main[unit] if main[unit] in processes else oldest(processes)
        confined[unit] = _check(name, process)
        lost[unit] = list(replaced(process, name))
    return {"confined": confined, "replaced": {unit: files for unit, files in lost.items() if files}}


def _check(name: str, process: int) -> str | None:
    """The first point of `wgns check` that fails; None where that cannot be seen."""
    from . import check

    reading, writing = os.pipe()
    if not os.fork():  # it moves into the network namespace and the root directory of that process
        answer = ""
        try:
            failed = [f"{point}: {text}" for point, holds, text in check.points(name, str(process)) if holds is False]
            answer = failed[0] if failed else "confined"
        except Failure:
            pass
        finally:
            os.write(writing, answer.encode(errors="replace"))
            os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as answers:
        return answers.read() or None


def mend(name: str, processes: Iterable[int]) -> list[Failure]:
    """Have each unit among the processes see the tunnel's files in /etc again; those for which that failed."""
    failures: list[Failure] = []
    for unit, found in by_unit(processes).items():
        process = oldest(found)
        for file, path in replaced(process, name).items():
            refused = _bind(unit, f"{DIRECTORY}/{name}/{file}", path)
            if file in replaced(process, name):
                text = f'"{name}": {unit or found[process]} no longer sees the tunnel\'s {file}: {refused}'
                failures.append(TryAgainError(text, again(unit)))
            else:
                say(f'"{name}": {unit} sees the tunnel\'s {file} again', priority=NOTICE)
    return failures


def again(unit: str) -> str:
    """What gives a unit all its mounts again."""
    return f"systemctl restart {quoted(unit)}" if unit.endswith(".service") else "start the command anew"


def quoted(unit: str) -> str:
    """The name of a unit for a shell, which would read a backslash in it."""
    return f"'{unit}'" if "\\" in unit else unit


def _bind(unit: str, source: str, target: str) -> str:
    """Mount `source` on `target` in a running service; what systemd refused."""
    if not unit.endswith(".service"):
        return "only systemd's services can be given a mount"
    import subprocess  # 8 ms that are needed only here

    command = ["systemctl", "bind", "--read-only", "--", unit, source, target]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stderr.strip().partition("\n")[0] or "it is mounted, but not where the service looks"


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:  # the process has ended
        return ""
