"""The parts of retraining: who teaches, what is shown, and what is made small."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from converters.networks import answering_unet

from edgelung.calibration import Holdout, describe_data, make_phantom, write_luna16
from edgelung.calibration.metaimage_writer import write_metaimage
from edgelung.converters.datasets import read_luna16, split_scans
from edgelung.converters.models import UNetWidths
from edgelung.converters.retraining import Scene, find_teacher, gather_scenes, get_preset, recover
from edgelung.converters.retraining.crops import CropStream
from edgelung.converters.retraining.losses import NO_NODULE, NODULE, DistillationLoss, LabelLoss
from edgelung.converters.retraining.operating_point import match_false_positives, shift_logits
from edgelung.converters.retraining.teacher import to_logits
from edgelung.converters.tasks import nodule_segmentation_spec
from edgelung.errors import ConversionError, InputError

SPEC = nodule_segmentation_spec(512, 512).input
WIDTHS = UNetWidths(7, ((4, 4), (8, 8)), ((4, 4, 4),))


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(5, shape=(32, 512, 512), spacing_mm=(2.5, 0.7, 0.7), nodules=6)


@pytest.fixture(scope="module")
def teacher(phantom):
    example = np.clip(phantom.volume.hu[10:17], -1000, 1000).astype(np.float32)[None]
    return find_teacher(answering_unet(WIDTHS), "probability", example)


@pytest.fixture(scope="module")
def scene(phantom):
    hu, mask = phantom.volume.hu, phantom.mask
    return Scene(hu, mask, np.zeros_like(mask), np.arange(8, 12))


def test_crops_are_as_large_as_the_network_has_to_see(teacher):
    assert teacher.crop == (192, 192)
    far = torch.nn.Sequential(torch.nn.Conv2d(7, 1, 3, padding=60, dilation=60)).eval()
    example = np.random.default_rng(0).normal(size=(1, 7, 256, 256)).astype(np.float32)
    assert find_teacher(far, "logit", example).crop == (256, 256)


def test_the_distance_is_nothing_for_the_teacher_and_grows_with_a_shift(teacher, scene):
    batch = next(iter(CropStream([scene], SPEC, crop=teacher.crop, batch=2, seed=1)))
    loss = DistillationLoss(teacher.network, teacher.temperature)
    with torch.no_grad():
        own = loss(teacher.network, batch)
        near = loss(lambda inputs: teacher.network(inputs) + 0.1 * teacher.temperature, batch)
        far = loss(lambda inputs: teacher.network(inputs) + teacher.temperature, batch)
    assert float(own) < 1e-5 < float(near) < float(far)


def test_known_truth_overrules_the_teacher():
    """The best answer lies on the truth's side where it is known, and is the teacher's where it is not."""
    said = torch.tensor([-3.0, 3.0, 3.0]).view(1, 1, 1, 3)
    mask = torch.tensor([1.0, 0.0, 0.0]).view_as(said)
    known = torch.tensor([1.0, 1.0, 0.0]).view_as(said)
    batch = (said, mask, known)
    answer = torch.zeros_like(said, requires_grad=True)
    optimizer = torch.optim.Adam([answer], lr=0.05)
    loss = DistillationLoss(torch.nn.Identity(), 1.0)
    for _ in range(800):
        optimizer.zero_grad()
        loss(lambda inputs: answer, batch).backward()
        optimizer.step()
    np.testing.assert_allclose(answer.detach().flatten(), [NODULE, NO_NODULE, 3.0], atol=0.1)


def test_labels_alone_count_where_there_are_labels():
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:5, 2:5] = 1
    batch = (torch.full_like(mask, 99), mask, torch.ones_like(mask))
    right, wrong = (20 * (2 * mask - 1), -20 * (2 * mask - 1))
    assert float(LabelLoss()(lambda inputs: right, batch)) < 0.1 < float(LabelLoss()(lambda inputs: wrong, batch))


def test_the_bias_brings_back_as_many_false_positives_as_the_original_has(teacher, scene):
    timid = to_logits(answering_unet(WIDTHS), "probability")
    assert shift_logits(timid, timid, -0.3 * teacher.temperature)
    whole = np.clip(scene.hu[5:12], -1000, 1000).astype(np.float32)[None]
    marked = float(np.quantile(teacher.answer(whole), 0.98))  # logit that 2 % of all pixels reach

    def amount(answer, limit=teacher.temperature):
        return match_false_positives(answer, teacher.answer, [scene], SPEC, threshold=marked, limit=limit)

    assert amount(teacher.answer) == pytest.approx(0, abs=1e-3 * teacher.temperature)
    brought_back = amount(replace(teacher, network=timid).answer)
    assert brought_back == pytest.approx(0.3 * teacher.temperature, rel=1e-2)
    assert amount(lambda tensor: teacher.answer(tensor) - 1e6) == teacher.temperature  # no further than the limit


def test_the_bias_is_set_on_slices_upside_down(teacher, scene):
    """Nothing is trained on those, so a network that knows its slices by heart is not taken at its word."""
    asked = []

    def answer(tensor):
        asked.append(tensor)
        return teacher.answer(tensor)

    match_false_positives(answer, answer, [scene], SPEC, threshold=0.0, limit=1.0)
    expected = np.clip(scene.hu[scene.firsts[0] - 3 :][:7, ::-1], -1000, 1000)
    np.testing.assert_array_equal(asked[0][0], expected)


def test_nothing_is_learnt_from_held_out_slices(phantom, teacher, tmp_path):
    write_metaimage(tmp_path / "scan.mhd", phantom.volume, compress=False)
    source = describe_data(tmp_path / "scan.mhd")
    made = gather_scenes(source, SPEC, teacher, count=1, holdout=Holdout(0, 8), seed=0)
    assert made.all[0].firsts.min() == 8 + 7 + 3 and not made.labelled
    assert made.all[0].mask[18:].any() and not made.all[0].mask[:15].any()
    assert made.all[0].known.sum() > made.all[0].mask.sum()
    with pytest.raises(InputError, match="leave no slices to train on"):
        gather_scenes(source, SPEC, teacher, count=1, holdout=Holdout(4, 28), seed=0)


def test_labels_teach_without_the_original(tmp_path):
    """LUNA16 has its own truth: masks grown from its annotations, so no threshold is moved either."""
    write_luna16(tmp_path, scans=3, seed=6, shape=(16, 96, 96), spacing_mm=(3.0, 3.5, 3.5))
    spec = nodule_segmentation_spec(96, 96).input
    model = answering_unet(WIDTHS)
    example = np.random.default_rng(0).uniform(-1000, 1000, (1, 7, 96, 96)).astype(np.float32)
    own = find_teacher(model, "probability", example)
    scenes = gather_scenes(describe_data(tmp_path), spec, own, count=1, holdout=None, seed=0)
    assert scenes.labelled and all(scene.known.all() and scene.mask.any() for scene in scenes.all)
    assert not any(len(scene.marked) for scene in scenes.all)
    learnt = recover(model, "probability", [example], own, scenes, spec, epochs=30, threshold=0.0, seed=0)
    assert learnt.last < 0.8 * learnt.first and learnt.shift == 0
    assert learnt.describe().endswith("logits +0.00")


def test_a_scan_whose_nodule_has_no_voxel_is_not_learnt_from(tmp_path):
    write_luna16(tmp_path, scans=4, seed=6, shape=(16, 96, 96), spacing_mm=(3.0, 3.5, 3.5))
    spec = nodule_segmentation_spec(96, 96).input
    example = np.random.default_rng(0).uniform(-1000, 1000, (1, 7, 96, 96)).astype(np.float32)
    own = find_teacher(answering_unet(WIDTHS), "probability", example)
    source, notes = describe_data(tmp_path), []
    before = gather_scenes(source, spec, own, count=1, holdout=None, seed=0, note=notes.append)
    assert not [note for note in notes if "no voxel" in note]
    trained = {scan.uid for scan in split_scans(read_luna16(tmp_path))[0]}
    header, *rows = (tmp_path / "annotations.csv").read_text().splitlines()
    place = next(index for index, row in enumerate(rows) if row.split(",")[0] in trained)
    cells = rows[place].split(",")
    rows[place] = ",".join([*cells[:3], "5000", cells[4]])
    (tmp_path / "annotations.csv").write_text("\n".join([header, *rows]) + "\n")
    after = gather_scenes(source, spec, own, count=1, holdout=None, seed=0, note=notes.append)
    assert len(after.all) == len(before.all) - 1
    (told,) = [note for note in notes if "no voxel" in note]
    assert f"(line {place + 2}): outside of the volume (1); its scan is left out" in told
    (tmp_path / "annotations.csv").write_text(
        "\n".join([header, *(",".join([*row.split(",")[:3], "5000", "6"]) for row in rows)])
    )
    with pytest.raises(InputError, match="outside of the volume"):
        gather_scenes(source, spec, own, count=1, holdout=None, seed=0)


def test_what_is_learnt_reaches_layers_with_two_names_and_leaves_those_that_are_never_called(tmp_path):
    """As heads for training alone are, and what nnU-Net's networks keep under several names."""
    write_luna16(tmp_path, scans=3, seed=6, shape=(16, 96, 96), spacing_mm=(3.0, 3.5, 3.5))
    spec = nodule_segmentation_spec(96, 96).input
    model = answering_unet(WIDTHS)
    model.other_name, model.deep_head = model.unet.down_path, torch.nn.Conv2d(4, 1, 1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    example = np.random.default_rng(0).uniform(-1000, 1000, (1, 7, 96, 96)).astype(np.float32)
    own = find_teacher(model, "probability", example)
    scenes = gather_scenes(describe_data(tmp_path), spec, own, count=1, holdout=None, seed=0)
    learnt = recover(model, "probability", [example], own, scenes, spec, epochs=0.1, threshold=0.0, seed=0).model
    state = learnt.state_dict()
    assert state.keys() == before.keys()
    assert torch.equal(state["deep_head.weight"], before["deep_head.weight"])
    first, second = (f"{name}.0.block.0.weight" for name in ("unet.down_path", "other_name"))
    assert torch.equal(state[first], state[second]) and not torch.equal(state[first], before[first])
    with torch.no_grad():
        x = torch.from_numpy(example)
        assert not torch.equal(learnt(x), model(x))


def test_a_network_that_tells_everything_apart_by_nothing_cannot_teach():
    silent = answering_unet(WIDTHS)
    with torch.no_grad():
        silent.unet.last.weight.zero_()
    with pytest.raises(ConversionError, match="the same everywhere"):
        find_teacher(silent, "probability", np.zeros((1, 7, 64, 64), np.float32))


def test_probabilities_without_a_sigmoid_are_refused():
    model = torch.nn.Sequential(torch.nn.Conv2d(7, 1, 1), torch.nn.Hardsigmoid())
    with pytest.raises(ConversionError, match="does not end in a sigmoid"):
        to_logits(model, "probability")


def test_epochs_keep_the_share_of_int8():
    assert get_preset("published").epochs == 5
    assert get_preset("published", 10).qat_epochs == pytest.approx(2 * get_preset("published").qat_epochs)
