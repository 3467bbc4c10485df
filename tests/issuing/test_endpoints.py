"""The endpoints of the authorization server: each rule of the RFCs as a request and its answer."""

import base64
import json
from urllib.parse import quote_plus, urlencode, urlsplit

import pytest
from flows import World
from joserfc.jwk import ECKey
from tokens import ABSENT, API, ISSUER, NOW, Time, without_absent

from ticketgate import Issuer, ResourceServer
from ticketgate.core.jwt import decode_base64url
from ticketgate.core.metadata import metadata_urls
from ticketgate.core.request import bearer_request
from ticketgate.core.signing_key import SigningKey, finish_jwt, sign_jwt
from ticketgate.core.strict_json import FrozenDict
from ticketgate.errors import ConfigurationError
from ticketgate.issuing.access_token_issuer import AccessTokenIssuer
from ticketgate.issuing.assertions import AssertionIssuer, use_once
from ticketgate.issuing.clients import Client, Clients
from ticketgate.issuing.messages import EndpointRequest
from ticketgate.issuing.server import AuthorizationServer, load_keys, save_keys
from ticketgate.issuing.stores import MemoryStore, SQLiteStore

OTHER = "https://other.example"
PARTNER = "https://partner.example"
CLIENT_KEY, PARTNER_KEY = SigningKey.generate("ES256"), SigningKey.generate("ES256")
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
BEARER_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
SECRET, ODD_SECRET = "s3cret-that-opens-nothing-at-all", "p:a%+ss" * 5
CLIENTS = [
    Client("app", SECRET, frozenset({"orders:read", "orders:write"})),
    Client("odd", ODD_SECRET, frozenset({"orders:read"})),
    Client("keyed", scopes=frozenset({"orders:read"}), jwks={"keys": [CLIENT_KEY.public_jwk()]}),
    Client("public", scopes=frozenset({"orders:read"})),
    Client("opaque", SECRET, frozenset({"orders:read"}), opaque=True),
    Client("api", SECRET, may_introspect=True, resources=frozenset({API})),
    Client("elsewhere", SECRET, may_introspect=True, resources=frozenset({OTHER})),
]


def assertion_issuer(**options):
    keys = (
        {"jwks": {"keys": [PARTNER_KEY.public_jwk()]}}
        if options.keys().isdisjoint({"jwks_uri", "find_key"})
        else {}
    )
    defaults = {
        "scopes": {"orders:read", "orders:write"},
        "accept_any_subject": True,
        "accept_unauthenticated_clients": True,
    }
    return AssertionIssuer(PARTNER, **(defaults | keys | options))


class Server:
    """An authorization server whose requests are answered by hand."""

    def __init__(self, store=None, partner=None, **options):
        self.time = Time()
        self.issuer = AccessTokenIssuer(
            ISSUER,
            SigningKey.generate("ES256"),
            resources={API: ["orders:read", "orders:write"], OTHER: ["mail"]},
            clock=self.time.clock,
        )
        self.world = World()
        trusted = partner or assertion_issuer()
        self.server = AuthorizationServer(
            self.issuer, clients=CLIENTS, store=store, assertion_issuers=[trusted], **options
        )

    def post(self, path, form, auth=None, body=None, **request):
        headers = () if auth is None else (b"Basic " + base64.b64encode(":".join(auth).encode()),)
        raw = urlencode(form).encode() if body is None else body
        request = {"authorization": headers, "body": raw} | request
        answer = self.world.run(self.server.answer(path, EndpointRequest(**request)))
        parsed = json.loads(answer.body) if answer.body[:1] == b"{" else answer.body.decode()
        return answer.status, parsed, dict(answer.headers)

    def token(self, form, auth=("app", SECRET), **request):
        return self.post("/token", {"grant_type": "client_credentials"} | form, auth, **request)

    def judged(self, token, audience=API):
        server = ResourceServer(audience, Issuer(ISSUER, jwks=self.issuer.jwks()), clock=self.time.clock)
        return self.world.run(server.authenticate(bearer_request(token)))

    def introspect(self, token, auth=("api", SECRET), **request):
        return self.post("/introspect", {"token": token}, auth, **request)


@pytest.fixture(params=["memory", "sqlite"])
def store(request, tmp_path):
    if request.param == "memory":
        yield MemoryStore()
        return
    opened = SQLiteStore(tmp_path / "issuer.db")
    yield opened
    opened.close()


@pytest.mark.requirement("RFC6749-4.4-a", "RFC6749-5.1-a", "RFC9068-3-a")
def test_client_credentials():
    server = Server()
    status, members, headers = server.token({"scope": "orders:read"})
    assert status == 200
    assert (members["token_type"], members["expires_in"], members["scope"]) == ("Bearer", 300, "orders:read")
    assert (headers["Cache-Control"], headers["Pragma"]) == ("no-store", "no-cache")
    assert "refresh_token" not in members
    access = server.judged(members["access_token"])
    assert (access.subject, access.client_id, access.scopes) == ("app", "app", {"orders:read"})


