"""The networks outside: the host's uplink leads to "internet", a router, and behind that is the provider, "far"."""

from __future__ import annotations

import subprocess

from tests.support import shell
from tests.system.capture import ENDPOINT
from tests.system.guest import TUNNELS, private_key, public_key
from tests.system.leak import HOST, RESOLVER, UPLINK

ROUTER = ("198.51.100.1", "2001:db8:1::1")
LINKS = f"""
    netns add internet
    netns add far
    link add {UPLINK} type veth peer name home netns internet
    link add far0 netns far type veth peer name far netns internet
    address add {HOST[0]}/24 dev {UPLINK}
    address add {HOST[1]}/64 dev {UPLINK} nodad
    link set {UPLINK} up
"""
GATEWAYS = f"""
    route add default via {ROUTER[0]}
    route add default via {ROUTER[1]}
"""
# Of both networks, each address in the internet answers: a probe has not to wait for what is lost in silence.
ANYBODY = """
    link set lo up
    route add local 192.0.2.0/24 dev lo
    route add local 2001:db8:2::/48 dev lo
"""
INTERNET = f"""
    link set home up
    link set far up
    address add {RESOLVER[1]}/128 dev lo
    address add {ROUTER[0]}/24 dev home
    address add {ROUTER[1]}/64 dev home nodad
    address add 203.0.113.254/24 dev far
"""
FAR = f"""
    link set far0 up
    address add {ENDPOINT[0]}/24 dev far0
    route add default via 203.0.113.254
    address add 10.64.0.1/16 dev wg0
    address add fd00:64::1/64 dev wg0
    link set wg0 up
"""


def batch(lines: str, *options: str) -> None:
    """Have one ip(8) do all of it."""
    subprocess.run(["ip", *options, "-batch", "-"], input=lines, text=True, check=True)


def main() -> None:
    """Make them, with a peer for each tunnel."""
    peers = " ".join(
        f"peer {public_key(number)} allowed-ips 10.64.1.{number}/32,fd00:64::1:{number:x}/128"
        for number in range(1, TUNNELS + 2)  # and one that is late
    )
    batch(LINKS)
    shell(f"""
    ip netns exec internet sysctl -q net.ipv4.ip_forward=1
    ip -n far link add wg0 type wireguard
    echo {private_key(0)} | ip netns exec far wg set wg0 listen-port {ENDPOINT[1]} private-key /dev/stdin {peers}
    """)
    batch(ANYBODY + INTERNET, "-n", "internet")
    batch(ANYBODY + FAR, "-n", "far")
    batch(GATEWAYS)


if __name__ == "__main__":
    main()
