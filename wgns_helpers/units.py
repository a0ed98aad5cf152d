"""Confined units: the drop-in of a service or a socket, made from confined-*.conf, and what systemd reports."""

from __future__ import annotations

import os

from .check import SOCKETS
from .errors import Failure, MissingError, UsageError, shown, warn

_COMMANDS = ("Condition", "StartPre", "Start", "StartPost", "Reload", "Stop", "StopPost")
_SEEN = ["Type", "LoadState", "User", "DynamicUser", "PAMName", "KillMode", "FragmentPath", "DropInPaths", "MainPID"]
_SEEN += [f"Exec{name}Ex" for name in _COMMANDS]


def text(name: str, kind: str = "service") -> str:
    """The settings for a `kind` of unit (service or socket), confined to the tunnel `name`."""
    path = os.path.join(os.path.dirname(__file__), f"confined-{kind}.conf")
    with open(path, encoding="utf-8") as file:
        template = file.read()
    # No other character of a link's name has to be escaped in a unit's: systemd-escape(1)
    return template.replace("wg@NAME", "wg@" + name.replace("+", r"\x2b")).replace("NAME", name)


def for_unit(name: str, unit: str, allowed: list[str]) -> str:
    """The same for a certain unit ("": any service), and what it may see of /run besides. Raises `Failure`."""
    head, kind, tail = "", "service", ""
    if unit:
        unit = unit if "." in unit else f"{unit}.service"
        kind = unit.rpartition(".")[2]
        if kind not in ("service", "socket"):
            raise UsageError(f"{shown(unit)} cannot be confined", "expected a .service or a .socket")
        known = properties(unit)
        if known.get("Type") == "dbus":
            raise Failure(
                f"{unit} is on the system bus (Type=dbus), which answers from the host's network and is hidden from it",
                "a drop-in with another Type= and without BusName=, if the service can do without the bus",
            )
        if kind == "service" and known:
            _warn(unit, known)
            tail = "PIDFile=\n" if os.path.dirname(_pid_file(known)) == "/run" else ""
        template = "@." in unit
        wanted = "of its instances the ones that are to start with it" if template else unit
        again = "" if template else f"; systemctl restart '{unit}'"  # a running service stays where it was until then
        head = f"# Save as /etc/systemd/system/{unit}.d/wireguard.conf, then:\n"
        head += f"# systemctl daemon-reload; systemctl add-wants 'wg@{name}.service' '{wanted}'{again}\n"
    if allowed and kind == "socket":
        raise UsageError("--allow is for services: a socket unit sees no files")
    binds = "".join(f"BindPaths={_allowed(path)}\n" for path in allowed)
    return head + text(name, kind) + binds + tail


def _allowed(path: str) -> str:
    """`path` if a service may see it: below /run, and without a socket that `wgns check` refuses."""
    path = path.rstrip("/")
    if not path.startswith("/run/") or ".." in path or any(c.isspace() or c in ':\\"%' for c in path):
        raise UsageError(f"--allow {shown(path)}: expected a path below /run", "all else is as the unit has it")
    refused = [socket for socket in SOCKETS if f"{socket}/".startswith(f"{path}/")]
    if refused:
        raise UsageError(
            f"--allow {shown(path)}: {refused[0]} is there, by which the host would look up names",
            "name what the service needs of it, not the whole",
        )
    return path


def _warn(unit: str, known: dict[str, str]) -> None:
    """Name what the drop-in cannot hold."""
    if known.get("KillMode") in ("process", "none"):
        left = f"KillMode={known['KillMode']} lets processes go on when the tunnel stops"
        warn(f"{unit}: {left}", "a drop-in with KillMode=control-group")
    if known.get("PAMName"):
        warn(f"{unit}: PAMName={known['PAMName']} lets processes of its session go on when the tunnel stops")
    privileged = [f"Exec{name}=" for name in _COMMANDS if "flags=privileged" in known.get(f"Exec{name}Ex", "")]
    if privileged:
        warn(f"{unit}: + in {', '.join(privileged)} runs commands with all privileges, by which they can leave")
    if known.get("DynamicUser") != "yes" and known.get("User", "") in ("", "root", "0"):
        warn(
            f"{unit} starts as root, which can change files that the host acts on and control processes of users",
            "User= or DynamicUser=, unless it changes the user itself",
        )


def _pid_file(known: dict[str, str]) -> str:
    """PIDFile= of the unit's own files: systemd's answer would be that of our drop-in, if the unit has it already."""
    found = ""
    for path in [known.get("FragmentPath", ""), *known.get("DropInPaths", "").split()]:
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                lines = file.read().splitlines()
        except OSError:
            continue
        if not any(line.startswith("NetworkNamespacePath=/run/netns/") for line in lines):
            values = [line.partition("=")[2].strip() for line in lines if line.partition("=")[0].strip() == "PIDFile"]
            found = values[-1] if values else found
    found = found.replace("%t", "/run")
    return found if found.startswith("/") or not found else f"/run/{found}"


def main_process(unit: str) -> str:
    """The number of the main process of a unit; `Failure` where it has none."""
    unit = unit if "." in unit else f"{unit}.service"
    number = properties(unit).get("MainPID", "0")
    if number == "0":
        raise Failure(f"{shown(unit)} has no main process", "systemctl status tells whether it runs")
    return number


def properties(unit: str) -> dict[str, str]:
    """What systemd knows of a unit; empty, with a warning, where no systemd runs (an image, a container)."""
    import subprocess

    asked = ["systemctl", "show", f"--property={','.join(_SEEN)}", "--", unit.replace("@.", "@instance.")]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        warn(f"systemd does not answer: {unit} could not be looked at")
        return {}
    found = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    if found.get("LoadState") == "not-found":
        raise MissingError(f"systemd knows no {shown(unit)}", "systemctl list-unit-files")
    return found
