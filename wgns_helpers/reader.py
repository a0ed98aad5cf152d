"""Configuration text -> sections, by wgconfig behind a strict layer.

wgconfig is lenient where wg(8) is strict (it takes `#! AllowedIPs = …`, a comment, for a setting, and forgets the first
of two sections with one key), so it only gets to see text that `_normalise` has checked and written anew.
"""

from __future__ import annotations

from _io import StringIO

from .errors import ConfigError, MissingError, shown, warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")

_INTERFACE = ("PrivateKey", "PrivateKeyFile", "ListenPort", "FwMark")
_QUICK = ("Address", "MTU", "Table", "DNS")  # wg-quick(8) reads them, and drops blanks only at their ends
_HOOKS = ("PreUp", "PostUp", "PreDown", "PostDown", "SaveConfig")
_WHOLE = frozenset(_QUICK + _HOOKS)  # keys that have no blanks inside
_PEER = ("PublicKey", "PresharedKey", "PresharedKeyFile", "AllowedIPs", "Endpoint", "PersistentKeepalive")
_SECTION_OF = {key.lower(): ("[Interface]", key) for key in _INTERFACE + _QUICK + _HOOKS}
_SECTION_OF.update({key.lower(): ("[Peer]", key) for key in _PEER})
_LISTS = ("Address", "DNS", "AllowedIPs")

_LONGEST = 24  # characters of a mistyped key that are shown; a longer one may be a WireGuard key
_BLANKS = " \t\v\f\r"  # isspace(3) in the C locale, which is what wg(8) drops
_DROP_BLANKS = str.maketrans("", "", _BLANKS)


class Section:
    """What stands in one section: the values of each key, and the line of each value."""

    def __init__(self, source: str, title: str, line: int = 0) -> None:
        self.source, self.title, self.line = source, title, line
        self.items: dict[str, list[str]] = {}
        self.lines: dict[str, list[int]] = {}
        self.text = [f"{title}\nLine = {line}\n"]  # for wgconfig

    def error(self, key: str, item: int, text: str, hint: str = "") -> ConfigError:
        """The exception for one of the values of `key`."""
        return ConfigError(f"{self.source}:{self.lines[key][item]}: {key}: {text}", hint)

    def each(self, key: str, convert: Callable[[str], T]) -> tuple[T, ...]:
        """The values of `key`, converted; `ConfigError` with the line of the one that cannot be."""
        found: list[T] = []
        try:
            for value in self.items.get(key, ()):
                found.append(convert(value))  # noqa: PERF401  (their number tells which one failed)
        except ValueError as error:
            raise self.error(key, len(found), *error.args) from None
        return tuple(found)

    def one(self, key: str, convert: Callable[[str], T], default: T) -> T:
        """The only value of `key`, converted, or the default."""
        return self.each(key, convert)[0] if key in self.items else default


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
    reader = WGConfig(keyattr="Line")  # by PublicKey it would forget the first of two peers
    reader.read_from_fileobj(StringIO("".join(line for section in (interface, *peers) for line in section.text)))
    read = [reader.get_interface(), *reader.get_peers(keys_only=False).values()]
    for section, found in zip((interface, *peers), read, strict=True):
        del found["Line"], section.text
        section.items = {
            name: [item[1:] for item in values] if isinstance(values, list) else [values[1:]]
            for name, values in found.items()
        }
    _check_peers(peers)
    return interface, peers


def _normalise(text: str, source: str) -> tuple[Section, list[Section]]:
    """The structure, at least as strict as wg(8): known keys in their sections, none twice."""
    interface = Section(source, "[Interface]")
    peers: list[Section] = []
    section: Section | None = None
    for line, raw in enumerate(text.split("\n"), 1):
        content = raw.partition("#")[0].strip(_BLANKS)
        if content.startswith("["):
            title = _without_blanks(content).lower()
            if title not in ("[interface]", "[peer]") or title == "[interface]" != content.lower():
                raise ConfigError(f"{source}:{line}: unknown section {shown(content)}; legal: [Interface], [Peer]")
            if title == "[peer]":
                section = Section(source, "[Peer]", line)
                peers.append(section)
            else:
                section = interface
                section.line = section.line or line
        elif content:
            try:
                _add(section, line, content)
            except ValueError as error:
                raise ConfigError(f"{source}:{line}: {error.args[0]}", *error.args[1:]) from None
    if not interface.line:
        raise ConfigError(f"{source}: no [Interface] section", "is it a wg-quick(8) configuration?")
    hooks = sorted((line, name) for name in _HOOKS for line in interface.lines.get(name, ()))
    if hooks:
        listed = ", ".join(f"{name} (line {line})" for line, name in hooks)
        warn(f"{source}: never executed: {listed}", "a configuration is data; use ExecStartPost= of the unit")
    return interface, peers


def _check_peers(peers: list[Section]) -> None:
    seen: dict[str, int] = {}
    for peer in peers:
        public = "".join(peer.items.get("PublicKey", ()))  # each key can be written in one way only: values.key
        if not public:
            raise ConfigError(f"{peer.source}:{peer.line}: [Peer] without PublicKey")
        if public in seen:
            raise peer.error("PublicKey", 0, f"the [Peer] of line {seen[public]} has this key too")
        seen[public] = peer.line


def _add(section: Section | None, line: int, content: str) -> None:
    """Put one line, Key = value, into its section. ValueError(text[, hint])."""
    written, equals, value = content.partition("=")
    written = written.rstrip(_BLANKS)
    title, name = _SECTION_OF.get(_without_blanks(written).lower(), ("", ""))
    if not equals:
        raise ValueError('not "Key = value" (the line is not shown: it may be a key)')
    if not name or (name in _WHOLE and name.lower() != written.lower()):
        known = shown(written) if len(written) <= _LONGEST else "(not shown: too long for one)"
        raise ValueError(f"unknown key {known}", _similar(written))
    if section is None:
        raise ValueError(f"{name} stands before any section", f"write {title} above it")
    if title != section.title:
        raise ValueError(f"{name} belongs in {title}")
    if name == "SaveConfig" and value.strip(_BLANKS).lower() not in ("true", "false"):
        raise ValueError("SaveConfig is neither true nor false")
    lines = section.lines.setdefault(name, [])
    if name in _HOOKS:
        lines.append(line)
        return
    if lines and name not in _LISTS:
        raise ValueError(f"{name} again; it stands in line {lines[0]} too")
    values = _values(name, value.strip(_BLANKS))
    lines += [line] * len(values)
    if values:  # the colon keeps wgconfig from making numbers of digits (007 would become 7)
        section.text.append(f"{name} = :{', :'.join(values)}\n")


def _values(name: str, value: str) -> list[str]:
    """The values of one line. To wg(8) blanks are nothing; to wg-quick(8) they part items, and a value may be empty."""
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


def _similar(written: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(written.lower()[:_LONGEST], _SECTION_OF, 1)
    return f"did you mean {_SECTION_OF[close[0]][1]}?" if close else ""
