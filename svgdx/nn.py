"""Former place of MLPEnergy and ConvEnergy, whose classes are in svgdx.densities."""

import svgdx

raise ImportError(svgdx._MOVED["nn"])
