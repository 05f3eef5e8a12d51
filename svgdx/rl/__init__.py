"""Maximum-entropy reinforcement learning with Stein policies, on Gymnasium and Stable-Baselines3: ``svgdx[rl]``."""

from svgdx.rl.multigoal import Multigoal, register

register()

__all__ = ["Multigoal"]
