"""Command lines of the five programs: arguments, exit codes, and what is said in the end."""

from __future__ import annotations

import gc
import os
import sys

from . import __version__, signals
from .errors import ERROR, Failure, UsageError, say, shown, system_error
from .netns import checked_link, checked_name
from .usage import SECONDS, USAGE, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .tunnel import Tunnel


def main(program: str) -> None:
    """Run one of the programs and end the process. No traceback unless WGNS_DEBUG=1."""
    signals.default()
    gc.set_threshold(100_000)  # by default it looks through a large configuration again and again
    code = 0
    try:
        while os.open(os.devnull, os.O_RDWR) < 3:  # a socket in the place of a closed stderr would get the messages
            pass
        arguments = sys.argv[1:]
        if program == "wgns" and arguments and f"wgns {arguments[0]}" in USAGE:
            program = f"wgns {arguments.pop(0)}"
        names, options = parse(program, arguments)
        if "--help" in options:
            _print(USAGE[program])
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


def _print(text: str) -> None:
    with open(1, "w", encoding="utf-8", closefd=False) as output:  # sys.stdout is None where it was closed
        output.write(text)


def _wg(program: str, name: str, options: dict[str, str]) -> None:
    link = checked_link(checked_name(name))
    namespace = checked_name(options["--netns"]) if "--netns" in options else link
    if program == "wg-down":
        from . import teardown

        teardown.down(link, namespace)
        return
    from . import bringup, config, resolve

    def load() -> Tunnel:
        return config.load(options.get("--config", config.path_of(link)), options.get("--private-key", ""))

    if "--dry-run" in options:
        _print("".join(f"{step}\n" for step in bringup.plan(link, namespace, load())))
    else:
        resolving, shaking = (_seconds(option, options.get(option, "0")) for option in SECONDS)
        bringup.up(link, namespace, lambda: resolve.ready(load(), resolving), shaking)


def _seconds(option: str, value: str) -> int:
    if not (value.isdecimal() and value.isascii() and len(value) < 5 and int(value) <= 3600):
        raise UsageError(f"{option} {shown(value)}: a number of seconds is wanted, 0 to 3600")
    return int(value)


def _wgns(program: str, names: list[str], options: dict[str, str]) -> None:
    if program == "wgns":
        raise UsageError("status, check, dropin, exec or refresh is wanted", "wgns --help tells what they do")
    name = checked_link(checked_name(names[0])) if names else ""
    if program == "wgns dropin":
        from . import dropin

        allowed = options["--allow"].split("\n") if "--allow" in options else []
        _print(dropin.for_unit(name, options.get("--unit", ""), allowed))
    elif program == "wgns exec":
        from . import execute

        execute.execute(name, options.get("--user", ""), names[1:])
    elif program == "wgns refresh":
        from . import refresh

        refresh.refresh(name)
    elif program == "wgns status":
        _status(name, json="--json" in options)
    else:
        _check(name, options)


def _status(name: str, *, json: bool) -> None:
    from . import status

    tunnels = [status.look(each) for each in ([name] if name else status.names())]
    tunnels = [tunnel for tunnel in tunnels if name or tunnel["present"] is not False]
    if json:
        from json import dumps

        _print(dumps({"tunnels": tunnels}, indent=2) + "\n")
    else:
        _print("".join(map(status.text if name else status.line, tunnels)))
    status.verdict(tunnels)


def _check(name: str, options: dict[str, str]) -> None:
    from . import check

    name = name or check.own_name()
    points = check.points(name, default="--no-default" not in options)
    refuted = [f"{point}: {text}" for point, holds, text in points if holds is False]
    if "--json" in options:
        import json

        rows = [{"point": point, "holds": holds, "text": text} for point, holds, text in points]
        _print(json.dumps({"name": name, "confined": not refuted, "points": rows}, indent=2) + "\n")
    else:
        words = {True: "yes", False: "NO ", None: "?  "}
        _print("".join(f"{words[holds]} {point}: {text}\n" for point, holds, text in points))
    if refuted:
        raise Failure(f'not confined to "{name}": {refuted[0]}')


def _failure(error: Exception) -> Failure:
    if isinstance(error, Failure):
        return error
    if isinstance(error, OSError):
        return system_error(str(error.filename or "system call"), error)
    return Failure(
        f"internal error: {type(error).__name__}", "this is a fault of the program; WGNS_DEBUG=1 shows where"
    )
