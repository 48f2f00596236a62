"""What a pytest session holds, and what a check can ask for."""
