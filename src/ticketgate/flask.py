"""The gate inside a Flask application.

    gate = Ticketgate(server=server, public=["/health"])
    gate.init_app(app)

    @app.get("/orders")
    @requires(scope("orders:read"))
    def orders():
        return {"for": access_token.subject}

Works the same under `ticketgate.wsgi.AccessTokenMiddleware`, where ``app.wsgi_app`` is wrapped instead.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from inspect import isclass, iscoroutinefunction
from typing import Any, TypeVar, cast

from flask import Flask, Response, abort, current_app, request, request_started
from werkzeug.local import LocalProxy

from ticketgate.core.access_token import AccessToken
from ticketgate.core.challenge import Answer
from ticketgate.core.gate import ErrorBody, registered_without_its_guard
from ticketgate.core.guards import guard, protection_of
from ticketgate.core.requirement import Requirement, all_of
from ticketgate.core.server import ResourceServer
from ticketgate.drivers.blocking import Driver
from ticketgate.errors import CannotDecide, ConfigurationError, OAuthError
from ticketgate.placement import layers
from ticketgate.wsgi import AccessTokenMiddleware as WSGIMiddleware
from ticketgate.wsgi import looks_like_a_preflight, refusal_if_moved, refusal_of

__all__ = ["AccessTokenMiddleware", "Ticketgate", "access_token", "requires"]

View = TypeVar("View", bound=Callable[..., Any])


def _current() -> AccessToken | None:
    return cast("AccessToken | None", request.environ.get("ticketgate.access_token"))


access_token = cast(AccessToken, LocalProxy(_current))
"""The access token of the request that is being handled; false where the caller is anonymous."""


class AccessTokenMiddleware(WSGIMiddleware):
    """`ticketgate.wsgi.AccessTokenMiddleware` that knows the Flask application inside, as the extension does.

    app.wsgi_app = AccessTokenMiddleware(app.wsgi_app, server)
    """

    def __init__(self, app: Any, server: ResourceServer, **options: Any) -> None:
        super().__init__(app, server, **options)
        for layer in layers(app):
            found = getattr(layer, "__self__", layer)  # ``app.wsgi_app`` is a method
            if isinstance(found, Flask):
                _answer_errors(found, self)
                self._misplaced_views = MisplacedViews(found)
                _ = request_started.connect(self._refuse_misplaced, found)

    def _refuse_misplaced(self, sender: Any, **_: Any) -> None:
        refusal = refusal_if_moved(request.environ) or self._misplaced_views.refusal()
        if refusal is not None:
            abort(_response(refusal))


class MisplacedViews:
    """The views of ``app`` that were registered without their guard: normally there are none."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._well_placed: dict[str, Any] = {}

    def refusal(self) -> Answer | None:
        """The answer to the current request where it is for one of them; None for every other request."""
        name = request.endpoint
        view = self._app.view_functions.get(name) if name is not None else None
        if name is None or self._well_placed.get(name) is view:  # a view may be replaced at any time
            return None
        if is_misplaced(view):
            return registered_without_its_guard(name)
        self._well_placed[name] = view
        return None


def is_misplaced(view: Any) -> bool:
    """Whether ``view``, or a method of the class that it is of, was registered without its guard."""
    return any(protection_of(handler).misplaced for handler in handlers_of(view))


def handlers_of(view: Any) -> Iterator[Any]:
    """What handles requests for ``view``: itself, and the methods of a class view."""
    yield view
    view_class = getattr(view, "view_class", None)
    names = ("dispatch_request", *map(str.lower, getattr(view_class, "methods", None) or ()))
    yield from (getattr(view_class, name) for name in names if hasattr(view_class, name))


