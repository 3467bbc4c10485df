"""The last good metadata and keys of an issuer, as they are kept on disk for the next start and the other workers.

RFC 8414 §3, RFC 7517 §5, RFC 9111 §4.2 (age).  What is read back is parsed and checked like an answer of the issuer.
"""

import hashlib
import json
import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ticketgate.core.clock import Now
from ticketgate.core.flow import Flow, Reply, load, save
from ticketgate.core.freshness import KeyPolicy, freshness_lifetime
from ticketgate.core.http_options import Whereabouts
from ticketgate.core.metadata import parse_metadata
from ticketgate.core.strict_json import FrozenDict, as_number, is_object, parse_object

VERSION = 1
KEPT_HEADERS = ("age", "cache-control", "date", "etag", "expires")
CLOCKS_DIFFER = 60.0

logger = logging.getLogger("ticketgate")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What an issuer answered when it was asked last: at ``fetched_at``, in seconds since the epoch."""

    fetched_at: float
    headers: Mapping[str, str]
    jwks: str
    metadata: Mapping[str, FrozenDict]

    @property
    def reply(self) -> Reply:
        """The answer that brought the keys, as far as it counts."""
        return Reply(200, self.headers, self.jwks.encode("utf-8"))

    def encode(self, whereabouts: Whereabouts) -> bytes:
        """The snapshot as it is written, with whom and what it is of."""
        members: dict[str, Any] = {
            "version": VERSION,
            "issuer": whereabouts.issuer,
            "jwks_uri": whereabouts.jwks_uri,
            "fetched_at": self.fetched_at,
            "headers": {name: self.headers[name] for name in KEPT_HEADERS if self.headers.get(name)},
            "jwks": self.jwks,
            "metadata": dict(self.metadata),
        }
        return json.dumps(members).encode("ascii")

    @classmethod
    def decode(cls, raw: bytes, whereabouts: Whereabouts) -> "Snapshot":
        """The snapshot in ``raw``, if it is one of ``whereabouts``.  Raises ValueError that says why it is not."""
        members = parse_object(raw)
        if members.get("version") != VERSION:
            raise ValueError(f"it is of version {ascii(members.get('version'))[:20]}")
        if members.get("issuer") != whereabouts.issuer:
            raise ValueError(f"it is of issuer {ascii(members.get('issuer'))[:200]}")
        if members.get("jwks_uri") != whereabouts.jwks_uri:
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
        documents = {url: json.dumps(document).encode("ascii") for url, document in metadata.items()}
        return cls(
            fetched_at,
            {name: str(value) for name, value in headers.items()},
            jwks,
            {url: parse_metadata(text, whereabouts.issuer) for url, text in documents.items()},
        )


class SnapshotFile:
    """The file that holds the snapshot of one issuer, for all processes that share its folder."""

    def __init__(self, folder: str, whereabouts: Whereabouts, policy: KeyPolicy) -> None:
        self.path = snapshot_path(folder, whereabouts.issuer)
        self._whereabouts = whereabouts
        self._policy = policy
        self._seen_at = -math.inf
        self._jwks = ""

    def news(self, now: Now) -> Flow[Snapshot | None]:
        """What another process fetched since we read or wrote last; None where that cannot be used.

        Told by the very time that was written, since a wall clock and a monotonic one drift apart.
        """
        raw = yield from load(self.path)
        if raw is None:
            return None
        try:
            snapshot = Snapshot.decode(raw, self._whereabouts)
            if snapshot.fetched_at <= self._seen_at:
                return None
            self._check_age(snapshot, now)
        except ValueError as error:
            self.ignore(str(error))
            return None
        return snapshot

    def is_taken_over(self, snapshot: Snapshot) -> None:
        """These are the keys that are held now: they are no news any more."""
        self._seen_at, self._jwks = snapshot.fetched_at, snapshot.jwks

    def keep(self, reply: Reply, etag: str, metadata: Mapping[str, FrozenDict], wall: float) -> Flow[None]:
        """Write down the ``reply`` to what was asked at ``wall``, in seconds since the epoch, and accepted just now.

        Without keys of its own it renews those that are known.
        """
        if reply.status == 200:
            self._jwks = reply.body.decode("utf-8")
        self._seen_at = wall
        snapshot = Snapshot(wall, {**reply.headers, "etag": etag}, self._jwks, metadata)
        yield from save(self.path, snapshot.encode(self._whereabouts))

    def ignore(self, why: str) -> None:
        """Say that what stands in the file is not used."""
        logger.warning("snapshot %s of %s is not used: %s", self.path, self._whereabouts.issuer, why)

    def _check_age(self, snapshot: Snapshot, now: Now) -> None:
        age = now.wall - snapshot.fetched_at
        if age < -CLOCKS_DIFFER:
            raise ValueError("it is from the future")
        if age >= freshness_lifetime(snapshot.headers, self._policy) + self._policy.stale_if_error:
            raise ValueError("it is too old")


def snapshot_path(folder: str, issuer: str) -> str:
    """Where the snapshot of ``issuer`` stands below ``folder``."""
    return os.path.join(folder, hashlib.sha256(issuer.encode("utf-8")).hexdigest()[:32] + ".json")
