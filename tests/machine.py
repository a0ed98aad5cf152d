"""A virtual machine with Debian trixie's stock kernel, for hosts whose own kernel has no WireGuard.

``python3 tests/machine.py -- COMMAND...`` boots it once, runs COMMAND as root in a copy of the project tree, shows the
output live and exits with COMMAND's status: 124 after the time limit, 125 if the machine fails.  The image is built
when it is first needed and kept in the user's cache.  QEMU runs it with KVM where that works and in software elsewhere.

A COMMAND that leaves a file /root/reboot behind is run a second time, after the guest has shut down and booted again.
"""

from __future__ import annotations

import argparse
import configparser
import contextlib
import datetime as dt
import fcntl
import hashlib
import importlib.util
import inspect
import io
import json
import os
import platform
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT = Path(__file__).resolve().parent.parent
SUITE, PYTHON, ARCHITECTURE = "trixie", "3.13", "x86_64"  # the Python is the suite's own
PACKAGES = (
    "aria2,at,cron,curl,dash,dbus,deluge-web,deluged,dns-root-data,iproute2,iputils-ping,keyutils,libnss-myhostname,"
    "libnss-resolve,libnss-systemd,linux-image-cloud-amd64,nginx-light,nscd,podman,privoxy,procps,python3,python3-installer,qbittorrent-nox,strace,systemd,"
    "systemd-resolved,systemd-sysv,tcpdump,tinyproxy,transmission-cli,transmission-daemon,udev,unbound,wireguard-tools"
)
# Tests start them when they need them
DAEMONS = "atd cron deluge-web deluged nginx nscd privoxy systemd-resolved tinyproxy transmission-daemon unbound"
NOT_IN_GUEST = {"mypy", "ruff"}  # the code checks don't need the guest's kernel
SITE = f"usr/local/lib/python{PYTHON}/dist-packages"
BUILD_SECONDS = 1800.0  # the limit for each program that is called; all together take about a minute
CHANNELS = ("console", "output", "status")  # the index is the number of the guest's virtio-serial port; 0 can't be used
BOOT_SECONDS = {"kvm": 30.0, "tcg": 300.0}  # limits by accelerator; tcg, software emulation, usually takes 12 s

# The kernel has NVMe, virtio-serial and ext4 built in, so that it boots without an initial RAM disk, which would double
# the time.  For the same reason, units are masked that are useless here and cost up to 3 s each under emulation: above
# all udev's cold plug, which loads drivers for all of the machine's hardware (devices that appear later are handled).
CUSTOMIZE = f"""
set -eu
rm -f "$1/etc/fstab" "$1/etc/resolv.conf"
ln -s /dev/null "$1/etc/tmpfiles.d/systemd-resolve.conf"  # which would make that file again
echo machine >"$1/etc/hostname"
echo '127.0.0.1 localhost machine' >"$1/etc/hosts"
chroot "$1" systemd-machine-id-setup
chroot "$1" systemctl mask apt-daily-upgrade.timer apt-daily.timer dev-hugepages.mount dpkg-db-backup.timer \
    fstrim.timer getty.target proc-sys-fs-binfmt_misc.automount serial-getty@.service sys-fs-fuse-connections.mount \
    sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount systemd-binfmt.service \
    systemd-journal-flush.service systemd-random-seed.service systemd-tmpfiles-clean.timer \
    systemd-udev-load-credentials.service systemd-udev-trigger.service
chroot "$1" systemctl disable {DAEMONS}
chroot "$1" systemctl enable machine.service
chroot "$1" /usr/lib/systemd/systemd-update-done  # or the first boot would do again what the packages have done
chroot "$1" python3 -m compileall -q /{SITE} || true
"""

# systemd lets a service ignore SIGPIPE and limits its tasks; a command must not notice that it is one.
UNIT = """[Unit]
Description=The command that this machine was booted for
After=multi-user.target
[Service]
ExecStart=/bin/sh /usr/local/sbin/machine
ExecStopPost=/bin/sh -c '[ -e /root/reboot ] || exec systemctl poweroff --force --force'
IgnoreSIGPIPE=no
OOMPolicy=continue
TasksMax=infinity
[Install]
WantedBy=multi-user.target
"""

