"""wg-quick(8) configuration files -> Tunnel, or one line that says what is wrong and where."""

from __future__ import annotations

import os
import stat

from .errors import HIDDEN, ConfigError, shown, system_error, warn
from .reader import Section, decode, sections
from .tunnel import Peer, Tunnel
from .values import dns, endpoint, fwmark, is_server, keepalive, key, network, number, table

_SIZE_LIMIT = 32 << 20  # bytes; 100,000 peers take 15 MB
_KEY_FILE_LIMIT = 4096  # bytes


def load(path: str, private_key_file: str = "") -> Tunnel:
    """The tunnel that the file `path` describes ("-": standard input).

    Its private key comes from `private_key_file`, else from the file, else from the credential "private-key". Raises
    `ConfigError`, and `PermissionRefusedError` for what must not be read.
    """
    source = "standard input" if path == "-" else path
    data, readable = (_read_stdin(), False) if path == "-" else _read(path, _SIZE_LIMIT)
    interface, peers = sections(decode(data, source), source)
    if readable and any(
        key in section.items for section in (interface, *peers) for key in ("PrivateKey", "PresharedKey")
    ):
        warn(f"{source} holds a key and can be read by every user", f"chmod 600 {source}")
    directory = os.path.dirname(path)
    if not peers:
        warn(f"{source}: no [Peer]: nothing can go through this tunnel")
    names = interface.each("DNS", dns)
    tunnel = Tunnel(
        private_key=_private_key(interface, private_key_file, directory),
        listen_port=interface.one("ListenPort", lambda value: number(value, 0, 65535), 0),
        fwmark=interface.one("FwMark", fwmark, 0),
        addresses=interface.each("Address", lambda value: network(value, zeros=False)),
        mtu=interface.one("MTU", lambda value: number(value, 68, 65535, zeros=False), 0),
        table=interface.one("Table", table, 254),
        dns=tuple(name for name in names if is_server(name)),
        search=tuple(name for name in names if not is_server(name)),
        peers=tuple(_peer(section, directory) for section in peers),
    )
    _check(tunnel, interface)
    return tunnel


def _check(tunnel: Tunnel, interface: Section) -> None:
    """What concerns more than one value."""
    if not tunnel.addresses:
        warn(f"{interface.source}: no Address: nothing can be sent from this interface")
    if tunnel.search and not tunnel.dns:
        warn(f"{interface.source}: DNS has search domains only: without a name server they are not used")
    seen = set()
    for position, address in enumerate(tunnel.addresses):
        if address in seen:
            raise interface.error("Address", position, f"{address} stands there twice")
        if not any(address.address):
            raise interface.error("Address", position, f"{address} is nobody's address")
        seen.add(address)
    if 0 < tunnel.mtu < 1280 and tunnel.has_ipv6():
        raise interface.error(
            "MTU", 0, f'"{tunnel.mtu}" is too small for IPv6 addresses and routes; legal: 1280 to 65535'
        )


def _peer(section: Section, directory: str) -> Peer:
    if "PresharedKey" in section.items and "PresharedKeyFile" in section.items:
        raise section.error("PresharedKeyFile", 0, "there is a PresharedKey too; keep one of the two")
    preshared = section.one("PresharedKey", key, b"")
    for path in section.each("PresharedKeyFile", lambda name: _find(name, directory)):
        preshared = _key_file(path)
    allowed_ips = section.each("AllowedIPs", network)
    for position, given in enumerate(allowed_ips):
        if given.network() is not given:
            warn(str(section.error("AllowedIPs", position, f"{given} is a host in {given.network()}, which is used")))
    return Peer(
        public_key=section.one("PublicKey", key, b""),
        preshared_key=preshared,
        endpoint=section.one("Endpoint", endpoint, None),
        keepalive=section.one("PersistentKeepalive", keepalive, 0),
        allowed_ips=allowed_ips,
    )


def _private_key(interface: Section, option: str, directory: str) -> bytes:
    if "PrivateKey" in interface.items and "PrivateKeyFile" in interface.items:
        raise interface.error("PrivateKeyFile", 0, "there is a PrivateKey too; keep one of the two")
    private = interface.one("PrivateKey", key, b"")
    named = interface.each("PrivateKeyFile", lambda name: _find(name, directory))
    credential = "" if private else _credential("private-key")
    path = option or (named[0] if named else credential)
    private = _key_file(path) if path else private
    if not private:
        raise ConfigError(
            f"{interface.source}: no private key",
            "PrivateKey or PrivateKeyFile in [Interface], --private-key FILE, or the credential private-key",
        )
    if not any(private):
        raise ConfigError(f"{interface.source}: the private key is all zeros, which means none", "wg genkey makes one")
    return private


def _read_stdin() -> bytes:
    with open(0, "rb", closefd=False) as file:
        data = file.read(_SIZE_LIMIT + 1)
    if len(data) > _SIZE_LIMIT:
        raise ConfigError(f"standard input: over {_SIZE_LIMIT} bytes: not a configuration")
    return data


def _read(path: str, limit: int) -> tuple[bytes, bool]:
    """A regular file's content, and whether every user can read it: as wg-quick(8), by the file and its folder."""
    try:
        # A FIFO without a writer would hold up the open, a terminal would become the controlling one
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except PermissionError as error:
        raise system_error(path, error) from None
    except OSError as error:
        folder, name = os.path.split(path)
        shown_path = f'"{path}"' if os.path.isdir(folder or ".") and shown(name) != HIDDEN else shown(path)
        hint = "--config FILE names a configuration elsewhere" if limit == _SIZE_LIMIT else ""
        raise ConfigError(f"{shown_path}: {os.strerror(error.errno or 0).lower()}", hint) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            hint = "--config - reads a configuration from a pipe" if limit == _SIZE_LIMIT else ""
            raise ConfigError(f"{path}: {kind}", hint)
        if status.st_size > limit:
            raise ConfigError(f"{path}: {status.st_size} bytes, at most {limit} are read: not what it should be")
        reachable = os.stat(os.path.dirname(path) or ".").st_mode & stat.S_IXOTH
        return os.read(descriptor, limit), bool(status.st_mode & stat.S_IROTH and reachable)
    except OSError as error:
        raise system_error(path, error) from None
    finally:
        os.close(descriptor)


def _find(name: str, directory: str) -> str:
    """Where a key file is: relative names are credentials, or stand beside the configuration."""
    path = _credential(name) or os.path.join(directory, name)
    if shown(name) == HIDDEN and not os.path.exists(path):
        raise ValueError("the name of a file is wanted, this looks like a key (not shown)")
    return path


def _credential(name: str) -> str:
    """The path of a credential of the unit (systemd.exec(5)), empty where there is none."""
    path = os.path.join(os.environ.get("CREDENTIALS_DIRECTORY", name), name)
    return path if "CREDENTIALS_DIRECTORY" in os.environ and os.path.exists(path) else ""


def _key_file(path: str) -> bytes:
    data, readable = _read(path, _KEY_FILE_LIMIT)
    if readable:
        warn(f"{path} can be read by every user", f"chmod 600 {path}")
    try:
        return key(data.decode("ascii", "replace").strip())
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
