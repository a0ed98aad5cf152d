"""Fixtures for tests that take a booted system over: only in the test machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system import guest

TABLES = {
    "leaks": (("", "rounds", "tunnel's packets", "leaks", "answers by the host"), "{:<60} {:>6} {:>16} {:>6} {:>19}"),
    "confined": (
        ("unit", "before", "one command", "works", "names", "in status", "moved", "released", "needed besides"),
        "{:<22} {:<6} {:<11} {:<5} {:<5} {:<9} {:<5} {:<8} {}",
    ),
    "nixos": (("on NixOS", "evaluates", "boots", "check", "names"), "{:<22} {:<9} {:<5} {:<5} {}"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip them elsewhere, with the way to run them."""
    if not (Path("/usr/local/sbin/machine").exists() and os.uname().nodename == "machine"):
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="takes the system over: tests/booted (make test does)"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what test_leaks.py, test_confine.py and test_nixos.py have found."""
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.getreports(outcome)]
    for table, (head, layout) in TABLES.items():
        rows = [value for report in reports for name, value in report.user_properties if name == table]
        for row in [head, *rows] if rows else []:
            terminalreporter.write_line(layout.format(*row))


@pytest.fixture
def since() -> Iterator[str]:
    """Where the journal is at the beginning. In the end all is taken away again, and nothing may be left."""
    cursor = guest.cursor()
    yield cursor
    print(guest.journal(cursor))  # pytest shows it after a failure
    guest.clean()
    assert guest.leftovers() == []
