"""`svgdx train rl`: maximum-entropy reinforcement learning."""
