"""A forwarded port, as docs/forwarded-port.md has it: two daemons of the distribution follow what a gateway gives."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.natpmp import Gateway, opened
from tests.support import ROOT, shell
from tests.system import guest
from tests.system.guest import configure, journal, namespace_of, show, state, systemctl, wait_for

pytestmark = pytest.mark.usefixtures("since")
DOCS = (ROOT / "docs/forwarded-port.md").read_text()
UNIT = "wgns-forward@demo.service"
TRANSMISSION, NETRC = Path("/etc/transmission-daemon/settings.json"), Path("/etc/transmission-daemon/netrc")
PROGRAM = Path("/usr/local/bin/qbittorrent-port")
CLIENT = "10.64.1.1"


def recipe(title: str, beginning: str) -> str:
    """The indented block below a heading of the page that begins so."""
    section = DOCS.partition(f"\n### {title}\n")[2].partition("\n## ")[0].partition("\n### ")[0]
    blocks = ["".join(block) for block in re.findall(r"(?:^    .*\n)+", section, re.MULTILINE)]
    return next(re.sub(r"^    ", "", block, flags=re.MULTILINE) for block in blocks if beginning in block)


def reached(port: int, seconds: float = 3) -> bool:
    """Whether the provider reaches a TCP server in the tunnel at this port."""
    with opened("far", socket.SOCK_STREAM) as client:
        client.settimeout(seconds)
        return client.connect_ex((CLIENT, port)) == 0


def status() -> str:
    """The last state that the unit has told systemd."""
    return shell(f"systemctl show --value -p StatusText {UNIT}").strip()


def comes(text: str) -> bool:
    """Whether this is the last state that the unit has told systemd."""
    return status() == text


@contextmanager
def following(daemon: str, drop_in: str, prepare: Callable[[], None]) -> Iterator[Gateway]:
    """A daemon in a tunnel whose port is forwarded and handed to it by the drop-in."""
    configure()
    prepare()
    guest.drop_in(UNIT, drop_in, reload=False)
    guest.confine(f"{daemon}.service", "demo")
    systemctl("enable", UNIT)
    try:
        with Gateway("far", lifetime=20) as gateway:
            systemctl("start", "wg@demo.service")
            yield gateway
    finally:
        systemctl("kill", "--signal=KILL", daemon, check=False)  # it would wait for trackers that do not answer
        systemctl("disable", UNIT)
        shell(f"wgns release {daemon}.service")


def follows(gateway: Gateway, program: str) -> None:
    """The daemon is reached on the port that the gateway gives, then on another, and no longer on the former."""
    for port, former in ((40000, 40001), (40001, 40000)):
        gateway.port = port
        text = f'port {port} is open, forwarded from 198.51.100.7:{port}, and "{program}" has it'
        wait_for(partial(comes, text), 120)
        wait_for(partial(reached, port), 60)
        assert not reached(former)
    systemctl("stop", UNIT)
    assert not reached(40001)


def test_transmission_follows(since: str) -> None:
    """By the recipe, transmission-daemon is reached from the provider's side on the new port and not on the old one."""
    settings = TRANSMISSION.read_text()

    def prepare() -> None:
        line = recipe("Transmission", "machine ").replace("PASSWORD", json.loads(settings)["rpc-password"])
        NETRC.write_text(line)
        NETRC.chmod(0o600)

    with following("transmission-daemon", recipe("Transmission", "[Service]"), prepare) as gateway:
        wait_for(lambda: state(UNIT) == "active", 120)
        assert namespace_of(UNIT) == os.stat("/run/netns/demo").st_ino
        process = show(UNIT)["MainPID"]
        found = dict(line.split(":\t", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
        assert {found[key] for key in ("CapPrm", "CapEff", "CapBnd")} == {f"{1 << 12:016x}"}  # CAP_NET_ADMIN
        assert found["Uid"].split()[0] != "0"
        follows(gateway, "transmission-remote")
    assert '"demo": port 40001 is open, forwarded from 198.51.100.7:40001' in journal(since, UNIT)
    systemctl("stop", "netns@demo.service")
    NETRC.unlink()
    TRANSMISSION.write_text(settings)


def test_qbittorrent_follows() -> None:
    """By the recipe, so is qbittorrent-nox."""
    daemon = "qbittorrent-nox@seeder"

    def prepare() -> None:
        shell("useradd --create-home seeder")
        folder = Path("/home/seeder/.config/qBittorrent")
        folder.mkdir(parents=True)
        text = "[LegalNotice]\nAccepted=true\n[Preferences]\nWebUI\\LocalHostAuth=false\n"
        (folder / "qBittorrent.conf").write_text(text)
        shell("chown -R seeder: /home/seeder")
        PROGRAM.write_text(recipe("qBittorrent", "#!/bin/sh"))
        PROGRAM.chmod(0o755)

    with following(daemon, recipe("qBittorrent", "[Service]"), prepare) as gateway:
        follows(gateway, str(PROGRAM))
    systemctl("stop", "netns@demo.service")
    PROGRAM.unlink()
    shell("userdel --remove seeder")


def test_a_silent_gateway_holds_nothing_up(since: str) -> None:
    """The unit is active before the gateway answers, stops with the tunnel, and starts with it."""
    configure()
    systemctl("enable", UNIT)
    systemctl("start", "wg@demo.service")
    wait_for(lambda: state(UNIT) == "active", 60)
    wait_for(lambda: status().endswith(": no port is open"))
    systemctl("stop", "wg@demo.service")
    assert state(UNIT) == "inactive"
    systemctl("start", "wg@demo.service")
    wait_for(lambda: state(UNIT) == "active", 60)
    systemctl("kill", "--signal=KILL", UNIT)
    wait_for(lambda: show(UNIT)["NRestarts"] == "1" and state(UNIT) == "active", 60)
    systemctl("disable", UNIT)
