"""wg-quick(8) configuration files -> Tunnel, or one line that says what is wrong and where.

wgconfig is lenient where wg(8) is strict (it takes `#! AllowedIPs = …`, a comment, for a setting, and forgets the first
of two sections with one key), so it only gets to see text that `_normalized` has checked and written anew.
"""

from __future__ import annotations

import errno
import os
import stat
from binascii import a2b_base64, b2a_base64
from io import StringIO

from .errors import HIDDEN, ConfigError, MissingError, shown, system_error, warn
from .tunnel import IPV6_MINIMUM, Network, Peer, Port, Tunnel, endpoint, literal, network, number, ports

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")

_SIZE_LIMIT = 32 << 20  # bytes; 100,000 peers take 15 MB
_INTERFACE = ("PrivateKey", "PrivateKeyFile", "ListenPort", "FwMark", "OpenPorts")
_QUICK = ("Address", "MTU", "Table", "DNS")  # wg-quick(8) reads them, and drops blanks only at their ends
_OPEN_PORTS = 200  # ports and ranges, whose rules fit into one message to the kernel
_HOOKS = ("PreUp", "PostUp", "PreDown", "PostDown", "SaveConfig")
_PEER = ("PublicKey", "PresharedKey", "PresharedKeyFile", "AllowedIPs", "Endpoint", "PersistentKeepalive")
_SECTION_OF = {name.lower(): ("[Interface]", name) for name in _INTERFACE + _QUICK + _HOOKS}
_SECTION_OF |= {name.lower(): ("[Peer]", name) for name in _PEER}
_AMNEZIA = ("Jc", "Jmin", "Jmax", "S1", "S2", "S3", "S4", "H1", "H2", "H3", "H4", "I1", "I2", "I3", "I4", "I5")
_LISTS = ("Address", "DNS", "AllowedIPs", "OpenPorts")
_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO)
_BLANKS = " \t\v\f\r"  # isspace(3) in the C locale, which is what wg(8) drops
_DROP_BLANKS = str.maketrans("", "", _BLANKS)
_HEX_DIGITS = frozenset("0123456789abcdefABCDEF")


def path_of(name: str) -> str:
    """The path of the configuration of the tunnel `name`, unless an option gives another."""
    return f"/etc/wireguard/{name}.conf"


def load(path: str, private_key_file: str = "") -> Tunnel:
    """The tunnel that the file `path` describes ("-": standard input).

    Its private key comes from `private_key_file`, else from the file, else from the credential "private-key". Raises
    `ConfigError`, and `PermissionRefusedError` for what must not be read.
    """
    source = "standard input" if path == "-" else path
    if path == "-":
        with open(0, "rb", closefd=False) as file:
            data, readable = file.read(_SIZE_LIMIT + 1), False
    else:
        data, readable = _read(path, f"install -m 600 PROVIDER.conf {path}, with the provider's file")
    interface, peers = sections(data, source)
    if readable and any({"PrivateKey", "PresharedKey"} & section.items.keys() for section in (interface, *peers)):
        warn(f"{source} holds a key and can be read by every user", f"chmod 600 {source}")
    directory = os.path.dirname(path)
    names = interface.each("DNS", lambda value: (value, literal(value)))
    tunnel = Tunnel(
        private_key=_secret(interface, "PrivateKey", directory, private_key_file, _credential("private-key")),
        listen_port=interface.one("ListenPort", lambda value: number(value, 0, 65535), 0),
        fwmark=interface.one("FwMark", fwmark, 0),
        addresses=interface.each("Address", lambda value: network(value, zeros=False)),
        mtu=interface.one("MTU", lambda value: number(value, 68, 65535, zeros=False), 0),
        table=interface.one("Table", lambda value: number(value, 1, 0xFFFFFFFF, zeros=False, auto=254, off=0), 254),
        dns=tuple(name for name, (family, _) in names if family),
        search=tuple(name for name, (family, _) in names if not family),
        open_ports=_open_ports(interface),
        peers=tuple(_peer(section, directory) for section in peers),
    )
    _check(tunnel, interface)
    return tunnel


def load_endpoints(path: str) -> Tunnel:
    """The peers of the file `path`, by public key and endpoint alone: reads no secret. Raises what `load` raises."""
    data, _ = _read(path)
    _, peers = sections(data, path)
    found = (Peer(peer.one("PublicKey", key, b""), endpoint=peer.one("Endpoint", endpoint, None)) for peer in peers)
    return Tunnel(b"", peers=tuple(found))


