"""The drop-in that confines a unit to a tunnel, as systemd.unit(5) has them, made from what nix/units.nix says."""

from __future__ import annotations

import os

from .errors import Failure, MissingError, UsageError, shown, warn


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
            raise UsageError(f"{shown(unit)} cannot be confined", "a .service or a .socket is wanted")
        known = _properties(unit)
        if known.get("Type") == "dbus":
            raise Failure(
                f"{unit} is on the system bus (Type=dbus), which answers from the host's network and is hidden from it",
                "a drop-in with another Type= and without BusName=, if the service can do without the bus",
            )
        template = "@." in unit
        wanted = "of its instances the ones that are to start with it" if template else unit
        again = "" if template else f"; systemctl restart '{unit}'"  # one that runs is where it was until then
        head = f"# Save as /etc/systemd/system/{unit}.d/wireguard.conf, then:\n"
        if os.path.dirname(known.get("PIDFile", "")) == "/run":  # systemd waits for it in the host's /run
            tail = "PIDFile=\n"
        head += f"# systemctl daemon-reload; systemctl add-wants 'wg@{name}.service' '{wanted}'{again}\n"
    for path in allowed:
        if not path.startswith("/run/") or ".." in path or any(c.isspace() or c in ':\\"%' for c in path):
            raise UsageError(f"--allow {shown(path)}: a path below /run is wanted", "all else is as the unit has it")
    if allowed and kind == "socket":
        raise UsageError("--allow is for services: a socket unit sees no files")
    return head + text(name, kind) + "".join(f"BindPaths={path}\n" for path in allowed) + tail


def _properties(unit: str) -> dict[str, str]:
    """What systemd knows of a unit; empty, with a warning, where no systemd runs (an image, a container)."""
    import subprocess

    asked = ["systemctl", "show", "--property=Type,LoadState,PIDFile", "--", unit.replace("@.", "@instance.")]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        warn(f"systemd does not answer: {unit} could not be looked at")
        return {}
    found = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    if found.get("LoadState") == "not-found":
        raise MissingError(f"systemd knows no {shown(unit)}", "systemctl list-unit-files")
    return found
