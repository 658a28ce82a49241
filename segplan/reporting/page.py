"""One self-contained HTML page: its head and style, tables and tiles. Nothing is loaded."""

from collections.abc import Sequence
from html import escape

from segplan.reporting.sortable import SCRIPT, script_hash

_STYLE = """
:root{color-scheme:light dark;--back:#f6f7f9;--card:#fff;--text:#1d2127;--dim:#5c6570;--line:#dde1e6;--bar:#4a7fd0;
--bad:#b3261e;--bad-back:#fdecea;--note:#8a5a00;--note-back:#fff5df;--good:#1d7a3e;--good-back:#e7f5ec}
@media (prefers-color-scheme:dark){:root{--back:#14161a;--card:#1d2025;--text:#e9ebee;--dim:#9aa3ad;--line:#33383f;
--bar:#6d9fe8;--bad:#ff9d94;--bad-back:#3a1d1b;--note:#f2c565;--note-back:#352b15;--good:#7fd79b;--good-back:#17301f}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--text);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1180px;margin:0 auto;padding:1.5rem 1rem 3rem}
h1{font-size:1.6rem;line-height:1.25;margin:0 0 .25rem;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2.4rem 0 .6rem}
h3{font-size:1rem;margin:1.4rem 0 .5rem}
p{margin:.3rem 0 .8rem;max-width:75ch}
.dim,figcaption{color:var(--dim)}
.tiles,.charts{display:grid;align-items:start;gap:.8rem;margin-bottom:.8rem;grid-template-columns:repeat(auto-fill,minmax(min(100%,20rem),1fr))}
.tiles{align-items:stretch;grid-template-columns:repeat(auto-fit,minmax(9rem,1fr));margin:1.2rem 0}
.tile,.chart,.panel{background:var(--card);border:1px solid var(--line);border-radius:10px}
.tile{padding:.7rem .9rem}.tile b{display:block;font-size:1.2rem;line-height:1.3;overflow-wrap:anywhere}
.tile span{color:var(--dim);font-size:.85rem}
.tile.bad{background:var(--bad-back);color:var(--bad)}.tile.note{background:var(--note-back);color:var(--note)}
.tile.good{background:var(--good-back);color:var(--good)}
.tile.bad span,.tile.note span,.tile.good span{color:inherit}
.chart{padding:.8rem}.chart svg{display:block;width:100%;height:auto}
svg text{font:11px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:var(--text)}
svg .head{font-size:12px;font-weight:600}svg .tick{fill:var(--dim);font-size:10.5px}
svg .axis{stroke:var(--dim);stroke-width:1}svg .grid{stroke:var(--line);stroke-width:1}
svg .bar{fill:var(--bar)}svg .range{stroke:var(--bar)}svg .dot{fill:var(--text)}
svg .median{stroke:var(--text);stroke-width:2}
.panel{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.9rem}
th,td{padding:.45rem .7rem;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
tr:last-child td{border-bottom:0}
th{font-weight:600;white-space:nowrap}
td:first-child{min-width:7rem}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td.w{min-width:14rem;overflow-wrap:anywhere}
.tag{display:inline-block;padding:0 .45rem;border-radius:6px;font-size:.8rem;font-weight:600;white-space:nowrap}
.tag.good{background:var(--good-back);color:var(--good)}.tag.bad{background:var(--bad-back);color:var(--bad)}.tag.note{background:var(--note-back);color:var(--note)}
.key{display:inline-block;width:.8em;height:.8em;border-radius:3px;margin-right:.45em;vertical-align:-.05em}
.legend{display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;margin:.4rem 0 .8rem}
.legend label{cursor:pointer}
.shots{display:grid;gap:.8rem;margin-top:.6rem;grid-template-columns:repeat(auto-fill,minmax(min(47%,11.5rem),1fr))}
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:10px;overflow:hidden}
.shot{position:relative;background:#000;display:flex;justify-content:center;aspect-ratio:1;align-items:center}
.shot span{position:relative;display:block;max-height:100%}
.shot img{display:block;width:100%;height:100%;object-fit:contain;image-rendering:auto}
.shot img.over{position:absolute;inset:0}
#outlines:not(:checked)~.shots .over{display:none}
figcaption{padding:.45rem .6rem .55rem;font-size:.8rem;line-height:1.35;overflow-wrap:anywhere}
figcaption b{color:var(--text);display:block;font-weight:600}
.panel.tall{max-height:34rem;overflow:auto}
.tall thead th{position:sticky;top:0;background:var(--card)}
th button{all:unset;cursor:pointer}th button:focus-visible{outline:2px solid var(--bar)}
th[aria-sort=ascending] button::after{content:" \\2191"}th[aria-sort=descending] button::after{content:" \\2193"}
.planes{display:grid;margin-top:.6rem;gap:.8rem;grid-template-columns:repeat(auto-fill,minmax(min(100%,30rem),1fr))}
.planes figure{display:flex;flex-direction:column}
.planes .row{display:flex;background:#000;align-items:center;justify-content:center;gap:2px;min-height:8rem}
.planes .shot{aspect-ratio:auto;flex:1 1 0;min-width:0}
.hides-ref:not(:checked)~.planes .ref,.hides-pred:not(:checked)~.planes .pred{display:none}
code,pre{font:.85rem/1.5 ui-monospace,SFMono-Regular,Consolas,monospace;overflow-wrap:anywhere}
pre{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:.7rem .9rem;margin:.4rem 0 .8rem;
white-space:pre-wrap}
details.run{border-top:1px solid var(--line);margin-top:1.6rem}details.run>summary{font-size:1.2rem}
summary{cursor:pointer;margin:.8rem 0;font-weight:600}
footer{margin-top:2.5rem;color:var(--dim);font-size:.85rem}
@media (max-width:640px){.stacks,.stacks tbody,.stacks tr,.stacks td{display:block}.stacks thead{display:none}
.stacks td{border:0;padding:.1rem .8rem}.stacks tr{padding:.6rem 0;border-bottom:1px solid var(--line)}
.stacks tr:last-child{border:0}}
@media print{body{background:#fff}.tile,.chart,.panel,figure{break-inside:avoid}}
"""


