"""Energy-based models of points: exact densities of samplers, normalised energies, and the report on the claims."""
