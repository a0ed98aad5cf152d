"""`wgns status` in words: a table of all tunnels, or everything about one; in color on a terminal."""

from __future__ import annotations

import os
from typing import Any

from .status import age

_WORDS = {"waiting": "waiting: nothing sent yet", "idle": "idle: nothing to send"}
_RIGHT = ("confined", "a door")  # of a unit inside
_RED, _GREEN = 31, 32  # ECMA-48
_COLORS = {"alive": _GREEN, "stale": _RED, "never": _RED}


def table(tunnels: list[dict[str, Any]]) -> str:
    """The tunnels, a line each, below a line with titles."""
    rows = [["NAME", "STATE", "HANDSHAKE", "RECEIVED", "SENT", "INSIDE, OR WHAT IS WRONG"]] if tunnels else []
    for tunnel in tunnels:
        peers = tunnel["peers"] or []
        states = [state for state in ("alive", "waiting", "idle") if state in [peer["state"] for peer in peers]]
        state = "fault" if tunnel["faults"] else (states or ["up" if tunnel["present"] else "?"])[0]
        latest = min((peer["handshake"] for peer in peers if peer["handshake"] is not None), default=None)
        traffic = [size(sum(peer[key] for peer in peers)) for key in ("received", "sent")]
        confined = tunnel["confined"].items()
        inside = [unit + " (not confined)" * (how not in (*_RIGHT, None)) for unit, how in confined if unit]
        wrong = [*tunnel["faults"], f"hint: {'; '.join(tunnel['hints'])}"]
        last = wrong if tunnel["faults"] else inside + tunnel["unseen"]
        numbers = [age(latest), *traffic] if tunnel["present"] else ["-"] * 3
        rows.append(list(map(_printable, [tunnel["name"], state, *numbers, "; ".join(last)])))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    colors = [0, *(_RED if tunnel["faults"] else _GREEN * bool(tunnel["present"]) for tunnel in tunnels)]
    return "".join(_painted(line, color) + "\n" for line, color in zip(lines, colors, strict=False))


def text(part: dict[str, Any], indent: str = "") -> str:
    """The tunnel in some lines, by the names of JSON."""
    lines = ""
    for key, value in part.items():
        if key == "peers":
            lines += "".join(f"peer:\n{text(peer, '  ')}" for peer in value or ())
        elif key != "confined":
            title, red = f"{indent}{key.replace('_', ' ')}:", _RED * (key == "faults" and bool(value))
            color = _COLORS.get(value, 0) if key == "state" else red
            rows = (_inside(part) if key == "inside" else _words(key, value)) or ["none"]
            lines += "".join(f"{title:16}{_painted(_printable(words), color)}\n" for words in rows)
    return lines


def _inside(tunnel: dict[str, Any]) -> list[str]:
    """Each unit inside, whether it is confined, and its processes."""
    rows = []
    for unit, processes in tunnel["inside"].items():
        how, names = tunnel["confined"][unit], ", ".join(f"{number} {name}" for number, name in processes.items())
        judged = how if how in _RIGHT else f"not confined ({how})" if how else "not judged"
        rows.append(f"{unit or 'no unit'}, {judged}: {names}")
    return rows


def _words(key: str, value: Any) -> list[str]:  # noqa: ANN401
    """A value in words, in one line or more."""
    if key == "handshake":
        return [age(value)]
    if key in ("received", "sent"):
        return [size(value)]
    if key in ("addresses", "allowed_ips", "name_servers", "open_ports", "search") and value:
        return [", ".join(value)]
    if isinstance(value, bool):
        return ["yes" if value else "no"]
    if key == "state":
        return [_WORDS.get(value, value)]
    return value if isinstance(value, list) else ["?" if value is None else str(value) or "none"]


def size(count: float) -> str:
    """So many bytes in words, as wg(8) has them."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.{2 * (unit != 'B')}f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def _painted(words: str, color: int) -> str:
    """In a color, where a terminal shows it and its user does not mind (no-color.org)."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb" or not os.isatty(1)
    return words if plain or not color else f"\x1b[{color}m{words}\x1b[0m"


def _printable(words: str) -> str:
    """Without what would move a terminal's cursor: a process inside chooses its own name."""
    return "".join(c if c.isprintable() else "?" for c in words)
