"""The demo's authorization code flow: login page, code, token; and how one would get past it."""

import hashlib
import json
import re
from base64 import urlsafe_b64encode
from html import unescape
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from flows import World
from tokens import Time

from ticketgate import Issuer, ResourceRequest, ResourceServer
from ticketgate.core.signing_key import SigningKey
from ticketgate.demo.authorization_endpoint import User
from ticketgate.demo.authorization_server import DemoAuthorizationServer
from ticketgate.demo.browser_clients import BrowserClient
from ticketgate.errors import ConfigurationError
from ticketgate.issuing.access_token_issuer import AccessTokenIssuer
from ticketgate.issuing.clients import Client
from ticketgate.issuing.messages import EndpointRequest
from ticketgate.issuing.server import AuthorizationServer
from ticketgate.issuing.stores import MemoryStore, SQLiteStore

ISSUER, API = "http://127.0.0.1:9000", "https://api.example"
SECRET = "s3cret-that-opens-nothing-at-all"
CALLBACK = "https://app.example/callback?from=as"
LOOPBACK = "http://127.0.0.1/callback"
VERIFIER = "v" * 43
CHALLENGE = urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
ASK = {
    "response_type": "code",
    "client_id": "app",
    "redirect_uri": CALLBACK,
    "scope": "read write",
    "state": 's"<&1',
    "code_challenge": CHALLENGE,
    "code_challenge_method": "S256",
}
LOGIN = {"username": "alice", "password": "right", "decision": "allow"}
ALICE = User("alice", frozenset({"read"}), roles=("clerk",), groups=("ops",))


USERS = {("alice", "right"): ALICE}


class Server:
    def __init__(self, store=None, users=USERS):
        self.time = Time()
        self.world = World()
        self.issuer = AccessTokenIssuer(
            ISSUER,
            SigningKey.generate("ES256"),
            resources={API: ["read", "write"], "https://other.example": ["mail"]},
            clock=self.time.clock,
        )
        scopes, uris = frozenset({"read", "write", "mail"}), frozenset({CALLBACK, LOOPBACK})
        clients = [BrowserClient(name, scopes, uris) for name in ("app", "other")]
        known = [Client("machine", SECRET, scopes), Client("api", SECRET, may_introspect=True)]
        self.inner = AuthorizationServer(self.issuer, clients=known, store=store)
        self.server = DemoAuthorizationServer(self.inner, clients=clients, users=users)

    def send(self, path, **request):
        return self.world.run(self.server.answer(path, EndpointRequest(**request)))

    def ask(self, **changes):
        wanted = {name: value for name, value in {**ASK, **changes}.items() if value is not None}
        return self.send("/authorize", method="GET", query=urlencode(wanted).encode())

    def login(self, **changes):
        form = {name: value for name, value in {**ASK, **LOGIN, **changes}.items() if value is not None}
        return self.send("/authorize", body=urlencode(form).encode())

    def code(self, **changes):
        return told(self.login(**changes))["code"]

    def redeem(self, code, **changes):
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "client_id": "app",
            "redirect_uri": CALLBACK,
            "code_verifier": VERIFIER,
        } | changes
        body = urlencode({name: value for name, value in form.items() if value is not None}).encode()
        answer = self.send("/token", body=body)
        return answer.status, json.loads(answer.body)


def told(answer):
    """What the client is told by way of the browser."""
    assert answer.status == 303
    location = dict(answer.headers)["Location"]
    return {name: value for name, (value,) in parse_qs(urlsplit(location).query).items()}


@pytest.fixture(params=["memory", "sqlite"])
def server(request, tmp_path):
    if request.param == "memory":
        yield Server(MemoryStore())
        return
    opened = SQLiteStore(tmp_path / "issuer.db")
    yield Server(opened)
    opened.close()


