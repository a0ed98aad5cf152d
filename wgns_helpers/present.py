"""The tunnel that is present: its link, addresses and routes decoded by pyroute2, its device by wireguard.py."""

from __future__ import annotations

from struct import pack

from . import inbound, netlink
from .errors import MissingError
from .netlink import socket
from .tunnel import Network, Route, Session, Tunnel, network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from .wireguard import Link

_UNICAST, _KERNEL_LL = 1, 3  # RTN_UNICAST; IFAPROT_KERNEL_LL: a link-local address that nobody configured
_ANY = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}  # noqa: S104  (networks)
_METRIC = {socket.AF_INET: 0, socket.AF_INET6: 1024}  # of wg-up's routes; IP6_RT_PRIO_USER


def read(link: Link) -> tuple[Tunnel, dict[bytes, Session]]:
    """The tunnel as the kernel has it, and its peers' sessions. Raises `Failure`.

    pyroute2 decodes the messages, but does not receive them: it does not notice a list that changed meanwhile.
    """
    try:
        from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
        from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
        from pyroute2.netlink.rtnl.rtmsg import rtmsg
    except ImportError:
        raise MissingError("the Python package pyroute2 is missing", "pip install pyroute2") from None
    name = f'link "{link.name}"'
    tunnel, sessions = link.read()

    def listed(message: Any, kind: int, size: int) -> Iterator[Any]:  # noqa: ANN401
        for family in _METRIC:  # in one list of both, the kernel would not notice a change between the two
            request = netlink.Request(name, kind, bytes([family]).ljust(size, b"\0"), netlink.DUMP)
            yield from (_decoded(message, data) for data in link.dump(request) if data[0] == family)

    request = netlink.Request(name, netlink.RTM_GETLINK, pack("=BxHiII", 0, 0, link.index, 0, 0))
    (interface,) = (_decoded(ifinfmsg, data) for data in link.run([request]))
    return tunnel._replace(
        mtu=interface.get_attr("IFLA_MTU"),
        up=bool(interface["flags"] & netlink.IFF_UP),
        open_ports=inbound.read(link, link.name),
        addresses=tuple(_addresses(listed(ifaddrmsg, netlink.RTM_GETADDR, 8), link.index)),
        routes=tuple(_routes(listed(rtmsg, netlink.RTM_GETROUTE, 12), link.index)),
    ), sessions


def _decoded(kind: Any, payload: bytes) -> Any:  # noqa: ANN401  (pyroute2 has no types)
    """The payload of a netlink message as pyroute2's class `kind` reads it."""
    message = kind(pack("=IHHII", 16 + len(payload), 0, 0, 0, 0) + payload)
    message.decode()
    return message


def _addresses(messages: Iterator[Any], index: int) -> Iterator[Network]:
    for message in messages:
        if message["index"] == index and message.get_attr("IFA_PROTO") != _KERNEL_LL:
            address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            yield network(f"{address}/{message['prefixlen']}")


def _routes(messages: Iterator[Any], index: int) -> list[Route]:
    """The routes by the link that are wg-up's, or in the way of one: with the metric that these have."""
    ours: dict[tuple[Network, int], bool] = {}
    for message in messages:
        family = message["family"]
        of_link = message.get_attr("RTA_OIF") == index and message["type"] == _UNICAST
        if of_link and (message.get_attr("RTA_PRIORITY") or 0) == _METRIC[family]:
            target = network(f"{message.get_attr('RTA_DST') or _ANY[family]}/{message['dst_len']}")
            key = (target, message.get_attr("RTA_TABLE"))
            ours[key] = ours.get(key, False) or message["proto"] == netlink.ROUTE_PROTOCOL
    return [Route(target, table, made) for (target, table), made in ours.items()]
