"""The integer reader in C: the same numbers as the models of the operators, faster."""
