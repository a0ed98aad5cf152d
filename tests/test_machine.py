"""Tests of the test machine's parts that need no virtual machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import machine

if TYPE_CHECKING:
    from pathlib import Path


def test_requirements_are_read_from_setup_cfg(tmp_path: Path) -> None:
    """The guest gets what setup.cfg requires, with versions, but not the code checkers."""
    config = tmp_path / "setup.cfg"
    config.write_text(
        "[options]\ninstall_requires =\n    pyroute2>=0.7\n    wgconfig\n"
        "[options.extras_require]\ntest =\n    # a comment\n    pytest\n    mypy>=1.8\n    ruff\n"
    )
    assert machine.requirements(config) == ["pyroute2>=0.7", "wgconfig", "pytest"]


def test_changed_ingredient_makes_another_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thing that the image is made from changes the name of its folder, and nothing else does."""
    monkeypatch.setattr(machine, "requirements", lambda: ["pytest"])
    digests = [machine.digest(machine.ingredients())]
    assert machine.digest(machine.ingredients()) == digests[0]
    for name in ("PACKAGES", "SUITE", "CUSTOMIZE", "UNIT", "RUNNER"):
        with monkeypatch.context() as patch:
            patch.setattr(machine, name, getattr(machine, name) + "x")
            digests.append(machine.digest(machine.ingredients()))
    monkeypatch.setattr(machine, "requirements", lambda: ["pytest", "more"])
    digests.append(machine.digest(machine.ingredients()))
    assert len(set(digests)) == len(digests)


def test_missing_programs_are_named_by_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A host without the programs is told in one line which Debian packages to install."""
    monkeypatch.setattr("shutil.which", lambda *_args, **_options: None)
    assert {"mmdebstrap", "qemu-system-x86", "e2fsprogs"} <= set(machine.missing())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("platform.machine", lambda: machine.ARCHITECTURE)
    with pytest.raises(machine.MachineError, match=r"apt-get install mmdebstrap qemu-system-x86 e2fsprogs.*\Z"):
        machine.build()


def test_other_architectures_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On a processor that nobody tried, the error names it instead of a build going wrong."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(machine.MachineError, match="riscv64"):
        machine.build()
