"""The recipe of wg-down; by itself, so that it loads nothing that only wg-up needs."""

from __future__ import annotations

import os

from . import confine, lock, netlink, netns, signals
from .errors import Failure, MissingError, say

KIND = "wireguard"


def existing(socket: netlink.Socket, link: str, namespace: str) -> int:
    """The index of the WireGuard link of that name, 0 where there is none; `Failure` for a link of another kind."""
    index, kind, _ = netlink.read_link(socket, link) or (0, KIND, 0)
    if kind != KIND:
        raise Failure(
            f'namespace "{namespace}" has a link "{link}" that is not WireGuard but {kind or "hardware"}',
            "it was made by somebody else and is left alone",
        )
    return index


def down(link: str, namespace: str) -> None:
    """Delete the WireGuard link `link` of `namespace`, and the files that wg-up wrote, if they are there.

    Raises `Failure`, also for a link of another kind.
    """
    signals.hold()
    try:
        descriptor = netns.open_namespace(namespace)
    except MissingError as error:
        say(f"nothing to take down: {error}")
    else:
        lock.take(descriptor, f'namespace "{namespace}"')
        if os.fstat(descriptor).st_ino != netns.own()[1]:
            netns.enter(descriptor)
        with netlink.Socket() as socket:
            index = existing(socket, link, namespace)
            if index:
                socket.run([netlink.delete_link(index)])
                say(f'"{link}" is gone from namespace "{namespace}"')
            else:
                say(f'there is no "{link}" in namespace "{namespace}"')
    confine.remove(namespace, link)
