"""`segplan convert-folder`: plain folders of images and label maps to nnU-Net's raw layout."""

import fnmatch
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from segplan.dataset.conversion import CaseSource, label_values
from segplan.dataset.description import known_ending
from segplan.dataset.label_names import LabelNames, name_labels
from segplan.dataset.plain_folders import Matches, Pattern, guess_patterns, image_files, match_files
from segplan.errors import ConfigError, Problem, SegplanError, VerificationError
from segplan.imaging import read_image, split_ending
from segplan.jobs.console import print_problems
from segplan.jobs.conversion import convert, run_over

_PICTURE_CHANNELS = ("R", "G", "B")
_SHOWN = 3
_DICOM = ".dcm"


@dataclass(frozen=True)
class Options:
    """What the user says about the folders; every text is as it was typed.

    Attributes:
        pattern: names of the images; None: guessed.
        label_pattern: names of the label maps; None: guessed, or {case} with the commonest ending.
        channels: YAML list of channel names in order, or with {channel} a mapping {text in the file name: name}.
        labels: YAML mapping {name: value} or list of names for the values found; None: numbers for names.
        test: case names with *, separated by commas, or a file that has one a line.
        skip_unmatched: go on without the files that have no partner.
    """

    pattern: str | None = None
    label_pattern: str | None = None
    channels: str | None = None
    labels: str | None = None
    test: str | None = None
    skip_unmatched: bool = False


def run(images: Path, labels: Path, out: Path, options: Options | None = None, num_workers: int | None = None) -> int:
    """Convert the folders; returns the exit code, 0.

    Args:
        images: folder of the images.
        labels: folder of the label maps; may be the same one.
        out: the dataset's folder.
        options: how files are matched and named.
        num_workers: processes; None: the cores at hand.

    Raises:
        ConfigError: an option cannot work.
        DatasetError: the target holds something else.
        VerificationError: files without a partner, or that cannot be used; all at once.
        StorageError: the target cannot be written.
    """
    given = options or Options()
    images, labels, out = images.absolute(), labels.absolute(), out.absolute()
    pattern, label_pattern = _patterns(images, labels, given)
    pictures, maps = _matched(images, labels, pattern, label_pattern)
    names, tokens = _channels(given.channels, pattern, pictures)
    is_test = _test_cases(given.test, sorted({*pictures.files, *maps.files}))
    cases, problems = _pair(pictures, maps, tokens, is_test)
    problems += [*pictures.twice, *maps.twice]
    if problems and (not given.skip_unmatched or any(problem.fatal for problem in problems)):
        raise VerificationError([replace(problem, fatal=True) for problem in problems], images)
    if not any(not case.test for case in cases):
        raise ConfigError("no training case is left", images, "Mend the patterns, or name fewer test cases.")
    print_problems(problems)
    found = _values(cases, labels, num_workers)
    named = name_labels(parse_yaml(given.labels, "labels"), found)
    names = names or _default_channels(cases[0])
    _print_what(cases, pattern, label_pattern, names, named)
    _check_endings(cases)
    training = sum(not case.test for case in cases)
    description = {
        "name": out.name,
        "channel_names": {str(number): name for number, name in enumerate(names)},
        "labels": dict(named.names),
        "numTraining": training,
        "file_ending": _ending(cases[0].targets()[0][0]),
        "label_ending": split_ending(next(name for case in cases if (name := case.targets()[1])))[1],
    }
    chosen = asdict(replace(given, pattern=pattern.text, label_pattern=label_pattern.text, skip_unmatched=False))
    origin = {"command": "convert-folder", "source": [str(images), str(labels)], "options": chosen}
    return convert(out, origin, cases, description, renumbering=named.renumbering, num_workers=num_workers)


def _patterns(images: Path, labels: Path, given: Options) -> tuple[Pattern, Pattern]:
    """Both patterns; what the user left out is guessed, and the guess printed."""
    if given.pattern is None and given.label_pattern is None:
        found = guess_patterns(images, labels)
        print(f"guessed: pattern='{found[0].text}' label_pattern='{found[1].text}'")
        return found
    pattern, label_pattern = (
        Pattern.parse(text, key) if text is not None else _by_ending(folder, key)
        for text, key, folder in (
            (given.pattern, "pattern", images),
            (given.label_pattern, "label_pattern", labels),
        )
    )
    return pattern, label_pattern


def _by_ending(folder: Path, key: str) -> Pattern:
    endings = Counter(split_ending(name)[1] for name in image_files(folder, deep=False))
    if not endings:
        raise ConfigError("it holds no image", folder, "Name another folder.")
    text = f"{{case}}{endings.most_common(1)[0][0]}"
    print(f"guessed: {key}='{text}'")
    return Pattern.parse(text, key)


def _matched(images: Path, labels: Path, pattern: Pattern, label_pattern: Pattern) -> tuple[Matches, Matches]:
    pictures, maps = match_files(images, pattern), match_files(labels, label_pattern)
    for folder, matches, key, text in (
        (images, pictures, "pattern", pattern.text),
        (labels, maps, "label_pattern", label_pattern.text),
    ):
        if not matches.files:
            example = f" ({matches.others[0]})" if matches.others else ""
            raise ConfigError(f"none of its {len(matches.others)} images{example} fits {key}={text}", folder)
        if matches.others and images != labels:
            shown = ", ".join(matches.others[:_SHOWN]) + (", …" if len(matches.others) > _SHOWN else "")
            print(f"{folder.name}: {len(matches.others)} files do not fit {key}={text}: {shown}")
    taken = {path for channels in maps.files.values() for path in channels.values()}
    files = {
        case: left
        for case, channels in pictures.files.items()
        if (left := {channel: path for channel, path in channels.items() if path not in taken})
    }
    return Matches(files, pictures.others, pictures.twice), maps


