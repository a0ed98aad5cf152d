"""The four steps as one would write them with pyroute2, for cycle.py: with_pyroute2.py STEP KIND KEYFILE PEER."""

import os
import sys
from pathlib import Path
from socket import AF_INET, AF_INET6

from pyroute2 import IPRoute, NetNS, WireGuard, netns
from pyroute2.netlink.exceptions import NetlinkError


def wg_up(kind: str, key_file: str, peer: str) -> None:
    """Make the link in the host, where its UDP socket has to be, and move it."""
    with IPRoute() as host:
        host.link("add", ifname="wg", kind=kind)
        index = host.link_lookup(ifname="wg")[0]
        try:
            with WireGuard() as wireguard:
                settings = {
                    "public_key": peer,
                    "endpoint_addr": "192.0.2.1",
                    "endpoint_port": 51820,
                    "allowed_ips": ["0.0.0.0/0", "::/0"],
                }
                wireguard.set("wg", private_key=Path(key_file).read_text(encoding="ascii").strip(), peer=settings)
        except NetlinkError:
            if kind == "wireguard":  # a stand-in has no keys, and its kernel no such netlink family
                raise
        host.link("set", index=index, net_ns_fd="wg")
    with NetNS("wg", flags=0) as inside:
        index = inside.link_lookup(ifname="wg")[0]
        inside.addr("add", index=index, address="10.66.0.2", prefixlen=32)
        inside.addr("add", index=index, address="fd66::2", prefixlen=128)
        inside.link("set", index=index, state="up")
        inside.route("add", dst="default", oif=index, family=AF_INET)
        inside.route("add", dst="default", oif=index, family=AF_INET6)


def wg_down() -> None:
    """Delete the link."""
    with NetNS("wg", flags=0) as inside:
        inside.link("del", index=inside.link_lookup(ifname="wg")[0])


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["netns-up", *_]:
            netns.attach("wg", os.getpid())
        case ["wg-up", kind, key_file, peer]:
            wg_up(kind, key_file, peer)
        case ["wg-down", *_]:
            wg_down()
        case ["netns-down", *_]:
            netns.remove("wg")
