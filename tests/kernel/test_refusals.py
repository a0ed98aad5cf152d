"""Bad input: one clear line, the right exit code, and everything as it was."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kernel.conftest import snapshot
from tests.support import MINIMAL, POWERLESS, PRESHARED, PRIVATE, PUBLIC, PUBLIC2, run, shell

CONFIG = Path("/etc/wireguard/wg.conf")


def replaced(old: str, new: str) -> str:
    """The minimal configuration with one place changed."""
    assert old in MINIMAL
    return MINIMAL.replace(old, new)


def interface(line: str) -> str:
    """The minimal configuration with one more line in [Interface]; it is line 4."""
    return replaced("[Peer]", f"{line}\n[Peer]").replace("\n\n", "\n")


def peer(line: str) -> str:
    """The minimal configuration with one more line in [Peer]; it is line 9."""
    return MINIMAL + line + "\n"


# what: (configuration, exit code, what the message must hold)
BAD_TEXTS: dict[str, tuple[str | bytes, int, str]] = {
    "private key too short": (replaced(PRIVATE, PRIVATE[4:]), 78, ":2: PrivateKey: not a key: expected 44 characters"),
    "private key too long": (
        replaced(PRIVATE, "AAAA" + PRIVATE),
        78,
        ":2: PrivateKey: not a key: expected 44 characters",
    ),
    "private key not base64": (replaced(PRIVATE, "!" * 43 + "="), 78, ":2: PrivateKey: not a key"),
    "private key not canonical": (replaced(PRIVATE, PRIVATE[:42] + "l="), 78, ":2: PrivateKey: not a key"),
    "private key in hex": (replaced(PRIVATE, "ab" * 32), 78, ":2: PrivateKey: not a key"),
    "private key all zeros": (replaced(PRIVATE, "A" * 43 + "="), 78, "all zeros"),
    "private key with a comma": (replaced(PRIVATE, f"{PRIVATE},{PRIVATE}"), 78, ":2: PrivateKey takes one value"),
    "private key in Greek digits": (replaced(PRIVATE, "٣" * 44), 78, ":2: PrivateKey: a character that is not"),
    "no private key": (replaced(f"PrivateKey = {PRIVATE}\n", ""), 78, "no private key"),
    "private key empty": (replaced(PRIVATE, ""), 78, ":2: PrivateKey is empty"),
    "private key and its file": (interface("PrivateKeyFile = x"), 78, ":4: PrivateKeyFile: there is a PrivateKey too"),
    "private key file missing": (replaced(f"PrivateKey = {PRIVATE}", "PrivateKeyFile = no-such"), 78, "no-such"),
    "private key in place of its file": (
        replaced(f"PrivateKey = {PRIVATE}", f"PrivateKeyFile = {PRIVATE}"),
        78,
        ":2: PrivateKeyFile: expected the name of a file",
    ),
    "public key not base64": (replaced(PUBLIC, "x" * 44), 78, ":6: PublicKey: not a key"),
    "public key missing": (replaced(f"PublicKey = {PUBLIC}\n", ""), 78, ":5: [Peer] without PublicKey"),
    "preshared key short": (peer(f"PresharedKey = {PRESHARED[1:]}"), 78, ":9: PresharedKey: not a key"),
    "preshared key and its file": (
        peer(f"PresharedKey = {PRESHARED}\nPresharedKeyFile = x"),
        78,
        ":10: PresharedKeyFile: there is a PresharedKey too",
    ),
    "address no address": (replaced("10.9.0.2/32", "ten"), 78, ':3: Address: "ten" is not ADDRESS/LENGTH'),
    "address with five parts": (replaced("10.9.0.2", "10.9.0.2.1"), 78, ':3: Address: "10.9.0.2.1/32"'),
    "address with a leading zero": (replaced("10.9.0.2", "10.09.0.2"), 78, ':3: Address: "10.09.0.2/32"'),
    "address prefix too long": (replaced("/32", "/33"), 78, "a length from 0 to 32"),
    "address IPv6 prefix too long": (replaced("10.9.0.2/32", "fd00::2/129"), 78, "a length from 0 to 128"),
    "address prefix negative": (replaced("/32", "/-1"), 78, ':3: Address: "10.9.0.2/-1"'),
    "address prefix empty": (replaced("/32", "/"), 78, ':3: Address: "10.9.0.2/"'),
    "address with a netmask": (replaced("/32", "/255.255.255.0"), 78, ":3: Address:"),
    "address with a zone": (replaced("10.9.0.2/32", "fe80::1%eth0/64"), 78, ":3: Address:"),
    "address twice": (interface("Address = 10.9.0.2/32"), 78, ":4: Address: 10.9.0.2/32 appears twice"),
    "address in full-width digits": (replaced("10.9.0.2", "１０.9.0.2"), 78, ":3: Address: a character that is not"),
    "allowed IPs no network": (replaced("0.0.0.0/0", "any"), 78, ':7: AllowedIPs: "any" is not ADDRESS/LENGTH'),
    "allowed IPs with a hole": (replaced("0.0.0.0/0", "10.0.0.0/8,,::/0"), 78, ":7: AllowedIPs:"),
    "allowed IPs empty": (replaced("0.0.0.0/0", ""), 78, ":7: AllowedIPs is empty"),
    "allowed IPs in a second line": (peer("AllowedIPs = 10.0.0.0/8, 10.1.0.0/99"), 78, ':9: AllowedIPs: "10.1.0.0/99"'),
    "port too large": (interface("ListenPort = 65536"), 78, ':4: ListenPort: "65536" is not a number from 0 to 65535'),
    "port negative": (interface("ListenPort = -1"), 78, ":4: ListenPort:"),
    "port a superscript": (interface("ListenPort = ²"), 78, ":4: ListenPort: a character that is not"),
    "port a name": (interface("ListenPort = domain"), 78, ':4: ListenPort: "domain" is not a number'),
    "port with a sign": (interface("ListenPort = +1"), 78, ":4: ListenPort:"),
    "mark too large": (
        interface("FwMark = 0x100000000"),
        78,
        ':4: FwMark: "0x100000000" is not a number from 0 to 4294967295 or "off"',
    ),
    "mark no number": (interface("FwMark = blue"), 78, ":4: FwMark:"),
    "mark without digits": (interface("FwMark = 0x"), 78, ":4: FwMark:"),
    "mtu too small": (interface("MTU = 67"), 78, ':4: MTU: "67" is not a number from 68 to 65535'),
    "mtu too large": (interface("MTU = 65536"), 78, ":4: MTU:"),
    "mtu too small for IPv6": (
        replaced("10.9.0.2/32", "fd00::2/128").replace("[Peer]", "MTU = 1279\n[Peer]"),
        78,
        "expected 1280 to 65535",
    ),
    "mtu too small for an IPv6 route": (
        replaced("0.0.0.0/0", "0.0.0.0/0, ::/0").replace("[Peer]", "MTU = 1279\n[Peer]"),
        78,
        ':5: MTU: "1279" is too small for IPv6, expected 1280 to 65535',
    ),
    "address of nobody": (replaced("10.9.0.2/32", "0.0.0.0/32"), 78, ":3: Address: 0.0.0.0/32 is nobody's address"),
    "table unknown": (
        interface("Table = mine"),
        78,
        ':4: Table: "mine" is not a number from 1 to 4294967295 or "auto" or "off"',
    ),
    "table zero": (interface("Table = 0"), 78, ":4: Table:"),
    "dns no address": (interface("DNS = 10.0.0.256"), 78, ':4: DNS: "10.0.0.256" is neither'),
    "dns no domain": (interface("DNS = exa$mple"), 78, ":4: DNS:"),
    "endpoint without port": (
        replaced("127.0.0.1:51820", "127.0.0.1"),
        78,
        ':8: Endpoint: "127.0.0.1" is not HOST:PORT',
    ),
    "endpoint port zero": (replaced(":51820", ":0"), 78, "with a port from 1 to 65535"),
    "endpoint port too large": (replaced(":51820", ":65536"), 78, ":8: Endpoint:"),
    "endpoint port empty": (replaced(":51820", ":"), 78, ":8: Endpoint:"),
    "endpoint without host": (replaced("127.0.0.1:", ":"), 78, "neither an address nor the name of a host"),
    "endpoint IPv6 without brackets": (replaced("127.0.0.1:51820", "fd00::1:51820"), 78, "hint: write [IPV6]:PORT"),
    "endpoint bracket open": (replaced("127.0.0.1:51820", "[fd00::1:51820"), 78, ":8: Endpoint:"),
    "endpoint not IPv6": (replaced("127.0.0.1:51820", "[fd00::g]:51820"), 78, ":8: Endpoint:"),
    "endpoint empty label": (replaced("127.0.0.1:51820", "a..b:51820"), 78, ":8: Endpoint:"),
    "endpoint long label": (replaced("127.0.0.1:51820", "a" * 64 + ":51820"), 78, ":8: Endpoint:"),
    "endpoint with a slash": (replaced("127.0.0.1:51820", "https://x:1"), 78, ":8: Endpoint:"),
    "keepalive too large": (peer("PersistentKeepalive = 65536"), 78, ":9: PersistentKeepalive:"),
    "keepalive a fraction": (peer("PersistentKeepalive = 1.5"), 78, ":9: PersistentKeepalive:"),
    "byte order mark": (b"\xef\xbb\xbf" + MINIMAL.encode(), 78, ":1: a byte order mark"),
    "NUL": (MINIMAL.replace("10.9", "\0"), 78, ":3: a NUL byte"),
    "UTF-16": (MINIMAL.encode("utf-16"), 78, ":1: a NUL byte"),
    "Latin-1": (MINIMAL.encode().replace(b"10.9", b"\xfc"), 78, ":3: Address: a character that is not printable ASCII"),
    "empty file": ("", 78, "no [Interface] section"),
    "only a comment": ("# [Interface]\n", 78, "no [Interface] section"),
    "10 MB of rubbish": (b"x\xffy" * (10 << 20 >> 2), 78, ':1: not "Key = value"'),
    "10 MB in one line": ("x" * (10 << 20), 78, ':1: not "Key = value"'),
    "33 MB": ("#" * (33 << 20), 78, "more than 33554432 bytes"),
    "key twice": (interface(f"PrivateKey = {PRIVATE}"), 78, ":4: PrivateKey again; it appears in line 2 too"),
    "key twice in other case": (peer("ENDPOINT = 127.0.0.1:1"), 78, ":9: Endpoint again; it appears in line 8 too"),
    "peer twice": (peer(f"[Peer]\nPublicKey = {PUBLIC}"), 78, ":10: PublicKey: the [Peer] of line 5 has this key too"),
    "setting before a section": ("MTU = 1400\n" + MINIMAL, 78, ":1: MTU appears before any section"),
    "setting in the wrong section": (peer("MTU = 1400"), 78, ":9: MTU belongs in [Interface]"),
    "peer setting in [Interface]": (interface(f"PublicKey = {PUBLIC2}"), 78, ":4: PublicKey belongs in [Peer]"),
    "unknown section": (MINIMAL + "[Pear]\n", 78, ':9: unknown section "[Pear]", expected [Interface] or [Peer]'),
    "section without bracket": (MINIMAL + "[Peer\n", 78, ":9: unknown section"),
    "AmneziaWG": (interface("Jc = 4"), 78, ":4: Jc is a key of AmneziaWG"),
    "unknown key": (peer("AllowedIP = 10.0.0.0/8"), 78, "hint: did you mean AllowedIPs?"),
    "a key as the name of a key": (peer(PRIVATE), 78, ":9: unknown key (not shown"),
    "a whole key in the wrong place": (replaced("10.9.0.2/32", f"{PRESHARED}/32"), 78, "(not shown"),
    "a cut key in the wrong place": (replaced("10.9.0.2/32", PRESHARED[:-2]), 78, "(not shown"),
    "a cut key in place of its file": (
        replaced(f"PrivateKey = {PRIVATE}", f"PrivateKeyFile = {PRESHARED[:-2]}"),
        78,
        ":2: PrivateKeyFile: expected the name of a file",
    ),
    "mtu in octal": (interface("MTU = 01420"), 78, ':4: MTU: "01420" is not a number'),
    "mtu with a blank": (interface("MTU = 14 20"), 78, ':4: MTU: "14 20" is not a number'),
    "table in octal": (interface("Table = 010"), 78, ':4: Table: "010" is not a number'),
    "table in capitals": (interface("Table = Off"), 78, ':4: Table: "Off" is not a number'),
    "address prefix in octal": (replaced("/32", "/024"), 78, ':3: Address: "10.9.0.2/024" is not ADDRESS/LENGTH'),
    "addresses parted by a form feed": (replaced("/32", "/32\f10.9.0.3"), 78, ":3: Address: a character that is not"),
    "blanks in a key of wg-quick(8)": (interface("M T U = 1400"), 78, ':4: unknown key "M T U"\n'),
    "blanks in a hook": (interface("Post Up = true"), 78, ":4: unknown key "),
    "blanks in [Interface]": (replaced("[Interface]", "[ Interface ]"), 78, ':1: unknown section "[ Interface ]"'),
    "SaveConfig neither true nor false": (interface("SaveConfig = yes"), 78, ":4: SaveConfig is neither true nor"),
    "endpoint in octal": (replaced("127.0.0.1:", "0127.0.0.1:"), 78, "neither an address nor the name of a host"),
    "mark of 5,000 digits": (interface("FwMark = " + "1" * 5000), 78, " is not a number from 0 to 4294967295 or "),
    "endpoint of 5,000 digits": (
        replaced("127.0.0.1:", "1" * 5000 + ".0.0.1:"),
        78,
        "neither an address nor the name of a host",
    ),
    "port of 5,000 digits": (interface("ListenPort = " + "1" * 5000), 78, ":4: ListenPort: "),
    "endpoint nearly an address": (
        replaced("127.0.0.1:", "1.2.3.400:"),
        78,
        "neither an address nor the name of a host",
    ),
    "no equals sign": (peer("PersistentKeepalive 25"), 78, ':9: not "Key = value"'),
    "a key in the wrong place": (replaced("10.9.0.2/32", PRIVATE), 78, "(not shown: it looks like a key)"),
    "a hook without a section": ("PostUp = true\n" + MINIMAL, 78, ":1: PostUp appears before any section"),
}


@pytest.mark.parametrize("what", BAD_TEXTS)
def test_bad_configuration(what: str, unchanged: None) -> None:
    """A bad configuration is named with its line, ends with 78, and changes nothing."""
    text, code, message = BAD_TEXTS[what]
    shell("ip netns add wg; mkdir -m 700 -p /etc/wireguard")
    CONFIG.write_bytes(text if isinstance(text, bytes) else text.encode())
    before = snapshot()
    done = run("wg-up")
    dry = run("wg-up", "--dry-run")
    assert (done.returncode, dry.returncode) == (code, code), done.stderr
    assert message in done.stderr
    assert done.stderr == dry.stderr
    lines = [line for line in done.stderr.splitlines() if "warning" not in line]
    assert all(line.startswith("wg-up: ") and len(line) < 300 for line in lines)
    assert snapshot() == before
    shell("ip netns del wg")


def _fifo() -> None:
    os.mkfifo(CONFIG)


# what: (preparation, exit code, what the message must hold)
BAD_FILES: dict[str, tuple[Callable[[], object], int, str]] = {
    "missing": (lambda: None, 78, "hint: install -m 600 PROVIDER.conf /etc/wireguard/wg.conf"),
    "a directory": (CONFIG.mkdir, 78, 'wg.conf": is a directory'),
    "a FIFO": (_fifo, 78, "wg.conf: not a regular file"),
    "a device": (lambda: CONFIG.symlink_to("/dev/zero"), 78, "wg.conf: not a regular file"),
    "a link to nowhere": (lambda: CONFIG.symlink_to("/nowhere"), 78, "no such file"),
    "a link to itself": (lambda: CONFIG.symlink_to("wg.conf"), 78, "too many levels"),
    "a socket": (
        lambda: shell("python3 -c \"import socket; socket.socket(1).bind('/etc/wireguard/wg.conf')\""),
        78,
        "",
    ),
}


@pytest.mark.parametrize("what", BAD_FILES)
def test_bad_file(what: str, unchanged: None) -> None:
    """What cannot be a configuration file is refused at once, without waiting for it."""
    prepare, code, message = BAD_FILES[what]
    shell("mkdir -p /etc/wireguard")
    prepare()
    done = run("wg-up")
    assert done.returncode == code, done.stderr
    assert message in done.stderr


def test_a_comment_in_another_encoding(unchanged: None) -> None:
    """Only values matter: wg(8) reads a file whose comments are Latin-1, too."""
    text = MINIMAL.replace("[Peer]", "# Zürich\n[Peer]").encode("latin-1")
    path = Path("/run/latin-1.conf")
    path.write_bytes(text)
    done = run("wg-up", "--config", str(path), "--dry-run")
    path.unlink()
    assert (done.returncode, done.stderr.count("not UTF-8")) == (0, 0), done.stderr


def test_two_peers_with_the_same_networks(unchanged: None) -> None:
    """The kernel gives them to the last one, so a warning names them."""
    text = MINIMAL + f"[Peer]\nPublicKey = {PUBLIC2}\nAllowedIPs = 10.0.0.0/8, 0.0.0.0/0\n"
    done = run("wg-up", "--config", "-", "--dry-run", input=text)
    assert "warning: standard input: several peers have the allowed IPs 0.0.0.0/0: only the last one" in done.stderr
    assert (
        "several peers" not in run("wg-up", "--config", "-", "--dry-run", input=text.replace(", 0.0.0.0/0", "")).stderr
    )


def test_a_path_in_place_of_a_name(unchanged: None) -> None:
    """`wg-up ./NAME.conf` takes that file for the tunnel NAME, as wg-quick(8) does."""
    Path("/run/mullvad.conf").touch(0o600)
    Path("/run/mullvad.conf").write_text(MINIMAL)
    done = run("wg-up", "./mullvad.conf", "--dry-run", cwd="/run")
    assert done.stdout.startswith('link "mullvad", wireguard in namespace "mullvad"'), done.stderr
    assert 'namespace "mullvad"' in run("wg-down", "/run/mullvad.conf").stderr
    long = run("wg-up", "./a-name-that-is-too-long.conf", "--dry-run")
    assert (long.returncode, "at most 15 characters" in long.stderr) == (2, True)
    Path("/run/mullvad.conf").unlink()


def test_a_mistyped_name(unchanged: None) -> None:
    """The hint has the nearest name that exists."""
    shell("ip netns add mullvad; ip netns add other")
    for command in (["wgns", "exec", "mulvad", "true"], ["wgns", "status", "mulvad"]):
        assert "hint: did you mean mullvad? netns-up mulvad makes one" in run(*command).stderr
    shell("ip netns del mullvad; ip netns del other")


def test_a_command_without_its_tunnel(unchanged: None) -> None:
    """`wgns exec` names the unit to be started, and what it cannot show the command."""
    shell("ip netns add wg; ip netns add my+vpn; mkdir -p /run/wgns/my+vpn")
    for name, unit in (("wg", "wg@wg.service"), ("my+vpn", r"wg@my\x2bvpn.service")):
        done = run("wgns", "exec", name, "true")
        assert (done.returncode, f"there is no /run/wgns/{name}/" in done.stderr) == (69, True), done.stderr
        assert done.stderr.endswith(f"hint: systemctl start {unit}\n"), done.stderr
    shell("mkdir /run/wgns/wg; touch /run/wgns/wg/resolv.conf /run/wgns/wg/nsswitch.conf")
    done = run("wgns", "exec", "wg", "--allow", "/run/typo", "true")
    assert (done.returncode, "there is no /run/typo\n" in done.stderr) == (69, True), done.stderr
    shell("ip netns del wg; ip netns del my+vpn; rm -r /run/wgns/wg /run/wgns/my+vpn")


def test_no_word_after_a_failure(unchanged: None) -> None:
    """In ExecStopPost= of a start that failed, the reason of the failure stays the last line."""
    for program, said in (("wg-down", "nothing to take down"), ("netns-down", 'there is no "wg"')):
        assert run(program, "wg", env={"SERVICE_RESULT": "exit-code"}).stderr == ""
        assert said in run(program, "wg", env={"SERVICE_RESULT": "success"}).stderr


def test_unreadable_configuration(unchanged: None) -> None:
    """A configuration that may not be read ends with 77 and a hint."""
    shell("mkdir -p /etc/wireguard; touch /etc/wireguard/wg.conf; chmod 600 /etc/wireguard/wg.conf")
    shell("chown 65534 /etc/wireguard/wg.conf")
    done = run("wg-up", before=POWERLESS)
    assert done.returncode == 77
    assert "/etc/wireguard/wg.conf: permission denied" in done.stderr
    assert "hint: " in done.stderr


# command line: (exit code, what the message must hold)
BAD_COMMANDS: dict[tuple[str, ...], str] = {
    ("netns-up",): "expected one NAME, 0 given",
    ("netns-up", "a", "b"): "expected one NAME, 2 given",
    ("netns-up", ""): "is not a name",
    ("netns-up", "."): "is not a name",
    ("netns-up", ".."): "is not a name",
    ("netns-up", "--", "-x"): "is not a name",
    ("netns-up", "-x"): "unknown option",
    ("netns-up", "a b"): "is not a name",
    ("netns-up", "ä"): "is not a name",
    ("netns-up", "a\nb"): "is not a name",
    ("netns-up", "a*"): "is not a name",
    ("netns-up", "n" * 256): "is not a name",
    ("netns-up", f"{PRIVATE[:20]} {PRIVATE[20:]}"): "(not shown: it looks like a key)",
    ("netns-up", f"{PRIVATE[:20]}\t\u200b{PRIVATE[20:]}"): "(not shown: it looks like a key)",
    ("netns-up", "my\\x2dvpn"): "hint: write %I in the unit, not %i",
    ("netns-down", "../x y"): "is not a name",
    ("netns-down", "--force", "x"): 'unknown option "--force"',
    ("wg-up", "n" * 16): "at most 15 characters",
    ("wg-up", "a:b"): "cannot be an interface's name",
    ("wg-up", "lo"): "cannot be an interface's name",
    ("wg-up", "all"): "cannot be an interface's name",
    ("wg-up", "--netns"): "--netns needs a value",
    ("wg-up", "--private-key", ""): "--private-key needs a value",
    ("wg-up", "--config="): "--config needs a value",
    ("wg-up", "--netns", PRESHARED[:-2]): "(not shown: it looks like a key)",
    ("wg-up", "--netns", "a b"): "is not a name",
    ("wg-up", "--dry-run=yes"): "--dry-run takes no value",
    ("wg-up", "--config", "a", "--config", "b"): "--config is given twice",
    ("wg-up", PRIVATE): "(not shown: it looks like a key)",
    ("wg-up", "--netns", "a\x1b[31m\nb"): '"a\\x1b[31m\\nb" is not a name',
    ("wg-down", "--config", "x"): 'unknown option "--config"',
    ("wg-down", "default"): "cannot be an interface's name",
    ("wg-up", "--wait-handshake", "1.5"): "expected a number of seconds from 0 to 3600",
    ("wg-up", "--resolve-timeout", "3601"): "expected a number of seconds from 0 to 3600",
    ("wg-up", "--resolve-timeout=²"): "expected a number of seconds from 0 to 3600",
    ("wgns",): "expected confine, release, publish, reach, forward, status, check, exec or refresh",
    ("wgns", "chek"): "expected confine, release, publish, reach, forward, status, check, exec or refresh",
    ("wgns", "check", "a", "b"): "expected one NAME, 2 given",
    ("wgns", "check", "--yes"): "unknown option",
    ("wgns", "status", "a", "b"): "expected one NAME, 2 given",
    ("wgns", "status", "--jsn"): 'unknown option "--jsn"',
    ("wgns", "status", "--json=1"): "--json takes no value",
    ("wgns", "status", "n" * 16): "at most 15 characters",
    ("wgns", "refresh", "a", "b"): "expected one NAME, 2 given",
    ("wgns", "refresh", "--json"): 'unknown option "--json"',
    ("wgns", "refresh", PRIVATE): "(not shown: it looks like a key)",
    ("wgns", "exec", "wg"): "expected NAME and COMMAND, 1 given",
    ("wgns", "exec", "wg", "--user", "", "true"): "--user needs a value",
    ("wgns", "dropin"): "expected one NAME, 0 given",
    ("wgns", "dropin", "a b"): "is not a name",
    ("wgns", "dropin", "wg", "--unit", "a/b"): "hint: expected a .service or a .socket",
}


@pytest.mark.parametrize("command", BAD_COMMANDS, ids=lambda command: " ".join(command)[:40])
def test_bad_command_line(command: tuple[str, ...], unchanged: None) -> None:
    """A command line that makes no sense ends with 2 and changes nothing."""
    done = run(*command)
    assert done.returncode == 2, done.stderr
    assert BAD_COMMANDS[command] in done.stderr


def test_a_missing_namespace(unchanged: None) -> None:
    """Without its namespace wg-up ends with 69 and names the program that makes one."""
    done = run("wg-up", "--config", "-", input=MINIMAL)
    assert done.returncode == 69
    assert 'there is no network namespace "wg"' in done.stderr
    assert "hint: netns-up wg makes one" in done.stderr


def test_a_file_in_place_of_the_namespace() -> None:
    """A pin that is invisible here looks like a plain file: 69, with the hint about private mounts."""
    shell("mkdir -p /run/netns; touch /run/netns/wg")
    before = snapshot()
    done = run("wg-up", "--config", "-", input=MINIMAL)
    assert done.returncode == 69
    assert "nothing is mounted on it" in done.stderr
    assert "PrivateMounts=false" in done.stderr
    assert snapshot() == before


def test_another_kind_of_namespace() -> None:
    """A namespace of another kind under the name is somebody's: no program touches it."""
    shell("mkdir -p /run/netns; touch /run/netns/wg; mount --bind /proc/self/ns/uts /run/netns/wg")
    before = snapshot()
    for command in (("wg-up", "--config", "-"), ("wg-down",), ("netns-up", "wg"), ("netns-down", "wg")):
        done = run(*command, input=MINIMAL)
        assert done.returncode == 1, done.stderr
        assert "not one for the network" in done.stderr
    assert snapshot() == before


