"""A statistical test harness for the geometry of alignment artifacts."""
