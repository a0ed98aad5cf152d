"""For wg-up and wg-down on a kernel without WireGuard: the link is of a kind that it does have, all else is as ever.

cycle.py installs this beside the package, and lets the two scripts import it before their entry point. The kind of link
comes from the environment, because the command line has to stay the one that is measured.
"""

from __future__ import annotations

import os
import sys

from wgns_helpers import wg_down

TYPE_CHECKING = False  # typing itself would cost what is measured here
if TYPE_CHECKING:
    from wgns_helpers.netlink import Request, Socket
    from wgns_helpers.tunnel import Session, Tunnel

wg_down.KIND = os.environ["STANDIN_KIND"]


def _patch_wireguard() -> None:
    """Ask for the netlink family in vain, as `wg set` does; encode the messages and throw them away."""
    from wgns_helpers import netlink, wireguard
    from wgns_helpers.errors import MissingError
    from wgns_helpers.tunnel import Tunnel

    look_up, send = wireguard.family, wireguard.Link.run

    def family(socket: Socket) -> int:
        try:
            return look_up(socket)
        except MissingError:
            return 0

    def run(link: wireguard.Link, batch: list[Request]) -> list[bytes]:
        if batch[0].protocol == netlink.NETLINK_GENERIC and not batch[0].kind:  # for the family that is missing
            batch[0].pack(1)
            return []
        return send(link, batch)

    def read(_: wireguard.Link) -> tuple[Tunnel, dict[bytes, Session]]:
        return Tunnel(b"", routes=()), {}

    wireguard.family = family
    wireguard.Link.run = run  # type: ignore[assignment, method-assign]
    wireguard.Link.read = read  # type: ignore[assignment, method-assign]


if sys.argv[0].endswith("wg-up"):
    _patch_wireguard()
