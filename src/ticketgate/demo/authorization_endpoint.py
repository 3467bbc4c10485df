"""The authorization endpoint: a user signs in, and the client gets a code for what it asked.

RFC 6749 §4.1.1 and §4.1.2, RFC 7636 (S256 only), RFC 9207 (``iss``), RFC 8707 §2, RFC 9700 §2.1 and §4.12.

For trying things out: the users are in the code, and nothing slows somebody down who guesses their passwords.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode, urlsplit

from ticketgate.core.web_address import origin
from ticketgate.demo.authorization_codes import Authorization, AuthorizationCodes, is_challenge
from ticketgate.demo.browser_clients import BrowserClient, BrowserClients
from ticketgate.demo.login_page import login_page, problem_page
from ticketgate.issuing.access_token_issuer import AccessTokenIssuer
from ticketgate.issuing.messages import Answer, EndpointRequest, Refusal, parse_form, read_parameters
from ticketgate.issuing.wishes import wanted_resource, wanted_scope

PARAMETERS = (
    "response_type", "client_id", "redirect_uri", "scope", "state",
    "code_challenge", "code_challenge_method", "resource",
)  # fmt: skip

logger = logging.getLogger("ticketgate.issuing")


@dataclass(frozen=True, slots=True)
class User:
    """A user: what tokens say of them, and the ``scopes`` they may give away, None for any."""

    subject: str
    scopes: frozenset[str] | None = None
    roles: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    entitlements: tuple[str, ...] = ()

    @property
    def claims(self) -> dict[str, list[str]]:
        """What tokens say beside the subject (RFC 9068 §2.2.3.1)."""
        known = {"roles": self.roles, "groups": self.groups, "entitlements": self.entitlements}
        return {name: list(values) for name, values in known.items() if values}


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """An authorization request that may be shown to the user."""

    client: BrowserClient
    redirect_uri: str
    resource: str
    scope: str
    code_challenge: str
    parameters: Mapping[str, str] = field(repr=False)


class ErrorRedirect(Exception):
    """The client is told by way of the browser that its request is refused (RFC 6749 §4.1.2.1)."""

    def __init__(self, redirect_uri: str, state: str | None, refusal: Refusal) -> None:
        super().__init__(refusal.error)
        self.redirect_uri = redirect_uri
        self.state = state
        self.refusal = refusal


class AuthorizationEndpoint:
    """Shows the login page and answers it.  ``users`` are found by their name and password."""

    def __init__(
        self,
        issuer: AccessTokenIssuer,
        clients: BrowserClients,
        codes: AuthorizationCodes,
        users: Mapping[tuple[str, str], User],
    ) -> None:
        self._issuer = issuer
        self._clients = clients
        self._codes = codes
        self._users = users
        self._action = urlsplit(issuer.issuer).path.rstrip("/") + "/authorize"

    def answer(self, request: EndpointRequest) -> Answer:
        """The login page, a redirect to the client, or a page that says why there is neither."""
        now = self._issuer.clock.wall()
        try:
            given = _given(request)
            wanted = self._wanted(given)
            return self._page(wanted) if request.method != "POST" else self._decided(wanted, given, now)
        except Refusal as refusal:
            return _page(problem_page(refusal.description), refusal.status, *refusal.headers)
        except ErrorRedirect as error:
            told = error.refusal
            logger.info("authorization refused: %s: %s", told.error, told.description)
            words = {"error": told.error, "error_description": told.description}
            return self._redirect(error.redirect_uri, error.state, words)

    def _wanted(self, given: Mapping[str, str]) -> AuthorizationRequest:
        """The request.  Raises `Refusal` while it is not sure whom to redirect to (RFC 9700 §4.11), then `ErrorRedirect`."""
        client = self._clients.named(given.get("client_id", ""))
        redirect_uri = given.get("redirect_uri", "")
        if client is None or not client.has_redirect_uri(redirect_uri):
            raise Refusal("invalid_request", "The application is unknown, or not registered at this address.")
        try:
            return self._checked(client, redirect_uri, given)
        except Refusal as refusal:
            raise ErrorRedirect(redirect_uri, given.get("state"), refusal) from refusal

    def _checked(
        self, client: BrowserClient, redirect_uri: str, given: Mapping[str, str]
    ) -> AuthorizationRequest:
        if given.get("response_type") != "code":
            raise Refusal("unsupported_response_type", "response_type must be code")
        challenge = given.get("code_challenge", "")
        if given.get("code_challenge_method") != "S256" or not is_challenge(challenge):
            raise Refusal("invalid_request", "PKCE with code_challenge_method=S256 is required")
        return AuthorizationRequest(
            client,
            redirect_uri,
            wanted_resource(self._issuer, given),
            wanted_scope(self._issuer, given, client.scopes),
            challenge,
            {name: given[name] for name in PARAMETERS if name in given},
        )

    def _decided(self, wanted: AuthorizationRequest, given: Mapping[str, str], now: float) -> Answer:
        state = given.get("state")
        if given.get("decision") != "allow":
            refusal = Refusal("access_denied", "The user did not allow it")
            raise ErrorRedirect(wanted.redirect_uri, state, refusal)
        user = self._users.get((given.get("username", ""), given.get("password", "")))
        if user is None:
            return self._page(wanted, "Name or password is wrong.", 403)
        code = self._codes.issue(_authorization(wanted, user, int(now)), now)
        return self._redirect(wanted.redirect_uri, state, {"code": code})

    def _page(self, wanted: AuthorizationRequest, problem: str = "", status: int = 200) -> Answer:
        html = login_page(
            client_id=wanted.client.client_id,
            resource=wanted.resource,
            scopes=wanted.scope.split(),
            action=self._action,
            parameters=wanted.parameters,
            problem=problem,
        )
        return _page(html, status, form_action=origin(wanted.redirect_uri))

    def _redirect(self, redirect_uri: str, state: str | None, members: Mapping[str, str]) -> Answer:
        """Send the browser to the client with a GET (RFC 9700 §4.12); every answer says who gives it (RFC 9207 §2)."""
        answer = {**members, **({} if state is None else {"state": state}), "iss": self._issuer.issuer}
        joint = "&" if urlsplit(redirect_uri).query else "?"
        location = ("Location", f"{redirect_uri}{joint}{urlencode(answer)}")
        return Answer(303, (location, ("Cache-Control", "no-store"), ("Referrer-Policy", "no-referrer")), b"")


def _given(request: EndpointRequest) -> dict[str, str]:
    if request.method in {"GET", "HEAD"}:
        return parse_form(request.query)
    if request.method == "POST":
        return read_parameters(request)
    raise Refusal("invalid_request", "Use GET or POST", status=405, headers=(("Allow", "GET, HEAD, POST"),))


def _authorization(wanted: AuthorizationRequest, user: User, now: int) -> Authorization:
    granted = (value for value in wanted.scope.split() if user.scopes is None or value in user.scopes)
    return Authorization(
        client_id=wanted.client.client_id,
        redirect_uri=wanted.redirect_uri,
        code_challenge=wanted.code_challenge,
        subject=user.subject,
        resource=wanted.resource,
        scope=" ".join(granted),
        auth_time=now,
        claims=user.claims,
    )


def _page(html: str, status: int, *more: tuple[str, str], form_action: str = "") -> Answer:
    """``html`` as a page that no other one may frame, and whose form leads here and to ``form_action`` only.

    ``form_action`` is the origin of a registered redirect URI, whose host `ticketgate.core.web_address` has checked.
    """
    policy = f"default-src 'none'; style-src 'unsafe-inline'; form-action 'self' {form_action}".rstrip()
    headers = (
        ("Content-Type", "text/html; charset=utf-8"),
        ("Cache-Control", "no-store"),
        ("Content-Security-Policy", f"{policy}; base-uri 'none'; frame-ancestors 'none'"),
        ("X-Frame-Options", "DENY"),
        ("Referrer-Policy", "no-referrer"),
    )
    return Answer(status, (*headers, *more), html.encode("utf-8"))
