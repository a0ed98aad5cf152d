"""A WireGuard device by generic netlink: read and written (linux/wireguard.h, linux/genetlink.h)."""

from __future__ import annotations

import errno
from struct import Struct, pack
from sys import byteorder

from . import netlink, netns
from .netlink import DUMP, NESTED, NETLINK_GENERIC, NETLINK_ROUTE, Request, Socket, attribute, attributes, each, socket
from .tunnel import NOWHERE, Endpoint, NamedTuple, Network, Peer, Session, Tunnel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    Part = tuple[str, bytes]  # of a request: what it changes of a peer, in words and encoded

_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY, _WG_CMD_GET_DEVICE, _WG_CMD_SET_DEVICE = 16, 3, 0, 1
REMOVE, REPLACE_ALLOWED_IPS, UPDATE_ONLY = 1, 2, 4  # enum wgpeer_flag
_ROOM = 60000  # bytes of peers in one message; an attribute holds 65,535
_STEP = 1500  # allowed IPs in one message, at most 36 bytes each
# WGALLOWEDIP_A_FAMILY, _IPADDR and _CIDR_MASK in their nest, in one go: there can be 100,000
_ALLOWED_IP = {socket.AF_INET: Struct("=HHHHHxxHH4sHHBxxx"), socket.AF_INET6: Struct("=HHHHHxxHH16sHHBxxx")}


class Device(NamedTuple):
    """Which device a message is for; by default one that does not exist yet."""

    ifindex: int = 0  # of its link
    family: int = 0  # the number of generic netlink's family "wireguard"
    name: str = ""  # of its link


class Link(Socket):
    """The WireGuard link `name` of this process's network namespace, by the sockets that read and change it.

    The sockets stay in the namespace, wherever the process goes. `index` is 0 until the link is known to exist.
    """

    def __init__(self, name: str, index: int = 0) -> None:
        super().__init__(NETLINK_ROUTE, NETLINK_GENERIC, netlink.NETLINK_NETFILTER)
        self.name, self.index, self._family = name, index, 0

    def device(self) -> Device:
        """The device for messages; `MissingError` if the kernel has no WireGuard."""
        self._family = self._family or family(self)
        return Device(self.index, self._family, self.name)

    def change(self, name: str, public_key: bytes, **fields: Any) -> None:  # noqa: ANN401  (those of `peer`)
        """Change some fields of a present peer."""
        for request in peers(self.device(), peer(name, public_key, UPDATE_ONLY, **fields)):
            self.run([request])

    def read(self) -> tuple[Tunnel, dict[bytes, Session]]:
        """What WireGuard reports of the device: a tunnel without addresses and routes, and its peers' sessions.

        Raises `Failure`.
        """
        head = pack("=BBH", _WG_CMD_GET_DEVICE, 1, 0) + attribute(1, pack("=I", self.index))  # WGDEVICE_A_IFINDEX
        request = Request(f'device "{self.name}"', self.device().family, head, DUMP, NETLINK_GENERIC)
        peers: dict[bytes, Peer] = {}
        sessions: dict[bytes, Session] = {}
        answers = [attributes(answer, 4) for answer in self.dump(request)]
        for answer in answers:
            for _, nest in each(answer.get(8, b"")):  # WGDEVICE_A_PEERS
                part, session = _peer(attributes(nest))
                former = peers.get(part.public_key)
                if former:  # its allowed IPs go on from the message before
                    part = former._replace(allowed_ips=former.allowed_ips + part.allowed_ips)
                peers[part.public_key] = part
                sessions.setdefault(part.public_key, session)
        settings = answers[0] if answers else {}  # the other answers have peers only
        return Tunnel(
            private_key=_secret(settings.get(3, b"")),  # WGDEVICE_A_PRIVATE_KEY
            public_key=settings.get(4, b""),  # WGDEVICE_A_PUBLIC_KEY
            listen_port=_number(settings.get(6, b"")),  # WGDEVICE_A_LISTEN_PORT
            fwmark=_number(settings.get(7, b"")),  # WGDEVICE_A_FWMARK
            peers=tuple(peers.values()),
        ), sessions


def family(socket: Socket) -> int:
    """The number of the generic-netlink family "wireguard"; `MissingError` where the kernel has none."""
    body = pack("=BBH", _CTRL_CMD_GETFAMILY, 1, 0) + attribute(2, b"wireguard\0")  # CTRL_ATTR_FAMILY_NAME
    answer = socket.ask(Request("netlink family wireguard", _GENL_ID_CTRL, body, 0, NETLINK_GENERIC), 4, errno.ENOENT)
    number = _number(attributes(answer, 4).get(1, b"")[:2])  # CTRL_ATTR_FAMILY_ID
    if number <= _GENL_ID_CTRL:
        raise netns.lacking("WireGuard", "wireguard")
    return number


def settings(device: Device, now: Tunnel, wanted: Tunnel) -> Iterator[Request]:
    """Set the private key, the mark of outgoing packets (0 for none) and the UDP port, where they differ.

    An empty private key removes the present one. A wanted port of 0 leaves the port alone.
    """
    if wanted.private_key != now.private_key:
        what = "private key (not shown)" if wanted.private_key else "remove private key"
        yield _set(device, what, attribute(3, wanted.private_key or bytes(32)))  # WGDEVICE_A_PRIVATE_KEY
    if wanted.fwmark != now.fwmark:
        what = f"fwmark {hex(wanted.fwmark) if wanted.fwmark else 'off'}"
        yield _set(device, what, attribute(7, pack("=I", wanted.fwmark)))  # WGDEVICE_A_FWMARK
    if wanted.listen_port not in (0, now.listen_port):
        what = f"listen port {wanted.listen_port}"
        yield _set(device, what, attribute(6, pack("=H", wanted.listen_port)))  # WGDEVICE_A_LISTEN_PORT


