"""Networks under autocast: their products in bfloat16, while what they return and all ops of svgdx stay in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from svgdx.experiments.run.settings import option

MODES = ("none", "bf16")


def amp_option(networks: str) -> Any:
    """The field `amp` of a training's settings; `networks` names what it applies to."""
    return option("none", "run", f"number format of the matrix products of {networks}; bf16 uses autocast", MODES)


def lower(module: nn.Module, mode: str, method: str = "forward", finish: Callable[[Any], Any] | None = None) -> None:
    """Lets a method of a network run under autocast, on the device of its first argument.

    Whatever calls it, such as a sampler, gets float32 and stays outside of autocast.

    Args:
        module: the network.
        mode: one of MODES; "none" leaves the network as it is.
        method: its method.
        finish: converts the result to float32; None does so for tensors, also in tuples, lists and dicts.
    """
    if mode == "none":
        return
    function, convert = getattr(module, method), finish or _float32

    def lowered(*args: Any, **named: Any) -> Any:
        # Without its cache, which a captured graph must not read: every weight is used once.
        with torch.autocast(args[0].device.type, torch.bfloat16, cache_enabled=False):
            result = function(*args, **named)
        return convert(result)

    setattr(module, method, lowered)


def _float32(result: Any) -> Any:
    return tree_map(lambda value: value.float() if isinstance(value, Tensor) else value, result)