def test_inside_the_target_namespace() -> None:
    """Started inside the target, wg-up would give the tunnel no way out: refused."""
    run("netns-up", "wg").check_returncode()
    before = snapshot()
    done = run("wg-up", "--config", "-", input=MINIMAL, before=("nsenter", "--net=/run/netns/wg"))
    assert done.returncode == 77
    assert "runs inside the network namespace" in done.stderr
    assert snapshot() == before


def test_a_link_of_another_kind() -> None:
    """A link of that name that is no WireGuard link is somebody's: up and down leave it alone."""
    shell("ip netns add wg; ip -n wg link add wg type bridge")
    before = snapshot()
    done = run("wg-up", "--config", "-", input=MINIMAL)
    assert done.returncode == 1
    assert 'a link "wg" that is not WireGuard but bridge' in done.stderr
    done = run("wg-down")
    assert done.returncode == 1
    assert "not WireGuard but bridge" in done.stderr
    assert snapshot() == before


def test_a_kernel_without_wireguard() -> None:
    """Where the kernel knows no WireGuard, wg-up says so with 69, and makes nothing."""
    done = subprocess.run(["ip", "link", "add", "probe", "type", "wireguard"], capture_output=True, check=False)
    if done.returncode == 0:
        pytest.skip("this kernel has WireGuard")
    shell("ip netns add wg")
    before = snapshot()
    up = run("wg-up", "--config", "-", input=MINIMAL)
    assert up.returncode == 69
    assert "the kernel has no WireGuard" in up.stderr
    assert snapshot() == before


