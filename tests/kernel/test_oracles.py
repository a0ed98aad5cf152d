"""Configurations as we read them and as wg(8) and wg-quick(8) do: one verdict and one meaning, but for what is listed.

`wg setconf` talks to an implementation in user space where one listens, so it tells how it has understood a file
without WireGuard in the kernel. WGNS_FUZZ_INPUTS=1000000 is for long runs, each with another seed.
"""

# ruff: noqa: SIM905  (a line for each of many words is not easier to read)
from __future__ import annotations

import base64
import os
import re
import select
import shutil
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_interface
from pathlib import Path
from random import Random, SystemRandom
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import PRESHARED, PRIVATE, PUBLIC, PUBLIC2, assert_no_key
from wgns_helpers import config, errors, resolve
from wgns_helpers.errors import ConfigError, TryAgainError

if TYPE_CHECKING:
    from wgns_helpers.tunnel import Endpoint, Tunnel

INPUTS = int(os.environ.get("WGNS_FUZZ_INPUTS", "0"))
FILE = "/run/oracles/wg.conf"
ZEROS = base64.b64encode(bytes(32)).decode()
HOSTS = "127.0.0.1 localhost\n127.0.0.7 one.example\n::7 six.example\n127.0.0.8 both.example\n::1 both.example\n"
BLANK = " \t\v\f\r"
BLANKS = str.maketrans("", "", BLANK)

# What concerns the mode and the place of the file is left out for speed; what wg-quick(8) keeps to itself is shown
BASH_ENV = r"""
stat() { echo 0600; }
readlink() { echo "${@: -1}"; }
trap 'printf "%s\0" "$MTU" "$TABLE" "${DNS[*]}" "${DNS_SEARCH[*]}" "${ADDRESSES[*]}" > /run/oracles/values' EXIT
"""