@pytest.mark.requirement("RFC6749-2.3.1-a", "RFC6749-2.3.1-c")
@pytest.mark.parametrize(
    ("form", "auth"),
    [
        ({}, ("app", SECRET)),
        ({"client_id": "app"}, ("app", SECRET)),
        ({"client_id": "app", "client_secret": SECRET}, None),
        ({}, ("odd", quote_plus(ODD_SECRET))),
        ({"scope": ""}, ("app", SECRET)),
    ],
)
def test_clients_that_authenticate(form, auth):
    assert Server().token(form, auth)[0] == 200


@pytest.mark.requirement("RFC6749-5.2-a", "RFC6749-5.2-b", "RFC7521-4.2.1-a", "RFC8707-2-b")
@pytest.mark.parametrize(
    ("form", "auth", "status", "error"),
    [
        ({}, ("app", "wrong"), 401, "invalid_client"),
        ({}, ("nobody", SECRET), 401, "invalid_client"),
        ({}, ("keyed", ""), 401, "invalid_client"),
        ({}, ("public", ""), 401, "invalid_client"),
        ({}, ("odd", ODD_SECRET), 401, "invalid_client"),
        ({}, None, 400, "invalid_client"),
        ({"client_id": "app"}, None, 400, "invalid_client"),
        ({"client_id": "nobody"}, None, 400, "invalid_client"),
        ({"client_secret": SECRET}, None, 400, "invalid_client"),
        ({"client_id": "app", "client_secret": "wrong"}, None, 400, "invalid_client"),
        ({"client_id": "public"}, None, 400, "unauthorized_client"),
        ({"client_id": "odd"}, ("app", SECRET), 400, "invalid_request"),
        ({"client_secret": SECRET}, ("app", SECRET), 400, "invalid_request"),
        ({"client_assertion": "x"}, ("app", SECRET), 401, "invalid_client"),
        ({"client_assertion": "x", "client_assertion_type": "y"}, None, 400, "invalid_client"),
        ({"client_assertion": "x", "client_assertion_type": BEARER_TYPE}, None, 400, "invalid_client"),
        ({"client_assertion_type": BEARER_TYPE}, None, 400, "invalid_client"),
        ({"grant_type": ""}, ("app", SECRET), 400, "invalid_request"),
        ({"grant_type": "password"}, ("app", SECRET), 400, "unsupported_grant_type"),
        ({"scope": "admin"}, ("app", SECRET), 400, "invalid_scope"),
        ({"scope": "orders:read  orders:write"}, ("app", SECRET), 400, "invalid_scope"),
        ({"scope": 'a"b'}, ("app", SECRET), 400, "invalid_scope"),
        ({"scope": "orders:read", "resource": OTHER}, ("app", SECRET), 400, "invalid_scope"),
        ({"resource": "https://nobody.example"}, ("app", SECRET), 400, "invalid_target"),
        ({"lifetime": "9999", "roles": "admin"}, ("app", SECRET), 200, None),
    ],
)
def test_token_requests_and_their_answers(form, auth, status, error):
    found, members, headers = Server().token(form, auth)
    assert (found, members.get("error")) == (status, error)
    assert ("WWW-Authenticate" in headers) == (status == 401)
    assert headers["Cache-Control"] == "no-store"
    if error is None:
        assert members["expires_in"] == 300


@pytest.mark.parametrize("path", ["/token", "/introspect", "/revoke"])
@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"method": "GET"}, 405),
        ({"method": "PUT"}, 405),
        ({"content_type": b"application/json"}, 400),
        ({"content_type": b""}, 400),
        ({"body": b"a=1&a=2"}, 400),
        ({"body": b"a=%ff"}, 400),
        ({"body": b"\xff\xfe"}, 400),
        ({"body": b"x" * 70_000}, 413),
        ({"authorization": (b"Basic x", b"Basic y")}, 400),
        ({"authorization": (b"Basic !!!",)}, 401),
        ({"authorization": (b"Basic /w==",)}, 401),
        ({"authorization": (b"Bearer x",)}, 401),
        ({"authorization": (b"Basic YXBw",)}, 401),
        ({"authorization": (b"",)}, 401),
    ],
)
def test_bad_requests_get_an_answer_of_the_rfc(path, request_, status):
    found, members, _ = Server().post(path, {"token": "x", "grant_type": "client_credentials"}, **request_)
    assert found == status
    assert members["error"] in {"invalid_request", "invalid_client"}


def assertion(key=CLIENT_KEY, typ="client-authentication+jwt", **changes):
    claims = {"iss": "keyed", "sub": "keyed", "aud": ISSUER, "exp": NOW + 60, "iat": NOW, "jti": "a"}
    return sign_jwt(key, typ, without_absent(claims | changes))


def by_assertion(server, raw, **more):
    return server.token({"client_assertion_type": BEARER_TYPE, "client_assertion": raw, **more}, None)


