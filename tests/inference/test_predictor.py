from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunet_fixture import DATA, import_fixture

from segplan.errors import ConfigError, ImageError, ModelError
from segplan.imaging import read_image
from segplan.inference import InferenceSettings, Predictor, resolve_precision, segment_case
from segplan.inference.image_kinds import image_from_array
from segplan.model_folder import ModelFolder, write_model_json, write_weights
from segplan.networks import PlainUNet
from segplan.preprocessing import CaseStore


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return import_fixture("3d_fullres", tmp_path_factory.mktemp("model") / "m")


@pytest.fixture(scope="module")
def predictor(model: Path) -> Predictor:
    return Predictor.from_model(model, folds=0, device="cpu", precision="32", mirror=False)


@pytest.fixture(scope="module")
def image():
    return read_image([DATA / f"images/t0_{channel:04d}.nii.gz" for channel in range(2)])


def test_arrays_and_files_give_the_same_labels(predictor, image):
    labels = predictor.predict(image.array, image.spacing)
    assert labels.shape == image.array.shape[1:]
    from_files, _ = predictor.predict_files([DATA / f"images/t0_{channel:04d}.nii.gz" for channel in range(2)])
    assert np.array_equal(labels, from_files)


def test_several_threads_may_use_one_predictor(predictor, image):
    expected = predictor.predict(image.array, image.spacing)
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda _: predictor.predict(image.array, image.spacing), range(3)))
    assert all(np.array_equal(result, expected) for result in results)


def test_folds_are_averaged_as_logits(model, predictor, image):
    both = Predictor.from_model(model, device="cpu", precision="32", mirror=False)
    second = Predictor.from_model(model, folds=[1], device="cpu", precision="32", mirror=False)
    case = predictor.preprocess(image)
    from segplan.inference import sliding_window

    one, two, mean = (
        sliding_window(each.networks, case.image, each.tiling).numpy() for each in (predictor, second, both)
    )
    assert len(both.networks) == 2
    assert np.allclose(mean, (one + two) / 2, atol=1e-3)


def test_a_stored_case_gives_the_labels_of_its_image(predictor, image, tmp_path):
    store = CaseStore(tmp_path)
    store.write("t0", predictor.preprocess(image), {}, None, "hash")
    labels = segment_case(
        predictor.networks, store.open("t0"), predictor.plan, predictor.labels, predictor.tiling
    ).labels
    assert np.array_equal(labels, predictor.predict(image.array, image.spacing))


def test_a_training_network_with_deep_supervision_serves_too(predictor, image, tmp_path):
    network = PlainUNet(2, 4, [4, 6], [[1, 1, 1], [2, 2, 2]], [[3, 3, 3]] * 2, deep_supervision=True).eval()
    store = CaseStore(tmp_path)
    store.write("t0", predictor.preprocess(image), {}, None, "hash")
    labels = segment_case(network, store.open("t0"), predictor.plan, predictor.labels, predictor.tiling).labels
    assert labels.shape == image.array.shape[1:]


def test_bf16_agrees_almost_everywhere(model, predictor, image):
    low = Predictor.from_model(model, folds=0, device="cpu", precision="bf16", mirror=False)
    assert low.tiling.dtype is torch.bfloat16
    assert np.mean(low.predict(image.array, image.spacing) == predictor.predict(image.array, image.spacing)) > 0.97


