"""The gate in front of a WSGI application: Flask, Django, Bottle, any.

    app = AccessTokenMiddleware(app, ResourceServer("https://api.example", Issuer("https://as.example")))

Answers are those of RFC 6750 §3.
"""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from http import HTTPStatus
from inspect import isgenerator
from typing import Any, TypeAlias, cast

from ticketgate.core.access_token import AccessToken
from ticketgate.core.challenge import Answer
from ticketgate.core.gate import ErrorBody, Gate, without_a_gate
from ticketgate.core.guards import guard
from ticketgate.core.health import readiness_answer
from ticketgate.core.public import ACCEPTED_PREFLIGHTS, PublicPaths, is_preflight
from ticketgate.core.request import ResourceRequest
from ticketgate.core.requirement import Requirement, all_of
from ticketgate.core.server import ResourceServer
from ticketgate.drivers.blocking import Driver, default_driver
from ticketgate.errors import CannotDecide, NoCredentials, OAuthError

Environ: TypeAlias = dict[str, Any]
StartResponse: TypeAlias = Callable[..., Any]
WSGIApp: TypeAlias = Callable[[Environ, StartResponse], Iterable[bytes]]

logger = logging.getLogger("ticketgate")


class AccessTokenMiddleware:
    """Lets requests with a good access token through to ``app``, and answers all others (RFC 6750 §3).

    ``public`` lists paths that are open to everybody, exact or with a trailing ``/*``; credentials sent
    there are ignored.  With ``optional`` a request without credentials passes as anonymous, and bad
    credentials are still refused.  ``driver`` runs the flows; without it all middlewares share one.
    ``error_body`` is given the error and makes the JSON value of an error answer's body.
    ``accept_preflight`` admits whatever looks like a CORS preflight; without it all of them are refused, since
    nothing here can tell that no handler would run.

    Paths are those of ``PATH_INFO``, below ``SCRIPT_NAME``.

    The application finds the `AccessToken`, or None, at ``environ["ticketgate.access_token"]``.
    """

    def __init__(
        self,
        app: WSGIApp,
        server: ResourceServer,
        *,
        public: Iterable[str] = (),
        optional: bool = False,
        driver: Driver | None = None,
        error_body: ErrorBody | None = None,
        accept_preflight: bool = False,
    ) -> None:
        self.app = app
        self.server = server
        self.public = PublicPaths(public)
        self.optional = optional
        self._gate = Gate(server, driver or default_driver(), error_body)
        self._accept_preflight = accept_preflight
        if accept_preflight:
            logger.warning(ACCEPTED_PREFLIGHTS)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """One request, as PEP 3333 wants it."""
        refusal = self.refusal(environ)
        if refusal is not None:
            return respond(refusal, environ, start_response)
        body: Iterable[bytes] = _run(self.app, (environ, start_response))
        return body

    def answer(self, error: OAuthError | CannotDecide) -> Answer:
        """The response to a request that is refused with ``error``, which is logged here, once."""
        return self._gate.answer(error)

    def refusal(self, environ: Environ) -> Answer | None:
        """The answer to a request that may not pass; None, with the token in ``environ``, for one that may."""
        try:
            is_open = self.is_open(environ)
            token = None if is_open else self._admit(environ)
        except (OAuthError, CannotDecide) as error:
            return self._gate.answer(error)
        if is_open:
            environ["ticketgate.open"] = (*environ.get("ticketgate.open", ()), (self, _place(environ)))
        environ["ticketgate.access_token"] = token
        environ["ticketgate.gate"] = self._gate
        return None

    def is_open(self, environ: Environ) -> bool:
        """Whether nobody looks at the credentials of this request."""
        return self.public.include(_path(environ)) or (
            self._accept_preflight and looks_like_a_preflight(environ)
        )

    def refusal_elsewhere(self, environ: Environ) -> Answer | None:
        """The answer to a request that is somewhere else than where it was admitted without a token."""
        if self.optional or self.is_open(environ):
            return None
        return self._gate.answer(NoCredentials())

    def _admit(self, environ: Environ) -> AccessToken | None:
        return self._gate.driver.run(self._gate.admit(_facts(environ), optional=self.optional))