def load_open_ports(path: str) -> tuple[Port, ...] | None:
    """The open ports of the file `path` alone: reads no secret. Raises what `load` raises."""
    data, _ = _read(path)
    return _open_ports(sections(data, path)[0])


def _open_ports(interface: Section) -> tuple[Port, ...] | None:
    """The ports that the far side may reach, sorted and without repetition; None for all."""
    if "all" in (values := interface.items.get("OpenPorts", ())):
        if len(values) > 1:
            raise interface.error("OpenPorts", values.index("all"), '"all" leaves nothing to add, expected it alone')
        return None
    if len(values) > _OPEN_PORTS:
        raise interface.error("OpenPorts", _OPEN_PORTS, f"expected at most {_OPEN_PORTS} ports and ranges")
    return tuple(sorted({port for found in interface.each("OpenPorts", ports) for port in found}))


def _check(tunnel: Tunnel, interface: Section) -> None:
    """Check what is missing, and what concerns more than one value."""
    if not any(tunnel.private_key):
        what = "the private key is all zeros, which means none" if tunnel.private_key else "no private key"
        hint = "a provider's file has one; PrivateKeyFile and the credential private-key name another file"
        raise ConfigError(f"{interface.source}: {what}", hint)
    if not tunnel.peers:
        warn(f"{interface.source}: no [Peer]: nothing can go through this tunnel")
    if not tunnel.addresses:
        warn(f"{interface.source}: no Address: nothing can be sent from this interface")
    if tunnel.search and not tunnel.dns:
        warn(f"{interface.source}: DNS has search domains only: without a name server they are not used")
    owners = {network.network(): peer for peer in tunnel.peers for network in peer.allowed_ips}
    shared = [n for peer in tunnel.peers for n in map(Network.network, peer.allowed_ips) if owners[n] is not peer]
    if shared:
        warn(f"{interface.source}: several peers have the allowed IPs {shared[0]}: only the last one gets them")
    for position, address in enumerate(tunnel.addresses):
        if address in tunnel.addresses[:position]:
            raise interface.error("Address", position, f"{address} appears twice")
        if not any(address.address):
            raise interface.error("Address", position, f"{address} is nobody's address")
    if 0 < tunnel.mtu < IPV6_MINIMUM and tunnel.has_ipv6():
        raise interface.error("MTU", 0, f'"{tunnel.mtu}" is too small for IPv6, expected 1280 to 65535')


def _peer(section: Section, directory: str) -> Peer:
    preshared_key = _secret(section, "PresharedKey", directory)
    allowed_ips = section.each("AllowedIPs", network)
    for position, given in enumerate(allowed_ips):
        if given.network() is not given:
            warn(str(section.error("AllowedIPs", position, f"{given} is a host in {given.network()}, which is used")))
    return Peer(
        public_key=section.one("PublicKey", key, b""),
        preshared_key=preshared_key if any(preshared_key) else b"",
        endpoint=section.one("Endpoint", endpoint, None),
        keepalive=section.one("PersistentKeepalive", lambda value: number(value.lower(), 0, 65535, off=0), 0),
        allowed_ips=allowed_ips,
    )


def _secret(section: Section, name: str, directory: str, option: str = "", credential: str = "") -> bytes:
    """The key `name`: from the file `option`, from the section or the file that it names, from the file `credential`.

    The first of these counts; empty for none.
    """
    value = section.one(name, key, b"")
    named = section.one(f"{name}File", lambda file: _find(file, directory), "")
    if value and named:
        raise section.error(f"{name}File", 0, f"there is a {name} too; keep one of the two")
    path = option or named or ("" if value else credential)
    if not path:
        return value
    data, readable = _read(path)
    if readable:
        warn(f"{path} can be read by every user", f"chmod 600 {path}")
    try:
        return key(data.decode("ascii", "replace").strip())
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def _read(path: str, hint: str = "") -> tuple[bytes, bool]:
    """A regular file's content, and whether every user can read it: as wg-quick(8), by the file and its folder."""
    folder, name = os.path.split(path)
    try:
        # A FIFO without a writer would hold up the open, a terminal would become the controlling one
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK | os.O_NOCTTY)) as file:
            mode, folder_mode = os.fstat(file.fileno()).st_mode, os.stat(folder or ".").st_mode
            if not stat.S_ISREG(mode):
                raise ConfigError(f"{path}: not a regular file", hint)
            return file.read(_SIZE_LIMIT + 1), bool(mode & stat.S_IROTH and folder_mode & stat.S_IXOTH)
    except OSError as error:
        if error.errno not in _NO_FILE:
            raise system_error(path, error) from None
        shown_path = f'"{path}"' if os.path.isdir(folder or ".") and shown(name) != HIDDEN else shown(path)
        raise ConfigError(f"{shown_path}: {os.strerror(error.errno).lower()}", hint) from None


