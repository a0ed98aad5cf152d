"""The filter of a tunnel's namespace: by nf_tables, the far side reaches open ports only.

Each tunnel has a table of its own, so where two share a namespace, a port is open if both open it. Numbers are those of
linux/netfilter.h, linux/netfilter/nfnetlink.h and linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import errno
from struct import pack

from . import netlink, netns
from .errors import Failure, MissingError
from .netlink import KernelRefusedError, Request, Socket, attribute, attributes, each
from .tunnel import Port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    Ports = tuple[Port, ...] | None  # None: no filter, so that every port is open
    Message = tuple[int, int, bytes]  # kind, flags, payload
    Rule = list[tuple[bytes, dict[int, bytes]]]  # expressions: name and attributes

CHANGED = (Port(0, 0, 0),)  # stands for a filter that another program has changed

_BATCH_BEGIN, _BATCH_END, _NFTABLES = 16, 17, 10  # NFNL_SUBSYS_NFTABLES
_NEWTABLE, _GETTABLE, _DELTABLE, _NEWCHAIN, _GETCHAIN, _NEWRULE, _GETRULE, _DELRULE = 0, 1, 2, 3, 4, 6, 7, 8
_NFPROTO_INET, _LOCAL_IN, _APPEND = 1, 1, 0x800  # NF_INET_LOCAL_IN, NLM_F_APPEND
_DROP, _ACCEPT, _JUMP = 0, 1, -3
_REGISTER = pack(">I", 1)  # NFT_REG_1
_EQUAL, _UNEQUAL, _AT_MOST, _AT_LEAST = 0, 1, 3, 5  # enum nft_cmp_ops
_IIF, _L4PROTO = 4, 16  # enum nft_meta_keys
_LO = 1  # the index of lo in each namespace (LOOPBACK_IFINDEX)
_RELATED = 4  # NF_CT_STATE_BIT(IP_CT_RELATED)
_STATE, _DIRECTION, _REPLY = 0, 1, 1  # enum nft_ct_keys, IP_CT_DIR_REPLY
# What kernels answer that lack nf_tables, its family inet or one of its parts
_LACKING = (errno.EINVAL, errno.ENOENT, errno.EOPNOTSUPP, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT)


class Batch(Request):
    """Messages that the kernel carries out all together or not at all, and answers like one."""

    __slots__ = ("messages",)

    def __init__(self, what: str, messages: list[Message]) -> None:
        super().__init__(what, 0, b"", 0, netlink.NETLINK_NETFILTER)
        self.messages = messages

    def pack(self, sequence: int) -> bytes:
        """The messages between the marks of a batch; only the last one asks for an answer, but each can be refused."""
        mark = pack(">BBH", 0, 0, _NFTABLES)
        parts = [
            netlink.message(kind | _NFTABLES << 8, netlink.REQUEST | flags, sequence, body)
            for kind, flags, body in self.messages
        ]
        kind, flags, body = self.messages[-1]
        parts[-1] = netlink.message(kind | _NFTABLES << 8, netlink.REQUEST | netlink.ACK | flags, sequence, body)
        begin, end = (netlink.message(kind, netlink.REQUEST, sequence, mark) for kind in (_BATCH_BEGIN, _BATCH_END))
        return b"".join([begin, *parts, end])

    def explain(self, failure: Failure) -> Failure:
        """A kernel without nf_tables, its family inet or one of its parts."""
        if not isinstance(failure, KernelRefusedError) or failure.errno not in _LACKING:
            return failure
        lacking = netns.lacking("nf_tables for the filter of inbound packets", "nf_tables nft_ct")
        return MissingError(f"{lacking} ({failure})", f"{lacking.hint}; OpenPorts = all leaves the filter out")


def words(ports: Ports) -> list[str]:
    """The open ports, each in words."""
    return ["all"] if ports is None else ["unknown"] if ports == CHANGED else list(map(str, ports))


def change(name: str, now: Ports, wanted: Ports) -> Iterator[Request]:
    """Turn the filter of the tunnel `name` into the one that opens these ports, without a moment between the two.

    In an intact filter, only rules are replaced: a new chain drops everything until its rules are in force.
    """
    if wanted == now:
        return
    if wanted is None:
        yield Batch("open to the far side: all", _remove(name))
        return
    head = [(_DELRULE, 0, _place(name, 2, b"input"))]
    if now is None or now == CHANGED:
        head = [*_remove(name), _table(name, _NEWTABLE)]
        head += [(_NEWCHAIN, netlink.CREATE, _place(name, 3, b"forwarded")), (_NEWCHAIN, netlink.CREATE, _base(name))]
    rules = [_new_rule(name, b"input", rule) for rule in _rules(() if wanted == CHANGED else wanted)]
    yield Batch(f"open to the far side: {', '.join(words(wanted)) or 'no port'}", head + rules)


def forward(name: str, ports: tuple[Port, ...]) -> Request:
    """Open these ports besides, and close those that this function has opened before.

    Where there is no filter, sending it raises `MissingError`.
    """
    flush = (_DELRULE, 0, _place(name, 2, b"forwarded"))
    return Batch("forwarded ports", [flush, *(_new_rule(name, b"forwarded", _open(port)) for port in ports)])


def remove(socket: Socket, name: str) -> None:
    """Remove the filter of a tunnel that has gone. Raises `Failure`."""
    try:  # noqa: SIM105  (importing contextlib takes milliseconds)
        socket.run([Batch("remove the filter", _remove(name))])
    except MissingError:  # the kernel has none
        pass


def read(socket: Socket, name: str) -> Ports:
    """The ports that the filter of the tunnel `name` opens; None where there is no filter. Raises `Failure`."""
    try:
        table = attributes(socket.ask(_get(_GETTABLE, _table(name, 0)[2]), 4, errno.ENOENT), 4)
        chain = attributes(socket.ask(_get(_GETCHAIN, _place(name, 3, b"input")), 4, errno.ENOENT), 4)
    except KernelRefusedError as error:
        if error.errno in _LACKING:
            return None
        raise
    if not table:
        return None
    intact = not any(table.get(2, b""))  # NFTA_TABLE_FLAGS: a dormant table filters nothing
    intact &= attributes(_base(name), 4).items() <= chain.items()
    rules, forwarded = (_read_rules(socket, name, each) for each in (b"input", b"forwarded"))
    ports = _ports(rules)
    for present, wanted in ((rules, _rules(ports)), (forwarded, list(map(_open, _ports(forwarded))))):
        intact &= len(present) == len(wanted) and all(map(_has, present, wanted))
    return ports if intact else CHANGED


def forwarded(socket: Socket, name: str) -> tuple[Port, ...]:
    """The ports that `forward` has opened. Raises `Failure`."""
    try:
        return _ports(_read_rules(socket, name, b"forwarded"))
    except (KernelRefusedError, MissingError):  # there is no filter
        return ()


def _read_rules(socket: Socket, name: str, chain: bytes) -> list[Rule]:
    answers = socket.dump(_get(_GETRULE, _place(name, 2, chain), netlink.DUMP))
    return [_expressions(attributes(answer, 4).get(4, b"")) for answer in answers]  # NFTA_RULE_EXPRESSIONS


def _get(kind: int, body: bytes, flags: int = 0) -> Request:
    return Request("filter of inbound packets", kind | _NFTABLES << 8, body, flags, netlink.NETLINK_NETFILTER)


def _table(name: str, kind: int) -> Message:
    return kind, netlink.CREATE, pack(">BBH", _NFPROTO_INET, 0, 0) + attribute(1, b"wgns-%s\0" % name.encode())


def _remove(name: str) -> list[Message]:
    """Remove the table, which does not have to exist (NFT_MSG_DESTROYTABLE is in Linux since 6.3)."""
    return [_table(name, _NEWTABLE), _table(name, _DELTABLE)]


def _place(name: str, kind: int, chain: bytes) -> bytes:
    """A chain of the table, as attribute NFTA_RULE_CHAIN (2) or NFTA_CHAIN_NAME (3)."""
    return _table(name, 0)[2] + attribute(kind, chain + b"\0")


def _base(name: str) -> bytes:
    """The base chain, by which packets come in."""
    hook = attribute(1, pack(">I", _LOCAL_IN)) + attribute(2, pack(">i", 0))  # NFTA_HOOK_HOOKNUM, _PRIORITY
    # NFTA_CHAIN_HOOK, NFTA_CHAIN_POLICY, NFTA_CHAIN_TYPE
    return _place(name, 3, b"input") + attribute(4, hook) + attribute(5, pack(">I", _DROP)) + attribute(7, b"filter\0")


def _new_rule(name: str, chain: bytes, rule: Rule) -> Message:
    """A rule at the end of a chain; each expression is an NFTA_LIST_ELEM with NFTA_EXPR_NAME and NFTA_EXPR_DATA."""
    encoded = b"".join(
        attribute(1, attribute(1, kind + b"\0") + attribute(2, b"".join([attribute(*each) for each in found.items()])))
        for kind, found in rule
    )
    return _NEWRULE, netlink.CREATE | _APPEND, _place(name, 2, chain) + attribute(4, encoded)  # NFTA_RULE_EXPRESSIONS


def _expressions(encoded: bytes) -> Rule:
    parts = (attributes(part) for _, part in each(encoded))
    return [(part.get(1, b"").rstrip(b"\0"), attributes(part.get(2, b""))) for part in parts]


def _has(rule: Rule, wanted: Rule) -> bool:
    """Whether a rule is as wanted. A kernel may report attributes besides."""
    same = len(rule) == len(wanted)
    return same and all(a[0] == b[0] and b[1].items() <= a[1].items() for a, b in zip(rule, wanted, strict=True))


def _rules(ports: tuple[Port, ...]) -> list[Rule]:
    """What comes in: by lo, errors about what was sent and answers to it, to open ports, to forwarded ports.

    Not by the state "established", which a connection of the far side keeps when its port is closed.
    """
    from_lo = [_meta(_IIF), _compare(_EQUAL, pack("=I", _LO))]
    zero = pack("=I", 0)
    mask = attribute(1, pack("=I", _RELATED))
    # Of ct: register, key. Of bitwise: source, register, bytes, mask, what to change after it
    state, direction = ((b"ct", {1: _REGISTER, 2: pack(">I", key)}) for key in (_STATE, _DIRECTION))
    masked = (b"bitwise", {1: _REGISTER, 2: _REGISTER, 3: pack(">I", 4), 4: mask, 5: attribute(1, zero)})
    return [
        [*from_lo, _verdict(_ACCEPT)],
        [state, masked, _compare(_UNEQUAL, zero), _verdict(_ACCEPT)],
        [direction, _compare(_EQUAL, bytes([_REPLY])), _verdict(_ACCEPT)],
        *map(_open, ports),
        [_verdict(_JUMP, attribute(2, b"forwarded\0"))],  # NFTA_VERDICT_CHAIN
    ]


def _open(port: Port) -> Rule:
    """Accept packets of a protocol to a range of ports."""
    # NFTA_PAYLOAD_DREG, _BASE (NFT_PAYLOAD_TRANSPORT_HEADER), _OFFSET and _LEN in bytes: the destination port
    target = (b"payload", {1: _REGISTER, 2: pack(">I", 2), 3: pack(">I", 2), 4: pack(">I", 2)})
    bounds = [(_AT_LEAST, port.first), (_AT_MOST, port.last)] if port.last > port.first else [(_EQUAL, port.first)]
    ends = [_compare(how, pack(">H", end)) for how, end in bounds]
    return [_meta(_L4PROTO), _compare(_EQUAL, bytes([port.protocol])), target, *ends, _verdict(_ACCEPT)]


def _ports(rules: list[Rule]) -> tuple[Port, ...]:
    return tuple(port for port in map(_port, rules) if port)


def _port(rule: Rule) -> Port | None:
    """The port that a rule opens, if it is one for a port."""
    compared = [attributes(found.get(3, b"")).get(1, b"") for name, found in rule if name == b"cmp"]
    numbers = [int.from_bytes(each, "big") for each in compared]
    of_port = len(numbers) in (2, 3) and numbers[0] < 256 and max(numbers) < 65536
    return Port(numbers[0], numbers[1], numbers[-1]) if of_port else None


def _meta(key: int) -> tuple[bytes, dict[int, bytes]]:
    return b"meta", {1: _REGISTER, 2: pack(">I", key)}  # NFTA_META_DREG, NFTA_META_KEY


def _compare(how: int, value: bytes) -> tuple[bytes, dict[int, bytes]]:
    # NFTA_CMP_SREG, NFTA_CMP_OP, NFTA_CMP_DATA with NFTA_DATA_VALUE
    return b"cmp", {1: _REGISTER, 2: pack(">I", how), 3: attribute(1, value)}


def _verdict(code: int, chain: bytes = b"") -> tuple[bytes, dict[int, bytes]]:
    # NFTA_IMMEDIATE_DREG (NFT_REG_VERDICT), NFTA_IMMEDIATE_DATA with NFTA_DATA_VERDICT and NFTA_VERDICT_CODE
    return b"immediate", {1: pack(">I", 0), 2: attribute(2, attribute(1, pack(">i", code)) + chain)}
