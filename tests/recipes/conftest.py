"""The service that the recipes run against."""

from tests.client.service import service

__all__ = ["service"]
