"""Completion in bash of the tunnels that are configured and of the namespaces that exist."""

from __future__ import annotations

from pathlib import Path

from tests.support import run, shell
from tests.test_completion import offered


def test_tunnels_and_namespaces_are_offered() -> None:
    """Both count as names, also of an option and with an @, behind which bash begins a new word."""
    Path("/etc/wireguard").mkdir()
    for name in ("mullvad", "my-vpn", "vpn@home"):
        Path(f"/etc/wireguard/{name}.conf").touch()
    assert run("netns-up", "made").returncode == 0
    shell("ip netns add vpn@work")
    assert offered("wg-up ") == ["made", "mullvad", "my-vpn", "vpn@home", "vpn@work"]
    assert offered("wgns confine mu") == ["mullvad"]
    assert offered("wg-up mullvad --netns=m") == offered("netns-down m") == ["made", "mullvad", "my-vpn"]
    assert offered("wg-up vpn@") == ["home", "work"]
    assert offered("wgns publish mullvad ") == offered("wgns exec mullvad --user vpn") == [""]
