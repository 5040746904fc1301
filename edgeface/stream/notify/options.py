"""The options of a run that say who is told what happens, and what is made of them."""

from __future__ import annotations

from dataclasses import dataclass

from edgeface.errors import OptionError
from edgeface.stream.notify import Outlet
from edgeface.stream.notify.execute import Execute
from edgeface.stream.notify.queued_outlet import QueuedOutlet
from edgeface.stream.notify.visits import DEFAULT_KINDS, Visits
from edgeface.stream.notify.webhook import Webhook
from edgeface.stream.notify.zones import parse_zones


@dataclass(frozen=True)
class NotifyOptions:
    """``webhook``: an address; ``exec``: a command's arguments, () for none; ``mqtt``: whether a broker is told;
    ``zones`` as in --zone; ``on``: kinds of events, () for the usual ones; ``dwell_s``: how long a face must stay;
    ``home_assistant``: whether the broker gets its discovery.

    Raises OptionError for what cannot work, and UnknownNameError for a kind that there is not.
    """

    webhook: str | None = None
    exec: tuple[str, ...] = ()
    mqtt: bool = False
    zones: tuple[str, ...] = ()
    on: tuple[str, ...] = ()
    dwell_s: float | None = None
    home_assistant: bool = False

    def __post_init__(self) -> None:
        if not self.is_wanted and (self.zones or self.on or self.dwell_s is not None):
            raise OptionError("--zone, --on and --dwell say what is told: say to whom, by --webhook, --exec or --mqtt")
        if self.home_assistant and not self.mqtt:
            raise OptionError("--home-assistant is told by a broker: add --mqtt mqtt://HOST")
        if self.is_wanted:
            self.visits()
            self.senders()

    @property
    def is_wanted(self) -> bool:
        """Whether anybody is told."""
        return self.webhook is not None or bool(self.exec) or self.mqtt

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of the events that are told."""
        return tuple(dict.fromkeys(self.on)) or DEFAULT_KINDS

    def visits(self) -> Visits:
        """What makes events of results."""
        return Visits(parse_zones(self.zones), self.kinds, self.dwell_s or 0.0)

    def senders(self) -> list[Webhook | Execute]:
        """Those that are told one event at a time; opened by ``outlets``."""
        found: list[Webhook | Execute] = [] if self.webhook is None else [Webhook(self.webhook)]
        return [*found, *([Execute(self.exec)] if self.exec else [])]

    def zone_names(self) -> tuple[str, ...]:
        """Of all zones."""
        return tuple(zone.name for zone in parse_zones(self.zones))

    def outlets(self) -> list[Outlet]:
        """The webhook and the command, each with a queue and a thread."""
        return [QueuedOutlet(sender) for sender in self.senders()]
