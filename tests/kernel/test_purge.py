"""What the Debian package's script for a purge deletes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT, run, shell

UNITS = Path("/etc/systemd/system")
OURS = "# Written by wgns {} vpn; wgns release removes it.\n"


@pytest.fixture
def units() -> Iterator[dict[str, str]]:
    """Files in /etc/systemd/system, and links as "-> TARGET"; the folder is as before afterwards."""
    former = UNITS.with_name("former")
    if UNITS.exists():
        UNITS.rename(former)
    yield {
        "publish-vpn-80.socket": OURS.format("publish"),
        "publish-vpn-80.service": OURS.format("publish"),
        "wg-confined@vpn.service.wants/publish-vpn-80.socket": "-> /etc/systemd/system/publish-vpn-80.socket",
        "wg-confined@vpn.service.wants/daemon.service": "-> /etc/systemd/system/daemon.service",
        "multi-user.target.wants/wg@vpn.service": "-> /usr/lib/systemd/system/wg@.service",
    }
    shutil.rmtree(UNITS)
    if former.exists():
        former.rename(UNITS)


def test_a_purge_opens_no_unit_and_leaves_what_is_not_ours(units: dict[str, str]) -> None:
    """Doors, links of ours and of nobody, and /run/wgns go; drop-ins of confined units and others' files stay."""
    kept = {
        "daemon.service": "[Service]\n",
        "daemon.service.d/wireguard.conf": OURS.format("confine"),
        "publish-daily.service": "[Service]\n",
        "wg.service": "[Service]\n",
        "multi-user.target.wants/wg.service": "-> /etc/systemd/system/wg.service",
        "wg-confined@vpn.service.wants/other.service": "-> /etc/systemd/system/daemon.service",
    }
    for name, content in {**units, **kept}.items():
        path = UNITS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content.startswith("-> "):
            path.symlink_to(content.removeprefix("-> "))
        else:
            path.write_text(content)
    assert run("netns-up", "vpn").returncode == 0
    Path("/etc/netns/other").symlink_to("/srv/other")
    shell(f"sh {ROOT}/debian/wgns-helpers.postrm purge")
    assert {str(path.relative_to(UNITS)) for path in UNITS.rglob("*") if not path.is_dir()} == set(kept)
    assert [path.name for path in Path("/etc/netns").iterdir()] == ["other"]
    assert not Path("/run/wgns").exists()
