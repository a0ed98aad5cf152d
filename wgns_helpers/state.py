"""What a WireGuard link is and what it should be, as values that can be compared; reading is pyroute2's work."""

from __future__ import annotations

import _socket
import sys
import time
from _blake2 import blake2s  # hashlib would load OpenSSL: 3 ms
from _struct import unpack_from
from binascii import a2b_base64 as b64decode
from binascii import b2a_base64

from .errors import Failure, MissingError, system_error
from .netlink import ROUTE_PROTOCOL
from .tunnel import Endpoint, NamedTuple, Network, Peer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from .tunnel import Tunnel

_TRIES = 5  # a dump that something else changes while it is read is begun again
_DONE, _DUMP_INTR = 3, 0x10  # NLMSG_DONE, NLM_F_DUMP_INTR of linux/netlink.h
_ALIAS, _MARKS = "wg-up ", 248  # an alias has 255 characters at most (IFALIASZ of linux/if.h)
ALIVE = 180  # seconds since the handshake after which a session has ended (REJECT_AFTER_TIME of WireGuard)
_FAMILIES = (_socket.AF_INET, _socket.AF_INET6)
_ANY = {_socket.AF_INET: "0.0.0.0", _socket.AF_INET6: "::"}  # noqa: S104  (a network, nothing listens there)
_UNICAST, _KERNEL_LL = 1, 3  # RTN_UNICAST; IFAPROT_KERNEL_LL: a link-local address that nobody asked for


class Session(NamedTuple):
    """What the kernel tells of a peer besides its settings."""

    handshake: int = 0  # when the last one was, in seconds since the epoch; 0: never
    received: int = 0  # bytes
    sent: int = 0


class State(NamedTuple):
    """A WireGuard link with its addresses and routes. No allowed IP has two peers."""

    private_key: bytes = b""  # empty: none
    listen_port: int = 0  # 0: whatever it is
    fwmark: int = 0
    mtu: int = 0  # bytes
    up: bool = False
    alias: str = ""
    addresses: tuple[Network, ...] = ()
    routes: dict[tuple[Network, int], bool] = {}  # noqa: RUF012  (network, table) -> whether wg-up made it
    peers: dict[bytes, Peer] = {}  # noqa: RUF012
    public_key: bytes = b""
    alive: frozenset[bytes] = frozenset()  # the peers with a session
    sessions: dict[bytes, Session] = {}  # noqa: RUF012


def wanted(tunnel: Tunnel, mtu: int) -> State:
    """The state that the tunnel, resolved, describes.

    The alias has a mark for each endpoint as it is written, so that the link itself remembers which have changed.
    """
    owner = {network.network(): peer.public_key for peer in tunnel.peers for network in peer.allowed_ips}
    allowed: dict[bytes, list[Network]] = {peer.public_key: [] for peer in tunnel.peers}
    for network, key in owner.items():
        allowed[key].append(network)
    first, *middle, last = tunnel.private_key  # as the kernel keeps it (curve25519_clamp_secret)
    marks = "".join(sorted(_mark(peer) for peer in tunnel.peers if peer.endpoint))
    if len(marks) > _MARKS:
        marks = blake2s(marks.encode(), digest_size=8).hexdigest()
    return State(
        private_key=bytes([first & 248, *middle, last & 127 | 64]),
        listen_port=tunnel.listen_port,
        fwmark=tunnel.fwmark,
        mtu=mtu,
        up=True,
        alias=f"{_ALIAS}{marks}",
        addresses=tunnel.addresses,
        routes=dict.fromkeys([(network, tunnel.table) for network in tunnel.routes()], True),
        peers={
            peer.public_key: peer._replace(
                preshared_key=peer.preshared_key.strip(b"\0") and peer.preshared_key,
                allowed_ips=tuple(allowed[peer.public_key]),
            )
            for peer in tunnel.peers
        },
    )


def _mark(peer: Peer) -> str:
    """Four characters that stand for the peer and its endpoint as it is written."""
    digest = blake2s(peer.public_key + str(peer.endpoint).encode(), digest_size=3)
    return b2a_base64(digest.digest(), newline=False).decode()


def settled(wanted: State, now: State) -> State:
    """`wanted` with what may stay as it is `now`: a port that the kernel chose, and endpoints.

    An endpoint is left to a peer that has a session, since it is where the peer was last heard from (it may have
    roamed), unless the configuration names another than the last time.
    """
    marks = now.alias.removeprefix(_ALIAS)
    unchanged = {marks[start : start + 4] for start in range(0, len(marks), 4)}

    def endpoint(key: bytes, peer: Peer) -> Peer:
        current = now.peers[key].endpoint if key in now.peers else None
        known = now.alias == wanted.alias or _mark(peer) in unchanged
        leave = not peer.endpoint or (known and key in now.alive)
        same = current and peer.endpoint and current.sockaddr() == peer.endpoint.sockaddr()
        return peer._replace(endpoint=current) if current and (leave or same) else peer

    peers = {key: endpoint(key, peer) for key, peer in wanted.peers.items()}
    return wanted._replace(listen_port=wanted.listen_port or now.listen_port, peers=peers)


