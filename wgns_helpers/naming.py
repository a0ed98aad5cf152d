"""The recipes of netns-up and netns-down."""

from __future__ import annotations

import os
from _socket import if_nameindex

from . import dns_files, netlink, netns, signals
from .errors import Failure, PermissionRefusedError, say, warn
from .signals import Lock

_LOOPBACK = 1  # index of lo in every namespace (LOOPBACK_IFINDEX of the kernel)
_LISTED = 10  # processes named in a warning
# The sysctls that are off, for all links that are there or will be
_OFF = {
    "ipv4": ("forwarding", "route_localnet", "accept_local", "accept_redirects", "accept_source_route"),
    "ipv6": ("forwarding", "accept_redirects", "accept_source_route", "accept_ra"),
}


def up(name: str) -> None:
    """Give this process's network namespace the name `name`; in the host's namespace, make a new one for it.

    The host's own namespace never gets a name: services confined to it would be on the host's network.
    Raises `Failure`.
    """
    host = netns.in_host()
    if host and netns.in_unit():
        raise PermissionRefusedError(
            "this unit is in the host's network namespace, which is never given a name",
            "the unit lacks PrivateNetwork=true, or the kernel refused it",
        )
    if os.statvfs("/run").f_flag & os.ST_RDONLY:  # ProtectSystem=strict
        raise PermissionRefusedError("/run is read-only: others would not see the name", netns.PRIVATE_MOUNTS_HINT)
    signals.hold()
    with Lock(name):
        pinned = netns.pinned(name)
        if pinned and host:
            if pinned == netns.own():
                raise Failure(f'"{name}" is the host\'s own network namespace', f"netns-down {name} takes it away")
            say(f'"{name}" is there already')
        elif pinned and pinned == netns.own():
            say(f'"{name}" is this namespace\'s name already')
        elif pinned:
            raise PermissionRefusedError(
                f'"{name}" is network namespace {pinned[1]} already, this one is {netns.own()[1]}',
                f"netns-down {name} takes the name away; services that run in {pinned[1]} stay there",
            )
        else:
            _attach(name, new=host)
        dns_files.publish(name)


def _attach(name: str, *, new: bool) -> None:
    if new:
        netns.enter_new()
        with netlink.Socket() as socket:
            socket.run([netlink.set_link(_LOOPBACK, up=True)])
    elif _foreign_links():
        raise PermissionRefusedError(
            f"this network namespace has other links than lo ({', '.join(_foreign_links())}): does one lead outside?",
            "only a namespace with nothing but lo is given a name; PrivateNetwork=true makes one",
        )
    _write_sysctls()
    netns.attach(name)


def _write_sysctls() -> None:
    """Have the namespace forward nothing and obey nobody; users may ping, as in a host where systemd runs.

    A new namespace takes over the host's settings for IPv4 (net.core.devconf_inherit_init_net). Raises `Failure`.
    """
    for family, settings in _OFF.items():
        folder = f"/proc/sys/net/{family}/conf"
        for setting in settings:  # forwarding comes first: the kernel resets accept_redirects with it
            for link in os.listdir(folder) if os.path.isdir(folder) else ():
                _write_sysctl(f"{folder}/{link}/{setting}", "0")
    _write_sysctl("/proc/sys/net/ipv4/ping_group_range", "0 2147483647")


def _write_sysctl(path: str, value: str) -> None:
    try:
        with open(path, encoding="utf-8") as file:
            if file.read().split() == value.split():
                return
        with open(path, "w", encoding="utf-8") as file:
            file.write(value)
    except FileNotFoundError:  # this kernel has no such setting
        pass
    except OSError as error:
        raise PermissionRefusedError(
            f'{path} cannot be set to "{value}": {(error.strerror or "").lower()}',
            "is /proc/sys read-only (ProtectKernelTunables=, a container), or CAP_NET_ADMIN missing?",
        ) from None


def down(name: str) -> None:
    """Take the name away, with a warning about what is still inside. No such name: nothing to do.

    Run inside a namespace other than the host's it takes away only that one's name. Raises `Failure`.
    """
    try:
        host = netns.in_host()
    except PermissionRefusedError:
        host = False  # cannot be told: then only what is certainly ours
    signals.hold()
    with Lock(name):
        if not os.path.lexists(f"{netns.DIRECTORY}/{name}"):
            say(f'there is no "{name}"')
            return
        pinned = netns.pinned(name)
        if pinned and not host and pinned != netns.own():
            raise Failure(
                f'"{name}" is network namespace {pinned[1]}, this one is {netns.own()[1]}: left alone',
                "run it in the host's network namespace, or in that one",
            )
        inside = _inside(name, pinned) if pinned else ""
        netns.detach(name, pinned)
        dns_files.unpublish(name)
        if inside:
            hint = "they keep running in the namespace, which no longer has a name"
            warn(f'"{name}" was still in use: {inside}', hint)


def _inside(name: str, pinned: netns.Identity) -> str:
    """What is in a namespace besides lo and this process, in words."""
    numbers = [number for number in netns.processes()[0].get(pinned, ()) if number != os.getpid()]
    processes = [f"{comm} ({number})" for number in numbers if (comm := netns.comm(number))]
    found = processes[:_LISTED] + ["more processes"] * (len(processes) > _LISTED)
    try:
        if pinned != netns.own():
            netns.enter(netns.open_namespace(name))
        found += [f"link {link}" for link in _foreign_links()]
    except Failure:
        pass  # may not be looked at
    return ", ".join(found)


def _foreign_links() -> list[str]:
    """The links of this process's network namespace that the kernel has not made with it."""
    return [name for _, name in if_nameindex() if name not in netns.LOCAL_LINKS]
