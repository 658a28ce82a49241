"""The job `segplan compare-plans`: which values of two plans differ, and why each is what it is."""

from segplan.jobs.console import print_table
from segplan.planning.comparison import Side, compare
from segplan.planning.yaml_text import short


def run(first: Side, second: Side) -> int:
    """Print the differing values with both reasons; returns the exit code 0, whether the plans differ or not."""
    differences = compare(first, second)
    if not differences:
        print(f"{first.name} and {second.name} are equal: all {len(first.values)} values agree")
        return 0
    equal = len(first.values.keys() | second.values.keys()) - len(differences)
    counted = "1 value" if len(differences) == 1 else f"{len(differences)} values"
    print(f"A  {first.name}\nB  {second.name}\n{counted} differ{'s' if len(differences) == 1 else ''}, {equal} agree\n")
    for item in differences:
        print(item.key)
        rows = [
            [letter, short(value) if there else "absent", reason]
            for letter, value, there, reason in zip("AB", item.values, item.present, item.reasons, strict=True)
        ]
        print_table([], rows, indent="  ")
    return 0
