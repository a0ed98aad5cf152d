"""`wgns confine` and `wgns release` on a booted systemd: a table of twenty units, and what can go wrong."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT, shell
from tests.system import guest
from tests.system.guest import UNITS, configure, show, state, systemctl, wait_for
from tests.system.leak import MEMBER, RESOLVER

PROGRAM = "python3 -P /usr/local/lib/stand_in.py"
TUNNELS = {"demo": 1, "second": 2}
DEBIAN = {  # and a port on which each listens; unbound's is for UDP, too
    "aria2": 6800,
    "deluge-web": 8112,
    "deluged": 58846,
    "nginx": 80,
    "privoxy": 8118,
    "qbittorrent-nox@seeder": 8080,
    "tinyproxy": 8888,
    "transmission-daemon": 9091,
    "unbound": 53,
}
# As NixOS writes them, with Debian's paths in place of /nix/store. What is not named starts PROGRAM as a user.
SHAPES = {
    "transmission": """Type=notify-reload
        ExecStartPre=+true
        AmbientCapabilities=
        BindPaths=/var/lib/transmission/.config/transmission-daemon
        BindPaths=/var/lib/transmission/Downloads
        BindPaths=/run
        BindPaths=/var/lib/transmission/.incomplete
        BindReadOnlyPaths=/usr /lib /lib64
        BindReadOnlyPaths=/etc
        CapabilityBoundingSet=
        MountAPIVFS=true
        NoNewPrivileges=true
        PrivateMounts=true
        PrivateNetwork=false
        PrivateUsers=true
        ProtectSystem=strict
        RestrictAddressFamilies=AF_UNIX
        RestrictAddressFamilies=AF_INET
        RestrictAddressFamilies=AF_INET6
        RootDirectory=/run/transmission
        RootDirectoryStartOnly=true
        RuntimeDirectory=transmission
        StateDirectory=transmission
        StateDirectory=transmission/.config/transmission-daemon
        StateDirectory=transmission/.incomplete
        StateDirectory=transmission/Downloads
        StateDirectory=transmission/watchdir""",
    "tor": """Type=simple
        ExecStartPre=true
        ExecStartPre=+true
        AmbientCapabilities=
        BindReadOnlyPaths=/etc
        BindReadOnlyPaths=/usr /lib /lib64
        CapabilityBoundingSet=
        NoNewPrivileges=true
        PrivateMounts=true
        PrivateNetwork=false
        PrivateUsers=true
        ProcSubset=pid
        ProtectProc=invisible
        ProtectSystem=strict
        RestrictAddressFamilies=AF_UNIX
        RestrictAddressFamilies=AF_INET
        RestrictAddressFamilies=AF_INET6
        RestrictAddressFamilies=AF_NETLINK
        RootDirectory=/run/tor/root
        RootDirectoryStartOnly=true
        RuntimeDirectory=tor
        RuntimeDirectory=tor/root
        RuntimeDirectory=tor/ClientOnionAuthDir
        StateDirectory=tor
        StateDirectory=tor/onion""",
    "qbittorrent": """Type=simple
        CapabilityBoundingSet=
        NoNewPrivileges=true
        PrivateNetwork=false
        PrivateUsers=true
        ProcSubset=pid
        ProtectProc=invisible
        ProtectSystem=full
        RestrictAddressFamilies=AF_INET
        RestrictAddressFamilies=AF_INET6
        RestrictAddressFamilies=AF_NETLINK""",
    "rtorrent": """Type=simple
        CapabilityBoundingSet=
        ExecStartPre=true
        NoNewPrivileges=true
        ProtectProc=invisible
        ProtectSystem=full
        RestrictAddressFamilies=AF_UNIX
        RestrictAddressFamilies=AF_INET
        RestrictAddressFamilies=AF_INET6
        RuntimeDirectory=rtorrent""",
    "jackett": """Type=simple
        CapabilityBoundingSet=CAP_NET_BIND_SERVICE
        ExecPaths=/usr/bin/python3.13 /usr/lib/x86_64-linux-gnu /usr/lib/python3.13
        NoExecPaths=/
        NoNewPrivileges=true
        PrivateMounts=true
        PrivateUsers=true
        ProtectProc=invisible
        ProtectSystem=strict
        ReadWritePaths=/var/lib
        RestrictAddressFamilies=AF_INET
        RestrictAddressFamilies=AF_INET6""",
    "sonarr": """Type=simple
        CapabilityBoundingSet=
        NoNewPrivileges=true
        PrivateUsers=true
        ProtectProc=invisible
        RestrictAddressFamilies=AF_INET
        RestrictAddressFamilies=AF_INET6
        RestrictAddressFamilies=AF_UNIX
        StateDirectory=sonarr""",
    "autobrr": """Type=simple
        User=
        DynamicUser=true
        LoadCredential=sessionSecret:/run/secrets/autobrr
        StateDirectory=autobrr""",
    "ipfs": """Type=notify
        ReadWritePaths=
        ReadWritePaths=/var/lib
        Sockets=ipfs-gateway.socket
        Sockets=ipfs-api.socket
        StateDirectory=""",
    "bitmagnet": """Type=simple
        ReadWritePaths=/run/postgresql
        StateDirectory=bitmagnet""",
    "jellyfin": """Type=simple
        CapabilityBoundingSet=
        NoNewPrivileges=true
        PrivateUsers=true
        ProcSubset=pid
        ProtectProc=invisible
        ProtectSystem=true
        RestrictAddressFamilies=AF_UNIX
        RestrictAddressFamilies=AF_INET
        RestrictAddressFamilies=AF_INET6
        RestrictAddressFamilies=AF_NETLINK
        [Install]
        Alias=media.service
        WantedBy=multi-user.target""",
    "microsocks": """LoadCredential=
        NoNewPrivileges=true
        ProtectSystem=strict""",
    "feed": f"""Type=oneshot
        ExecStart=
        ExecStart={PROGRAM} once""",
    "radio": "Type=simple",
}
OTHERS = {  # units besides
    "ipfs-api.socket": "[Socket]\nListenStream=5001\nService=ipfs.service\n",
    "ipfs-gateway.socket": "[Socket]\nListenStream=8081\nService=ipfs.service\n",
    "radio.socket": "[Socket]\nListenStream=8000\n",
    "feed.timer": "[Timer]\nOnActiveSec=1d\n",
}
IDLE = {"feed": "a timer starts it", "radio": "a socket starts it"}  # not started with the tunnel, nor when confined
NAMES = {"jellyfin": "media"}  # by which the commands call them
COLUMNS = ("unit", "before", "one command", "works", "names", "in status", "moved", "released", "needed besides")
Row = dict[str, str]


def wgns(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run wgns; what it says is shown after a failure."""
    done = subprocess.run(["wgns", *arguments], capture_output=True, text=True, timeout=900, check=False)
    print(f"$ wgns {shlex.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def hint(said: str) -> list[str]:
    """The arguments of the last command of wgns that the messages hint at."""
    return shlex.split(re.findall(r"hint: wgns (.*)", said)[-1])


def write_units() -> None:
    """Write all that are not Debian's."""
    shutil.copy(ROOT / "tests/system/stand_in.py", "/usr/local/lib/")
    for name, settings in SHAPES.items():
        lines = [line.strip() for line in settings.splitlines()]
        (UNITS / f"{name}.service").write_text(
            "\n".join(["[Service]", "User=seeder", f"ExecStart={PROGRAM}", *lines, ""])
        )
    for name, text in OTHERS.items():
        (UNITS / name).write_text(text)
    # It would wait for trackers that do not answer; and it is an administrator's own drop-in
    override = UNITS / "transmission-daemon.service.d/override.conf"
    override.parent.mkdir(exist_ok=True)
    override.write_text("[Service]\nTimeoutStopSec=3\n")
    systemctl("daemon-reload")
    systemctl("enable", "jellyfin")


class Now:
    """Where the processes of all units are, what the stand-ins have printed last, and who listens in a namespace."""

    def __init__(self, name: str) -> None:
        self.listening = shell(f"{f'ip netns exec {name}' if name else ''} ss -Hltn")
        units = [f"{unit}.service" for unit in (*DEBIAN, *SHAPES)]
        blocks = shell(f"systemctl show -p Id,MainPID,ControlGroup {shlex.join(units)}").strip().split("\n\n")
        rows = [dict(line.split("=", 1) for line in block.splitlines()) for block in blocks]
        self.main = {row["Id"].removesuffix(".service"): row["MainPID"] for row in rows}
        self.namespaces = {row["Id"].removesuffix(".service"): self._of(row["ControlGroup"]) for row in rows}
        self.reports: dict[str, Any] = {}
        for line in shell("journalctl --sync; journalctl -b -q -o json _COMM=python3 -g '^{\"namespace'").splitlines():
            entry = json.loads(line)
            self.reports[entry["_SYSTEMD_UNIT"].removesuffix(".service")] = json.loads(entry["MESSAGE"])

    @staticmethod
    def _of(group: str) -> set[int]:
        found = set()
        with suppress(FileNotFoundError):
            for process in Path(f"/sys/fs/cgroup{group}/cgroup.procs").read_text().split() if group else []:
                with suppress(OSError):
                    found.add(os.stat(f"/proc/{process}/ns/net").st_ino)
        return found


class Table:
    """The rows, filled in step by step; "yes" is what should be."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {unit: {"unit": unit, "needed besides": "-"} for unit in (*DEBIAN, *SHAPES)}
        self.host = os.stat("/proc/self/ns/net").st_ino
        self.left: list[Path] = []
        self.ended: list[int] = []

    def note(self, column: str, words: Callable[[str], str]) -> None:
        """Fill in a column."""
        for unit, row in self.rows.items():
            row[column] = words(unit)

    def started(self, name: str) -> Now:
        """Have the idle units started, and wait until all are where they should be, as far as they get there."""
        inode = os.stat(f"/run/netns/{name}").st_ino if name else self.host
        systemctl("start", "feed", check=False)
        address, client = (f"10.64.1.{TUNNELS[name]}", ["ip", "netns", "exec", "far"]) if name else ("127.0.0.1", [])
        code = f"import socket; socket.create_connection(('{address}', 8000), 20)"
        subprocess.run([*client, "python3", "-c", code], check=False)
        now = Now(name)
        for _time in range(20):
            late = [unit for unit in SHAPES if now.reports.get(unit, {}).get("namespace") != inode]
            if not late and all(f":{port} " in now.listening for port in DEBIAN.values()):
                break
            time.sleep(2)
            now = Now(name)
        return now

    def where(self, name: str, now: Now, unit: str) -> str:
        """Whether a unit is in the tunnel's namespace, or in the host, with all that it should have there."""
        inode = os.stat(f"/run/netns/{name}").st_ino if name else self.host
        if unit in DEBIAN:
            if now.namespaces[unit] != {inode}:
                return f"is in {now.namespaces[unit]}"
            return "yes" if f":{DEBIAN[unit]} " in now.listening else f"port {DEBIAN[unit]} is closed"
        found = now.reports.get(unit, {}).get("namespace")
        processes = now.namespaces[unit] - {inode}
        return "yes" if found == inode and not processes else f"was in {found}"

    @staticmethod
    def report(now: Now, unit: str) -> dict[str, Any]:
        """What a unit sees: of a daemon, what a process in its namespaces does."""
        if unit not in DEBIAN:
            return dict(now.reports.get(unit, {}))
        argv = ["nsenter", "--net", "--mount", "--target", now.main[unit], *PROGRAM.split(), "once"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        return dict(json.loads(done.stdout or "{}"))


NEEDY = ("bitmagnet", "ipfs", "radio")  # are refused at first
PLAIN = [NAMES.get(unit, unit) for unit in (*DEBIAN, *SHAPES) if unit not in NEEDY]
SOCKETS = [unit for unit in OTHERS if unit.endswith(".socket")]


def confine_all(table: Table) -> None:
    """Confine those that need nothing by one command, and the others by those of the hints."""
    ended = {}
    for unit in NEEDY:
        command = hint(wgns("confine", "demo", unit).stderr)
        table.rows[unit]["needed besides"] = " ".join(command[3:])
        ended[unit] = wgns(*command)
    rest = wgns("confine", "demo", *PLAIN)
    status = shell("wgns status demo || :")
    now = table.started("demo")
    for unit, row in table.rows.items():
        done = ended.get(unit, rest)
        proven = unit in IDLE or f"{unit}.service runs confined" in done.stderr
        row["one command"] = "yes" if proven else f"exit {done.returncode}"
        report, works = table.report(now, unit), table.where("demo", now, unit)
        row["works"] = works if works != "yes" or report.get("far") else "far side not reached"
        row["names"] = "yes" if report.get("name") == sorted(MEMBER) else f"{report.get('name')}"
        row["in status"] = "-" if unit in IDLE else "yes" if f"{unit}.service" in status else "no"
    table.ended += [done.returncode for done in (*ended.values(), rest)]


def move_all(table: Table) -> None:
    """Move them to another tunnel; a unit needs the same as before."""
    allowed = table.rows["bitmagnet"]["needed besides"].split()
    moved = [wgns("confine", "second", *names) for names in (PLAIN, ["ipfs", "radio", *SOCKETS])]
    moved.append(wgns("confine", "second", "bitmagnet", *allowed))
    now = table.started("second")
    table.note("moved", lambda unit: table.where("second", now, unit))
    table.left += UNITS.glob("wg-confined@demo.service.wants/*")
    table.ended += [done.returncode for done in moved]


def release_all(table: Table) -> None:
    """Release and restart them."""
    released = wgns("release", "--restart", *PLAIN, *NEEDY, *SOCKETS)
    now = table.started("")
    table.note("released", lambda unit: table.where("", now, unit))
    table.left += [*UNITS.rglob("wireguard.conf"), *UNITS.glob("wg-confined@*")]
    table.ended.append(released.returncode)


@pytest.fixture(scope="module")
def table() -> Table:
    """All units run in the host, are confined, moved and released."""
    resolv_conf = Path("/etc/resolv.conf")
    resolv_conf.write_text(f"nameserver {RESOLVER[0]}\n")
    for path in ("/run/postgresql", "/run/secrets"):
        Path(path).mkdir(exist_ok=True)
    Path("/run/secrets/autobrr").write_text("secret")
    shell("useradd --create-home seeder")
    for name, number in TUNNELS.items():
        configure(name, number, {"OpenPorts": "8000/tcp"})
    write_units()
    running = [unit for unit in (*DEBIAN, *SHAPES) if unit not in IDLE]
    table, began = Table(), time.monotonic()
    try:
        systemctl("start", "dns@internet", "dns@far", *OTHERS)
        systemctl("start", *running, check=False)
        now = table.started("")
        table.note("before", lambda unit: table.where("", now, unit))
        for step in (confine_all, move_all, release_all):
            print(f"{time.monotonic() - began:.0f} s: {step.__name__}")
            step(table)
    finally:
        print(f"{time.monotonic() - began:.0f} s", shell("journalctl -b -n 300 -o short-monotonic --no-pager"))
        systemctl("stop", *OTHERS, *DEBIAN, *SHAPES, "dns@*")
        systemctl("disable", "jellyfin")
        for name in (*OTHERS, *(f"{unit}.service" for unit in SHAPES)):
            (UNITS / name).unlink(missing_ok=True)
        resolv_conf.unlink()
        shell(f"rm -r '{UNITS}/transmission-daemon.service.d'; userdel --remove seeder 2> /dev/null")
        guest.clean()
    assert guest.leftovers() == []
    return table


@pytest.mark.parametrize("unit", [*DEBIAN, *SHAPES])
def test_one_command(unit: str, table: Table, record_property: Callable[[str, object], None]) -> None:
    """The unit is confined, moved and released by one command each, and works where it is."""
    row = table.rows[unit]
    label = f"{unit} as {NAMES[unit]}" if unit in NAMES else unit
    record_property("confined", (label, *(row.get(column, "") for column in COLUMNS[1:])))
    wrong = {column: words for column, words in row.items() if words not in ("yes", "-")}
    assert set(wrong) <= {"unit", "needed besides"}, wrong


def test_each_command_ends_well(table: Table) -> None:
    """With 0, and nothing is left of a tunnel that units were moved from, or of units that were released."""
    assert (table.left, set(table.ended)) == ([], {0})


def unit(name: str, settings: str, kind: str = "Service") -> None:
    """Write a unit that clean() takes away."""
    (UNITS / name).write_text(f"[{kind}]\n{settings}\n")
    systemctl("daemon-reload")


SLEEP = "DynamicUser=yes\nExecStart=sleep infinity"


@pytest.fixture
def echo(since: str) -> Iterator[str]:
    """A service that runs in the host, with two tunnels that do not run yet."""
    for name, number in TUNNELS.items():
        configure(name, number)
    unit("echo-one.service", SLEEP)
    systemctl("start", "echo-one")
    yield "echo-one.service"
    systemctl("stop", "echo-*.service", "echo-*.socket")


def confined(name: str = "echo-one.service") -> str:
    """The tunnel whose namespace a unit is in, "host" for the host's, empty if it does not run."""
    inode = guest.namespace_of(name)
    places = {os.stat(f"/run/netns/{tunnel}").st_ino: tunnel for tunnel in os.listdir("/run/netns")}
    places[os.stat("/proc/self/ns/net").st_ino] = "host"
    return places.get(inode, "")


def files() -> list[str]:
    """What confines units, and starts them."""
    return sorted(
        str(path.relative_to(UNITS)) for path in [*UNITS.glob("*.d/wireguard.conf"), *UNITS.glob("wg*.wants/*")]
    )


ONE = ["echo-one.service.d/wireguard.conf", "wg-confined@demo.service.wants/echo-one.service"]


def test_twice_is_as_once(echo: str) -> None:
    """The tunnel comes up with the service; a second time nothing is restarted, and after a release it is again."""
    done = wgns("confine", "demo", echo)
    assert (done.returncode, confined(), files()) == (0, "demo", ONE)
    assert f"{echo} runs confined" in done.stderr
    process = show(echo)["MainPID"]
    done = wgns("confine", "demo", "echo-one")
    assert (done.returncode, show(echo)["MainPID"]) == (0, process)
    assert f'{echo} is already confined to "demo"' in done.stderr
    done = wgns("release", echo)
    stays = f"{echo} uses the host's open network from its next start on\nwgns: hint: systemctl restart {echo}\n"
    assert stays in done.stderr
    assert (done.returncode, show(echo)["MainPID"], files()) == (0, process, [])
    assert stays in wgns("release", echo).stderr
    assert (wgns("release", "--restart", echo).returncode, confined()) == (0, "host")
    assert wgns("confine", "demo", echo).returncode == 0
    assert wgns("release", "--restart", echo).returncode == 0
    assert (confined(), files()) == ("host", [])
    assert "is not confined" in wgns("release", echo).stderr


def test_instances_that_run(echo: str) -> None:
    """A template is confined, moved and released with its instances that run, but for one with a drop-in of its own."""
    unit("echo-many@.service", SLEEP)
    names = ["echo-many@one.service", "echo-many@two.service"]
    systemctl("start", *names)
    assert wgns("confine", "second", names[1]).returncode == 0
    done = wgns("confine", "demo", "echo-many@")
    assert (done.returncode, *map(confined, names)) == (0, "demo", "second")
    assert "echo-many@one.service runs confined" in done.stderr
    assert "wgns: hint: systemctl restart echo-many@*.service\n" in wgns("release", "echo-many@").stderr
    assert wgns("confine", "demo", "echo-many@").returncode == 0
    assert (wgns("release", "--restart", "echo-many@").returncode, *map(confined, names)) == (0, "host", "second")


def test_what_was_allowed_stays_so(echo: str) -> None:
    """Confined again or moved, a service goes on seeing what --allow has let in before."""
    Path("/run/needed").touch()
    unit("echo-two.service", "DynamicUser=yes\nExecStart=sh -c 'test -e /run/needed || exit 3; exec sleep infinity'")
    systemctl("start", "echo-two")
    for tunnel, *allowed in (("demo", "--allow", "/run/needed"), ("demo",), ("second",)):
        assert wgns("confine", tunnel, "echo-two", *allowed).returncode == 0
        assert confined("echo-two.service") == tunnel


def test_units_that_are_refused(echo: str) -> None:
    """One of the user manager, an unknown one, a masked one, one on the bus: each with a hint, and nothing changes."""
    Path("/etc/systemd/user/echo-user.service").write_text("[Service]\nExecStart=true\n")
    unit("echo-bus.service", "Type=dbus\nBusName=org.example.Echo\nExecStart=true")
    systemctl("mask", "echo-masked.service")
    try:
        for name, status, words, way in (
            ("echo-user", 1, "is a unit of the user manager", "a unit with User= in /etc/systemd/system"),
            ("ehco-one", 69, 'systemd knows no "ehco-one.service"', "systemctl list-unit-files"),
            ("echo-masked", 1, "echo-masked.service cannot be loaded: masked", "systemctl unmask echo-masked.service"),
            ("echo-bus", 1, "is on the system bus (Type=dbus)", "a drop-in with another Type="),
        ):
            done = wgns("confine", "demo", echo, name)
            assert (done.returncode, files(), confined()) == (status, [], "host")
            assert words in done.stderr
            assert f"hint: {way}" in done.stderr
        done = wgns("confine", "demo", echo, "--allow", "/run/typo")
        assert (done.returncode, files(), confined()) == (69, [], "host")
        assert '--allow "/run/typo": there is no such file or folder' in done.stderr
    finally:
        Path("/etc/systemd/user/echo-user.service").unlink()


def test_a_release_of_what_is_not_confined_by_us(echo: str) -> None:
    """A unit that joins the namespace by settings of its own goes on, for a restart would leave it where it is."""
    systemctl("start", "wg@demo.service")
    unit(echo, f"{SLEEP}\nNetworkNamespacePath=/run/netns/demo")
    systemctl("restart", echo)
    process = show(echo)["MainPID"]
    done = wgns("release", "--restart", echo)
    assert (done.returncode, confined(), show(echo)["MainPID"]) == (0, "demo", process)
    assert f"{echo} is not confined" in done.stderr


@pytest.mark.parametrize("setting", ["KillMode=process", "PAMName=other"])  # systemd refuses both at once
def test_what_is_left_as_it_is(setting: str, echo: str) -> None:
    """KillMode= and PAMName= are warned of, and the service runs confined."""
    unit(echo, f"User=daemon\n{setting}\nExecStart=sleep infinity")
    done = wgns("confine", "demo", echo)
    assert (done.returncode, confined()) == (0, "demo")
    assert f"warning: echo-one.service: {setting}" in done.stderr


@pytest.mark.parametrize("restart", ["no", "always"])
def test_a_service_that_does_not_run_confined(restart: str, echo: str) -> None:
    """It stays down and confined, others are confined all the same, and the command of the hint takes it back.

    Confined again with what it needs, it starts.
    """
    Path("/run/needed").touch()
    script = "sh -c 'test -e /run/needed || exit 3; exec sleep infinity'"
    unit("echo-two.service", f"DynamicUser=yes\nRestart={restart}\nExecStart={script}")
    systemctl("start", "echo-two")
    done = wgns("confine", "demo", "echo-two", echo)
    assert (done.returncode, confined()) == (1, "demo")
    assert restart == "always" or state("echo-two.service") == "failed"
    if restart == "no":
        told = wgns("status", "demo")
        assert (told.returncode, "echo-two.service is confined to it, and has failed" in told.stderr) == (1, True)
    assert "echo-two.service is confined, but does not stay up: " in done.stderr
    assert "hint: journalctl -eu echo-two.service has its messages" in done.stderr
    way = re.findall(r"; wgns (release --restart \S+) ", done.stderr)[0]
    if restart == "always":
        assert wgns("confine", "demo", "echo-two", "--allow", "/run/needed").returncode == 0
        assert confined("echo-two.service") == "demo"
    assert wgns(*way.split()).returncode == 0
    assert confined("echo-two.service") == "host"


def test_a_tunnel_that_does_not_start(echo: str) -> None:
    """The service is down, and comes up with the tunnel when that is mended; or is taken back by the hint's command."""
    configure(other={"PrivateKey": "AAAA"})
    done = wgns("confine", "demo", echo)
    assert (done.returncode, confined(), files()) == (1, "", ONE)
    assert "hint: journalctl -eu wg@demo.service has its messages" in done.stderr
    assert wgns("release", "--restart", echo).returncode == 0
    assert confined() == "host"
    assert wgns("confine", "demo", echo).returncode == 1
    configure()
    systemctl("start", "wg@demo.service")
    wait_for(lambda: confined() == "demo")


def test_a_restart_that_systemd_refuses(echo: str) -> None:
    """Where the tunnel's unit cannot be started at all, everything stays as it was, the socket too."""
    unit("echo-door.service", SLEEP)
    unit("echo-door.socket", "ListenStream=7777", "Socket")
    systemctl("start", "echo-door.socket", "echo-door.service")
    systemctl("mask", "--runtime", "wg@demo.service")
    try:
        done = wgns("confine", "demo", echo, "echo-door.service", "echo-door.socket")
        assert (done.returncode, files(), confined(echo)) == (1, [], "host")
        assert "wg@demo.service is masked" in done.stderr
        wait_for(lambda: confined("echo-door.service") == "host" and ":7777" in shell("ss -Hltn"))
    finally:
        systemctl("unmask", "--runtime", "wg@demo.service")


def test_it_is_interrupted(echo: str) -> None:
    """By SIGTERM at any moment: the service is confined and has its files, or it is as it was."""
    results = []
    for _time in range(8):
        process, tunnel = show(echo)["MainPID"], confined()
        name = "second" if tunnel == "demo" else "demo"
        running = subprocess.Popen(["wgns", "confine", name, echo])
        time.sleep(random.uniform(0.3, 3))  # noqa: S311
        running.terminate()
        status = running.wait()
        wait_for(lambda: "No jobs" in shell("systemctl list-jobs"))
        results.append((status, confined()))
        if confined() == tunnel:
            assert show(echo)["MainPID"] == process
        assert confined() in ("host", *re.findall(r"wg-confined@(\w+)", " ".join(files())))
        text = (UNITS / ONE[0]).read_text() if files() else ""
        assert f"NetworkNamespacePath=/run/netns/{confined()}\n" in text or not files()
    print(results)
    assert {status for status, _ in results} >= {-15}


def test_what_the_administrator_changes(echo: str) -> None:
    """What a drop-in of their own would bring back is refused by the check, or reset; the rest stays."""
    (UNITS / f"{echo}.d").mkdir(exist_ok=True)
    override = UNITS / f"{echo}.d/override.conf"
    override.write_text("[Service]\nBindPaths=/srv:/mnt\nNice=5\nNetworkNamespacePath=\n")
    systemctl("daemon-reload")
    assert wgns("confine", "demo", echo).returncode == 0
    assert confined() == "demo"
    former = override.read_text()
    override.write_text("[Service]\nBindPaths=/srv:/mnt /run\nNice=5\n")
    systemctl("daemon-reload")
    assert systemctl("restart", echo, check=False) != 0
    assert wgns("confine", "demo", echo).returncode == 0
    systemctl("start", echo)
    wait_for(lambda: confined() == "demo")
    shell(f"wgns check demo --unit {echo}")
    assert "BindPaths=/srv:/mnt\n" in (UNITS / ONE[0]).read_text()
    override.write_text(former)
    assert wgns("release", "--restart", echo).returncode == 0
    assert (confined(), override.read_text()) == ("host", former)


def test_a_package_that_is_removed_or_masked(echo: str) -> None:
    """What confined its unit goes by a release."""
    assert wgns("confine", "demo", echo).returncode == 0
    systemctl("stop", echo)
    (UNITS / echo).unlink()
    systemctl("daemon-reload")
    assert wgns("release", "--restart", echo).returncode == 0
    assert files() == []
    unit(echo, SLEEP)
    assert wgns("confine", "demo", echo).returncode == 0
    (UNITS / echo).unlink()
    systemctl("mask", echo)
    assert wgns("release", echo).returncode == 0
    assert files() == []


def test_a_job_that_runs(echo: str) -> None:
    """A oneshot that a timer has started is started again confined, and has not failed when it ends."""
    unit("echo-timed.service", "Type=oneshot\nDynamicUser=yes\nExecStart=sleep 8")
    unit("echo-timed.timer", "OnActiveSec=1d", "Timer")
    systemctl("start", "--no-block", "echo-timed.service")
    wait_for(lambda: state("echo-timed.service") == "activating")
    done = wgns("confine", "demo", "echo-timed")
    assert (done.returncode, files()) == (0, ["echo-timed.service.d/wireguard.conf"])
    assert show("echo-timed.service")["Result"] == "success"


def test_a_service_behind_its_socket(echo: str) -> None:
    """Both move into the tunnel, whether the service runs or not, and back."""
    unit("echo-door.service", "DynamicUser=yes\nExecStart=sleep infinity")
    unit("echo-door.socket", "ListenStream=7777", "Socket")
    systemctl("start", "echo-door.socket")
    for running in (False, True):
        if running:
            socket.create_connection(("127.0.0.1", 7777), 20).close()
            wait_for(lambda: state("echo-door.service") == "active")
        done = wgns("confine", "demo", "echo-door.service", "echo-door.socket")
        assert done.returncode == 0
        assert confined("echo-door.service") == ("demo" if running else "")
        assert ":7777" in shell("ip netns exec demo ss -Hltn")
        assert ":7777" not in shell("ss -Hltn")
        assert wgns("release", "--restart", "echo-door.service", "echo-door.socket").returncode == 0
        assert confined("echo-door.service") == ("host" if running else "")
        assert ":7777" in shell("ss -Hltn")
