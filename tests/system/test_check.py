"""wgns on a booted systemd: under the restrictions of units, and for units that it looks at."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support import shell
from tests.system.guest import UNITS, configure, systemctl

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
REMARKS = {"no sockets at all": "?   links", "hidden processes": "?   host"}


def settings() -> list[str]:
    """What the drop-in sets in [Service], for systemd-run(1)."""
    lines = shell("wgns dropin demo").partition("[Service]\n")[2].splitlines()
    return [f"--property={line}" for line in lines if not line.startswith("ExecStartPre=")]


def check(*properties: str) -> tuple[int, str]:
    """The exit status of wgns check as an unprivileged service with these settings, and what it says."""
    argv = ["systemd-run", "--quiet", "--wait", "--pipe", "--property=DynamicUser=yes", *properties]
    done = subprocess.run([*argv, "wgns", "check", "demo"], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_it_proves_under_the_restrictions_of_a_unit() -> None:
    """An unprivileged service is told yes, whatever it is not allowed; what cannot be seen then is said."""
    configure()
    systemctl("start", "wg@demo.service")
    for name, restriction in RESTRICTIONS.items():
        status, said = check(*settings(), *(f"--property={one}" for one in restriction))
        assert status == 0, said
        assert [line[:8].strip() for line in said.splitlines() if line.startswith("?")] == [
            remark[:8].strip() for case, remark in REMARKS.items() if case == name
        ], said
    status, said = check(*(one for one in settings() if "TemporaryFileSystem" not in one))
    assert (status, "NO  sockets: /run/dbus/system_bus_socket" in said) == (1, True), said
    status, said = check(*(one for one in settings() if "NetworkNamespacePath" not in one))
    assert (status, "NO  host: this is the host's network namespace" in said) == (1, True), said


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
    # A person is in a scope, not in a service
    assert "yes links: demo is up" in shell("systemd-run --quiet --scope wgns check demo")
