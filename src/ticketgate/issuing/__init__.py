"""The other side of the wire: what an authorization server does; it decides and never waits."""