def _find(name: str, directory: str) -> str:
    """The path of a key file: a relative name is that of a credential, or of a file beside the configuration."""
    path = _credential(name) or os.path.join(directory, name)
    if shown(name) == HIDDEN and not os.path.exists(path):
        raise ValueError("expected the name of a file, this looks like a key (not shown)")
    return path


def _credential(name: str) -> str:
    """The path of a credential of the unit (systemd.exec(5)), empty if there is none."""
    path = os.path.join(os.environ.get("CREDENTIALS_DIRECTORY", name), name)
    return path if "CREDENTIALS_DIRECTORY" in os.environ and os.path.exists(path) else ""


class Section:
    """One section: the values of each key, and the line of each value."""

    def __init__(self, source: str, title: str, line: int = 0) -> None:
        self.source, self.title, self.line = source, title, line
        self.items: dict[str, list[str]] = {}
        self.lines: dict[str, list[int]] = {}
        self.text = [f"{title}\nLine = {line}\n"]  # for wgconfig

    def error(self, key: str, item: int, text: str, hint: str = "") -> ConfigError:
        """The exception for the value number `item` of `key`."""
        return ConfigError(f"{self.source}:{self.lines[key][item]}: {key}: {text}", hint)

    def each(self, key: str, convert: Callable[[str], T]) -> tuple[T, ...]:
        """The values of `key`, converted; `ConfigError` with the line of a value that `convert` refuses."""
        found: list[T] = []
        try:
            for value in self.items.get(key, ()):
                found.append(convert(value))  # noqa: PERF401  (their number tells which one failed)
        except ValueError as error:
            raise self.error(key, len(found), *error.args) from None
        return tuple(found)

    def one(self, key: str, convert: Callable[[str], T], default: T) -> T:
        """The only value of `key`, converted, or the default."""
        return self.each(key, convert)[0] if self.items.get(key) else default


def sections(data: bytes, source: str) -> tuple[Section, list[Section]]:
    """The sections as wgconfig gives them back: [Interface] and each [Peer]. Only comments may be other than ASCII."""
    if data.startswith(b"\xef\xbb\xbf"):
        raise ConfigError(f"{source}:1: a byte order mark", "save the file as UTF-8 without BOM")
    if len(data) > _SIZE_LIMIT:
        raise ConfigError(f"{source}: more than {_SIZE_LIMIT} bytes, which no configuration has")
    try:
        from wgconfig import WGConfig
    except ImportError:
        raise MissingError("the Python package wgconfig is missing", "pip install wgconfig") from None
    interface, peers = _normalized(data.decode(errors="replace"), source)
    reader = WGConfig(keyattr="Line")  # by PublicKey it would forget the first of two peers
    reader.read_from_fileobj(StringIO("".join(line for section in (interface, *peers) for line in section.text)))
    read = [reader.get_interface(), *reader.get_peers(keys_only=False).values()]
    for section, found in zip((interface, *peers), read, strict=True):
        del found["Line"], section.text
        section.items = {name: [item[1:] for item in values if item] for name, values in found.items()}
    lines: dict[str, int] = {}
    for peer in peers:
        public = peer.one("PublicKey", str, "")  # each key can be written in one way only, see key()
        if not public:
            raise ConfigError(f"{source}:{peer.line}: [Peer] without PublicKey")
        if lines.setdefault(public, peer.line) != peer.line:
            raise peer.error("PublicKey", 0, f"the [Peer] of line {lines[public]} has this key too")
    return interface, peers


