"""Which cases a page shows where it cannot show all: the odd ones with the reason, and an even sample of the rest."""

from collections.abc import Sequence

from segplan.reporting.survey import MEDIAN, CaseLook

_SHARE_OF_PROBLEMS = 3  # at most one picture in three goes to a case with a problem


def choose_cases(looks: Sequence[CaseLook], classes: Sequence[str], most: int) -> list[tuple[CaseLook, str]]:
    """At most `most` cases that have a thumbnail, each with why it was chosen, in the dataset's order.

    Args:
        looks: all cases.
        classes: names of their targets.
        most: how many.
    """
    shown = [look for look in looks if look.thumbnail is not None]
    reasons: dict[str, str] = {}
    for look in shown:
        if any(problem.fatal for problem in look.problems) and len(reasons) < most // _SHARE_OF_PROBLEMS:
            reasons[look.identifier] = "has a problem"
    if len(shown) > most:
        for identifier, reason in _extremes(shown, classes):
            if len(reasons) >= 2 * most // 3:
                break
            reasons.setdefault(identifier, reason)
        rest = [look for look in shown if look.identifier not in reasons]
        left = most - len(reasons)
        for place in range(left):
            reasons.setdefault(rest[place * len(rest) // left].identifier, "")
    return [
        (look, reasons.get(look.identifier, "")) for look in shown if len(shown) <= most or look.identifier in reasons
    ]


def _extremes(looks: Sequence[CaseLook], classes: Sequence[str]) -> list[tuple[str, str]]:
    """Identifiers and reasons: smallest and largest of each class, brightest and darkest of the first channel."""
    found = []
    bright = sorted((look for look in looks if look.channels), key=lambda look: look.channels[0][MEDIAN])
    if bright:
        found += [(bright[0].identifier, "darkest"), (bright[-1].identifier, "brightest")]
    for place, name in enumerate(classes):
        present = [look for look in looks if look.targets and look.targets[place].voxels]
        if len(present) > 1:
            ordered = sorted(present, key=lambda look: look.targets[place].voxels)
            found += [(ordered[0].identifier, f"smallest {name}"), (ordered[-1].identifier, f"largest {name}")]
    return found
