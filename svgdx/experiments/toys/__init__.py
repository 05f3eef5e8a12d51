"""`svgdx sample`: targets with known answers."""
