"""The spec file of a network of one's own: three slices in, logits of the middle one out."""

SPEC = """task = "nodule-segmentation"
[input.tensor]
name = "ct"
shape = [1, 3, {plane}, {plane}]
[input.intensity]
clip_hu = [-1000.0, 400.0]
scale = 0.0007142857142857143
offset = 0.7142857142857143
[input.packing]
before = 1
outputs = 1
after = 1
[input.in_plane]
{rule}
[output]
quantity = "logit"
[output.tensor]
name = "out"
shape = [1, 1, {plane}, {plane}]
"""


def own_spec(plane=64, **rule):
    """TOML; ``rule``: entries of ``[input.in_plane]``."""
    return SPEC.format(plane=plane, rule="\n".join(f"{key} = {value}" for key, value in rule.items()))
