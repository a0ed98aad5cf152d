"""Who takes part in cycle.py: the commands of each step, and what has to be on disk for them."""

from __future__ import annotations

import base64
import compileall
import importlib.util
import os
import shutil
import sysconfig
import venv
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
WORK = Path("/run/bench")  # on the sandbox's tmpfs
KEY_FILE = WORK / "key"
STEPS = ("netns-up", "wg-up", "wg-down", "netns-down")
V4, V6 = "10.66.0.2", "fd66::2"
PEER = base64.b64encode(b"a public key is any 32 bytes, so").decode()
ENDPOINT = "192.0.2.1:51820"  # TEST-NET-1 (RFC 5737); nothing is sent there
WG_SET = f"wg set wg private-key {KEY_FILE} peer {PEER} allowed-ips 0.0.0.0/0,::/0 endpoint {ENDPOINT}"
OURS, BASELINE = "wgns-helpers", "dash scripts"

# The scripts that this project replaces; $1 is the name, $2 the kind of link. Taking the name away was a plain command.
ARTICLE = {
    "netns-up": "ip netns add $1; umount /var/run/netns/$1; mount --bind /proc/self/ns/net /var/run/netns/$1",
    "wg-up": f"""ip link add wg type $2
{WG_SET}
ip link set wg netns wg up
ip -n wg address add {V4}/32 dev wg
ip -n wg -6 address add {V6}/128 dev wg
ip -n wg route add default dev wg
ip -n wg -6 route add default dev wg""",
    "wg-down": "ip -n wg link del wg; ip -n wg route del default dev wg",
}
# What a shell does better: `attach` names the script's own namespace without umount and mount; a link made inside need
# not be moved, for which the kernel waits 25 ms; its UDP socket is outside all the same; one ip(8) does the rest.
IN_PLACE = {
    "netns-up": "ip netns attach $1 $$",
    "wg-up": f"""ip link add wg netns wg type $2
ip netns exec wg {WG_SET}
ip -n wg -batch - <<END
address add {V4}/32 dev wg
address add {V6}/128 dev wg
link set wg up
route add default dev wg
route add ::/0 dev wg
END""",
    "wg-down": "ip -n wg link del wg",
}
CONFIG = f"""[Interface]
%s
Address = {V4}/32, {V6}/128
[Peer]
PublicKey = {PEER}
AllowedIPs = 0.0.0.0/0, ::/0
Endpoint = {ENDPOINT}
"""


class Contender(NamedTuple):
    """The command of each step, and the exit code of its wg-down."""

    name: str
    commands: dict[str, list[str]]
    wg_down_code: int = 0


def install(kind: str) -> Path:
    """Make a virtual environment with the project in it, as pip would install it; its Python.

    Copied, not built: building needs setuptools, and pip the network to get it. The result is the same: package and
    byte code in site-packages, scripts in bin with the environment's Python in their first line.
    """
    home = WORK / "venv"
    venv.create(home, symlinks=True)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(home)}))
    for name in ("wgconfig", "pyroute2"):
        spec = importlib.util.find_spec(name)
        shutil.copytree(Path(str(spec and spec.origin)).parent, site / name)
    shutil.copytree(HERE.parent / "wgns_helpers", site / "wgns_helpers")
    shutil.copy(HERE / "standin.py", site)
    compileall.compile_dir(site, quiet=1, force=True)
    for step in STEPS:
        script = home / "bin" / step
        text = (HERE.parent / "bin" / step).read_text(encoding="utf-8").partition("\n")[2]
        if kind != "wireguard" and step in ("wg-up", "wg-down"):
            text = text.replace("from wgns_helpers.cli", "import standin\nfrom wgns_helpers.cli")
        script.write_text(f"#!{home}/bin/python\n{text}", encoding="utf-8")
        script.chmod(0o755)
    return home / "bin" / "python"


def contenders(kind: str, python: Path) -> list[Contender]:
    """Write everybody's files; their commands. A netns-up that names the namespace that it runs in gets a fresh one."""
    key = base64.b64encode(os.urandom(32)).decode()
    write(KEY_FILE, f"{key}\n")
    Path("/etc/wireguard").mkdir(mode=0o700, exist_ok=True)
    write(Path("/etc/wireguard/wg.conf"), CONFIG % f"PrivateKeyFile = {KEY_FILE}")
    ours = {step: [str(python.with_name(step)), "wg"] for step in STEPS}
    plain = {step: [str(python), str(HERE / "with_pyroute2.py"), step, kind, str(KEY_FILE), PEER] for step in STEPS}
    article = {step: ["dash", write(WORK / f"article-{step}", text), "wg", kind] for step, text in ARTICLE.items()}
    in_place = {step: ["dash", write(WORK / f"in-place-{step}", text), "wg", kind] for step, text in IN_PLACE.items()}
    for commands in (ours, plain, article, in_place):
        commands["netns-up"][:0] = ["unshare", "-n"]
    ip_netns = {"netns-up": ["ip", "netns", "add", "wg"], "netns-down": ["ip", "netns", "del", "wg"]}
    found = [
        Contender(OURS, ours),
        Contender(BASELINE, ip_netns | article, wg_down_code=1),  # the route that it deletes has gone with the link
        Contender("dash, link made in place", ip_netns | in_place),
        Contender("plain pyroute2", plain),
    ]
    if kind == "wireguard":  # wg-quick looks for itself what is a tunnel, and knows no other kind of link
        # Its UDP socket ends up inside: no way out, but the same work. Without Table= it would make firewall rules too
        file = write(WORK / "wg.conf", CONFIG % f"PrivateKey = {key}\nTable = main")
        quick = {f"wg-{way}": ["ip", "netns", "exec", "wg", "wg-quick", way, file] for way in ("up", "down")}
        found.append(Contender("wg-quick", ip_netns | quick))
    return found


def floors(python: Path) -> dict[str, list[str]]:
    """Return commands that do nothing, to see what a start costs."""
    starts = ([str(python), "-c", "pass"], [str(python), "-IS", "-c", "pass"], ["ip", "-V"], ["dash", "-c", ":"])
    named = {" ".join(["python3" if word == str(python) else word for word in start]): start for start in starts}
    return {**named, "unshare -n true": ["unshare", "-n", "true"]}


def write(path: Path, text: str) -> str:
    """Write a file that only root can read; its path."""
    path.write_text(text, encoding="ascii")
    path.chmod(0o600)
    return str(path)
