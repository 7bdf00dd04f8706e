"""Why a server ended, from its log and its exit status."""

import pytest

from icm_client.serving.processes import reason_in, signal_in, signal_of


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("api_server.py: error: unrecognized arguments: --nonsense\n", "unrecognized arguments: "),
        (
            (
                "pydantic_core.ValidationError: 1 validation error for ModelConfig\n"
                "  Value error, Invalid repository ID: '/x'. [type=value_error, input_value=Args]\n"
                "    For further information visit it\n"
            ),
            "Invalid repository ID: '/x'.",
        ),
        (
            (
                "(EngineCore pid=9) ERROR 11-24 23:35:50 [core.py:12] ValueError: Available memory "
                "on node 0 (1/2 GiB) is less\n"
                "(APIServer pid=7) RuntimeError: Engine core initialization failed. See above.\n"
            ),
            "ValueError: Available memory on node 0",
        ),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried\n", "torch.OutOfMemoryError: CUDA out"),
        ("INFO 11-24 23:35:50 [a.py:1] all is well\n", None),
        (
            (
                "(APIServer pid=7) ERROR 11-24 23:35:50 [core_client.py:602] Engine core proc "
                "EngineCore_DP0 died unexpectedly, shutting down client.\n"
                "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue.\n"
            ),
            "Engine core proc EngineCore_DP0 died unexpectedly (killed: out of memory?)",
        ),
    ],
)
def test_one_line_of_the_log_is_the_reason(log: str, reason: str | None) -> None:
    found = reason_in(log)
    assert found is None if reason is None else (found or "").startswith(reason)


def test_the_signal_that_killed_a_process_of_vllms_is_read_from_the_log() -> None:
    failed = "RuntimeError: Engine core initialization failed. Failed core proc(s): {}\n"
    assert signal_in(failed) is None
    assert signal_in(failed.replace("{}", "{'EngineCore_DP0': 1}")) is None
    assert signal_in(failed.replace("{}", "{'EngineCore_DP0': -9}")) == 9


def test_a_long_reason_ends_with_a_sentence() -> None:
    log = "ValueError: To serve one request 0.26 GiB are needed. " + "Try this or that. " * 30
    found = reason_in(log)
    assert found is not None
    assert len(found) <= 300
    assert found.endswith("that.")
    assert len(reason_in("ValueError: " + "x" * 900) or "") == 300


@pytest.mark.parametrize(
    ("status", "number"), [(0, None), (1, None), (137, 9), (139, 11), (247, 9), (245, 11)]
)
def test_an_exit_status_may_stand_for_a_signal(status: int, number: int | None) -> None:
    """247 is what `sys.exit(-9)` ends with."""
    assert signal_of(status) == number
