"""The page as HTML: one file without scripts, fonts, images or any request.

Every value that reaches the page is first made printable ASCII, as on the terminal, and then
escaped; so no evidence can be markup, hide text or turn its direction. The content security policy
forbids everything but the one style sheet inside the page, by its hash. The template and the style
sheet are package data, read so that it works from inside a zip too.
"""

from __future__ import annotations

import base64
from hashlib import sha256
from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from vfio_cli.report.layout import WIDTH
from vfio_cli.report.view import PageView
from vfio_cli.screens.layout import clean

_PACKAGE = "vfio_cli.report"


def render_page(view: PageView) -> str:
    """The whole page, ASCII, ended with a newline; the same view gives the same text."""
    style = _read("style.css")
    if "</" in style:
        raise ValueError("style.css could end its own element")
    template = _environment().get_template("page.html")
    return template.render(
        page=view, style=Markup(style), policy=make_policy(style), width=float(WIDTH)
    )


def make_policy(style: str) -> str:
    """The content security policy of a page whose only resource is this style sheet."""
    digest = base64.b64encode(sha256(style.encode()).digest()).decode("ascii")
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def _environment() -> Environment:
    return Environment(
        loader=FunctionLoader(_read),
        autoescape=True,
        finalize=_finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _read(name: str) -> str:
    return files(_PACKAGE).joinpath(name).read_text(encoding="utf-8")


def _finalize(value: object) -> object:
    """What any expression of the template becomes before it is escaped."""
    if hasattr(value, "__html__"):
        return value
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, float):
        return f"{value:.1f}".removesuffix(".0")
    return value
