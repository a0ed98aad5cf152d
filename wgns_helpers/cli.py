"""Command lines of the four programs: arguments, exit codes, and what is said in the end."""

from __future__ import annotations

import os
import sys

from . import __version__, signals
from .errors import ERROR, Failure, UsageError, say, shown, system_error
from .netns import checked_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

_NAME = "NAME: at most 255 letters, digits and _ - . @ + : (a slash is read as a dash, so that %I of a unit works)"
_CODES = "exit codes: 0 done, 1 refused by the system, 2 usage, 69 something is missing, 75 try again, 77 not permitted, 78 configuration"

NETNS_UP = f"""usage: netns-up NAME
Calls the network namespace that it runs in NAME (/run/netns/NAME); in the host's namespace it makes a new one.
{_NAME}
{_CODES}
"""
NETNS_DOWN = f"""usage: netns-down NAME
Takes the name of a network namespace away.
{_NAME}
{_CODES}
"""
WG_UP = f"""usage: wg-up [NAME] [--netns NAMESPACE] [--config FILE|-] [--private-key FILE] [--dry-run]
Makes the WireGuard interface NAME (default: wg) inside the network namespace of that name, as a wg-quick(8) file says.
  --netns NAMESPACE   another network namespace than NAME
  --config FILE       another file than /etc/wireguard/NAME.conf; - is standard input
  --private-key FILE  the private key, instead of the one that the configuration names
  --dry-run           check the configuration and print the steps; needs no root, resolves and changes nothing
{_CODES}
"""
WG_DOWN = f"""usage: wg-down [NAME] [--netns NAMESPACE]
Removes the WireGuard interface NAME (default: wg) from the network namespace of that name, and the resolv.conf of wg-up.
  --netns NAMESPACE   another network namespace than NAME
{_CODES}
"""


def netns_up() -> NoReturn:
    """The program netns-up."""

    def work(names: list[str], _: dict[str, str]) -> None:
        from . import naming

        naming.up(checked_name(names[0]))

    _run(NETNS_UP, {}, work, needs_name=True)


def netns_down() -> NoReturn:
    """The program netns-down."""

    def work(names: list[str], _: dict[str, str]) -> None:
        from . import naming

        naming.down(checked_name(names[0]))

    _run(NETNS_DOWN, {}, work, needs_name=True)


def wg_up() -> NoReturn:
    """The program wg-up."""

    def work(names: list[str], options: dict[str, str]) -> None:
        from . import bringup, config, resolve

        link, namespace = _link_and_namespace(names, options)
        path = options.get("--config", f"/etc/wireguard/{link}.conf")
        tunnel = config.load(path, options.get("--private-key", ""))
        if "--dry-run" in options:
            sys.stdout.write("".join(f"{step}\n" for step in bringup.plan(link, namespace, tunnel)))
        else:
            bringup.up(link, namespace, resolve.resolve(tunnel))

    _run(WG_UP, {"--netns": True, "--config": True, "--private-key": True, "--dry-run": False}, work)


def wg_down() -> NoReturn:
    """The program wg-down."""

    def work(names: list[str], options: dict[str, str]) -> None:
        from . import bringup

        bringup.down(*_link_and_namespace(names, options))

    _run(WG_DOWN, {"--netns": True}, work)


def _link_and_namespace(names: list[str], options: dict[str, str]) -> tuple[str, str]:
    from .bringup import checked_link

    link = checked_link(checked_name(names[0] if names else "wg"))
    return link, checked_name(options["--netns"]) if "--netns" in options else link


def _run(
    usage: str,
    options: dict[str, bool],
    work: Callable[[list[str], dict[str, str]], None],
    *,
    needs_name: bool = False,
) -> NoReturn:
    """Run a program to its end; `options` says which of them take a value. No traceback unless WGNS_DEBUG=1."""
    signals.default()
    code = 0
    try:
        names, given = parse(sys.argv[1:], options, needs_name=needs_name)
        if "--help" in given:
            sys.stdout.write(usage)
        elif "--version" in given:
            sys.stdout.write(f"{__version__}\n")
        else:
            work(names, given)
        sys.stdout.flush()
    except Exception as error:
        if os.environ.get("WGNS_DEBUG") == "1":
            raise
        failure = _failure(error)
        say(str(failure), failure.hint, ERROR)
        code = failure.code
    signals.release()
    os._exit(code)  # without the interpreter's tidying up: 2 ms


def _failure(error: Exception) -> Failure:
    if isinstance(error, Failure):
        return error
    if isinstance(error, OSError):
        return system_error(str(error.filename or "system call"), error)
    return Failure(f"internal error: {type(error).__name__}", "this is a fault of the program; WGNS_DEBUG=1 shows where")


def parse(arguments: list[str], options: dict[str, bool], *, needs_name: bool) -> tuple[list[str], dict[str, str]]:
    """The names and the options in `arguments`; argparse would take as long as all the rest of netns-up."""
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
        elif option not in options:
            raise UsageError(f"unknown option {shown(option)}", "--help lists the options")
        elif option in given:
            raise UsageError(f"{option} is given twice")
        elif options[option] and not equals and not rest:
            raise UsageError(f"{option} needs a value")
        elif equals and not options[option]:
            raise UsageError(f"{option} takes no value")
        else:
            given[option] = value if equals or not options[option] else rest.pop(0)
    if len(names) > 1 or (needs_name and not names):
        raise UsageError(f"one NAME is wanted, {len(names)} given", "--help shows the usage")
    return names, given
