"""The devices that aws-hmac knows, one module each; loaded by `aws_hmac.registry` through entry points."""
