"""A step that lives through a restart of its broker, a cut network, a new certificate and two successors."""
