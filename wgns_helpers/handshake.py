"""Waiting until a peer has shaken hands: only then is the tunnel of any use."""

from __future__ import annotations

import time

from . import converge, signals, state, wireguard
from .errors import TryAgainError, say
from .peers import Update

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .netlink import Socket
    from .tunnel import Endpoint, Peer, Tunnel

_RETRY = 5.3  # seconds after which the kernel tries again (REKEY_TIMEOUT and its jitter), by the endpoint of then
_LOOK = 0.2  # seconds


def wait(generic: Socket, names: tuple[str, int], tunnel: Tunnel, seconds: float) -> None:
    """Wait for a handshake with a peer that has a default route; without such a peer, with any that has an endpoint.

    A keepalive makes the kernel begin: nothing else is sent. When a peer does not answer, the next address of its name
    takes its turn. Raises `TryAgainError` after `seconds`, `InterruptError` on a signal. `names` are the link's name
    and index.
    """
    link, index = names
    reachable = [peer for peer in tunnel.peers if peer.endpoint]
    chosen = [peer for peer in reachable if any(network.prefix <= 1 for network in peer.allowed_ips)] or reachable
    keys = {peer.public_key for peer in chosen}
    called = converge.names(tunnel)
    family = wireguard.family(generic)

    def change(peers: list[Peer], endpoint: Endpoint | None = None, keepalive: int | None = None) -> None:
        update = Update("", b"", known=True, endpoint=endpoint, keepalive=keepalive)
        updates = [update._replace(name=called[peer.public_key], public_key=peer.public_key) for peer in peers]
        for request in wireguard.configure(family, index, (None, None, None), updates):
            generic.run([request])

    if keys & state.read(link, index).alive:  # then nothing is to be changed, not even for a moment
        return
    silent = [peer for peer in chosen if not peer.keepalive]
    began = tried = time.monotonic()
    turn = 0
    change(silent, keepalive=1)
    try:
        while not keys & state.read(link, index).alive:
            signals.check()
            now = time.monotonic()
            if now - began > seconds:
                asked = ", ".join(called[peer.public_key] for peer in chosen) or "no peer has an endpoint"
                raise TryAgainError(
                    f'"{link}": no handshake within {seconds:.0f} s ({asked})',
                    "are the keys right, and known to the provider? does UDP to the endpoint get through?",
                )
            if now - tried > _RETRY:
                turn, tried = turn + 1, now
                for peer in chosen:
                    places = (peer.endpoint, *peer.endpoint.others) if peer.endpoint else ()
                    if len(places) > 1:
                        change([peer], endpoint=places[turn % len(places)])
            time.sleep(_LOOK)
    finally:
        change(silent, keepalive=0)
    say(f'"{link}": handshake after {time.monotonic() - began:.1f} s')
