"""What nix/module.nix writes, on a booted systemd: services with the settings of NixOS's own modules, and rebuilds.

Nix evaluates tests/nix/services.nix where tests/booted runs, and the machine gets the result as a file.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support import ROOT, shell
from tests.system import guest
from tests.system.guest import UNITS, private_key, public_key, show, state, systemctl, wait_for
from tests.system.leak import MEMBER

SYSTEMS = Path("/root/files/nixos.json")
CURRENT = Path("/run/current-system")
PROGRAMS = {"env": "/usr/bin/env", "wgns": "/usr/local/bin/wgns"}  # as in its sw/bin
SERVICES = (
    *("autobrr", "bitmagnet", "deluged", "delugeweb", "dnsmasq", "ipfs", "jackett", "jellyfin", "microsocks"),
    *("privoxy", "qbittorrent", "rtorrent", "sabnzbd", "sonarr", "tor", "transmission", "unbound"),
)
System = dict[str, Any]

pytestmark = pytest.mark.skipif(
    not SYSTEMS.exists(), reason="nix-instantiate is missing where tests/booted runs (on Debian: nix-bin)"
)


class After(NamedTuple):
    """What a rebuild leads to: services that stop or start, those in the tunnel, and open ports on both sides."""

    again: set[str]
    confined: set[str]
    host: set[str]
    inside: set[str]


REBUILDS = {
    "publish-added": After(set(), {"web"}, {"127.0.0.1:9091", "*:8000"}, set()),
    "publish-changed": After(set(), {"web"}, {"127.0.0.1:9092", "*:8000"}, set()),
    "publish-removed": After(set(), {"web"}, {"*:8000"}, set()),
    "confined-while-running": After({"late"}, {"web", "late"}, {"*:8000"}, set()),
    "released": After({"late"}, {"web"}, {"*:8000"}, set()),
    "confined-behind-a-socket": After({"radio"}, {"web"}, set(), {"*:8000"}),
    "confined-idle-behind-a-socket": After(set(), {"web"}, set(), {"*:8000"}),
    "package-updated": After(set(), {"web"}, {"*:8000"}, set()),
}
PORTS = (":8000", ":9091", ":9092")
WATCHED = ("late", "radio", "web", "wg@demo", "netns@demo")


@pytest.fixture(scope="module")
def systems() -> Iterator[dict[str, Any]]:
    """What Nix has made, and what all of that needs of a machine."""
    made = json.loads(SYSTEMS.read_text())
    shutil.copy(ROOT / "tests/system/stand_in.py", "/usr/local/lib/")
    for path in ("/run/postgresql", "/run/secrets"):
        Path(path).mkdir(exist_ok=True)
    Path("/run/secrets/autobrr").write_text("secret")
    shell("useradd --create-home seeder; mkdir /usr/local/new; ln -s /usr/local/bin /usr/local/new/bin")
    key = Path("/root/demo.key")
    key.touch(mode=0o600)
    key.write_text(private_key(1))
    systemctl("start", "dns@far")
    yield made
    switch({"package": "", "units": {}, "wants": {}, "etc": {}, "activation": ""})
    systemctl("stop", "dns@far")
    shell("rm -r /usr/local/new /root/demo.key; userdel --remove seeder 2> /dev/null")
    guest.clean()
    assert (guest.leftovers(), guest.failed()) == ([], [])


# ---- The rules of switch-to-configuration-ng

installed: System = {"units": {}}
written: list[Path] = []


def install(system: System) -> None:
    """Replace what is in /etc, and the current system."""
    for path in written:
        path.unlink()
    written.clear()
    texts = {UNITS / name: text for name, text in system["units"].items()}
    texts |= {Path("/etc") / name: text for name, text in system["etc"].items()}
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    links = {UNITS / f"{target}.wants" / unit for target, units in system["wants"].items() for unit in units}
    for link in links:
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(f"../{link.name}")
    written.extend([*texts, *links])
    CURRENT.unlink(missing_ok=True)
    if system["package"]:
        programs = Path(f"{system['package']}/lib/nixos/sw/bin")
        programs.mkdir(parents=True, exist_ok=True)
        for name, program in PROGRAMS.items():
            (programs / name).unlink(missing_ok=True)
            (programs / name).symlink_to(program)
        CURRENT.symlink_to(programs.parent.parent)


def files(system: System, unit: str) -> list[str]:
    """A unit's own files."""
    return sorted(name for name in system["units"] if name == unit or name.startswith(f"{unit}.d/"))


def settings(system: System, unit: str) -> list[str]:
    """The lines that count, of the template too."""
    units, own = system["units"], files(system, unit)
    template = [] if unit in own else files(system, re.sub(r"@[^.]*\.", "@.", unit))
    lines = [line for name in dict.fromkeys([*template, *own]) for line in units[name].splitlines()]
    return [line for line in lines if line and not re.match("#|Description=|Documentation=", line)]


def switch(new: System) -> None:
    """Go over to another system."""
    old = dict(installed)
    listed = shell("systemctl list-units --all --plain --no-legend --state=active,activating,reloading")
    active = {line.split()[0] for line in listed.splitlines()}
    stop, start, reload = [], ["multi-user.target", "sockets.target"], []
    for unit in sorted(active):
        before, after = settings(old, unit), settings(new, unit)
        if before and (not after or (files(old, unit) and not files(new, unit))):
            stop.append(unit)
        elif before == after or unit.endswith(".socket"):
            pass
        elif "X-ReloadIfChanged=true" in after:
            reload.append(unit)
        elif "X-RestartIfChanged=false" not in after:
            named = " ".join(line.removeprefix("Sockets=") for line in after if line.startswith("Sockets="))
            sockets = (named or unit.replace(".service", ".socket")).split()
            stop += [unit, *active.intersection(sockets)]
            start += [each for each in sockets if settings(new, each)] or [unit]
    if stop:
        systemctl("stop", *stop)
    install(new)
    shell(new["activation"])
    systemctl("reset-failed")
    systemctl("daemon-reload")
    if reload:
        systemctl("reload", *reload)
    systemctl("start", *start)
    installed.clear()
    installed.update(new)
    wait_for(lambda: "No jobs" in shell("systemctl list-jobs"), 240)


