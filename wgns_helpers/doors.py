"""`wgns publish` and `wgns reach`: a port in a tunnel's namespace for the host, and one of the host for the namespace.

Either is a door: a socket unit on one side, and systemd-socket-proxyd(8) on the other. No link leads through, and
nothing is forwarded. status reads the first line of its files.
"""

from __future__ import annotations

import os
import re
import socket
from contextlib import ExitStack, suppress
from errno import EADDRINUSE, EADDRNOTAVAIL
from glob import glob
from ipaddress import ip_address
from shlex import quote

from . import confine, netns, signals
from .errors import Failure, MissingError, PermissionRefusedError, UsageError, say, shown, system_error, warn
from .tunnel import Endpoint, endpoint, number
from .units import SYSTEM, Unit, read, systemctl

_MARK = "# Written by wgns "
_KINDS = ("socket", "service")
_LOCAL = "127.0.0.1"


def publish(name: str, port: str, inside: str = "") -> None:
    """Have the host listen at `port`, and pass what connects there on to `inside` in the tunnel `name`.

    Both are a port of 127.0.0.1 or ADDRESS:PORT; without `inside`, it is the same port of 127.0.0.1. Raises `Failure`.
    """
    listen = _place(port)
    _open("publish", name, listen, _place(inside or str(listen.port)))


def reach(name: str, port: str, target: str) -> None:
    """Have 127.0.0.1 of the tunnel `name` listen at `port`, and pass what connects there on to `target` (HOST:PORT).

    The host connects, and looks a name up. Raises `Failure`.
    """
    listen = _place(port)
    if listen.host != _LOCAL:
        raise UsageError(f"{shown(port)}: expected a port", f"{_LOCAL} listens, which the far side cannot reach")
    _open("reach", name, listen, _place(target, names=True))


def release(names: list[str]) -> list[str]:
    """Close the doors with these units, and what has come in by them; the names that are no doors. Raises `Failure`."""
    others = []
    for name in names:
        stem = name.removesuffix(".socket").removesuffix(".service")
        units = [f"{stem}.{kind}" for kind in _KINDS if "/" not in stem and _door(f"{SYSTEM}/{stem}.{kind}")]
        if units:
            _close(stem, units)
        others += [] if units else [name]
    return others


def of(name: str) -> dict[str, list[str]]:
    """The doors of a tunnel by their units, without suffix: verb, tunnel, where it listens, and where it leads."""
    paths = sorted(path for verb in ("publish", "reach") for path in glob(f"{SYSTEM}/{verb}-*.socket"))
    doors = {os.path.basename(path).removesuffix(".socket"): _door(path) for path in paths}
    return {stem: words for stem, words in doors.items() if words[1:2] == [name]}


def _door(path: str) -> list[str]:
    """The four words in the first line of a door's unit (see `of`); none of another."""
    with suppress(OSError):
        if found := re.match(rf"{_MARK}((publish|reach) \S+ \S+ \S+);", read(path)):
            return found[1].split()
    return []


def _place(value: str, *, names: bool = False) -> Endpoint:
    """A port of 127.0.0.1, or ADDRESS:PORT; with `names`, HOST:PORT too. Raises `UsageError`."""
    try:
        place = endpoint(value) if ":" in value else endpoint(f"{_LOCAL}:{number(value, 1, 65535)}")
    except ValueError as error:
        hint = "expected HOST:PORT" if names else "expected PORT or ADDRESS:PORT"
        raise UsageError(error.args[0], *error.args[1:] or [hint]) from None
    if place.family:
        address = ip_address(place.address)
        if address.is_multicast or getattr(address, "ipv4_mapped", None) or (names and address.is_unspecified):
            raise UsageError(f"{shown(value)}: expected the address of one host")
        return place._replace(host=str(address))
    if names and "%" not in place.host:
        return place
    raise UsageError(f"{shown(value)}: expected {'a name or ' * names}an address without a zone, and a port")


