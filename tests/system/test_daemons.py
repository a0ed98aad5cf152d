"""Daemons as the distribution packages them, with their own units: confined by the drop-in, they start and work."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import shell
from tests.system import guest
from tests.system.guest import systemctl, wait_for
from tests.system.leak import MEMBER

DAEMONS = ("nginx", "transmission-daemon", "unbound")
TRANSMISSION = Path("/etc/transmission-daemon/settings.json")
UNBOUND = Path("/etc/unbound/unbound.conf.d/test.conf")
FORWARD = """server:
    interface: 0.0.0.0
    access-control: 10.64.0.0/16 allow
    domain-insecure: "example"
forward-zone:
    name: "example"
    forward-addr: 10.64.0.1
"""
FETCH = """import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 20) as connection:
    connection.sendall(f"GET {sys.argv[3]} HTTP/1.0\\r\\n\\r\\n".encode())
    print(connection.makefile(errors="replace").read())
"""
RESOLVE = """import sys
sys.path.insert(0, "/root/wgns-helpers")
from tests.system import leak
made = leak.dns(sys.argv[1], "some", "name")
made.settimeout(20)
print(".".join(map(str, made.recv(512)[-4:])))
"""


@pytest.fixture(scope="module")
def daemons() -> Iterator[None]:
    """A tunnel that takes the daemons along."""
    settings = TRANSMISSION.read_text()
    open_to_all = {"rpc-authentication-required": False, "rpc-whitelist-enabled": False}
    TRANSMISSION.write_text(json.dumps(json.loads(settings) | open_to_all))
    UNBOUND.write_text(FORWARD)
    guest.configure()
    systemctl("start", "dns@far")
    for daemon in DAEMONS:
        guest.confine(f"{daemon}.service", "demo")
    try:
        systemctl("start", "wg@demo.service")
        wait_for(lambda: [daemon for daemon in DAEMONS if guest.state(daemon) != "active"] == [])
        shell("ip netns exec demo ping -c 1 -W 20 10.64.0.1")  # the far side has to learn where the tunnel ends
        yield
    finally:
        systemctl("kill", "--signal=KILL", "transmission-daemon")  # it would wait for trackers that do not answer
        systemctl("stop", "netns@demo.service", "dns@far")
        guest.clean()
    TRANSMISSION.write_text(settings)
    UNBOUND.unlink()
    assert (guest.leftovers(), guest.failed()) == ([], [])


def asked(namespace: str, code: str, *arguments: str) -> str:
    """What a Python program prints that runs in a network namespace."""
    argv = ["ip", "netns", "exec", namespace, "python3", "-P", "-c", code, *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


PAGES = {
    "nginx": (80, "/", "Welcome to nginx"),
    "transmission-daemon": (9091, "/transmission/web/", "Transmission Web"),
}


@pytest.mark.parametrize("daemon", PAGES)
def test_a_page_is_served_by_the_tunnel_only(daemons: None, daemon: str) -> None:
    """The page is there for who is in the namespace, and at the tunnel's far end, and not in the host."""
    port, path, text = PAGES[daemon]
    assert guest.namespace_of(f"{daemon}.service") == Path("/run/netns/demo").stat().st_ino
    assert text in asked("demo", FETCH, "127.0.0.1", str(port), path)
    assert text in asked("far", FETCH, "10.64.1.1", str(port), path)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 20)


def test_names_are_resolved_by_the_tunnels_name_server(daemons: None) -> None:
    """An unbound that forwards asks there, for who is in the namespace and for the far end; the host has none."""
    assert guest.namespace_of("unbound.service") == Path("/run/netns/demo").stat().st_ino
    assert asked("demo", RESOLVE, "127.0.0.1").strip() == MEMBER[0]
    assert asked("far", RESOLVE, "10.64.1.1").strip() == MEMBER[0]
    assert ":53 " not in shell("ss -ln")


def test_each_has_been_checked(daemons: None) -> None:
    """Before its start, `wgns check` has found each of them confined."""
    for daemon in DAEMONS:
        shown = shell(f"systemctl show {daemon} -p ExecStartPre")
        assert "wgns check" in shown
        assert "code=exited ; status=0" in next(line for line in shown.splitlines() if "wgns check" in line)


def test_no_start_has_been_left_out(daemons: None) -> None:
    """Unbound is ordered before nss-lookup.target: no ordering cycle, of which systemd would leave out one job."""
    assert "ordering cycle" not in shell("journalctl --sync; journalctl -b -o cat --no-pager _PID=1")
