"""Configuration text -> sections, by wgconfig behind a strict layer.

wgconfig is lenient where wg(8) is strict (it takes `#! AllowedIPs = …`, a comment, for a setting, and forgets the first
of two sections with one key), so it only gets to see text that `_normalise` has checked and written anew.
"""

from __future__ import annotations

from _io import StringIO

from .errors import ConfigError, MissingError, shown, warn
from .values import key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")

_INTERFACE = ("PrivateKey", "PrivateKeyFile", "ListenPort", "FwMark", "Address", "MTU", "Table", "DNS")
_HOOKS = ("PreUp", "PostUp", "PreDown", "PostDown", "SaveConfig")
_PEER = ("PublicKey", "PresharedKey", "PresharedKeyFile", "AllowedIPs", "Endpoint", "PersistentKeepalive")
_SECTION_OF = {key.lower(): ("[Interface]", key) for key in _INTERFACE + _HOOKS}
_SECTION_OF.update({key.lower(): ("[Peer]", key) for key in _PEER})
_LISTS = ("Address", "DNS", "AllowedIPs")

_LONGEST = 24  # characters of a mistyped key that are shown; a longer one may be a WireGuard key
_BLANKS = " \t\v\f\r"  # isspace(3) in the C locale, which is what wg(8) drops
_BLANKS_TO_COMMAS = str.maketrans(dict.fromkeys(_BLANKS, ","))
_DROP_BLANKS = str.maketrans("", "", _BLANKS)


class Section:
    """What stands in one section: the values of each key, and the line of each value."""

    def __init__(self, source: str, line: int) -> None:
        self.source, self.line = source, line
        self.items: dict[str, list[str]] = {}
        self.lines: dict[str, list[int]] = {}

    def error(self, key: str, item: int, text: str, hint: str = "") -> ConfigError:
        """The exception for one of the values of `key`."""
        return ConfigError(f"{self.source}:{self.lines[key][item]}: {key}: {text}", hint)

    def each(self, key: str, convert: Callable[[str], T]) -> tuple[T, ...]:
        """The values of `key`, converted; `ConfigError` with the line of the one that cannot be."""
        found = []
        for position, value in enumerate(self.items.get(key, [])):
            try:
                found.append(convert(value))
            except ValueError as error:
                raise self.error(key, position, *error.args) from None
        return tuple(found)

    def one(self, key: str, convert: Callable[[str], T], default: T) -> T:
        """The only value of `key`, converted, or the default."""
        return next(iter(self.each(key, convert)), default)


def decode(data: bytes, source: str) -> str:
    """The text of a file; `ConfigError` with the line of what is not UTF-8."""
    if data.startswith(b"\xef\xbb\xbf"):
        raise ConfigError(f"{source}:1: a byte order mark", "save the file as UTF-8 without BOM")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{source}:{line}: not UTF-8: byte 0x{data[error.start]:02x}") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ConfigError(f"{source}:{line}: a NUL byte", "this is no text file, or it is UTF-16")
    return text


def sections(text: str, source: str) -> tuple[Section, list[Section]]:
    """The sections as wgconfig gives them back: [Interface] and each [Peer]."""
    try:
        from wgconfig import WGConfig
    except ImportError:
        raise MissingError("the Python package wgconfig is missing", "pip install wgconfig") from None
    interface, peers = _normalise(text, source)
    reader = WGConfig()
    written = _written("Interface", interface) + "".join(_written("Peer", peer) for peer in peers)
    reader.read_from_fileobj(StringIO(written))
    read = [reader.get_interface(), *reader.get_peers(keys_only=False).values()]
    for section, found in zip((interface, *peers), read, strict=True):
        section.items = {
            name: [item[1:] for item in (values if isinstance(values, list) else [values])]
            for name, values in found.items()
        }
    return interface, peers


def _written(title: str, section: Section) -> str:
    # A colon before each value keeps wgconfig from making numbers of digits (007 would become 7)
    lines = (f"{name} = :{', :'.join(values)}\n" for name, values in section.items.items() if values)
    return f"[{title}]\n{''.join(lines)}"