def test_pictures_of_two_dimensions(tmp_path):
    network = PlainUNet(1, 2, [4, 6], [[1, 1], [2, 2]], [[3, 3]] * 2)
    plan = {
        "labels": {"background": 0, "cell": 1},
        "spacing": [None, 1.0, 1.0],
        "transpose": [0, 1, 2],
        "normalization": ["zscore"],
        "use_mask_for_norm": [False],
        "intensities": [None],
    }
    arguments = {"input_channels": 1, "num_classes": 2, "features": [4, 6], "strides": [[1, 1], [2, 2]]}
    write_model_json(
        tmp_path,
        name="D/2d",
        plan=plan,
        patch_size=(16, 16),
        network={"name": "PlainUNet", **arguments, "kernel_sizes": [[3, 3]] * 2},
        mirror_axes=(0, 1),
    )
    write_weights(tmp_path, 0, network.state_dict())
    predictor = Predictor.from_model(tmp_path, device="cpu", precision=32)
    picture = np.random.default_rng(0).normal(size=(1, 30, 21))
    labels = predictor.predict(picture, (0.7, 1.0))
    assert labels.shape == (30, 21)
    assert np.array_equal(labels, predictor.predict(picture[0], (0.7, 1.0)))
    assert predictor.predict(picture[:, None], (5.0, 0.7, 1.0)).shape == (1, 30, 21)


def test_nan_and_wrong_channels_are_refused(predictor, image):
    broken = image.array.copy()
    broken[1, 0, 0, 0] = np.nan
    with pytest.raises(ImageError, match="channel 1"):
        predictor.predict(broken, image.spacing)
    with pytest.raises(ImageError, match="channel"):
        predictor.predict(image.array[:1], image.spacing)
    with pytest.raises(ImageError, match="axes"):
        predictor.predict(image.array, (1.0, 1.0))


def test_only_segplans_networks_are_built(model, tmp_path):
    opened = ModelFolder.open(model)
    for name in ("os.system", "Conv3d", "initialize", "__name__"):
        write_model_json(
            tmp_path,
            name="D/3d",
            plan=opened.plan,
            patch_size=opened.patch_size,
            network={**opened.network, "name": name},
            mirror_axes=None,
        )
        write_weights(tmp_path, 0, opened.read_weights(0))
        with pytest.raises(ModelError, match="there is no network"):
            Predictor.from_model(tmp_path, device="cpu")


def test_weights_of_another_network_are_refused(model, tmp_path):
    opened = ModelFolder.open(model)
    write_model_json(
        tmp_path,
        name="D/3d",
        plan=opened.plan,
        patch_size=opened.patch_size,
        network={**opened.network, "features": [2 * width for width in opened.network["features"]]},
        mirror_axes=None,
    )
    write_weights(tmp_path, 0, opened.read_weights(0))
    with pytest.raises(ModelError, match="does not fit"):
        Predictor.from_model(tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mirror": (3,)}, "mirrored axes"),
        ({"step_size": 0}, "step_size"),
        ({"tile_batch_size": 0}, "tile_batch_size"),
        ({"tile_batch_size": "many"}, "tile_batch_size"),
        ({"accumulator": "float64"}, "accumulator"),
        ({"precision": "half"}, "precision"),
    ],
)
def test_settings_that_cannot_work_are_refused(model, settings, said):
    with pytest.raises(ConfigError, match=said):
        Predictor.from_model(model, device="cpu", **settings)


def test_mirror_axes_may_be_chosen(model):
    assert Predictor.from_model(model, device="cpu", mirror=[0, 2]).tiling.mirror_axes == (0, 2)
    assert Predictor.from_model(model, device="cpu").tiling.mirror_axes == (0, 1, 2)
    assert InferenceSettings().mirror is True


def test_precision_names():
    cpu = torch.device("cpu")
    assert resolve_precision(32, cpu) is torch.float32
    assert resolve_precision("bf16-mixed", cpu) is torch.bfloat16
    assert resolve_precision("auto", cpu) in (torch.float32, torch.bfloat16)
    assert resolve_precision("auto", torch.device("mps")) is torch.float32


@pytest.mark.parametrize("spacing", [(0, 1, 1), (1, -1, 1), (1, 1, float("nan"))])
def test_a_spacing_that_is_no_length_is_refused(spacing):
    with pytest.raises(ImageError, match="spacing is"):
        image_from_array(np.zeros((4, 5, 6)), spacing)


def test_a_picture_is_not_for_a_model_of_volumes(predictor):
    with pytest.raises(ImageError, match="2D picture"):
        predictor.predict(np.ones((2, 9, 9)), (1.0, 1.0))
