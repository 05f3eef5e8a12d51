"""What every run shares: settings, recorder, loop, folder, checkpoints, ranks, errors, figures, reports."""
