"""Rows that benchmarks leave, and the table of ratios at the end of their run."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Row:
    """One comparison: microseconds per operation of the floor and of the real thing."""

    name: str
    floor_us: float
    real_us: float
    aim: str

    @property
    def ratio(self) -> float:
        """How many floors the real thing costs."""
        return self.real_us / self.floor_us

    def as_dict(self) -> dict[str, float | str]:
        """For pytest-benchmark's JSON."""
        return {**asdict(self), "ratio": self.ratio}


ROWS: list[Row] = []
