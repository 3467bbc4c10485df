"""The middleware, and the verdict on one request that REST framework's authentication shares with it."""

from collections.abc import Callable
from typing import Any, cast

from asgiref.sync import markcoroutinefunction
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.cache import patch_vary_headers

from ticketgate.core.access_token import AccessToken
from ticketgate.core.challenge import Answer
from ticketgate.core.flow import Flow
from ticketgate.core.public import is_preflight
from ticketgate.core.request import ResourceRequest
from ticketgate.django.settings import Settings, current_settings
from ticketgate.django.users import assign, find_user, find_user_async, is_async
from ticketgate.drivers import aio, blocking
from ticketgate.errors import CannotDecide, OAuthError

TOKEN, GATE, USER = "ticketgate.access_token", "ticketgate.gate", "ticketgate.user"
JUDGED = "ticketgate.judged"


def access_token(request: Any) -> AccessToken | None:
    """The access token of the request; None where it is anonymous or there is no middleware.

    ``request`` is Django's, or the one that REST framework makes of it.
    """
    return cast("AccessToken | None", request.META.get(TOKEN))


class NotAView(PermissionDenied):
    """A refusal by a guard around something that is not a view; ``answer`` is the response that it stands for.

    Where nothing of ours answers it, Django's own 403 does.
    """

    def __init__(self, answer: Answer) -> None:
        super().__init__("requires() refused the request")
        self.answer = answer


class AccessTokenMiddleware:
    """Lets requests with a good access token through, and answers all others (RFC 6750 §3).

    Paths are those of ``request.path_info``.  The token is at `access_token`, and in ``request.META``.  With
    ``TICKETGATE["USER"]`` the view finds the token's user in ``request.user``, whatever middleware set it before.
    """

    sync_capable = async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self.settings = current_settings()
        self._is_async = is_async(get_response)
        self.process_view: Callable[..., Any] = self._before_view
        if self._is_async:
            _ = markcoroutinefunction(self)
            self.process_view = self._before_view_async  # a sync one would be run in a thread

    def __call__(self, request: HttpRequest) -> Any:
        """The response; something to await where the next middleware gives that."""
        if self._is_async:
            return self._call_async(request)
        refusal = admit(self.settings, request)
        if refusal is not None:
            return respond(request, refusal)
        return self._depending_on_token(request, self.get_response(request))

    async def _call_async(self, request: HttpRequest) -> Any:
        refusal = await admit_async(self.settings, request)
        if refusal is not None:
            return respond(request, refusal)
        return self._depending_on_token(request, await self.get_response(request))

    def _depending_on_token(self, request: HttpRequest, response: Any) -> Any:
        is_public = access_token(request) is None and not self.settings.optional
        return response if is_public else vary(response)

    # Django calls process_view after the request phase of all middleware, wherever we are listed.

    def _before_view(self, request: HttpRequest, *view: Any) -> HttpResponse | None:
        if _was_changed(request):
            refusal = admit(self.settings, request)
            if refusal is not None:
                return respond(request, refusal)
        _assign_again(request)
        return None

    async def _before_view_async(self, request: HttpRequest, *view: Any) -> HttpResponse | None:
        if _was_changed(request):
            refusal = await admit_async(self.settings, request)
            if refusal is not None:
                return respond(request, refusal)
        _assign_again(request)
        return None

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """The response to one of our errors that a view raised; None for any other exception."""
        if isinstance(exception, NotAView):
            return respond(request, exception.answer)
        if isinstance(exception, OAuthError | CannotDecide):
            return respond(request, self.settings.gate.answer(exception))
        return None


def admit(settings: Settings, request: HttpRequest, *, optional: bool = False) -> Answer | None:
    """The answer to a request that is refused; None, with the token in ``request.META``, for one that is accepted."""
    try:
        token = blocking.default_driver().run(_token_of(settings, request, optional))
        user = None if token is None or settings.user is None else find_user(settings.user, token)
    except (OAuthError, CannotDecide) as error:
        return settings.gate.answer(error)
    _accept(settings, request, token, user)
    return None


async def admit_async(settings: Settings, request: HttpRequest) -> Answer | None:
    """The same on an event loop."""
    try:
        token = await aio.default_driver().run(_token_of(settings, request))
        user = (
            None
            if token is None or settings.user_async is None
            else await find_user_async(settings.user_async, token)
        )
    except (OAuthError, CannotDecide) as error:
        return settings.gate.answer(error)
    _accept(settings, request, token, user)
    return None


def _token_of(settings: Settings, request: HttpRequest, optional: bool = False) -> Flow[AccessToken | None]:
    if _is_open(settings, request):
        return None
    return (yield from settings.gate.admit(facts(request), optional=optional or settings.optional))


def _accept(settings: Settings, request: HttpRequest, token: AccessToken | None, user: Any) -> None:
    request.META[TOKEN], request.META[GATE], request.META[USER] = token, settings.gate, user
    if token is None:
        request.META[JUDGED] = request.method, request.path_info
    if user is not None:
        assign(request, user)


def _was_changed(request: HttpRequest) -> bool:
    """Whether middleware gave a request without token another method or path than the one it was accepted for."""
    names = request.META
    return names.get(TOKEN) is None and names.get(JUDGED) != (request.method, request.path_info)


def _assign_again(request: HttpRequest) -> None:
    """``django.contrib.auth`` may have put the session's user in the place of the token's."""
    user = request.META.get(USER)
    if user is not None:
        assign(request, user)


def _is_open(settings: Settings, request: HttpRequest) -> bool:
    return settings.public.include(request.path_info) or (
        settings.accept_preflight and _looks_like_preflight(request)
    )


def _looks_like_preflight(request: HttpRequest) -> bool:
    """WHATWG Fetch, CORS-preflight fetch: it has no body."""
    names = request.META
    return (
        is_preflight(
            request.method or "", "HTTP_ORIGIN" in names, "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in names
        )
        and names.get("CONTENT_LENGTH") in (None, "", "0")
        and "HTTP_TRANSFER_ENCODING" not in names
    )


def vary(response: Any) -> Any:
    """``response``, which caches, Django's among them, may only give to requests with the same token."""
    if isinstance(response, HttpResponseBase):
        if "Vary" not in response.headers:
            response.headers["Vary"] = "Authorization"
        elif response.headers["Vary"] != "Authorization":
            patch_vary_headers(response, ("Authorization",))
    return response


def facts(request: HttpRequest) -> ResourceRequest:
    """What the core looks at."""
    value: str | None = request.META.get("HTTP_AUTHORIZATION")
    authorization = () if value is None else (value.encode("latin-1", "replace"),)
    return ResourceRequest(request.method or "GET", authorization=authorization)


def respond(request: HttpRequest | None, answer: Answer) -> HttpResponse:
    """``answer`` with one value for each name: several challenges would be joined by a comma (RFC 9110 §11.6.1)."""
    is_head = request is not None and request.method == "HEAD"
    response = HttpResponse(b"" if is_head else answer.body, status=answer.status)
    for name, value in answer.headers:
        response[name.decode("ascii").title()] = value.decode("ascii")
    return response
