"""wgns on a booted systemd: under the restrictions of units, and for units that it looks at."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import shell
from tests.system import guest
from tests.system.guest import UNITS, configure, confine, journal, settings, state, systemctl, wait_for

pytestmark = pytest.mark.usefixtures("since")

RESTRICTIONS = {
    "none": (),
    "no netlink": ("RestrictAddressFamilies=AF_UNIX",),
    "no sockets at all": ("RestrictAddressFamilies=~AF_UNIX AF_INET AF_INET6 AF_NETLINK",),
    "hidden processes": ("ProtectProc=invisible", "ProcSubset=pid"),
    "a strict unit": (
        "PrivateUsers=yes",
        "ProtectSystem=strict",
        "ProtectHome=yes",
        "PrivateTmp=yes",
        "PrivateDevices=yes",
        "MemoryDenyWriteExecute=yes",
        "SystemCallFilter=@system-service",
        "NoNewPrivileges=yes",
        "LockPersonality=yes",
        "ProtectKernelTunables=yes",
        "ProtectControlGroups=yes",
        "RestrictNamespaces=yes",
        "CapabilityBoundingSet=",
    ),
}
REMARKS = {"hidden processes": "?   forwarding"}


def check(*properties: str, user: tuple[str, ...] = ("--property=DynamicUser=yes",)) -> tuple[int, str]:
    """The exit status of wgns check as a service with these settings, unprivileged by default, and what it says."""
    argv = ["systemd-run", "--quiet", "--wait", "--pipe", *user, *properties]
    done = subprocess.run([*argv, "wgns", "check", "demo"], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_it_proves_under_the_restrictions_of_a_unit() -> None:
    """An unprivileged service is told yes, whatever it is not allowed; what cannot be seen then is said."""
    configure()
    systemctl("start", "wg@demo.service")
    for name, restriction in RESTRICTIONS.items():
        status, said = check(*(f"--property={one}" for one in restriction), *settings())
        assert status == 0, said
        remarks = [line.partition(":")[0] for line in said.splitlines() if line.startswith("?")]
        expected = [remark for case, remark in REMARKS.items() if case == name]
        assert remarks == [*expected, "?   inbound"], said  # the filter, which only root can see


WITHOUT = {
    "TemporaryFileSystem": "NO  sockets: /run/dbus/system_bus_socket",
    "NetworkNamespacePath": "NO  namespace: network namespace",
    "CapabilityBoundingSet": "NO  capabilities: CAP_DAC_READ_SEARCH, CAP_NET_ADMIN",
    "NoNewPrivileges": "NO  no_new_privs: set-id programs would run",
    "SystemCallFilter": "NO  keyrings: ",
    "ProtectProc": "NO  host: /proc/1/net shows the host's networks",
    "BindReadOnlyPaths": "NO  resolv.conf: /etc/resolv.conf is not the one",
}


@pytest.mark.parametrize("setting", WITHOUT)
def test_each_setting_of_the_drop_in_is_needed(setting: str) -> None:
    """Without one of them the check says no, by name, to a service of root's that sets nothing itself."""
    configure()
    systemctl("start", "wg@demo.service")
    status, said = check(*(one for one in settings() if setting not in one), user=())
    assert (status, WITHOUT[setting] in said) == (1, True), said


def test_names_that_the_machine_knows_itself() -> None:
    """A dynamic user has a name inside, and the host's own name and localhost are asked of nobody."""
    configure()
    systemctl("start", "wg@demo.service")
    hosts = Path("/etc/hosts")
    former = hosts.read_text()
    hosts.write_text("")
    script = "id -un; getent ahosts $(hostname); getent ahosts localhost"
    argv = ["systemd-run", "--quiet", "--wait", "--pipe", "--unit=echo-names", "--property=DynamicUser=yes"]
    try:
        done = subprocess.run([*argv, *settings(), "sh", "-c", script], capture_output=True, text=True, check=False)
    finally:
        hosts.write_text(former)
    assert done.returncode == 0, done.stderr
    user, *addresses = done.stdout.splitlines()
    assert user == "echo-names"
    assert {"127.0.0.1", "::1"} <= {line.split()[0] for line in addresses}


