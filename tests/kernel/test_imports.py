"""What the four programs load on their ordinary way: every module costs time at every start."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support import MINIMAL, ROOT, shell

# What the programs may load on their ordinary way besides the bare interpreter: nearly all of it is compiled in or C.
# argparse, collections, enum, pathlib, re, socket, typing … cost milliseconds each, pyroute2 two hundred
LIBRARY = {"__future__", "_ctypes", "_operator", "_queue", "_signal", "_socket", "_struct", "binascii"}
LIBRARY |= {"errno", "fcntl", "gc", "io", "operator", "struct", "types", "wgconfig"}
LIBRARY |= {"ctypes"}  # before Python 3.12, and to mount
EVERY = {"", "cli", "errors", "netlink", "netns", "signals"}
PACKAGE = {
    "netns-up": EVERY | {"dns_files", "naming"},
    "netns-down": EVERY | {"dns_files", "naming"},
    "wgns check": EVERY | {"check", "config", "dns_files", "inbound", "tunnel"},  # the filter only as root
    "wg-down": EVERY | {"dns_files", "inbound", "tunnel", "wg_down"},
    "wg-up": EVERY
    | {"wg_up", "dns_files", "config", "diff", "inbound", "present", "resolve", "wg_down", "tunnel"}
    | {"wireguard"},
}


def loaded(program: str, *arguments: str) -> tuple[set[str], int]:
    """The modules that a program imports, less those of the bare interpreter, and its exit code."""
    argv = [sys.executable, "-X", "importtime", str(ROOT / "bin" / program), *arguments]
    done = subprocess.run(argv, input=MINIMAL, capture_output=True, text=True, check=False)
    bare = subprocess.run([sys.executable, "-X", "importtime", "-c", ""], capture_output=True, text=True, check=False)
    return modules(done.stderr) - modules(bare.stderr), done.returncode


def modules(importtime: str) -> set[str]:
    """The modules in what -X importtime prints."""
    return {line.rpartition("|")[2].strip() for line in importtime.splitlines() if line.startswith("import time:")}


def assert_within_budget(program: str, names: set[str]) -> None:
    """A program may load nothing but what is in its budget."""
    ours = {name.removeprefix("wgns_helpers").lstrip(".") for name in names if name.startswith("wgns_helpers")}
    library = {name.partition(".")[0] for name in names} - {"wgns_helpers"}
    assert "errors" in ours
    assert (ours - PACKAGE[program], library - LIBRARY) == (set(), set()), program


def check_cycle() -> list[int]:
    """Look at each program of a whole cycle; their exit codes."""
    cycle = [("netns-up", "wg"), ("wg-up", "--config", "-"), ("wg-down",), ("netns-down", "wg")]
    codes = []
    for command in cycle:
        names, code = loaded(*command)
        codes.append(code)
        assert_within_budget(command[0], names)
    shell("test ! -e /run/netns/wg")
    return codes


def test_little_is_loaded_before_the_kernel_is_asked() -> None:
    """A cycle as far as a kernel without WireGuard lets it come stays within the budget."""
    assert check_cycle() in ([0, 69, 0, 0], [0, 0, 0, 0])


@pytest.mark.wireguard
def test_the_ordinary_way_loads_little() -> None:
    """Nor does a cycle that succeeds."""
    assert check_cycle() == [0, 0, 0, 0]
