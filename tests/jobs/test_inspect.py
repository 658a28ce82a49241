"""`segplan inspect`: one page that loads nothing, says what is wrong, and looks right in a browser."""

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image as Pillow
from small_dataset import make_dataset

from segplan.cli import main
from segplan.reporting.inspect_page import MOST_THUMBNAILS

NAME = '<b>left</b> & "co"'
SCHEMES = ("dark", "light")  # as Chromium numbers them
VOID = {"meta", "img", "input", "br", "wbr"}


class Checked(HTMLParser):
    """Refuses unclosed tags, and collects tags, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.urls, self.words = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.urls += [value for name, value in attributes if name in ("src", "href", "srcset", "data", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def inspect(folder, *words):
    page = folder.parent / "page.html"
    assert main(["inspect", str(folder), f"output={page}", "num_workers=1", *words]) == 0
    return page, Checked(page.read_text(encoding="utf-8"))


def describe(folder, **changes):
    content = json.loads((folder / "dataset.json").read_text()) | changes
    (folder / "dataset.json").write_text(json.dumps(content))


@pytest.fixture
def dataset(tmp_path):
    folder = make_dataset(tmp_path / "Dataset001_Boxes", cases=4, spacing=(3.0, 1.0, 1.0))
    describe(folder, labels={"background": 0, NAME: 1, "right": 2}, name="Boxes <script>alert(1)</script>")
    return folder


def test_the_page_is_well_formed_and_loads_nothing(dataset):
    page, checked = inspect(dataset)
    assert "script" not in checked.tags
    assert checked.tags.count("figure") == 4
    assert all(url.startswith("data:image/") for url in checked.urls)
    content = page.read_text(encoding="utf-8")
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", content)
    assert "@import" not in content
    assert "url(" not in content
    assert NAME in checked.text
    assert NAME not in content
    assert html.escape(NAME) in content
    assert "no findings" in checked.text


def test_every_finding_stands_on_the_page_with_its_remedy(dataset, capsys):
    (dataset / "labelsTr" / "case_00.nii.gz").unlink()
    broken = dataset / "imagesTr" / "case_01_0000.nii.gz"
    broken.write_bytes(broken.read_bytes()[:200])
    sitk.WriteImage(
        sitk.GetImageFromArray(np.full((3, 4, 5), 9, np.uint8)), str(dataset / "labelsTr" / "case_02.nii.gz")
    )
    _, checked = inspect(dataset)
    assert "4 to mend" in checked.text
    for part in ("case_00", "the image has no label map", "case_01_0000.nii.gz", "3×4×5", "9 (60 voxels)"):
        assert part in checked.text
    assert "Take the label map of this image" in checked.text
    assert str(dataset) not in checked.text, "the page may be passed on, so it holds no path of this machine"
    assert checked.tags.count("figure") == 3
    assert "4 problems" in capsys.readouterr().out


def test_a_listed_file_that_is_missing_is_told_once(dataset):
    listed = {
        f"case_{place:02d}": {
            "images": [f"imagesTr/case_{place:02d}_0000.nii.gz"],
            "label": f"labelsTr/case_{place:02d}.nii.gz",
        }
        for place in range(4)
    }
    describe(dataset, dataset=listed)
    (dataset / "imagesTr" / "case_03_0000.nii.gz").unlink()
    _, checked = inspect(dataset)
    assert "1 to mend" in checked.text
    assert checked.text.count("does not exist") == 1
    assert checked.tags.count("figure") == 3


def test_a_class_that_never_occurs_is_noted(dataset):
    describe(dataset, labels={"background": 0, "left": 1, "right": 2, "absent": 7})
    _, checked = inspect(dataset)
    assert "absent (value 7) occurs in no case" in checked.text
    assert "1 note " in checked.text


def test_pictures_are_shown_in_pixels_and_shares(tmp_path):
    folder = tmp_path / "Dataset002_Pictures"
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for place in range(3):
        Pillow.fromarray(rng.integers(0, 255, (20, 30, 3)).astype(np.uint8)).save(
            folder / "imagesTr" / f"p{place}_0000.png"
        )
        mask = np.zeros((20, 30), np.uint8)
        mask[:10, :15] = 255
        Pillow.fromarray(mask).save(folder / "labelsTr" / f"p{place}.png")
    channels = {"0": "R", "1": "G", "2": "B"}
    content = {
        "channel_names": channels,
        "labels": {"background": 0, "a": 255},
        "numTraining": 3,
        "file_ending": ".png",
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    _, checked = inspect(folder)
    assert "median size (pixels)" in checked.text
    assert "30×\u200b20" in checked.text
    assert "say nothing of a size in millimetres" in checked.text
    assert "median % of the picture" in checked.text
    assert " 25 25 to 25 " in checked.text


def test_regions_and_an_ignore_label_are_shown(dataset):
    labels = {"background": 0, "both": [1, 2], "right": [2], "ignore": 9}
    describe(dataset, labels=labels, regions_class_order=[1, 2])
    path = dataset / "labelsTr" / "case_00.nii.gz"
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)
    array[0] = 9
    written = sitk.GetImageFromArray(array)
    written.CopyInformation(image)
    sitk.WriteImage(written, str(path))
    _, checked = inspect(dataset)
    assert "2 regions" in checked.text
    assert "1, 2" in checked.text
    assert "not annotated" in checked.text
    assert "1 cases have voxels that are not annotated (value 9)" in checked.text


def test_of_many_cases_a_bounded_number_is_pictured_and_the_odd_ones_are_among_them(tmp_path):
    folder = make_dataset(tmp_path / "Dataset003_Many", cases=70, shape=(6, 8, 8))
    path = folder / "imagesTr" / "case_33_0000.nii.gz"
    bright = sitk.ReadImage(str(path)) * 1000.0
    sitk.WriteImage(bright, str(path))
    page, checked = inspect(folder)
    assert checked.tags.count("figure") == MOST_THUMBNAILS
    assert f"{MOST_THUMBNAILS} of 70 cases" in checked.text
    assert re.search(r"case_33 axial slice \d+ of \d+ · brightest", checked.text)
    assert page.stat().st_size < 1_000_000


def test_workers_and_this_process_write_the_same_page(dataset):
    page, _ = inspect(dataset)
    alone = page.read_text(encoding="utf-8")
    assert main(["inspect", str(dataset), f"output={page}", "num_workers=2"]) == 0
    assert page.read_text(encoding="utf-8") == alone


def test_what_cannot_be_written_is_refused_before_any_case_is_read(dataset, capsys):
    assert main(["inspect", str(dataset), "output=page.pdf"]) == 2
    assert "must end in .html" in capsys.readouterr().err
    assert main(["inspect", str(dataset.parent / "nowhere")]) == 2


def browser():
    found = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )
    if found is None:
        pytest.skip("there is no Chromium")
    return found


def measured_in_browser(page, tmp_path, width, scheme):
    """What the browser makes of the page: widths, picture sizes, colours; asked by a script in a copy of it."""
    probe = """<script>addEventListener('load',()=>{const r={};const d=document.documentElement;
    r.overflow=d.scrollWidth-innerWidth;r.width=innerWidth;
    r.pictures=[...document.images].map(i=>[i.complete&&i.naturalWidth>0,Math.round(i.getBoundingClientRect().width)]);
    r.texts=[...document.querySelectorAll('svg text')].map(t=>t.getBoundingClientRect().height);
    r.beyond=[...document.querySelectorAll('svg')].filter(s=>{const o=s.getBoundingClientRect();
      return [...s.querySelectorAll('text,rect,line,circle')].some(e=>{const b=e.getBoundingClientRect();
        return b.left<o.left-1||b.right>o.right+1||b.top<o.top-1||b.bottom>o.bottom+1})}).length;
    r.back=getComputedStyle(document.body).backgroundColor;r.text=getComputedStyle(document.body).color;
    const b=document.getElementById('outlines');const o=document.querySelector('.over');
    r.shown=getComputedStyle(o).display;b.click();r.hidden=getComputedStyle(o).display;
    parent.postMessage(JSON.stringify(r),'*')})</script>"""
    content = page.read_text(encoding="utf-8")
    content = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", content)
    (tmp_path / "inner.html").write_text(content.replace("</body>", f"{probe}</body>"), encoding="utf-8")
    # In a frame, because a window is never narrower than 500 pixels.
    hear = "addEventListener('message',m=>{document.title='probe '+m.data})"
    frame = (
        f'<title></title><script>{hear}</script><iframe src="inner.html" width="{width}" height="900" frameborder="0">'
    )
    (tmp_path / "outer.html").write_text(frame, encoding="utf-8")
    command = [browser(), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,1000", "--virtual-time-budget=5000"]
    command += [f"--blink-settings=preferredColorScheme={SCHEMES.index(scheme)}"]
    command += ["--dump-dom", f"file://{tmp_path / 'outer.html'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    found = re.search(r"<title>probe (.*?)</title>", done.stdout, re.DOTALL)
    assert found, done.stdout[:500] + done.stderr[-500:]
    return json.loads(html.unescape(found[1]))


def contrast(first, second):
    """The contrast ratio of two CSS colours, as the web's accessibility guidelines define it."""
    levels = []
    for colour in (first, second):
        shares = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [share / 12.92 if share <= 0.03928 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
        levels.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)
    return max(levels) / min(levels), levels[0] < levels[1]


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_in_chromium_nothing_overflows_and_every_picture_is_seen(dataset, tmp_path, width, scheme):
    page, _ = inspect(dataset)
    seen = measured_in_browser(page, tmp_path, width, scheme)
    assert seen["width"] == width
    assert seen["overflow"] <= 0
    assert len(seen["pictures"]) == 8
    assert all(complete and extent > 50 for complete, extent in seen["pictures"])
    assert min(seen["texts"]) > 8, "pixels: the charts' text can be read"
    assert seen["beyond"] == 0, "nothing of a chart lies outside it"
    ratio, bright_text = contrast(seen["back"], seen["text"])
    assert ratio > 7
    assert bright_text == (scheme == "dark")
    assert (seen["shown"], seen["hidden"]) == ("block", "none")
