"""Configuration text to values: what is accepted means what wg(8) and wg-quick(8) say it means."""

from __future__ import annotations

import base64
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import MINIMAL, PRESHARED, PRIVATE, PUBLIC, PUBLIC2, assert_no_key
from wgns_helpers import config
from wgns_helpers.errors import ConfigError, Failure, MissingError
from wgns_helpers.tunnel import Endpoint, Network, Peer, Port, Route, Tunnel, endpoint, network


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


def load(tmp_path: Path, text: str, option: str = "") -> Tunnel:
    """The tunnel that a file with this text describes."""
    path = tmp_path / "wg.conf"
    path.write_text(text, newline="")
    path.chmod(0o600)
    return config.load(str(path), option)


def b64(text: str) -> bytes:
    """The bytes of a key."""
    return base64.b64decode(text)


FULL = f"""# a provider's file
[interface]
PRIVATEKEY={PRIVATE}   # the key
Address = 10.9.0.2/24, fd09::2/64 10.9.1.2
address = 10.9.2.2
ListenPort = 51 820
FwMark = 0xCafe
MTU = 1400
Table = 1234
DNS = 10.64.0.1, fd09::1
DNS = example.com lan
#! [Peer]

[ Peer ]
PublicKey = {PUBLIC}
PresharedKey = {PRESHARED}
AllowedIPs = 10.0.0.0/8
allowedips = ::/0,0.0.0.0/0
#! AllowedIPs = 1.1.1.1/32
Endpoint = [fd00::1]:51820
PersistentKeepalive = off
[Peer]
PublicKey = {PUBLIC2}
Endpoint = vpn.example.com:1
PersistentKeepalive = 25
[Interface]
# nothing more
"""


def test_every_key(tmp_path: Path) -> None:
    """Each key of the table has its value, whatever the case of its name, and comments have none."""
    tunnel = load(tmp_path, FULL)
    assert tunnel.private_key == b64(PRIVATE)
    assert tunnel.addresses == tuple(map(network, ("10.9.0.2/24", "fd09::2/64", "10.9.1.2/32", "10.9.2.2/32")))
    assert (tunnel.listen_port, tunnel.fwmark, tunnel.mtu, tunnel.table) == (51820, 0xCAFE, 1400, 1234)
    assert (tunnel.dns, tunnel.search) == (("10.64.0.1", "fd09::1"), ("example.com", "lan"))
    first, second = tunnel.peers
    assert (first.public_key, first.preshared_key) == (b64(PUBLIC), b64(PRESHARED))
    assert first.allowed_ips == tuple(map(network, ("10.0.0.0/8", "::/0", "0.0.0.0/0")))
    assert (str(first.endpoint), first.keepalive) == ("[fd00::1]:51820", 0)
    assert (second.public_key, second.preshared_key, second.allowed_ips) == (b64(PUBLIC2), b"", ())
    assert (str(second.endpoint), second.keepalive) == ("vpn.example.com:1", 25)


@pytest.mark.parametrize("newline", ["\r\n", "\n\n", "\n\t\v\f "])
def test_white_space_does_not_matter(tmp_path: Path, newline: str) -> None:
    """Windows line ends, empty lines and blanks at the edges change nothing."""
    assert load(tmp_path, MINIMAL.replace("\n", newline)) == load(tmp_path, MINIMAL)


def test_endpoints_alone(tmp_path: Path) -> None:
    """`wgns refresh` gets the public keys and the endpoints, and no secret: a missing key file is no failure."""
    path = tmp_path / "wg.conf"
    path.write_text(FULL.replace(f"PRIVATEKEY={PRIVATE}", "PrivateKeyFile = missing"))
    first, second = config.load_endpoints(str(path)).peers
    assert first == Peer(b64(PUBLIC), endpoint=endpoint("[fd00::1]:51820"))
    assert second == Peer(b64(PUBLIC2), endpoint=Endpoint("vpn.example.com", 1))
    assert config.load_endpoints(str(path)).private_key == b""


def test_a_setting_behind_the_mark_of_wgconfig_is_a_comment(tmp_path: Path) -> None:
    """`#! AllowedIPs = 0.0.0.0/0` would be active in wgconfig; here it is the comment that it looks like."""
    marked = MINIMAL.replace("AllowedIPs = 0.0.0.0/0", "AllowedIPs = 10.0.0.0/8\n#! AllowedIPs = 0.0.0.0/0")
    assert load(tmp_path, marked).peers[0].allowed_ips == (network("10.0.0.0/8"),)
    assert len(load(tmp_path, MINIMAL + f"#! [Peer]\n#! PublicKey = {PUBLIC2}\n").peers) == 1


