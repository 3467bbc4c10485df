"""How an issuer is reached: at which origin, by whose certificates, through which proxy.

RFC 8414 §3.3 and §6.2 (the identifier is compared, whatever was dialled), RFC 9110 §7.3.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ticketgate.core.flow import DIRECT, Certificate, Connection, HttpRequest
from ticketgate.core.web_address import is_safe, origin, split
from ticketgate.errors import ConfigurationError

FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True, slots=True)
class HTTPOptions:
    """How requests to one issuer go out.

    ``ca`` is the path of a PEM file whose authorities are trusted instead of the usual ones, ``certificate`` the
    paths of our own certificate and its key, ``proxy`` an http(s) URL, ``headers`` are added to requests to the
    issuer's origin and to addresses that were configured, never to others.  A client that was given to a driver
    has its own ways, and gets the headers only.

    Raises `ConfigurationError` for what cannot work.

        Issuer("https://as.internal", http=HTTPOptions(ca="/etc/ssl/internal.pem"))
    """

    ca: str | None = None
    certificate: tuple[str, str] | None = None
    proxy: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)

    def __post_init__(self) -> None:
        for path in (self.ca, *(self.certificate or ())):
            if path is not None and not os.path.isfile(path):
                raise ConfigurationError(f"HTTPOptions: there is no file {path!r}")
        if self.certificate is not None and len(self.certificate) != 2:
            raise ConfigurationError('HTTPOptions(certificate=("client.pem", "client.key")) needs two paths')
        if self.proxy is not None and split(self.proxy) is None:
            raise ConfigurationError("HTTPOptions(proxy=...) must be an http or https URL")
        for name, value in self.headers.items():
            if not FIELD_NAME.fullmatch(name) or not value.isascii() or not value.isprintable():
                raise ConfigurationError(f"HTTPOptions(headers=...): {name!r} is no header field")

    @property
    def connection(self) -> Connection:
        """What tells connections of this kind apart from others."""
        ours = None if self.certificate is None else Certificate(*self.certificate)
        return Connection(ours, self.ca, self.proxy)


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where an issuer publishes what it is: its keys at ``jwks_uri``, its metadata at one of ``metadata_urls``.

    ``fetch_from`` is an origin that is dialled in place of the issuer's own.
    """

    issuer: str
    jwks_uri: str | None = None
    metadata_urls: tuple[str, ...] = ()
    insecure_http: bool = False
    fetch_from: str | None = None
    http: HTTPOptions = field(default_factory=HTTPOptions)

    def may_ask(self, url: str) -> bool:
        """Whether ``url`` is safe to be asked: https, loopback, or http where that was asked for."""
        return is_safe(url, insecure_http=self.insecure_http)

    def reach(self, request: HttpRequest) -> HttpRequest:
        """``request`` as it goes out: to the origin that is dialled, and as `HTTPOptions` have it."""
        if self.fetch_from is None and not self.http.headers and self.http.connection == DIRECT:
            return request
        usual = self.http.connection
        ours = request.connection.certificate or usual.certificate
        known = {origin(self.issuer), *(origin(url) for url in (self.jwks_uri, *self.metadata_urls) if url)}
        more: Mapping[str, str] = self.http.headers if origin(request.url) in known else {}
        return replace(
            request,
            url=self._dialled(request.url),
            headers={**more, **request.headers},
            connection=Connection(ours, usual.ca, usual.proxy),
        )

    def _dialled(self, url: str) -> str:
        own = origin(self.issuer)
        if self.fetch_from is None or origin(url) != own:
            return url
        return self.fetch_from + url[len(own) :]


def checked_address(name: str, url: str | None, *, insecure_http: bool) -> str | None:
    """``url``, if it may be asked.  Raises `ConfigurationError`."""
    if url is not None and not is_safe(url, insecure_http=insecure_http):
        raise ConfigurationError(
            f"{name} {url!r} is no https URL: plain http is for loopback only, or write insecure_http=True"
        )
    return url


def checked_origin(name: str, url: str | None, *, insecure_http: bool) -> str | None:
    """``url``, if it may be asked and names an origin and nothing more.  Raises `ConfigurationError`."""
    given = checked_address(name, url, insecure_http=insecure_http)
    if given is None:
        return None
    if given.rstrip("/") != origin(given):
        raise ConfigurationError(f'{name} {url!r} must be an origin, like "https://as.internal:8443"')
    return origin(given)
