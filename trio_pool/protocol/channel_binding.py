"""What SCRAM-SHA-256-PLUS mixes into its proof: a hash of the certificate of the server's TLS connection.

Channel binding type "tls-server-end-point", RFC 5929 section 4: the hash is the one of the certificate's
signature, except that MD5 and SHA-1 are replaced by SHA-256. PostgreSQL speaks no other type.
"""

from __future__ import annotations

import hashlib
from typing import Final

from asn1crypto.x509 import Certificate  # type: ignore[import-untyped]

TYPE: Final = "tls-server-end-point"

_WITHOUT_HASH: Final = ("ed25519", "ed448")  # asn1crypto gives the hashes inside them
_REPLACED: Final = {"md2": "sha256", "md5": "sha256", "sha1": "sha256"}


def end_point(certificate_der: bytes) -> bytes | None:
    """The tls-server-end-point hash of a server's certificate (DER).

    None if the signature has no hash of its own (Ed25519, Ed448, anything newer): RFC 5929 leaves the binding
    undefined, OpenSSL and hence libpq know none, so none can be offered. Raises `ValueError` for what is no
    certificate.
    """
    try:
        algorithm = Certificate.load(certificate_der, strict=True)["signature_algorithm"]
        name = algorithm["algorithm"].native
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"not a DER certificate: {error}") from error
    if name in _WITHOUT_HASH:
        return None
    try:
        hash_name = algorithm.hash_algo
        return hashlib.new(_REPLACED.get(hash_name, hash_name), certificate_der).digest()
    except ValueError:
        return None
