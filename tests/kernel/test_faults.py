"""Every system call that changes something fails once, or the program is killed there: the state is always a good one.

Good is, after an error or SIGTERM, what was before; after SIGKILL, what the next wg-up makes what is configured, and
wg-down nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pyroute2  # once here, not in each of the children
import pytest
from pyroute2.nftables.main import NFTables

from tests.kernel import faults
from tests.kernel.conftest import filters
from tests.kernel.faults import Ended, Fault
from tests.support import PRESHARED, PRIVATE, PUBLIC, PUBLIC2, ROOT, assert_no_key, shell
from wgns_helpers import netns

pytestmark = pytest.mark.wireguard

CONFIG = Path("/etc/wireguard/wg.conf")
PUBLIC3 = "gN65BkIKy1eCE9pP1wdc8ROUtkHLF2PfAqYdyYBz6EA="
FORMER = f"""[Interface]
PrivateKey = {PRIVATE}
ListenPort = 40001
Address = 10.9.0.2/24, 10.9.0.9/24, fd09::2/64
DNS = 10.9.0.1, 10.9.0.7, example.com
OpenPorts = 51413, 8443/tcp
[Peer]
PublicKey = {PUBLIC}
AllowedIPs = 0.0.0.0/0, ::/0, 10.77.0.0/16
Endpoint = 127.0.0.1:51820
[Peer]
PublicKey = {PUBLIC2}
AllowedIPs = 172.16.0.0/12, 10.78.0.0/16
PersistentKeepalive = 25
"""
CONFIGURED = f"""[Interface]
PrivateKey = {PRIVATE}
ListenPort = 40002
FwMark = 7
MTU = 1300
Address = 10.9.0.3/24, 10.9.0.9/24, fd09::2/48
DNS = 10.9.0.1
OpenPorts = 8443/tcp, 6881-6889/udp
[Peer]
PublicKey = {PUBLIC}
PresharedKey = {PRESHARED}
AllowedIPs = 0.0.0.0/0, 10.78.0.0/16
Endpoint = [::1]:51821
[Peer]
PublicKey = {PUBLIC3}
AllowedIPs = ::/0, 192.168.0.0/16
PersistentKeepalive = 15
"""
WITHOUT_DNS = re.sub("DNS.*\n", "", CONFIGURED)


class Looker:
    """Sees all that wg-up and wg-down may change, without what is new with every link; its sockets are inside."""

    def __init__(self) -> None:
        here, there = os.open("/proc/self/ns/net", os.O_RDONLY), netns.open_namespace("wg")
        self.files = (here, there)
        with self.inside_for_a_while():
            self.inside, self.wireguard = pyroute2.IPRoute(), pyroute2.WireGuard()
            self.filter = NFTables(nfgen_family=1)  # NFPROTO_INET

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.inside.close()
        self.wireguard.close()
        self.filter.close()
        for descriptor in self.files:
            os.close(descriptor)

    @contextlib.contextmanager
    def inside_for_a_while(self) -> Iterator[None]:
        """Have this process in the namespace."""
        netns.enter(self.files[1])
        try:
            yield
        finally:
            netns.enter(self.files[0])

    def look(self) -> dict[str, Any]:
        """What is there."""
        links = {link.get("IFLA_IFNAME"): link for link in self.inside.get_links()}
        names = {link["index"]: name for name, link in links.items()}
        addresses = [
            (a["family"], a.get("IFA_ADDRESS"), a["prefixlen"], names[a["index"]]) for a in self.inside.get_addr()
        ]
        # Not RTA_PREFSRC, which is the oldest address of the network: wg-up leaves the order of addresses alone
        fields = ("RTA_DST", "RTA_TABLE", "RTA_PRIORITY")
        routes = [
            (r["family"], r["proto"], r["type"], r["scope"], r["dst_len"], names[r.get("RTA_OIF")], *map(r.get, fields))
            for family in (socket.AF_INET, socket.AF_INET6)
            for r in self.inside.get_routes(family=family)
        ]
        paths = sorted(Path("/run/wgns").rglob("*.conf"))  # the symlink in /etc/netns may be missing
        return {
            "outside": socket.if_nameindex(),
            "links": {n: (i["flags"], i.get("IFLA_MTU"), i.get("IFLA_IFALIAS")) for n, i in links.items()},
            "addresses": sorted(map(str, addresses)),
            "routes": sorted(map(str, routes)),
            "device": sorted(self._device(), key=str) if "wg" in links else [],
            "filter": filters(self.filter),
            "files": [(str(p), p.lstat().st_mode, p.read_text() if p.name == "resolv.conf" else "") for p in paths],
        }

    def _device(self) -> Iterator[list[tuple[str, str]]]:
        for message in self.wireguard.info("wg"):
            yield sorted(
                (k, str(v)) for k, v in message["attrs"] if k not in ("WGDEVICE_A_IFINDEX", "WGDEVICE_A_PEERS")
            )
            for peer in message.get("WGDEVICE_A_PEERS") or ():
                known = dict(peer["attrs"])
                known["WGPEER_A_ALLOWEDIPS"] = sorted(a["addr"] for a in known.get("WGPEER_A_ALLOWEDIPS") or ())
                yield sorted((key, str(value)) for key, value in known.items() if not key.endswith("X_BYTES"))


def prepare(operation: str) -> None:
    """Make the state in which an operation begins, of nothing."""
    if operation != "up":
        CONFIG.write_text(FORMER)
        ended = faults.run("wg-up")
        assert ended.status == 0, ended.said
    CONFIG.write_text(WITHOUT_DNS if operation == "converge, no DNS" else CONFIGURED)


def do(operation: str, fault: Fault | None = None) -> Ended:
    """One of the operations."""
    ended = faults.run("wg-down" if operation == "down" else "wg-up", fault=fault)
    assert_no_key(ended.said)
    assert "Traceback" not in ended.said
    return ended


Look = Callable[[], dict[str, Any]]
OPERATIONS = ("up", "converge", "converge, no DNS", "down")


@pytest.fixture
def look() -> Iterator[Callable[[], dict[str, Any]]]:
    """A namespace with a route of somebody else's; a function that sees what is in it."""
    shell("mkdir -p -m 700 /etc/wireguard; ip netns add wg; ip -n wg link set lo up")
    shell("mkdir -p /run/wgns /etc/netns")  # which stay, once they are made
    shell("ip -n wg route add 10.55.0.0/16 dev lo")
    with Looker() as looker:
        yield looker.look


