"""What both drivers say about a run that nobody may be waiting for any more."""

import logging

from ticketgate.core.flow import FetchFailed

logger = logging.getLogger("ticketgate")


def report(error: BaseException) -> None:
    """Log that a shared run ended with ``error``; its words may quote a stranger, so they stay out."""
    if not isinstance(error, FetchFailed):
        logger.error("a shared run ended with %s", type(error).__qualname__)