@pytest.mark.requirement("RFC7523-2.2-a", "RFC7523-3-a", "RFC7523-3-d")
@pytest.mark.parametrize("typ", ["client-authentication+jwt", "JWT"])
def test_a_client_assertion_is_good_once(store, typ):
    server = Server(store)
    raw = assertion(typ=typ)
    assert by_assertion(server, raw, client_id="keyed")[0] == 200
    assert by_assertion(server, raw)[1]["error"] == "invalid_client"
    assert by_assertion(server, assertion(typ=typ, jti="b"))[0] == 200


@pytest.mark.requirement("RFC7523-3-b", "RFC7523-3-c", "RFC7523-3-e")
@pytest.mark.parametrize(
    "raw",
    [
        assertion(aud=f"{ISSUER}/token"), assertion(aud="https://other.example"), assertion(aud=ABSENT),
        assertion(iss="app"), assertion(iss="nobody"), assertion(iss=ABSENT), assertion(sub="app"), assertion(sub=ABSENT),
        assertion(exp=NOW - 60), assertion(exp=ABSENT), assertion(exp=NOW + 86_400), assertion(nbf=NOW + 60),
        assertion(iat=NOW + 60), assertion(jti=ABSENT), assertion(jti=7), assertion(key=PARTNER_KEY),
        *(assertion(typ=typ) for typ in ("at+jwt", "dpop+jwt", "a b", "", "JOSE", "id+jwt", "jwt+x", 7)),
        assertion(aud=[ISSUER, "https://evil.example"]), assertion(aud=["https://evil.example", ISSUER]),
        assertion(aud=[ISSUER, ISSUER]), assertion(aud=[]), assertion(aud=["https://evil.example"]), assertion(aud={ISSUER: 1}), assertion() + "x", "x.y.z", "é",
    ],
)  # fmt: skip
def test_a_client_assertion_that_is_not_right(raw):
    status, members, _ = by_assertion(Server(), raw)
    assert (status, members["error"]) == (400, "invalid_client")


def untyped(key, claims):
    head = {"alg": key.algorithm, "kid": key.kid}
    encoded = (base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (head, claims))
    signing_input = b".".join(encoded)
    return finish_jwt(signing_input, key.sign(signing_input))


@pytest.mark.parametrize("typ", ["JWT", "jwt", "application/jwt", None])
def test_the_type_of_an_assertion_may_be_the_usual_one_or_be_left_out(typ):
    for raw, key, send in ((assertion(), CLIENT_KEY, by_assertion), (vouch(), PARTNER_KEY, exchange)):
        payload = raw.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        signed = untyped(key, claims) if typ is None else sign_jwt(key, typ, claims)
        assert send(Server(), signed)[0] == 200


def test_the_one_audience_of_a_client_assertion_may_be_in_an_array():
    assert by_assertion(Server(), assertion(aud=[ISSUER]))[0] == 200


def test_a_client_assertion_for_another_client_id():
    assert by_assertion(Server(), assertion(), client_id="app")[1]["error"] == "invalid_client"


def test_the_old_audience_can_be_accepted():
    server = Server(accept_token_endpoint_audience=True)
    assert by_assertion(server, assertion(aud=f"{ISSUER}/token"))[0] == 200


def vouch(key=PARTNER_KEY, typ="JWT", **changes):
    claims = {"iss": PARTNER, "sub": "alice", "aud": ISSUER, "exp": NOW + 60, "iat": NOW, "jti": "a"}
    return sign_jwt(key, typ, without_absent(claims | changes))


def exchange(server, raw, auth=None, **more):
    form = {"grant_type": GRANT} | ({} if raw is None else {"assertion": raw})
    return server.token(form | more, auth)


@pytest.mark.requirement("RFC7523-2.1-a", "RFC7523-3-a", "RFC7521-4.1-a")
@pytest.mark.parametrize("aud", [ISSUER, f"{ISSUER}/token", [ISSUER, "x"]])
def test_an_assertion_is_exchanged_once(store, aud):
    server = Server(store)
    raw = vouch(aud=aud)
    status, members, _ = exchange(server, raw, scope="orders:read")
    assert status == 200
    assert members["expires_in"] == 60  # no longer than the assertion
    assert "refresh_token" not in members
    access = server.judged(members["access_token"])
    assert (access.subject, access.client_id, access.scopes) == ("alice", PARTNER, {"orders:read"})
    assert exchange(server, raw)[1]["error"] == "invalid_grant"


def test_an_assertion_without_an_id_goes_by_its_hash():
    server = Server()
    raw = vouch(jti=ABSENT)
    assert exchange(server, raw)[0] == 200
    assert exchange(server, raw)[1]["error"] == "invalid_grant"


@pytest.mark.parametrize("waited", [60 + 29, 60 + 31, 60 + 31 + 3600])
@pytest.mark.parametrize("purged", [False, True])
def test_an_assertion_that_ends_while_its_subject_is_looked_up_is_not_used_again(store, waited, purged):
    server = Server(store, resolve_subject=lambda claims: (server.time.advance(wait), claims["sub"])[1])
    raw, wait = vouch(), 0
    assert exchange(server, raw)[0] == 200
    if purged:
        store.add("assertion", "x", until=NOW + 9_999, now=NOW + waited)
    wait = waited
    assert exchange(server, raw)[1]["error"] == "invalid_grant"


