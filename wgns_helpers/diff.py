"""From one tunnel to another: the requests to the kernel, in the order in which they are sent."""

from __future__ import annotations

from binascii import b2a_base64

from . import inbound, netlink, wireguard
from .netlink import Request, socket
from .tunnel import IPV6_MINIMUM, NOWHERE, Network, Peer, Route, Tunnel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NOTHING = Tunnel(b"", up=False, open_ports=None)  # what a new link has


def diff(now: Tunnel, wanted: Tunnel, device: wireguard.Device, names: dict[bytes, str]) -> list[Request]:
    """The requests that turn `now` into `wanted`, which is resolved and as in the kernel; `names` are the peers'.

    Additions are first and removals last: other traffic goes on meanwhile, and after a failure everything that cannot
    be restored is still present. Only routes of wg-up are removed. The listen port stays if 0 is wanted, an endpoint
    stays if None is wanted or if it is one of the addresses of the wanted name.
    """
    kept = {peer.public_key for peer in wanted.peers}
    gone = [peer.public_key for peer in now.peers if peer.public_key not in kept]
    former = (part for key in gone for part in wireguard.peer(_name(key, names), key, wireguard.REMOVE))
    return [
        *inbound.change(device.name, now.open_ports, wanted.open_ports),
        *wireguard.settings(device, now, wanted),
        *wireguard.peers(device, _peers(now, wanted, names)),
        *_additions(device.ifindex, now, wanted),
        *wireguard.peers(device, former),  # after all additions: their sessions cannot be restored
        *_removals(device.ifindex, now, wanted),
    ]


def words(requests: Iterable[Request]) -> list[str]:
    """What the requests do, without repetition."""
    return list(dict.fromkeys(line for request in requests for line in request.lines))


def _peers(now: Tunnel, wanted: Tunnel, names: dict[bytes, str]) -> Iterator[wireguard.Part]:
    """Add peers, and change present ones. An allowed IP that a peer loses to another one moves by itself."""
    present = {peer.public_key: peer for peer in now.peers}
    owner = {network: peer.public_key for peer in now.peers for network in peer.allowed_ips}
    moved = {network for peer in wanted.peers for network in peer.allowed_ips if owner.get(network) != peer.public_key}
    for peer in wanted.peers:
        key = peer.public_key
        name, former = _name(key, names), present.get(key)
        if former and peer.endpoint == NOWHERE != former.endpoint:  # the kernel cannot take an endpoint away
            yield from wireguard.peer(name, key, wireguard.REMOVE)
            former = None
        old = former or Peer(key, endpoint=NOWHERE)
        anew = not former or bool(set(old.allowed_ips) - set(peer.allowed_ips) - moved)
        preshared_key = peer.preshared_key if peer.preshared_key != old.preshared_key else None
        places = [place.sockaddr() for place in peer.endpoint.places()] if peer.endpoint else []
        endpoint = peer.endpoint if (old.endpoint or NOWHERE).sockaddr() not in places else None
        keepalive = peer.keepalive if peer.keepalive != old.keepalive else None
        allowed_ips = tuple(network for network in peer.allowed_ips if anew or network in moved)
        flags = (wireguard.UPDATE_ONLY if former else 0) | (wireguard.REPLACE_ALLOWED_IPS if anew else 0)
        if anew or allowed_ips or endpoint or (preshared_key, keepalive) != (None, None):
            yield from wireguard.peer(name, key, flags, preshared_key, endpoint, keepalive, allowed_ips)


def _name(key: bytes, names: dict[bytes, str]) -> str:
    """The peer's place in the configuration; of one that is not in it the beginning of its public key."""
    return names.get(key) or f'peer "{b2a_base64(key).decode()[:8]}…"'


def _additions(index: int, now: Tunnel, wanted: Tunnel) -> Iterator[Request]:
    """Set MTU and state of the link, add addresses and routes."""
    if wanted.mtu != now.mtu and wanted.mtu >= IPV6_MINIMUM:
        yield netlink.set_link(index, mtu=wanted.mtu)
    if any(address.family == socket.AF_INET for address in _addresses(now, wanted)):  # the others are to stay
        yield netlink.set_link(index, promote=True)
    for address in _replaced(now, wanted):
        yield netlink.address(index, *address, remove=True)
    for address in _addresses(wanted, now):
        yield netlink.address(index, *address)
    if wanted.up != now.up:
        yield netlink.set_link(index, up=wanted.up, promote=True)
    for network, table, _ in _routes(wanted, now):
        yield netlink.route(index, *network, table)


def _removals(index: int, now: Tunnel, wanted: Tunnel) -> Iterator[Request]:
    """Remove routes and addresses, and set an MTU that IPv6 does not survive."""
    for network, table, _ in _routes(now, wanted):
        yield netlink.route(index, *network, table, remove=True)
    for address in _addresses(now, wanted):
        if address not in _replaced(now, wanted):
            yield netlink.address(index, *address, remove=True)
    if wanted.mtu != now.mtu and 0 < wanted.mtu < IPV6_MINIMUM:
        yield netlink.set_link(index, mtu=wanted.mtu)


def _routes(one: Tunnel, other: Tunnel) -> list[Route]:
    """The routes of wg-up that only the first tunnel has."""
    places = {route[:2] for route in other.routes}
    return [route for route in one.routes if route.ours and route[:2] not in places]


def _addresses(one: Tunnel, other: Tunnel) -> list[Network]:
    """The addresses that only the first tunnel has."""
    return [address for address in one.addresses if address not in other.addresses]


def _replaced(now: Tunnel, wanted: Tunnel) -> list[Network]:
    """IPv6 addresses with another prefix length: the kernel has each address once, so the former one goes first."""
    texts = {address.address for address in wanted.addresses if address.family == socket.AF_INET6}
    return [address for address in _addresses(now, wanted) if address.address in texts]
