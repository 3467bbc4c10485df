"""Which proxy an exchange goes through, by the configuration and the environment.

httpx would do this too, but per client and not per address: it mistakes ``NO_PROXY=fd00::/8`` and ``[::1]`` for names
and ``10.0.0.0/8`` for one address, and sends plain http for loopback to a proxy elsewhere, with our client secret.
"""

import ipaddress
from typing import TypeAlias
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies

from ticketgate.core.flow import HttpRequest
from ticketgate.core.web_address import is_loopback

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
DEFAULT_PORTS: dict[str, int] = {"http": 80, "https": 443}


def proxy_for(request: HttpRequest) -> str | None:
    """The URL of the proxy for ``request``; None where it goes out directly, as everything for loopback does.

    Without a configured one, it is that of ``HTTP_PROXY``, ``HTTPS_PROXY`` or ``ALL_PROXY`` (also in lower case),
    unless ``NO_PROXY`` lists the host: by name, with or without its subdomains' dot, by IP address or network, with or
    without a port, or all of them by ``*``.
    """
    url = urlsplit(request.url)
    if _stays_here(url.hostname or ""):
        return None
    if request.connection.proxy is not None:
        return request.connection.proxy
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if not proxy or any(_covers(entry.strip(), url) for entry in proxies.get("no", "").split(",")):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _stays_here(host: str) -> bool:
    address = _address(host)
    return is_loopback(host.rstrip(".") if address is None else str(address))


def _covers(entry: str, url: SplitResult) -> bool:
    """Whether ``entry`` of NO_PROXY is about the host of ``url``."""
    if entry == "*":
        return True
    scheme, found, rest = entry.rpartition("://")
    if found and scheme.lower() not in {url.scheme, "all"}:
        return False
    name, port = _host_and_port(rest)
    if not name or (port and port != str(url.port or DEFAULT_PORTS[url.scheme])):
        return False
    address = _address(url.hostname or "")
    return _is_below(name, url.hostname or "") if address is None else _contains(name, address)


def _host_and_port(text: str) -> tuple[str, str]:
    """``host``, ``host:port``, ``[address]:port`` or a bare address, which has colons of its own."""
    if text.startswith("["):
        name, _, port = text[1:].partition("]")
        return name + port.partition(":")[0], port.partition(":")[2]
    if text.count(":") > 1:
        return text, ""
    name, _, port = text.partition(":")
    return name, port


def _is_below(name: str, host: str) -> bool:
    """Whether ``host`` is ``name`` or one of its subdomains."""
    domain, host = name.strip(".").lower(), host.rstrip(".").lower()
    return bool(domain) and (host == domain or host.endswith(f".{domain}"))


def _contains(name: str, address: Address) -> bool:
    """Whether ``name`` is ``address``, or a network that it belongs to."""
    try:
        network = ipaddress.ip_network(name, strict=False)
    except ValueError:
        return False
    return network.version == address.version and address in network


def _address(host: str) -> Address | None:
    """The IP address that ``host`` is, an IPv4 address in its own notation; None for a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