def test_a_first_use_counts_from_when_the_subject_is_known():
    server = Server(resolve_subject=lambda claims: (server.time.advance(20), claims["sub"])[1])
    status, members, _ = exchange(server, vouch())
    assert (status, members["expires_in"]) == (200, 40)
    claims = server.judged(members["access_token"]).claims
    assert (claims["iat"], claims["exp"]) == (NOW + 20, NOW + 60)


def test_a_used_assertion_is_remembered_longer_than_it_is_good():
    """A process that read its clock a moment ago may ask after one with a later clock has forgotten."""
    store, claims = MemoryStore(), FrozenDict(iss=PARTNER, jti="a", exp=NOW)
    use_once("x.y.z", claims, store, NOW)
    assert not store.add("assertion", next(iter(store.all("assertion"))), NOW + 99, NOW + 30 + 59)


def test_a_client_and_an_assertion_issuer_share_no_name():
    for named in (Client(PARTNER, SECRET), Client(PARTNER)):
        issuer = Server().issuer
        options = {"clients": [named], "assertion_issuers": [assertion_issuer()]}
        with pytest.raises(ConfigurationError, match="is a client and an AssertionIssuer"):
            AuthorizationServer(issuer, **options)
        options["assertion_issuers"] = [assertion_issuer(accept_unauthenticated_clients=False)]
        assert AuthorizationServer(issuer, **options)


def test_an_assertion_gets_no_token_in_the_name_of_a_client_that_was_added_later():
    server = Server()
    assert exchange(server, vouch())[0] == 200
    server.server.clients.add(Client(PARTNER, SECRET, frozenset({"orders:read"})))
    assert exchange(server, vouch(jti="b"))[1]["error"] == "invalid_client"
    members = exchange(server, vouch(jti="b"), ("app", SECRET))[1]
    assert server.judged(members["access_token"]).client_id == "app"


@pytest.mark.requirement("RFC7523-2.1-b", "RFC7523-3.1-a")
@pytest.mark.parametrize(
    ("auth", "more", "status", "client_id"),
    [
        (("app", SECRET), {}, 200, "app"),
        (None, {"client_id": "public"}, 200, "public"),
        (("app", "wrong"), {}, 401, None),
        (None, {"client_id": "app"}, 400, None),
        (None, {"client_id": "nobody"}, 400, None),
    ],
)
def test_a_client_may_authenticate_and_then_must_succeed(auth, more, status, client_id):
    server = Server()
    found, members, _ = exchange(server, vouch(), auth, **more)
    assert found == status
    if client_id:
        assert server.judged(members["access_token"]).client_id == client_id


@pytest.mark.requirement("RFC7523-3-b", "RFC7523-3-f", "RFC7523-3.1-b")
@pytest.mark.parametrize(
    "raw",
    [
        vouch(iss="https://stranger.example"), vouch(iss=ABSENT), vouch(sub=ABSENT), vouch(sub=""), vouch(aud="x"),
        vouch(aud=ABSENT), vouch(exp=NOW - 60), vouch(exp=ABSENT), vouch(exp=NOW + 86_400), vouch(nbf=NOW + 60),
        vouch(iat=NOW + 60), vouch(jti=7), vouch(key=CLIENT_KEY), vouch(typ="at+jwt"),
        *(vouch(typ=typ) for typ in ("client-authentication+jwt", "", "JOSE", "id+jwt", "a b", 7)), vouch() + "x", "junk", "a.b.c",
    ],
)  # fmt: skip
def test_any_fault_of_an_assertion_is_invalid_grant(raw):
    status, members, _ = exchange(Server(), raw)
    assert (status, members["error"]) == (400, "invalid_grant")


@pytest.mark.parametrize(
    ("raw", "more", "error"),
    [
        (None, {}, "invalid_request"),
        (vouch(), {"scope": "admin"}, "invalid_scope"),
        (vouch(), {"resource": "https://nobody.example"}, "invalid_target"),
    ],
)
def test_faults_around_an_assertion(raw, more, error):
    server = Server()
    assert exchange(server, raw, **more)[1]["error"] == error
    if raw:
        assert exchange(server, raw)[0] == 200  # it was not used up


def test_an_access_token_is_no_grant():
    server = Server()
    token = server.issuer.issue(subject="alice", client_id="app", resource=API)
    assert exchange(server, token)[1]["error"] == "invalid_grant"


def test_subjects_are_resolved_by_a_function_that_may_refuse():
    server = Server(resolve_subject=lambda claims: {"alice": "user-1"}.get(claims["sub"]))
    members = exchange(server, vouch())[1]
    assert server.judged(members["access_token"]).subject == "user-1"
    assert exchange(server, vouch(sub="mallory", jti="b"))[1]["error"] == "invalid_grant"


