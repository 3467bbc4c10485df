"""An access token among the subprotocols of a WebSocket, the one place where a browser's script can put it.

    new WebSocket(url, ["bearer", token])  ->  Sec-WebSocket-Protocol: bearer, eyJ0eXAi...

No RFC defines this.  RFC 6455 §4.1 (the field and what a name may be), RFC 9110 §5.6.1 (lists) and §5.6.2 (tokens).
"""

import string
from collections.abc import Iterable
from dataclasses import dataclass, field

from ticketgate.errors import InvalidRequest

SCHEME = b"bearer"
NAME_CHARACTERS = (string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~").encode()


@dataclass(frozen=True, slots=True)
class OfferedToken:
    """What a client offered after the name ``bearer``.

    ``name`` is that name as the client spelled it, which the server has to repeat;
    ``others`` are the subprotocols that remain for the application.
    """

    name: str
    others: tuple[str, ...]
    _tokens: tuple[bytes, ...] = field(repr=False)

    def authorization(self) -> tuple[bytes, ...]:
        """The Authorization header values that would say the same.

        Raises `InvalidRequest` for a token that is not a legal subprotocol name (RFC 9110 §5.6.2).
        """
        if any(token.translate(None, NAME_CHARACTERS) for token in self._tokens):
            raise InvalidRequest("characters", expected="a subprotocol name")
        return tuple(b"Bearer " + token for token in self._tokens)


def offered_token(fields: Iterable[bytes]) -> OfferedToken | None:
    """The token in the Sec-WebSocket-Protocol header fields of a handshake; None where ``bearer`` is not offered.

    The token is the name after ``bearer``, wherever that is in the list.
    """
    names = [name for part in b",".join(fields).split(b",") if (name := part.strip(b" \t"))]
    places = [place for place, name in enumerate(names) if name.lower() == SCHEME]
    if not places:
        return None
    first = places[0]
    rest = names[first + 2 :] if len(places) == 1 else []  # of several, nobody knows which are tokens
    tokens = tuple(b"".join(names[place + 1 : place + 2]) for place in places)
    others = tuple(name.decode("latin-1") for name in names[:first] + rest)
    return OfferedToken(names[first].decode("latin-1"), others, tokens)
