"""Values as text and as HTML, for terminals and notebooks."""

import html
from typing import Any


def as_text(value: Any) -> str:
    """Formats a value on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {as_text(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(as_text, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


class Table(list[dict[str, Any]]):
    """A list of rows with the same keys, displayed as a table."""

    def _cells(self) -> list[list[str]]:
        names = [name.replace("_", " ") for name in self[0]]
        return [names, *([as_text(value) for value in row.values()] for row in self)]

    def __str__(self) -> str:
        cells = self._cells()
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        padded = [map(str.ljust, row, widths) for row in cells]
        return "\n".join("  ".join(row).rstrip() for row in padded)

    def _repr_html_(self) -> str:
        rows = ["".join(f"<td>{html.escape(x)}</td>" for x in r) for r in self._cells()]
        return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"