# The output goes through a FIFO, because a port can be opened only once, but a command may reopen /dev/stdout.  What
# the command leaves running can keep the FIFO open, so the end of the output is waited for only for 2 s.
RUNNER = """
set -- /dev/vport*p1 /dev/vport*p2
echo ready >"$2"
mkfifo /run/machine
cat /run/machine >"$1" &
copier=$!
exec 3>/run/machine
if [ -e /root/reboot ]; then  # the second time
    rm /root/reboot
elif [ -e /root/command ]; then
    echo 'the guest has booted again by itself' >&3
    echo exit 125 >"$2"
    exit
else
    modprobe -a wireguard virtio_blk
    tar -C /root -xf /dev/vda
fi
sh /root/command >&3 2>&3 3>&- </dev/null
status=$?
exec 3>&-
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    kill -0 $copier 2>/dev/null || break
    sleep 0.1
done
if [ $status = 0 ] && [ -e /root/reboot ]; then
    exec systemctl reboot
fi
rm -f /root/reboot
echo exit $status >"$2"
"""


class MachineError(Exception):
    """The machine could not be built or run; the text says why."""

    status = 125


class OverTimeError(MachineError):
    """The time limit is over."""

    status = 124


class NotBootedError(MachineError):
    """The guest did not get as far as running the command."""


def missing() -> list[str]:
    """Return the names of the Debian packages that this host still needs for build() and run(); [] if none."""
    programs = {"mmdebstrap": "mmdebstrap", "qemu-system-x86_64": "qemu-system-x86", "mke2fs": "e2fsprogs"}
    if os.geteuid() != 0:
        programs["newuidmap"] = "uidmap"
    packages = [package for program, package in programs.items() if not shutil.which(program, path=_env()["PATH"])]
    if not Path("/usr/share/keyrings/debian-archive-keyring.gpg").exists():
        packages.append("debian-archive-keyring")
    if importlib.util.find_spec("pip") is None:
        packages.append("python3-pip")
    return packages


def requirements(config: Path = ROOT / "setup.cfg") -> list[str]:
    """Return what setup.cfg says the project and its ``test`` extra need, less what only checks the code.

    Raise MachineError if there is no such file.
    """
    parser = configparser.ConfigParser(interpolation=None)
    if not parser.read(config):
        raise MachineError(f"there is no {config} to read the guest's Python requirements from")
    text = parser.get("options", "install_requires", fallback="")
    text += "\n" + parser.get("options.extras_require", "test", fallback="")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [line for line in lines if re.sub(r"[^\w.-].*", "", line).lower() not in NOT_IN_GUEST]


def ingredients() -> dict[str, object]:
    """Return everything that the image is made from; the week, so that it gets the archive's updates now and then."""
    week = dt.datetime.now(dt.UTC).isocalendar()
    return {
        "suite": [SUITE, PYTHON, platform.machine()],
        "packages": PACKAGES,
        "requirements": requirements(),
        "texts": [CUSTOMIZE, UNIT, RUNNER],
        "code": [inspect.getsource(step) for step in (_overlay, _plain, _debian, _disk)],
        "week": [week.year, week.week],
    }


def digest(parts: Mapping[str, object]) -> str:
    """Return the name part of the cache folder for an image made from these parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def build() -> Path:
    """Return the folder that holds the guest's ``disk`` and ``kernel``, after making it if the cache hasn't got it.

    Takes about a minute and needs Debian's archive and a Python package index.  Raise MachineError if that fails.
    """
    with _locked() as cache:
        return _build(cache)


def _env() -> dict[str, str]:
    """Return the environment for programs of the host: users often lack /usr/sbin, and modules are to be compiled."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    # Debian's kernel package reads INITRD: no need to make an initial RAM disk.
    return {**env, "PATH": f"{env.get('PATH', os.defpath)}:/usr/sbin:/sbin", "INITRD": "No"}


