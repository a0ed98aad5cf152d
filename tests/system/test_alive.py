"""A tunnel that waits for what it needs, and mends itself."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support import shell
from tests.system import guest
from tests.system.capture import ENDPOINT, ENDPOINT_NAME
from tests.system.guest import configure, confine, journal, show, state, systemctl, wait_for
from tests.system.leak import RESOLVER

pytestmark = pytest.mark.usefixtures("since")


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
