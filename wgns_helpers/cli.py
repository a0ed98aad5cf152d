"""Command lines of the five programs: arguments, exit codes, and what is said in the end."""

from __future__ import annotations

import gc
import os
import sys

from . import __version__, signals
from .errors import ERROR, Failure, UsageError, say, shown, system_error
from .netns import checked_link, checked_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .tunnel import Tunnel

_SECONDS = ("--resolve-timeout", "--wait-handshake")
# The options of each program, and whether they take a value
_OPTIONS = {
    "wg-up": {"--netns": True, "--config": True, "--private-key": True, "--dry-run": False}
    | dict.fromkeys(_SECONDS, True),
    "wg-down": {"--netns": True},
    "wgns status": {"--json": False},
    "wgns check": {"--unit": True, "--pid": True, "--json": False},
    "wgns dropin": {"--unit": True, "--allow": True},
    "wgns exec": {"--user": True},
}
_AGAIN = "--allow"  # can be given more than once
# How many names each program takes; a command is some too
_NAMES = dict.fromkeys(("netns-up", "netns-down", "wgns dropin"), (1, 1))
_NAMES |= dict.fromkeys(("wgns", "wg-up", "wg-down", "wgns status", "wgns check", "wgns refresh"), (0, 1))
_NAMES["wgns exec"] = (2, 1 << 30)


def main(program: str) -> None:
    """Run one of the programs and end the process. No traceback unless WGNS_DEBUG=1."""
    signals.default()
    gc.set_threshold(100_000)  # by default it looks through a large configuration again and again
    code = 0
    try:
        while os.open(os.devnull, os.O_RDWR) < 3:  # a socket in the place of a closed stderr would get the messages
            pass
        arguments = sys.argv[1:]
        if program == "wgns" and arguments and f"wgns {arguments[0]}" in _NAMES:
            program = f"wgns {arguments.pop(0)}"
        names, options = _parse(program, arguments)
        if "--help" in options:
            _print(_usage(program) + _usage("") * (program != "wgns status"))
        elif "--version" in options:
            _print(f"{__version__}\n")
        elif program.startswith("netns"):
            from . import naming

            (naming.up if program == "netns-up" else naming.down)(checked_name(names[0]))
        elif program.startswith("wgns"):
            _wgns(program, names, options)
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