def _set(device: Device, what: str, payload: bytes, *lines: str) -> Request:
    head = pack("=BBH", _WG_CMD_SET_DEVICE, 1, 0) + attribute(1, pack("=I", device.ifindex))  # WGDEVICE_A_IFINDEX
    return Request(what, device.family, head + payload, 0, NETLINK_GENERIC, *lines)


def peers(device: Device, parts: Iterable[Part]) -> Iterator[Request]:
    """The requests with these parts, each with at most `_ROOM` bytes of them."""
    lines: list[str] = []
    encoded = bytearray()
    for words, part in parts:
        if lines and len(encoded) + len(part) > _ROOM:
            yield _set(device, "peers", attribute(8 | NESTED, bytes(encoded)), *lines)  # WGDEVICE_A_PEERS
            lines, encoded = [], bytearray()
        lines.append(words)
        encoded += attribute(NESTED | len(lines), part)
    if lines:
        yield _set(device, "peers", attribute(8 | NESTED, bytes(encoded)), *lines)


def peer(
    name: str,
    public_key: bytes,
    flags: int = 0,
    preshared_key: bytes | None = None,
    endpoint: Endpoint | None = None,
    keepalive: int | None = None,
    allowed_ips: Sequence[Network] = (),
) -> Iterator[Part]:
    """What is to change of one peer, which messages call `name`, in one or more parts of under `_ROOM` bytes.

    What is None stays; an empty preshared key is none, a keepalive of 0 seconds is off. A list of allowed IPs too long
    for one part goes on in the next, without flags (linux/wireguard.h).
    """
    key = attribute(1, public_key)  # WGPEER_A_PUBLIC_KEY
    head = key + attribute(3, pack("=I", flags))  # WGPEER_A_FLAGS
    changes = []
    if preshared_key is not None:
        changes.append(f"preshared key {'(not shown)' if preshared_key else 'none'}")
        head += attribute(2, preshared_key or bytes(32))  # WGPEER_A_PRESHARED_KEY
    if endpoint:
        changes.append(f"endpoint {endpoint}")
        head += attribute(4, endpoint.sockaddr())  # WGPEER_A_ENDPOINT
    if keepalive is not None:
        changes.append(f"persistent keepalive {keepalive or 'off'}")
        head += attribute(5, pack("=H", keepalive))  # WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL, in seconds
    if allowed_ips or flags & REPLACE_ALLOWED_IPS:
        changes.append(f"allowed IPs {', '.join(map(str, allowed_ips)) or 'none'}")
    words = f"remove {name}" if flags & REMOVE else f"{name}: {', '.join(changes)}"
    yield words, head if not allowed_ips else head + _allowed_ips(allowed_ips[:_STEP])
    for start in range(_STEP, len(allowed_ips), _STEP):
        yield words, key + _allowed_ips(allowed_ips[start : start + _STEP])


def _allowed_ips(networks: Sequence[Network]) -> bytes:
    encoded = bytearray()
    for number, (family, address, prefix) in enumerate(networks, 1):
        layout = _ALLOWED_IP[family]
        encoded += layout.pack(layout.size, NESTED | number, 6, 1, family, 4 + len(address), 2, address, 5, 3, prefix)
    return attribute(9 | NESTED, bytes(encoded))  # WGPEER_A_ALLOWEDIPS


def _peer(found: dict[int, bytes]) -> tuple[Peer, Session]:
    peer = Peer(
        public_key=found.get(1, b""),  # WGPEER_A_PUBLIC_KEY
        preshared_key=_secret(found.get(2, b"")),  # WGPEER_A_PRESHARED_KEY
        endpoint=_endpoint(found.get(4, b"")),  # WGPEER_A_ENDPOINT
        keepalive=_number(found.get(5, b"")),  # WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL, in seconds
        allowed_ips=tuple(_network(attributes(nest)) for _, nest in each(found.get(9, b""))),  # WGPEER_A_ALLOWEDIPS
    )
    # WGPEER_A_LAST_HANDSHAKE_TIME (its seconds), WGPEER_A_RX_BYTES, WGPEER_A_TX_BYTES
    return peer, Session(_number(found.get(6, b"")[:8]), _number(found.get(7, b"")), _number(found.get(8, b"")))


def _network(found: dict[int, bytes]) -> Network:
    # WGALLOWEDIP_A_FAMILY, _IPADDR and _CIDR_MASK
    return Network(_number(found.get(1, b"")), found.get(2, b""), _number(found.get(3, b"")))


def _endpoint(sockaddr: bytes) -> Endpoint:
    """The endpoint in a struct sockaddr_in or sockaddr_in6."""
    family, port = _number(sockaddr[:2]), int.from_bytes(sockaddr[2:4], "big")
    if family not in (socket.AF_INET, socket.AF_INET6):
        return NOWHERE
    address = sockaddr[4:8] if family == socket.AF_INET else sockaddr[8:24]
    return Endpoint(socket.inet_ntop(family, address), port, family, address, _number(sockaddr[24:28]))


def _secret(key: bytes) -> bytes:
    """A key, empty for none, which is all zeros in the kernel."""
    return key if any(key) else b""


def _number(data: bytes) -> int:
    return int.from_bytes(data, byteorder)
