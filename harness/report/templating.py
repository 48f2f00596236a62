"""Pages from templates; every text in them is escaped."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from harness.analysis.words import decimal, interval


def rendered(template: str, **values: Any) -> str:
    """A file of `templates/` with these values."""
    environment = Environment(
        loader=PackageLoader("harness.report"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters.update(decimal=decimal, interval=interval)
    return environment.get_template(template).render(**values)
