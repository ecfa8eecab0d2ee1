"""The page: a template, a style and one script, and what they are given, a module a noun."""

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_HERE = Path(__file__).parent


def rendered(**content) -> str:
    """The page, which is one file: nothing in it is asked of anywhere else. Text of `content` is escaped."""
    own = {name: Markup((_HERE / name).read_text()) for name in ("style.css", "explorer.js")}
    return _template().render(style=own["style.css"], script=own["explorer.js"], **content)


@cache
def _template():
    loader = FileSystemLoader(_HERE)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html")
