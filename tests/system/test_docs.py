"""The commands of README.md and docs/, run in their order as they are printed there."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT, shell
from tests.system import guest
from tests.system.guest import UNITS, configure, failed, leftovers, systemctl

PAGES = [
    "README.md",
    *(f"docs/{name}.md" for name in ("confine", "publish", "side-by-side", "day-to-day")),
]
# The internet's page is the one behind the provider here, which prints something else
INSTEAD = {"https://ifconfig.me": "http://10.64.0.1/"}
VARIES = re.compile(r"\d+ seconds? ago|[\d.]+ (?:B|KiB)")
# Packages are installed and removed in the tests of the packages
ELSEWHERE = ("apt ",)
ECHO = {
    "echo.socket": "[Socket]\nListenStream=127.0.0.1:7\nAccept=no\n",
    "echo.service": "[Service]\nDynamicUser=yes\nExecStart=/usr/lib/systemd/systemd-socket-proxyd 127.0.0.1:80\n",
}
PROVIDED = ("provider", "provider-2", "provider-3")
PACKAGED = (
    "deluge-web",
    "deluged",
    "nginx",
    "privoxy",
    "transmission-daemon",
)  # which starts them
BLOCK = re.compile(r"^```(console|ini)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def machine() -> Iterator[Path]:
    """A folder with files of a provider, and none of its tunnels."""
    folder = Path("/srv/provider")  # where every user may stand
    folder.mkdir()
    for number, name in enumerate(PROVIDED, 1):
        shutil.move(configure(name, number), folder / f"{name}.conf")
    cursor = guest.cursor()
    for name, text in ECHO.items():
        (UNITS / name).write_text(text)
    Path("/root/mullvad.key").touch(mode=0o600)
    Path("/etc/resolv.conf").touch()  # this machine has none otherwise
    yield folder
    Path("/etc/resolv.conf").unlink()
    shutil.rmtree(folder)
    print(guest.journal(cursor))  # pytest shows it after a failure
    systemctl("kill", "--signal=KILL", "transmission-daemon", check=False)  # it would wait for trackers
    systemctl("stop", *PACKAGED, "dns@far", "qbittorrent-nox@seeder", "socks", check=False)
    systemctl("disable", "wg@mullvad.service", "wg@proton.service", check=False)
    guest.clean()
    (UNITS / "socks.service").unlink(missing_ok=True)
    shell("! getent passwd seeder > /dev/null || userdel --force --remove seeder")
    assert (leftovers(), failed()) == ([], [])


def printed(page: str) -> list[tuple[str, str, str]]:
    """The text before each block of a page with commands or a unit, its language and its text."""
    pieces = BLOCK.split((ROOT / page).read_text())
    return list(zip(pieces[::3], pieces[1::3], pieces[2::3], strict=False))


def carry_out(command: str, shown: str, folder: Path) -> None:
    """Run a command of a page: it succeeds and prints what the page shows; an ellipsis there is for anything."""
    for name, other in INSTEAD.items():
        shown = "" if name in command else shown
        command = command.replace(name, other)
    argv = ["bash", "-euc", command]
    done = subprocess.run(
        argv, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, check=False
    )
    print(f"# {command}\n{done.stdout}")
    assert done.returncode == 0, (command, done.stdout)
    shown, got = (re.sub(" +", " ", VARIES.sub("0", text)).strip() for text in (shown, done.stdout))
    assert not shown or re.fullmatch(".*".join(map(re.escape, shown.split("…"))), got, re.DOTALL), (shown, got)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_does_what_it_says(page: str, machine: Path) -> None:
    """Each command succeeds and prints what the page shows, and each unit of the page is taken by systemd."""
    if page != "README.md":
        shutil.copy(machine / "provider.conf", "/etc/wireguard/mullvad.conf")
        systemctl("enable", "--now", "wg@mullvad")
        shell("wgns exec mullvad ping -c 1 -W 20 10.64.0.1")
    blocks = printed(page)
    systemctl("start", *(name for name in PACKAGED if any(f" {name}" in block[2] for block in blocks)), "dns@far")
    for before, kind, text in blocks:
        if kind == "ini":
            unit = re.findall(r"`systemctl edit ([^`]+)`|`/etc/systemd/system/([^`]+)`", before)[-1]
            path = UNITS / unit[1] if unit[1] else UNITS / f"{unit[0]}.service.d/test.conf"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            systemctl("daemon-reload")
            continue
        for command, shown in re.findall(r"^# (.*)\n((?:(?!# ).*\n)*)", text, re.MULTILINE):
            if not command.startswith(ELSEWHERE):
                carry_out(command, shown, machine)
