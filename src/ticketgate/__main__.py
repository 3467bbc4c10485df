"""``python -m ticketgate`` is the ticketgate command."""

from ticketgate.cli import main

main()
