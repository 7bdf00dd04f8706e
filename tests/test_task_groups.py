import pytest

from icm_client.errors import EndpointFault
from icm_client.task_groups import open_task_group


async def fail(error: Exception) -> None:
    raise error


async def test_a_typed_error_is_raised_out_of_nested_groups() -> None:
    group = ExceptionGroup("inner", [ValueError("a"), EndpointFault("b")])
    with pytest.raises(EndpointFault, match="b") as caught:
        async with open_task_group() as tasks:
            tasks.start_soon(fail, group)
    assert isinstance(caught.value.__cause__, ExceptionGroup)


async def test_one_failure_of_another_kind_is_raised_bare() -> None:
    with pytest.raises(ValueError, match="a"):
        async with open_task_group() as tasks:
            tasks.start_soon(fail, ValueError("a"))


async def test_several_of_another_kind_stay_a_group() -> None:
    group = ExceptionGroup("inner", [ValueError("a"), TypeError("b")])
    with pytest.raises(ExceptionGroup):
        async with open_task_group() as tasks:
            tasks.start_soon(fail, group)
