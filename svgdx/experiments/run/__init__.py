"""What every run shares: settings, loop, folder, checkpoints, ranks, errors, reports."""
