"""The gate inside a Django project, sync or async.

    INSTALLED_APPS = [..., "ticketgate.django.TicketgateConfig"]
    MIDDLEWARE = ["ticketgate.django.AccessTokenMiddleware", ...]
    TICKETGATE = {"SERVER": "project.gate.server", "PUBLIC": ["/health"]}

    @requires(scope("orders:read"))
    def orders(request): ...           # async views too; class views by method_decorator, or method by method

``SERVER`` is a `ResourceServer` or the dotted path of one; ``PUBLIC``, ``OPTIONAL`` and ``ERROR_BODY`` are as for
`ticketgate.wsgi.AccessTokenMiddleware`; ``USER`` is a function from the access token to a Django user.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from inspect import iscoroutinefunction
from typing import Any, NamedTuple, TypeVar, cast

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.core.signals import setting_changed
from django.http import HttpRequest, HttpResponse
from django.utils.decorators import sync_and_async_middleware
from django.utils.module_loading import import_string

from ticketgate.core.access_token import AccessToken
from ticketgate.core.challenge import Answer
from ticketgate.core.flow import Flow
from ticketgate.core.gate import Gate, without_a_gate
from ticketgate.core.public import PublicPaths, is_preflight
from ticketgate.core.request import ResourceRequest
from ticketgate.core.requirement import Requirement, all_of, declare
from ticketgate.core.server import ResourceServer
from ticketgate.drivers import aio, blocking
from ticketgate.errors import CannotDecide, ConfigurationError, OAuthError

__all__ = ["AccessTokenMiddleware", "TicketgateConfig", "access_token", "requires"]

View = TypeVar("View", bound=Callable[..., Any])
TOKEN, GATE = "ticketgate.access_token", "ticketgate.gate"
SETTINGS = frozenset({"SERVER", "PUBLIC", "OPTIONAL", "USER", "ERROR_BODY"})
MIDDLEWARE = "ticketgate.django.AccessTokenMiddleware"
AUTHENTICATION = "ticketgate.rest_framework.AccessTokenAuthentication"


class TicketgateConfig(AppConfig):
    """What INSTALLED_APPS takes: it has the settings checked."""

    name = "ticketgate.django"
    label = "ticketgate"


def access_token(request: Any) -> AccessToken | None:
    """The access token of the caller; None where the caller is anonymous or there is no middleware.

    ``request`` is Django's, or the one that REST framework makes of it.
    """
    return cast("AccessToken | None", request.META.get(TOKEN))


class Door(NamedTuple):
    """The settings, read and checked."""

    gate: Gate[None]
    public: PublicPaths
    optional: bool
    user: Callable[[AccessToken], Any] | None


@lru_cache(maxsize=1)
def current_door() -> Door:
    """The settings, read once.  Raises `ConfigurationError`, whose words the system check repeats."""
    given: Any = getattr(settings, "TICKETGATE", None)
    if not isinstance(given, dict):
        raise ConfigurationError('settings need TICKETGATE = {"SERVER": "project.gate.server"}')
    known = cast(dict[str, Any], given)
    if unknown := sorted(known.keys() - SETTINGS):
        raise ConfigurationError(
            f"TICKETGATE has unknown members {', '.join(unknown)}: {', '.join(sorted(SETTINGS))}"
        )
    server = _loaded(known.get("SERVER"))
    if not isinstance(server, ResourceServer):
        raise ConfigurationError('TICKETGATE["SERVER"] is a ResourceServer, or the dotted path of one')
    gate: Gate[None] = Gate(server, None, _loaded(known.get("ERROR_BODY")))
    return Door(
        gate, PublicPaths(known.get("PUBLIC", ())), bool(known.get("OPTIONAL")), _loaded(known.get("USER"))
    )


def _forget(setting: str, **kwargs: Any) -> None:
    """Tests may override settings."""
    if setting == "TICKETGATE":
        current_door.cache_clear()


setting_changed.connect(_forget)


def _loaded(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return import_string(value)
    except ImportError as error:
        raise ConfigurationError(f"TICKETGATE names {value!r}, which cannot be imported: {error}") from error


@register("security")
def check_settings(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """What is wrong with the settings, before the first request."""
    try:
        current_door.cache_clear()
        _ = current_door()
    except ConfigurationError as error:
        return [Error(str(error), id="ticketgate.E001")]
    framework: dict[str, Any] = getattr(settings, "REST_FRAMEWORK", {})
    guarded_by_default = AUTHENTICATION in framework.get("DEFAULT_AUTHENTICATION_CLASSES", ())
    if MIDDLEWARE not in settings.MIDDLEWARE and not guarded_by_default:
        hint = f'Add "{MIDDLEWARE}" to MIDDLEWARE: without it every @requires answers 503.'
        return [Warning("The gate stands nowhere.", hint=hint, id="ticketgate.W001")]
    return []


@sync_and_async_middleware
def AccessTokenMiddleware(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Lets requests with a good access token through, and answers all others (RFC 6750 §3).

    Paths are those of ``request.path_info``.  The token is at `access_token`, and in ``request.META``.
    """
    door = current_door()
    if iscoroutinefunction(get_response):

        async def guarded_async(request: HttpRequest) -> Any:
            refusal = await aio.default_driver().run(_admission(door, request))
            return await get_response(request) if refusal is None else _response(request, refusal)

        return guarded_async

    def guarded(request: HttpRequest) -> Any:
        refusal = admit(door, request)
        return get_response(request) if refusal is None else _response(request, refusal)

    return guarded


