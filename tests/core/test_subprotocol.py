"""The token that a browser puts among the subprotocols of a WebSocket."""

import pytest
from tokens import token

from ticketgate.core.subprotocol import offered_token
from ticketgate.errors import InvalidRequest


@pytest.mark.parametrize("fields", [[], [b""], [b" , ,"], [b"graphql-ws, chat"], [b"bearer.x"], [b"xbearer"]])
def test_without_the_name_nothing_is_taken(fields):
    assert offered_token(fields) is None


@pytest.mark.parametrize(
    ("fields", "authorization", "name", "others"),
    [
        ([b"bearer, x.y.z"], (b"Bearer x.y.z",), "bearer", ()),
        ([b"bearer,x.y.z"], (b"Bearer x.y.z",), "bearer", ()),
        ([b"bearer", b"x.y.z"], (b"Bearer x.y.z",), "bearer", ()),
        ([b"\t bearer ,, \tx.y.z ,"], (b"Bearer x.y.z",), "bearer", ()),
        ([b"BeareR, x"], (b"Bearer x",), "BeareR", ()),
        ([b"chat, bearer, x, v2"], (b"Bearer x",), "bearer", ("chat", "v2")),
        ([b"chat, v2", b"bearer, x"], (b"Bearer x",), "bearer", ("chat", "v2")),
        ([b"chat, bearer"], (b"Bearer ",), "bearer", ("chat",)),
        ([b"chat, bearer, x, bearer, y"], (b"Bearer x", b"Bearer y"), "bearer", ("chat",)),
        ([b"bearer, bearer, x"], (b"Bearer bearer", b"Bearer x"), "bearer", ()),
        ([b"bearer, x, Bearer"], (b"Bearer x", b"Bearer "), "bearer", ()),
    ],
)
def test_the_token_is_what_follows_the_name(fields, authorization, name, others):
    offer = offered_token(fields)
    assert (offer.authorization(), offer.name, offer.others) == (authorization, name, others)


@pytest.mark.parametrize("wrong", [b"a/b", b"a=", b"a b", b'"a"', b"a;b", b"a\x00", b"\xc3\xa9", b"a(b)"])
def test_a_token_that_is_not_a_subprotocol_name_is_refused(wrong):
    with pytest.raises(InvalidRequest, match="characters"):
        offered_token([b"bearer, " + wrong]).authorization()


def test_it_shows_no_token():
    raw = token()
    assert raw.decode() not in repr(offered_token([b"bearer, " + raw]))
