"""What the four programs load on their ordinary way: every module costs time at every start."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support import MINIMAL, ROOT, shell

# Modules of the standard library that cost milliseconds at every start; the ordinary way does without them
HEAVY = {"argparse", "asyncio", "collections", "contextlib", "dataclasses", "enum", "functools", "hashlib", "inspect"}
HEAVY |= {
    "ipaddress",
    "json",
    "logging",
    "pathlib",
    "pyroute2",
    "re",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "typing",
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


def check_cycle() -> list[int]:
    """Look at each program of a whole cycle; their exit codes."""
    cycle = [("netns-up", "wg"), ("wg-up", "--config", "-"), ("wg-down",), ("netns-down", "wg")]
    codes = []
    for command in cycle:
        names, code = loaded(*command)
        codes.append(code)
        assert "wgns_helpers.errors" in names
        assert not {name.partition(".")[0] for name in names} & HEAVY, command
    shell("test ! -e /run/netns/wg")
    return codes


def test_little_is_loaded_before_the_kernel_is_asked() -> None:
    """A cycle as far as a kernel without WireGuard lets it come imports nothing heavy, and pyroute2 least of all."""
    assert check_cycle() in ([0, 69, 0, 0], [0, 0, 0, 0])


@pytest.mark.wireguard
def test_the_ordinary_way_loads_little() -> None:
    """Nor does a cycle that succeeds."""
    assert check_cycle() == [0, 0, 0, 0]