def readiness(server: ResourceServer, *, driver: Driver | None = None) -> WSGIApp:
    """An endpoint that answers 200 while tokens can be judged and 503 while they cannot.

    Each probe also tries to reach issuers that could not be reached, as often as their back-off allows.
    """
    runner = driver or default_driver()

    def endpoint(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        runner.run(server.warm_up())
        return respond(readiness_answer(server.health(named_only=True)), environ, start_response)

    return endpoint


def looks_like_a_preflight(environ: Environ) -> bool:
    """Whether a request has the form of a CORS preflight, which does not say that it is one."""
    return is_preflight(
        environ["REQUEST_METHOD"],
        has_origin=bool(environ.get("HTTP_ORIGIN")),
        has_request_method="HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ,
        has_body="HTTP_TRANSFER_ENCODING" in environ or environ.get("CONTENT_LENGTH", "") not in ("", "0"),
    )


def refusal_if_moved(environ: Environ) -> Answer | None:
    """For the innermost layer: what was admitted without a token was admitted for its path and method only."""
    for gate, place in environ.get("ticketgate.open", ()):
        if _place(environ) != place and (refusal := gate.refusal_elsewhere(environ)) is not None:
            return cast(Answer, refusal)
    return None


def _place(environ: Environ) -> tuple[Any, ...]:
    """What Flask routes by."""
    return environ["REQUEST_METHOD"], environ.get("PATH_INFO", "")


def _facts(environ: Environ) -> ResourceRequest:
    return ResourceRequest(environ["REQUEST_METHOD"], authorization=_authorization(environ))


def _path(environ: Environ) -> str:
    """PEP 3333: the bytes of the path stand in a string, one character each."""
    return _bytes(environ.get("PATH_INFO", "")).decode("utf-8", "replace")


def _authorization(environ: Environ) -> tuple[bytes, ...]:
    """The Authorization header; servers join several with a comma, which no credentials contain."""
    value = environ.get("HTTP_AUTHORIZATION")
    return () if value is None else (_bytes(value),)


def _bytes(value: str) -> bytes:
    return value.encode("latin-1", "replace")


def respond(
    answer: Answer, environ: Environ, start_response: StartResponse, exc_info: Any = None
) -> Iterable[bytes]:
    """Start the response that ``answer`` is, and return its body.

    With ``exc_info`` it takes the place of one that was started; if that was already sent, the server raises the
    exception again (PEP 3333).
    """
    headers = [(name.decode("ascii").title(), value.decode("ascii")) for name, value in answer.headers]
    status = f"{answer.status} {HTTPStatus(answer.status).phrase}"
    start_response(status, headers, *([exc_info] if exc_info else []))
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [answer.body]


def requires(
    *requirements: Requirement, fresh_within: float | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Guard a WSGI callable, or a method that is one: all of ``requirements`` must be met.

    Without arguments any valid token will do.  Works behind `AccessTokenMiddleware`; without it the answer
    is always 503, and the log says why.  ``fresh_within`` has the issuer confirm the token anew where its last
    answer is older than that many seconds (RFC 7662).

        @requires(scope("orders:read"))
        def orders(environ, start_response): ...
    """
    needed = all_of(requirements)

    def decorate(app: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(app)
        def guarded(*args: Any) -> Any:
            environ, start_response = args[-2:]
            refusal = refusal_of(environ, needed, fresh_within)
            return _run(app, args) if refusal is None else respond(refusal, environ, start_response)

        return guard(guarded, app, needed)

    return decorate


def _run(app: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """What ``app`` returns; where it raises one of our errors, the answer to that."""
    try:
        body = app(*args)
    except (OAuthError, CannotDecide) as error:
        return _raised(error, *args[-2:])
    return _generated(cast(Iterable[bytes], body), *args[-2:]) if isgenerator(body) else body


def _generated(body: Iterable[bytes], environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    """A generator raises when its first item is asked for, after it was called."""
    try:
        yield from body
    except (OAuthError, CannotDecide) as error:
        yield from _raised(error, environ, start_response)


def _raised(
    error: OAuthError | CannotDecide, environ: Environ, start_response: StartResponse
) -> Iterable[bytes]:
    answer = environ["ticketgate.gate"].answer(error)
    return respond(answer, environ, start_response, sys.exc_info())


def refusal_of(environ: Environ, needed: Requirement, fresh_within: float | None) -> Answer | None:
    """The answer to a request whose token is not enough; None where it is, and after it was confirmed anew."""
    gate: Gate[Driver] | None = environ.get("ticketgate.gate")
    if gate is None:
        return without_a_gate()
    token = environ["ticketgate.access_token"]
    refusal = gate.refusal(token, needed)
    if refusal is not None or fresh_within is None:
        return refusal
    return gate.driver.run(gate.confirm(_facts(environ), token, fresh_within))
