"""The man pages as the tests read them: sections, tags of paragraphs and examples, in plain text."""

from __future__ import annotations

import re

from tests.support import ROOT

MAN = ROOT / "man"
_ESCAPES = {"-": "-", "~": " ", "e": "\\", "&": "", "(bu": "*", "(aq": "'", "(dq": '"', " ": " ", "%": ""}


def source(page: str) -> str:
    """The source of a page such as "wg-up.8", or of the page that it leads to."""
    text = (MAN / page).read_text(encoding="ascii")
    other = re.fullmatch(r"\.so man\d/(\S+)\n", text)
    return source(other[1]) if other else text


def section(text: str, title: str, macro: str = "SH") -> str:
    """What is below a title, up to the next one; with the macro "SS", a subsection."""
    parts = re.split(rf"^\.(?:{macro}|SH) (.*)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))[title]


def plain(line: str) -> str:
    """A line of source without macro and escapes."""
    macro, _, rest = line.partition(" ") if line.startswith(".") else ("", "", line)
    if macro:
        words = [quoted or word for quoted, word in re.findall(r'"([^"]*)"|((?:\\ |\S)+)', rest)]
        rest = (" " if len(macro) == 2 or macro in (".SS", ".SH", ".SY") else "").join(words)
    rest = re.sub(r"\\f[A-Z]", "", rest)
    return re.sub(r"\\(\(..|.)", lambda escape: _ESCAPES[escape[1]], rest)


def words(text: str) -> str:
    """The plain text of a part of a page."""
    return "\n".join(map(plain, text.splitlines()))


def tags(text: str) -> list[str]:
    """The tags of the tagged paragraphs; a tag may have several words that commas separate."""
    lines = re.findall(r"^\.T[PQ]\n(.*)$", text, re.MULTILINE)
    return [tag for line in lines for tag in plain(line).split(", ")]


def titles(text: str) -> list[str]:
    """The titles of the subsections."""
    return list(map(plain, re.findall(r"^\.SS (.*)$", text, re.MULTILINE)))


def examples(page: str) -> list[tuple[str, str]]:
    """The blocks under EXAMPLES, each with the sentence before it."""
    found = re.findall(r"(.*?)^\.EX\n(.*?)^\.EE$", section(source(page), "EXAMPLES"), re.MULTILINE | re.DOTALL)
    return [(words(sentence), words(block) + "\n") for sentence, block in found]


def commands(page: str) -> list[str]:
    """The command lines under EXAMPLES."""
    return [line for _, block in examples(page) if block[0] != "[" for line in block.splitlines()]
