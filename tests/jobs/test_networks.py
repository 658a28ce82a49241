import pytest

from segplan.cli import main

PLAN = """# @package _global_
plan: {input_channels: 2, num_classes: 3}
data: {patch_size: [32, 32, 32], batch_size: 2}
network:
  features: [8, 16]
  strides: [[1, 1, 1], [2, 2, 2]]
  kernel_sizes: [[3, 3, 3], [3, 3, 3]]
"""


@pytest.fixture
def workspace(tmp_path):
    (tmp_path / "plan" / "D").mkdir(parents=True)
    (tmp_path / "plan" / "D" / "3d_fullres.yaml").write_text(PLAN)
    return tmp_path


def rows(text):
    return {line.split("  ")[0]: line for line in text.splitlines()}


def test_the_plans_network_and_its_alternatives_are_compared(workspace, capsys):
    assert main(["networks", "plan=D/3d_fullres", f"workspace={workspace}"]) == 0
    shown = rows(capsys.readouterr().out)
    assert "patch 32×32×32 · batch 2 · 2 in · 3 out" in shown
    assert {"plan's: PlainUNet", "plain U-Net", "residual-encoder U-Net", "STU-Net S", "STU-Net H"} <= shown.keys()
    # 1 → 105 classes gives 1457.326 M; here 3 classes and one more channel: less 102 × 2981, more 28 × 96.
    assert "1457.02 M" in shown["STU-Net H"]
    # Six convolutions in series; only the second of the lower stage steps by 2 voxels: 1 + 5 × 2 + 4.
    assert "15×15×15" in shown["plan's: PlainUNet"]


def test_overrides_count(workspace, capsys):
    assert main(["networks", "plan=D/3d_fullres", f"workspace={workspace}", "data.patch_size=[16,16,16]"]) == 0
    assert "patch 16×16×16" in capsys.readouterr().out
    assert main(["networks", "plan=D/3d_fullres", f"workspace={workspace}", "network.featurs=[4,8]"]) == 2


def test_a_patch_that_does_not_fit_is_refused_as_in_training(workspace, capsys):
    assert main(["networks", "plan=D/3d_fullres", f"workspace={workspace}", "data.patch_size=[32,31,32]"]) == 2
    assert "Nearest: 30 or 32" in capsys.readouterr().err
    assert main(["networks", "plan=D/3d_fullres", f"workspace={workspace}", "data.patch_size=null"]) == 2
    assert "list of whole numbers" in capsys.readouterr().err


def test_lists_that_do_not_fit_are_refused(workspace, capsys):
    wrong = "network.features=[8,16,32]"
    assert main(["networks", "plan=D/3d_fullres", f"workspace={workspace}", wrong]) == 2
    assert "features" in capsys.readouterr().err
