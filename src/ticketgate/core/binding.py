"""Sender-constrained tokens: what the ``cnf`` claim asks for must be proven.

RFC 7800 §3.1, RFC 9449 §6, RFC 8705 §3.
"""

from ticketgate.core.access_token import AccessToken
from ticketgate.errors import InvalidToken


def check_binding(token: AccessToken) -> None:
    """The token is a plain bearer token.  Raises `InvalidToken` with reason ``binding``.

    A token with a ``cnf`` was taken from the hands of whoever stole it: without a way to prove possession
    of its key, passing it on as a bearer token would give that protection away.
    """
    if "cnf" in token.claims:
        raise InvalidToken("binding", expected="no cnf", actual=sorted(token.claims["cnf"]))
