"""Convex problems, the theory of methods on them, and their descent."""
