"""The unit files and the templates of drop-ins: what they set, and why."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from tests.support import ROOT
from wgns_helpers import check
from wgns_helpers.exec import _FAMILIES

KINDS = ("conf", "service", "socket")  # of the templates in the package
FILES = sorted([*ROOT.glob("systemd/*.*"), *(p for kind in KINDS for p in ROOT.glob(f"wgns_helpers/*.{kind}"))])
FILES = [path for path in FILES if path.is_file()]  # systemd/modules-load.d is no unit
SERVICES = [path for path in FILES if path.name.endswith("service") or path.name == "confined-service.conf"]
SECTIONS = ("Unit", "Service", "Socket", "Timer", "Install")

# The order of systemd.exec(5), and then systemd.resource-control(5)
ORDER = [
    "ProtectProc",
    "BindReadOnlyPaths",
    "DynamicUser",
    "CapabilityBoundingSet",
    "AmbientCapabilities",
    "NoNewPrivileges",
    "UMask",
    "KeyringMode",
    "ProtectSystem",
    "ProtectHome",
    "RuntimeDirectory",
    "RuntimeDirectoryPreserve",
    "InaccessiblePaths",
    "ReadWritePaths",
    "TemporaryFileSystem",
    "PrivateTmp",
    "PrivateDevices",
    "PrivateNetwork",
    "NetworkNamespacePath",
    "PrivateIPC",
    "ProtectHostname",
    "ProtectClock",
    "ProtectKernelTunables",
    "ProtectKernelModules",
    "ProtectKernelLogs",
    "ProtectControlGroups",
    "RestrictAddressFamilies",
    "RestrictNamespaces",
    "LockPersonality",
    "MemoryDenyWriteExecute",
    "RestrictRealtime",
    "RestrictSUIDSGID",
    "PrivateMounts",
    "SystemCallFilter",
    "SystemCallErrorNumber",
    "SystemCallArchitectures",
    "LogLevelMax",
    "DevicePolicy",
    "IPAddressAllow",
    "IPAddressDeny",
]

# The restrictions of all services
COMMON = [
    "DevicePolicy=closed",
    "KeyringMode=private",
    "LockPersonality=true",
    "MemoryDenyWriteExecute=true",
    "NoNewPrivileges=true",
    "ProtectClock=true",
    "ProtectHostname=true",
    "RestrictRealtime=true",
    "RestrictSUIDSGID=true",
    "SystemCallArchitectures=native",
    "SystemCallErrorNumber=EPERM",
    "SystemCallFilter=@system-service",
    "UMask=0077",
]

# The services that work from the host on a link in a namespace need none of these either.
OUTSIDE = [
    *COMMON,
    "CapabilityBoundingSet=CAP_NET_ADMIN CAP_SYS_ADMIN",
    "PrivateDevices=true",
    "PrivateIPC=true",
    "PrivateTmp=true",
    "ProtectControlGroups=true",
    "ProtectHome=read-only",
    "ProtectKernelLogs=true",
    "ProtectKernelModules=true",
    "ProtectKernelTunables=true",
    "ProtectProc=invisible",
    "ProtectSystem=strict",
    "RestrictAddressFamilies=AF_INET AF_INET6 AF_NETLINK AF_UNIX",
    "RestrictNamespaces=net",
    "RuntimeDirectory=wgns",
    "RuntimeDirectoryPreserve=true",
    "SystemCallFilter=~@resources",
    "SystemCallFilter=~@privileged",
]
TUNNEL = [*OUTSIDE, "ReadWritePaths=-/etc/netns"]
HARDENING = {
    "wg@.service": TUNNEL,
    "wg.service": TUNNEL,
    "wgns-refresh.service": [
        *(setting for setting in OUTSIDE if not setting.startswith("CapabilityBoundingSet=")),
        "CapabilityBoundingSet=CAP_NET_ADMIN CAP_SYS_ADMIN CAP_SYS_PTRACE",
    ],
    "netns@.service": [
        *COMMON,
        "CapabilityBoundingSet=CAP_NET_ADMIN CAP_SYS_ADMIN",
        "IPAddressDeny=any",
        "PrivateMounts=false",
        "PrivateNetwork=true",
        "RestrictAddressFamilies=AF_NETLINK",
        "RestrictNamespaces=true",
        "SystemCallFilter=@mount",
        "SystemCallFilter=~@resources",
        "SystemCallFilter=~@privileged",
    ],
    "publish.service": [
        *COMMON,
        "BindReadOnlyPaths=/run/systemd/notify",
        "BindReadOnlyPaths=/run/wgns/NAME/nsswitch.conf:/etc/nsswitch.conf",
        "BindReadOnlyPaths=/run/wgns/NAME/resolv.conf:/etc/resolv.conf",
        "CapabilityBoundingSet=",
        "DynamicUser=true",
        "NetworkNamespacePath=/run/netns/NAME",
        "PrivateDevices=true",
        "ProtectControlGroups=true",
        "ProtectHome=true",
        "ProtectKernelLogs=true",
        "ProtectKernelModules=true",
        "ProtectKernelTunables=true",
        "ProtectProc=invisible",
        "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
        "RestrictNamespaces=true",
        "SystemCallFilter=~@keyring",
        "TemporaryFileSystem=/run",
    ],
    "wgns-forward@.service": [
        *COMMON,
        "AmbientCapabilities=CAP_NET_ADMIN",
        "BindReadOnlyPaths=-/run/current-system",
        "BindReadOnlyPaths=/run/netns/%i",
        "BindReadOnlyPaths=/run/systemd/notify",
        "BindReadOnlyPaths=/run/wgns/%i/nsswitch.conf:/etc/nsswitch.conf",
        "BindReadOnlyPaths=/run/wgns/%i/resolv.conf:/etc/resolv.conf",
        "CapabilityBoundingSet=CAP_NET_ADMIN",
        "DynamicUser=true",
        "NetworkNamespacePath=/run/netns/%i",
        "PrivateDevices=true",
        "PrivateIPC=true",
        "ProtectControlGroups=true",
        "ProtectHome=true",
        "ProtectKernelLogs=true",
        "ProtectKernelModules=true",
        "ProtectKernelTunables=true",
        "ProtectProc=invisible",
        "RestrictAddressFamilies=AF_INET AF_INET6 AF_NETLINK AF_UNIX",
        "RestrictNamespaces=true",
        "SystemCallFilter=~@keyring",
        "TemporaryFileSystem=/run",
    ],
    "reach.service": [
        *COMMON,
        "CapabilityBoundingSet=",
        "DynamicUser=true",
        "IPAddressAllow=HOST",
        "IPAddressDeny=any",
        "PrivateDevices=true",
        "ProtectControlGroups=true",
        "ProtectHome=true",
        "ProtectKernelLogs=true",
        "ProtectKernelModules=true",
        "ProtectKernelTunables=true",
        "ProtectProc=invisible",
        "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
        "RestrictNamespaces=true",
    ],
}

# The settings whose reason is not in their name; wg@.service has those of wg.service and wgns-refresh.service too.
REASONS = {
    "netns@.service": "StartLimitIntervalSec ExecStopPost TimeoutStartSec RestartMode RestartPreventExitStatus "
    "CapabilityBoundingSet PrivateNetwork PrivateMounts RestrictAddressFamilies RestrictNamespaces "
    "SystemCallErrorNumber",
    "wg@.service": "Wants=wg-confined StartLimitIntervalSec Environment ExecStopPost TimeoutStartSec Restart "
    "RestartPreventExitStatus CapabilityBoundingSet ProtectHome RuntimeDirectory ReadWritePaths ProtectKernelModules "
    "RestrictAddressFamilies RestrictNamespaces SystemCallErrorNumber",
    "wg.service": "Conflicts",
    "wg-confined@.service": "DefaultDependencies StartLimitIntervalSec Type LogLevelMax",
    "wgns-refresh.service": "SuccessExitStatus ProtectProc CapabilityBoundingSet LogLevelMax",
    "publish.service": "Requires TemporaryFileSystem NetworkNamespacePath SystemCallErrorNumber",
    "publish.socket": "DefaultDependencies BindIPv6Only FreeBind",
    "reach.service": "Requires SystemCallErrorNumber IPAddressAllow",
    "reach.socket": "DefaultDependencies NetworkNamespacePath",
    "wgns-forward@.service": "Type Environment ExecStart Restart RestartPreventExitStatus CapabilityBoundingSet "
    "TemporaryFileSystem NetworkNamespacePath SystemCallErrorNumber WantedBy",
    "confined-service.conf": "BindsTo ExecStartPre ProtectProc BindReadOnlyPaths CapabilityBoundingSet "
    "NoNewPrivileges InaccessiblePaths TemporaryFileSystem NetworkNamespacePath ProtectKernelTunables "
    "ProtectControlGroups RestrictAddressFamilies SystemCallFilter SystemCallErrorNumber DevicePolicy",
    "confined-socket.conf": "BindsTo DefaultDependencies NetworkNamespacePath",
}


def settings(path: Path, section: str) -> list[str]:
    """The lines of a section that are settings."""
    found = re.search(rf"^\[{section}\]\n(.*?)(?=^\[|\Z)", path.read_text(), re.MULTILINE | re.DOTALL)
    return [line for line in found[1].splitlines() if line and not line.startswith("#")] if found else []


def key(setting: str) -> str:
    """The name of a setting."""
    return setting.partition("=")[0]


def name(path: Path) -> str:
    """The name of a file, for pytest."""
    return path.name


@pytest.mark.parametrize("path", FILES, ids=name)
def test_each_line_is_understood(path: Path) -> None:
    """A file has a first line that says what it is, sections by their names, settings, comments and short lines."""
    lines = path.read_text().splitlines()
    assert re.match(r"# [A-Z].*[.:;]$", lines[0])
    for line in lines:
        assert re.fullmatch(rf"|# .*\S|\[({'|'.join(SECTIONS)})\]|[A-Z]\w+=.*", line), line
        assert len(line) <= 100 or not line.startswith("#"), line
    sections = [line[1:-1] for line in lines if line.startswith("[")]
    assert sections == sorted(set(sections), key=SECTIONS.index)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_no_setting_goes_on_in_the_next_line(path: Path) -> None:
    """Each line has a whole setting: `wgns exec` and the tests read them so."""
    assert not re.search(r"\\$", path.read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix != ".conf"], ids=name)
def test_systemctl_status_leads_to_the_manual(path: Path) -> None:
    """A unit says first what it is, and where it is documented."""
    assert [key(setting) for setting in settings(path, "Unit")[:2]] == ["Description", "Documentation"]
    assert "man:wgns-helpers(7)" in settings(path, "Unit")[1]
    assert (ROOT / "man/wgns-helpers.7").exists()


@pytest.mark.parametrize("path", SERVICES, ids=name)
def test_what_runs_comes_first(path: Path) -> None:
    """In [Service], what runs and is restarted precedes the hardening, which has the order of the manual."""
    keys = [key(setting) for setting in settings(path, "Service")]
    hardening = [key for key in keys if key in ORDER]
    assert keys[len(keys) - len(hardening) :] == hardening
    assert hardening == sorted(hardening, key=ORDER.index)


def test_wg_is_an_instance() -> None:
    """wg.service has what wg@wg.service would have, and keeps the other from running."""
    wg, template = ROOT / "systemd/wg.service", ROOT / "systemd/wg@.service"
    for section in SECTIONS:
        expected = [re.sub("%[iI]", "wg", setting) for setting in settings(template, section)]
        expected += ["Conflicts=wg@wg.service"] if section == "Unit" else []
        assert sorted(settings(wg, section)) == sorted(expected)


@pytest.mark.parametrize("unit", HARDENING)
def test_no_restriction_is_lost(unit: str) -> None:
    """A service has the restrictions of its kind, and no others."""
    path = next(path for path in FILES if path.name == unit)
    restricting = set(ORDER) - {"LogLevelMax"}
    found = [setting for setting in settings(path, "Service") if key(setting) in restricting]
    assert sorted(found) == sorted(HARDENING[unit])


def test_the_check_and_the_drop_in_agree() -> None:
    """`wgns check` looks for the capabilities that the drop-in takes away, and `wgns exec` refuses its families."""
    found = settings(ROOT / "wgns_helpers/confined-service.conf", "Service")
    assert f"CapabilityBoundingSet=~{' '.join(sorted(check.CAPABILITIES))}" in found
    families = [socket.AF_VSOCK, socket.AF_QIPCRTR]
    assert "RestrictAddressFamilies=~AF_VSOCK AF_QIPCRTR" in found
    assert list(_FAMILIES) == families


def test_a_stop_starts_python_once() -> None:
    """ExecStopPost= runs after a stop and after a start that failed; ExecStop= would start Python a second time."""
    for path in SERVICES:
        assert "ExecStop" not in map(key, settings(path, "Service"))


@pytest.mark.parametrize("file", REASONS)
def test_reasons_are_beside_what_they_explain(file: str) -> None:
    """A comment is above each setting whose reason is not in its name, or above the first of several."""
    lines = next(path for path in FILES if path.name == file).read_text().splitlines()
    for setting in REASONS[file].split():
        begin = setting if "=" in setting else f"{setting}="
        at = next(number for number, line in enumerate(lines) if line.startswith(begin))
        assert lines[at - 1].startswith("# "), setting


@pytest.mark.parametrize("kind", ["service", "socket"])
def test_a_template_reads_well_with_a_name(kind: str) -> None:
    """Only a tunnel's name or its unit stands for NAME, in comments too, so no sentence breaks."""
    text = (ROOT / f"wgns_helpers/confined-{kind}.conf").read_text()
    for found in re.findall(r".*NAME.*", text):
        assert re.search(r"(the tunnel |namespace |wgns check |/run/netns/|/run/wgns/|wg@)NAME", found), found
    assert text.index(f"[{kind.capitalize()}]") > text.index("[Unit]")
    assert text.count("\n[") == 2  # `wgns dropin` adds lines at the end