def _channels(text: str | None, pattern: Pattern, pictures: Matches) -> tuple[list[str], list[str]]:
    """Names of the channels (empty: not said) and the texts in the file names that stand for them, in order."""
    given = parse_yaml(text, "channels")
    if isinstance(given, Mapping):
        pairs = {str(token): str(name) for token, name in given.items()}
    else:
        pairs = {str(name): str(name) for name in given or []}
    if not pattern.has_channel:
        if isinstance(given, Mapping):
            raise ConfigError("the pattern has no {channel}", f"channels={text}", "Give a list: '[t1, t2]'.")
        return list(pairs), [""]
    found = sorted({channel for channels in pictures.files.values() for channel in channels})
    unknown = [token for token in pairs if token not in found]
    if unknown:
        raise ConfigError(f"no file has the channel {unknown[0]}", f"channels={text}", f"Found: {', '.join(found)}.")
    return (list(pairs.values()), list(pairs)) if pairs else (found, found)


def _test_cases(text: str | None, cases: Sequence[str]) -> set[str]:
    if text is None:
        return set()
    path = Path(text)
    masks = path.read_text(encoding="utf-8").split("\n") if path.is_file() else text.strip("[]").split(",")
    chosen = set()
    for mask in (mask.strip() for mask in masks):
        hits = fnmatch.filter(cases, mask) if mask else []
        if mask and not hits:
            raise ConfigError(f"no case is named {mask}", f"test={text}", f"There are {', '.join(cases[:5])}, …")
        chosen |= set(hits)
    return chosen


def _pair(
    pictures: Matches, maps: Matches, tokens: Sequence[str], is_test: set[str]
) -> tuple[list[CaseSource], list[Problem]]:
    """The cases whose files are complete, and a note on every file without a partner."""
    cases, problems = [], []
    for case in sorted({*pictures.files, *maps.files}):
        channels, label = pictures.files.get(case, {}), next(iter(maps.files.get(case, {}).values()), None)
        missing = [token for token in tokens if token not in channels]
        if not channels and label is not None:
            what = f"{label.name} has no image"
        elif missing:
            what = f"channel {', '.join(missing)} is missing"
        elif label is None and case not in is_test:
            what = f"{next(iter(channels.values())).name} has no label map"
        else:
            cases.append(CaseSource(case, tuple(channels[token] for token in tokens), label, test=case in is_test))
            continue
        remedy = "Mend the patterns, add the missing file, or leave it out with --skip-unmatched."
        problems.append(Problem(case, what, remedy, fatal=False))
    return cases, problems


def _values(cases: Sequence[CaseSource], labels: Path, num_workers: int | None) -> set[int]:
    """Every value in the label maps."""
    results = run_over(label_values, cases, "labels", num_workers)
    failed = [(name, result) for name, result in results.items() if isinstance(result, SegplanError)]
    if failed:
        problems = [Problem(name, error.what, error.remedy or "Mend or replace the file.") for name, error in failed]
        raise VerificationError(problems, labels)
    return {value for result in results.values() for value in result}


def _default_channels(case: CaseSource) -> list[str]:
    count = len(read_image(case.images).array)
    if count == 1:
        return ["image"]
    return list(_PICTURE_CHANNELS) if count == len(_PICTURE_CHANNELS) else [f"channel {i}" for i in range(count)]


def _check_endings(cases: Sequence[CaseSource]) -> None:
    for role in (0, 1):
        names = [case.targets()[0][0] if role == 0 else case.targets()[1] for case in cases]
        endings = Counter(_ending(name) for name in names if name is not None)
        if len(endings) > 1:
            shown = " and ".join(f"{count} {ending}" for ending, count in endings.most_common())
            what = f"the {('images', 'label maps')[role]} have several endings: {shown}"
            raise ConfigError(what, remedy="Convert them to one, or name one in the pattern.")


def _ending(name: str) -> str:
    """The ending of a file in the new dataset; folders hold DICOM series."""
    return known_ending(Path(name).name) or _DICOM


def _print_what(
    cases: Sequence[CaseSource], pattern: Pattern, label_pattern: Pattern, channels: Sequence[str], named: LabelNames
) -> None:
    labels = ", ".join(f"{name} {value}" for name, value in named.names.items())
    print(f"{len(cases)} cases · channels {', '.join(channels)} · labels {labels}")
    print(f"first: {cases[0].images[0].name} with {cases[0].label.name if cases[0].label else 'no label map'}")
    if named.note:
        print(f"note: {named.note}")


def parse_yaml(text: str | None, key: str) -> Any:
    """The list or mapping in an option.

    Raises:
        ConfigError: it is neither.
    """
    import yaml

    if text is None:
        return None
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError("it is no valid YAML", f"{key}={text}", "Write a list, '[a, b]', or '{a: 1}'.") from error
    if not isinstance(content, list | Mapping) or not content:
        raise ConfigError("it is neither a list nor a mapping", f"{key}={text}", "Write '[a, b]' or '{a: 1}'.")
    return content
