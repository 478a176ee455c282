"""How well a key is protected, and what stands between this machine and its TPM."""
