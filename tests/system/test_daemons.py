"""Daemons as the distribution packages them, with their own units: confined by one command, they start and work."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent

import pytest

from tests.support import shell
from tests.system import guest
from tests.system.guest import systemctl, wait_for
from tests.system.leak import MEMBER

QBITTORRENT = "qbittorrent-nox@seeder"  # as a user of this name
PAGES = {  # on all addresses
    "aria2": (6800, "/jsonrpc?method=aria2.getVersion&id=1", '"jsonrpc":"2.0"'),
    "deluge-web": (8112, "/", "Deluge WebUI"),
    "nginx": (80, "/", "Welcome to nginx"),
    QBITTORRENT: (8080, "/", "qBittorrent WebUI"),
    "tinyproxy": (8888, "/", "Server: tinyproxy"),
    "transmission-daemon": (9091, "/transmission/web/", "Transmission Web"),
}
CLOSED = "tinyproxy"  # the one whose port OpenPorts= does not name
PROXIES = {"privoxy": 8118, "tinyproxy": 8888}
RPC = 58846  # deluged's port, on 127.0.0.1 only
DAEMONS = sorted({*PAGES, *PROXIES, "deluged", "unbound"})
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
STATUS = """import json, urllib.request as request
opener = request.build_opener(request.HTTPCookieProcessor())
def call(method, *arguments):
    body = json.dumps({"method": method, "params": arguments, "id": 1}).encode()
    asked = request.Request("http://127.0.0.1:8112/json", body, {"Content-Type": "application/json"})
    return json.load(opener.open(asked, timeout=20))["result"]
call("auth.login", "deluge")
print(call("web.get_host_status", call("web.get_hosts")[0][0]))
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
    """A tunnel that starts the daemons."""
    settings = TRANSMISSION.read_text()
    open_to_all = {"rpc-authentication-required": False, "rpc-whitelist-enabled": False}
    TRANSMISSION.write_text(json.dumps(json.loads(settings) | open_to_all))
    UNBOUND.write_text(FORWARD)
    shell("useradd --create-home seeder")
    ports = ", ".join(str(port) for port in (*(page[0] for name, page in PAGES.items() if name != CLOSED), 53))
    guest.configure(other={"OpenPorts": ports})
    systemctl("start", "dns@far")
    guest.confine(DAEMONS[0], "demo", *DAEMONS[1:])
    try:
        systemctl("start", "wg@demo.service")
        wait_for(lambda: "No jobs" in shell("systemctl list-jobs"), 240)
        shell("ip netns exec demo ping -c 1 -W 20 10.64.0.1")  # the far side has to learn where the tunnel ends
        yield
    finally:
        systemctl("kill", "--signal=KILL", "transmission-daemon")  # it would wait for trackers that do not answer
        systemctl("stop", "netns@demo.service", "dns@far")
        guest.clean()
    TRANSMISSION.write_text(settings)
    UNBOUND.unlink()
    shell("userdel --remove seeder")
    assert (guest.leftovers(), guest.failed()) == ([], [])


def asked(namespace: str, code: str, *arguments: str) -> str:
    """What a Python program prints that runs in a network namespace."""
    argv = ["ip", "netns", "exec", namespace, "python3", "-P", "-c", code, *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def wait_for_port(port: int) -> None:
    """Wait until a process in the namespace listens on it: most daemons count as active before that."""
    wait_for(lambda: f":{port} " in shell("ip netns exec demo ss -ltn"), 120)


@pytest.mark.parametrize("daemon", PAGES)
def test_a_page_is_served_by_the_tunnel_only(daemons: None, daemon: str) -> None:
    """The namespace gets the daemon's page, and the far end if the port is open; the host has no such port."""
    port, path, text = PAGES[daemon]
    wait_for_port(port)
    assert text in asked("demo", FETCH, "127.0.0.1", str(port), path)
    far = asked(
        "far", f"try:\n{indent(FETCH, ' ')}\nexcept TimeoutError:\n print('closed')", "10.64.1.1", str(port), path
    )
    assert ("closed\n" if daemon == CLOSED else text) in far
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 20)


@pytest.mark.parametrize("proxy", PROXIES)
def test_a_proxy_fetches_through_the_tunnel(daemons: None, proxy: str) -> None:
    """For a client in the namespace, the proxy fetches a page from behind the tunnel; the host has no such port."""
    port = PROXIES[proxy]
    wait_for_port(port)
    assert "Directory listing for /" in asked("demo", FETCH, "127.0.0.1", str(port), "http://10.64.0.1/")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 20)


def test_deluge_web_reaches_deluged(daemons: None) -> None:
    """The web interface finds the daemon online, on the namespace's 127.0.0.1; the host has no such port."""
    wait_for_port(RPC)
    assert "Online" in asked("demo", STATUS)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", RPC), 20)


def test_names_are_resolved_by_the_tunnels_name_server(daemons: None) -> None:
    """An unbound that forwards asks it, for the namespace and for the far end; the host has no such port."""
    assert asked("demo", RESOLVE, "127.0.0.1").strip() == MEMBER[0]
    assert asked("far", RESOLVE, "10.64.1.1").strip() == MEMBER[0]
    assert ":53 " not in shell("ss -ln")


@pytest.mark.parametrize("daemon", DAEMONS)
def test_each_is_confined(daemons: None, daemon: str) -> None:
    """`wgns check` finds each daemon confined, before its start and while it runs, in the tunnel's namespace."""
    assert guest.namespace_of(f"{daemon}.service") == Path("/run/netns/demo").stat().st_ino
    shown = shell(f"systemctl show {daemon} -p ExecStartPre")
    assert "code=exited ; status=0" in next(line for line in shown.splitlines() if "wgns check" in line)
    shell(f"wgns check demo --unit {daemon} >&2")  # so that a failure shows what it says


def test_no_start_has_been_left_out(daemons: None) -> None:
    """Unbound is ordered before nss-lookup.target: no ordering cycle, of which systemd would leave out one job."""
    assert "ordering cycle" not in shell("journalctl --sync; journalctl -b -o cat --no-pager _PID=1")