def page(title: str, body: Sequence[str], *, sorts: bool = False) -> str:
    """The whole page; `body` is HTML, `title` is text. Its only script, if it `sorts`, is that of sortable tables."""
    policy = f" script-src '{script_hash()}';" if sorts else ""
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            """<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; """
            f'img-src data:;{policy}">'
            if policy
            else 'img-src data:">',
            f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>",
            *body,
            f"</main>{f'<script>{SCRIPT}</script>' if sorts else ''}</body></html>\n",
        ]
    )


def tile(value: str, label: str, kind: str = "") -> str:
    """A number and what it is; kind "bad", "note" or "good" colours it."""
    return f'<div class="tile {kind}"><b>{escape(value)}</b><span>{escape(label)}</span></div>'


def chart(svg: str) -> str:
    """A chart on a card."""
    return f'<div class="chart">{svg}</div>'


def table(header: Sequence[str], rows: Sequence[Sequence[str]], kinds: str, *, stacks: bool = False) -> str:
    """A table of HTML cells.

    Args:
        header: HTML of the heads.
        rows: HTML of the cells.
        kinds: a letter a column: n for numbers (to the right), w for long text, anything else for short text.
        stacks: whether the cells of a row stand below each other on a narrow screen.
    """

    def line(cells: Sequence[str], tag: str) -> str:
        marks = (f' class="{kind}"' if kind in "nw" else "" for kind in kinds)
        return (
            "<tr>" + "".join(f"<{tag}{mark}>{cell}</{tag}>" for mark, cell in zip(marks, cells, strict=True)) + "</tr>"
        )

    body = "".join(line(row, "td") for row in rows)
    kind = ' class="stacks"' if stacks else ""
    return f'<div class="panel"><table{kind}><thead>{line(header, "th")}</thead><tbody>{body}</tbody></table></div>'


def css_colour(colour: tuple[int, int, int]) -> str:
    """#rrggbb."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def keyed(colour: tuple[int, int, int], name: str) -> str:
    """A class's name with its colour before it."""
    return f'<span class="key" style="background:{css_colour(colour)}"></span>{escape(name)}'
