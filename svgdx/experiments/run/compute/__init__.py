"""Where and how a run computes: its device, the generators that it seeds, and its guarded optimiser step."""
