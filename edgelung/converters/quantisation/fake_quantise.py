"""Rounding to int8 and back in float32, with a gradient: the ranges of activations and the weights of convolutions.

Only ``torch.fake_quantize_per_tensor_affine`` and ``torch.fake_quantize_per_channel_affine`` are used. Their gradient
is that of the straight-through estimator (Bengio et al., 2013): 1 inside the range, 0 outside of it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from edgelung.converters.quantisation.steps import even_zero_point, exact_step
from edgelung.errors import ConversionError

__all__ = ["FakeQuantise", "QuantisedConv2d", "QuantisedConvTranspose2d", "WeightRounding", "weight_scales"]

STAGE = "quantise"


class FakeQuantise(nn.Module):
    """One range, shared by all places that call it.

    Each place that makes new values is a *site* with its own average of extremes; the range is the union of all sites.
    So a range that two branches of a concatenation share covers both, in whichever order they run. Averages are plain
    means until ``1 / averaging`` batches were seen, then exponential ones.

    Args:
        places: Names of the sites, for errors.
        limits: Lowest and highest integer.
        averaging: Share of the newest batch.

    Attributes:
        quantising: False lets values through as they are, to see the ranges of the float network.
        rounds: False for what the board does not round, though its file names a range of it.
    """

    low: Tensor
    high: Tensor
    batches: Tensor
    observing: Tensor

    def __init__(self, places: tuple[str, ...], limits: tuple[int, int], averaging: float) -> None:
        super().__init__()
        self.places, self.limits, self.averaging = places, limits, averaging
        self.quantising = True
        self.rounds = True
        self.fixed: tuple[float, int] | None = None
        self.register_buffer("low", torch.zeros(len(places)))
        self.register_buffer("high", torch.zeros(len(places)))
        self.register_buffer("batches", torch.zeros(len(places), dtype=torch.int64))
        self.register_buffer("observing", torch.tensor(True))

    def forward(self, x: Tensor, site: int | None = None) -> Tensor:
        """Round ``x``, of any shape; ``site`` None is a place whose values are other places' and not observed."""
        if self.fixed is not None:
            return torch.fake_quantize_per_tensor_affine(x, *self.fixed, *self.limits) if self.rounds else x
        if site is not None and bool(self.observing) and (self.training or not self.quantising):
            self._observe(x.detach(), site)
        if not (self.quantising and self.rounds):
            return x
        return torch.fake_quantize_per_tensor_affine(x, *self.parameters_now(), *self.limits)

    def fix(self) -> None:
        """Keep the range as two constants, which exporters write as QuantizeLinear and DequantizeLinear."""
        self.fixed = self.parameters_now()

    def parameters_now(self) -> tuple[float, int]:
        """Scale and zero point.

        Raises:
            ConversionError: When a site has seen no values, or values that are not finite.
        """
        unseen = [place for place, count in zip(self.places, self.batches.tolist(), strict=True) if not count]
        if unseen:
            raise ConversionError(STAGE, f"no range was seen for {unseen[0]}", hint="calibrate the network first")
        low, high = self.low.min().clamp(max=0), self.high.max().clamp(min=0)  # 0, the padding, must be a step
        width = float(high - low)
        if not math.isfinite(width):
            raise ConversionError(STAGE, f"values of {self.places[0]} are not finite", hint="the network diverged")
        first, last = self.limits
        step = exact_step(width / (last - first)) if width > 0 else 1.0
        return step, even_zero_point(float(low), step, self.limits)

    def _observe(self, x: Tensor, site: int) -> None:
        share = max(self.averaging, 1 / (int(self.batches[site]) + 1))
        for average, newest in zip((self.low, self.high), torch.aminmax(x), strict=True):
            average[site] += share * (newest.to(average) - average[site])
        self.batches[site] += 1


def weight_scales(weight: Tensor, axis: int, limits: tuple[int, int]) -> Tensor:
    """(channels,) step of each output channel's weights, so that the largest of them is the highest integer.

    A channel without weights (a constant) has the step of the largest channel: its bias, counted in steps, stays small.
    """
    largest = weight.detach().abs().amax(dim=[dim for dim in range(weight.ndim) if dim != axis])
    overall = largest.max()
    fallback = torch.where(overall > 0, overall, torch.ones_like(overall))
    return torch.where(largest > 0, largest, fallback) / limits[1]


class WeightRounding(nn.Module):
    """Weights with a step per output channel, which follows the weights at every call until it is fixed.

    Args:
        axis: Axis of the weight that counts output channels.
        limits: Lowest and highest integer.
    """

    def __init__(self, axis: int, limits: tuple[int, int]) -> None:
        super().__init__()
        self.axis, self.limits = axis, limits
        self.fixed: Tensor | None = None

    def fix(self, weight: Tensor) -> None:
        """Keep the scales of ``weight`` as constants, for an exporter."""
        self.fixed = weight_scales(weight, self.axis, self.limits)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight as the board sees it, with a gradient."""
        scales = weight_scales(weight, self.axis, self.limits) if self.fixed is None else self.fixed
        zero_points = torch.zeros_like(scales, dtype=torch.int32)
        rounded: Tensor = torch.fake_quantize_per_channel_affine(weight, scales, zero_points, self.axis, *self.limits)
        return rounded


class QuantisedConv2d(nn.Conv2d):
    """A convolution that rounds its weights; keys of a state_dict are those of the plain one."""

    def __init__(self, plain: nn.Conv2d, axis: int, limits: tuple[int, int]) -> None:
        super().__init__(
            plain.in_channels, plain.out_channels, plain.kernel_size,  # type: ignore[arg-type]
            stride=plain.stride, padding=plain.padding, dilation=plain.dilation,  # type: ignore[arg-type]
            groups=plain.groups, bias=plain.bias is not None, padding_mode=plain.padding_mode, device="meta",
        )  # fmt: skip
        self.weight, self.bias = plain.weight, plain.bias
        self.weight_rounding = WeightRounding(axis, limits)

    def forward(self, x: Tensor) -> Tensor:
        """As ``nn.Conv2d``."""
        convolved: Tensor = self._conv_forward(x, self.weight_rounding(self.weight), self.bias)
        return convolved


class QuantisedConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution that rounds its weights; keys of a state_dict are those of the plain one."""

    def __init__(self, plain: nn.ConvTranspose2d, axis: int, limits: tuple[int, int]) -> None:
        super().__init__(
            plain.in_channels, plain.out_channels, plain.kernel_size,  # type: ignore[arg-type]
            stride=plain.stride, padding=plain.padding, output_padding=plain.output_padding,  # type: ignore[arg-type]
            groups=plain.groups, bias=plain.bias is not None, dilation=plain.dilation, device="meta",  # type: ignore[arg-type]
        )  # fmt: skip
        self.weight, self.bias = plain.weight, plain.bias
        self.weight_rounding = WeightRounding(axis, limits)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """As ``nn.ConvTranspose2d`` without a wanted size, which placement refuses."""
        weight = self.weight_rounding(self.weight)
        return nn.functional.conv_transpose2d(
            x, weight, self.bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation  # type: ignore[arg-type]
        )  # fmt: skip