def _parse(program: str, arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """The names and the options in `arguments`; argparse would take as long as all the rest of netns-up."""
    known = _OPTIONS.get(program, {})
    names: list[str] = []
    given: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        option, equals, value = argument.partition("=")
        if argument == "--" or (program == "wgns exec" and names and not argument.startswith("-")):  # a command
            names += rest if argument == "--" else [argument, *rest]
            break
        if argument in ("--help", "-h", "--version"):
            return [], {"--help" if argument == "-h" else argument: ""}
        if not argument.startswith("-"):
            names.append(argument)
        elif option not in known:
            raise UsageError(f"unknown option {shown(option)}", "--help lists the options")
        elif option in given and option != _AGAIN:
            raise UsageError(f"{option} is given twice")
        elif not known[option] and equals:
            raise UsageError(f"{option} takes no value")
        else:
            value = value if equals or not known[option] else "".join(rest[:1])
            given[option] = f"{given[option]}\n{value}" if option in given else value
            rest = rest[1:] if known[option] and not equals else rest
    empty = [option for option, value in given.items() if known[option] and not value]
    if empty:
        raise UsageError(f"{empty[0]} needs a value")
    least, most = _NAMES[program]
    if not least <= len(names) <= most:
        wanted = "NAME and COMMAND are" if least > 1 else "one NAME is"
        raise UsageError(f"{wanted} wanted, {len(names)} given", "--help shows the usage")
    return names, given


def _usage(program: str) -> str:
    """What --help says of a program; for none, the exit codes of all."""
    with open(os.path.join(os.path.dirname(__file__), "usage.txt"), encoding="utf-8") as file:
        return file.read().partition(f"== {program}\n")[2].partition("== ")[0]


def _print(text: str) -> None:
    with open(1, "w", encoding="utf-8", closefd=False) as output:  # sys.stdout is None where it was closed
        output.write(text)


def _wg(program: str, name: str, options: dict[str, str]) -> None:
    link = checked_link(checked_name(name))
    namespace = checked_name(options["--netns"]) if "--netns" in options else link
    if program == "wg-down":
        from . import wg_down

        wg_down.down(link, namespace)
        return
    from . import config, resolve, wg_up

    def load() -> Tunnel:
        return config.load(options.get("--config", config.path_of(link)), options.get("--private-key", ""))

    if "--dry-run" in options:
        _print("".join(f"{step}\n" for step in wg_up.plan(link, namespace, load())))
    else:
        resolving, shaking = (_seconds(option, options.get(option, "0")) for option in _SECONDS)
        wg_up.up(link, namespace, lambda: resolve.ready(load(), resolving), shaking)


def _seconds(option: str, value: str) -> int:
    if not (value.isdecimal() and value.isascii() and len(value) < 5 and int(value) <= 3600):
        raise UsageError(f"{option} {shown(value)}: expected a number of seconds from 0 to 3600")
    return int(value)


def _wgns(program: str, names: list[str], options: dict[str, str]) -> None:
    if program == "wgns":
        raise UsageError("status, check, dropin, exec or refresh is wanted", "wgns --help tells what they do")
    name = checked_link(checked_name(names[0])) if names else ""
    if program == "wgns dropin":
        from . import confine

        allowed = options["--allow"].split("\n") if "--allow" in options else []
        _print(confine.for_unit(name, options.get("--unit", ""), allowed))
    elif program == "wgns exec":
        from . import confine

        confine.execute(name, options.get("--user", ""), names[1:])
    elif program == "wgns refresh":
        from . import refresh

        refresh.refresh(name)
    elif program == "wgns status":
        _status(name, json="--json" in options)
    else:
        _check(name, options)


def _status(name: str, *, json: bool) -> None:
    from . import status

    tunnels = status.look(name)
    if json:
        from json import dumps

        _print(dumps({"tunnels": tunnels}, indent=2) + "\n")
    else:
        from . import report

        _print(report.text(tunnels[0]) if name else report.table(tunnels))
    status.verdict(tunnels)


def _check(name: str, options: dict[str, str]) -> None:
    from . import check

    if "--json" in options:
        import json  # before this process moves to a root directory that may lack it
    process = _process(options)
    name = name or check.own_name(process)
    points = check.points(name, process)
    refuted = [f"{point}: {text}" for point, holds, text in points if holds is False]
    if "--json" in options:
        rows = [{"point": point, "holds": holds, "text": text} for point, holds, text in points]
        _print(json.dumps({"name": name, "confined": not refuted, "points": rows}, indent=2) + "\n")
    else:
        words = {True: "yes", False: "NO ", None: "?  "}
        _print("".join(f"{words[holds]} {point}: {text}\n" for point, holds, text in points))
    if refuted:
        in_host = process == "self" and any(point == "host" and holds is False for point, holds, _ in points)
        hint = "--unit UNIT or --pid PID judges another process than this one; wgns status shows the tunnel"
        raise Failure(f'not confined to "{name}": {refuted[0]}', hint if in_host else "")


def _process(options: dict[str, str]) -> str:
    """The process that --unit or --pid names, "self" without either."""
    if "--unit" in options and "--pid" in options:
        raise UsageError("--unit and --pid: expected one of the two")
    if "--unit" in options:
        from . import confine

        return confine.main_process(options["--unit"])
    number = options.get("--pid", "self")
    if number != "self" and not (number.isascii() and number.isdecimal()):
        raise UsageError(f"--pid {shown(number)}: expected a number")
    return number


def _failure(error: Exception) -> Failure:
    if isinstance(error, Failure):
        return error
    if isinstance(error, OSError):
        return system_error(str(error.filename or "system call"), error)
    return Failure(
        f"internal error: {type(error).__name__}", "this is a fault of the program; WGNS_DEBUG=1 shows where"
    )
