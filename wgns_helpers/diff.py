"""From one tunnel to another: the requests to the kernel, in the order in which they are sent."""

from __future__ import annotations

from binascii import b2a_base64

from . import netlink, wireguard
from .netlink import socket
from .tunnel import NOWHERE, Peer, Tunnel
from .wireguard import Device

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .netlink import Request
    from .tunnel import Endpoint, Network

NOTHING = Tunnel(b"", routes=(), up=False)  # what a new link has
_IPV6_MINIMUM = 1280  # bytes (RFC 8200); below it the kernel takes IPv6 off the link
_LISTED = 20  # words in one message


def diff(
    now: Tunnel, wanted: Tunnel, device: Device | None = None, names: dict[bytes, str] | None = None
) -> list[Request]:
    """The requests that make `wanted`, resolved, of `now`; `names` is what their words call the peers.

    Additions are first and removals last: other traffic goes on meanwhile, and after a failure everything that cannot
    be restored is still present. Only routes of wg-up are removed. The listen port stays if 0 is wanted, an endpoint
    stays if None is wanted or if it is one of the addresses of the wanted name.
    """
    device, names = device or Device(), names or {}
    if wanted.routes is None:
        wanted = wanted.as_in_kernel()
    return [
        *wireguard.settings(device, now, wanted),
        *wireguard.peers(device, _peers(now, wanted, names)),
        *_additions(device.ifindex, now, wanted),
        *wireguard.peers(device, _former_peers(now, wanted, names)),
        *_removals(device.ifindex, now, wanted),
    ]


def words(requests: Iterable[Request]) -> list[str]:
    """What the requests do, without repetition."""
    return list(dict.fromkeys(line for request in requests for line in request.words()))


def listed(lines: list[str]) -> str:
    """The lines in one, the first of them where there are many."""
    more = [f"{len(lines) - _LISTED} more"] * (len(lines) > _LISTED)
    return "; ".join(lines[:_LISTED] + more)


def _peers(now: Tunnel, wanted: Tunnel, names: dict[bytes, str]) -> Iterator[wireguard.Part]:
    """Add peers, and change present ones. An allowed IP that a peer loses to another one moves by itself."""
    present = {peer.public_key: peer for peer in now.peers}
    gained = {peer.public_key: _gained(present.get(peer.public_key), peer) for peer in wanted.peers}
    moved = {network for networks in gained.values() for network in networks} if present else set()
    for peer in wanted.peers:
        key = peer.public_key
        name, former = _name(key, names), present.get(key)
        if former and peer.endpoint == NOWHERE != former.endpoint:  # the kernel cannot take an endpoint away
            yield from wireguard.peer(name, key, wireguard.REMOVE)
            former = None
        old = former or Peer(key, endpoint=NOWHERE)
        lost = set(old.allowed_ips) - set(peer.allowed_ips) - moved
        preshared_key = peer.preshared_key if peer.preshared_key != old.preshared_key else None
        endpoint = peer.endpoint if not _is_at(old, peer.endpoint) else None
        keepalive = peer.keepalive if peer.keepalive != old.keepalive else None
        allowed_ips = peer.allowed_ips if lost or not former else gained[key]
        flags = wireguard.UPDATE_ONLY if former else wireguard.REPLACE_ALLOWED_IPS
        flags |= wireguard.REPLACE_ALLOWED_IPS if lost else 0
        if not former or lost or allowed_ips or endpoint or (preshared_key, keepalive) != (None, None):
            yield from wireguard.peer(name, key, flags, preshared_key, endpoint, keepalive, allowed_ips)


def _gained(former: Peer | None, peer: Peer) -> tuple[Network, ...]:
    had = set(former.allowed_ips) if former else set()
    return tuple(network for network in peer.allowed_ips if network not in had)


def _is_at(peer: Peer, endpoint: Endpoint | None) -> bool:
    """Whether the present peer's endpoint may stay."""
    places = [place.sockaddr() for place in endpoint.places()] if endpoint else []
    return not endpoint or (peer.endpoint or NOWHERE).sockaddr() in places


def _former_peers(now: Tunnel, wanted: Tunnel, names: dict[bytes, str]) -> Iterator[wireguard.Part]:
    """Remove peers, after all additions: their sessions cannot be restored."""
    kept = {peer.public_key for peer in wanted.peers}
    for key in [peer.public_key for peer in now.peers if peer.public_key not in kept]:
        yield from wireguard.peer(_name(key, names), key, wireguard.REMOVE)


def _name(key: bytes, names: dict[bytes, str]) -> str:
    """The peer's place in the configuration; of one that is not in it the beginning of its public key."""
    return names.get(key) or f'peer "{b2a_base64(key).decode()[:8]}…"'


def _additions(index: int, now: Tunnel, wanted: Tunnel) -> Iterator[Request]:
    """Set MTU and state of the link, add addresses and routes."""
    if wanted.mtu != now.mtu and wanted.mtu >= _IPV6_MINIMUM:
        yield netlink.set_link(index, mtu=wanted.mtu)
    if any(address.family == socket.AF_INET for address in _surplus(now, wanted)):  # the others are to stay
        yield netlink.set_link(index, promote=True)
    for address in _replaced(now, wanted):
        yield netlink.address(index, *address, remove=True)
    for address in wanted.addresses:
        if address not in now.addresses:
            yield netlink.address(index, *address)
    if wanted.up != now.up:
        yield netlink.set_link(index, up=wanted.up, promote=True)
    present = {route[:2] for route in now.routes or ()}
    for network, table, ours in wanted.routes or ():
        if ours and (network, table) not in present:
            yield netlink.route(index, *network, table)


def _removals(index: int, now: Tunnel, wanted: Tunnel) -> Iterator[Request]:
    """Remove routes and addresses, and set an MTU that IPv6 does not survive."""
    kept = {route[:2] for route in wanted.routes or ()}
    for network, table, ours in now.routes or ():
        if ours and (network, table) not in kept:
            yield netlink.route(index, *network, table, remove=True)
    replaced = _replaced(now, wanted)
    for address in _surplus(now, wanted):
        if address not in replaced:
            yield netlink.address(index, *address, remove=True)
    if wanted.mtu != now.mtu and 0 < wanted.mtu < _IPV6_MINIMUM:
        yield netlink.set_link(index, mtu=wanted.mtu)
    if wanted.alias != now.alias:
        yield netlink.set_link(index, alias=wanted.alias)


def _surplus(now: Tunnel, wanted: Tunnel) -> list[Network]:
    return [address for address in now.addresses if address not in wanted.addresses]


def _replaced(now: Tunnel, wanted: Tunnel) -> list[Network]:
    """IPv6 addresses with another prefix length: the kernel has each address once, so the former one goes first."""
    texts = {address.address for address in wanted.addresses if address.family == socket.AF_INET6}
    return [address for address in _surplus(now, wanted) if address.address in texts]
