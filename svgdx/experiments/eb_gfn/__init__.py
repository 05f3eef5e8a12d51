"""`svgdx train eb-gfn`: energies and GFlowNets of binary vectors."""
