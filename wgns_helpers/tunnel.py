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
            values = tuple(map(changes.pop, self._fields, self))
            return type(self)(*values, **changes)

        def __repr__(self):  # no fields: some of them are keys
            return f"<{type(self).__name__}>"


_DIGITS_AND_DOTS = frozenset("0123456789.")
_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_")
IPV6_MINIMUM = 1280  # bytes of MTU (RFC 8200); below it the kernel takes IPv6 off the link
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


class Port(NamedTuple):
    """Ports of one protocol that the far side may reach."""

    protocol: int  # IPPROTO_TCP or IPPROTO_UDP
    first: int
    last: int

    def __str__(self) -> str:
        ports = f"{self.first}-{self.last}" if self.last > self.first else str(self.first)
        return f"{ports}/{'udp' if self.protocol == socket.IPPROTO_UDP else 'tcp'}"


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
    open_ports: tuple[Port, ...] | None = ()  # None: every port, without a filter
    peers: tuple[Peer, ...] = ()
    routes: tuple[Route, ...] = ()  # as in the kernel
    up: bool = True
    public_key: bytes = b""  # only of a present tunnel

    def names(self) -> dict[bytes, str]:
        """What messages call the peers: by their position in the configuration, without a key."""
        return {peer.public_key: f"peer {number}" for number, peer in enumerate(self.peers, 1)}

    def as_in_kernel(self) -> Tunnel:
        """The same as the kernel keeps it, with routes to the allowed IPs.

        The private key is clamped (curve25519_clamp_secret), and an allowed IP has no host bits and belongs to the last
        peer that lists it.
        """
        owner = {network.network(): peer.public_key for peer in self.peers for network in peer.allowed_ips}
        allowed: dict[bytes, list[Network]] = {peer.public_key: [] for peer in self.peers}
        for network, key in owner.items():
            allowed[key].append(network)
        private = bytearray(self.private_key)
        if private:
            private[0], private[-1] = private[0] & 248, private[-1] & 127 | 64
        return self._replace(
            private_key=bytes(private),
            routes=tuple(Route(network, self.table) for network in self.routed()),
            peers=tuple(peer._replace(allowed_ips=tuple(allowed[peer.public_key])) for peer in self.peers),
        )

    def routed(self) -> list[Network]:
        """The networks to route into the tunnel, each once, except those that an address brings along."""
        connected = {a.network() for a in self.addresses if a.prefix} if self.table == 254 else set()
        wanted = {network.network(): None for peer in self.peers for network in peer.allowed_ips} if self.table else {}
        return [network for network in wanted if network not in connected]

    def has_ipv6(self) -> bool:
        """Whether it has an IPv6 address or route, and so needs an MTU of at least `IPV6_MINIMUM`."""
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


def number(value: str, lowest: int, highest: int, *, zeros: bool = True, **words: int) -> int:
    """A decimal number in a range (ASCII digits only), or what one of the `words` stands for.

    It may begin with `zeros` where wg(8) reads it; ip(8), to which wg-quick(8) hands on the rest, takes it for octal.
    """
    if value in words:
        return words[value]
    digits = value.lstrip("0") or value[:1]  # int() would refuse many zeros
    legal = value.isascii() and value.isdigit() and (zeros or value == digits)
    if legal and len(digits) <= 20 and lowest <= int(digits) <= highest:
        return int(digits)
    expected = "".join(f' or "{word}"' for word in words)
    raise ValueError(f"{shown(value)} is not a number from {lowest} to {highest}{expected}")


def network(value: str, *, zeros: bool = True) -> Network:
    """An address with a prefix length (without: all its bits), as inet_pton(3) reads it. `zeros`: see number()."""
    text, slash, length = value.partition("/")
    family, bits = (socket.AF_INET6, 128) if ":" in text else (socket.AF_INET, 32)
    try:
        prefix = number(length, 0, bits, zeros=zeros) if slash else bits
        return Network(family, socket.inet_pton(family, text), prefix)
    except (OSError, ValueError):
        raise ValueError(f"{shown(value)} is not ADDRESS/LENGTH with a length from 0 to {bits}") from None


def ports(value: str) -> tuple[Port, ...]:
    """PORT or FIRST-LAST, for one protocol or, without /tcp or /udp, for both; none for the word "all"."""
    text, slash, protocol = value.partition("/")
    first, _, last = text.partition("-")
    protocols = {"tcp": [socket.IPPROTO_TCP], "udp": [socket.IPPROTO_UDP], "": [socket.IPPROTO_TCP, socket.IPPROTO_UDP]}
    try:
        low, high = number(first, 1, 65535), number(last if "-" in text else first, 1, 65535)
        if low <= high and (protocol or not slash):
            return tuple(Port(each, low, high) for each in protocols[protocol])
    except (KeyError, ValueError):
        pass
    raise ValueError(
        f"{shown(value)}: expected PORT or FIRST-LAST from 1 to 65535, with /tcp, /udp or for both, or all"
    )


def endpoint(value: str) -> Endpoint:
    """HOST:PORT, or [IPV6]:PORT. A literal address is resolved at once, unless it has a zone (fe80::1%eth0)."""
    host, _, port = value.rpartition(":")
    try:
        port_number = number(port, 1, 65535)
    except ValueError:
        raise ValueError(f"{shown(value)} is not HOST:PORT with a port from 1 to 65535") from None
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{shown(value)}: where does the address end?", "write [IPV6]:PORT")
    address, percent, zone = host.partition("%") if ":" in host else (host, "", "")
    if bool(zone) != bool(percent) or not _NAME_CHARACTERS.issuperset(zone):
        raise ValueError(f"{shown(value)}: no interface's name after the %")
    family, packed = literal(address)
    return Endpoint(host, port_number) if zone else Endpoint(host, port_number, family, packed)


def literal(text: str) -> tuple[int, bytes]:
    """The family and the bytes of a literal address; 0 and none of a name by RFC 1123, which may have underscores.

    As in wg-quick(8), a text with a colon, or of digits and dots only, has to be an address. ValueError for all else.
    """
    try:
        if ":" in text or _DIGITS_AND_DOTS.issuperset(text):
            family = socket.AF_INET6 if ":" in text else socket.AF_INET
            return family, socket.inet_pton(family, text)
        labels = text.removesuffix(".").split(".")
        if len(text) <= 253 and _NAME_CHARACTERS.issuperset(text) and all(0 < len(label) <= 63 for label in labels):
            return 0, b""
    except OSError:
        pass
    raise ValueError(f"{shown(text)} is neither an address nor the name of a host or domain")
