"""One line of a report on one's own files: a number with all that it takes to read it."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Line:
    """One number.

    Attributes:
        section: the table in which it stands.
        measure: what was measured.
        what: of which parts, such as "text -> image".
        extractor: what read the media.
        rate: at which size or rate it read them.
        count: of how many.
        value: the number.
        low: the lower end of its 95 % bootstrap interval over rows; None where there is none.
        high: the upper end.
        deviation: its standard deviation over subsets; None where it has none.
        share: whether it is a share, which is shown in per cent.
        beside: numbers to compare it with, by name.
        note: what to mind.
    """

    section: str
    measure: str
    what: str
    extractor: str
    rate: str
    count: str
    value: float
    low: float | None = None
    high: float | None = None
    deviation: float | None = None
    share: bool = False
    beside: dict[str, float] = field(default_factory=dict)
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the line as JSON has it."""
        return asdict(self)

    @property
    def shown(self) -> str:
        """The number with its interval or deviation."""
        text = self._number(self.value)
        if self.low is not None and self.high is not None:
            return f"{text} [{self._number(self.low)}, {self._number(self.high)}]"
        return text if self.deviation is None else f"{text} ± {self._number(self.deviation)}"

    @property
    def compared(self) -> str:
        """The numbers beside it, with their names."""
        return ", ".join(f"{name} {self._number(value)}" for name, value in self.beside.items()) or "-"

    def _number(self, value: float) -> str:
        if value != value:
            return "-"
        return f"{100 * value:.1f} %" if self.share else f"{value:.4g}"
