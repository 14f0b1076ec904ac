"""HashiCorp Vault and OpenBao. Nothing is imported here: `scope` must stay free of hvac, which costs 240 ms."""
