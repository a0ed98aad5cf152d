"""The resolv.conf of a namespace, where ip-netns(8) looks for it: /etc/netns/NAME/resolv.conf.

The first line of what is written here says whose it is, with a digest of the rest: a file that somebody else wrote or
changed is never touched. Files are written in place, so that bind mounts of them stay valid.
"""

from __future__ import annotations

import errno
import os
import stat
from _blake2 import blake2s  # hashlib would load OpenSSL: 3 ms

from .errors import system_error, warn
from .netns import Lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .tunnel import Tunnel

DIRECTORY = "/etc/netns"
_MARK = ".made-by-wg-up"  # in DIRECTORY when wg-up made that; `ip netns exec` looks only into its subfolders
_WITH_FOLDER = b"; with its folder"
_SIZE_LIMIT = 1 << 16  # bytes; a larger file is not ours


def write_resolv_conf(namespace: str, link: str, tunnel: Tunnel, *, dry: bool = False) -> list[str]:
    """Write the tunnel's name servers and search domains; without a server there is no file. What was done, in words.

    An empty file, which a crash can leave, is taken over. Raises `Failure`, and then all is as before. With `dry`
    nothing is done, only said.
    """
    if not tunnel.dns:
        return remove_resolv_conf(namespace, link, dry=dry)
    path = f"{DIRECTORY}/{namespace}/resolv.conf"
    search = f", search {' '.join(tunnel.search)}" if tunnel.search else ""
    with Lock(make=not dry):
        former = _read(path)
        if former and not _is_ours(former, link):
            warn(f"{path} was not written by wg-up {link}: left as it is", "the tunnel's DNS servers are not in use")
            return []
        new_folder = not os.path.isdir(os.path.dirname(path))
        content = _content(link, tunnel, with_folder=new_folder or _has_folder(former or b""))
        if not dry:
            _sweep(path)
        if content != former and not dry:
            try:
                _create(path, content) if former is None else _overwrite(path, content, len(former))
            except OSError as error:
                _put_back(path, former, content)
                raise system_error(path, error) from None
    return [] if content == former else [f"{path}: name servers {', '.join(tunnel.dns)}{search}"]


def remove_resolv_conf(namespace: str, link: str, *, dry: bool = False) -> list[str]:
    """Remove the file that wg-up wrote for `link`, and the folders that it made. Like `write_resolv_conf` otherwise."""
    path = f"{DIRECTORY}/{namespace}/resolv.conf"
    if not any(os.path.lexists(place) for place in (DIRECTORY, _aside(DIRECTORY))):
        return []
    with Lock(make=False):
        content = _read(path)
        ours = content is not None and _is_ours(content, link)
        if content is not None and not ours:
            warn(f"{path} was not written by wg-up {link}: left as it is")
        if not dry:
            try:
                _remove(path, content if ours else None)
            except OSError as error:
                _put_back(path, content, None)
                raise system_error(path, error) from None
    return [f"remove {path}"] if ours else []


def _put_back(path: str, former: bytes | None, content: bytes | None) -> None:
    """After an error: the file is to be what it was, and not `content`."""
    try:
        now = _read(path)
        if former is None:
            _remove(path, now if now == content else None)
        elif now is None:
            _sweep(path)
            _create(path, former)
        elif now != former:
            _overwrite(path, former, _SIZE_LIMIT)
    except OSError as error:
        warn(f"{path} could not be put back: {os.strerror(error.errno or 0).lower()}")


def _content(link: str, tunnel: Tunnel, *, with_folder: bool) -> bytes:
    lines = [f"nameserver {server}\n" for server in tunnel.dns]
    lines += [f"search {' '.join(tunnel.search)}\n"] if tunnel.search else []
    body = "".join(lines).encode()
    return _mark(link, body) + (_WITH_FOLDER if with_folder else b"") + b"\n" + body


def _mark(link: str, body: bytes) -> bytes:
    digest = blake2s(body, digest_size=16).hexdigest()
    return f"# written by wg-up {link}, removed by wg-down {link}; {digest}".encode()


def _has_folder(content: bytes) -> bool:
    return content.partition(b"\n")[0].endswith(_WITH_FOLDER)


def _is_ours(content: bytes, link: str) -> bool:
    first, _, body = content.partition(b"\n")
    return first.removesuffix(_WITH_FOLDER) == _mark(link, body.rstrip(b"\n") + b"\n")  # see _overwrite


def _read(path: str) -> bytes | None:
    """The file's content, None where there is none; what is no regular file has one that is not ours."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):  # a symlink, a file for a folder, a socket
            return b"?"
        raise system_error(path, error) from None
    try:
        return os.read(descriptor, _SIZE_LIMIT) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b"?"
    finally:
        os.close(descriptor)


def _overwrite(path: str, content: bytes, former_size: int) -> None:
    """Write in place, in one piece and with blank lines over what is longer: killed at any point, the file is valid."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
    try:
        size = min(former_size, os.fstat(descriptor).st_size)
        if not size:
            os.fchmod(descriptor, 0o644)
        if os.write(descriptor, content.ljust(size, b"\n")) < len(content):
            raise OSError(errno.ENOSPC, "")
        os.ftruncate(descriptor, len(content))
    finally:
        os.close(descriptor)


def _aside(path: str) -> str:
    """Where what is to become `path`, or was, stands meanwhile: a name of ours, cleared away by the next run."""
    folder, name = os.path.split(path)
    return f"{folder}/.{name}.wg-up"


def _create(path: str, content: bytes) -> None:
    """Make the file with the folders that are missing; all of it appears at once, by link(2) or rename(2)."""
    folder = os.path.dirname(path)
    top = next((place for place in (DIRECTORY, folder) if not os.path.isdir(place)), path)
    aside = _aside(top)
    new = aside + path.removeprefix(top)
    for place in [place for place in (DIRECTORY, folder) if place.startswith(top)]:
        made = aside + place.removeprefix(top)
        os.mkdir(made)
        os.chmod(made, 0o755)  # noqa: S103  (whatever the umask is: services of any user read there)
    if top == DIRECTORY:
        os.close(os.open(f"{aside}/{_MARK}", os.O_WRONLY | os.O_CREAT, 0o644))
    os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
    _overwrite(new, content, 0)
    if top == path:
        os.link(new, path)  # not over what somebody else made meanwhile
        os.unlink(new)
    else:
        os.rename(aside, top)


def _remove(path: str, content: bytes | None) -> None:
    """Take away the file of that content, its folder unless it has more in it, and DIRECTORY, each if wg-up made it."""
    folder = os.path.dirname(path)
    if content is not None:
        alone = _has_folder(content) and os.listdir(folder) == [os.path.basename(path)]
        os.rename(folder if alone else path, _aside(folder if alone else path))
    _sweep(path)
    if os.path.isdir(DIRECTORY) and os.listdir(DIRECTORY) == [_MARK]:
        os.rename(DIRECTORY, _aside(DIRECTORY))
        _sweep(path)


def _sweep(path: str) -> None:
    """Delete what stands aside, of this run or of one that was killed; OSError if there is more than wg-up makes."""
    for place in (path, os.path.dirname(path), DIRECTORY):
        aside = _aside(place)
        for folder, _, files in () if os.path.islink(aside) else os.walk(aside, topdown=False):
            for name in {_MARK, os.path.basename(path)}.intersection(files):
                os.unlink(f"{folder}/{name}")
            os.rmdir(folder)
        if os.path.lexists(aside):
            os.unlink(aside)
