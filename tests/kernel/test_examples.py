"""The examples of the man pages work as they are printed, line by line, and leave nothing behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import pages
from tests.kernel.test_tunnel import provider, write
from tests.support import ROOT, shell
from wgns_helpers import netns

__all__ = ["provider"]  # a fixture


def follow(page: str, folder: Path) -> list[str]:
    """Run each line under EXAMPLES of a page in a folder; what each prints, on either stream."""
    environment = {"PATH": f"{ROOT}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"}
    printed = []
    for command in pages.commands(page):
        argv = ["sh", "-c", command]
        done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (command, done.stderr)
        printed.append(done.stdout + done.stderr)
    return printed


def test_netns_up(tmp_path: Path, unchanged: None) -> None:
    """netns-up(8): a namespace has lo and nothing else, and goes."""
    _, addresses, _ = follow("netns-up.8", tmp_path)
    links = re.findall(r"^\d+: (\w+)", addresses, re.MULTILINE)
    assert set(links) - netns.LOCAL_LINKS == set()
    assert "inet 127.0.0.1/8 scope host lo" in addresses


@pytest.mark.wireguard
def test_wg_up(provider: str, tmp_path: Path, unchanged: None) -> None:
    """wg-up(8): a tunnel by hand with a handshake and an answer, and a second one that takes over an edit."""
    (tmp_path / "provider.conf").write_text(provider)
    write(provider, "mullvad")
    printed = "".join(follow("wg-up.8", tmp_path))
    assert "handshake after" in printed
    assert " 0% packet loss" in printed
    assert printed.count("keepalive") == 2  # in the differences, and when they are applied
    shell("rm -r /etc/wireguard")