@contextlib.contextmanager
def _locked() -> Iterator[Path]:
    """Hold the cache's lock, so that of two runs at once only one builds or removes; give the cache's folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wgns-helpers"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield cache


def _build(cache: Path) -> Path:
    """Do build()'s work, with the lock held."""
    if platform.machine() != ARCHITECTURE:
        raise MachineError(f"the test machine can only be built on {ARCHITECTURE}, not on {platform.machine()}")
    if lacking := missing():
        raise MachineError(f"the test machine needs: apt-get install {' '.join(lacking)}")
    folder = cache / f"machine-{digest(ingredients())}"
    if folder.is_dir():
        return folder
    for stale in cache.glob("new-*"):  # left by a run that was killed
        shutil.rmtree(stale, ignore_errors=True)
    began, new = time.monotonic(), Path(tempfile.mkdtemp(prefix="new-", dir=cache))
    _say("building the image, which takes about a minute")
    try:
        for step in (_overlay, _debian, _disk):
            step(new)
        (new / "made").rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    _say(f"built the image in {time.monotonic() - began:.0f} s")
    for old in set(cache.glob("machine-*")) - {folder}:
        with contextlib.suppress(BlockingIOError), (old / "disk").open("rb") as disk:  # blocked while run() uses it
            fcntl.flock(disk, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(old)
    return folder


def _call(
    new: Path, command: Sequence[str], stdin: IO[bytes] | None = None, stdout: IO[bytes] | None = None, cwd: str = "."
) -> None:
    """Run a program of the host while building, quietly; raise MachineError with its last lines if it fails."""
    # setpriv: end it even if this process is killed, but not with SIGKILL: mmdebstrap has to clean up.
    command = ["setpriv", "--pdeathsig", "TERM", *command]
    with (new / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdin=stdin or subprocess.DEVNULL, stdout=stdout or log, stderr=log, cwd=new / cwd, env=_env()
        )
        try:
            status = process.wait(BUILD_SECONDS)
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if status:
        lines = (new / "log").read_text(errors="replace").splitlines()
        raise MachineError("\n".join([f"building the test machine: {command[3]} failed:", *lines[-15:]]))


def _overlay(new: Path) -> None:
    """Write overlay.tar: the guest's Python packages, which it could not download itself, its unit and its runner."""
    tree = new / "overlay"
    (tree / SITE).mkdir(parents=True)
    platforms = [f"--platform={name}_{ARCHITECTURE}" for name in ("manylinux_2_28", "manylinux2014")]
    wheels = [*platforms, f"--python-version={PYTHON}", "--only-binary=:all:", "--no-compile"]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--target", str(tree / SITE)]
    _call(new, [*pip, *wheels, *requirements()])
    shutil.rmtree(tree / SITE / "bin", ignore_errors=True)  # scripts that name the host's interpreter
    for name, text in {"etc/systemd/system/machine.service": UNIT, "usr/local/sbin/machine": RUNNER}.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    with tarfile.open(new / "overlay.tar", "w") as tar:
        tar.add(tree, ".", filter=_plain)


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Make a tar member root's, and its mode independent of this process's umask."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    return member


def _debian(new: Path) -> None:
    """Write root.tar, the guest's file system, with mmdebstrap, and take the kernel out of it."""
    # In namespaces of its own (as root, that is without a user namespace) it leaves no mounts behind if it is killed;
    # a chroot or a container may not allow them.
    probe = ["unshare", "-m", "-p", "-f", "--mount-proc", "true"]
    allowed = subprocess.run(probe, capture_output=True, check=False).returncode == 0
    mode = "root" if os.geteuid() == 0 and not allowed else "unshare"
    hooks = [f"--customize-hook=tar-in {shlex.quote(str(new / 'overlay.tar'))} /", f"--customize-hook={CUSTOMIZE}"]
    command = ["mmdebstrap", f"--mode={mode}", "--variant=minbase", "--format=tar", f"--include={PACKAGES}", *hooks]
    with (new / "root.tar").open("wb") as tar:
        _call(new, [*command, SUITE, "-"], stdout=tar)
    (new / "made").mkdir()
    with tarfile.open(new / "root.tar") as root:
        kernel = next(member for member in root if member.name.startswith("./boot/vmlinuz-"))
        (new / "made/kernel").write_bytes((root.extractfile(kernel) or io.BytesIO()).read())


def _disk(new: Path) -> None:
    """Write the ext4 image ``disk`` (2 GiB, sparse) from root.tar, without mounting anything."""
    script = """
    trap 'rm -rf root' EXIT
    trap 'exit 143' HUP INT TERM
    mkdir root
    tar -C root --numeric-owner -xpf - --exclude='./dev/*'
    mke2fs -q -F -t ext4 -O ^has_journal -m 0 -d root disk
    """
    # An ordinary user's subordinate ids will own the files.  They may write here, where nobody else gets in (new is
    # the user's only); hence the relative paths, too.
    stage = new / "stage"
    stage.mkdir()
    stage.chmod(0o777)
    with (stage / "disk").open("wb") as disk:
        disk.truncate(2 << 30)
    (stage / "disk").chmod(0o666)
    helper = [] if os.geteuid() == 0 else ["mmdebstrap", "--unshare-helper"]
    with (new / "root.tar").open("rb") as tar:
        _call(new, [*helper, "sh", "-ec", script], stdin=tar, cwd="stage")
    (stage / "disk").chmod(0o644)
    (stage / "disk").rename(new / "made/disk")


def run(
    command: Sequence[str],
    *,
    files: Path | None = None,
    env: Mapping[str, str] | None = None,
    memory: int = 1024,
    timeout: float = 1800,
    out: BinaryIO | None = None,
) -> int:
    """Boot the machine, run the command there as root in the project tree, and return its exit status.

    What it prints goes to out (standard output unless given).  files is a folder that the guest gets as /root/files,
    env adds to its environment, memory is in MiB, and timeout (in seconds) is for all but building the image.
    Raise MachineError if the machine can't be built or fails, OverTimeError after the timeout.
    """
    with contextlib.ExitStack() as stack:
        with _locked() as cache:
            folder = _build(cache)
            disk = stack.enter_context((folder / "disk").open("rb"))
            fcntl.flock(disk, fcntl.LOCK_SH)  # against removal by another run
        deadline = time.monotonic() + timeout
        cargo = stack.enter_context(tempfile.TemporaryFile())
        _pack(cargo, command, files, env or {})
        # KVM can be there and yet fail.  The mark goes with the image, so that KVM gets another chance every week.
        broken = folder / f"no-kvm-on-{platform.release()}"
        if os.access("/dev/kvm", os.R_OK | os.W_OK) and not broken.exists():
            try:
                return _boot("kvm", _qemu("kvm", folder, cargo, memory), out or sys.stdout.buffer, deadline)
            except NotBootedError:
                _say("KVM does not work here, falling back to software emulation")
                broken.touch()
        return _boot("tcg", _qemu("tcg", folder, cargo, memory), out or sys.stdout.buffer, deadline)


def _pack(cargo: IO[bytes], command: Sequence[str], files: Path | None, env: Mapping[str, str]) -> None:
    """Write the tar stream that the guest unpacks into /root: the project tree, the extra files and the command."""
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    basic = {"HOME": "/root", "LANG": "C.UTF-8", "LOGNAME": "root", "PATH": path, "SHELL": "/bin/sh", "USER": "root"}
    settings = [f"{name}={value}" for name, value in {**basic, **env}.items()]
    script = f"cd /root/wgns-helpers && exec env -i {shlex.join([*settings, *command])}\n".encode()
    with tarfile.open(fileobj=cargo, mode="w") as tar:
        for name in _project():
            tar.add(ROOT / name, f"wgns-helpers/{name}", recursive=False, filter=_plain)
        if files is not None:
            tar.add(files, "files", filter=_plain)
        member = tarfile.TarInfo("command")
        member.size = len(script)
        tar.addfile(member, io.BytesIO(script))
    cargo.flush()


def _project() -> list[str]:
    """Return the paths of the checkout's files: those that git doesn't ignore, or without git all but the caches."""
    git = ["git", "-C", str(ROOT), "ls-files", "-coz", "--exclude-standard"]
    try:
        names = subprocess.run(git, capture_output=True, check=True).stdout.decode().split("\0")
    except (OSError, subprocess.CalledProcessError):
        names = [str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if not path.is_dir()]
        unwanted = re.compile(r"(^|/)(\.git|\.?venv|__pycache__|\.\w+_cache|\.hypothesis|[^/]+\.egg-info)(/|$)")
        names = [name for name in names if not unwanted.search(name)]
    return sorted({name for name in names if name and os.path.lexists(ROOT / name)})


def _qemu(accel: str, folder: Path, cargo: IO[bytes], memory: int) -> list[str]:
    """Return QEMU's arguments, but for the channels; the guest's disk is only read, its writes go to a deleted file."""
    kernel = "root=/dev/nvme0n1 rw console=ttyS0 quiet panic=-1 TERM=dumb"
    disk = str(folder / "disk").replace(",", ",,")
    command = ["-nodefaults", "-no-user-config", "-display", "none", "-nic", "none", "-machine", "q35"]
    # One processor: with two, guests have crashed under software emulation.
    command += ["-smp", "1", "-m", str(memory), "-kernel", str(folder / "kernel"), "-append", kernel]
    command += ["-accel", "kvm", "-cpu", "host"] if accel == "kvm" else ["-accel", "tcg,tb-size=256", "-cpu", "max"]
    command += ["-drive", f"if=none,id=disk,format=raw,snapshot=on,file={disk}"]
    command += ["-drive", f"if=none,id=cargo,format=raw,readonly=on,file=/proc/{os.getpid()}/fd/{cargo.fileno()}"]
    command += ["-device", "nvme,drive=disk,serial=1", "-device", "virtio-blk-pci,drive=cargo"]
    command += ["-serial", "chardev:console", "-device", "virtio-serial-pci"]
    for number, name in list(enumerate(CHANNELS))[1:]:
        command += ["-device", f"virtserialport,nr={number},chardev={name}"]
    return command


@dataclass
class _Guest:
    """What comes from a running QEMU: its console and error messages, the command's output, the runner's status."""

    out: BinaryIO
    channels: dict[str, socket.socket] = field(default_factory=dict)
    seen: dict[str, bytes] = field(default_factory=lambda: {"console": b"", "status": b""})

    @contextlib.contextmanager
    def running(self, arguments: Sequence[str]) -> Iterator[None]:
        """Run QEMU as long as the context lasts; setpriv ends it even if this process is killed."""
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            ends: dict[str, int] = {}
            for name in CHANNELS:
                near, far = socket.socketpair()
                self.channels[name], ends[name] = ours.enter_context(near), theirs.enter_context(far).fileno()
            command = ["setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", *arguments]
            for name, end in ends.items():
                command += ["-chardev", f"socket,id={name},fd={end}"]
            console = ends["console"]
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, env=_env(), pass_fds=ends.values()
            )
            try:
                theirs.close()
                yield
            finally:
                process.kill()
                process.wait()

    def listen(self, seconds: float = 1) -> bool:
        """Take what arrives within the time, the command's output to out; return whether something did."""
        ready = select.select(list(self.channels.values()), [], [], seconds)[0]
        for name, channel in list(self.channels.items()):
            if channel not in ready:
                continue
            if not (data := channel.recv(1 << 16)):
                del self.channels[name]
            elif name == "output":
                self.out.write(data)
                self.out.flush()
            else:
                self.seen[name] += data
        return bool(ready)

    def error(self, kind: type[MachineError], text: str) -> MachineError:
        """Return an exception whose text ends with the console's last lines."""
        lines = self.seen["console"].decode(errors="replace").replace("\r", "").strip().splitlines()
        return kind("\n".join([f"the test machine {text}; the end of its console:", *lines[-50:]]))


