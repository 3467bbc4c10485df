"""The last good metadata and keys of an issuer, as they are kept on disk for the next start and the other workers.

RFC 8414 §3, RFC 7517 §5, RFC 9111 §4.2 (age).  What is read back is parsed and checked like an answer of the issuer.
"""

import hashlib
import json
import os.path
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ticketgate.core.metadata import parse_metadata
from ticketgate.core.strict_json import FrozenDict, as_number, is_object, parse_object

VERSION = 1
KEPT_HEADERS = ("age", "cache-control", "date", "etag", "expires")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What ``issuer`` answered when it was asked last, at ``jwks_uri`` where that was configured.

    ``fetched_at`` is in seconds since the epoch.
    """

    issuer: str
    jwks_uri: str | None
    fetched_at: float
    headers: Mapping[str, str]
    jwks: str
    metadata: Mapping[str, FrozenDict]

    def encode(self) -> bytes:
        """The snapshot as it is written."""
        members: dict[str, Any] = {
            "version": VERSION,
            "issuer": self.issuer,
            "jwks_uri": self.jwks_uri,
            "fetched_at": self.fetched_at,
            "headers": {name: self.headers[name] for name in KEPT_HEADERS if name in self.headers},
            "jwks": self.jwks,
            "metadata": dict(self.metadata),
        }
        return json.dumps(members).encode("ascii")

    @classmethod
    def decode(cls, raw: bytes, issuer: str, jwks_uri: str | None) -> "Snapshot":
        """The snapshot in ``raw``, if it is one of ``issuer``, asked at ``jwks_uri``.  Raises ValueError that says why it is not."""
        members = parse_object(raw)
        if members.get("version") != VERSION:
            raise ValueError(f"it is of version {ascii(members.get('version'))[:20]}")
        if members.get("issuer") != issuer:
            raise ValueError(f"it is of issuer {ascii(members.get('issuer'))[:200]}")
        if members.get("jwks_uri") != jwks_uri:
            raise ValueError("its keys are from another jwks_uri than the configured one")
        fetched_at, jwks = as_number(members.get("fetched_at")), members.get("jwks")
        headers, metadata = members.get("headers"), members.get("metadata")
        if (
            fetched_at is None
            or not isinstance(jwks, str)
            or not is_object(headers)
            or not is_object(metadata)
        ):
            raise ValueError("a member is missing")
        return cls(
            issuer,
            jwks_uri,
            fetched_at,
            {name: str(value) for name, value in headers.items()},
            jwks,
            {
                url: parse_metadata(json.dumps(document).encode(), issuer)
                for url, document in metadata.items()
            },
        )


def snapshot_path(folder: str, issuer: str) -> str:
    """Where the snapshot of ``issuer`` stands below ``folder``."""
    return os.path.join(folder, hashlib.sha256(issuer.encode("utf-8")).hexdigest()[:32] + ".json")
