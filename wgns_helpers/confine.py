"""What confines: the drop-in for a unit, made from confined-service.conf, and a command with the same isolation.

`wgns exec` does by itself what systemd does for a unit: systemd-run(1) with --pipe would leave the command running when
its caller is killed.
"""

from __future__ import annotations

import ctypes
import os
import stat
from contextlib import suppress
from struct import pack

from . import check, netns
from .check import SOCKETS
from .errors import Failure, MissingError, PermissionRefusedError, UsageError, shown, system_error, warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    import pwd
    import signal as _signal
    from typing import NoReturn
else:
    import _signal

_CLONE_NEWNS = 0x20000  # sched.h
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_SLAVE = 1, 2, 4, 8, 32, 1 << 19  # sys/mount.h
_PR_CAPBSET_DROP, _CAPABILITY_VERSION_3 = 24, 0x20080522  # linux/prctl.h, linux/capability.h
_FAMILIES = (40, 42)  # AF_VSOCK, AF_QIPCRTR of sys/socket.h, which no namespace separates
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C  # asm-generic/ioctls.h
_LOW = 0xFFFFFFFF  # what the kernel reads of these arguments

# seccomp.h
_SCMP_ACT_ALLOW, _SCMP_ACT_EPERM = 0x7FFF0000, 0x00050001
_SCMP_FLTATR_ACT_BADARCH, _SCMP_CMP_MASKED_EQ = 2, 7

_CALLERS = ("SUDO_UID", "PKEXEC_UID", "DOAS_USER")  # how sudo(8), pkexec(1) and doas(1) name their caller

# The further ABIs whose programs a machine may run, by their names in libseccomp; calls by any other are refused
_ABIS = {"aarch64": (b"arm",), "s390x": (b"s390",), "x86_64": (b"x86", b"x32")}

_COMMANDS = ("Condition", "StartPre", "Start", "StartPost", "Reload", "Stop", "StopPost")
_SEEN = ["Type", "LoadState", "User", "DynamicUser", "PAMName", "KillMode", "FragmentPath", "DropInPaths", "MainPID"]
_SEEN += [f"Exec{name}Ex" for name in _COMMANDS]


class CommandError(Failure):
    """The command cannot be executed; the exit codes are those of env(1)."""

    def __init__(self, command: str, error: OSError) -> None:
        super().__init__(f"{shown(command)}: {(error.strerror or '').lower()}")
        self.code = 127 if isinstance(error, FileNotFoundError) else 126


def text(name: str, kind: str = "service") -> str:
    """The settings for a `kind` of unit (service or socket), confined to the tunnel `name`."""
    path = os.path.join(os.path.dirname(__file__), f"confined-{kind}.conf")
    with open(path, encoding="utf-8") as file:
        template = file.read()
    # No other character of a link's name has to be escaped in a unit's: systemd-escape(1)
    return template.replace("wg@NAME", "wg@" + name.replace("+", r"\x2b")).replace("NAME", name)


def for_unit(name: str, unit: str, allowed: list[str]) -> str:
    """The same for a certain unit ("": any service), and what it may see of /run besides. Raises `Failure`."""
    head, kind, tail = "", "service", ""
    if unit:
        unit = unit if "." in unit else f"{unit}.service"
        kind = unit.rpartition(".")[2]
        if kind not in ("service", "socket"):
            raise UsageError(f"{shown(unit)} cannot be confined", "expected a .service or a .socket")
        known = properties(unit)
        if known.get("Type") == "dbus":
            raise Failure(
                f"{unit} is on the system bus (Type=dbus), which answers from the host's network and is hidden from it",
                "a drop-in with another Type= and without BusName=, if the service can do without the bus",
            )
        if kind == "service" and known:
            _warn(unit, known)
            tail = "PIDFile=\n" if os.path.dirname(_pid_file(known)) == "/run" else ""
        template = "@." in unit
        wanted = "of its instances the ones that are to start with it" if template else unit
        again = "" if template else f"; systemctl restart '{unit}'"  # a running service stays where it was until then
        head = f"# Save as /etc/systemd/system/{unit}.d/wireguard.conf, then:\n"
        link = "systemctl add-wants 'wg-confined@" + name.replace("+", r"\x2b") + f".service' '{wanted}'"
        head += f"# systemctl daemon-reload; {link}{again}\n"
    if allowed and kind == "socket":
        raise UsageError("--allow is for services: a socket unit sees no files")
    binds = "".join(f"BindPaths={_allowed(path)}\n" for path in allowed)
    return head + text(name, kind) + binds + tail


