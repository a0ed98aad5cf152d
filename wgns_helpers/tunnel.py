"""A tunnel as immutable values: as config.py reads it from a file, and as present.py finds it in the kernel.

The functions at the end read single values, as strictly as wg(8) and wg-quick(8) or more so; they take a text without
blanks and raise ValueError(what is wrong[, hint]).
"""

from __future__ import annotations

from operator import itemgetter
from struct import pack

from .errors import shown
from .netlink import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple as NamedTuple  # noqa: PLC0414  (for wireguard.py)
else:
    # ruff: noqa: ANN002, ANN003, ANN202, ANN204, D102  (type checkers read the other branch)
    class NamedTuple(tuple):
        """What this package uses of typing.NamedTuple, whose import costs 10 ms (collections.namedtuple: 2 ms)."""

        __slots__ = ()

        def __init_subclass__(cls):
            cls._fields = tuple(cls.__annotations__)
            cls._defaults = {name: cls.__dict__[name] for name in cls._fields if name in cls.__dict__}
            for position, name in enumerate(cls._fields):
                setattr(cls, name, property(itemgetter(position)))

        def __new__(cls, *values, **named):
            for name in cls._fields[len(values) :]:
                values += (named.pop(name) if name in named else cls._defaults[name],)  # KeyError: it is required
            if named or len(values) > len(cls._fields):
                raise TypeError(f"{cls.__name__} has no such field")
            return tuple.__new__(cls, values)

        def _replace(self, **changes):
            made = tuple.__new__(type(self), map(changes.pop, self._fields, self))
            if changes:
                raise TypeError(f"{type(self).__name__} has no such field")
            return made

        def __repr__(self):  # no fields: some of them are keys
            return f"<{type(self).__name__}>"


DIGITS_AND_DOTS = frozenset("0123456789.")
_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_")
UNANSWERED = "are the keys right, and known to the provider? does UDP to the endpoint get through?"  # a hint
ALIVE = 180  # seconds after the handshake until a session ends (REJECT_AFTER_TIME of WireGuard)


class Network(NamedTuple):
    """An address with a prefix length: one of ours, or a network of a peer's allowed IPs."""

    family: int
    address: bytes  # network byte order
    prefix: int

    def network(self) -> Network:
        """The same without host bits."""
        host_bits = 8 * len(self.address) - self.prefix
        if not host_bits:
            return self
        number = int.from_bytes(self.address, "big")
        masked = number >> host_bits << host_bits
        return self if masked == number else self._replace(address=masked.to_bytes(len(self.address), "big"))

    def __str__(self) -> str:
        return f"{socket.inet_ntop(self.family, self.address)}/{self.prefix}"


class Route(NamedTuple):
    """A route by the tunnel's link."""

    network: Network
    table: int
    ours: bool = True  # whether wg-up made it


class Endpoint(NamedTuple):
    """Where a peer is reached: a host name or literal address and a UDP port, and, once resolved, the address."""

    host: str
    port: int
    family: int = 0
    address: bytes = b""
    scope: int = 0  # interface index of a link-local IPv6 address
    others: tuple[Endpoint, ...] = ()  # the further addresses of its name

    def places(self) -> list[Endpoint]:
        """Each address of the name as an endpoint of its own."""
        return [self._replace(others=()), *self.others]

    def sockaddr(self) -> bytes:
        """The resolved address as struct sockaddr_in or sockaddr_in6."""
        port = pack("!H", self.port)
        if self.family == socket.AF_INET:
            return pack("=H", self.family) + port + self.address + bytes(8)
        return pack("=H", self.family) + port + bytes(4) + self.address + pack("=I", self.scope)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


NOWHERE = Endpoint("", 0)  # of a present peer that the kernel has no endpoint for


class Peer(NamedTuple):
    """One peer."""

    public_key: bytes
    preshared_key: bytes = b""  # empty: none
    endpoint: Endpoint | None = None  # None: wherever it is
    keepalive: int = 0  # seconds, 0: off
    allowed_ips: tuple[Network, ...] = ()


class Session(NamedTuple):
    """What the kernel reports of a peer besides its settings."""

    handshake: int = 0  # when the last one was, in seconds since the epoch; 0: never
    received: int = 0  # bytes
    sent: int = 0

    def alive(self, clock: float) -> bool:
        """Whether the session goes on at the time `clock`, in seconds since the epoch."""
        return self.handshake > clock - ALIVE


