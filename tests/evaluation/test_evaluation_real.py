"""The published network on nodules in a real CT: found, and answers that were damaged are told from its own."""

import numpy as np
import pytest

from edgelung.converters.checkpoint import apply_state, load_state_dict
from edgelung.converters.evaluation import (
    compare_metrics,
    count_answers,
    iter_slabs,
    make_evaluation_set,
    measure_metrics,
    threshold_at_volume,
)
from edgelung.converters.models import get_model_entry
from edgelung.converters.verify import torch_function
from edgelung.runtime import read_series
from edgelung.spec import SlicePacking

RECALL, VOLUME = "pixel recall", "false-positive volume mm3"


def changed(answers, change):
    """Answers after a change of their logits."""
    for answer in answers:
        probability = np.clip(answer.astype(np.float64), 1e-7, 1 - 1e-7)
        logit = change(np.log(probability / (1 - probability)))
        yield (1 / (1 + np.exp(-logit))).astype(np.float32)


@pytest.mark.slow
def test_the_published_network_finds_nodules_and_damaged_answers_are_told_from_its_own(realdata):
    volume = read_series(realdata / "ct" / "c3n-00247")
    evaluation = make_evaluation_set(volume, (45, 63), SlicePacking(3, 1, 3), seed=31, nodules=12)
    loaded = load_state_dict(realdata / "models" / "unet-luna-a.state")
    model = get_model_entry("unet-luna").build_from_state(loaded.state)
    apply_state(model, loaded.state, loaded.source)
    run = torch_function(model.eval())
    answers = [run(np.clip(slab, -1000, 1000)) for slab in iter_slabs(evaluation)]
    original = count_answers(evaluation, answers)
    found = measure_metrics(original, 0.5)
    assert found["lesion sensitivity"] >= 0.9
    assert found[RECALL] > 0.6

    # Less certain everywhere: fewer pixels at 0.5, and the same ones at the threshold that keeps the volume.
    timid = count_answers(evaluation, changed(answers, lambda logit: logit - 2))
    assert compare_metrics(timid, 0.5, original, 0.5).difference[RECALL].high < 0
    level = threshold_at_volume(timid, found[VOLUME])
    assert abs(compare_metrics(timid, level, original, 0.5).difference[RECALL].value) < 0.01

    # Noise finds less at the same volume.
    rng = np.random.default_rng(3)
    noisy = count_answers(evaluation, changed(answers, lambda logit: logit + rng.normal(0, 6, logit.shape)))
    level = threshold_at_volume(noisy, found[VOLUME])
    assert compare_metrics(noisy, level, original, 0.5).difference[RECALL].high < 0
