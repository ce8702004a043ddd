"""ResNet-10 for images of 32 x 32: nine convolutions and a linear layer, small enough for a study on two cores."""

from torch import Tensor, nn

from spfl.models import ChannelsLast, group_norm


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, group_norm(outputs), nn.ReLU())


class Residual(nn.Module):
    """Two convolutions, added to what goes in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(channels, channels), _conv(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def network(num_classes: int, width: int = 32) -> nn.Module:
    """Images to logits: `width`, 2 `width` and 4 `width` channels at 16 x 16, 8 x 8 and 4 x 4 pixels."""
    return nn.Sequential(
        ChannelsLast(),
        _conv(3, width, stride=2),
        Residual(width),
        _conv(width, 2 * width),
        nn.MaxPool2d(2),
        Residual(2 * width),
        _conv(2 * width, 4 * width),
        nn.MaxPool2d(2),
        Residual(4 * width),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, num_classes),
    )
