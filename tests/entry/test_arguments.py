import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from segplan.entry.arguments import quote, quote_paths


def parsed(argument: str) -> object:
    return OverridesParser.create().parse_override(argument).value()


@pytest.mark.parametrize(
    "path",
    [
        "/data/Dataset 1",
        "/data/a,b",
        "/data/a=b",
        "/data/x (copy)",
        "/data/Größe/数据",
        "it's here",
        'a "quoted" name',
        "C:\\temp\\",
        "a{b}[c]",
        "100%",
        "$HOME",
        "~/x",
        "#1",
        "a:b",
    ],
)
def test_any_path_reaches_the_job_unchanged(path):
    [argument] = quote_paths([f"dataset={path}"])
    assert parsed(argument) == path


@given(
    st.text(alphabet=st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=20).filter(
        lambda t: "${" not in t
    )
)
def test_quoting_any_text_is_undone_by_the_parser(text):
    assert parsed(f"key={quote(text)}") == text


def test_other_keys_and_quoted_values_stay():
    given_words = ["data.batch_size=4", "dataset='a b'", "dataset=null", "-m"]
    assert quote_paths(given_words) == given_words


def test_a_sweep_over_plans_keeps_its_commas():
    [argument] = quote_paths(["plan=D 1/2d,D 1/3d_fullres"], multirun=True)
    override = OverridesParser.create().parse_override(argument)
    assert override.is_sweep_override()
    assert [str(choice) for choice in override.sweep_string_iterator()] == ["'D 1/2d'", "'D 1/3d_fullres'"]


def test_a_plan_whose_own_name_has_commas_is_one_choice():
    name = "D,1/2d"
    [argument] = quote_paths([f"plan={name}"], plans=[name], multirun=True)
    assert parsed(argument) == name


def test_a_list_of_paths_is_quoted_path_by_path():
    [argument] = quote_paths(["input=[/data/Müller (1).nii.gz,/data/数.nii.gz]"])
    assert [str(path) for path in parsed(argument)] == ["/data/Müller (1).nii.gz", "/data/数.nii.gz"]
