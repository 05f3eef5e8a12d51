"""Former place of DiscreteMLPEnergy and IsingEnergy, which are in svgdx.densities."""

import svgdx

raise ImportError(svgdx._MOVED["energies"])
