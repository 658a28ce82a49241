"""Plain folders of images and label maps: which files make a case, by a pattern of their names or by a guess."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segplan.errors import ConfigError, ImageError, Problem
from segplan.imaging import split_ending

_PLACEHOLDER = re.compile(r"\{(\w*)\}|(\*)")
_GUESSES_FROM = 40  # images whose partners are looked for; more would only cost time
_JPEG = (".jpg", ".jpeg")


@dataclass(frozen=True)
class Pattern:
    """A pattern of file names: `{case}` and `{channel}` stand for any text without a slash, `*` for text that differs.

    Where it has a slash, it is matched with the path inside the folder. Where it ends in no image ending, it is matched
    with folders: each is one DICOM series.
    """

    text: str
    expression: re.Pattern[str]

    @classmethod
    def parse(cls, text: str, key: str = "pattern") -> "Pattern":
        """Read a pattern.

        Raises:
            ConfigError: it has no {case}, or another placeholder than {case} and {channel}.
        """
        example = "For example '{case}_image.png', or '{case}/{channel}.nii.gz'."
        parts, position, seen = [], 0, set()
        for match in _PLACEHOLDER.finditer(text):
            parts.append(re.escape(text[position : match.start()]))
            name, position = match[1], match.end()
            if match[2]:
                parts.append("[^/]*")
            elif name not in ("case", "channel"):
                raise ConfigError(f"there is no placeholder {match[0]}", f"{key}={text}", f"Use {{case}}. {example}")
            elif name in seen:
                parts.append(f"(?P={name})")
            else:
                parts.append(f"(?P<{name}>[^/]+?)")
                seen.add(name)
        parts.append(re.escape(text[position:]))
        if "case" not in seen:
            raise ConfigError("it has no {case}", f"{key}={text}", example)
        return cls(text, re.compile("".join(parts), re.DOTALL))

    @property
    def names_folders(self) -> bool:
        """Whether folders are meant, not files."""
        return not _is_image(self.text.replace("*", "x"))

    @property
    def has_channel(self) -> bool:
        """Whether a file holds one channel of several."""
        return "channel" in self.expression.groupindex


@dataclass(frozen=True)
class Matches:
    """The files that fit a pattern.

    Attributes:
        files: the case's files by channel; the channel is "" where the pattern has none.
        others: images that do not fit.
        twice: a sentence on every pair of files of one case and channel.
    """

    files: Mapping[str, Mapping[str, Path]]
    others: tuple[str, ...]
    twice: tuple[Problem, ...]


def image_files(folder: Path, *, deep: bool, series: bool = False) -> list[str]:
    """Paths inside `folder` of all images, sorted; hidden files are none.

    Args:
        folder: the folder.
        deep: whether folders in it are looked into.
        series: whether folders are meant, not files.

    Raises:
        ConfigError: there is no such folder.
    """
    if not folder.is_dir():
        raise ConfigError("there is no such folder", folder, "Name the folders of the images and of the label maps.")
    found = []
    for place, folders, names in os.walk(folder):
        relative = Path(place).relative_to(folder)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        chosen = folders if series else [name for name in names if _is_image(name)]
        found += [(relative / name).as_posix() for name in chosen]
        if not deep:
            break
    return sorted(found)


def match_files(folder: Path, pattern: Pattern) -> Matches:
    """All images in `folder` (and below it where the pattern has a slash) that fit the pattern."""
    files: dict[str, dict[str, Path]] = {}
    others, twice = [], []
    for name in image_files(folder, deep="/" in pattern.text, series=pattern.names_folders):
        match = pattern.expression.fullmatch(name)
        if match is None:
            others.append(name)
            continue
        channel = match["channel"] if pattern.has_channel else ""
        channels = files.setdefault(match["case"], {})
        if channel in channels:
            what = f"{name} and {channels[channel].relative_to(folder).as_posix()} are the same case"
            twice.append(Problem(match["case"], what, "Make the pattern narrower, or take one of them away."))
        channels[channel] = folder / name
    return Matches(files, tuple(others), tuple(twice))


def guess_patterns(images: Path, labels: Path) -> tuple[Pattern, Pattern]:
    """Patterns under which most images find a label map: equal names, a name with something before or after it, or two
    names that differ in what all of a side share.

    Raises:
        ConfigError: none fits, or several fit equally well; it says which.
    """
    image_names, label_names = image_files(images, deep=False), image_files(labels, deep=False)
    if images.resolve() == labels.resolve():
        image_names = [name for name in image_names if name.lower().endswith(_JPEG)]  # never a label map
        label_names = [name for name in label_names if name not in set(image_names)]
    if not image_names or not label_names:
        empty = images if not image_names else labels
        remedy = "Name the folders of the images and of the label maps; where both lie in one, give pattern= and "
        raise ConfigError("it holds no image that can be told from the label maps", empty, remedy + "label_pattern=.")
    # Patterns that pair the same files are one answer: img1.png with img1.png are {case} and img{case} alike.
    pairings: dict[frozenset[tuple[str, str]], tuple[str, str]] = {}
    for pair in _candidates(image_names, label_names):
        pairings.setdefault(_pairing(image_names, label_names, *pair), pair)
    best = max(map(len, pairings), default=0)
    winners = [pair for pairing, pair in pairings.items() if len(pairing) == best]
    if best * 2 < min(len(image_names), len(label_names)):
        what = f"the names do not tell which label map belongs to which image ({image_names[0]}, {label_names[0]})"
        raise ConfigError(what, images, "Give pattern='{case}…' and label_pattern='{case}…'.")
    if len(winners) > 1:
        shown = ", or ".join(f"pattern='{image}' label_pattern='{label}'" for image, label in winners[:4])
        what = "several pairs of patterns fit equally well"
        raise ConfigError(what, labels, f"Say which: {shown}.")
    image, label = winners[0]
    return Pattern.parse(image), Pattern.parse(label, "label_pattern")


def _is_image(name: str) -> bool:
    try:
        return not name.startswith(".") and bool(split_ending(name))
    except ImageError:
        return False


def _candidates(images: Sequence[str], labels: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of patterns to try, without repetition, equal names first."""
    image_endings, label_endings = _endings(images), _endings(labels)
    pairs = [(f"{{case}}{image}", f"{{case}}{label}") for image in image_endings for label in label_endings]
    label_stems = [split_ending(name) for name in labels]
    for name in images[:_GUESSES_FROM]:
        stem, ending = split_ending(name)
        for label_stem, label_ending in label_stems:
            if stem != label_stem and _stands_alone(stem, label_stem):
                pairs.append((f"{{case}}{ending}", _templated(label_stem, stem) + label_ending))
            elif stem != label_stem and _stands_alone(label_stem, stem):
                pairs.append((_templated(stem, label_stem) + ending, f"{{case}}{label_ending}"))
    pairs += [
        (_shared(images, image) + image, _shared(labels, label) + label)
        for image in image_endings
        for label in label_endings
    ]
    return [pair for pair in dict.fromkeys(pairs) if all(text.count("{") == 1 for text in pair)]