def _normalized(text: str, source: str) -> tuple[Section, list[Section]]:
    """The structure, at least as strict as wg(8): known keys in their sections, none twice."""
    interface: Section | None = None
    peers: list[Section] = []
    section: Section | None = None
    for line, raw in enumerate(text.split("\n"), 1):
        content = raw.partition("#")[0].strip(_BLANKS)
        if "\0" in raw:
            raise ConfigError(f"{source}:{line}: a NUL byte", "this is no text file, or it is UTF-16")
        if content.lower() == "[interface]":  # with blanks inside, wg-quick(8) does not find its keys
            section = interface = interface or Section(source, "[Interface]", line)
        elif content.startswith("[") and _without_blanks(content).lower() == "[peer]":
            section = Section(source, "[Peer]", line)
            peers.append(section)
        elif content.startswith("["):
            raise ConfigError(f"{source}:{line}: unknown section {shown(content)}, expected [Interface] or [Peer]")
        elif content:
            try:
                _add(section, line, content)
            except ValueError as error:
                raise ConfigError(f"{source}:{line}: {error.args[0]}", *error.args[1:]) from None
    if not interface:
        raise ConfigError(f"{source}: no [Interface] section", "is it a wg-quick(8) configuration?")
    hooks = sorted((line, name) for name in _HOOKS for line in interface.lines.get(name, ()))
    if hooks:
        listed = ", ".join(f"{name} (line {line})" for line, name in hooks)
        warn(f"{source}: never executed: {listed}", "a configuration is data; use ExecStartPost= of the unit")
    return interface, peers


def _add(section: Section | None, line: int, content: str) -> None:
    """Put one line, Key = value, into its section. ValueError(text[, hint])."""
    written, equals, value = content.partition("=")
    written = written.rstrip(_BLANKS)
    title, name = _SECTION_OF.get(_without_blanks(written).lower(), ("", ""))
    if not equals:
        raise ValueError('not "Key = value" (the line is not shown: it may be a key)')
    if not name or (name in _QUICK + _HOOKS and name.lower() != written.lower()):
        from difflib import get_close_matches

        if written in _AMNEZIA:
            raise ValueError(f"{written} is a key of AmneziaWG", "ask the provider for a file for plain WireGuard")
        close = get_close_matches(written.lower()[:24], _SECTION_OF, 1)
        unknown = shown(written) if len(written) <= 24 else HIDDEN  # a longer one may be a part of a WireGuard key
        raise ValueError(f"unknown key {unknown}", f"did you mean {_SECTION_OF[close[0]][1]}?" if close else "")
    if section is None:
        raise ValueError(f"{name} appears before any section", f"write {title} above it")
    if title != section.title:
        raise ValueError(f"{name} belongs in {title}")
    lines = section.lines.setdefault(name, [])
    if lines and name not in _LISTS + _HOOKS:
        raise ValueError(f"{name} again; it appears in line {lines[0]} too")
    values = _values(name, value.strip(_BLANKS))
    lines += [line] * len(values)
    # The colons keep wgconfig from making numbers of digits (007 would become 7), the last comma makes it a list
    section.text.append(f"{name} = {''.join(f':{value},' for value in values)}\n")


def _values(name: str, value: str) -> list[str]:
    """The values of one line. To wg(8) blanks are nothing; to wg-quick(8) they part items, and a value may be empty."""
    if name == "SaveConfig" and value.lower() not in ("true", "false"):
        raise ValueError("SaveConfig is neither true nor false")
    if name in _HOOKS:
        return [""]  # never read
    if name not in _QUICK and not name.endswith("File"):
        value = _without_blanks(value)
    if not value.isascii() or not value.replace("\t", " ").isprintable():
        raise ValueError(f"{name}: a character that is not printable ASCII")
    if name in ("Address", "DNS"):
        return value.replace(",", " ").split()
    if not value and name not in _QUICK:
        raise ValueError(f"{name} is empty")
    if "," in value and name not in _LISTS:
        raise ValueError(f"{name} takes one value, without a comma")
    return value.split(",") if value else []


def _without_blanks(text: str) -> str:
    return text.replace(" ", "") if text.isprintable() else text.translate(_DROP_BLANKS)


def key(value: str) -> bytes:
    """A key of 32 bytes in canonical base64, as `wg genkey` prints it. The value is in no message."""
    try:
        raw = a2b_base64(value.encode("ascii"))
    except ValueError:  # binascii.Error and UnicodeEncodeError are
        raw = b""
    if len(raw) == 32 and b2a_base64(raw, newline=False).decode() == value:
        return raw
    raise ValueError(f"not a key: expected 44 characters of base64 that end in =, this has {len(value)} (not shown)")


def fwmark(value: str) -> int:
    """A mark for outgoing packets, decimal or with 0x in front of it, 0 for none."""
    digits = value.removeprefix("0x")
    if value != digits and digits and _HEX_DIGITS.issuperset(digits) and int(digits, 16) <= 0xFFFFFFFF:
        return int(digits, 16)
    return number(value.lower(), 0, 0xFFFFFFFF, off=0)