def test_an_assertion_issuer_has_scopes_of_its_own():
    server = Server(partner=assertion_issuer(scopes={"orders:read"}))
    assert exchange(server, vouch(), scope="orders:write")[1]["error"] == "invalid_scope"
    assert exchange(server, vouch(), ("app", SECRET), scope="orders:read")[0] == 200


@pytest.mark.parametrize(
    ("options", "auth", "more", "scope", "error"),
    [
        ({"scopes": ()}, None, {}, "orders:read", "invalid_scope"),
        ({"scopes": ()}, ("app", SECRET), {}, "orders:read", "invalid_scope"),
        ({"accept_any_scope": True}, None, {}, "orders:write", None),
        ({"accept_any_scope": True}, None, {}, "mail", "invalid_scope"),  # the resource does not define it
        ({}, ("app", SECRET), {}, "orders:write", None),
        ({}, ("opaque", SECRET), {}, "orders:write", "invalid_scope"),
        ({"accept_any_scope": True}, ("opaque", SECRET), {}, "orders:write", "invalid_scope"),
        ({}, None, {"client_id": "public"}, "orders:write", "invalid_scope"),
        ({"accept_any_scope": True}, None, {"client_id": "public"}, "orders:write", "invalid_scope"),
        ({"accept_unauthenticated_clients": False}, None, {}, "orders:read", "invalid_client"),
        ({"accept_unauthenticated_clients": False}, ("app", SECRET), {}, "orders:read", None),
        ({"accept_unauthenticated_clients": False}, None, {"client_id": "public"}, "orders:read", None),
    ],
)
def test_nobody_gets_more_than_the_assertion_issuer_and_the_client_may(options, auth, more, scope, error):
    status, members, _ = exchange(
        Server(partner=assertion_issuer(**options)), vouch(), auth, scope=scope, **more
    )
    assert (status, members.get("error")) == (400 if error else 200, error)


def test_a_client_that_chooses_its_claims_gets_no_scope_that_the_resource_does_not_define():
    server = Server()
    server.server.clients.add(Client("free", SECRET, accept_requested_claims=True))
    assert server.token({"scope": "orders:write"}, ("free", SECRET))[0] == 200
    for wanted in ({"scope": "mail"}, {"scope": "mail", "resource": "https://nobody.example"}):
        assert server.token(wanted, ("free", SECRET))[1]["error"] == "invalid_scope"
    assert server.token({"resource": "https://nobody.example"}, ("free", SECRET))[0] == 200


def test_whose_subjects_may_be_named_is_chosen():
    with pytest.raises(ConfigurationError, match="accept_any_subject"):
        Server(partner=assertion_issuer(accept_any_subject=False))
    assert Server(partner=assertion_issuer(accept_any_subject=False), resolve_subject=lambda claims: "x")


def other_signature(raw):
    """Another valid ECDSA signature over the same bytes: (r, s) is as good as (r, n - s)."""
    signing_input, _, signature = raw.rpartition(".")
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    rs = decode_base64url(signature.encode())
    s = (order - int.from_bytes(rs[32:], "big")).to_bytes(32, "big")
    return finish_jwt(signing_input.encode(), rs[:32] + s)


def test_an_assertion_without_an_id_is_not_new_for_another_signature():
    server = Server()
    raw = vouch(jti=ABSENT)
    assert exchange(Server(), other_signature(raw))[0] == 200
    assert exchange(server, raw)[0] == 200
    assert exchange(server, other_signature(raw))[1]["error"] == "invalid_grant"


def test_ids_of_two_assertion_issuers_do_not_meet():
    for first, second in ((("a b", "c"), ("a", "b c")), (('a", "b', "c"), ("a", 'b", "c'))):
        store = MemoryStore()
        for iss, jti in (first, second):
            use_once("x.y.z", FrozenDict(iss=iss, jti=jti, exp=NOW + 60), store, NOW)


@pytest.mark.parametrize("path", ["", "/token", "/tenant/token", "/jwks", "/introspect"])
def test_an_issuer_answers_whatever_its_path_ends_in(path):
    issuer = AccessTokenIssuer(ISSUER + path, SigningKey.generate("ES256"), resources=API)
    server = AuthorizationServer(issuer, clients=CLIENTS)
    world = World()
    for place in metadata_urls(ISSUER + path):
        answer = world.run(server.answer(urlsplit(place).path, EndpointRequest("GET")))
        assert (answer.status, json.loads(answer.body)["issuer"]) == (200, ISSUER + path)
    assert b"keys" in world.run(server.answer(f"{path}/jwks", EndpointRequest("GET"))).body
    assert world.run(server.answer(f"{path}/token", EndpointRequest("GET"))).status == 405
    assert set(server.paths) >= {f"{path}/{name}" for name in ("jwks", "token", "introspect", "revoke")}


@pytest.mark.parametrize("secret", ["s", "s" * 31])
def test_a_secret_that_can_be_guessed_is_refused(secret):
    with pytest.raises(ConfigurationError, match="fewer than 32"):
        Client("app", secret)


