"""The recipe of wg-up."""

from __future__ import annotations

import errno
import os
import time
from binascii import crc32

from . import dns_files, inbound, netlink, netns, present, signals, wg_down, wireguard
from .diff import NOTHING, diff, words
from .errors import ConfigError, Failure, MissingError, PermissionRefusedError, TryAgainError, listed, say, warn
from .resolve import ready
from .signals import Lock
from .tunnel import UNANSWERED, Peer, Tunnel
from .wireguard import Link

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_ROUNDS = 4  # one change can bring along another: with an IPv4 address go the others of its network
_RETRY = 5.3  # seconds after which the kernel tries a handshake again (REKEY_TIMEOUT and its jitter)
_LOOK = 0.2  # seconds between two looks for a handshake


def up(name: str, namespace: str, load: Callable[[], Tunnel], patience: float = 0) -> None:
    """Bring up the WireGuard link `name` inside the namespace `namespace`; its UDP socket stays outside.

    `load` gives the tunnel, resolved. It is called with the namespace's lock held, so that the last of several runs
    uses the configuration as it is then. With `patience`, in seconds, waits for a handshake. Changes only what differs
    in an existing link; after a failure, undoes what this run changed. Raises `Failure`.
    """
    try:
        descriptor = netns.open_namespace(namespace)
    except MissingError:
        load()  # its errors are reported first
        raise
    if netns.identity(descriptor) == netns.own():
        text = f'wg-up runs inside the network namespace "{namespace}": the tunnel\'s own packets would have no route'
        raise PermissionRefusedError(text, "run it in the host's network namespace")
    with Lock(namespace):
        _up(name, namespace, descriptor, load(), patience)
        dns_files.publish(namespace)


def _up(name: str, namespace: str, descriptor: int, tunnel: Tunnel, patience: float) -> None:
    signals.hold()
    with netlink.Socket() as outside:
        netns.enter(descriptor)
        tunnel = possible(tunnel, namespace)
        with Link(name) as link:
            link.index = wg_down.existing(link, name, namespace)
            _warn_of_others(link, namespace)
            former = present.read(link)[0] if link.index else None
            if not former and tunnel.open_ports is None:
                inbound.remove(link, name)  # a wg-down that was killed has left it
            try:
                if not former:
                    _create(outside, link, namespace, descriptor)
                requests = _converge(link, former, tunnel)
                signals.check()
                _wait(link, tunnel, patience)
                files = dns_files.write(dns_files.diff(namespace, name, tunnel))
            except BaseException as error:
                if former:
                    _restore(link, former, tunnel.names())
                else:
                    _delete(link)
                if isinstance(error, netlink.KernelRefusedError) and error.errno == errno.EADDRINUSE:
                    text = f"ListenPort: UDP port {tunnel.listen_port} is taken in the host"
                    raise ConfigError(text, "ss -lunp shows by whom; without ListenPort a free port is taken") from None
                raise
    if former:
        done = listed(words(requests) + files)
        now = f" now: {done}" if done else ": nothing to change"
        say(f'"{name}" in namespace "{namespace}" is as configured{now}')
    else:
        unnamed = "" if tunnel.dns else ", no DNS= in the configuration: names are not looked up"
        say(f'"{name}" is up in namespace "{namespace}": {len(tunnel.peers)} peer(s), mtu {tunnel.mtu}{unnamed}')


def _warn_of_others(link: Link, namespace: str) -> None:
    """Name the links by which a service could get past the tunnel, also those that are down."""
    others = [name for name in netns.foreign_links() if netlink.read_link(link, name)[1] != wg_down.KIND]
    if others:
        text = f'namespace "{namespace}" has other links ({", ".join(others)}): they may lead past the tunnel'
        warn(text, f"wgns check refuses services there; ip -n {namespace} link delete {others[0]}")


def _converge(link: Link, former: Tunnel | None, tunnel: Tunnel) -> list[netlink.Request]:
    """Send what differs until nothing does, and return the requests. A new link is not read again.

    The kernel ignores a peer with the link's own public key. Only it computes that key, so the private key goes first.
    """
    now, names = former or NOTHING, tunnel.names()
    own = now.public_key if now.private_key == tunnel.private_key else b""
    sent: list[netlink.Request] = []
    for _ in range(_ROUNDS):
        requests = diff(now, tunnel, link.device(), names)
        for batch in netlink.batches(requests):
            if own in names:
                raise ConfigError(f"{names[own]} has this interface's own public key", "expected the other side's key")
            signals.check()
            link.run(batch)
            own = own or link.read()[0].public_key
        sent += requests
        if not requests or not former:
            return sent
        now, _ = present.read(link)
    text = f'"{link.name}" does not become as configured: {listed(words(requests))}'
    raise Failure(text, "does another program change it?")


def _restore(link: Link, former: Tunnel, names: dict[bytes, str]) -> None:
    """Undo the changes of an existing link, or report what stays changed."""
    refused: object = ""
    try:
        for _ in range(_ROUNDS):
            requests = diff(present.read(link)[0], former, link.device(), names)
            for request in requests:
                try:
                    link.run([request])
                except Failure as error:  # the other requests may succeed
                    refused = error
        left = listed(words(requests))
    except Exception as error:  # noqa: BLE001  (whatever it is, the first failure is the one to report)
        left, refused = "its state cannot be read", type(error).__name__
    if left:
        warn(f'"{link.name}" is not what it was before ({refused}); not restored: {left}', "run wg-up once more")


