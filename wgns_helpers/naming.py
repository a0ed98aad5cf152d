"""The recipes of netns-up and netns-down."""

from __future__ import annotations

import os
from _socket import if_nameindex

from . import netlink, netns, signals
from .errors import Failure, PermissionRefusedError, say, warn

_LOOPBACK = 1  # index of lo in every namespace (LOOPBACK_IFINDEX of the kernel)
_LISTED = 10  # processes named in a warning


def up(name: str) -> None:
    """Call this process's network namespace `name`; in the host's, make a new one and call that `name`.

    Never gives the host's own namespace a name: what is confined to it would be on the host's network. Raises
    `Failure`.
    """
    host = netns.in_host()
    if host and netns.in_unit():
        raise PermissionRefusedError(
            "this unit is in the host's network namespace, which is never given a name",
            "the unit lacks PrivateNetwork=true, or the kernel refused it",
        )
    signals.hold()
    with netns.Lock():
        pinned = netns.pinned(name)
        if pinned and host:
            if pinned == netns.own():
                raise Failure(f'"{name}" is the host\'s own network namespace', f"netns-down {name} takes it away")
            say(f'"{name}" is there already')
        elif pinned and pinned == netns.own():
            say(f'"{name}" is this namespace\'s name already')
        elif pinned:
            raise Failure(
                f'"{name}" is network namespace {pinned[1]} already, this one is {netns.own()[1]}',
                f"netns-down {name} takes the name away; services that run in {pinned[1]} stay there",
            )
        else:
            _attach(name, new=host)


def _attach(name: str, *, new: bool) -> None:
    if new:
        netns.enter_new()
        with netlink.Socket() as socket:
            socket.run([netlink.set_link(_LOOPBACK, up=True)])
    else:
        with netlink.Socket() as socket:
            links = _links_up(socket)
        if links:
            raise PermissionRefusedError(
                f"this network namespace has links that are up ({', '.join(links)}): is it somebody's way out?",
                "only a namespace with nothing but lo is given a name; PrivateNetwork=true makes one",
            )
    netns.attach(name)


def down(name: str) -> None:
    """Take the name away, with a warning about what is still inside. No such name: nothing to do.

    Run inside a namespace other than the host's it takes away only that one's name. Raises `Failure`.
    """
    try:
        host = netns.in_host()
    except PermissionRefusedError:
        host = False  # cannot be told: then only what is certainly ours
    signals.hold()
    with netns.Lock(make=False):
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
        if inside:
            warn(f'"{name}" was still in use: {inside}', "they stay in the namespace, which has no name now")


def _inside(name: str, pinned: netns.Identity) -> str:
    """What is in a namespace besides lo and this process, in words."""
    processes = []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and int(entry) != os.getpid() and os.stat(f"/proc/{entry}/ns/net").st_ino == pinned[1]:
                with open(f"/proc/{entry}/comm", encoding="utf-8", errors="replace") as comm:
                    processes.append(f"{comm.read().strip()} ({entry})")
        except OSError:
            continue  # it has ended, or may not be looked at
    found = processes[:_LISTED] + ["more processes"] * (len(processes) > _LISTED)
    return ", ".join(found + [f"link {link}" for link in _links(name, pinned)])


def _links(name: str, pinned: netns.Identity) -> list[str]:
    try:
        if pinned != netns.own():
            descriptor = netns.open_namespace(name)
            netns.enter(descriptor)
        with netlink.Socket() as socket:
            return _links_up(socket)
    except Failure:
        return []  # may not be looked at


def _links_up(socket: netlink.Socket) -> list[str]:
    """The links besides lo that are up. The socket has to be in the process's own network namespace."""
    found = []
    for _, name in if_nameindex():
        link = netlink.read_link(socket, name) if name != "lo" else None
        if link and link[2] & netlink.IFF_UP:
            found.append(name)
    return found
