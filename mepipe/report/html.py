"""What every page shares: templates, pictures as data URIs, the content policy.

All text from data passes jinja2's autoescape, and what a script reads passes ``tojson``; the content policy forbids
any request and any script but the one of ours, named by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mepipe.workspace import versions, write_text

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Picture:
    """A picture in the page: data URIs (``dark`` only where it differs), text for who cannot see it, caption."""

    light: str
    alt: str
    caption: str = ""
    dark: str | None = None


def uri(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def wheel_picture() -> Picture:
    """The colour wheel that every page with flow in colours explains it by."""
    from mepipe.report.flowpictures import flow_legend

    return Picture(uri(flow_legend()), "colour wheel: right red, down green, left cyan, up violet; white is still")


def render(template: str, **values: Any) -> str:
    """The page ``template`` as HTML text, with the script and the policy that names it."""
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    script = (TEMPLATES / "page.js").read_text("utf-8").strip()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return templates.get_template(template).render(
        **{"made": time.strftime("%F %T"), "mepipe_version": versions()["mepipe"], **values},
        script=Markup(script),  # noqa: S704 - our own file, no data in it
        script_hash=digest,
    )


def write_page(path: Path, template: str, **values: Any) -> Path:
    write_text(path, render(template, **values))
    return path
