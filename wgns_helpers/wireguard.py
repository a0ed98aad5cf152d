"""The generic-netlink request that configures a WireGuard device (linux/wireguard.h, linux/genetlink.h)."""

from __future__ import annotations

import errno
from _struct import pack, unpack

from .errors import MissingError
from .netlink import NESTED, KernelRefusedError, Request, Socket, attribute, attributes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .tunnel import Network, Peer, Tunnel

_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY = 16, 3
_WG_CMD_SET_DEVICE = 1
_REPLACE_PEERS, _REPLACE_ALLOWED_IPS = 1, 2
_ROOM = 60000  # bytes of peers in one message; an attribute holds 65,535


def no_wireguard() -> MissingError:
    """The exception for a kernel that knows neither the kind of link nor the netlink family."""
    return MissingError("the kernel has no WireGuard", "modprobe wireguard; it is in Linux since 5.6")


def family(socket: Socket) -> int:
    """The number of the generic-netlink family "wireguard"; `MissingError` where the kernel has none."""
    body = pack("=BBH", _CTRL_CMD_GETFAMILY, 1, 0) + attribute(2, b"wireguard\0")  # CTRL_ATTR_FAMILY_NAME
    try:
        (answer,) = socket.run([Request("netlink family wireguard", _GENL_ID_CTRL, body)])
    except KernelRefusedError as error:
        if error.errno == errno.ENOENT:
            raise no_wireguard() from None
        raise
    (number,) = unpack("=H", attributes(answer, 4)[1])  # CTRL_ATTR_FAMILY_ID
    return int(number)


def configure(family_number: int, index: int, tunnel: Tunnel) -> Iterator[Request]:
    """The requests that give the device `index` its keys, port, mark and peers; what it had is replaced.

    A peer list too long for one message goes on in the next, and so do a peer's allowed IPs, there without the flags
    that replace (linux/wireguard.h describes both).
    """
    head = attribute(1, pack("=I", index))  # WGDEVICE_A_IFINDEX
    first = head + attribute(3, tunnel.private_key) + attribute(5, pack("=I", _REPLACE_PEERS))  # _PRIVATE_KEY, _FLAGS
    first += attribute(6, pack("=H", tunnel.listen_port))  # WGDEVICE_A_LISTEN_PORT, 0 leaves the choice to the kernel
    first += attribute(7, pack("=I", tunnel.fwmark))  # WGDEVICE_A_FWMARK
    body = pack("=BBH", _WG_CMD_SET_DEVICE, 1, 0)
    for group in _groups(tunnel.peers):
        peers = attribute(8 | NESTED, group)  # WGDEVICE_A_PEERS
        yield Request("keys and peers", family_number, body + first + peers)
        first = head


def _groups(peers: Iterable[Peer]) -> Iterator[bytes]:
    """The peers, encoded, in runs of at most `_ROOM` bytes; one empty run where there are none."""
    group: list[bytes] = []
    size = 0
    for peer in peers:
        for part in _parts(peer):
            if size + len(part) > _ROOM:
                yield b"".join(group)
                group, size = [], 0
            group.append(attribute(NESTED | len(group) + 1, part))
            size += len(group[-1])
    yield b"".join(group)


def _parts(peer: Peer) -> Iterator[bytes]:
    """One peer's attributes, in one or more parts of under `_ROOM` bytes."""
    key = attribute(1, peer.public_key)  # WGPEER_A_PUBLIC_KEY
    head = key + attribute(3, pack("=I", _REPLACE_ALLOWED_IPS))  # WGPEER_A_FLAGS
    if peer.preshared_key:
        head += attribute(2, peer.preshared_key)  # WGPEER_A_PRESHARED_KEY
    if peer.endpoint:
        head += attribute(4, peer.endpoint.sockaddr())  # WGPEER_A_ENDPOINT
    if peer.keepalive:
        head += attribute(5, pack("=H", peer.keepalive))  # WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL, in seconds
    step = 1500  # at most 36 bytes each
    for start in range(0, len(peer.allowed_ips) or 1, step):
        allowed = enumerate(peer.allowed_ips[start : start + step], 1)
        yield head + attribute(9 | NESTED, b"".join(_allowed_ip(*item) for item in allowed))  # WGPEER_A_ALLOWEDIPS
        head = key


def _allowed_ip(number: int, network: Network) -> bytes:
    # WGALLOWEDIP_A_FAMILY, _IPADDR, _CIDR_MASK
    family, mask = attribute(1, pack("=H", network.family)), attribute(3, pack("=B", network.prefix))
    return attribute(NESTED | number, family + attribute(2, network.address) + mask)
