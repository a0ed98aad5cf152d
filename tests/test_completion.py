"""Completion in bash: the programs' own words, as a shell would offer them."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from tests.support import PROGRAMS, ROOT, run

VERBS = re.findall(r"== wgns ([a-z]+)\n", (ROOT / "wgns_helpers/usage.txt").read_text())

# What bash sets before it calls the function of `complete -F`
CALL = """
PATH=$1:$PATH
compopt() { echo "compopt $*"; }
. "$2"
COMP_LINE=$3 COMP_POINT=${#3}
read -ra COMP_WORDS <<< "$COMP_LINE"
[[ $COMP_LINE != *' ' ]] || COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
COMP_WORDS[COMP_CWORD]=${COMP_WORDS[COMP_CWORD]##*[=@:]}
_wgns "${COMP_WORDS[0]}" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def offered(line: str) -> list[str]:
    """What bash offers behind a line, with an empty home and no errors."""
    argv = ["bash", "--norc", "-uc", CALL, "bash", str(ROOT / "bin"), str(ROOT / "completion/wgns.bash"), line]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env={**os.environ, "LC_ALL": "C"})
    assert done.stderr == ""
    return done.stdout.split("\n")[:-1]


@pytest.mark.parametrize("command", [*PROGRAMS[:-1], *(f"wgns {verb}" for verb in VERBS)])
def test_all_options_of_the_usage_are_offered(command: str) -> None:
    """Each program and verb has the options that its --help explains, and no others."""
    explained = set(re.findall(r"^  (--[a-z-]+)", run(*command.split(), "--help").stdout, re.MULTILINE))
    assert set(offered(f"{command} --")) == explained | {"--help", "--version"}


def test_all_verbs_are_offered() -> None:
    """Those that usage.txt explains; some letters choose among them."""
    assert set(offered("wgns ")) == {*VERBS, "--help", "--version"}
    assert offered("wgns re") == ["reach", "refresh", "release"]
    assert offered("wgns nonsense --json ") == [""]


def test_values_are_offered_where_they_belong() -> None:
    """An option's value is of the kind that the usage names, behind a blank or =; others are left to the shell."""
    assert offered("wgns exec vpn --user roo") == offered("wgns exec --user=roo") == ["root"]
    assert offered("wg-up --private-key /etc/pass") == ["compopt -o default", ""]
    assert offered("wg-up ./provider.con") == ["compopt -o default", ""]
    assert "/run/" in offered("wgns confine vpn daemon --allow ")[1]
    assert "bash" in offered("wgns exec vpn bas")
    assert offered("wgns exec vpn ls --al") == ["compopt -o default", ""]
    assert offered("wg-up --resolve-timeout ") == offered("wgns publish vpn ") == [""]
