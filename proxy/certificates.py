"""Until when certificates are valid, for whoever has to renew them."""

from __future__ import annotations

from cryptography import x509


def valid_until(chain: bytes) -> float:
    """Return when the first certificate of a PEM chain to expire does, in seconds since 1970."""
    certificates = x509.load_pem_x509_certificates(chain)
    return min(one.not_valid_after_utc.timestamp() for one in certificates)
