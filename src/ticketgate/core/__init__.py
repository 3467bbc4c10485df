"""Decides, and never waits: no sockets, threads, event loops or framework objects in here."""
