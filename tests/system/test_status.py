"""wgns status and refresh on a booted systemd: units that are active, failed or enabled, and what services see."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import shell
from tests.system.capture import ENDPOINT
from tests.system.guest import (
    UNITS,
    configure,
    confine,
    drop_in,
    journal,
    private_key,
    show,
    state,
    systemctl,
    wait_for,
)

pytestmark = pytest.mark.usefixtures("since")


def status() -> tuple[int, dict[str, Any]]:
    """The exit status and what is said of the tunnel demo."""
    done = subprocess.run(["wgns", "status", "demo", "--json"], capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout)["tunnels"][0]


def listed() -> tuple[int, str, str]:
    """The exit status of wgns status for all tunnels, its lines without the titles, and its message."""
    done = subprocess.run(["wgns", "status"], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.partition("\n")[2], done.stderr


def renewed(text: str) -> None:
    """Do as a DHCP client: rename a new file into place."""
    new = Path("/etc/resolv.conf.new")
    new.write_text(text)
    new.rename("/etc/resolv.conf")


def names_of(unit: str) -> str:
    """The resolv.conf that the main process of a unit sees."""
    return Path(f"/proc/{show(unit)['MainPID']}/root/etc/resolv.conf").read_text()


def stop_the_timer() -> None:
    """Let nothing but the test mend what the services see."""
    systemctl("stop", "wgns-refresh.timer")
    wait_for(lambda: state("wgns-refresh.service") == "inactive")


@pytest.fixture
def resolv_conf() -> Iterator[None]:
    """A host with a resolv.conf, which it has not otherwise."""
    Path("/etc/resolv.conf").write_text("# the host asks nobody\n")
    yield
    Path("/etc/resolv.conf").unlink()


def test_the_confined_service_is_inside() -> None:
    """With its unit and its main process, and nobody else is; the tunnel is alive and as configured."""
    configure()
    confine("reach.service", "demo")
    systemctl("start", "wg@demo.service")
    wait_for(lambda: state("reach.service") == "active")
    code, found = status()
    assert (code, found["faults"], found["differences"]) == (0, [], [])
    assert found["inside"] == {"reach.service": {show("reach.service")["MainPID"]: "python3"}}
    assert (found["unit"], found["unit_state"]) == ("wg@demo.service", "active")
    assert found["confined"] == {"reach.service": "confined"}
    code, lines, message = listed()
    assert (code, message) == (0, "")
    assert lines.startswith("demo  alive  "), lines
    assert lines.endswith("  reach.service\n"), lines


def test_who_is_inside_and_not_confined() -> None:
    """The article's way joins the namespace and nothing else: the first point that fails is beside it, and no fault."""
    configure()
    systemctl("start", "joined.service")
    wait_for(lambda: state("joined.service") == "active")
    code, found = status()
    assert (code, found["faults"]) == (0, [])
    assert found["confined"]["joined.service"].startswith("host: /proc/1/net shows the host's networks")
    assert "joined.service (not confined)" in listed()[1]


def test_a_unit_that_starts_in_the_open() -> None:
    """Where somebody took the settings of a drop-in away, the link by which the unit starts is a fault."""
    configure()
    confine("reach.service", "demo")
    systemctl("start", "wg@demo.service")
    wait_for(lambda: state("reach.service") == "active")
    (UNITS / "reach.service.d/wireguard.conf").write_text("")
    systemctl("daemon-reload")
    assert status()[1]["faults"] == []  # it has no other network yet
    systemctl("restart", "reach.service")
    code, found = status()
    assert (code, found["faults"]) == (1, ["reach.service starts with the tunnel and is not confined to it"])
    shell(*found["hints"])
    wait_for(lambda: state("reach.service") == "active")
    code, found = status()
    assert (code, found["faults"], found["confined"]) == (0, [], {"reach.service": "confined"})


def test_no_tunnel() -> None:
    """It says so, and what to do."""
    hint = "put the provider's file at /etc/wireguard/NAME.conf; systemctl enable --now wg@NAME"
    assert listed() == (69, "", f"wgns: there is no tunnel\nwgns: hint: {hint}\n")