def test_a_host_in_place_of_a_network_gives_a_warning(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As wg(8) does, the network is used, and a line says so."""
    load(tmp_path, MINIMAL.replace("0.0.0.0/0", "10.0.0.0/8, 10.1.2.3/16"))
    assert capfd.readouterr().err.endswith(
        "wg.conf:7: AllowedIPs: 10.1.2.3/16 is a host in 10.1.0.0/16, which is used\n"
    )


def test_what_is_empty_is_not_set(tmp_path: Path) -> None:
    """As to wg-quick(8), MTU, Table, Address and DNS without a value say nothing, and may be set elsewhere."""
    empty = load(tmp_path, MINIMAL.replace("[Peer]", "MTU =\nTable=\nAddress =\nDNS = # none\n[Peer]"))
    assert empty == load(tmp_path, MINIMAL)
    assert load(tmp_path, MINIMAL.replace("[Peer]", "MTU =\nMTU = 1400\n[Peer]")).mtu == 1400


def test_leading_zeros_and_single_digits(tmp_path: Path) -> None:
    """What wgconfig turns into a number or a list still has its meaning."""
    tunnel = load(tmp_path, MINIMAL.replace("[Peer]", "ListenPort = 00080\nFwMark = 7\n[Peer]"))
    assert (tunnel.listen_port, tunnel.fwmark) == (80, 7)
    many = "0" * 5000
    tunnel = load(tmp_path, MINIMAL.replace("[Peer]", f"ListenPort = {many}80\nFwMark = {many}7\n[Peer]"))
    assert (tunnel.listen_port, tunnel.fwmark) == (80, 7)


def test_a_preshared_key_of_zeros_is_none(tmp_path: Path) -> None:
    """As to wg(8) and the kernel."""
    zeros = base64.b64encode(bytes(32)).decode()
    assert load(tmp_path, f"{MINIMAL}PresharedKey = {zeros}\n") == load(tmp_path, MINIMAL)


@pytest.mark.parametrize(("text", "mark"), [("off", 0), ("OFF", 0), ("0", 0), ("0x0", 0), ("0xffffffff", 2**32 - 1)])
def test_marks(text: str, mark: int) -> None:
    """Marks as wg(8) has them."""
    assert config.fwmark(text) == mark


@pytest.mark.parametrize(("text", "table"), [("auto", 254), ("off", 0), ("1", 1), ("4294967295", 2**32 - 1)])
def test_tables(tmp_path: Path, text: str, table: int) -> None:
    """Tables as wg-quick(8) has them; auto is the main table of the namespace."""
    assert load(tmp_path, MINIMAL.replace("[Peer]", f"Table = {text}\n[Peer]")).table == table


def test_keys_in_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Key files stand beside the configuration, or are credentials, which win."""
    text = MINIMAL.replace(f"PrivateKey = {PRIVATE}", "PrivateKeyFile = own").replace(
        "Endpoint", "PresharedKeyFile=psk\nEndpoint"
    )
    (tmp_path / "own").write_text(f"{PRIVATE}\n")
    (tmp_path / "psk").write_text(f"{PRESHARED}\n")
    for name in ("own", "psk"):
        (tmp_path / name).chmod(0o600)
    tunnel = load(tmp_path, text)
    assert (tunnel.private_key, tunnel.peers[0].preshared_key) == (b64(PRIVATE), b64(PRESHARED))
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "own").write_text(PUBLIC2)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    assert load(tmp_path, text).private_key == b64(PUBLIC2)


def test_a_file_name_of_digits_stays_as_it_is(tmp_path: Path) -> None:
    """A file name like 007 is no number, which wgconfig would make of it."""
    (tmp_path / "007").write_text(PRIVATE)
    (tmp_path / "007").chmod(0o600)
    assert load(tmp_path, MINIMAL.replace(f"PrivateKey = {PRIVATE}", "PrivateKeyFile = 007")).private_key == b64(
        PRIVATE
    )


