"""Command lines of the four programs: arguments, exit codes, and what is said in the end."""

from __future__ import annotations

import os
import sys

from . import __version__, signals
from .errors import ERROR, Failure, UsageError, say, shown, system_error
from .netns import checked_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .tunnel import Tunnel

_NAME = "NAME: at most 255 letters, digits and _ - . @ + : (a slash is read as a dash, so that %I of a unit works)"
_CODES = """exit codes: 0 done, 1 the system refused, 2 usage, 69 something is missing, 75 try again, 77 not permitted,
78 configuration
"""
_USAGE = {
    "netns-up": f"""usage: netns-up NAME
Calls the network namespace that it runs in NAME (/run/netns/NAME); in the host's namespace it makes a new one.
{_NAME}
{_CODES}""",
    "netns-down": f"""usage: netns-down NAME
Takes the name of a network namespace away.
{_NAME}
{_CODES}""",
    "wg-up": f"""usage: wg-up [NAME] [--netns NAMESPACE] [--config FILE|-] [--private-key FILE] [--dry-run]
Makes the WireGuard interface NAME (default: wg) inside the network namespace of that name, as a wg-quick(8) file says;
one that is there is changed where it differs, and its sessions go on.
  --netns NAMESPACE   another network namespace than NAME
  --config FILE       another file than /etc/wireguard/NAME.conf; - is standard input
  --private-key FILE  the private key, instead of the one that the configuration names
  --dry-run           check the configuration and print what would be done; changes nothing, and needs no root where
                      there is no tunnel yet
{_CODES}""",
    "wg-down": f"""usage: wg-down [NAME] [--netns NAMESPACE]
Removes the WireGuard interface NAME (default: wg) from the network namespace of that name, and wg-up's resolv.conf.
  --netns NAMESPACE   another network namespace than NAME
{_CODES}""",
}
# The options of each program, and whether they take a value
_OPTIONS = {
    "wg-up": {"--netns": True, "--config": True, "--private-key": True, "--dry-run": False},
    "wg-down": {"--netns": True},
}


def main(program: str) -> None:
    """Run one of the programs and end the process. No traceback unless WGNS_DEBUG=1."""
    signals.default()
    code = 0
    try:
        while os.open(os.devnull, os.O_RDWR) < 3:  # a socket in the place of a closed stderr would get the messages
            pass
        names, options = parse(program, sys.argv[1:])
        if "--help" in options:
            _print(_USAGE[program])
        elif "--version" in options:
            _print(f"{__version__}\n")
        elif program.startswith("netns"):
            from . import naming

            (naming.up if program == "netns-up" else naming.down)(checked_name(names[0]))
        else:
            _wg(program, names[0] if names else "wg", options)
    except Exception as error:
        if os.environ.get("WGNS_DEBUG") == "1":
            raise
        failure = _failure(error)
        say(str(failure), failure.hint, ERROR)
        code = failure.code
    if code:
        signals.release()  # a signal that has undone the work now ends the process; one that came too late does not
    os._exit(code)  # without the interpreter's tidying up: 2 ms


def _print(text: str) -> None:
    with open(1, "w", encoding="utf-8", closefd=False) as output:  # sys.stdout is None where it was closed
        output.write(text)


def _wg(program: str, name: str, options: dict[str, str]) -> None:
    from . import bringup

    link = bringup.checked_link(checked_name(name))
    namespace = checked_name(options["--netns"]) if "--netns" in options else link
    if program == "wg-down":
        bringup.down(link, namespace)
        return
    from . import config, resolve

    def load() -> Tunnel:
        return config.load(options.get("--config", f"/etc/wireguard/{link}.conf"), options.get("--private-key", ""))

    if "--dry-run" in options:
        _print("".join(f"{step}\n" for step in bringup.plan(link, namespace, load())))
    else:
        bringup.up(link, namespace, lambda: resolve.resolve(load()))


def _failure(error: Exception) -> Failure:
    if isinstance(error, Failure):
        return error
    if isinstance(error, OSError):
        return system_error(str(error.filename or "system call"), error)
    return Failure(
        f"internal error: {type(error).__name__}", "this is a fault of the program; WGNS_DEBUG=1 shows where"
    )


def parse(program: str, arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """The names and the options in `arguments`; argparse would take as long as all the rest of netns-up."""
    known = _OPTIONS.get(program, {})
    names: list[str] = []
    given: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        option, equals, value = argument.partition("=")
        if argument == "--":
            names += rest
            break
        if argument in ("--help", "-h", "--version"):
            return [], {"--help" if argument == "-h" else argument: ""}
        if not argument.startswith("-"):
            names.append(argument)
        elif option not in known:
            raise UsageError(f"unknown option {shown(option)}", "--help lists the options")
        elif option in given:
            raise UsageError(f"{option} is given twice")
        elif not known[option] and equals:
            raise UsageError(f"{option} takes no value")
        else:
            given[option] = value if equals or not known[option] else "".join(rest[:1])
            rest = rest[1:] if known[option] and not equals else rest
    empty = [option for option, value in given.items() if known[option] and not value]
    if empty:
        raise UsageError(f"{empty[0]} needs a value")
    if len(names) > 1 or (program.startswith("netns") and not names):
        raise UsageError(f"one NAME is wanted, {len(names)} given", "--help shows the usage")
    return names, given
