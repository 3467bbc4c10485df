"""Waits, and never decides: everything that flows need from the world is fetched and shared in here."""
