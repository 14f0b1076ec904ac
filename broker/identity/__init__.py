"""PEM bytes → Agent. Knows no grpc."""

from broker.identity.leaf import CertificatePolicy
from broker.identity.trust import TrustStore
from broker.identity.verify import Authenticator

__all__ = ["Authenticator", "CertificatePolicy", "TrustStore"]