# The calls by which the lock's file comes and goes, and the symlink in /etc, which may fail without a failure
ASIDE = ("chmod", "mkdir", "rmdir", "symlink", "unlink")


@pytest.mark.parametrize("kind", ["error", "SIGTERM", "SIGKILL"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_fault_anywhere(operation: str, kind: str, look: Look, capsys: pytest.CaptureFixture[str]) -> None:
    """One fault, before and after each system call: the state is the one before, or becomes the configured one."""
    nothing = look()
    prepare(operation)
    before = look()
    whole = do(operation)
    assert whole.status == 0, whole.said
    done = look()
    assert (done == nothing) == (operation == "down")
    assert do("up").status == 0
    configured = look()
    assert do("down").status == 0
    endings: Counter[str] = Counter()
    for step in range(1, len(whole.steps) + 1):
        for when in ("before", "after"):
            prepare(operation)
            ended = do(operation, Fault(step, kind, when))
            case = f"{kind} {when} step {step} ({ended.steps[-1:]}) of {operation}: {ended.said}"
            assert len(ended.steps) >= step, case
            failing = (0, 1) if ended.steps[step - 1] in ASIDE else (1,)
            assert ended.status in {"error": failing, "SIGTERM": (-15, 0), "SIGKILL": (-9,)}[kind], (case, ended.status)
            state = look()
            if operation != "down" and kind != "SIGKILL":
                assert state == (done if ended.status == 0 else before), case
            endings["as before" if state == before else "done" if state == done else "in between"] += 1
            again = do("up")
            assert (again.status, look()) == (0, configured), (case, again.said)
            assert do("down").status == 0
            assert look() == nothing, case
            if kind == "SIGKILL":  # once more, with wg-down right after
                prepare(operation)
                do(operation, Fault(step, kind, when))
                down = do("down")
                assert (down.status, look()) == (0, nothing), (case, down.said)
    with capsys.disabled():
        print(f"\n{operation}, {kind}: {len(whole.steps)} system calls, {2 * len(whole.steps)} faults: {dict(endings)}")


def test_what_cannot_be_restored_is_said(look: Look) -> None:
    """When the kernel refuses everything from some point on, wg-up names what it could not put back; the next mends."""
    prepare("converge")
    steps = do("converge").steps
    configured = look()
    said = []
    for step in range(1, len(steps) + 1):
        assert do("down").status == 0
        prepare("converge")
        before = look()
        ended = do("converge", Fault(step, "error", "before", lasting=True))
        assert ended.status == 1 or steps[step - 1] in ASIDE
        restored = look() == (before if ended.status else configured)
        assert restored != ("not restored: " in ended.said or "could not be put back" in ended.said), (step, ended)
        said.append(ended.said)
        assert do("converge").status == 0
        assert look() == configured
    former = "open to the far side: 8443/tcp, 51413/tcp, 51413/udp; fwmark off; listen port 40001; peer 1: "
    assert f"not restored: {former}" in "".join(said)


TRACED = "sendto,sendmsg,mkdir,mkdirat,chmod,fchmod,fchmodat,open,openat,write,ftruncate,rename,renameat,link,linkat"
TRACED += ",symlink,symlinkat,unlink,unlinkat,rmdir,setns,mount,umount2,unshare"


# Requests that read, as strace knows them by name, or not: RTM_GET…, a dump, CTRL_CMD_GETFAMILY
READS = r"nlmsg_type=(RTM_GET|nlctrl|0x12 |0xa0[14] |.*NFT_MSG_GET)|NLM_F_DUMP|NLM_F_REQUEST\|(NLM_F_ACK\|)?0x300"
READS += r'|nlmsg_type=0x10 .*}, "\\x03\\x01'


def changing(line: str) -> bool:
    """Whether a line of strace(1)'s is a system call that changes something."""
    call = line.partition("(")[0]
    if call in ("open", "openat"):
        return "O_CREAT" in line
    if call == "write":
        return not line.startswith("write(2,")
    if call in ("sendto", "sendmsg"):
        return not re.search(READS, line)
    return True


@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_system_call_is_forgotten(operation: str, look: Look, tmp_path: Path) -> None:
    """strace(1) sees the real programs make as many system calls that change something as the faults are put at."""
    prepare(operation)
    steps = do(operation).steps
    do("down")
    prepare(operation)
    program = ROOT / "bin" / ("wg-down" if operation == "down" else "wg-up")
    trace = tmp_path / "trace"
    argv = [
        "strace",
        "-f",
        "-qq",
        "-o",
        str(trace),
        "-e",
        f"trace={TRACED}",
        "-e",
        "signal=none",
        sys.executable,
        str(program),
    ]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run(argv, env=environment, check=True, capture_output=True)
    lines = [line.split(maxsplit=1)[1] for line in trace.read_text().splitlines()]
    made = [line for line in lines if changing(line)]
    assert len(made) == len(steps), "\n".join([*steps, *made])
