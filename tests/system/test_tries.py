"""How often systemd tries a tunnel that fails, and when what is confined to it is started."""

from __future__ import annotations

import pytest

from tests.support import shell
from tests.system import guest
from tests.system.guest import PAUSE, UNITS, configure, confine, drop_in, failed, journal, state, systemctl, wait_for

pytestmark = pytest.mark.usefixtures("since")
WAYS = {
    "linked to the tunnel": ("wg@demo.service", "wg@demo.service"),
    "linked": ("wg-confined@demo.service", "wg@demo.service"),
    "linked for wg.service": ("wg-confined@wg.service", "wg.service"),
}


def units() -> None:
    """Write a service, and a socket with the service that it starts for each connection."""
    (UNITS / "echo-other.service").write_text("[Service]\nDynamicUser=yes\nExecStart=sleep infinity\n")
    (UNITS / "echo.socket").write_text("[Socket]\nListenStream=7777\nAccept=yes\n")
    (UNITS / "echo@.service").write_text("[Service]\nExecStart=cat /proc/self/net/dev\nStandardInput=socket\n")


@pytest.mark.parametrize(("way", "unit"), [*((way, "echo-other.service") for way in WAYS), ("linked", "echo.socket")])
def test_the_pause_between_two_tries(way: str, unit: str, since: str) -> None:
    """A tunnel that fails waits for RestartSec=, and the confined unit comes up with the first try that works.

    The control links the unit to the tunnel itself. There systemd does not wait.
    """
    helper, tunnel = WAYS[way]
    name = "wg" if tunnel == "wg.service" else "demo"
    units()
    guest.failing(tunnel, name)
    drop_in(unit, shell(f"wgns dropin {name} --unit {unit}").replace("wg@wg.service", "wg.service"), reload=False)
    systemctl("add-wants", helper, unit)
    systemctl("start", "--no-block", tunnel)
    wait_for(lambda: len(guest.pauses(tunnel, since)) >= 2, 240)
    pauses = guest.pauses(tunnel, since)
    assert (min(pauses) < PAUSE) is (helper == tunnel), pauses
    assert state(unit) == "inactive"
    guest.late()
    wait_for(lambda: state(unit) == state(tunnel) == "active", 240)
    assert failed() == []
    systemctl("stop", tunnel)
    assert state(unit) == "inactive"


def test_a_service_that_is_stopped_by_hand(since: str) -> None:
    """It stays stopped until the tunnel itself is started; another of its services does not stand for the tunnel."""
    units()
    configure()
    both = ("echo-other.service", "reach.service")
    for unit in both:
        confine(unit, "demo")
    systemctl("start", "wg@demo.service")
    wait_for(lambda: [state(unit) for unit in both] == ["active"] * 2, 120)
    for start in ("start", "restart"):  # a start of a tunnel that is active, too
        systemctl("stop", "reach.service")
        stopped = guest.cursor()
        systemctl("reload", "wg@demo.service")
        systemctl("start", "wgns-refresh.service", "netns@demo.service")
        systemctl("restart", "echo-other.service")
        systemctl("daemon-reload")
        assert "reach" not in journal(stopped, "reach.service")
        assert (state("reach.service"), state("echo-other.service")) == ("inactive", "active")
        systemctl(start, "wg@demo.service")
        wait_for(lambda: [state(unit) for unit in both] == ["active"] * 2, 120)


def test_any_number_of_starts() -> None:
    """A start of the tunnel waits for no confined service, and many starts do not use up those of wg-confined@."""
    units()
    configure()
    confine("echo-other.service", "demo")
    text = shell("wgns dropin demo --unit echo-other")
    drop_in("echo-other.service", f"{text}[Service]\nExecStartPre=sleep infinity\nTimeoutStartSec=infinity\n")
    for _ in range(8):  # more than the five in 10 s that are systemd's default
        systemctl("start", "wg@demo.service", seconds=60)
    assert state("echo-other.service") == "activating"
    assert failed() == []
