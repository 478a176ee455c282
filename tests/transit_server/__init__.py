"""A test double of Vault's and OpenBao's HTTP API, as far as aws-hmac uses it. It is not Vault: see README.md."""
