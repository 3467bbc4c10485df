"""What Django views require of the access token."""

from collections.abc import Callable
from functools import partial, wraps
from inspect import isawaitable, isclass, isfunction
from typing import Any, TypeVar, cast

from django.http import HttpRequest, HttpResponse
from django.views import View

from ticketgate.core.challenge import Answer
from ticketgate.core.flow import Flow
from ticketgate.core.gate import Gate, without_a_gate
from ticketgate.core.requirement import Requirement, all_of, declare
from ticketgate.django.middleware import GATE, NotAView, access_token, facts, respond, vary
from ticketgate.django.users import is_async
from ticketgate.drivers import aio, blocking
from ticketgate.errors import ConfigurationError

DISPATCHING = frozenset({"dispatch", "options", "http_method_not_allowed"})

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def requires(
    *requirements: Requirement, fresh_within: float | None = None
) -> Callable[[Decorated], Decorated]:
    """Guard a view, sync or async: all of ``requirements`` must be met.

    For functions, for methods of class views, and for whole ones by ``method_decorator(requires(...), "dispatch")``.
    Without arguments any valid token will do.  ``fresh_within`` has the issuer confirm the token anew where its
    last answer is older than that many seconds.  Without the middleware the answer is 503.  Raises
    `ConfigurationError` for a class.

    What is not a view (a permission's ``has_permission``, ``setup``, ``test_func``) raises `NotAView` where a view
    would answer: its caller takes a response for consent, or drops it.
    """
    needed = all_of(requirements)

    def decorate(view: Decorated) -> Decorated:
        if isclass(view):
            raise ConfigurationError(
                f'requires() guards functions: put @method_decorator(requires(...), name="dispatch") '
                f"above {view.__name__}"
            )
        if isfunction(view) and view.__name__ in DISPATCHING and not is_async(view):
            guard = _dispatch_guard
        else:
            guard = _async_guard if _is_async(view) else _guard
        return cast(Decorated, declare(guard(view, needed, fresh_within), needed))

    return decorate


def _guard(view: Callable[..., Any], needed: Requirement, fresh_within: float | None) -> Callable[..., Any]:
    @wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        request = _request(args, kwargs)
        refusal = refusal_of(request, needed, fresh_within)
        return vary(view(*args, **kwargs)) if refusal is None else _refuse(view, args, request, refusal)

    return guarded


def _async_guard(
    view: Callable[..., Any], needed: Requirement, fresh_within: float | None
) -> Callable[..., Any]:
    @wraps(view)
    async def guarded(*args: Any, **kwargs: Any) -> Any:
        request = _request(args, kwargs)
        refusal = await aio.default_driver().run(_verdict(request, needed, fresh_within))
        if refusal is not None:
            return _refuse(view, args, request, refusal)
        response = view(*args, **kwargs)
        return vary(await response if isawaitable(response) else response)

    return guarded


def _dispatch_guard(
    view: Callable[..., Any], needed: Requirement, fresh_within: float | None
) -> Callable[..., Any]:
    """For sync methods that Django awaits the result of where the class is async."""
    guarded_sync = _guard(view, needed, fresh_within)
    guarded_async = _async_guard(view, needed, fresh_within)

    @wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        chosen = guarded_async if args and _is_async_class_view(args[0]) else guarded_sync
        return chosen(*args, **kwargs)

    return guarded


def _refuse(view: Any, args: tuple[Any, ...], request: HttpRequest | None, answer: Answer) -> HttpResponse:
    """The response of a view; raises `NotAView` for anything else, which would let the request through."""
    if request is None or not _is_view(view, args):
        raise NotAView(answer)
    return respond(request, answer)


def _is_view(view: Any, args: tuple[Any, ...]) -> bool:
    """Whether what this returns goes to the client: of functions of a request, and the methods that handle one."""
    while isinstance(view, partial):
        view = cast(Any, view).func
    owner = getattr(view, "__self__", None)
    if owner is None and args and not hasattr(args[0], "META"):
        owner = args[0]
    if owner is None:
        return True
    actions: dict[str, str] = getattr(owner, "action_map", None) or {}  # of REST framework's view sets
    handlers = DISPATCHING.union(getattr(owner, "http_method_names", ()), actions.values())
    return isinstance(owner, View) and getattr(view, "__name__", "") in handlers


def _is_async(view: Any) -> bool:
    """Whether Django awaits what ``view`` returns: also of marked functions, and of methods of async class views.

    ``method_decorator`` hands us a partial of a method.
    """
    while isinstance(view, partial):
        view = cast(Any, view).func
    return is_async(view) or _is_async_class_view(getattr(view, "__self__", None))


def _is_async_class_view(view: Any) -> bool:
    return getattr(view, "view_is_async", False) is True


def _request(args: tuple[Any, ...], kwargs: dict[str, Any]) -> HttpRequest | None:
    """The request of a function view, or of a method of a class view; REST framework wraps it."""
    request = next((arg for arg in (*args, *kwargs.values()) if hasattr(arg, "META")), None)
    return cast("HttpRequest | None", getattr(request, "_request", request))


def refusal_of(request: HttpRequest | None, needed: Requirement, fresh_within: float | None) -> Answer | None:
    """The answer to a request whose token is not enough; None where it is, and after it was confirmed anew."""
    return blocking.default_driver().run(_verdict(request, needed, fresh_within))


def _verdict(
    request: HttpRequest | None, needed: Requirement, fresh_within: float | None
) -> Flow[Answer | None]:
    gate: Gate[None] | None = None if request is None else request.META.get(GATE)
    if request is None or gate is None:
        return without_a_gate()
    token = access_token(request)
    refusal = gate.refusal(token, needed)
    if refusal is None and token is not None and fresh_within is not None:
        refusal = yield from gate.confirm(facts(request), token, fresh_within)
    return refusal
