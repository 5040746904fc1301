"""``edgeface events``: what 'edgeface camera --events' kept, listed, exported and deleted."""

from __future__ import annotations

import csv
import json
import re
from contextlib import closing
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from edgeface.atomic import refused, replacing
from edgeface.cli.tables import table
from edgeface.cli.writing import print_json, say, say_lines
from edgeface.errors import OptionError
from edgeface.stream.events.store import EventStore
from edgeface.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeface.stream.events.store import Event

_AGE = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def moment(_context: click.Context, _option: click.Parameter, value: str | None) -> float | None:
    """Seconds since 1970, of an age such as 7d, or of a local date and time in ISO 8601."""
    if value is None:
        return None
    match = _AGE.fullmatch(value)
    try:
        if match is not None:
            age = timedelta(**{_UNITS[match.group(2)]: float(match.group(1))})
            return (datetime.now() - age).timestamp()
        return datetime.fromisoformat(value).timestamp()
    except (ValueError, OverflowError, OSError):
        raise click.BadParameter(
            f"{value!r} is no time: write an age such as 90m, 12h or 7d, or 2026-11-29 or 2026-11-29T18:30"
        ) from None


_FOLDER = click.argument("folder", type=click.Path(path_type=Path))
_SINCE = click.option("--since", callback=moment, metavar="TIME", help="Seen since then: 12h, 7d, 2026-11-29T18:30.")
_UNTIL = click.option("--until", callback=moment, metavar="TIME", help="Seen before then.")


@click.group(short_help="List, export and delete what a camera kept.")
def command() -> None:
    """List, export and delete what 'edgeface camera --events FOLDER' kept: a row a track, and its best shot.

    \b
    edgeface camera 0 --events seen
    edgeface events list seen --since 12h
    edgeface events purge seen --before 7d
    """


@command.command("list")
@_FOLDER
@_SINCE
@_UNTIL
@click.option("--most", type=click.IntRange(min=1), default=50, show_default=True, metavar="N", help="The newest N.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
def list_(folder: Path, since: float | None, until: float | None, most: int, as_json: bool) -> None:
    """List the events of FOLDER, the newest first."""
    _require_order(since, until)
    with _opened(folder) as store:
        found = list(store.events(since_unix_s=since, until_unix_s=until, most=most))
    if as_json:
        print_json([_record(event) for event in found])
        return
    if not found:
        say(f"{folder}: no events" + (" in that time" if since is not None or until is not None else ""))
        return
    rows = [["first seen", "source", "mask", "shot", "id", "seconds", "sightings", "score"]]
    for event in found:
        mask = "" if event.has_mask is None else "yes" if event.has_mask else "no"
        rows.append([
            _time(event.first_seen), event.source, mask, event.shot or "", str(event.id),
            f"{event.last_seen - event.first_seen:.1f}", str(event.sightings), f"{event.score:.2f}",
        ])
    for line in table(rows, 4):
        say(line)


@command.command("show")
@_FOLDER
@click.argument("number", type=click.IntRange(min=1), metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
def show(folder: Path, number: int, as_json: bool) -> None:
    """Show all that is known of one event."""
    with _opened(folder) as store:
        event = store.event(number)
    if as_json:
        print_json(_record(event))
        return
    record = _record(event)
    record |= {name: f"{_time(record[name])} ({record[name]:.3f})" for name in ("first_seen", "last_seen")}
    record["shot"] = None if event.shot is None else str(folder / event.shot)
    rows = [[name, "-" if value is None else str(value)] for name, value in record.items()]
    say_lines("\n".join(table(rows, 2)))


@command.command("export")
@_FOLDER
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--format", "kind", type=click.Choice(["csv", "jsonl"]), default="csv", show_default=True,
              help="A table with a header, or a JSON object a line.")
@_SINCE
@_UNTIL
def export(folder: Path, file: Path, kind: str, since: float | None, until: float | None) -> None:
    """Write the events of FOLDER to FILE, the newest first. Shots stay where they are; their names are in it."""
    if str(file) == "-":
        raise OptionError("events are exported to a file: give its name, and 'edgeface events list --json' for a pipe")
    _require_order(since, until)
    count = 0
    with _opened(folder) as store, replacing(file) as temporary:
        try:
            with temporary.open("w", encoding="utf-8", newline="") as stream:
                write = _writer(kind, stream)
                for event in store.events(since_unix_s=since, until_unix_s=until):
                    write(_record(event))
                    count += 1
        except OSError as error:
            raise refused(file, error) from None
    say(f"{file}: {counted(count, 'event')}")


@command.command("purge")
@_FOLDER
@click.option("--before", callback=moment, metavar="TIME", help="Those last seen before then: 7d, 2026-11-01.")
@click.option("--id", "number", type=click.IntRange(min=1), metavar="ID", help="This one.")
@click.option("--all", "everything", is_flag=True, help="Every one.")
def purge(folder: Path, before: float | None, number: int | None, everything: bool) -> None:
    """Delete events of FOLDER for good, and their best shots. What they were is overwritten in the database."""
    if (before is not None) + (number is not None) + everything != 1:
        raise OptionError("say which events go, by one of --before TIME, --id ID and --all")
    with _opened(folder) as store:
        if number is not None:
            store.event(number)
        count = store.purge(before_unix_s=before, number=number)
    say(f"{folder}: {counted(count, 'event')} deleted")


def _require_order(since: float | None, until: float | None) -> None:
    if since is not None and until is not None and since >= until:
        raise OptionError(
            f"no time lies between --since {_time(since)} and --until {_time(until)}: give the earlier one to --since"
        )


def _opened(folder: Path) -> Any:
    return closing(EventStore(folder))


def _record(event: Event) -> dict[str, Any]:
    """For JSON and CSV: the columns, boxes as lists, yes or no as such."""
    known = asdict(event)
    return {
        "id": known["id"], "source": known["source"], "track": known["track"],
        "first_seen": known["first_seen"], "last_seen": known["last_seen"], "sightings": known["sightings"],
        "width": known["width"], "height": known["height"],
        "first_box": [known[f"first_{corner}"] for corner in ("x1", "y1", "x2", "y2")],
        "last_box": [known[f"last_{corner}"] for corner in ("x1", "y1", "x2", "y2")],
        "score": known["score"], "mask": known["mask"],
        "has_mask": None if known["has_mask"] is None else bool(known["has_mask"]),
        "attributes": None if known["attributes"] is None else json.loads(known["attributes"]),
        "shot": known["shot"], "shot_quality": known["shot_quality"],
    }


def _writer(kind: str, stream: Any) -> Callable[[dict[str, Any]], None]:
    if kind == "jsonl":
        return lambda record: stream.write(msgspec.json.encode(record).decode() + "\n")

    # A column a number, as tables have it: what is a list or an object in JSON is taken apart.
    corners = [f"{when}_{corner}" for when in ("first", "last") for corner in ("x1", "y1", "x2", "y2")]
    names = [
        "id", "source", "track", "first_seen", "last_seen", "sightings", "width", "height", *corners, "score", "mask",
        "has_mask", "attributes", "shot", "shot_quality",
    ]
    rows = csv.DictWriter(stream, names, lineterminator="\n")
    rows.writeheader()

    def write(record: dict[str, Any]) -> None:
        flat = {name: value for name, value in record.items() if not name.endswith("_box")}
        flat |= dict(zip(corners, [*record["first_box"], *record["last_box"]], strict=True))
        flat["attributes"] = None if record["attributes"] is None else json.dumps(record["attributes"])
        rows.writerow(flat)

    return write


def _time(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s).isoformat(sep=" ", timespec="seconds")