# ---- The services


def reports(since: str) -> dict[str, Any]:
    """What each stand-in has printed last, by its unit."""
    found = {}
    argv = ["journalctl", "-q", "-o", "json", f"--after-cursor={since}", "_COMM=python3", '-g^{"namespace"']
    for line in subprocess.run(argv, capture_output=True, text=True, check=False).stdout.splitlines():
        entry = json.loads(line)
        found[entry["_SYSTEMD_UNIT"].removesuffix(".service")] = json.loads(entry["MESSAGE"])
    return found


class Booted(NamedTuple):
    """All services, started at once with their tunnel."""

    system: System
    reports: dict[str, Any]
    status: str


@pytest.fixture(scope="module")
def booted(systems: dict[str, Any]) -> Booted:
    """They have printed what they see, or have not within a minute."""
    began = guest.cursor()
    switch(systems["services"])
    found: dict[str, Any] = {}

    def all_are_there() -> bool:
        found.update(reports(began))
        return found.keys() >= {*SERVICES}

    try:
        wait_for(all_are_there, 120)
    except AssertionError:
        print(guest.journal(began))
    return Booted(systems["services"], found, shell("wgns status demo || :"))


def test_every_service_is_there(booted: Booted) -> None:
    """All that Nix has confined is in the table, and nothing is refused."""
    confined = re.findall(r"(\S+)\.service\.d/wireguard\.conf", " ".join(booted.system["units"]))
    assert (booted.system["failed"], sorted(confined)) == ([], sorted(SERVICES))
    assert f"PublicKey = {public_key(0)}\n" in booted.system["etc"]["wireguard/demo.conf"]


@pytest.mark.parametrize("name", SERVICES)
def test_service(name: str, booted: Booted, record_property: Callable[[str, object], None]) -> None:
    """The service runs in the tunnel, the check finds it confined, and the tunnel's name server answers it."""
    unit = f"{name}.service"
    found = booted.reports.get(name, {})
    check = subprocess.run(["wgns", "check", "demo", "--unit", unit], capture_output=True, text=True, check=False)
    inside = found.get("namespace") == guest.namespace_of(unit) == os.stat("/run/netns/demo").st_ino
    row = {
        "evaluates": f"{unit}.d/wireguard.conf" in booted.system["units"],
        "boots": state(unit) == "active" and inside and found.get("far"),
        "check": not check.returncode and f"{unit}, confined" in booted.status,
        "names": found.get("name") == sorted(MEMBER),
    }
    record_property("nixos", (name, *("yes" if value else "no" for value in row.values())))
    assert set(row.values()) == {True}, (row, found, check.stderr, booted.status)


def test_sockets_by_another_name_listen_inside(booted: Booted) -> None:
    """Those of ipfs are its own by Sockets= alone."""
    inside, host = shell("ip netns exec demo ss -Hltn"), shell("ss -Hltn")
    assert [port for port in (":5001 ", ":8081 ") if port not in inside or port in host] == []


# ---- Rebuilds


def listening(namespace: str) -> set[str]:
    """The ports of the rebuilds on which somebody listens."""
    lines = shell(f"{namespace} ss -Hltn").splitlines()
    return {address for line in lines if (address := line.split()[3]).endswith(PORTS)}


def starts() -> dict[str, str]:
    """Whether each unit runs, and since which start."""
    units = [f"{name}.service" for name in WATCHED]
    shown = [shell(f"systemctl show -p InvocationID,ActiveState {unit}") for unit in units]
    return dict(zip(WATCHED, shown, strict=True))


@pytest.mark.parametrize("case", REBUILDS)
def test_rebuild(case: str, systems: dict[str, Any]) -> None:
    """The rebuild starts what it has to, in its place, and nothing else anew."""
    expected, pair = REBUILDS[case], systems["rebuilds"][case]
    assert pair["old"]["failed"] == pair["new"]["failed"] == []
    if installed != pair["old"]:  # a former case has often led to it
        # A socket that is no longer confined stays where it is
        systemctl("stop", "radio.socket", "radio.service", check=False)
        switch(pair["old"])
    if case == "confined-behind-a-socket":
        shell("python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", 8000), 20)'")
        wait_for(lambda: state("radio") == "active")
    before = starts()
    switch(pair["new"])
    after = starts()
    inode = os.stat("/run/netns/demo").st_ino
    assert {name for name in WATCHED if before[name] != after[name]} == expected.again
    assert {name for name in WATCHED if guest.namespace_of(f"{name}.service") == inode} == expected.confined
    assert (listening(""), listening("ip netns exec demo")) == (expected.host, expected.inside)
    assert guest.failed() == []


def test_a_rebuild_that_would_leave_a_service_in_the_host(systems: dict[str, Any]) -> None:
    """By these rules it goes on where it is, so the module refuses it."""
    pair = systems["rebuilds"]["left-running"]
    assert ["would leave it running in the host's network" in text for text in pair["new"]["failed"]] == [True]
    switch(pair["old"])
    before = starts()
    switch(pair["new"])
    assert (starts(), guest.namespace_of("late.service")) == (before, os.stat("/proc/self/ns/net").st_ino)
    assert show("late.service")["ActiveState"] == "active"
