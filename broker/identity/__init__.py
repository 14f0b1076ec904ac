"""PEM bytes → Agent. Knows no grpc."""

from broker.identity.door import FrontDoor
from broker.identity.leaf import CertificatePolicy
from broker.identity.verify import Authenticator

__all__ = ["Authenticator", "CertificatePolicy", "FrontDoor"]
