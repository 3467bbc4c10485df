"""The rules for everything we send out, the same on threads and on event loops.

A redirect is an answer like any other and is never followed (RFC 9700 §4.12); no body grows beyond what was
asked for, in no content coding; no cookie is kept or sent, since it would carry one caller's session to the next
(RFC 6265 §8.2); every way to have no answer becomes `FetchFailed`, with words for the log.
The total time of an exchange is the driver's to keep.
"""

import errno
import ssl
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, cast

import httpx

from ticketgate.core.flow import Cause, Certificate, Connection, FetchFailed, HttpRequest, Reply
from ticketgate.drivers.proxies import proxy_for

QUOTABLE = {"OSError", "NetworkError", "TimeoutException"}
"""Errors whose words are the operating system's, or those of TLS; all others may quote what was sent or received."""
CONNECT_SHARE = 0.8  # of the total time, so that a server that is not there can be told from a slow one
UNREACHABLE = {"ConnectError", "ConnectTimeout", "ProxyError"}
MAX_CHUNKS = 4_096  # of however few bytes: each takes its time
OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}


@cache
def tls_context(certificate: Certificate | None = None, ca: str | None = None) -> ssl.SSLContext:
    """The certificates we trust, and the one we show, loaded once: that takes tens of milliseconds."""
    context = httpx.create_ssl_context() if ca is None else ssl.create_default_context(cafile=ca)
    if certificate is not None:
        context.load_cert_chain(certificate.certificate, certificate.key)
    return context


def connection_for(request: HttpRequest) -> Connection:
    """How ``request`` goes out: as it was configured, and as the environment says where nothing is."""
    return request.connection._replace(proxy=proxy_for(request))


def client_arguments(connection: Connection) -> dict[str, Any]:
    """What a client for such connections is made with; its proxy is chosen already (see `proxies`)."""
    context = tls_context(connection.certificate, connection.ca)
    cookies = CookieJar(DefaultCookiePolicy(allowed_domains=()))
    return {"verify": context, "proxy": connection.proxy, "trust_env": False, "cookies": cookies}


def built(client: Any, request: HttpRequest, **extensions: Any) -> Any:
    """``request`` as ``client`` sends it: without the cookies in its jar, only with those that were configured as a header."""
    made = client.build_request(**_arguments(request), extensions=extensions)
    if "cookie" not in client.headers and "cookie" not in map(str.lower, request.headers):
        made.headers.pop("Cookie", None)
    return made


def _arguments(request: HttpRequest) -> dict[str, Any]:
    return {
        "method": request.method,
        "url": request.url,
        "content": request.body,
        "headers": {"Accept-Encoding": "identity", "User-Agent": "ticketgate", **request.headers},
        "timeout": (CONNECT_SHARE * request.timeout, *(request.timeout,) * 3),
    }


class Answer:
    """An answer as it arrives: refused as soon as it is too much."""

    def __init__(self, response: httpx.Response, max_bytes: int) -> None:
        self._status = response.status_code
        self._headers = {name.lower(): value for name, value in response.headers.items()}
        self._max_bytes = max_bytes
        self._body = bytearray()
        self.chunks = 0

    def add(self, chunk: bytes) -> None:
        """Take what arrived.  Raises `FetchFailed` when that makes too much."""
        self._body += chunk
        self.chunks += 1
        if self.chunks > MAX_CHUNKS:
            raise FetchFailed(f"the answer comes in more than {MAX_CHUNKS} pieces")
        if len(self._body) > self._max_bytes:
            raise FetchFailed(f"the answer is larger than {self._max_bytes} bytes")

    def complete(self) -> Reply:
        """The reply.  Raises `FetchFailed` for a content coding (RFC 9110 §8.4): we asked for none."""
        coding = self._headers.get("content-encoding", "identity").strip().lower()
        if coding not in {"identity", ""}:
            raise FetchFailed(
                "a content coding that was not asked for"
            )  # not named: it may quote what was sent
        return Reply(self._status, self._headers, bytes(self._body))


def failed(error: Exception) -> FetchFailed:
    """``error`` as a reason why there is no answer, in words that neither we nor the server had a part in.

    Complaints about what was sent or received are left out: they quote a token, the password of a proxy, or a server
    that sends our own request back.
    """
    if isinstance(error, FetchFailed):
        return error
    name = type(error).__name__
    kinds = {kind.__name__ for kind in type(error).__mro__}  # by name: a client may be of httpx's successor
    if kinds.isdisjoint(QUOTABLE):
        return FetchFailed(name, cause=_cause(error))
    return FetchFailed(f"{name}: {ascii(str(error))[1:-1][:200]}", cause=_cause(error))


def _cause(error: Exception) -> Cause:
    """By name, since a client with httpx's interface has errors of its own; before its limits, ours decide."""
    if type(error).__name__ == "PoolTimeout" or _is_out_of_resources(error):
        return Cause.LIMIT
    return Cause.CONNECTION if type(error).__name__ in UNREACHABLE else Cause.EXCHANGE


def _is_out_of_resources(error: BaseException | None) -> bool:
    """Whether this process or machine has no socket left for a connection."""
    if error is None:
        return False
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return any(map(_is_out_of_resources, group.exceptions))
    if isinstance(error, OSError) and error.errno in OUT_OF_RESOURCES:
        return True
    return _is_out_of_resources(error.__cause__ or error.__context__)


def too_many() -> FetchFailed:
    """The lane of an exchange is full and so is its queue, or waiting for a place took too long."""
    return FetchFailed("too many exchanges are under way already", cause=Cause.LIMIT)


def too_slow(request: HttpRequest) -> FetchFailed:
    """There was no complete answer in time."""
    return FetchFailed(f"no complete answer within {request.timeout:g} seconds")