def test_it_judges_units() -> None:
    """Root asks of a running unit from outside: yes of one that is confined, no of one that is not."""
    configure()
    confine("reach.service", "demo")
    systemctl("start", "wg@demo.service")
    wait_for(lambda: state("reach.service") == "active")
    for arguments, status, words in (
        ("check demo --unit reach", 0, "yes links: there is nothing but lo and the WireGuard link demo"),
        ("check --unit reach.service", 0, "yes capabilities"),
        ("check demo --unit reach", 0, "yes inbound: open to the far side: no port"),
        ("check demo --unit host-web", 1, "NO  namespace"),
        ("check demo --unit house", 1, "has no main process"),
        ("check demo --unit nobody-knows", 69, "systemd knows no"),
    ):
        done = subprocess.run(["wgns", *arguments.split()], capture_output=True, text=True, check=False)
        assert (done.returncode, words in done.stdout + done.stderr) == (status, True), (arguments, done)


@pytest.mark.parametrize("how", ["", "systemd-run --quiet --scope", "systemd-run --quiet --wait --pipe"])
def test_who_asks_in_the_host_hears_no(how: str) -> None:
    """By hand, in a scope as cron(8) and a login have one, and as a service: none of these processes is confined."""
    configure()
    systemctl("start", "wg@demo.service")
    done = subprocess.run([*how.split(), "wgns", "check", "demo"], capture_output=True, text=True, check=False)
    assert (done.returncode, "NO  host: this is the host's network namespace" in done.stdout) == (1, True), done


FORGED = "import os, sys\nif 'check' in sys.argv: os.write(1, b'yes to all\\n'); os._exit(0)\n"


@pytest.mark.parametrize("place", ["the environment", "the user's home", "the search path"])
def test_a_forged_answer(place: str, since: str) -> None:
    """What a unit's environment or its user's home has for Python is not for the check, which says no as it should."""
    python = f"python3.{sys.version_info.minor}"
    shell("useradd --create-home forger")
    home = Path("/home/forger")
    try:
        library = home if place == "the environment" else home / f".local/lib/{python}/site-packages"
        library.mkdir(parents=True, exist_ok=True)
        for name in ("sitecustomize.py", "usercustomize.py"):
            (library / name).write_text(FORGED)
        (home / "wgns").write_text("#!/bin/sh\necho yes to all\n")
        (home / "wgns").chmod(0o755)
        shell("chown -R forger /home/forger")
        environment = {"the environment": f"PYTHONPATH={home}", "the search path": f"PATH={home}:/usr/bin"}
        configure()
        confine("reach.service", "demo")
        more = f"[Service]\nDynamicUser=no\nUser=forger\nEnvironment={environment.get(place, 'A=')}\n"
        (UNITS / "reach.service.d/zz.conf").write_text(f"{more}TemporaryFileSystem=\n")
        systemctl("start", "wg@demo.service")
        assert systemctl("restart", "reach.service", check=False) != 0
        wait_for(lambda: state("reach.service") == "failed")
        said = journal(since, "reach")
        assert "NO  sockets: " in said
        assert "yes to all" not in said
    finally:
        (UNITS / "reach.service.d/zz.conf").unlink(missing_ok=True)
        systemctl("stop", "reach.service")
        shell("userdel --remove forger 2> /dev/null")


