"""Models: small networks to train, and the tensor shapes of large ones."""
