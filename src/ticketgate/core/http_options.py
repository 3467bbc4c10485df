"""How an issuer is reached: at which origin, by whose certificates, through which proxy.

RFC 8414 §3.3 and §6.2 (the identifier is compared, whatever was dialled), RFC 9110 §7.3.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ticketgate.core.flow import DIRECT, Certificate, Connection, HttpRequest
from ticketgate.core.web_address import (
    DEFAULT_PORTS,
    is_loopback,
    is_plain_loopback,
    is_safe,
    origin,
    same_origin,
    shown,
    split,
)
from ticketgate.errors import ConfigurationError

FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True, slots=True)
class HTTPOptions:
    """How requests to one issuer go out.

    ``ca`` is the path of a PEM file whose authorities are trusted instead of the usual ones, ``certificate`` the
    paths of our own certificate and its key, ``proxy`` an http(s) URL that is not used for loopback, ``headers``
    are added to requests to the issuer's origin and to addresses that were configured, never to others.  A client that was given to a driver
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
        proxy = None if self.proxy is None else split(self.proxy)
        if self.proxy is not None and (proxy is None or proxy.scheme not in DEFAULT_PORTS):
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

    ``fetch_from`` is an origin that is dialled in place of the issuer's own.  An issuer that nobody named is
    ``confined``: its metadata may name addresses of its own origin only.
    """

    issuer: str
    jwks_uri: str | None = None
    metadata_urls: tuple[str, ...] = ()
    insecure_http: bool = False
    fetch_from: str | None = None
    http: HTTPOptions = field(default_factory=HTTPOptions)
    confined: bool = False

    def objection(self, url: object) -> str:
        """Why we do not go where the issuer's metadata say; empty where we do.

        Any https address will do for an issuer that was named.  Plain http on loopback is ours, and no matter of an
        issuer elsewhere; to one that nobody named the whole network is none of its business.
        """
        if not isinstance(url, str) or not is_safe(url, insecure_http=self.insecure_http):
            return "it is not an https URL"
        if same_origin(url, self.issuer) or (self.fetch_from and same_origin(url, self.fetch_from)):
            return ""
        if self.confined:
            return "it is not on the origin of the issuer, which was found by a template or issuer_for"
        if is_plain_loopback(url) and not self.insecure_http and not is_plain_loopback(self.issuer):
            return "it is plain http on loopback, and the issuer is not"
        return ""

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
            connection=Connection(ours, usual.ca, self._proxy_for(request.url)),
        )

    def _proxy_for(self, url: str) -> str | None:
        """None for loopback: what is dialled there must not leave this machine."""
        parts = split(self._dialled(url))
        return None if parts is None or is_loopback(parts.hostname or "") else self.http.proxy

    def _dialled(self, url: str) -> str:
        own = origin(self.issuer)
        if self.fetch_from is None or origin(url) != own:
            return url
        return self.fetch_from + url[len(own) :]


def checked_address(name: str, url: str | None, *, insecure_http: bool) -> str | None:
    """``url``, if it may be asked.  Raises `ConfigurationError`."""
    if url is not None and not is_safe(url, insecure_http=insecure_http):
        raise ConfigurationError(
            f"{name} {shown(url)} is no https URL: plain http is for loopback only, or write insecure_http=True"
        )
    return url


def checked_origin(name: str, url: str | None, *, insecure_http: bool) -> str | None:
    """``url``, if it may be asked and names an origin and nothing more.  Raises `ConfigurationError`."""
    given = checked_address(name, url, insecure_http=insecure_http)
    if given is None:
        return None
    if given.rstrip("/") != origin(given):
        raise ConfigurationError(f'{name} {shown(url)} must be an origin, like "https://as.internal:8443"')
    return origin(given)