def _normalise(text: str, source: str) -> tuple[Section, list[Section]]:
    """The structure, at least as strict as wg(8): known keys in their sections, none twice, one [Peer] for each key."""
    interface = Section(source, 0)
    peers: list[Section] = []
    section: Section | None = None
    hooks: list[str] = []
    for line, raw in enumerate(text.split("\n"), 1):
        content = raw.partition("#")[0].strip(_BLANKS)
        if content.startswith("["):
            name = content.translate(_DROP_BLANKS).lower()
            if name not in ("[interface]", "[peer]"):
                raise ConfigError(f"{source}:{line}: unknown section {shown(content)}; legal: [Interface], [Peer]")
            section = interface if name == "[interface]" else Section(source, line)
            section.line = section.line or line
            if section is not interface:
                peers.append(section)
        elif content:
            try:
                hooks += _add(section, "[Interface]" if section is interface else "[Peer]", line, content)
            except ValueError as error:
                raise ConfigError(f"{source}:{line}: {error.args[0]}", *error.args[1:]) from None
    if not interface.line:
        raise ConfigError(f"{source}: no [Interface] section", "is it a wg-quick(8) configuration?")
    _check_peers(peers)
    if hooks:
        warn(f"{source}: never executed: {', '.join(hooks)}", "a configuration is data; use ExecStartPost= of the unit")
    return interface, peers


def _check_peers(peers: list[Section]) -> None:
    seen: dict[bytes, int] = {}
    for peer in peers:
        public = peer.one("PublicKey", key, b"")
        if not public:
            raise ConfigError(f"{peer.source}:{peer.line}: [Peer] without PublicKey")
        if public in seen:
            raise peer.error("PublicKey", 0, f"the [Peer] of line {seen[public]} has this key too")
        seen[public] = peer.line


def _add(section: Section | None, title: str, line: int, content: str) -> list[str]:
    """Put one line, Key = value, into its section; returns what a hook is to be named as. ValueError(text[, hint])."""
    written, equals, value = content.partition("=")
    written = written.translate(_DROP_BLANKS)
    belongs, name = _SECTION_OF.get(written.lower(), ("", ""))
    if not equals:
        raise ValueError('not "Key = value" (the line is not shown: it may be a key)')
    if not name:
        known = shown(written) if len(written) <= _LONGEST else "(not shown: too long for one)"
        raise ValueError(f"unknown key {known}", _similar(written))
    if section is None:
        raise ValueError(f"{name} stands before any section", f"write {belongs} above it")
    if belongs != title:
        raise ValueError(f"{name} belongs in {belongs}")
    if name in _HOOKS:
        return [f"{name} (line {line})"]
    if name in section.items and name not in _LISTS:
        raise ValueError(f"{name} again; it stands in line {section.lines[name][0]} too")
    values = _values(name, value)
    section.items.setdefault(name, []).extend(values)
    section.lines.setdefault(name, []).extend([line] * len(values))
    return []


def _values(name: str, value: str) -> list[str]:
    """The values of one line. Blanks part those of Address and DNS, as in wg-quick(8); elsewhere wg(8) drops them."""
    if not value.isascii() or not value.translate(_DROP_BLANKS).isprintable():
        raise ValueError(f"{name}: a character that is not printable ASCII")
    if name in ("Address", "DNS"):  # may be empty too
        return [item for item in value.translate(_BLANKS_TO_COMMAS).split(",") if item]
    value = value.strip(_BLANKS) if name.endswith("File") else value.translate(_DROP_BLANKS)
    if not value:
        raise ValueError(f"{name} is empty")
    if "," in value and name not in _LISTS:
        raise ValueError(f"{name} takes one value, without a comma")
    return value.split(",")


def _similar(written: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(written.lower()[:_LONGEST], _SECTION_OF, 1)
    return f"did you mean {_SECTION_OF[close[0]][1]}?" if close else ""
