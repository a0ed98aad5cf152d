"""What is to change of the peers of a WireGuard link."""

from __future__ import annotations

from binascii import b2a_base64

from .tunnel import Endpoint, NamedTuple, Network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .state import State
    from .tunnel import Peer


class Update(NamedTuple):
    """What is to change of one peer; a field that is None stays as it is."""

    name: str  # as the user knows it, not its key
    public_key: bytes
    known: bool = False  # an update of a peer that is there
    remove: bool = False
    replace: bool = False  # allowed IPs that are not listed are taken away
    preshared_key: bytes | None = None  # empty: none
    endpoint: Endpoint | None = None
    keepalive: int | None = None  # seconds, 0: off
    allowed_ips: tuple[Network, ...] = ()

    def __str__(self) -> str:
        if self.remove:
            return f"remove {self.name}"
        said = [f"endpoint {self.endpoint}"] if self.endpoint else []
        if self.allowed_ips or self.replace:
            said.append(f"allowed IPs {', '.join(map(str, self.allowed_ips)) or 'none'}")
        said += [f"persistent keepalive {self.keepalive or 'off'}"] if self.keepalive is not None else []
        said += [f"preshared key {'(not shown)' if self.preshared_key else 'none'}"] * (self.preshared_key is not None)
        return f"{self.name}: {', '.join(said)}"


def updates(now: State, wanted: State, names: dict[bytes, str]) -> Iterator[Update]:
    """What makes the peers of `now` those of `wanted`; what is new comes first, so that allowed IPs move at once."""
    moved = {ip for key, peer in wanted.peers.items() if now.peers for ip in _gained(now.peers.get(key), peer)}
    for key, peer in wanted.peers.items():
        former = now.peers.get(key)
        if former and former.endpoint and not peer.endpoint:  # cannot be taken away; there was no session without one
            yield Update(_name(key, names), key, remove=True)
            former = None
        if former is None:
            yield Update(
                _name(key, names),
                key,
                replace=True,
                preshared_key=peer.preshared_key or None,
                endpoint=peer.endpoint,
                keepalive=peer.keepalive or None,
                allowed_ips=peer.allowed_ips,
            )
        elif former != peer:
            lost = set(former.allowed_ips) - set(peer.allowed_ips) - moved
            nothing = Update(_name(key, names), key, known=True)
            update = nothing._replace(
                replace=bool(lost),
                preshared_key=peer.preshared_key if peer.preshared_key != former.preshared_key else None,
                endpoint=peer.endpoint if peer.endpoint != former.endpoint else None,
                keepalive=peer.keepalive if peer.keepalive != former.keepalive else None,
                allowed_ips=peer.allowed_ips if lost else tuple(_gained(former, peer)),
            )
            if update != nothing:  # what it loses to another peer goes there by itself
                yield update


def removals(now: State, wanted: State, names: dict[bytes, str]) -> list[Update]:
    """The peers that go; after everything else has been done, since their sessions cannot be restored."""
    return [Update(_name(key, names), key, remove=True) for key in now.peers if key not in wanted.peers]


def _gained(former: Peer | None, peer: Peer) -> set[Network]:
    return set(peer.allowed_ips) - set(former.allowed_ips if former else ())


def _name(key: bytes, names: dict[bytes, str]) -> str:
    """The peer's place in the configuration; for one that is not in it the beginning of its public key."""
    return names.get(key) or f'peer "{b2a_base64(key).decode()[:8]}…"'
