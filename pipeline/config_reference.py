"""The configuration written out: every key with its default and what it means."""

import textwrap
from typing import Any

import yaml
from pydantic import BaseModel

from pipeline.config import Config

HEADER = """\
# Every key with its default. A run's own file needs only what differs; --set overrides both.
# Made by `python pipeline.py config`.
"""
_WIDTH = 100


def reference() -> str:
    """Returns the defaults as commented YAML; loading it gives `Config()`."""
    return HEADER + "\n".join(_section(Config(), 0)) + "\n"


def _section(section: BaseModel, depth: int) -> list[str]:
    indent = "  " * depth
    lines: list[str] = []
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            doc = (type(value).__doc__ or "").strip().splitlines()[0]
            lines += ["", f"{indent}# {doc}", f"{indent}{name}:", *_section(value, depth + 1)]
            continue
        line = f"{indent}{name}: {_inline(value)}"
        comment = f"  # {field.description}" if field.description else ""
        if comment and len(line + comment) > _WIDTH:
            lines += textwrap.wrap(
                field.description or "", _WIDTH, initial_indent=f"{indent}# ",
                subsequent_indent=f"{indent}# ",
            )  # fmt: skip
            comment = ""
        lines.append(line + comment)
    return lines


def _inline(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")
