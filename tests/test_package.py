"""The package as a whole: who imports whom, what the programs load, and what a user gets who installs it."""

from __future__ import annotations

import ast
import io
import os
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

from tests.support import MINIMAL, PROGRAMS, ROOT, run
from wgns_helpers import __version__

MODULES = sorted((ROOT / "wgns_helpers").glob("*.py"))

# What each module may import of ours; nobody imports cli
MAY_IMPORT = {
    "__init__": "",
    "errors": "",
    "signals": "errors",
    "tunnel": "errors netlink",
    "config": "errors netlink tunnel",
    "resolve": "errors netlink signals tunnel",
    "netns": "errors netlink",
    "netlink": "errors",
    "wireguard": "errors netlink netns tunnel",
    "present": "errors inbound netlink tunnel wireguard",
    "inbound": "errors netlink netns tunnel",
    "diff": "inbound netlink tunnel wireguard",
    "naming": "dns_files errors netlink netns signals",
    "dns_files": "errors signals tunnel",
    "wg_down": "dns_files errors inbound netlink netns signals",
    "wg_up": "dns_files diff errors inbound netlink netns present resolve signals wg_down tunnel wireguard",
    "check": "config dns_files errors inbound netlink netns",
    "report": "status",
    "status": "check config dns_files doors errors inbound netlink netns present resolve signals tunnel wg_up "
    "wireguard",
    "refresh": "config dns_files errors netlink netns resolve signals status tunnel wireguard",
    "forward": "dns_files errors inbound netlink netns signals tunnel",
    "units": "errors",
    "confine": "check config errors netns signals units",
    "doors": "confine errors netns signals tunnel units",
    "exec": "check confine errors netns",
    "cli": "__init__ check config confine doors errors exec forward naming netns refresh report resolve signals status "
    "units wg_down wg_up",
}


def own_imports(path: Path) -> set[str]:
    """The modules of ours that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            found |= {node.module} if node.module else {alias.name for alias in node.names}
    return {"__init__" if name.startswith("__") else name for name in found}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_imports_go_one_way(path: Path) -> None:
    """A module imports only what the layout allows it."""
    assert own_imports(path) <= set(MAY_IMPORT[path.stem].split())


def test_wgconfig_and_pyroute2_have_their_place() -> None:
    """Wgconfig is imported in config.py only, pyroute2 in present.py only, and there not on the ordinary way."""
    for library, module in (("wgconfig", "config"), ("pyroute2", "present")):
        imports = {
            path.stem: re.findall(rf"^ *(?:from|import) {library}\b", path.read_text(), re.MULTILINE)
            for path in MODULES
        }
        assert {name for name, found in imports.items() if found} == {module}
        assert all(found.startswith("        ") for found in imports[module])  # inside a function


# The modules underneath public ones that import many others, each where it is explained why
PRIVATE = {"netlink": {"_socket"}, "signals": {"_signal"}}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_the_standard_library_is_used_by_its_front_door(path: Path) -> None:
    """Only where it saves milliseconds at every start a module imports a private one."""
    found = re.findall(r"^ *(?:from|import) (_[a-z]\w*)", path.read_text(), re.MULTILINE)
    assert set(found) <= PRIVATE.get(path.stem, set())


def test_the_package_stays_small() -> None:
    """People read it in one sitting."""
    lines = {path.name: path.read_text().count("\n") for path in MODULES}
    programs = {path.resolve() for path in (ROOT / "bin").iterdir()}
    assert sum(map(code_lines, [*MODULES, *programs])) < 3400
    assert max(lines.values()) <= 400


def code_lines(path: Path) -> int:
    """The lines that do something: no blank ones, comments and docstrings."""
    text = path.read_text()
    meaningless = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    tokens = [t for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type not in meaningless]
    lines = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and ast.get_docstring(node):
            lines -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return len(lines)


def test_each_promise_has_its_test() -> None:
    """THREATS.md names tests that exist."""
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (ROOT / "THREATS.md").read_text())
    assert len(named) > 10
    for path, function in named:
        assert f"def {function}" in (ROOT / path).read_text(), (path, function)


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_and_version(program: str) -> None:
    """--help names the usage and the exit codes, --version the version; both succeed."""
    shown = run(program, "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith(f"usage: {program} ")
    assert "77 not permitted" in shown.stdout
    assert run(program, "--version").stdout == f"{__version__}\n"


def test_installed_by_pip_it_runs_from_anywhere(tmp_path: Path) -> None:
    """Pip installs the programs into a virtual environment, and they work there without the checkout."""
    source = tmp_path / "source"
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split(
        "\n"
    )
    if not any(tracked):
        pytest.skip("not a git checkout")
    for name in filter(None, tracked):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    pip = [sys.executable, "-m", "pip", "--quiet", "--python", str(python)]
    done = subprocess.run(
        [*pip, "install", "--no-warn-script-location", str(source)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    for program in PROGRAMS:
        argv = [str(tmp_path / "venv/bin" / program), "--version"]
        assert (
            subprocess.run(argv, cwd="/", env=environment, capture_output=True, text=True, check=True).stdout
            == f"{__version__}\n"
        )
    dry = [str(tmp_path / "venv/bin/wg-up"), "--config", "-", "--dry-run"]
    shown = subprocess.run(dry, cwd="/", env=environment, input=MINIMAL, capture_output=True, text=True, check=True)
    assert "route default (IPv4)" in shown.stdout
    assert (tmp_path / "venv/lib/systemd/system/wg@.service").read_text() == (ROOT / "systemd/wg@.service").read_text()
    dropin = [str(tmp_path / "venv/bin/wgns"), "dropin", "my+vpn"]
    shown = subprocess.run(dropin, cwd="/", env=environment, capture_output=True, text=True, check=True)
    assert r"BindsTo=wg@my\x2bvpn.service" in shown.stdout
    assert "NetworkNamespacePath=/run/netns/my+vpn\n" in shown.stdout
