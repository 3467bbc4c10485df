"""The gate that a request came through: what `requires` finds beside the access token.

RFC 6750 §3 (the answers).
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

from ticketgate.core.access_token import AccessToken
from ticketgate.core.challenge import Answer, render
from ticketgate.core.flow import Flow
from ticketgate.core.request import ResourceRequest
from ticketgate.core.requirement import Requirement
from ticketgate.core.server import ResourceServer
from ticketgate.errors import CannotDecide, ConfigurationError, InternalFault, NoCredentials, OAuthError

DriverType = TypeVar("DriverType")
ErrorBody: TypeAlias = Callable[[OAuthError | CannotDecide], Any]
"""Makes the JSON value that stands in the body of an error answer."""

MISPLACED = "was registered without its guard: move @requires below the route decorator"

logger = logging.getLogger("ticketgate")


@dataclass(frozen=True, slots=True)
class Gate(Generic[DriverType]):
    """``server`` decides, ``driver`` runs its flows, ``error_body`` words the bodies of its refusals.

    ``key`` is where a request keeps the verdict of ``server``: all gates of one server share it.
    """

    server: ResourceServer
    driver: DriverType
    error_body: ErrorBody | None = None
    key: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", f"ticketgate.verdict.{id(self.server)}")

    def answer(self, error: OAuthError | CannotDecide) -> Answer:
        """The response to a request that is refused with ``error``, which is logged here, once."""
        answer = self.server.answer(error)
        if self.error_body is None:
            return answer
        try:
            return answer.with_body(self.error_body(error))
        except Exception as fault:
            logger.error("error_body failed, its answer is left out: %s", type(fault).__qualname__)
            return answer

    def admit(self, request: ResourceRequest, *, optional: bool = False) -> Flow[AccessToken | None]:
        """The access token of ``request``; None for one without credentials where that is ``optional``.

        Raises as `ResourceServer.authenticate` does.
        """
        try:
            return (yield from self.server.authenticate(request))
        except NoCredentials:
            if optional:
                return None
            raise

    def confirm(self, request: ResourceRequest, token: AccessToken, within: float) -> Flow[Answer | None]:
        """The response to a request whose ``token`` its issuer does not call active any more; None where it does.

        An answer of the issuer that is at most ``within`` seconds old will do (RFC 7662 §2.2).
        """
        try:
            yield from self.server.confirm(request, token, within)
        except (OAuthError, CannotDecide) as error:
            return self.answer(error)
        return None

    def refusal(self, token: AccessToken | None, needed: Requirement) -> Answer | None:
        """The response to a request whose ``token`` does not meet ``needed``; None where it does.

        An anonymous request meets nothing: it is asked for credentials.
        """
        try:
            if token is None:
                raise NoCredentials()
            needed.check(token)
        except OAuthError as error:
            return self.answer(error)
        return None


def without_a_gate() -> Answer:
    """The response where a requirement is declared and no middleware is there to meet it."""
    logger.error("requires() needs AccessTokenMiddleware around the application: every request is refused")
    return render(InternalFault("no middleware"), realm="")


def registered_without_its_guard(endpoint: str) -> Answer:
    """The response of an endpoint whose ``@requires`` has no effect, being above the route decorator."""
    logger.error("%s %s: every request for it is refused", endpoint, MISPLACED)
    return render(InternalFault("misplaced"), realm="")


def misconfigured(error: ConfigurationError) -> Answer:
    """The response where what is required was declared in a way that cannot work."""
    logger.error("every request is refused: %s", error)
    return render(InternalFault("misconfigured"), realm="")
