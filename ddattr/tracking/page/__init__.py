"""The page: a template, its styles and scripts, and what they are given, a module a noun."""

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_HERE = Path(__file__).parent
_STYLES = ("style.css", "card.css")
_SCRIPTS = ("card.js", "explorer.js")  # the last waits for what it unpacks, and shows the page


def rendered(**content) -> str:
    """The page, which is one file: nothing in it is asked of anywhere else. Text of `content` is escaped."""
    style, script = (Markup("\n".join((_HERE / name).read_text() for name in names)) for names in (_STYLES, _SCRIPTS))
    return _template().render(style=style, script=script, **content)


@cache
def _template():
    loader = FileSystemLoader(_HERE)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html")