def _stands_alone(part: str, whole: str) -> bool:
    """Whether `part` occurs in `whole` and no digit is cut off (1 does not stand in 10)."""
    start = whole.find(part)
    if start < 0:
        return False
    before, after = whole[:start][-1:], whole[start + len(part) :][:1]
    return not (before.isdigit() and part[0].isdigit()) and not (after.isdigit() and part[-1].isdigit())


def _templated(whole: str, case: str) -> str:
    return whole.replace(case, "{case}", 1)


def _shared(names: Sequence[str], ending: str) -> str:
    """What the names with this ending have in common, with {case} for what differs: img_{case}."""
    stems = [split_ending(name)[0] for name in names if name.endswith(ending)]
    if len(stems) < 2:
        return "{case}"
    before = _common_start(stems)
    after = _common_start([stem[len(before) :][::-1] for stem in stems])[::-1]
    return f"{before}{{case}}{after}"


def _common_start(texts: Sequence[str]) -> str:
    """What all texts begin with, without a part of a number or of a word."""
    first, last = min(texts), max(texts)
    shared = next((at for at, letter in enumerate(first) if last[at : at + 1] != letter), len(first))
    start = first[:shared].rstrip("0123456789")
    if start[-1:].isalpha() and not all(text[len(start) :][:1].isdigit() for text in texts):
        start = re.sub(r"[^\W\d_]+$", "", start)
    return start


def _endings(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(split_ending(name)[1] for name in names))


def _pairing(images: Sequence[str], labels: Sequence[str], image: str, label: str) -> frozenset[tuple[str, str]]:
    """The pairs of names that these patterns make."""
    pictures, maps = _cases(images, Pattern.parse(image)), _cases(labels, Pattern.parse(label))
    return frozenset((pictures[case], maps[case]) for case in pictures.keys() & maps.keys())


def _cases(names: Sequence[str], pattern: Pattern) -> dict[str, str]:
    """The names that fit, by case."""
    return {match["case"]: name for name in names if (match := pattern.expression.fullmatch(name))}
