"""The recipes of wg-up and wg-down."""

from __future__ import annotations

import errno
import os
from _socket import if_nameindex

from . import confine, netlink, netns, signals, wireguard
from .errors import Failure, MissingError, PermissionRefusedError, UsageError, say, shown, warn
from .resolve import path_mtu

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .tunnel import Tunnel

KIND = "wireguard"
_LAST_INDEX = 2**31 - 1
_TRIES = 5  # a link may be made in the host between our look at the indexes and our request


def checked_link(name: str) -> str:
    """`name` if a link can be called so (dev_valid_name of the kernel), `UsageError` otherwise."""
    if len(name) > 15 or ":" in name or name in ("lo", "all", "default"):
        raise UsageError(
            f"{shown(name)} cannot be an interface's name",
            'at most 15 characters, no colon; "lo", "all" and "default" are taken',
        )
    return name


def up(link: str, namespace: str, tunnel: Tunnel) -> None:
    """Make the WireGuard link `link` inside the namespace `namespace`; its UDP socket stays in the caller's.

    The endpoints are resolved. Whatever fails, the link that this run made is deleted, and addresses, routes and peers
    with it; nothing else is touched. Raises `Failure`.
    """
    mtu = path_mtu(tunnel)
    descriptor = netns.open_namespace(namespace)
    status = os.fstat(descriptor)
    if (status.st_dev, status.st_ino) == netns.own():
        raise PermissionRefusedError(
            f'wg-up runs inside the network namespace "{namespace}": the tunnel would have no way out',
            "run it in the host's network namespace",
        )
    taken = {index for index, _ in if_nameindex()}
    signals.hold()
    with netlink.Socket() as outside:
        netns.enter(descriptor)
        with netlink.Socket() as inside:
            _check_free(inside, link, namespace)
            if not _has_ipv6():
                tunnel = _without_ipv6(tunnel, namespace)
            index = _create(outside, inside, (link, namespace), descriptor, taken)
            try:
                _configure(inside, index, tunnel, mtu)
                signals.check()
                confine.write_resolv_conf(namespace, link, tunnel)
            except BaseException:
                _delete(inside, index, link)
                raise
    say(f'"{link}" is up in namespace "{namespace}": {len(tunnel.peers)} peer(s), mtu {mtu}')


def _existing(socket: netlink.Socket, link: str, namespace: str) -> netlink.Link | None:
    """The WireGuard link of that name, if there is one; `Failure` for a link of another kind."""
    existing = netlink.read_link(socket, link)
    if existing and existing.kind != KIND:
        raise Failure(
            f'namespace "{namespace}" has a link "{link}" that is not WireGuard but {existing.kind or "hardware"}',
            "it was made by somebody else and is left alone",
        )
    return existing


def _check_free(inside: netlink.Socket, link: str, namespace: str) -> None:
    if _existing(inside, link, namespace):
        raise Failure(f'the tunnel "{link}" is up already in namespace "{namespace}"', f"wg-down {link} takes it down")


def _create(
    outside: netlink.Socket, inside: netlink.Socket, names: tuple[str, str], descriptor: int, taken: set[int]
) -> int:
    """Make the link; its index, one that is free in both namespaces (see netlink.create_link)."""
    link, namespace = names
    taken = taken | {index for index, _ in if_nameindex()}
    index = max(taken) if max(taken) < _LAST_INDEX - _TRIES else 1
    for _ in range(_TRIES):
        index = next(free for free in range(index + 1, _LAST_INDEX) if free not in taken)
        signals.check()
        try:
            outside.run([netlink.create_link(link, KIND, index, descriptor)])
        except netlink.KernelRefusedError as error:
            if error.errno == errno.EOPNOTSUPP:
                raise wireguard.no_wireguard() from None
            if error.errno not in (errno.EEXIST, errno.EBUSY):
                raise
            _check_free(inside, link, namespace)
            refused = error
        except Failure:
            made = netlink.read_link(inside, link)
            if made and made.index == index:  # the kernel's answer got lost, not the request
                _delete(inside, index, link)
            raise
        else:
            return index
    raise refused


