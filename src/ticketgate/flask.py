"""The gate inside a Flask application.

    gate = Ticketgate(server=server, public=["/health"])
    gate.init_app(app)

    @app.get("/orders")
    @requires(scope("orders:read"))
    def orders():
        return {"for": access_token.subject}

Works the same under `ticketgate.wsgi.AccessTokenMiddleware`, where ``app.wsgi_app`` is wrapped instead.
"""

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, TypeVar, cast

from flask import Flask, Response, request
from werkzeug.local import LocalProxy

from ticketgate.core.access_token import AccessToken
from ticketgate.core.challenge import Answer
from ticketgate.core.gate import ErrorBody
from ticketgate.core.requirement import Requirement, all_of, declare
from ticketgate.core.server import ResourceServer
from ticketgate.drivers.blocking import Driver
from ticketgate.errors import ConfigurationError
from ticketgate.wsgi import AccessTokenMiddleware, looks_like_a_preflight, refusal_of

__all__ = ["AccessTokenMiddleware", "Ticketgate", "access_token", "requires"]

View = TypeVar("View", bound=Callable[..., Any])


def _current() -> AccessToken | None:
    return cast("AccessToken | None", request.environ.get("ticketgate.access_token"))


access_token = cast(AccessToken, LocalProxy(_current))
"""The access token of the request that is being handled; false where the caller is anonymous."""


class Ticketgate:
    """A Flask extension: every request needs a good access token, but for ``public`` paths (RFC 6750 §3).

    The arguments are those of `ticketgate.wsgi.AccessTokenMiddleware`; ``server`` may come with `init_app`.
    It runs before every hook of the application, whenever that was registered.  Of CORS preflights, those that Flask
    answers itself (``provide_automatic_options``) get its answer, and no hook or view runs for them.
    """

    def __init__(
        self,
        app: Flask | None = None,
        *,
        server: ResourceServer | None = None,
        public: Iterable[str] = (),
        optional: bool = False,
        driver: Driver | None = None,
        error_body: ErrorBody | None = None,
        accept_preflight: bool = False,
    ) -> None:
        self._server = server
        self.gate: AccessTokenMiddleware | None = None
        self._settings: dict[str, Any] = {
            "public": public,
            "optional": optional,
            "driver": driver,
            "error_body": error_body,
            "accept_preflight": accept_preflight,
        }
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask, server: ResourceServer | None = None) -> None:
        """Guard ``app``.  Raises `ConfigurationError` where no server was given at all."""
        chosen = server or self._server
        if chosen is None:
            raise ConfigurationError("name the server: write Ticketgate(app, server=server)")
        gate = AccessTokenMiddleware(app.wsgi_app, chosen, **self._settings)
        self.gate = gate
        app.extensions["ticketgate"] = self

        def guard(*context: Any) -> Response | None:
            environ = request.environ
            if _is_answered_by_flask(environ) and not (gate.optional or gate.is_open(environ)):
                return app.make_default_options_response(*context)
            refusal = gate.refusal(environ)
            return None if refusal is None else _response(refusal)

        _run_before_all_hooks(app, guard)


def _run_before_all_hooks(app: Any, guard: Callable[..., Response | None]) -> None:
    """``app.before_request`` would run ``guard`` after the hooks that are there, and after all URL preprocessors."""
    hooks = app.preprocess_request

    def preprocess_request(*context: Any) -> Any:
        answer = guard(*context)
        return hooks(*context) if answer is None else answer

    app.preprocess_request = preprocess_request


def _is_answered_by_flask(environ: dict[str, Any]) -> bool:
    """Whether this is a preflight for a rule whose OPTIONS Flask answers without asking a view."""
    if environ["REQUEST_METHOD"] != "OPTIONS":
        return False
    automatic = getattr(request.url_rule, "provide_automatic_options", False)
    return bool(automatic) and looks_like_a_preflight(environ)


def requires(*requirements: Requirement, fresh_within: float | None = None) -> Callable[[View], View]:
    """Guard a view function or a method of a class view: all of ``requirements`` must be met.

    Without arguments any valid token will do.  ``fresh_within`` has the issuer confirm the token anew where its
    last answer is older than that many seconds.  Without the extension or the middleware the answer is 503.
    """
    needed = all_of(requirements)

    def decorate(view: View) -> View:
        @wraps(view)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            refusal = refusal_of(request.environ, needed, fresh_within)
            return view(*args, **kwargs) if refusal is None else _response(refusal)

        return cast(View, declare(guarded, needed))

    return decorate


def _response(answer: Answer) -> Response:
    headers = [(name.decode("ascii"), value.decode("ascii")) for name, value in answer.headers]
    return Response(b"" if request.method == "HEAD" else answer.body, answer.status, headers)