@pytest.mark.parametrize("before", [None, 0o644])
def test_the_store_is_its_owners_alone(tmp_path, before):
    path = tmp_path / "issuer.db"
    if before is not None:
        path.touch()
        path.chmod(before)
    store = SQLiteStore(path)
    store.put("keys", "ring", {})
    assert {one.stat().st_mode & 0o777 for one in tmp_path.iterdir()} == {0o600}
    store.close()


def test_the_store_is_not_behind_a_link_and_not_a_folder(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for path in (tmp_path / "link", tmp_path):
        with pytest.raises(ConfigurationError, match="SQLiteStore cannot use"):
            SQLiteStore(path)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    "found",
    [PARTNER_KEY.public_jwk(), {"keys": [PARTNER_KEY.public_jwk()]}],
)
def test_keys_of_assertion_issuers_come_from_a_function(found):
    asked = []

    def find(header, claims):
        asked.append((header["kid"], claims["sub"]))
        return found

    server = Server(partner=assertion_issuer(find_key=find))
    assert exchange(server, vouch())[0] == 200
    assert asked == [(PARTNER_KEY.kid, "alice")]
    nobody = Server(partner=assertion_issuer(find_key=lambda header, claims: None))
    assert exchange(nobody, vouch())[1]["error"] == "invalid_grant"


def test_keys_of_assertion_issuers_are_fetched():
    server = Server(partner=assertion_issuer(jwks_uri=f"{PARTNER}/jwks"))
    status, members, headers = exchange(server, vouch())
    assert (status, members["error"], headers["Retry-After"]) == (503, "temporarily_unavailable", "1")
    assert exchange(server, vouch(iss="https://stranger.example"))[0] == 400
    assert server.world.asked == [f"{PARTNER}/jwks"]
    server.world.pages[f"{PARTNER}/jwks"] = {"keys": [PARTNER_KEY.public_jwk()]}
    server.time.advance(1)
    assert exchange(server, vouch())[0] == 200


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: AssertionIssuer(PARTNER),
        lambda: AssertionIssuer("", jwks_uri="https://x.example"),
        lambda: AssertionIssuer(PARTNER, jwks={}, jwks_uri="https://x.example"),
        lambda: AssertionIssuer(PARTNER, jwks_uri="http://x.example"),
        lambda: Server(partner=assertion_issuer(jwks={"keys": []})),
        lambda: Client(""),
        lambda: Client("x", jwks={"keys": [{"kty": "oct"}]}),
        lambda: Clients([Client("x"), Client("x")]),
    ],
)
def test_what_cannot_work_is_refused_at_once(wrong):
    with pytest.raises(ConfigurationError):
        wrong()


SYMMETRIC = {"kty": "oct", "k": "c2VjcmV0" * 6}


@pytest.mark.parametrize(
    "secret", [PARTNER_KEY.private_jwk(), SYMMETRIC, {"k": SYMMETRIC["k"]}, {"kty": "oct"}, {"kty": "RSA", "dq": "AQ"}]
)  # fmt: skip
@pytest.mark.parametrize("place", [0, 1, 150])
def test_a_private_key_among_public_ones_is_refused(secret, place):
    keys = [CLIENT_KEY.public_jwk()] * place + [secret, CLIENT_KEY.public_jwk()]
    for configure in (
        lambda: Client("x", jwks={"keys": keys}),
        lambda: assertion_issuer(jwks={"keys": keys}),
    ):
        with pytest.raises(ConfigurationError, match="holds a private or symmetric key"):
            configure()


def test_a_member_that_is_null_is_no_private_key():
    assert Client("x", jwks={"keys": [CLIENT_KEY.public_jwk() | {"d": None}, None]})


def test_a_client_that_left_the_configuration_is_gone_after_a_restart(store):
    issuer = Server().issuer
    first = AuthorizationServer(
        issuer, clients=[Client("app", SECRET), Client("leaked", SECRET)], store=store
    )
    first.clients.add(Client("added", SECRET))
    assert [bool(first.clients.named(name, NOW)) for name in ("app", "leaked", "added")] == [True, True, True]
    second = AuthorizationServer(issuer, clients=[Client("app", SECRET)], store=store)
    assert [bool(second.clients.named(name, NOW)) for name in ("app", "leaked", "added")] == [
        True,
        False,
        True,
    ]


def test_a_configured_client_can_be_replaced_until_the_next_start(store):
    def start():
        return Clients([Client("app", SECRET, {"orders:read"})], store)

    first, another = start(), start()
    first.add(Client("app", SECRET, {"orders:write"}))
    for running in (first, another):
        assert running.named("app", NOW).scopes == {"orders:write"}
    assert start().named("app", NOW).scopes == {"orders:read"}


