"""What `make install` puts where and `make uninstall` removes, and the files of the Debian package."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pyroute2
import pytest

import wgns_helpers
from tests.support import MINIMAL, PROGRAMS, ROOT


def make(target: str, root: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    """Run make for an installation below `root`."""
    ours = [f"DESTDIR={root}", f"PYTHON={sys.executable}", f"LIBRARIES={Path(pyroute2.__file__).parents[1]}"]
    argv = ["make", "--silent", "-C", str(ROOT), target, *ours, *settings]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def tree(root: Path) -> set[str]:
    """All that is below a folder."""
    return {str(path.relative_to(root)) for path in root.rglob("*")}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder below which `make install` has put everything; made to run from there, and not from /usr/local."""
    root = tmp_path_factory.mktemp("root")
    done = make("install", root, f"PREFIX={root}/opt", "DESTDIR=")
    assert done.returncode == 0, done.stderr
    return root / "opt"


def test_programs_run_from_where_they_are_installed(installed: Path) -> None:
    """The five programs run with the package and the libraries of their own folder, whatever the environment says."""
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "PYTHONHOME": "/nowhere"}
    for program in PROGRAMS:
        path = installed / "bin" / program
        for option, beginning in (("--version", wgns_helpers.__version__), ("--help", f"usage: {program} ")):
            argv = [str(path), option]
            done = subprocess.run(argv, cwd="/", env=environment, capture_output=True, text=True, check=True)
            assert done.stdout.startswith(beginning)
    dry = [str(installed / "bin/wg-up"), "--config", "-", "--dry-run"]
    done = subprocess.run(dry, cwd="/", env=environment, input=MINIMAL, capture_output=True, text=True, check=True)
    assert "route default (IPv4)" in done.stdout


def test_the_folder_has_all_that_the_programs_import(installed: Path) -> None:
    """Every module of ours can be imported from the folder alone, and pyroute2 as well; all have byte code."""
    own = installed / "lib/wgns-helpers"
    names = [f"wgns_helpers.{path.stem}" for path in (ROOT / "wgns_helpers").glob("*.py")]
    code = f"import sys; sys.path.insert(0, {str(own)!r})\nimport pyroute2.netlink.rtnl.rtmsg, {', '.join(names)}"
    subprocess.run([sys.executable, "-ISc", code], check=True)
    for path in own.rglob("*.py"):
        assert list(path.parent.glob(f"__pycache__/{path.stem}.*.pyc")), path


def test_units_start_what_is_installed(installed: Path) -> None:
    """Each command of ours in a unit, and in the drop-in of a confined service, has a path that exists."""
    paths = [
        *installed.glob("lib/systemd/system/*.service"),
        *installed.glob("lib/wgns-helpers/*/confined-service.conf"),
    ]
    assert len(paths) >= 6
    for path in paths:
        for command in re.findall(r"^Exec\w+=(.*)", path.read_text(), re.MULTILINE):
            program = next(word for word in command.split() if re.search(r"(^|/)(netns-|wg)|true$", word))
            assert program == "true" or os.access(program, os.X_OK), command


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    """A folder with a whole system's /usr/local, empty but for a file of somebody else."""
    other = tmp_path / "usr/local/bin/other"
    other.parent.mkdir(parents=True)
    other.write_text("left alone\n")
    return tmp_path


def test_all_files_go_where_systemd_man_and_bash_look(staged: Path) -> None:
    """Units, man pages, completion and the list of modules are in their places, with all man pages that there are."""
    assert make("install", staged).returncode == 0
    prefix = staged / "usr/local"
    for page in (ROOT / "man").iterdir():
        assert (prefix / f"share/man/man{page.suffix[1:]}" / page.name).read_text() == page.read_text()
    for unit in (ROOT / "systemd").glob("*.*"):
        assert unit.is_dir() or (prefix / "lib/systemd/system" / unit.name).is_file()
    assert (prefix / "lib/modules-load.d/wgns.conf").is_file()
    for program in PROGRAMS:
        assert f" {program} " in f" {(prefix / 'share/bash-completion/completions' / program).read_text()} "
    modes = {path.stat().st_mode & 0o777 for path in prefix.rglob("*") if path.is_file() and path.parent.name != "bin"}
    assert modes <= {0o644, 0o755}
    units = (path.read_text() for path in prefix.glob("lib/systemd/system/*"))
    assert any("ExecStart=/usr/local/bin/wg-up " in text for text in units)
    assert not [path for path in prefix.rglob("*") if path.is_file() and str(staged).encode() in path.read_bytes()]