def test_where_the_private_key_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--private-key before the file's before the credential private-key."""
    option = tmp_path / "option"
    option.write_text(PRESHARED)
    option.chmod(0o600)
    (tmp_path / "private-key").write_text(PUBLIC2)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    without = MINIMAL.replace(f"PrivateKey = {PRIVATE}\n", "")
    assert load(tmp_path, MINIMAL, str(option)).private_key == b64(PRESHARED)
    assert load(tmp_path, without, str(option)).private_key == b64(PRESHARED)
    assert load(tmp_path, MINIMAL).private_key == b64(PRIVATE)
    assert load(tmp_path, without).private_key == b64(PUBLIC2)


def test_a_private_key_in_the_working_folder_is_no_credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without $CREDENTIALS_DIRECTORY a file private-key in the working folder is not read."""
    (tmp_path / "private-key").write_text(PUBLIC2)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no private key"):
        load(tmp_path, MINIMAL.replace(f"PrivateKey = {PRIVATE}\n", ""))


def test_routes() -> None:
    """Each allowed network is a route once, without host bits, but for what an address brings along."""
    routes = ("10.0.0.5/8", "10.0.0.0/8", "0.0.0.0/0", "10.9.0.0/24", "fd09::/64")
    peers = Peer(b64(PUBLIC), allowed_ips=tuple(map(network, routes)))
    tunnel = Tunnel(b"", addresses=(network("10.9.0.2/24"), network("fd09::2/64")), peers=(peers,))
    assert list(map(str, tunnel.routed())) == ["10.0.0.0/8", "0.0.0.0/0"]
    assert list(map(str, tunnel._replace(table=5).routed()))[2:] == ["10.9.0.0/24", "fd09::/64"]
    assert tunnel._replace(table=0).routed() == []


def test_without_ipv6() -> None:
    """Where the namespace has no IPv6, nothing of it is left."""
    peers = (Peer(b64(PUBLIC), allowed_ips=(network("::/0"), network("0.0.0.0/0"))),)
    tunnel = Tunnel(b"", addresses=(network("fd00::1"), network("10.0.0.1")), dns=("fd00::1", "1.1.1.1"), peers=peers)
    less = tunnel.without_ipv6()
    assert (less.addresses, less.dns) == ((network("10.0.0.1"),), ("1.1.1.1",))
    assert less.peers[0].allowed_ips == (network("0.0.0.0/0"),)


def test_values_are_immutable_and_keep_keys_to_themselves(tmp_path: Path) -> None:
    """A value cannot be changed, equals its like, and shows no key when printed."""
    tunnel = load(tmp_path, FULL)
    with pytest.raises(AttributeError):
        tunnel.mtu = 5  # type: ignore[misc]
    assert tunnel == load(tmp_path, FULL)
    assert_no_key(repr(tunnel) + repr(tunnel.peers))
    assert b64(PRIVATE).hex() not in repr(tunnel)


def test_unknown_and_missing_fields_are_refused() -> None:
    """A misspelled field is an error, not a value that is lost."""
    with pytest.raises(TypeError):
        Peer(b"", keepalve=25)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Peer(b"")._replace(keepalve=25)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Network(2, b"", 0, 0)  # type: ignore[call-arg]
    with pytest.raises(KeyError):
        Network(2, prefix=1)  # type: ignore[call-arg]
    assert Network(2, prefix=1, address=b"") == Network(2, b"", 1)


def test_as_the_kernel_has_it() -> None:
    """The key is clamped, allowed IPs lose host bits and belong to the last peer that lists them."""
    first = Peer(b"1", allowed_ips=(network("10.1.2.3/8"), network("::/0"), network("fd00::/8")))
    second = Peer(b"2", allowed_ips=(network("10.0.0.0/8"), network("::/0")))
    tunnel = Tunnel(b"\xff" * 32, table=7, peers=(first, second)).as_in_kernel()
    assert tunnel.private_key == b"\xf8" + b"\xff" * 30 + b"\x7f"
    assert [peer.allowed_ips for peer in tunnel.peers] == [(network("fd00::/8"),), second.allowed_ips]
    assert tunnel.routes == tuple(Route(network(text), 7) for text in ("10.0.0.0/8", "::/0", "fd00::/8"))
    again = tunnel.as_in_kernel()
    assert again._replace(routes=()) == tunnel._replace(routes=())
    assert set(again.routes) == set(tunnel.routes)


def test_the_missing_library_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without wgconfig the program ends with 69 and the way to get it."""
    monkeypatch.setitem(__import__("sys").modules, "wgconfig", None)
    with pytest.raises(MissingError, match="wgconfig is missing"):
        load(tmp_path, MINIMAL)


