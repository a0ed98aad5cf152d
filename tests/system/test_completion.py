"""Completion in bash of the units that systemd knows, and of those that are confined."""

from __future__ import annotations

import pytest

from tests.support import shell
from tests.system.guest import configure, confine
from tests.test_completion import offered


@pytest.mark.usefixtures("since")
def test_units_are_offered() -> None:
    """`wgns confine` and `wgns check` offer what systemd knows; `wgns release` what is confined, and doors."""
    configure()
    assert offered("wgns confine demo ngin") == offered("wgns check --unit=ngin") == ["nginx.service"]
    assert offered("wgns check demo --unit dbus.s") == ["dbus.service", "dbus.socket"]
    assert offered("wgns check --unit systemd-journald@") == [".service", ".socket"]
    assert offered("wgns release ") == [""]
    confine("nginx", "demo")
    shell("wgns publish demo 9091")
    assert offered("wgns release ") == ["nginx.service", "publish-demo-9091.socket"]
    shell("wgns release publish-demo-9091.socket")
