"""Maximum-entropy reinforcement learning with Stein policies, for Gymnasium and Stable-Baselines3 (``svgdx[rl]``)."""

from svgdx.rl.multigoal import Multigoal, register
from svgdx.rl.policy import SteinPolicy
from svgdx.rl.presets import PRESETS, SteinSettings
from svgdx.rl.sac_nf import SACNF
from svgdx.rl.stein_sac import SteinSAC

register()

__all__ = ["PRESETS", "SACNF", "Multigoal", "SteinPolicy", "SteinSAC", "SteinSettings"]
