"""What every op of svgdx.ops is registered with: its signature, fake kernel, gradient, vmap rule and fast call."""
