"""A resource server before an issuer that knows some opaque tokens, for tests of introspection."""

from urllib.parse import parse_qs

from flows import World, reply
from tokens import API, ISSUER, NOW, Time, jwks, key

from ticketgate import ClientSecretBasic, Introspection, Issuer, ResourceServer
from ticketgate.core.request import bearer_request

ENDPOINT = f"{ISSUER}/introspect"
JWKS = f"{ISSUER}/jwks"
RFC8414 = f"{ISSUER}/.well-known/oauth-authorization-server"
OPENID = f"{ISSUER}/.well-known/openid-configuration"
BASIC = ClientSecretBasic("api", "secret")
GOOD = {
    "active": True,
    "sub": "alice",
    "client_id": "app",
    "aud": API,
    "exp": NOW + 300,
    "scope": "orders:read",
}


class Gate:
    """A resource server before an issuer that knows some opaque tokens."""

    def __init__(self, endpoint=ENDPOINT, auth=BASIC, others=(), leeway=30, opened_with=(), **options):
        self.time = Time()
        self.answers = {"opaque": GOOD}
        self.otherwise = {"active": False}
        self.world = World({ENDPOINT: self.answer, JWKS: jwks(key())})
        self.issuer = Issuer(
            ISSUER, jwks_uri=JWKS, introspection=Introspection(endpoint, auth=auth, **options)
        )
        self.server = ResourceServer(
            API,
            self.issuer,
            *others,
            clock=self.time.clock,
            leeway=leeway,
            decryption_keys=opened_with,
        )

    def answer(self, request):
        (name,) = parse_qs(request.body.decode())["token"]
        found = self.answers.get(name, self.otherwise)
        if isinstance(found, Exception):
            raise found
        return found if hasattr(found, "status") else reply(found)

    def open(self, raw="opaque"):
        return self.world.run(self.server.authenticate(bearer_request(raw)))

    def form(self):
        return {name: values[0] for name, values in parse_qs(self.world.requests[-1].body.decode()).items()}
