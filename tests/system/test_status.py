"""wgns status and refresh on a booted systemd: the unit that is inside, and a private key that is a credential."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support import shell
from tests.system.capture import ENDPOINT
from tests.system.guest import configure, confine, drop_in, private_key, show, state, systemctl, wait_for

pytestmark = pytest.mark.usefixtures("since")


def status() -> tuple[int, dict[str, Any]]:
    """The exit status and what is said of the tunnel demo."""
    done = subprocess.run(["wgns", "status", "demo", "--json"], capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout)["tunnels"][0]


def test_the_confined_service_is_inside() -> None:
    """With its unit and its main process, and nobody else is; the tunnel is alive and as configured."""
    configure()
    confine("reach.service", "demo")
    systemctl("start", "wg@demo.service")
    wait_for(lambda: state("reach.service") == "active")
    code, found = status()
    assert (code, found["faults"], found["differences"]) == (0, [], [])
    assert found["inside"] == {"reach.service": {show("reach.service")["MainPID"]: "python3"}}


def test_a_key_that_is_a_credential(tmp_path: Path) -> None:
    """The configuration can be compared, and its names looked up again, where only the unit has the key."""
    path = configure(other={"PrivateKey": "", "Endpoint": f"far.example:{ENDPOINT[1]}"})
    (tmp_path / "key").write_text(private_key(1))
    hosts = Path("/etc/hosts").read_text()
    Path("/etc/hosts").write_text(f"{hosts}\n203.0.113.77 far.example\n")
    drop_in("wg@.service", f"[Service]\nLoadCredential=private-key:{tmp_path}/key\n")
    try:
        systemctl("start", "wg@demo.service")
        code, found = status()
        assert (code, found["differences"]) == (1, []), path.read_text()
        Path("/etc/hosts").write_text(f"{hosts}\n{ENDPOINT[0]} far.example\n")
        shell("systemd-run --quiet --wait --pipe --property=PrivateTmp=yes wgns refresh")  # to which it is hidden
        shell("ip netns exec demo ping -c 1 -W 20 10.64.0.1")
        assert status()[0] == 0
    finally:
        Path("/etc/hosts").write_text(hosts)