def _allowed(path: str) -> str:
    """`path` if a service may see it: below /run, and without a socket that `wgns check` refuses."""
    path = path.rstrip("/")
    if not path.startswith("/run/") or ".." in path or any(c.isspace() or c in ':\\"%' for c in path):
        raise UsageError(f"--allow {shown(path)}: expected a path below /run", "all else is as the unit has it")
    refused = [socket for socket in SOCKETS if f"{socket}/".startswith(f"{path}/")]
    if refused:
        raise UsageError(
            f"--allow {shown(path)}: {refused[0]} is there, by which the host would look up names",
            "name what the service needs of it, not the whole",
        )
    return path


def _warn(unit: str, known: dict[str, str]) -> None:
    """Name what the drop-in cannot hold."""
    if known.get("KillMode") in ("process", "none"):
        left = f"KillMode={known['KillMode']} lets processes go on when the tunnel stops"
        warn(f"{unit}: {left}", "a drop-in with KillMode=control-group")
    if known.get("PAMName"):
        warn(f"{unit}: PAMName={known['PAMName']} lets processes of its session go on when the tunnel stops")
    privileged = [f"Exec{name}=" for name in _COMMANDS if "flags=privileged" in known.get(f"Exec{name}Ex", "")]
    if privileged:
        warn(f"{unit}: + in {', '.join(privileged)} runs commands with all privileges, by which they can leave")
    if known.get("DynamicUser") != "yes" and known.get("User", "") in ("", "root", "0"):
        warn(
            f"{unit} starts as root, which can change files that the host acts on and control processes of users",
            "User= or DynamicUser=, unless it changes the user itself",
        )


def _pid_file(known: dict[str, str]) -> str:
    """PIDFile= of the unit's own files: systemd's answer would be that of our drop-in, if the unit has it already."""
    found = ""
    for path in [known.get("FragmentPath", ""), *known.get("DropInPaths", "").split()]:
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                lines = file.read().splitlines()
        except OSError:
            continue
        if not any(line.startswith("NetworkNamespacePath=/run/netns/") for line in lines):
            values = [line.partition("=")[2].strip() for line in lines if line.partition("=")[0].strip() == "PIDFile"]
            found = values[-1] if values else found
    found = found.replace("%t", "/run")
    return found if found.startswith("/") or not found else f"/run/{found}"


def main_process(unit: str) -> str:
    """The number of the main process of a unit; `Failure` where it has none."""
    unit = unit if "." in unit else f"{unit}.service"
    number = properties(unit).get("MainPID", "0")
    if number == "0":
        raise Failure(f"{shown(unit)} has no main process", "systemctl status tells whether it runs")
    return number


def properties(unit: str) -> dict[str, str]:
    """What systemd knows of a unit; empty, with a warning, where no systemd runs (an image, a container)."""
    import subprocess

    asked = ["systemctl", "show", f"--property={','.join(_SEEN)}", "--", unit.replace("@.", "@instance.")]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        warn(f"systemd does not answer: {unit} could not be looked at")
        return {}
    found = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    if found.get("LoadState") == "not-found":
        raise MissingError(f"systemd knows no {shown(unit)}", "systemctl list-unit-files")
    return found


