"""The man pages have what the programs have, no more and no less, and are found and shown without a warning."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import pages
from tests.pages import MAN, plain, section, source, tags, words
from tests.support import PRIVATE, PROGRAMS, ROOT, run
from wgns_helpers.errors import Failure

PAGES = sorted(path.name for path in MAN.iterdir())
FULL = [page for page in PAGES if source(page) == (MAN / page).read_text()]
VERBS = re.findall(r"^  wgns (\w+)", run("wgns", "--help").stdout, re.MULTILINE)
COMMANDS = [*PROGRAMS[:-1], *(f"wgns {verb}" for verb in VERBS)]
OF_ALL = {"--help", "--version"}
OF_OTHERS = {"--now", "--experimental"}  # of systemctl and socat
OPTION = r"(--[a-z][a-z-]*(?: [A-Z]+)?)"
RENDERERS = {
    "man": ("man", "--warnings", "--encoding=UTF-8", "--local-file"),
    "groff": ("groff", "-man", "-ww", "-Tutf8"),
    "mandoc": ("mandoc", "-T", "lint", "-W", "warning"),
}


def page_of(command: str) -> str:
    """The source of the page that describes a program or a verb of wgns."""
    return source(f"{command.split(maxsplit=1)[0]}.8")


def usage(command: str) -> str:
    """What --help prints."""
    return run(*command.split(), "--help").stdout


def options(command: str) -> set[str]:
    """The options that --help explains, each with its value."""
    return set(re.findall(rf"^  {OPTION}", usage(command), re.MULTILINE))


def codes(command: str) -> set[str]:
    """The exit codes that --help explains."""
    return set(re.findall(r"[:,;]\s(\d+) ", usage(command).partition("exit codes")[2]))


def synopses(command: str) -> list[str]:
    """The usages in SYNOPSIS, each in one line."""
    parts = section(page_of(command), "SYNOPSIS").split(".YS\n")
    return [words(part).replace("\n", " ") for part in parts]


def test_each_program_has_its_page() -> None:
    """A page has the program's name, names it, and begins with its usage."""
    for program in PROGRAMS:
        text = page_of(program)
        assert program in words(section(text, "NAME")).partition(" - ")[0].split(", ")
        assert f".SY {program}".replace("-", r"\-") in text
        for title in ("DESCRIPTION", "OPTIONS", "EXIT STATUS", "EXAMPLES", "SEE ALSO"):
            section(text, title)


def test_each_verb_has_its_section() -> None:
    """The page of wgns has a subsection and a usage for each verb, in the order of --help."""
    text = source("wgns.8")
    assert len(VERBS) == 9
    assert pages.titles(section(text, "COMMANDS")) == [f"wgns {verb}" for verb in VERBS]
    assert re.findall(r"^\.SY wgns\\~(\w+)", text, re.MULTILINE) == VERBS


@pytest.mark.parametrize("command", COMMANDS)
def test_the_usage_has_each_option(command: str) -> None:
    """The usage in SYNOPSIS has the options that --help explains, and no others."""
    (synopsis,) = [synopsis for synopsis in synopses(command) if synopsis.startswith(f"{command} ")]
    assert set(re.findall(OPTION, synopsis)) == options(command)


@pytest.mark.parametrize("program", ["netns-up", "wg-up", "wgns"])
def test_each_option_is_explained(program: str) -> None:
    """Each option that --help explains has a paragraph where the program or the verb is described, and no other has."""
    text = page_of(program)
    if program == "wgns":
        for verb in VERBS:
            part = section(text, f"wgns {verb}", "SS")
            assert {tag for tag in tags(part) if tag.startswith("-")} == options(f"wgns {verb}"), verb
    given = options(program) | options(program.replace("up", "down"))
    assert {tag for tag in tags(section(text, "OPTIONS")) if tag.startswith("--")} == given | OF_ALL


@pytest.mark.parametrize("page", FULL)
def test_each_option_exists(page: str) -> None:
    """No page speaks of an option that no program has."""
    every = {option.split()[0] for command in COMMANDS for option in options(command)}
    assert set(re.findall(r"--[a-z][a-z-]*", words(source(page)))) <= every | OF_ALL | OF_OTHERS


def test_each_exit_code_is_explained() -> None:
    """The codes are those of the exceptions and of --help, and the page of `wgns status` has its own."""
    kinds: list[type[Failure]] = [Failure, *Failure.__subclasses__()]
    every = {"0", *(str(kind.code) for kind in kinds)}
    assert every == codes("wg-up")
    for page in ("wgns-helpers.7", "wgns.8", "wg-up.8"):
        assert set(tags(section(source(page), "EXIT STATUS"))) == every, page
    assert set(tags(section(source("netns-up.8"), "EXIT STATUS"))) == every - {"69", "78"}
    of_status = {tag for tag in tags(section(source("wgns.8"), "wgns status", "SS")) if tag.isdecimal()}
    assert of_status == codes("wgns status") - {"2"}
    assert {"126", "127"} <= set(re.findall(r"\d+", words(section(source("wgns.8"), "wgns exec", "SS"))))


