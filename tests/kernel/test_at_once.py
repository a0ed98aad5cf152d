"""Many runs at once: one at a time in each namespace, and in the end nothing is left."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from pathlib import Path

import pyroute2  # noqa: F401  (once here, not in each of the children)
import pytest

from tests.kernel import faults
from tests.kernel.conftest import snapshot
from tests.support import PRIVATE, PUBLIC, PUBLIC2, shell

pytestmark = pytest.mark.wireguard

NAMES = [f"t{number}" for number in range(10)]
SECONDS, AT_ONCE = 60, 50


def configuration(number: int, variant: int) -> str:
    """One of a tunnel's two configurations."""
    return f"""[Interface]
PrivateKey = {PRIVATE}
Address = 10.{number}.0.2/24{f", 10.{number}.{variant}.9/32" if variant else ""}
DNS = 10.{number}.0.1{", a.example" if variant else ""}
[Peer]
PublicKey = {(PUBLIC, PUBLIC2)[variant]}
AllowedIPs = 0.0.0.0/0, ::/0
Endpoint = 127.0.0.1:{51820 + variant}
"""


def figures() -> dict[str, int]:
    """What may leak: this process's descriptors, the machine's network namespaces, its memory in use in MiB."""
    # Every network namespace, with a process or not, has an entry of its own among the kernel's objects
    used = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines())
    memory = sum(int(used[name].split()[0]) for name in ("AnonPages", "SUnreclaim", "Shmem")) // 1024
    slabs = Path("/proc/slabinfo").read_text(encoding="utf-8").splitlines()
    spaces = next((int(line.split()[1]) for line in slabs if line.startswith("net_namespace ")), -1)
    return {"descriptors": len(os.listdir("/proc/self/fd")), "namespaces": spaces, "MiB": memory}


def test_fifty_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    """For a minute fifty wg-up and wg-down run at once on ten names: each ends well, and so does the whole."""
    shell("mkdir -p -m 700 /etc/wireguard")
    for number, name in enumerate(NAMES):
        shell(f"ip netns add {name}")
        Path(f"/etc/wireguard/{name}.conf").write_text(configuration(number, 0))
    before, at_first = snapshot(), figures()
    chance = random.Random(3)  # noqa: S311
    running: dict[int, str] = {}
    endings: Counter[str] = Counter()
    deadline = time.monotonic() + SECONDS
    while running or time.monotonic() < deadline:
        while len(running) < AT_ONCE and time.monotonic() < deadline:
            number = chance.randrange(len(NAMES))
            path = Path(f"/etc/wireguard/{NAMES[number]}.conf")
            (path.parent / "new").write_text(configuration(number, chance.randrange(2)))
            (path.parent / "new").rename(path)
            program = chance.choice(["wg-up", "wg-up", "wg-down"])
            running[faults.start(program, NAMES[number])] = program
        child, status = os.wait()
        endings[f"{running.pop(child)} {os.waitstatus_to_exitcode(status)}"] += 1
    assert set(endings) == {"wg-up 0", "wg-down 0"}, endings
    for number, name in enumerate(NAMES):
        Path(f"/etc/wireguard/{name}.conf").write_text(configuration(number, 1))
        assert faults.run("wg-up", name).status == 0
        assert "nothing to change" in faults.run("wg-up", name).said
        assert PUBLIC2 in shell(f"ip netns exec {name} wg show {name} peers")
        assert f"nameserver 10.{number}.0.1\nsearch a.example" in Path(f"/run/wgns/{name}/resolv.conf").read_text()
    for name in NAMES:
        assert faults.run("wg-down", name).status == 0
    assert snapshot() == before
    at_last = figures()
    with capsys.disabled():
        print(f"\n{dict(endings)} in {SECONDS} s, {AT_ONCE} at once on {len(NAMES)} names; {at_first} -> {at_last}")
    assert at_last["descriptors"] == at_first["descriptors"]
    assert at_last["namespaces"] == at_first["namespaces"]
    assert at_last["MiB"] < at_first["MiB"] + 30
