"""What may be wrong with a webhook; the tree is `app/errors.py`."""

from app.errors import Rejected


class WebhookNotFound(Rejected):
    """There is no such webhook."""

    status = 404


class TooManyWebhooks(Rejected):
    """There are as many webhooks as may be; remove one first."""

    status = 409


class WebhookUrlRefused(Rejected):
    """This service does not send anything to such a URL."""
