"""Convex problems, the theory of methods on them, and descents that run the methods."""