def admit(door: Door, request: HttpRequest) -> Answer | None:
    """The answer to a request that may not pass; None, with the token in ``request.META``, for one that may."""
    return blocking.default_driver().run(_admission(door, request))


def _admission(door: Door, request: HttpRequest) -> Flow[Answer | None]:
    try:
        token: AccessToken | None = None
        if not _is_open(door, request):
            token = yield from door.gate.admit(_facts(request), optional=door.optional)
    except (OAuthError, CannotDecide) as error:
        return door.gate.answer(error)
    request.META[TOKEN], request.META[GATE] = token, door.gate
    if door.user is not None and token is not None:
        request.user = door.user(token)
    return None


def _is_open(door: Door, request: HttpRequest) -> bool:
    names = request.META
    return door.public.include(request.path_info) or is_preflight(
        request.method or "", "HTTP_ORIGIN" in names, "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in names
    )


def _facts(request: HttpRequest) -> ResourceRequest:
    value: str | None = request.META.get("HTTP_AUTHORIZATION")
    authorization = () if value is None else (value.encode("latin-1", "replace"),)
    return ResourceRequest(request.method or "GET", authorization=authorization)


def requires(*requirements: Requirement, fresh_within: float | None = None) -> Callable[[View], View]:
    """Guard a view, sync or async: all of ``requirements`` must be met.

    For functions, for methods of class views, and for whole ones by ``method_decorator(requires(...), "dispatch")``.
    Without arguments any valid token will do.  ``fresh_within`` has the issuer confirm the token anew where its
    last answer is older than that many seconds.  Without the middleware the answer is 503.
    """
    needed = all_of(requirements)

    def decorate(view: View) -> View:
        if iscoroutinefunction(view):

            @wraps(view)
            async def guarded_async(*args: Any, **kwargs: Any) -> Any:
                request = _request(args)
                refusal = await aio.default_driver().run(_verdict(request, needed, fresh_within))
                return await view(*args, **kwargs) if refusal is None else _response(request, refusal)

            return cast(View, declare(guarded_async, needed))

        @wraps(view)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            request = _request(args)
            refusal = refusal_of(request, needed, fresh_within)
            return view(*args, **kwargs) if refusal is None else _response(request, refusal)

        return cast(View, declare(guarded, needed))

    return decorate


def _request(args: tuple[Any, ...]) -> HttpRequest:
    """The request of a function view, or of a method of a class view; REST framework wraps it."""
    request = next(arg for arg in args if hasattr(arg, "META"))
    return cast(HttpRequest, getattr(request, "_request", request))


def refusal_of(request: HttpRequest, needed: Requirement, fresh_within: float | None) -> Answer | None:
    """The answer to a request whose token is not enough; None where it is, and after it was confirmed anew."""
    return blocking.default_driver().run(_verdict(request, needed, fresh_within))


def _verdict(request: HttpRequest, needed: Requirement, fresh_within: float | None) -> Flow[Answer | None]:
    gate: Gate[None] | None = request.META.get(GATE)
    if gate is None:
        return without_a_gate()
    token = access_token(request)
    refusal = gate.refusal(token, needed)
    if refusal is None and token is not None and fresh_within is not None:
        refusal = yield from gate.confirm(_facts(request), token, fresh_within)
    return refusal


def _response(request: HttpRequest, answer: Answer) -> HttpResponse:
    """One value for each name: several challenges would be joined by a comma (RFC 9110 §11.6.1)."""
    response = HttpResponse(b"" if request.method == "HEAD" else answer.body, status=answer.status)
    for name, value in answer.headers:
        response[name.decode("ascii").title()] = value.decode("ascii")
    return response