def test_a_failure_is_no_skipped_start(since: str) -> None:
    """Where systemd cannot set up even the check (225/NETWORK), and where that says no, the unit has failed."""
    configure()
    confine("reach.service", "demo")
    systemctl("start", "wg@demo.service")
    wait_for(lambda: state("reach.service") == "active")
    for damage, words in (
        ("ip -n demo link add later type dummy", "NO  links: besides lo and demo there is later"),
        (
            "ip -n demo link delete later; ip -n demo link delete demo",
            "NO  links: demo is gone: there is nothing but lo",
        ),
        ("umount /run/netns/demo", "status=225/NETWORK"),
    ):
        shell(damage)
        assert systemctl("restart", "reach.service", check=False) != 0
        assert state("reach.service") == "failed"
        assert words in journal(since, "reach")


@pytest.mark.parametrize("setting", ["PrivatePIDs=yes\nDynamicUser=no", "PrivateUsers=yes", "PrivateIPC=yes"])
def test_a_unit_with_further_namespaces(setting: str) -> None:
    """A unit that is PID 1 of its own PID namespace, or has other namespaces of its own, starts confined."""
    configure()
    confine("reach.service", "demo")
    (UNITS / "reach.service.d/zz.conf").write_text(f"[Service]\n{setting}\n")
    try:
        systemctl("start", "wg@demo.service")
        wait_for(lambda: state("reach.service") == "active")
        guest.reaches_the_far_side_only()
    finally:
        (UNITS / "reach.service.d/zz.conf").unlink()


def test_a_drop_in_that_is_made_again() -> None:
    """A unit that is confined already gets the same text: what the drop-in resets is not taken for the unit's own."""
    first = shell("wgns dropin demo --unit nginx")
    assert first.endswith("PIDFile=\n")
    configure()
    confine("nginx.service", "demo")
    assert shell("wgns dropin demo --unit nginx") == first


@pytest.mark.parametrize("setting", ["KillMode=process", "PAMName=login"])  # systemd refuses both at once
def test_what_a_drop_in_cannot_hold_is_said(setting: str) -> None:
    """KillMode=, PAMName=, a command with + and no User= each get a warning."""
    (UNITS / "echo-left.service").write_text(f"[Service]\nExecStart=true\n{setting}\nExecStartPre=+true\n")
    systemctl("daemon-reload")
    argv = ["wgns", "dropin", "demo", "--unit", "echo-left"]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stderr
    assert [word for word in (setting, "+ in ExecStartPre= runs", "starts as root") if word not in said] == []
    assert "warning" not in shell("wgns dropin demo --unit reach 2>&1")


def test_units_that_it_looks_at() -> None:
    """A unit on the system bus is refused with a hint, an unknown one too; a template is looked at by an instance."""
    (UNITS / "echo-bus.service").write_text("[Service]\nType=dbus\nBusName=org.example.Echo\nExecStart=true\n")
    (UNITS / "echo@.service").write_text("[Service]\nExecStart=true\n")
    systemctl("daemon-reload")
    for unit, status, words in (
        ("echo-bus", 1, "is on the system bus (Type=dbus)"),
        ("nobody-knows", 69, 'systemd knows no "nobody-knows.service"'),
        ("echo@", 0, "# Save as /etc/systemd/system/echo@.service.d/wireguard.conf, then:"),
    ):
        argv = ["wgns", "dropin", "demo", "--unit", unit]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert (done.returncode, words in done.stdout + done.stderr) == (status, True), done.stderr


def test_a_command_by_hand() -> None:
    """A person's command reaches the far side by the tunnel only, looks names up there, and is not root."""
    configure()
    systemctl("start", "wg@demo.service")
    Path("/run/secret").touch()
    reach = 'import socket; socket.create_connection(("10.64.0.1", 80), 20)'
    script = f"id -u; python3 -c '{reach}' && echo far; ls /run; grep -o nameserver.* /etc/resolv.conf"
    argv = ["wgns", "exec", "demo", "--user", "nobody", "sh", "-c", script]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert said.split() == ["65534", "far", "netns", "systemd", "nameserver", "10.64.0.1"]
    shell("rm /run/secret")
    ping = shell("wgns exec demo --user nobody ping -c 1 -W 20 10.64.0.1")  # a user's, by ping_group_range
    assert "1 received" in ping
