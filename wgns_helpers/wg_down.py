"""The recipe of wg-down; by itself, so that it loads nothing that only wg-up needs."""

from __future__ import annotations

from . import dns_files, inbound, netlink, netns, signals
from .errors import Failure, MissingError, say, say_absent
from .signals import Lock

KIND = "wireguard"


def existing(socket: netlink.Socket, link: str, namespace: str) -> int:
    """The index of the WireGuard link of that name, 0 where there is none; `Failure` for a link of another kind."""
    index, kind = netlink.read_link(socket, link)
    if index and kind != KIND:
        text = f'namespace "{namespace}" has a link "{link}" that is not WireGuard but {kind or "hardware"}'
        raise Failure(text, "another program made it; wg-up and wg-down leave it alone")
    return index


def down(link: str, namespace: str) -> None:
    """Delete the WireGuard link `link` of `namespace`, and the files that wg-up wrote, if they are there.

    The link goes whoever has the lock: services that have been left over would keep the tunnel. Raises `Failure`, also
    for a link of another kind.
    """
    signals.hold()
    with Lock(namespace, optional=True):
        try:
            descriptor = netns.open_namespace(namespace)
        except MissingError as error:
            say_absent(f"nothing to take down: {error}")
        else:
            if netns.identity(descriptor) != netns.own():
                netns.enter(descriptor)
            with netlink.Socket(netlink.NETLINK_ROUTE, netlink.NETLINK_NETFILTER) as socket:
                index = existing(socket, link, namespace)
                if index:
                    socket.run([netlink.delete_link(index)])
                    say(f'"{link}" is gone from namespace "{namespace}"')
                else:
                    say_absent(f'there is no "{link}" in namespace "{namespace}"')
                inbound.remove(socket, link)  # after the link: no port is open meanwhile
        dns_files.remove(namespace, link)
        dns_files.unpublish(namespace)
