"""How the machine boots with forty tunnels and a confined service enabled, which have been used before.

Another tunnel fails at first, with a service and a socket that are enabled as well.
"""

from __future__ import annotations

from pathlib import Path

from tests.support import shell
from tests.system import guest
from tests.system.guest import TUNNELS, UNITS, configure, confine, failed, show, state, systemctl, wait_for
from tests.system.leak import HOST

NAMES = ["demo", *(f"t{number}" for number in range(2, TUNNELS + 1))]
LATE = ("late.service", "late-echo.socket")


def test_a_tunnel_that_fails_at_first() -> None:
    """The boot does not wait for it, nor is it tried without a pause; when its cause is gone, all of it comes up."""
    wait_for(lambda: len(guest.pauses("wg@late.service")) >= 2, 240)
    assert min(guest.pauses("wg@late.service")) >= guest.PAUSE
    assert state("multi-user.target") == "active"
    assert [state(unit) for unit in LATE] == ["inactive"] * 2
    guest.late()
    wait_for(lambda: [state(unit) for unit in LATE] == ["active"] * 2, 240)
    assert guest.namespace_of("late.service") == Path("/run/netns/late").stat().st_ino
    assert ":7777" in shell("ip netns exec late ss -Hltn")
    shell("ip netns exec late ping -c 1 -W 20 10.64.0.1")


def test_all_tunnels_come_up_by_themselves() -> None:
    """Forty tunnels that are enabled at once are all up after the boot, each shakes hands, and no unit has failed."""
    wait_for(lambda: [name for name in NAMES if state(f"wg@{name}.service") != "active"] == [], 120)
    for name in NAMES:
        shell(f"ip netns exec {name} ping -c 1 -W 20 10.64.0.1")
    assert failed() == []


def test_in_the_right_order() -> None:
    """The confined service was started after its tunnel, which was started after the namespace and the network."""
    wait_for(lambda: state("reach.service") == "active")
    chain = ["netns@demo.service", "wg@demo.service", "reach.service"]
    started = [int(show(unit)["ExecMainStartTimestampMonotonic"]) for unit in chain]
    ready = [int(show(unit)["ActiveEnterTimestampMonotonic"]) for unit in chain]
    assert ready[0] <= started[1]
    assert ready[1] <= started[2]
    assert int(show("network-online.target")["ActiveEnterTimestampMonotonic"]) <= started[1]
    assert ready[0] <= int(show("network.target")["ActiveEnterTimestampMonotonic"])


def test_the_confined_service_reaches_the_far_side_only() -> None:
    """In this boot, it sees lo and its tunnel, reaches what is behind it, and nothing in the host."""
    assert guest.report()["boot"] == Path("/proc/sys/kernel/random/boot_id").read_text()
    guest.reaches_the_far_side_only()


def test_doors_are_open_again() -> None:
    """A published port and one of the host that is reached answer in this boot, too."""
    wait_for(lambda: [state(f"{door}.socket") for door in ("publish-demo-8090", "reach-demo-8081")] == ["active"] * 2)
    for where, port in (("", 8090), ("ip netns exec demo", 8081)):
        code = f"import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:{port}/', timeout=60).status)"
        assert shell(f'{where} python3 -c "{code}"') == "200\n"


def test_a_stop_of_all_leaves_nothing() -> None:
    """Stopping the forty namespaces takes tunnels and services along; no unit fails, nothing is left."""
    # Again if systemd was too busy to answer in time
    wait_for(lambda: systemctl("stop", "netns@*.service", check=False, seconds=900) == 0, 900)
    assert (state("reach.service"), failed(), guest.leftovers()) == ("inactive", [], [])


def prepare() -> None:
    """Before the boot: configure and enable them."""
    for number, name in enumerate(NAMES, 1):
        configure(name, number)
    confine("reach.service", "demo")
    shell(f"wgns publish demo 8090 10.64.0.1:80; wgns reach demo 8081 {HOST[0]}:81")
    guest.failing("wg@late.service", "late", TUNNELS + 1)
    run = "ExecStart=sleep infinity\n[Install]\nWantedBy=multi-user.target\n"
    listen = "ListenStream=7777\nAccept=yes\n[Install]\nWantedBy=sockets.target\n"
    (UNITS / "late.service").write_text(f"[Service]\nDynamicUser=yes\n{run}")
    (UNITS / "late-echo.socket").write_text(f"[Socket]\n{listen}")
    (UNITS / "late-echo@.service").write_text("[Service]\nExecStart=true\n")
    confine(LATE[0], "late", *LATE[1:], "late-echo@.service")
    systemctl("enable", "reach.service", *LATE, "wg@late.service", *(f"wg@{name}.service" for name in NAMES))


if __name__ == "__main__":
    prepare()
