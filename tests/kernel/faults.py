"""Runs the programs with one fault, before or after one of the system calls by which they change something.

The programs have no hook for it: a child of the test's process gets other functions in the places of those that call
the system. test_faults.py has strace(1) count the calls of the real programs, so that none is forgotten here.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

from tests.support import ROOT
from wgns_helpers import cli, netlink, netns
from wgns_helpers.errors import system_error

CALLS = (
    "chmod",
    "fchmod",
    "ftruncate",
    "link",
    "mkdir",
    "open",
    "rename",
    "rmdir",
    "setns",
    "symlink",
    "unlink",
    "write",
)


class Fault(NamedTuple):
    """What happens, and at which of the system calls; `lasting`: at all that follow too."""

    step: int
    kind: str  # "error", "SIGTERM" or "SIGKILL"
    when: str  # "before" or "after" the call
    lasting: bool = False


class Ended(NamedTuple):
    """How a program ended, what it said, and how many system calls that change something it made."""

    status: int
    said: str
    steps: list[str]


def start(program: str, *arguments: str, said: int | None = None, steps: int = 2, fault: Fault | None = None) -> int:
    """Start a program as a child of this process, where all modules are loaded already; its process number."""
    child = os.fork()
    if not child:
        try:
            os.dup2(os.open(os.devnull, os.O_RDWR) if said is None else said, 2)
            sys.argv = [str(ROOT / "bin" / program), *arguments]
            _replace(fault, steps)
            cli.main(program)
        finally:
            os._exit(99)
    return child


def run(program: str, *arguments: str, fault: Fault | None = None) -> Ended:
    """Run a program as `start` does, to its end."""
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as steps:
        child = start(program, *arguments, said=said.fileno(), steps=steps.fileno(), fault=fault)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        for file in (said, steps):
            file.seek(0)
        return Ended(status, said.read().decode(), steps.read().decode().splitlines())


def _replace(fault: Fault | None, log: int) -> None:
    """Put other functions in the places of those that change something."""
    count = 0
    write = os.write

    def step(name: str, call: Callable[[], Any], fail: Callable[[], Exception]) -> Any:
        nonlocal count
        count += 1
        write(log, f"{name}\n".encode())
        here = fault and (count == fault.step or (fault.lasting and count > fault.step))
        if here and fault and fault.when == "before":
            _strike(fault, fail)
        try:
            return call()
        finally:  # also when it fails, as the lock's rmdir(2) of a folder that is in use
            if here and fault and fault.when == "after":
                _strike(fault, fail)

    for name in CALLS:
        if hasattr(os, name):
            setattr(os, name, _wrapped(step, name, getattr(os, name)))
    netns.call = _wrapped(step, "", netns.call)
    exchange = netlink.Socket.run

    def exchanged(socket: netlink.Socket, batch: list[netlink.Request]) -> list[bytes]:
        reads = batch[0].kind == netlink.RTM_GETLINK or batch[0].flags & netlink.DUMP == netlink.DUMP
        if reads or batch[0].what in ("netlink family wireguard", "filter of inbound packets"):
            return exchange(socket, batch)
        lost = system_error(batch[0].what, OSError(5, ""))
        answers: list[bytes] = step("netlink", lambda: exchange(socket, batch), lambda: lost)
        return answers

    netlink.Socket.run = exchanged  # type: ignore[assignment, method-assign]


def _wrapped(step: Callable[..., Any], name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def called(*arguments: Any, **named: Any) -> Any:
        reads = name == "open" and not arguments[1] & os.O_CREAT
        if reads or (name == "write" and arguments[0] == 2):
            return call(*arguments, **named)
        title = name or arguments[0]
        return step(title, lambda: call(*arguments, **named), lambda: OSError(5, "Input/output error"))

    return called


def _strike(fault: Fault, fail: Callable[[], Exception]) -> None:
    if fault.kind == "error":
        raise fail()
    os.kill(os.getpid(), getattr(signal, fault.kind))