def _open(verb: str, name: str, listen: Endpoint, target: Endpoint) -> None:
    """Write the units of a door and the link by which it opens with its tunnel, and open it if that is up."""
    if os.path.exists("/etc/NIXOS"):
        setting = f'"{listen}" = {target.port};' if verb == "publish" else f'"{listen.port}" = "{target}";'
        option = f"my.wireguard.{f'tunnels.{name}.' * (name != 'wg')}{verb}.{setting}"
        raise PermissionRefusedError("the configuration of NixOS writes its units", option)
    confine.check_tunnel(name)
    where = "" if listen.host == _LOCAL else f"{listen.host}-"
    stem = f"{verb}-{confine.escaped(name)}-{where}{listen.port}".replace("@", r"\x40")  # or it would be an instance
    for path in glob(f"{SYSTEM}/publish-*.socket") if verb == "publish" else ():
        if (words := _door(path))[1:2] != [name] and words[2:3] == [str(listen)]:
            raise Failure(f"{listen} is taken by {words[1]}", f"wgns release {os.path.basename(path)}")
    files = _files(verb, name, stem, listen, target)
    changes = {path: content for path, content in files.items() if confine.on_disk(path) != content}
    unit, tunnel = Unit(f"{stem}.socket", required=False), confine.tunnel_unit(name)
    if not unit.runs:
        _refuse_taken(listen, name if verb == "reach" else "")
    up = not systemctl("is-active", tunnel)
    confine.apply(changes, [unit] * (up and (bool(changes) or not unit.runs)), wait=True)
    inside, when = f" in {shown(name)}", "" if up else f" from the next start of {tunnel} on"
    way = f"{listen} leads to {target}{inside}" if verb == "publish" else f"{listen}{inside} leads to {target}"
    say(f"{way}{when}", f"wgns release {quote(unit.name)} takes it away")


def _files(verb: str, name: str, stem: str, listen: Endpoint, target: Endpoint) -> dict[str, str]:
    """The units and the link of a door as `confine.apply` takes them. Raises `Failure` where somebody else has one."""
    escaped, mark = confine.escaped(name), f"{_MARK}{verb} {name} {listen} "
    values = {"wg@NAME.service": confine.tunnel_unit(name), "@NAME": f"@{escaped}", "NAME": name}
    values |= {"LISTEN": str(listen), "TARGET": str(target), "HOST": target.host, "PORT": str(target.port)}
    files = {}
    for kind in _KINDS:  # the link comes last: whenever this ends, it leads to a whole door
        path = f"{SYSTEM}/{stem}.{kind}"
        if os.path.lexists(path) and not read(path).startswith(mark):
            raise Failure(f"{path} was not written by wgns {verb} {name} {listen}: left as it is", "rename it")
        settings = read(os.path.join(os.path.dirname(__file__), f"{verb}.{kind}"))
        settings = settings if target.family else settings.partition("# Only this address")[0]
        settings = re.sub("|".join(values), lambda found: values[found[0]], settings)
        files[path] = f"{mark}{target}; wgns release {stem}.socket removes it.\n{settings}"
    return {**files, f"{SYSTEM}/wg-confined@{escaped}.service.wants/{stem}.socket": f"-> {SYSTEM}/{stem}.socket"}


def _refuse_taken(listen: Endpoint, name: str) -> None:
    """Raise `Failure` if another socket listens there, in the namespace `name` or, for "", in the host."""
    with ExitStack() as stack, suppress(MissingError):  # there is no namespace yet
        if name:
            space = stack.enter_context(open(netns.open_namespace(name), "rb"))
            stack.enter_context(netns.Inside(space.fileno()))
        try:
            probe = stack.enter_context(socket.socket(listen.family))
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if listen.family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((listen.host, listen.port))
        except OSError as error:
            if error.errno == EADDRINUSE:
                hint = f"{f'ip netns exec {name} ' * bool(name)}ss -ltnp sport = {listen.port} shows by whom"
                raise Failure(f"{shown(str(listen))} is taken{f' in {shown(name)}' * bool(name)}", hint) from None
            if error.errno != EADDRNOTAVAIL:
                raise system_error(f"listen at {listen}", error) from None
            warn(f"this host has no address {listen.host}: nothing can connect there until it has")


def _close(stem: str, units: list[str]) -> None:
    """Stop a door and remove its files. It is stopped first: once the files are gone, no name leads to it."""
    running = [unit for unit in units[:1] if not systemctl("is-active", unit)]
    links = [path for unit in units for path in glob(f"{SYSTEM}/wg-confined@*.service.wants/{unit}")]
    signals.hold()
    systemctl("stop", *units, check=True)
    systemctl("reset-failed", *units)
    try:
        confine.apply(dict.fromkeys([*links, *(f"{SYSTEM}/{unit}" for unit in units)], ""), [])
    except BaseException:
        if running:
            systemctl("start", "--no-block", *running)
        raise
    say(f"{stem} is closed and removed")