def test_without_privilege_it_says_so() -> None:
    """Without the capabilities for it wg-up and wg-down end with 77 and a hint."""
    shell("ip netns add wg")
    before = snapshot()
    for program, arguments in (("wg-up", ("--config", "-")), ("wg-down", ())):
        done = run(program, *arguments, input=MINIMAL, before=POWERLESS)
        assert done.returncode == 77, done.stderr
        assert "hint: root lacks a capability" in done.stderr
    assert snapshot() == before


def test_an_endpoint_that_does_not_resolve() -> None:
    """A name that does not resolve ends with 75, so that a unit tries again; nothing has been made."""
    shell("ip netns add wg; echo 'hosts: files' > /etc/nsswitch.conf")
    before = snapshot()
    done = run("wg-up", "--config", "-", input=replaced("127.0.0.1:", "vpn.example:"))
    assert done.returncode == 75
    assert 'endpoint "vpn.example" does not resolve' in done.stderr
    in_place_of_a_name = run("wg-up", "--config", "-", input=replaced("127.0.0.1:", PUBLIC[:43] + ":"))
    assert in_place_of_a_name.returncode == 75
    assert "endpoint (not shown: it looks like a key)" in in_place_of_a_name.stderr
    assert snapshot() == before


def test_hooks_are_named_and_never_executed() -> None:
    """PostUp= and its like stand in one warning with their lines, and nothing of them is run."""
    text = MINIMAL + "\n[Interface]\nPostUp = touch /run/hooked\nsaveconfig = true\nPreDown = touch /run/hooked\n"
    done = run("wg-up", "--config", "-", "--dry-run", input=text)
    assert done.returncode == 0
    assert "never executed: PostUp (line 11), SaveConfig (line 12), PreDown (line 13)" in done.stderr
    assert not Path("/run/hooked").exists()


