"""The recipe of wg-up."""

from __future__ import annotations

import errno
import os
from _socket import if_nameindex

from . import confine, converge, netlink, netns, signals, state, teardown, wireguard
from .errors import Failure, MissingError, PermissionRefusedError, say, warn
from .lock import Lock
from .resolve import path_mtu, resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .tunnel import Tunnel

_LAST_INDEX = 2**31 - 1
_TRIES = 5  # a link may be made in the host between our look at the indexes and our request


def up(link: str, namespace: str, load: Callable[[], Tunnel], patience: float = 0) -> None:
    """Make the WireGuard link `link` inside the namespace `namespace` as `load` says; its UDP socket stays outside.

    `load` gives the tunnel with its endpoints resolved. It is called with the namespace's lock held, so that of several
    runs the last one goes by what stands in the configuration last. With `patience`, in seconds, a handshake is waited
    for. A link that is there is changed where it differs; whatever fails, what this run changed is undone, and nothing
    else is touched. Raises `Failure`.
    """
    try:
        descriptor = netns.open_namespace(namespace)
    except MissingError:
        load()  # what is wrong with the configuration is said first
        raise
    status = os.fstat(descriptor)
    if (status.st_dev, status.st_ino) == netns.own():
        raise PermissionRefusedError(
            f'wg-up runs inside the network namespace "{namespace}": the tunnel would have no way out',
            "run it in the host's network namespace",
        )
    with Lock(namespace):
        _up(link, namespace, descriptor, load(), patience)


def _up(link: str, namespace: str, descriptor: int, tunnel: Tunnel, patience: float) -> None:
    mtu = path_mtu(tunnel)
    taken = {index for index, _ in if_nameindex()}
    signals.hold()
    with netlink.Socket() as outside:
        netns.enter(descriptor)
        with netlink.Socket() as inside, netlink.Socket(netlink.NETLINK_GENERIC) as generic:
            tunnel = _possible(tunnel, namespace)
            _warn_of_others(inside, link, namespace)
            found = teardown.existing(inside, link, namespace)
            if found:
                change = converge.Change(inside, generic, link, found)
                _change(
                    change, (link, namespace), (tunnel, mtu), lambda: _wait(generic, (link, found), tunnel, patience)
                )
                return
            index = _create(outside, inside, (link, namespace), descriptor, taken)
            try:
                _configure(inside, generic, index, (tunnel, mtu))
                signals.check()
                _wait(generic, (link, index), tunnel, patience)
                confine.write(namespace, link, tunnel)
            except BaseException:
                _delete(inside, index, link)
                raise
    names = "" if tunnel.dns else ", no DNS= in the configuration: names are not looked up"
    say(f'"{link}" is up in namespace "{namespace}": {len(tunnel.peers)} peer(s), mtu {mtu}{names}')


def _warn_of_others(inside: netlink.Socket, link: str, namespace: str) -> None:
    """Name the links by which a service could get past the tunnel, also those that are down."""
    names = [name for _, name in if_nameindex() if name not in netns.LOCAL_LINKS | {link}]
    others = [name for name in names if (netlink.read_link(inside, name) or (0, ""))[1] != teardown.KIND]
    if others:
        warn(
            f'namespace "{namespace}" has other links ({", ".join(others)}): they may lead past the tunnel',
            f"wgns check refuses services there; ip -n {namespace} link delete {others[0]}",
        )


def _wait(generic: netlink.Socket, names: tuple[str, int], tunnel: Tunnel, patience: float) -> None:
    if patience:
        from . import handshake

        handshake.wait(generic, names, tunnel, patience)


def _change(
    change: converge.Change, names: tuple[str, str], wanted: tuple[Tunnel, int], wait: Callable[[], None]
) -> None:
    link, namespace = names
    tunnel, mtu = wanted
    try:
        done = change.make(tunnel, mtu)
        signals.check()
        wait()
        done += confine.write(namespace, link, tunnel)
    except BaseException:
        change.undo()
        raise
    as_configured = f'"{link}" in namespace "{namespace}" is as configured'
    say(f"{as_configured} now: {converge.listed(done)}" if done else f"{as_configured}: nothing to change")


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
            outside.run([netlink.create_link(link, teardown.KIND, index, descriptor)])
        except netlink.KernelRefusedError as error:
            if error.errno == errno.EOPNOTSUPP:
                raise wireguard.no_wireguard() from None
            if error.errno not in (errno.EEXIST, errno.EBUSY):
                raise
            if teardown.existing(inside, link, namespace):
                raise Failure(f'somebody else has just made "{link}" in namespace "{namespace}"') from None
            refused = error
        except Failure:
            made = netlink.read_link(inside, link)
            if made and made[0] == index:  # the kernel's answer got lost, not the request
                _delete(inside, index, link)
            raise
        else:
            return index
    raise refused


def _configure(inside: netlink.Socket, generic: netlink.Socket, index: int, wanted: tuple[Tunnel, int]) -> None:
    """Give the new link all that it is to have."""
    tunnel, mtu = wanted
    family = wireguard.family(generic)
    new = converge.changes(index, family, state.State(), state.wanted(tunnel, mtu), converge.names(tunnel))
    converge.apply(inside, generic, new)


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


def _possible(tunnel: Tunnel, namespace: str) -> Tunnel:
    """What of the tunnel this process's network namespace can have: without IPv6 less, with a warning."""
    less = tunnel if _has_ipv6() else tunnel.without_ipv6()
    if less != tunnel:
        warn(
            f'namespace "{namespace}" has no IPv6: addresses, allowed IPs and name servers of IPv6 are left out',
            "nothing can leave by IPv6 there; sysctl net.ipv6.conf.default.disable_ipv6=0 would bring it back",
        )
    return less


def plan(link: str, namespace: str, tunnel: Tunnel) -> list[str]:
    """What `up` would do, in words and without keys, for --dry-run.

    Only for a tunnel that is there, since only that is compared, host names are resolved. Raises `Failure`.
    """
    here = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        descriptor = netns.open_namespace(namespace)
        netns.enter(descriptor)
        with netlink.Socket() as inside:
            found = teardown.existing(inside, link, namespace)
    except MissingError:
        found = 0
    except PermissionRefusedError as error:
        found = 0
        warn(f"{error}: these are the steps for a tunnel that is not there yet", "root sees what is there")
    if found:
        netns.enter(here)
        tunnel = resolve(tunnel)
        mtu = path_mtu(tunnel)
        netns.enter(descriptor)
        with netlink.Socket() as inside, netlink.Socket(netlink.NETLINK_GENERIC) as generic:
            tunnel = _possible(tunnel, namespace)
            steps = converge.Change(inside, generic, link, found).pending(tunnel, mtu)
    else:
        made = netlink.create_link(link, teardown.KIND, 0, 0).what
        steps = [f'{made} in namespace "{namespace}", its UDP socket in this one']
        steps += converge.planned(tunnel)
    steps += confine.write(namespace, link, tunnel, dry=True)
    return steps or [f'"{link}" in namespace "{namespace}" is as configured: nothing to change']
