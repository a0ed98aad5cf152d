"""The Nix side: the package, and what the NixOS module makes of options, also without nixpkgs."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import wgns_helpers
from tests.support import ROOT
from wgns_helpers import check

NIX = shutil.which("nix-instantiate")
CASES = ROOT / "tests/nix/cases.nix"
NIX_FILES = sorted([ROOT / "flake.nix", *ROOT.glob("nix/**/*.nix"), *ROOT.glob("tests/nix/*.nix")])
NIXPKGS = os.environ.get("WGNS_NIXPKGS") or next(
    iter(re.findall(r"(?:^|:)nixpkgs=(/[^:]*)", os.environ.get("NIX_PATH", ""))), ""
)

pytestmark = pytest.mark.skipif(not NIX, reason="nix-instantiate is missing (on Debian: apt-get install nix-bin)")


def nix_instantiate(*arguments: str | Path) -> str:
    """What it prints. The dummy store needs no /nix, no daemon and no root, and nothing can be copied into it."""
    argv = [NIX or "", "--store", "dummy://", *map(str, arguments)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def evaluate(*arguments: str | Path) -> Any:
    """The value of an expression."""
    return json.loads(nix_instantiate("--eval", "--strict", "--json", *arguments))


@functools.cache
def cases(nixpkgs: str) -> dict[str, dict[str, Any]]:
    """For each case what is got and what is expected, by our own small module system ("") or by NixOS."""
    found: dict[str, dict[str, Any]] = evaluate(CASES, "--arg", "nixpkgs", nixpkgs or "null")
    return found


NAMES = re.findall(r"^    ([a-z-]+) = \{$", CASES.read_text().partition("\n  cases = {")[2], re.MULTILINE)


PACKAGE = f"""(import {ROOT}/nix/package.nix {{
  coreutils = "/coreutils";
  lib.getLib = library: library;
  libseccomp = "/libseccomp";
  systemd = "/systemd";
  testers = {{ }};
  python3Packages.buildPythonApplication = package: package {{ }};
}})"""
SUBSTITUTE = """substituteInPlace() {
    [ "$2" = --replace-fail ] && [ $# = 4 ]
    grep --quiet --fixed-strings -e "$3" "$1"
    sed --in-place "s,$3,$4," "$1"
}
"""


def test_the_package_names_programs_by_their_paths(tmp_path: Path) -> None:
    """In what nix/package.nix installs, each unit, the drop-in and the check find what they execute or load."""
    for folder in ("systemd", "wgns_helpers"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    script = f"set -eu; out=/out; {SUBSTITUTE}{evaluate('--expr', f'{PACKAGE}.postPatch')}"
    subprocess.run(["bash", "-c", script], cwd=tmp_path, check=True)
    units = "".join(path.read_text() for path in sorted(tmp_path.glob("*/*.service")))
    commands = re.findall(r"^Exec\w+=(\S*)", units, re.MULTILINE)
    assert len(commands) >= 10
    ours = {f"/out/bin/{path.name}" for path in ROOT.glob("bin/*")}
    assert set(commands) == {*ours, "/coreutils/bin/true", "/systemd/lib/systemd/systemd-socket-proxyd"}
    assert " /out/bin/wgns check NAME\n" in (tmp_path / "wgns_helpers/confined-service.conf").read_text()
    assert '"/libseccomp/lib/libseccomp.so.2"' in (tmp_path / "wgns_helpers/check.py").read_text()


def test_the_package_has_the_version_of_the_programs() -> None:
    """nix/package.nix has it written out, as nixpkgs does."""
    assert evaluate("--expr", f"{PACKAGE}.version") == wgns_helpers.__version__


def test_each_virtual_machine_is_a_test_of_the_package() -> None:
    """Its tests are those of nix/tests, but for what these share."""
    names = re.findall(r'^        "([\w-]+)"$', (ROOT / "nix/package.nix").read_text(), re.MULTILINE)
    assert names == sorted(path.stem for path in ROOT.glob("nix/tests/*.nix") if path.stem != "nodes")


@pytest.mark.parametrize("path", NIX_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_parses(path: Path) -> None:
    """Each Nix file is legal, also those that nothing here evaluates."""
    nix_instantiate("--parse", path)


def test_every_case_is_run() -> None:
    """The names of the cases, taken from the text, are all that there are."""
    assert sorted(NAMES) == sorted(cases(""))


@pytest.mark.parametrize("name", NAMES)
def test_module(name: str) -> None:
    """The module makes the units, files and messages of the case, in our own small module system."""
    assert cases("")[name]["got"] == cases("")[name]["expected"]


def test_the_sockets_that_no_bind_may_show() -> None:
    """The module has all of those that the check looks for."""
    text = (ROOT / "nix/module.nix").read_text()
    assert [path for path in check.SOCKETS if path.startswith("/run/") and f'"{path}"' not in text] == []


@pytest.mark.skipif(not NIXPKGS, reason="no nixpkgs: WGNS_NIXPKGS=PATH or NIX_PATH=nixpkgs=PATH says where")
@pytest.mark.parametrize("name", NAMES)
def test_module_in_nixos(name: str) -> None:
    """The module makes the same of the case in NixOS."""
    assert cases(NIXPKGS)[name]["got"] == cases(NIXPKGS)[name]["expected"]


def test_options() -> None:
    """Each option has a type and a description, and those of the article keep their names."""
    options = evaluate(ROOT / "tests/nix/options.nix")
    assert options["undescribed"] == ["systemd.services", "systemd.sockets"]  # NixOS's own, which get one more
    article = {"enable", "address.IPv4", "address.IPv6", "peer", "endpoint", "privateKey"}
    assert {f"my.wireguard.{name}" for name in article} <= set(options["names"])


@pytest.mark.parametrize("path", NIX_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_file_names_is_there(path: Path) -> None:
    """Paths in Nix files lead somewhere; of most, only a build would find out."""
    for name in re.findall(r"(?<![\w.\"/])(\.\.?/[\w./@-]+)", re.sub("#.*", "", path.read_text())):
        assert (path.parent / name).exists(), name


README_EXAMPLE = """let
  modules = import %(root)s/tests/nix/modules.nix;
  writeTextDir = path: text: { inherit path text; };
  package = { type = "derivation"; name = "wgns-helpers"; outPath = "/nix/store/00000000000000000000000000000000-w"; };
  transmission.systemd.services.transmission.serviceConfig = { Type = "notify"; BindPaths = [ "/run" ]; };
  config = modules.evalModules { pkgs = { inherit writeTextDir; }; } [
    %(root)s/tests/nix/nixos.nix %(root)s/nix/module.nix { my.wireguard.package = package; } transmission { %(text)s }
  ];
in {
  assertions = map (one: one.message) (builtins.filter (one: !one.assertion) config.assertions);
  inherit (config) warnings;
  confined = config.systemd.services.transmission.wireguardTunnel;
}"""


def test_the_examples_of_the_readme() -> None:
    """Each example for NixOS in README.md evaluates beside a service with the settings of NixOS's transmission."""
    examples = re.findall(r"^```nix\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    found = [evaluate("--expr", README_EXAMPLE % {"root": ROOT, "text": text}) for text in examples]
    assert found == [
        {"assertions": [], "warnings": [], "confined": "mullvad"},
        {"assertions": [], "warnings": [], "confined": None},
    ]
