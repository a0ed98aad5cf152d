"""wgns status on a booted systemd: the unit that is inside."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from tests.support import shell
from tests.system.guest import configure, drop_in, show, state, systemctl, wait_for

pytestmark = pytest.mark.usefixtures("since")


def status() -> tuple[int, dict[str, Any]]:
    """The exit status and what is said of the tunnel demo."""
    done = subprocess.run(["wgns", "status", "demo", "--json"], capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout)["tunnels"][0]


def test_the_confined_service_is_inside() -> None:
    """With its unit and its main process, and nobody else is; the tunnel is alive and as configured."""
    configure()
    drop_in("reach.service", shell("wgns dropin demo"))
    systemctl("add-wants", "wg@demo.service", "reach.service")
    systemctl("start", "wg@demo.service")
    wait_for(lambda: state("reach.service") == "active")
    code, found = status()
    assert (code, found["faults"], found["differences"]) == (0, [], [])
    assert found["inside"] == {"reach.service": {show("reach.service")["MainPID"]: "python3"}}
