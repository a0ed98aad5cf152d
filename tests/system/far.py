"""The provider: the network namespace "far", 198.51.100.1 by the host's uplink and 10.64.0.1 by the tunnels."""

from __future__ import annotations

from tests.support import shell
from tests.system.guest import TUNNELS, private_key, public_key


def main() -> None:
    """Make it, with a peer for each tunnel."""
    peers = " ".join(f"peer {public_key(number)} allowed-ips 10.64.1.{number}/32" for number in range(1, TUNNELS + 1))
    shell(f"""
    ip netns add far
    ip link add uplink type veth peer name far0 netns far
    ip address add 198.51.100.2/24 dev uplink
    ip link set uplink up
    ip -n far address add 198.51.100.1/24 dev far0
    ip -n far link set lo up
    ip -n far link set far0 up
    ip -n far link add wg0 type wireguard
    echo {private_key(0)} | ip netns exec far wg set wg0 listen-port 51820 private-key /dev/stdin {peers}
    ip -n far address add 10.64.0.1/16 dev wg0
    ip -n far link set wg0 up
    """)


if __name__ == "__main__":
    main()
