"""What a flow finds around it: the time, and who wants to know what happens."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ticketgate.core.clock import Clock
from ticketgate.events import Event

logger = logging.getLogger("ticketgate")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The clock of a resource server, its listener, and whether it accepts tokens of several issuers."""

    clock: Clock = field(default_factory=Clock)
    on_event: Callable[[Event], Any] | None = None
    many_issuers: bool = False

    def tell(self, event: Event) -> None:
        """Give ``event`` to the listener; whatever goes wrong there is logged, and changes nothing."""
        if self.on_event is None:
            return
        try:
            self.on_event(event)
        except Exception as error:
            logger.error("on_event failed at %s: %s", type(event).__name__, type(error).__qualname__)
