"""What reaches an endpoint of an authorization server, and what it answers.

RFC 6749 §3.2 (parameters), §5.1 (answers) and §5.2 (refusals).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import parse_qsl

MAX_BODY_BYTES = 65_536
MAX_PARAMETERS = 100
FORM = b"application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class EndpointRequest:
    """A request as received; ``authorization`` holds every such header field in order of arrival."""

    method: str = "POST"
    content_type: bytes = FORM
    authorization: tuple[bytes, ...] = field(default=(), repr=False)
    body: bytes = field(default=b"", repr=False)
    accept: bytes = b""
    query: bytes = field(default=b"", repr=False)
    origin: bytes = b""


@dataclass(frozen=True, slots=True)
class Answer:
    """What to send back: status, header fields and body."""

    status: int
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)

    UNCACHED: ClassVar[tuple[tuple[str, str], ...]] = (
        ("Content-Type", "application/json"),
        ("Cache-Control", "no-store"),
        ("Pragma", "no-cache"),
    )

    @classmethod
    def of(cls, members: Mapping[str, Any], status: int = 200, *more: tuple[str, str]) -> "Answer":
        """``members`` as JSON, which no cache may keep (RFC 6749 §5.1)."""
        return cls(status, (*cls.UNCACHED, *more), json.dumps(members, separators=(",", ":")).encode("ascii"))

    def with_headers(self, *more: tuple[str, str]) -> "Answer":
        """The same answer with further header fields."""
        return Answer(self.status, (*self.headers, *more), self.body)


class Refusal(Exception):
    """The request is not granted: an error code of RFC 6749 §5.2 with fixed, safe words."""

    def __init__(
        self, error: str, description: str, *, status: int = 400, headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        super().__init__(error)
        self.error = error
        self.description = description
        self.status = status
        self.headers = headers

    @property
    def answer(self) -> Answer:
        """The refusal as the client gets it."""
        members = {"error": self.error, "error_description": self.description}
        return Answer.of(members, self.status, *self.headers)


def read_parameters(request: EndpointRequest) -> dict[str, str]:
    """The parameters of a POSTed form (RFC 6749 §3.2).  Raises `Refusal`.

    A parameter without a value counts as left out, and none may be there twice.
    """
    if request.method != "POST":
        raise Refusal("invalid_request", "Use POST", status=405, headers=(("Allow", "POST"),))
    if request.content_type.partition(b";")[0].strip().lower() != FORM:
        raise Refusal("invalid_request", f"The body must be {FORM.decode()}")
    if len(request.body) > MAX_BODY_BYTES:
        raise Refusal("invalid_request", f"The body must be at most {MAX_BODY_BYTES} bytes", status=413)
    return parse_form(request.body)


def parse_form(encoded: bytes) -> dict[str, str]:
    """The parameters that ``encoded`` holds (RFC 6749 Appendix B), by the same rules."""
    try:
        pairs = parse_qsl(
            encoded.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS
        )
    except ValueError as error:
        words = f"Parameters must be percent-encoded UTF-8, and at most {MAX_PARAMETERS}"
        raise Refusal("invalid_request", words) from error
    if len(dict(pairs)) != len(pairs):
        raise Refusal("invalid_request", "A parameter is repeated")
    return {name: value for name, value in pairs if value}
