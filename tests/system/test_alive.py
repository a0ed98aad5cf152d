"""A tunnel that waits for what it needs, mends itself, and has a service whose page is reached from outside."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from tests.support import shell
from tests.system import guest
from tests.system.capture import ENDPOINT, ENDPOINT_NAME
from tests.system.guest import UNITS, configure, confine, journal, show, state, systemctl, wait_for
from tests.system.leak import HOST, RESOLVER

pytestmark = pytest.mark.usefixtures("since")
EXAMPLES = Path("/usr/local/share/doc/wgns-helpers/examples")
FETCH = """import socket, sys
with socket.create_connection((sys.argv[1], 9091), 20) as connection:
    connection.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
    print(connection.makefile().readline())
"""


def test_a_name_server_that_is_late(since: str) -> None:
    """When the name server comes 20 s after the tunnel's start, that start succeeds, the confined service with it."""
    Path("/etc/resolv.conf").write_text(f"nameserver {RESOLVER[0]}\n")
    configure(other={"Endpoint": f"{ENDPOINT_NAME}:{ENDPOINT[1]}"})
    confine("reach.service", "demo")
    systemctl("start", "--no-block", "wg@demo.service")
    time.sleep(20)
    assert state("wg@demo.service") == "activating"
    systemctl("start", "dns@internet")
    wait_for(lambda: state("reach.service") == "active")
    assert show("wg@demo.service")["NRestarts"] == "0"
    guest.reaches_the_far_side_only()
    assert "trying again for up to 30 s" in journal(since, "wg@demo")
    systemctl("stop", "dns@internet")
    Path("/etc/resolv.conf").unlink()


def test_a_start_that_waits_for_a_handshake(since: str) -> None:
    """With --wait-handshake in the unit's options a tunnel without a provider is never up; with one it comes up."""
    configure()
    drop_in = "[Service]\nEnvironment='WG_UP_OPTIONS=--wait-handshake=3'\n"
    guest.drop_in("wg@demo.service", drop_in, reload=False)
    confine("reach.service", "demo")
    shell("ip -n far link set wg0 down")
    systemctl("start", "--no-block", "wg@demo.service")
    wait_for(lambda: int(show("wg@demo.service")["NRestarts"]) >= 1)
    assert state("reach.service") == "inactive"
    assert "no handshake within 3 s (peer 1)" in journal(since, "wg@demo")
    shell("ip -n far link set wg0 up; ip -n far -6 address replace fd00:64::1/64 dev wg0")
    wait_for(lambda: state("reach.service") == "active")


def test_an_endpoint_that_moves() -> None:
    """A peer that does not answer is looked up again by the timer's service; nothing that is confined is stopped."""
    hosts = Path("/etc/hosts")
    former = hosts.read_text()
    hosts.write_text(former + "203.0.113.99 moving.example\n")
    configure(other={"Endpoint": f"moving.example:{ENDPOINT[1]}"})
    confine("reach.service", "demo")
    systemctl("start", "wg@demo.service")
    wait_for(lambda: state("reach.service") == "active")
    before = show("reach.service")["MainPID"]
    assert state("wgns-refresh.timer") == "active"
    hosts.write_text(former + f"{ENDPOINT[0]} moving.example\n")
    systemctl("start", "wgns-refresh.service")
    shell("ip netns exec demo ping -c 1 -W 20 10.64.0.1")
    assert show("reach.service")["MainPID"] == before
    hosts.write_text(former)
    shell("wgns status demo > /run/status || [ $? = 1 ]")
    said = Path("/run/status").read_text()
    Path("/run/status").unlink()
    assert "alive" in said
    assert "reach.service" in said


def test_a_published_page() -> None:
    """The page of a confined service is reached from the host and from outside, also when the tunnel's link is down."""
    serve = "python3 -m http.server --directory /usr/share/doc --bind 127.0.0.1 9091"
    (UNITS / "echo-web.service").write_text(f"[Service]\nDynamicUser=yes\nExecStart={serve}\n")
    for kind in ("socket", "service"):
        text = (EXAMPLES / f"publish.{kind}").read_text().replace("NAME", "demo")
        text = text.replace("ListenStream=127.0.0.1:9091", f"ListenStream=127.0.0.1:9091\nListenStream={HOST[0]}:9091")
        (UNITS / f"echo-publish.{kind}").write_text(text)
    configure()
    confine("echo-web.service", "demo")
    systemctl("enable", "echo-publish.socket")
    systemctl("start", "wg@demo.service")
    wait_for(lambda: state("echo-web.service") == state("echo-publish.socket") == "active")
    wait_for(lambda: "127.0.0.1:9091" in shell("ip netns exec demo ss -Hltn"))  # active is not listening yet
    for link in ("up", "down"):
        shell(f"ip -n demo link set demo {link}")
        for where, address in (("", "127.0.0.1"), ("ip netns exec internet ", HOST[0])):
            argv = [*where.split(), "python3", "-c", FETCH, address]
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            assert "200 OK" in done.stdout, (link, where, done.stderr)
    links = [line.split()[0] for line in shell("ip -n demo -br link").splitlines()]
    assert [link for link in links if link.partition("@")[0] not in ("sit0", "tunl0", "ip6tnl0")] == ["lo", "demo"]
    systemctl("stop", "netns@demo.service")
    assert (state("echo-publish.socket"), state("echo-publish.service")) == ("inactive", "inactive")
    systemctl("disable", "echo-publish.socket")
