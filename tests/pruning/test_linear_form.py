"""A convolution as a matrix: times what its windows read it is the layer's output, and nothing else is."""

import pytest
import torch
from torch import nn

from edgelung.converters.pruning.linear_form import (
    as_matrix,
    called_once,
    gradient_as_matrix,
    has_linear_form,
    places_as_index,
    read_rows,
    sample_places,
    set_matrix,
)

LAYERS = {
    "padded": lambda: nn.Conv2d(3, 5, 3, padding=1),
    "without bias": lambda: nn.Conv2d(3, 5, 3, bias=False),
    "strided": lambda: nn.Conv2d(3, 5, (3, 2), stride=(2, 3), padding=(1, 0)),
    "dilated": lambda: nn.Conv2d(3, 5, 3, dilation=2, padding=2),
    "same": lambda: nn.Conv2d(3, 5, (3, 5), dilation=(1, 2), padding="same"),
    "valid": lambda: nn.Conv2d(3, 5, 3, padding="valid"),
    "1x1": lambda: nn.Conv2d(3, 5, 1),
    "transposed": lambda: nn.ConvTranspose2d(3, 5, 2, stride=2),
    "transposed, oblong": lambda: nn.ConvTranspose2d(3, 5, (3, 2), stride=(3, 2), bias=False),
}


@pytest.fixture(params=list(LAYERS))
def layer(request):
    torch.manual_seed(0)
    return LAYERS[request.param]().double()


def everywhere(plane):
    """The middle of every pixel, as shares of the plane."""
    grid = torch.meshgrid(*(torch.arange(size).double() for size in plane), indexing="ij")
    return torch.stack([(part.flatten() + 0.5) / size for part, size in zip(grid, plane, strict=True)], dim=1)


@torch.no_grad()
def test_rows_times_the_matrix_is_the_output_at_every_pixel(layer):
    entered = torch.randn(1, 3, 11, 14, dtype=torch.float64)
    output = layer(entered)
    places = everywhere(output.shape[-2:])
    found = read_rows(layer, entered, places) @ as_matrix(layer)
    torch.testing.assert_close(found, output[0].flatten(1).T, atol=1e-12, rtol=0)
    moved = read_rows(layer, entered.roll(1, -1), places) @ as_matrix(layer)
    assert float((moved - output[0].flatten(1).T).abs().max()) > 0.1  # one pixel off is seen


@torch.no_grad()
def test_a_matrix_goes_back_to_where_it_came_from(layer):
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    matrix = as_matrix(layer)
    set_matrix(layer, 2 * matrix)
    for key, value in layer.state_dict().items():
        torch.testing.assert_close(value, 2 * before[key])
    torch.testing.assert_close(as_matrix(layer), 2 * matrix)


def test_the_gradient_has_the_form_of_the_matrix(layer):
    """By the chain rule it is the rows, transposed, times the gradient of the outputs."""
    assert gradient_as_matrix(layer) is None
    entered = torch.randn(1, 3, 11, 14, dtype=torch.float64)
    output = layer(entered)
    weight = torch.randn_like(output)
    (output * weight).sum().backward()
    rows = read_rows(layer, entered, everywhere(output.shape[-2:]))
    torch.testing.assert_close(gradient_as_matrix(layer), rows.T @ weight[0].flatten(1).T, atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    "other",
    [
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"),
        nn.ConvTranspose2d(3, 5, 3, stride=2),  # windows overlap
        nn.ConvTranspose2d(3, 5, 2, stride=2, padding=1),
        nn.Linear(3, 5),
    ],
)
def test_what_has_no_such_form_is_known(other):
    assert not has_linear_form(other)


def test_layers_come_in_the_order_of_computing_and_those_that_are_called_twice_do_not():
    class Crossed(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.shared, self.first = nn.Conv2d(2, 1, 1), nn.Conv2d(2, 2, 1), nn.Conv2d(3, 2, 1)

        def forward(self, value):
            return self.last(self.shared(self.shared(self.first(value))))

    assert [name for name, _ in called_once(Crossed(), torch.zeros(1, 3, 4, 4))] == ["first", "last"]


def test_half_of_the_places_lie_where_the_network_answers_most():
    value = torch.zeros(1, 1, 40, 50)
    value[..., 10:14, 20:24] = 1
    places = sample_places(lambda tensor: tensor, value, 400, torch.Generator().manual_seed(0))
    hit = value[0, 0].flatten()[places_as_index(places, (40, 50))]
    assert places.shape == (400, 2)
    assert 70 < int(hit[:200].sum()) < 200 and int(hit[200:].sum()) < 20  # 16 pixels of the 40 that are the top 2 %
