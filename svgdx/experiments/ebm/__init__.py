"""`svgdx train ebm`: energy-based models of images."""