class Oracle:
    """A WireGuard implementation in user space, as wg(8) knows it, that keeps what it is told."""

    def __init__(self) -> None:
        os.makedirs("/var/run/wireguard", exist_ok=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind("/var/run/wireguard/oracle.sock")
        self.listener.listen()
        self.programs = {name: shutil.which(name) or pytest.fail(f"{name} is missing") for name in ("wg", "wg-quick")}

    def close(self) -> None:
        """Take the socket away."""
        os.unlink(self.listener.getsockname())
        self.listener.close()

    def spawn(self, *argv: str) -> int:
        """Start a program; what it prints goes to /run/oracles/out and err."""
        environment = {
            "PATH": os.environ["PATH"],
            "BASH_ENV": "/run/oracles/bash",
            "WG_ENDPOINT_RESOLUTION_RETRIES": "0",
        }
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        files = [
            (os.POSIX_SPAWN_OPEN, fd, f"/run/oracles/{name}", flags, 0o600) for fd, name in ((1, "out"), (2, "err"))
        ]
        return os.posix_spawn(self.programs[argv[0]], argv, environment, file_actions=files)

    def setconf(self, path: str) -> str | None:
        """What `wg setconf` tells the implementation, None where it refuses the file."""
        process = self.spawn("wg", "setconf", "oracle", path)
        ended = os.pidfd_open(process)
        poll = select.poll()
        poll.register(self.listener, select.POLLIN)
        poll.register(ended, select.POLLIN)
        told = b""
        while any(ready == self.listener.fileno() for ready, _ in poll.poll()):
            connection, _ = self.listener.accept()
            with connection:
                while data := connection.recv(1 << 16):  # the first connection only looks whether somebody is there
                    told += data
                    if told.endswith(b"\n\n"):
                        connection.sendall(b"errno=0\n\n")
        os.close(ended)
        accepted = os.waitpid(process, 0)[1] == 0
        assert accepted == bool(told)
        # Nothing is said, too, by a key of zeros and by an interval of 0, in a peer that is new
        return (
            re.sub(r"(preshared_key=0{64}|persistent_keepalive_interval=0)\n", "", told.decode()) if accepted else None
        )

    def strip(self, path: str) -> str | None:
        """The same for a file of wg-quick(8), with the values that are for itself."""
        process = self.spawn("wg-quick", "strip", path)
        if os.waitpid(process, 0)[1]:
            return None
        os.replace("/run/oracles/out", "/run/oracles/stripped")
        told = self.setconf("/run/oracles/stripped")
        return told and told + kept(*Path("/run/oracles/values").read_text("latin-1").split("\0"))


def kept(mtu: str, table: str, dns: str, search: str, addresses: str, *_: str) -> str:
    """What wg-quick(8) keeps to itself, with the meaning that it has to ip(8), which will refuse what has none."""
    try:
        mtu = str(int(mtu or "0", 0))
        table = {"": "254", "auto": "254", "off": "0"}.get(table) or str(int(table, 0))
        addresses = " ".join(str(ip_interface(word) if is_address(word) else word) for word in addresses.split())
    except ValueError:
        pass
    return f"mtu={mtu}\ntable={table}\ndns={dns}\nsearch={search}\naddresses={addresses}\n"


def uapi(tunnel: Tunnel) -> str:
    """The tunnel as `wg setconf` tells it."""
    lines = [
        "set=1",
        f"private_key={tunnel.private_key.hex()}",
        f"listen_port={tunnel.listen_port}",
        f"fwmark={tunnel.fwmark}",
        "replace_peers=true",
    ]
    for peer in tunnel.peers:
        lines.append(f"public_key={peer.public_key.hex()}")
        if any(peer.preshared_key):
            lines.append(f"preshared_key={peer.preshared_key.hex()}")
        if peer.endpoint:
            lines.append(f"endpoint={numeric(peer.endpoint)}")
        if peer.keepalive:
            lines.append(f"persistent_keepalive_interval={peer.keepalive}")
        lines += ["replace_allowed_ips=true", *(f"allowed_ip={network}" for network in peer.allowed_ips)]
    return "\n".join(lines) + "\n\n"


def numeric(endpoint: Endpoint) -> str:
    """A resolved endpoint in numbers, with a zone where it has one."""
    text, zone = socket.inet_ntop(endpoint.family, endpoint.address), (0, endpoint.scope)
    ipv6 = endpoint.family == socket.AF_INET6
    host, port = socket.getnameinfo(
        (text, endpoint.port, *(zone if ipv6 else ())),
        socket.NI_DGRAM | socket.NI_NUMERICHOST | socket.NI_NUMERICSERV,
    )
    return f"[{host}]:{port}" if ipv6 else f"{host}:{port}"


def ours(path: str, *, quick: bool) -> tuple[str | None, str]:
    """Our reading of a file as the oracle tells it; None and the message where it is refused."""
    try:
        tunnel = resolve.resolve(config.load(path))
    except (ConfigError, TryAgainError) as error:
        said = f"{error}; {error.hint}"
        assert_no_key(said)
        assert "\n" not in said
        return None, str(error)
    addresses = " ".join(map(str, tunnel.addresses))
    names = kept(str(tunnel.mtu), str(tunnel.table), " ".join(tunnel.dns), " ".join(tunnel.search), addresses)
    return uapi(tunnel) + names * quick, ""


Where = Callable[[list[str], int], bool]  # a file's lines, and the position of the one that our message names


class Difference(NamedTuple):
    """A file that we refuse and the oracle takes, or, without `says`, the other way round."""

    why: str
    says: str  # a regular expression: what our message says behind FILE:LINE:
    where: Where  # whether the file is really like that
    example: str

    def explains(self, text: str, message: str) -> bool:
        """Whether this is why there are two verdicts."""
        place = re.match(re.escape(FILE) + r":(?:(\d+):)? ", message)
        said = message[place.end() :] if place else message
        if bool(self.says) != bool(said) or not re.match(self.says, said):
            return False
        return self.where(text.split("\n"), int(place[1]) - 1 if place and place[1] else 0)


def cleaned(line: str) -> str:
    """A line without comment and blanks, as wg(8) has it, in small letters."""
    return line.partition("#")[0].translate(BLANKS).lower()


def trimmed(line: str) -> str:
    """A line without comment, and without blanks at its ends, as wg-quick(8) has it."""
    return line.partition("#")[0].strip(BLANK)


def line(pattern: str, see: Callable[[str], str] = cleaned) -> Where:
    """The line that is named is like this."""
    return lambda lines, at: re.search(pattern, see(lines[at])) is not None


def no_line(pattern: str) -> Where:
    """No line is like this."""
    return lambda lines, _: not any(re.search(pattern, cleaned(one)) for one in lines)


def a_line(pattern: str) -> Where:
    """Some line is like this."""
    return lambda lines, _: any(re.search(pattern, cleaned(one)) for one in lines)


def words(line: str, key: str) -> list[str]:
    """The words that wg-quick(8) makes of the value of `key`; none where the line is about something else."""
    name, _, value = (part.strip(BLANK) for part in line.partition("#")[0].partition("="))
    return [] if name.lower() != key else value.replace(",", " ").split() if key in ("address", "dns") else [value]


def illegal(key: str, legal: Callable[[str], object]) -> Where:
    """The line that is named sets `key`, and to something that ip(8) or resolv.conf(5) should not see."""

    def refused(word: str) -> bool:
        try:
            return not legal(word)
        except ValueError:
            return True

    return lambda lines, at: any(map(refused, words(lines[at], key)))


def plain(lowest: int, highest: int) -> Callable[[str], bool]:
    """Whether it is a number in this range as everybody reads it."""
    return lambda word: re.fullmatch("0|[1-9][0-9]{0,15}", word) is not None and lowest <= int(word) <= highest


def set_before(lines: list[str], at: int) -> bool:
    """A line above sets the same."""
    keys = [cleaned(one).partition("=")[0] for one in lines[: at + 1]]
    return keys.pop() in keys


def peer_before(lines: list[str], at: int) -> bool:
    """A line above names the same peer."""
    peers = [re.search("(?i)publickey=(.*)", one.partition("#")[0].translate(BLANKS)) for one in lines[: at + 1]]
    keys = [peer[1] for peer in peers if peer]
    return keys.pop() in keys


def address_before(lines: list[str], at: int) -> bool:
    """The lines from the first to this set the same address twice."""
    addresses = [ip_interface(word) for one in lines[: at + 1] for word in words(one, "address")]
    return len(set(addresses)) < len(addresses)


def interface(lines: str) -> str:
    """A file with these lines in [Interface]."""
    return f"[Interface]\nPrivateKey={PRIVATE}\n{lines}\n[Peer]\nPublicKey={PUBLIC}\nAllowedIPs=::/0\n"


def peer(lines: str) -> str:
    """A file with these lines in [Peer]."""
    return interface("") + lines


def is_address(word: str) -> bool:
    """Whether it is an address with or without a length, that ip(8) does not take for octal or a mask."""
    return not re.search(r"%|/0.|/.*\.", word) and bool(ip_interface(word))


def is_server_or_domain(word: str) -> bool:
    """Whether it makes sense in resolv.conf(5)."""
    if ":" in word or re.fullmatch("[0-9.]*", word):
        return "%" not in word and bool(ip_address(word))
    return re.fullmatch(r"(?=.{1,253}$)([\w-]{1,63}\.)*[\w-]{1,63}\.?", word) is not None


QUICK_KEYS = "(address|mtu|table|dns|saveconfig|(pre|post)(up|down))"
NO_PORT = r"0*([1-9]\d{5,}|[7-9]\d{4}|6[6-9]\d{3}|65[6-9]\d\d|655[4-9]\d|6553[6-9])$|[+-]\d+$|[a-z*][\w*+.-]*$"
CUT = "getaddrinfo(3) looks for a service of that name, and cuts a number that is too large"
MISTAKE = "one of the two is a mistake"
LATER = "wg-quick(8) hands it on when the interface is there, and fails then, or something else is meant"
BOTH = [
    Difference("nothing goes through without one", "no private key$", no_line("^privatekey="), "[Interface]"),
    Difference(
        "which means none",
        "the private key is all zeros",
        a_line(f"^privatekey={ZEROS.lower()}$"),
        f"[Interface]\nPrivateKey={ZEROS}",
    ),
    Difference(
        "is it a configuration?",
        r"no \[Interface\] section",
        no_line(r"^\[interface\]$"),
        f"[Peer]\nPublicKey={PUBLIC}",
    ),
    Difference(
        "wg-quick(8) does not see its keys in it",
        "unknown section",
        line(r"^\[interface\]$"),
        f"[ Interface ]\nPrivateKey={PRIVATE}",
    ),
    Difference(MISTAKE, r"(\w+) again; it appears in line", set_before, interface("FwMark=1\nFwMark=2")),
    Difference(
        MISTAKE,
        r"PublicKey: the \[Peer\] of line \d+ has this key too",
        peer_before,
        peer(f"[Peer]\nPublicKey={PUBLIC}"),
    ),
    Difference(CUT, "ListenPort: .* is not a number", line(f"^listenport=({NO_PORT})"), interface("ListenPort=domain")),
    Difference(
        CUT, "Endpoint: .* is not HOST:PORT", line(f"^endpoint=.*:({NO_PORT})"), peer("Endpoint=127.0.0.1:65537")
    ),
    Difference(
        "nothing can be sent to it",
        "Endpoint: .* is not HOST:PORT",
        line("^endpoint=.*:0+$"),
        peer("Endpoint=127.0.0.1:0"),
    ),
    Difference(
        "where does the address end?",
        "Endpoint: .* where does the address end",
        line(r"^endpoint=[^\[]*:.*:\d+$"),
        peer("Endpoint=::1:5"),
    ),
    Difference(
        "nobody knows it for an address",
        "Endpoint: .* is neither an address nor the name of a host",
        line(r"^endpoint=\[?((\d+\.){0,2}\d+|[\d.]*\b0\d[\d.]*)\]?:"),
        peer("Endpoint=127.1:5"),
    ),
    Difference(
        "no host is called so",
        "Endpoint: .* is neither an address nor the name of a host",
        line(r"^endpoint=\[?\*\]?:"),
        peer("Endpoint=*:5"),
    ),
    Difference("is it text?", "a NUL byte", line("\0", str), peer("# \0")),
]
SETCONF = [
    Difference("ours", "", a_line("^privatekeyfile="), "[Interface]\nPrivateKeyFile=/run/oracles/key"),
    Difference("for wg-quick(8)", "", a_line(f"^{QUICK_KEYS}="), interface("Address=10.0.0.1")),
]
QUICK = [
    Difference(
        LATER,
        "Address: .* is not ADDRESS/LENGTH",
        illegal("address", is_address),
        interface("Address=10.0.0.1/024"),
    ),
    Difference(
        "an interface cannot have it",
        "Address: .* is nobody's address",
        illegal("address", lambda word: any(ip_interface(word).packed)),
        interface("Address=0.0.0.0"),
    ),
    Difference(LATER, "Address: .* appears twice", address_before, interface("Address=::1\nAddress=0::1/128")),
    Difference(LATER, "MTU: .* is not a number from 68", illegal("mtu", plain(68, 65535)), interface("MTU=01400")),
    Difference(
        "the kernel would take IPv6 away",
        "MTU: .* is too small for IPv6",
        line(r"^mtu=(\d{2,3}|1[01]\d\d|12[0-7]\d)$"),
        interface("MTU=1279"),
    ),
    Difference(
        LATER,
        "Table: .* is not a number",
        illegal("table", lambda word: word in ("auto", "off") or plain(1, 4294967295)(word)),
        interface("Table=main"),
    ),
    Difference(
        LATER,
        "DNS: .* is neither an address nor the name of a host or domain",
        illegal("dns", is_server_or_domain),
        interface("DNS=fe80::1%lo"),
    ),
    Difference(
        LATER,
        r"\w+: a character that is not printable ASCII",
        line("(?i)^(address|mtu|table|dns)[^!-~]*=.*[^ \t!-~]", trimmed),
        interface("Address=10.0.0.1\v10.0.0.2"),
    ),
    Difference(
        LATER,
        "(MTU|Table) takes one value, without a comma",
        line("^(mtu|table)=.*,"),
        interface("MTU=1400,1500"),
    ),
    Difference(
        "wg-quick(8) takes the key for the value",
        'not "Key = value"',
        line(f"(?i)^{QUICK_KEYS}$", trimmed),
        interface("DNS"),
    ),
]

KEYS = [PRIVATE, PUBLIC, PUBLIC2, PRESHARED, *(base64.b64encode(bytes([n]) * 32).decode() for n in range(1, 9))]
NETWORKS = """
    0.0.0.0/0 ::/0 10.0.0.0/8 10.1.2.3/16 10.9.0.2 fd00::/8 fd00::1:0:2/64 ::ffff:1.2.3.4 192.0.2.1/32 2001:db8::/32
""".split()
ADDRESSES = """
    10.9.0.2/32 10.9.0.2/24 10.9.0.3/24 10.9.1.2 192.0.2.7/1 fd00::2/64 2001:db8::5 ::ffff:1.2.3.4/96 ::2
""".split()
ODD_NETWORKS = """
    10.1/16 010.0.0.1/8 fe80::1%lo/64 [::]/0 /8 1.2.3.4.5 0x7f.0.0.1 localhost 1.2.3.4/8/8 ::1.2.3.4/96 ::: * 10.0.0.0/
    10.0.0.1/024 fd00::1/0x40 10.0.0.1/255.0.0.0
""".split()
ENDPOINTS = "127.0.0.1 192.0.2.1 [::1] [fd00::1] localhost one.example six.example both.example".split()
ODD_HOSTS = """
    [fe80::1%lo] [fe80::1%1] [::1%lo] [::1%1] [fe80::1%] [fe80::1%none] [127.0.0.1] [one.example] ::1 [::1 ::1] [[::1]]
    127.1 0x7f.1 017.0.0.1 0x7f000001 256.1.1.1 0377.0.0.1 0400.0.0.1 1.2.3 2130706433 1.2.3.4. [::ffff:1.2.3.4] *
    ONE.example one.example. no.example - a_b éxample 1.2.3.4:5 .
""".split()
ODD_NUMBERS = """
    0 off OFF 0x 0x1F 0X1f 0xg 1e3 http domain * 65536 70000 4294967295 4294967296 １２ ² ٣ 1_0 0b1 1.0 0x00000000000001
    00000000000000000000000000000007 99999999999999999999999999999999 0xFFFFFFFFFFFFFFFFFFFFFFFF 0x100000000 1,2
""".split()
TITLES = ["[ {} ]", " [{}] #", "[{}", "[{}s]", "[[{}]]", "[{}]=", "{}", "[{}]x", "[{}]\v", "[]", "[\u2028{}]"]
COMMENTS = ["# x", " #", "#! AllowedIPs = ::/0", "; x", "#é", "#\udcff"]
INSERTS = "\0 \t\v\f\r\n#=,[]:/%+-0x.;\"'\\*é\x1c\x85\xa0\u2028\u2003\ufeff１²\udcff\udcc3"


class Writer:
    """Writes configurations that are in order, or odd in some places."""

    def __init__(self, random: Random) -> None:
        self.random, self.choice = random, random.choice
        self.oddity = self.choice((0, 0, 0, 0, 2, 5, 20))  # percent of the places

    def seldom(self, percent: int) -> bool:
        """True so often."""
        return self.random.randrange(100) >= 100 - percent

    def odd(self, more: int = 0) -> bool:
        """Whether to be odd here."""
        return bool(self.oddity) and self.seldom(self.oddity + more)

    def number(self, highest: int, lowest: int = 0) -> str:
        """A number, decimal."""
        plain = str(self.choice((25, lowest, highest, self.random.randrange(lowest, highest + 1))))
        return self.choice((*ODD_NUMBERS, "", f"+{plain}", f"-{plain}", f"00{plain}")) if self.odd(3) else plain

    def mark(self) -> str:
        """A mark."""
        return self.choice((self.number(0xFFFFFFFF), hex(self.random.randrange(1 << 32)), "off", "OFF", "0xCAFE"))

    def key(self) -> str:
        """A key."""
        key = self.choice(KEYS)
        if not self.odd():
            return key
        wrong = (key[:-1], f"{key[:-2]}B=", f"{key}=", "", key.swapcase(), key + key, key.replace("/", "_"))
        return self.choice((ZEROS, f"{key[:9]} {key[9:]}", *wrong))

    def network(self) -> str:
        """An address, with or without a prefix length."""
        network = self.choice(NETWORKS)
        odd = (*ODD_NETWORKS, "", f"{network.partition('/')[0]}/{self.number(130)}")
        return self.choice(odd) if self.odd(1) else network

    def endpoint(self) -> str:
        """A host and a port."""
        host = self.choice((*ODD_HOSTS, "", "one. example") if self.odd(5) else ENDPOINTS)
        return f"{host}{self.choice(('', ' ', '::')) if self.odd() else ':'}{self.number(65535, 1)}"

    def each(self, one: Callable[[], str], most: int = 4) -> str:
        """A list."""
        values = [one() for _ in range(1 + self.random.randrange(most))]
        return self.choice((",", ", ", " , ", ",\t")).join(values) + (self.choice(",\v\f") if self.odd() else "")

    def blank(self) -> str:
        """What may stand between two words."""
        return self.choice(" \t\v\f\r") if self.odd() else self.choice((" ", " ", ""))

    def line(self, key: str, value: str) -> str:
        """One setting."""
        if self.seldom(20):
            key = self.choice((key.lower(), key.upper(), key.swapcase(), key.title()))
        if self.odd():
            key = self.choice((f"{key[:3]} {key[3:]}", key[:-1], f"{key}x", "", f"#!{key}"))
        comment = self.choice(COMMENTS) if self.odd() else ""
        equals = self.choice(("", ":", "==")) if self.odd() else "="
        return f"{self.blank() * self.odd()}{key}{self.blank()}{equals}{self.blank()}{value}{comment}"

    def some(self, often: int, key: str, value: Callable[[], str]) -> list[str]:
        """A setting, often, and twice where things are odd."""
        return [self.line(key, value()) for _ in range(self.seldom(often) + self.odd())]

    def title(self, name: str) -> str:
        """The first line of a section."""
        if self.odd():
            return self.choice(TITLES).format(name)
        return self.choice((f"[{name}]", f"[{name.lower()}]", f"[{name.upper()}]"))

    def interface(self, *, quick: bool) -> list[str]:
        """The lines of [Interface]."""
        lines = [self.title("Interface"), *self.some(98, "PrivateKey", self.key)]
        lines += self.some(50, "ListenPort", lambda: self.number(65535)) + self.some(40, "FwMark", self.mark)
        if quick:
            lines += self.quick_lines()
        return lines

    def quick_lines(self) -> list[str]:
        """What only wg-quick(8) knows."""
        own = self.random.sample(ADDRESSES, 4)

        def address() -> str:
            return self.network() if self.odd() or not own else own.pop()

        hooks = ("PreUp", "PostUp", "PreDown", "PostDown")
        return [
            *self.some(85, "Address", lambda: self.each(address, 2)),
            *self.some(20, "Address", address),
            *self.some(50, "DNS", lambda: self.each(self.server)),
            *self.some(10, "DNS", self.server),
            *self.some(40, "MTU", lambda: self.choice(("1420", "1280", self.number(9000, 1280)))),
            *self.some(40, "Table", lambda: self.choice(("auto", "off", self.number(4294967295, 1)))),
            *self.some(30, self.choice(hooks), lambda: self.choice(("ip rule add # x", "", "a=b,c; é"))),
            *self.some(20, "SaveConfig", lambda: self.choice(("true", "false", "FALSE"))),
        ]

    def server(self) -> str:
        """A name server or a search domain."""
        if self.odd():
            return self.choice((*ODD_HOSTS, *ODD_NETWORKS, "auto"))
        return self.choice(("10.64.0.1", "fd00::1", "example.com", "lan", "1.1.1.1"))

    def peer(self, public: str) -> list[str]:
        """The lines of one [Peer]."""
        lines = [self.title("Peer"), *self.some(99, "PublicKey", lambda: self.key() if self.odd() else public)]
        lines += self.some(25, "PresharedKey", self.key) + self.some(75, "Endpoint", self.endpoint)
        lines += self.some(40, "PersistentKeepalive", lambda: self.choice((self.number(65535), "25", "off")))
        lines += self.some(80, "AllowedIPs", lambda: self.each(self.network))
        return lines + self.some(30, "AllowedIPs", lambda: self.each(self.network))

    def text(self, *, quick: bool) -> str:
        """A whole file."""
        first = self.random.randrange(len(KEYS))
        keys = (KEYS + KEYS)[first : first + self.choice((1, 1, 1, 0, 2, 4))]
        sections = [self.interface(quick=quick), *map(self.peer, keys + keys[:1] * self.odd())]
        if self.seldom(10):  # [Interface] goes on behind the peers
            lines = sections[0]
            at = self.random.randrange(1, len(lines) + 1)
            sections[0] = lines[:at]
            sections.append([self.title("Interface"), *lines[at:]])
        if self.seldom(10):
            self.random.shuffle(sections)
        lines = [line for section in sections for line in section]
        if self.odd():
            self.random.shuffle(lines)
        for _ in range(self.choice((0, 1, 3))):
            lines.insert(self.random.randrange(len(lines) + 1), self.choice(("", "# x", "  ", "#! [Peer]", "#")))
        if self.seldom(20):
            self.mutate_lines(lines)
        end = self.choice(("\n", "\n", "\r\n"))
        text = end.join(lines) + self.choice((end, ""))
        for _ in range(self.choice((1, 2, 5)) if self.seldom(20) else 0):
            text = self.mutated(text)
        return text

    def mutate_lines(self, lines: list[str]) -> None:
        """Delete, double, exchange or join lines."""
        one, other = self.random.randrange(len(lines)), self.random.randrange(len(lines))
        what = self.random.randrange(4)
        if what == 0:
            del lines[one]
        elif what == 1:
            lines.insert(other, lines[one])
        elif what == 2:
            lines[one], lines[other] = lines[other], lines[one]
        else:
            lines[one] += self.choice(("", "\r", "\v", ",", "\0")) + lines[other]

    def mutated(self, text: str) -> str:
        """With a character deleted, doubled, exchanged, inserted or replaced."""
        if not text:
            return self.choice(INSERTS)
        at, what = self.random.randrange(len(text)), self.random.randrange(5)
        before, here, after = text[:at], text[at], text[at + 1 :]
        changed = ("", here * 2, after[:1] + here, self.choice(INSERTS) + here, self.choice(INSERTS))[what]
        return before + changed + (after[1:] if what == 2 else after)


@pytest.fixture
def oracle(monkeypatch: pytest.MonkeyPatch) -> Iterator[Oracle]:
    """What wg(8) and wg-quick(8) say, without name servers."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.setattr(errors, "_UNSAID", {errors.WARNING})  # as many as there are inputs
    Path("/etc/hosts").write_text(HOSTS)
    Path("/etc/nsswitch.conf").write_text("hosts: files\nservices: files\n")
    folder = Path(FILE).parent
    folder.mkdir(mode=0o700)
    (folder / "bash").write_text(BASH_ENV)
    (folder / "key").write_text(PRIVATE)
    oracle = Oracle()
    yield oracle
    oracle.close()
    shutil.rmtree(folder)


class Comparison:
    """Compares one input after the other, and counts."""

    def __init__(self, oracle: Oracle, *, quick: bool) -> None:
        self.oracle, self.quick, self.counts = oracle, quick, Counter[str]()

    def __call__(self, text: str) -> list[Difference]:
        """What explains the difference, nothing where there is none; AssertionError where nothing does."""
        Path(FILE).write_bytes(text.encode(errors="surrogateescape"))
        theirs = self.oracle.strip(FILE) if self.quick else self.oracle.setconf(FILE)
        found, message = ours(FILE, quick=self.quick)
        self.counts.update({"inputs": 1, "accepted by the oracle": theirs is not None, "by us": found is not None})
        if found == theirs:
            return []
        known = BOTH + (QUICK if self.quick else SETCONF)
        why = [one for one in known if one.explains(text, message)] if (found is None) != (theirs is None) else []
        if not why:
            oracle = theirs or Path("/run/oracles/err").read_text("utf-8", "replace")
            pytest.fail(f"unexplained: {text!r}\nours: {found or message}\noracle: {oracle}")
        self.counts.update(one.says or one.why for one in why)
        return why


def one_by_one(*, quick: bool) -> Iterator[str]:
    """Files with one thing odd."""
    odd = ["", *ODD_NUMBERS, "+1", "-1", "001", "1 2", "true", "AUTO", "auto", "1.0.0.0"]
    networks = [*ODD_NETWORKS, *(f"{one}/{number}" for one in ("10.0.0.1", "fd00::1") for number in odd)]
    hosts = [*(f"{host}:25" for host in ["", "one. example", *ODD_HOSTS]), *(f"127.0.0.1:{number}" for number in odd)]
    places: dict[str, tuple[Callable[[str], str], list[str]]] = {
        "ListenPort": (interface, odd),
        "FwMark": (interface, odd),
        "PersistentKeepalive": (peer, odd),
        "Endpoint": (peer, hosts),
        "AllowedIPs": (peer, [*networks, "10.0.0.0/8,", ",::/0", "::/0,,::/1", "10.0.0.0/8 ::/0"]),
    }
    if quick:
        places = dict.fromkeys(("MTU", "Table", "SaveConfig", "PostUp"), (interface, odd))
        places["Address"] = interface, [*networks, ",, 10.9.8.7,", "1.0.0.0/8", "10.9.8.6/24, 10.9.8.7/24"]
        places["DNS"] = interface, [*ODD_NETWORKS, *ODD_HOSTS, ",, 10.9.8.7,"]
    for key, (file, values) in places.items():
        yield from (file(f"{key} = {value}") for value in values)
        plain = (
            "auto" if key == "Table" else "true" if key == "SaveConfig" else "1400" if key == "MTU" else "10.9.8.7/32"
        )
        line = f"{key} = {plain if file is interface or key == 'AllowedIPs' else '25'}"
        middles = (0, 1, len(key), len(key) + 2, len(key) + 3, len(key) + 5)
        yield from (file(line[:at] + character + line[at:]) for at in middles for character in INSERTS)
        yield from (file(f"{line}{end}") for end in COMMENTS)
        yield from (
            file(changed) for changed in (line.lower(), line.upper(), key, line.replace("=", ""), f"{line}\n{line}")
        )
        yield peer(line) if file is interface else interface(line)
    for name in ("Interface", "Peer"):
        whole = interface("MTU=1400" if quick else "FwMark=1")
        yield from (whole.replace(f"[{name}]", title.format(name)) for title in TITLES)
    yield from (character + interface("") for character in INSERTS)
    yield from (interface("") + character for character in INSERTS)


def feed(compare: Comparison, examples: int) -> None:
    """Compare many inputs; those that the oracle refuses have no meaning to be compared, so most should be accepted."""

    def write(random: Random) -> str:
        return Writer(random).text(quick=compare.quick)

    if INPUTS:
        seed = SystemRandom().randrange(1 << 32)
        print(f"\nseed {seed}", flush=True)
        random, begin = Random(seed), time.monotonic()  # noqa: S311  (no secret)
        for done in range(1, INPUTS + 1):
            compare(write(random))
            if done % 10_000 == 0 or done == INPUTS:
                print(f"{time.monotonic() - begin:.0f} s: {dict(compare.counts)}", flush=True)
    else:

        @settings(max_examples=examples, deadline=None, derandomize=True, database=None)
        @given(st.randoms(use_true_random=False))
        def check(random: Random) -> None:
            compare(write(random))

        check()
    assert compare.counts["accepted by the oracle"] > 0.3 * compare.counts["inputs"]
    print(compare.counts)


def test_one_meaning_as_wg_has_it(oracle: Oracle) -> None:
    """What `wg setconf` accepts we accept, with the same keys, peers and values in the same order, and nothing else."""
    feed(Comparison(oracle, quick=False), 700)


def test_one_meaning_as_wg_quick_has_it(oracle: Oracle) -> None:
    """The same of files for wg-quick(8), and of the values that it keeps to itself."""
    feed(Comparison(oracle, quick=True), 300)


@pytest.mark.parametrize("quick", [False, True], ids=["wg", "wg-quick"])
def test_one_odd_thing(oracle: Oracle, quick: bool) -> None:
    """Each odd value, title and character has the same meaning, or is refused by both."""
    compare = Comparison(oracle, quick=quick)
    for text in one_by_one(quick=quick):
        compare(text)
    print(compare.counts)


@pytest.mark.parametrize("one", BOTH + SETCONF, ids=lambda one: one.says or one.why)
def test_each_difference_to_wg_is_there(oracle: Oracle, one: Difference) -> None:
    """What is listed as a difference is one, and only one."""
    assert Comparison(oracle, quick=False)(one.example) == [one]


@pytest.mark.parametrize("one", BOTH + QUICK, ids=lambda one: one.says or one.why)
def test_each_difference_to_wg_quick_is_there(oracle: Oracle, one: Difference) -> None:
    """The same for wg-quick(8)."""
    assert Comparison(oracle, quick=True)(one.example) == [one]
