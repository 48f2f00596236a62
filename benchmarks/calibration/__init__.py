"""How often the verdicts of `harness.stats` are wrong, by simulation."""
