"""The man page says what the programs say themselves."""

from __future__ import annotations

import re

from tests.support import PROGRAMS, ROOT, run

PAGE = (ROOT / "man/wgns-helpers.8").read_text()


def test_it_has_what_help_prints() -> None:
    """What --help prints of each program, and of each command of wgns, is in the page to the letter."""
    commands = [program.split() for program in PROGRAMS]
    commands += [["wgns", name] for name in re.findall(r"^  wgns (\w+)", run("wgns", "--help").stdout, re.MULTILINE)]
    assert len(commands) >= 8
    for command in commands:
        said = run(*command, "--help").stdout.partition("exit codes:")[0].rstrip("\n")
        assert ".EX\n" + said.replace("-", r"\-") + "\n.EE\n" in PAGE, command


def test_what_is_copied_has_no_hyphens() -> None:
    """What stands in examples, and each option, has minus signs, not what roff makes a hyphen of."""
    for block in re.findall(r"^\.EX\n(.*?)^\.EE$", PAGE, re.MULTILINE | re.DOTALL):
        assert not re.search(r"(?<!\\)-", block), block
        assert not re.search(r"^[.']", block, re.MULTILINE), block
    assert not re.search(r"(?<!\\)--", PAGE.replace("what --help prints", ""))
