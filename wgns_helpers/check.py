"""Proof that a process is confined to a tunnel: network namespace, links, routes, and who can be asked for names.

Reads what an unprivileged process can read under the restrictions of an ordinary unit: no netlink, no pyroute2.
"""

from __future__ import annotations

import _socket
import fcntl
import os
import sys

from . import confine, netns
from .errors import Failure, PermissionRefusedError

# A name, whether it holds (None: cannot be seen from here), and what was found
Point = tuple[str, bool | None, str]

# Whoever looks names up for others, in the host's network: nscd(8) and nsncd, systemd-resolved(8), and by the system
# bus systemd-resolved and avahi, which has a socket of its own too
_SOCKETS = (
    "/run/nscd/socket",
    "/var/run/nscd/socket",
    "/run/systemd/resolve/io.systemd.Resolve",
    "/run/systemd/resolve/io.systemd.Resolve.Monitor",
    "/run/dbus/system_bus_socket",
    "/run/avahi-daemon/socket",
)
_IF_INET6 = "/proc/self/net/if_inet6"
_SIOCGIFFLAGS, _IFF_UP = 0x8913, 1  # linux/sockios.h, linux/if.h


def own_name() -> str:
    """The name of the network namespace that this process is in; `Failure` where it has none that can be seen."""
    for name in sorted(os.listdir(netns.DIRECTORY)) if os.path.isdir(netns.DIRECTORY) else []:
        try:
            if netns.pinned(name) == netns.own():
                return name
        except Failure:  # another kind of namespace
            continue
    raise Failure("this network namespace has no name that can be seen here", "wgns check NAME")


def in_host_by_hand() -> bool:
    """Whether this was started by a person in the host's network namespace, and not by a unit to look at itself.

    A system service is in a control group of that name, or below it; below user@.service are people (systemd.slice(5)).
    """
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            group = file.read().strip().rpartition(":")[2]
        hidden = group == "/" and "INVOCATION_ID" in os.environ  # ProtectControlGroups=private
        service = hidden or (".service" in group and "/user@" not in group)
        return not netns.in_unit() and not service and netns.in_host()
    except (OSError, Failure):
        return False  # cannot be told: then it has to prove itself


def points(name: str, *, default: bool = True) -> list[Point]:
    """What there is to prove, for this process and the tunnel `name` in the namespace of that name.

    Started by a person in the host, it is about the namespace instead, which root can look into. With `default` all
    that has an address has to have a default route.
    """
    if not in_host_by_hand():
        first, folder, last = [_namespace(name)], "/etc", _sockets()
    else:
        netns.enter(netns.open_namespace(name))
        first, folder = [], f"{confine.DIRECTORY}/{name}"
        last = ("sockets", None, "what a service sees in its /run only itself can tell")
    return [*first, _host(), _links(name), _routes(name, default=default), *_names(folder, name), last]


def _namespace(name: str) -> Point:
    path = f"{netns.DIRECTORY}/{name}"
    try:
        pinned = netns.pinned(name)
    except Failure as error:
        return "namespace", False, str(error)
    if not pinned:
        return "namespace", False, f"there is no {path} here; it has to be seen to be compared"
    if pinned != netns.own():
        return "namespace", False, f"this is network namespace {netns.own()[1]}, {path} is {pinned[1]}"
    return "namespace", True, f"this is {path}"


def _host() -> Point:
    try:
        if netns.in_host():
            return "host", False, "this is the host's network namespace"
    except PermissionRefusedError as error:
        return "host", None, str(error)
    return "host", True, "this is another network namespace than that of PID 1"


def _links(name: str) -> Point:
    present = [line.partition(":")[0].strip() for line in _lines("/proc/self/net/dev")[2:]]
    if name not in present:
        return "links", False, f"there is no {name}"
    up = {link: _is_up(link) for link in present if link != "lo"}
    others = [link for link, state in up.items() if link != name and state is not False]
    if others:
        return "links", False, f"besides lo and {name} there is {', '.join(others)}, and it is not down"
    if up[name] is None:
        return "links", None, "there is nothing but lo and the tunnel's; whether that is up cannot be seen here"
    return "links", up[name], f"{name} is {'up' if up[name] else 'down'}, and nothing else but lo"


def _is_up(link: str) -> bool | None:
    """By the first kind of socket that is allowed here: all know this request (netdevice(7))."""
    for family in (_socket.AF_INET, _socket.AF_INET6, _socket.AF_UNIX):
        try:
            socket = _socket.socket(family, _socket.SOCK_DGRAM, 0)
        except OSError:
            continue
        try:
            answer = fcntl.ioctl(socket.fileno(), _SIOCGIFFLAGS, link.encode().ljust(40, b"\0"))
        except OSError:
            return None
        finally:
            socket.close()
        return bool(answer[16] & _IFF_UP)
    return None


def _routes(name: str, *, default: bool) -> Point:
    """From proc(5): of IPv4 the routes of the main table, whose networks are in the host's byte order, of IPv6 all."""
    found = (
        {  # (device, network, prefix length, length of an address); * is a route to nowhere, and so is what lo has
            (f[0], int.from_bytes(int(f[1], 16).to_bytes(4, sys.byteorder), "big"), int(f[7], 16).bit_count(), 32)
            for f in map(str.split, _lines("/proc/self/net/route")[1:])
        }
        | {(f[9], int(f[0], 16), int(f[1], 16), 128) for f in map(str.split, _lines("/proc/self/net/ipv6_route"))}
    )
    foreign = {route[0] for route in found} - {"lo", "*", name}
    if foreign:
        return "routes", False, f"there are routes by {', '.join(sorted(foreign))}"
    addresses = {32: _has_ipv4(), 128: any(f[5] == name and f[3] == "00" for f in map(str.split, _lines(_IF_INET6)))}
    if not any(addresses.values()):
        return "routes", False, f"{name} has no address"
    for bits, family in ((32, "IPv4"), (128, "IPv6")):
        whole, halves = {(name, 0, 0, bits)}, {(name, 0, 1, bits), (name, 1 << bits - 1, 1, bits)}
        if default and addresses[bits] and not (whole <= found or halves <= found):
            return "routes", False, f"{name} has no default route for {family} (--no-default: none is wanted)"
    return "routes", True, f"all are by {name}{', the default ones too' if default else ''}"


def _has_ipv4() -> bool:
    """Whether this namespace has an IPv4 address besides those of lo, by /proc/net/fib_trie."""
    address = ""
    for line in _lines("/proc/self/net/fib_trie"):
        if line.lstrip().startswith("|--"):
            address = line.split()[-1]
        elif "host LOCAL" in line and not address.startswith("127."):
            return True
    return False


def _names(folder: str, name: str) -> list[Point]:
    found: list[Point] = []
    for file in reversed(confine.FILES):
        path = f"{folder}/{file}"
        try:
            with open(path, "rb") as opened:
                content = opened.read(1 << 16)
        except OSError as error:
            found.append((file, False, f"{path}: {(error.strerror or '').lower()}"))
            continue
        ours = confine.is_ours(content, name)
        found.append((file, ours, f"{path} is {'' if ours else 'not '}the one that wg-up {name} wrote"))
    return found


def _sockets() -> Point:
    seen = [path for path in _SOCKETS if os.path.lexists(path)]
    if seen:
        return "sockets", False, f"{', '.join(seen)} can be seen: names are looked up there by the host"
    return "sockets", True, "nobody who looks names up for the host can be seen"


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except FileNotFoundError:  # no IPv6 here
        return []