def _configure(inside: netlink.Socket, index: int, tunnel: Tunnel, mtu: int) -> None:
    with netlink.Socket(netlink.NETLINK_GENERIC) as generic:
        family = wireguard.family(generic)
        for request in wireguard.configure(family, index, tunnel):
            signals.check()
            generic.run([request])
    signals.check()
    inside.run(_requests(index, tunnel, mtu))


def _requests(index: int, tunnel: Tunnel, mtu: int) -> Iterator[netlink.Request]:
    """What follows keys and peers, in this order."""
    for address in tunnel.addresses:
        yield netlink.add_address(index, address.family, address.address, address.prefix)
    yield netlink.set_link_up(index, mtu)
    for route in tunnel.routes():
        yield netlink.add_route(index, route.family, route.address, route.prefix, tunnel.table)


def _delete(inside: netlink.Socket, index: int, link: str) -> None:
    try:
        inside.run([netlink.delete_link(index)])
    except Failure as error:
        warn(f'the link "{link}" could not be deleted again: {error}', f"wg-down {link}")


def _has_ipv6() -> bool:
    """Whether a link made now in this namespace takes IPv6 addresses (ipv6.disable=1, sysctl disable_ipv6)."""
    try:
        with open("/proc/sys/net/ipv6/conf/default/disable_ipv6", "rb") as value:
            return value.read().strip() == b"0"
    except OSError:
        return os.path.exists("/proc/self/net/if_inet6")  # /proc/sys can be hidden (ProcSubset=)


def _without_ipv6(tunnel: Tunnel, namespace: str) -> Tunnel:
    less = tunnel.without_ipv6()
    if less != tunnel:
        warn(
            f'namespace "{namespace}" has no IPv6: addresses, allowed IPs and name servers of IPv6 are left out',
            "nothing can leave by IPv6 there; sysctl net.ipv6.conf.default.disable_ipv6=0 would bring it back",
        )
    return less


def plan(link: str, namespace: str, tunnel: Tunnel) -> Iterator[str]:
    """The steps of `up` in words, for --dry-run; without keys, and with nothing resolved."""
    yield f'{netlink.create_link(link, KIND, 0, 0).what} in namespace "{namespace}", its UDP socket in this one'
    mark = hex(tunnel.fwmark) if tunnel.fwmark else "off"
    yield f"private key (not shown), listen port {tunnel.listen_port or 'any'}, fwmark {mark}"
    for number, peer in enumerate(tunnel.peers, 1):
        allowed = ", ".join(map(str, peer.allowed_ips)) or "none"
        yield (
            f"peer {number}: endpoint {peer.endpoint or 'none'}, allowed IPs {allowed}, persistent keepalive "
            f"{peer.keepalive or 'off'}, preshared key {'yes' if peer.preshared_key else 'no'}"
        )
    for request in _requests(0, tunnel, tunnel.mtu):
        yield request.what + ("" if tunnel.mtu or request.what != "up" else ", mtu from the route to the endpoint")
    if tunnel.dns:
        search = f", search {' '.join(tunnel.search)}" if tunnel.search else ""
        yield f"{confine.DIRECTORY}/{namespace}/resolv.conf: name servers {', '.join(tunnel.dns)}{search}"


def down(link: str, namespace: str) -> None:
    """Delete the WireGuard link `link` of `namespace`, and the resolv.conf that wg-up wrote, if they are there.

    Raises `Failure`, also for a link of another kind.
    """
    signals.hold()
    try:
        descriptor = netns.open_namespace(namespace)
    except MissingError as error:
        say(f"nothing to take down: {error}")
    else:
        if os.fstat(descriptor).st_ino != netns.own()[1]:
            netns.enter(descriptor)
        with netlink.Socket() as socket:
            existing = _existing(socket, link, namespace)
            if existing:
                socket.run([netlink.delete_link(existing.index)])
                say(f'"{link}" is gone from namespace "{namespace}"')
            else:
                say(f'there is no "{link}" in namespace "{namespace}"')
    confine.remove_resolv_conf(namespace, link)
