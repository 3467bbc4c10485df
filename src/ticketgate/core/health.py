"""How the issuers of a resource server are, for probes and operators.

RFC 9110 §15.6.4 (503 while nothing can be decided).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ticketgate.core.challenge import Answer, json_answer


@dataclass(frozen=True, slots=True)
class IssuerHealth:
    """One issuer: ``state`` is fresh, stale (its keys go on being used) or unavailable (requests get 503).

    ``keys`` are pairs of key id and algorithm, ``age`` and ``next_refresh`` seconds from now, None where
    there is nothing to measure; ``last_error`` is empty while all is well.
    """

    issuer: str
    state: str
    keys: tuple[tuple[str | None, str], ...]
    age: float | None
    next_refresh: float | None
    last_error: str


def readiness_answer(issuers: Sequence[IssuerHealth]) -> Answer:
    """200 while at least one issuer's tokens can be judged, else 503; says no more than anybody may know.

    Where no issuer is named there is nothing to wait for: whose tokens can be judged shows with the tokens.
    """
    ready = not issuers or any(issuer.state != "unavailable" for issuer in issuers)
    states = [{"issuer": issuer.issuer, "state": issuer.state} for issuer in issuers]
    members = {"status": "ready" if ready else "unavailable", "issuers": states}
    return json_answer(200 if ready else 503, members)
