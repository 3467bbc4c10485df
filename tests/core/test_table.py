"""Every row of the table through the core alone."""

import json

import pytest
from flows import World
from table import API, DOWN, DOWN_JWKS, KEYS, PATHS, TABLE
from tokens import ISSUER, Time

from ticketgate import Issuer, ResourceServer
from ticketgate.core.gate import Gate
from ticketgate.core.request import ResourceRequest
from ticketgate.core.requirement import all_of
from ticketgate.errors import CannotDecide, NoCredentials, OAuthError

server = ResourceServer(API, Issuer(ISSUER, jwks=KEYS), Issuer(DOWN, jwks_uri=DOWN_JWKS), clock=Time().clock)


def through_the_core(row):
    """What a host module does with a request, reduced to the decisions."""
    try:
        request = ResourceRequest(row.method, authorization=row.authorization)
        token = World().run(server.authenticate(request))
    except (OAuthError, CannotDecide) as error:
        if not (row.optional and isinstance(error, NoCredentials)):
            return server.answer(error), None
        token = None
    needed = PATHS[row.path.partition("?")[0]]
    return (Gate(server, None).refusal(token, all_of(needed)) if needed else None), token


@pytest.mark.requirement("RFC9068-4-a", "RFC6750-3-a", "RFC6750-3-b", "DRV-authz-a")
@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_the_core_answers_as_the_table_says(row):
    answer, token = through_the_core(row)
    if answer is None:
        assert row.expected.status == 200
        assert row.expected.body == {"sub": token.subject if token else None}
        return
    assert answer.status == row.expected.status
    lines = [value.decode() for name, value in answer.headers if name == b"www-authenticate"]
    assert tuple(lines) == row.expected.challenges
    assert json.loads(answer.body) == row.expected.body
    headers = dict(answer.headers)
    assert headers[b"cache-control"] == b"no-store"
    assert (b"retry-after" in headers) == (answer.status == 503)