def _create(outside: netlink.Socket, link: Link, namespace: str, descriptor: int) -> None:
    """Create the link.

    Its index has to be free in both namespaces (see netlink.create_link). The kernel counts from 1 and does not come as
    far as 2^30, so an index above that, made of the names, is free, also while other programs create links.
    """
    link.device()  # fails here, before anything changes, if the kernel has no WireGuard
    link.index = 1 << 30 | crc32(f"{namespace}/{link.name}".encode()) >> 2
    signals.check()
    try:
        outside.run([netlink.create_link(link.name, wg_down.KIND, link.index, descriptor)])
    except netlink.KernelRefusedError:
        link.index = 0  # nothing to undo
        raise


def _delete(link: Link) -> None:
    """Delete the link that this run has created, if it has: the kernel's answer can get lost."""
    try:
        if link.index and netlink.read_link(link, link.name)[0] == link.index:
            link.run([netlink.delete_link(link.index)])
        inbound.remove(link, link.name)
    except Failure as error:
        warn(f'the link "{link.name}" could not be deleted again: {error}', f"wg-down {link.name}")


def _wait(link: Link, tunnel: Tunnel, seconds: float) -> None:
    """Wait for a handshake with a peer that has a default route; without such a peer, with any that has an endpoint.

    A keepalive makes the kernel begin: nothing else is sent. When a peer does not answer, the next address of its name
    takes its turn. Raises `TryAgainError` after `seconds`, `InterruptError` on a signal.
    """
    reachable = [peer for peer in tunnel.peers if peer.endpoint]
    chosen = [peer for peer in reachable if any(network.prefix <= 1 for network in peer.allowed_ips)] or reachable
    if not seconds or _is_alive(link, chosen):  # a session needs no change, not even for a moment
        return
    silent = [peer.public_key for peer in chosen if not peer.keepalive]
    places = {peer.public_key: peer.endpoint.places() for peer in chosen if peer.endpoint and peer.endpoint.others}
    names, began, turn = tunnel.names(), time.monotonic(), 0
    for key in silent:
        link.change(names[key], key, keepalive=1)
    try:
        while not _is_alive(link, chosen):
            signals.check()
            waited = time.monotonic() - began
            if waited > seconds:
                asked = ", ".join(names[peer.public_key] for peer in chosen) or "no peer has an endpoint"
                raise TryAgainError(f'"{link.name}": no handshake within {seconds:.0f} s ({asked})', UNANSWERED)
            if waited // _RETRY > turn:
                turn += 1
                for key, each in places.items():
                    link.change(names[key], key, endpoint=each[turn % len(each)])
            time.sleep(_LOOK)
    finally:
        for key in silent:
            link.change(names[key], key, keepalive=0)
    say(f'"{link.name}": handshake after {time.monotonic() - began:.1f} s')


def _is_alive(link: Link, peers: list[Peer]) -> bool:
    _, sessions = link.read()
    return any(sessions[peer.public_key].alive(time.time()) for peer in peers if peer.public_key in sessions)


def _has_ipv6() -> bool:
    """Whether a new link in this namespace takes IPv6 addresses (ipv6.disable=1, sysctl disable_ipv6)."""
    disabled = netns.text("/proc/sys/net/ipv6/conf/default/disable_ipv6")
    return disabled == "0" if disabled else os.path.exists("/proc/self/net/if_inet6")  # ProcSubset= hides /proc/sys


def possible(tunnel: Tunnel, namespace: str) -> Tunnel:
    """The tunnel as the kernel keeps it in this process's network namespace; a warning if that has no IPv6."""
    less = tunnel if _has_ipv6() else tunnel.without_ipv6()
    if less != tunnel:
        hint = "nothing can leave by IPv6 there; sysctl net.ipv6.conf.default.disable_ipv6=0 would bring it back"
        warn(f'namespace "{namespace}" has no IPv6: wg-up leaves out IPv6 addresses, allowed IPs, name servers', hint)
    return less.as_in_kernel()


def plan(name: str, namespace: str, tunnel: Tunnel) -> list[str]:
    """What `up` would do, in words and without keys, for --dry-run.

    Resolves host names only for an existing tunnel, since only that is compared. Raises `Failure`.
    """
    index = 0
    try:
        descriptor = netns.open_namespace(namespace)
        with netns.Inside(descriptor), netlink.Socket() as inside:
            index = wg_down.existing(inside, name, namespace)
    except MissingError:
        pass
    except PermissionRefusedError as error:
        warn(f"{error}: these are the steps for a tunnel that does not exist yet", "root sees what exists")
    if index:
        tunnel = ready(tunnel)
        with netns.Inside(descriptor), Link(name, index) as link:
            steps = differences(link, namespace, present.read(link)[0], tunnel)
        return steps or [f'"{name}" in namespace "{namespace}" is as configured: nothing to change']
    steps = [f'link "{name}", {wg_down.KIND} in namespace "{namespace}", its UDP socket in this one']
    steps += words(diff(NOTHING, tunnel.as_in_kernel(), wireguard.Device(name=name), tunnel.names()))
    steps += [] if tunnel.mtu else ["mtu from the route to the endpoint"]
    return steps + list(map(str, dns_files.diff(namespace, name, tunnel)))


def differences(link: Link, namespace: str, now: Tunnel, tunnel: Tunnel) -> list[str]:
    """What `up` would change of the tunnel `now`, in words. This process is in the namespace."""
    tunnel = possible(tunnel, namespace)
    files = dns_files.diff(namespace, link.name, tunnel)
    return words(diff(now, tunnel, link.device(), tunnel.names())) + list(map(str, files))