def test_the_keys_of_a_client_are_read_once(store, monkeypatch):
    read = []
    monkeypatch.setattr(
        "ticketgate.issuing.clients.public_key_set", lambda jwks, whose: read.append(whose) or "keys"
    )
    clients = Clients([], store)
    clients.add(Client("many", jwks={"keys": [CLIENT_KEY.public_jwk()]}))
    for _ in range(3):
        assert clients.named("many", NOW).is_confidential
    assert read == ["client 'many'"] * 2  # as it was made, and as it was found
    clients.add(Client("many", jwks={"keys": [PARTNER_KEY.public_jwk()]}))
    assert clients.named("many", NOW).jwks == {"keys": [PARTNER_KEY.public_jwk()]}
    assert len(read) == 4


@pytest.mark.requirement("RFC7662-2.2-a", "RFC7662-2.1-f")
@pytest.mark.parametrize("client", ["app", "opaque"])
@pytest.mark.parametrize("hint", ["access_token", "refresh_token", "nonsense", ""])
def test_introspection_tells_what_a_token_means(store, client, hint):
    server = Server(store)
    token = server.token({"scope": "orders:read"}, (client, SECRET))[1]["access_token"]
    status, members, headers = server.post(
        "/introspect", {"token": token, "token_type_hint": hint}, ("api", SECRET)
    )
    assert (status, headers["Cache-Control"]) == (200, "no-store")
    assert members.pop("jti")
    assert members == {
        "active": True, "token_type": "Bearer", "iss": ISSUER, "sub": client, "aud": API, "client_id": client,
        "scope": "orders:read", "iat": NOW, "exp": NOW + 300,
    }  # fmt: skip


def test_introspection_tells_groups_roles_entitlements_and_cnf():
    server = Server()
    claims = {"roles": ["clerk"], "groups": [{"value": "ops"}], "entitlements": ["x"], "cnf": {"jkt": "y"}}
    token = server.issuer.issue(subject="alice", client_id="app", **claims)
    assert claims.items() <= server.introspect(token)[1].items()


@pytest.mark.requirement("RFC7662-2.2-m", "RFC7662-2.2-n", "RFC7662-4-a", "RFC7662-2.2-k")
def test_every_fault_of_a_token_is_inactive_and_nothing_else():
    server, stranger = Server(), Server()
    good = server.token({})[1]["access_token"]
    opaque = server.token({}, ("opaque", SECRET))[1]["access_token"]
    inactive = [
        "unknown", "a.b.c", "é", good + "x", good[:-4] + "AAAA", assertion(), vouch(),
        stranger.token({})[1]["access_token"], sign_jwt(server.issuer.keys.signing, "JWT", {"iss": ISSUER, "exp": NOW + 9}),
        server.issuer.issue(subject="a", client_id="b", claims={"nbf": NOW + 60}),
    ]  # fmt: skip
    for token in inactive:
        assert server.introspect(token)[:2] == (200, {"active": False})
    for token in (good, opaque):
        assert server.introspect(token)[1]["active"] is True
        assert server.introspect(token, ("elsewhere", SECRET))[:2] == (200, {"active": False})
        assert server.introspect(token, ("app", SECRET))[:2] == (200, {"active": False})
    server.time.advance(300)
    for token in (good, opaque):
        assert server.introspect(token)[:2] == (200, {"active": False})


@pytest.mark.requirement("RFC7662-2.1-d", "RFC7662-2.1-h", "RFC7662-2.3-a", "RFC9701-5-h")
@pytest.mark.parametrize(
    ("form", "auth", "accept", "status", "error"),
    [
        ({}, ("api", SECRET), b"", 400, "invalid_request"),
        ({"token": "x"}, None, b"", 401, "invalid_client"),
        ({"token": "x"}, None, b"application/token-introspection+jwt", 400, "invalid_client"),
        ({"token": "x", "client_id": "public"}, None, b"", 401, "invalid_client"),
        ({"token": "x"}, ("api", "wrong"), b"", 401, "invalid_client"),
    ],
)
def test_introspection_is_for_those_who_authenticate(form, auth, accept, status, error):
    found, members, _ = Server().post("/introspect", form, auth, accept=accept)
    assert (found, members["error"]) == (status, error)


@pytest.mark.requirement("RFC9701-5-a", "RFC9701-5-b", "RFC9701-5-c", "RFC9701-5-d", "RFC9701-5-f")
@pytest.mark.parametrize(
    "accept", [b"application/token-introspection+jwt", b"a/b;q=1, Application/Token-Introspection+JWT"]
)
def test_a_signed_answer(accept):
    server = Server()
    token = server.token({})[1]["access_token"]
    for presented, active in ((token, True), ("unknown", False)):
        status, raw, headers = server.introspect(presented, accept=accept)
        assert (status, headers["Content-Type"]) == (200, "application/token-introspection+jwt")
        head, payload = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in raw.split(".")[:2])
        assert head["typ"] == "token-introspection+jwt"
        assert payload.keys() == {"iss", "aud", "iat", "token_introspection"}
        assert (payload["iss"], payload["aud"], payload["iat"]) == (ISSUER, "api", NOW)
        assert payload["token_introspection"]["active"] is active


def revoke(server, token, auth=("app", SECRET)):
    return server.post("/revoke", {"token": token}, auth)


