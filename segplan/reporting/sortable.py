"""A table whose columns sort when their heads are pressed, by the only script that a page may run."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

SCRIPT = """
document.querySelectorAll("table.sorts").forEach(table=>{
const body=table.tBodies[0];
table.querySelectorAll("th").forEach((head,column)=>{
const button=head.querySelector("button");
button.addEventListener("click",()=>{
const down=head.getAttribute("aria-sort")==="ascending";
table.querySelectorAll("th").forEach(other=>other.removeAttribute("aria-sort"));
head.setAttribute("aria-sort",down?"descending":"ascending");
const key=row=>row.cells[column].dataset.value;
const rows=[...body.rows];
const numbers=head.classList.contains("n");
rows.sort((a,b)=>{
const x=key(a),y=key(b);
if(numbers){if(x===""||y==="")return (x==="")-(y==="");return down?y-x:x-y}
return (down?-1:1)*x.localeCompare(y,"en",{numeric:true})});
body.append(...rows)})})});
"""


@dataclass(frozen=True)
class Cell:
    """A cell: its HTML, and the value that it sorts by (a number in full precision, "" where there is none)."""

    html: str
    value: str


def sortable_table(header: Sequence[str], rows: Sequence[Sequence[Cell]], kinds: str) -> str:
    """A table that sorts; without scripts it stands as given.

    Args:
        header: HTML of the heads.
        rows: the cells.
        kinds: a letter a column: n for numbers, anything else for text.
    """

    def mark(kind: str) -> str:
        return ' class="n"' if kind == "n" else ""

    heads = "".join(
        f'<th{mark(kind)} scope="col"><button type="button">{head}</button></th>'
        for kind, head in zip(kinds, header, strict=True)
    )
    lines = "".join(
        "<tr>"
        + "".join(
            f'<td{mark(kind)} data-value="{escape(cell.value, quote=True)}">{cell.html}</td>'
            for kind, cell in zip(kinds, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    content = f"<thead><tr>{heads}</tr></thead><tbody>{lines}</tbody>"
    return f'<div class="panel tall"><table class="sorts">{content}</table></div>'


def script_hash() -> str:
    """What a page's policy names the script by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()}"