def _boot(accel: str, arguments: Sequence[str], out: BinaryIO, deadline: float) -> int:
    """Boot once, copy the command's output to out and return its status; the deadline is a time.monotonic().

    Raise NotBootedError, OverTimeError, or MachineError if QEMU ends before the command.
    """
    guest, began, ready = _Guest(out), time.monotonic(), False
    with guest.running(arguments):
        while guest.channels:
            guest.listen()
            now = time.monotonic()
            if not ready and b"ready\n" in guest.seen["status"]:
                ready = True
                _say(f"booted in {now - began:.1f} s ({accel})")
            if match := re.search(rb"exit (\d+)\n", guest.seen["status"]):
                while guest.listen(0):  # the guest writes the status after its output has arrived here
                    pass
                return int(match[1])
            if now > deadline:
                raise guest.error(OverTimeError, "was stopped at its time limit")
            if not ready and (now > began + BOOT_SECONDS[accel] or b"KVM internal error" in guest.seen["console"]):
                raise guest.error(NotBootedError, "did not boot")
    raise guest.error(MachineError if ready else NotBootedError, "ended before its command did")


def _say(text: str) -> None:
    """Tell the user, not on standard output: that is the command's."""
    print(f"machine: {text}", file=sys.stderr, flush=True)


def main(arguments: list[str]) -> int:
    """Do what the command line says and return the exit status."""
    parser = argparse.ArgumentParser(description="Run a command in a virtual machine whose kernel has WireGuard.")
    parser.add_argument("--files", type=Path, metavar="DIR", help="a folder that the guest gets as /root/files")
    parser.add_argument("--memory", type=int, default=1024, metavar="MIB", help="the guest's memory (%(default)s)")
    parser.add_argument("--timeout", type=float, default=1800, metavar="SECONDS", help="limit (%(default)s)")
    parser.add_argument("--missing", action="store_true", help="print the Debian packages that the host lacks")
    parser.add_argument("command", nargs="*", help="command for the guest; without one, only build the image")
    split = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser.parse_args(arguments[:split])
    command = [*options.command, *arguments[split + 1 :]]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, and so cleans up
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # like any filter; setpriv ends QEMU then
    try:
        if options.missing:
            print(" ".join(missing()))
        elif not command:
            print(build())
        else:
            return run(command, files=options.files, memory=options.memory, timeout=options.timeout)
    except MachineError as error:
        _say(str(error))
        return error.status
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
