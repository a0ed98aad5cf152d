"""For wg-up and wg-down on a kernel without WireGuard: the link is of a kind that it does have, all else is as ever.

cycle.py installs this beside the package, and lets the two scripts import it before their entry point. The kind of link
comes from the environment, because the command line has to stay the one that is measured.
"""

from __future__ import annotations

import os
import sys

from wgns_helpers import teardown

TYPE_CHECKING = False  # typing itself would cost what is measured here
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from wgns_helpers.netlink import Request, Socket
    from wgns_helpers.peers import Update

teardown.KIND = os.environ["STANDIN_KIND"]


def _patch_wireguard() -> None:
    """Ask for the netlink family in vain, as `wg set` does; encode the messages and throw them away."""
    from wgns_helpers import wireguard
    from wgns_helpers.errors import MissingError

    look_up, encode = wireguard.family, wireguard.configure

    def family(socket: Socket) -> int:
        try:
            return look_up(socket)
        except MissingError:
            return 0

    def configure(
        family_number: int, index: int, settings: tuple[bytes | None, int | None, int | None], updates: Iterable[Update]
    ) -> Iterator[Request]:
        for request in encode(family_number, index, settings, updates):
            request.pack(1)
        return iter(())

    wireguard.family, wireguard.configure = family, configure


if sys.argv[0].endswith("wg-up"):
    _patch_wireguard()