def test_a_unit_that_has_failed() -> None:
    """It is a line and a status of 69, with the way to the reason."""
    configure(other={"PublicKey": "x"})
    assert systemctl("start", "wg@demo.service", check=False)
    wait_for(lambda: state("wg@demo.service") == "failed")
    code, lines, message = listed()
    assert (code, message.splitlines()[0]) == (69, 'wgns: "demo": wg@demo.service has failed (exit-code)')
    assert lines.split()[:2] == ["demo", "fault"]
    assert "journalctl -u wg@demo tells why" in message
    code, found = status()
    assert (code, found["unit_state"], found["present"]) == (69, "failed", False)


def test_a_unit_that_is_enabled_and_stopped() -> None:
    """It is expected to be there, by whatever name; one that is disabled and stopped is not."""
    configure("my-vpn")
    name = "wg@my\\x2dvpn.service"
    systemctl("enable", name)
    code, lines, message = listed()
    systemctl("disable", name)
    assert (code, lines.split()[0]) == (69, "my-vpn")
    assert message.startswith(f'wgns: "my-vpn": {name} is enabled, but it is not running\n'), message
    assert "systemctl start 'wg@my\\x2dvpn'" in message
    assert listed()[0] == 69
    assert "there is no tunnel" in listed()[2]


def test_a_unit_that_is_starting() -> None:
    """While the start waits for a handshake, the tunnel is no tunnel yet."""
    configure()
    drop_in("wg@demo.service", "[Service]\nEnvironment='WG_UP_OPTIONS=--wait-handshake=600'\n")
    shell("ip -n far link set wg0 down")
    systemctl("start", "--no-block", "wg@demo.service")
    wait_for(lambda: "demo" in shell("ls /run/netns"))
    code, found = status()
    shell("ip -n far link set wg0 up; ip -n far -6 address replace fd00:64::1/64 dev wg0")
    assert (code in (1, 69), found["faults"][0]) == (True, "wg@demo.service is starting")
    wait_for(lambda: state("wg@demo.service") == "active")
    assert status()[0] == 0


def test_a_provider_that_does_not_answer() -> None:
    """Before the first packet nothing is wrong; after it, the hint is that of a start that waits for a handshake."""
    configure()
    shell("ip -n far link set wg0 down")
    systemctl("start", "wg@demo.service")
    code, found = status()
    assert (code, found["peers"][0]["state"]) == (0, "waiting")
    assert listed()[1].split()[:2] == ["demo", "waiting"]
    shell("ip netns exec demo ping -c 1 -W 1 10.64.0.1 || :")
    code, _, message = listed()
    shell("ip -n far link set wg0 up; ip -n far -6 address replace fd00:64::1/64 dev wg0")
    assert (code, "has never answered" in message) == (1, True), message
    assert "hint: are the keys right, and known to the provider?" in message


def test_a_link_that_is_deleted() -> None:
    """The hint mends it, and so it does with a namespace that has lost its name."""
    configure()
    systemctl("start", "wg@demo.service")
    shell("ip -n demo link delete demo")
    code, _, message = listed()
    assert (code, message) == (
        69,
        'wgns: "demo": there is no such WireGuard link\nwgns: hint: systemctl reload wg@demo\n',
    )
    shell("systemctl reload wg@demo")
    assert listed()[0] == 0
    shell("ip netns delete demo")
    code, _, message = listed()
    assert (code, message.splitlines()) == (
        69,
        ['wgns: "demo": there is no network namespace "demo"', "wgns: hint: systemctl restart netns@demo"],
    )
    shell("systemctl restart netns@demo")
    wait_for(lambda: state("wg@demo.service") == "active")
    assert listed()[0] == 0


def test_differences_and_what_mends_them() -> None:
    """The hint is a reload where the unit is active, and it does it."""
    configure()
    systemctl("start", "wg@demo.service")
    configure(other={"ListenPort": "40009"})
    code, _, message = listed()
    assert (code, message.splitlines()) == (
        1,
        ['wgns: "demo": not as configured: listen port 40009', "wgns: hint: systemctl reload wg@demo"],
    )
    shell("systemctl reload wg@demo")
    assert listed()[0] == 0


