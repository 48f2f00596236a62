"""The results value, its file and schema, baselines, provenance."""
