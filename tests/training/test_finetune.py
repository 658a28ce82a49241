import pytest
import torch

from segplan.errors import ConfigError, ModelError
from segplan.networks import PlainUNet, ResidualUNet, STUNet
from segplan.networks.parts import INPUT_LAYERS, part_of
from segplan.training.finetune import SCALE_KEY, matching, parameter_groups, summary_rows, transfer

STRIDES = [[1, 1, 1], [2, 2, 2], [2, 2, 2]]


def stunet(channels=1, classes=3):
    return STUNet(channels, classes, [4, 6, 6], [1, 1, 1], STRIDES, deep_supervision=False)


def plain(channels=1, classes=3, **changes):
    arguments = {"features": [4, 6, 6], "strides": STRIDES, "kernel_sizes": [[3, 3, 3]] * 3}
    return PlainUNet(channels, classes, **(arguments | changes))


def residual(channels=1, classes=3):
    return ResidualUNet(channels, classes, [4, 6, 6], STRIDES, [[3, 3, 3]] * 3, blocks_per_stage=[1, 1, 1])


def actions(fates):
    return {fate.name: fate.action for fate in fates}


@pytest.mark.parametrize("make", [stunet, plain, residual])
def test_all_but_the_heads_is_copied_and_heads_stay_at_their_initial_weights(make):
    source, target = make(classes=5), make(classes=2)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    fates = actions(transfer(target, source.state_dict()))
    for name, value in target.state_dict().items():
        is_head = part_of(name) == "heads"
        assert fates[name] == ("new" if is_head else "copied")
        assert torch.equal(value, before[name] if is_head else source.state_dict()[name])
    assert {part_of(name) for name in before} == {"encoder", "decoder", "heads"}


@pytest.mark.parametrize("make", [stunet, plain, residual])
def test_an_image_repeated_in_every_channel_gives_the_sources_features(make):
    torch.manual_seed(0)
    source, target = make(), make(channels=3)
    fates = transfer(target, source.state_dict(), heads="copy")
    adapted = {fate.name for fate in fates if fate.action == "adapted"}
    assert adapted
    assert adapted <= INPUT_LAYERS
    image = torch.randn(1, 1, 8, 8, 8)
    source.deep_supervision = target.deep_supervision = False
    torch.testing.assert_close(target(image.repeat(1, 3, 1, 1, 1)), source(image), rtol=1e-4, atol=1e-5)


def test_the_authors_rule_repeats_the_weights_undivided():
    source, target = stunet(), stunet(channels=2)
    transfer(target, source.state_dict(), channels="repeat")
    for name in ("conv_blocks_context.0.0.conv1.weight", "conv_blocks_context.0.0.conv3.weight"):
        weight = source.state_dict()[name]
        assert torch.equal(target.state_dict()[name], torch.cat([weight, weight], dim=1))
    with pytest.raises(ConfigError, match="2"):
        transfer(stunet(channels=3), target.state_dict(), channels="repeat")


def test_fewer_channels_take_the_sum_of_the_sources():
    source, target = stunet(channels=3), stunet()
    transfer(target, source.state_dict())
    name = "conv_blocks_context.0.0.conv1.weight"
    assert torch.allclose(target.state_dict()[name], source.state_dict()[name].sum(1, keepdim=True))


def test_heads_are_copied_on_request_where_the_number_of_classes_is_the_same():
    source = stunet()
    same, other = stunet(), stunet(classes=2)
    transfer(same, source.state_dict(), heads="copy")
    assert torch.equal(same.seg_outputs[0].weight, source.seg_outputs[0].weight)
    fates = transfer(other, source.state_dict(), heads="copy")
    assert "classes 3 → 2" in {fate.reason for fate in fates if fate.part == "heads"}


def test_weights_that_do_not_fit_are_refused_or_start_anew_with_the_reason():
    source, target = plain(), plain(kernel_sizes=[[1, 3, 3], [3, 3, 3], [3, 3, 3]])
    with pytest.raises(ModelError, match=r"4×1×3×3×3 → 4×1×1×3×3.*planner\.adopt"):
        transfer(target, source.state_dict())
    fates = transfer(target, source.state_dict(), strict=False)
    new = [fate for fate in fates if fate.action == "new" and fate.part != "heads"]
    assert {fate.reason.partition(" ")[0] for fate in new} == {"shape"}
    assert torch.equal(
        target.encoder.stages[1][0].convs[0].conv.weight, source.encoder.stages[1][0].convs[0].conv.weight
    )


def test_nothing_in_common_is_refused_even_where_not_strict():
    with pytest.raises(ModelError, match="none of its weights fits") as refused:
        transfer(stunet(), plain().state_dict(), strict=False)
    assert "strict=false" not in str(refused.value)


def test_the_table_sums_up_and_names_what_was_not_used():
    source = stunet().state_dict() | {"extra.weight": torch.zeros(7)}
    rows = summary_rows(transfer(stunet(channels=2), source))
    assert ["encoder", "adapted", "2", "224", "input channels 1 → 2: summed and shared among them"] in rows
    assert ["heads", "new", "4", "36", "heads depend on the labels"] in rows
    assert rows[-1] == ["source", "unused", "1", "7", "the network has no such weight"]


def test_parts_have_learning_rates_of_their_own():
    network = stunet()
    assert all(isinstance(parameter, torch.nn.Parameter) for parameter in parameter_groups(network, {}))
    groups = parameter_groups(network, {"encoder": 0.1, "heads": 10.0})
    sizes = {group[SCALE_KEY]: len(group["params"]) for group in groups}
    names = [part_of(name) for name, _ in network.named_parameters()]
    assert sizes == {0.1: names.count("encoder"), 1.0: names.count("decoder"), 10.0: names.count("heads")}


def test_parts_and_patterns_choose_weights():
    network = stunet()
    chosen = matching(network, ["heads", "conv_blocks_context.0.*"])
    assert {name.split(".")[0] for name in chosen} == {"seg_outputs", "conv_blocks_context"}
    assert not [name for name in chosen if name.startswith("conv_blocks_context.1")]
    with pytest.raises(ConfigError, match=r"no weight is named encodr"):
        matching(network, ["encodr"])
    with pytest.raises(ConfigError, match="nothing to train"):
        matching(network, ["*"])