@pytest.mark.requirement("RFC7009-2.2-a", "RFC7009-2.1-a", "RFC7009-2.2.1-a")
def test_revocation(store):
    server = Server(store)
    signed = server.token({})[1]["access_token"]
    opaque = server.token({}, ("opaque", SECRET))[1]["access_token"]
    assert revoke(server, "unknown")[0] == 200
    assert revoke(server, Server().token({})[1]["access_token"])[0] == 200
    assert revoke(server, signed)[1]["error"] == "unsupported_token_type"
    assert revoke(server, signed, ("odd", quote_plus(ODD_SECRET)))[1]["error"] == "invalid_grant"
    assert revoke(server, opaque)[1]["error"] == "invalid_grant"
    assert server.introspect(opaque)[1]["active"] is True
    assert revoke(server, opaque, ("opaque", SECRET))[:2] == (200, {})
    assert server.introspect(opaque)[1] == {"active": False}
    assert server.introspect(signed)[1]["active"] is True
    assert server.post("/revoke", {}, ("app", SECRET))[1]["error"] == "invalid_request"
    assert revoke(server, signed, ("app", "wrong"))[0] == 401


def test_with_a_deny_list_jwts_can_be_revoked_too(store):
    server = Server(store, deny_list=True)
    signed, other = (server.token({})[1]["access_token"] for _ in range(2))
    assert revoke(server, signed)[0] == 200
    assert server.introspect(signed)[1] == {"active": False}
    assert server.introspect(other)[1]["active"] is True
    assert revoke(server, signed)[0] == 200


def get(server, path, method="GET"):
    return server.world.run(server.server.answer(path, EndpointRequest(method)))


@pytest.mark.requirement("RFC8414-2-a", "RFC8414-3-a")
def test_documents():
    server = Server()
    for path in ("/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"):
        answer = get(server, path)
        document = json.loads(answer.body)
        assert answer.status == 200
        assert document["issuer"] == ISSUER
        assert document["grant_types_supported"] == ["client_credentials", GRANT]
        assert {document[f"{name}_endpoint"] for name in ("token", "introspection", "revocation")} == {
            f"{ISSUER}/token", f"{ISSUER}/introspect", f"{ISSUER}/revoke"
        }  # fmt: skip
    assert json.loads(get(server, "/jwks").body) == server.issuer.jwks()
    assert get(server, "/jwks", "POST").status == 405


def test_an_issuer_with_a_path_answers_below_it():
    issuer = AccessTokenIssuer("https://as.example/t/1", SigningKey.generate("ES256"), resources=API)
    assert AuthorizationServer(issuer).paths == (
        "/.well-known/oauth-authorization-server/t/1",
        "/t/1/.well-known/openid-configuration",
        "/t/1/jwks",
        "/t/1/token",
        "/t/1/introspect",
        "/t/1/revoke",
    )


def test_an_issuer_survives_a_restart(tmp_path):
    path = tmp_path / "issuer.db"
    first = SQLiteStore(path)
    assert path.stat().st_mode & 0o777 == 0o600
    keys = load_keys(first, "ES256")
    keys.rotate()
    save_keys(first, keys)
    opaque = Server(first).token({}, ("opaque", SECRET))[1]["access_token"]
    raw = vouch()
    assert exchange(Server(first), raw)[0] == 200
    first.close()

    second = SQLiteStore(path)
    assert load_keys(second).jwks() == keys.jwks()
    assert load_keys(second).signing.sign(b"x")
    server = Server(second)
    assert server.introspect(opaque)[1]["active"] is True
    assert exchange(server, raw)[1]["error"] == "invalid_grant"
    assert SECRET.encode() not in path.read_bytes()
    assert opaque.encode() not in path.read_bytes()
    second.close()


def test_stores_forget_what_has_ended(store):
    assert store.add("a", "x", until=10, now=0)
    assert not store.add("a", "x", until=20, now=9)
    assert store.add("a", "x", until=20, now=10)
    store.put("b", "forever", {"y": 1})
    assert store.get("b", "forever", 10**12) == {"y": 1}
    assert store.all("b") == {"forever": {"y": 1}}
    store.delete("b", "forever")
    store.delete("b", "forever")
    assert store.get("b", "forever", 0) is None
    for number in range(2500):
        assert store.add("c", str(number), until=number + 1, now=number)
    assert len(store.all("c")) <= 1100
    for number in range(5000):
        store.put("d", str(number), {}, until=number * 10.0)
    assert len(store.all("d")) <= 1400


def test_no_secret_is_shown_or_kept():
    client = Client("app", SECRET)
    assert SECRET not in repr(client)
    assert client.secret == ""
    assert ECKey.generate_key("P-256").as_dict(private=True)["d"] not in repr(client)


def test_a_form_has_at_most_a_hundred_parameters():
    server = Server()
    assert server.token({f"p{number}": "x" for number in range(99)})[0] == 200
    assert server.token({f"p{number}": "x" for number in range(100)})[1]["error"] == "invalid_request"
