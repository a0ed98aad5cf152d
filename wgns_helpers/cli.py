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
             [--resolve-timeout SECONDS] [--wait-handshake SECONDS]
Makes the WireGuard interface NAME (default: wg) inside the network namespace of that name, as a wg-quick(8) file says;
one that is there is changed where it differs, and its sessions go on.
  --netns NAMESPACE          another network namespace than NAME
  --config FILE              another file than /etc/wireguard/NAME.conf; - is standard input
  --private-key FILE         the private key, instead of the one that the configuration names
  --resolve-timeout SECONDS  how long a name that does not resolve is tried again (default: 0, it is tried once)
  --wait-handshake SECONDS   how long a handshake is waited for; without one all is undone (default: 0, not at all)
  --dry-run                  check the configuration and print what would be done; changes nothing, and needs no root
                             where there is no tunnel yet
{_CODES}""",
    "wg-down": f"""usage: wg-down [NAME] [--netns NAMESPACE]
Removes the WireGuard interface NAME (default: wg) from the network namespace of that name, and wg-up's files.
  --netns NAMESPACE   another network namespace than NAME
{_CODES}""",
    "wgns": f"""usage: wgns status|check|dropin|exec|refresh …
Looks at tunnels and at what is confined to them, and confines more; each has its own --help.
  wgns status [NAME]               what a tunnel is right now, or all of them
  wgns check [NAME]                proves that this process is confined to the tunnel NAME
  wgns dropin NAME [--unit UNIT]   prints the drop-in that confines a unit
  wgns exec NAME COMMAND…          runs a command with the isolation of a confined service
  wgns refresh [NAME]              looks up again where peers are that do not answer
{_CODES}""",
    "wgns status": """usage: wgns status [NAME] [--json]
Shows the tunnel NAME: namespace, who is inside, interface, peers, and what differs from its configuration; without
NAME one line for each tunnel.
  --json   the same as JSON, which README.md describes
exit codes: 0 as it should be, 1 a peer is stale or never had a handshake, the interface is down or something differs,
69 there is no such tunnel, 77 that cannot be seen without root; 2 usage
A peer without PersistentKeepalive and default route may be idle: that it is stale is shown, and is 0.
""",
    "wgns refresh": f"""usage: wgns refresh [NAME]
For all tunnels or NAME: where a peer has had no handshake for three minutes and its endpoint is a host name, looks that
up and sets the endpoint to its address, or to the next one if it is at one of them. Changes nothing else.
{_CODES}""",
    "wgns check": f"""usage: wgns check [NAME] [--no-default] [--json]
Proves that this process is confined to the tunnel NAME (default: the one whose namespace it is in), one line for each
point. By hand in the host's network namespace, as root, it looks into the namespace NAME instead.
  --no-default   the tunnel need not have default routes
  --json         the points as JSON
{_CODES}""",
    "wgns dropin": f"""usage: wgns dropin NAME [--unit UNIT] [--allow PATH]…
Prints the drop-in that confines a unit to the tunnel NAME.
  --unit UNIT    the service or socket that it is for, which is looked at
  --allow PATH   what of /run the service may see besides what every service needs; can be given again
{_CODES}""",
    "wgns exec": f"""usage: wgns exec NAME [--user USER] [--] COMMAND [ARGUMENT]…
Runs a command with the isolation of a service that is confined to the tunnel NAME, as the user who called sudo.
  --user USER    as another user: a name or a number
{_CODES.rstrip()}; of the command otherwise, 126 and 127 if it cannot be run
""",
}
_SECONDS = ("--resolve-timeout", "--wait-handshake")
# The options of each program, and whether they take a value
_OPTIONS = {
    "wg-up": {"--netns": True, "--config": True, "--private-key": True, "--dry-run": False}
    | dict.fromkeys(_SECONDS, True),
    "wg-down": {"--netns": True},
    "wgns status": {"--json": False},
    "wgns check": {"--no-default": False, "--json": False},
    "wgns dropin": {"--unit": True, "--allow": True},
    "wgns exec": {"--user": True},
}
_AGAIN = "--allow"  # can be given more than once
# How many names each program takes; a command is some too
_NAMES = dict.fromkeys(("wgns", "wg-up", "wg-down", "wgns status", "wgns check", "wgns refresh"), (0, 1))
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
        if program == "wgns" and arguments and f"wgns {arguments[0]}" in _USAGE:
            program = f"wgns {arguments.pop(0)}"
        names, options = _parse(program, arguments)
        if "--help" in options:
            _print(_USAGE[program])
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
    least, most = _NAMES.get(program, (1, 1))
    if not least <= len(names) <= most:
        wanted = "NAME and COMMAND are" if least > 1 else "one NAME is"
        raise UsageError(f"{wanted} wanted, {len(names)} given", "--help shows the usage")
    return names, given


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
