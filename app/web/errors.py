"""What may be wrong with listening; the tree is `app/errors/`."""

from app.errors import Unavailable


class TooManyListeners(Unavailable):
    """As many listen to this process as may; nothing changed."""
