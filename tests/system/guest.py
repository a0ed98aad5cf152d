"""What the tests of the units share: the tunnels' configurations, and what systemd says."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import subprocess
import time
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support import assert_no_key, shell

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TUNNELS = 40
UNITS = Path("/etc/systemd/system")
CONFIGURATIONS = Path("/etc/wireguard")
HOSTS = Path("/etc/hosts")
LATE = "late.invalid"  # a name that does not resolve until late() lets it
PAUSE = 12  # seconds, long beside what a slow machine takes to start a unit again without any pause
OUTSIDE = ("internet", "far")  # the namespaces of tests/system/house.py


def private_key(number: int) -> str:
    """The private key of tunnel `number`, of the provider for 0: the same in every boot."""
    return base64.b64encode(hashlib.sha256(f"wgns-helpers test {number}".encode()).digest()).decode()


@cache
def public_key(number: int) -> str:
    """The public key that belongs to it."""
    done = subprocess.run(["wg", "pubkey"], input=private_key(number), capture_output=True, text=True, check=True)
    return done.stdout.strip()


def configure(name: str = "demo", number: int = 1, other: Mapping[str, str] | None = None) -> Path:
    """Write the configuration of a tunnel, as a provider hands it out; `other` settings replace some, "" omits one."""
    settings = {
        "PrivateKey": private_key(number),
        "Address": f"10.64.1.{number}/32, fd00:64::1:{number:x}/128",
        "DNS": "10.64.0.1",
        "ListenPort": "",
        "MTU": "",
        "OpenPorts": "",
        "PublicKey": public_key(0),
        "AllowedIPs": "0.0.0.0/0, ::/0",
        "Endpoint": "203.0.113.1:51820",
        **(other or {}),
    }
    lines = [f"{key} = {value}" if value else "" for key, value in settings.items()]
    path = CONFIGURATIONS / f"{name}.conf"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text("\n".join(["[Interface]", *lines[:6], "[Peer]", *lines[6:], ""]))
    return path


def drop_in(unit: str, text: str, *, reload: bool = True) -> None:
    """Give a unit more settings, until the test ends."""
    folder = UNITS / f"{unit}.d"
    folder.mkdir(exist_ok=True)
    (folder / "test.conf").write_text(text)
    if reload:  # which takes nearly 2 s under software emulation
        systemctl("daemon-reload")


def failing(unit: str = "wg@demo.service", name: str = "demo", number: int = 1) -> None:
    """Configure a tunnel whose unit fails at once, and is tried again after PAUSE, until its provider has a name."""
    configure(name, number, {"Endpoint": f"{LATE}:51820"})
    lines = ["Environment=WG_UP_OPTIONS=", f"RestartSec={PAUSE}", "RestartSteps=0", "RestartMaxDelaySec=infinity"]
    drop_in(unit, "\n".join(["[Service]", *lines, ""]), reload=False)


def late() -> None:
    """Let the name of the provider resolve, until the test ends."""
    HOSTS.write_text(f"{HOSTS.read_text()}203.0.113.1 {LATE}\n")


def confine(unit: str, name: str, *more: str) -> None:
    """Confine a unit, with `more` units or options, until the test ends. Without a restart, if it does not run."""
    shell(f"wgns confine {name} '{unit}' {' '.join(more)}")


def settings() -> list[str]:
    """What the drop-in sets in [Service], but for the check, for systemd-run(1)."""
    lines = shell("wgns dropin demo").partition("[Service]\n")[2].splitlines()
    return [f"--property={line}" for line in lines if line and not line.startswith(("#", "ExecStartPre="))]


def systemctl(*arguments: str, check: bool = True, seconds: float = 240) -> int:
    """Run systemctl; its exit status."""
    done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, timeout=seconds, check=False)
    assert not check or not done.returncode, f"systemctl {' '.join(arguments)}: {done.stderr}{done.stdout}"
    return done.returncode


def show(unit: str) -> dict[str, str]:
    """The properties of a unit."""
    wanted = "MainPID,ExecMainStatus,ExecMainStartTimestampMonotonic,ActiveEnterTimestampMonotonic,ActiveState,SubState"
    lines = shell(f"systemctl show '{unit}' -p {wanted},Result,NRestarts,Environment").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def state(unit: str) -> str:
    """Whether a unit is active, inactive, failed or something else."""
    return subprocess.run(["systemctl", "is-active", unit], capture_output=True, text=True, check=False).stdout.strip()


def failed() -> list[str]:
    """The units that have failed."""
    return [line.split()[0] for line in shell("systemctl list-units --failed --plain --no-legend").splitlines()]


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until the condition holds; software emulation makes all of it slow."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.2)


def cursor() -> str:
    """Where the journal is now."""
    return json.loads(shell("journalctl --sync; journalctl -n 1 -o json"))["__CURSOR"]  # type: ignore[no-any-return]


def journal(since: str, *units: str) -> str:
    """What units have said since then; without any, all of the journal. Never a key."""
    chosen = [argument for unit in units for argument in ("-u", unit)]
    argv = ["journalctl", "--sync"]
    subprocess.run(argv, check=True)
    argv = ["journalctl", "-o", "cat", "-a", "--no-pager", f"--after-cursor={since}", *chosen]
    text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert_no_key("".join(text.split(public_key(0))))
    return text


def pauses(unit: str, since: str | None = None) -> list[float]:
    """Seconds between each failure of a unit and its next start, after a place in the journal or in this boot."""
    # sd-messages.h: SD_MESSAGE_UNIT_STARTING, SD_MESSAGE_UNIT_FAILURE_RESULT
    starting, failing = "7d4958e842da4a758f6c1cdc7b36dcc5", "d9b373ed55a64feb8242e02dbe79a49c"
    where = f"--after-cursor='{since}'" if since else "--boot"
    argv = f"journalctl --quiet -o json {where} UNIT={unit} MESSAGE_ID={starting} MESSAGE_ID={failing}"
    entries = [json.loads(line) for line in shell(argv).splitlines()]
    times = [(entry["MESSAGE_ID"], int(entry["_SOURCE_REALTIME_TIMESTAMP"]) / 1e6) for entry in entries]
    return [end - begin for (first, begin), (second, end) in pairwise(times) if (first, second) == (failing, starting)]


def report(service: str = "reach") -> dict[str, Any]:
    """What the confined service has written down at its last start."""
    return json.loads(Path(f"/var/lib/{service}/report.json").read_text())  # type: ignore[no-any-return]


def namespace_of(unit: str) -> int:
    """The network namespace that the main process of a unit is in, 0 if it has none."""
    try:
        return os.stat(f"/proc/{show(unit)['MainPID']}/ns/net").st_ino
    except OSError:
        return 0


def reaches_the_far_side_only(name: str = "demo", service: str = "reach") -> None:
    """The running service is in the namespace of its tunnel, with lo and the tunnel; it reaches what is behind that."""
    found = report(service)
    assert found["namespace"] == namespace_of(f"{service}.service") == os.stat(f"/run/netns/{name}").st_ino
    assert found["links"] == sorted(["lo", name])
    assert (found["far"], found["host"]) == (True, False)
    socket.create_connection(("198.51.100.2", 81), 20).close()  # which is there, for others


def leftovers() -> list[str]:
    """What of the programs' work is there, and of their units."""
    found = [f"/run/netns/{path.name}" for path in Path("/run/netns").iterdir() if path.name not in OUTSIDE]
    found += [str(path) for folder in ("/etc/netns", "/run/wgns") for path in Path(folder).glob("*")]
    found += shell("wg show interfaces").split()
    units = shell("systemctl list-units --all --plain --no-legend 'netns@*' 'wg@*' wg.service").splitlines()
    return found + [unit for unit in units if unit.split()[2] != "inactive"]


def clean() -> None:
    """Stop what a test started, and take away what it wrote."""
    systemctl(
        "stop", "reach.service", "joined.service", "leak@*", "echo*", "netns@*", "wg@*", "wg.service", check=False
    )
    for path in [*UNITS.glob("*.d/test.conf"), *UNITS.glob("*.d/wireguard.conf"), *UNITS.glob("wg*.wants/*")]:
        path.unlink()
    for path in [*UNITS.glob("echo*"), *UNITS.glob("publish-*"), *UNITS.glob("reach-*"), *CONFIGURATIONS.glob("*")]:
        shell(f"rm -rf '{path}'")
    HOSTS.write_text(HOSTS.read_text().replace(f"203.0.113.1 {LATE}\n", ""))
    systemctl("daemon-reload")
    systemctl("reset-failed")
    for name in Path("/run/netns").iterdir():
        if name.name not in OUTSIDE:
            shell(f"ip netns delete '{name.name}'")