def test_ten_thousand_peers(tmp_path: Path) -> None:
    """Long lists arrive whole and in order."""
    keys = [base64.b64encode(number.to_bytes(32, "big")).decode() for number in range(10_000)]
    text = MINIMAL + "".join(
        f"[Peer]\nPublicKey = {key}\nAllowedIPs = fd00::{key[-4:-1].encode().hex()[:4]}\n" for key in keys
    )
    assert [peer.public_key for peer in load(tmp_path, text).peers[1:]] == list(map(b64, keys))


@given(st.text(st.characters(codec="utf-8"), max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Whatever stands in the file, the outcome is sections or a refusal in one line, without anything like a key."""
    try:
        config.sections((MINIMAL + text).encode(), "wg.conf")
    except Failure as failure:
        said = f"{failure}; {failure.hint}"
    else:
        said = ""
    assert "\n" not in said
    assert_no_key(said)


lines = st.sampled_from(
    [*MINIMAL.splitlines(), "#! [Peer]", "DNS=", "Endpoint = [::1]:1", "PostUp = x", "MTU=1400", "[Peer]"]
)


@given(st.lists(lines, max_size=12))
def test_any_order_of_lines_is_read_or_refused(chosen: list[str]) -> None:
    """Known lines in any order end in sections or in one line, and never lose a peer."""
    try:
        _, peers = config.sections("\n".join(chosen).encode(), "wg.conf")
    except Failure as failure:
        assert_no_key(str(failure) + failure.hint)
    else:
        assert len(peers) == chosen.count("[Peer]")


@given(st.ip_addresses(), st.integers(0, 128))
def test_networks_as_inet_pton_has_them(address: object, prefix: int) -> None:
    """Every address with every legal prefix length is itself again."""
    text = f"{address}/{min(prefix, 32 if '.' in str(address) else 128)}"
    found = network(text)
    assert socket.inet_ntop(found.family, found.address) == socket.inet_ntop(
        found.family, socket.inet_pton(found.family, str(address))
    )
    assert str(found).rpartition("/")[2] == text.rpartition("/")[2]


TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
OPEN_PORTS = {
    "": (),
    "OpenPorts = all": None,
    "OpenPorts = 51413": (Port(TCP, 51413, 51413), Port(UDP, 51413, 51413)),
    "openports = 8443/tcp, 6881-6889/udp": (Port(TCP, 8443, 8443), Port(UDP, 6881, 6889)),
    "OpenPorts = 9/udp\nOpenPorts = 9/udp, 1/tcp": (Port(TCP, 1, 1), Port(UDP, 9, 9)),
    "OpenPorts = 1-65535/tcp # comment": (Port(TCP, 1, 65535),),
}


@pytest.mark.parametrize("text", OPEN_PORTS)
def test_open_ports(text: str, tmp_path: Path) -> None:
    """One or more ports or ranges, by one protocol or both, in any order; by default none."""
    full = MINIMAL.replace("[Peer]", f"{text}\n[Peer]")
    assert load(tmp_path, full).open_ports == OPEN_PORTS[text]
    assert config.load_open_ports(str(tmp_path / "wg.conf")) == OPEN_PORTS[text]


WRONG_PORTS = (
    "0",
    "65536",
    "9-8",
    "9-",
    "-9",
    "9/",
    "9/sctp",
    "tcp",
    "/tcp",
    "9/tcp/udp",
    "1-2-3",
    "0x9",
    "9 9/tcp/",
    "",
)


@pytest.mark.parametrize("text", WRONG_PORTS)
def test_what_is_no_open_port(text: str, tmp_path: Path) -> None:
    """It is refused with its line; a list is, too, that has "all" among others."""
    for value in (text, ", ".join(map(str, range(1, 202))), f"51413, {text}" if text else "all, 51413"):
        with pytest.raises(ConfigError, match=r"wg\.conf:4: (OpenPorts: |OpenPorts is empty)"):
            load(
                tmp_path,
                MINIMAL.replace("Address", f"OpenPorts = {value}\nAddress").replace("[Interface]", "\n[Interface]"),
            )
