"""The Django application: it has the settings checked, and describes us to drf-spectacular."""

from importlib import import_module

from django.apps import AppConfig, apps

__all__ = ["TicketgateConfig"]


class TicketgateConfig(AppConfig):
    """What INSTALLED_APPS takes."""

    name = "ticketgate.django"
    label = "ticketgate"

    def ready(self) -> None:
        """Register the system checks, and the security scheme where drf-spectacular is installed."""
        _ = import_module("ticketgate.django.checks")
        if apps.is_installed("drf_spectacular"):
            _ = import_module("ticketgate.django.spectacular")
