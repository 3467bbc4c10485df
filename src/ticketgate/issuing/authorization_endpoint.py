"""The authorization endpoint: a user signs in, and the client gets a code for what it asked.

RFC 6749 §4.1.1 and §4.1.2, RFC 7636 (S256 only), RFC 9207 (``iss``), RFC 8707 §2, RFC 9700 §2.1 and §4.12.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from ticketgate.core.flow import Flow, call
from ticketgate.core.web_address import origin
from ticketgate.issuing.access_token_issuer import AccessTokenIssuer
from ticketgate.issuing.authorization_codes import Agreement, AuthorizationCodes, is_challenge
from ticketgate.issuing.clients import Client, Clients
from ticketgate.issuing.login_page import login_page, trouble_page
from ticketgate.issuing.messages import Answer, EndpointRequest, Refusal, read_parameters, read_query
from ticketgate.issuing.stores import Store, name_of
from ticketgate.issuing.wishes import wanted_resource, wanted_scope

ATTEMPT, ATTEMPTS, WITHIN = "login attempt", 10, 600.0
PARAMETERS = (
    "response_type", "client_id", "redirect_uri", "scope", "state",
    "code_challenge", "code_challenge_method", "resource",
)  # fmt: skip

logger = logging.getLogger("ticketgate.issuing")


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who signed in: what tokens say of them, and the ``scopes`` they may give away, None for any."""

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
class Asked:
    """An authorization request that may be shown to the user."""

    client: Client
    redirect_uri: str
    resource: str
    scope: str
    code_challenge: str
    parameters: Mapping[str, str]


class Redirected(Exception):
    """The client is told by way of the browser that nothing comes of its request (RFC 6749 §4.1.2.1)."""

    def __init__(self, redirect_uri: str, state: str | None, refusal: Refusal) -> None:
        super().__init__(refusal.error)
        self.redirect_uri = redirect_uri
        self.state = state
        self.refusal = refusal


class AuthorizationEndpoint:
    """Shows the login page and answers it; a flow, and never waits.

    ``authenticate_user`` is given name and password and returns the `User`, or None; it may be async.  After ten
    failures a name is left alone for ten minutes.
    """

    def __init__(
        self,
        issuer: AccessTokenIssuer,
        clients: Clients,
        store: Store,
        codes: AuthorizationCodes,
        authenticate_user: Callable[[str, str], Any],
    ) -> None:
        self._issuer = issuer
        self._clients = clients
        self._store = store
        self._codes = codes
        self._authenticate_user = authenticate_user
        self._action = urlsplit(issuer.issuer).path.rstrip("/") + "/authorize"

    def answer(self, request: EndpointRequest) -> Flow[Answer]:
        """The login page, a redirect to the client, or a page that says why there is none."""
        now = self._issuer.clock.wall()
        try:
            given = _given(request)
            asked = self._asked(given, now)
            if request.method != "POST":
                return self._page(asked)
            return (yield from self._decided(asked, given, now))
        except Refusal as refusal:
            return Answer.page(trouble_page(refusal.description), refusal.status, *refusal.headers)
        except Redirected as told:
            logger.info("authorization refused: %s: %s", told.refusal.error, told.refusal.description)
            words = {"error": told.refusal.error, "error_description": told.refusal.description}
            return self._redirect(told.redirect_uri, told.state, words)

    def _asked(self, given: Mapping[str, str], now: float) -> Asked:
        """The request, if all of it may be.  Raises `Refusal` before it is sure whom to redirect to (RFC 9700 §4.11)."""
        client = self._clients.named(given.get("client_id", ""), now)
        redirect_uri = given.get("redirect_uri", "")
        if client is None or not client.may_be_sent_to(redirect_uri):
            raise Refusal("invalid_request", "The application is unknown, or not registered at this address.")
        parameters = {name: given[name] for name in PARAMETERS if name in given}
        try:
            if given.get("response_type") != "code":
                raise Refusal("unsupported_response_type", "response_type must be code")
            challenge = given.get("code_challenge", "")
            if given.get("code_challenge_method") != "S256" or not is_challenge(challenge):
                raise Refusal("invalid_request", "PKCE with code_challenge_method=S256 is required")
            return Asked(
                client,
                redirect_uri,
                wanted_resource(self._issuer, given),
                wanted_scope(self._issuer, given, client.scopes),
                challenge,
                parameters,
            )
        except Refusal as refusal:
            raise Redirected(redirect_uri, given.get("state"), refusal) from refusal

    def _decided(self, asked: Asked, given: Mapping[str, str], now: float) -> Flow[Answer]:
        state = given.get("state")
        if given.get("decision") != "allow":
            raise Redirected(asked.redirect_uri, state, Refusal("access_denied", "The user did not allow it"))
        name = given.get("username", "")
        if not self._may_try(name, now):
            return self._page(asked, "Too many attempts: try again in ten minutes.", 429)
        user = yield from call(self._authenticate_user, name, given.get("password", ""))
        if not isinstance(user, User):
            logger.info("a login failed")
            return self._page(asked, "Name or password is wrong.", 403)
        self._store.delete(ATTEMPT, name_of(name))
        agreement = Agreement(
            client_id=asked.client.client_id,
            redirect_uri=asked.redirect_uri,
            code_challenge=asked.code_challenge,
            subject=user.subject,
            resource=asked.resource,
            scope=" ".join(
                value for value in asked.scope.split() if user.scopes is None or value in user.scopes
            ),
            auth_time=int(now),
            claims=user.claims,
        )
        return self._redirect(asked.redirect_uri, state, {"code": self._codes.issue(agreement, now)})

    def _may_try(self, name: str, now: float) -> bool:
        """Whether there may be one more attempt; it counts before it is made, so that many at once count too."""
        found = self._store.get(ATTEMPT, name_of(name), now)
        made = 0 if found is None else int(found["made"])
        if made < ATTEMPTS:
            self._store.put(ATTEMPT, name_of(name), {"made": made + 1}, now + WITHIN)
        return made < ATTEMPTS

    def _page(self, asked: Asked, trouble: str = "", status: int = 200) -> Answer:
        page = login_page(
            client_id=asked.client.client_id,
            resource=asked.resource,
            scopes=asked.scope.split(),
            action=self._action,
            parameters=asked.parameters,
            trouble=trouble,
        )
        return Answer.page(page, status, form_action=origin(asked.redirect_uri))

    def _redirect(self, redirect_uri: str, state: str | None, members: Mapping[str, str]) -> Answer:
        """RFC 9207 §2: every answer says who gives it."""
        answer = {**members, **({} if state is None else {"state": state}), "iss": self._issuer.issuer}
        joint = "&" if urlsplit(redirect_uri).query else "?"
        return Answer.redirect(f"{redirect_uri}{joint}{urlencode(answer)}")


def _given(request: EndpointRequest) -> dict[str, str]:
    if request.method in {"GET", "HEAD"}:
        return read_query(request)
    if request.method == "POST":
        return read_parameters(request)
    raise Refusal("invalid_request", "Use GET or POST", status=405, headers=(("Allow", "GET, HEAD, POST"),))