def test_a_user_signs_in_and_the_client_gets_a_token(server):
    page = server.ask()
    assert page.status == 200
    html = page.body.decode()
    hidden = dict(re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', html))
    assert {name: unescape(value) for name, value in hidden.items()} == ASK
    assert "<li>read</li>" in html

    answer = told(server.login())
    assert {name: answer[name] for name in ("iss", "state", "from")} == {
        "iss": ISSUER,
        "state": ASK["state"],
        "from": "as",
    }
    status, token = server.redeem(answer["code"])
    assert (status, token["token_type"], token["scope"]) == (200, "Bearer", "read")
    bearer = b"Bearer " + token["access_token"].encode()
    resource_server = ResourceServer(API, Issuer(ISSUER, jwks=server.issuer.jwks()), clock=server.time.clock)
    caller = server.world.run(resource_server.authenticate(ResourceRequest(authorization=(bearer,))))
    assert (caller.subject, caller.client_id, caller.scopes) == ("alice", "app", {"read"})
    assert (caller.roles, caller.groups) == ({"clerk"}, {"ops"})
    assert caller.authentication_time == int(server.time.clock.wall())


def test_the_page_cannot_be_framed_or_led_elsewhere():
    headers = dict(Server().ask().headers)
    policy = headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in policy
    assert "form-action 'self' https://app.example;" in policy
    assert (headers["X-Frame-Options"], headers["Cache-Control"]) == ("DENY", "no-store")


@pytest.mark.parametrize(
    "changes",
    [
        {"client_id": None},
        {"client_id": "nobody"},
        {"client_id": "machine"},
        {"redirect_uri": None},
        {"redirect_uri": "https://evil.example/callback"},
        {"redirect_uri": CALLBACK + "&more=1"},
        {"redirect_uri": "https://app.example/callback"},
        {"redirect_uri": "http://127.0.0.1:99999/callback"},
        {"redirect_uri": "http://localhost/callback"},
        {"redirect_uri": "http://127.0.0.1/callback/more"},
        {"redirect_uri": "http://127.0.0.1@evil.example/callback"},
    ],
)
def test_nobody_is_redirected_to_a_place_that_is_not_registered(changes):
    for answer in (Server().ask(**changes), Server().login(**changes)):
        assert answer.status == 400
        assert "Location" not in dict(answer.headers)
        assert b"evil" not in answer.body


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_type": None}, "unsupported_response_type"),
        ({"code_challenge": None}, "invalid_request"),
        ({"code_challenge": "short"}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge_method": None}, "invalid_request"),
        ({"scope": "admin"}, "invalid_scope"),
        ({"scope": "mail"}, "invalid_scope"),
        ({"scope": 'a"b'}, "invalid_scope"),
        ({"resource": "https://nowhere.example"}, "invalid_target"),
    ],
)
def test_the_client_is_told_what_it_did_wrong(changes, error):
    for answer in (Server().ask(**changes), Server().login(**changes)):
        words = told(answer)
        assert (words["error"], words["iss"], words["state"]) == (error, ISSUER, ASK["state"])


def test_a_user_may_say_no_and_an_answer_without_state_has_none():
    words = told(Server().login(decision="deny", state=None))
    assert (words["error"], "state" in words) == ("access_denied", False)


def test_requests_that_are_none():
    server = Server()
    assert server.send("/authorize", method="PUT").status == 405
    twice = urlencode([*ASK.items(), ("state", "2")]).encode()
    assert server.send("/authorize", method="GET", query=twice).status == 400
    assert server.send("/authorize", method="GET", query=b"state=%ff").status == 400
    assert server.send("/authorize", method="HEAD", query=urlencode(ASK).encode()).status == 200
    assert server.redeem(None)[1]["error"] == "invalid_request"


def test_a_wrong_password_shows_the_page_again():
    server = Server()
    again = server.login(password="wrong")
    assert (again.status, b"Name or password is wrong" in again.body) == (403, True)
    assert b"wrong" not in again.body.replace(b"is wrong", b"")


def test_the_page_says_what_it_is_for():
    assert b"for trying things out" in Server().ask().body


@pytest.mark.parametrize("issuer", ["https://as.example", "https://localhost.example"])
def test_there_is_no_login_page_for_others(issuer):
    tokens = AccessTokenIssuer(issuer, SigningKey.generate("ES256"), resources=API)
    with pytest.raises(ConfigurationError, match="loopback"):
        DemoAuthorizationServer(AuthorizationServer(tokens), clients=[], users=USERS)


@pytest.mark.parametrize(
    "changes",
    [
        {"code": "unknown"},
        {"client_id": "other"},
        {"redirect_uri": None},
        {"redirect_uri": LOOPBACK},
        {"code_verifier": None},
        {"code_verifier": "w" * 43},
        {"code_verifier": "short"},
        {"code_verifier": CHALLENGE},
    ],
)
def test_a_code_is_good_for_its_client_and_its_verifier_only(changes):
    server = Server()
    code = server.code()
    assert server.redeem(**{"code": code} | changes) == (
        400,
        {"error": "invalid_grant", "error_description": "The code is not accepted"},
    )


