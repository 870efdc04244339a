"""The version of gradwire: the one that its packages carry, and that ranks must have in common."""

VERSION = "0.1.0"