def read(link: str, index: int) -> State:
    """The state of a WireGuard link in this process's network namespace. Raises `Failure`.

    pyroute2 0.9 neither merges a peer that takes several messages (its issue 1212), nor notices a dump that was
    interrupted or given up, which only the message at its end may tell, and it swaps the bytes of a scope; all of that
    is seen to here.
    """
    try:
        from pyroute2 import IPRoute, WireGuard
        from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError
    except ImportError:
        raise MissingError("the Python package pyroute2 is missing", "pip install pyroute2") from None
    for _ in range(_TRIES):
        seen: list[Any] = []
        try:
            with IPRoute() as route, WireGuard() as wireguard:
                route.marshal.fix_message = wireguard.marshal.fix_message = seen.append  # called with every message
                (interface,) = route.get_links(index)
                addresses = [a for f in _FAMILIES for a in route.get_addr(family=f, index=index) if a["family"] == f]
                routes = [found for family in _FAMILIES for found in route.get_routes(family=family)]
                device = list(wireguard.info(link))
        except NetlinkDumpInterrupted:  # pyroute2 0.7 notices it
            continue
        except NetlinkError as error:
            raise system_error(f'link "{link}"', OSError(error.code, "")) from None
        except OSError as error:
            raise system_error(f'link "{link}": netlink', error) from None
        ends = [message for message in seen if message["header"]["type"] == _DONE]
        result = min((unpack_from("=i", end.data, end.offset + 16)[0] for end in ends), default=0)
        if result:
            raise system_error(f'link "{link}": netlink', OSError(-result, ""))
        if not any(message["header"]["flags"] & _DUMP_INTR for message in seen):
            return State(
                mtu=interface.get_attr("IFLA_MTU"),
                up=bool(interface["flags"] & 1),  # IFF_UP
                alias=interface.get_attr("IFLA_IFALIAS") or "",
                addresses=tuple(_addresses(addresses, index)),
                routes=_routes(routes, index),
                **_device(device),
            )
    raise Failure(f'the link "{link}" was changed by something else each time it was looked at')


def _addresses(messages: list[Any], index: int) -> Iterator[Network]:
    """The addresses, the oldest first; the kernel lists those of IPv6 the other way round."""
    ipv4 = [message for message in messages if message["family"] == _socket.AF_INET]
    ipv6 = [message for message in messages if message["family"] == _socket.AF_INET6]
    for message in ipv4 + ipv6[::-1]:
        if message["index"] == index and message.get_attr("IFA_PROTO") != _KERNEL_LL:
            address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            yield _network(message["family"], address, message["prefixlen"])


def _routes(messages: list[Any], index: int) -> dict[tuple[Network, int], bool]:
    """The routes by the link that are in the way of one of wg-up's, with the metric that these have, or are one."""
    routes: dict[tuple[Network, int], bool] = {}
    for message in messages:
        family = message["family"]
        metric = 1024 if family == _socket.AF_INET6 else 0  # IP6_RT_PRIO_USER
        of_link = message.get_attr("RTA_OIF") == index and message["type"] == _UNICAST
        if of_link and (message.get_attr("RTA_PRIORITY") or 0) == metric:
            network = _network(family, message.get_attr("RTA_DST") or _ANY[family], message["dst_len"])
            key = (network, message.get_attr("RTA_TABLE"))
            routes[key] = routes.get(key, False) or message["proto"] == ROUTE_PROTOCOL
    return routes


def _device(messages: list[Any]) -> dict[str, Any]:
    peers: dict[bytes, Peer] = {}
    sessions: dict[bytes, Session] = {}
    for message in messages:
        for found in message.get_attr("WGDEVICE_A_PEERS") or ():
            key = b64decode(found.get_attr("WGPEER_A_PUBLIC_KEY"))
            allowed = tuple(_allowed(found))
            if key in peers:  # it goes on from the message before
                peers[key] = peers[key]._replace(allowed_ips=peers[key].allowed_ips + allowed)
                continue
            peers[key] = Peer(
                public_key=key,
                preshared_key=_secret(found.get_attr("WGPEER_A_PRESHARED_KEY")),
                endpoint=_endpoint(found.get_attr("WGPEER_A_ENDPOINT")),
                keepalive=found.get_attr("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL") or 0,
                allowed_ips=allowed,
            )
            sessions[key] = Session(
                found.get_attr("WGPEER_A_LAST_HANDSHAKE_TIME")["tv_sec"],
                found.get_attr("WGPEER_A_RX_BYTES"),
                found.get_attr("WGPEER_A_TX_BYTES"),
            )
    first = messages[0]
    return {
        "private_key": _secret(first.get_attr("WGDEVICE_A_PRIVATE_KEY")),
        "public_key": b64decode(first.get_attr("WGDEVICE_A_PUBLIC_KEY") or b""),
        "listen_port": first.get_attr("WGDEVICE_A_LISTEN_PORT"),
        "fwmark": first.get_attr("WGDEVICE_A_FWMARK"),
        "peers": peers,
        "alive": frozenset(key for key, found in sessions.items() if found.handshake > time.time() - ALIVE),
        "sessions": sessions,
    }


def _allowed(peer: Any) -> Iterator[Network]:  # noqa: ANN401
    for allowed in peer.get_attr("WGPEER_A_ALLOWEDIPS") or ():
        address, _, prefix = allowed["addr"].partition("/")
        yield _network(allowed.get_attr("WGALLOWEDIP_A_FAMILY"), address, int(prefix))


def _endpoint(found: dict[str, Any] | None) -> Endpoint | None:
    if not found:
        return None
    scope = int.from_bytes(found.get("scope_id", 0).to_bytes(4, "big"), sys.byteorder)
    address = _socket.inet_pton(found["family"], found["addr"])
    return Endpoint(found["addr"], found["port"], found["family"], address, scope)


def _network(family: int, address: str, prefix: int) -> Network:
    return Network(family, _socket.inet_pton(family, address), prefix)


def _secret(key: bytes | None) -> bytes:
    """A key as bytes; empty for none, which is all zeros in the kernel."""
    found = b64decode(key or b"")
    return found if any(found) else b""
