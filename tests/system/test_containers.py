"""Containers in a tunnel, by Debian's podman, as docs/containers.md has them. Their root is a copy of the machine's."""

from __future__ import annotations

import json
import os
import re
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT, shell
from tests.system import guest
from tests.system.guest import UNITS, configure, state, systemctl, wait_for
from tests.system.leak import MEMBER

PAGE = (ROOT / "docs/containers.md").read_text().replace("mullvad", "demo")
BLOCKS = [textwrap.dedent(block).strip() for block in re.findall(r"(?:^ {4}.*\n|^\n(?= {4}))+", PAGE, re.MULTILINE)]
UNIT = Path("/etc/containers/systemd/freshrss.container")
LOOK = """import json, os, socket
from pathlib import Path

def reached(address, port, seconds):
    try:
        return bool(socket.create_connection((address, port), seconds))
    except OSError:
        return False

print(json.dumps({
    "namespace": os.stat("/proc/self/ns/net").st_ino,
    "links": sorted(os.listdir("/sys/class/net")),
    "far": reached("10.64.0.1", 80, 10),
    "host": [reached(address, 81, 1) for address in ("198.51.100.2", "host.containers.internal", "127.0.0.1")],
    "name": sorted({entry[4][0] for entry in socket.getaddrinfo("stand-in.example", None)}),
}))"""


@pytest.fixture(autouse=True, scope="module")
def tunnel() -> Iterator[None]:
    """A tunnel with a name server behind it, and a program for containers."""
    Path("/usr/local/lib/look.py").write_text(LOOK)
    configure()
    systemctl("start", "wg@demo.service", "dns@far.service")
    yield
    print(shell("journalctl -b -n 100 -o cat --no-pager"))  # pytest shows it after a failure
    systemctl("stop", "dns@far.service")
    guest.clean()
    assert guest.leftovers() == []


def is_confined(printed: str) -> None:
    """A container's program has seen lo and the tunnel, and nobody but the far side."""
    found: dict[str, Any] = json.loads(printed)
    assert found == {
        "namespace": os.stat("/run/netns/demo").st_ino,
        "links": ["demo", "lo"],
        "far": True,
        "host": [False] * 3,
        "name": sorted(MEMBER),
    }


def wgns(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run wgns."""
    return subprocess.run(["wgns", *arguments], capture_output=True, text=True, check=False)


def test_a_container_by_hand() -> None:
    """The command of the page: the container is confined, or podman starts nothing. One that can make links is not."""
    words = BLOCKS[0].split()[1:-3]
    assert words == ["podman", "run", "--rm", "--network=ns:/run/netns/demo"]
    command = [*words, "--rootfs", "/:O", "python3", "-P", "/usr/local/lib/look.py"]
    is_confined(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    shell("podman run --detach --name links --cap-add=NET_ADMIN --network=ns:/run/netns/demo --rootfs /:O sleep 600")
    found = json.loads(wgns("status", "demo", "--json").stdout)["tunnels"][0]
    assert list(found["confined"].values()) == ["capabilities: CAP_NET_ADMIN"]
    shell("podman rm --force --time 0 links")
    command[3] += "-that-is-down"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (125, ""), done


@pytest.fixture
def container() -> Iterator[str]:
    """The service of the page, with nginx of the machine as its image."""
    image = "Rootfs=/:O\nExec=nginx -g 'daemon off;'\n"
    text, images = re.subn(r"^Image=.*\n", image, BLOCKS[1], flags=re.MULTILINE)
    assert images == 1
    UNIT.parent.mkdir(parents=True, exist_ok=True)
    UNIT.write_text(f"{text}\n")
    *commands, status, check = BLOCKS[2].replace("sudo ", "").splitlines()
    for command in commands:
        shell(command)
    yield f"{status}\n{check}"
    UNIT.unlink()


def test_a_container_as_a_service(container: str) -> None:
    """The unit of the page: it is confined, stops with the tunnel and comes back with it. `wgns confine` refuses it."""
    assert "freshrss.service, confined: " in shell(container)
    done = wgns("confine", "demo", "freshrss")
    assert (done.returncode, [*UNITS.glob("freshrss*"), *UNITS.glob("wg-confined@*/freshrss*")]) == (1, [])
    assert "hint: Network=ns:/run/netns/demo in its .container file" in done.stderr
    systemctl("stop", "wg@demo.service")
    assert state("freshrss.service") == "inactive"
    assert shell("podman ps --all --quiet") == ""
    systemctl("start", "wg@demo.service")
    wait_for(lambda: state("freshrss.service") == "active")
    assert wgns("status", "demo").returncode == 0
    is_confined(shell("podman exec systemd-freshrss python3 -P /usr/local/lib/look.py"))
