"""The generic-netlink request that configures a WireGuard device (linux/wireguard.h, linux/genetlink.h)."""

from __future__ import annotations

import errno
from _socket import AF_INET, AF_INET6
from _struct import Struct, pack
from sys import byteorder

from .errors import MissingError
from .netlink import NESTED, Request, Socket, attribute

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .peers import Update
    from .tunnel import Network

_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY, _WG_CMD_SET_DEVICE = 16, 3, 1
_REMOVE_ME, _REPLACE_ALLOWED_IPS, _UPDATE_ONLY = 1, 2, 4  # enum wgpeer_flag
_ROOM = 60000  # bytes of peers in one message; an attribute holds 65,535
_STEP = 1500  # allowed IPs in one message, at most 36 bytes each
# WGALLOWEDIP_A_FAMILY, _IPADDR and _CIDR_MASK in their nest, in one go: there can be 100,000
_ALLOWED_IP = {AF_INET: Struct("=HHHHHxxHH4sHHBxxx"), AF_INET6: Struct("=HHHHHxxHH16sHHBxxx")}


def no_wireguard() -> MissingError:
    """The exception for a kernel that knows neither the kind of link nor the netlink family."""
    return MissingError("the kernel has no WireGuard", "modprobe wireguard; it is in Linux since 5.6")


def family(socket: Socket) -> int:
    """The number of the generic-netlink family "wireguard"; `MissingError` where the kernel has none."""
    body = pack("=BBH", _CTRL_CMD_GETFAMILY, 1, 0) + attribute(2, b"wireguard\0")  # CTRL_ATTR_FAMILY_NAME
    found = socket.ask(Request("netlink family wireguard", _GENL_ID_CTRL, body), 4, errno.ENOENT)
    number = int.from_bytes(found[1].get(1, b"")[:2], byteorder) if found else 0  # CTRL_ATTR_FAMILY_ID
    if number <= _GENL_ID_CTRL:
        raise no_wireguard()
    return number


def configure(
    family_number: int, index: int, settings: tuple[bytes | None, int | None, int | None], updates: Iterable[Update]
) -> Iterator[Request]:
    """The requests that change private key, listen port (0: the kernel chooses), mark and peers of the device `index`.

    What is None stays. A peer list too long for one message goes on in the next, and so do a peer's allowed IPs, there
    without flags (linux/wireguard.h describes both).
    """
    head = first = pack("=BBH", _WG_CMD_SET_DEVICE, 1, 0) + attribute(1, pack("=I", index))  # WGDEVICE_A_IFINDEX
    steps: list[object] = []
    private_key, listen_port, fwmark = settings
    if private_key is not None:
        first += attribute(3, private_key or bytes(32))  # WGDEVICE_A_PRIVATE_KEY
        steps.append("private key (not shown)")
    if listen_port is not None:
        first += attribute(6, pack("=H", listen_port))  # WGDEVICE_A_LISTEN_PORT
        steps.append(f"listen port {listen_port}")
    if fwmark is not None:
        first += attribute(7, pack("=I", fwmark))  # WGDEVICE_A_FWMARK
        steps.append(f"fwmark {hex(fwmark) if fwmark else 'off'}")
    for group, encoded in _groups(updates):
        if steps or group:
            peers = attribute(8 | NESTED, encoded) if group else b""  # WGDEVICE_A_PEERS
            yield Request("keys and peers", family_number, first + peers, steps=[*steps, *group])
        first, steps = head, []


def _groups(updates: Iterable[Update]) -> Iterator[tuple[list[Update], bytes]]:
    """The updates, encoded, in runs of at most `_ROOM` bytes; one empty run where there are none."""
    group: list[Update] = []
    encoded: list[bytes] = []
    size = 0
    for update in updates:
        for part in _parts(update):
            if group and size + len(part) > _ROOM:
                yield group, b"".join(encoded)
                group, encoded, size = [], [], 0
            group.append(update)
            encoded.append(attribute(NESTED | len(group), part))
            size += len(encoded[-1])
    yield group, b"".join(encoded)


def _parts(update: Update) -> Iterator[bytes]:
    """One peer's attributes, in one or more parts of under `_ROOM` bytes."""
    key = attribute(1, update.public_key)  # WGPEER_A_PUBLIC_KEY
    flags = _REMOVE_ME * update.remove | _UPDATE_ONLY * update.known | _REPLACE_ALLOWED_IPS * update.replace
    head = key + attribute(3, pack("=I", flags))  # WGPEER_A_FLAGS
    if update.preshared_key is not None:
        head += attribute(2, update.preshared_key or bytes(32))  # WGPEER_A_PRESHARED_KEY
    if update.endpoint:
        head += attribute(4, update.endpoint.sockaddr())  # WGPEER_A_ENDPOINT
    if update.keepalive is not None:
        head += attribute(5, pack("=H", update.keepalive))  # WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL, in seconds
    yield head if not update.allowed_ips else head + _allowed_ips(update.allowed_ips[:_STEP])
    for start in range(_STEP, len(update.allowed_ips), _STEP):
        yield key + _allowed_ips(update.allowed_ips[start : start + _STEP])


def _allowed_ips(networks: tuple[Network, ...]) -> bytes:
    encoded = bytearray()
    for number, (family, address, prefix) in enumerate(networks, 1):
        layout = _ALLOWED_IP[family]
        encoded += layout.pack(layout.size, NESTED | number, 6, 1, family, 4 + len(address), 2, address, 5, 3, prefix)
    return attribute(9 | NESTED, bytes(encoded))  # WGPEER_A_ALLOWEDIPS