def test_a_key_that_others_can_read_gives_a_warning() -> None:
    """A key that every user can read is warned of, in the configuration and in a file of its own."""
    shell(f"mkdir -p -m 755 /etc/wireguard; echo {PRIVATE} > /etc/wireguard/key; chmod 644 /etc/wireguard/key")
    CONFIG.write_text(MINIMAL)
    CONFIG.chmod(0o644)
    done = run("wg-up", "--dry-run", "--private-key", "/etc/wireguard/key")
    assert done.returncode == 0
    assert "/etc/wireguard/wg.conf holds a key and can be read by every user" in done.stderr
    assert "/etc/wireguard/key can be read by every user" in done.stderr
    shell("chmod 600 /etc/wireguard/key /etc/wireguard/wg.conf")
    assert run("wg-up", "--dry-run", "--private-key", "/etc/wireguard/key").stderr == ""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors_are_no_trap(closed: str) -> None:
    """Without standard input, output or error nothing else takes their place, and the exit codes are the same."""
    before = ("sh", "-c", f'exec "$@" {closed}', "sh")
    assert run("netns-up", "wg", before=before).returncode == 0
    assert run("netns-up", "wg", before=before).returncode == 0
    assert run("wg-up", "--config", "/nowhere", before=before).returncode == 78
    assert run("wg-up", "--help", before=before).returncode == 0
    assert run("netns-down", "wg", before=before).returncode == 0


def test_a_full_disk_is_no_success() -> None:
    """When the steps cannot be printed, --dry-run does not say that all is well."""
    done = run("wg-up", "--config", "-", "--dry-run", before=("sh", "-c", 'exec "$@" > /dev/full', "sh"), input=MINIMAL)
    assert done.returncode == 1
    assert "no space left" in done.stderr


def test_an_internal_error_shows_no_traceback() -> None:
    """A fault of the program itself is one line too; WGNS_DEBUG=1 is the way to more."""
    driver = "import sys; sys.argv = ['wg-up', '--dry-run', '--config', '-']; from wgns_helpers import cli, config; "
    driver += "config.load = lambda *_: {}['x']; cli.main('wg-up')"
    done = subprocess.run([sys.executable, "-c", driver], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("wg-up: internal error: KeyError\nwg-up: hint: ")
