"""The single values of a configuration, as strict as wg(8) and wg-quick(8), or stricter.

Each function takes a text without blanks and raises ValueError(what is wrong[, hint]). No message holds a key.
"""

from __future__ import annotations

import _socket
from binascii import a2b_base64, b2a_base64

from .errors import shown
from .tunnel import Endpoint, Network

_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_")
_DIGITS_AND_DOTS = frozenset("0123456789.")
_HEX_DIGITS = frozenset("0123456789abcdefABCDEF")


def number(value: str, lowest: int, highest: int, *, zeros: bool = True) -> int:
    """A decimal number in a range (ASCII digits only).

    It may begin with `zeros` where wg(8) reads it; ip(8), to which wg-quick(8) hands on the rest, takes it for octal.
    """
    digits = value.lstrip("0") or value[:1]  # int() would refuse many zeros
    legal = value.isascii() and value.isdigit() and (zeros or value == digits)
    if legal and len(digits) <= 20 and lowest <= int(digits) <= highest:
        return int(digits)
    raise ValueError(f"{shown(value)} is not a number from {lowest} to {highest}")


def key(value: str) -> bytes:
    """A key of 32 bytes in canonical base64, as `wg genkey` prints it. The value is in no message."""
    try:
        raw = a2b_base64(value.encode("ascii"))
    except ValueError:  # binascii.Error and UnicodeEncodeError are
        raw = b""
    if len(raw) == 32 and b2a_base64(raw, newline=False).decode() == value:
        return raw
    raise ValueError(f"not a key: 44 characters of base64 that end in = are wanted, this has {len(value)} (not shown)")


def network(value: str, *, zeros: bool = True) -> Network:
    """An address with a prefix length (without: all its bits), as inet_pton(3) reads it. `zeros`: see number()."""
    text, slash, length = value.partition("/")
    family, bits = (_socket.AF_INET6, 128) if ":" in text else (_socket.AF_INET, 32)
    try:
        prefix = number(length, 0, bits, zeros=zeros) if slash else bits
        return Network(family, _socket.inet_pton(family, text), prefix)
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
    if not (_is_ipv6(host) if ":" in host else _is_host_name(host)):
        raise ValueError(f"{shown(value)}: neither a host name nor an address")
    return Endpoint(host, port_number)


def _is_ipv6(text: str) -> bool:
    address, percent, zone = text.partition("%")
    return _reads(_socket.AF_INET6, address) and bool(zone) == bool(percent) and _NAME_CHARACTERS.issuperset(zone)


def _is_host_name(text: str) -> bool:
    """As RFC 1123 has it, underscores too; an IPv4 address is one, but nothing else in digits and dots."""
    if _DIGITS_AND_DOTS.issuperset(text):
        return _reads(_socket.AF_INET, text)
    labels = text.removesuffix(".").split(".")
    return len(text) <= 253 and _NAME_CHARACTERS.issuperset(text) and all(0 < len(label) <= 63 for label in labels)


def _reads(family: int, text: str) -> bool:
    """Whether inet_pton(3) does."""
    try:
        return bool(_socket.inet_pton(family, text))
    except OSError:
        return False


def keepalive(value: str) -> int:
    """Seconds between keepalives, 0 for none."""
    return 0 if value.lower() == "off" else number(value, 0, 65535)


def fwmark(value: str) -> int:
    """A mark for outgoing packets, 0 for none."""
    if value.lower() == "off":
        return 0
    digits = value.removeprefix("0x")
    if digits and _HEX_DIGITS.issuperset(digits) and (value != digits or value.isdigit()):
        significant = digits.lstrip("0") or "0"
        mark = int(significant, 10 if value == digits else 16) if len(significant) <= 20 else 1 << 32
        if mark < 1 << 32:
            return mark
    raise ValueError(f'{shown(value)} is not a mark; legal: "off", 0 to 4294967295 or 0x0 to 0xffffffff')


def table(value: str) -> int:
    """A routing table, 0 for no routes at all. In wg-quick(8) the names are in small letters only."""
    named = {"auto": 254, "off": 0}.get(value)
    try:
        return number(value, 1, (1 << 32) - 1, zeros=False) if named is None else named
    except ValueError:
        raise ValueError(f'{shown(value)} is not a table; legal: "auto", "off", 1 to 4294967295') from None


def is_server(value: str) -> bool:
    """wg-quick(8): digits and dots, or a colon, are an address; all else in DNS is a search domain."""
    return ":" in value or _DIGITS_AND_DOTS.issuperset(value)


def dns(value: str) -> str:
    """An address of a name server, or a search domain."""
    family = _socket.AF_INET6 if ":" in value else _socket.AF_INET
    legal = _reads(family, value) if is_server(value) else _is_host_name(value)
    if not legal:
        raise ValueError(f"{shown(value)} is neither an address nor a search domain")
    return value