def execute(name: str, user: str, command: list[str]) -> NoReturn:
    """Become `command`, confined to the tunnel `name`, as `user` ("": who called sudo, or the caller).

    It first becomes what the command will be, and then proves its isolation as `wgns check` does. Raises `Failure`;
    then nothing has been changed but this process itself.
    """
    account = _account(user)
    descriptor = netns.open_namespace(name)
    folder = os.getcwd()
    os.get_exec_path()  # imports what the user may not be able to read
    netns.enter(descriptor)
    try:
        _hide(name)
        _close_descriptors()
        _restrict()
        if account:
            _become(account)
        if not os.geteuid():
            _drop_capabilities()
        _change_folder(folder)
    except OSError as error:
        raise system_error(str(error.filename or "wgns exec"), error) from None
    for point, holds, found in check.points(name):
        if holds is False:
            raise PermissionRefusedError(f'not confined to "{name}": {point}: {found}', "nothing was executed")
    for number in (_signal.SIGPIPE, _signal.SIGXFSZ):  # which Python ignores
        _signal.signal(number, _signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        raise CommandError(command[0], error) from None


def _close_descriptors() -> None:
    """Those above the soft limit too, which closerange(3, SC_OPEN_MAX) would pass on."""
    for entry in os.listdir("/proc/self/fd"):
        if int(entry) > 2:
            with suppress(OSError):  # listdir has closed its own
                os.close(int(entry))


def _change_folder(folder: str) -> None:
    """Go there anew, by its name and as the user: by its old place, the host's /run could still be seen."""
    try:
        os.chdir(folder)
    except OSError:
        os.chdir("/")
        warn(f"{folder} cannot be entered: the command starts in /")


def _restrict() -> None:
    """Set what the drop-in sets: no_new_privs, the bounding set, and a system call filter for all ABIs of the machine.

    The terminal may be root's, so no input can be put into it either (TIOCSTI and TIOCLINUX of ioctl_tty(2)).
    """
    library = check.libseccomp()
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(_SCMP_ACT_ALLOW))
    calls = [library.seccomp_attr_set(context, _SCMP_FLTATR_ACT_BADARCH, _SCMP_ACT_EPERM)]
    abis = map(library.seccomp_arch_resolve_name, _ABIS.get(os.uname().machine, ()))
    calls += [library.seccomp_arch_add(context, abi) for abi in abis]
    rules = [(name, b"") for name in (b"add_key", b"keyctl", b"request_key")]  # a call, and what its argument is
    rules += [(b"socket", _condition(0, family)) for family in _FAMILIES]
    rules += [(b"ioctl", _condition(1, request)) for request in (_TIOCSTI, _TIOCLINUX)]
    for name, condition in rules:
        call = library.seccomp_syscall_resolve_name(name)
        calls.append(library.seccomp_rule_add_array(context, _SCMP_ACT_EPERM, call, len(condition) // 24, condition))
    calls.append(library.seccomp_load(context))  # which sets no_new_privs first
    if any(calls):
        raise OSError(-min(calls), os.strerror(-min(calls)), "system call filter")
    for number in check.CAPABILITIES.values():
        netns.call("prctl", _PR_CAPBSET_DROP, number, 0, 0, 0)


def _condition(argument: int, value: int) -> bytes:
    """That the lower half of an argument has this value, as struct scmp_arg_cmp."""
    return pack("=IiQQ", argument, _SCMP_CMP_MASKED_EQ, _LOW, value)


def _become(account: pwd.struct_passwd) -> None:
    os.initgroups(account.pw_name, account.pw_gid)
    os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
    os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
    names = {"HOME": account.pw_dir, "USER": account.pw_name, "LOGNAME": account.pw_name, "SHELL": account.pw_shell}
    os.environ.update(names)


def _drop_capabilities() -> None:
    """Root keeps none but those that a confined service can have (capset(2))."""
    with open("/proc/self/status", encoding="utf-8") as status:
        permitted = int(next(line for line in status if line.startswith("CapPrm:")).split()[1], 16)
    for number in check.CAPABILITIES.values():
        permitted &= ~(1 << number)
    low, high = permitted & _LOW, permitted >> 32
    netns.call("capset", pack("=Ii", _CAPABILITY_VERSION_3, 0), pack("=6I", low, low, 0, high, high, 0))


def _account(user: str) -> pwd.struct_passwd | None:
    """Whose process it is to be; None: it stays the caller's."""
    if os.geteuid():
        raise PermissionRefusedError(
            "wgns exec has to be started by root", "sudo wgns exec … runs the command as the user who calls sudo"
        )
    import pwd

    caller = next((os.environ[name] for name in _CALLERS if os.environ.get(name)), "")
    name = user or caller
    try:
        account = (pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)) if name else None
    except (KeyError, OverflowError):
        raise UsageError(f"there is no user {shown(name)}") from None
    if not user and not (account and account.pw_uid):
        warn("the command runs as root", "--user USER makes it another user's; --user root says that this is meant")
    return account


def _hide(name: str) -> None:
    """Give this process mounts of its own, as the drop-in has them: another /run, /proc and /sys, and files in /etc."""
    settings = [line.partition("=")[::2] for line in text(name).splitlines()]
    netns.call("unshare", _CLONE_NEWNS)
    netns.call("mount", b"none", b"/", None, netns.MS_REC | _MS_SLAVE, None)
    sources = _sources([value for key, value in settings if key == "BindReadOnlyPaths"])
    _mount("tmpfs", "/run", _MS_NOSUID | _MS_NODEV, "mode=755")
    umask = os.umask(0o022)  # the command's user has to get there
    for target, descriptor in sources.items():
        if target.startswith("/run/"):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                os.mkdir(target)
            else:
                os.close(os.open(target, os.O_CREAT | os.O_EXCL, 0o644))
        if os.path.exists(target):  # a C library without nsswitch.conf needs none
            _mount(f"/proc/self/fd/{descriptor}", target, netns.MS_BIND | netns.MS_REC)
            _mount("none", target, netns.MS_BIND | _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID)
    os.umask(umask)
    sealed = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    for path in [value.removeprefix("-") for key, value in settings if key == "InaccessiblePaths"]:
        if os.path.isdir(path):
            _mount("tmpfs", path, _MS_RDONLY | sealed, "mode=000")
    _mount("sysfs", "/sys", _MS_RDONLY | sealed)
    _mount("proc", "/proc", sealed, "hidepid=4")  # ptraceable, also for the group of root
    _mount("/proc/sys", "/proc/sys", netns.MS_BIND)  # by kernel.core_pattern root would have a program run in the host
    _mount("none", "/proc/sys", netns.MS_BIND | _MS_REMOUNT | _MS_RDONLY | sealed)


def _sources(binds: list[str]) -> dict[str, int]:
    """Open what is to be mounted, by the place where, before a new /run hides it."""
    found = {}
    for bind in binds:
        source, _, target = bind.removeprefix("-").partition(":")
        try:
            found[os.path.realpath(target or source)] = os.open(source, os.O_PATH)
        except FileNotFoundError:
            if not bind.startswith("-"):
                raise
    resolv_conf = os.path.realpath("/etc/resolv.conf")
    if not os.path.exists(resolv_conf) and not resolv_conf.startswith("/run/"):
        raise MissingError(
            "/etc/resolv.conf does not exist, so the tunnel's cannot be mounted there", "touch /etc/resolv.conf"
        )
    return found


def _mount(source: str, target: str, flags: int, options: str = "") -> None:
    """A mount(2) whose errors name the target; what is no bind mount has the source's name for its type."""
    try:
        netns.call("mount", source.encode(), target.encode(), source.encode(), flags, options.encode())
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or 0), f"mount on {target}") from None