class Tunnel(NamedTuple):
    """A tunnel as a configuration file wants it, or as it is present in the kernel."""

    private_key: bytes  # empty: none
    listen_port: int = 0  # 0: the kernel chooses
    fwmark: int = 0  # 0: off
    addresses: tuple[Network, ...] = ()
    mtu: int = 0  # bytes, 0: from the route to the endpoint
    table: int = 254  # routing table, 0: no routes
    dns: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    peers: tuple[Peer, ...] = ()
    routes: tuple[Route, ...] | None = None  # None: to the allowed IPs, in `table`
    up: bool = True
    alias: str = ""  # of the link, as earlier versions of wg-up set it
    public_key: bytes = b""  # only of a present tunnel

    def names(self) -> dict[bytes, str]:
        """What messages call the peers: by their position in the configuration, without a key."""
        return {peer.public_key: f"peer {number}" for number, peer in enumerate(self.peers, 1)}

    def as_in_kernel(self) -> Tunnel:
        """The same as the kernel keeps it.

        The private key is clamped (curve25519_clamp_secret), an allowed IP has no host bits and belongs to the last
        peer that lists it, and a preshared key of zeros is none.
        """
        owner = {network.network(): peer.public_key for peer in self.peers for network in peer.allowed_ips}
        allowed: dict[bytes, list[Network]] = {peer.public_key: [] for peer in self.peers}
        for network, key in owner.items():
            allowed[key].append(network)
        private = bytearray(self.private_key)
        if private:
            private[0], private[-1] = private[0] & 248, private[-1] & 127 | 64
        routes = self.routes
        if routes is None:
            routes = tuple(Route(network, self.table) for network in self.routed())
        return self._replace(
            private_key=bytes(private),
            routes=routes,
            peers=tuple(
                peer._replace(
                    preshared_key=peer.preshared_key if any(peer.preshared_key) else b"",
                    allowed_ips=tuple(allowed[peer.public_key]),
                )
                for peer in self.peers
            ),
        )

    def routed(self) -> list[Network]:
        """The networks to route into the tunnel, each once, except those that an address brings along."""
        connected = {a.network() for a in self.addresses if a.prefix} if self.table == 254 else set()
        wanted = {network.network(): None for peer in self.peers for network in peer.allowed_ips} if self.table else {}
        return [network for network in wanted if network not in connected]

    def has_ipv6(self) -> bool:
        """Whether it has an IPv6 address or route, and so needs an MTU of at least 1280 bytes (RFC 8200)."""
        return any(network.family == socket.AF_INET6 for network in (*self.addresses, *self.routed()))

    def without_ipv6(self) -> Tunnel:
        """The same for a namespace without IPv6."""

        def ipv4(networks: tuple[Network, ...]) -> tuple[Network, ...]:
            return tuple(network for network in networks if network.family == socket.AF_INET)

        return self._replace(
            addresses=ipv4(self.addresses),
            dns=tuple(server for server in self.dns if ":" not in server),
            peers=tuple(peer._replace(allowed_ips=ipv4(peer.allowed_ips)) for peer in self.peers),
        )


def number(value: str, lowest: int, highest: int, *, zeros: bool = True) -> int:
    """A decimal number in a range (ASCII digits only).

    It may begin with `zeros` where wg(8) reads it; ip(8), to which wg-quick(8) hands on the rest, takes it for octal.
    """
    digits = value.lstrip("0") or value[:1]  # int() would refuse many zeros
    legal = value.isascii() and value.isdigit() and (zeros or value == digits)
    if legal and len(digits) <= 20 and lowest <= int(digits) <= highest:
        return int(digits)
    raise ValueError(f"{shown(value)} is not a number from {lowest} to {highest}")


def network(value: str, *, zeros: bool = True) -> Network:
    """An address with a prefix length (without: all its bits), as inet_pton(3) reads it. `zeros`: see number()."""
    text, slash, length = value.partition("/")
    family, bits = (socket.AF_INET6, 128) if ":" in text else (socket.AF_INET, 32)
    try:
        prefix = number(length, 0, bits, zeros=zeros) if slash else bits
        return Network(family, socket.inet_pton(family, text), prefix)
    except (OSError, ValueError):
        example = "fd00::2/128" if bits == 128 else "10.0.0.2/32"
        raise ValueError(f"{shown(value)} is not ADDRESS/LENGTH, like {example}; legal lengths: 0 to {bits}") from None


def endpoint(value: str) -> Endpoint:
    """HOST:PORT, or [IPV6]:PORT."""
    host, _, port = value.rpartition(":")
    try:
        port_number = number(port, 1, 65535)
    except ValueError:
        raise ValueError(f"{shown(value)} is not HOST:PORT with a port from 1 to 65535") from None
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{shown(value)}: where does the address end?", "write [IPV6]:PORT")
    if not (_is_ipv6(host) if ":" in host else is_host_name(host)):
        raise ValueError(f"{shown(value)}: neither a host name nor an address")
    return Endpoint(host, port_number)


def _is_ipv6(text: str) -> bool:
    address, percent, zone = text.partition("%")
    return reads(socket.AF_INET6, address) and bool(zone) == bool(percent) and _NAME_CHARACTERS.issuperset(zone)


def is_host_name(text: str) -> bool:
    """As RFC 1123 has it, underscores too; an IPv4 address is one, but nothing else in digits and dots."""
    if DIGITS_AND_DOTS.issuperset(text):
        return reads(socket.AF_INET, text)
    labels = text.removesuffix(".").split(".")
    return len(text) <= 253 and _NAME_CHARACTERS.issuperset(text) and all(0 < len(label) <= 63 for label in labels)


def reads(family: int, text: str) -> bool:
    """Whether inet_pton(3) does."""
    try:
        return bool(socket.inet_pton(family, text))
    except OSError:
        return False
