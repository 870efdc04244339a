"""Wire formats: packed bits, sorted indices and values. Formats never change: old bytes decode for ever."""
