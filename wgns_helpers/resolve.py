"""Host names of endpoints -> addresses, and the MTU of the way there, in the namespace that the program runs in."""

from __future__ import annotations

import _socket

from .errors import TryAgainError, shown, warn
from .tunnel import Endpoint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .tunnel import Tunnel

_IP_MTU, _IPV6_MTU = 14, 24  # ip(7), ipv6(7): the path MTU of a connected socket
_OVERHEAD = 80  # bytes that WireGuard adds at most, over IPv6 (wg-quick(8))
_IPV6_MINIMUM = 1280  # bytes (RFC 8200); below it the kernel takes IPv6 off the link
_ANYWHERE = Endpoint("", 51820, _socket.AF_INET, b"\xc0\0\2\1")  # TEST-NET-1 (RFC 5737): goes by the default route


def resolve(tunnel: Tunnel) -> Tunnel:
    """The tunnel with an address for each endpoint. `TryAgainError` for a name that cannot be resolved."""
    peers = (peer._replace(endpoint=_resolved(peer.endpoint)) if peer.endpoint else peer for peer in tunnel.peers)
    return tunnel._replace(peers=tuple(peers))


def _resolved(endpoint: Endpoint) -> Endpoint:
    # Literal addresses need no resolver, and loading one costs milliseconds
    for family in (_socket.AF_INET, _socket.AF_INET6):
        try:
            return endpoint._replace(family=family, address=_socket.inet_pton(family, endpoint.host))
        except OSError:
            continue
    try:
        host = endpoint.host.encode()  # a str would load the idna codec
        found = _socket.getaddrinfo(host, endpoint.port, 0, _socket.SOCK_DGRAM, _socket.IPPROTO_UDP)
    except _socket.gaierror as error:
        raise TryAgainError(
            f"endpoint {shown(endpoint.host)} does not resolve: {str(error.args[-1]).lower()}",
            "getent ahosts with this name asks the same; is the host online?",
        ) from None
    family, _, _, _, address = found[0]  # the order of RFC 6724, as wg(8) takes it
    packed = _socket.inet_pton(family, str(address[0]).partition("%")[0])
    return endpoint._replace(family=family, address=packed, scope=int(address[3]) if len(address) == 4 else 0)


def path_mtu(tunnel: Tunnel) -> int:
    """The interface's MTU in bytes: the configuration's, else what the ways to the endpoints leave for the packets.

    As in wg-quick(8): the largest counts; without an endpoint that of the default route, without one 1500.
    """
    if tunnel.mtu:
        return tunnel.mtu
    best = max((_mtu_to(peer.endpoint) for peer in tunnel.peers if peer.endpoint), default=0)
    mtu = (best or _mtu_to(_ANYWHERE) or 1500) - _OVERHEAD
    if mtu < _IPV6_MINIMUM and tunnel.has_ipv6():
        warn(f"the way to the endpoint has room for an mtu of {mtu} only, IPv6 needs 1280: packets will be split")
        return _IPV6_MINIMUM
    return mtu


def _mtu_to(endpoint: Endpoint) -> int:
    """The path MTU in bytes, 0 where there is no route. Connecting a UDP socket sends nothing."""
    address = _socket.inet_ntop(endpoint.family, endpoint.address)
    udp = None
    try:
        udp = _socket.socket(endpoint.family, _socket.SOCK_DGRAM)
        if endpoint.family == _socket.AF_INET:
            udp.connect((address, endpoint.port))
            return udp.getsockopt(_socket.IPPROTO_IP, _IP_MTU)
        udp.connect((address, endpoint.port, 0, endpoint.scope))
        return udp.getsockopt(_socket.IPPROTO_IPV6, _IPV6_MTU)
    except OSError:
        return 0
    finally:
        if udp:
            udp.close()
