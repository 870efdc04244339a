"""The version of gradwire. The package metadata reads it, and all ranks of a run must have the same one."""

VERSION = "0.1.0"