def test_uninstall_leaves_what_was_there_before(staged: Path) -> None:
    """After two installations, the second without a file of the first, `make uninstall` removes all and no more."""
    before = tree(staged)
    assert make("install", staged).returncode == 0
    first = tree(staged)
    listed = staged / "usr/local/lib/wgns-helpers/installed"
    former = staged / "usr/local/lib/systemd/system/former.service"
    former.write_text("of an older version\n")
    (listed.parent / "wgns_helpers/former.py").write_text("")
    listed.write_text(listed.read_text() + f"/{former.relative_to(staged)}\n")
    assert make("install", staged).returncode == 0
    assert tree(staged) == first
    assert make("uninstall", staged).returncode == 0
    assert tree(staged) == before


def test_uninstall_refuses_while_something_is_in_use(staged: Path) -> None:
    """It names doors, confined units, enabled tunnels and namespaces, each with its command, and removes nothing."""
    assert make("install", staged).returncode == 0
    uses = {
        "etc/systemd/system/publish-wg-80.socket": "wgns release 'publish-wg-80.socket'",
        "etc/systemd/system/daemon.service.d/wireguard.conf": "wgns release 'daemon.service'",
        "etc/systemd/system/multi-user.target.wants/wg@vpn.service": "systemctl disable 'wg@vpn.service'",
        "run/netns/byhand": "wg-down 'byhand'; netns-down 'byhand'",
    }
    (staged / "run/wgns/byhand").mkdir(parents=True)
    (staged / "run/wgns/gone").mkdir()
    for path in uses:
        (staged / path).parent.mkdir(parents=True, exist_ok=True)
        if "wants" in path:
            (staged / path).symlink_to("/usr/local/lib/systemd/system/wg@.service")
        else:
            (staged / path).write_text("# Written by wgns confine vpn daemon.service; wgns release removes it.\n")
    other = staged / "etc/systemd/system/other.service.d/wireguard.conf"
    other.parent.mkdir()
    other.write_text("[Service]\n")
    before = tree(staged)
    done = make("uninstall", staged)
    assert done.returncode == 2
    assert "nothing was removed" in done.stderr
    assert [line.partition(": ")[2] for line in done.stdout.splitlines()] == list(uses.values())
    assert tree(staged) == before
    for path in uses:
        (staged / path).unlink()
    assert make("uninstall", staged).returncode == 0
    assert not (staged / "usr/local/bin/wgns").exists()


def test_uninstall_of_nothing_says_where_it_looked(tmp_path: Path) -> None:
    """Without an installation, or with another PREFIX than that of the installation, `make uninstall` fails."""
    done = make("uninstall", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{tmp_path}/usr/local/lib/wgns-helpers/installed" in done.stderr


def test_the_debian_package_has_the_version_of_the_programs() -> None:
    """debian/changelog begins with the version, and debian/copyright and the build name the same wgconfig as nix/."""
    first = (ROOT / "debian/changelog").read_text().splitlines()[0]
    assert first.startswith(f"wgns-helpers ({wgns_helpers.__version__}) ")
    pinned = re.match(r"wgconfig==(\S+) --hash=sha256:[0-9a-f]{64}\n", (ROOT / "debian/wgconfig.txt").read_text())
    assert pinned
    assert f'version = "{pinned[1]}"' in (ROOT / "nix/wgconfig.nix").read_text()
