"""What pydantic finds wrong with a user's settings, said in sentences."""

from collections.abc import Iterable
from typing import ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import ErrorDetails

from icm_client.data.messages import did_you_mean, shown
from icm_client.errors import TaskError


class Described(BaseModel):
    """Settings that a person writes; whatever is wrong with them is a `TaskError`.

    The error has one sentence for each problem, with the file's name in front where validation
    was given one as its context.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    called: ClassVar[str]
    needs: ClassVar[str]

    def check(self) -> None:
        """Refuse what does not fit together; raises ValueError, a line for each problem."""

    @model_validator(mode="after")
    def _checked(self) -> Self:
        self.check()
        return self

    @model_validator(mode="wrap")
    @classmethod  # stands after the other validators, so that it hears what they say
    def _in_sentences(
        cls, data: object, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo
    ) -> Self:
        where = f"{info.context}: " if info.context else ""
        try:
            return handler(data)
        except ValidationError as invalid:
            sentences = cls._sentences(invalid.errors())
            raise TaskError("\n".join(f"{where}{line}" for line in sentences)) from None

    @classmethod
    def _sentences(cls, problems: Iterable[ErrorDetails]) -> list[str]:
        return [line for problem in problems for line in cls._sentence(problem).splitlines()]

    @classmethod
    def _sentence(cls, problem: ErrorDetails) -> str:
        key = ".".join(str(part) for part in problem["loc"])
        match problem["type"]:
            case "missing":
                return f"`{key}` is missing: {cls.needs}"
            case "extra_forbidden":
                return f"no setting is called {shown(key)}.{did_you_mean(key, cls.model_fields)}"
            case "value_error":
                return str(problem["ctx"]["error"])
            case _:
                expected = problem["msg"].removeprefix("Input should be ").replace("tuple", "list")
                subject = key or cls.called
                return f"`{subject}` should be {expected}, not {shown(problem['input'])}"
