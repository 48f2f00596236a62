"""What a person sees: page, tables, figures."""
