"""Headers that several routes document."""

from litestar.openapi.spec import Parameter as HeaderParameter
from litestar.openapi.spec import Schema

from app import limits

KEY_HEADER = HeaderParameter(
    name="Idempotency-Key",
    param_in="header",
    required=False,
    schema=Schema(min_length=1, max_length=limits.IDEMPOTENCY_KEY_LENGTH_MAX),
    description="Your name for this one intention, 1 to 255 visible ASCII characters, kept for "
    "ever. A refusal is not remembered: the same key may succeed later.",
)
