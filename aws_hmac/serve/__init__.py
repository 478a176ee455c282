"""Servers on loopback: the room for the credential server and the re-signing proxy."""
