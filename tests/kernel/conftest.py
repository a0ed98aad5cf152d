"""Fixtures for tests that change the kernel's namespaces: only in the sandbox, and every test leaves it as it was."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyroute2.nftables.main import NFTables

from tests.support import shell
from wgns_helpers import netns
from wgns_helpers.errors import Failure

SANDBOX = Path("/run/wgns-sandbox")  # made by tests/sandbox in a /run of its own
FILES = [Path("/etc") / name for name in ("resolv.conf", "nsswitch.conf", "hosts")]


def has_wireguard() -> bool:
    """Whether a WireGuard link can be made here."""
    made = subprocess.run(["ip", "link", "add", "probe", "type", "wireguard"], capture_output=True, check=False)
    subprocess.run(["ip", "link", "del", "probe"], capture_output=True, check=False)
    return made.returncode == 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this place cannot run, with the way to run it."""
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    if not here:
        return
    if not SANDBOX.exists():
        for item in here:
            item.add_marker(
                pytest.mark.skip(reason="changes namespaces: run it as root by tests/sandbox (make test does)")
            )
    elif not has_wireguard():
        if "WGNS_NEED_WIREGUARD" in os.environ:
            pytest.exit("no WireGuard where it was promised", 1)
        for item in here:
            if item.get_closest_marker("wireguard"):
                item.add_marker(
                    pytest.mark.skip(reason="this kernel has no WireGuard: tests/machine.py has (make test)")
                )


def filters(nft: NFTables) -> list[str]:
    """The tables, chains and rules of the family inet, without the numbers that the kernel gives them."""
    messages = [*nft.get_tables(), *nft.get_chains(), *nft.get_rules()]
    return [str([(k, v) for k, v in m["attrs"] if not k.endswith(("_HANDLE", "_POSITION"))]) for m in messages]


def filters_of(name: str) -> list[str]:
    """Those of a named namespace."""
    try:
        with (
            open(netns.open_namespace(name), "rb") as namespace,
            netns.Inside(namespace.fileno()),
            NFTables(nfgen_family=1) as nft,  # NFPROTO_INET
        ):
            return filters(nft)
    except Failure:  # a name without a namespace
        return []


def snapshot() -> dict[str, object]:
    """All that the programs may change: links, addresses, routes of every namespace, names, files, mounts."""
    state: dict[str, object] = {}
    names = sorted(path.name for path in Path("/run/netns").glob("*"))
    for name in ["", *names]:
        prefix = f"ip -n {name}" if name else "ip"
        for what in ("addr", "route show table all", "-6 route show table all"):
            done = subprocess.run(["sh", "-c", f"{prefix} -j {what}"], capture_output=True, text=True, check=False)
            state[f"{name}: {what}"] = json.loads(done.stdout) if done.stdout.strip() else done.stderr
        state[f"{name}: filters"] = filters_of(name) if name else []
    for folder in ("/run/netns", "/run/wgns", "/etc/netns"):
        for path in sorted(Path(folder).rglob("*.conf" if folder == "/run/wgns" else "*")):  # no locks of killed ones
            status = path.lstat()
            content = path.read_bytes() if folder != "/run/netns" and path.is_file() else b""
            state[str(path)] = (status.st_dev, status.st_ino, status.st_mode, content)
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    state["mounts"] = sorted(line.split()[4] for line in lines if "nsfs" in line)
    return state


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """Take away what a test made."""
    former = {path: path.read_bytes() for path in FILES if path.exists()}
    yield
    for path, content in former.items():
        path.write_bytes(content)
    for path in Path("/run/netns").glob("*"):
        if path.stat(follow_symlinks=False).st_ino != os.stat("/proc/self/ns/net").st_ino:
            subprocess.run(
                ["sh", "-c", f"ip netns pids {path.name} | xargs -r kill -9"], capture_output=True, check=False
            )
        while subprocess.run(["umount", str(path)], capture_output=True, check=False).returncode == 0:
            pass
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()
    for link in json.loads(shell("ip -j link")):
        if link["ifname"] not in ("lo", "sit0", "tunl0", "ip6tnl0"):
            subprocess.run(["ip", "link", "del", link["ifname"]], capture_output=True, check=False)
    shell("rm -rf /etc/netns /etc/wireguard /run/wgns")


@pytest.fixture
def unchanged() -> Iterator[None]:
    """Fail the test if it leaves anything else behind than what was there before."""
    before = snapshot()
    yield
    assert snapshot() == before
