"""What the tests share: keys, configurations, and a way to run the programs that looks for keys in all they say."""

from __future__ import annotations

import base64
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyroute2.netlink.nfnetlink.nftsocket import nft_rule_msg

if TYPE_CHECKING:
    from wgns_helpers import inbound

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ("netns-up", "netns-down", "wg-up", "wg-down", "wgns")

# wg(8)'s own examples of keys
PRIVATE = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
PUBLIC = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
PUBLIC2 = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0="
PRESHARED = "/UwcSPg38hW/D9Y3tcS1FOV0K1wuURMbS0sesJEP5ak="

MINIMAL = f"""[Interface]
PrivateKey = {PRIVATE}
Address = 10.9.0.2/32

[Peer]
PublicKey = {PUBLIC}
AllowedIPs = 0.0.0.0/0
Endpoint = 127.0.0.1:51820
"""

# Root without any capability: like an ordinary user, but for files that only root's folders hold, such as a checkout
POWERLESS = ("setpriv", "--inh-caps=-all", "--bounding-set=-all")

# Under nohup(1) the programs would inherit that SIGHUP is ignored, and leave it so
MORTAL = ("env", "--default-signal")

_KEY = re.compile(r"(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{42}[AEIMQUYcgkosw480]=?(?![A-Za-z0-9+/=])")


def assert_no_key(text: str) -> None:
    """No text of a program's may hold anything that has the form of a key."""
    for found in _KEY.findall(text):
        if len(base64.b64decode(found[:43] + "=")) == 32:
            raise AssertionError(f"a key in what the program says: {text!r}")


def run(
    program: str, *arguments: str, before: tuple[str, ...] = (), public: Iterable[str] = (), **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run one of the programs from the checkout; `before` goes in front of it on the command line.

    It may say the keys in `public`.
    """
    # Not PYTHONDEVMODE=1: on a busy machine asyncio, which pyroute2 uses, would say how long each of its steps took.
    environment = {**os.environ, "PYTHONMALLOC": "debug", "PYTHONWARNINGS": "error", **options.pop("env", {})}
    argv = [*before, sys.executable, str(ROOT / "bin" / program), *arguments]
    done = subprocess.run(
        argv, capture_output=True, text=True, errors="replace", env=environment, timeout=120, check=False, **options
    )
    said = done.stdout + done.stderr
    for key in public:
        said = said.replace(key, "")
    assert_no_key(said)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def shell(command: str) -> str:
    """What a shell command prints; it must succeed."""
    done = subprocess.run(["sh", "-euc", command], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def rules(batch: inbound.Batch) -> list[str]:
    """The rules in a batch in words, as pyroute2 decodes them, each with its chain."""

    def values(part: Any) -> list[str]:
        if isinstance(part, bytes):
            return [part.hex()]
        nested = part.get("attrs") if isinstance(part, dict) else None
        return [str(part)] if nested is None else [word for _, value in nested for word in values(value)]

    lines = []
    for kind, _, body in batch.messages:
        if kind == 6:  # NFT_MSG_NEWRULE
            message = nft_rule_msg(struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body)
            message.decode()
            words = [word for part in message.get_attr("NFTA_RULE_EXPRESSIONS") for word in values(part)]
            lines.append(" ".join([message.get_attr("NFTA_RULE_CHAIN"), *words]).replace("NFT_REG_1 ", ""))
    return lines
