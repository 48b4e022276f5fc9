"""Problems, collected so that people hear of all of them at once."""

from __future__ import annotations

from types import TracebackType

from motorpool.errors import MotorpoolError


class Problems(list[str]):
    """What is wrong, a message each."""

    def noted(self) -> _Noting:
        """A block whose error for people is taken up as a problem; what follows the block goes on."""
        return _Noting(self)


class _Noting:
    def __init__(self, problems: Problems) -> None:
        self._problems = problems

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> bool:
        if not isinstance(error, MotorpoolError):
            return False
        # Two checks may come upon one mistake.
        if str(error) not in self._problems:
            self._problems.append(str(error))
        return True