def test_a_new_resolv_conf_in_the_host(since: str, resolv_conf: None) -> None:
    """What a DHCP client takes away from a service that runs, status reports and the timer's service gives back."""
    configure()
    confine("reach.service", "demo")
    systemctl("start", "wg@demo.service")
    wait_for(lambda: state("reach.service") == "active")
    process = show("reach.service")["MainPID"]
    assert "nameserver 10.64.0.1\n" in names_of("reach.service")
    stop_the_timer()
    renewed("nameserver 198.51.100.99\n")
    assert names_of("reach.service") == "nameserver 198.51.100.99\n"
    code, found = status()
    lacks = "resolv.conf: /etc/resolv.conf is not the one that wg-up demo wrote"
    assert (code, found["confined"]) == (1, {"reach.service": lacks})
    assert found["faults"] == [f"reach.service: {lacks}"]
    assert "hint: wgns refresh demo; if that does not help: systemctl restart reach.service" in listed()[2]
    systemctl("start", "wgns-refresh.timer")
    wait_for(lambda: "nameserver 10.64.0.1\n" in names_of("reach.service"), 120)
    stop_the_timer()
    assert show("reach.service")["MainPID"] == process
    assert status()[0] == 0
    assert '"demo": reach.service sees the tunnel\'s resolv.conf again' in journal(since, "wgns-refresh")
    assert state("wgns-refresh.service") != "failed"
    shell("cp /etc/nsswitch.conf /etc/nsswitch.conf.new; mv /etc/nsswitch.conf.new /etc/nsswitch.conf")
    assert status()[1]["confined"]["reach.service"].startswith("nsswitch.conf: ")
    shell("wgns refresh demo")
    assert status()[0] == 0


def test_a_new_resolv_conf_that_cannot_be_mended(resolv_conf: None) -> None:
    """A scope can be given no mount: status says what helps; refresh leaves it alone, and who never had the file."""
    configure()
    systemctl("start", "wg@demo.service", "joined.service")
    stop_the_timer()
    command = "systemd-run --quiet --scope --unit=inside wgns exec demo --user root sleep 600"
    with subprocess.Popen(command.split()) as scope:
        wait_for(lambda: status()[1]["confined"].get("inside.scope") == "confined")
        renewed("nameserver 198.51.100.99\n")
        code, found = status()
        done = subprocess.run(["wgns", "refresh"], capture_output=True, text=True, check=False)
        systemctl("stop", "inside.scope")
        scope.wait()
    assert (code, found["confined"]["inside.scope"][:13]) == (1, "resolv.conf: ")
    assert found["hints"] == ["start the command again"]
    assert (done.returncode, done.stderr) == (0, "")


def test_a_key_that_is_a_credential(tmp_path: Path) -> None:
    """The configuration can be compared, and its names looked up again, where only the unit has the key."""
    path = configure(other={"PrivateKey": "", "Endpoint": f"far.example:{ENDPOINT[1]}"})
    (tmp_path / "key").write_text(private_key(1))
    hosts = Path("/etc/hosts").read_text()
    Path("/etc/hosts").write_text(f"{hosts}\n203.0.113.77 far.example\n")
    drop_in("wg@.service", f"[Service]\nLoadCredential=private-key:{tmp_path}/key\n")
    try:
        systemctl("start", "wg@demo.service")
        code, found = status()
        assert (code, found["differences"]) == (0, []), path.read_text()
        Path("/etc/hosts").write_text(f"{hosts}\n{ENDPOINT[0]} far.example\n")
        shell("systemd-run --quiet --wait --pipe --property=PrivateTmp=yes wgns refresh")  # to which it is hidden
        shell("ip netns exec demo ping -c 1 -W 20 10.64.0.1")
        assert status()[0] == 0
    finally:
        Path("/etc/hosts").write_text(hosts)