@pytest.mark.parametrize("command", ["wgns", *COMMANDS])
def test_help_is_a_screen(command: str) -> None:
    """--help fits into 24 lines of 80 columns."""
    assert sum(max(1, -(-len(line) // 80)) for line in usage(command).splitlines()) <= 24


def test_each_point_of_wgns_check_is_explained() -> None:
    """The page has the points in their order, and the keys of the JSON."""
    found = json.loads(run("wgns", "check", "nobody", "--json").stdout)
    part = section(source("wgns.8"), "wgns check", "SS")
    assert [tag for tag in tags(part) if not tag.startswith("-")] == [row["point"] for row in found["points"]]
    text = words(part.partition(r"\-\-json")[2]).replace("\n", " ")
    assert [key for key in (*found, *found["points"][0]) if not re.search(rf"\b{key}\b", text)] == []


def test_each_key_of_a_configuration_is_explained() -> None:
    """The page has the keys that config.py knows."""
    text = (ROOT / "wgns_helpers/config.py").read_text()
    known = re.findall(r"^_(?:INTERFACE|QUICK|HOOKS|PEER) = (.*)$", text, re.MULTILINE)
    part = section(source("wgns-helpers.7"), "CONFIGURATION").partition(".SS")[0]
    assert sorted(tags(part)) == sorted(re.findall(r'"(\w+)"', " ".join(known)))


def test_each_unit_is_explained() -> None:
    """The page has an entry for each unit of the package."""
    named = set(tags(section(source("wgns-helpers.7"), "UNITS")))
    assert {path.name.replace("@", "@NAME") for path in (ROOT / "systemd").glob("wg*.*")} <= named
    assert "netns@NAME.service" in named


def test_the_example_of_a_configuration(tmp_path: Path) -> None:
    """wg-up takes it as it is, with a key beside it."""
    (block,) = [block for _, block in pages.examples("wgns-helpers.7") if block.startswith("[Interface]")]
    (tmp_path / "mullvad.conf").write_text(block)
    (tmp_path / "mullvad.key").write_text(f"{PRIVATE}\n")
    done = run("wg-up", f"{tmp_path}/mullvad.conf", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "51413" in done.stdout


@pytest.mark.parametrize("page", FULL)
def test_what_is_copied_is_as_it_looks(page: str) -> None:
    """Examples, options and names have minus signs and quotes, not what roff makes of a hyphen and an apostrophe."""
    text = source(page)
    for block in re.findall(r"^\.EX\n(.*?)^\.EE$", text, re.MULTILINE | re.DOTALL):
        assert not re.search(r"(?<!\\)-|'|~|`|\^", block), block
        assert not re.search(r"^[.']", block, re.MULTILINE), block
        assert max(map(len, words(block).splitlines())) <= 73, block
    for line in text.splitlines():
        assert not re.search(r"(?<!\\)--", line), line
        assert not re.search(r"^\.(B|I|BI|BR|IB|IR|RB|RI|SY)\b.*(?<!\\)-", line), line


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The pages as setup.cfg installs them."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for folder, files in setup["options.data_files"].items():
        if folder.startswith("share/man/"):
            (tmp_path / folder).mkdir(parents=True)
            for file in files.split():
                shutil.copy(ROOT / file, tmp_path / folder)
    return tmp_path / "share/man"


def test_the_pages_are_installed(installed: Path) -> None:
    """Each page is in the folder of its section, and each page that another one leads to."""
    assert sorted(path.name for path in installed.rglob("*.*")) == PAGES
    for path in installed.rglob("*.*"):
        assert path.parent.name == f"man{path.suffix[1:]}"
        for target in re.findall(r"^\.so (\S+)$", path.read_text(), re.MULTILINE):
            assert (installed / target).is_file()


@pytest.mark.parametrize("program", PROGRAMS)
def test_man_finds_the_page_of_a_program(installed: Path, program: str) -> None:
    """The command man with the program's name shows the page that describes it."""
    if not shutil.which("man"):
        pytest.skip("there is no man here")
    done = subprocess.run(["man", f"--manpath={installed}", program], capture_output=True, text=True, check=True)
    shown = re.sub(".\b", "", done.stdout)
    assert re.search(rf"^NAME\n.*\b{program}\b", shown, re.MULTILINE), shown


@pytest.mark.parametrize("page", FULL)
def test_it_renders_without_a_warning(page: str) -> None:
    """None of the programs that are here has anything to say about a page."""
    renderers = [argv for name, argv in RENDERERS.items() if shutil.which(name)]
    if not renderers:
        pytest.skip(f"none of {', '.join(RENDERERS)} is here")
    for argv in renderers:
        done = subprocess.run([*argv, str(MAN / page)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), argv
        assert argv[0] != "mandoc" or not done.stdout, done.stdout


def test_sentences_begin_lines() -> None:
    """A line of source has one sentence at most, so that changes stay readable."""
    for page in FULL:
        for line in source(page).splitlines():
            assert len(line) <= 120, line
            assert line.startswith((".", "[")) or not re.search(r"[a-z]\. [A-Z]", plain(line)), line
