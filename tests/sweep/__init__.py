"""The sweep: every operation of every service, stock botocore against direct signing."""
