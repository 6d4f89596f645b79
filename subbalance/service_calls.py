"""How the service is, and whether its books are right."""

from subbalance import limits
from subbalance.answers import Health, HealthDetails, Verification
from subbalance.call import Call, get, reads

_ANSWERED_UNWELL = frozenset({200, 503})
_read_health = reads(Health)
_read_details = reads(HealthDetails)
_read_verification = reads(Verification)


def health() -> Call[Health]:
    """Tell in one word whether everything works; `unavailable` is an answer as well."""
    return get("/health", _read_health, good=_ANSWERED_UNWELL)


def health_details() -> Call[HealthDetails]:
    """Tell how each component is."""
    return get("/health/detailed", _read_details, good=_ANSWERED_UNWELL)


def verify() -> Call[Verification]:
    """Prove that the books are right, while traffic flows; takes up to half a minute."""
    return get("/api/v1/verify", _read_verification, patience_s=limits.VERIFY_S)
