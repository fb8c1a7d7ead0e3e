"""Ed25519 signatures of artifacts (RFC 8032), by the package ``cryptography``."""

from __future__ import annotations

from typing import Any

from onnxplan.compiler.checked_json import MalformedError


def sign(private_key: bytes, message: bytes) -> bytes:
    """The signature (64 bytes) of ``message`` by a private key in PEM without a password.

    Raises ``ValueError`` for what is no such key, ``ImportError`` without the package.
    """
    serialization, ed25519 = _cryptography()
    try:
        key = serialization.load_pem_private_key(private_key, None)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the signing key cannot be read as PEM without a password: {error}") from None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise ValueError("the signing key is no Ed25519 private key")
    return bytes(key.sign(message))


def verify(public_key: bytes, signature: bytes, message: bytes) -> None:
    """Raises :class:`MalformedError` unless ``signature`` is that of ``message`` by the key's owner.

    ``public_key`` is PEM; ``ValueError`` for what is no such key, ``ImportError`` without the package.
    """
    serialization, ed25519 = _cryptography()
    from cryptography.exceptions import InvalidSignature

    try:
        key = serialization.load_pem_public_key(public_key)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the key to verify with cannot be read as PEM: {error}") from None
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise ValueError("the key to verify with is no Ed25519 public key")
    try:
        key.verify(signature, message)
    except InvalidSignature:
        what = "it is not signed" if not any(signature) else "its signature is not of the given key"
        raise MalformedError(what) from None


def _cryptography() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise ImportError("signatures need the package cryptography: pip install 'onnxplan[sign]'") from error
    return serialization, ed25519
