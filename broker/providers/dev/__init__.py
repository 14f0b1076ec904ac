"""Stand-ins for credentials, for writing workflows. Wired by `stepcred-broker dev` alone; contacts nobody."""