class Ticketgate:
    """A Flask extension: every request needs a good access token, but for ``public`` paths (RFC 6750 §3).

    The arguments are those of `ticketgate.wsgi.AccessTokenMiddleware`; ``server`` may come with `init_app`.
    It runs before every hook of the application, whenever that was registered.  Of CORS preflights, those that Flask
    answers itself (``provide_automatic_options``) get its answer, and no hook or view runs for them.
    Our errors get the right answer where a view raises them, unless the application has a handler for them.
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
        self.gate: WSGIMiddleware | None = None
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
        gate = WSGIMiddleware(app.wsgi_app, chosen, **self._settings)
        placement = MisplacedViews(app)
        self.gate = gate
        app.extensions["ticketgate"] = self
        _answer_errors(app, gate)

        def admit(*context: Any) -> Response | None:
            environ = request.environ
            if _is_answered_by_flask(environ) and not (gate.optional or gate.is_open(environ)):
                return app.make_default_options_response(*context)
            refusal = gate.refusal(environ) or refusal_if_moved(environ) or placement.refusal()
            return None if refusal is None else _response(refusal)

        _run_before_all_hooks(app, admit)


def _run_before_all_hooks(app: Any, admit: Callable[..., Response | None]) -> None:
    """``app.before_request`` would run ``admit`` after the hooks that are there, and after all URL preprocessors."""
    hooks = app.preprocess_request

    def preprocess_request(*context: Any) -> Any:
        answer = admit(*context)
        return hooks(*context) if answer is None else answer

    app.preprocess_request = preprocess_request


def _is_answered_by_flask(environ: dict[str, Any]) -> bool:
    """Whether this is a preflight for a rule whose OPTIONS Flask answers without asking a view."""
    if environ["REQUEST_METHOD"] != "OPTIONS":
        return False
    automatic = getattr(request.url_rule, "provide_automatic_options", False)
    return bool(automatic) and looks_like_a_preflight(environ)


def requires(*requirements: Requirement, fresh_within: float | None = None) -> Callable[[View], View]:
    """Guard a view function or a method of a class view, async ones too: all of ``requirements`` must be met.

    Stands below the route decorator.  Without arguments any valid token will do.  ``fresh_within`` has the issuer confirm the token anew where its
    last answer is older than that many seconds.  Without the extension or the middleware the answer is 503.
    Raises `ConfigurationError` for a class: decorate its methods, or set ``decorators = [requires(...)]``.
    """
    needed = all_of(requirements)

    def decorate(view: View) -> View:
        if isclass(view):
            raise ConfigurationError(
                f"requires() guards functions: in {view.__name__} write decorators = [requires(...)]"
            )
        make = _async_guard if iscoroutinefunction(view) else _guard
        return cast(View, guard(make(view, needed, fresh_within), view, needed))

    return decorate


def _guard(view: Callable[..., Any], needed: Requirement, fresh_within: float | None) -> Callable[..., Any]:
    @wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        refusal = refusal_of(request.environ, needed, fresh_within)
        if refusal is not None:
            return _response(refusal)
        try:
            return view(*args, **kwargs)
        except (OAuthError, CannotDecide) as error:
            return _raised(error)

    return guarded


def _async_guard(
    view: Callable[..., Any], needed: Requirement, fresh_within: float | None
) -> Callable[..., Any]:
    """Async as ``view`` is, for Flask and for decorators outside of this one."""

    @wraps(view)
    async def guarded(*args: Any, **kwargs: Any) -> Any:
        judge, asked = refusal_of, (request.environ, needed, fresh_within)
        refusal = judge(*asked) if fresh_within is None else await asyncio.to_thread(judge, *asked)
        if refusal is not None:
            return _response(refusal)
        try:
            return await view(*args, **kwargs)
        except (OAuthError, CannotDecide) as error:
            return _raised(error)

    return guarded


def _raised(error: OAuthError | CannotDecide) -> Response:
    """The response to an error of ours that a view raised; an error handler of the application comes first."""
    if any(_has_handler(current_app, blueprint, error) for blueprint in (*request.blueprints, None)):
        raise error
    return _response(request.environ["ticketgate.gate"].answer(error))


def _has_handler(app: Flask, blueprint: str | None, error: Exception) -> bool:
    """Whether there is one for errors of ours, not just for all that there are."""
    handlers = app.error_handler_spec.get(blueprint, {}).get(None, {})
    return any(cls in handlers for cls in type(error).__mro__ if cls not in {Exception, BaseException})


def _answer_errors(app: Flask, gate: WSGIMiddleware) -> None:
    """Have ``app`` answer our errors as ``gate`` does, where it has no handler for them yet."""

    def handle(error: OAuthError | CannotDecide) -> Response:
        nearest = request.environ.get("ticketgate.gate") or gate
        return _response(nearest.answer(error))

    for kind in (OAuthError, CannotDecide):
        if kind not in app.error_handler_spec.get(None, {}).get(None, {}):
            app.register_error_handler(kind, handle)


def _response(answer: Answer) -> Response:
    headers = [(name.decode("ascii"), value.decode("ascii")) for name, value in answer.headers]
    return Response(b"" if request.method == "HEAD" else answer.body, answer.status, headers)