def test_a_code_is_good_once_and_for_a_minute(server):
    code = server.code()
    assert server.redeem(code)[0] == 200
    assert server.redeem(code)[1]["error"] == "invalid_grant"
    tried = server.code()
    assert server.redeem(tried, code_verifier="w" * 43)[0] == 400
    assert server.redeem(tried)[0] == 400
    late = server.code()
    server.time.advance(61)
    assert server.redeem(late)[0] == 400


def test_another_client_cannot_use_a_code_up():
    server = Server()
    code = server.code()
    assert server.redeem(code, client_id="other")[0] == 400
    assert server.redeem(code)[0] == 200


def test_the_token_of_a_code_that_is_used_twice_is_revoked():
    server = Server()
    code = server.code()
    token = server.redeem(code)[1]["access_token"]

    def active():
        form = {"token": token, "client_id": "api", "client_secret": SECRET}
        return json.loads(server.send("/introspect", body=urlencode(form).encode()).body)["active"]

    assert active()
    assert server.redeem(code, client_id="other")[0] == 400  # who is not the client cannot revoke it
    assert active()
    assert server.redeem(code, code_verifier="w" * 43)[0] == 400
    assert not active()


def test_loopback_has_any_port():
    server = Server()
    uri = LOOPBACK.replace("127.0.0.1", "127.0.0.1:50123")
    code = server.code(redirect_uri=uri)
    assert server.redeem(code, redirect_uri=uri)[0] == 200


def test_a_token_is_for_the_resource_that_the_user_saw():
    server = Server(users={("alice", "right"): User("alice")})
    wanted = {"resource": "https://other.example", "scope": "mail"}
    assert server.redeem(server.code(**wanted), resource=API)[1]["error"] == "invalid_target"
    status, token = server.redeem(server.code(**wanted), resource="https://other.example")
    assert (status, token["scope"]) == (200, "mail")
    assert "scope" not in server.redeem(server.code(scope=None))[1]


def test_the_metadata_name_the_endpoint():
    server = Server()
    document = json.loads(server.send("/.well-known/oauth-authorization-server", method="GET").body)
    assert document == server.server.metadata()
    assert document["authorization_endpoint"] == f"{ISSUER}/authorize"
    assert document["authorization_response_iss_parameter_supported"] is True
    assert document["code_challenge_methods_supported"] == ["S256"]
    assert document["grant_types_supported"] == ["client_credentials", "authorization_code"]
    assert "/authorize" in server.server.paths
    assert "/authorize" not in server.inner.paths
    assert "authorization_endpoint" not in server.inner.metadata()


def test_the_other_grants_are_answered_too():
    form = {"grant_type": "client_credentials", "client_id": "machine", "client_secret": SECRET}
    assert Server().send("/token", body=urlencode(form).encode()).status == 200
    assert Server().send("/token", method="GET").status == 405


@pytest.mark.parametrize("origin", ["https://app.example", "http://127.0.0.1:8000", "http://127.0.0.1"])
def test_pages_of_registered_origins_may_ask(origin):
    server = Server()
    for path in ("/token", "/jwks", "/.well-known/oauth-authorization-server"):
        preflight = server.send(path, method="OPTIONS", origin=origin.encode())
        headers = dict(preflight.headers)
        assert (preflight.status, headers["Access-Control-Allow-Origin"]) == (204, origin)
        assert "X-Requested-With" in headers["Access-Control-Allow-Headers"]
        answer = dict(server.send(path, method="GET", origin=origin.encode()).headers)
        assert (answer["Access-Control-Allow-Origin"], answer["Vary"]) == (origin, "Origin")
    asked = server.send("/authorize", method="GET", origin=origin.encode(), query=urlencode(ASK).encode())
    assert "Access-Control-Allow-Origin" not in dict(asked.headers)


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "https://app.example.evil", "http://localhost", "\xe9", "http://["],
)
def test_pages_of_other_origins_may_not(origin):
    server = Server()
    for method in ("OPTIONS", "GET"):
        headers = dict(server.send("/jwks", method=method, origin=origin.encode("latin-1")).headers)
        assert "Access-Control-Allow-Origin" not in headers
        assert headers["Vary"] == "Origin"


@pytest.mark.parametrize("uri", ["http://app.example", "https://app.example/#x", "app://callback", "", 1])
def test_what_cannot_be_redirected_to_is_refused_at_once(uri):
    with pytest.raises(ConfigurationError, match="redirect_uri"):
        BrowserClient("app", frozenset(), frozenset({uri}))
