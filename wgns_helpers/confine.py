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


def write_resolv_conf(namespace: str, link: str, tunnel: Tunnel) -> None:
    """Write the tunnel's name servers and search domains; without a server there is no file.

    An empty file, which a crash can leave, is taken over. Raises `Failure`, and then all is as before.
    """
    if not tunnel.dns:
        remove_resolv_conf(namespace, link)
        return
    folder = f"{DIRECTORY}/{namespace}"
    path = f"{folder}/resolv.conf"
    with Lock():
        former = _read(path)
        if former and not _is_ours(former, link):
            warn(f"{path} was not written by wg-up {link}: left as it is", "the tunnel's DNS servers are not in use")
            return
        new_folder = not os.path.isdir(folder)
        content = _content(link, tunnel, with_folder=new_folder or _has_folder(former or b""))
        if content == former:
            return
        try:
            _make_folders(folder)
            _write(path, content)
        except OSError as error:
            _put_back(path, former, with_folder=new_folder)
            raise system_error(path, error) from None


def _put_back(path: str, former: bytes | None, *, with_folder: bool) -> None:
    try:
        if former is None:
            _remove(path, with_folder=with_folder)
        elif _read(path) != former:
            _write(path, former)
    except OSError as error:
        warn(f"{path} could not be put back: {os.strerror(error.errno or 0).lower()}")


def remove_resolv_conf(namespace: str, link: str) -> None:
    """Remove the file that wg-up wrote for `link`, and the folders that it made. Raises `Failure`."""
    path = f"{DIRECTORY}/{namespace}/resolv.conf"
    if _read(path) is None:
        return
    with Lock():
        content = _read(path)
        if content is not None and not _is_ours(content, link):
            warn(f"{path} was not written by wg-up {link}: left as it is")
        elif content is not None:
            try:
                _remove(path, with_folder=_has_folder(content))
            except OSError as error:
                raise system_error(path, error) from None


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
    return first.removesuffix(_WITH_FOLDER) == _mark(link, body)


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


def _write(path: str, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        if not os.fstat(descriptor).st_size:
            os.fchmod(descriptor, 0o644)  # whatever the umask is, every service has to read it
        if os.write(descriptor, content) != len(content):
            raise OSError(errno.ENOSPC, "")
        os.ftruncate(descriptor, len(content))
    finally:
        os.close(descriptor)


def _make_folders(folder: str) -> None:
    for path in (DIRECTORY, folder):
        try:
            os.mkdir(path)
        except FileExistsError:
            continue
        os.chmod(path, 0o755)  # noqa: S103  (whatever the umask is: services of any user read there)
        if path == DIRECTORY:
            os.close(os.open(f"{DIRECTORY}/{_MARK}", os.O_WRONLY | os.O_CREAT, 0o644))


def _remove(path: str, *, with_folder: bool) -> None:
    """Remove the file, its folder unless somebody put something there, and DIRECTORY likewise if wg-up made it."""
    if os.path.lexists(path):
        os.unlink(path)
    if with_folder:
        _remove_folder(os.path.dirname(path))
    if os.path.isdir(DIRECTORY) and os.listdir(DIRECTORY) == [_MARK]:
        os.unlink(f"{DIRECTORY}/{_MARK}")
        _remove_folder(DIRECTORY)


def _remove_folder(path: str) -> None:
    try:  # noqa: SIM105  (contextlib would cost a millisecond)
        os.rmdir(path)
    except OSError:
        pass  # in use, or gone already
