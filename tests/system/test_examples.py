"""The examples of wgns(8) and wgns-helpers(7) on a booted system: lines and drop-ins as they are printed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests import pages
from tests.support import shell
from tests.system import guest
from tests.system.guest import UNITS, state, systemctl, wait_for

KEY = Path("/root/mullvad.key")


def follow(command: str) -> str:
    """Run a line; what it prints, on either stream."""
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout + done.stderr


def test_wgns(since: str) -> None:
    """A running service is confined, shown, reached and released by the lines of the page, and nothing is left."""
    guest.configure("mullvad")
    systemctl("start", "transmission-daemon")
    printed = {}
    try:
        for command in pages.commands("wgns.8"):
            if command.startswith("curl "):  # active is not listening yet
                wait_for(lambda: ":9091 " in shell("ip netns exec mullvad ss -ltn"), 120)
            printed[command] = follow(command)
        shown = {command.split()[1]: text for command, text in printed.items() if command.startswith("wgns ")}
        assert "transmission-daemon.service, confined" in shown["status"]
        assert "NO" not in shown["check"]
        assert " 0% packet loss" in shown["exec"]
        assert any(command.startswith("curl ") and "nauthorized" in text for command, text in printed.items())
        assert "127.0.0.1:5432 leads to db.lan:5432" in shown["reach"].replace(' in "mullvad"', "")
        assert guest.namespace_of("transmission-daemon.service") == Path("/proc/self/ns/net").stat().st_ino
    finally:
        systemctl("kill", "--signal=KILL", "transmission-daemon", check=False)  # it would wait for its trackers
        systemctl("stop", "transmission-daemon", check=False)
    assert state("wg@mullvad.service") == "inactive"
    written = ("wg*.wants/*", "publish-*", "reach-*", "*.d/wireguard.conf", "multi-user.target.wants/wg*")
    assert [path for pattern in written for path in UNITS.glob(pattern)] == []


def test_drop_ins(since: str) -> None:
    """The tunnel gets its key from a credential and waits for a handshake, and the namespace its setting."""
    guest.configure("mullvad", other={"PrivateKey": ""})
    KEY.touch(mode=0o600)
    KEY.write_text(f"{guest.private_key(1)}\n")
    blocks = [each for each in pages.examples("wgns-helpers.7") if each[1].startswith("[Service]")]
    assert len(blocks) == 2
    for sentence, block in blocks:
        (unit,) = re.findall(r"\S+@mullvad\.service", sentence)
        guest.drop_in(unit, block)
    systemctl("start", "wg@mullvad")
    assert "handshake after" in guest.journal(since, "wg@mullvad")
    assert shell("ip netns exec mullvad sysctl -n net.ipv4.tcp_keepalive_time") == "120\n"
    KEY.unlink()
