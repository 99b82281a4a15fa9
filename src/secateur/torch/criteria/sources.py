"""Where a data-driven criterion gets its batches: given to it, or by the mode it runs in.

    Taylor(data_loader=loader)            its own source
    Taylor()  in  mode="magnitude"        the mode's data_loader or forward_loop: `with_data` puts it in

Invariant: a criterion has one source at most, and asking for batches where there is none is a ConfigError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from torch import nn

from secateur.errors import ConfigError
from secateur.torch.running.data import Collect, Data, Loss, first_of

_Judge = TypeVar("_Judge")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataDriven:
    """Fields of every criterion that looks at data; of these, only ``num_batches`` stands in a plan's provenance.

    ``data``, or ``data_loader`` (``collect_func`` says what of a batch the model takes), or ``forward_loop``, called as
    ``forward_loop(model)``. ``loss_func(output, batch)`` is only asked for by criteria that need gradients.
    """

    name = "data-driven"

    data: Data | None = field(default=None, repr=False, compare=False)
    data_loader: Iterable[object] | None = field(default=None, repr=False, compare=False)
    collect_func: Collect = field(default=first_of, repr=False)
    forward_loop: Callable[[nn.Module], object] | None = field(default=None, repr=False)
    loss_func: Loss | None = field(default=None, repr=False)
    num_batches: int = 50

    def __post_init__(self) -> None:
        self.check_source()

    def check_source(self) -> None:
        """Raise ConfigError where there is more than one source, or no batch is asked for."""
        given = [name for name in ("data", "data_loader", "forward_loop") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ConfigError(f"{self.name}: {' and '.join(given)} are given: one of them")
        if self.num_batches < 1:
            raise ConfigError(f"{self.name}: num_batches is at least 1, not {self.num_batches}")

    @property
    def has_source(self) -> bool:
        """Whether it was given data."""
        return not (self.data is None and self.data_loader is None and self.forward_loop is None)

    def source(self, model: nn.Module) -> Data:
        """The batches. Raises ConfigError where there are none."""
        if self.data is not None:
            return self.data
        if self.forward_loop is not None:
            seen = Data.of_forward_loop(model, self.forward_loop, num_batches=self.num_batches)
            return replace(seen, loss=self.loss_func)
        if self.data_loader is None:
            raise no_data(self.name)
        return Data(
            loader=self.data_loader, collect=self.collect_func, num_batches=self.num_batches, loss=self.loss_func
        )


def with_data(criterion: _Judge, data: Data | None) -> _Judge:
    """The criterion with this data where it needs some and has none. Raises ConfigError where there is none to give."""
    if not isinstance(criterion, DataDriven) or criterion.has_source:
        return criterion
    if data is None:
        raise no_data(criterion.name)
    return replace(criterion, data=data)


def no_data(name: str) -> ConfigError:
    """The error of a criterion without data."""
    return ConfigError(
        f"criterion {name!r} looks at data and was given none: pass a data_loader or a forward_loop, "
        "to the criterion or to the mode"
    )
